"""What all connections share: the routes, the limits, and what the site serves itself."""

from __future__ import annotations

from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPFactory
from twisted.web.server import NOT_DONE_YET

from phpmq import __version__
from phpmq.admin import Admin
from phpmq.admin.http.access import Access
from phpmq.admin.http.channel import Channel
from phpmq.admin.http.events import Events
from phpmq.admin.http.openapi import document
from phpmq.admin.http.operations import Operation
from phpmq.admin.http.routes import METRICS, OPERATIONS, Routes
from phpmq.admin.pieces import text_of

if TYPE_CHECKING:
    from phpmq.admin.http.request import Request

# Seconds for which an error that was logged is not logged again.
_QUIET = 60.0


class _Rejected(Protocol):
    """Hangs up. A factory that is wrapped, as for TLS, cannot turn a connection away by building no protocol."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()


def _metrics(admin: Admin) -> Any:
    """What serves the metrics; None without that part."""
    try:
        module = import_module("phpmq.admin.metrics")
    except ImportError:
        return None
    return module.MetricsResource(admin)


class Site(HTTPFactory):
    """
    The API of one server.

    @ivar admin: what it is a door to; see L{open}
    @ivar access: who may use it
    @ivar routes: what there is
    @ivar channels: the connections
    @ivar max_connections: how many there may be, over all listeners of HTTP
    @ivar held: bytes of bodies of requests that are not complete, at most C{max_held}
    @ivar rejected: how many connections were turned away at the limit
    @ivar problems: code -> how many requests were answered with that problem
    @ivar cut_off: what for -> how many connections were cut off, see L{phpmq.admin.http.channel.CUTS}
    @ivar request_timeout: seconds that a begun request may make no progress
    @ivar write_timeout: seconds that a client may leave its answer unread
    """

    noisy = False

    _log = Logger()

    #: Set before the first connection is accepted.
    admin: Admin
    events: Events
    routes: Routes

    def __init__(
        self,
        reactor: Any,
        access: Access | None = None,
        request_timeout: float = 30.0,
        write_timeout: float = 60.0,
        max_connections: int = 256,
        max_held: int = 64 * 1024 * 1024,
    ) -> None:
        super().__init__(reactor=reactor)
        self.access = access or Access()
        self.request_timeout = request_timeout
        self.write_timeout = write_timeout
        self.max_connections = max_connections
        self.max_held = max_held
        self.channels: set[Channel] = set()
        self.held = self.rejected = 0
        self.problems: dict[str, int] = {}
        self.cut_off: dict[str, int] = {}
        self._quiet: dict[str, float] = {}

    def open(self, admin: Admin) -> None:
        """The server has started."""
        self.admin = admin
        self.events = Events(admin, self.reactor, self.max_connections)
        self._metrics = _metrics(admin)
        self.routes = Routes(OPERATIONS if self._metrics is None else (*OPERATIONS, METRICS))
        self._openapi = text_of(document(self.routes)) + b"\n"
        self._served = {"overview": self._overview, "openapi": self._describe, "events": self.events.serve, "metrics": self._measure}

    # Connections

    def startFactory(self) -> None:
        """There is no log of requests."""

    def stopFactory(self) -> None:
        """Likewise."""

    def log(self, request: Any) -> None:
        """Likewise: who needs one has a proxy, and a flood of requests must not become one of lines."""

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A connection; one that hangs up if there are too many."""
        if len(self.channels) >= self.max_connections:
            self.rejected += 1
            self.warn("connections", "HTTP: there are {most} connections already, one is turned away", most=self.max_connections)
            return _Rejected()
        channel = Channel(self)
        channel.factory = self
        # As HTTPFactory does for its own.
        channel.callLater = self.reactor.callLater  # type: ignore[method-assign, assignment]
        return channel

    def hold(self, size: int) -> bool:
        """Count bytes that are kept of bodies; false if there are too many."""
        if size > 0 and self.held + size > self.max_held:
            return False
        self.held += size
        return True

    def stop(self) -> None:
        """The server stops: close all connections once their answers are written."""
        for reader in list(self.events.readers if self.channels else ()):
            reader.finish()
        for channel in list(self.channels):
            channel.loseConnection()

    # The log

    def failed(self, what: str, failure: Failure) -> None:
        """Something failed as it never should: it is logged once a minute."""
        if self._may_say(f"{what} {failure.type}"):
            self._log.failure("HTTP: {what} failed", failure, what=what)

    def warn(self, what: str, text: str, **values: object) -> None:
        """Log something that may happen often: once a minute."""
        if self._may_say(what):
            self._log.warn(text, **values)

    def _may_say(self, what: str) -> bool:
        """Whether that was not said a moment ago."""
        now = self.reactor.seconds()
        if now < self._quiet.get(what, 0.0):
            return False
        self._quiet[what] = now + _QUIET
        return True

    # What it serves itself

    def serve(self, operation: Operation, request: Request) -> None:
        """Answer what is no operation of the admin's."""
        self._served[operation.id](request)

    def _describe(self, request: Request) -> None:
        request.answer_bytes(200, self._openapi, "application/json")

    def _measure(self, request: Request) -> None:
        request.begin(200, METRICS.media)
        content = self._metrics.render(request)
        if content is not NOT_DONE_YET:
            request.setHeader("Content-Length", str(len(content)))
            request.write(content)
            request.finish()

    def _overview(self, request: Request) -> None:
        """A few links, for who comes with a browser."""
        links = [one for one in self.routes.operations if one.method == "GET" and "{" not in one.path and one.path != "/"]
        rows = "".join(f'<li><a href="{escape(one.path)}">{escape(one.path)}</a> {escape(one.summary)}</li>\n' for one in links)
        content = (
            f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>phpmq</title>\n<h1>phpmq {escape(__version__)}</h1>\n'
            f"<ul>\n{rows}</ul>\n</html>\n"
        )
        request.answer_bytes(200, content.encode(), "text/html")
