"""Server-sent events: the status each second, and alarms as they begin and end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from phpmq.admin import Admin
from phpmq.admin.http.problems import Problem
from phpmq.admin.pieces import text_of

if TYPE_CHECKING:
    from phpmq.admin.http.request import Request

# The part of all connections that may be readers of events: others get in as well.
_SHARE = 0.4

#: Seconds between two statuses, and how many of them there are between two comments that keep a proxy from hanging up.
INTERVAL, _HEARTBEAT = 1.0, 15

# After how many milliseconds a browser whose connection was lost comes again.
_RETRY = b"retry: 3000\n\n"


def event(name: str, value: Any) -> bytes:
    """An event. It has no id: who comes again is told what is now, and missed nothing that still matters."""
    return b"event: " + name.encode("ascii") + b"\ndata: " + text_of(value) + b"\n\n"


@implementer(IPushProducer)
class Reader:
    """A client that reads events. What it has no room for it does not get."""

    def __init__(self, request: Request, events: Events) -> None:
        self._request = request
        self._events = events
        self._paused = False

    def start(self, content: bytes) -> None:
        """Begin the answer."""
        self._request.begin(200, "text/event-stream", {"X-Accel-Buffering": "no"})
        self._request.registerProducer(self, True)
        self._request.notifyFinish().addBoth(self._gone)
        self._request.write(content)

    def _gone(self, result: object) -> None:
        self._events.leave(self)

    def write(self, content: bytes) -> None:
        """Write events, unless the client has not read the earlier ones; the connection has a deadline for that."""
        if not self._paused:
            self._request.write(content)

    def finish(self) -> None:
        """There are no more."""
        self._request.unregisterProducer()
        self._request.finish()

    def pauseProducing(self) -> None:
        """See L{IPushProducer}."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See L{IPushProducer}."""
        self._paused = False

    def stopProducing(self) -> None:
        """See L{IPushProducer}."""
        self._paused = True


class Events:
    """
    Tells all readers the same: what a second's status costs does not depend on how many they are.

    @ivar readers: who reads
    @ivar most: how many may do so at a time
    """

    _log = Logger()

    def __init__(self, admin: Admin, reactor: Any, connections: int) -> None:
        """
        @param connections: how many there may be
        """
        self._admin = admin
        self.most = max(1, int(connections * _SHARE))
        self.readers: dict[Reader, None] = {}
        self._alarms: dict[str, str] = {}
        self._told = 0
        self._loop = LoopingCall(self._tick)
        self._loop.clock = reactor
        self._status = b""

    def serve(self, request: Request) -> None:
        """
        Answer with events.

        @raise Problem: there are too many readers
        """
        if request.method == b"HEAD":
            request.begin(200, "text/event-stream")
            request.write(b"")
            request.finish()
            return
        if len(self.readers) >= self.most:
            raise Problem("too-many-readers", f"{self.most} clients read the events already")
        reader = Reader(request, self)
        if not self._loop.running:
            self._alarms = self._now()
            self._status = self._make()
            self._loop.start(INTERVAL, now=False)
        self.readers[reader] = None
        # Who comes between two statuses is told the last one.
        reader.start(_RETRY + self._status + b"".join(_alarm(name, text, True) for name, text in self._alarms.items()))

    def _make(self) -> bytes:
        return event("status", self._admin.status())

    def leave(self, reader: Reader) -> None:
        """A reader is gone. Nothing is made while there is none."""
        self.readers.pop(reader, None)
        if not self.readers and self._loop.running:
            self._loop.stop()

    def _now(self) -> dict[str, str]:
        return {alarm.name: alarm.text for alarm in self._admin.alarms()}

    def _tick(self) -> None:
        """Once a second. Catches everything: a LoopingCall that fails once never runs again."""
        try:
            self._status = self._make()
            content = self._status + self._changes()
        except Exception:
            self._log.failure("no status could be made for the readers of events", Failure())
            content = b": failed\n\n"
        self._told += 1
        if self._told % _HEARTBEAT == 0:
            content += b": still here\n\n"
        for reader in list(self.readers):
            reader.write(content)

    def _changes(self) -> bytes:
        """Alarms that began or ended since the last time; one whose text changed is the same."""
        before, self._alarms = self._alarms, self._now()
        began = [_alarm(name, text, True) for name, text in self._alarms.items() if name not in before]
        ended = [_alarm(name, text, False) for name, text in before.items() if name not in self._alarms]
        return b"".join(began + ended)


def _alarm(name: str, text: str, active: bool) -> bytes:
    return event("alarm", {"name": name, "text": text, "active": active})
