"""The metrics of queues: which queues have series of their own, and families with many series, in parts, so that no step takes long."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from phpmq.errors import NoSuchQueue
from phpmq.interfaces import IOperators, Steps
from phpmq.results import STATES, QueueNumbers

#: The name under which all queues are summed up that have no series of their own. A queue of that name never has.
OTHER = "__other__"

# How many queues are looked at in one step, and how many series make a part of a family.
_STEP, _PART = 50, 250

_Family = type[CounterMetricFamily] | type[GaugeMetricFamily]
_Series = Iterable[tuple[Sequence[str], float]]

# Counters are left out: a sum of some of them falls when another queue gets series of its own.
_SUMMED = *STATES, "bytes", "consumers"
_states = attrgetter(*STATES)


def choose(operators: IOperators, activity: Callable[[int], float], limit: int, shown: Collection[str]) -> Steps[list[QueueNumbers]]:
    """
    The C{limit} queues with the most messages, each for itself and by name, then the sum of the others, if there are any.

    What a queue holds counts together with what went through it in the last minute; twice if it was shown the last time, so that two
    queues of about the same size do not take turns.

    @param activity: tells by a queue's number how many messages went through it
    @param shown: those that were among them the last time
    """
    best: list[tuple[float, str, QueueNumbers]] = []
    others: QueueNumbers | None = None
    names = [*operators.names(), *(name for name in operators.dead_totals if operators.counters(name) is None)]
    for place, name in enumerate(names, 1):
        queue = _numbers(operators, name)
        if queue is not None and name != OTHER and limit:
            score = (sum(_states(queue)) + activity(queue.number)) * (2 if name in shown else 1)
            best_or_less = score, name, queue
            if len(best) < limit:
                heapq.heappush(best, best_or_less)
                queue = None
            else:
                queue = heapq.heappushpop(best, best_or_less)[2]
        if queue is not None:
            others = _sum(others or QueueNumbers(OTHER), queue)
        if not place % _STEP:
            yield
    return [*sorted((queue for *_, queue in best), key=attrgetter("name")), *([] if others is None else [others])]


def _numbers(operators: IOperators, name: str) -> QueueNumbers | None:
    """The numbers of a queue; None if it is gone with its dead letters: queues come and go between two steps."""
    try:
        return operators.numbers(name)
    except NoSuchQueue:
        dead = operators.dead_totals.get(name)
        return None if dead is None else QueueNumbers(name, dead=dead[0])


def _sum(others: QueueNumbers, queue: QueueNumbers) -> QueueNumbers:
    """The sum of the queues that are not shown, with one more."""
    sums: dict[str, Any] = {field: getattr(others, field) + getattr(queue, field) for field in _SUMMED}
    oldest = min((one.oldest for one in (others, queue) if one.oldest is not None), default=None)
    return QueueNumbers(OTHER, oldest=oldest, **sums)


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
