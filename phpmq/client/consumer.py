"""What is consumed, and what becomes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from phpmq import conversation
from phpmq.conversation import Request, backoff
from phpmq.requests import encode_ack, encode_dead_letter, encode_requeue, encode_touch

#: What L{QueueClient.subscribe} calls with each message.
Worker = Callable[["Delivery"], Awaitable[object] | object]


class Delivery(conversation.Delivery):
    """
    A message that this client holds until it is settled.

    Each way to settle it returns a Deferred that never fails and may be ignored. It fires with True once the server did it; with False
    if the message was no longer this client's, or that is not known: the connection was lost, its lease was over, or it was settled
    before. Then it may be delivered again.
    """

    __slots__ = ()

    def ack(self) -> Deferred[bool]:
        """Acknowledge: it is done, and the server forgets it."""
        return self._settle(encode_ack)

    def requeue(self, ttl: float = 0, delay: float = 0) -> Deferred[bool]:
        """
        Send it to the tail of its queue.

        @param ttl: seconds from now until it expires; 0 for never
        @param delay: seconds until it is ready again
        @raise ValueError: one of them is negative
        """
        return self._settle(encode_requeue, ttl, delay)

    def dead_letter(self, reason: str = "") -> Deferred[bool]:
        """Set it aside for the operator, who reads the reason (the first 1024 bytes of it)."""
        return self._settle(encode_dead_letter, reason)

    def touch(self) -> Deferred[bool]:
        """Start its lease again."""
        return self._settle(encode_touch, final=False)

    def _settle(self, encode: Callable[..., bytes], *arguments: object, final: bool = True) -> Deferred[bool]:
        request = self._conversation.settle(self, encode, *arguments, final=final)
        return succeed(False) if request is None else answer(request)


def answer(request: Request) -> Deferred[Any]:
    """Fires with what the server says to a request; cancelling it gives that up."""
    deferred: Deferred[Any] = Deferred(request.cancel)
    request.answer = deferred
    return deferred


class Stopper(Protocol):
    """Who ends a consumer."""

    def stop_consuming(self, consumer: Consumer) -> Deferred[None]:
        """Have no more delivered to it."""


class Consumer:
    """
    The messages of one queue: an asynchronous iterator, which several tasks may share.

    It goes on over lost connections. What it was not asked for yet when a connection is lost is dropped, as the server delivers
    it again.

    @ivar window: the most messages that this client holds unsettled
    @ivar lease: seconds that each may be held; 0 for no limit
    """

    _log = Logger()

    def __init__(self, client: Stopper, queue: str, worker: Worker | None = None) -> None:
        self._client = client
        self.queue = queue
        self.window = 0
        self.lease = 0.0
        #: Who gets the messages, if not those who iterate.
        self.worker = worker
        self._waiting: deque[Deferred[Delivery | None]] = deque()
        self._delivered: deque[Delivery] = deque()
        self._ended = False
        self._error: Exception | None = None

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> Delivery:
        if self._delivered:
            return self._delivered.popleft()
        if not self._ended:
            waiting: Deferred[Delivery | None] = Deferred(self._waiting.remove)
            self._waiting.append(waiting)
            delivery = await waiting
            if delivery is not None:
                return delivery
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    def deliver(self, delivery: Delivery) -> None:
        """Take a message; see L{conversation.Receiver}."""
        if self.worker is not None:
            self._work(self.worker, delivery)
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
            result.addErrback(self._failed, delivery)

    def _failed(self, failure: Failure, delivery: Delivery) -> None:
        self._log.failure("a message of {queue!r} could not be handled", failure, queue=self.queue)
        delivery.requeue(delay=backoff(delivery.attempts))

    def lost(self) -> None:
        """The server has taken back what was not handed out; see L{conversation.Receiver}."""
        self._delivered.clear()

    def stop(self) -> Deferred[None]:
        """
        Have no more delivered. Fires when the server knows; what was delivered until then can still be iterated, then the iteration ends.
        """
        return self._client.stop_consuming(self)

    def end(self, error: Exception | None) -> None:
        """Nothing more will come; see L{conversation.Receiver}."""
        if error is not None:
            self._log.error("the queue {queue!r} cannot be consumed: {error}", queue=self.queue, error=error)
        self._ended = True
        self._error = error
        while self._waiting:
            self._waiting.popleft().callback(None)
