"""The console's port: the connections of operators, their deadlines, and what is shown on them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from phpmq import __version__
from phpmq.admin.admin import Admin
from phpmq.admin.console.commands import TABLE
from phpmq.admin.console.display import Alarm, Heading, Screens, View
from phpmq.admin.console.grammar import Answer, BadCommand, complaint, json_pieces, parse
from phpmq.admin.console.input import MAX_LINE, Key, Keyboard, Telnet
from phpmq.errors import Draining, PHPMQError
from phpmq.operators import steps_of
from phpmq.ports import NO_LIMIT, Connections, Rejected, peer_name
from phpmq.text import terminal_safe

#: Seconds without a line after which a console is closed, unless it shows a monitor.
IDLE_TIMEOUT = 900.0

#: Seconds that a client may leave what it was sent unread, and that it has to take the rest once its console is closed.
WRITE_TIMEOUT, CLOSE_TIMEOUT = 60.0, 10.0

#: Deadlines by kind; see L{phpmq.ports}.
DEADLINES = {"idle": IDLE_TIMEOUT, "write": WRITE_TIMEOUT, "close": CLOSE_TIMEOUT}

#: Seconds between two looks at what is watched.
REFRESH = 0.5

_PROMPT = "phpmq > "

_FAILED = "error: that failed within the server; its log says why"

_CLEAR, _HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[2J\x1b[H", "\x1b[H", "\x1b[K", "\x1b[J"
_COLOURS: dict[type[str], tuple[str, str]] = {Heading: ("\x1b[1m", "\x1b[0m"), Alarm: ("\x1b[31m", "\x1b[0m")}


class Monitors:
    """All monitors that are shown, which are refreshed together."""

    def __init__(self, clock: Any) -> None:
        self.screens = Screens()
        self._watching: set[Callable[[], Awaitable[None]]] = set()
        self._drawing = False
        self._refresh = LoopingCall(self.refresh)
        self._refresh.clock = clock

    def add(self, draw: Callable[[], Awaitable[None]]) -> None:
        """Refresh a monitor from here on, by a function that never raises."""
        self._watching.add(draw)
        if not self._refresh.running:
            self.screens.forget()
            self._refresh.start(REFRESH, now=False)

    def remove(self, draw: Callable[[], Awaitable[None]]) -> None:
        """Refresh a monitor no more."""
        self._watching.discard(draw)
        if not self._watching and self._refresh.running:
            self._refresh.stop()

    def refresh(self) -> None:
        """Refresh all monitors, unless that is still under way since the last time."""
        if not self._drawing:
            self._drawing = True
            Deferred.fromCoroutine(self._refresh_all())

    async def _refresh_all(self) -> None:
        self.screens.forget()
        for draw in list(self._watching):
            await draw()
        self._drawing = False


class State(Enum):
    """The life of a console; it goes from each state only to one below."""

    OPEN = "what is typed is carried out"
    ENDING = "nothing more will be typed, what was typed is carried out"
    CLOSED = "the connection is being closed or lost: nothing is read nor written"


@implementer(IPushProducer, IHalfCloseableProtocol)
class ConsoleProtocol(Protocol):
    """One operator's console, whose style is C{plain}, C{colour}, or empty for the usual way of showing things."""

    transport: Any
    held = 0  # A console counts no bytes that it keeps.
    _log = Logger()

    def __init__(self, admin: Admin, connections: Connections[ConsoleProtocol], monitors: Monitors, calls: set[Deferred[None]], clock: Any):
        """@param calls: commands of all consoles that are under way"""
        self.admin = admin
        self.style = ""
        self._connections = connections
        self._monitors = monitors
        self._calls = calls
        self._clock = clock
        self._telnet = Telnet(self._write)
        self._keyboard = Keyboard()
        self._state = State.OPEN
        self._view: View | None = None
        self._drawn = False
        self._call: Deferred[None] | None = None
        self._turn: Any = None
        self._output_paused = False

    # Transport

    def connectionMade(self) -> None:
        """Say hello."""
        self._connections.add(self)
        self.transport.registerProducer(self, True)
        self._say([f"phpmq {__version__}, type help for the commands"])
        self._prompt()
        self._set_deadline()

    def dataReceived(self, data: bytes) -> None:
        """Take what was typed."""
        if self._state is not State.CLOSED:
            self._keyboard.receive(self._telnet.receive(data))
            self._work()
            self._set_deadline()

    def readConnectionLost(self) -> None:
        """The client sends no more, but may read: do what it asked for, then close; see L{IHalfCloseableProtocol}."""
        if self._state is State.OPEN:
            self._state = State.ENDING
        self._work()

    def writeConnectionLost(self) -> None:
        """The client reads no more; see L{IHalfCloseableProtocol}."""
        self.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the console. What it began goes on."""
        self._state = State.CLOSED
        self._monitors.remove(self._refresh)
        self._connections.remove(self)
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def close(self) -> None:
        """Close once what was sent is written, or a while later."""
        if self._state is not State.CLOSED:
            self._state = State.CLOSED
            self._monitors.remove(self._refresh)
            self._connections.clear_deadlines(self)
            self._connections.close(self)

    def abort(self) -> None:
        """Close at once."""
        self._state = State.CLOSED
        self.transport.abortConnection()

    def stop(self) -> None:
        """Close, and say why: the server is about to stop."""
        self._say(["", "the server stops"])
        self.close()

    # Flow

    def pauseProducing(self) -> None:
        """The client reads too slowly: it gets nothing more to read, and not for ever."""
        self._output_paused = True
        self._set_deadline()
        self._read()

    def resumeProducing(self) -> None:
        """The client took what it was sent."""
        self._output_paused = False
        self._set_deadline()
        self._work()

    def stopProducing(self) -> None:
        """The connection is going; see L{connectionLost}."""

    def _read(self) -> None:
        """Read only what can be worked on."""
        if self._state is State.OPEN:
            if self._turn is None and self._call is None and not self._output_paused:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    def _set_deadline(self) -> None:
        """Begin to wait for what has to happen next."""
        connections = self._connections
        if self not in connections.open:
            return
        connections.clear_deadlines(self)
        if self._state is State.CLOSED:
            connections.set_deadline(self, "close")
        elif self._output_paused:
            connections.set_deadline(self, "write")
        elif self._view is None and self._call is None:
            connections.set_deadline(self, "idle")

    def miss_deadline(self, kind: str) -> None:
        """Close: with a word if nothing was typed, at once if the client does not read; see L{phpmq.ports.Connection}."""
        if kind == "idle":
            self._say(["", f"closed, as nothing was typed for {IDLE_TIMEOUT / 60:g} minutes"])
            self.close()
        else:
            self.abort()

    # What is typed

    def _work(self) -> None:
        """Run what was typed: one command in a turn of the reactor, as others have to do with the server, too."""
        while self._turn is None and self._call is None and self._is_writable:
            found = self._keyboard.next(self._view is not None)
            if isinstance(found, Key):
                self._press(found)
            elif found is not None:
                self._run(found)
            else:
                if self._state is State.ENDING:
                    self._end()
                break
        self._read()

    def _press(self, key: Key) -> None:
        if key is Key.LEAVE or (key is Key.END and self._view is not None):
            self._unwatch()
            self._prompt()
            return
        if key is Key.END:
            self._say([""])
        elif key is Key.TOO_LONG:
            self._say([Alarm(f"error: a line has at most {MAX_LINE} bytes; closed")])
        else:
            why = "it was sent what is no line of text, or is for a web server"
            self._log.warn("the console of {peer} is closed: {why}", peer=peer_name(self.transport), why=why)
        self.close()

    def _end(self) -> None:
        if self._view is not None:
            self._unwatch()
        elif self.style != "plain":
            self._say([""])
        if self._keyboard.unfinished:
            self._say([Alarm("error: the last line does not end, so it was not run")])
        self.close()

    def _run(self, line: bytes) -> None:
        self._unwatch()
        self._call = call = Deferred.fromCoroutine(self._answer(line))
        self._calls.add(call)
        call.addBoth(self._ran, call)

    def _ran(self, _: object, call: Deferred[None]) -> None:
        self._calls.discard(call)
        self._call = None
        self._prompt()
        self._set_deadline()
        if self._state is State.ENDING or (self._state is State.OPEN and self._keyboard.waiting):
            self._turn = self._clock.callLater(0, self._next)
        self._read()

    def _next(self) -> None:
        self._turn = None
        self._work()

    async def _answer(self, line: bytes) -> None:
        call = None
        text = terminal_safe(line.decode(errors="backslashreplace"))
        try:
            call = parse(_decode(line), TABLE)
            if call is None:
                return
            if call.command.changes:
                self._log.info("the console of {peer} says: {line}", peer=peer_name(self.transport), line=text)
            await self._show(await call.run(self.admin), call.json)
        except PHPMQError as error:
            told = {"error": error.code, "text": str(error)}
            self._say([await self._json(told) if call is not None and call.json else Alarm(complaint(error))])
        except CancelledError:
            self._say([Alarm("error: the server stops, not all of it was done")])
        except Exception:
            self._log.failure("a command of the console failed: {line}", line=text)
            self._unwatch()
            self._say([Alarm(_FAILED)])

    async def _show(self, answer: Answer, json: bool) -> None:
        self.style = answer.style or self.style
        self._say([await self._json(answer.data)] if json else answer.lines)
        if answer.clear:
            self._send(_CLEAR)
        if answer.close:
            self.close()
        if answer.view is not None:
            self._view, self._drawn = answer.view, False
            self._monitors.add(self._refresh)
            await self._draw()

    async def _json(self, data: Any) -> str:
        return "".join(await self.admin.work.run(steps_of(str, json_pieces(data))))

    # What is shown

    def _unwatch(self) -> None:
        if self._view is not None:
            self._view = None
            self._monitors.remove(self._refresh)
            self._say([""])
            self._set_deadline()

    async def _draw(self) -> None:
        """Show how things are now, unless the client has not read yet how they were."""
        view = self._view
        if view is None or not self._is_writable:
            return
        lines = await self._monitors.screens.draw(self.admin, view)
        if self._view is not view or not self._is_writable:
            return  # It was left while it was made.
        if self.style == "plain":
            self._say([*lines, ""])
            return
        begin = _HOME if self._drawn else _CLEAR
        self._drawn = True
        self._send(begin + "\r\n".join(self._styled(line) + _END_OF_LINE for line in lines) + _END_OF_SCREEN)

    @property
    def _is_writable(self) -> bool:
        return not self._output_paused and self._state is not State.CLOSED

    async def _refresh(self) -> None:
        """Draw the monitor again. Catches everything: what fails here must not stop the monitors of others."""
        try:
            await self._draw()
        except Draining:
            pass  # The console is about to be closed.
        except Exception:
            self._log.failure("a monitor of the console failed")
            self._unwatch()
            self._say([Alarm(_FAILED)])
            self._prompt()

    def _styled(self, line: str) -> str:
        """The line as it leaves: whatever is in it, the only control characters are those of colours."""
        before, after = _COLOURS.get(type(line), ("", "")) if self.style == "colour" else ("", "")
        return before + terminal_safe(line) + after

    def _say(self, lines: Iterable[str]) -> None:
        self._send("".join(f"{self._styled(line)}\r\n" for line in lines))

    def _prompt(self) -> None:
        if self._view is None and self.style != "plain":
            self._send(_PROMPT)

    def _send(self, text: str) -> None:
        self._write(text.encode())

    def _write(self, data: bytes) -> None:
        if self._state is not State.CLOSED:
            self.transport.write(data)


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise BadCommand("the line is not UTF-8") from None


class ConsoleFactory(Factory):
    """The factory of consoles, once there is an admin; C{calls} are the commands that are under way."""

    noisy = False

    def __init__(self, admin: Callable[[], Admin], clock: Any, max_consoles: int = 16, max_per_address: int = NO_LIMIT) -> None:
        self.connections: Connections[ConsoleProtocol] = Connections(clock, DEADLINES, max_consoles, max_per_address, noun="console")
        self.monitors = Monitors(clock)
        self.calls: set[Deferred[None]] = set()
        self._admin, self._clock = admin, clock

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """Return a console; one that says why and closes if there are too many."""
        connections = self.connections
        if connections.admit(addr):
            return ConsoleProtocol(self._admin(), connections, self.monitors, self.calls, self._clock)
        most = min(connections.max_connections, connections.max_per_address)
        return Rejected(f"error: there are {most} consoles already; close one of them\r\n".encode())

    def stop(self) -> None:
        """End what is under way, and close all consoles."""
        for call in list(self.calls):
            call.cancel()
        for console in list(self.connections.open):
            console.stop()
