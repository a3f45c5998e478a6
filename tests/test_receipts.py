"""Tests of L{phpmq.broker.receipts}."""

from __future__ import annotations

from phpmq.frames import ID, LEVEL, TAG
from tests.version02 import ConversationTestCase, consume, frame, send


class ReceiptsTests(ConversationTestCase):
    """What a receipt waits for."""

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

    def test_drain(self) -> None:
        """When the server stops, it says so, and receipts still come once the file is written."""
        mirror = self.mirrored()
        self.peer.says(send(b"x", (LEVEL, b"synced"), (TAG, b"1")))
        self.broker.stop()
        self.peer.session.drain()
        mirror.write()
        self.assertEqual([name for name, _ in self.peer.hears()], ["draining", "receipt"])
