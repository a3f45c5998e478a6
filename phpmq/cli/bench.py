"""Measures: senders and consumers, each with a connection of its own."""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList

from phpmq.cli.connection import Watch, connect, disconnect, settled_down
from phpmq.cli.exit_codes import Exit, Failed
from phpmq.cli.output import Progress, json_line, note, table
from phpmq.cli.prefetch import Prefetch
from phpmq.cli.reactor_main import Pace, wait_for
from phpmq.cli.stdio import Output
from phpmq.cli.verbs import STAMP_SIZE
from phpmq.client import Delivery, QueueClient
from phpmq.text import format_number, format_seconds, plural, terminal_safe

HEADINGS = ("", "messages", "time", "rate", "MB/s", "p50", "p95", "p99", "max")


class Figures:
    """The messages of one kind: their number, the bytes of their bodies, and their latencies in seconds, unsorted."""

    def __init__(self, label: str, started: float) -> None:
        self.label = label
        self._started = self._last = started
        self.bytes = 0
        self.latencies = array("d")

    def add(self, size: int, begun: float, now: float) -> None:
        """Add a message that began and ended at these times."""
        self.bytes += size
        self.latencies.append(now - begun)
        self._last = now

    @property
    def seconds(self) -> float:
        """The time from the start to the last message."""
        return self._last - self._started

    def as_json(self) -> dict[str, Any]:
        """Return the figures for programs."""
        elapsed = max(self.seconds, 1e-9)
        return {
            "messages": len(self.latencies),
            "seconds": round(self.seconds, 6),
            "rate": round(len(self.latencies) / elapsed, 1),
            "mb_per_second": round(self.bytes / elapsed / 1e6, 3),
            "latency_ms": {name: round(value, 3) for name, value in self._latency().items()},
        }

    def row(self) -> tuple[str, ...]:
        """Return the cells under L{HEADINGS}."""
        figures = self.as_json()
        numbers = (
            f"{figures['messages']:,}",
            format_seconds(self.seconds),
            f"{figures['rate']:,.0f}/s",
            format_number(figures["mb_per_second"]),
        )
        return (self.label, *numbers, *map(format_number, self._latency().values()))

    def _latency(self) -> dict[str, float]:
        ordered = sorted(self.latencies) or [0.0]
        last = len(ordered) - 1
        places = {"p50": last * 50 // 100, "p95": last * 95 // 100, "p99": last * 99 // 100, "max": last}
        return {name: ordered[place] * 1000 for name, place in places.items()}


# Of a body: whose it is, and when it was sent.
_STAMP = struct.Struct("!8sd")
assert _STAMP.size == STAMP_SIZE


@dataclass(frozen=True)
class BenchOptions:
    """The options of C{phpmq bench}."""

    what: str
    size: int
    messages: int
    clients: int
    window: int
    level: str
    queue: str
    rate: float | None
    as_json: bool
    server: str
    timeout: float

    def parts(self) -> list[int]:
        """Return the number of messages for each client that has any."""
        each, rest = divmod(self.messages, self.clients)
        return [part for number in range(self.clients) if (part := each + (number < rest))]


class Bench:
    """One run of C{phpmq bench}, with what it measured in C{figures}."""

    def __init__(self, reactor: Any, options: BenchOptions) -> None:
        self._reactor, self._options = reactor, options
        self._clients: list[QueueClient] = []
        self._run = os.urandom(8)
        self._padding = b"x" * max(0, options.size - STAMP_SIZE)
        self._pace = Pace(reactor, options.rate)
        self._progress = Progress(reactor, f"bench {options.what}", options.messages, None)
        self._silent: Deferred[None] = Deferred()
        self._watch: Watch | None = None
        self._received = 0
        self._complete: Deferred[None] = Deferred()
        self.figures: dict[str, Figures] = {}

    async def run(self) -> None:
        """Measure; raise L{Failed} if another client uses the queue, or if nothing happens any more."""
        try:
            await self._measure()
        finally:
            if self._watch is not None:
                self._watch.close()
            self._progress.close()
            await DeferredList([Deferred.fromCoroutine(disconnect(self._reactor, client)) for client in self._clients])

    async def _measure(self) -> None:
        options = self._options
        parts = options.parts()
        senders = [await self._connect() for _ in parts] if options.what != "consume" else []
        consumers = [await self._connect() for _ in parts] if options.what != "send" else []
        if options.what == "both":
            await self._check_empty(consumers[0])
        self._watch = Watch(
            self._reactor, self._clients[0], options.server, options.timeout, lambda: True, self._give_up, self._progress.note
        )
        started = perf_counter()
        work: list[Coroutine[Any, Any, None]] = []
        if senders:
            figures = self.figures["send"] = Figures("send", started)
            work += [self._send(client, part, figures) for client, part in zip(senders, parts, strict=True)]
        if options.what == "consume":
            figures = self.figures["consume"] = Figures("acknowledge", started)
            work += [self._drain(client, part, figures) for client, part in zip(consumers, parts, strict=True)]
        elif consumers:
            figures = self.figures["consume"] = Figures("deliver", started)
            work += [self._receive(client, figures) for client in consumers]
        everything = Deferred.fromCoroutine(wait_for([Deferred.fromCoroutine(one) for one in work], every=True))
        await wait_for([everything, self._silent])

    async def _connect(self) -> QueueClient:
        options = self._options
        client = await connect(self._reactor, options.server, options.timeout, max_unconfirmed=options.window)
        self._clients.append(client)
        return client

    def _give_up(self) -> None:
        options = self._options
        self._silent.errback(Failed(f"nothing happened for {options.timeout:g} s{self.remains()}", Exit.TIMED_OUT))

    def remains(self) -> str:
        """Return what to add to an error, if messages may be left in the queue."""
        return f"; messages of this benchmark may be left in the queue {self._options.queue}" if self._options.what == "both" else ""

    def _progressed(self) -> None:
        self._progress.done += 1
        if self._watch is not None:
            self._watch.progress()

    async def _send(self, client: QueueClient, messages: int, figures: Figures) -> None:
        options, outbox = self._options, client.connection.outbox
        failure: Deferred[None] = Deferred()
        received = partial(self._receipt, figures=figures)
        stamped = options.what == "both"
        plain = b"x" * options.size
        for _ in range(messages):
            await self._pace.wait()
            if not outbox.has_room:
                await client.room()
            if failure.called:
                break
            now = perf_counter()
            body = _STAMP.pack(self._run, now) + self._padding if stamped else plain
            client.send(options.queue, body, level=options.level).addCallbacks(
                received, lambda reason: None if failure.called else failure.errback(reason), (now,)
            )
        await client.confirmed()
        if failure.called:
            await failure

    def _receipt(self, _: object, begun: float, figures: Figures) -> None:
        figures.add(self._options.size, begun, perf_counter())
        if self._options.what == "send":
            self._progressed()

    async def _drain(self, client: QueueClient, messages: int, figures: Figures) -> None:
        """Take the messages of the queue, up to a number."""

        def take(delivery: Delivery) -> None:
            prefetch.settle(delivery, partial(acknowledge, delivery))

        def acknowledge(delivery: Delivery) -> Deferred[bool]:
            return delivery.ack().addCallback(answered, len(delivery.body), perf_counter())

        def answered(settled: bool, size: int, begun: float) -> bool:
            figures.add(size, begun, perf_counter())
            self._progressed()
            return settled

        failed: Deferred[None] = Deferred()
        prefetch = Prefetch(self._reactor, client, [self._options.queue], take, failed.errback, self._options.window, messages)
        prefetch.start()
        ends = prefetch.counted(), prefetch.watch(True, lambda: prefetch.unanswered > 0)
        await wait_for([*map(Deferred.fromCoroutine, ends), failed])

    async def _receive(self, client: QueueClient, figures: Figures) -> None:
        """Take what the senders send, until all of it has come."""

        def take(delivery: Delivery) -> None:
            now = perf_counter()
            run, begun = _STAMP.unpack_from(delivery.body) if len(delivery.body) >= STAMP_SIZE else (b"", 0.0)
            if run != self._run:
                if not foreign.called:
                    foreign.errback(Failed(f"somebody else sends to the queue {self._options.queue}, which is left alone{self.remains()}"))
                return
            prefetch.settle(delivery, delivery.ack)
            figures.add(len(delivery.body), begun, now)
            self._progressed()
            self._received += 1
            if self._received == self._options.messages:
                self._complete.callback(None)

        foreign: Deferred[None] = Deferred()
        prefetch = Prefetch(self._reactor, client, [self._options.queue], take, foreign.errback, self._options.window)
        prefetch.start()
        await wait_for([self._complete, foreign])
        await prefetch.stop()
        await prefetch.answered()

    async def _check_empty(self, client: QueueClient) -> None:
        """Raise L{Failed} if the queue has messages."""
        options = self._options
        found: list[Delivery] = []
        prefetch = Prefetch(self._reactor, client, [options.queue], found.append, lambda failure: None, 1, 1, keep=True)
        prefetch.start()
        await settled_down(self._reactor, client, lambda: prefetch.deliveries)
        await prefetch.stop()
        if found:
            hint = f"name another --queue, or empty it with phpmq bench consume --queue {options.queue}"
            raise Failed(f"the queue {options.queue} is not empty, and is left alone: {hint}")


async def measure(reactor: Any, options: BenchOptions) -> int:
    """Run the benchmark, and print the figures: the exit code."""
    out = Output(reactor)
    bench = Bench(reactor, options)
    try:
        await bench.run()
    except CancelledError:
        note(f"interrupted{bench.remains()}")
        raise
    figures = bench.figures
    if options.what == "consume" and not figures["consume"].latencies:
        raise Failed(f"there is nothing to consume in the queue {options.queue}: phpmq bench send fills it")
    if options.as_json:
        settings = {name: getattr(options, name) for name in ("server", "queue", "size", "clients", "window", "level")}
        out.put(json_line({**settings, **{name: one.as_json() for name, one in figures.items()}}))
    else:
        clients = plural(options.clients, "client")
        caption = (
            f"queue {options.queue}, {clients}, window {options.window:,}, {options.size:,}-byte bodies, {options.level}; latency in ms"
        )
        out.put(f"{terminal_safe(caption)}\n{table(HEADINGS, [one.row() for one in figures.values()])}".encode())
    await out.written()
    return Exit.OK
