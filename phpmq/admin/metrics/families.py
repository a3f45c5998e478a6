"""The metrics of a server in one table: what each family is called, what it means and where its numbers come from."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.utils import floatToGoString
from twisted import __version__ as twisted_version

from phpmq import __version__
from phpmq.admin.admin import Admin
from phpmq.admin.console import ConsoleFactory
from phpmq.admin.console.protocol import DEADLINES as CONSOLE_DEADLINES
from phpmq.admin.http import Site
from phpmq.admin.http.channel import CUTS, IDLE_TIMEOUT, LINGER_TIMEOUT
from phpmq.admin.http.problems import CODES
from phpmq.durations import Durations
from phpmq.errors import ProtocolError
from phpmq.protocol import CLOSE_TIMEOUT, DEADLINES, HANDSHAKE_TIMEOUT, Connections
from phpmq.results import MirrorStatus, ServerTotals, docs

# What has a series before it happens for the first time; otherwise that first time does not show as an increase.
_REASONS = "rejected", "max-attempts", "expired"
_REFUSALS = "queue-full", "memory-full", "disk-failing"
_PROTOCOL_ERRORS = sorted({ProtocolError.code, *(kind.code for kind in ProtocolError.__subclasses__())})


@dataclass(frozen=True)
class Reading:
    """
    Where the numbers come from, at the moment of a scrape.

    @ivar started: when the server was started, Unix time
    @ivar site: the HTTP API; without it its families have no series
    """

    admin: Admin
    started: float
    totals: ServerTotals
    gauges: Mapping[str, float]
    connections: Connections
    mirror: MirrorStatus
    consoles: ConsoleFactory
    site: Site | None

    @classmethod
    def of(cls, admin: Admin, started: float) -> Reading:
        """Read what the server has now."""
        server, operators = admin.server, admin.operators
        numbers = operators.totals(), operators.gauges(), server.connections, admin.mirror()
        return cls(admin, started, *numbers, server.consoles, server.site)


class Family(NamedTuple):
    """
    One family.

    @ivar kind: its class; the name of a counter gets C{_total} at the end
    @ivar read: its number, numbers by the label's values, or durations; None for no series
    """

    kind: Any
    name: str
    text: str
    read: Callable[[Reading], Any]
    label: str = ""

    def metric(self, reading: Reading) -> Metric:
        """The family with its numbers."""
        value = self.read(reading)
        if self.kind is HistogramMetricFamily:
            return _histogram(self.name, self.text, value)
        if not self.label:
            metric: Metric = self.kind(self.name, self.text, value=value)
            return metric
        labelled = self.kind(self.name, self.text, labels=[self.label])
        for text, number in (value or {}).items():
            # A listener may be named by bytes that are no text.
            labelled.add_metric([text.encode("utf-8", "backslashreplace").decode("utf-8")], number)
        return labelled  # type: ignore[no-any-return]


_COUNTER, _GAUGE, _HISTOGRAM = CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily


def _total(field: str, name: str) -> Family:
    return Family(_COUNTER, name, docs(ServerTotals)[field], lambda reading: getattr(reading.totals, field))


def _gauge(key: str, name: str, text: str, scale: float = 1) -> Family:
    """A number of the engine; no series if it has no such thing."""
    return Family(_GAUGE, name, text, lambda reading: reading.gauges[key] * scale if key in reading.gauges else None)


def _connections(kind: Any, name: str, text: str, read: Callable[[Connections], Any], label: str = "") -> Family:
    return Family(kind, name, text, lambda reading: read(reading.connections), label)


def _consoles(kind: Any, name: str, text: str, read: Callable[[ConsoleFactory], Any], label: str = "") -> Family:
    return Family(kind, name, text, lambda reading: read(reading.consoles), label)


def _http(kind: Any, name: str, text: str, read: Callable[[Site], Any], label: str = "") -> Family:
    return Family(kind, name, text, lambda reading: None if reading.site is None else read(reading.site), label)


def _mirror(kind: Any, name: str, text: str, field: str) -> Family:
    """Without a file such a family has no series."""
    return Family(kind, name, text, lambda reading: getattr(reading.admin.server.mirror, field, None))


#: All of them but those of queues.
FAMILIES = (
    Family(
        InfoMetricFamily,
        "phpmq_build",
        "Versions of phpmq and of what it runs on.",
        lambda _: {"version": __version__, "python": platform.python_version(), "twisted": twisted_version},
    ),
    Family(_GAUGE, "phpmq_start_time_seconds", "When the server was started, Unix time.", lambda reading: reading.started),
    # Messages
    _total("received", "phpmq_messages_received"),
    _total("delivered", "phpmq_messages_delivered"),
    _total("redelivered", "phpmq_messages_redelivered"),
    _total("acknowledged", "phpmq_messages_acknowledged"),
    _total("requeued", "phpmq_messages_requeued"),
    _total("expired", "phpmq_messages_expired"),
    _total("dropped", "phpmq_messages_dropped"),
    _total("flushed", "phpmq_messages_flushed"),
    _total("duplicates", "phpmq_messages_duplicate"),
    _total("unknown_ids", "phpmq_unknown_ids"),
    Family(
        *(_COUNTER, "phpmq_messages_dead_lettered", "Messages that became dead letters."),
        lambda reading: {**dict.fromkeys(_REASONS, 0), **reading.admin.operators.dead_lettered()},
        "reason",
    ),
    Family(
        *(_COUNTER, "phpmq_sends_refused", "Sends of clients that were refused; one that waits for room counts each time it is tried."),
        lambda reading: {**dict.fromkeys(_REFUSALS, 0), **reading.admin.operators.refused()},
        "code",
    ),
    Family(
        *(_HISTOGRAM, "phpmq_message_wait_seconds"),
        "Time from the acceptance of a message until its first delivery, with the delay that its sender asked for.",
        lambda reading: reading.admin.operators.waits,
    ),
    # What the engine has
    _gauge("queues", "phpmq_queues", "Queues."),
    _gauge("memory_used", "phpmq_memory_used_bytes", "What messages, dead letters, queues, keys and producers count for."),
    _gauge("memory_limit", "phpmq_memory_limit_bytes", "Memory from which on senders have to wait."),
    _gauge("senders_waiting", "phpmq_senders_waiting", "Connections whose sends wait for room."),
    _gauge("receipts_waiting", "phpmq_receipts_waiting", "Receipts of synced sends that wait for the file."),
    _gauge("keys", "phpmq_keys", "Keys of sends that queues remember."),
    _gauge("keys_limit", "phpmq_keys_limit", "Keys that they may remember."),
    _gauge("producers", "phpmq_producers", "Producers whose latest number is remembered."),
    _gauge(
        "producer_timeout", "phpmq_producer_timeout_seconds", "Time without a send after which a producer is forgotten.", scale=1 / 1000
    ),
    _gauge("unconfirmed_limit", "phpmq_unconfirmed_limit", "Synced sends of a connection whose receipts may wait."),
    _gauge("window_limit", "phpmq_window_limit", "Messages that one consumer may hold."),
    # The server
    Family(
        *(_GAUGE, "phpmq_metrics_queues_limit", "Queues that may have series of their own."),
        lambda reading: reading.admin.server.metrics_queues,
    ),
    Family(
        *(_GAUGE, "phpmq_message_limit_bytes", "Largest body of a message."),
        lambda reading: reading.admin.server.max_message_size,
    ),
    Family(
        *(_GAUGE, "phpmq_healthy", "Whether a check of the server's health is passed."),
        lambda reading: {name: text == "ok" for name, text in reading.admin.health().checks.items()},
        "check",
    ),
    Family(
        *(_HISTOGRAM, "phpmq_reactor_delay_seconds", "By how much what is due comes late, ten times a second."),
        lambda reading: reading.admin.server.lag.delays,
    ),
    # Connections
    _connections(_COUNTER, "phpmq_connections_accepted", "Connections accepted.", lambda all: all.accepted),
    _connections(_COUNTER, "phpmq_connections_rejected", "Connections turned away, as there were too many.", lambda all: all.rejected),
    _connections(_COUNTER, "phpmq_received_bytes", "Bytes that came from clients.", lambda all: all.received),
    _connections(_COUNTER, "phpmq_sent_bytes", "Bytes that went to clients.", lambda all: all.sent),
    _connections(_GAUGE, "phpmq_connections_limit", "Connections that there may be.", lambda all: all.max_connections),
    _connections(_GAUGE, "phpmq_unfinished_frame_bytes", "Bytes that wait for the rest of their frame.", lambda all: all.held),
    _connections(
        *(_GAUGE, "phpmq_unfinished_frame_limit_bytes", "Bytes that may wait for the rest of their frame."),
        lambda all: all.unfinished_limit,
    ),
    _connections(_GAUGE, "phpmq_connections", "Connections.", lambda all: all.by_listener, "listener"),
    _connections(
        *(_COUNTER, "phpmq_connection_timeouts", "Connections closed, as they missed a deadline."),
        lambda all: dict.fromkeys(DEADLINES, 0) | all.timeouts,
        "kind",
    ),
    _connections(
        *(_GAUGE, "phpmq_connection_deadlines"),
        "Connections that have a deadline, to complete a handshake or a frame, to read (write) or to close.",
        lambda all: all.expecting(),
        "kind",
    ),
    _connections(
        *(_GAUGE, "phpmq_connection_deadline_seconds", "Time that such a deadline gives."),
        lambda all: {
            "handshake": HANDSHAKE_TIMEOUT,
            "frame": all.frame_timeout,
            "write": all.write_timeout,
            "close": CLOSE_TIMEOUT,
        },
        "kind",
    ),
    _connections(
        *(_COUNTER, "phpmq_protocol_errors", "Connections closed, as the client broke the protocol."),
        lambda all: dict.fromkeys(_PROTOCOL_ERRORS, 0) | all.errors,
        "kind",
    ),
    # The mirror file
    Family(
        *(_GAUGE, "phpmq_mirror_enabled", "Whether messages are mirrored to a file."),
        lambda reading: reading.mirror.file is not None,
    ),
    Family(_GAUGE, "phpmq_mirror_failing", "Whether the last write of the file failed.", lambda reading: reading.mirror.failing),
    Family(_GAUGE, "phpmq_mirror_lag_seconds", "Time since the file had everything.", lambda reading: reading.mirror.lag_seconds),
    Family(
        *(_GAUGE, "phpmq_mirror_pending_changes", "Changes that are not in the file yet."),
        lambda reading: reading.mirror.pending_changes,
    ),
    Family(_COUNTER, "phpmq_mirror_errors", "Writes of the file that failed.", lambda reading: reading.mirror.errors),
    _mirror(_GAUGE, "phpmq_mirror_interval_seconds", "Time between two writes of the file.", "interval"),
    _mirror(_HISTOGRAM, "phpmq_mirror_write_seconds", "Time that a write of the file took.", "durations"),
    # The console
    _consoles(_GAUGE, "phpmq_consoles", "Consoles that are connected.", lambda consoles: len(consoles.open)),
    _consoles(_GAUGE, "phpmq_consoles_limit", "Consoles that there may be.", lambda consoles: consoles.most),
    _consoles(_COUNTER, "phpmq_consoles_rejected", "Consoles turned away, as there were too many.", lambda consoles: consoles.rejected),
    _consoles(
        *(_COUNTER, "phpmq_console_timeouts", "Consoles closed, as they missed a deadline."),
        lambda consoles: dict.fromkeys(CONSOLE_DEADLINES, 0) | consoles.timeouts,
        "kind",
    ),
    _consoles(_GAUGE, "phpmq_console_deadline_seconds", "Time that such a deadline gives.", lambda _: CONSOLE_DEADLINES, "kind"),
    # The HTTP API
    _http(_GAUGE, "phpmq_http_connections", "Connections of HTTP.", lambda site: len(site.channels)),
    _http(_GAUGE, "phpmq_http_connections_limit", "Connections of HTTP that there may be.", lambda site: site.max_connections),
    _http(_GAUGE, "phpmq_http_body_bytes", "Bytes of the bodies of requests that are not complete.", lambda site: site.held),
    _http(_GAUGE, "phpmq_http_body_limit_bytes", "Bytes that they may take.", lambda site: site.max_held),
    _http(_GAUGE, "phpmq_http_event_readers", "Clients that read events.", lambda site: len(site.events.readers)),
    _http(_GAUGE, "phpmq_http_event_readers_limit", "Clients that may.", lambda site: site.events.most),
    _http(
        *(_COUNTER, "phpmq_http_connections_rejected", "Connections of HTTP turned away, as there were too many."),
        lambda site: site.rejected,
    ),
    _http(
        *(_COUNTER, "phpmq_http_problems", "Requests answered with a problem."),
        lambda site: dict.fromkeys(CODES, 0) | site.problems,
        "code",
    ),
    _http(
        *(_COUNTER, "phpmq_http_cut_off", "Connections of HTTP cut off, as they missed a deadline or sent too much."),
        lambda site: dict.fromkeys(CUTS, 0) | site.cut_off,
        "kind",
    ),
    _http(
        *(_GAUGE, "phpmq_http_deadline_seconds", "Time that a deadline of a connection gives."),
        lambda site: {
            "idle": IDLE_TIMEOUT,
            "request": site.request_timeout,
            "write": site.write_timeout,
            "close": LINGER_TIMEOUT,
        },
        "kind",
    ),
)


def server(admin: Admin, started: float) -> Iterator[Metric]:
    """
    What the server as a whole has.

    @param started: when it was started, Unix time
    """
    reading = Reading.of(admin, started)
    return (family.metric(reading) for family in FAMILIES)


def _histogram(name: str, text: str, durations: Durations | None) -> HistogramMetricFamily:
    if durations is None:
        return HistogramMetricFamily(name, text)
    bounds = [*map(floatToGoString, durations.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(durations.counts), strict=True))
    return HistogramMetricFamily(name, text, buckets, durations.seconds)
