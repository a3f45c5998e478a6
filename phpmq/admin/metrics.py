"""
Prometheus metrics of a server, and the resource of twisted.web that has them.

What the server has as a whole is one table, L{FAMILIES}. Numbers of queues are read, and everything is written, in time slices, so that a
server with many queues stays responsive.
"""

from __future__ import annotations

import heapq
import platform
import zlib
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from itertools import accumulate
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, Generic, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.utils import floatToGoString
from twisted import __version__ as twisted_version
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import INTERNAL_SERVER_ERROR, SERVICE_UNAVAILABLE
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from phpmq import __version__
from phpmq.admin.admin import Admin
from phpmq.admin.console.protocol import DEADLINES as CONSOLE_DEADLINES
from phpmq.admin.http.connection import CUTS
from phpmq.admin.http.problems import CODES
from phpmq.errors import Draining, NoSuchQueue, ProtocolError
from phpmq.interfaces import IOperators, Steps
from phpmq.message import STATES
from phpmq.protocol import deadlines
from phpmq.results import QueueNumbers, ServerTotals, docs

# What has a series before it happens for the first time; otherwise that first time does not show as an increase.
_REASONS = "rejected", "max-attempts", "expired"
_REFUSALS = "queue-full", "memory-full", "disk-failing"
_PROTOCOL_ERRORS = sorted({ProtocolError.code, *(kind.code for kind in ProtocolError.__subclasses__())})

#: The name under which all queues are summed up that have no series of their own. A queue of that name never has.
OTHER = "__other__"

# How many queues are looked at in one step, and how many series make a part of a family.
_STEP, _PART = 50, 250

_QueueFamily = type[CounterMetricFamily] | type[GaugeMetricFamily]
_Series = Iterable[tuple[Sequence[str], float]]

# Counters are left out: a sum of some of them falls when another queue gets series of its own.
_SUMMED = *STATES, "bytes", "consumers"
_summed, _states = attrgetter(*_SUMMED), attrgetter(*STATES)

# By how many seconds the system's clock is ahead of the server's, or behind it, before that counts.
_AHEAD = 1.0

# A window of 32 KiB, and a gzip header.
_GZIP = 31

# The versions of OpenMetrics that are what is written here; a client that names none takes any.
_OPENMETRICS = "application/openmetrics-text"
_VERSIONS = "", "1.0.0"

_T = TypeVar("_T")


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
    """One family: what it is called, what it means and where its numbers come from."""

    kind: Any
    name: str  # without phpmq_; that of a counter gets _total at the end
    path: str  # where its number is, numbers by the label's values, or durations
    text: str
    label: str = ""
    known: Collection[str] = ()  # values of the label that have a series in any case, unless the family has none

    def metric(self, reading: SimpleNamespace) -> Metric:
        """The family with its numbers."""
        name, value = f"phpmq_{self.name}", value_at(reading, self.path)
        metric: Any
        if self.kind is HistogramMetricFamily:
            metric = HistogramMetricFamily(name, self.text)
            if value is not None:
                bounds = [*map(floatToGoString, value.bounds), "+Inf"]
                metric.add_metric([], list(zip(bounds, accumulate(value.counts), strict=True)), value.seconds)
        elif not self.label:
            metric = self.kind(name, self.text, value=value)
        else:
            metric = self.kind(name, self.text, labels=[self.label])
            numbers: Mapping[str, float] = {} if value is None else {**dict.fromkeys(self.known, 0), **value}
            for text, number in numbers.items():
                # A listener may be named by bytes that are no text.
                metric.add_metric([text.encode("utf-8", "backslashreplace").decode("utf-8")], number)
        return metric  # type: ignore[no-any-return]


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


def choose(operators: IOperators, activity: Callable[[int], float], limit: int, shown: Collection[str]) -> Steps[list[QueueNumbers]]:
    """
    The C{limit} queues with the most messages, each for itself and by name, then the sum of the others, if there are any.

    What a queue holds counts together with what went through it in the last minute; twice if it was shown the last time, so that two
    queues of about the same size do not take turns.

    @param activity: tells by a queue's number how many messages went through it
    @param shown: those that were among them the last time
    """
    best: list[tuple[float, str, QueueNumbers]] = []
    others: list[QueueNumbers] = []
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
            others.append(queue)
        if not place % _STEP:
            others = [_sum(others)] if others else []
            yield
    return [*sorted((queue for *_, queue in best), key=attrgetter("name")), *([_sum(others)] if others else [])]


def _numbers(operators: IOperators, name: str) -> QueueNumbers | None:
    """The numbers of a queue; None if it is gone with its dead letters: queues come and go between two steps."""
    try:
        return operators.numbers(name)
    except NoSuchQueue:
        dead = operators.dead_totals.get(name)
        return None if dead is None else QueueNumbers(name, dead=dead[0])


def _sum(queues: list[QueueNumbers]) -> QueueNumbers:
    """The sum of queues that are not shown."""
    sums: dict[str, Any] = dict(zip(_SUMMED, map(sum, zip(*map(_summed, queues), strict=True)), strict=True))
    oldest = min((queue.oldest for queue in queues if queue.oldest is not None), default=None)
    return QueueNumbers(OTHER, oldest=oldest, **sums)


def queue_metrics(queues: list[QueueNumbers], ahead: float) -> Iterator[Metric]:
    """What queues have. The system's clock is C{ahead} seconds ahead of the one that the oldest messages' times are of."""
    own = [queue for queue in queues if queue.name != OTHER]
    for kind, name, field, text in _QUEUE_FAMILIES:
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


_QUEUE_FAMILIES: tuple[tuple[_QueueFamily, str, str, str], ...] = (
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


def _parts(kind: _QueueFamily, name: str, labels: Sequence[str], series: _Series, text: str) -> Iterator[Metric]:
    """A family, in parts of the same name; at least one."""
    part = kind(name, text, labels=labels)
    for values, number in series:
        part.add_metric(values, number)
        if len(part.samples) == _PART:
            yield part
            part = kind(name, text, labels=labels)
    yield part


class Format(Enum):
    """How metrics are written; each has its content type."""

    TEXT = b"text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = b"application/openmetrics-text; version=1.0.0; charset=utf-8"


class Metrics:
    """
    A server's metrics. To be used on the reactor's thread.

    @ivar registry: where they are collected, with those of the process and of Python. It is this server's alone: another one in the
        same process, or code that uses the library's global registry, is not in it.
    """

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._started = admin.server.engine.clock.reading()["wall"] / 1000 - admin.uptime
        self._queues: list[QueueNumbers] = []
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._gathering = _Shared(self._gather)
        self._scrapes = {
            (format, compressed): _Shared(partial(self._write, format, compressed)) for format in Format for compressed in (False, True)
        }

    def scrape(self, format: Format = Format.TEXT, compressed: bool = False) -> Deferred[bytes]:
        """
        All metrics. A scrape that is asked for while another one is under way shares its result.

        @param compressed: with gzip
        """
        return self._scrapes[format, compressed].ask()

    def collect(self) -> Iterator[Metric]:
        """What the registry calls: the server now, and the queues as they were looked at last."""
        clock = self._admin.server.engine.clock.reading()
        ahead = (clock["wall"] - clock["steady"]) / 1000
        versions = {"version": __version__, "python": platform.python_version(), "twisted": twisted_version}
        yield InfoMetricFamily("phpmq_build", "Versions of phpmq and of what it runs on.", value=versions)
        reading = read(self._admin, self._started)
        for family in FAMILIES:
            yield family.metric(reading)
        yield from queue_metrics(self._queues, ahead if abs(ahead) >= _AHEAD else 0.0)

    async def _gather(self) -> None:
        admin, shown = self._admin, {queue.name for queue in self._queues}
        choice = choose(admin.operators, admin.queues.activity, admin.server.settings.metrics_queues, shown)
        self._queues = await admin.work.run(choice)

    async def _write(self, format: Format, compressed: bool) -> bytes:
        await self._gathering.ask()
        return await self._admin.work.run(self._written(format, compressed))

    def _written(self, format: Format, compressed: bool) -> Steps[bytes]:
        # Little of the processor rather than the last byte.
        compress = zlib.compressobj(1, zlib.DEFLATED, _GZIP) if compressed else None
        written: list[bytes] = []
        before = ""
        for family in self.registry.collect():
            text = _text(format, family, family.name == before)
            before = family.name
            written.append(text if compress is None else compress.compress(text))
            yield
        if format is Format.OPENMETRICS:
            written.append(_END if compress is None else compress.compress(_END))
        if compress is not None:
            written.append(compress.flush())
        return b"".join(written)


_END = b"# EOF\n"

_ENCODERS: dict[Format, Callable[[Any], bytes]] = {Format.TEXT: generate_latest, Format.OPENMETRICS: generate_openmetrics}


def _text(format: Format, family: Metric, continued: bool) -> bytes:
    """
    A family, or a part of one.

    @param continued: it goes on with the one before, whose header it has already
    """
    registry_of_one = SimpleNamespace(collect=lambda: [family])
    text = _ENCODERS[format](registry_of_one).removesuffix(_END)
    while continued and text.startswith(b"#"):
        _, _, text = text.partition(b"\n")
    return text


class _Shared(Generic[_T]):
    """Work that is done once for all who ask for it before it is done."""

    def __init__(self, work: Callable[[], Coroutine[Deferred[Any], Any, _T]]) -> None:
        self._work = work
        self._waiting: list[Deferred[_T]] = []

    def ask(self) -> Deferred[_T]:
        """What comes of it."""
        answer: Deferred[_T] = Deferred()
        self._waiting.append(answer)
        if len(self._waiting) == 1:
            Deferred.fromCoroutine(self._work()).addBoth(self._tell)
        return answer

    def _tell(self, result: Any) -> None:
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer.callback(result)


class MetricsResource(Resource):
    """
    What Prometheus asks for, in the format that it asks for; gzipped if it likes.

    @ivar metrics: the metrics
    """

    isLeaf = True
    allowedMethods = (b"GET", b"HEAD")

    _log = Logger()

    def __init__(self, admin: Admin) -> None:
        super().__init__()
        self.metrics = Metrics(admin)

    def render_HEAD(self, request: Any) -> int:
        """What a GET would be like, but for its length, which would cost as much."""
        self._describe(request)
        request.write(b"")
        request.finish()
        return NOT_DONE_YET

    def render_GET(self, request: Any) -> int:
        """Write the metrics in the format that the client likes best."""
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)

        def write(content: bytes) -> None:
            if not gone:
                request.setHeader(b"content-length", b"%d" % len(content))
                request.write(content)
                request.finish()

        def fail(failure: Failure) -> None:
            code, reason = SERVICE_UNAVAILABLE, b"the server is about to stop"
            if not failure.check(Draining):
                self._log.failure("metrics could not be collected", failure)
                code, reason = INTERNAL_SERVER_ERROR, b"metrics could not be collected, the log says why"
            if not gone:
                request.setResponseCode(code)
                request.responseHeaders.removeHeader(b"content-encoding")
                request.setHeader(b"content-type", b"text/plain; charset=utf-8")
                write(reason + b"\n")

        self.metrics.scrape(*self._describe(request)).addCallbacks(write, fail)
        return NOT_DONE_YET

    def _describe(self, request: Any) -> tuple[Format, bool]:
        """Decide what to answer with, and say so in the headers."""
        format = Format.OPENMETRICS if wants_openmetrics(request.getHeader("accept") or "") else Format.TEXT
        compressed = wants_gzip(request.getHeader("accept-encoding") or "")
        request.setHeader(b"content-type", format.value)
        request.setHeader(b"cache-control", b"no-store")
        request.setHeader(b"vary", b"Accept, Accept-Encoding")
        if compressed:
            request.setHeader(b"content-encoding", b"gzip")
        return format, compressed


def _choices(header: str) -> list[tuple[str, dict[str, str], float]]:
    """The choices that a header offers, each with its parameters and its weight from 0 to 1."""
    choices = []
    for choice in header.split(","):
        name, *rest = (part.strip() for part in choice.lower().split(";"))
        parameters = {key.strip(): value.strip() for key, _, value in (part.partition("=") for part in rest)}
        try:
            weight = float(parameters.get("q", "1"))
        except ValueError:
            weight = 0.0
        choices.append((name, parameters, weight if 0 <= weight <= 1 else 0.0))
    return choices


def wants_openmetrics(accept: str) -> bool:
    """Whether a client likes OpenMetrics at least as much as plain text."""
    openmetrics = plain = 0.0
    for name, parameters, weight in _choices(accept):
        if name == _OPENMETRICS and parameters.get("version", "") in _VERSIONS:
            openmetrics = max(openmetrics, weight)
        elif name in ("text/plain", "text/*", "*/*"):
            plain = max(plain, weight)
    return 0 < openmetrics >= plain


def wants_gzip(accept_encoding: str) -> bool:
    """Whether a client takes gzip."""
    return any(name == "gzip" and weight > 0 for name, _, weight in _choices(accept_encoding))
