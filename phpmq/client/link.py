"""The connection of a client: made, watched, and made again when it is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.internet import ClientService
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from phpmq.client.delivery import answer
from phpmq.conversation import Conversation
from phpmq.errors import Closed, NotConnected, PHPMQError

# Seconds that a connection may take to close: what was written goes out first, and the other end may be silent.
_CLOSE_TIMEOUT = 5.0


class Link:
    """
    Keeps a conversation connected: a C{ClientService} that knows a server by its answer.

    That a connection was made does not say that it is of use: what took it may be no server, or one that turns clients away. So whether
    an attempt failed, and how long the pause before the next one is, is decided by the answer to the conversation's first request.

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
        self._conversation = conversation
        self._clock = clock
        self._seconds = seconds
        self._heartbeat = heartbeat
        self._service = ClientService(
            _Watched(endpoint, self._failed),
            Factory.forProtocol(lambda: Connection(self)),
            retryPolicy=lambda _: retry(self._failures),
            clock=clock,
        )
        self.connection: Connection | None = None
        self._answered = False
        self._failures = 0
        # Who waits for an answer of the server, and for how many attempts; None for ever.
        self._waiting: dict[Deferred[None], int | None] = {}

    def start(self) -> None:
        """Connect, and stay connected."""
        self._failures = 0
        self._service.startService()

    def stop(self) -> Deferred[None]:
        """Disconnect. Fires when the connection is closed: what was written goes out first, unless the server takes too long."""
        if self.connection is not None:
            self.connection.leave(self._clock)
            self.connection = None
        waiting, self._waiting = self._waiting, {}
        for one in waiting:
            one.errback(Closed("the client was closed before the server answered"))
        return self._service.stopService()

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

    def _failed(self, error: Exception) -> None:
        """An attempt, or a connection, is over."""
        self._failures += 1
        self._conversation.trouble = error
        for waiting, attempts in list(self._waiting.items()):
            if attempts is not None and waiting in self._waiting:
                self._waiting[waiting] = attempts - 1
                if attempts <= 1:
                    del self._waiting[waiting]
                    waiting.errback(error)

    def made(self, connection: Connection) -> None:
        """There is a connection: go on with the conversation, and see whether it is with a server that answers."""
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
        if connection is self.connection:
            why = "the server closed it" if reason.check(ConnectionDone) else reason.getErrorMessage()
            self._over(NotConnected(f"the connection was lost: {why}"))

    def _over(self, error: Exception) -> None:
        self.connection = None
        self._conversation.lost(error)
        self._failed(error)


@implementer(IStreamClientEndpoint)
class _Watched:
    """An endpoint whose failures somebody wants to know."""

    def __init__(self, endpoint: IStreamClientEndpoint, failed: Callable[[Exception], object]) -> None:
        self._endpoint = endpoint
        self._failed = failed

    def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803  # the interface's name
        """Connect; see L{IStreamClientEndpoint}."""
        return maybeDeferred(self._endpoint.connect, protocolFactory).addErrback(self._not_reached)

    def _not_reached(self, failure: Failure) -> Failure:
        if not failure.check(CancelledError):
            error = NotConnected(f"the server cannot be reached: {failure.getErrorMessage()}")
            error.__cause__ = failure.value
            self._failed(error)
        return failure


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
        """It is being closed: not for ever."""
        if self._deadline is None:
            self._deadline = clock.callLater(_CLOSE_TIMEOUT, self._too_late)

    def _too_late(self) -> None:
        self._deadline = None
        self.abort()
