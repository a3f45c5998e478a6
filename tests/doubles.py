"""Stand-ins: for the seams of phpmq/interfaces.py, each checked against its interface by a test, and for the other end of a connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from itertools import accumulate

from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from zope.interface import implementer

from phpmq.broker import Broker, Channel
from phpmq.interfaces import IConnection, IPeer, IStore
from phpmq.message import DeadMessage, Message, Properties, QueueRecord


@implementer(IPeer)
class RecordingPeer:
    """
    A client that notes what it is told.

    @ivar channel: its conversation
    @ivar held: what it got and did not settle through this class, in order of arrival
    @ivar got: bodies of all that it ever got
    @ivar flushed: how many deliveries each flush was for
    @ivar refusals: tags and errors
    @ivar receipts: tags, ids and whether it was a duplicate
    @ivar blocks: how often a send of it was blocked, C{unblocks}: how often it was told to try again
    """

    def __init__(self, broker: Broker, output: int = 0) -> None:
        """
        @param output: pause the channel at so many deliveries until they are flushed, as a session does; 0 for never
        """
        self.channel: Channel = broker.channel(self)
        self.held: list[Message] = []
        self.got: list[bytes] = []
        self.flushed: list[int] = []
        self.refusals: list[tuple[bytes | None, Exception]] = []
        self.receipts: list[tuple[bytes, bytes, bool]] = []
        self.is_superseded = False
        self.blocks = self.unblocks = 0
        self.choked = False
        self._output = output
        self._unwritten = 0

    def deliver(self, message: Message, now: int) -> None:
        """Note a delivery; see L{IPeer}."""
        self.held.append(message)
        self.got.append(message.body)
        self._unwritten += 1
        if self._unwritten == self._output:
            self.channel.pause()

    def refused(self, tag: bytes | None, error: Exception) -> None:
        """Note a refusal; see L{IPeer}."""
        self.refusals.append((tag, error))

    def receipt(self, tag: bytes, id: bytes = b"", duplicate: bool = False) -> None:
        """Note a receipt; see L{IPeer}."""
        self.receipts.append((tag, id, duplicate))

    def superseded(self) -> None:
        """Note it; see L{IPeer}."""
        self.is_superseded = True
        self.channel.close()

    def blocked(self) -> None:
        """Count it; see L{IPeer}."""
        self.blocks += 1

    def unblocked(self) -> None:
        """Count it; see L{IPeer}."""
        self.unblocks += 1

    def flush(self) -> None:
        """Write: the channel goes on, unless the transport is choked; see L{IPeer}."""
        self.flushed.append(self._unwritten)
        self._unwritten = 0
        if self.channel.paused and not self.choked:
            self.channel.resume()

    def take(self, body: bytes) -> bytes:
        """The id of a held message, which is about to be settled."""
        for index, message in enumerate(self.held):
            if message.body == body:
                return self.held.pop(index).id
        raise AssertionError(f"{body!r} is not held, but {self.bodies}")

    def ack(self, *bodies: bytes) -> None:
        """Acknowledge held messages; all of them without arguments."""
        for body in bodies or self.bodies:
            self.channel.ack(None, self.take(body))

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of what it holds."""
        return [message.body for message in self.held]


@implementer(IStore)
class DictStore:
    """A store that is nothing but two dicts."""

    def __init__(self) -> None:
        self.id_prefix = b"0123456789abcdef"
        self.next_number = 1
        self.latest = self.mirrored = 0
        self.revisions: dict[str, int] = {}
        self._producers: dict[bytes, tuple[int, int]] = {}
        self._messages: dict[int, Message] = {}
        self._queues: dict[int, QueueRecord] = {}
        self._dead: list[DeadMessage] = []
        self._keys: dict[int, tuple[int, int, str]] = {}
        self._next_queue = 1
        self._expiry = (0, 0)

    def add(self, message: Message) -> None:
        """Keep a new message; see L{IStore}."""
        self._messages[message.number] = copy(message)
        self.latest = message.number
        if message.properties is not None and message.properties.key and message.queue.settings.dedup:
            self._keys[message.number] = message.queue.number, message.accepted, message.properties.key

    def put(self, message: Message) -> None:
        """Keep a message as it is now; see L{IStore}."""
        self._messages[message.number] = copy(message)

    def remove(self, number: int) -> None:
        """Forget a message; see L{IStore}."""
        self._messages.pop(number, None)

    def retried(self, message: Message) -> None:
        """Keep how often a message was delivered; see L{IStore}."""
        if message.number in self._messages:
            self._messages[message.number].attempts = message.attempts

    def dead_letter(self, message: Message, reason: str, text: str, now: int) -> None:
        """Turn a message into a dead one; see L{IStore}."""
        self.remove(message.number)
        name, accepted, attempts = message.queue.name, message.accepted, message.attempts
        headers = message.properties.headers if message.properties is not None else b""
        size = message.size - (len(message.properties.key) if message.properties is not None else 0)
        body = message.body
        self._dead.append(DeadMessage(message.number, name, reason, text, accepted, now, attempts, body, headers, size, len(body)))

    def _of(self, queue: QueueRecord) -> list[Message]:
        messages = [message for message in self._messages.values() if message.queue.number == queue.number]
        return sorted(messages, key=lambda message: message.position)

    def read(self, queue: QueueRecord, after: int, count: int, size: int) -> list[Message]:
        """Messages in order; see L{IStore}."""
        messages: list[Message] = []
        for message in self._of(queue):
            if message.position > after and len(messages) < count and size > 0:
                size -= message.size
                messages.append(copy(message))
                messages[-1].queue = queue
        return messages

    def expired(self, now: int, count: int) -> list[tuple[int, int, int, int]]:
        """Messages that expired; see L{IStore}."""
        due = sorted(
            (message.expires, message.number)
            for message in self._messages.values()
            if message.expires and message.expires <= now and (message.expires, message.number) > self._expiry
        )[:count]
        if due:
            self._expiry = due[-1]
        found = [self._messages[number] for _, number in due]
        return [(message.number, message.queue.number, message.position, message.size) for message in found]

    def create_queue(self, name: str) -> QueueRecord:
        """A new queue; see L{IStore}."""
        queue = QueueRecord(self._next_queue, name)
        self._next_queue += 1
        self.save_queue(queue)
        return queue

    def save_queue(self, queue: QueueRecord) -> None:
        """Keep a queue's facts; see L{IStore}."""
        self._queues[queue.number] = QueueRecord(queue.number, queue.name, queue.flushed_to, queue.paused, queue.settings)

    def save_revision(self, name: str, revision: int) -> None:
        """Keep a revision; see L{IStore}."""
        if any(queue.name == name for queue in self._queues.values()):
            self.revisions[name] = revision

    def drop_queue(self, queue: QueueRecord) -> None:
        """Forget a queue; see L{IStore}."""
        self.revisions.pop(queue.name, None)
        del self._queues[queue.number]

    def due(self, now: int, count: int, queues: Mapping[int, QueueRecord]) -> list[Message]:
        """Delayed messages that are due; see L{IStore}."""
        found = [copy(message) for message in self._delayed() if message.properties.due <= now][:count]  # type: ignore[union-attr]
        for message in found:
            message.queue = queues[message.queue.number]
        return found

    def _delayed(self) -> list[Message]:
        delayed = [message for message in self._messages.values() if message.position < 0]
        return sorted(delayed, key=lambda message: (message.properties.due, message.number))  # type: ignore[union-attr]

    def next_due(self) -> int:
        """When the next delayed message is due; see L{IStore}."""
        delayed = self._delayed()
        return delayed[0].properties.due if delayed else 0  # type: ignore[union-attr]

    def find(self, queue: QueueRecord, key: str, now: int) -> int:
        """A message with that key; see L{IStore}."""
        for number, (queue_number, accepted, known) in self._keys.items():
            if (queue_number, known) == (queue.number, key) and accepted > queue.remembers_from(now) and number > queue.keys_forgotten_to:
                return number
        for message in self._of(queue):
            waits = abs(message.position) > queue.flushed_to and not 0 < message.expires <= now
            if waits and message.properties is not None and message.properties.key == key:
                return message.number
        return 0

    def keys(self) -> dict[int, tuple[int, int]]:
        """How many keys each queue remembers; see L{IStore}."""
        found: dict[int, tuple[int, int]] = {}
        for queue, _, key in self._keys.values():
            count, size = found.get(queue, (0, 0))
            found[queue] = count + 1, size + len(key.encode())
        return found

    def forget_keys(self, queue: QueueRecord, now: int, count: int) -> tuple[int, int, int]:
        """Forget the keys whose window is over; see L{IStore}."""
        size = forgotten = 0
        for number, (queue_number, accepted, key) in sorted(self._keys.items()):
            if queue_number == queue.number:
                if forgotten == count or (accepted > queue.remembers_from(now) and number > queue.keys_forgotten_to):
                    return forgotten, size, accepted
                del self._keys[number]
                forgotten += 1
                size += len(key.encode())
        return forgotten, size, 0

    def producers(self) -> list[tuple[bytes, int, int]]:
        """Every producer; see L{IStore}."""
        return [(name, number, used) for name, (number, used) in self._producers.items()]

    def save_producer(self, name: bytes, number: int, now: int) -> None:
        """Keep a producer's highest number; see L{IStore}."""
        self._producers[name] = number, now

    def drop_producer(self, name: bytes) -> None:
        """Forget a producer; see L{IStore}."""
        del self._producers[name]

    def request_sync(self) -> None:
        """Nothing is mirrored; see L{IStore}."""

    def queues(self) -> list[tuple[QueueRecord, int, int, int]]:
        """Every queue with its counts; see L{IStore}."""
        waiting = {
            queue: [message for message in self._of(queue) if abs(message.position) > queue.flushed_to] for queue in self._queues.values()
        }
        return [
            (copy(queue), len(messages), sum(message.size for message in messages), sum(message.position < 0 for message in messages))
            for queue, messages in waiting.items()
        ]

    def purge(self, queue: QueueRecord, count: int) -> bool:
        """Forget flushed messages; see L{IStore}."""
        flushed = [message.number for message in self._of(queue) if abs(message.position) <= queue.flushed_to]
        for number in flushed[:count]:
            self.remove(number)
        return len(flushed) <= count

    def peek(self, queue: QueueRecord, after: int, count: int, preview: int, delayed: bool = False, size: int = 2**62) -> list[Message]:
        """Messages with the beginning of their bodies; see L{IStore}."""
        if delayed:
            found = [copy(message) for message in reversed(self._of(queue)) if message.position < -after][:count]
        else:
            found = self.read(queue, after, count, 2**62)
        for message in found:
            message.body = message.body[:preview]
        ends = list(accumulate(len(message.body) for message in found))
        return found[: sum(end < size for end in ends) + 1]

    def get(self, queue: QueueRecord, number: int) -> Message | None:
        """One message; see L{IStore}."""
        return next((message for message in self._of(queue) if message.number == number), None)

    def dead(
        self,
        queue: str | None = None,
        after: int = 0,
        count: int = -1,
        reason: str | None = None,
        preview: int | None = None,
    ) -> Iterable[DeadMessage]:
        """The dead messages; see L{IStore}."""
        found = sorted(
            (copy(dead) for dead in self._dead if queue in (None, dead.queue) and reason in (None, dead.reason) and dead.number > after),
            key=lambda dead: dead.number,
        )
        for dead in found:
            dead.body = dead.body[:preview]
        return found if count < 0 else found[:count]

    def get_dead(self, number: int, preview: int | None = None) -> DeadMessage | None:
        """One dead message; see L{IStore}."""
        found = [dead for dead in self.dead(after=number - 1, count=1, preview=preview) if dead.number == number]
        return found[0] if found else None

    def dead_totals(self) -> dict[str, tuple[int, int]]:
        """How many are dead by queue, and the size of their bodies; see L{IStore}."""
        found: dict[str, list[int]] = {}
        for dead in self._dead:
            found.setdefault(dead.queue, []).append(dead.size)
        return {queue: (len(sizes), sum(sizes)) for queue, sizes in found.items()}

    def replay(self, dead: DeadMessage, queue: QueueRecord, position: int) -> Message:
        """Make a dead message wait again; see L{IStore}."""
        self._dead = [other for other in self._dead if other.number != dead.number]
        extra = Properties(headers=dead.headers) if dead.headers else None
        message = Message(dead.number, queue, position, dead.accepted, 0, 0, dead.body, extra)
        self.put(message)
        return message

    def delete_dead(self, numbers: Iterable[int]) -> None:
        """Forget dead messages; see L{IStore}."""
        gone = set(numbers)
        self._dead = [dead for dead in self._dead if dead.number not in gone]


@implementer(IConnection)
class RecordingConnection:
    """
    A transport that notes what it is told.

    @ivar writes: what was written, one item for each write
    @ivar reading: whether it hands over what arrives
    @ivar errors: what the peer did wrong
    @ivar on_write: called after each write with what was written
    """

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.reading = True
        self.errors: list[Exception] = []
        self.on_write: Callable[[bytes], object] = lambda data: None

    def write(self, data: bytes) -> None:
        """Note a write; see L{IConnection}."""
        if not self.errors:
            self.writes.append(data)
            self.on_write(data)

    def stop_reading(self) -> None:
        """See L{IConnection}."""
        self.reading = False

    def resume_reading(self) -> None:
        """See L{IConnection}."""
        self.reading = True

    def broken(self, error: Exception) -> None:
        """Note an error; nothing is written any more; see L{IConnection}."""
        self.errors.append(error)


class RecordingProtocol(Protocol):
    """Notes what it hears, and that the connection is lost."""

    def __init__(self) -> None:
        self.heard = b""
        self.is_lost = False

    def dataReceived(self, data: bytes) -> None:
        """Note it."""
        self.heard += data

    def connectionLost(self, reason: object = None) -> None:
        """Note it."""
        assert not self.is_lost
        self.is_lost = True


class FarEnd:
    """What a client sees of the server's end, where a C{StringTransport} is between them."""

    transport: StringTransport

    @property
    def closed(self) -> bool:
        """Whether the server said goodbye, perhaps with data still to be written."""
        return self.transport.disconnecting

    @property
    def aborted(self) -> bool:
        """Whether the server hung up."""
        return self.transport.disconnected

    @property
    def reading(self) -> bool:
        """Whether the server reads."""
        return self.transport.producerState == "producing"
