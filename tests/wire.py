"""
Frames as clients of protocol version 01 write and read them, and the recorded ones of vectors/wire.json.

On purpose nothing here uses phpmq's own encoder and decoder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

QUEUE, CONTENT, ID, COUNT, TTL = 1, 2, 3, 4, 5


class Vector(NamedTuple):
    """A recorded frame; one that is bad has no more than a name and bytes."""

    name: str
    frame: bytes
    sender: str = "client"
    revision: str = ""
    type: int = 0
    fields: Mapping[str, Any] = MappingProxyType({})


class Delivery(NamedTuple):
    """A message that the server sent; C{ttl} is None in the original revision."""

    queue: str
    content: bytes
    id: bytes
    ttl: int | None


def _load(kind: str) -> list[Vector]:
    text = (Path(__file__).parent / "vectors" / "wire.json").read_text(encoding="utf-8")
    vectors: list[dict[str, Any]] = json.loads(text)[kind]
    known = [{key: value for key, value in vector.items() if key in Vector._fields} for vector in vectors]
    return [Vector(**{**vector, "frame": vector["frame"].encode("latin-1")}) for vector in known]


GOOD = _load("good")
BAD = _load("bad")


def packet(kind: int, content: bytes) -> bytes:
    """A packet."""
    return f"P{kind:02}{len(content):029}".encode() + content


def frame(kind: int, *packets: bytes) -> bytes:
    """A frame of version 01."""
    return f"H01{kind:03}{len(packets):02}".encode() + b"".join(packets)


def _name(queue: str) -> bytes:
    return packet(QUEUE, queue.encode())


def send(queue: str, content: bytes, ttl: int | None = 0) -> bytes:
    """A send: of the documented revision, or with no C{ttl} of the original one."""
    start = _name(queue), packet(CONTENT, content)
    return frame(1, *start) if ttl is None else frame(1, *start, packet(TTL, b"%d" % ttl))


def consume(queue: str, count: int) -> bytes:
    """A consume."""
    return frame(2, _name(queue), packet(COUNT, b"%d" % count))


def acknowledge(queue: str, message_id: bytes) -> bytes:
    """An acknowledgement."""
    return frame(4, _name(queue), packet(ID, message_id))


def requeue(queue: str, message_id: bytes, ttl: int = 0) -> bytes:
    """A re-queue."""
    return frame(5, _name(queue), packet(ID, message_id), packet(TTL, b"%d" % ttl))


def dead_letter(queue: str, message_id: bytes) -> bytes:
    """A dead letter."""
    return frame(6, _name(queue), packet(ID, message_id))


def deliveries(data: bytes) -> list[Delivery]:
    """What a client gets out of bytes that are whole deliveries and nothing else."""
    return list(_deliveries(data))


def _deliveries(data: bytes) -> Iterator[Delivery]:
    while data:
        assert data[:6] == b"H01003", data[:8]
        count, data = int(data[6:8]), data[8:]
        packets = {}
        for _ in range(count):
            assert data[:1] == b"P" and len(data) >= 32, data[:32]
            length = 32 + int(data[3:32])
            assert len(data) >= length, "a frame was split"
            packets[int(data[1:3])], data = data[32:length], data[length:]
        assert sorted(packets) == [QUEUE, CONTENT, ID, TTL][:count], packets.keys()
        ttl = int(packets[TTL]) if TTL in packets else None
        yield Delivery(packets[QUEUE].decode(), packets[CONTENT], packets[ID], ttl)
