"""What all parts of the benchmark have in common: how much is sent, lines of the table, time and ratios."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median

from tests.benchmarks.brokers import Broker, Phpmq

#: Seconds that the reactor may stand still.
LONGEST_STALL = 0.05


@dataclass(frozen=True)
class Scale:
    """
    How much is sent.

    @ivar speed: messages of an end-to-end run
    @ivar rounds: runs of each broker, interleaved; the medians count
    @ivar backlog: messages that wait
    @ivar queues: queues that others of them wait in
    @ivar connections: idle connections
    @ivar scraped: queues of a server whose metrics are scraped
    """

    speed: int = 200_000
    rounds: int = 3
    backlog: int = 1_000_000
    queues: int = 1000
    connections: int = 10_000
    scraped: int = 10_000


FULL = Scale()
QUICK = Scale(speed=50_000, rounds=1, backlog=100_000, queues=100, connections=1000, scraped=1000)


@dataclass(frozen=True)
class Row:
    """
    A line of the table.

    @ivar target: what the figure is to be, if anything
    @ivar met: whether it is
    """

    measure: str
    figure: str
    target: str = ""
    met: bool = True


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """Have work done by a process of its own meanwhile."""
    process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    process.start()
    try:
        yield
        process.join(60)
    finally:
        process.kill()
        process.join()


def settled(server: Phpmq) -> int:
    """The server's memory once it does not change any more."""
    before, now = 0, server.memory
    for _ in range(60):
        before, busy = now, server.busy
        time.sleep(0.5)
        now = server.memory
        if now == before and server.busy - busy < 0.1:
            break
    return now


def timed(work: Callable[[], object]) -> float:
    """How many seconds it took."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def end_to_end(broker: Broker, count: int) -> float:
    """Messages a second with a sender and a consumer at work at the same time."""
    with beside(partial(broker.send, count)):
        return count / timed(partial(broker.consume, count))


def interleaved(brokers: list[Broker], scale: Scale) -> list[float]:
    """Each broker's median rate; a run of one follows a run of another, so that they share the machine's moods."""
    for broker in brokers:
        end_to_end(broker, scale.speed // 10)
    rounds = [[end_to_end(broker, scale.speed) for broker in brokers] for _ in range(scale.rounds)]
    return [median(rates) for rates in zip(*rounds, strict=True)]


def per_second(figure: float) -> str:
    """Messages a second, as a figure."""
    return f"{figure:,.0f} /s"


def at_least(measure: str, figure: float, least: float) -> Row:
    """A ratio that is to be so large."""
    return Row(measure, f"{figure:.2f}", f">= {least:g}", figure >= least)


def stall(server: Phpmq, what: str) -> Row:
    """The longest stall since the last time."""
    longest, busy = server.stall()
    figure = f"{longest * 1000:.0f} ms ({busy * 1000:.0f} ms at work)"
    return Row(f"longest reactor stall, {what}", figure, f"<= {LONGEST_STALL * 1000:.0f} ms", longest <= LONGEST_STALL)
