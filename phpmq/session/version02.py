"""A conversation in version 02, where every request with a tag is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from zope.interface import implementer

from phpmq.commands import (
    encode_delivery_02,
    encode_draining,
    encode_receipt,
    encode_refusal,
    headers,
    milliseconds,
    number,
    queue_name,
    text,
)
from phpmq.errors import BadFrame, BadName, NoRoom, PHPMQError, UnknownId
from phpmq.interfaces import IPeer
from phpmq.message import Message, Properties

if TYPE_CHECKING:
    from phpmq.session.session import Session

#: What carries out a frame, by the name of its shape; it takes the speaker and the frame's contents.
Handlers = dict[str, Callable[..., None]]

_SYNCED = {None: False, b"stored": False, b"synced": True}


@implementer(IPeer)
class Version02Peer:
    """What a L{Session} becomes when its client's first frame is of version 02."""

    __slots__ = ("_channel", "_receipts", "_session")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._channel = session.channel
        self._receipts = session.channel.broker.receipts

    # From the client

    def _send(self, contents: list[Any]) -> None:
        queue, content, ttl, delay, level, header_packet, key, tag = contents
        try:
            synced = _SYNCED[level]
        except KeyError:
            raise BadFrame("level is neither stored nor synced") from None
        if synced and len(self._channel.unconfirmed) >= self._receipts.limit:
            self._receipts.hold_up(self._channel)
            self._session.wait()
            return
        properties = None
        if delay is not None or header_packet is not None or key is not None:
            properties = Properties(milliseconds(delay), text(key), headers(header_packet) if header_packet else b"")
        try:
            name = queue_name(queue)
        except BadName as error:
            if tag is None:
                raise
            self._channel.refuse(tag, error)
            return
        self._channel.send(tag, name, content, 0 if ttl is None else milliseconds(ttl), synced, properties)

    def _consume(self, contents: list[Any]) -> None:
        queue, count, lease, tag = contents
        try:
            name = queue_name(queue)
        except BadName as error:
            if tag is None:
                raise
            self._answer_refused(tag, error)
            return
        self._channel.consume(name, number(count), milliseconds(lease), tag)

    def _acknowledge(self, contents: list[Any]) -> None:
        message_id, tag = contents
        self._channel.ack(tag, message_id)

    def _requeue(self, contents: list[Any]) -> None:
        message_id, ttl, delay, tag = contents
        self._channel.requeue(tag, message_id, milliseconds(ttl), None, milliseconds(delay))

    def _dead_letter(self, contents: list[Any]) -> None:
        message_id, reason, tag = contents
        self._channel.dead_letter(tag, message_id, text(reason))

    def _touch(self, contents: list[Any]) -> None:
        message_id, tag = contents
        self._channel.touch(tag, message_id)

    def _hello(self, contents: list[Any]) -> None:
        tag, producer, _user, _secret = contents
        if producer == b"":
            raise BadFrame("producer name is empty")
        self._channel.hello(tag, producer)

    handlers: ClassVar[Handlers] = {
        "send": _send,
        "consume": _consume,
        "acknowledge": _acknowledge,
        "requeue": _requeue,
        "dead letter": _dead_letter,
        "touch": _touch,
        "hello": _hello,
    }

    # From the broker

    def deliver(self, message: Message, now: int) -> None:
        """Encode a delivery; see L{IPeer}."""
        session, body, properties = self._session, message.body, message.properties
        left = message.expires - now if message.expires else 0
        kept = b"" if properties is None else properties.headers
        session.out += encode_delivery_02(message.queue.name, body, message.id, message.attempts, left, kept)
        session.out_room -= len(body) + len(kept) + 250
        if session.out_room < 0:
            self._channel.pause()

    def receipt(self, tag: bytes, id: bytes = b"", duplicate: bool = False) -> None:
        """Encode a receipt; see L{IPeer}."""
        self._session.out += encode_receipt(tag, id, duplicate)

    def refused(self, tag: bytes | None, error: Exception) -> None:
        """
        Encode a refusal; see L{IPeer}.

        Without a tag there is no answer: a send that meets a full memory waits, a settlement of an unknown message is ignored, and a send
        that can never succeed ends the conversation, as it would be lost silently.
        """
        if tag is not None:
            self._answer_refused(tag, error)
        elif isinstance(error, NoRoom):
            self._session.wait()
        elif isinstance(error, PHPMQError) and not isinstance(error, UnknownId):
            self._session.fatal(error)

    def _answer_refused(self, tag: bytes, error: Exception) -> None:
        self._session.out.append(encode_refusal(tag, getattr(error, "code", PHPMQError.code), str(error)))
        self._channel.broker.touch(self._channel)

    def superseded(self) -> None:
        """Another client goes on as the same producer; see L{IPeer}."""
        self._session.superseded()

    def room(self) -> None:
        """Try again what waited; see L{IPeer}."""
        self._session.room()

    def flush(self) -> None:
        """Write deliveries and receipts; see L{IPeer}."""
        self._session.flush()

    def draining(self, reason: str) -> None:
        """Tell the client that the server is about to stop."""
        self._session.out.append(encode_draining(reason))
        self._session.flush()

    def farewell(self, error: PHPMQError) -> None:
        """The last frame: why the conversation is over."""
        self._session.out.append(encode_refusal(None, error.code, str(error)))
        self._session.flush()
