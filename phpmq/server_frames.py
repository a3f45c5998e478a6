"""
The frames as a server reads and writes them: tables of the frames that a client may send, and encoders of its own.

Version 01 has two revisions, which both say "01". The I{original} one is what the published PHP client speaks; the I{documented} one has a
time to live, re-queue and dead letter. Version 02 answers. Source: docs/reference/protocol.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache, partial

from phpmq.errors import BadFrame, BadName
from phpmq.frames import (
    ATTEMPTS,
    CLIENT_02,
    CODE,
    COMMON_01,
    CONTENT,
    DEFAULT_LIMITS,
    DOCUMENTED_01,
    DUPLICATE,
    HEADERS,
    ID,
    ORIGINAL_01,
    QUEUE,
    REASON,
    TAG,
    TTL,
    FrameShape,
    frame_header,
    json_headers,
    open_shapes,
    packet,
    packet_header,
)
from phpmq.message import check_name

#: Revisions of version 01; 0 stands for not known yet.
ORIGINAL, DOCUMENTED = 1, 2


class Versions:
    """
    The frames of all versions that a server takes, for its limits; one for all its connections.

    @ivar version01: the frames of version 01 by revision; 0 has those of both, for a connection that gave no evidence yet
    @ivar version02: the frames of version 02 by header
    @ivar first: what the first frame of a connection may be, by header
    """

    def __init__(self, max_message_size: int = DEFAULT_LIMITS[CONTENT]) -> None:
        limits = {**DEFAULT_LIMITS, CONTENT: max_message_size}

        def shapes(*tables: tuple[tuple[str, int, tuple[int, ...]], ...]) -> Mapping[bytes, FrameShape]:
            return {
                header: FrameShape(name, header, packets, limits)
                for table in tables
                for name, number, packets in table
                for header in [frame_header(1, number, len(packets))]
            }

        self.version01 = {
            0: shapes(COMMON_01, ORIGINAL_01, DOCUMENTED_01),
            ORIGINAL: shapes(COMMON_01, ORIGINAL_01),
            DOCUMENTED: shapes(COMMON_01, DOCUMENTED_01),
        }
        self.version02 = open_shapes(CLIENT_02, limits)
        self.first: Mapping[bytes, FrameShape] = {**self.version01[0], **self.version02}


@lru_cache(maxsize=4096)
def queue_name(content: bytes) -> str:
    """Decode a queue's name; anything but 1-255 bytes of UTF-8 that no output could mistake for anything but text is a L{BadName}."""
    try:
        name = content.decode("utf-8")
    except UnicodeDecodeError:
        raise BadName("queue name is not UTF-8") from None
    return check_name(name)


def number(content: bytes) -> int:
    """Decode a count or a time to live; anything but ASCII digits is a L{BadFrame}."""
    if not content.isdigit():
        raise BadFrame("number expected")
    return int(content)


_DECIMAL = re.compile(rb"[0-9]+(?:\.[0-9]+)?")


def milliseconds(content: bytes | None) -> int:
    """
    Decode a time to live, a delay or a lease of version 02, in seconds with decimals allowed; above 0 it is at least 1. 0 for None.

    @raise BadFrame: anything but digits with at most one dot between them
    """
    if content is None:
        return 0
    if not _DECIMAL.fullmatch(content):
        raise BadFrame("number of seconds expected")
    seconds = float(content)
    return max(1, round(seconds * 1000)) if seconds else 0


def text(content: bytes | None) -> str:
    """Decode a reason or a key, empty for None; anything but UTF-8 is a L{BadFrame}."""
    try:
        return (content or b"").decode("utf-8")
    except UnicodeDecodeError:
        raise BadFrame("UTF-8 expected") from None


@lru_cache(maxsize=1024)
def headers(content: bytes) -> bytes:
    """Check headers, and return them as they came; anything but a JSON object of strings is a L{BadFrame}."""
    json_headers(content)
    return content


# The parts of a delivery that repeat all day. A cache with a single argument costs half of what one with two does.


@lru_cache(maxsize=4096)
def _queue_packet(name: str) -> bytes:
    return packet(QUEUE, name.encode("utf-8"))


@lru_cache(maxsize=256)
def _attempts_packet(attempts: int) -> bytes:
    return packet(ATTEMPTS, b"%d" % attempts)


_content_header = lru_cache(maxsize=4096)(partial(packet_header, CONTENT))
_tag_header = lru_cache(maxsize=256)(partial(packet_header, TAG))

_DELIVERY_ORIGINAL, _DELIVERY_DOCUMENTED, _DELIVERY_02 = frame_header(1, 3, 3), frame_header(1, 3, 4), frame_header(2, 3, 4)
_ID_HEADER = packet_header(ID, 32)
_NO_TTL = packet(TTL, b"0")


def encode_delivery_original(queue: str, body: bytes, message_id: bytes, attempts: int, ttl: int, headers: bytes) -> tuple[bytes, ...]:
    """The parts of a delivery in the original revision of version 01; see L{encode_delivery_02}."""
    return _DELIVERY_ORIGINAL, _queue_packet(queue), _content_header(len(body)), body, _ID_HEADER, message_id


def encode_delivery_documented(queue: str, body: bytes, message_id: bytes, attempts: int, ttl: int, headers: bytes) -> tuple[bytes, ...]:
    """The parts of a delivery in the documented revision of version 01, the time that is left in seconds, rounded up."""
    end = packet(TTL, b"%d" % max(1, -(-ttl // 1000))) if ttl else _NO_TTL
    return _DELIVERY_DOCUMENTED, _queue_packet(queue), _content_header(len(body)), body, _ID_HEADER, message_id, end


#: The encoders of deliveries by revision of version 01.
ENCODERS_01 = {ORIGINAL: encode_delivery_original, DOCUMENTED: encode_delivery_documented}


def encode_delivery_02(queue: str, body: bytes, message_id: bytes, attempts: int, ttl: int, headers: bytes) -> tuple[bytes, ...]:
    """
    The parts of a delivery in version 02, to be joined with others before they are written.

    @param message_id: 32 bytes
    @param ttl: milliseconds that are left; 0 for a message that does not expire
    @param headers: empty for none
    """
    start, content, attempt = _queue_packet(queue), _content_header(len(body)), _attempts_packet(attempts)
    if not (ttl or headers):
        return _DELIVERY_02, start, content, body, _ID_HEADER, message_id, attempt
    more = []
    if ttl:
        more.append(packet(TTL, b"%.3f" % (max(1, ttl) / 1000)))
    if headers:
        more.append(packet(HEADERS, headers))
    return frame_header(2, 3, 4 + len(more)), start, content, body, _ID_HEADER, message_id, attempt, *more


_DUPLICATE = packet(DUPLICATE, b"1")
_RECEIPT_1, _RECEIPT_2, _RECEIPT_3 = frame_header(2, 7, 1), frame_header(2, 7, 2), frame_header(2, 7, 3)


def encode_receipt(tag: bytes, message_id: bytes = b"", duplicate: bool = False) -> tuple[bytes, ...]:
    """The parts of the answer to a request that was carried out; C{duplicate} if nothing was stored, as the message was there already."""
    if not duplicate:
        if message_id:
            return _RECEIPT_2, _tag_header(len(tag)), tag, _ID_HEADER, message_id
        return _RECEIPT_1, _tag_header(len(tag)), tag
    if message_id:
        return _RECEIPT_3, _tag_header(len(tag)), tag, _ID_HEADER, message_id, _DUPLICATE
    return _RECEIPT_2, _tag_header(len(tag)), tag, _DUPLICATE


def encode_refusal(tag: bytes | None, code: str, reason: str) -> bytes:
    """The answer to a request that was not carried out; without a tag, what a connection ends with."""
    parts = [packet(CODE, code.encode("ascii")), packet(REASON, reason.encode("utf-8")[: DEFAULT_LIMITS[REASON]])]
    if tag is not None:
        parts.append(packet(TAG, tag))
    return frame_header(2, 8, len(parts)) + b"".join(parts)


def encode_draining(reason: str) -> bytes:
    """What tells a client that the server is about to stop."""
    return frame_header(2, 11, 1) + packet(REASON, reason.encode("utf-8"))
