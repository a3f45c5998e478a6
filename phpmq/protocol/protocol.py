"""One client's connection: framing, and flow control in both directions."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IHandshakeListener,
    IPushProducer,
    ISSLTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from phpmq.errors import TooLarge
from phpmq.interfaces import IConnection
from phpmq.protocol.connections import CLOSE_TIMEOUT, HANDSHAKE_TIMEOUT, Connections
from phpmq.session import Session

# An unfinished frame counts as making progress when so many bytes came within the time; below that it drips.
_PROGRESS = 4096

# A consumer that reads at least so many bytes a second is slow, not stuck.
_SLOWEST_READER = 16 * 1024


@implementer(IConnection, IPushProducer, IHandshakeListener)
class QueueProtocol(Protocol):
    """
    One client's connection.

    @ivar number: by which operators know it; never given again
    @ivar listener: description of the listener that accepted it
    @ivar since: when it was made, seconds of the clock
    @ivar received: bytes that came, C{sent}: bytes that went
    """

    _log = Logger()

    def __init__(self, connections: Connections, original: bool, listener: str = "") -> None:
        self._connections = connections
        self._original = original
        self.listener = listener
        self.number = connections.accepted
        self.since = connections.seconds()
        self.received = self.sent = 0
        self._session: Session | None = None
        #: Bytes that wait for the rest of their frame.
        self.held = 0
        self._mark = 0
        self._written = 0
        self._producing = False
        self._closing = self._leaving = False

    # Transport

    def connectionMade(self) -> None:
        """Start the conversation."""
        connections = self._connections
        connections.came(self)
        self._session = Session(connections.broker, connections.versions, self, self._original)
        transport: Any = self.transport
        if ISSLTransport.providedBy(transport):
            connections.expect(self, "handshake", HANDSHAKE_TIMEOUT)
        # A unix socket has the method as well; with older Twisted it fails.
        if isinstance(transport.getPeer(), IPv4Address | IPv6Address):
            transport.setTcpNoDelay(True)
        self._log.debug("connection from {peer}", peer=self.peer)

    def handshakeCompleted(self) -> None:
        """TLS is up; see L{IHandshakeListener}."""
        self._connections.met(self, "handshake")

    def dataReceived(self, data: bytes) -> None:
        """Hand bytes to the session, and see that frames are finished in time."""
        session = self._session
        if session is None or self._closing or self._leaving:
            return
        self.received += len(data)
        self._connections.received += len(data)
        self._watch(session, session.receive(data))

    def _watch(self, session: Session, progress: bool) -> None:
        """See that a begun frame is finished in time, unless it is this server that lets it wait."""
        pending = session.pending
        if not self._connections.hold(self, pending):
            self.broken(TooLarge("the unfinished frames of all connections take too much memory"))
        if not pending or session.waiting or self._closing:
            if self._mark:
                self._mark = 0
                self._connections.met(self, "frame")
        elif progress or not self._mark or pending - self._mark >= _PROGRESS:
            self._mark = pending
            self._connections.expect(self, "frame", self._connections.frame_timeout)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Give back what the client held."""
        self._connections.gone(self)
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self._log.debug("connection from {peer} is closed", peer=self.peer)

    @property
    def peer(self) -> str:
        """The client's address, for logs; a unix socket has none."""
        address: Any = self.transport.getPeer() if self.transport is not None else None
        host = getattr(address, "host", None)
        return f"{host}:{address.port}" if host is not None else "unix socket"

    @property
    def session(self) -> Session | None:
        """The conversation, while it is connected."""
        return self._session

    # IConnection

    def write(self, data: bytes) -> None:
        """Send bytes; see L{IConnection}."""
        transport: Any = self.transport
        if self._closing:
            return
        if not self._producing:
            self._producing = True
            transport.registerProducer(self, True)
        self._written = len(data)
        self.sent += self._written
        self._connections.sent += self._written
        transport.write(data)

    def stop_reading(self) -> None:
        """See L{IConnection}."""
        transport: Any = self.transport
        transport.pauseProducing()
        self._connections.unread.add(self)

    def resume_reading(self) -> None:
        """See L{IConnection}."""
        self._connections.unread.discard(self)
        if self._session is not None and not (self._closing or self._leaving):
            transport: Any = self.transport
            transport.resumeProducing()
            self._watch(self._session, True)

    def broken(self, error: Exception) -> None:
        """Close, log and count; see L{IConnection}."""
        self._connections.complain(self, error)
        self.close()

    def close(self) -> None:
        """Close once what was sent is written and, in a version with answers, the client has seen it; or a while later."""
        if self._closing:
            return
        self._closing = True
        transport: Any = self.transport
        if self._producing:
            transport.unregisterProducer()
        self._connections.expect(self, "close", CLOSE_TIMEOUT)
        if self._session is None or not self._session.answers:
            transport.loseConnection()
            return
        # A socket that is closed with something unread is reset, and the other end may lose what it was sent last. So the client is to
        # close first; what comes until then is not heard any more. TLS does the same by itself, and cannot close one side only.
        transport.resumeProducing()
        lose_one_side = None if ISSLTransport.providedBy(transport) else getattr(transport, "loseWriteConnection", None)
        (lose_one_side or transport.loseConnection)()

    def leave(self) -> None:
        """The server is about to stop: read no more, and give back what the client holds. It still gets its receipts."""
        self.stop_reading()
        self._leaving = True
        if self._session is not None:
            self._session.drain()

    def hung_up(self) -> None:
        """The client is gone, though not all that it sent is read yet: what it holds is for others."""
        if self._session is not None:
            self._session.give_back()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        transport: Any = self.transport
        transport.abortConnection()

    # IPushProducer

    def pauseProducing(self) -> None:
        """The client reads too slowly: it gets no more deliveries, and not for ever."""
        if self._session is not None:
            seconds = self._connections.write_timeout + self._written / _SLOWEST_READER
            self._connections.expect(self, "write", seconds)
            self._session.pause_output()

    def resumeProducing(self) -> None:
        """The client took what it was sent."""
        if self._session is not None:
            self._connections.met(self, "write")
            self._session.resume_output()

    def stopProducing(self) -> None:
        """The connection is going; see L{connectionLost}."""
