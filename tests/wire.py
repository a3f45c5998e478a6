"""
Frames as clients of protocol versions 01 and 02 write and read them, and the recorded ones of vectors/wire.json.

On purpose nothing here uses phpmq's own encoder and decoder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

QUEUE, CONTENT, ID, COUNT, TTL = 1, 2, 3, 4, 5

#: The packet types of version 02 by name.
PACKETS = {
    "queue": 1,
    "content": 2,
    "id": 3,
    "count": 4,
    "ttl": 5,
    "tag": 6,
    "delay": 7,
    "level": 8,
    "headers": 9,
    "key": 10,
    "attempts": 11,
    "reason": 12,
    "code": 13,
    "lease": 14,
    "user": 15,
    "secret": 16,
    "duplicate": 17,
    "producer": 18,
}


class Kind(NamedTuple):
    """A type of frame of version 02: its number, who sends it, the packets that must be there and those that may be."""

    type: int
    sender: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


#: The frames of version 02 by name.
FRAMES = {
    "send": Kind(1, "client", ("queue", "content"), ("ttl", "delay", "level", "headers", "key", "tag")),
    "consume": Kind(2, "client", ("queue", "count"), ("lease", "tag")),
    "deliver": Kind(3, "server", ("queue", "content", "id", "attempts"), ("ttl", "headers")),
    "acknowledge": Kind(4, "client", ("id",), ("tag",)),
    "requeue": Kind(5, "client", ("id",), ("ttl", "delay", "tag")),
    "dead letter": Kind(6, "client", ("id",), ("reason", "tag")),
    "receipt": Kind(7, "server", ("tag",), ("id", "duplicate")),
    "refused": Kind(8, "server", ("code", "reason"), ("tag",)),
    "touch": Kind(9, "client", ("id",), ("tag",)),
    "hello": Kind(10, "client", ("tag",), ("producer", "user", "secret")),
    "draining": Kind(11, "server", ("reason",)),
}

#: The longest content of each packet type of version 02, of one that is not known for 0, as a server has it by default.
LIMITS = {
    0: 8192,
    **dict.fromkeys(PACKETS.values(), 20),
    **dict.fromkeys((PACKETS["queue"], PACKETS["key"], PACKETS["user"], PACKETS["secret"]), 255),
    **dict.fromkeys((PACKETS["id"], PACKETS["tag"], PACKETS["code"], PACKETS["producer"]), 64),
    PACKETS["content"]: 16 * 1024 * 1024,
    PACKETS["headers"]: 8192,
    PACKETS["reason"]: 1024,
    PACKETS["duplicate"]: 1,
}


class Vector(NamedTuple):
    """
    A recorded frame.

    @ivar code: of a bad one, the error's code
    @ivar tag: of a bad one of version 02, the tag that the refusal has; None where the connection ends
    @ivar after: of a bad one of version 02, the name of a good one that comes before it
    """

    name: str
    frame: bytes
    version: int = 1
    sender: str = "client"
    revision: str = ""
    type: int = 0
    fields: Mapping[str, Any] = MappingProxyType({})
    code: str = ""
    tag: str | None = None
    after: str = ""


class Delivery(NamedTuple):
    """A message that the server sent in version 01; C{ttl} is None in the original revision."""

    queue: str
    content: bytes
    id: bytes
    ttl: int | None


class Frame(NamedTuple):
    """A frame of version 02 by the names of its type and packets; those that a client does not know are left out."""

    name: str
    fields: dict[str, bytes]


def _load(kind: str, version: int) -> list[Vector]:
    text = (Path(__file__).parent / "vectors" / "wire.json").read_text(encoding="utf-8")
    vectors: list[dict[str, Any]] = json.loads(text)[kind]
    known = [{key: value for key, value in vector.items() if key in Vector._fields} for vector in vectors]
    loaded = [Vector(**{**vector, "frame": vector["frame"].encode("latin-1")}) for vector in known]
    return [vector for vector in loaded if vector.version == version]


GOOD, GOOD_02 = _load("good", 1), _load("good", 2)
BAD, BAD_02 = _load("bad", 1), _load("bad", 2)


def packet(kind: int, content: bytes) -> bytes:
    """A packet."""
    return f"P{kind:02}{len(content):029}".encode() + content


def frame(kind: int, *packets: bytes, version: int = 1) -> bytes:
    """A frame."""
    return f"H{version:02}{kind:03}{len(packets):02}".encode() + b"".join(packets)


# Version 01


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
        version, kind, found, data = _first(data)
        assert (version, kind) == (1, 3), (version, kind)
        packets = dict(found)
        assert len(packets) == len(found) and sorted(packets) == [QUEUE, CONTENT, ID, TTL][: len(found)], packets.keys()
        ttl = int(packets[TTL]) if TTL in packets else None
        yield Delivery(packets[QUEUE].decode(), packets[CONTENT], packets[ID], ttl)


# Version 02


def as_bytes(value: str | bytes | int) -> bytes:
    """The content of a packet for a value: text in UTF-8, digits for a number."""
    return value if isinstance(value, bytes) else str(value).encode()


def compose(name: str, **fields: str | bytes | int) -> bytes:
    """A frame of version 02 from what its packets hold, by their names, in the order of the table."""
    kind = FRAMES[name]
    packets = [packet(PACKETS[field], as_bytes(fields.pop(field))) for field in kind.required + kind.optional if field in fields]
    assert not fields, fields
    return frame(kind.type, *packets, version=2)


def read(data: bytes, sender: str = "server") -> list[Frame]:
    """What a client, or a server, gets out of bytes that are whole frames of version 02 of the other side and nothing else."""
    return list(_read(data, sender))


def _read(data: bytes, sender: str) -> Iterator[Frame]:
    names = {kind.type: name for name, kind in FRAMES.items() if kind.sender == sender}
    while data:
        version, number, found, data = _first(data)
        assert version == 2 and number in names, (version, number)
        kind = FRAMES[names[number]]
        known = [(field, content) for field, content in _by_name(found) if field in kind.required + kind.optional]
        fields = dict(known)
        assert len(fields) == len(known), f"repeated packet in {known}"
        assert fields.keys() >= set(kind.required), f"missing packet in {known}"
        yield Frame(names[number], fields)


def _by_name(packets: Iterable[tuple[int, bytes]]) -> Iterator[tuple[str, bytes]]:
    names = {number: name for name, number in PACKETS.items()}
    return ((names.get(number, ""), content) for number, content in packets)


# Both


def _first(data: bytes) -> tuple[int, int, list[tuple[int, bytes]], bytes]:
    """The first frame: version, type, packets, and what follows it."""
    assert data[:1] == b"H" and data[1:8].isdigit(), data[:8]
    version, kind, count, data = int(data[1:3]), int(data[3:6]), int(data[6:8]), data[8:]
    packets = []
    for _ in range(count):
        assert data[:1] == b"P" and len(data) >= 32, data[:32]
        length = 32 + int(data[3:32])
        assert len(data) >= length, "a frame was split"
        packets.append((int(data[1:3]), data[32:length]))
        data = data[length:]
    return version, kind, packets, data
