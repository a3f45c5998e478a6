"""The metrics of queues: families with many series, in parts, so that no step takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from phpmq.admin.metrics.rows import OTHER, Row
from phpmq.broker import DELIVERIES, SENDS

# So many series make a part of a family.
_PART = 250

_PAUSES = {"deliveries": DELIVERIES, "sends": SENDS}

_Family = type[CounterMetricFamily] | type[GaugeMetricFamily]
_Series = Iterable[tuple[Sequence[str], float]]


def queues(rows: list[Row], ahead: float) -> Iterator[Metric]:
    """
    What queues have.

    @param ahead: by how many seconds the system's clock is ahead of the one that times in rows are of
    """
    # Without the sum of the others: counters of some queues, summed up, fall when one of them gets series of its own.
    own = [row for row in rows if row.name != OTHER]
    yield from _parts(GaugeMetricFamily, "phpmq_queue_messages", ("queue", "state"), _states(rows), "Messages of a queue, by state.")
    for name, number, text in _GAUGES:
        yield from _parts(GaugeMetricFamily, name, ("queue",), (((row.name,), number(row)) for row in rows), text)
    yield from _parts(
        GaugeMetricFamily,
        "phpmq_queue_oldest_message_timestamp_seconds",
        ("queue",),
        (((row.name,), row.oldest / 1000 + ahead) for row in rows if row.oldest is not None),
        "When the next message of a queue was accepted, Unix time; no series if none is ready.",
    )
    for name, number, text in _COUNTERS:
        yield from _parts(CounterMetricFamily, name, ("queue",), (((row.name,), number(row)) for row in own), text)
    yield from _parts(
        GaugeMetricFamily, "phpmq_queue_paused", ("queue", "what"), _pauses(own), "1 for what is paused of a queue, deliveries or sends."
    )
    for name, limit, text in _LIMITS:
        limits = (((row.name,), limit(row)) for row in own if limit(row))
        yield from _parts(GaugeMetricFamily, name, ("queue",), limits, text)


_Number = Callable[[Row], float]

_GAUGES: tuple[tuple[str, _Number, str], ...] = (
    ("phpmq_queue_bytes", lambda row: row.size, "Bytes of the messages of a queue that are ready or delayed."),
    ("phpmq_queue_consumers", lambda row: row.consumers, "Consumers of a queue."),
)
_COUNTERS: tuple[tuple[str, _Number, str], ...] = (
    ("phpmq_queue_messages_received", lambda row: row.received, "Messages accepted for a queue since it is there."),
    ("phpmq_queue_messages_delivered", lambda row: row.delivered, "Deliveries from a queue since it is there."),
    (
        "phpmq_queue_messages_acknowledged",
        lambda row: row.acknowledged,
        "Acknowledgements of messages of a queue since it is there.",
    ),
)
_LIMITS: tuple[tuple[str, _Number, str], ...] = (
    (
        "phpmq_queue_limit_messages",
        lambda row: 0 if row.settings is None else row.settings.max_messages,
        "Messages that may be ready or delayed in a queue with such a limit.",
    ),
    (
        "phpmq_queue_limit_bytes",
        lambda row: 0 if row.settings is None else row.settings.max_bytes,
        "Bytes that they may have in a queue with such a limit.",
    ),
)


def _states(rows: list[Row]) -> _Series:
    for row in rows:
        yield (row.name, "ready"), row.ready
        yield (row.name, "delayed"), row.delayed
        yield (row.name, "in_flight"), row.in_flight
        yield (row.name, "dead"), row.dead


def _pauses(rows: list[Row]) -> _Series:
    for row in rows:
        for what, bit in _PAUSES.items():
            if row.paused & bit:
                yield (row.name, what), 1


def _parts(kind: _Family, name: str, labels: Sequence[str], series: _Series, text: str) -> Iterator[Metric]:
    """A family, in parts of the same name; at least one."""
    part = kind(name, text, labels=labels)
    for values, number in series:
        part.add_metric(values, number)
        if len(part.samples) == _PART:
            yield part
            part = kind(name, text, labels=labels)
    yield part
