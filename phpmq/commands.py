"""
What frames mean in protocol version 01, in its two revisions: tables of the frames a client may send, and encoders for what it gets.

Both revisions say "01". The I{original} one is what the published PHP client speaks; the I{documented} one has a time to live, re-queue and
dead letter. Source: docs/reference/protocol.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from phpmq.errors import BadFrame, BadName
from phpmq.frames import (
    CONTENT,
    COUNT,
    DEFAULT_LIMITS,
    ID,
    QUEUE,
    TTL,
    FrameShape,
    frame_header,
    packet,
    packet_header,
)
from phpmq.message import check_name

#: Revisions of version 01; 0 stands for not known yet.
ORIGINAL, DOCUMENTED = 1, 2

# name, type, packets of what a client may send
_COMMON = (("consume", 2, (QUEUE, COUNT)), ("acknowledge", 4, (QUEUE, ID)))
_ORIGINAL = (("send original", 1, (QUEUE, CONTENT)),)
_DOCUMENTED = (
    ("send", 1, (QUEUE, CONTENT, TTL)),
    ("requeue", 5, (QUEUE, ID, TTL)),
    ("dead letter", 6, (QUEUE, ID)),
)


class Version01:
    """
    The frames of version 01 that a server takes, for its limits; one for all its connections.

    @ivar shapes: revision -> the frames it has; 0 -> those of both, for a connection that gave no evidence yet
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

        self.shapes = {
            0: shapes(_COMMON, _ORIGINAL, _DOCUMENTED),
            ORIGINAL: shapes(_COMMON, _ORIGINAL),
            DOCUMENTED: shapes(_COMMON, _DOCUMENTED),
        }


@lru_cache(maxsize=4096)
def queue_name(content: bytes) -> str:
    """
    A queue's name from its packet: 1-255 bytes of UTF-8 that no output could mistake for anything but text.

    @raise BadName: it is something else
    """
    try:
        name = content.decode("utf-8")
    except UnicodeDecodeError:
        raise BadName("queue name is not UTF-8") from None
    return check_name(name)


def number(content: bytes) -> int:
    """
    A count or a time to live from its packet.

    @raise BadFrame: anything but ASCII digits
    """
    if not content.isdigit():
        raise BadFrame("number expected")
    return int(content)


_ID_HEADER = packet_header(ID, 32)
_NO_TTL = packet(TTL, b"0")


@lru_cache(maxsize=4096)
def _delivery_start(revision: int, name: str) -> bytes:
    return frame_header(1, 3, 3 if revision == ORIGINAL else 4) + packet(QUEUE, name.encode("utf-8"))


def encode_delivery(revision: int, queue: str, body: bytes, message_id: bytes, ttl: int) -> tuple[bytes, ...]:
    """
    The parts of a delivery, to be joined with others before they are written.

    @param message_id: 32 bytes
    @param ttl: milliseconds that are left, sent as seconds rounded up; 0 for a message that does not expire
    """
    start = _delivery_start(revision, queue)
    if revision == ORIGINAL:
        return start, packet_header(CONTENT, len(body)), body, _ID_HEADER, message_id
    end = packet(TTL, b"%d" % max(1, -(-ttl // 1000))) if ttl else _NO_TTL
    return start, packet_header(CONTENT, len(body)), body, _ID_HEADER, message_id, end
