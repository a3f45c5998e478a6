"""Sends, and keeps account of what became of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from phpmq.cli.connection import Watch, connect, disconnect
from phpmq.cli.exits import Exit, Failed, code_of
from phpmq.cli.output import is_terminal, json_line, note
from phpmq.cli.pipes import Input, Output
from phpmq.cli.progress import Progress
from phpmq.cli.running import Pace, Signals, within
from phpmq.client import MessageId, QueueClient
from phpmq.errors import Closed, TimedOut
from phpmq.text import format_rate, format_seconds, plural

# More seconds than any receipt takes: it is progress that is watched, not each message.
_FOR_EVER = 1e9

# Bytes of ids that nobody reads, from which on nothing more is sent.
_MAX_UNREAD = 1 << 20

# Seconds that receipts under way have after Ctrl-C.
_GRACE = 1.0


@dataclass(frozen=True)
class Order:
    """
    What is to be sent.

    @ivar fields: parameters of C{QueueClient.send} beside queue and body
    @ivar body: None for what standard input has
    @ivar lines: whether each line is a message
    @ivar count: how many times; None if it was not said
    @ivar done: what is said of messages that the server has
    """

    queue: str
    fields: dict[str, Any]
    body: bytes | None
    lines: bool
    count: int | None
    rate: float | None
    progress: bool | None
    ids: bool
    as_json: bool
    server: str
    timeout: float
    done: str = "sent"

    @property
    def many(self) -> bool:
        """Whether it is about more than one message."""
        return self.lines or self.count is not None

    @property
    def printing(self) -> bool:
        """Whether there is a line on standard output for each."""
        return self.ids or self.as_json or not self.many


class Sender:
    """
    Sends messages, writes what is known of each, and counts.

    @ivar taken: how many there were to send
    @ivar stored: how many the server has, with those that it had before
    @ivar duplicates: how many it had before
    @ivar failed: how many it did not take
    @ivar first: why it did not take the first of those
    @ivar unknown: how many it may have or not
    """

    def __init__(self, client: QueueClient, order: Order, out: Output, watch: Watch, progress: Progress) -> None:
        self._client, self._order, self._out, self._watch, self._progress = client, order, out, watch, progress
        self.taken = self.stored = self.duplicates = self.failed = self.unknown = 0
        self.first: Exception | None = None

    def note(self, sentence: str) -> None:
        """A line for the user."""
        self._progress.note(sentence)

    async def send(self, body: bytes, **more: Any) -> None:
        """
        Send one, when there is room for it.

        @param more: parameters of C{QueueClient.send}, beside those of all messages
        @raise TooLarge: no server takes it
        @raise ValueError: it is none
        """
        client = self._client
        if not client.connection.outbox.has_room:
            await client.room()
        self._out.check()
        if self._out.waiting > _MAX_UNREAD:
            await self._out.written()
        sending = client.send(self._order.queue, body, **self._order.fields, **more)
        self.taken += 1
        number = self.taken
        sending.addCallbacks(self._confirmed, self._refused, (number,), {}, (number,))

    def _confirmed(self, message_id: MessageId, number: int) -> None:
        self._watch.progress()
        self.stored += 1
        self._progress.done += 1
        # Without an id it is this process that sent it before: the connection was lost together with the receipt.
        duplicate = message_id.duplicate and message_id != ""
        self.duplicates += duplicate
        if self._order.as_json:
            self._out.put(json_line({"number": number, "id": str(message_id) or None, "duplicate": duplicate}))
        elif self._order.printing:
            self._out.put(f"{message_id}\n".encode())
            if not message_id:
                note("the message is stored, but its id was lost together with the connection")

    def _refused(self, failure: Failure, number: int) -> None:
        error: Any = failure.value
        if isinstance(error, Closed | TimedOut):
            self.unknown += 1
            return
        self._watch.progress()
        self.failed += 1
        if self.first is None:
            self.first = error
        if self._order.as_json:
            self._out.put(json_line({"number": number, "error": getattr(error, "code", "internal"), "reason": str(error)}))

    # What it comes to

    def summary(self, duration: float) -> str:
        """One line about all that went well."""
        before = f", {self.duplicates:,} of them stored before" if self.duplicates else ""
        return f"{self._order.done} {plural(self.taken)} in {format_seconds(duration)}, {format_rate(self.taken, duration)}{before}"

    def complaint(self, interrupted: bool, gave_up: bool, online: bool) -> Failed | None:
        """
        What went wrong, if anything did.

        @param online: whether there was a connection at the end
        """
        parts = []
        if interrupted:
            parts.append("interrupted")
        if gave_up:
            parts.append(f"gave up after {self._order.timeout:g} s without an answer of {self._order.server}")
        if self.failed or self.unknown or parts:
            parts.append(self._account())
        parts += self._refusal()
        return Failed(": ".join(parts), self._code(interrupted, gave_up, online)) if parts else None

    def ended(self, error: Failed) -> Failed:
        """What went wrong with that which was to be sent, and how far it got."""
        if not self.taken:
            return error
        parts = [error.sentence, self._account(), *self._refusal()]
        return Failed("; ".join(parts), Exit.PARTLY if self.stored else error.code)

    def _refusal(self) -> list[str]:
        return [] if self.first is None else [f"{'the first refusal' if self.failed > 1 else 'refused'}: {self.first}"]

    def _account(self) -> str:
        text = f"{self.stored:,} of {plural(self.taken)} {self._order.done}"
        if self.unknown:
            text += f", {self.unknown:,} may have been stored or not"
        return text

    def _code(self, interrupted: bool, gave_up: bool, online: bool) -> Exit:
        if interrupted:
            return Exit.INTERRUPTED
        if self.stored:
            return Exit.PARTLY
        if gave_up or self.first is None:
            return Exit.TIMED_OUT if online else Exit.UNREACHABLE
        return code_of(self.first)


async def send_messages(reactor: Any, signals: Signals, order: Order, feed: Callable[[Sender], Awaitable[None]] | None = None) -> int:
    """
    Do what is ordered: the exit code.

    @param feed: has the sender send what is to be sent; None for what the order says
    """
    out = Output(reactor)
    client = await connect(reactor, order.server, order.timeout, _FOR_EVER)
    started = reactor.seconds()
    shown = False if order.progress is None and order.printing and is_terminal(1) else order.progress
    progress = Progress(reactor, f"sending to {order.queue}", None if order.lines else order.count, shown)
    feeding: Deferred[None] | None = None
    ended: Failed | None = None

    def stop() -> None:
        if feeding is not None:
            feeding.cancel()

    watch = Watch(reactor, client, order.server, order.timeout, lambda: client.connection.outbox.sends, stop, progress.note)
    sender = Sender(client, order, out, watch, progress)
    signals.gracefully(stop)
    feeding = Deferred.fromCoroutine(_feed(_Ordered(reactor, order).feed if feed is None else feed, sender, client, out))
    try:
        await feeding
    except CancelledError:
        if not watch.gave_up:
            await _grace(reactor, client, out)
    except Failed as error:
        ended = error
    finally:
        online = client.connection.online
        progress.close()
        watch.close()
        await disconnect(reactor, client)
    complaint = sender.complaint(bool(signals.count), watch.gave_up, online)
    if ended is not None:
        raise sender.ended(ended)
    if complaint is not None:
        raise complaint
    _tell(order, sender, reactor.seconds() - started)
    return Exit.OK


def _tell(order: Order, sender: Sender, duration: float) -> None:
    if order.many:
        note(sender.summary(duration))
    elif sender.duplicates:
        note("nothing was stored: the queue knows a message with that key already")


async def _feed(feed: Callable[[Sender], Awaitable[None]], sender: Sender, client: QueueClient, out: Output) -> None:
    try:
        await feed(sender)
    except Failed:
        # What was sent before it went wrong may be stored or not: the user is to know.
        await client.confirmed()
        raise
    await client.confirmed()
    await out.written()


class _Ordered:
    """Has sent what the order says."""

    def __init__(self, reactor: Any, order: Order) -> None:
        self._order = order
        self._source = Input(reactor)
        self._pace = Pace(reactor, order.rate)

    async def feed(self, sender: Sender) -> None:
        """Do."""
        order, source = self._order, self._source
        if order.lines:
            while (lines := await source.lines()) is not None:
                await self._send(sender, lines)
        else:
            body = await source.all() if order.body is None else order.body
            await self._send(sender, repeat(body, order.count or 1))

    async def _send(self, sender: Sender, bodies: Iterable[bytes]) -> None:
        for body in bodies:
            await self._pace.wait()
            await sender.send(body)


async def _grace(reactor: Any, client: QueueClient, out: Output) -> None:
    with suppress(TimeoutError):
        await within(reactor, _GRACE, client.confirmed())
        await within(reactor, _GRACE, out.written())
