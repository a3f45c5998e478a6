"""
The frames of version 02 as a client writes and reads them: encoders of its own, and the table of a server's.

The mirror image of L{phpmq.server_frames}. Source: docs/reference/protocol.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache, lru_cache

from phpmq.errors import TooLarge
from phpmq.frames import (
    CONTENT,
    COUNT,
    DEFAULT_LIMITS,
    DELAY,
    HEADERS,
    ID,
    KEY,
    LEASE,
    LEVEL,
    PRODUCER,
    QUEUE,
    REASON,
    SERVER_02,
    TAG,
    TTL,
    FrameShape,
    frame_header,
    open_shapes,
    packet,
    packet_header,
)
from phpmq.message import check_name

#: The largest body that a server can be set to accept, in bytes; what is delivered is no larger.
MAX_BODY = 512 * 1024 * 1024

# More seconds than anybody means; a number of the protocol has 20 digits at most.
_MAX_SECONDS = 10.0**12


@cache
def server_shapes() -> Mapping[bytes, FrameShape]:
    """The frames that a server sends, by header; the same for all connections."""
    return open_shapes(SERVER_02, {**DEFAULT_LIMITS, CONTENT: MAX_BODY})


@lru_cache(maxsize=4096)
def _queue_packet(name: str) -> bytes:
    if not isinstance(name, str):
        raise TypeError(f"a queue's name is a string, not {type(name).__name__}")
    return packet(QUEUE, check_name(name).encode("utf-8"))


@lru_cache(maxsize=1024)
def _seconds(what: str, packet_type: int, seconds: float) -> bytes:
    """A packet with a number of seconds, at least a millisecond and at most 30,000 years; nothing for 0."""
    if not seconds:
        return b""
    if not isinstance(seconds, int | float):
        raise TypeError(f"{what} is a number of seconds, not {type(seconds).__name__}")
    if not seconds > 0:
        raise ValueError(f"{what} is a number of seconds above 0, or 0 for none, not {seconds!r}")
    return packet(packet_type, b"%.3f" % max(0.001, min(seconds, _MAX_SECONDS)))


def _text(what: str, packet_type: int, text: str) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"{what} is a string, not {type(text).__name__}")
    content = text.encode("utf-8")
    if len(content) > DEFAULT_LIMITS[packet_type]:
        raise TooLarge(f"{what} of {len(content)} bytes, the limit is {DEFAULT_LIMITS[packet_type]}")
    return packet(packet_type, content)


def _headers(headers: Mapping[str, str]) -> bytes:
    if not isinstance(headers, Mapping) or not all(isinstance(text, str) for pair in headers.items() for text in pair):
        raise TypeError("headers are strings by name")
    return _text("the JSON of headers", HEADERS, json.dumps(dict(headers), ensure_ascii=False, separators=(",", ":")))


_LEVELS = {"stored": b"", "synced": packet(LEVEL, b"synced")}
_PLAIN_SEND = frame_header(2, 1, 3)


def encode_send(
    tag: bytes,
    queue: str,
    body: bytes,
    ttl: float = 0,
    delay: float = 0,
    headers: Mapping[str, str] | None = None,
    key: str | None = None,
    level: str = "stored",
) -> bytes:
    """Encode a send; parameters and errors are those of L{phpmq.client.QueueClient.send}."""
    if not isinstance(body, bytes):
        raise TypeError(f"a body is bytes, not {type(body).__name__}")
    if len(body) > MAX_BODY:
        raise TooLarge(f"a body of {len(body)} bytes, no server takes more than {MAX_BODY}")
    if level == "stored" and not (ttl or delay or headers or key is not None):
        return b"".join((_PLAIN_SEND, _queue_packet(queue), packet_header(CONTENT, len(body)), body, packet_header(TAG, len(tag)), tag))
    if level not in _LEVELS:
        raise ValueError(f"a level is stored or synced, not {level!r}")
    if key == "":
        raise ValueError("a key is not empty")
    times = _seconds("ttl", TTL, ttl), _seconds("delay", DELAY, delay)
    optional = _LEVELS[level], *times, _headers(headers) if headers else b"", b"" if key is None else _text("a key", KEY, key)
    there = [one for one in optional if one]
    start = frame_header(2, 1, 3 + len(there)), _queue_packet(queue), packet_header(CONTENT, len(body)), body
    return b"".join((*start, *there, packet_header(TAG, len(tag)), tag))


def encode_consume(tag: bytes, queue: str, window: int, lease: float = 0) -> bytes:
    """Encode a consume, which a window of 0 ends; other parameters and errors are those of L{phpmq.client.QueueClient.consume}."""
    if not isinstance(window, int):
        raise TypeError(f"a window is an integer, not {type(window).__name__}")
    if not 0 <= window < 10 ** DEFAULT_LIMITS[COUNT]:
        raise ValueError(f"a window is a number of messages, not {window!r}")
    return _frame(2, _queue_packet(queue), packet(COUNT, b"%d" % window), packet(TAG, tag), _seconds("lease", LEASE, lease))


def _frame(frame_type: int, *packets: bytes) -> bytes:
    """A frame of those packets that are not empty."""
    there = [one for one in packets if one]
    return frame_header(2, frame_type, len(there)) + b"".join(there)


_ACK, _UNTAGGED_ACK, _TOUCH = frame_header(2, 4, 2), frame_header(2, 4, 1), frame_header(2, 9, 2)


def encode_ack(tag: bytes, message_id: bytes) -> bytes:
    """Encode an acknowledgement; one with an empty tag is not answered."""
    if not tag:
        return b"%b%b%b" % (_UNTAGGED_ACK, packet_header(ID, len(message_id)), message_id)
    return b"%b%b%b%b%b" % (_ACK, packet_header(ID, len(message_id)), message_id, packet_header(TAG, len(tag)), tag)


def encode_touch(tag: bytes, message_id: bytes) -> bytes:
    """A touch: the lease starts again."""
    return _TOUCH + packet(ID, message_id) + packet(TAG, tag)


def encode_requeue(tag: bytes, message_id: bytes, ttl: float = 0, delay: float = 0) -> bytes:
    """Encode a re-queue; a number of seconds that is negative is a C{ValueError}."""
    return _frame(5, packet(ID, message_id), packet(TAG, tag), _seconds("ttl", TTL, ttl), _seconds("delay", DELAY, delay))


def encode_dead_letter(tag: bytes, message_id: bytes, reason: str = "") -> bytes:
    """Encode a dead letter; a reason that is too long is cut, and one that is no string is a C{TypeError}."""
    if not isinstance(reason, str):
        raise TypeError(f"a reason is a string, not {type(reason).__name__}")
    # A character that the limit cuts in two is left out.
    text = reason.encode("utf-8", "replace")[: DEFAULT_LIMITS[REASON]].decode("utf-8", "ignore")
    return _frame(6, packet(ID, message_id), packet(TAG, tag), packet(REASON, text.encode("utf-8")) if text else b"")


def encode_hello(tag: bytes, producer: bytes = b"") -> bytes:
    """A hello; without a producer's name it is just a ping."""
    return _frame(10, packet(TAG, tag), packet(PRODUCER, producer) if producer else b"")
