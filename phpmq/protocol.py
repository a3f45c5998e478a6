"""Clients of queues: flow control in both directions, and deadlines of their frames."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IHandshakeListener, IPushProducer, ISSLTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from phpmq.errors import TooLarge
from phpmq.interfaces import IConnection
from phpmq.ports import Connections, Rejected, peer_name
from phpmq.session import Session

#: Seconds that a TLS handshake may take, and that a client has to take the rest of what it was sent once its connection is being closed.
HANDSHAKE_TIMEOUT, CLOSE_TIMEOUT = 10.0, 10.0

# An unfinished frame counts as making progress when so many bytes came within the time; below that it drips.
_PROGRESS = 4096

# A consumer that reads at least so many bytes a second is slow, not stuck.
_SLOWEST_READER = 16 * 1024


def deadlines(frame_timeout: float = 30.0, write_timeout: float = 60.0) -> dict[str, float]:
    """Return the deadlines of queue clients, in seconds by kind; see L{phpmq.ports}."""
    return {"handshake": HANDSHAKE_TIMEOUT, "frame": frame_timeout, "write": write_timeout, "close": CLOSE_TIMEOUT}


class State(Enum):
    """The life of a connection; it goes from each state only to one below."""

    OPEN = "what the client sends is carried out, and it gets deliveries and answers"
    DRAINING = "the server is about to stop: the client is not read, and gets its last answers"
    CLOSED = "the connection is being closed or lost: the client is neither heard nor sent anything"


_OPEN, _CLOSED = State.OPEN, State.CLOSED


@implementer(IConnection, IPushProducer, IHandshakeListener)
class QueueProtocol(Protocol):
    """
    One client's connection.

    @ivar number: by which operators know it; never given again
    @ivar listener: description of the listener that accepted it
    @ivar since: when it was made, seconds of the clock
    @ivar received: bytes that came, C{sent}: bytes that went, C{held}: bytes that wait for the rest of their frame
    @ivar session: what the client sends goes to; None unless it is connected
    """

    transport: Any

    _log = Logger()

    def __init__(self, connections: Connections[QueueProtocol], open_session: Callable[[IConnection], Session], listener: str) -> None:
        self._connections = connections
        self._open_session = open_session
        self.listener = listener
        self.number = connections.accepted
        self.since = connections.clock.seconds()
        self.received = self.sent = self.held = 0
        self.session: Session | None = None
        self._state = _OPEN
        # Of the unfinished frame, how many bytes there were when its deadline was set; 0 for no deadline.
        self._mark = 0
        self._written = 0

    @property
    def peer(self) -> str:
        """The client's address, for logs; a unix socket has none."""
        return peer_name(self.transport)

    # Transport

    def connectionMade(self) -> None:
        """Open a session."""
        connections = self._connections
        connections.add(self)
        connections.by_listener[self.listener] += 1
        self.session = self._open_session(self)
        transport = self.transport
        transport.registerProducer(self, True)
        if ISSLTransport.providedBy(transport):
            connections.set_deadline(self, "handshake")
        # A unix socket has the method as well; with older Twisted it fails.
        if isinstance(transport.getPeer(), IPv4Address | IPv6Address):
            transport.setTcpNoDelay(True)
        self._log.debug("connection from {peer}", peer=self.peer)

    def handshakeCompleted(self) -> None:
        """TLS is up; see L{IHandshakeListener}."""
        self._connections.clear_deadline(self, "handshake")

    def dataReceived(self, data: bytes) -> None:
        """Hand bytes to the session, and check that frames are finished in time."""
        session = self.session
        if session is None or self._state is not _OPEN:
            return
        self.received += len(data)
        self._connections.received += len(data)
        self._watch(session, session.receive(data))

    def _watch(self, session: Session, progress: bool) -> None:
        """Set a deadline for a begun frame, unless it is this server that lets it wait."""
        pending = session.pending
        if pending != self.held and not self._connections.account(self, pending):
            self.broken(TooLarge("the unfinished frames of all connections take too much memory"))
        if not pending or session.waiting or self._state is _CLOSED:
            if self._mark:
                self._mark = 0
                self._connections.clear_deadline(self, "frame")
        elif progress or not self._mark or pending - self._mark >= _PROGRESS:
            self._mark = pending
            self._connections.set_deadline(self, "frame")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Give back what the client held."""
        self._state = _CLOSED
        self._connections.remove(self)
        session, self.session = self.session, None
        if session is not None:
            self._connections.by_listener[self.listener] -= 1
            session.close()
        self._log.debug("connection from {peer} is closed", peer=self.peer)

    # IConnection

    def write(self, data: bytes) -> None:
        """Send bytes; see L{IConnection}."""
        if self._state is _CLOSED:
            return
        self._written = len(data)
        self.sent += self._written
        self._connections.sent += self._written
        self.transport.write(data)

    def stop_reading(self) -> None:
        """Hand nothing more to the session; see L{IConnection}."""
        self.transport.pauseProducing()
        self._connections.unread[self] = self.peer_closed

    def resume_reading(self) -> None:
        """Undo L{stop_reading}; see L{IConnection}."""
        self._connections.unread.pop(self, None)
        if self.session is not None and self._state is _OPEN:
            self.transport.resumeProducing()
            self._watch(self.session, True)

    def broken(self, error: Exception) -> None:
        """Close, log and count; see L{IConnection}."""
        self._connections.count_error(self, error)
        self.close()

    # The end

    def close(self) -> None:
        """Close once what was sent is written and, in a version with answers, the client has seen it; or a while later."""
        if self._state is not _CLOSED:
            self._state = _CLOSED
            self._connections.close(self, linger=self.session is not None and self.session.answers)

    def drain(self) -> None:
        """Read no more, and give back what the client holds: the server is about to stop. The client still gets its receipts."""
        if self._state is _CLOSED:
            self.peer_closed()  # It was told why it is closed, and has to be read to see that it closes, too.
            return
        self.stop_reading()
        self._state = State.DRAINING
        if self.session is not None:
            self.session.drain()

    def peer_closed(self) -> None:
        """Give back what the client holds: it is gone, though not all that it sent is read yet."""
        if self.session is not None:
            self.session.give_back()

    def miss_deadline(self, kind: str) -> None:
        """Close at once; see L{phpmq.ports.Connection}."""
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._state = _CLOSED
        self.transport.abortConnection()

    # IPushProducer

    def pauseProducing(self) -> None:
        """Deliver nothing more for now: the client reads too slowly. It is cut off if it does not read at all."""
        if self.session is not None:
            self._connections.set_deadline(self, "write", self._written / _SLOWEST_READER)
            self.session.pause_output()

    def resumeProducing(self) -> None:
        """Deliver again: the client took what it was sent."""
        if self.session is not None:
            self._connections.clear_deadline(self, "write")
            self.session.resume_output()

    def stopProducing(self) -> None:
        """Do nothing: the connection is going; see L{connectionLost}."""


class QueueFactory(Factory):
    """The factory of the connections that one listener accepts."""

    noisy = False

    def __init__(self, connections: Connections[QueueProtocol], open_session: Callable[[IConnection], Session], listener: str = "") -> None:
        self._connections = connections
        self._open_session = open_session
        self._listener = listener
        connections.by_listener.setdefault(listener, 0)

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """Return the protocol of a connection; one that closes it if there are too many."""
        if not self._connections.admit(addr):
            return Rejected()
        protocol = QueueProtocol(self._connections, self._open_session, self._listener)
        protocol.factory = self
        return protocol
