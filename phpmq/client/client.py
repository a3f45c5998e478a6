"""The client for Twisted programs, which is a service, its consumers and their deliveries."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from random import random
from types import TracebackType
from typing import Any, Self

from twisted.application.internet import backoffPolicy
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.runtime import seconds as system_seconds

from phpmq import client_connection
from phpmq.addresses import KINDS, parse_address
from phpmq.client.reconnector import Reconnector, answer
from phpmq.client_connection import HEARTBEAT, MAX_UNCONFIRMED, MAX_UNCONFIRMED_SIZE, TIMEOUT, ClientConnection, MessageId, backoff
from phpmq.errors import ClientError, Closed

# Seconds between two checks of what is late.
_CHECK_INTERVAL = 1.0


def client_endpoint(reactor: Any, address: str) -> IStreamClientEndpoint:
    """Return the endpoint of a server's address, or of another client description of Twisted's; C{ValueError} if it is neither."""
    description, wrong = address, None
    try:
        description = parse_address(address).description
    except ValueError as error:
        if address.partition(":")[0].lower() in KINDS:
            raise
        wrong = error  # But Twisted and its plugins have other kinds, such as ssl.
    try:
        return clientFromString(reactor, description)  # type: ignore[no-any-return]
    except (LookupError, TypeError, ValueError) as error:
        raise wrong or ValueError(f"{address!r} is no address: {error}") from error


class Delivery(client_connection.Delivery[Deferred[bool]]):
    """
    A message that this client holds until it is settled.

    Each way to settle it returns a Deferred that never fails and may be ignored. It fires with True once the server did it. It fires with
    False if the connection was lost, the lease was over or it was settled before: then the message may be delivered again.
    """

    __slots__ = ()

    def _settle(self, encode: Callable[..., bytes], *arguments: object, final: bool = True) -> Deferred[bool]:
        request = self._connection.settle(self, encode, *arguments, final=final)
        return succeed(False) if request is None else answer(request)


#: The function that L{QueueClient.subscribe} calls with each message.
Worker = Callable[[Delivery], Awaitable[object] | object]


class Consumer:
    """
    The messages of one queue: an asynchronous iterator, which several tasks may share.

    It goes on over lost connections. What was not iterated when a connection is lost is dropped: the server delivers it again.

    @ivar queue: whose messages they are
    @ivar window: the most messages that this client holds unsettled; 0 once it was stopped
    @ivar lease: seconds that each may be held; 0 for no limit
    """

    _log = Logger()

    def __init__(self, queue: str, stop: Callable[[Consumer], Deferred[None]], worker: Worker | None = None) -> None:
        """C{stop} ends the deliveries of a consumer; a C{worker} gets them, if not the tasks that iterate."""
        self.queue, self.window, self.lease = queue, 0, 0.0
        self._stop, self._worker = stop, worker
        self._working = 0
        self._finishing: deque[Deferred[None]] = deque()
        self._waiting: deque[Deferred[Delivery | None]] = deque()
        self._delivered: deque[Delivery] = deque()
        self._ended = False
        self._error: Exception | None = None

    @property
    def subscribed(self) -> bool:
        """Whether a function is called with each message."""
        return self._worker is not None

    def __aiter__(self) -> Self:
        if self.subscribed:
            raise TypeError(f"the messages of {self.queue!r} go to the function that is subscribed")
        return self

    async def __anext__(self) -> Delivery:
        while self._delivered:
            delivery = self._delivered.popleft()
            # A consumer that was stopped does not hear that the connection is lost.
            if not delivery.lost:
                return delivery
        if not self._ended:
            waiting: Deferred[Delivery | None] = Deferred(self._waiting.remove)
            self._waiting.append(waiting)
            if (arrived := await waiting) is not None:
                return arrived
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    def stop(self) -> Deferred[None]:
        """
        Consume no more. Fires when the server knows, and the function that is subscribed has finished. What was delivered until then can
        still be iterated, then the iteration ends.
        """
        return Deferred.fromCoroutine(self._finish())

    async def _finish(self) -> None:
        await self._stop(self)
        if self._working:
            finished: Deferred[None] = Deferred(self._finishing.remove)
            self._finishing.append(finished)
            await finished

    # Receiver

    def deliver(self, delivery: Delivery) -> None:
        """Take a message; see L{client_connection.Receiver}."""
        if self._worker is not None:
            self._work(self._worker, delivery)
        elif self._waiting:
            self._waiting.popleft().callback(delivery)
        else:
            self._delivered.append(delivery)

    def _work(self, worker: Worker, delivery: Delivery) -> None:
        try:
            result = worker(delivery)
        except Exception:
            self._failed(Failure(), delivery)
            return
        if isinstance(result, Coroutine):
            result = Deferred.fromCoroutine(result)
        if isinstance(result, Deferred):
            self._working += 1
            result.addErrback(self._failed, delivery).addBoth(self._done)

    def _failed(self, failure: Failure, delivery: Delivery) -> None:
        self._log.failure("a message of {queue!r} could not be handled", failure, queue=self.queue)
        delivery.requeue(delivery.ttl, backoff(delivery.attempts))

    def _done(self, _: object) -> None:
        self._working -= 1
        while self._finishing and not self._working:
            self._finishing.popleft().callback(None)

    def lost(self) -> None:
        """Drop what was not handed out: the server has taken it back; see L{client_connection.Receiver}."""
        self._delivered.clear()

    def end(self, error: Exception | None) -> None:
        """Expect no more messages; see L{client_connection.Receiver}."""
        if error is not None:
            self._log.error("the queue {queue!r} cannot be consumed: {error}", queue=self.queue, error=error)
        self.window = 0
        self._ended = True
        self._error = error
        while self._waiting:
            self._waiting.popleft().callback(None)


class QueueClient(Service):
    """
    A client of one server: a service that connects, and connects again with growing pauses when the connection is lost.

    Everything may be called at any time, also before it is connected or started; but only a client that runs finds out that something
    takes too long. Without an application, C{async with} starts it, and at the end waits for the receipts and stops it. It may be started
    again after C{stopService}, which ends what it consumed.

    @ivar connection: what is sent and consumed; C{connection.online} tells whether there is a connection
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
        @param endpoint: where the server listens; a string is an address (see L{phpmq.addresses}) or a client description of Twisted's
        @param reactor: None for the one that is installed
        @param timeout: seconds after which a request that is not answered fails
        @param heartbeat: seconds of silence after which the server is asked whether it is there; after twice that it is given up
        @param max_unconfirmed: how many sends may wait for their receipts
        @param max_unconfirmed_size: how many bytes they may have
        @param retry: from the number of failed attempts, 1 or more, to the seconds before the next one
        @raise ValueError: the string is no address, or a number is not positive
        """
        if reactor is None:
            from twisted.internet import reactor
        where = client_endpoint(reactor, endpoint) if isinstance(endpoint, str) else endpoint
        # A reactor follows the system's time unless it has another clock; a step of that time must not look like a silent server.
        seconds = time.monotonic if reactor.seconds is system_seconds else reactor.seconds
        self.connection = ClientConnection(seconds, Delivery, timeout, heartbeat, max_unconfirmed, max_unconfirmed_size)
        self.connection.outbox.on_answered = self._answered
        # The jitter is for the server that comes back: its clients do not connect at the same moment.
        retry = retry or backoffPolicy(0.1, 10.0, 1.5, jitter=lambda: random() / 10)
        self._reconnector = Reconnector(where, self.connection, reactor, retry)
        self._checks = LoopingCall(self._check)
        self._checks.clock = reactor
        self._wanting_room: deque[Deferred[None]] = deque()
        self._wanting_receipts: deque[Deferred[None]] = deque()

    # Life

    def startService(self) -> None:
        """Connect, and stay connected. To start a client that runs already changes nothing."""
        super().startService()
        if not self._checks.running:
            self.connection.open()
            self._checks.start(_CHECK_INTERVAL, now=False)
            self._reconnector.start()

    def stopService(self) -> Deferred[None]:
        """
        Disconnect, and fire when that is done. What is not answered fails with C{Closed}, and what is consumed ends: wait for
        L{confirmed} and L{Consumer.stop} before.
        """
        super().stopService()
        if self._checks.running:
            self._checks.stop()
        stopped = self._reconnector.stop()
        self.connection.close()
        return stopped

    async def __aenter__(self) -> Self:
        self.startService()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                await self.confirmed()
        finally:
            await self.stopService()

    def connected(self, attempts: int | None = None) -> Deferred[None]:
        """
        Fires when the server has answered over the connection that there is.

        @param attempts: give up after that many failed attempts in a row; None for never
        @return: fails with C{NotConnected}, with C{TimedOut} if nothing answers, with a C{ProtocolError} if what answers does not speak
            version 02 of the protocol, and with C{Closed} if the client is closed
        """
        if self.connection.closed:
            return fail(Closed("the client is closed"))
        return self._reconnector.when_answered(attempts)

    def _check(self) -> None:
        """Once a second. Catches everything: a LoopingCall that fails once never runs again."""
        try:
            self.connection.expire()
            self._reconnector.check()
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
        Send a message, now or once the server can be reached. It is sent again, and stored once, if the connection is lost before.

        @param queue: 1-255 bytes of UTF-8 without control characters
        @param ttl: seconds until it expires; 0 for never
        @param delay: seconds until it is ready
        @param headers: strings by name, 8192 bytes as JSON
        @param key: while the queue knows a message with this key, nothing is stored; 255 bytes
        @param level: C{stored}: the receipt says that the server has it in memory. C{synced}: that it is on the disk
        @return: fires with the message's id, a L{DuplicateId} if nothing was stored. Fails with C{QueueFull}, C{MemoryFull},
            C{DiskFailing}, C{NotAllowed} or C{TooLarge} when the server refuses; with C{TimedOut} or C{Closed} when it is not known whether
            it was stored; with C{ClientFull} when too many wait (see L{room}). Cancelling it cancels a send that was not written yet.
        @raise BadName: no queue can have that name
        @raise TooLarge: body, key or headers are too long for any server
        @raise TypeError: the body is not C{bytes}, or name, key or a header no string
        @raise ValueError: a number of seconds is negative, the key is empty or cannot be UTF-8, or there is no such level
        """
        try:
            return answer(self.connection.send(queue, body, ttl, delay, headers, key, level))
        except ClientError as error:
            return fail(error)

    def room(self) -> Deferred[None]:
        """Fires when one more send may wait for its receipt, in the order of the calls; fails with C{Closed} if the client is closed."""
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
        outbox = self.connection.outbox
        while self._wanting_room and (outbox.has_room or self.connection.closed):
            wanting = self._wanting_room.popleft()
            if self.connection.closed:
                wanting.errback(Closed("the client is closed"))
            else:
                wanting.callback(None)
        while self._wanting_receipts and not outbox.sends:
            self._wanting_receipts.popleft().callback(None)

    def ping(self) -> Deferred[None]:
        """
        Fires when the server has carried out all that was written to it before; a send may still wait in this client.

        @return: fails with C{NotConnected} if there is no connection or it is lost, and with C{TimedOut}
        """
        try:
            return answer(self.connection.ping())
        except ClientError as error:
            return fail(error)

    # Consuming

    def consume(self, queue: str, window: int = 100, lease: float = 0) -> Consumer:
        """
        Consume a queue, in order; returns the consumer that a queue has already, with another window.

        @param window: the most messages to hold unsettled; the server may have a lower limit
        @param lease: seconds that each may be held before the server gives it to another consumer; 0 for as long as the connection lasts
        @raise BadName: no queue can have that name
        @raise TypeError: the name is no string, the window no integer or the lease no number
        @raise ValueError: the window is not positive, the lease negative, or the queue is subscribed to
        @raise Closed: the client is closed
        """
        return self._consume(queue, window, lease, None)

    def subscribe(self, queue: str, worker: Worker, window: int = 100, lease: float = 0) -> Consumer:
        """
        Call a function with each message of a queue, for up to C{window} at a time; it settles the delivery. If it raises an exception, or
        the coroutine or Deferred that it returned fails, that is logged, and a delivery that is not settled is re-queued with its time to
        live, and with a longer delay each time (L{backoff}). Other parameters and errors are those of L{consume}.

        @raise TypeError: the function is none
        @raise ValueError: the queue is consumed already
        """
        if not callable(worker):
            raise TypeError(f"a function is called with each message, not {type(worker).__name__}")
        return self._consume(queue, window, lease, worker)

    def _consume(self, queue: str, window: int, lease: float, worker: Worker | None) -> Consumer:
        consumer: Any = self.connection.receivers.get(queue)
        if consumer is None or not consumer.window:
            consumer = Consumer(queue, self._stop_consuming, worker)
        elif worker or consumer.subscribed:
            raise ValueError(f"the queue {queue!r} is consumed already")
        self.connection.consume(queue, consumer, window, lease)
        return consumer  # type: ignore[no-any-return]

    def _stop_consuming(self, consumer: Consumer) -> Deferred[None]:
        request = self.connection.stop_consuming(consumer.queue, consumer)
        return succeed(None) if request is None else answer(request)
