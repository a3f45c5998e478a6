"""The listening port of the API, and what it serves beside the admin's operations."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import import_module
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.web.server import NOT_DONE_YET

from phpmq import __version__
from phpmq.admin.admin import Admin
from phpmq.admin.http.connection import Api, HTTPConnection, Request
from phpmq.admin.http.events import Events
from phpmq.admin.http.headers import Access
from phpmq.admin.http.operations import JSON, METRICS, OPERATIONS, Operation, document
from phpmq.ports import NO_LIMIT, Connections, Rejected
from phpmq.results import json_bytes

# Seconds that a connection may be idle between two requests, and that a client has to read an answer to a request that was not read to
# its end.
_IDLE_TIMEOUT, _CLOSE_TIMEOUT = 60.0, 5.0


def _metrics(admin: Admin) -> Any:
    """Return what serves the metrics; None without that part."""
    try:
        module = import_module("phpmq.admin.metrics")
    except ImportError:
        return None
    return module.MetricsResource(admin)


class Site(Factory):
    """
    The API of one server.

    @ivar api: what its connections have in common
    @ivar events: those who read events; set before the first connection is accepted
    """

    noisy = False
    events: Events

    def __init__(
        self,
        reactor: Any,
        access: Access | None = None,
        request_timeout: float = 30.0,
        write_timeout: float = 60.0,
        max_connections: int = 256,
        max_held: int = 64 * 1024 * 1024,
        max_per_address: int = NO_LIMIT,
    ) -> None:
        """
        @param request_timeout: seconds that a begun request may make no progress
        @param write_timeout: seconds that a client may leave its answer unread
        @param max_held: bytes that the bodies of incomplete requests may have together
        """
        deadlines = {"idle": _IDLE_TIMEOUT, "request": request_timeout, "write": write_timeout, "close": _CLOSE_TIMEOUT}
        self.connections: Connections[HTTPConnection] = Connections(reactor, deadlines, max_connections, max_per_address, max_held, "HTTP")
        self.api = Api(reactor, access or Access(), self.connections)

    def open(self, admin: Admin) -> None:
        """Serve the API of a server, which has started."""
        api, metrics = self.api, _metrics(admin)
        api.admin = admin
        api.operations = operations = OPERATIONS if metrics is None else (*OPERATIONS, METRICS)
        self.events = Events(admin, api.reactor, self.connections.max_connections)
        openapi, overview = json_bytes(document(operations)) + b"\n", _overview(operations)
        api.served = {
            "overview": lambda request: request.answer(200, overview, "text/html"),
            "openapi": lambda request: request.answer(200, openapi, JSON),
            "events": self.events.serve,
            "metrics": lambda request: _render(metrics, request),
        }

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make a connection; one that hangs up if there are too many."""
        return HTTPConnection(self.api) if self.connections.admit(addr) else Rejected()

    def stop(self) -> None:
        """Close all connections once their answers are written: the server stops."""
        for reader in list(self.events.readers if self.connections.open else ()):
            reader.finish()
        for connection in list(self.connections.open):
            connection.loseConnection()


def _render(metrics: Any, request: Request) -> None:
    request.begin(200, METRICS.media)
    content = metrics.render(request)
    if content is not NOT_DONE_YET:
        request.setHeader("Content-Length", str(len(content)))
        request.write(content)
        request.finish()


def _overview(operations: Sequence[Operation]) -> bytes:
    """Write a page with a few links, for a browser."""
    links = [one for one in operations if one.method == "GET" and "{" not in one.path and one.path != "/"]
    rows = "".join(f'<li><a href="{escape(one.path)}">{escape(one.path)}</a> {escape(one.summary)}</li>\n' for one in links)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>phpmq</title>\n<h1>phpmq {escape(__version__)}</h1>\n'
        f"<ul>\n{rows}</ul>\n</html>\n"
    ).encode()
