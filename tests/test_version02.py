"""Conversations in version 02, in memory."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyClass

from phpmq.broker import DELIVERIES, SENDS, Broker
from phpmq.commands import Versions
from phpmq.frames import (
    CODE,
    CONTENT,
    COUNT,
    DELAY,
    DUPLICATE,
    HEADERS,
    ID,
    KEY,
    LEASE,
    LEVEL,
    PRODUCER,
    QUEUE,
    REASON,
    TAG,
    TTL,
    FrameDecoder,
    frame_header,
    open_shapes,
    packet,
)
from phpmq.interfaces import IPeer
from phpmq.session import Session
from phpmq.session.version02 import Version02Peer
from phpmq.store import SQLiteStore
from tests.doubles import RecordingConnection

_LIMITS = {number: 1 << 20 for number in range(20)}

#: What a server may send.
ANSWERS = {
    **open_shapes("deliver", 3, (QUEUE, CONTENT, ID, 11), (TTL, HEADERS), _LIMITS),
    **open_shapes("receipt", 7, (TAG,), (ID, DUPLICATE), _LIMITS),
    **open_shapes("refused", 8, (CODE, REASON), (TAG,), _LIMITS),
    **open_shapes("draining", 11, (REASON,), (), _LIMITS),
}


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
        self.hurries = 0
        self.synced: Callable[[], object] = lambda: None

    def hurry(self) -> None:
        """Count it."""
        self.hurries += 1

    def write(self) -> None:
        """All is in the file."""
        delta = self._store.extract(10_000, 1 << 20, {})
        if delta is not None:
            self._store.confirm(delta)
        self.synced()


class Peer:
    """One end of a conversation."""

    def __init__(self, broker: Broker) -> None:
        self.connection = RecordingConnection()
        self.session = Session(broker, Versions(), self.connection)
        self._decoder = FrameDecoder(ANSWERS)

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


class Version02Tests(SynchronousTestCase):
    """L{Version02Peer}, with the real broker and store."""

    def setUp(self) -> None:
        self.now = 1_000_000
        self.store = SQLiteStore()
        self.broker = Broker(self.store, lambda: self.now)
        self.peer = Peer(self.broker)

    def mirrored(self) -> FileMirror:
        """Give the broker a mirror."""
        mirror = FileMirror(self.store)
        mirror.synced = self.broker.synced
        self.broker.mirror = mirror  # type: ignore[assignment]
        return mirror

    def test_interface(self) -> None:
        """It provides IPeer."""
        self.assertTrue(verifyClass(IPeer, Version02Peer))

    def test_receipt(self) -> None:
        """A send with a tag is answered with the id that its delivery has."""
        [(name, (tag, message_id, duplicate))] = self.peer.says(send(b"x", (TAG, b"t1")))
        self.assertEqual((name, tag, duplicate), ("receipt", b"t1", None))
        [(_, delivery)] = self.peer.says(consume(5))
        self.assertEqual(delivery, [b"q", b"x", message_id, b"1", None, None])

    def test_every_chunk_size(self) -> None:
        """However the bytes are cut, the answers are the same."""
        data = hello(b"h", b"me") + send(b"x", (TAG, b"1"), (99, b"unknown"), (TTL, b"1.5")) + consume(3, (TAG, b"c"))
        expected = [name for name, _ in self.peer.says(data)]
        self.assertEqual(expected, ["receipt", "receipt", "receipt", "deliver"])
        for size in range(1, len(data)):
            self.setUp()
            for start in range(0, len(data), size):
                self.peer.session.receive(data[start : start + size])
            self.assertEqual([name for name, _ in self.peer.hears()], expected, size)

    def test_no_tag(self) -> None:
        """Without a tag nothing is answered."""
        self.assertEqual(self.peer.says(send(b"x"), consume(0), frame(4, (ID, b"none"))), [])
        self.assertEqual((self.broker.received, self.broker.unknown_ids), (1, 1))

    def test_settle(self) -> None:
        """Acknowledge, re-queue, dead letter and touch are answered; of an unknown id with C{unknown-id}."""
        self.peer.says(*[send(b"%d" % number) for number in range(4)], consume(4))
        ids = list(self.peer.session.channel.unacked)
        kinds = ((4, ()), (5, ((DELAY, b"60"),)), (6, ((REASON, b"why"),)), (9, ()))
        for (kind, more), message_id in zip(kinds, ids, strict=True):
            answers = self.peer.says(frame(kind, (ID, message_id), (TAG, b"t"), *more))
            self.assertEqual(answers, [("receipt", [b"t", None, None])], kind)
            [(name, (code, _, tag))] = self.peer.says(frame(kind, (ID, b"other"), (TAG, b"u"), *more))
            self.assertEqual((name, code, tag), ("refused", b"unknown-id", b"u"))
        self.assertEqual([dead.text for dead in self.store.dead()], ["why"])
        self.assertEqual((self.broker.queues["q"].delayed, self.broker.queues["q"].in_flight), (1, 1))

    def test_fatal(self) -> None:
        """What breaks the protocol is answered with a last frame that says why, and the connection closes."""
        for bad, code in (
            (b"H0200301", b"unsupported"),
            (send(b"x", (LEVEL, b"best")), b"bad-frame"),
            (send(b"x", (TTL, b"1.")), b"bad-frame"),
            (send(b"x", (HEADERS, b'{"a": 1}')), b"bad-frame"),
            (send(b"x", queue=b"\n"), b"bad-name"),
            (frame(1, (QUEUE, b"q"), (TAG, b"t")), b"bad-frame"),
            (frame_header(2, 1, 2) + b"P02%029d" % (1 << 40), b"too-large"),
            (b"H0100202", b"unsupported"),
        ):
            peer = Peer(self.broker)
            answers = peer.says(send(b"ok", (TAG, b"1")), bad)
            self.assertEqual([name for name, _ in answers], ["receipt", "refused"], bad)
            self.assertEqual((answers[1][1][0], answers[1][1][2]), (code, None))
            self.assertEqual(len(peer.connection.errors), 1)

    def test_refused(self) -> None:
        """A send with a tag that cannot be done is refused, and the conversation goes on; without one it waits."""
        [(_, contents)] = self.peer.says(send(b"x", (TAG, b"1"), queue=b"\n"))
        self.assertEqual((contents[0], contents[2]), (b"bad-name", b"1"))
        self.broker.pause("q", SENDS)
        [(_, contents)] = self.peer.says(send(b"x", (TAG, b"2")))
        self.assertEqual((contents[0], contents[2]), (b"queue-full", b"2"))
        self.broker.memory_limit = 0
        [(_, contents)] = self.peer.says(send(b"x", (TAG, b"3")))
        self.assertEqual((contents[0], contents[2]), (b"memory-full", b"3"))
        self.assertEqual(self.peer.says(send(b"y")), [])
        self.assertFalse(self.peer.connection.reading)

    def test_synced(self) -> None:
        """A synced receipt comes when the file has the message, not before; that of a stored one comes at once."""
        [(_, contents)] = self.peer.says(send(b"x", (LEVEL, b"synced"), (TAG, b"0")))
        self.assertEqual(contents[0], b"not-allowed")
        mirror = self.mirrored()
        answers = self.peer.says(send(b"x", (LEVEL, b"synced"), (TAG, b"1")), send(b"y", (LEVEL, b"stored"), (TAG, b"2")))
        self.assertEqual([contents[0] for _, contents in answers], [b"2"])
        self.assertEqual(mirror.hurries, 1)
        mirror.write()
        self.assertEqual([contents[0] for _, contents in self.peer.hears()], [b"1"])
        mirror.failing = True
        [(_, contents)] = self.peer.says(send(b"z", (LEVEL, b"synced"), (TAG, b"3")))
        self.assertEqual(contents[0], b"disk-failing")

    def test_synced_and_gone(self) -> None:
        """A synced send whose message was acknowledged before it was ever written gets its receipt too."""
        mirror = self.mirrored()
        self.peer.says(consume(1), send(b"x", (LEVEL, b"synced"), (TAG, b"1")))
        [message_id] = self.peer.session.channel.unacked
        self.peer.says(frame(4, (ID, message_id)))
        mirror.write()
        self.assertEqual([name for name, _ in self.peer.hears()], ["receipt"])

    def test_producer(self) -> None:
        """A number that was accepted before is a duplicate, also on another connection; that one takes the name over."""
        self.peer.says(hello(b"h", b"me"), send(b"1", (TAG, b"1")), send(b"2", (TAG, b"2")))
        other = Peer(self.broker)
        answers = other.says(hello(b"h", b"me"), send(b"2", (TAG, b"2")), send(b"3", (TAG, b"3")))
        self.assertEqual([contents[2] for _, contents in answers], [None, b"1", None])
        self.assertEqual([contents[0] for _, contents in self.peer.hears()], [b"not-allowed"])
        self.assertEqual(len(self.peer.connection.errors), 1)
        other.session.receive(consume(9))
        self.assertEqual(other.gets(), [b"1", b"2", b"3"])

    def test_producer_refused(self) -> None:
        """After a refusal all is refused until the next hello, so that a retry in order loses and doubles nothing."""
        self.broker.pause("full", SENDS)
        self.peer.says(hello(b"h", b"me"))
        answers = self.peer.says(send(b"1", (TAG, b"1"), queue=b"full"), send(b"2", (TAG, b"2")))
        self.assertEqual([contents[0] for _, contents in answers], [b"queue-full", b"queue-full"])
        self.broker.resume("full")
        answers = self.peer.says(hello(b"h", b"me"), send(b"1", (TAG, b"1"), queue=b"full"), send(b"2", (TAG, b"2")))
        self.assertEqual([(name, contents[2]) for name, contents in answers], [("receipt", None)] * 3)

    def test_ping_after_refusal(self) -> None:
        """A hello without a name is just a ping: after a refusal all is refused until the one with the name."""
        self.broker.pause("full", SENDS)
        self.peer.says(hello(b"h", b"me"))
        answers = self.peer.says(
            send(b"1", (TAG, b"1"), queue=b"full"), send(b"2", (TAG, b"2")), frame(10, (TAG, b"p")), send(b"3", (TAG, b"3"))
        )
        self.assertEqual([name for name, _ in answers], ["refused", "refused", "receipt", "refused"])
        answers = self.peer.says(hello(b"h", b"me"), send(b"2", (TAG, b"2")), send(b"3", (TAG, b"3")))
        self.assertEqual([(name, contents[2]) for name, contents in answers], [("receipt", None)] * 3)

    def test_refused_hello(self) -> None:
        """A hello that is refused changes nothing: what was refused before still is."""
        self.broker.pause("full", SENDS)
        self.peer.says(hello(b"h", b"me"), send(b"1", (TAG, b"1"), queue=b"full"))
        self.broker.memory_limit = 0
        [(_, contents)] = self.peer.says(hello(b"h", b"other"))
        self.assertEqual(contents[0], b"memory-full")
        self.broker.memory_limit = 1 << 30
        [(name, contents)] = self.peer.says(send(b"2", (TAG, b"2")))
        self.assertEqual((name, contents[0]), ("refused", b"queue-full"))

    def test_retry_and_requeue(self) -> None:
        """A retry is receipted once the file has its message, whatever was re-queued since: nobody waits for another message."""
        mirror = self.mirrored()
        self.peer.says(hello(b"h", b"me"), consume(1), send(b"x", (LEVEL, b"synced"), (TAG, b"1")))
        [message_id] = self.peer.session.channel.unacked
        self.peer.says(frame(5, (ID, message_id)))
        other = Peer(self.broker)
        self.assertEqual(len(other.says(hello(b"h", b"me"), send(b"x", (LEVEL, b"synced"), (TAG, b"1")))), 1)
        mirror.write()
        self.assertEqual([contents[0] for _, contents in other.hears()], [b"1"])
        hurries = mirror.hurries
        mirror.write()
        self.assertEqual(mirror.hurries, hurries)

    def test_producer_is_mirrored(self) -> None:
        """The number gets to the file in the same delta as its message; it is forgotten when it was not used for long."""
        self.peer.says(hello(b"h", b"me"), send(b"x", (TAG, b"7")))
        delta = self.store.extract(100, 1 << 20, {})
        assert delta is not None
        self.assertIn(b"me", delta.image)
        self.store.confirm(delta)
        self.peer.session.close()
        self.now += 86_400_001
        self.broker.sweep()
        self.assertEqual(self.broker.producers, {})

    def test_key(self) -> None:
        """While a message with that key is in the queue, another one is a duplicate of it, gathered, written or in flight."""
        [(_, (_, first, _))] = self.peer.says(send(b"x", (KEY, b"k"), (TAG, b"1")))
        for again in range(3):
            answers = self.peer.says(send(b"y", (KEY, b"k"), (TAG, b"2")))
            self.assertEqual(answers, [("receipt", [b"2", first, b"1"])], again)
            if again == 0:
                self.store.write()
            elif again == 1:
                self.peer.says(consume(1))
        self.peer.says(frame(4, (ID, first)), consume(0))
        [(_, (_, second, duplicate))] = self.peer.says(send(b"z", (KEY, b"k"), (TAG, b"3")))
        self.assertEqual((second != first, duplicate), (True, None))

    def test_delay(self) -> None:
        """Delayed messages come when they are due, in that order, behind what was ready before."""
        self.peer.says(send(b"late", (DELAY, b"2")), send(b"soon", (DELAY, b"0.5")), send(b"now"), consume(0))
        self.assertEqual((self.broker.queues["q"].delayed, self.broker.queues["q"].ready), (2, 1))
        self.peer.session.receive(consume(9))
        self.assertEqual(self.peer.gets(), [b"now"])
        for step, expected in (499, []), (1, [b"soon"]), (1499, []), (1, [b"late"]):
            self.now += step
            self.broker.tick()
            self.assertEqual(self.peer.gets(), expected)

    def test_flush_delayed(self) -> None:
        """Flush removes delayed messages; one that is sent afterwards stays."""
        used = self.broker.used
        self.peer.says(send(b"x", (DELAY, b"1")), send(b"y"))
        self.assertEqual(self.broker.flush("q"), (2, 0))
        self.peer.says(send(b"z", (DELAY, b"1")))
        self.broker.dispatch()
        self.now += 1000
        self.broker.tick()
        self.peer.session.receive(consume(9))
        self.assertEqual(self.peer.gets(), [b"z"])
        [message_id] = self.peer.session.channel.unacked
        self.peer.says(frame(4, (ID, message_id)), consume(0))
        self.assertEqual(self.broker.used, used)

    def test_lease(self) -> None:
        """What is held longer than the lease is somebody else's; touch starts it again."""
        other = Peer(self.broker)
        self.peer.says(send(b"x"), consume(1, (LEASE, b"1")))
        [message_id] = self.peer.session.channel.unacked
        other.says(consume(1))
        self.now += 900
        self.peer.says(frame(9, (ID, message_id)))
        self.now += 900
        self.broker.tick()
        self.assertEqual(other.gets(), [])
        self.now += 100
        self.broker.tick()
        self.assertEqual(other.gets(), [b"x"])
        [(_, (code, _, _))] = self.peer.says(frame(4, (ID, message_id), (TAG, b"1")))
        self.assertEqual(code, b"unknown-id")

    def test_headers(self) -> None:
        """Headers come back as they were sent, also from the store."""
        self.broker.pause("q", DELIVERIES)
        self.peer.says(send(b"x", (HEADERS, b'{"a": "b"}')), consume(1))
        self.store.write()
        self.broker.resume("q")
        self.broker.dispatch()
        [(_, delivery)] = self.peer.hears()
        self.assertEqual(delivery[5], b'{"a": "b"}')

    def test_drain(self) -> None:
        """When the server stops, it says so, and receipts still come once the file is written."""
        mirror = self.mirrored()
        self.peer.says(send(b"x", (LEVEL, b"synced"), (TAG, b"1")))
        self.broker.stop()
        self.peer.session.drain()
        mirror.write()
        self.assertEqual([name for name, _ in self.peer.hears()], ["draining", "receipt"])

    def test_slow_reader(self) -> None:
        """A client that does not read its receipts is not read either."""
        self.peer.says(send(b"x", (TAG, b"1")))
        self.peer.session.choke()
        self.assertFalse(self.peer.connection.reading)
        self.peer.session.unchoke()
        self.assertTrue(self.peer.connection.reading)
