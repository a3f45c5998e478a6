"""A scrape over HTTP: numbers are read and written in time slices, so that a server with many queues stays responsive."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Coroutine, Iterator
from enum import Enum
from functools import partial
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import INTERNAL_SERVER_ERROR, SERVICE_UNAVAILABLE
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from phpmq.admin.admin import Admin
from phpmq.admin.metrics import families, queues
from phpmq.errors import Draining
from phpmq.interfaces import Steps
from phpmq.results import QueueNumbers

# How many seconds the system's clock and the server's differ by at least before it counts.
_STEP = 1.0

# A window of 32 KiB, and a gzip header.
_GZIP = 31

# The versions of OpenMetrics that are what is written here; a client that names none takes any.
_OPENMETRICS = "application/openmetrics-text"
_VERSIONS = "", "1.0.0"

_T = TypeVar("_T")


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
        yield from families.server(self._admin, self._started)
        yield from queues.families(self._queues, ahead if abs(ahead) >= _STEP else 0.0)

    async def _gather(self) -> None:
        admin, shown = self._admin, {queue.name for queue in self._queues}
        choice = queues.choose(admin.operators, admin.queues.activity, admin.server.settings.metrics_queues, shown)
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
