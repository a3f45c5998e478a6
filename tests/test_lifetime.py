"""Tests of L{phpmq.broker.lifetime}, as far as version 01 does not show it: see also tests/test_broker.py."""

from __future__ import annotations

from phpmq.frames import DELAY, ID, LEASE, TAG
from tests.version02 import ConversationTestCase, Peer, consume, frame, send


class LifetimeTests(ConversationTestCase):
    """Rules 13 and 16."""

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
