"""Deduplication keys by which sends are recognised, also when their messages are gone."""

from __future__ import annotations

from phpmq.broker.memory import Memory
from phpmq.broker.queue import Queue
from phpmq.broker.queues import Queues
from phpmq.broker.turn import Turn
from phpmq.errors import MemoryFull
from phpmq.interfaces import IStore
from phpmq.message import key_size

#: How many keys are forgotten before a sweep yields to the reactor.
STEP = 1000

# Sends go on when this part of the limit is in use again: not at every single key that is forgotten.
_UNBLOCKED_AT = 0.95

# A look at a queue costs about as much as so many keys.
_LOOK = 10


class DeduplicationKeys:
    """
    Rule 17: the keys that queues remember, each until its queue's dedup window is over.

    @ivar count: how many there are
    @ivar limit: how many there may be
    @ivar full: whether a send met the limit since there was capacity last
    """

    def __init__(self, turn: Turn, memory: Memory, queues: Queues, store: IStore, limit: int) -> None:
        self._turn = turn
        self._memory = memory
        self._queues = queues
        self._store = store
        self.limit = limit
        self.count = 0
        self.full = False
        # When a queue's oldest key has to go, or a moment before; milliseconds since the epoch.
        self._due: dict[Queue, int] = {}
        for number, (count, size) in store.keys().items():
            # A queue that is gone left its keys in a file that was cut short: nobody asks for them.
            queue = queues.by_number.get(number)
            if queue is not None:
                queue.keys = count
                self.count += count
                memory.take(key_size(size, count))
                self._due[queue] = 0

    @property
    def alarm(self) -> str:
        """What an operator has to know; empty if all is well."""
        return f"{self.count} keys are remembered, as many as may be: sends with a key are refused or wait" if self.full else ""

    def find(self, name: str, key: str) -> int:
        """The number of a message with that key, which is in the queue or was sent to it not long ago; 0 if there is none."""
        self._turn.enter()
        queue = self._queues.by_name.get(name)
        return 0 if queue is None else int(self._store.find(queue, key, self._turn.now))

    def check(self, queue: Queue) -> None:
        """
        Make sure that a message with a new key may come to a queue that has a dedup window.

        @raise MemoryFull: there are as many keys as there may be
        """
        if self.count >= self.limit:
            self.full = True
            self._queues.forget_if_unused(queue)  # it may have been made for this message
            raise MemoryFull(f"the server remembers {self.count} keys, as many as it may")

    def remember(self, queue: Queue, key: str) -> None:
        """Count the key of a message that is accepted."""
        self.count += 1
        self._memory.take(key_size(len(key.encode("utf-8"))))
        if not queue.keys:
            self._due[queue] = self._turn.now + int(queue.settings.dedup * 1000)
        queue.keys += 1

    def reschedule(self, queue: Queue) -> None:
        """Look at a queue's keys soon: its dedup window is another one."""
        if queue.keys:
            self._due[queue] = 0

    def forget(self, name: str) -> None:
        """Forget the keys of all messages that were sent to a queue until now and are not in it; the store does so step by step."""
        queue = self._queues.by_name.get(name)
        if queue is not None and queue.keys:
            queue.keys_forgotten_to = self._queues.tail
            self._store.save_queue(queue)
            self._turn.enter()
            self._sweep(queue)

    def sweep(self) -> bool:
        """Forget keys whose window is over. False if there may be more, which the next call looks at."""
        now, left = self._turn.now, STEP
        for queue in [queue for queue, due in self._due.items() if due <= now]:
            if left <= 0:
                return False
            left -= self._sweep(queue) + _LOOK
        return left > 0

    def _sweep(self, queue: Queue) -> int:
        """Forget a part of a queue's keys; how many."""
        count, size, accepted = self._store.forget_keys(queue, self._turn.now, STEP)
        queue.keys -= count
        self.count -= count
        if queue.keys:
            self._due[queue] = 0 if count == STEP else accepted + int(queue.settings.dedup * 1000)
        else:
            del self._due[queue]
            self._queues.forget_if_unused(queue)
        if self.full and self.count < self.limit * _UNBLOCKED_AT:
            self.full = False
            self._memory.unblock_all()
            self._turn.wake()
        if count:
            self._memory.free(key_size(size, count))
        return count
