"""Sends, and keeps account of what became of them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from phpmq.cli.connection import Watch, connect, disconnect
from phpmq.cli.exits import Exit, Failed, code_of
from phpmq.cli.output import counted, is_terminal, json_line, note, rate, seconds
from phpmq.cli.pipes import Input, Output
from phpmq.cli.progress import Progress
from phpmq.cli.running import Pace, Signals, within
from phpmq.client import MessageId, QueueClient
from phpmq.errors import Closed, TimedOut

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

    async def send(self, body: bytes) -> None:
        """Send one, when there is room for it."""
        client = self._client
        if not client.conversation.outbox.has_room:
            await client.room()
        self._out.check()
        if self._out.waiting > _MAX_UNREAD:
            await self._out.written()
        self.taken += 1
        number = self.taken
        sending = client.send(self._order.queue, body, **self._order.fields)
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
        return f"sent {counted(self.taken)} in {seconds(duration)}, {rate(self.taken, duration)}{before}"

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
        if self.first is not None:
            parts.append(f"{'the first refusal' if self.failed > 1 else 'refused'}: {self.first}")
        return Failed(": ".join(parts), self._code(interrupted, gave_up, online)) if parts else None

    def _account(self) -> str:
        text = f"{self.stored:,} of {counted(self.taken)} sent"
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


async def send_messages(reactor: Any, signals: Signals, order: Order) -> int:
    """Do what is ordered: the exit code."""
    out = Output(reactor)
    client = await connect(reactor, order.server, order.timeout, _FOR_EVER)
    started = reactor.seconds()
    shown = False if order.progress is None and order.printing and is_terminal(1) else order.progress
    progress = Progress(reactor, f"sending to {order.queue}", None if order.lines else order.count, shown)
    feeding: Deferred[None] | None = None

    def stop() -> None:
        if feeding is not None:
            feeding.cancel()

    watch = Watch(reactor, client, order.server, order.timeout, lambda: client.conversation.outbox.sends, stop, progress.note)
    sender = Sender(client, order, out, watch, progress)
    signals.gracefully(stop)
    feeding = Deferred.fromCoroutine(_feed(reactor, sender, order, client, out))
    try:
        await feeding
    except CancelledError:
        if not watch.gave_up:
            await _grace(reactor, client, out)
    finally:
        online = client.conversation.online
        progress.close()
        watch.close()
        await disconnect(reactor, client)
    complaint = sender.complaint(bool(signals.count), watch.gave_up, online)
    if complaint is not None:
        raise complaint
    if order.many:
        note(sender.summary(reactor.seconds() - started))
    elif sender.duplicates:
        note("nothing was stored: the queue knows a message with that key already")
    return Exit.OK


async def _feed(reactor: Any, sender: Sender, order: Order, client: QueueClient, out: Output) -> None:
    pace = Pace(reactor, order.rate)
    source = Input(reactor)
    if order.lines:
        while (lines := await source.lines()) is not None:
            await _send_all(sender, lines, pace)
    else:
        body = await source.all() if order.body is None else order.body
        await _send_all(sender, repeat(body, order.count or 1), pace)
    await client.confirmed()
    await out.written()


async def _send_all(sender: Sender, bodies: Iterable[bytes], pace: Pace) -> None:
    for body in bodies:
        await pace.wait()
        await sender.send(body)


async def _grace(reactor: Any, client: QueueClient, out: Output) -> None:
    with suppress(TimeoutError):
        await within(reactor, _GRACE, client.confirmed())
        await within(reactor, _GRACE, out.written())
