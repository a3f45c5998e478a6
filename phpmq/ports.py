"""
What every listening port needs: admission, deadlines, closing that loses nothing, and log lines that clients cannot multiply.

A client that does not do in time what a connection waits for is cut off. These are the kinds of deadlines:

    kind       what the client has to do in time    queue port       console    HTTP port
    handshake  complete the TLS handshake           10 s             -          -
    frame      go on with a frame that it began     --frame-timeout  -          -
    request    go on with a request that it began   -                -          --frame-timeout
    idle       send a line, or the next request     -                15 min     60 s
    write      read what it was sent                --write-timeout  60 s       --write-timeout
    close      read the rest, and close its end     10 s             10 s       5 s
"""

from __future__ import annotations

import select
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet import protocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime, ISSLTransport
from twisted.logger import Logger

from phpmq.errors import ProtocolError

#: A limit that is never reached.
NO_LIMIT = 2**62

# What tells that a client closed its end; not every system has the first.
_HANGUP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP

_UNIX = "unix socket"


class Connection(Protocol):
    """What a port needs of the protocol that serves one client."""

    transport: Any
    held: int  # bytes that the connection keeps for its client; only Connections.account changes it

    def miss_deadline(self, kind: str) -> None:
        """Close: a deadline has passed."""

    def abort(self) -> None:
        """Close at once."""


_C = TypeVar("_C", bound=Connection)


class LogLimiter:
    """Limits log lines that clients can cause as often as they like: one line about a topic in a minute, the others are counted."""

    _TOPICS, _SECONDS = 1024, 60.0

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._topics: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def admit(self, topic: str) -> int | None:
        """Decide about a line: None if it is left out, otherwise how many were left out since the last one about the topic."""
        now = self._clock.seconds()
        quiet_until, left_out = self._topics.pop(topic, (0.0, 0))
        if now < quiet_until:
            self._topics[topic] = quiet_until, left_out + 1
            return None
        self._topics[topic] = now + self._SECONDS, 0
        if len(self._topics) > self._TOPICS:
            self._topics.popitem(last=False)
        return left_out


class Rejected(protocol.Protocol):
    """Closes the connection at once, after a farewell. A factory that is wrapped, as for TLS, cannot do so by building no protocol."""

    def __init__(self, farewell: bytes = b"") -> None:
        self._farewell = farewell

    def connectionMade(self) -> None:
        """Close the connection."""
        transport: Any = self.transport
        if self._farewell:
            transport.write(self._farewell)
            transport.loseConnection()
        else:
            transport.abortConnection()


def host_of(address: object) -> str:
    """Return the host of a client's address; empty for a unix socket, which has none."""
    return getattr(address, "host", "")


def peer_name(transport: Any) -> str:
    """Return the name of a connection's client in logs: its host and port."""
    address: Any = None if transport is None else transport.getPeer()
    host = host_of(address)
    return f"{host}:{address.port}" if host else _UNIX


@dataclass(eq=False)
class Connections(Generic[_C]):
    """All connections of a port, over all its listeners: how many there may be, their deadlines, and what they hold together."""

    _log = Logger()

    clock: IReactorTime  # by which deadlines are kept
    deadlines: Mapping[str, float]  # kind of deadline -> seconds that it gives
    max_connections: int = 10000  # connections at a time
    max_per_address: int = NO_LIMIT  # connections at a time from one address; unix sockets have none
    max_held: int = NO_LIMIT  # the most that held may be
    noun: str = ""  # what a connection is called in the log; empty for clients of queues

    def __post_init__(self) -> None:
        self.open: dict[_C, str] = {}  # connection -> host of its client
        self.by_address: Counter[str] = Counter()  # host -> how many connections it has
        self.by_listener: Counter[str] = Counter()  # description of a listener -> how many connections it has; counted by the protocol
        self.held = 0  # bytes that the connections keep for their clients
        self.accepted = 0  # connections that there ever were
        self.rejected = 0  # connections that were refused at a limit
        self.rejected_by_address = 0  # those of them that were refused at the limit of an address
        self.received = self.sent = 0  # bytes that ever came and went; counted by the protocol
        self.timeouts: Counter[str] = Counter()  # kind of deadline -> how many were missed
        # Connection that is not read -> what to call once its client closes its end: of such a connection no reactor tells.
        self.unread: dict[_C, Callable[[], object]] = {}
        self.errors: Counter[str] = Counter()  # error code -> how many clients broke the protocol
        self._limiter = LogLimiter(self.clock)
        self._expected: dict[tuple[_C, str], float] = {}
        self._all_closed: Deferred[None] | None = None

    # Who is connected

    def admit(self, address: IAddress | None) -> bool:
        """Decide whether a client may connect; if not, answer it with L{Rejected}."""
        host = host_of(address)
        if len(self.open) >= self.max_connections:
            reason = f"there are {self.max_connections} already"
        elif host and self.by_address[host] >= self.max_per_address:
            self.rejected_by_address += 1
            reason = f"there are {self.max_per_address} of this address already"
        else:
            self.accepted += 1
            return True
        self.rejected += 1
        self._warn(host, f"rejected, {reason}")
        return False

    def add(self, connection: _C) -> None:
        """Count a connection that was made."""
        self.open[connection] = host = host_of(connection.transport.getPeer())
        if host:
            self.by_address[host] += 1

    def remove(self, connection: _C) -> None:
        """Forget a connection that is lost."""
        self.account(connection, 0)
        host = self.open.pop(connection, "")
        if host:
            self.by_address[host] -= 1
            if not self.by_address[host]:
                del self.by_address[host]
        self.unread.pop(connection, None)
        self.clear_deadlines(connection)
        if self._all_closed is not None and not self.open:
            self._all_closed.callback(None)

    def account(self, connection: _C, size: int) -> bool:
        """Count the bytes that a connection keeps for its client; false, and not counted, if all together would keep too many."""
        total = self.held + size - connection.held
        if size > connection.held and total > self.max_held:
            return False
        self.held, connection.held = total, size
        return True

    # Deadlines

    def set_deadline(self, connection: _C, kind: str, extra: float = 0.0) -> None:
        """Have the connection closed unless L{clear_deadline} is called in time; C{extra} seconds come on top of what the kind gives."""
        self._expected[connection, kind] = self.clock.seconds() + self.deadlines[kind] + extra

    def clear_deadline(self, connection: _C, kind: str) -> None:
        """Clear a deadline: the client did what was expected."""
        self._expected.pop((connection, kind), None)

    def clear_deadlines(self, connection: _C) -> None:
        """Clear all deadlines of a connection."""
        for kind in self.deadlines:
            self.clear_deadline(connection, kind)

    def count_deadlines(self) -> dict[str, int]:
        """Return how many connections have a deadline, by its kind."""
        return dict.fromkeys(self.deadlines, 0) | Counter(kind for _, kind in self._expected)

    def check(self) -> None:
        """Close the connections that missed a deadline, and find the clients that hung up; to be called about once a second."""
        now = self.clock.seconds()
        late = [key for key, deadline in self._expected.items() if deadline <= now]
        for connection, kind in late:
            self.clear_deadline(connection, kind)
            self.timeouts[kind] += 1
            # Who has nothing to say does nothing wrong.
            if kind != "idle":
                self._warn(host_of(connection.transport.getPeer()), f"closed, {kind} took too long")
            connection.miss_deadline(kind)
        for hung_up in self._find_hung_up():
            hung_up()

    def _find_hung_up(self) -> list[Callable[[], object]]:
        """Return what is to be called, and watch those connections no more."""
        sockets: dict[int, _C] = {}
        poll = select.poll()
        for connection in self.unread:
            descriptor = connection.transport.fileno()
            if descriptor >= 0:
                sockets[descriptor] = connection
                poll.register(descriptor, _HANGUP)
        return [self.unread.pop(sockets[descriptor]) for descriptor, _ in poll.poll(0)] if sockets else []

    # The end

    def close(self, connection: _C, linger: bool = False) -> None:
        """
        Close a connection once what was sent is written, or when the time for that is over.

        A socket that is closed with something unread is reset, and the other end may lose what it was sent last. If it must not, the client
        is to close first (C{linger}): this end closes only for writing and reads on; the protocol ignores what comes. TLS does the same by
        itself, and cannot close one side only.
        """
        transport = connection.transport
        transport.unregisterProducer()
        self.set_deadline(connection, "close")
        close = transport.loseConnection
        if linger:
            transport.resumeProducing()
            if not ISSLTransport.providedBy(transport):
                close = getattr(transport, "loseWriteConnection", close)
        close()

    async def wait_closed(self, seconds: float) -> None:
        """Wait until all that are being closed are closed, then abort those that are left: what was sent last has to leave the process."""
        if self.open:
            self._all_closed = Deferred()
            await self._all_closed.addTimeout(seconds, self.clock, lambda *_: None)
            self._all_closed = None
            for connection in list(self.open):
                connection.abort()

    # The log

    def count_error(self, connection: _C, error: Exception) -> None:
        """Count and log that a client broke the protocol."""
        code = getattr(error, "code", ProtocolError.code)
        self.errors[code] += 1
        self._warn(host_of(connection.transport.getPeer()), f"closed, protocol error ({code}): {error}")

    def _warn(self, host: str, what: str) -> None:
        host = host or _UNIX
        left_out = self._limiter.admit(host)
        if left_out is not None:
            line = "{host}: {what} ({left_out} more since the last line)"
            self._log.warn(line, host=host, what=f"{self.noun} {what}".lstrip(), left_out=left_out)
