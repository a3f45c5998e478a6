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
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from phpmq.client_connection import ClientConnection, Request
from phpmq.errors import Closed, NotConnected, PHPMQError

# Seconds that a connection may take to close: what was written goes out first, and the other end may be silent.
_CLOSE_TIMEOUT = 5.0


def answer(request: Request) -> Deferred[Any]:
    """Return a Deferred that fires with the server's answer to a request; cancelling it cancels the request."""
    deferred: Deferred[Any] = Deferred(request.cancel)
    request.answer = deferred
    return deferred


class ClientProtocol(Protocol):
    """
    One connection of a client, which tells its owner that it is made, what it received and that it is lost.

    @ivar deadline: aborts a connection that takes too long to close
    """

    transport: Any
    deadline: IDelayedCall | None = None

    def __init__(
        self,
        made: Callable[[ClientProtocol], object],
        received: Callable[[ClientProtocol, bytes], object],
        lost: Callable[[ClientProtocol, Failure], object],
    ) -> None:
        self._made, self._received, self._lost = made, received, lost

    def connectionMade(self) -> None:
        """Set the options of a TCP connection."""
        if isinstance(self.transport.getPeer(), IPv4Address | IPv6Address):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
        self._made(self)

    def dataReceived(self, data: bytes) -> None:
        self._received(self, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.deadline is not None and self.deadline.active():
            self.deadline.cancel()
        self._lost(self, reason)


class Reconnector:
    """
    Keeps a client connected: a C{ClientService} that knows a server by its answer.

    That a connection was made does not say that it is of use: at its other end may be no server, or one that turns clients away. So
    the answer to the first request decides whether an attempt failed, and how long the pause before the next one is.

    @ivar protocol: the connection that there is
    """

    def __init__(self, endpoint: IStreamClientEndpoint, connection: ClientConnection, clock: Any, retry: Callable[[int], float]) -> None:
        self._connection, self._clock = connection, clock
        self._endpoint = _Watched(endpoint, self._failed)
        factory = Factory.forProtocol(lambda: ClientProtocol(self._made, self._received, self._lost))
        factory.noisy = False
        self._service = ClientService(self._endpoint, factory, retryPolicy=lambda _: retry(self._failures), clock=clock)
        self.protocol: ClientProtocol | None = None
        self._answered, self._failures = False, 0
        # The Deferreds that wait for an answer of the server, and for how many attempts; None for any number.
        self._waiting: dict[Deferred[None], int | None] = {}

    def start(self) -> None:
        """Connect, and stay connected."""
        self._failures = 0
        self._service.startService()

    def stop(self) -> Deferred[None]:
        """Disconnect. Fires when the connection is closed: what was written goes out first, unless the server takes too long."""
        if self.protocol is not None:
            self.protocol.deadline = self._clock.callLater(_CLOSE_TIMEOUT, self.protocol.transport.abortConnection)
            self.protocol = None
        waiting, self._waiting = self._waiting, {}
        for deferred in waiting:
            deferred.errback(Closed("the client was closed before the server answered"))
        if not self._service.running:
            return succeed(None)
        if self._endpoint.connecting:
            # A callback of an attempt that fails at once is still within a call of the service, which must not be called again.
            return deferLater(self._clock, 0, self._service.stopService)  # type: ignore[arg-type]
        return self._service.stopService()

    def when_answered(self, attempts: int | None) -> Deferred[None]:
        """Fires once the server has answered over this connection; fails after C{attempts} that failed, or never if it is None."""
        if self.protocol is not None and self._answered:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._waiting.__delitem__)
        self._waiting[waiting] = attempts
        return waiting

    def check(self) -> None:
        """Give up a connection whose other end is silent; to be called about once a second."""
        protocol = self.protocol
        if protocol is not None:
            try:
                self._connection.check_silence()
            except EOFError as error:
                self._give_up(protocol, NotConnected(str(error)))

    def _made(self, protocol: ClientProtocol) -> None:
        """Go on over a new connection, and see whether a server answers."""
        self.protocol = protocol
        self._answered = False
        self._connection.connected(protocol.transport.write)
        ping = answer(self._connection.ping())
        ping.addCallbacks(self._proved, lambda failure: self._give_up(protocol, failure.value))

    def _proved(self, _: object) -> None:
        self._answered = True
        self._failures = 0
        waiting, self._waiting = self._waiting, {}
        for deferred in waiting:
            deferred.callback(None)

    def _received(self, protocol: ClientProtocol, data: bytes) -> None:
        if protocol is self.protocol:
            try:
                self._connection.receive(data)
            except PHPMQError as error:
                self._give_up(protocol, error)

    def _give_up(self, protocol: ClientProtocol, error: Exception) -> None:
        """Close a connection at once, whatever was written."""
        if protocol is self.protocol:
            protocol.transport.abortConnection()
            self._end(error)

    def _lost(self, protocol: ClientProtocol, reason: Failure) -> None:
        if protocol is self.protocol:
            why = "the server closed it" if reason.check(ConnectionDone) else reason.getErrorMessage()
            self._end(NotConnected(f"the connection was lost: {why}"))

    def _end(self, error: Exception) -> None:
        self.protocol = None
        self._connection.lost(error)
        self._failed(error)

    def _failed(self, error: Exception) -> None:
        """Count an attempt that failed, or a connection that is lost."""
        self._failures += 1
        self._connection.trouble = error
        for waiting, attempts in list(self._waiting.items()):
            if attempts is not None and waiting in self._waiting:
                self._waiting[waiting] = attempts - 1
                if attempts <= 1:
                    del self._waiting[waiting]
                    waiting.errback(error)


@implementer(IStreamClientEndpoint)
class _Watched:
    """
    An endpoint that reports its failures.

    @ivar connecting: whether it is being called
    """

    connecting = False

    def __init__(self, endpoint: IStreamClientEndpoint, failed: Callable[[Exception], object]) -> None:
        self._endpoint, self._failed = endpoint, failed

    def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803  # the interface's name
        """Connect; see L{IStreamClientEndpoint}."""
        self.connecting = True
        try:
            return maybeDeferred(self._endpoint.connect, protocolFactory).addErrback(self._not_reached)
        finally:
            self.connecting = False

    def _not_reached(self, failure: Failure) -> Failure:
        if not failure.check(CancelledError):
            error = NotConnected(f"the server cannot be reached: {failure.getErrorMessage()}")
            error.__cause__ = failure.value
            self._failed(error)
        return failure
