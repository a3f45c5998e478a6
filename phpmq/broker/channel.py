"""A channel: what one client of the broker sends, consumes and holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from zope.interface import implementer

from phpmq.broker.confirms import Confirms
from phpmq.broker.keys import DeduplicationKeys
from phpmq.broker.lifecycle import Lifecycle
from phpmq.broker.producers import Producer, Producers
from phpmq.broker.queue import Consumer, Queue
from phpmq.errors import BadFrame, CommandRefused, NoRoom, PHPMQError, UnknownId
from phpmq.interfaces import IChannel, IPeer
from phpmq.message import Message, Properties

# A number fits into 64 bits.
_SEQUENCE_DIGITS = 18


@dataclass(slots=True)
class Outcomes:
    """
    What became of the commands of all channels. Counters never fall.

    @ivar refused: error code -> how many sends were refused; one that is blocked and tried again counts each time
    @ivar duplicates: how many sends were not stored, as they were stored before
    @ivar unknown_ids: how many commands named a message that their channel does not hold
    """

    refused: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    unknown_ids: int = 0

    def refuse(self, error: PHPMQError) -> None:
        """Count a send that is refused."""
        self.refused[error.code] = self.refused.get(error.code, 0) + 1


@implementer(IChannel)
@dataclass(slots=True, eq=False)
class Channel:
    """
    What one client consumes and what it holds.

    @ivar user: who the client is; empty while there is no login
    @ivar consumers: its consumers by name of the queue; one that ended stays as long as it holds messages
    @ivar unacked: what it holds, by id
    @ivar paused: whether its peer takes no deliveries now
    @ivar has_output: whether its peer has deliveries or receipts to flush
    @ivar producer: whose numbers the tags of its sends are; None if they are just tags
    @ivar refusal: why a send of the producer was refused, or its hello: all further sends are refused with it until it says hello with
        its name again, so that a number that was refused is never below one that was accepted
    @ivar unconfirmed: its synced sends that wait for the file: number, tag, id, and whether it is a duplicate
    @ivar closed: whether its peer is gone
    """

    peer: IPeer
    user: str
    _lifecycle: Lifecycle
    _keys: DeduplicationKeys
    _producers: Producers
    _confirms: Confirms
    _outcomes: Outcomes
    consumers: dict[str, Consumer] = field(default_factory=dict)
    unacked: dict[bytes, Message] = field(default_factory=dict)
    paused: bool = False
    has_output: bool = False
    producer: Producer | None = None
    refusal: PHPMQError | None = None
    unconfirmed: list[tuple[int, bytes, bytes, bool]] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self._lifecycle.channels.add(self)

    # Sending

    def publish(self, queue: str, body: bytes, ttl: int) -> None:
        """Send a message without an answer; see L{IChannel}."""
        try:
            self._lifecycle.accept(queue, body, ttl)
        except NoRoom as error:
            self.refuse(None, error)

    def send(self, tag: bytes | None, queue: str, body: bytes, ttl: int, synced: bool, properties: Properties | None) -> None:
        """Send a message and answer; see L{IChannel}."""
        if synced and len(self.unconfirmed) >= self._confirms.limit:
            self._confirms.block(self)
            self.peer.blocked()
            return
        if self.refusal is not None and tag is not None:
            self._refused(tag, self.refusal)
            return
        producer, sequence = self.producer if tag is not None else None, 0
        if producer is not None:
            sequence = _sequence(tag)
            if sequence <= producer.number:
                self._confirm(tag, b"", self._lifecycle.latest, synced, True)
                return
        try:
            if synced:
                self._confirms.check()
            if properties is not None and properties.key and (found := self._find(queue, properties.key, producer, sequence)):
                self._confirm(tag, self._lifecycle.message_id(found), found, synced, True)
                return
            message = self._lifecycle.accept(queue, body, ttl, properties, producer, sequence)
        except CommandRefused as error:
            self.refuse(tag, error)
            return
        message.id = self._lifecycle.message_id(message.number)
        self._confirm(tag, message.id, message.number, synced, False)

    def _find(self, queue: str, key: str, producer: Producer | None, sequence: int) -> int:
        """Rule 17: the number of the message of which a send is a duplicate by its key, 0 if it is none."""
        found = self._keys.find(queue, key)
        if found and producer is not None:
            # It has its answer: a retry of it is a duplicate also when the key is free again.
            self._producers.accepted(producer, sequence)
        return found

    def refuse(self, tag: bytes | None, error: PHPMQError) -> None:
        """Refuse a send of that tag, or block it if it has none and may succeed later; see L{IChannel}."""
        self._outcomes.refuse(error)
        if tag is None:
            if isinstance(error, NoRoom):
                self._lifecycle.memory.block(self)
                self.peer.blocked()
                return
        elif self.refusal is not None:
            error = self.refusal
        elif self.producer is not None:
            self._refuse_all(error)
        self._refused(tag, error)

    def _refuse_all(self, error: PHPMQError) -> None:
        # Without its traceback, which would hold on to the body, and grow with each time that it is refused.
        self.refusal = error.with_traceback(None)

    def _refused(self, tag: bytes | None, error: Exception) -> None:
        self.peer.refused(tag, error)
        if tag is not None:
            self._lifecycle.turn.flush_later(self)

    def _confirm(self, tag: bytes | None, message_id: bytes, number: int, synced: bool, duplicate: bool) -> None:
        if duplicate:
            self._outcomes.duplicates += 1
        if tag is None:
            return
        if synced:
            self._confirms.confirm_when_synced(self, number, tag, message_id, duplicate)
        else:
            self.answer(tag, message_id, duplicate)

    def answer(self, tag: bytes | None, message_id: bytes = b"", duplicate: bool = False) -> None:
        """Tell the peer that a command of that tag is carried out."""
        if tag is not None and not self.closed:
            self.peer.receipt(tag, message_id, duplicate)
            if not self.has_output:
                self._lifecycle.turn.flush_later(self)

    def hello(self, tag: bytes, producer: bytes | None) -> None:
        """Answer, perhaps as a producer from here on; see L{IChannel}."""
        if producer is not None:
            if self.producer is None or self.producer.name != producer:
                try:
                    new = self._producers.get(self.user, producer)
                except NoRoom as error:
                    self._refuse_all(error)
                    self._refused(tag, error)
                    return
                self._release_producer()
                self._producers.attach(new, self)
            self.refusal = None
        self.answer(tag)

    def _release_producer(self) -> None:
        producer, self.producer = self.producer, None
        if producer is not None:
            self._producers.release(producer)

    # Consuming

    def consume(self, queue: str, window: int, lease: int = 0, tag: bytes | None = None) -> None:
        """Set this channel's window for a queue; see L{IChannel}."""
        lifecycle = self._lifecycle
        lifecycle.turn.enter()
        consumer = self.consumers.get(queue)
        if consumer is None and window:
            consumer = self.consumers[queue] = Consumer(self, lifecycle.queues.get_or_create(queue))
        if consumer is not None:
            if window:
                self._subscribe(consumer, min(window, lifecycle.max_window), lease)
            else:
                consumer.end()
                lifecycle.retire(consumer)
                lifecycle.queues.forget_if_unused(consumer.queue)
        self.answer(tag)

    def _subscribe(self, consumer: Consumer, window: int, lease: int) -> None:
        consumer.window = window
        lease = lease or int(consumer.queue.settings.lease * 1000)
        if lease != consumer.lease:
            self._lifecycle.change_lease(consumer, lease)
        consumer.queue.consumers.add(consumer)
        consumer.wait(self._lifecycle.turn)

    def ack(self, tag: bytes | None, id: bytes, queue: str | None = None) -> None:
        """Settle a message: it is done; see L{IChannel}."""
        # As L{_take} does: on the hot path a call costs more than it does.
        message = self.unacked.get(id)
        if message is None or (queue is not None and message.queue.name != queue):
            self._unknown(tag)
            return
        del self.unacked[id]
        self._lifecycle.acknowledge(message)
        if tag is not None:
            self.answer(tag)

    def requeue(self, tag: bytes | None, id: bytes, ttl: int, queue: str | None = None, delay: int = 0) -> None:
        """Settle a message by sending it to the tail; see L{IChannel}."""
        message = self._take(tag, id, queue)
        if message is not None:
            self._lifecycle.requeue(message, ttl, delay)
            self.answer(tag)

    def dead_letter(self, tag: bytes | None, id: bytes, reason: str = "", queue: str | None = None) -> None:
        """Settle a message by setting it aside; see L{IChannel}."""
        message = self._take(tag, id, queue)
        if message is not None:
            self._lifecycle.dead_letter(message, "rejected", reason)
            self.answer(tag)

    def _take(self, tag: bytes | None, id: bytes, queue: str | None) -> Message | None:
        """Rule 10: a message that this channel holds, and that is about to be settled."""
        message = self.unacked.get(id)
        if message is None or (queue is not None and message.queue.name != queue):
            self._unknown(tag)
            return None
        del self.unacked[id]
        return message

    def touch(self, tag: bytes | None, id: bytes) -> None:
        """Start the lease of a message again; see L{IChannel}."""
        message = self.unacked.get(id)
        if message is None:
            self._unknown(tag)
            return
        self._lifecycle.renew_lease(message)
        self.answer(tag)

    def _unknown(self, tag: bytes | None) -> None:
        self._outcomes.unknown_ids += 1
        self._refused(tag, UnknownId("not in flight on this connection"))

    def pause(self) -> None:
        """Deliver nothing more for now; see L{IChannel}."""
        self.paused = True

    def resume(self) -> None:
        """Deliver again; see L{IChannel}."""
        self.paused = False
        names = list(self.consumers)
        if len(names) > 1:
            # Another queue is the first to fill the peer's output each time, so that none starves.
            self.consumers[names[0]] = self.consumers.pop(names[0])
        for consumer in self.consumers.values():
            consumer.wait(self._lifecycle.turn)

    # The end

    def close(self) -> None:
        """Rule 9: let all that the channel held become ready again, at its original place; see L{IChannel}."""
        self.closed = True
        self._lifecycle.channels.discard(self)
        self._lifecycle.memory.remove(self)
        self._confirms.remove(self)
        self._release_producer()
        self.give_back()

    def give_back(self) -> None:
        """Do what L{close} does for a consumer, while a send of this channel may still be blocked; see L{IChannel}."""
        self.paused = True
        held: dict[Queue, list[Message]] = {consumer.queue: [] for consumer in self.consumers.values()}
        for message in self.unacked.values():
            held[message.consumer.queue].append(message)
        for consumer in self.consumers.values():
            consumer.end()
            consumer.deadlines.clear()
            self._lifecycle.leased.pop(consumer, None)
        self.unacked = {}
        self.consumers = {}
        for queue, messages in held.items():
            self._lifecycle.return_messages(queue, messages)


def _sequence(tag: bytes | None) -> int:
    """
    The number that the tag of a producer's send is.

    @raise BadFrame: it is none
    """
    if tag is None or not tag.isdigit() or len(tag) > _SEQUENCE_DIGITS:
        raise BadFrame("the tags of a producer's sends are decimal numbers")
    return int(tag)
