"""The memory limit, and the senders that are blocked by it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from phpmq.broker.turn import Turn
from phpmq.errors import MemoryFull
from phpmq.interfaces import IPeer

# Senders go on when this part of the memory limit is in use again: not at every single message that leaves.
_UNBLOCKED_AT = 0.95


class Sender(Protocol):
    """A channel: what has a peer that sends."""

    @property
    def peer(self) -> IPeer:
        """The client."""


class Bounded(Protocol):
    """A queue: what has limits of its own."""

    def has_capacity(self, size: int) -> bool:
        """Whether one more message of that size may wait."""


@dataclass(slots=True, eq=False)
class Memory:
    """
    What messages, queues, keys and producers take, and the senders that wait until they may try again.

    @ivar used: bytes in use
    @ivar limit: bytes from which on sends are refused or blocked
    @ivar full: whether a send met the limit since there was capacity last
    """

    _turn: Turn
    limit: int
    used: int = 0
    full: bool = False
    _blocked: dict[Sender, None] = field(default_factory=dict)
    _unblocked: dict[Sender, None] = field(default_factory=dict)
    _full_queues: dict[Bounded, None] = field(default_factory=dict)

    # What is used

    def check(self) -> None:
        """
        Make sure that something may be added.

        @raise MemoryFull: the limit is reached
        """
        if self.used >= self.limit:
            self.full = True
            raise MemoryFull("the server's memory limit is reached")

    def take(self, size: int) -> None:
        """Count bytes that are in use from now on."""
        self.used += size

    def free(self, size: int) -> None:
        """Count bytes that are not in use any more."""
        self.used -= size
        if self.full and not self._turn.active:
            self._turn.wake()

    # Who is blocked

    @property
    def blocked(self) -> int:
        """How many senders are blocked."""
        return len(self._blocked)

    def block(self, sender: Sender) -> None:
        """Tell the sender's peer when a send that was not accepted may succeed."""
        if sender not in self._unblocked:
            self._blocked[sender] = None

    def unblock(self, sender: Sender) -> None:
        """Let a blocked sender try again."""
        if self._blocked.pop(sender, sender) is None:
            self._unblocked[sender] = None

    def unblock_all(self) -> None:
        """Let all blocked senders try again."""
        self._unblocked |= self._blocked
        self._blocked = {}

    def unblock_after(self, queue: Bounded) -> None:
        """Let all blocked senders try again once a queue that is full has capacity."""
        self._full_queues[queue] = None

    def remove(self, sender: Sender) -> None:
        """Forget a sender that is gone."""
        self._blocked.pop(sender, None)
        self._unblocked.pop(sender, None)

    @property
    def may_unblock(self) -> bool:
        """Whether a sender may try again, and was not told yet."""
        return bool(self._unblocked)

    def review(self) -> bool:
        """Let blocked senders try again if there is capacity; whether any may."""
        if self.full and self.used < self.limit * _UNBLOCKED_AT:
            self.full = False
            self.unblock_all()
        if self._full_queues:
            ready = [queue for queue in self._full_queues if queue.has_capacity(0)]
            for queue in ready:
                del self._full_queues[queue]
            if ready:
                self.unblock_all()
        return bool(self._unblocked)

    def next_unblocked(self) -> Sender | None:
        """A sender that may try again, which is then no longer one of them; None if there is none."""
        # One at a time: what one does may be the end of another.
        if not self._unblocked:
            return None
        sender = next(iter(self._unblocked))
        del self._unblocked[sender]
        return sender
