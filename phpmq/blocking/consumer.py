"""The consumer of a queue, and its deliveries."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Self

from phpmq import client_connection
from phpmq.blocking.reconnector import Reconnector


class Delivery(client_connection.Delivery[bool]):
    """
    A message that this client holds until it is settled.

    Each way to settle it waits for the server's answer and returns whether the server did it. False: the message was no longer this
    client's, or that is not known, since the connection was lost, its lease was over or it was settled before. Then it may be
    delivered again.
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
    """
    Check that a timeout is a number of seconds, or None.

    @raise ValueError: it is not
    """
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
        self.queue = queue
        self.window = 0
        self.lease = 0.0
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
        """
        Check that the server lets the queue be consumed.

        @raise PHPMQError: it does not
        """
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
