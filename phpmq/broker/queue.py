"""A queue and its consumers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Protocol

from phpmq.broker.turn import Turn, Writer
from phpmq.interfaces import IStore
from phpmq.message import DEFAULT_SETTINGS, Message, QueueRecord, QueueSettings

#: Bits of L{QueueRecord.paused}.
DELIVERIES, SENDS = 1, 2

# How much of a queue is kept ready in Python: enough to amortise a read of the store, little enough for thousands of queues.
_PREFETCHED_MESSAGES = 512
_PREFETCHED_BYTES = 256 * 1024

_position = attrgetter("position")


class Holder(Writer, Protocol):
    """A channel: what holds messages that were delivered to its consumers."""

    paused: bool
    unacked: dict[bytes, Message]
    consumers: dict[str, Consumer]

    def give_back(self) -> None:
        """Let others have what it holds."""


class Queue(QueueRecord):
    """
    A named queue: the messages that wait come first from C{prefetched}, then from the store.

    @ivar prefetched: the next messages, in order of position
    @ivar prefetched_size: their bytes
    @ivar cursor: the position up to which messages were taken out of the store
    @ivar unread: how many messages wait beyond the cursor
    @ivar consumers: its consumers
    @ivar waiting_consumers: those that may have capacity for a message, the one that has waited longest first
    @ivar in_flight: how many messages were delivered and not settled
    @ivar keys: how many deduplication keys it remembers
    @ivar delayed: how many messages are not ready yet
    @ivar ready_size: bytes of the messages that wait, also of the delayed ones
    @ivar scheduled: whether the next dispatch looks at it
    @ivar bounded: whether its settings limit what may wait in it
    @ivar received: how many messages were sent to it since the server started; C{delivered} and C{acknowledged} count the same way
    """

    __slots__ = (
        "acknowledged",
        "bounded",
        "consumers",
        "cursor",
        "delayed",
        "delivered",
        "in_flight",
        "keys",
        "prefetched",
        "prefetched_size",
        "ready_size",
        "received",
        "scheduled",
        "unread",
        "waiting_consumers",
    )

    def __init__(self, record: QueueRecord, ready: int = 0, ready_size: int = 0, delayed: int = 0) -> None:
        super().__init__(record.number, record.name, record.flushed_to, record.paused, record.settings, record.keys_forgotten_to)
        self.bounded = False
        self.configure(record.settings)
        self.received = self.delivered = self.acknowledged = 0
        self.prefetched: deque[Message] = deque()
        self.prefetched_size = 0
        self.cursor = record.flushed_to
        self.unread = ready
        self.delayed = delayed
        self.ready_size = ready_size
        self.consumers: set[Consumer] = set()
        self.waiting_consumers: deque[Consumer] = deque()
        self.in_flight = self.keys = 0
        self.scheduled = False

    @property
    def ready(self) -> int:
        """How many messages could be delivered now."""
        return len(self.prefetched) + self.unread

    @property
    def unused(self) -> bool:
        """Rule 1: whether nobody would notice if the queue went away."""
        kept = self.paused or self.keys or self.settings is not DEFAULT_SETTINGS
        return not (self.consumers or self.prefetched or self.unread or self.delayed or self.in_flight or kept)

    def configure(self, settings: QueueSettings) -> None:
        """Follow other settings from now on."""
        self.settings = DEFAULT_SETTINGS if settings == DEFAULT_SETTINGS else settings
        self.bounded = bool(settings.max_messages or settings.max_bytes)

    def has_capacity(self, size: int) -> bool:
        """Rule 18: whether its settings let a message of that size wait in it."""
        messages, most = self.settings.max_messages, self.settings.max_bytes
        return not (messages and self.ready + self.delayed >= messages) and not (most and self.ready_size + size > most)

    def add_delayed(self, message: Message) -> None:
        """Count a message that is delayed."""
        self.delayed += 1
        self.ready_size += message.size

    def release_delayed(self, message: Message) -> None:
        """Move a delayed message that is due to the tail."""
        self.delayed -= 1
        self.ready_size -= message.size
        self.append(message)

    def append(self, message: Message) -> None:
        """Add a message at the tail. It is prefetched at once if all before it are, and a consumer may want it soon."""
        size = message.size
        self.ready_size += size
        prefetched = self.prefetched
        if self.unread or not self.consumers or len(prefetched) >= _PREFETCHED_MESSAGES or self.prefetched_size >= _PREFETCHED_BYTES:
            self.unread += 1
        else:
            self.cursor = message.position
            prefetched.append(message)
            self.prefetched_size += size

    def prefetch(self, store: IStore) -> bool:
        """Once C{prefetched} is empty, take the next messages out of the store; false when there are none."""
        if not self.unread:
            return False
        messages = store.read(self, self.cursor, _PREFETCHED_MESSAGES, _PREFETCHED_BYTES)
        self.cursor = messages[-1].position
        self.unread -= len(messages)
        self.prefetched.extend(messages)
        self.prefetched_size = sum(message.size for message in messages)
        return True

    def take(self, store: IStore, last: int = 2**63) -> Message | None:
        """Remove the next message without delivering it; None when there is none, or none up to the position C{last}."""
        if (not self.prefetched and not self.prefetch(store)) or self.prefetched[0].position > last:
            return None
        message = self.prefetched.popleft()
        self.prefetched_size -= message.size
        self.ready_size -= message.size
        return message

    def put_back(self, messages: list[Message]) -> None:
        """Rule 3: let messages that were in flight wait again, at their original positions."""
        size = sum(message.size for message in messages)
        self.ready_size += size
        self.prefetched_size += size
        messages.sort(key=_position)
        messages.extend(self.prefetched)
        messages.sort(key=_position)  # of two sorted runs: a merge
        self.prefetched = deque(messages)

    def drop_unread(self, position: int, size: int) -> None:
        """Stop counting a message that is in the store only, as it is delayed or beyond the cursor."""
        if position < 0:
            self.delayed -= 1
        else:
            self.unread -= 1
        self.ready_size -= size

    def drop_expired(self, now: int) -> list[Message]:
        """Remove the messages that expired by C{now} from C{prefetched}."""
        expired = [message for message in self.prefetched if message.expires and message.expires <= now]
        if expired:
            self.prefetched = deque(message for message in self.prefetched if not message.expires or message.expires > now)
            size = sum(message.size for message in expired)
            self.prefetched_size -= size
            self.ready_size -= size
        return expired

    def clear(self, position: int) -> tuple[int, int]:
        """Rule 4: remove all messages that wait, up to C{position}; how many they were, and their bytes."""
        removed = self.ready + self.delayed, self.ready_size
        self.prefetched.clear()
        self.unread = self.delayed = self.prefetched_size = self.ready_size = 0
        self.cursor = self.flushed_to = position
        return removed


@dataclass(slots=True, eq=False)
class Consumer:
    """
    One channel's subscription to one queue.

    @ivar window: the most messages it holds unacknowledged; 0 once it ended
    @ivar held: how many it holds
    @ivar waiting: whether it is one of the queue's C{waiting_consumers}
    @ivar lease: how long it may hold a message, in milliseconds; 0 for as long as it is there
    @ivar deadlines: id -> when the lease of a message that it holds is over, milliseconds since the epoch; the earliest come first
    """

    channel: Holder
    queue: Queue
    window: int = 0
    held: int = 0
    waiting: bool = False
    lease: int = 0
    deadlines: dict[bytes, int] = field(default_factory=dict)

    def wait(self, turn: Turn) -> None:
        """Wait for the queue's next message, if there is capacity for it."""
        if not self.waiting and self.held < self.window and not self.channel.paused:
            self.waiting = True
            self.queue.waiting_consumers.append(self)
            turn.schedule(self.queue)

    def end(self) -> None:
        """Get no more messages of the queue; what it holds it still holds."""
        self.window = 0
        self.queue.consumers.discard(self)
        if self.waiting:
            self.waiting = False
            self.queue.waiting_consumers.remove(self)
