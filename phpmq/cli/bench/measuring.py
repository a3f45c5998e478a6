"""Measures: senders and consumers, each with a connection of its own."""

from __future__ import annotations

import os
import struct
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList

from phpmq.cli.bench import STAMP_SIZE
from phpmq.cli.bench.figures import HEADINGS, Figures
from phpmq.cli.connection import Watch, connect, disconnect, settled_down
from phpmq.cli.consume.intake import Intake
from phpmq.cli.exits import Exit, Failed
from phpmq.cli.output import json_line, note, table
from phpmq.cli.pipes import Output
from phpmq.cli.progress import Progress
from phpmq.cli.running import Pace, first, together
from phpmq.client import Delivery, QueueClient
from phpmq.text import plural, terminal_safe

# Of a body: whose it is, and when it was sent.
_STAMP = struct.Struct("!8sd")
assert _STAMP.size == STAMP_SIZE


@dataclass(frozen=True)
class Order:
    """What is to be measured, and how."""

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
        """How many messages each client has; clients without any are left out."""
        each, rest = divmod(self.messages, self.clients)
        return [part for number in range(self.clients) if (part := each + (number < rest))]


class Bench:
    """
    One call of C{phpmq bench}.

    @ivar figures: what was measured
    """

    def __init__(self, reactor: Any, order: Order) -> None:
        self._reactor, self._order = reactor, order
        self._clients: list[QueueClient] = []
        self._run = os.urandom(8)
        self._padding = b"x" * max(0, order.size - STAMP_SIZE)
        self._pace = Pace(reactor, order.rate)
        self._progress = Progress(reactor, f"bench {order.what}", order.messages, None)
        self._silent: Deferred[None] = Deferred()
        self._watch: Watch | None = None
        self._received = 0
        self._complete: Deferred[None] = Deferred()
        self.figures: dict[str, Figures] = {}

    async def run(self) -> None:
        """
        Measure.

        @raise Failed: somebody else uses the queue, or nothing happens any more
        @raise PHPMQError: the server refused something
        """
        try:
            await self._measure()
        finally:
            if self._watch is not None:
                self._watch.close()
            self._progress.close()
            await DeferredList([Deferred.fromCoroutine(disconnect(self._reactor, client)) for client in self._clients])

    async def _measure(self) -> None:
        order = self._order
        parts = order.parts()
        senders = [await self._connect() for _ in parts] if order.what != "consume" else []
        consumers = [await self._connect() for _ in parts] if order.what != "send" else []
        if order.what == "both":
            await self._check_empty(consumers[0])
        self._watch = Watch(self._reactor, self._clients[0], order.server, order.timeout, lambda: True, self._give_up, self._progress.note)
        started = perf_counter()
        work: list[Coroutine[Any, Any, None]] = []
        if senders:
            figures = self.figures["send"] = Figures("send", started)
            work += [self._send(client, part, figures) for client, part in zip(senders, parts, strict=True)]
        if order.what == "consume":
            figures = self.figures["consume"] = Figures("acknowledge", started)
            work += [self._drain(client, part, figures) for client, part in zip(consumers, parts, strict=True)]
        elif consumers:
            figures = self.figures["consume"] = Figures("deliver", started)
            work += [self._receive(client, figures) for client in consumers]
        everything = Deferred.fromCoroutine(together([Deferred.fromCoroutine(one) for one in work]))
        await first([everything, self._silent])

    async def _connect(self) -> QueueClient:
        order = self._order
        client = await connect(self._reactor, order.server, order.timeout, max_unconfirmed=order.window)
        self._clients.append(client)
        return client

    def _give_up(self) -> None:
        order = self._order
        self._silent.errback(Failed(f"nothing happened for {order.timeout:g} s{self.remains()}", Exit.TIMED_OUT))

    def remains(self) -> str:
        """What is to be said when it did not come to its end."""
        return f"; messages of this benchmark may be left in the queue {self._order.queue}" if self._order.what == "both" else ""

    def _progressed(self) -> None:
        self._progress.done += 1
        if self._watch is not None:
            self._watch.progress()

    # Sending

    async def _send(self, client: QueueClient, messages: int, figures: Figures) -> None:
        order, outbox = self._order, client.connection.outbox
        failure: Deferred[None] = Deferred()
        received = partial(self._receipt, figures=figures)
        stamped = order.what == "both"
        plain = b"x" * order.size
        for _ in range(messages):
            await self._pace.wait()
            if not outbox.has_room:
                await client.room()
            if failure.called:
                break
            now = perf_counter()
            body = _STAMP.pack(self._run, now) + self._padding if stamped else plain
            client.send(order.queue, body, level=order.level).addCallbacks(
                received, lambda reason: None if failure.called else failure.errback(reason), (now,)
            )
        await client.confirmed()
        if failure.called:
            await failure

    def _receipt(self, _: object, begun: float, figures: Figures) -> None:
        figures.add(self._order.size, begun, perf_counter())
        if self._order.what == "send":
            self._progressed()

    # Consuming

    async def _drain(self, client: QueueClient, messages: int, figures: Figures) -> None:
        """Take what there is, up to a number."""

        def take(delivery: Delivery) -> None:
            intake.settle(delivery, partial(acknowledge, delivery))

        def acknowledge(delivery: Delivery) -> Deferred[bool]:
            return delivery.ack().addCallback(answered, len(delivery.body), perf_counter())

        def answered(settled: bool, size: int, begun: float) -> bool:
            figures.add(size, begun, perf_counter())
            self._progressed()
            return settled

        failed: Deferred[None] = Deferred()
        intake = Intake(self._reactor, client, [self._order.queue], take, failed.errback, self._order.window, messages)
        intake.start()
        ends = [Deferred.fromCoroutine(intake.counted()), Deferred.fromCoroutine(intake.watch(True, lambda: intake.unanswered > 0)), failed]
        await first(ends)

    async def _receive(self, client: QueueClient, figures: Figures) -> None:
        """Take what the senders send, until it is all there."""

        def take(delivery: Delivery) -> None:
            now = perf_counter()
            run, begun = _STAMP.unpack_from(delivery.body) if len(delivery.body) >= STAMP_SIZE else (b"", 0.0)
            if run != self._run:
                if not foreign.called:
                    foreign.errback(Failed(f"somebody else sends to the queue {self._order.queue}, which is left alone{self.remains()}"))
                return
            intake.settle(delivery, delivery.ack)
            figures.add(len(delivery.body), begun, now)
            self._progressed()
            self._received += 1
            if self._received == self._order.messages:
                self._complete.callback(None)

        foreign: Deferred[None] = Deferred()
        intake = Intake(self._reactor, client, [self._order.queue], take, foreign.errback, self._order.window)
        intake.start()
        await first([self._complete, foreign])
        await intake.stop()
        await intake.answered()

    async def _check_empty(self, client: QueueClient) -> None:
        """
        See that there is nothing in the queue that belongs to somebody.

        @raise Failed: there is
        """
        order = self._order
        found: list[Delivery] = []
        intake = Intake(self._reactor, client, [order.queue], found.append, lambda failure: None, 1, 1, keep=True)
        intake.start()
        await settled_down(self._reactor, client, lambda: intake.deliveries)
        await intake.stop()
        if found:
            hint = f"name another --queue, or empty it with phpmq bench consume --queue {order.queue}"
            raise Failed(f"the queue {order.queue} is not empty, and is left alone: {hint}")


async def measure(reactor: Any, order: Order) -> int:
    """Do what is ordered, and print the figures: the exit code."""
    out = Output(reactor)
    bench = Bench(reactor, order)
    try:
        await bench.run()
    except CancelledError:
        note(f"interrupted{bench.remains()}")
        raise
    figures = bench.figures
    if order.what == "consume" and not figures["consume"].latencies:
        raise Failed(f"there is nothing to consume in the queue {order.queue}: phpmq bench send fills it")
    if order.as_json:
        settings = {name: getattr(order, name) for name in ("server", "queue", "size", "clients", "window", "level")}
        out.put(json_line({**settings, **{name: one.as_json() for name, one in figures.items()}}))
    else:
        clients = plural(order.clients, "client")
        caption = f"queue {order.queue}, {clients}, window {order.window:,}, {order.size:,}-byte bodies, {order.level}; latency in ms"
        out.put(f"{terminal_safe(caption)}\n{table(HEADINGS, [one.row() for one in figures.values()])}".encode())
    await out.written()
    return Exit.OK
