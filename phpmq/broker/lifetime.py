"""What becomes of messages besides being acknowledged: delayed, leased, sent back, buried, expired."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phpmq.broker.dispatch import STEP
from phpmq.broker.queue import Consumer, Queue
from phpmq.interfaces import IStore
from phpmq.message import MESSAGE_OVERHEAD, PROPERTIES_OVERHEAD, Message, Properties

if TYPE_CHECKING:
    from phpmq.broker.broker import Broker


#: The longest time to live, in milliseconds (30,000 years): what is above is cut to it, so that sums stay within 64 bits.
MAX_TTL = 10**15


# More attempts than a message ever has.
_NO_LIMIT = 2**62


class Lifetime:
    """
    Delayed messages until they are due, leased ones until they are taken back, those that come back or die, and those that expire.

    @ivar leased: the consumers that hold, or held a moment ago, messages on lease
    """

    def __init__(self, broker: Broker, store: IStore) -> None:
        self._broker = broker
        self._store = store
        self._next_due = store.next_due()  # of the delayed messages, milliseconds since the epoch
        self.leased: dict[Consumer, None] = {}

    # Delays

    def hold(self, queue: Queue, message: Message) -> None:
        """Rule 13: keep a message until it is due."""
        queue.hold(message)
        due = message.properties.due  # type: ignore[union-attr]
        if not self._next_due or due < self._next_due:
            self._next_due = due

    def tick(self) -> bool:
        """Release what is due, take back what was leased. False if more is due, which the next call releases."""
        now = self._broker.now
        if self._next_due and self._next_due <= now:
            self._release()
        for consumer in list(self.leased):
            self._take_away(consumer)
        return not 0 < self._next_due <= now

    def _release(self) -> None:
        broker = self._broker
        for message in self._store.due(broker.now, STEP, broker.by_number):
            queue: Queue = message.queue  # type: ignore[assignment]
            if -message.position <= queue.flushed_to:
                continue
            message.position = broker.next_position()
            message.properties.due = 0  # type: ignore[union-attr]
            self._store.put(message)
            queue.release(message)
            if queue.idle:
                broker.distribute(queue)
        self._next_due = self._store.next_due()

    # Leases

    def _take_away(self, consumer: Consumer) -> None:
        """Rule 16: what the consumer holds longer than its lease becomes ready again."""
        channel, now = consumer.channel, self._broker.now
        messages = []
        for message_id, deadline in consumer.deadlines.items():
            if deadline > now:
                break
            messages.append(channel.unacked.pop(message_id))
        for message in messages:
            del consumer.deadlines[message.id]
            message.consumer = None
        if messages:
            consumer.held -= len(messages)
            self.take_back(consumer.queue, messages)
            consumer.wait()
        if not consumer.window and not consumer.held and channel.consumers.get(consumer.queue.name) is consumer:
            channel.retire(consumer)
        if not consumer.deadlines:
            del self.leased[consumer]

    # The end of a flight

    def requeue(self, message: Message, ttl: int, delay: int = 0) -> None:
        """
        Rule 3: a message goes to the tail of its queue, keeps its id and attempts, and takes the new time to live.

        @param ttl: milliseconds; 0 for never
        @param delay: milliseconds until it is ready again
        """
        broker = self._broker
        broker.enter()
        broker.requeued += 1
        queue: Queue = message.queue  # type: ignore[assignment]
        message.position = broker.next_position()
        message.expires = broker.now + int(min(ttl, MAX_TTL)) if ttl else 0
        if delay:
            if message.properties is None:
                message.properties = Properties()
                message.size += PROPERTIES_OVERHEAD
                broker.used += PROPERTIES_OVERHEAD
            message.properties.due = broker.now + int(min(delay, MAX_TTL))
            message.position = -message.position
            self._store.put(message)
            self.hold(queue, message)
            return
        self._store.put(message)
        queue.append(message)
        if queue.idle:
            broker.distribute(queue)

    def take_back(self, queue: Queue, messages: list[Message]) -> None:
        """Rules 3, 4, 12 and 14: what a consumer held that is gone waits again, unless it was flushed, has expired or came too often."""
        broker = self._broker
        broker.enter()
        attempts = queue.settings.max_attempts or _NO_LIMIT
        back = []
        for message in messages:
            if message.position <= queue.flushed_to:
                broker.forget(message)
            elif message.expires and message.expires <= broker.now:
                broker.expire(message)
            elif message.attempts >= attempts:
                broker.dead.dead_letter(message, "max-attempts", "")
            else:
                self._store.retried(message)
                back.append(message)
        queue.in_flight -= len(messages)
        if back:
            queue.put_back(back)
            broker.distribute(queue)
        broker.forget_if_unused(queue)

    # Expiry

    def sweep(self) -> bool:
        """Rule 12: drop messages that expired while they waited. False if there may be more, which the next call looks at."""
        broker = self._broker
        rows = self._store.expired(broker.now, STEP)
        ahead: dict[Queue, None] = {}
        for number, queue_number, position, size in rows:
            queue = broker.by_number.get(queue_number)
            if queue is None or abs(position) <= queue.flushed_to:
                continue
            if position < 0 or position > queue.cursor:
                queue.drop_unseen(position, size)
                if queue.settings.expired == "dead" and (message := self._store.get(queue, number)) is not None:
                    broker.expire(message)
                    continue
                broker.expired += 1
                self._store.remove(number)
                broker.freed(size + MESSAGE_OVERHEAD)
                broker.forget_if_unused(queue)
            else:
                # In Python, or in flight; the latter stay.
                ahead[queue] = None
        for queue in ahead:
            for message in queue.drop_expired(broker.now):
                broker.expire(message)
        return len(rows) < STEP
