"""The client as a service."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from random import random
from types import TracebackType
from typing import Any, Self

from twisted.application.internet import ClientService, backoffPolicy
from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from phpmq.client.consumer import Consumer, Delivery, Worker, answer
from phpmq.conversation import MAX_UNCONFIRMED, MAX_UNCONFIRMED_SIZE, TIMEOUT, Conversation, MessageId
from phpmq.errors import ClientError, Closed, NotConnected, PHPMQError

#: Seconds of silence after which a client asks whether the server is still there.
HEARTBEAT = 30.0

# Seconds between two looks at what is late.
_CHECK_INTERVAL = 1.0


def _jitter() -> float:
    """Seconds by which the clients of a server that comes back differ."""
    return random() / 10


class QueueClient(Service):
    """
    A client of one server: a service that connects, and connects again with growing pauses when the connection is lost.

    Everything may be called at any time, also before it is connected. To use it without an application there is C{async with}, which
    starts it, and at the end waits for the receipts and stops it.
    """

    _log = Logger()

    def __init__(
        self,
        endpoint: IStreamClientEndpoint | str = "tcp:127.0.0.1:9100",
        reactor: Any = None,
        timeout: float = TIMEOUT,
        heartbeat: float = HEARTBEAT,
        max_unconfirmed: int = MAX_UNCONFIRMED,
        max_unconfirmed_size: int = MAX_UNCONFIRMED_SIZE,
        retry: Callable[[int], float] | None = None,
    ) -> None:
        """
        @param endpoint: where the server listens; a string is a client description of Twisted's, such as C{unix:/run/phpmq/mq.sock}
            or C{tls:mq.example:9100}
        @param reactor: None for the one that is installed
        @param timeout: seconds after which a request that is not answered fails
        @param heartbeat: seconds of silence after which the server is asked whether it is there; after as long again without an answer
            the connection is given up
        @param max_unconfirmed: how many sends may wait for their receipts
        @param max_unconfirmed_size: how many bytes they may have
        @param retry: from the number of failed attempts to the seconds before the next one
        @raise ValueError: the string describes no endpoint
        """
        if reactor is None:
            from twisted.internet import reactor
        where = clientFromString(reactor, endpoint) if isinstance(endpoint, str) else endpoint
        self.conversation = Conversation(reactor.seconds, Delivery, timeout, max_unconfirmed, max_unconfirmed_size)
        self.conversation.outbox.on_answered = self._answered
        self.seconds: Callable[[], float] = reactor.seconds
        self._heartbeat = heartbeat
        #: The connection, while there is one.
        self.protocol: _ClientProtocol | None = None
        self._link = ClientService(
            where,
            Factory.forProtocol(lambda: _ClientProtocol(self)),
            retryPolicy=retry or backoffPolicy(0.1, 10.0, 1.5, _jitter),
            clock=reactor,
            prepareConnection=lambda protocol: Deferred.fromCoroutine(protocol.prepare()),  # type: ignore[attr-defined]
        )
        self._checks = LoopingCall(self._check)
        self._checks.clock = reactor
        self._wanting_room: deque[Deferred[None]] = deque()
        self._wanting_receipts: deque[Deferred[None]] = deque()

    # Life

    def startService(self) -> None:
        """Connect, and stay connected."""
        super().startService()
        self.conversation.open()
        self._link.startService()
        self._checks.start(_CHECK_INTERVAL, now=False)

    def stopService(self) -> Deferred[None]:
        """Disconnect. What is not answered fails with L{phpmq.errors.Closed}; to wait for receipts before, see L{confirmed}."""
        super().stopService()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        if self._checks.running:
            self._checks.stop()
        self.conversation.close()
        while self._wanting_room:
            self._wanting_room.popleft().errback(Closed("the client was closed"))
        await self._link.stopService()

    async def __aenter__(self) -> Self:
        self.startService()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            await self.confirmed()
        await self.stopService()

    async def connected(self, attempts: int | None = None) -> None:
        """
        Wait until the server answers.

        @param attempts: give up after so many failed attempts in a row; None for never
        @raise NotConnected: it could not be reached
        @raise ProtocolError: what answers does not speak version 02 of the protocol
        @raise Closed: the client was closed meanwhile
        """
        try:
            await self._link.whenConnected(failAfterFailures=attempts)
        except PHPMQError:
            raise
        except CancelledError:
            raise Closed("the client was closed before the server answered") from None
        except Exception as error:
            raise NotConnected(f"the server cannot be reached: {error}") from error

    def _check(self) -> None:
        """Once a second. Catches everything: a LoopingCall that fails once never runs again."""
        try:
            self.conversation.expire()
            if self.protocol is not None:
                self.protocol.check(self._heartbeat)
        except Exception:
            self._log.failure("a periodic check failed")

    # Sending

    def send(
        self,
        queue: str,
        body: bytes,
        *,
        ttl: float = 0,
        delay: float = 0,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        level: str = "stored",
    ) -> Deferred[MessageId]:
        """
        Send a message: now, or as soon as the server can be reached. A connection that is lost meanwhile does not matter: what has no
        receipt is sent again, and stored once.

        @param queue: 1-255 bytes of UTF-8 without control characters
        @param ttl: seconds until it expires; 0 for never
        @param delay: seconds until it is ready
        @param headers: strings by name, 8192 bytes as JSON
        @param key: while a message with this key is in the queue, nothing is stored; 255 bytes
        @param level: C{stored}: the receipt says that the server has it in memory. C{synced}: that it is on the disk
        @return: the message's id, a L{DuplicateId} if nothing was stored. It fails with L{phpmq.errors.QueueFull}, C{MemoryFull},
            C{DiskFailing} or C{NotAllowed} when the server refuses; with C{TimedOut} or C{Closed} when it is not known whether it was
            stored; with C{ClientFull} when too many wait (see L{room}). Cancelling it takes back what was not written yet.
        @raise BadName: no queue can have that name
        @raise TooLarge: key or headers are too long
        @raise TypeError: the body is not C{bytes}, or a header no string
        @raise ValueError: a number of seconds is negative, the key is empty, or there is no such level
        """
        try:
            return answer(self.conversation.send(queue, body, ttl, delay, headers, key, level))
        except ClientError as error:
            return fail(error)

    def room(self) -> Deferred[None]:
        """Fires when one more send may wait for its receipt; those who wait for that are served in turn."""
        wanting: Deferred[None] = Deferred(self._wanting_room.remove)
        self._wanting_room.append(wanting)
        self._answered()
        return wanting

    def confirmed(self) -> Deferred[None]:
        """Fires when no send waits for its receipt, with or without success."""
        wanting: Deferred[None] = Deferred(self._wanting_receipts.remove)
        self._wanting_receipts.append(wanting)
        self._answered()
        return wanting

    def _answered(self) -> None:
        outbox = self.conversation.outbox
        while self._wanting_room and outbox.has_room:
            self._wanting_room.popleft().callback(None)
        while self._wanting_receipts and not outbox.sends:
            self._wanting_receipts.popleft().callback(None)

    def ping(self) -> Deferred[None]:
        """Fires when the server has carried out all that it was told before. Fails with C{NotConnected} or C{TimedOut}."""
        try:
            return answer(self.conversation.ping())
        except ClientError as error:
            return fail(error)

    # Consuming

    def consume(self, queue: str, window: int = 100, lease: float = 0) -> Consumer:
        """
        Have a queue's messages delivered, in order; for a queue that is being consumed already, its consumer with another window.

        @param window: the most messages to hold unsettled; the server may have a lower limit
        @param lease: seconds that each may be held before the server gives it to somebody else; 0 for as long as the connection lasts
        @raise BadName: no queue can have that name
        @raise ValueError: the window is not positive, the lease negative, or the queue is subscribed to
        @raise Closed: the client is closed
        """
        return self._consume(queue, window, lease, None)

    def subscribe(self, queue: str, worker: Worker, window: int = 100, lease: float = 0) -> Consumer:
        """
        Have a function called with each message of a queue, for up to C{window} at a time. It settles the delivery; if it raises an
        exception, or the coroutine or Deferred that it returned fails, that is logged, and a delivery that is not settled is re-queued,
        with a longer delay each time (L{backoff}).

        Other parameters and errors are those of L{consume}.
        """
        return self._consume(queue, window, lease, worker)

    def _consume(self, queue: str, window: int, lease: float, worker: Worker | None) -> Consumer:
        consumer: Any = self.conversation.receivers.get(queue)
        if consumer is None or not consumer.window:
            consumer = Consumer(self, queue, worker)
        elif worker or consumer.worker:
            raise ValueError(f"the queue {queue!r} is consumed already")
        self.conversation.consume(queue, consumer, window, lease)
        return consumer  # type: ignore[no-any-return]

    def stop_consuming(self, consumer: Consumer) -> Deferred[None]:
        """What L{Consumer.stop} does."""
        if self.conversation.receivers.get(consumer.queue) is not consumer:
            return succeed(None)
        request = self.conversation.stop_consuming(consumer.queue)
        return succeed(None) if request is None else answer(request)


class _ClientProtocol(Protocol):
    """One connection of a client."""

    _pinged = False
    _heard = 0.0

    def __init__(self, client: QueueClient) -> None:
        self._client = client

    def connectionMade(self) -> None:
        """Go on with the conversation."""
        transport: Any = self.transport
        if isinstance(transport.getPeer(), IPv4Address | IPv6Address):
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)
        client = self._client
        client.protocol = self
        self._heard = client.seconds()
        client.conversation.connected(transport.write)

    async def prepare(self) -> None:
        """See that this is a server that answers; a connection whose preparation fails counts as a failed attempt."""
        try:
            await self._client.ping()
        except BaseException:
            self._abort(None)
            raise

    def dataReceived(self, data: bytes) -> None:
        """Hand bytes to the conversation."""
        client = self._client
        self._heard = client.seconds()
        self._pinged = False
        if client.protocol is self:
            try:
                client.conversation.receive(data)
            except PHPMQError as error:
                self._abort(error)

    def check(self, heartbeat: float) -> None:
        """Give up a connection whose other end is silent."""
        silence = self._client.seconds() - self._heard
        if silence >= 2 * heartbeat:
            self._abort(None)
        elif silence >= heartbeat and not self._pinged:
            self._pinged = True
            self._client.ping().addErrback(lambda _: None)

    def _abort(self, error: Exception | None) -> None:
        self._over(error)
        transport: Any = self.transport
        transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Sends wait for the next connection."""
        self._over(None)

    def _over(self, error: Exception | None) -> None:
        if self._client.protocol is self:
            self._client.protocol = None
            self._client.conversation.lost(error)
