"""Which queues have series of their own, and their numbers."""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, fields

from phpmq.admin.admin import Admin
from phpmq.admin.status import counts_of
from phpmq.broker import Queue
from phpmq.message import QueueSettings

#: The name under which all queues are summed up that have no series of their own. A queue of that name never has.
OTHER = "__other__"

# So many queues are looked at before others may get their turn.
_STEP = 50


@dataclass(slots=True)
class Row:
    """
    The numbers of a queue, or the sums of many; times are milliseconds since the epoch.

    @ivar oldest: when the message that is next was accepted; None if none is ready
    @ivar settings: None for sums, and for a queue that is gone but for its dead letters
    """

    name: str
    ready: int = 0
    delayed: int = 0
    in_flight: int = 0
    dead: int = 0
    size: int = 0
    consumers: int = 0
    received: int = 0
    delivered: int = 0
    acknowledged: int = 0
    oldest: int | None = None
    paused: int = 0
    settings: QueueSettings | None = None

    @property
    def messages(self) -> int:
        """How many there are, in whatever state."""
        return self.ready + self.delayed + self.in_flight + self.dead

    def add(self, other: Row) -> None:
        """Sum up. Counters are left out: a sum of some of them falls when another queue gets series of its own."""
        for field in _SUMMED:
            setattr(self, field, getattr(self, field) + getattr(other, field))
        if other.oldest is not None and (self.oldest is None or other.oldest < self.oldest):
            self.oldest = other.oldest


_SUMMED = "ready", "delayed", "in_flight", "dead", "size", "consumers"
assert set(_SUMMED) < {field.name for field in fields(Row)}


def _row(admin: Admin, queue: Queue) -> Row:
    received, delivered, acknowledged = counts_of(queue)
    return Row(
        queue.name,
        queue.ready,
        queue.delayed,
        queue.in_flight,
        admin.broker.dead_letters.count_of(queue.name),
        queue.ready_size,
        len(queue.consumers),
        received,
        delivered,
        acknowledged,
        admin.oldest(queue),
        queue.paused,
        queue.settings,
    )


class _Choice:
    """
    The queues that are shown, and the sum of the others.

    What a queue holds counts together with what went through it in the last minute; twice if it was shown the last time, so that two
    queues of about the same size do not take turns.
    """

    def __init__(self, limit: int, shown: Collection[str]) -> None:
        self._limit = limit
        self._shown = shown
        self._best: list[tuple[float, str, Row]] = []
        self._others: Row | None = None

    def consider(self, row: Row, activity: float) -> None:
        """
        One more.

        @param activity: how many messages went through it
        """
        if row.name != OTHER:
            score = (row.messages + activity) * (2 if row.name in self._shown else 1)
            entry = score, row.name, row
            if len(self._best) < self._limit:
                heapq.heappush(self._best, entry)
                return
            if self._best:
                row = heapq.heappushpop(self._best, entry)[2]
        if self._others is None:
            self._others = Row(OTHER)
        self._others.add(row)

    @property
    def rows(self) -> list[Row]:
        """By name, the sum last, if there are others."""
        rows = sorted((row for _, _, row in self._best), key=lambda row: row.name)
        return rows if self._others is None else [*rows, self._others]


async def gather(admin: Admin, limit: int, shown: Collection[str], rest: Callable[[], Awaitable[None]]) -> list[Row]:
    """
    The queues with the most messages, each for itself, and the sum of the others, if there are any.

    @param limit: how many queues
    @param shown: those that were among them the last time
    @param rest: awaited from time to time, so that many queues do not hold up others
    """
    broker, choice = admin.broker, _Choice(limit, shown)
    names = [*broker.queues, *(name for name in broker.dead_letters.totals if name not in broker.queues)]
    for number, name in enumerate(names, 1):
        # Queues come and go while others have their turn; each name is looked at once.
        queue = broker.queues.get(name)
        if queue is not None:
            choice.consider(_row(admin, queue), admin.activity(queue))
        elif dead := broker.dead_letters.count_of(name):
            choice.consider(Row(name, dead=dead), 0)
        if not number % _STEP:
            await rest()
    return choice.rows
