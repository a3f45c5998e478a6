"""Tests of L{phpmq.broker.producer}."""

from __future__ import annotations

from phpmq.broker import SENDS
from phpmq.frames import TAG
from tests.version02 import ConversationTestCase, Peer, consume, hello, send


class ProducerTests(ConversationTestCase):
    """Rule 17b."""

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
        self.assertEqual(self.broker.producers.by_name, {})
