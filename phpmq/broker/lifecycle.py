"""
The life of a message: its states, and every transition from one to another.

A message has one state at a time; L{state_of} tells it, L{TRANSITIONS} what may become of it. Only this module writes C{in_flight} of a
queue and C{held} of a consumer, and counts messages against the memory limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from phpmq.broker.dead_letters import DeadLetters
from phpmq.broker.keys import DeduplicationKeys
from phpmq.broker.memory import Memory
from phpmq.broker.producers import Producer, Producers
from phpmq.broker.queue import SENDS, Consumer, Holder, Queue
from phpmq.broker.queues import Queues
from phpmq.broker.turn import STEP, Turn
from phpmq.errors import QueueFull
from phpmq.histogram import Histogram
from phpmq.interfaces import IStore
from phpmq.message import MESSAGE_OVERHEAD, PROPERTIES_OVERHEAD, DeadMessage, Message, Properties


class State(Enum):
    """Where a message is in its life."""

    READY = "ready"  # it waits in its queue
    DELAYED = "delayed"  # it waits until it is due
    IN_FLIGHT = "in_flight"  # it was delivered, and is not settled
    DEAD = "dead"  # nobody gets it until an operator decides
    GONE = "gone"  # it is in no queue and in no file


_READY, _DELAYED, _IN_FLIGHT, _DEAD, _GONE = State

#: The states in which a message may begin, with C{accept}.
BEGIN = frozenset({_READY, _DELAYED})

#: State -> what may happen to a message in it -> the states in which it may be afterwards. Each event is a method of L{Lifecycle}, apart
#: from C{flush}, which L{Queues} does to a whole queue at once.
TRANSITIONS: Mapping[State, Mapping[str, frozenset[State]]] = {
    _READY: {
        "deliver": frozenset({_IN_FLIGHT}),
        "expire": frozenset({_GONE, _DEAD}),  # as the queue's setting "expired" says
        "drop_oldest": frozenset({_GONE}),
        "move": frozenset({_READY}),
        "flush": frozenset({_GONE}),
    },
    _DELAYED: {
        "release": frozenset({_READY}),
        "expire": frozenset({_GONE, _DEAD}),
        "flush": frozenset({_GONE}),
    },
    _IN_FLIGHT: {
        "acknowledge": frozenset({_GONE}),
        "requeue": frozenset({_READY, _DELAYED}),
        "dead_letter": frozenset({_DEAD}),
        # Gone if it was flushed meanwhile; dead, or gone, if it expired; dead after too many attempts.
        "return_messages": frozenset({_READY, _GONE, _DEAD}),
    },
    _DEAD: {
        "replay": frozenset({_READY}),
        "delete": frozenset({_GONE}),
    },
    _GONE: {},
}


def state_of(message: Message | DeadMessage) -> State:
    """The state of a message that is not gone."""
    if isinstance(message, DeadMessage):
        return State.DEAD
    if message.consumer is not None:
        return State.IN_FLIGHT
    return State.DELAYED if message.position < 0 else State.READY


#: The longest time to live, in milliseconds (30,000 years): what is above is cut to it, so that sums stay within 64 bits.
MAX_TTL = 10**15

#: How many messages with how many bytes are moved before others get their turn: each is written anew.
MOVED, MOVED_BYTES = 500, 4 * 1024 * 1024

# More attempts than a message ever has.
_NO_LIMIT = 2**62

# Waits are counted in milliseconds, up to 37 hours.
_WAIT_UNIT, _WAIT_BUCKETS = 0.001, 28


# CPython finds a slot faster than an attribute of an object that has more than 30 of them.
@dataclass(slots=True, eq=False)
class Lifecycle:
    """
    Carries out the transitions of messages, and counts them. Counters never fall.

    @ivar channels: the channels that are not closed
    @ivar leased: the consumers that hold, or held a moment ago, messages on lease
    @ivar max_window: the most messages that a consumer holds, whatever it asks for
    @ivar waits: how long messages waited from their acceptance until they were delivered for the first time
    """

    turn: Turn
    memory: Memory
    queues: Queues
    _keys: DeduplicationKeys
    _producers: Producers
    _dead_letters: DeadLetters
    _store: IStore
    max_window: int
    channels: set[Holder] = field(default_factory=set)
    leased: dict[Consumer, None] = field(default_factory=dict)
    received: int = 0
    delivered: int = 0
    redelivered: int = 0
    acknowledged: int = 0
    requeued: int = 0
    expired: int = 0
    dropped: int = 0
    waits: Histogram = field(default_factory=lambda: Histogram(_WAIT_UNIT, _WAIT_BUCKETS))
    _id_format: bytes = b""
    _next_due: int = 0  # of the delayed messages, milliseconds since the epoch

    def __post_init__(self) -> None:
        self._id_format = self._store.id_prefix + b"%016x"
        self._next_due = self._store.next_due()

    def message_id(self, number: int) -> bytes:
        """The id by which clients know the message of that number."""
        return self._id_format % number

    @property
    def latest(self) -> int:
        """The number of the message that was accepted last."""
        return self._store.latest  # type: ignore[no-any-return]

    # It begins

    def accept(  # noqa: C901  # the hot path: calls would cost more than they do
        self,
        name: str,
        body: bytes,
        ttl: int = 0,
        properties: Properties | None = None,
        producer: Producer | None = None,
        sequence: int = 0,
    ) -> Message:
        """
        Accept a message.

        @param ttl: milliseconds until it expires; 0 for never
        @param properties: its key and headers, and in C{due} the milliseconds until it is ready
        @param producer: which producer sends it, with a number above that of its last one
        @raise TypeError: the body is not C{bytes}
        @raise BadName: no queue can have that name
        @raise QueueFull: the queue takes no sends now
        @raise MemoryFull: the memory limit is reached, or that of keys
        """
        if not isinstance(body, bytes):
            # The store writes many messages at once: this one would take others' with it.
            raise TypeError(f"a body is bytes, not {type(body).__name__}")
        turn, memory, queues = self.turn, self.memory, self.queues
        if not turn.active:
            turn.enter()
        if memory.used >= memory.limit:
            memory.check()
        queue = queues.by_name.get(name)
        if queue is None:
            queue = queues.get_or_create(name)
        if queue.paused & SENDS:
            raise QueueFull("the queue is paused for sends")
        remembered = properties is not None and properties.key and queue.settings.dedup
        if remembered:
            self._keys.check(queue)
        if queue.bounded:
            self.drop_oldest(queue, len(body))
        number = queues.next
        queues.next = number + 1
        now = turn.now
        message = Message(number, queue, number, now, now + int(min(ttl, MAX_TTL)) if ttl else 0, 0, body, properties)
        if properties is not None:
            if remembered:
                self._keys.remember(queue, properties.key)
            if properties.due:
                properties.due = now + min(properties.due, MAX_TTL)
                message.position = -number
        if producer is not None:
            self._producers.accepted(producer, sequence)
        self._store.add(message)
        memory.used += message.size + MESSAGE_OVERHEAD
        self.received += 1
        queue.received += 1
        if message.position < 0:
            self._delay(queue, message)
            return message
        queue.append(message)
        if queue.waiting_consumers and not queue.scheduled:
            turn.schedule(queue)
        return message

    def _delay(self, queue: Queue, message: Message) -> None:
        """Rule 13: let a message wait until it is due."""
        queue.add_delayed(message)
        due = message.properties.due  # type: ignore[union-attr]
        if not self._next_due or due < self._next_due:
            self._next_due = due

    def drop_oldest(self, queue: Queue, size: int) -> None:
        """
        Rule 18: make place in a queue for a message of so many bytes, if its settings say so.

        @raise QueueFull: the send is refused
        """
        if queue.settings.when_full == "drop-oldest" and not (0 < queue.settings.max_bytes < size):
            while not queue.has_capacity(size) and (oldest := queue.take(self._store)) is not None:
                self.dropped += 1
                self._forget(oldest)
        if not queue.has_capacity(size):
            self.memory.unblock_after(queue)
            raise QueueFull(f"the queue is full: {queue.ready + queue.delayed} messages with {queue.ready_size} bytes wait in it")

    # It is delivered

    def deliver(self, queue: Queue, budget: int) -> int:  # noqa: C901  # likewise
        """Rule 8: hand the next messages round among the consumers with capacity, up to C{budget} of them; how many."""
        turn, waiting, id_format = self.turn, queue.waiting_consumers, self._id_format
        now, delivered = turn.now, 0
        # Messages of a millisecond are counted together: one after the other in a busy queue are of the same one.
        waits, accepted, alike = self.waits, now, 0
        while waiting and delivered < budget and (queue.prefetched or queue.prefetch(self._store)):
            consumer = waiting.popleft()
            channel = consumer.channel
            if channel.paused or consumer.held >= consumer.window:
                consumer.waiting = False
                continue
            message = queue.prefetched.popleft()
            size = message.size
            queue.prefetched_size -= size
            queue.ready_size -= size
            if message.expires and message.expires <= now:
                waiting.appendleft(consumer)
                self.expire(message)
                continue
            message.consumer = consumer
            message.attempts += 1
            if message.attempts > 1:
                self.redelivered += 1
            elif message.accepted == accepted:
                alike += 1
            else:
                waits.observe(now - accepted, alike)
                accepted, alike = message.accepted, 1
            if not message.id:
                message.id = id_format % message.number
            delivered += 1
            queue.in_flight += 1
            consumer.held += 1
            if consumer.held < consumer.window:
                waiting.append(consumer)
            else:
                consumer.waiting = False
            channel.unacked[message.id] = message
            if consumer.lease:
                self._start_lease(consumer, message.id)
            if not channel.has_output:
                channel.has_output = True
                turn.output.append(channel)
            channel.peer.deliver(message, now)
        waits.observe(now - accepted, alike)
        self.delivered += delivered
        queue.delivered += delivered
        return delivered

    # It is settled (rule 10)

    def acknowledge(self, message: Message) -> None:
        """Remove a message that its consumer is done with."""
        self._settle(message)
        queue: Queue = message.queue  # type: ignore[assignment]
        self.acknowledged += 1
        queue.acknowledged += 1
        # As L{_forget} does: on the hot path a call costs more than it does.
        self._store.remove(message.number)
        memory = self.memory
        memory.used -= message.size + MESSAGE_OVERHEAD
        if memory.full:
            memory.free(0)
        if not queue.consumers:
            self.queues.forget_if_unused(queue)

    def requeue(self, message: Message, ttl: int, delay: int = 0) -> None:
        """
        Rule 3: send a message to the tail of its queue; it keeps its id and attempts, and takes the new time to live.

        @param ttl: milliseconds; 0 for never
        @param delay: milliseconds until it is ready again
        """
        self._settle(message)
        turn, queue = self.turn, message.queue
        turn.enter()
        self.requeued += 1
        message.position = self.queues.next_position()
        message.expires = turn.now + int(min(ttl, MAX_TTL)) if ttl else 0
        if delay:
            if message.properties is None:
                message.properties = Properties()
                message.size += PROPERTIES_OVERHEAD
                self.memory.take(PROPERTIES_OVERHEAD)
            message.properties.due = turn.now + int(min(delay, MAX_TTL))
            message.position = -message.position
        self._store.put(message)
        if delay:
            self._delay(queue, message)  # type: ignore[arg-type]
            return
        queue.append(message)  # type: ignore[attr-defined]
        if queue.waiting_consumers:  # type: ignore[attr-defined]
            turn.schedule(queue)  # type: ignore[arg-type]

    def dead_letter(self, message: Message, reason: str, text: str) -> None:
        """Rule 15: set a message aside that its consumer rejects, with a text for the operator."""
        self._settle(message)
        self._add_dead_letter(message, reason, text)

    def _settle(self, message: Message) -> None:
        """Take a message out of the hands of its consumer."""
        consumer: Consumer = message.consumer
        message.consumer = None
        if consumer.deadlines:
            consumer.deadlines.pop(message.id, None)
        consumer.held -= 1
        consumer.queue.in_flight -= 1
        if not consumer.window:
            self.retire(consumer)
        elif not consumer.waiting:
            consumer.wait(self.turn)

    def retire(self, consumer: Consumer) -> None:
        """Forget a consumer that ended once it holds nothing: until then it counts, should it come back."""
        if not consumer.held and consumer.channel.consumers.get(consumer.queue.name) is consumer:
            del consumer.channel.consumers[consumer.queue.name]

    # It comes back

    def return_messages(self, queue: Queue, messages: list[Message]) -> None:
        """
        Rules 3, 4, 12 and 14: let messages wait again whose consumer is gone or had them for too long; not those that were flushed, have
        expired or came too often.
        """
        self.turn.enter()
        now, attempts = self.turn.now, queue.settings.max_attempts or _NO_LIMIT
        back = []
        for message in messages:
            message.consumer = None
            if message.position <= queue.flushed_to:
                self._forget(message)
            elif message.expires and message.expires <= now:
                self.expire(message)
            elif message.attempts >= attempts:
                self._add_dead_letter(message, "max-attempts", "")
            else:
                self._store.retried(message)
                back.append(message)
        queue.in_flight -= len(messages)
        if back:
            queue.put_back(back)
            self.turn.schedule(queue)
        self.queues.forget_if_unused(queue)

    # Leases (rule 16)

    def change_lease(self, consumer: Consumer, lease: int) -> None:
        """Let another lease hold from now on, also for what the consumer holds already: it starts now."""
        consumer.lease = lease
        consumer.deadlines.clear()
        if lease:
            for message in consumer.channel.unacked.values():
                if message.consumer is consumer:
                    self._start_lease(consumer, message.id)

    def renew_lease(self, message: Message) -> None:
        """Start the lease of a message again, if it has one."""
        self.turn.enter()
        consumer: Consumer = message.consumer
        if consumer.deadlines.pop(message.id, None) is not None:
            self._start_lease(consumer, message.id)

    def _start_lease(self, consumer: Consumer, message_id: bytes) -> None:
        if not consumer.deadlines:
            self.leased[consumer] = None
        consumer.deadlines[message_id] = self.turn.now + consumer.lease

    def _end_leases(self, consumer: Consumer) -> None:
        """Take back what the consumer holds longer than its lease."""
        channel, now = consumer.channel, self.turn.now
        messages = []
        for message_id, deadline in consumer.deadlines.items():
            if deadline > now:
                break
            messages.append(channel.unacked.pop(message_id))
        for message in messages:
            del consumer.deadlines[message.id]
        if messages:
            consumer.held -= len(messages)
            self.return_messages(consumer.queue, messages)
            consumer.wait(self.turn)
        if not consumer.window:
            self.retire(consumer)
        if not consumer.deadlines:
            del self.leased[consumer]

    # Time

    def tick(self) -> bool:
        """Release what is due, take back what was leased. False if more is due, which the next call releases."""
        now = self.turn.now
        if self._next_due and self._next_due <= now:
            self.release()
        for consumer in list(self.leased):
            self._end_leases(consumer)
        return not 0 < self._next_due <= now

    def release(self) -> None:
        """Rule 13: move delayed messages that are due to the tails of their queues, up to L{STEP} of them."""
        for message in self._store.due(self.turn.now, STEP, self.queues.by_number):
            queue: Queue = message.queue  # type: ignore[assignment]
            if -message.position <= queue.flushed_to:
                continue
            message.position = self.queues.next_position()
            message.properties.due = 0  # type: ignore[union-attr]
            self._store.put(message)
            queue.release_delayed(message)
            if queue.waiting_consumers:
                self.turn.schedule(queue)
        self._next_due = self._store.next_due()

    def sweep(self) -> bool:
        """Rule 12: end messages that expired while they waited. False if there may be more, which the next call looks at."""
        rows = self._store.expired(self.turn.now, STEP)
        prefetched: dict[Queue, None] = {}
        for number, queue_number, position, size in rows:
            queue = self.queues.by_number.get(queue_number)
            if queue is None or abs(position) <= queue.flushed_to:
                continue
            if position < 0 or position > queue.cursor:
                self._expire_unread(queue, number, position, size)
            else:
                # Prefetched, or in flight; the latter stay.
                prefetched[queue] = None
        for queue in prefetched:
            for message in queue.drop_expired(self.turn.now):
                self.expire(message)
        return len(rows) < STEP

    def _expire_unread(self, queue: Queue, number: int, position: int, size: int) -> None:
        """End a message that is in the store only."""
        queue.drop_unread(position, size)
        if queue.settings.expired == "dead" and (message := self._store.get(queue, number)) is not None:
            self.expire(message)
            return
        self.expired += 1
        self._store.remove(number)
        self.memory.free(size + MESSAGE_OVERHEAD)
        self.queues.forget_if_unused(queue)

    # It ends

    def expire(self, message: Message) -> None:
        """Rule 12: end a message that has expired, as its queue's settings say."""
        self.expired += 1
        if message.queue.settings.expired == "dead":
            self._add_dead_letter(message, "expired", "")
        else:
            self._forget(message)

    def _forget(self, message: Message) -> None:
        """Remove a message for good."""
        self._store.remove(message.number)
        memory = self.memory
        memory.used -= message.size + MESSAGE_OVERHEAD
        if memory.full:
            memory.free(0)
        queue: Queue = message.queue  # type: ignore[assignment]
        if not queue.consumers:
            self.queues.forget_if_unused(queue)

    def _add_dead_letter(self, message: Message, reason: str, text: str) -> None:
        self.turn.enter()
        self._store.dead_letter(message, reason, text, self.turn.now)
        if message.properties is not None:
            # It is no longer recognised by its key.
            freed = message.properties.give_up_key()
            message.size -= freed
            self.memory.free(freed)
        self._dead_letters.add(message.queue.name, message.size, reason)
        self.queues.forget_if_unused(message.queue)  # type: ignore[arg-type]

    # What operators do to it

    def replay(self, letters: list[DeadMessage], target: str) -> None:
        """
        Requeue dead letters: they go to the tail of a queue, as if they had never been delivered, and never expire.

        In the file each is either dead or waits, whenever a crash comes. A queue's limits do not count here.

        @raise BadName: no queue can have that name
        """
        queue = self.queues.get_or_create(target)
        for dead in letters:
            self._dead_letters.remove(dead)
            message = self._store.replay(dead, queue, self.queues.next_position())
            self.memory.free(dead.size - message.size)
            queue.append(message)
        self.turn.schedule(queue)
        self.queues.forget_if_unused(queue)

    def delete(self, letters: list[DeadMessage]) -> None:
        """Remove dead letters for good."""
        self._store.delete_dead(dead.number for dead in letters)
        for dead in letters:
            self._dead_letters.remove(dead)
            self.memory.free(dead.size + MESSAGE_OVERHEAD)

    def move(self, source: Queue, target: Queue, count: int, last: int = 2**63) -> int:
        """
        Move messages that are ready to the tail of another queue, with their ids and attempts. In the file each is in one of both,
        whenever a crash comes. The target's limits do not count here.

        @param count: how many, at most L{MOVED} at a time, and none more once they have L{MOVED_BYTES}
        @param last: only those with positions up to this one; see L{Queues.tail}
        @return: how many were moved
        """
        moved = size = 0
        while moved < min(count, MOVED) and size < MOVED_BYTES and (message := source.take(self._store, last)) is not None:
            size += message.size
            message.queue = target
            message.position = self.queues.next_position()
            self._store.put(message)
            target.append(message)
            moved += 1
        self.turn.schedule(target)
        for queue in source, target:
            self.queues.forget_if_unused(queue)
        return moved
