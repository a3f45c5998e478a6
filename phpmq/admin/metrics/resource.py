"""The metrics over HTTP."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import INTERNAL_SERVER_ERROR, SERVICE_UNAVAILABLE
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from phpmq.admin.admin import Admin
from phpmq.admin.metrics.scrape import Format, Metrics
from phpmq.errors import Draining

# The versions of OpenMetrics that are what is written here; a client that names none takes any.
_OPENMETRICS = "application/openmetrics-text"
_VERSIONS = "", "1.0.0"


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
        """The metrics."""
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
