"""A session: what one client sends becomes calls of its channel, and what the channel delivers becomes bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from zope.interface import implementer

from phpmq.errors import NotAllowed, PHPMQError, ProtocolError
from phpmq.frames import FrameDecoder
from phpmq.interfaces import IBroker, IConnection, IPeer
from phpmq.message import Message
from phpmq.server_frames import DOCUMENTED, ENCODERS_01, ORIGINAL, Versions, encode_delivery_02
from phpmq.session.dialects import VERSION_01, VERSION_02, Dialect, Handler

# Deliveries are collected up to so many bytes, then the channel pauses until they are written.
_OUTPUT_LIMIT = 128 * 1024

# About what a delivery takes beside the message itself.
_DELIVERY_OVERHEAD = 250

_REVISIONS = {ORIGINAL: "01 original", DOCUMENTED: "01 documented"}


@implementer(IPeer)
class Session:
    """
    The decoder, the output and the flow control of one connection; what depends on the protocol's version is its dialect's.

    The first frame tells the version. In version 01, the first evidence tells the revision: a frame that only one of them has, or the first
    delivery, which is made as the queue's latest sender would have it.

    @ivar channel: the client's channel
    @ivar default: the revision of version 01 that is taken where nothing tells
    @ivar revision: the revision of version 01 that the client speaks; 0 until there is evidence
    @ivar revisions: those that the latest senders of queues speak; see L{IBroker}
    @ivar waiting: whether what the client sends is kept until it is unblocked; forever once the connection is over
    @ivar out: what is to be written at the end of the turn
    @ivar capacity: about how many bytes of deliveries more fit in there
    """

    __slots__ = (
        "_broker",
        "_connection",
        "_decoder",
        "_dialect",
        "_encode",
        "_handlers",
        "_output_paused",
        "_versions",
        "capacity",
        "channel",
        "default",
        "out",
        "revision",
        "revisions",
        "waiting",
    )

    def __init__(self, broker: IBroker, versions: Versions, connection: IConnection, original: bool = False, user: str = "") -> None:
        """
        @param original: this listener is for clients of the original revision: consumers that send nothing are taken for such
        @param user: who the client is; empty while there is no login
        """
        self._broker = broker
        self._versions = versions
        self._connection = connection
        self.default = ORIGINAL if original else DOCUMENTED
        self._decoder = FrameDecoder(versions.first)
        self._dialect: Dialect | None = None
        self._handlers: dict[str, Handler] = {}
        self._encode: Callable[[str, bytes, bytes, int, int, bytes], tuple[bytes, ...]] | None = None
        self.channel = broker.channel(self, user)
        self.revision = 0
        self.revisions: Mapping[str, int] = broker.revisions
        self.waiting = False
        self.out: list[bytes] = []
        self.capacity = _OUTPUT_LIMIT
        self._output_paused = False

    # From the client

    @property
    def pending(self) -> int:
        """Bytes that were received and not yet carried out."""
        return self._decoder.pending

    @property
    def protocol_version(self) -> str:
        """What the client speaks: version and revision of the protocol, as far as they are known."""
        if self._dialect is None:
            return ""
        return _REVISIONS.get(self.revision, self._dialect.name)

    @property
    def answers(self) -> bool:
        """Whether what the client sends makes output: one that does not read its receipts is not read either."""
        return self._dialect is not None and self._dialect.answers

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
                if not handlers:
                    handlers = self._choose(VERSION_02 if shape.open else VERSION_01)
                handlers[shape.name](self, contents)
                if self.waiting:
                    self._decoder.unread(start)
                    break
        except ProtocolError as error:
            self.fail(error)
        finally:
            broker.end()
        return progress

    def _choose(self, dialect: Dialect) -> dict[str, Handler]:
        """Speak a dialect from here on, as the first frame of the connection says; what carries out its frames."""
        self._dialect = dialect
        self._handlers = dialect.handlers
        if dialect is VERSION_02:
            self._encode = encode_delivery_02
            self._decoder.shapes = self._versions.version02
        else:
            self._decoder.shapes = self._versions.version01[0]
        return dialect.handlers

    def decide(self, revision: int) -> None:
        """Take the first evidence of the client's revision; from then on frames of the other one are errors."""
        if not self.revision:
            self.revision = revision
            self._encode = ENCODERS_01[revision]
            self._decoder.shapes = self._versions.version01[revision]

    def remember_revision(self, queue: str) -> None:
        """Remember that the latest sender of a queue speaks this revision of version 01, unless its send is blocked."""
        if not self.waiting:
            self._broker.save_revision(queue, self.revision)

    # From the broker

    def deliver(self, message: Message, now: int) -> None:
        """Encode a delivery; see L{IPeer}."""
        queue = message.queue.name
        properties = message.properties
        encode = self._encode
        if encode is None:
            self.decide(self.default if self.default == ORIGINAL else self.revisions.get(queue) or self.default)
            encode = ENCODERS_01[self.revision]
        left = message.expires - now if message.expires else 0
        kept = b"" if properties is None else properties.headers
        self.out += encode(queue, message.body, message.id, message.attempts, left, kept)
        self.capacity -= message.size + _DELIVERY_OVERHEAD
        if self.capacity < 0:
            self.channel.pause()

    def receipt(self, tag: bytes, id: bytes = b"", duplicate: bool = False) -> None:
        """Encode a receipt; see L{IPeer}."""
        self.out += self._dialect.encode_receipt(tag, id, duplicate)  # type: ignore[union-attr]

    def refused(self, tag: bytes | None, error: Exception) -> None:
        """Tell the client, if its version can; see L{IPeer}."""
        self._dialect.refuse(self, tag, error)  # type: ignore[union-attr]

    def blocked(self) -> None:
        """Keep what the client sends, from this frame on; see L{IPeer}."""
        self.waiting = True
        self._connection.stop_reading()

    def unblocked(self) -> None:
        """Carry out what was kept; see L{IPeer}."""
        self.waiting = False
        self._carry_out()
        self._resume_reading()

    def superseded(self) -> None:
        """Close: another client goes on as the same producer; see L{IPeer}."""
        self.fail(NotAllowed("another connection goes on as this producer"))

    def flush(self) -> None:
        """Write what was delivered; see L{IPeer}."""
        data = b"".join(self.out)
        self.out.clear()
        self.capacity = _OUTPUT_LIMIT
        if data:
            self._connection.write(data)
        if self.channel.paused and not self._output_paused:
            self.channel.resume()

    def fail(self, error: PHPMQError) -> None:
        """End the connection: say why if the version can, and close."""
        if self._dialect is None and self._decoder.starts_with(b"H02"):
            self._choose(VERSION_02)
        if self._dialect is not None:
            self.out.append(self._dialect.encode_farewell(error))
            self.flush()
        self._connection.broken(error)
        # What the client sent behind that is not carried out: it would count on answers.
        self.waiting = True
        # What it held goes to others at once, not when its connection is closed at last.
        self.channel.close()

    # From the transport

    def pause_output(self) -> None:
        """Deliver nothing more for now: the transport has more to write than it likes."""
        self._output_paused = True
        self.channel.pause()
        if self.answers:
            self._connection.stop_reading()

    def resume_output(self) -> None:
        """Deliver again: the transport wrote what it had."""
        self._output_paused = False
        self._broker.begin()
        self.channel.resume()
        self._broker.end()
        if self.answers:
            self._resume_reading()

    def _resume_reading(self) -> None:
        if not (self.waiting or (self._output_paused and self.answers)):
            self._connection.resume_reading()

    def drain(self) -> None:
        """Give the client nothing more but the receipts that it waits for: the server is about to stop."""
        if self._dialect is not None and self._dialect.answers:
            self.out.append(self._dialect.encode_draining("the server stops"))
            self.flush()
        self.give_back()

    def give_back(self) -> None:
        """Let others have what the client holds: it is gone, but not all that it sent is carried out."""
        self._broker.begin()
        self.channel.give_back()
        self._broker.end()

    def close(self) -> None:
        """Close the channel: the connection is gone."""
        self._broker.begin()
        self.channel.close()
        self._broker.end()
