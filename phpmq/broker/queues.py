"""All queues of a broker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from phpmq.broker.memory import Memory
from phpmq.broker.queue import DELIVERIES, SENDS, Queue
from phpmq.broker.turn import STEP, Turn
from phpmq.interfaces import IStore
from phpmq.message import MESSAGE_OVERHEAD, QueueSettings, check_name

#: What a queue and its consumers count against the memory limit beside the messages, in bytes.
QUEUE_OVERHEAD = 2560


class Queues(Mapping[str, Queue]):
    """
    The queues by name.

    @ivar by_name: a dict of the same, for the hot path
    @ivar by_number: the same by number
    @ivar next: the next position at the tail of any queue; a new message has it as its number as well
    @ivar flushed: how many messages were removed by a flush; it never falls
    """

    __slots__ = ("_memory", "_purging", "_store", "_turn", "by_name", "by_number", "flushed", "next")

    def __init__(self, turn: Turn, memory: Memory, store: IStore) -> None:
        self._turn = turn
        self._memory = memory
        self._store = store
        self.by_name: dict[str, Queue] = {}
        self.by_number: dict[int, Queue] = {}
        self.next: int = store.next_number
        self._purging: dict[Queue, None] = {}
        self.flushed = 0
        for record, waiting, size, delayed in store.queues():
            queue = Queue(record, waiting - delayed, size, delayed)
            self._add(queue)
            memory.take(size + waiting * MESSAGE_OVERHEAD)
            if queue.flushed_to:
                # The process may have ended before all that was flushed was gone.
                self._purging[queue] = None

    def __getitem__(self, name: str) -> Queue:
        return self.by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)

    # Positions

    def next_position(self) -> int:
        """Take the next position at the tail of any queue."""
        position = self.next
        self.next = position + 1
        return position

    @property
    def tail(self) -> int:
        """The last position that was given at the tail of any queue."""
        return self.next - 1

    # Which there are

    def get_or_create(self, name: str) -> Queue:
        """
        The queue of that name, made if it is not there (rule 1).

        @raise BadName: no queue can have that name
        """
        queue = self.by_name.get(name)
        if queue is None:
            queue = Queue(self._store.create_queue(check_name(name)))
            self._add(queue)
        return queue

    def _add(self, queue: Queue) -> None:
        self.by_name[queue.name] = queue
        self.by_number[queue.number] = queue
        self._memory.take(QUEUE_OVERHEAD)

    def forget_if_unused(self, queue: Queue) -> None:
        """Rule 1: remove an empty queue without consumers, once the store has removed what was flushed from it."""
        if queue.unused and queue not in self._purging and self.by_number.pop(queue.number, None) is not None:
            del self.by_name[queue.name]
            self._store.drop_queue(queue)
            self._memory.free(QUEUE_OVERHEAD)

    # What operators do to them

    def flush(self, name: str) -> tuple[int, int]:
        """
        Rule 4: remove what waits in a queue.

        @return: how many messages were removed, and how many in flight were left to their consumers, never to come back
        """
        queue = self.by_name.get(name)
        if queue is None:
            return 0, 0
        count, size = queue.clear(self.tail)
        self._store.save_queue(queue)
        self.flushed += count
        self._memory.free(size + count * MESSAGE_OVERHEAD)
        self._purging[queue] = None
        if not self._turn.active:
            self._turn.wake()
        return count, queue.in_flight

    def flush_all(self) -> tuple[int, int]:
        """Rule 4 for every queue: the sums."""
        results = [self.flush(name) for name in list(self.by_name)]
        return sum(count for count, _ in results), sum(in_flight for _, in_flight in results)

    def purge(self) -> bool:
        """Remove a part of the flushed messages from the store, so that a large queue delays nobody; true if there are more."""
        if self._purging:
            queue = next(iter(self._purging))
            if self._store.purge(queue, STEP):
                del self._purging[queue]
                self.forget_if_unused(queue)
        return bool(self._purging)

    def configure(self, name: str, settings: QueueSettings) -> Queue:
        """
        Set what a queue follows from now on, also over a restart. Its lease is that of consumers that come later.

        @raise BadName: no queue can have that name
        """
        queue = self.get_or_create(name)
        queue.configure(settings)
        self._changed(queue)
        return queue

    def pause(self, name: str, what: int = DELIVERIES) -> None:
        """
        Rule 5: stop deliveries, sends (L{SENDS}) or both of a queue, also over a restart.

        @raise BadName: no queue can have that name
        """
        queue = self.get_or_create(name)
        queue.paused |= what
        self._store.save_queue(queue)

    def resume(self, name: str, what: int = DELIVERIES | SENDS) -> None:
        """Undo L{pause}."""
        queue = self.by_name.get(name)
        if queue is not None:
            queue.paused &= ~what
            self._changed(queue)

    def _changed(self, queue: Queue) -> None:
        """A queue takes, or gives, what it did not a moment ago."""
        self._store.save_queue(queue)
        self._memory.unblock_all()
        self._turn.schedule(queue)
        self.forget_if_unused(queue)
