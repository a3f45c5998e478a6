"""The metrics of queues: which queues have series of their own, and families with many series, in parts, so that no step takes long."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from phpmq.errors import NoSuchQueue
from phpmq.interfaces import IOperators, Steps
from phpmq.message import STATES
from phpmq.results import QueueNumbers

#: The name under which all queues are summed up that have no series of their own. A queue of that name never has.
OTHER = "__other__"

# How many queues are looked at in one step, and how many series make a part of a family.
_STEP, _PART = 50, 250

_Family = type[CounterMetricFamily] | type[GaugeMetricFamily]
_Series = Iterable[tuple[Sequence[str], float]]

# Counters are left out: a sum of some of them falls when another queue gets series of its own.
_SUMMED = *STATES, "bytes", "consumers"
_summed = attrgetter(*_SUMMED)
_states = attrgetter(*STATES)


class _Choice:
    """
    The queues that are shown, and the sum of the others.

    What a queue holds counts together with what went through it in the last minute; twice if it was shown the last time, so that two
    queues of about the same size do not take turns.
    """

    def __init__(self, limit: int, shown: Collection[str]) -> None:
        self._limit = limit
        self._shown = shown
        self._best: list[tuple[float, str, QueueNumbers]] = []
        self._sums: list[int] = []
        self._oldest: int | None = None

    def consider(self, queue: QueueNumbers, activity: float) -> None:
        """
        One more.

        @param activity: how many messages went through it
        """
        if queue.name != OTHER:
            score = (sum(_states(queue)) + activity) * (2 if queue.name in self._shown else 1)
            entry = score, queue.name, queue
            if len(self._best) < self._limit:
                heapq.heappush(self._best, entry)
                return
            if self._best:
                queue = heapq.heappushpop(self._best, entry)[2]
        self._sums = [sum(pair) for pair in zip(self._sums or [0] * len(_SUMMED), _summed(queue), strict=True)]
        if queue.oldest is not None and (self._oldest is None or queue.oldest < self._oldest):
            self._oldest = queue.oldest

    @property
    def queues(self) -> list[QueueNumbers]:
        """By name, the sum last, if there are others."""
        queues = sorted((queue for _, _, queue in self._best), key=attrgetter("name"))
        if self._sums:
            sums: dict[str, Any] = dict(zip(_SUMMED, self._sums, strict=True))
            queues.append(QueueNumbers(OTHER, oldest=self._oldest, **sums))
        return queues


def choose(operators: IOperators, activity: Callable[[int], float], limit: int, shown: Collection[str]) -> Steps[list[QueueNumbers]]:
    """
    The queues with the most messages, each for itself, and the sum of the others, if there are any.

    @param activity: tells by a queue's number how many messages went through it
    @param limit: how many queues
    @param shown: those that were among them the last time
    """
    choice, dead = _Choice(limit, shown), operators.dead_totals()
    names = [*operators.names(), *(name for name in dead if operators.counters(name) is None)]
    for place, name in enumerate(names, 1):
        # Queues come and go between two steps; each name is looked at once.
        try:
            queue = operators.numbers(name)
            choice.consider(queue, activity(queue.number))
        except NoSuchQueue:
            if name in dead:
                choice.consider(QueueNumbers(name, dead=dead[name][0]), 0)
        if not place % _STEP:
            yield
    return choice.queues


def families(queues: list[QueueNumbers], ahead: float) -> Iterator[Metric]:
    """
    What queues have.

    @param ahead: by how many seconds the system's clock is ahead of the one that the oldest messages' times are of
    """
    own = [queue for queue in queues if queue.name != OTHER]
    for kind, name, field, text in _FAMILIES:
        # Without the sum of the others: counters of some queues, summed up, fall when one of them gets series of its own.
        shown = own if kind is CounterMetricFamily else queues
        yield from _parts(kind, name, ("queue",), (((queue.name,), getattr(queue, field)) for queue in shown), text)
    states = (((queue.name, state), number) for queue in queues for state, number in zip(STATES, _states(queue), strict=True))
    yield from _parts(GaugeMetricFamily, "phpmq_queue_messages", ("queue", "state"), states, "Messages of a queue, by state.")
    pauses = (((queue.name, what), 1) for queue in own for what in queue.paused)
    text = "1 for what is paused of a queue, deliveries or sends."
    yield from _parts(GaugeMetricFamily, "phpmq_queue_paused", ("queue", "what"), pauses, text)
    ages = (((queue.name,), queue.oldest / 1000 + ahead) for queue in queues if queue.oldest is not None)
    text = "When the next message of a queue was accepted, Unix time; no series if none is ready."
    yield from _parts(GaugeMetricFamily, "phpmq_queue_oldest_message_timestamp_seconds", ("queue",), ages, text)
    for name, setting, text in _LIMITS:
        limited = ((queue.name, getattr(queue.settings, setting)) for queue in own if queue.settings is not None)
        yield from _parts(GaugeMetricFamily, name, ("queue",), (((queue,), limit) for queue, limit in limited if limit), text)


_FAMILIES: tuple[tuple[_Family, str, str, str], ...] = (
    (GaugeMetricFamily, "phpmq_queue_bytes", "bytes", "Bytes of the messages of a queue that are ready or delayed."),
    (GaugeMetricFamily, "phpmq_queue_consumers", "consumers", "Consumers of a queue."),
    (CounterMetricFamily, "phpmq_queue_messages_received", "received", "Messages accepted for a queue since it is there."),
    (CounterMetricFamily, "phpmq_queue_messages_delivered", "delivered", "Deliveries from a queue since it is there."),
    (
        *(CounterMetricFamily, "phpmq_queue_messages_acknowledged", "acknowledged"),
        "Acknowledgements of messages of a queue since it is there.",
    ),
)

_LIMITS = (
    ("phpmq_queue_limit_messages", "max_messages", "Messages that may be ready or delayed in a queue with such a limit."),
    ("phpmq_queue_limit_bytes", "max_bytes", "Bytes that they may have in a queue with such a limit."),
)


def _parts(kind: _Family, name: str, labels: Sequence[str], series: _Series, text: str) -> Iterator[Metric]:
    """A family, in parts of the same name; at least one."""
    part = kind(name, text, labels=labels)
    for values, number in series:
        part.add_metric(values, number)
        if len(part.samples) == _PART:
            yield part
            part = kind(name, text, labels=labels)
    yield part
