"""Sends messages, from the command line, from standard input or from lines of JSON, and counts their receipts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from phpmq.cli.connection import Watch, connect, disconnect
from phpmq.cli.exit_codes import Exit, Failed, code_of
from phpmq.cli.ndjson import message_of
from phpmq.cli.output import Progress, is_terminal, json_line, note
from phpmq.cli.reactor_main import Pace, Signals, within
from phpmq.cli.stdio import Input, Output
from phpmq.client import MessageId, QueueClient
from phpmq.client_frames import MAX_BODY
from phpmq.errors import Closed, TimedOut, TooLarge
from phpmq.text import format_rate, format_seconds, plural

# More seconds than any receipt takes: it is progress that is watched, not each message.
_NO_LIMIT = 1e9
# Bytes of ids that nobody reads, from which on nothing more is sent.
_MAX_UNREAD = 1 << 20
# Seconds that receipts under way have after Ctrl-C.
_GRACE = 1.0
# The most bytes of a line: JSON may take six characters for a byte; the rest is for headers and facts.
_MAX_LINE = 6 * MAX_BODY + 1024 * 1024
# How many bad lines are told one by one.
_TOLD = 10


@dataclass(frozen=True)
class SendOptions:
    """
    What to send, and how to report it.

    @ivar fields: arguments of C{QueueClient.send} beside queue and body
    @ivar body: None for what standard input has
    @ivar done: the participle that reports use
    """

    queue: str
    fields: dict[str, Any]
    server: str
    timeout: float
    body: bytes | None = None
    lines: bool = False
    count: int | None = None
    rate: float | None = None
    progress: bool | None = None
    ids: bool = False
    as_json: bool = False
    done: str = "sent"

    @property
    def many(self) -> bool:
        """Whether there may be more than one message."""
        return self.lines or self.count is not None

    @property
    def printing(self) -> bool:
        """Whether standard output gets a line for each message."""
        return self.ids or self.as_json or not self.many


class Sender:
    """
    Sends messages, prints what is known of each, and counts.

    @ivar stored: messages that the server has, with the C{duplicates} that it had before
    @ivar first: why the server refused the first of those that C{failed}
    @ivar unknown: messages that the server may have or not
    """

    def __init__(self, reactor: Any, client: QueueClient, options: SendOptions, out: Output, watch: Watch, progress: Progress) -> None:
        self._pace = Pace(reactor, options.rate)
        self.note = progress.note
        self._client, self._options, self._out, self._watch, self._progress = client, options, out, watch, progress
        self.taken = self.stored = self.duplicates = self.failed = self.unknown = 0
        self.first: Exception | None = None

    async def send(self, body: bytes, **more: Any) -> None:
        """Send a message, with more arguments of C{QueueClient.send}, as soon as the rate and the limit of unconfirmed messages allow."""
        await self._pace.wait()
        client = self._client
        if not client.connection.outbox.has_room:
            await client.room()
        self._out.check()
        if self._out.waiting > _MAX_UNREAD:
            await self._out.written()
        sending = client.send(self._options.queue, body, **self._options.fields, **more)
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
        if self._options.as_json:
            self._out.put(json_line({"number": number, "id": str(message_id) or None, "duplicate": duplicate}))
        elif self._options.printing:
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
        if self._options.as_json:
            self._out.put(json_line({"number": number, "error": getattr(error, "code", "internal"), "reason": str(error)}))

    def tell(self, duration: float) -> None:
        """Report what was done in a number of seconds, if nothing went wrong."""
        before = f", {self.duplicates:,} of them stored before" if self.duplicates else ""
        if self._options.many:
            note(f"{self._options.done} {plural(self.taken)} in {format_seconds(duration)}, {format_rate(self.taken, duration)}{before}")
        elif before:
            note("nothing was stored: the queue knows a message with that key already")

    def complaint(self, interrupted: bool, gave_up: bool, online: bool) -> Failed | None:
        """Return the error for what went wrong, if anything did; C{online} says whether there was a connection at the end."""
        parts = []
        if interrupted:
            parts.append("interrupted")
        if gave_up:
            parts.append(f"gave up after {self._options.timeout:g} s without an answer of {self._options.server}")
        if self.failed or self.unknown or parts:
            parts.append(self._account())
        parts += self._refusal()
        return Failed(": ".join(parts), self._code(interrupted, gave_up, online)) if parts else None

    def ended(self, error: Failed) -> Failed:
        """Return the error for a failure of the input, with what was sent before."""
        if not self.taken:
            return error
        parts = [error.sentence, self._account(), *self._refusal()]
        return Failed("; ".join(parts), Exit.PARTLY if self.stored else error.code)

    def _refusal(self) -> list[str]:
        return [] if self.first is None else [f"{'the first refusal' if self.failed > 1 else 'refused'}: {self.first}"]

    def _account(self) -> str:
        text = f"{self.stored:,} of {plural(self.taken)} {self._options.done}"
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


#: Gives a sender all that is to be sent.
Feed = Callable[[Sender], Awaitable[None]]


async def send_messages(reactor: Any, signals: Signals, options: SendOptions, feed: Feed | None = None) -> int:
    """Send messages, those of C{feed} or else those of the options: the exit code."""
    out = Output(reactor)
    client = await connect(reactor, options.server, options.timeout, _NO_LIMIT)
    started = reactor.seconds()
    shown = False if options.progress is None and options.printing and is_terminal(1) else options.progress
    progress = Progress(reactor, f"sending to {options.queue}", None if options.lines else options.count, shown)
    ended: Failed | None = None

    def stop() -> None:
        feeding.cancel()

    watch = Watch(reactor, client, options.server, options.timeout, lambda: client.connection.outbox.sends, stop, progress.note)
    sender = Sender(reactor, client, options, out, watch, progress)
    signals.gracefully(stop)
    feeding = Deferred.fromCoroutine(_feed(feed or partial(_feed_given, reactor, options), sender, client, out))
    try:
        await feeding
    except CancelledError:
        if not watch.gave_up:
            await _wait_for_receipts(reactor, client, out)
    except Failed as error:
        ended = error
    finally:
        online = client.connection.online
        progress.close()
        watch.close()
        await disconnect(reactor, client)
    if ended is not None:
        raise sender.ended(ended)
    if (complaint := sender.complaint(bool(signals.count), watch.gave_up, online)) is not None:
        raise complaint
    sender.tell(reactor.seconds() - started)
    return Exit.OK


async def _wait_for_receipts(reactor: Any, client: QueueClient, out: Output) -> None:
    with suppress(TimeoutError):
        await within(reactor, _GRACE, client.confirmed())
        await within(reactor, _GRACE, out.written())


async def _feed(feed: Feed, sender: Sender, client: QueueClient, out: Output) -> None:
    try:
        await feed(sender)
    except Failed:
        # What was sent before it went wrong may be stored or not: the user is to know.
        await client.confirmed()
        raise
    await client.confirmed()
    await out.written()


async def _feed_given(reactor: Any, options: SendOptions, sender: Sender) -> None:
    source = Input(reactor)
    if options.lines:
        while (lines := await source.lines()) is not None:
            for line in lines:
                await sender.send(line)
    else:
        body = await source.all() if options.body is None else options.body
        for _ in range(options.count or 1):
            await sender.send(body)


async def import_messages(reactor: Any, signals: Signals, options: SendOptions, path: str | None, skip_bad: bool) -> int:
    """Send the messages of a file with lines of JSON, None for standard input: the exit code."""
    name = path or "standard input"
    try:
        file = open(path or 0, "rb", buffering=0, closefd=path is not None)  # noqa: SIM115  # it is closed below
    except OSError as error:
        raise Failed(f"cannot read {name}: {error.strerror}") from error
    with file:
        source = Input(reactor, file.fileno(), name, _MAX_LINE)
        return await send_messages(reactor, signals, options, partial(_feed_lines, source, name, skip_bad))


async def _feed_lines(source: Input, name: str, skip_bad: bool, sender: Sender) -> None:
    bad = 0
    while (lines := await source.lines()) is not None:
        for number, line in enumerate(lines, source.line - len(lines) + 1):
            try:
                if line.strip():
                    body, fields = message_of(line)
                    await sender.send(body, **fields)
            except (TooLarge, ValueError) as error:
                sentence = f"line {number:,} of {name} is no message: {error}"
                if not skip_bad:
                    raise Failed(f"{sentence} (--skip-bad leaves such lines out)") from error
                bad += 1
                if bad <= _TOLD:
                    sender.note(sentence)
    if bad:
        raise Failed(f"{plural(bad, 'line')} of {name} left out, as no messages")
