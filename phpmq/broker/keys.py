"""Keys by which sends are recognised, also when their messages are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phpmq.broker.queue import Queue
from phpmq.errors import MemoryFull
from phpmq.interfaces import IStore
from phpmq.message import key_size

if TYPE_CHECKING:
    from phpmq.broker.broker import Broker

#: How many keys are forgotten before others get their turn.
STEP = 1000

# Sends go on when there is room for so many again: not at every single key that is forgotten.
_AGAIN = 0.95

# A look at a queue costs about as much as so many keys.
_LOOK = 10


class Keys:
    """
    Rule 17: the keys that queues remember, each until its queue's dedup window is over.

    @ivar count: how many there are
    @ivar limit: how many there may be
    @ivar full: whether a send met the limit since there was room last
    """

    def __init__(self, broker: Broker, store: IStore, limit: int) -> None:
        self._broker = broker
        self._store = store
        self.limit = limit
        self.count = 0
        self.full = False
        self._stored = store.keys()
        # When a queue's oldest key has to go, or a moment before; milliseconds since the epoch.
        self._due: dict[Queue, int] = {}

    @property
    def alarm(self) -> str:
        """What an operator has to know; empty if all is well."""
        return f"{self.count} keys are remembered, as many as may be: sends with a key are refused or wait" if self.full else ""

    def load(self, queue: Queue) -> None:
        """The store has a queue's keys, perhaps."""
        queue.keys, size = self._stored.pop(queue.number, (0, 0))
        if queue.keys:
            self.count += queue.keys
            self._broker.used += key_size(size, queue.keys)
            self._due[queue] = 0

    def check(self, queue: Queue) -> None:
        """
        A message with a new key comes to a queue that has a dedup window.

        @raise MemoryFull: there are as many keys as there may be
        """
        if self.count >= self.limit:
            self.full = True
            self._broker.forget_if_unused(queue)  # it may have been made for this message
            raise MemoryFull(f"the server remembers {self.count} keys, as many as it may")

    def remember(self, queue: Queue, key: str) -> None:
        """That message is accepted."""
        self.count += 1
        self._broker.used += key_size(len(key.encode("utf-8")))
        if not queue.keys:
            self._due[queue] = self._broker.now + int(queue.settings.dedup * 1000)
        queue.keys += 1

    def reconsider(self, queue: Queue) -> None:
        """A queue's window is another one."""
        if queue.keys:
            self._due[queue] = 0

    def forget(self, queue: Queue, number: int) -> None:
        """All keys of a queue's messages up to that number are unknown from now on; the store forgets them step by step."""
        if queue.keys:
            queue.keys_forgotten_to = number
            self._store.save_queue(queue)
            self._broker.enter()
            self._sweep(queue)

    def sweep(self) -> bool:
        """Forget keys whose window is over. False if there may be more, which the next call looks at."""
        now, left = self._broker.now, STEP
        for queue in [queue for queue, due in self._due.items() if due <= now]:
            if left <= 0:
                return False
            left -= self._sweep(queue) + _LOOK
        return left > 0

    def _sweep(self, queue: Queue) -> int:
        """Forget a part of a queue's keys; how many."""
        broker = self._broker
        count, size, accepted = self._store.forget_keys(queue, broker.now, STEP)
        queue.keys -= count
        self.count -= count
        if queue.keys:
            self._due[queue] = 0 if count == STEP else accepted + int(queue.settings.dedup * 1000)
        else:
            del self._due[queue]
            broker.forget_if_unused(queue)
        if self.full and self.count < self.limit * _AGAIN:
            self.full = False
            broker.room.came()
            broker.wake()
        if count:
            broker.freed(key_size(size, count))
        return count
