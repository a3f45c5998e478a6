"""All connections of a server: their number, their deadlines, and what they hold together."""

from __future__ import annotations

import select
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import Logger

from phpmq.errors import ProtocolError
from phpmq.server_frames import Versions

if TYPE_CHECKING:
    from phpmq.broker import Broker
    from phpmq.protocol.protocol import QueueProtocol

#: Seconds that a TLS handshake may take.
HANDSHAKE_TIMEOUT = 10.0

#: Seconds that a peer has to take the rest of what it was sent, once its connection is being closed.
CLOSE_TIMEOUT = 10.0

#: What a connection may be given a deadline for.
DEADLINES = "handshake", "frame", "write", "close"

# What tells that a client closed its end; not every system has the first.
_HANGUP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP

# Addresses whose misbehaviour is remembered, and for how many seconds they are not logged again.
_OFFENDERS, _QUIET = 1024, 60.0


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
