"""Conversations in version 02, in memory."""

from __future__ import annotations

from zope.interface.verify import verifyClass

from phpmq.broker import DELIVERIES, SENDS
from phpmq.frames import (
    DELAY,
    HEADERS,
    ID,
    KEY,
    LEVEL,
    QUEUE,
    REASON,
    TAG,
    TTL,
    frame_header,
)
from phpmq.interfaces import IPeer
from phpmq.session.version02 import Version02Peer
from tests.version02 import ConversationTestCase, Peer, consume, frame, hello, send


class Version02Tests(ConversationTestCase):
    """L{Version02Peer}, with the real broker and store."""

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

    def test_headers(self) -> None:
        """Headers come back as they were sent, also from the store."""
        self.broker.pause("q", DELIVERIES)
        self.peer.says(send(b"x", (HEADERS, b'{"a": "b"}')), consume(1))
        self.store.write()
        self.broker.resume("q")
        self.broker.dispatch()
        [(_, delivery)] = self.peer.hears()
        self.assertEqual(delivery[5], b'{"a": "b"}')

    def test_slow_reader(self) -> None:
        """A client that does not read its receipts is not read either."""
        self.peer.says(send(b"x", (TAG, b"1")))
        self.peer.session.choke()
        self.assertFalse(self.peer.connection.reading)
        self.peer.session.unchoke()
        self.assertTrue(self.peer.connection.reading)
