"""Dead letters: messages that nobody gets any more, until an operator decides."""

from __future__ import annotations

from phpmq.broker.memory import Memory
from phpmq.broker.turn import STEP
from phpmq.interfaces import IStore
from phpmq.message import MESSAGE_OVERHEAD, DeadMessage


class DeadLetters:
    """
    Rule 15: the dead letters of all queues, also of queues that are gone. What makes a message one is L{phpmq.broker.lifecycle}'s.

    @ivar totals: how many there are by queue, and the bytes that they take
    @ivar count: how many there are
    @ivar by_reason: reason -> how many messages became dead letters for it; never falls
    """

    def __init__(self, memory: Memory, store: IStore) -> None:
        self._store = store
        self.totals: dict[str, tuple[int, int]] = store.dead_totals()
        self.count = sum(count for count, _ in self.totals.values())
        self.by_reason: dict[str, int] = {}
        memory.take(sum(size + count * MESSAGE_OVERHEAD for count, size in self.totals.values()))

    def count_of(self, queue: str) -> int:
        """How many dead letters a queue has."""
        return self.totals.get(queue, (0, 0))[0]

    def add(self, queue: str, size: int, reason: str) -> None:
        """Count a new dead letter."""
        self._count(queue, 1, size)
        self.by_reason[reason] = self.by_reason.get(reason, 0) + 1

    def remove(self, dead: DeadMessage) -> None:
        """Stop counting a dead letter."""
        self._count(dead.queue, -1, -dead.size)

    def _count(self, queue: str, count: int, size: int) -> None:
        self.count += count
        before = self.totals.get(queue, (0, 0))
        now = before[0] + count, before[1] + size
        if now[0]:
            self.totals[queue] = now
        else:
            self.totals.pop(queue, None)

    def page(
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
        A queue's dead letter of that number; None if there is none.

        @param preview: how many bytes of its body; None for all
        """
        dead = self._store.get_dead(number, preview)
        return dead if dead is not None and dead.queue == queue else None
