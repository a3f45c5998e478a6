"""The metrics of a server, family by family: what each is called, what it means and where its numbers come from."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.utils import floatToGoString
from twisted import __version__ as twisted_version

from phpmq import __version__
from phpmq.admin.admin import Admin
from phpmq.errors import ProtocolError
from phpmq.histogram import Histogram
from phpmq.protocol import CLOSE_TIMEOUT, DEADLINES, HANDSHAKE_TIMEOUT

# What has a series before it happens for the first time; otherwise that first time does not show as an increase.
_REASONS = "rejected", "max-attempts", "expired"
_REFUSALS = "queue-full", "memory-full", "disk-failing"
_PROTOCOL_ERRORS = sorted({ProtocolError.code, *(kind.code for kind in ProtocolError.__subclasses__())})

_Number = Callable[[Admin], float]

# Their names get "_total" at the end.
_COUNTERS: tuple[tuple[str, _Number, str], ...] = (
    ("phpmq_messages_received", lambda admin: admin.broker.lifecycle.received, "Messages accepted."),
    ("phpmq_messages_delivered", lambda admin: admin.broker.lifecycle.delivered, "Deliveries to consumers."),
    (
        "phpmq_messages_redelivered",
        lambda admin: admin.broker.lifecycle.redelivered,
        "Deliveries that were not the first of their message.",
    ),
    ("phpmq_messages_acknowledged", lambda admin: admin.broker.lifecycle.acknowledged, "Messages that a consumer acknowledged."),
    (
        "phpmq_messages_requeued",
        lambda admin: admin.broker.lifecycle.requeued,
        "Messages that a consumer sent back to the tail of their queue.",
    ),
    ("phpmq_messages_expired", lambda admin: admin.broker.lifecycle.expired, "Messages whose time to live was over."),
    (
        "phpmq_messages_dropped",
        lambda admin: admin.broker.lifecycle.dropped,
        "Messages dropped from full queues, the oldest, to make room.",
    ),
    ("phpmq_messages_flushed", lambda admin: admin.broker.queues.flushed, "Messages removed by a flush."),
    (
        "phpmq_messages_duplicate",
        lambda admin: admin.broker.outcomes.duplicates,
        "Sends that stored nothing, as they were known already.",
    ),
    ("phpmq_unknown_ids", lambda admin: admin.broker.outcomes.unknown_ids, "Settlements of messages that their client did not hold."),
    ("phpmq_connections_accepted", lambda admin: admin.service.connections.accepted, "Connections accepted."),
    ("phpmq_connections_rejected", lambda admin: admin.service.connections.rejected, "Connections turned away, as there were too many."),
    ("phpmq_received_bytes", lambda admin: admin.service.connections.received, "Bytes that came from clients."),
    ("phpmq_sent_bytes", lambda admin: admin.service.connections.sent, "Bytes that went to clients."),
)

_GAUGES: tuple[tuple[str, _Number, str], ...] = (
    ("phpmq_queues", lambda admin: len(admin.broker.queues), "Queues."),
    ("phpmq_metrics_queues_limit", lambda admin: admin.service.metrics_queues, "Queues that may have series of their own."),
    (
        "phpmq_memory_used_bytes",
        lambda admin: admin.broker.memory.used,
        "What messages, dead letters, queues, keys and producers count for.",
    ),
    ("phpmq_memory_limit_bytes", lambda admin: admin.broker.memory.limit, "Memory from which on senders have to wait."),
    ("phpmq_senders_waiting", lambda admin: admin.broker.memory.blocked, "Connections whose sends wait for room."),
    ("phpmq_receipts_waiting", lambda admin: admin.broker.confirms.unconfirmed, "Receipts of synced sends that wait for the file."),
    ("phpmq_keys", lambda admin: admin.broker.keys.count, "Keys of sends that queues remember."),
    ("phpmq_keys_limit", lambda admin: admin.broker.keys.limit, "Keys that they may remember."),
    ("phpmq_producers", lambda admin: len(admin.broker.producers.by_name), "Producers whose latest number is remembered."),
    (
        "phpmq_producer_timeout_seconds",
        lambda admin: admin.broker.producers.timeout / 1000,
        "Time without a send after which a producer is forgotten.",
    ),
    ("phpmq_unconfirmed_limit", lambda admin: admin.broker.confirms.limit, "Synced sends of a connection whose receipts may wait."),
    ("phpmq_window_limit", lambda admin: admin.broker.lifecycle.max_window, "Messages that one consumer may hold."),
    ("phpmq_message_limit_bytes", lambda admin: admin.service.max_message_size, "Largest body of a message."),
    ("phpmq_connections_limit", lambda admin: admin.service.connections.max_connections, "Connections that there may be."),
    ("phpmq_unfinished_frame_bytes", lambda admin: admin.service.connections.held, "Bytes that wait for the rest of their frame."),
    (
        "phpmq_unfinished_frame_limit_bytes",
        lambda admin: admin.service.connections.unfinished_limit,
        "Bytes that may wait for the rest of their frame.",
    ),
    ("phpmq_mirror_enabled", lambda admin: admin.service.mirror is not None, "Whether messages are mirrored to a file."),
)


def server(admin: Admin, started: float) -> Iterator[Metric]:
    """
    What the server as a whole has.

    @param started: when it was started, Unix time
    """
    versions = {"version": __version__, "python": platform.python_version(), "twisted": twisted_version}
    yield InfoMetricFamily("phpmq_build", "Versions of phpmq and of what it runs on.", value=versions)
    yield GaugeMetricFamily("phpmq_start_time_seconds", "When the server was started, Unix time.", value=started)
    for name, number, text in _COUNTERS:
        yield CounterMetricFamily(name, text, value=number(admin))
    for name, number, text in _GAUGES:
        yield GaugeMetricFamily(name, text, value=number(admin))
    yield from _labelled(admin)
    yield from _mirror(admin)
    yield _histogram(
        "phpmq_message_wait_seconds",
        "Time from the acceptance of a message until its first delivery, with the delay that its sender asked for.",
        admin.broker.lifecycle.waits,
    )
    yield _histogram("phpmq_reactor_delay_seconds", "By how much what is due comes late, ten times a second.", admin.service.pulse.delays)


def _labelled(admin: Admin) -> Iterator[Metric]:
    """Families with a label whose values are few."""
    broker, connections, none = admin.broker, admin.service.connections, dict.fromkeys
    yield counters(
        "phpmq_messages_dead_lettered", "reason", none(_REASONS, 0) | broker.dead_letters.by_reason, "Messages that became dead letters."
    )
    yield counters(
        "phpmq_sends_refused",
        "code",
        none(_REFUSALS, 0) | broker.outcomes.refused,
        "Sends of clients that were refused; one that waits for room counts each time it is tried.",
    )
    yield gauges("phpmq_connections", "listener", connections.by_listener, "Connections.")
    yield counters(
        "phpmq_connection_timeouts", "kind", none(DEADLINES, 0) | connections.timeouts, "Connections closed, as they missed a deadline."
    )
    yield gauges(
        "phpmq_connection_deadlines",
        "kind",
        connections.expecting(),
        "Connections that have a deadline, to complete a handshake or a frame, to read (write) or to close.",
    )
    deadlines = {
        "handshake": HANDSHAKE_TIMEOUT,
        "frame": connections.frame_timeout,
        "write": connections.write_timeout,
        "close": CLOSE_TIMEOUT,
    }
    yield gauges("phpmq_connection_deadline_seconds", "kind", deadlines, "Time that such a deadline gives.")
    errors = none(_PROTOCOL_ERRORS, 0) | connections.errors
    yield counters("phpmq_protocol_errors", "kind", errors, "Connections closed, as the client broke the protocol.")
    checks = {name: not wrong for name, wrong in admin.health().checks.items()}
    yield gauges("phpmq_healthy", "check", checks, "Whether a check of the server's health is passed.")


def _mirror(admin: Admin) -> Iterator[Metric]:
    """Without a file these families have no series."""
    mirror, state = admin.service.mirror, admin.mirror()
    yield GaugeMetricFamily("phpmq_mirror_failing", "Whether the last write of the file failed.", state.get("failing"))
    yield GaugeMetricFamily("phpmq_mirror_lag_seconds", "Time since the file had everything.", state.get("lag_seconds"))
    yield GaugeMetricFamily("phpmq_mirror_pending_changes", "Changes that are not in the file yet.", state.get("pending_changes"))
    yield CounterMetricFamily("phpmq_mirror_errors", "Writes of the file that failed.", state.get("errors"))
    interval = None if mirror is None else mirror.interval
    yield GaugeMetricFamily("phpmq_mirror_interval_seconds", "Time between two writes of the file.", interval)
    yield _histogram("phpmq_mirror_write_seconds", "Time that a write of the file took.", None if mirror is None else mirror.durations)


def counters(name: str, label: str, numbers: Mapping[str, float], text: str) -> CounterMetricFamily:
    """Counters, one for each value of a label."""
    family = CounterMetricFamily(name, text, labels=[label])
    for value, number in numbers.items():
        family.add_metric([value], number)
    return family


def gauges(name: str, label: str, numbers: Mapping[str, float], text: str) -> GaugeMetricFamily:
    """Gauges, likewise."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in numbers.items():
        # A listener may be named by bytes that are no text.
        family.add_metric([value.encode("utf-8", "backslashreplace").decode("utf-8")], number)
    return family


def _histogram(name: str, text: str, durations: Histogram | None) -> HistogramMetricFamily:
    if durations is None:
        return HistogramMetricFamily(name, text)
    bounds = [*map(floatToGoString, durations.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(durations.counts), strict=True))
    return HistogramMetricFamily(name, text, buckets, durations.seconds)
