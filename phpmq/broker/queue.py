"""A queue and those who are interested in it."""

from __future__ import annotations

from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING

from phpmq.interfaces import IStore
from phpmq.message import DEFAULT_SETTINGS, Message, QueueRecord, QueueSettings

if TYPE_CHECKING:
    from phpmq.broker.channel import Channel

#: Bits of L{QueueRecord.paused}.
DELIVERIES, SENDS = 1, 2

# How much of a queue is kept ready in Python: enough to amortise a read of the store, little enough for thousands of queues.
_AHEAD_MESSAGES = 512
_AHEAD_BYTES = 256 * 1024

_position = attrgetter("position")


class Queue(QueueRecord):
    """
    A named queue: the messages that wait come first from C{ahead}, then from the store.

    @ivar ahead: the next messages, in order of position
    @ivar cursor: the position up to which messages were taken out of the store
    @ivar behind: how many messages wait beyond the cursor
    @ivar consumers: who is interested
    @ivar idle: consumers with room, the one that has waited longest first; some may have none any more
    @ivar in_flight: how many messages were delivered and not settled
    @ivar keys: how many keys it remembers
    @ivar delayed: how many messages are not ready yet
    @ivar ready_size: bytes of the messages that wait, also of the delayed ones
    @ivar due: whether the broker has it on its list of queues to look at
    @ivar bounded: whether its settings limit what may wait in it
    @ivar received: how many messages were ever sent to it; C{delivered} and C{acknowledged} likewise, since the server started
    """

    __slots__ = (
        "acknowledged",
        "ahead",
        "ahead_size",
        "behind",
        "bounded",
        "consumers",
        "cursor",
        "delayed",
        "delivered",
        "due",
        "idle",
        "in_flight",
        "keys",
        "ready_size",
        "received",
    )

    def __init__(self, record: QueueRecord, ready: int = 0, ready_size: int = 0, delayed: int = 0) -> None:
        super().__init__(record.number, record.name, record.flushed_to, record.paused, record.settings, record.keys_forgotten_to)
        self.bounded = False
        self.configure(record.settings)
        self.received = self.delivered = self.acknowledged = 0
        self.ahead: deque[Message] = deque()
        self.ahead_size = 0
        self.cursor = record.flushed_to
        self.behind = ready
        self.delayed = delayed
        self.ready_size = ready_size
        self.consumers: set[Consumer] = set()
        self.idle: deque[Consumer] = deque()
        self.in_flight = self.keys = 0
        self.due = False

    @property
    def ready(self) -> int:
        """How many messages could be delivered now."""
        return len(self.ahead) + self.behind

    @property
    def unused(self) -> bool:
        """Rule 1: whether nobody would notice if the queue went away."""
        kept = self.paused or self.keys or self.settings is not DEFAULT_SETTINGS
        return not (self.consumers or self.ahead or self.behind or self.delayed or self.in_flight or kept)

    def configure(self, settings: QueueSettings) -> None:
        """Follow other settings from now on."""
        self.settings = DEFAULT_SETTINGS if settings == DEFAULT_SETTINGS else settings
        self.bounded = bool(settings.max_messages or settings.max_bytes)

    def has_room(self, size: int) -> bool:
        """Rule 18: whether its settings let a message of that size wait in it."""
        messages, most = self.settings.max_messages, self.settings.max_bytes
        return not (messages and self.ready + self.delayed >= messages) and not (most and self.ready_size + size > most)

    def hold(self, message: Message) -> None:
        """Count a message that is delayed."""
        self.delayed += 1
        self.ready_size += message.size

    def release(self, message: Message) -> None:
        """A delayed message is due: it takes its place at the tail."""
        self.delayed -= 1
        self.ready_size -= message.size
        self.append(message)

    def append(self, message: Message) -> None:
        """Add a message at the tail: in Python if all before it is there, somebody may want it soon and there is room."""
        size = message.size
        self.ready_size += size
        ahead = self.ahead
        if self.behind or not self.consumers or len(ahead) >= _AHEAD_MESSAGES or self.ahead_size >= _AHEAD_BYTES:
            self.behind += 1
        else:
            self.cursor = message.position
            ahead.append(message)
            self.ahead_size += size

    def read_ahead(self, store: IStore) -> bool:
        """Once C{ahead} is empty, take the next messages out of the store; false when there are none."""
        if not self.behind:
            return False
        messages = store.read(self, self.cursor, _AHEAD_MESSAGES, _AHEAD_BYTES)
        self.cursor = messages[-1].position
        self.behind -= len(messages)
        self.ahead.extend(messages)
        self.ahead_size = sum(message.size for message in messages)
        return True

    def take(self, store: IStore, last: int = 2**63) -> Message | None:
        """The next message, for somebody who is no consumer; None when there is none, or none up to that place."""
        if (not self.ahead and not self.read_ahead(store)) or self.ahead[0].position > last:
            return None
        message = self.ahead.popleft()
        self.ahead_size -= message.size
        self.ready_size -= message.size
        return message

    def put_back(self, messages: list[Message]) -> None:
        """Rule 3: messages that were in flight wait again, at their original places."""
        size = sum(message.size for message in messages)
        self.ready_size += size
        self.ahead_size += size
        messages.sort(key=_position)
        messages.extend(self.ahead)
        messages.sort(key=_position)  # of two sorted runs: a merge
        self.ahead = deque(messages)

    def drop_unseen(self, position: int, size: int) -> None:
        """A message that is not in Python, as it is delayed or beyond the cursor, is gone."""
        if position < 0:
            self.delayed -= 1
        else:
            self.behind -= 1
        self.ready_size -= size

    def drop_expired(self, now: int) -> list[Message]:
        """Take the messages that expired by C{now} out of C{ahead}."""
        expired = [message for message in self.ahead if message.expires and message.expires <= now]
        if expired:
            self.ahead = deque(message for message in self.ahead if not message.expires or message.expires > now)
            size = sum(message.size for message in expired)
            self.ahead_size -= size
            self.ready_size -= size
        return expired

    def clear(self, position: int) -> tuple[int, int]:
        """Rule 4: forget all that waits, up to C{position}; how many messages that was, and their bytes."""
        removed = self.ready + self.delayed, self.ready_size
        self.ahead.clear()
        self.behind = self.delayed = self.ahead_size = self.ready_size = 0
        self.cursor = self.flushed_to = position
        return removed


class Consumer:
    """
    One channel's interest in one queue.

    @ivar window: the most messages it holds unacknowledged
    @ivar held: how many it holds
    @ivar idle: whether it stands in the queue's line of idle consumers
    @ivar lease: how long it may hold a message, in milliseconds; 0 for as long as it is there
    @ivar deadlines: id -> when the lease of a message that it holds is over, milliseconds since the epoch; the earliest come first
    """

    __slots__ = ("channel", "deadlines", "held", "idle", "lease", "queue", "window")

    def __init__(self, channel: Channel, queue: Queue) -> None:
        self.channel = channel
        self.queue = queue
        self.window = 0
        self.held = 0
        self.idle = False
        self.lease = 0
        self.deadlines: dict[bytes, int] = {}

    def wait(self) -> None:
        """Stand in line for the queue's next message, if there is room for it."""
        if not self.idle and self.held < self.window and not self.channel.paused:
            self.idle = True
            self.queue.idle.append(self)
            self.channel.broker.distribute(self.queue)

    def change_lease(self, lease: int) -> None:
        """Another lease holds from now on, for what is held already as well: it starts now."""
        self.lease = lease
        self.deadlines.clear()
        if lease:
            now = self.channel.broker.now
            for message in self.channel.unacked.values():
                if message.consumer is self:
                    self.start_lease(message.id, now)

    def start_lease(self, message_id: bytes, now: int) -> None:
        """Rule 16: hold a message for so long from now."""
        if not self.deadlines:
            self.channel.broker.lifetime.leased[self] = None
        self.deadlines[message_id] = now + self.lease

    def leave(self) -> None:
        """Be no consumer of the queue any more; what it holds it still holds."""
        self.window = 0
        self.queue.consumers.discard(self)
        if self.idle:
            self.idle = False
            self.queue.idle.remove(self)
