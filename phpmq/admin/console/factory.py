"""All consoles of a server: how many there may be, their deadlines, and what they watch."""

from __future__ import annotations

from typing import Any
from typing import Protocol as Structure

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall

from phpmq.admin.admin import Admin
from phpmq.admin.console.monitor import Screens
from phpmq.admin.console.protocol import ConsoleProtocol

#: Seconds between two looks at what is watched.
REFRESH = 0.5


class Server(Structure):
    """Whose console it is: a L{phpmq.service.QueueService}, which has an C{admin} once it was started."""

    admin: Admin


class _Full(Protocol):
    """Turns a client away. A factory that is wrapped, as for TLS, cannot do so by building no protocol."""

    def __init__(self, most: int) -> None:
        self._most = most

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(f"error: there are {self._most} consoles already; close one of them\r\n".encode())
        transport.loseConnection()


class ConsoleFactory(Factory):
    """
    Makes consoles, and refreshes what they watch.

    @ivar server: whose consoles they are
    @ivar clock: the reactor, or a clock in its place
    @ivar most: how many there may be
    @ivar open: those that are connected
    @ivar rejected: how many were turned away at the limit
    @ivar timeouts: kind of deadline -> how many were missed, see L{phpmq.admin.console.protocol.DEADLINES}
    @ivar calls: commands that go on
    @ivar screens: what they watch
    """

    noisy = False

    def __init__(self, server: Server, clock: Any, most: int = 16) -> None:
        self.server = server
        self.clock = clock
        self.most = most
        self.open: set[ConsoleProtocol] = set()
        self.rejected = 0
        self.timeouts: dict[str, int] = {}
        self.calls: set[Deferred[None]] = set()
        self.screens = Screens()
        self._watching: set[ConsoleProtocol] = set()
        self._drawing = False
        self._refresh = LoopingCall(self._draw)
        self._refresh.clock = clock

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """A console; one that hangs up if there are too many."""
        if len(self.open) < self.most:
            return ConsoleProtocol(self)
        self.rejected += 1
        return _Full(self.most)

    def watch(self, console: ConsoleProtocol) -> None:
        """Refresh what a console watches from here on."""
        self._watching.add(console)
        if not self._refresh.running:
            self.screens.forget()
            self._refresh.start(REFRESH, now=False)

    def unwatch(self, console: ConsoleProtocol) -> None:
        """A console watches no longer."""
        self._watching.discard(console)
        if not self._watching and self._refresh.running:
            self._refresh.stop()

    def gone(self, console: ConsoleProtocol) -> None:
        """A connection is lost."""
        self.unwatch(console)
        self.open.discard(console)

    def _draw(self) -> None:
        """Refresh all monitors, unless that is still under way since the last time."""
        if not self._drawing:
            self._drawing = True
            Deferred.fromCoroutine(self._draw_all())

    async def _draw_all(self) -> None:
        self.screens.forget()
        for console in list(self._watching):
            await console.refresh()
        self._drawing = False

    def check(self) -> None:
        """Close consoles that missed their deadlines; to be called about once a second."""
        now = self.clock.seconds()
        for console in [console for console in self.open if console.deadline <= now]:
            console.late()

    def stop(self) -> None:
        """End what goes on, and close all consoles."""
        for call in list(self.calls):
            call.cancel()
        for console in list(self.open):
            console.stop()
