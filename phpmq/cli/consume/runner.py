"""Runs a command for each message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections import deque
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from phpmq.cli.consume.intake import Intake
from phpmq.cli.exits import Exit, Failed
from phpmq.cli.output import note
from phpmq.client import Delivery
from phpmq.client_connection import backoff
from phpmq.text import plural


class Job:
    """
    A message and its command.

    @ivar delivery: the latest one of the message: it comes again when the connection is lost or its lease is over, while the command runs
    @ivar expires: when its time to live is over; 0 for never
    """

    def __init__(self, delivery: Delivery, now: float) -> None:
        self.expires = 0.0
        self.again(delivery, now)
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def again(self, delivery: Delivery, now: float) -> None:
        """It was delivered, perhaps again."""
        self.delivery = delivery
        self.expires = now + delivery.ttl if delivery.ttl else 0.0

    def run(self, command: str) -> int:
        """
        Run the command, in the calling thread: its exit code, or the number of the signal that ended it, negative.

        It is in a process group of its own, so that Ctrl-C does not reach it, and a kill reaches what it has started.

        @raise OSError: it cannot be started
        """
        delivery = self.delivery
        environment = {
            **os.environ,
            "PHPMQ_QUEUE": delivery.queue,
            "PHPMQ_ID": delivery.id,
            "PHPMQ_ATTEMPTS": str(delivery.attempts),
            "PHPMQ_HEADERS": json.dumps(delivery.headers),
        }
        arguments = ("/bin/sh", "-c", command)
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, env=environment, process_group=0) as process:
            self._process = process
            if self._killed:
                self.kill()
            process.communicate(delivery.body)
        return process.returncode

    def kill(self) -> None:
        """End the command, and what it has started."""
        self._killed = True
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


class Runner:
    """
    Runs commands, up to a number of them at a time, each in a thread that waits for it.

    A message is acknowledged when its command ends with exit code 0. Otherwise it is queued again, later each time, or made a dead letter
    after its last attempt.

    @ivar failed: how many commands failed
    """

    def __init__(self, reactor: Any, intake: Intake, command: str, jobs: int, lease: float | None, max_attempts: int | None) -> None:
        self._reactor, self._intake, self._command = reactor, intake, command
        self._jobs, self._max_attempts = jobs, max_attempts
        self._waiting: deque[Delivery] = deque()
        self._running: dict[str, Job] = {}
        self._ended = self._killed = False
        self._all_ended: Deferred[None] = Deferred()
        self._touching = LoopingCall(self._touch)
        self._touching.clock = reactor
        if lease:
            self._touching.start(lease / 2, now=False)
        self.succeeded = self.failed = 0
        self._first = ""

    @property
    def busy(self) -> bool:
        """Whether there are messages that are not done."""
        return bool(self._running or self._waiting)

    def take(self, delivery: Delivery) -> None:
        """Run the command for it, as soon as there is a place."""
        if (job := self._running.get(delivery.id)) is not None:
            job.again(delivery, self._reactor.seconds())
            return
        self._waiting.append(delivery)
        self._start()

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._jobs and not self._ended:
            delivery = self._waiting.popleft()
            if not delivery.lost:
                job = self._running[delivery.id] = Job(delivery, self._reactor.seconds())
                threading.Thread(target=self._work, args=(job,), daemon=True).start()

    def _work(self, job: Job) -> None:
        """In a thread."""
        try:
            code = job.run(self._command)
            outcome = "" if code == 0 else f"exit code {code}" if code > 0 else f"killed by {_signal_name(-code)}"
        except Exception as error:
            outcome = f"it cannot be run: {error}"
        self._reactor.callFromThread(self._ran, job, outcome)

    def _ran(self, job: Job, outcome: str) -> None:
        delivery = job.delivery
        del self._running[delivery.id]
        if not outcome:
            self.succeeded += 1
            self._intake.settle(delivery, delivery.ack)
        elif not self._killed:
            self._ran_badly(job, outcome)
        if self._ended and not self._running:
            self._stopped()
        self._start()

    def _ran_badly(self, job: Job, outcome: str) -> None:
        delivery = job.delivery
        self.failed += 1
        last = self._max_attempts is not None and delivery.attempts >= self._max_attempts
        if not self._first:
            self._first = f"message {delivery.id} of {delivery.queue}, {outcome}"
        if last:
            note(f"message {delivery.id} of {delivery.queue}: {outcome}, attempt {delivery.attempts}, now a dead letter")
            self._intake.settle(delivery, lambda: delivery.dead_letter(f"{outcome}, attempt {delivery.attempts}"))
            return
        delay = backoff(delivery.attempts)
        left = max(0.001, job.expires - self._reactor.seconds()) if job.expires else 0
        note(f"message {delivery.id} of {delivery.queue}: {outcome}, attempt {delivery.attempts}, again in {delay:g} s")
        self._intake.settle(delivery, lambda: delivery.requeue(ttl=left, delay=delay), done=False)

    def _touch(self) -> None:
        for delivery in [*self._waiting, *(job.delivery for job in self._running.values())]:
            delivery.touch()

    def end(self) -> Deferred[None]:
        """Start no more. Fires when those that run have ended."""
        self._ended = True
        self._waiting.clear()
        if not self._running:
            self._stopped()
        return self._all_ended

    def _stopped(self) -> None:
        if self._touching.running:
            self._touching.stop()
        self._all_ended.callback(None)

    def kill(self) -> None:
        """End those that run; their messages go back to their places."""
        self._killed = True
        for job in self._running.values():
            job.kill()

    def outcome(self) -> Failed | None:
        """How many commands failed, if any did."""
        if not self.failed:
            return None
        total = self.succeeded + self.failed
        first = f"the first: {self._first}" if self.failed > 1 else self._first
        sentence = f"{self.failed:,} of {plural(total, 'command')} failed: {first}"
        return Failed(sentence, Exit.PARTLY if self.succeeded else Exit.FAILED)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
