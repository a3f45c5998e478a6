"""The consumer of a queue, and its deliveries."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Self

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from phpmq import client_connection
from phpmq.client.reconnector import answer
from phpmq.client_connection import backoff


class Delivery(client_connection.Delivery[Deferred[bool]]):
    """
    A message that this client holds until it is settled.

    Each way to settle it returns a Deferred that never fails and may be ignored. It fires with True once the server did it; with False
    if the message was no longer this client's, or that is not known: the connection was lost, its lease was over, or it was settled
    before. Then it may be delivered again.
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

    It goes on over lost connections. What it was not asked for yet when a connection is lost is dropped, as the server delivers
    it again.

    @ivar queue: whose messages they are
    @ivar window: the most messages that this client holds unsettled; 0 once it was stopped
    @ivar lease: seconds that each may be held; 0 for no limit
    """

    _log = Logger()

    def __init__(self, queue: str, stop: Callable[[Consumer], Deferred[None]], worker: Worker | None = None) -> None:
        """
        @param stop: ends the deliveries of a consumer
        @param worker: gets the messages, if not the tasks that iterate
        """
        self.queue = queue
        self.window = 0
        self.lease = 0.0
        self._stop = stop
        self._worker = worker
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
        Consume no more. Fires when the server knows, and, with a function that is subscribed, when its work on all messages is done. What
        was delivered until then can still be iterated, then the iteration ends.
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
