"""Transports: framing, flow control in both directions, deadlines and limits of connections."""

from __future__ import annotations

import select
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from phpmq.commands import Versions
from phpmq.errors import ProtocolError, TooLarge
from phpmq.interfaces import IConnection
from phpmq.session import Session

if TYPE_CHECKING:
    from phpmq.broker import Broker

#: Seconds that a TLS handshake may take.
HANDSHAKE_TIMEOUT = 10.0

#: Seconds that a peer has to take the rest of what it was sent, once its connection is being closed.
CLOSE_TIMEOUT = 10.0

#: What a connection may be given a deadline for.
DEADLINES = "handshake", "frame", "write", "close"

# An unfinished frame counts as making progress when so many bytes came within the time; below that it drips.
_PROGRESS = 4096

# A consumer that reads at least so many bytes a second is slow, not stuck.
_SLOWEST_READER = 16 * 1024

# What tells that a client closed its end; not every system has the first.
_HANGUP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP

# Addresses whose misbehaviour is remembered, and for how many seconds they are not logged again.
_OFFENDERS, _QUIET = 1024, 60.0


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

    def go_on_reading(self) -> None:
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
            self._session.choke()

    def resumeProducing(self) -> None:
        """The client took what it was sent."""
        if self._session is not None:
            self._connections.met(self, "write")
            self._session.unchoke()

    def stopProducing(self) -> None:
        """The connection is going; see L{connectionLost}."""


class Connections:
    """
    All connections of a server, its listeners' limits and deadlines.

    @ivar broker: whose queues they use
    @ivar open: the protocols that are connected
    @ivar unread: those of them whose sends wait for room
    @ivar by_listener: description of a listener -> how many of them it accepted
    @ivar held: bytes that wait for the rest of their frames, at most C{unfinished_limit}
    @ivar accepted: how many connections there ever were
    @ivar rejected: how many were turned away at the limit
    @ivar timeouts: kind of deadline -> how many were missed
    @ivar errors: error code -> how many peers broke the protocol
    @ivar received: bytes that ever came, C{sent}: bytes that ever went
    """

    #: Set before the first connection is accepted.
    broker: Broker

    _log = Logger()

    def __init__(
        self,
        versions: Versions,
        clock: IReactorTime,
        max_connections: int = 10000,
        frame_timeout: float = 30.0,
        write_timeout: float = 60.0,
        unfinished_limit: int = 2**62,
    ) -> None:
        self.versions = versions
        self._clock = clock
        self.max_connections = max_connections
        self.frame_timeout = frame_timeout
        self.write_timeout = write_timeout
        self.unfinished_limit = unfinished_limit
        self.held = 0
        self.open: set[QueueProtocol] = set()
        self.unread: set[QueueProtocol] = set()
        self.by_listener: dict[str, int] = {}
        self.accepted = self.rejected = self.received = self.sent = 0
        self.timeouts: dict[str, int] = {}
        self.errors: dict[str, int] = {}
        self._all_gone: Deferred[None] | None = None
        self._deadlines: dict[tuple[QueueProtocol, str], float] = {}
        self._offenders: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def admit(self, address: IAddress | None) -> bool:
        """Whether one more connection may be."""
        if len(self.open) < self.max_connections:
            self.accepted += 1
            return True
        self.rejected += 1
        self._report(getattr(address, "host", "unix socket"), f"rejected, there are {self.max_connections} already")
        return False

    def seconds(self) -> float:
        """The clock by which deadlines are kept."""
        return self._clock.seconds()

    def hold(self, protocol: QueueProtocol, size: int) -> bool:
        """Count the bytes that a connection holds until their frame is finished; false if they are too many together."""
        grown = size > protocol.held
        self.held += size - protocol.held
        protocol.held = size
        return not grown or self.held <= self.unfinished_limit

    def expect(self, protocol: QueueProtocol, what: str, seconds: float) -> None:
        """Close the connection unless L{met} is called in time."""
        self._deadlines[protocol, what] = self._clock.seconds() + seconds

    def met(self, protocol: QueueProtocol, what: str) -> None:
        """What was expected of the connection happened."""
        self._deadlines.pop((protocol, what), None)

    def expecting(self) -> dict[str, int]:
        """Kind of deadline -> how many connections have one."""
        return dict.fromkeys(DEADLINES, 0) | Counter(what for _, what in self._deadlines)

    def came(self, protocol: QueueProtocol) -> None:
        """The connection is made."""
        self.open.add(protocol)
        self.by_listener[protocol.listener] = self.by_listener.get(protocol.listener, 0) + 1

    def gone(self, protocol: QueueProtocol) -> None:
        """The connection is lost."""
        self.hold(protocol, 0)
        if protocol in self.open:
            self.open.remove(protocol)
            self.by_listener[protocol.listener] -= 1
        self.unread.discard(protocol)
        for what in DEADLINES:
            self.met(protocol, what)
        if self._all_gone is not None and not self.open:
            self._leave_behind()

    async def all_gone(self, seconds: float) -> None:
        """Wait until all that are being closed are gone, for so long at most: what they were sent last has to leave the process."""
        if self.open:
            self._all_gone = Deferred()
            late = self._clock.callLater(seconds, self._leave_behind)
            await self._all_gone
            if late.active():
                late.cancel()

    def _leave_behind(self) -> None:
        all_gone, self._all_gone = self._all_gone, None
        for protocol in list(self.open):
            protocol.abort()
        if all_gone is not None:
            all_gone.callback(None)

    def check(self) -> None:
        """Cut off those that missed a deadline, find those that hung up; to be called about once a second."""
        now = self._clock.seconds()
        late = [key for key, deadline in self._deadlines.items() if deadline <= now]
        for protocol, what in late:
            self.met(protocol, what)
            self.timeouts[what] = self.timeouts.get(what, 0) + 1
            self._report(protocol.peer.rpartition(":")[0] or protocol.peer, f"closed, {what} took too long")
            protocol.abort()
        for protocol in self._hung_up():
            self.unread.discard(protocol)
            protocol.hung_up()

    def _hung_up(self) -> list[QueueProtocol]:
        """
        Those whose sends wait and whose client is gone: as they are not read, no reactor tells.

        Without that, messages that such a client holds would never make the room that it waits for.
        """
        sockets: dict[int, QueueProtocol] = {}
        poll = select.poll()
        for protocol in self.unread:
            transport: Any = protocol.transport
            sockets[transport.fileno()] = protocol
        for descriptor in sockets:
            if descriptor >= 0:
                poll.register(descriptor, _HANGUP)
        return [sockets[descriptor] for descriptor, _ in poll.poll(0)] if sockets else []

    def complain(self, protocol: QueueProtocol, error: Exception) -> None:
        """A peer broke the protocol: count it, and log it unless its address was logged a moment ago."""
        code = getattr(error, "code", ProtocolError.code)
        self.errors[code] = self.errors.get(code, 0) + 1
        self._report(protocol.peer.rpartition(":")[0] or protocol.peer, f"closed, protocol error ({code}): {error}")

    def _report(self, host: str, what: str) -> None:
        now = self._clock.seconds()
        quiet_until, unsaid = self._offenders.pop(host, (0.0, 0))
        if now < quiet_until:
            self._offenders[host] = quiet_until, unsaid + 1
            return
        self._log.warn("{host}: {what} ({unsaid} more since the last line)", host=host, what=what, unsaid=unsaid)
        self._offenders[host] = now + _QUIET, 0
        if len(self._offenders) > _OFFENDERS:
            self._offenders.popitem(last=False)


class _Rejected(Protocol):
    """Hangs up. A factory that is wrapped, as for TLS, cannot turn a connection away by building no protocol."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()


class QueueFactory(Factory):
    """
    Makes the protocols of one listener.

    @ivar original: whether the listener is for clients of the original revision of protocol 01
    @ivar listener: its description
    """

    noisy = False

    def __init__(self, connections: Connections, original: bool = False, listener: str = "") -> None:
        self.connections = connections
        self.original = original
        self.listener = listener
        connections.by_listener.setdefault(listener, 0)

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """A protocol; one that hangs up if there are too many connections."""
        if not self.connections.admit(addr):
            return _Rejected()
        protocol = QueueProtocol(self.connections, self.original, self.listener)
        protocol.factory = self
        return protocol
