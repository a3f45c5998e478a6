"""The client for scripts, its consumers and their deliveries."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from phpmq import client_connection
from phpmq.addresses import parse_address
from phpmq.blocking.reconnector import Reconnector, Submission
from phpmq.client_connection import HEARTBEAT, MAX_UNCONFIRMED, MAX_UNCONFIRMED_SIZE, TIMEOUT, MessageId


class Delivery(client_connection.Delivery[bool]):
    """
    A message that this client holds until it is settled.

    Each way to settle it waits for the server's answer and returns whether the server did it. False: the connection was lost, the lease was
    over or it was settled before; then the message may be delivered again.
    """

    __slots__ = ("_reconnector",)

    _reconnector: Reconnector

    def ack(self, wait: bool = True) -> bool:
        """
        Acknowledge it: the work is done, and the server forgets the message.

        @param wait: false to go on without an answer, which is faster; then True only means that the acknowledgement was sent
        """
        if wait:
            return super().ack()
        sent = self._connection.ack_unanswered(self)
        if sent:
            self._reconnector.flush()
        return sent

    def _settle(self, encode: Callable[..., bytes], *arguments: object, final: bool = True) -> bool:
        request = self._connection.settle(self, encode, *arguments, final=final)
        return request is not None and bool(self._reconnector.answer(request))


def check_timeout(timeout: float | None) -> None:
    """Refuse a timeout that is neither a number of seconds nor None with C{ValueError}."""
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"a timeout is a number of seconds, not {timeout!r}")


class Consumer:
    """
    The messages of one queue: an iterator, which goes on over lost connections.

    @ivar queue: whose messages they are
    @ivar window: the most messages that this client holds unsettled; 0 once it was stopped
    @ivar lease: seconds that each may be held; 0 for no limit
    @ivar timeout: seconds without a message after which the iteration ends; None for never
    """

    def __init__(self, reconnector: Reconnector, queue: str) -> None:
        self._reconnector = reconnector
        self.queue, self.window, self.lease = queue, 0, 0.0
        self.timeout: float | None = None
        self._delivered: deque[Delivery] = deque()
        self._error: Exception | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delivery:
        delivery = self.get(self.timeout)
        if delivery is None:
            raise StopIteration
        return delivery

    def get(self, timeout: float | None = None) -> Delivery | None:
        """
        Return the next message; None if none comes in time, or once the consumer was stopped and has no more.

        @param timeout: seconds; None to wait as long as it takes
        @raise NotConnected: the server could not be reached for as long as the client's timeout
        @raise PHPMQError: the server does not let the queue be consumed any more
        @raise ValueError: the timeout is negative
        """
        check_timeout(timeout)
        if not self._has_more():
            self._reconnector.wait(self._has_more, timeout)
        if self._delivered:
            return self._delivered.popleft()
        self.check()
        return None

    def _has_more(self) -> bool:
        # A consumer that was stopped does not hear that the connection is lost.
        while self._delivered and self._delivered[0].lost:
            self._delivered.popleft()
        return bool(self._delivered) or not self.window

    def check(self) -> None:
        """Raise what the server refused to let the queue be consumed with."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Consume no more. What was delivered until then can still be iterated, then the iteration ends."""
        request = self._reconnector.connection.stop_consuming(self.queue, self)
        if request is not None:
            self._reconnector.answer(request)

    # Receiver

    def deliver(self, delivery: Delivery) -> None:
        """Take a message; see L{client_connection.Receiver}."""
        delivery._reconnector = self._reconnector
        self._delivered.append(delivery)

    def lost(self) -> None:
        """Drop what was not handed out: the server has taken it back; see L{client_connection.Receiver}."""
        self._delivered.clear()

    def end(self, error: Exception | None) -> None:
        """Expect no more messages; see L{client_connection.Receiver}."""
        self.window = 0
        self._error = error


class QueueClient:
    """
    A client of one server, connected when it is made.

    When the connection is lost, the next call that waits for the server connects again. A C{with} statement closes it at the end, after the
    receipts have come. It works, and its time passes, while one of its calls waits. It belongs to one thread; several threads use one each.
    """

    def __init__(
        self,
        address: str = "tcp:127.0.0.1:9100",
        timeout: float = TIMEOUT,
        heartbeat: float = HEARTBEAT,
        max_unconfirmed: int = MAX_UNCONFIRMED,
        max_unconfirmed_size: int = MAX_UNCONFIRMED_SIZE,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """
        @param address: C{HOST}, C{HOST:PORT}, C{tcp:HOST:PORT}, C{unix:PATH} or C{tls:HOST:PORT}; see L{phpmq.addresses}
        @param timeout: seconds of waiting after which a request that is not answered fails, or a server that cannot be reached is given up
        @param heartbeat: seconds of waiting in silence after which the server is asked whether it is there; twice that, and it is given up
        @param max_unconfirmed: how many submitted sends may wait for their receipts
        @param max_unconfirmed_size: how many bytes they may have
        @param tls: for C{tls:}, how to check the server's certificate, instead of what the address says
        @raise ValueError: it is no address, a number is not positive, or C{tls} is given for an address without
        @raise NotConnected: the server cannot be reached
        @raise ProtocolError: what answers does not speak version 02 of the protocol
        @raise TimedOut: nothing answers
        """
        where = parse_address(address)
        self._reconnector = Reconnector(where, tls, Delivery, timeout, heartbeat, max_unconfirmed, max_unconfirmed_size)
        self._connection = self._reconnector.connection
        # The errors of sends that failed, until their results are asked for.
        self._failed: dict[Submission[MessageId], Exception] = {}
        self._reconnector.connect()
        try:
            self.ping()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self.confirmed()
        finally:
            self.close()

    def close(self) -> None:
        """Disconnect. What has no receipt fails with C{Closed}, and what is consumed ends: call L{confirmed} before."""
        self._connection.close()
        self._reconnector.close()

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
    ) -> MessageId:
        """
        Send a message and wait for its receipt. It is sent again, and stored once, if the connection is lost before.

        Parameters, C{TypeError} and C{ValueError} are those of L{phpmq.client.QueueClient.send}.

        @return: the message's id, a L{DuplicateId} if nothing was stored
        @raise CommandRefused: the server refuses: C{QueueFull}, C{MemoryFull}, C{DiskFailing} or C{NotAllowed}
        @raise TimedOut: there is no receipt in time; whether the message was stored is not known
        @raise NotConnected: the server could not be reached for as long as the client's timeout; the same
        @raise Closed: the client is closed
        @raise BadName: no queue can have that name
        @raise TooLarge: body, key or headers are too long, for any server or for this one
        """
        return self.submit(queue, body, ttl=ttl, delay=delay, headers=headers, key=key, level=level).result()

    def submit(
        self,
        queue: str,
        body: bytes,
        *,
        ttl: float = 0,
        delay: float = 0,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        level: str = "stored",
    ) -> Submission[MessageId]:
        """
        Send a message without waiting for its receipt, unless too many others have none: to send many quickly.

        Parameters are those of L{send}, and so are the errors of wrong ones; the others come from L{Submission.result} or L{confirmed}.

        @raise NotConnected: too many have no receipt, and the server could not be reached for as long as the client's timeout
        @raise Closed: the client is closed
        """
        outbox = self._connection.outbox
        if not outbox.has_room:
            self._reconnector.wait(lambda: outbox.has_room)
        request = self._connection.send(queue, body, ttl, delay, headers, key, level)
        submission: Submission[MessageId] = Submission(self._reconnector.wait, self._failed)
        request.answer = submission
        self._reconnector.flush()
        return submission

    def confirmed(self) -> None:
        """Wait until no send waits for its receipt; raises why the first send failed whose result was not asked for."""
        self._reconnector.wait(lambda: not self._connection.outbox.sends)
        failed, self._failed = self._failed, {}
        for error in failed.values():
            raise error

    def ping(self) -> None:
        """
        Wait until the server has carried out all that was written to it before; a send may still wait in this client.

        @raise NotConnected: there is no connection any more
        @raise TimedOut: the server does not answer
        """
        self._reconnector.answer(self._connection.ping())

    # Consuming

    def consume(self, queue: str, window: int = 100, lease: float = 0, timeout: float | None = None) -> Consumer:
        """
        Consume a queue, in order; returns the consumer that a queue has already, with another window.

        Parameters and errors are those of L{phpmq.client.QueueClient.consume}, and:

        @param timeout: seconds without a message after which the iteration ends; None for never
        @raise CommandRefused: the server refuses
        @raise ValueError: the timeout is negative
        """
        consumer: Any = self._connection.receivers.get(queue)
        if consumer is None or not consumer.window:
            consumer = Consumer(self._reconnector, queue)
        check_timeout(timeout)
        request = self._connection.consume(queue, consumer, window, lease)
        consumer.timeout = timeout
        if request is not None:
            started: Submission[None] = Submission(self._reconnector.wait, {})
            request.answer = started
            self._reconnector.wait(lambda: started.done)
            # A request that is not answered is repeated over the next connection.
            consumer.check()
        return consumer  # type: ignore[no-any-return]
