"""Turns of work, and what is delivered at the end of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from phpmq.broker.queue import DELIVERIES, Queue
from phpmq.durations import Durations
from phpmq.interfaces import IStore
from phpmq.message import Message

if TYPE_CHECKING:
    from phpmq.broker.channel import Channel

#: How many messages a dispatch delivers, or a sweep or a purge looks at, before others get their turn.
STEP = 2000

# So many who waited for room are told in a dispatch: each goes on with what it has read already.
_TOLD = 200

# Waits are counted in milliseconds, up to 37 hours.
_WAIT_UNIT, _WAIT_BUCKETS = 0.001, 28


class Dispatch(ABC):
    """
    What makes a broker deliver: turns, the queues that are due in them, and who is to write afterwards.

    Deliveries are made by L{dispatch} at the end of a turn: what is called between L{begin} and L{end} is one turn, and outside of one
    C{wake} is called when there is something to dispatch.

    @ivar now: the time of this turn, milliseconds since the epoch
    @ivar tells: how many who wait for room this dispatch may still tell, if they send no more than L{STEP} messages
    @ivar wake: called, perhaps often, when L{dispatch} should be called soon
    @ivar waits: how long messages waited from their acceptance until they were delivered for the first time
    """

    # CPython finds a slot faster than an attribute of an object that has more than 30 of them, as a broker does.
    __slots__ = (
        "_budget",
        "_clock",
        "_dispatching",
        "_due",
        "_id_format",
        "_in_turn",
        "_stopped",
        "_store",
        "_touched",
        "delivered",
        "now",
        "redelivered",
        "tells",
        "waits",
        "wake",
    )

    def __init__(self, store: IStore, clock: Callable[[], int], wake: Callable[[], object]) -> None:
        self._store = store
        self._id_format: bytes = store.id_prefix + b"%016x"
        self._clock = clock
        self.wake = wake
        self.now = clock()
        self._in_turn = self._dispatching = self._stopped = False
        self._due: deque[Queue] = deque()
        self._budget = 0  # deliveries that this dispatch may still make
        self.tells = 0
        self._touched: list[Channel] = []
        self.delivered = self.redelivered = 0
        self.waits = Durations(_WAIT_UNIT, _WAIT_BUCKETS)

    def begin(self) -> None:
        """Start a turn: time stands still, and deliveries wait for its end."""
        self.now = self._clock()
        self._in_turn = True

    def end(self) -> None:
        """End a turn."""
        if not self._dispatching:
            self._in_turn = False
            self.dispatch()

    def enter(self) -> None:
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
        self._budget = STEP
        self.tells = _TOLD
        try:
            while (self._due and self._budget > 0) or self._touched:
                self._distribute_due()
                self._flush_touched()
                self.announce_room()
            more = self.purge()
            more = self.announce_room() or more
        finally:
            self._dispatching = self._in_turn = False
        if self._due or more:
            self.wake()

    @abstractmethod
    def announce_room(self) -> bool:
        """Tell those whose sends wait that there is room, if there is; true if there are more of them."""

    @abstractmethod
    def purge(self) -> bool:
        """Do a part of the work that was put off; true if there is more."""

    @abstractmethod
    def expire(self, message: Message) -> None:
        """A message that was about to be delivered has expired."""

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
        idle, now, id_format = queue.idle, self.now, self._id_format
        delivered = 0
        budget = self._budget
        # Messages of a millisecond are counted together: one after the other in a busy queue are of the same one.
        waits, accepted, alike = self.waits, now, 0
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
                self.expire(message)
                continue
            message.consumer = consumer
            message.attempts += 1
            if message.attempts > 1:
                self.redelivered += 1
            elif message.accepted == accepted:
                alike += 1
            else:
                waits.note(now - accepted, alike)
                accepted, alike = message.accepted, 1
            if not message.id:
                message.id = id_format % message.number
            delivered += 1
            queue.in_flight += 1
            consumer.held += 1
            if consumer.held < consumer.window:
                idle.append(consumer)
            else:
                consumer.idle = False
            channel.unacked[message.id] = message
            if consumer.lease:
                consumer.start_lease(message.id, now)
            if not channel.touched:
                channel.touched = True
                self._touched.append(channel)
            channel.peer.deliver(message, now)
        waits.note(now - accepted, alike)
        self.delivered += delivered
        queue.delivered += delivered
        self._budget -= delivered
