"""Consumes: from the first message until there is a reason to end."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from phpmq.cli.connection import Watch, connect, disconnect
from phpmq.cli.consume.formats import Format
from phpmq.cli.consume.intake import Intake
from phpmq.cli.consume.printer import Printer
from phpmq.cli.consume.runner import Runner
from phpmq.cli.exits import Exit, Failed
from phpmq.cli.output import note
from phpmq.cli.running import Signals, within
from phpmq.client import Delivery, QueueClient
from phpmq.text import plural

#: The most messages of a queue that are held at a time, when bodies are written.
WINDOW = 100

# Seconds that the server has to answer the last settlements; and when somebody waits for the end.
_LAST_ANSWERS, _LAST_ANSWERS_NOW = 5.0, 1.0


@dataclass(frozen=True)
class Order:
    """What is to be consumed, and how."""

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
        """The most messages of a queue to hold at a time: what is not worked on is better left to others."""
        return self.window or (WINDOW if self.command is None else self.jobs)

    @property
    def watched(self) -> bool:
        """Whether it matters what the queues do not have."""
        return self.exit_empty or (self.count is not None and len(self.queues) > 1)


class Handler(Protocol):
    """Who does something with messages."""

    def take(self, delivery: Delivery) -> None:
        """Take one."""

    @property
    def busy(self) -> bool:
        """Whether it has messages that it is not done with."""

    def end(self) -> Deferred[None]:
        """Begin nothing more. Fires when it is done with what it had begun."""

    def kill(self) -> None:
        """Give up what it had begun."""

    def outcome(self) -> Failed | None:
        """What went wrong with messages, if anything did."""


class Consuming:
    """One call of C{phpmq consume}."""

    def __init__(self, reactor: Any, client: QueueClient, order: Order, signals: Signals) -> None:
        self._reactor, self._client, self._order, self._signals = reactor, client, order, signals
        self._over: Deferred[None] = Deferred()
        self._waiting: list[Deferred[None]] = []
        keep = order.ack == "none"
        self.intake = Intake(reactor, client, order.queues, self._take, self._fail, order.held, order.count, order.lease, keep)
        self._handler: Handler
        if order.command is None:
            self._handler = Printer(reactor, self.intake, order.format, keep, self._fail)
        else:
            self._handler = Runner(reactor, self.intake, order.command, order.jobs, order.lease, order.max_attempts)
        self._watch = Watch(reactor, client, order.server, order.timeout, self._idle, self._end, note)

    def _take(self, delivery: Delivery) -> None:
        self._watch.progress()
        self._handler.take(delivery)

    def _idle(self) -> bool:
        return not self._handler.busy

    async def run(self) -> int:
        """From the first message to the last: the exit code."""
        intake, order = self.intake, self._order
        self._signals.gracefully(self._end, self._handler.kill)
        intake.start()
        self._until(intake.counted())
        if order.watched:
            self._until(intake.watch(order.exit_empty, lambda: self._handler.busy))
        try:
            await self._over
        finally:
            for waiting in self._waiting:
                waiting.cancel()
            await self._finish()
        return self._report()

    def _until(self, coroutine: Any) -> None:
        waiting: Deferred[None] = Deferred.fromCoroutine(coroutine)
        self._waiting.append(waiting)
        waiting.addCallbacks(lambda _: self._end(), self._fail)

    def _end(self) -> None:
        if not self._over.called:
            self._over.callback(None)

    def _fail(self, failure: Failure) -> None:
        if not self._over.called and failure.check(CancelledError) is None:
            self._over.errback(failure)

    async def _finish(self) -> None:
        """Take no more, finish what was begun, and hear that it is settled."""
        ending = self._handler.end()
        stopping = Deferred.fromCoroutine(self.intake.stop())
        await ending
        patience = _LAST_ANSWERS_NOW if self._signals.count else _LAST_ANSWERS
        # What is not answered is reported.
        with suppress(TimeoutError):
            await within(self._reactor, patience, stopping)
            await within(self._reactor, patience, Deferred.fromCoroutine(self.intake.answered()))
        self._watch.close()

    def _report(self) -> int:
        """
        The exit code.

        @raise Failed: there is something to say
        """
        complaint = self._handler.outcome() or self._complaint()
        if complaint is not None and self._signals.count:
            raise Failed(complaint.sentence, Exit.INTERRUPTED)
        if complaint is not None:
            raise complaint
        return Exit.OK

    def _complaint(self) -> Failed | None:
        order, intake = self._order, self.intake
        if intake.unconfirmed:
            lost = "the connection was lost before the server knew that they are done"
            return Failed(f"{plural(intake.unconfirmed)} may be delivered again: {lost}", Exit.PARTLY)
        if self._watch.gave_up:
            missing = f", after {intake.finished:,} of {order.count:,}" if order.count else ""
            online = "" if self._client.connection.online else f", as {order.server} cannot be reached"
            return Failed(f"no message came for {order.timeout:g} s{online}{missing}", Exit.TIMED_OUT)
        return None


async def consume_messages(reactor: Any, signals: Signals, order: Order) -> int:
    """Do what is ordered: the exit code."""
    client = await connect(reactor, order.server, order.timeout)
    try:
        return await Consuming(reactor, client, order, signals).run()
    finally:
        await disconnect(reactor, client)
