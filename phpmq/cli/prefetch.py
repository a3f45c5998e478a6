"""Takes messages from queues: as many as may be held, and never more than were asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from phpmq.cli.connection import settled_down
from phpmq.cli.reactor_main import sleep
from phpmq.client import Consumer, Delivery, QueueClient

# The server's own limit, unless it is told another.
_MAX_WINDOW = 65535
# Seconds to wait when no queue had anything.
_PAUSE = 0.1


class _Share:
    """
    The part of one queue.

    @ivar window: the window that the server was told
    @ivar received: messages that the server counts as delivered: settled or held
    @ivar allowed: the most messages to receive; None for any number
    """

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.consumer: Consumer | None = None
        self.window = self.received = self.settled = 0
        self.allowed: int | None = None


class Prefetch:
    """
    Deliveries from several queues.

    With a count, the windows never add up to more messages than are still wanted. Several queues share them; where one queue has used up
    its share while others have nothing, they are shared again.

    @ivar deliveries: deliveries so far
    @ivar finished: messages that the caller is done with
    @ivar unanswered: settlements without an answer of the server
    """

    def __init__(
        self,
        reactor: Any,
        client: QueueClient,
        queues: Sequence[str],
        take: Callable[[Delivery], None],
        failed: Callable[[Any], object],
        window: int,
        count: int | None = None,
        lease: float | None = None,
        keep: bool = False,
    ) -> None:
        """
        @param take: called with each delivery
        @param failed: called with a Failure when a queue cannot be consumed
        @param keep: whether messages are not settled but kept until the end
        """
        self._reactor, self._client, self._take, self._failed = reactor, client, take, failed
        self._window, self._count, self._lease, self._keep = window, count, lease or 0.0, keep
        self._shares = {queue: _Share(queue) for queue in queues}
        self._connection = client.connection.number
        self._turn = 0
        self._waiting: list[Deferred[None]] = []
        # Ids of messages that are done, while the server may not know: they are not to be done again.
        self._done: set[str] = set()
        self.deliveries = self.finished = self.unanswered = 0

    def start(self) -> None:
        """Begin to consume."""
        self._deal()
        self._adjust_all()

    def _deal(self) -> None:
        """Share the wanted messages among the queues, beginning with another queue each time."""
        if self._count is None:
            return
        shares = list(self._shares.values())
        left = self._count - sum(share.received for share in shares)
        each, rest = divmod(left, len(shares))
        for place, share in enumerate(shares[self._turn :] + shares[: self._turn]):
            share.allowed = share.received + each + (place < rest)
        self._turn = (self._turn + rest) % len(shares)

    def _wanted(self, share: _Share) -> int:
        window = self._window + (share.received if self._keep else 0)
        if share.allowed is not None:
            window = min(window, share.allowed - share.settled)
        return max(0, min(window, _MAX_WINDOW))

    def _adjust_all(self) -> None:
        for share in self._shares.values():
            self._adjust(share)

    def _adjust(self, share: _Share) -> None:
        window = self._wanted(share)
        if window == share.window:
            return
        share.window = window
        if not window:
            self._stop(share)
            return
        consumer = self._client.consume(share.queue, window, self._lease)
        if consumer is not share.consumer:
            share.consumer = consumer
            Deferred.fromCoroutine(self._pull(share, consumer)).addErrback(self._failed)

    @staticmethod
    def _stop(share: _Share) -> Deferred[None] | None:
        share.window = 0
        consumer, share.consumer = share.consumer, None
        return None if consumer is None else consumer.stop()

    async def stop(self) -> None:
        """Consume no more; end when the server knows, and all that was on its way has arrived."""
        stopping = [stopped for share in self._shares.values() if (stopped := self._stop(share)) is not None]
        await DeferredList(stopping, consumeErrors=True)

    async def _pull(self, share: _Share, consumer: Consumer) -> None:
        async for delivery in consumer:
            self._arrived(share, delivery)

    def _arrived(self, share: _Share, delivery: Delivery) -> None:
        self._look_at_connection()
        self.deliveries += 1
        if delivery.id in self._done:
            if self._keep:
                share.received += 1
            else:
                self._settle(delivery, delivery.ack, True)
            return
        share.received += 1
        if self._keep and share.window and share.window - share.received <= self._window // 2:
            self._adjust(share)
        self._take(delivery)
        self._changed()

    def _look_at_connection(self) -> None:
        """Correct the counts after a lost connection: the server has taken back what was not settled."""
        connection = self._client.connection.number
        if connection != self._connection:
            self._connection = connection
            for share in self._shares.values():
                share.received = share.settled

    def settle(self, delivery: Delivery, action: Callable[[], Deferred[bool]], done: bool = True) -> None:
        """
        Settle a message by calling C{action}, after narrowing the window so that no unwanted message follows.

        @param done: whether the message must not be handled again if it is delivered again
        """
        self._look_at_connection()
        share = self._shares[delivery.queue]
        if done or not delivery.lost:
            share.settled += 1
            share.received += delivery.lost
            self.finished += 1
            if share.window:
                self._adjust(share)
        self._settle(delivery, action, done)

    def _settle(self, delivery: Delivery, action: Callable[[], Deferred[bool]], done: bool) -> None:
        if done:
            self._done.add(delivery.id)
        self.unanswered += 1
        action().addCallback(self._answered, delivery.id)

    def _answered(self, settled: bool, message_id: str) -> None:
        self.unanswered -= 1
        if settled:
            self._done.discard(message_id)
        self._changed()

    def keep(self, delivery: Delivery) -> None:
        """Count a message as done without settling it."""
        self._done.add(delivery.id)
        self.finished += 1
        self._changed()

    @property
    def unconfirmed(self) -> int:
        """The number of messages that are done while the server may not know: it may deliver them again."""
        return 0 if self._keep else len(self._done)

    async def counted(self) -> None:
        """End when the caller is done with the wanted number of messages, and the server knows."""
        while self._count is None or self.finished < self._count or self.unanswered:
            await self._event()

    async def answered(self) -> None:
        """End when the server has answered all settlements."""
        while self.unanswered:
            await self._event()

    async def watch(self, until_empty: bool, busy: Callable[[], bool]) -> None:
        """
        Share again when that is useful; end when there is nothing to take.

        @param until_empty: whether it may end
        @param busy: whether the caller has messages to handle
        """
        quiet = 0
        while True:
            starving = self._starving()
            if not starving and (busy() or not until_empty):
                await self._event()
                quiet = 0
            elif not await settled_down(self._reactor, self._client, lambda: self.deliveries):
                quiet = 0
            else:
                quiet += 1
                # Each queue has its turn within this number of rounds, after the one that may have been under way.
                enough = len(self._shares) + 1 if starving else 1
                if until_empty and quiet >= enough and not busy():
                    return
                if starving:
                    await self._deal_again(quiet >= enough)

    def _starving(self) -> bool:
        if self._count is None or len(self._shares) == 1:
            return False
        used = [share.received >= (share.allowed or 0) for share in self._shares.values()]
        return any(used) and not all(used)

    async def _deal_again(self, pause: bool) -> None:
        # Only after that it is known what each queue delivered.
        await self.stop()
        if pause:
            await sleep(self._reactor, _PAUSE)
        self._look_at_connection()
        self._deal()
        self._adjust_all()

    def _event(self) -> Deferred[None]:
        """Fire at the next delivery or settlement."""
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def _changed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)
