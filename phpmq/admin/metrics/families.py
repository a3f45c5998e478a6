"""The metrics of a server in one table: what each family is called, what it means and where its numbers come from."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator, Mapping
from itertools import accumulate
from types import SimpleNamespace
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.utils import floatToGoString
from twisted import __version__ as twisted_version

from phpmq import __version__
from phpmq.admin.admin import Admin
from phpmq.admin.console.protocol import DEADLINES as CONSOLE_DEADLINES
from phpmq.admin.http.connection import CUTS
from phpmq.admin.http.problems import CODES
from phpmq.errors import ProtocolError
from phpmq.histogram import Histogram
from phpmq.protocol import deadlines
from phpmq.results import ServerTotals, docs

# What has a series before it happens for the first time; otherwise that first time does not show as an increase.
_REASONS = "rejected", "max-attempts", "expired"
_REFUSALS = "queue-full", "memory-full", "disk-failing"
_PROTOCOL_ERRORS = sorted({ProtocolError.code, *(kind.code for kind in ProtocolError.__subclasses__())})


def read(admin: Admin, started: float) -> SimpleNamespace:
    """
    Read what the server has now: the paths of L{FAMILIES} begin here.

    @param started: when it was started, Unix time
    """
    server, operators = admin.server, admin.operators
    return SimpleNamespace(
        started=started,
        server=server,
        operators=operators,
        totals=operators.totals(),
        engine=SimpleNamespace(**operators.gauges()),
        healthy={name: text == "ok" for name, text in admin.health().checks.items()},
        file=admin.mirror(),
        mirrored=server.engine.mirror is not None,
        deadlines=server.connections.count_deadlines(),
    )


def value_at(reading: SimpleNamespace, path: str) -> Any:
    """Return what is at a path, in which C{#} counts; None where the server has no such thing, and the family no series."""
    value: Any = reading
    for name in path.split("."):
        value = getattr(value, name, None) if name != "#" else None if value is None else len(value)
    return value


class Family(NamedTuple):
    """
    One family.

    @ivar name: without C{phpmq_}; that of a counter gets C{_total} at the end
    @ivar path: where its number is, numbers by the label's values, or durations
    @ivar known: values of the label that have a series in any case, unless the family has none
    """

    kind: Any
    name: str
    path: str
    text: str
    label: str = ""
    known: Collection[str] = ()

    def metric(self, reading: SimpleNamespace) -> Metric:
        """The family with its numbers."""
        name, value = f"phpmq_{self.name}", value_at(reading, self.path)
        metric: Any
        if self.kind is HistogramMetricFamily:
            metric = HistogramMetricFamily(name, self.text, *(() if value is None else _buckets(value)))
        elif not self.label:
            metric = self.kind(name, self.text, value=value)
        else:
            metric = self.kind(name, self.text, labels=[self.label])
            numbers: Mapping[str, float] = {} if value is None else {**dict.fromkeys(self.known, 0), **value}
            for text, number in numbers.items():
                # A listener may be named by bytes that are no text.
                metric.add_metric([text.encode("utf-8", "backslashreplace").decode("utf-8")], number)
        return metric  # type: ignore[no-any-return]


def _buckets(durations: Histogram) -> tuple[list[tuple[str, int]], float]:
    bounds = [*map(floatToGoString, durations.bounds), "+Inf"]
    return list(zip(bounds, accumulate(durations.counts), strict=True)), durations.seconds


_C, _G, _H, _DOCS = CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, docs(ServerTotals)
_WAIT = "Time from the acceptance of a message until its first delivery, with the delay that its sender asked for."
_DEADLINE = "Connections that have a deadline, to complete a handshake or a frame, to read (write) or to close."
_REFUSED = "Sends of clients that were refused; one that waits for room counts each time it is tried."

#: All of them but those of queues.
FAMILIES = (
    Family(_G, "start_time_seconds", "started", "When the server was started, Unix time."),
    Family(_G, "healthy", "healthy", "Whether a check of the server's health is passed.", "check"),
    Family(_H, "reactor_delay_seconds", "server.lag.delays", "By how much what is due comes late, ten times a second."),
    Family(_G, "metrics_queues_limit", "server.settings.metrics_queues", "Queues that may have series of their own."),
    # Messages
    Family(_C, "messages_received", "totals.received", _DOCS["received"]),
    Family(_C, "messages_delivered", "totals.delivered", _DOCS["delivered"]),
    Family(_C, "messages_redelivered", "totals.redelivered", _DOCS["redelivered"]),
    Family(_C, "messages_acknowledged", "totals.acknowledged", _DOCS["acknowledged"]),
    Family(_C, "messages_requeued", "totals.requeued", _DOCS["requeued"]),
    Family(_C, "messages_expired", "totals.expired", _DOCS["expired"]),
    Family(_C, "messages_dropped", "totals.dropped", _DOCS["dropped"]),
    Family(_C, "messages_flushed", "totals.flushed", _DOCS["flushed"]),
    Family(_C, "messages_duplicate", "totals.duplicates", _DOCS["duplicates"]),
    Family(_C, "unknown_ids", "totals.unknown_ids", _DOCS["unknown_ids"]),
    Family(_C, "messages_dead_lettered", "operators.dead_lettered", _DOCS["dead_lettered"], "reason", _REASONS),
    Family(_C, "sends_refused", "operators.refused", _REFUSED, "code", _REFUSALS),
    Family(_H, "message_wait_seconds", "operators.waits", _WAIT),
    Family(_G, "message_limit_bytes", "server.settings.max_message_size", "Largest body of a message."),
    # The engine
    Family(_G, "queues", "engine.queues", "Queues."),
    Family(_G, "memory_used_bytes", "engine.memory_used", "What messages, dead letters, queues, keys and producers count for."),
    Family(_G, "memory_limit_bytes", "engine.memory_limit", "Memory from which on senders have to wait."),
    Family(_G, "senders_waiting", "engine.senders_waiting", "Connections whose sends wait for room."),
    Family(_G, "receipts_waiting", "engine.receipts_waiting", "Receipts of synced sends that wait for the file."),
    Family(_G, "keys", "engine.keys", "Keys of sends that queues remember."),
    Family(_G, "keys_limit", "engine.keys_limit", "Keys that they may remember."),
    Family(_G, "producers", "engine.producers", "Producers whose latest number is remembered."),
    Family(_G, "producer_timeout_seconds", "engine.producer_timeout", "Time without a send after which a producer is forgotten."),
    Family(_G, "unconfirmed_limit", "engine.unconfirmed_limit", "Synced sends of a connection whose receipts may wait."),
    Family(_G, "window_limit", "engine.window_limit", "Messages that one consumer may hold."),
    # Connections
    Family(_C, "connections_accepted", "server.connections.accepted", "Connections accepted."),
    Family(_C, "connections_rejected", "server.connections.rejected", "Connections turned away, as there were too many."),
    Family(_C, "connections_rejected_by_address", "server.connections.rejected_by_address", "Those of them whose address had too many."),
    Family(_C, "received_bytes", "server.connections.received", "Bytes that came from clients."),
    Family(_C, "sent_bytes", "server.connections.sent", "Bytes that went to clients."),
    Family(_G, "connections_limit", "server.connections.max_connections", "Connections that there may be."),
    Family(_G, "connections_per_address_limit", "server.connections.max_per_address", "Connections that one address may have."),
    Family(_G, "unfinished_frame_bytes", "server.connections.held", "Bytes that wait for the rest of their frame."),
    Family(_G, "unfinished_frame_limit_bytes", "server.connections.max_held", "Bytes that may wait for the rest of their frame."),
    Family(_G, "connections", "server.connections.by_listener", "Connections.", "listener"),
    Family(_C, "connection_timeouts", "server.connections.timeouts", "Connections closed, as they missed a deadline.", "kind", deadlines()),
    Family(_G, "connection_deadlines", "deadlines", _DEADLINE, "kind"),
    Family(_G, "connection_deadline_seconds", "server.connections.deadlines", "Time that such a deadline gives.", "kind"),
    Family(
        _C,
        "protocol_errors",
        "server.connections.errors",
        "Connections closed, as the client broke the protocol.",
        "kind",
        _PROTOCOL_ERRORS,
    ),
    # The mirror file
    Family(_G, "mirror_enabled", "mirrored", "Whether messages are mirrored to a file."),
    Family(_G, "mirror_failing", "file.failing", "Whether the last write of the file failed."),
    Family(_G, "mirror_lag_seconds", "file.lag_seconds", "Time since the file had everything."),
    Family(_G, "mirror_pending_changes", "file.pending_changes", "Changes that are not in the file yet."),
    Family(_C, "mirror_errors", "file.errors", "Writes of the file that failed."),
    Family(_G, "mirror_interval_seconds", "server.engine.mirror.interval", "Time between two writes of the file."),
    Family(_H, "mirror_write_seconds", "server.engine.mirror.durations", "Time that a write of the file took."),
    # The console
    Family(_G, "consoles", "server.consoles.connections.open.#", "Consoles that are connected."),
    Family(_G, "consoles_limit", "server.consoles.connections.max_connections", "Consoles that there may be."),
    Family(_C, "consoles_rejected", "server.consoles.connections.rejected", "Consoles turned away, as there were too many."),
    Family(_C, "console_timeouts", "server.consoles.connections.timeouts", "Consoles that missed a deadline.", "kind", CONSOLE_DEADLINES),
    Family(_G, "console_deadline_seconds", "server.consoles.connections.deadlines", "Time that such a deadline gives.", "kind"),
    # The HTTP API
    Family(_G, "http_connections", "server.site.connections.open.#", "Connections of HTTP."),
    Family(_G, "http_connections_limit", "server.site.connections.max_connections", "Connections of HTTP that there may be."),
    Family(_G, "http_body_bytes", "server.site.connections.held", "Bytes of the bodies of requests that are not complete."),
    Family(_G, "http_body_limit_bytes", "server.site.connections.max_held", "Bytes that they may take."),
    Family(_G, "http_event_readers", "server.site.events.readers.#", "Clients that read events."),
    Family(_G, "http_event_readers_limit", "server.site.events.most", "Clients that may."),
    Family(_C, "http_connections_rejected", "server.site.connections.rejected", "Connections of HTTP turned away, as there were too many."),
    Family(_C, "http_problems", "server.site.api.problems", "Requests answered with a problem.", "code", CODES),
    Family(
        _C,
        "http_cut_off",
        "server.site.api.cut_off",
        "Connections of HTTP cut off, as they missed a deadline or sent too much.",
        "kind",
        CUTS,
    ),
    Family(_G, "http_deadline_seconds", "server.site.connections.deadlines", "Time that a deadline of a connection gives.", "kind"),
)


def server(admin: Admin, started: float) -> Iterator[Metric]:
    """
    What the server as a whole has.

    @param started: when it was started, Unix time
    """
    versions = {"version": __version__, "python": platform.python_version(), "twisted": twisted_version}
    yield InfoMetricFamily("phpmq_build", "Versions of phpmq and of what it runs on.", value=versions)
    reading = read(admin, started)
    for family in FAMILIES:
        yield family.metric(reading)
