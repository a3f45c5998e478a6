"""The connection of a client: made, watched, and made again when it is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from phpmq.client.delivery import answer
from phpmq.conversation import Conversation
from phpmq.errors import Closed, NotConnected, PHPMQError

# Seconds that a connection may take to close: what was written goes out first, and the other end may be silent.
_CLOSE_TIMEOUT = 5.0


class Link:
    """
    Keeps a conversation connected: connects, and connects again with growing pauses when the connection is lost.

    L{twisted.application.internet.ClientService} does not: a connection that is lost before it is known to be a good one is an
    input that its state machine has no transition for.

    @ivar connection: the one that there is
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        conversation: Conversation,
        clock: Any,
        seconds: Callable[[], float],
        heartbeat: float,
        retry: Callable[[int], float],
    ) -> None:
        """
        @param seconds: the time, for C{heartbeat}
        @param heartbeat: seconds of silence after which the server is asked whether it is there
        @param retry: from the number of failed attempts to the seconds before the next one
        """
        self._endpoint = endpoint
        self._conversation = conversation
        self._clock = clock
        self._seconds = seconds
        self._heartbeat = heartbeat
        self._retry = retry
        self.connection: Connection | None = None
        self._wanted = self._answered = False
        self._failures = 0
        # An attempt that is under way, and the next one.
        self._attempt: Deferred[Any] | None = None
        self._next: IDelayedCall | None = None
        # All connections that are not closed yet, also those that were given up; and those that a stop waits for.
        self._open: set[Connection] = set()
        self._leaving: set[Connection] = set()
        self._stopping: list[Deferred[None]] = []
        # Who waits for an answer of the server, and for how many attempts; None for ever.
        self._waiting: dict[Deferred[None], int | None] = {}

    def start(self) -> None:
        """Connect, and stay connected."""
        self._wanted = True
        self._failures = 0
        self._connect()

    def stop(self) -> Deferred[None]:
        """Disconnect. Fires when everything is closed."""
        self._wanted = False
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._attempt is not None:
            attempt, self._attempt = self._attempt, None
            attempt.cancel()
        self.connection = None
        self._leaving |= self._open
        for connection in self._open.copy():
            connection.leave(self._clock)
        waiting, self._waiting = self._waiting, {}
        for one in waiting:
            one.errback(Closed("the client was closed before the server answered"))
        if not self._leaving:
            return succeed(None)
        stopping: Deferred[None] = Deferred(self._stopping.remove)
        self._stopping.append(stopping)
        return stopping

    def when_answered(self, attempts: int | None) -> Deferred[None]:
        """
        Fires once the server has answered over the connection that there is.

        @param attempts: give up after so many failed attempts; None for never
        """
        if self.connection is not None and self._answered:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._waiting.__delitem__)
        self._waiting[waiting] = attempts
        return waiting

    # One attempt

    def _connect(self) -> None:
        self._next = None
        attempt = self._attempt = maybeDeferred(self._endpoint.connect, _Factory(self))
        attempt.addCallbacks(self._reached, self._not_reached, callbackArgs=(attempt,), errbackArgs=(attempt,))

    def _reached(self, _: object, attempt: Deferred[Any]) -> None:
        # The connection has introduced itself, and may even be lost again.
        if self._attempt is attempt:
            self._attempt = None
            self._try_again()

    def _not_reached(self, failure: Failure, attempt: Deferred[Any]) -> None:
        if self._attempt is attempt:
            self._attempt = None
            error = NotConnected(f"the server cannot be reached: {failure.getErrorMessage()}")
            error.__cause__ = failure.value
            self._conversation.trouble = error
            self._again(error)

    def _again(self, error: Exception) -> None:
        self._failures += 1
        for waiting, attempts in list(self._waiting.items()):
            if attempts is not None:
                self._waiting[waiting] = attempts - 1
                if attempts <= 1:
                    del self._waiting[waiting]
                    waiting.errback(error)
        self._try_again()

    def _try_again(self) -> None:
        # Whoever heard of a failure may have stopped the client, and started it again.
        if self._wanted and self.connection is None and self._attempt is None and self._next is None:
            self._next = self._clock.callLater(self._retry(self._failures), self._connect)

    # One connection

    def made(self, connection: Connection) -> None:
        """There is a connection: go on with the conversation, and see whether it is with a server that answers."""
        self._open.add(connection)
        if not self._wanted or self.connection is not None:
            # One of an attempt that was given up.
            connection.abort()
            return
        self.connection = connection
        self._answered = False
        connection.heard = self._seconds()
        self._conversation.connected(connection.write)
        ping = answer(self._conversation.ping())
        ping.addCallbacks(self._proved, lambda failure: self.give_up(connection, failure.value))

    def _proved(self, _: object) -> None:
        self._answered = True
        self._failures = 0
        waiting, self._waiting = self._waiting, {}
        for one in waiting:
            one.callback(None)

    def received(self, connection: Connection, data: bytes) -> None:
        """Bytes came."""
        if connection is self.connection:
            connection.heard = self._seconds()
            connection.asked = 0.0
            try:
                self._conversation.receive(data)
            except PHPMQError as error:
                self.give_up(connection, error)

    def check(self) -> None:
        """Give up a connection whose other end is silent; to be called about once a second."""
        connection = self.connection
        if connection is None:
            return
        now = self._seconds()
        if connection.asked:
            if now - connection.asked >= self._heartbeat:
                self.give_up(connection, NotConnected(f"nothing was heard of the server for {now - connection.heard:.0f} s"))
        elif now - connection.heard >= self._heartbeat:
            connection.asked = now
            self._conversation.ping()

    def give_up(self, connection: Connection, error: Exception) -> None:
        """Close a connection at once, whatever was written."""
        if connection is self.connection:
            connection.abort()
            self._over(error)

    def lost(self, connection: Connection, reason: Failure) -> None:
        """A connection is closed."""
        self._open.discard(connection)
        self._leaving.discard(connection)
        if connection is self.connection:
            why = "the server closed it" if reason.check(ConnectionDone) else reason.getErrorMessage()
            self._over(NotConnected(f"the connection was lost: {why}"))
        if not self._leaving:
            stopping, self._stopping = self._stopping, []
            for one in stopping:
                one.callback(None)

    def _over(self, error: Exception) -> None:
        self.connection = None
        self._conversation.lost(error)
        self._again(error)


class _Factory(Factory):
    """Makes the connection of one attempt."""

    noisy = False

    def __init__(self, link: Link) -> None:
        self._link = link

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        """A connection."""
        return Connection(self._link)


class Connection(Protocol):
    """
    One connection of a client.

    @ivar heard: when the server last said something
    @ivar asked: when it was asked whether it is there; 0 if it said something since
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._deadline: IDelayedCall | None = None
        self.heard = 0.0
        self.asked = 0.0

    def connectionMade(self) -> None:
        """Go on with the conversation."""
        transport: Any = self.transport
        if isinstance(transport.getPeer(), IPv4Address | IPv6Address):
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)
        self._link.made(self)

    def dataReceived(self, data: bytes) -> None:
        """Hand bytes to the conversation."""
        self._link.received(self, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Sends wait for the next connection."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._link.lost(self, reason)

    def write(self, data: bytes) -> None:
        """Send bytes."""
        transport: Any = self.transport
        transport.write(data)

    def abort(self) -> None:
        """Close at once."""
        transport: Any = self.transport
        transport.abortConnection()

    def leave(self, clock: Any) -> None:
        """Close once all is written, or a while later."""
        if self._deadline is None:
            transport: Any = self.transport
            transport.loseConnection()
            self._deadline = clock.callLater(_CLOSE_TIMEOUT, self._too_late)

    def _too_late(self) -> None:
        self._deadline = None
        self.abort()
