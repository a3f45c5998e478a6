"""The listening port of the API, and what it serves beside the admin's operations: events, metrics and an overview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import import_module
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web.server import NOT_DONE_YET

from phpmq import __version__
from phpmq.admin.admin import Admin
from phpmq.admin.http.connection import Api, HTTPConnection, Request
from phpmq.admin.http.headers import Access
from phpmq.admin.http.operations import JSON, METRICS, OPERATIONS, Operation, document
from phpmq.admin.http.problems import Problem
from phpmq.ports import NO_LIMIT, Connections, Rejected
from phpmq.results import json_bytes
from phpmq.settings import Settings

# Seconds that a connection may be idle between two requests, and that a client has to read an answer to a request that was not read to
# its end.
_IDLE_TIMEOUT, _CLOSE_TIMEOUT = 60.0, 5.0

# The part of all connections that may read events: others get in as well.
_SHARE = 0.4

#: Seconds between two statuses, and how many statuses there are between two comments that keep a proxy from hanging up.
INTERVAL, _HEARTBEAT = 1.0, 15

# After how many milliseconds a browser whose connection was lost connects again.
_RETRY = b"retry: 3000\n\n"


def event(name: str, value: Any) -> bytes:
    """Write an event. It has no id: who connects again is sent what is now, and missed nothing that still matters."""
    return b"event: " + name.encode("ascii") + b"\ndata: " + json_bytes(value) + b"\n\n"


def _alarms(alarms: Mapping[str, str], active: bool = True) -> bytes:
    return b"".join(event("alarm", {"name": name, "text": text, "active": active}) for name, text in alarms.items())


class Events:
    """Sends C{readers}, at most C{most}, all the same: what a second's status costs does not depend on how many there are."""

    _log = Logger()

    def __init__(self, admin: Admin, reactor: Any, connections: int) -> None:
        """@param connections: how many connections there may be"""
        self._admin = admin
        self.most = max(1, int(connections * _SHARE))
        self.readers: dict[Request, None] = {}
        self._alarms: dict[str, str] = {}
        self._sent = 0
        self._loop = LoopingCall(self._tick)
        self._loop.clock = reactor
        self._status = b""

    def serve(self, request: Request) -> None:
        """Answer with events, or raise L{Problem} if there are too many readers."""
        if request.method == b"HEAD":
            request.begin(200, "text/event-stream")
            request.write(b"")
            request.finish()
            return
        if len(self.readers) >= self.most:
            raise Problem("too-many-readers", f"{self.most} clients read the events already")
        if not self._loop.running:
            self._changes()
            self._status = event("status", self._admin.status())
            self._loop.start(INTERVAL, now=False)
        self.readers[request] = None
        request.begin(200, "text/event-stream", {"X-Accel-Buffering": "no"})
        request.notifyFinish().addBoth(lambda _: self._leave(request))
        # A client that connects between two statuses is sent the last one.
        request.write(_RETRY + self._status + _alarms(self._alarms))

    def _leave(self, reader: Request) -> None:
        self.readers.pop(reader, None)
        if not self.readers and self._loop.running:
            self._loop.stop()

    def _tick(self) -> None:
        """Send a second's events. Catches everything: a LoopingCall that fails once never runs again."""
        try:
            self._status = event("status", self._admin.status())
            content = self._status + self._changes()
        except Exception:
            self._log.failure("no status could be made for the readers of events")
            content = b": failed\n\n"
        self._sent += 1
        if self._sent % _HEARTBEAT == 0:
            content += b": still here\n\n"
        for reader in list(self.readers):
            # Who does not keep up misses events; the connection has a deadline for reading the earlier ones.
            if not reader.channel.choked:
                reader.write(content)

    def _changes(self) -> bytes:
        """Write the alarms that began or ended since the last time; one whose text changed is the same."""
        before, self._alarms = self._alarms, {alarm.name: alarm.text for alarm in self._admin.alarms()}
        began = {name: text for name, text in self._alarms.items() if name not in before}
        ended = {name: text for name, text in before.items() if name not in self._alarms}
        return _alarms(began) + _alarms(ended, active=False)


def _metrics(admin: Admin) -> Any:
    """Return what serves the metrics; None without that part."""
    try:
        module = import_module("phpmq.admin.metrics")
    except ImportError:
        return None
    return module.MetricsResource(admin)


class Site(Factory):
    """The API of one server: C{api} is what its connections have in common; C{events} is set before the first is accepted."""

    noisy = False
    events: Events

    def __init__(self, reactor: Any, settings: Settings) -> None:
        deadlines = {"idle": _IDLE_TIMEOUT, "request": settings.frame_timeout, "write": settings.write_timeout, "close": _CLOSE_TIMEOUT}
        per_address = settings.max_connections_per_address or NO_LIMIT
        self.connections: Connections[HTTPConnection] = Connections(
            reactor, deadlines, settings.max_http_connections, per_address, settings.max_http_bodies, "HTTP"
        )
        self.api = Api(reactor, Access(settings.http_hosts), self.connections)

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
