"""One client's conversation with the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import implementer

from phpmq.broker.producer import Producer
from phpmq.broker.queue import Consumer, Queue
from phpmq.errors import BadFrame, CommandRefused, NoRoom, PHPMQError, UnknownId
from phpmq.interfaces import IChannel, IPeer
from phpmq.message import Message, Properties

if TYPE_CHECKING:
    from phpmq.broker.broker import Broker

# A number fits into 64 bits.
_SEQUENCE_DIGITS = 18


@implementer(IChannel)
class Channel:
    """
    What one client consumes and what it holds.

    @ivar consumers: its consumers by name of the queue; one that ended stays as long as it holds messages
    @ivar unacked: what it holds, by id
    @ivar paused: whether its peer takes no deliveries now
    @ivar touched: whether its peer has deliveries or receipts to flush
    @ivar producer: whose numbers the tags of its sends are; None if they are just tags
    @ivar refusal: why a send of the producer was refused, or its hello: all further sends are refused likewise until it says hello with
        its name again, so that a number that was refused is never below one that was accepted
    @ivar unconfirmed: its synced sends that wait for the file: number, tag, id, and whether it is a duplicate
    @ivar closed: whether its peer is gone
    """

    __slots__ = ("broker", "closed", "consumers", "paused", "peer", "producer", "refusal", "touched", "unacked", "unconfirmed")

    def __init__(self, broker: Broker, peer: IPeer) -> None:
        self.broker = broker
        self.peer = peer
        self.consumers: dict[str, Consumer] = {}
        self.unacked: dict[bytes, Message] = {}
        self.paused = False
        self.touched = False
        self.producer: Producer | None = None
        self.refusal: PHPMQError | None = None
        self.unconfirmed: list[tuple[int, bytes, bytes, bool]] = []
        self.closed = False

    def publish(self, tag: bytes | None, queue: str, body: bytes, ttl: int) -> None:
        """Send a message; see L{IChannel}."""
        try:
            self.broker.publish(queue, body, ttl)
        except NoRoom as error:
            self.broker.refuse(error)
            self.broker.room.wait(self)
            self.peer.refused(tag, error)

    def send(self, tag: bytes | None, queue: str, body: bytes, ttl: int, synced: bool, properties: Properties | None) -> None:
        """Send a message and answer; see L{IChannel}."""
        broker = self.broker
        producer = self.producer if tag is not None else None
        if self.refusal is not None and tag is not None:
            self._refused(tag, self.refusal)
            return
        sequence = 0
        if producer is not None:
            sequence = _sequence(tag)
            if sequence <= producer.number:
                self._answer_send(tag, b"", broker.latest, synced, True)
                return
        try:
            if synced:
                broker.receipts.check()
            if properties is not None and properties.key and (found := self._find(queue, properties.key, producer, sequence)):
                self._answer_send(tag, broker.message_id(found), found, synced, True)
                return
            message = broker.publish(queue, body, ttl, properties, producer, sequence)
        except CommandRefused as error:
            self.refuse(tag, error)
            return
        if tag is not None:
            message.id = broker.message_id(message.number)
            self._answer_send(tag, message.id, message.number, synced, False)

    def _find(self, queue: str, key: str, producer: Producer | None, sequence: int) -> int:
        """Rule 17: the number of the message of which a send is a duplicate by its key, 0 if it is none."""
        found = self.broker.find(queue, key)
        if found and producer is not None:
            # It has its answer: a retry of it is a duplicate also when the key is free again.
            self.broker.producers.accepted(producer, sequence)
        return found

    def refuse(self, tag: bytes | None, error: PHPMQError) -> None:
        """A send of that tag is not carried out."""
        self.broker.refuse(error)
        if tag is None:
            if isinstance(error, NoRoom):
                self.broker.room.wait(self)
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
            self.broker.touch(self)

    def _answer_send(self, tag: bytes | None, message_id: bytes, number: int, synced: bool, duplicate: bool) -> None:
        if duplicate:
            self.broker.duplicates += 1
        if tag is None:
            return
        if synced:
            self.broker.receipts.give_when_synced(self, number, tag, message_id, duplicate)
        else:
            self.answer(tag, message_id, duplicate)

    def answer(self, tag: bytes | None, message_id: bytes = b"", duplicate: bool = False) -> None:
        """A command of that tag is carried out."""
        if tag is not None and not self.closed:
            self.peer.receipt(tag, message_id, duplicate)
            if not self.touched:
                self.broker.touch(self)

    def hello(self, tag: bytes, producer: bytes | None) -> None:
        """Answer, perhaps as a producer from here on; see L{IChannel}."""
        if producer is not None and (self.producer is None or self.producer.name != producer):
            try:
                new = self.broker.producers.get(producer)
            except NoRoom as error:
                self._refuse_all(error)
                self._refused(tag, error)
                return
            self._release_producer()
            if new.channel is not None:
                new.channel.producer = None
                new.channel.peer.superseded()
            new.channel = self
            self.producer = new
        if producer is not None:
            self.refusal = None
        self.answer(tag)

    def _release_producer(self) -> None:
        producer, self.producer = self.producer, None
        if producer is not None:
            self.broker.producers.release(producer)

    def consume(self, queue: str, window: int, lease: int = 0, tag: bytes | None = None) -> None:
        """Set this channel's window for a queue; see L{IChannel}."""
        self._consume(queue, window, lease)
        self.answer(tag)

    def _consume(self, queue: str, window: int, lease: int) -> None:
        self.broker.enter()
        consumer = self.consumers.get(queue)
        if consumer is None:
            if not window:
                return
            consumer = self.consumers[queue] = Consumer(self, self.broker.queue(queue))
        if window:
            consumer.window = min(window, self.broker.max_window)
            lease = lease or int(consumer.queue.settings.lease * 1000)
            if lease != consumer.lease:
                consumer.change_lease(lease)
            consumer.queue.consumers.add(consumer)
            consumer.wait()
        else:
            consumer.leave()
            self.retire(consumer)
            self.broker.forget_if_unused(consumer.queue)

    def retire(self, consumer: Consumer) -> None:
        """A consumer that ended is forgotten once it holds nothing: until then it counts, should it come back."""
        if not consumer.held:
            del self.consumers[consumer.queue.name]

    def ack(self, tag: bytes | None, id: bytes, queue: str | None = None) -> None:
        """Settle a message: it is done; see L{IChannel}."""
        message = self._settle(tag, id, queue)
        if message is not None:
            broker = self.broker
            there: Queue = message.queue  # type: ignore[assignment]
            broker.acknowledged_total += 1
            there.acknowledged += 1
            broker.forget(message)
            if tag is not None:
                self.answer(tag)

    def requeue(self, tag: bytes | None, id: bytes, ttl: int, queue: str | None = None, delay: int = 0) -> None:
        """Settle a message by sending it to the tail; see L{IChannel}."""
        message = self._settle(tag, id, queue)
        if message is not None:
            self.broker.lifetime.requeue(message, ttl, delay)
            self.answer(tag)

    def dead_letter(self, tag: bytes | None, id: bytes, reason: str = "", queue: str | None = None) -> None:
        """Settle a message by setting it aside; see L{IChannel}."""
        message = self._settle(tag, id, queue)
        if message is not None:
            self.broker.dead.dead_letter(message, "rejected", reason)
            self.answer(tag)

    def touch(self, tag: bytes | None, id: bytes) -> None:
        """The lease of a message starts again; see L{IChannel}."""
        self.broker.enter()
        message = self.unacked.get(id)
        if message is None:
            self._unknown(tag)
            return
        consumer: Consumer = message.consumer
        if consumer.deadlines.pop(id, None) is not None:
            consumer.start_lease(id, self.broker.now)
        self.answer(tag)

    def _unknown(self, tag: bytes | None) -> None:
        self.broker.unknown_ids += 1
        self._refused(tag, UnknownId("not in flight on this connection"))

    def _settle(self, tag: bytes | None, id: bytes, queue: str | None) -> Message | None:
        """Rule 10: take a message out of this channel's hands, if it is there."""
        message = self.unacked.get(id)
        if message is None or (queue is not None and message.queue.name != queue):
            self._unknown(tag)
            return None
        del self.unacked[id]
        consumer: Consumer = message.consumer
        message.consumer = None
        if consumer.deadlines:
            consumer.deadlines.pop(id, None)
        consumer.held -= 1
        consumer.queue.in_flight -= 1
        if not consumer.window:
            self.retire(consumer)
        elif not consumer.idle:
            consumer.wait()
        return message

    def pause(self) -> None:
        """The peer cannot take more deliveries now."""
        self.paused = True

    def resume(self) -> None:
        """The peer can take deliveries again."""
        self.paused = False
        names = list(self.consumers)
        if len(names) > 1:
            # Another queue is the first to fill the peer's output each time, so that none starves.
            self.consumers[names[0]] = self.consumers.pop(names[0])
        for consumer in self.consumers.values():
            consumer.wait()

    def close(self) -> None:
        """Rule 9: all that the channel held becomes ready again, at its original place."""
        self.closed = True
        self.broker.channels.discard(self)
        self.broker.room.leave(self)
        self.broker.receipts.forget(self)
        self._release_producer()
        self.give_back()

    def give_back(self) -> None:
        """What L{close} does for a consumer, while a send of this channel may still wait for room."""
        self.paused = True
        held: dict[Queue, list[Message]] = {consumer.queue: [] for consumer in self.consumers.values()}
        for message in self.unacked.values():
            held[message.consumer.queue].append(message)
            message.consumer = None
        for consumer in self.consumers.values():
            consumer.leave()
            consumer.deadlines.clear()
            self.broker.lifetime.leased.pop(consumer, None)
        self.unacked = {}
        self.consumers = {}
        for queue, messages in held.items():
            self.broker.lifetime.take_back(queue, messages)


def _sequence(tag: bytes | None) -> int:
    """
    The number that the tag of a producer's send is.

    @raise BadFrame: it is none
    """
    if tag is None or not tag.isdigit() or len(tag) > _SEQUENCE_DIGITS:
        raise BadFrame("the tags of a producer's sends are decimal numbers")
    return int(tag)
