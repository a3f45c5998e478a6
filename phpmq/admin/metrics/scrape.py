"""A scrape: numbers gathered and written in slices, so that a server with many queues goes on meanwhile."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Coroutine, Iterator
from enum import Enum
from functools import partial
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from twisted.internet.defer import Deferred

from phpmq.admin.admin import Admin
from phpmq.admin.metrics import doors, families, series
from phpmq.admin.metrics.rows import Row, gather

# From so many seconds on, a difference of the system's clock and the server's counts.
_STEP = 1.0

# A window of 32 KiB, and a gzip header.
_GZIP = 31

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
        self._started = admin.service.clock.reading()["wall"] / 1000 - admin.uptime
        self._rows: list[Row] = []
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
        """What the registry calls: the server now, and the queues as they were gathered last."""
        clock = self._admin.service.clock.reading()
        ahead = (clock["wall"] - clock["steady"]) / 1000
        yield from families.server(self._admin, self._started)
        yield from doors.doors(self._admin.service)
        yield from series.queues(self._rows, ahead if abs(ahead) >= _STEP else 0.0)

    async def _gather(self) -> None:
        shown = {row.name for row in self._rows}
        self._rows = await gather(self._admin, self._admin.service.metrics_queues, shown, self._admin.slices().rest)

    async def _write(self, format: Format, compressed: bool) -> bytes:
        await self._gathering.ask()
        slices = self._admin.slices()
        # Little of the processor rather than the last byte.
        compress = zlib.compressobj(1, zlib.DEFLATED, _GZIP) if compressed else None
        written: list[bytes] = []
        before = ""
        for family in self.registry.collect():
            text = _text(format, family, family.name == before)
            before = family.name
            written.append(text if compress is None else compress.compress(text))
            await slices.rest()
        if format is Format.OPENMETRICS:
            written.append(_END if compress is None else compress.compress(_END))
        if compress is not None:
            written.append(compress.flush())
        return b"".join(written)


_END = b"# EOF\n"

_ENCODERS: dict[Format, Callable[[Any], bytes]] = {Format.TEXT: generate_latest, Format.OPENMETRICS: generate_openmetrics}


class _Only:
    """A registry of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> list[Metric]:
        """It."""
        return [self._family]


def _text(format: Format, family: Metric, continued: bool) -> bytes:
    """
    A family, or a part of one.

    @param continued: it goes on with the one before, whose header it has already
    """
    text = _ENCODERS[format](_Only(family)).removesuffix(_END)
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
