"""Senders that wait for room."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from phpmq.broker.dispatch import STEP
from phpmq.errors import MemoryFull

if TYPE_CHECKING:
    from phpmq.broker.broker import Broker
    from phpmq.broker.channel import Channel
    from phpmq.broker.queue import Queue

# They go on when this part of the memory limit is in use again: not at every single message that leaves.
_AGAIN = 0.95


class Room:
    """
    Channels whose send was refused for want of room, until they are told to try again.

    @ivar full: whether a send met a full memory since there was room last
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._waiting: dict[Channel, None] = {}
        self._may_try: dict[Channel, None] = {}
        self._queues: dict[Queue, None] = {}  # that were full
        self.full = False

    @property
    def waiting(self) -> int:
        """How many channels there are."""
        return len(self._waiting)

    def refuse(self) -> NoReturn:
        """
        The memory limit is reached.

        @raise MemoryFull: always
        """
        self.full = True
        raise MemoryFull("the server's memory limit is reached")

    def wanted(self, queue: Queue) -> None:
        """A send to a queue is refused, as the queue is full."""
        self._queues[queue] = None

    def wait(self, channel: Channel) -> None:
        """Tell the channel's peer when a send that was refused may succeed."""
        if channel not in self._may_try:
            self._waiting[channel] = None

    def leave(self, channel: Channel) -> None:
        """Undo L{wait}."""
        self._waiting.pop(channel, None)
        self._may_try.pop(channel, None)

    def came(self) -> None:
        """There is room: all may try."""
        self._may_try |= self._waiting
        self._waiting = {}

    def came_for(self, channel: Channel) -> None:
        """There is room for this one."""
        if self._waiting.pop(channel, channel) is None:
            self._may_try[channel] = None

    def announce(self) -> bool:
        """Tell those who wait, if there is room, no more of them than the dispatch may; true if there are more."""
        if self.full and self._broker.used < self._broker.memory_limit * _AGAIN:
            self.full = False
            self.came()
        if self._queues:
            roomy = [queue for queue in self._queues if queue.has_room(0)]
            for queue in roomy:
                del self._queues[queue]
            if roomy:
                self.came()
        broker = self._broker
        most = broker.received + STEP
        while self._may_try and broker.tells > 0 and broker.received < most:
            # One at a time: what one does may be the end of another.
            channel = next(iter(self._may_try))
            del self._may_try[channel]
            broker.tells -= 1
            channel.peer.room()
        return bool(self._may_try)
