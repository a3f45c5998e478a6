"""One client's conversation; in version 01, which has no answers, all of it."""

from __future__ import annotations

from typing import ClassVar

from zope.interface import implementer

from phpmq.broker import Broker
from phpmq.commands import DOCUMENTED, ORIGINAL, Versions, encode_delivery, number, queue_name
from phpmq.errors import NoRoom, NotAllowed, PHPMQError, ProtocolError
from phpmq.frames import FrameDecoder
from phpmq.interfaces import IConnection, IPeer
from phpmq.message import Message
from phpmq.session.version02 import Handlers, Version02Peer

# Deliveries are gathered up to so many bytes, then the channel waits until they are written.
_OUTPUT_LIMIT = 128 * 1024


@implementer(IPeer)
class Session:
    """
    Turns what one connection receives into calls of its channel, and what the channel delivers into bytes.

    The first frame tells the version. It is this class that speaks version 01; for version 02 L{Version02Peer} does.

    @ivar revision: the revision of version 01 that the client speaks; 0 until it gives evidence or gets its first delivery
    @ivar waiting: whether what the client sends waits, for room or receipts; for ever once the conversation is over
    @ivar out: what is to be written at the end of the turn
    @ivar out_room: about how many bytes more of deliveries fit in there
    """

    __slots__ = (
        "_broker",
        "_choked",
        "_connection",
        "_decoder",
        "_handlers",
        "_revisions",
        "_speaker",
        "_versions",
        "channel",
        "default",
        "out",
        "out_room",
        "revision",
        "waiting",
    )

    def __init__(self, broker: Broker, versions: Versions, connection: IConnection, original: bool = False) -> None:
        """
        @param original: this listener is for clients of the original revision: consumers that send nothing are taken for such
        """
        self._broker = broker
        self._revisions = broker.revisions
        self._versions = versions
        self._connection = connection
        self.default = ORIGINAL if original else DOCUMENTED
        self._decoder = FrameDecoder(versions.first)
        self._speaker: Session | Version02Peer | None = None
        self._handlers: Handlers = {}
        self.channel = broker.channel(self)
        self.revision = 0
        self.waiting = False
        self.out: list[bytes] = []
        self.out_room = _OUTPUT_LIMIT
        self._choked = False

    # From the client

    @property
    def pending(self) -> int:
        """Bytes that were received and not yet carried out."""
        return self._decoder.pending

    @property
    def language(self) -> str:
        """What the client speaks: version and revision of the protocol, as far as they are known."""
        if self._speaker is None:
            return ""
        return "02" if self.answers else {ORIGINAL: "01 original", DOCUMENTED: "01 documented"}.get(self.revision, "01")

    def receive(self, data: bytes) -> bool:
        """Take bytes from the client; whether a frame was completed."""
        self._decoder.receive(data)
        return self._carry_out()

    def _carry_out(self) -> bool:
        if self.waiting:
            return True
        progress = False
        broker, speaker, handlers = self._broker, self._speaker, self._handlers
        broker.begin()
        try:
            for shape, start, contents in self._decoder.frames():
                progress = True
                if speaker is None:
                    speaker, handlers = self._choose(shape.open)
                handlers[shape.name](speaker, contents)
                if self.waiting:
                    self._decoder.unread(start)
                    break
        except ProtocolError as error:
            self.fatal(error)
        finally:
            broker.end()
        return progress

    def _choose(self, version02: bool) -> tuple[Session | Version02Peer, Handlers]:
        """The first frame decides the version of the connection."""
        if version02:
            self._speaker = self.channel.peer = Version02Peer(self)
            self._decoder.shapes = self._versions.version02.shapes
        else:
            self._speaker = self
            self._decoder.shapes = self._versions.version01.shapes[0]
        self._handlers = self._speaker.handlers
        return self._speaker, self._handlers

    def fatal(self, error: PHPMQError) -> None:
        """The conversation is over: say why if the version can, and close."""
        if self._speaker is None and self._decoder.starts_with(b"H02"):
            self._choose(True)
        if isinstance(self._speaker, Version02Peer):
            self._speaker.farewell(error)
        self._connection.broken(error)
        # What the client sent behind that is not carried out: it would count on answers.
        self.waiting = True
        # What it held goes to others at once, not when its connection is closed at last.
        self.channel.close()

    def _send(self, contents: list[bytes]) -> None:
        queue, content, ttl = contents
        if self.revision != DOCUMENTED:
            self._decide(DOCUMENTED)
        self._publish(queue_name(queue), content, 0 if ttl == b"0" else number(ttl) * 1000, DOCUMENTED)

    def _send_original(self, contents: list[bytes]) -> None:
        queue, content = contents
        if self.revision != ORIGINAL:
            self._decide(ORIGINAL)
        self._publish(queue_name(queue), content, 0, ORIGINAL)

    def _publish(self, queue: str, body: bytes, ttl: int, revision: int) -> None:
        self.channel.publish(None, queue, body, ttl)
        if self._revisions.get(queue) != revision and not self.waiting:
            self._broker.save_revision(queue, revision)

    def _consume(self, contents: list[bytes]) -> None:
        queue, count = contents
        self.channel.consume(queue_name(queue), number(count))

    def _acknowledge(self, contents: list[bytes]) -> None:
        queue, message_id = contents
        self.channel.ack(None, message_id, queue_name(queue))

    def _requeue(self, contents: list[bytes]) -> None:
        queue, message_id, ttl = contents
        self._decide(DOCUMENTED)
        self.channel.requeue(None, message_id, number(ttl) * 1000, queue_name(queue))

    def _dead_letter(self, contents: list[bytes]) -> None:
        queue, message_id = contents
        self._decide(DOCUMENTED)
        self.channel.dead_letter(None, message_id, "", queue_name(queue))

    handlers: ClassVar[Handlers] = {
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
            self._decoder.shapes = self._versions.version01.shapes[revision]

    # From the broker

    def deliver(self, message: Message, now: int) -> None:
        """Encode a delivery; see L{IPeer}."""
        queue = message.queue
        if not self.revision:
            self._decide(self.default if self.default == ORIGINAL else self._revisions.get(queue.name) or self.default)
        body = message.body
        left = message.expires - now if message.expires else 0
        self.out += encode_delivery(self.revision, queue.name, body, message.id, left)
        self.out_room -= len(body) + 200
        if self.out_room < 0:
            self.channel.pause()

    def receipt(self, tag: bytes, id: bytes = b"", duplicate: bool = False) -> None:
        """Version 01 has no answers."""

    def superseded(self) -> None:
        """Another client goes on as the same producer; see L{IPeer}."""
        self.fatal(NotAllowed("another connection goes on as this producer"))

    def flush(self) -> None:
        """Write what was delivered; see L{IPeer}."""
        data = b"".join(self.out)
        self.out.clear()
        self.out_room = _OUTPUT_LIMIT
        self._connection.write(data)
        if self.channel.paused and not self._choked:
            self.channel.resume()

    def refused(self, tag: bytes | None, error: Exception) -> None:
        """Without an answer, a send waits, together with all that the client sends after it; the rest is ignored."""
        if isinstance(error, NoRoom):
            self.wait()

    def wait(self) -> None:
        """What the client sends waits, from this frame on, until there is L{room}."""
        self.waiting = True
        self._connection.stop_reading()

    def room(self) -> None:
        """Try again what waited; see L{IPeer}."""
        self.waiting = False
        self._carry_out()
        if not (self.waiting or (self._choked and self.answers)):
            self._connection.go_on_reading()

    # From the transport

    def choke(self) -> None:
        """The transport has more to write than it likes."""
        self._choked = True
        self.channel.pause()
        if self.answers:
            self._connection.stop_reading()

    def unchoke(self) -> None:
        """The transport wrote what it had."""
        self._choked = False
        self._broker.begin()
        self.channel.resume()
        self._broker.end()
        if self.answers and not (self.waiting or self._choked):
            self._connection.go_on_reading()

    @property
    def answers(self) -> bool:
        """Whether what the client sends makes output: one that does not read its receipts is not read either."""
        return isinstance(self._speaker, Version02Peer)

    def drain(self) -> None:
        """The server is about to stop: the client holds and gets nothing more but the receipts that it waits for."""
        if isinstance(self._speaker, Version02Peer):
            self._speaker.draining("the server stops")
        self.give_back()

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
