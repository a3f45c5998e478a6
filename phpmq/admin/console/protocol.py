"""One console: its connection, its deadlines, and what is shown on it."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from phpmq import __version__
from phpmq.admin.admin import Admin
from phpmq.admin.console.commands import TABLE
from phpmq.admin.console.keyboard import MAX_LINE, Key, Keyboard
from phpmq.admin.console.language import BadCommand, Call, complaint, json_pieces, parse
from phpmq.admin.console.monitor import View
from phpmq.admin.console.telnet import Telnet
from phpmq.admin.console.text import Alarm, Heading
from phpmq.errors import Draining, PHPMQError
from phpmq.operators import steps_of
from phpmq.text import terminal_safe

if TYPE_CHECKING:
    from phpmq.admin.console.factory import ConsoleFactory

#: Seconds without a line after which a console is closed, unless it shows a monitor.
IDLE_TIMEOUT = 900.0

#: Seconds that a client may leave what it was sent unread, and that it has to take the rest once its console is closed.
WRITE_TIMEOUT, CLOSE_TIMEOUT = 60.0, 10.0

#: Deadlines, by what has to happen: something is typed, what was sent is read, or the rest of it at the end.
DEADLINES = {"idle": IDLE_TIMEOUT, "write": WRITE_TIMEOUT, "close": CLOSE_TIMEOUT}

_PROMPT = "phpmq > "

_FAILED = "error: that failed within the server; its log says why"

_CLEAR, _HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[2J\x1b[H", "\x1b[H", "\x1b[K", "\x1b[J"
_COLOURS: dict[type[str], tuple[str, str]] = {Heading: ("\x1b[1m", "\x1b[0m"), Alarm: ("\x1b[31m", "\x1b[0m")}


@implementer(IPushProducer, IHalfCloseableProtocol)
class ConsoleProtocol(Protocol):
    """
    One operator's console.

    @ivar style: see L{phpmq.admin.console.language.Terminal}
    @ivar deadline: when it is closed unless something happens, seconds of the factory's clock
    """

    _log = Logger()

    def __init__(self, consoles: ConsoleFactory) -> None:
        self._consoles = consoles
        self._telnet = Telnet(self._send)
        self._keyboard = Keyboard()
        self.style = ""
        self.deadline = inf
        self._view: View | None = None
        self._drawn = False
        self._call: Deferred[None] | None = None
        self._turn: Any = None
        self._reading = True
        self._choked = self._closing = self._no_more = False

    @property
    def admin(self) -> Admin:
        """The server."""
        return self._consoles.server.admin

    @property
    def peer(self) -> str:
        """The client's address, for logs; a unix socket has none."""
        address: Any = self.transport.getPeer() if self.transport is not None else None
        host = getattr(address, "host", None)
        return f"{host}:{address.port}" if host is not None else "unix socket"

    # Transport

    def connectionMade(self) -> None:
        """Say hello."""
        self._consoles.open.add(self)
        transport: Any = self.transport
        transport.registerProducer(self, True)
        self._say([f"phpmq {__version__}, type help for the commands"])
        self._prompt()
        self._expect()

    def dataReceived(self, data: bytes) -> None:
        """Take what was typed."""
        if not self._closing:
            self._keyboard.receive(self._telnet.receive(data))
            self._work()
            self._expect()

    def readConnectionLost(self) -> None:
        """The client sends no more, but may read: do what it asked for, then close; see L{IHalfCloseableProtocol}."""
        self._no_more = True
        self._work()

    def writeConnectionLost(self) -> None:
        """The client reads no more; see L{IHalfCloseableProtocol}."""
        self.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget it. What it began goes on."""
        self._closing = True
        self._consoles.gone(self)
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def close(self) -> None:
        """Close once what was sent is written, or a while later."""
        if self._closing:
            return
        self._closing = True
        self._consoles.unwatch(self)
        transport: Any = self.transport
        transport.unregisterProducer()
        transport.loseConnection()
        self._expect()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self.deadline = inf
        transport: Any = self.transport
        transport.abortConnection()

    def stop(self) -> None:
        """The server is about to stop."""
        self._say(["", "the server stops"])
        self.close()

    # Flow

    def pauseProducing(self) -> None:
        """The client reads too slowly: it gets nothing more to read, and not for ever."""
        self._choked = True
        self._expect()
        self._read()

    def resumeProducing(self) -> None:
        """The client took what it was sent."""
        self._choked = False
        self._expect()
        self._work()

    def stopProducing(self) -> None:
        """The connection is going; see L{connectionLost}."""

    def _read(self) -> None:
        """Read only what can be worked on."""
        reading = self._turn is None and self._call is None and not self._choked
        if reading != self._reading and not (self._closing or self._no_more):
            self._reading = reading
            transport: Any = self.transport
            if reading:
                transport.resumeProducing()
            else:
                transport.pauseProducing()

    def _expect(self) -> None:
        """Begin to wait for what has to happen next."""
        busy = self._view is not None or self._call is not None
        self.deadline = self._consoles.clock.seconds() + (inf if busy and self._waits_for == "idle" else DEADLINES[self._waits_for])

    @property
    def _waits_for(self) -> str:
        return "close" if self._closing else "write" if self._choked else "idle"

    def late(self) -> None:
        """The deadline has passed."""
        timeouts, kind = self._consoles.timeouts, self._waits_for
        timeouts[kind] = timeouts.get(kind, 0) + 1
        if self._closing or self._choked:
            self._log.info("the console of {peer} is closed: it does not read", peer=self.peer)
            self.abort()
        else:
            self._say(["", f"closed, as nothing was typed for {IDLE_TIMEOUT / 60:g} minutes"])
            self.close()

    # What is typed

    def _work(self) -> None:
        """Run what was typed: one command in a turn of the reactor, as others have to do with the server, too."""
        while self._turn is None and self._call is None and not (self._choked or self._closing):
            found = self._keyboard.next(self._view is not None)
            if isinstance(found, Key):
                self._press(found)
            elif found is not None:
                self._run(found)
            else:
                if self._no_more:
                    self._end()
                break
        self._read()

    def _press(self, key: Key) -> None:
        if key is Key.LEAVE or (key is Key.END and self._view is not None):
            self._unwatch()
            self._prompt()
        elif key is Key.END:
            self._say([""])
            self.close()
        elif key is Key.TOO_LONG:
            self._say([Alarm(f"error: a line has at most {MAX_LINE} bytes; closed")])
            self.close()
        else:
            self._log.warn("the console of {peer} is closed: it was sent what is no line of text, or is for a web server", peer=self.peer)
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
        self._consoles.calls.add(call)
        call.addBoth(self._ran, call)

    def _ran(self, _: object, call: Deferred[None]) -> None:
        """A command has come to its end."""
        self._consoles.calls.discard(call)
        self._call = None
        self._prompt()
        self._expect()
        if not self._closing and (self._keyboard.waiting or self._no_more):
            self._turn = self._consoles.clock.callLater(0, self._next)
        self._read()

    def _next(self) -> None:
        self._turn = None
        self._work()

    async def _answer(self, line: bytes) -> None:
        call: Call | None = None
        try:
            call = parse(_decode(line), TABLE)
            if call is None:
                return
            if call.command.changes:
                self._log.info("the console of {peer} says: {line}", peer=self.peer, line=terminal_safe(_decode(line)))
            answer = await call.run(self)
            self._say([await self._json(answer.data)] if call.json else answer.lines)
        except PHPMQError as error:
            as_json = call is not None and call.json
            told = {"error": error.code, "text": str(error)}
            self._say([await self._json(told) if as_json else Alarm(complaint(error))])
        except CancelledError:
            self._say([Alarm("error: the server stops, not all of it was done")])
        except Exception:
            self._log.failure("a command of the console failed: {line}", line=terminal_safe(_decode(line)))
            self._unwatch()
            self._say([Alarm(_FAILED)])

    async def _json(self, data: Any) -> str:
        return "".join(await self.admin.work.run(steps_of(str, json_pieces(data))))

    # What is shown; see Terminal

    async def watch(self, view: View) -> None:
        """Show a monitor."""
        self._view = view
        self._drawn = False
        self._consoles.watch(self)
        await self.draw()

    def _unwatch(self) -> None:
        if self._view is not None:
            self._view = None
            self._consoles.unwatch(self)
            self._say([""])
            self._expect()

    async def draw(self) -> None:
        """Show how things are now, unless the client has not read yet how they were."""
        view = self._view
        if view is None or not self._can_draw:
            return
        whole = await self._consoles.screens.draw(self.admin, view)
        if self._view is not view or not self._can_draw:
            return  # Somebody left it meanwhile.
        lines = [self._styled(line) for line in whole]
        if self.style == "plain":
            self._send("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
            return
        begin = _HOME if self._drawn else _CLEAR
        self._drawn = True
        self._send((begin + "\r\n".join(line + _END_OF_LINE for line in lines) + _END_OF_SCREEN).encode())

    @property
    def _can_draw(self) -> bool:
        return not (self._choked or self._closing)

    async def refresh(self) -> None:
        """Draw again. Catches everything: nobody else's monitor is to suffer from what fails here."""
        try:
            await self.draw()
        except Draining:
            pass  # The console is about to be closed.
        except Exception:
            self._log.failure("a monitor of the console failed")
            self._unwatch()
            self._say([Alarm(_FAILED)])
            self._prompt()

    def clear(self) -> None:
        """Clear the screen."""
        self._send(_CLEAR.encode())

    def leave(self) -> None:
        """Close the connection."""
        self.close()

    def _styled(self, line: str) -> str:
        """The line as it leaves: whatever is in it, the only control characters are those of colours."""
        before, after = _COLOURS.get(type(line), ("", "")) if self.style == "colour" else ("", "")
        return before + terminal_safe(line) + after

    def _say(self, lines: Iterable[str]) -> None:
        self._send("".join(f"{self._styled(line)}\r\n" for line in lines).encode())

    def _prompt(self) -> None:
        if self._view is None and self.style != "plain":
            self._send(_PROMPT.encode())

    def _send(self, data: bytes) -> None:
        if not self._closing:
            transport: Any = self.transport
            transport.write(data)


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise BadCommand("the line is not UTF-8") from None
