"""
What a session does differently in each version of the protocol: a table of functions for each.

Source: docs/reference/protocol.md. Version 01 has no answers, and two revisions; version 02 answers every request that has a tag.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from phpmq.errors import BadFrame, BadName, PHPMQError, UnknownId
from phpmq.interfaces import IChannel
from phpmq.message import Properties
from phpmq.server_frames import (
    DOCUMENTED,
    ORIGINAL,
    encode_draining,
    encode_receipt,
    encode_refusal,
    headers,
    milliseconds,
    number,
    queue_name,
    text,
)


class Speaker(Protocol):
    """A session: what a dialect speaks for."""

    channel: IChannel
    out: list[bytes]
    revision: int
    revisions: Mapping[str, int]

    def decide(self, revision: int) -> None:
        """Take evidence of the client's revision of version 01."""

    def remember_revision(self, queue: str) -> None:
        """Remember that the latest sender of a queue speaks this revision."""

    def flush(self) -> None:
        """Write C{out}."""

    def fail(self, error: PHPMQError) -> None:
        """The connection is over."""


#: What carries out a frame: it takes the session and the frame's contents.
Handler = Callable[[Any, list[Any]], None]


@dataclass(frozen=True)
class Dialect:
    """
    A version of the protocol.

    @ivar name: the version
    @ivar handlers: what carries out a frame, by the name of its shape
    @ivar answers: whether what the client sends makes output: one that does not read its receipts is not read either
    @ivar encode_receipt: tag, message id and whether it is a duplicate -> parts of the answer
    @ivar refuse: tells the client that a command was not carried out
    @ivar encode_draining: reason -> the frame that tells the client that the server is about to stop
    @ivar encode_farewell: error -> the last frame of a connection
    """

    name: str
    handlers: dict[str, Handler]
    answers: bool
    encode_receipt: Callable[[bytes, bytes, bool], tuple[bytes, ...]]
    refuse: Callable[[Any, bytes | None, Exception], None]
    encode_draining: Callable[[str], bytes]
    encode_farewell: Callable[[PHPMQError], bytes]


# Version 01


def _send_01(session: Speaker, contents: list[bytes]) -> None:
    queue, content, ttl = contents
    name = queue_name(queue)
    if session.revision != DOCUMENTED:
        session.decide(DOCUMENTED)
    session.channel.publish(name, content, 0 if ttl == b"0" else number(ttl) * 1000)
    if session.revisions.get(name) != DOCUMENTED:
        session.remember_revision(name)


def _send_original(session: Speaker, contents: list[bytes]) -> None:
    queue, content = contents
    name = queue_name(queue)
    if session.revision != ORIGINAL:
        session.decide(ORIGINAL)
    session.channel.publish(name, content, 0)
    if session.revisions.get(name) != ORIGINAL:
        session.remember_revision(name)


def _consume_01(session: Speaker, contents: list[bytes]) -> None:
    queue, count = contents
    session.channel.consume(queue_name(queue), number(count))


def _acknowledge_01(session: Speaker, contents: list[bytes]) -> None:
    queue, message_id = contents
    session.channel.ack(None, message_id, queue_name(queue))


def _requeue_01(session: Speaker, contents: list[bytes]) -> None:
    queue, message_id, ttl = contents
    session.decide(DOCUMENTED)
    session.channel.requeue(None, message_id, number(ttl) * 1000, queue_name(queue))


def _dead_letter_01(session: Speaker, contents: list[bytes]) -> None:
    queue, message_id = contents
    session.decide(DOCUMENTED)
    session.channel.dead_letter(None, message_id, "", queue_name(queue))


VERSION_01 = Dialect(
    name="01",
    handlers={
        "send": _send_01,
        "send original": _send_original,
        "consume": _consume_01,
        "acknowledge": _acknowledge_01,
        "requeue": _requeue_01,
        "dead letter": _dead_letter_01,
    },
    answers=False,
    encode_receipt=lambda tag, message_id, duplicate: (),
    refuse=lambda session, tag, error: None,
    encode_draining=lambda reason: b"",
    encode_farewell=lambda error: b"",
)


# Version 02

_SYNCED = {None: False, b"stored": False, b"synced": True}


def _send_02(session: Speaker, contents: list[Any]) -> None:
    queue, content, ttl, delay, level, header_packet, key, tag = contents
    try:
        synced = _SYNCED[level]
    except KeyError:
        raise BadFrame("level is neither stored nor synced") from None
    properties = None
    if delay is not None or header_packet is not None or key is not None:
        properties = Properties(milliseconds(delay), text(key), headers(header_packet) if header_packet else b"")
    try:
        name = queue_name(queue)
    except BadName as error:
        if tag is None:
            raise
        session.channel.refuse(tag, error)
        return
    session.channel.send(tag, name, content, 0 if ttl is None else milliseconds(ttl), synced, properties)


def _consume_02(session: Speaker, contents: list[Any]) -> None:
    queue, count, lease, tag = contents
    try:
        name = queue_name(queue)
    except BadName as error:
        if tag is None:
            raise
        _refuse_02(session, tag, error)
        session.flush()
        return
    session.channel.consume(name, number(count), milliseconds(lease), tag)


def _acknowledge_02(session: Speaker, contents: list[Any]) -> None:
    message_id, tag = contents
    session.channel.ack(tag, message_id)


def _requeue_02(session: Speaker, contents: list[Any]) -> None:
    message_id, ttl, delay, tag = contents
    session.channel.requeue(tag, message_id, milliseconds(ttl), None, milliseconds(delay))


def _dead_letter_02(session: Speaker, contents: list[Any]) -> None:
    message_id, reason, tag = contents
    session.channel.dead_letter(tag, message_id, text(reason))


def _touch_02(session: Speaker, contents: list[Any]) -> None:
    message_id, tag = contents
    session.channel.touch(tag, message_id)


def _hello_02(session: Speaker, contents: list[Any]) -> None:
    tag, producer, _user, _secret = contents
    if producer == b"":
        raise BadFrame("producer name is empty")
    session.channel.hello(tag, producer)


def _refuse_02(session: Speaker, tag: bytes | None, error: Exception) -> None:
    """
    Encode a refusal.

    Without a tag there is no answer: a settlement of an unknown message is ignored, and a send that can never succeed ends the connection,
    as it would be lost silently.
    """
    if tag is not None:
        session.out.append(encode_refusal(tag, getattr(error, "code", PHPMQError.code), str(error)))
    elif isinstance(error, PHPMQError) and not isinstance(error, UnknownId):
        session.fail(error)


VERSION_02 = Dialect(
    name="02",
    handlers={
        "send": _send_02,
        "consume": _consume_02,
        "acknowledge": _acknowledge_02,
        "requeue": _requeue_02,
        "dead letter": _dead_letter_02,
        "touch": _touch_02,
        "hello": _hello_02,
    },
    answers=True,
    encode_receipt=encode_receipt,
    refuse=_refuse_02,
    encode_draining=encode_draining,
    encode_farewell=lambda error: encode_refusal(None, error.code, str(error)),
)
