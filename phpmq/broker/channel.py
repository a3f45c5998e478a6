"""One client's conversation with the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import implementer

from phpmq.broker.queue import Consumer, Queue
from phpmq.errors import NoRoom, UnknownId
from phpmq.interfaces import IChannel, IPeer
from phpmq.message import Message

if TYPE_CHECKING:
    from phpmq.broker.broker import Broker


@implementer(IChannel)
class Channel:
    """
    What one client consumes and what it holds.

    @ivar consumers: its consumers by name of the queue; one that ended stays as long as it holds messages
    @ivar unacked: what it holds, by id
    @ivar paused: whether its peer takes no deliveries now
    @ivar touched: whether its peer has deliveries to flush
    """

    __slots__ = ("broker", "consumers", "paused", "peer", "touched", "unacked")

    def __init__(self, broker: Broker, peer: IPeer) -> None:
        self.broker = broker
        self.peer = peer
        self.consumers: dict[str, Consumer] = {}
        self.unacked: dict[bytes, Message] = {}
        self.paused = False
        self.touched = False

    def publish(self, tag: bytes | None, queue: str, body: bytes, ttl: int, revision: int = 0) -> None:
        """Send a message; see L{IChannel}."""
        try:
            self.broker.publish(queue, body, ttl, revision)
        except NoRoom as error:
            self.broker.wait_for_room(self)
            self.peer.refused(tag, error)

    def consume(self, queue: str, window: int) -> None:
        """Set this channel's window for a queue; see L{IChannel}."""
        consumer = self.consumers.get(queue)
        if consumer is None:
            if not window:
                return
            consumer = self.consumers[queue] = Consumer(self, self.broker.queue(queue))
        if window:
            consumer.window = min(window, self.broker.max_window)
            consumer.queue.consumers.add(consumer)
            consumer.wait()
        else:
            consumer.leave()
            self._retire(consumer)
            self.broker.forget_if_unused(consumer.queue)

    def _retire(self, consumer: Consumer) -> None:
        """A consumer that ended is forgotten once it holds nothing: until then it counts, should it come back."""
        if not consumer.held:
            del self.consumers[consumer.queue.name]

    def ack(self, tag: bytes | None, id: bytes, queue: str | None = None) -> None:
        """Settle a message: it is done; see L{IChannel}."""
        message = self._settle(tag, id, queue)
        if message is not None:
            self.broker.acknowledged(message)

    def requeue(self, tag: bytes | None, id: bytes, ttl: int, queue: str | None = None) -> None:
        """Settle a message by sending it to the tail; see L{IChannel}."""
        message = self._settle(tag, id, queue)
        if message is not None:
            self.broker.requeue(message, ttl)

    def dead_letter(self, tag: bytes | None, id: bytes, reason: str = "", queue: str | None = None) -> None:
        """Settle a message by setting it aside; see L{IChannel}."""
        message = self._settle(tag, id, queue)
        if message is not None:
            self.broker.bury(message, "rejected", reason)

    def _settle(self, tag: bytes | None, id: bytes, queue: str | None) -> Message | None:
        """Rule 10: take a message out of this channel's hands, if it is there."""
        message = self.unacked.get(id)
        if message is None or (queue is not None and message.queue.name != queue):
            self.broker.unknown_ids += 1
            self.peer.refused(tag, UnknownId("not in flight on this connection"))
            return None
        del self.unacked[id]
        consumer: Consumer = message.consumer
        message.consumer = None
        consumer.held -= 1
        consumer.queue.in_flight -= 1
        if not consumer.window:
            self._retire(consumer)
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
        self.broker.stop_waiting(self)
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
        self.unacked = {}
        self.consumers = {}
        for queue, messages in held.items():
            self.broker.take_back(queue, messages)
