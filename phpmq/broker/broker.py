"""All queues and the rules of who gets what."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from phpmq.broker.channel import Channel
from phpmq.broker.producer import PRODUCER_OVERHEAD, Producer
from phpmq.broker.queue import DELIVERIES, SENDS, Consumer, Queue
from phpmq.errors import DiskFailing, MemoryFull, NotAllowed, QueueFull
from phpmq.interfaces import IMirror, IPeer, IStore
from phpmq.message import EXTRA_OVERHEAD, MESSAGE_OVERHEAD, Extra, Message, check_name

#: The longest time to live, in milliseconds (30,000 years): what is above is cut to it, so that sums stay within 64 bits.
MAX_TTL = 10**15

#: What a queue and its consumers count against the memory limit beside the messages, in bytes.
QUEUE_OVERHEAD = 2560

# How many messages a dispatch delivers, or a sweep or a purge looks at, before others get their turn.
_STEP = 2000

# Senders that wait for memory go on when this part of the limit is in use again: not at every single message that leaves.
_ROOM = 0.95


class Broker:
    """
    All queues and the rules of who gets what.

    Every public method may be called at any time. Deliveries are made by L{dispatch} at the end of a turn: what is called between
    L{begin} and L{end} is one turn, and outside of one C{wake} is called when there is something to dispatch.

    @ivar now: the time of this turn, milliseconds since the epoch
    @ivar queues: by name
    @ivar used: bytes that messages and queues hold, against C{memory_limit}
    @ivar wake: called, perhaps often, when L{dispatch} should be called soon
    @ivar mirror: who copies the store to a file; None without a file
    @ivar producers: by name
    """

    def __init__(
        self,
        store: IStore,
        clock: Callable[[], int],
        memory_limit: int = 2**62,
        max_window: int = 65535,
        wake: Callable[[], object] = lambda: None,
        producer_timeout: int = 86_400_000,
    ) -> None:
        """
        @param producer_timeout: milliseconds after which a producer that sends nothing is forgotten
        """
        self._store = store
        self._clock = clock
        self.memory_limit = memory_limit
        self.max_window = max_window
        self.wake = wake
        self.now = clock()
        self.used = 0
        self.queues: dict[str, Queue] = {}
        self._by_number: dict[int, Queue] = {}
        self._next: int = store.next_number
        self._in_turn = self._dispatching = self._stopped = False
        self._due: deque[Queue] = deque()
        self._budget = 0  # deliveries that this dispatch may still make
        self._touched: list[Channel] = []
        self._purging: dict[Queue, None] = {}
        self._waiting: dict[Channel, None] = {}
        self._was_full = self._has_room = False
        self.mirror: IMirror | None = None
        # Sends whose receipt waits for the file: number, who sent it, and the receipt.
        self._unsynced: deque[tuple[int, Channel, bytes, bytes, bool]] = deque()
        self.leasing: dict[Consumer, None] = {}
        self._next_due = 0  # of the delayed messages
        self.producers: dict[bytes, Producer] = {}
        self._producer_timeout = producer_timeout
        self._producers_checked = self.now
        # Counters, which never fall.
        self.received = self.delivered = self.redelivered = self.acknowledged_total = 0
        self.requeued = self.expired = self.dead_lettered = self.flushed = self.unknown_ids = self.duplicates = 0
        self._load()

    def _load(self) -> None:
        for record, waiting, size, delayed in self._store.queues():
            queue = Queue(record, waiting - delayed, size, delayed)
            self._remember(queue)
            self.used += size + waiting * MESSAGE_OVERHEAD
            if queue.flushed:
                # The process may have ended before all that was flushed was gone.
                self._purging[queue] = None
            self.forget_if_unused(queue)
        dead, size = self._store.dead_totals()
        self.used += size + dead * MESSAGE_OVERHEAD
        self._next_due = self._store.next_due()
        for name, number, used in self._store.producers():
            self.producers[name] = Producer(name, number, used)
            self.used += PRODUCER_OVERHEAD

    def channel(self, peer: IPeer) -> Channel:
        """A conversation with this broker; close it when the peer is gone."""
        return Channel(self, peer)

    # Turns

    def begin(self) -> None:
        """Start a turn: time stands still, and deliveries wait for its end."""
        self.now = self._clock()
        self._in_turn = True

    def end(self) -> None:
        """End a turn."""
        if not self._dispatching:
            self._in_turn = False
            self.dispatch()

    def _enter(self) -> None:
        """A call from outside of any turn sees what time it is."""
        if not self._in_turn:
            self.now = self._clock()

    def dispatch(self) -> None:
        """Deliver what can be delivered, and have the peers write it."""
        if self._dispatching:
            return
        if self._stopped:
            self._flush_touched()
            return
        self.begin()
        self._dispatching = True
        self._budget = _STEP
        try:
            while (self._due and self._budget > 0) or self._touched:
                self._distribute_due()
                self._flush_touched()
                self._announce_room()
            if self._purging:
                self._purge()
            self._announce_room()
        finally:
            self._dispatching = self._in_turn = False
        if self._due or self._purging:
            self.wake()

    def touch(self, channel: Channel) -> None:
        """The channel's peer has something to flush at the end of this turn."""
        if not channel.touched:
            channel.touched = True
            self._touched.append(channel)
            if not self._in_turn:
                self.wake()

    def _flush_touched(self) -> None:
        touched, self._touched = self._touched, []
        for channel in touched:
            channel.touched = False
            channel.peer.flush()

    def stop(self) -> None:
        """Deliver a last time: what comes back from now on stays, and what is not synced yet still gets its receipt once it is."""
        self.dispatch()
        self._stopped = True

    def distribute(self, queue: Queue) -> None:
        """The queue may have messages for its consumers: look at it in the next L{dispatch}."""
        if not queue.due:
            queue.due = True
            self._due.append(queue)
            if not self._in_turn:
                self.wake()

    def _distribute_due(self) -> None:
        due = self._due
        while due and self._budget > 0:
            queue = due.popleft()
            queue.due = False
            if queue.idle and not queue.paused & DELIVERIES:
                self._deliver(queue)
                if self._budget <= 0:
                    self.distribute(queue)

    def _deliver(self, queue: Queue) -> None:  # noqa: C901  # the hot path: calls would cost more than they do
        """Rule 8: hand the next messages round among the consumers with room."""
        idle, now, id_prefix = queue.idle, self.now, self._store.id_prefix
        delivered = 0
        budget = self._budget
        while idle and delivered < budget and (queue.ahead or queue.read_ahead(self._store)):
            consumer = idle.popleft()
            channel = consumer.channel
            if channel.paused or consumer.held >= consumer.window:
                consumer.idle = False
                continue
            message = queue.ahead.popleft()
            size = message.size
            queue.ahead_size -= size
            queue.ready_size -= size
            if message.expires and message.expires <= now:
                idle.appendleft(consumer)
                self._expire(message)
                continue
            message.consumer = consumer
            message.attempts += 1
            if message.attempts > 1:
                self.redelivered += 1
            if not message.id:
                message.id = id_prefix + b"%016x" % message.number
            delivered += 1
            queue.in_flight += 1
            consumer.held += 1
            if consumer.held < consumer.window:
                idle.append(consumer)
            else:
                consumer.idle = False
            channel.unacked[message.id] = message
            if consumer.lease:
                consumer.deadlines[message.id] = now + consumer.lease
            if not channel.touched:
                channel.touched = True
                self._touched.append(channel)
            channel.peer.deliver(message, now)
        self.delivered += delivered
        self._budget -= delivered

    # Sending

    def publish(  # noqa: C901  # likewise
        self,
        name: str,
        body: bytes,
        ttl: int = 0,
        revision: int = 0,
        extra: Extra | None = None,
        producer: Producer | None = None,
        sequence: int = 0,
    ) -> Message:
        """
        Accept a message.

        @param ttl: milliseconds until it expires; 0 for never
        @param revision: the revision of protocol 01 that its sender speaks; 0 for none
        @param extra: its key and headers, and in C{due} the milliseconds until it is ready
        @param producer: who sends it, with a number above that of the producer's last one
        @raise TypeError: the body is not C{bytes}
        @raise BadName: no queue can have that name
        @raise QueueFull: the queue takes no sends now
        @raise MemoryFull: the memory limit is reached
        """
        if not isinstance(body, bytes):
            # The store writes many messages at once: this one would take others' with it.
            raise TypeError(f"a body is bytes, not {type(body).__name__}")
        if not self._in_turn:
            self.now = self._clock()
        if self.used >= self.memory_limit:
            self._was_full = True
            raise MemoryFull("the server's memory limit is reached")
        queue = self.queues.get(name) or self.queue(name)
        if queue.paused & SENDS:
            raise QueueFull("the queue is paused for sends")
        if revision and queue.revision != revision:
            queue.revision = revision
            self._store.save_queue(queue)
        number = self._next
        self._next = number + 1
        now = self.now
        message = Message(number, queue, number, now, now + int(min(ttl, MAX_TTL)) if ttl else 0, 0, body, extra)
        if extra is not None and extra.due:
            extra.due = now + min(extra.due, MAX_TTL)
            message.position = -number
        if producer is not None:
            # First, so that the store writes both down together.
            producer.number, producer.message, producer.used = sequence, number, now
            self._store.save_producer(producer.name, sequence, now)
        self._store.add(message)
        self.used += message.size + MESSAGE_OVERHEAD
        self.received += 1
        if message.position < 0:
            self._hold(queue, message)
            return message
        queue.append(message)
        if queue.idle and not queue.due:
            self.distribute(queue)
        return message

    def find(self, name: str, key: str) -> int:
        """Rule 17: the number of the message with that key in a queue, 0 if there is none."""
        self._enter()
        queue = self.queues.get(name)
        return 0 if queue is None else int(self._store.find(queue, key, self.now))

    def message_id(self, number: int) -> bytes:
        """The id by which clients know the message of that number."""
        return b"%b%016x" % (self._store.id_prefix, number)

    # Syncing

    def check_sync(self) -> None:
        """
        Whether a message can get on a disk.

        @raise NotAllowed: the server keeps no file
        @raise DiskFailing: the file cannot be written now
        """
        if self.mirror is None:
            raise NotAllowed("this server keeps its messages in memory only")
        if self.mirror.failing:
            raise DiskFailing("the store's file cannot be written")

    def receipt_when_synced(self, number: int, channel: Channel, tag: bytes, message_id: bytes, duplicate: bool) -> None:
        """Give a receipt once all up to C{number} is in the file."""
        if number <= self._store.mirrored or self.mirror is None:
            channel.answer(tag, message_id, duplicate)
            return
        if not self._unsynced:
            self.mirror.hurry()
        self._unsynced.append((number, channel, tag, message_id, duplicate))
        self._store.wants_sync()

    def synced(self) -> None:
        """The file got further: give the receipts that waited for it."""
        self.begin()
        unsynced, mirrored = self._unsynced, self._store.mirrored
        while unsynced and unsynced[0][0] <= mirrored:
            _, channel, tag, message_id, duplicate = unsynced.popleft()
            channel.answer(tag, message_id, duplicate)
        if unsynced and self.mirror is not None:
            self.mirror.hurry()
        self.end()

    # Producers

    def producer(self, name: bytes) -> Producer:
        """
        Rule 17b: the producer of that name, new if it was not used for long.

        @raise MemoryFull: there is no room for a new one
        """
        producer = self.producers.get(name)
        if producer is None:
            if self.used >= self.memory_limit:
                raise MemoryFull("the server's memory limit is reached")
            producer = self.producers[name] = Producer(name)
            self.used += PRODUCER_OVERHEAD
        return producer

    def release_producer(self, producer: Producer) -> None:
        """The producer's connection is gone; one that never sent anything is forgotten."""
        producer.channel = None
        if producer.number < 0:
            self._forget_producer(producer)

    def _forget_producer(self, producer: Producer) -> None:
        if self.producers.pop(producer.name, None) is not None:
            self._freed(PRODUCER_OVERHEAD)

    def _forget_idle_producers(self) -> None:
        if self.now - self._producers_checked < min(self._producer_timeout, 60_000):
            return
        self._producers_checked = self.now
        deadline = self.now - self._producer_timeout
        for producer in [one for one in self.producers.values() if one.channel is None and one.used < deadline]:
            self._forget_producer(producer)
            self._store.drop_producer(producer.name)

    def wait_for_room(self, channel: Channel) -> None:
        """Tell the channel's peer when a send that was refused may succeed."""
        self._waiting[channel] = None

    def stop_waiting(self, channel: Channel) -> None:
        """Forget what L{wait_for_room} noted."""
        self._waiting.pop(channel, None)

    def _announce_room(self) -> None:
        if self._was_full and self.used < self.memory_limit * _ROOM:
            self._was_full = False
            self._has_room = True
        if self._has_room:
            self._has_room = False
            waiting, self._waiting = self._waiting, {}
            for channel in waiting:
                channel.peer.room()

    # Settling

    def acknowledged(self, message: Message) -> None:
        """A consumer is done with a message."""
        self.acknowledged_total += 1
        self._forget(message)

    def _forget(self, message: Message) -> None:
        self._store.remove(message.number)
        self.used -= message.size + MESSAGE_OVERHEAD
        if self._was_full:
            self._freed(0)
        queue: Queue = message.queue  # type: ignore[assignment]
        if not queue.consumers:
            self.forget_if_unused(queue)

    def _freed(self, size: int) -> None:
        self.used -= size
        if self._was_full and not self._in_turn:
            self.wake()

    def requeue(self, message: Message, ttl: int, delay: int = 0) -> None:
        """
        Rule 3: a message goes to the tail of its queue, keeps its id and attempts, and takes the new time to live.

        @param ttl: milliseconds; 0 for never
        @param delay: milliseconds until it is ready again
        """
        self._enter()
        message.position = self._next
        self._next += 1
        message.expires = self.now + int(min(ttl, MAX_TTL)) if ttl else 0
        self.requeued += 1
        queue: Queue = message.queue  # type: ignore[assignment]
        if delay:
            if message.extra is None:
                message.extra = Extra()
                message.size += EXTRA_OVERHEAD
                self.used += EXTRA_OVERHEAD
            message.extra.due = self.now + min(delay, MAX_TTL)
            message.position = -message.position
            self._store.put(message)
            self._hold(queue, message)
            return
        self._store.put(message)
        queue.append(message)
        if queue.idle:
            self.distribute(queue)

    def bury(self, message: Message, reason: str, text: str) -> None:
        """A message becomes a dead letter: it leaves its queue and is kept."""
        self._enter()
        self._store.bury(message, reason, text, self.now)
        self.dead_lettered += 1
        self.forget_if_unused(message.queue)  # type: ignore[arg-type]

    def take_back(self, queue: Queue, messages: list[Message]) -> None:
        """Rules 3, 4 and 12: what a consumer held that is gone waits again, unless it was flushed or expired meanwhile."""
        self._enter()
        back = []
        for message in messages:
            if message.position <= queue.flushed:
                self._forget(message)
            elif message.expires and message.expires <= self.now:
                self._expire(message)
            else:
                self._store.retried(message)
                back.append(message)
        queue.in_flight -= len(messages)
        if back:
            queue.put_back(back)
            self.distribute(queue)
        self.forget_if_unused(queue)

    # Lifetime

    def _hold(self, queue: Queue, message: Message) -> None:
        """Rule 13: keep a message until it is due."""
        queue.hold(message)
        due = message.extra.due  # type: ignore[union-attr]
        if not self._next_due or due < self._next_due:
            self._next_due = due

    def tick(self) -> None:
        """Release what is due and take back what was leased; to be called about ten times a second."""
        self.begin()
        try:
            if self._next_due and self._next_due <= self.now:
                self._release()
            for consumer in list(self.leasing):
                consumer.channel.take_away(consumer)
        finally:
            self.end()

    def _release(self) -> None:
        for message in self._store.due(self.now, _STEP, self._by_number):
            queue: Queue = message.queue  # type: ignore[assignment]
            if -message.position <= queue.flushed:
                continue
            message.position = self._next
            self._next += 1
            message.extra.due = 0  # type: ignore[union-attr]
            self._store.put(message)
            queue.release(message)
            if queue.idle:
                self.distribute(queue)
        self._next_due = self._store.next_due()

    def _expire(self, message: Message) -> None:
        self.expired += 1
        self._forget(message)

    def sweep(self) -> bool:
        """Rule 12: drop messages that expired while they waited. False if there may be more, which the next call looks at."""
        self._enter()
        rows = self._store.expired(self.now, _STEP)
        ahead: dict[Queue, None] = {}
        for number, queue_number, position, size in rows:
            queue = self._by_number.get(queue_number)
            if queue is None or abs(position) <= queue.flushed:
                continue
            if position < 0 or position > queue.cursor:
                if position < 0:
                    queue.delayed -= 1
                else:
                    queue.behind -= 1
                queue.ready_size -= size
                self.expired += 1
                self._store.remove(number)
                self._freed(size + MESSAGE_OVERHEAD)
                self.forget_if_unused(queue)
            else:
                # In Python, or in flight; the latter stay.
                ahead[queue] = None
        for queue in ahead:
            for message in queue.drop_expired(self.now):
                self._expire(message)
        self._forget_idle_producers()
        return len(rows) < _STEP

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
        self._by_number[queue.number] = queue
        self.used += QUEUE_OVERHEAD

    def forget_if_unused(self, queue: Queue) -> None:
        """Rule 1: an empty queue that nobody consumes goes away, once the store has forgotten what was flushed from it."""
        if queue.unused and queue not in self._purging and self._by_number.pop(queue.number, None) is not None:
            del self.queues[queue.name]
            self._store.drop_queue(queue)
            self._freed(QUEUE_OVERHEAD)

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
        self._freed(size + count * MESSAGE_OVERHEAD)
        self._purging[queue] = None
        if not self._in_turn:
            self.wake()
        return count, queue.in_flight

    def flush_all(self) -> tuple[int, int]:
        """Rule 4 for every queue: the sums."""
        results = [self.flush(name) for name in list(self.queues)]
        return sum(count for count, _ in results), sum(in_flight for _, in_flight in results)

    def _purge(self) -> None:
        """The store forgets flushed messages step by step, so that nobody waits for a large queue."""
        queue = next(iter(self._purging))
        if self._store.purge(queue, _STEP):
            del self._purging[queue]
            self.forget_if_unused(queue)

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
        self._has_room = True
        self.distribute(queue)
        self.forget_if_unused(queue)
