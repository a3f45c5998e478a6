"""What a client gets, and how it tells what becomes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from phpmq import conversation
from phpmq.client_frames import encode_ack, encode_dead_letter, encode_requeue, encode_touch

if TYPE_CHECKING:
    from phpmq.blocking.client import QueueClient


class Delivery(conversation.Delivery):
    """
    A message that this client holds until it is settled.

    Each way to settle it waits for the server's answer and tells whether the server did it. False: the message was no longer this
    client's, or that is not known, since the connection was lost, its lease was over or it was settled before. Then it may be
    delivered again.
    """

    __slots__ = ("_client",)

    _client: QueueClient

    def ack(self, wait: bool = True) -> bool:
        """
        Acknowledge: it is done, and the server forgets it.

        @param wait: false to go on without an answer, which is faster; then True only means that the server was told
        """
        if wait:
            return self._settle(encode_ack)
        told = self._conversation.ack_unanswered(self)
        if told:
            self._client._link.flush()
        return told

    def requeue(self, ttl: float = 0, delay: float = 0) -> bool:
        """
        Send it to the tail of its queue.

        @param ttl: seconds from now until it expires; 0 for never, whatever it had before
        @param delay: seconds until it is ready again
        @raise ValueError: one of them is negative
        """
        return self._settle(encode_requeue, ttl, delay)

    def dead_letter(self, reason: str = "") -> bool:
        """
        Set it aside for the operator, who reads the reason (the first 1024 bytes of it).

        @raise TypeError: the reason is no string
        """
        return self._settle(encode_dead_letter, reason)

    def touch(self) -> bool:
        """Start its lease again."""
        return self._settle(encode_touch, final=False)

    def _settle(self, encode: Callable[..., bytes], *arguments: object, final: bool = True) -> bool:
        request = self._conversation.settle(self, encode, *arguments, final=final)
        return request is not None and bool(self._client._answer(request))


def checked(timeout: float | None) -> None:
    """
    See whether that is a number of seconds, or None.

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

    def __init__(self, client: QueueClient, queue: str) -> None:
        self._client = client
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
        The next message; None if there is none in time, or once the consumer was stopped and has no more.

        @param timeout: seconds; None to wait as long as it takes
        @raise NotConnected: the server could not be reached for as long as the client's timeout
        @raise PHPMQError: the server does not let the queue be consumed any more
        @raise ValueError: the timeout is negative
        """
        checked(timeout)
        if not self._has_more():
            self._client._link.wait(self._has_more, timeout)
        if self._delivered:
            return self._delivered.popleft()
        self.check()
        return None

    def _has_more(self) -> bool:
        # Of a consumer that was stopped nobody tells that the connection was lost.
        while self._delivered and self._delivered[0].lost:
            self._delivered.popleft()
        return bool(self._delivered) or not self.window

    def check(self) -> None:
        """
        See whether it may go on.

        @raise PHPMQError: the server does not let the queue be consumed
        """
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Have no more delivered. What was delivered until then can still be iterated, then the iteration ends."""
        self._client._stop_consuming(self)

    # Receiver

    def deliver(self, delivery: Delivery) -> None:
        """Take a message; see L{conversation.Receiver}."""
        delivery._client = self._client
        self._delivered.append(delivery)

    def lost(self) -> None:
        """The server has taken back what was not handed out; see L{conversation.Receiver}."""
        self._delivered.clear()

    def end(self, error: Exception | None) -> None:
        """Nothing more will come; see L{conversation.Receiver}."""
        self.window = 0
        self._error = error
