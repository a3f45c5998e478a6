"""One client's conversation in protocol version 01: commands in, deliveries out."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from zope.interface import implementer

from phpmq.broker import Broker
from phpmq.commands import DOCUMENTED, ORIGINAL, Version01, encode_delivery, number, queue_name
from phpmq.errors import NoRoom, ProtocolError
from phpmq.frames import FrameDecoder
from phpmq.interfaces import IConnection, IPeer
from phpmq.message import Message

# Deliveries are gathered up to so many bytes, then the channel waits until they are written.
_OUTPUT_LIMIT = 128 * 1024


@implementer(IPeer)
class Session:
    """
    Turns what one connection receives into calls of its channel, and what the channel delivers into bytes.

    @ivar revision: the revision of version 01 that the client speaks; 0 until it gives evidence or gets its first delivery
    @ivar waiting: whether the client's sends wait for room
    """

    __slots__ = (
        "_broker",
        "_choked",
        "_connection",
        "_decoder",
        "_out",
        "_out_size",
        "_version",
        "channel",
        "default",
        "revision",
        "waiting",
    )

    def __init__(self, broker: Broker, version: Version01, connection: IConnection, original: bool = False) -> None:
        """
        @param original: this listener is for clients of the original revision: consumers that send nothing are taken for such
        """
        self._broker = broker
        self._version = version
        self._connection = connection
        self.default = ORIGINAL if original else DOCUMENTED
        self._decoder = FrameDecoder(version.shapes[0])
        self.channel = broker.channel(self)
        self.revision = 0
        self.waiting = False
        self._out: list[bytes] = []
        self._out_size = 0
        self._choked = False

    # From the client

    @property
    def pending(self) -> int:
        """Bytes that were received and not yet carried out."""
        return self._decoder.pending

    def receive(self, data: bytes) -> bool:
        """Take bytes from the client; whether a frame was completed."""
        self._decoder.receive(data)
        return self._carry_out()

    def _carry_out(self) -> bool:
        if self.waiting:
            return True
        progress = False
        broker, handlers = self._broker, self._handlers
        broker.begin()
        try:
            for shape, start, contents in self._decoder.frames():
                progress = True
                handlers[shape.name](self, *contents)
                if self.waiting:
                    self._decoder.unread(start)
                    break
        except ProtocolError as error:
            self._connection.broken(error)
            # What it held goes to others at once, not when its connection is closed at last.
            self.channel.close()
        finally:
            broker.end()
        return progress

    def _send(self, queue: bytes, content: bytes, ttl: bytes) -> None:
        if self.revision != DOCUMENTED:
            self._decide(DOCUMENTED)
        self.channel.publish(None, queue_name(queue), content, 0 if ttl == b"0" else number(ttl) * 1000, DOCUMENTED)

    def _send_original(self, queue: bytes, content: bytes) -> None:
        if self.revision != ORIGINAL:
            self._decide(ORIGINAL)
        self.channel.publish(None, queue_name(queue), content, 0, ORIGINAL)

    def _consume(self, queue: bytes, count: bytes) -> None:
        self.channel.consume(queue_name(queue), number(count))

    def _acknowledge(self, queue: bytes, message_id: bytes) -> None:
        self.channel.ack(None, message_id, queue_name(queue))

    def _requeue(self, queue: bytes, message_id: bytes, ttl: bytes) -> None:
        self._decide(DOCUMENTED)
        self.channel.requeue(None, message_id, number(ttl) * 1000, queue_name(queue))

    def _dead_letter(self, queue: bytes, message_id: bytes) -> None:
        self._decide(DOCUMENTED)
        self.channel.dead_letter(None, message_id, "", queue_name(queue))

    _handlers: ClassVar[dict[str, Callable[..., None]]] = {
        "send": _send,
        "send original": _send_original,
        "consume": _consume,
        "acknowledge": _acknowledge,
        "requeue": _requeue,
        "dead letter": _dead_letter,
    }

    def _decide(self, revision: int) -> None:
        """The first evidence of the client's revision; from then on frames of the other one are errors."""
        if not self.revision:
            self.revision = revision
            self._decoder.shapes = self._version.shapes[revision]

    # From the broker

    def deliver(self, message: Message, now: int) -> None:
        """Encode a delivery; see L{IPeer}."""
        queue = message.queue
        if not self.revision:
            self._decide(self.default if self.default == ORIGINAL else queue.revision or self.default)
        body = message.body
        left = message.expires - now if message.expires else 0
        self._out += encode_delivery(self.revision, queue.name, body, message.id, left)
        self._out_size += len(body) + 200
        if self._out_size > _OUTPUT_LIMIT:
            self.channel.pause()

    def flush(self) -> None:
        """Write what was delivered; see L{IPeer}."""
        data = b"".join(self._out)
        self._out.clear()
        self._out_size = 0
        self._connection.write(data)
        if self.channel.paused and not self._choked:
            self.channel.resume()

    def refused(self, tag: bytes | None, error: Exception) -> None:
        """Version 01 has no answers: a send waits, together with all that the client sends after it; the rest is ignored."""
        if isinstance(error, NoRoom):
            self.waiting = True
            self._connection.stop_reading()

    def room(self) -> None:
        """Try again what waited; see L{IPeer}."""
        self.waiting = False
        self._carry_out()
        if not self.waiting:
            self._connection.go_on_reading()

    # From the transport

    def choke(self) -> None:
        """The transport has more to write than it likes."""
        self._choked = True
        self.channel.pause()

    def unchoke(self) -> None:
        """The transport wrote what it had."""
        self._choked = False
        self._broker.begin()
        self.channel.resume()
        self._broker.end()

    def give_back(self) -> None:
        """The client is gone, but not all that it sent is carried out: it holds and gets nothing more."""
        self._broker.begin()
        self.channel.give_back()
        self._broker.end()

    def close(self) -> None:
        """The connection is gone."""
        self._broker.begin()
        self.channel.close()
        self._broker.end()
