"""Consumes messages until there is a reason to end: writes their bodies, or runs a command for each."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import click
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from phpmq.cli.connection import Watch, connect, disconnect
from phpmq.cli.exit_codes import Exit, Failed
from phpmq.cli.ndjson import content
from phpmq.cli.output import is_terminal, json_line, note
from phpmq.cli.prefetch import Prefetch
from phpmq.cli.reactor_main import Signals, sleep, wait_for, within
from phpmq.cli.stdio import Output
from phpmq.client import Delivery, QueueClient
from phpmq.client_connection import backoff
from phpmq.text import plural, terminal_safe

#: The most messages of a queue that are held at a time, when bodies are written.
WINDOW = 100

# Seconds that the server has to answer the last settlements; and after a signal.
_LAST_ANSWERS, _LAST_ANSWERS_NOW = 5.0, 1.0
# Seconds that the reader of the output has to take what is being written when the command is to end.
_GRACE = 1.0

#: From a message to the bytes that are written.
Format = Callable[[Delivery], bytes]

_SIGNALS = {number.value: number.name for number in signal.Signals}

_ESCAPES = {"n": "\n", "t": "\t", "0": "\0", "\\": "\\"}
_PIECE = re.compile(r"\\(.)|\{(\w*)\}|\{\{|\}\}|.", re.DOTALL)


def format_of(template: str | None, as_json: bool) -> Format:
    """Return the format that the user wants; raise C{click.UsageError} for an unknown field."""
    if as_json:
        return _json
    show: Callable[[bytes], bytes] = _shown if is_terminal(1) else bytes
    if template is None:
        return lambda delivery: show(delivery.body) + b"\n"
    return _template(template, show)


def _shown(data: bytes) -> bytes:
    return terminal_safe(data.decode("utf-8", "backslashreplace")).encode()


def _json(delivery: Delivery) -> bytes:
    facts = {"queue": delivery.queue, "id": delivery.id, "attempts": delivery.attempts, "ttl": delivery.ttl, "headers": delivery.headers}
    return json_line({**facts, **content(delivery.body)})


def _template(template: str, show: Callable[[bytes], bytes]) -> Format:
    """Return the format of a text with fields. A newline follows, unless the text ends with one, or with a NUL."""
    fields: dict[str, Format] = {
        "queue": lambda delivery: show(delivery.queue.encode()),
        "id": lambda delivery: delivery.message_id,
        "attempts": lambda delivery: b"%d" % delivery.attempts,
        "body": lambda delivery: show(delivery.body),
    }
    pieces: list[Format | bytes] = []
    for match in _PIECE.finditer(template):
        escape, field = match.groups()
        if field is None:
            text = match[0][:1] if escape is None else _ESCAPES.get(escape, match[0])
            pieces.append(text.encode("utf-8", "surrogateescape"))
        elif field in fields:
            pieces.append(fields[field])
        else:
            raise click.UsageError(f"--format has no field {{{field}}}: there are {', '.join(map('{{{}}}'.format, fields))}")
    if not pieces or pieces[-1] not in (b"\n", b"\0"):
        pieces.append(b"\n")
    return lambda delivery: b"".join([piece if isinstance(piece, bytes) else piece(delivery) for piece in pieces])


@dataclass(frozen=True)
class ConsumeOptions:
    """The options of C{phpmq consume}."""

    queues: tuple[str, ...]
    format: Format
    count: int | None
    exit_empty: bool
    window: int | None
    ack: str
    command: str | None
    jobs: int
    lease: float | None
    max_attempts: int | None
    server: str
    timeout: float | None

    @property
    def held(self) -> int:
        """The most messages of a queue to hold at a time: those that are not worked on are better left to other consumers."""
        return self.window or (WINDOW if self.command is None else self.jobs)

    @property
    def watched(self) -> bool:
        """Whether the command has to know that a queue is empty."""
        return self.exit_empty or (self.count is not None and len(self.queues) > 1)


class Printer:
    """Writes messages to standard output: those that arrive together at once, the next ones when those are written; C{busy} until then."""

    def __init__(self, reactor: Any, prefetch: Prefetch, format: Format, keep: bool, failed: Callable[[Failure], object]) -> None:
        self._reactor, self._prefetch, self._format, self._keep, self._failed = reactor, prefetch, format, keep, failed
        self._out = Output(reactor)
        self._out.closed().addCallback(lambda _: failed(Failure(BrokenPipeError())))
        self._batch: list[Delivery] = []
        self._written: Deferred[None] | None = None
        self._all_written: Deferred[None] = Deferred()
        self._ended = False
        self.busy = False

    def take(self, delivery: Delivery) -> None:
        """Write a message, together with those that arrive in the same reactor turn."""
        self._batch.append(delivery)
        if not self.busy and not self._ended:
            self.busy = True
            Deferred.fromCoroutine(self._write()).addErrback(self._unwritten).addBoth(self._wrote)

    async def _write(self) -> None:
        await sleep(self._reactor, 0)
        while self._batch and not self._ended:
            batch, self._batch = self._batch, []
            # What the server took back comes again.
            batch = [delivery for delivery in batch if not delivery.lost]
            self._out.put(b"".join(map(self._format, batch)))
            self._written = self._out.written()
            await self._written
            for delivery in batch:
                if self._keep:
                    self._prefetch.keep(delivery)
                else:
                    self._prefetch.settle(delivery, delivery.ack)

    def _unwritten(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self._failed(failure)

    def _wrote(self, _: object) -> None:
        self.busy = False
        if self._ended:
            self._all_written.callback(None)

    def end(self) -> Deferred[None]:
        """Fire when what is being written is written and acknowledged, or nobody reads it."""
        self._ended = True
        if not self.busy:
            return succeed(None)
        self._reactor.callLater(_GRACE, self.kill)
        return self._all_written

    def kill(self) -> None:
        """Stop to wait for the reader: what is being written is not acknowledged."""
        if self._written is not None:
            self._written.cancel()


class Job:
    """
    A message and its command.

    While the command runs, the message is delivered again if the connection is lost or its lease ends: C{delivery} is the latest delivery.
    C{expires} is the end of its time to live; 0 for never.
    """

    def __init__(self, delivery: Delivery, now: float) -> None:
        self.expires = 0.0
        self.again(delivery, now)
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def again(self, delivery: Delivery, now: float) -> None:
        """Keep the latest delivery of the message."""
        self.delivery = delivery
        self.expires = now + delivery.ttl if delivery.ttl else 0.0

    def run(self, command: str) -> int:
        """
        Run the command, in the calling thread, and return its exit code, or the negative number of the signal that ended it.

        The command has its own process group, so that Ctrl-C does not reach it, and a kill also reaches its children.
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
        """Kill the command and its children."""
        self._killed = True
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


class Runner:
    """
    Runs up to C{jobs} commands at a time, each in a thread that waits for it.

    A message is acknowledged when its command ends with exit code 0. Otherwise it is requeued with a delay that grows, or dead-lettered
    after its last attempt.
    """

    def __init__(self, reactor: Any, prefetch: Prefetch, command: str, jobs: int, lease: float | None, max_attempts: int | None) -> None:
        self._reactor, self._prefetch, self._command = reactor, prefetch, command
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
        """Run the command for a message, as soon as fewer than C{jobs} commands run."""
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
        """Run a command in its own thread, and report to the reactor's."""
        try:
            code = job.run(self._command)
            outcome = "" if code == 0 else f"exit code {code}" if code > 0 else f"killed by {_SIGNALS.get(-code, f'signal {-code}')}"
        except Exception as error:
            outcome = f"it cannot be run: {error}"
        self._reactor.callFromThread(self._ran, job, outcome)

    def _ran(self, job: Job, outcome: str) -> None:
        delivery = job.delivery
        del self._running[delivery.id]
        if not outcome:
            self.succeeded += 1
            self._prefetch.settle(delivery, delivery.ack)
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
            self._prefetch.settle(delivery, lambda: delivery.dead_letter(f"{outcome}, attempt {delivery.attempts}"))
            return
        delay = backoff(delivery.attempts)
        left = max(0.001, job.expires - self._reactor.seconds()) if job.expires else 0
        note(f"message {delivery.id} of {delivery.queue}: {outcome}, attempt {delivery.attempts}, again in {delay:g} s")
        self._prefetch.settle(delivery, lambda: delivery.requeue(ttl=left, delay=delay), done=False)

    def _touch(self) -> None:
        for delivery in [*self._waiting, *(job.delivery for job in self._running.values())]:
            delivery.touch()

    def end(self) -> Deferred[None]:
        """Start no more commands; fire when those that run have ended."""
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
        """Kill the commands that run; their messages go back to their places."""
        self._killed = True
        for job in self._running.values():
            job.kill()

    def outcome(self) -> Failed | None:
        """Return the error that says how many commands failed; None if none did."""
        if not self.failed:
            return None
        total = self.succeeded + self.failed
        first = f"the first: {self._first}" if self.failed > 1 else self._first
        sentence = f"{self.failed:,} of {plural(total, 'command')} failed: {first}"
        return Failed(sentence, Exit.PARTLY if self.succeeded else Exit.FAILED)


class Consumption:
    """One run of C{phpmq consume}."""

    def __init__(self, reactor: Any, client: QueueClient, options: ConsumeOptions, signals: Signals) -> None:
        self._reactor, self._client, self._options, self._signals = reactor, client, options, signals
        self._over: Deferred[None] = Deferred()
        keep = options.ack == "none"
        self.prefetch = Prefetch(reactor, client, options.queues, self._take, self._fail, options.held, options.count, options.lease, keep)
        self._handler: Printer | Runner
        if options.command is None:
            self._handler = Printer(reactor, self.prefetch, options.format, keep, self._fail)
        else:
            self._handler = Runner(reactor, self.prefetch, options.command, options.jobs, options.lease, options.max_attempts)
        self._watch = Watch(reactor, client, options.server, options.timeout, self._idle, self._end, note)

    def _take(self, delivery: Delivery) -> None:
        self._watch.progress()
        self._handler.take(delivery)

    def _idle(self) -> bool:
        return not self._handler.busy

    async def run(self) -> int:
        """Consume from the first message to the last: the exit code."""
        prefetch, options = self.prefetch, self._options
        self._signals.gracefully(self._end, self._handler.kill)
        prefetch.start()
        ends = [prefetch.counted()]
        if options.watched:
            ends.append(prefetch.watch(options.exit_empty, lambda: self._handler.busy))
        try:
            await wait_for([self._over, *map(Deferred.fromCoroutine, ends)])
        finally:
            await self._finish()
        if (complaint := self._complaint()) is not None:
            raise Failed(complaint.sentence, Exit.INTERRUPTED) if self._signals.count else complaint
        return Exit.OK

    def _end(self) -> None:
        if not self._over.called:
            self._over.callback(None)

    def _fail(self, failure: Failure) -> None:
        if not self._over.called and failure.check(CancelledError) is None:
            self._over.errback(failure)

    async def _finish(self) -> None:
        """Take no more messages, finish those that were begun, and wait for the answers to their settlements."""
        ending = self._handler.end()
        stopping = Deferred.fromCoroutine(self.prefetch.stop())
        await ending
        patience = _LAST_ANSWERS_NOW if self._signals.count else _LAST_ANSWERS
        # What is not answered is reported.
        with suppress(TimeoutError):
            await within(self._reactor, patience, stopping)
            await within(self._reactor, patience, Deferred.fromCoroutine(self.prefetch.answered()))
        self._watch.close()

    def _complaint(self) -> Failed | None:
        options, prefetch, handler = self._options, self.prefetch, self._handler
        if isinstance(handler, Runner) and (outcome := handler.outcome()) is not None:
            return outcome
        if prefetch.unconfirmed:
            lost = "the connection was lost before the server knew that they are done"
            return Failed(f"{plural(prefetch.unconfirmed)} may be delivered again: {lost}", Exit.PARTLY)
        if self._watch.gave_up:
            missing = f", after {prefetch.finished:,} of {options.count:,}" if options.count else ""
            online = "" if self._client.connection.online else f", as {options.server} cannot be reached"
            return Failed(f"no message came for {options.timeout:g} s{online}{missing}", Exit.TIMED_OUT)
        return None


async def consume_messages(reactor: Any, signals: Signals, options: ConsumeOptions) -> int:
    """Connect and consume: the exit code."""
    client = await connect(reactor, options.server, options.timeout)
    try:
        return await Consumption(reactor, client, options, signals).run()
    finally:
        await disconnect(reactor, client)
