"""What operators' doors cost the messages: scrapes and readers of events, of a server with traffic or with many queues."""

from __future__ import annotations

import http.client
import multiprocessing
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median, quantiles

from tests.benchmarks import load
from tests.benchmarks.brokers import Phpmq, free_port, packet
from tests.benchmarks.table import LONGEST_STALL, Row, Scale, at_least, end_to_end, per_second, stall

# A question of version 02 that the server answers at once, with its tag.
_PING = b"H0201001" + packet(6, b"ping")

# Seconds between two of them.
_EVERY = 0.002

# Requests that are made to see what one takes.
_REQUESTS = 200


class OpenPhpmq(Phpmq):
    """This server, with its HTTP API."""

    def __init__(self, directory: Path, *options: str) -> None:
        """
        @param options: more options
        """
        super().__init__(directory)
        self.http_port = free_port()
        self._options = options

    def arguments(self) -> list[str]:
        """Its command line."""
        return [*super().arguments(), "--http", f"tcp:{self.http_port}:interface=127.0.0.1", *self._options]

    def get(self, path: str, **headers: str) -> bytes:
        """What there is at a path."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=30)
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if response.status != 200:
            raise ValueError(f"{response.status}: {content[:200]!r}")
        return content

    def scrape(self, **headers: str) -> tuple[float, bytes]:
        """Ask for all metrics: how many seconds that took, and what came."""
        begin = time.perf_counter()
        content = self.get("/metrics", **headers)
        return time.perf_counter() - begin, content

    def late(self) -> dict[float, int]:
        """How many beats of its reactor came late by how many seconds at most, as the server itself counts them; see L{longest}."""
        text = self.get("/metrics")
        buckets = re.findall(rb'phpmq_reactor_delay_seconds_bucket\{le="([^"]+)"\} (\S+)', text)
        counts = [0, *(int(float(count)) for _, count in buckets)]
        return {float(bound): count - before for (bound, _), (before, count) in zip(buckets, pairwise(counts), strict=True)}


def longest(before: dict[float, int], after: dict[float, int]) -> float:
    """The bound that no beat between both was later than; seconds."""
    return max((bound for bound, count in after.items() if count > before[bound]), default=0.0)


@contextmanager
def meanwhile(work: Callable[[Event], float]) -> Iterator[list[float]]:
    """Have work done by a process of its own until it is told to end; what it returns is in the list then."""
    context = multiprocessing.get_context("fork")
    over, (result, end) = context.Event(), context.Pipe(False)
    process = context.Process(target=lambda: end.send(work(over)), daemon=True)
    process.start()
    told: list[float] = []
    try:
        yield told
        over.set()
        if not result.poll(60):
            raise TimeoutError("no end of the work beside")
        told.append(result.recv())
    finally:
        process.kill()
        process.join()


def scrape_each_second(server: OpenPhpmq, over: Event) -> float:
    """As Prometheus might: how many seconds the longest scrape took."""
    longest = server.scrape(accept_encoding="gzip")[0]
    while not over.wait(1):
        longest = max(longest, server.scrape(accept_encoding="gzip")[0])
    return longest


def read_events(server: OpenPhpmq, over: Event) -> float:
    """As a dashboard does: how many statuses came."""
    events = 0
    with socket.create_connection(("127.0.0.1", server.http_port), 10) as connection:
        connection.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.settimeout(0.1)
        while not over.is_set():
            try:
                events += load.receive(connection).count(b"event: status")
            except TimeoutError:
                continue
    return events


def ping(server: OpenPhpmq, over: Event) -> float:
    """Ask the server for a sign of life again and again: how many seconds the longest took."""
    longest = 0.0
    with load.connect(server.port) as connection:
        while not over.wait(_EVERY):
            begin = time.perf_counter()
            connection.sendall(_PING)
            load.await_bytes(connection, b"ping")
            longest = max(longest, time.perf_counter() - begin)
    return longest


_FORMS: dict[str, dict[str, str]] = {
    "text": {},
    "text, gzip": {"accept_encoding": "gzip"},
    "OpenMetrics, gzip": {"accept": "application/openmetrics-text", "accept_encoding": "gzip"},
}


def metrics(directory: Path, scale: Scale) -> Iterator[Row]:
    """Scrapes of a server with many queues: with as many series as by default, and with some for each queue."""
    for what, options in ("", ()), (", all with series", ("--metrics-queues", str(scale.scraped))):
        home = directory / f"metrics{len(options)}"
        home.mkdir()
        with OpenPhpmq(home, *options) as server:
            server.send_to_many(scale.scraped * 10, scale.scraped)
            # What comes first, the file for one, is not the scrapes' work.
            time.sleep(2)
            for form, headers in _FORMS.items():
                yield from _scrapes(server, f"{scale.scraped:,} queues{what}, {form}", headers)


def _scrapes(server: OpenPhpmq, what: str, headers: dict[str, str]) -> Iterator[Row]:
    before = server.late()
    server.stall()
    busy = server.busy
    with meanwhile(partial(ping, server)) as pings:
        scrapes = [server.scrape(**headers) for _ in range(10)]
        busy = (server.busy - busy) / len(scrapes)
    seconds = max(seconds for seconds, _ in scrapes)
    figure = f"{seconds:.3f} s at most, {len(scrapes[0][1]) / 1000:.0f} kB, {busy * 1000:.0f} ms of processor each"
    yield Row(f"scrape, {what}", figure, "<= 1 s", seconds <= 1)
    yield stall(server, what)
    late = longest(before, server.late())
    with meanwhile(partial(ping, server)) as idle:
        time.sleep(1)
    figure = f"{pings[0] * 1000:.0f} ms ({idle[0] * 1000:.0f} ms alone)"
    yield Row(f"longest ping, {what}", figure)
    limit = min(bound for bound in before if bound >= LONGEST_STALL)
    yield Row(
        f"longest delay by the server's own metric, {what}", f"{late * 1000:.0f} ms or less", f"<= {limit * 1000:.0f} ms", late <= limit
    )


@dataclass
class _Run:
    rate: float
    busy: float


def operators(directory: Path, scale: Scale) -> Iterator[Row]:
    """
    The rate with a scrape and an event each second, and without, in turn on the same server; and the processor's time for a message.

    Others on the machine make single runs differ by more than this may. So the runs are short and many, and it is neighbours that are
    compared.
    """
    with OpenPhpmq(directory) as server:
        server.stall()
        end_to_end(server, scale.speed)
        alone: list[_Run] = []
        watched: list[_Run] = []
        slowest = events = 0.0
        for number in range(5 * scale.rounds):
            # Who begins changes, so that a machine that becomes slower or faster favours nobody.
            for runs in (alone, watched) if number % 2 else (watched, alone):
                if runs is alone:
                    runs.append(_run(server, scale.speed))
                    continue
                with meanwhile(partial(scrape_each_second, server)) as scrapes, meanwhile(partial(read_events, server)) as statuses:
                    runs.append(_run(server, scale.speed))
                slowest, events = max(slowest, *scrapes), events + statuses[0]
        yield Row("end to end, nobody looks", _spread([run.rate for run in alone]))
        yield Row("end to end, scraped each second, a reader of events", _spread([run.rate for run in watched]))
        pairs = list(zip(alone, watched, strict=True))
        yield _compared("the latter / the former", [with_them.rate / own.rate for own, with_them in pairs])
        own, with_them = (median(run.busy for run in runs) for runs in (alone, watched))
        yield Row("processor of the server for a message", f"{own * 1e6:.2f} us, {with_them * 1e6:.2f} us when looked at")
        yield _compared("the former / the latter", [own.busy / with_them.busy for own, with_them in pairs])
        # What looking costs by itself: on a busy machine the quieter figure.
        taken = _cost(server, "/metrics") + _cost(server, "/api/v1/status")
        yield Row("of a processor, a scrape and a status a second", f"{taken:.2%}", "<= 5%", taken <= 0.05)
        yield Row("scrape beside traffic, at most", f"{slowest:.3f} s, {events:.0f} events", "<= 1 s", slowest <= 1)
        yield stall(server, "looked at")


def _cost(server: OpenPhpmq, path: str) -> float:
    """Seconds of the processor that a request takes."""
    busy = server.busy
    for _ in range(_REQUESTS):
        server.get(path, accept_encoding="gzip")
    return (server.busy - busy) / _REQUESTS


def _run(server: OpenPhpmq, count: int) -> _Run:
    busy = server.busy
    rate = end_to_end(server, count)
    return _Run(rate, (server.busy - busy) / count)


def _spread(rates: list[float]) -> str:
    return f"{per_second(median(rates))} ({min(rates):,.0f} to {max(rates):,.0f}, {len(rates)} runs)"


def _compared(measure: str, ratios: list[float]) -> Row:
    """The median of neighbours' ratios, and between what the middle half of them are."""
    if len(ratios) < 4:
        return at_least(measure, median(ratios), 0.95)
    low, middle, high = quantiles(ratios, n=4)
    return Row(measure, f"{middle:.2f} (half of them {low:.2f} to {high:.2f})", ">= 0.95", middle >= 0.95)
