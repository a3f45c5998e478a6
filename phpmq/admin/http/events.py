"""Server-sent events: the status each second, and alarms as they begin and end."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from phpmq.admin.admin import Admin
from phpmq.admin.http.connection import Request
from phpmq.admin.http.problems import Problem
from phpmq.results import json_bytes

# The part of all connections that may read events: others get in as well.
_SHARE = 0.4

#: Seconds between two statuses, and how many statuses there are between two comments that keep a proxy from hanging up.
INTERVAL, _HEARTBEAT = 1.0, 15

# After how many milliseconds a browser whose connection was lost connects again.
_RETRY = b"retry: 3000\n\n"


def event(name: str, value: Any) -> bytes:
    """Write an event. It has no id: who connects again is sent what is now, and missed nothing that still matters."""
    return b"event: " + name.encode("ascii") + b"\ndata: " + json_bytes(value) + b"\n\n"


def _alarm(name: str, text: str, active: bool) -> bytes:
    return event("alarm", {"name": name, "text": text, "active": active})


class Events:
    """
    Sends all readers the same: what a second's status costs does not depend on how many readers there are.

    @ivar readers: the requests of the clients that read, C{most} at a time
    """

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
            self._alarms = self._now()
            self._status = self._make()
            self._loop.start(INTERVAL, now=False)
        self.readers[request] = None
        request.begin(200, "text/event-stream", {"X-Accel-Buffering": "no"})
        request.notifyFinish().addBoth(lambda _: self._leave(request))
        # A client that connects between two statuses is sent the last one.
        alarms = b"".join(_alarm(name, text, True) for name, text in self._alarms.items())
        request.write(_RETRY + self._status + alarms)

    def _make(self) -> bytes:
        return event("status", self._admin.status())

    def _leave(self, reader: Request) -> None:
        """Forget a reader. Nothing is made while there is none."""
        self.readers.pop(reader, None)
        if not self.readers and self._loop.running:
            self._loop.stop()

    def _now(self) -> dict[str, str]:
        return {alarm.name: alarm.text for alarm in self._admin.alarms()}

    def _tick(self) -> None:
        """Send a second's events. Catches everything: a LoopingCall that fails once never runs again."""
        try:
            self._status = self._make()
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
        before, self._alarms = self._alarms, self._now()
        began = [_alarm(name, text, True) for name, text in self._alarms.items() if name not in before]
        ended = [_alarm(name, text, False) for name, text in before.items() if name not in self._alarms]
        return b"".join(began + ended)
