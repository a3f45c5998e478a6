"""All queues and the rules of who gets what."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from phpmq.broker.channel import Channel
from phpmq.broker.dead import DeadLetters
from phpmq.broker.dispatch import STEP, Dispatch
from phpmq.broker.keys import Keys
from phpmq.broker.lifetime import MAX_TTL, Lifetime
from phpmq.broker.producer import Producer, Producers
from phpmq.broker.queue import DELIVERIES, SENDS, Queue
from phpmq.broker.receipts import Receipts
from phpmq.broker.room import Room
from phpmq.errors import PHPMQError, QueueFull
from phpmq.interfaces import IPeer, IStore
from phpmq.message import MESSAGE_OVERHEAD, Message, Properties, QueueSettings, check_name

#: What a queue and its consumers count against the memory limit beside the messages, in bytes.
QUEUE_OVERHEAD = 2560

#: How many messages with how many bytes are moved before others get their turn: each is written anew.
MOVED, MOVED_BYTES = 500, 4 * 1024 * 1024


class Broker(Dispatch):
    """
    All queues and the rules of who gets what.

    Every public method may be called at any time.

    @ivar queues: by name
    @ivar by_number: the same by number
    @ivar used: bytes that messages and queues hold, against C{memory_limit}
    @ivar keys: by which sends are recognised
    @ivar producers: those who number their sends
    @ivar room: who waits for memory
    @ivar receipts: what waits for the file
    @ivar lifetime: what waits for its time
    @ivar dead: messages that nobody gets any more
    @ivar channels: the conversations that are not closed
    @ivar refused: error code -> how many sends of channels were refused; one that waits and is tried again counts each time
    """

    __slots__ = (
        "_next",
        "_purging",
        "acknowledged_total",
        "by_number",
        "channels",
        "dead",
        "dropped",
        "duplicates",
        "expired",
        "flushed",
        "keys",
        "lifetime",
        "max_window",
        "memory_limit",
        "producers",
        "queues",
        "receipts",
        "received",
        "refused",
        "requeued",
        "room",
        "unknown_ids",
        "used",
    )

    def __init__(
        self,
        store: IStore,
        clock: Callable[[], int],
        memory_limit: int = 2**62,
        max_window: int = 65535,
        wake: Callable[[], object] = lambda: None,
        producer_timeout: int = 86_400_000,
        max_unconfirmed: int = 10_000,
        max_keys: int = 5_000_000,
    ) -> None:
        """
        @param producer_timeout: milliseconds after which a producer that sends nothing is forgotten
        @param max_unconfirmed: how many synced sends of one channel may wait for the file
        @param max_keys: how many keys are remembered at most
        """
        super().__init__(store, clock, wake)
        self.memory_limit = memory_limit
        self.max_window = max_window
        self.used = 0
        self.queues: dict[str, Queue] = {}
        self.by_number: dict[int, Queue] = {}
        self._next: int = store.next_number
        self._purging: dict[Queue, None] = {}
        self.channels: set[Channel] = set()
        self.room = Room(self)
        # Counters, which never fall.
        self.received = self.acknowledged_total = self.requeued = self.expired = self.dropped = self.flushed = 0
        self.unknown_ids = self.duplicates = 0
        self.refused: dict[str, int] = {}
        self.keys = Keys(self, store, max_keys)
        self._load()
        self.producers = Producers(self, store, producer_timeout)
        self.receipts = Receipts(self, store, max_unconfirmed)
        self.lifetime = Lifetime(self, store)
        self.dead = DeadLetters(self, store)
        self.used += self.dead.used

    def _load(self) -> None:
        for record, waiting, size, delayed in self._store.queues():
            queue = Queue(record, waiting - delayed, size, delayed)
            self._remember(queue)
            self.used += size + waiting * MESSAGE_OVERHEAD
            self.keys.load(queue)
            if queue.flushed_to:
                # The process may have ended before all that was flushed was gone.
                self._purging[queue] = None
            self.forget_if_unused(queue)

    def channel(self, peer: IPeer) -> Channel:
        """A conversation with this broker; close it when the peer is gone."""
        channel = Channel(self, peer)
        self.channels.add(channel)
        return channel

    # Sending

    def publish(  # noqa: C901  # likewise
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
        @param producer: who sends it, with a number above that of the producer's last one
        @raise TypeError: the body is not C{bytes}
        @raise BadName: no queue can have that name
        @raise QueueFull: the queue takes no sends now
        @raise MemoryFull: the memory limit is reached, or that of keys
        """
        if not isinstance(body, bytes):
            # The store writes many messages at once: this one would take others' with it.
            raise TypeError(f"a body is bytes, not {type(body).__name__}")
        if not self._in_turn:
            self.now = self._clock()
        if self.used >= self.memory_limit:
            self.room.refuse()
        queue = self.queues.get(name) or self.queue(name)
        if queue.paused & SENDS:
            raise QueueFull("the queue is paused for sends")
        remembered = properties is not None and properties.key and queue.settings.dedup
        if remembered:
            self.keys.check(queue)
        if queue.bounded:
            self._make_room(queue, len(body))
        number = self._next
        self._next = number + 1
        now = self.now
        message = Message(number, queue, number, now, now + int(min(ttl, MAX_TTL)) if ttl else 0, 0, body, properties)
        if properties is not None:
            if remembered:
                self.keys.remember(queue, properties.key)
            if properties.due:
                properties.due = now + min(properties.due, MAX_TTL)
                message.position = -number
        if producer is not None:
            self.producers.accepted(producer, sequence)
        self._store.add(message)
        self.used += message.size + MESSAGE_OVERHEAD
        self.received += 1
        queue.received += 1
        if message.position < 0:
            self.lifetime.hold(queue, message)
            return message
        queue.append(message)
        if queue.idle and not queue.due:
            self.distribute(queue)
        return message

    def _make_room(self, queue: Queue, size: int) -> None:
        """
        Rule 18: what happens when a queue is full.

        @raise QueueFull: the send is refused
        """
        if queue.settings.when_full == "drop-oldest" and not (0 < queue.settings.max_bytes < size):
            while not queue.has_room(size) and (oldest := queue.take(self._store)) is not None:
                self.dropped += 1
                self.forget(oldest)
        if not queue.has_room(size):
            self.room.wanted(queue)
            raise QueueFull(f"the queue is full: {queue.ready + queue.delayed} messages with {queue.ready_size} bytes wait in it")

    def refuse(self, error: PHPMQError) -> None:
        """Count a channel's send that is refused."""
        self.refused[error.code] = self.refused.get(error.code, 0) + 1

    def next_position(self) -> int:
        """The next free place at the tail of any queue."""
        position = self._next
        self._next = position + 1
        return position

    @property
    def revisions(self) -> Mapping[str, int]:
        """Which revision of protocol 01 the latest sender of each queue speaks; see L{IStore}."""
        return self._store.revisions  # type: ignore[no-any-return]

    def save_revision(self, name: str, revision: int) -> None:
        """Remember it; see L{IStore}."""
        self._store.save_revision(name, revision)

    @property
    def tail(self) -> int:
        """The last place that was given at the tail of any queue."""
        return self._next - 1

    @property
    def latest(self) -> int:
        """The number of the message that was accepted last."""
        return self._store.latest  # type: ignore[no-any-return]

    def find(self, name: str, key: str) -> int:
        """Rule 17: the number of a message with that key, which is in the queue or was sent to it not long ago; 0 if there is none."""
        self.enter()
        queue = self.queues.get(name)
        return 0 if queue is None else int(self._store.find(queue, key, self.now))

    def message_id(self, number: int) -> bytes:
        """The id by which clients know the message of that number."""
        return self._id_format % number

    def announce_room(self) -> bool:
        """Let sends that wait go on, if there is room; see L{Dispatch}."""
        return self.room.announce()

    def forget(self, message: Message) -> None:
        """A message is gone for good."""
        self._store.remove(message.number)
        self.used -= message.size + MESSAGE_OVERHEAD
        if self.room.full:
            self.freed(0)
        queue: Queue = message.queue  # type: ignore[assignment]
        if not queue.consumers:
            self.forget_if_unused(queue)

    def freed(self, size: int) -> None:
        """So many bytes are not in use any more."""
        self.used -= size
        if self.room.full and not self._in_turn:
            self.wake()

    # Time

    def tick(self) -> bool:
        """What is due or was leased; to be called about ten times a second. False if there is more."""
        self.begin()
        try:
            return self.lifetime.tick()
        finally:
            self.end()

    def sweep(self) -> bool:
        """What expired or was not used for long; to be called about once a second. False if there may be more."""
        self.enter()
        self.producers.sweep()
        whole = self.keys.sweep()
        return self.lifetime.sweep() and whole

    def expire(self, message: Message) -> None:
        """A message that comes back, or was about to be delivered, has expired; see L{Dispatch}."""
        self.expired += 1
        if message.queue.settings.expired == "dead":
            self.dead.dead_letter(message, "expired", "")
        else:
            self.forget(message)

    # Queues

    def queue(self, name: str) -> Queue:
        """
        The queue of that name, made if it is not there (rule 1).

        @raise BadName: no queue can have that name
        """
        queue = self.queues.get(name)
        if queue is None:
            queue = Queue(self._store.create_queue(check_name(name)))
            self._remember(queue)
        return queue

    def _remember(self, queue: Queue) -> None:
        self.queues[queue.name] = queue
        self.by_number[queue.number] = queue
        self.used += QUEUE_OVERHEAD

    def forget_if_unused(self, queue: Queue) -> None:
        """Rule 1: an empty queue that nobody consumes goes away, once the store has forgotten what was flushed from it."""
        if queue.unused and queue not in self._purging and self.by_number.pop(queue.number, None) is not None:
            del self.queues[queue.name]
            self._store.drop_queue(queue)
            self.freed(QUEUE_OVERHEAD)

    def flush(self, name: str) -> tuple[int, int]:
        """
        Rule 4: remove what waits in a queue.

        @return: how many messages were removed, and how many in flight were left to their consumers, never to come back
        """
        queue = self.queues.get(name)
        if queue is None:
            return 0, 0
        count, size = queue.clear(self._next - 1)
        self._store.save_queue(queue)
        self.flushed += count
        self.freed(size + count * MESSAGE_OVERHEAD)
        self._purging[queue] = None
        if not self._in_turn:
            self.wake()
        return count, queue.in_flight

    def flush_all(self) -> tuple[int, int]:
        """Rule 4 for every queue: the sums."""
        results = [self.flush(name) for name in list(self.queues)]
        return sum(count for count, _ in results), sum(in_flight for _, in_flight in results)

    def purge(self) -> bool:
        """The store forgets flushed messages step by step, so that nobody waits for a large queue; see L{Dispatch}."""
        if self._purging:
            queue = next(iter(self._purging))
            if self._store.purge(queue, STEP):
                del self._purging[queue]
                self.forget_if_unused(queue)
        return bool(self._purging)

    def move(self, source: Queue, target: Queue, count: int, last: int = 2**63) -> int:
        """
        Have messages that are ready go to the tail of another queue, with their ids and attempts. In the file each is in one of both,
        whenever a crash comes. The target's limits do not count here.

        @param count: how many, at most L{MOVED} at a time, and none more once they have L{MOVED_BYTES}
        @param last: only those with places up to this one; see L{tail}
        @return: how many did
        """
        moved = size = 0
        while moved < min(count, MOVED) and size < MOVED_BYTES and (message := source.take(self._store, last)) is not None:
            size += message.size
            message.queue = target
            message.position = self.next_position()
            self._store.put(message)
            target.append(message)
            moved += 1
        self.distribute(target)
        for queue in source, target:
            self.forget_if_unused(queue)
        return moved

    def configure(self, name: str, settings: QueueSettings) -> Queue:
        """
        Set what a queue follows from now on, also over a restart. Its lease is that of consumers that come later.

        @raise BadName: no queue can have that name
        """
        queue = self.queue(name)
        queue.configure(settings)
        self._store.save_queue(queue)
        self.keys.reconsider(queue)
        self.room.came()
        self.distribute(queue)
        self.forget_if_unused(queue)
        return queue

    def forget_keys(self, name: str) -> None:
        """What was sent to a queue until now and is not in it may be sent again, whatever its key."""
        queue = self.queues.get(name)
        if queue is not None:
            self.keys.forget(queue, self._next - 1)

    def pause(self, name: str, what: int = DELIVERIES) -> None:
        """
        Rule 5: stop deliveries, sends (L{SENDS}) or both of a queue, also over a restart.

        @raise BadName: no queue can have that name
        """
        queue = self.queue(name)
        queue.paused |= what
        self._store.save_queue(queue)

    def resume(self, name: str, what: int = DELIVERIES | SENDS) -> None:
        """Undo L{pause}."""
        queue = self.queues.get(name)
        if queue is None:
            return
        queue.paused &= ~what
        self._store.save_queue(queue)
        self.room.came()
        self.distribute(queue)
        self.forget_if_unused(queue)
