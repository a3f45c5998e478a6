"""Conversations in version 02 for tests, in memory: frames as clients write them, and a client at the other end of a session."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from phpmq.broker import Broker
from phpmq.client_frames import server_shapes
from phpmq.frames import (
    CONTENT,
    COUNT,
    PRODUCER,
    QUEUE,
    TAG,
    FrameDecoder,
    frame_header,
    packet,
)
from phpmq.server_frames import Versions
from phpmq.session import Session
from phpmq.store import SQLiteStore
from tests.doubles import RecordingConnection


def frame(kind: int, *packets: tuple[int, bytes]) -> bytes:
    """A frame of version 02."""
    return frame_header(2, kind, len(packets)) + b"".join(packet(number, content) for number, content in packets)


def send(body: bytes, *more: tuple[int, bytes], queue: bytes = b"q") -> bytes:
    """A send."""
    return frame(1, (QUEUE, queue), (CONTENT, body), *more)


def consume(count: int, *more: tuple[int, bytes]) -> bytes:
    """A consume of the queue q."""
    return frame(2, (QUEUE, b"q"), (COUNT, b"%d" % count), *more)


def hello(tag: bytes, producer: bytes) -> bytes:
    """A hello of a producer."""
    return frame(10, (TAG, tag), (PRODUCER, producer))


class FileMirror:
    """A mirror that writes when the test says so."""

    failing = False

    def __init__(self, store: SQLiteStore) -> None:
        self._store = store
        self.syncs_wanted = 0
        self.synced: Callable[[], object] = lambda: None

    def sync_soon(self) -> None:
        """Count it."""
        self.syncs_wanted += 1

    def write(self) -> None:
        """All is in the file."""
        delta = self._store.changelog.extract(10_000, 1 << 20, {})
        if delta is not None:
            self._store.changelog.confirm(delta)
        self.synced()


class Peer:
    """One end of a conversation."""

    def __init__(self, broker: Broker) -> None:
        self.connection = RecordingConnection()
        self.session = Session(broker, Versions(), self.connection)
        self._decoder = FrameDecoder(server_shapes())

    def says(self, *frames: bytes) -> list[tuple[str, list[bytes]]]:
        """What the server answers."""
        self.session.receive(b"".join(frames))
        return self.hears()

    def hears(self) -> list[tuple[str, list[bytes]]]:
        """What the server sent since the last time."""
        self._decoder.receive(b"".join(self.connection.writes))
        self.connection.writes.clear()
        return [(shape.name, contents) for shape, _, contents in self._decoder.frames()]

    def gets(self) -> list[bytes]:
        """The bodies of the deliveries among that."""
        return [contents[1] for name, contents in self.hears() if name == "deliver"]


class ConversationTestCase(SynchronousTestCase):
    """A client, with the real broker and store."""

    def setUp(self) -> None:
        self.now = 1_000_000
        self.store = SQLiteStore()
        self.broker = Broker(self.store, lambda: self.now)
        self.peer = Peer(self.broker)

    def mirrored(self) -> FileMirror:
        """Give the broker a mirror."""
        mirror = FileMirror(self.store)
        mirror.synced = self.broker.synced
        self.broker.confirms.mirror = mirror  # type: ignore[assignment]
        return mirror
