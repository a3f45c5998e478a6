"""Dead letters: messages that nobody gets any more, until an operator decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phpmq.broker.dispatch import STEP
from phpmq.broker.queue import Queue
from phpmq.interfaces import IStore
from phpmq.message import MESSAGE_OVERHEAD, DeadMessage, Message

if TYPE_CHECKING:
    from phpmq.broker.broker import Broker


class DeadLetters:
    """
    Rule 15: the dead messages of all queues, also of queues that are gone.

    @ivar totals: how many there are by queue, and the bytes that they take
    @ivar all: how many there are
    @ivar buried: reason -> how many died of it; never falls
    """

    def __init__(self, broker: Broker, store: IStore) -> None:
        self._broker = broker
        self._store = store
        self.totals: dict[str, tuple[int, int]] = store.dead_totals()
        self.all = sum(count for count, _ in self.totals.values())
        self.buried: dict[str, int] = {}

    def count(self, queue: str) -> int:
        """How many dead letters a queue has."""
        return self.totals.get(queue, (0, 0))[0]

    @property
    def used(self) -> int:
        """What they count against the memory limit, in bytes."""
        return sum(size + count * MESSAGE_OVERHEAD for count, size in self.totals.values())

    def dead_letter(self, message: Message, reason: str, text: str) -> None:
        """A message becomes a dead letter: it leaves its queue and is kept."""
        broker, queue = self._broker, message.queue
        broker.enter()
        self._store.dead_letter(message, reason, text, broker.now)
        if message.properties is not None:
            # It is no longer recognised by its key.
            freed = message.properties.give_up_key()
            message.size -= freed
            broker.freed(freed)
        self._note(queue.name, 1, message.size)
        self.buried[reason] = self.buried.get(reason, 0) + 1
        broker.forget_if_unused(queue)  # type: ignore[arg-type]

    def _note(self, queue: str, count: int, size: int) -> None:
        self.all += count
        before = self.totals.get(queue, (0, 0))
        now = before[0] + count, before[1] + size
        if now[0]:
            self.totals[queue] = now
        else:
            self.totals.pop(queue, None)

    def some(
        self,
        queue: str,
        after: int = 0,
        count: int = STEP,
        reason: str | None = None,
        preview: int | None = None,
        size: int = 2**62,
    ) -> list[DeadMessage]:
        """
        The dead letters of a queue in order of acceptance, those with a number above C{after}, a part at a time.

        @param preview: how many bytes of each body; None for all
        @param size: there are no more once what is read of them reaches so many bytes
        """
        found: list[DeadMessage] = []
        for dead in self._store.dead(queue, after, min(count, STEP), reason, preview):
            found.append(dead)
            size -= len(dead.body) + len(dead.headers)
            if size <= 0:
                break
        return found

    def find(self, queue: str, number: int, preview: int | None = None) -> DeadMessage | None:
        """
        A queue's dead letter of that number.

        @param preview: how many bytes of its body; None for all
        """
        dead = self._store.get_dead(number, preview)
        return dead if dead is not None and dead.queue == queue else None

    def replay(self, letters: list[DeadMessage], target: str) -> None:
        """
        Have dead letters delivered again: they go to the tail of a queue, as if they had never been delivered, and never expire.

        In the file each is either dead or waits, whenever a crash comes. A queue's limits do not count here.

        @raise BadName: no queue can have that name
        """
        broker = self._broker
        queue: Queue = broker.queue(target)
        for dead in letters:
            self._note(dead.queue, -1, -dead.size)
            message = self._store.replay(dead, queue, broker.next_position())
            broker.freed(dead.size - message.size)
            queue.append(message)
        broker.distribute(queue)
        broker.forget_if_unused(queue)

    def delete(self, letters: list[DeadMessage]) -> None:
        """Forget dead letters."""
        self._store.delete_dead(dead.number for dead in letters)
        for dead in letters:
            self._note(dead.queue, -1, -dead.size)
            self._broker.freed(dead.size + MESSAGE_OVERHEAD)
