"""Tests of L{phpmq.broker.confirms}."""

from __future__ import annotations

from phpmq.frames import ID, KEY, LEVEL, TAG
from tests.version02 import ConversationTestCase, Peer, consume, frame, hello, send


class ReceiptsTests(ConversationTestCase):
    """What a receipt waits for."""

    def test_synced(self) -> None:
        """A synced receipt comes when the file has the message, not before; that of a stored one comes at once."""
        [(_, contents)] = self.peer.says(send(b"x", (LEVEL, b"synced"), (TAG, b"0")))
        self.assertEqual(contents[0], b"not-allowed")
        mirror = self.mirrored()
        answers = self.peer.says(send(b"x", (LEVEL, b"synced"), (TAG, b"1")), send(b"y", (LEVEL, b"stored"), (TAG, b"2")))
        self.assertEqual([contents[0] for _, contents in answers], [b"2"])
        self.assertEqual(mirror.syncs_wanted, 1)
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

    def synced(self, *numbers: int) -> list[bytes]:
        """Tags of the receipts for sends that have to be synced, with those tags."""
        frames = [send(b"%d" % number, (LEVEL, b"synced"), (TAG, b"%d" % number)) for number in numbers]
        return self.tags(self.peer.says(*frames))

    def tags(self, answers: list[tuple[str, list[bytes]]]) -> list[bytes]:
        """Tags of receipts; there are no other answers."""
        self.assertEqual({name for name, _ in answers} - {"receipt"}, set())
        return [contents[0] for _, contents in answers]

    def test_limit(self) -> None:
        """At so many unconfirmed sends of a connection the next one waits, with all after it, for the receipts; nothing is lost."""
        mirror = self.mirrored()
        self.broker.confirms.limit = 3
        other = Peer(self.broker)
        self.assertEqual(self.synced(1, 2, 3), [])
        self.assertTrue(self.peer.connection.reading)
        self.assertEqual(self.tags(self.peer.says(send(b"x", (TAG, b"s")))), [b"s"])
        self.assertEqual(self.synced(4, 5, 6, 7), [])
        self.assertEqual(self.peer.says(send(b"y", (TAG, b"t"))), [])
        self.assertFalse(self.peer.connection.reading)
        self.assertEqual((self.broker.lifecycle.received, self.broker.confirms.unconfirmed, self.broker.confirms.blocked), (4, 3, 1))
        self.assertEqual(self.tags(other.says(send(b"z", (TAG, b"o")))), [b"o"])
        mirror.write()
        self.assertEqual(self.tags(self.peer.hears()), [b"1", b"2", b"3"])
        self.assertFalse(self.peer.connection.reading)
        self.assertEqual(self.broker.lifecycle.received, 8)
        mirror.write()
        self.assertEqual(self.tags(self.peer.hears()), [b"4", b"5", b"6", b"t"])
        self.assertTrue(self.peer.connection.reading)
        mirror.write()
        self.assertEqual(self.tags(self.peer.hears()), [b"7"])
        self.peer.session.receive(consume(99))
        self.assertEqual(self.peer.gets(), [b"1", b"2", b"3", b"x", b"z", b"4", b"5", b"6", b"7", b"y"])

    def test_limit_of_duplicates(self) -> None:
        """A duplicate that waits for the file counts as well."""
        mirror = self.mirrored()
        self.broker.confirms.limit = 2
        self.peer.says(hello(b"h", b"me"), send(b"x", (TAG, b"1")))
        for _ in range(5):
            self.peer.says(send(b"x", (TAG, b"1"), (LEVEL, b"synced")))
        self.assertEqual(self.broker.confirms.unconfirmed, 2)
        mirror.write()
        self.assertEqual([contents[2] for _, contents in self.peer.hears()], [b"1"] * 5)

    def test_limit_and_gone(self) -> None:
        """A client that is gone leaves no receipts behind, and what it had waiting is not carried out."""
        mirror = self.mirrored()
        self.broker.confirms.limit = 1
        self.synced(1, 2, 3)
        self.peer.session.close()
        self.assertEqual(self.broker.confirms.unconfirmed, 0)
        mirror.write()
        self.assertEqual((self.peer.hears(), self.broker.lifecycle.received), ([], 1))

    def test_acknowledged(self) -> None:
        """What is acknowledged frees its memory, but its receipt still counts."""
        self.mirrored()
        self.broker.confirms.limit = 2
        self.peer.says(consume(9), *[send(b"x", (LEVEL, b"synced"), (TAG, b"%d" % number)) for number in range(2)])
        for message_id in list(self.peer.session.channel.unacked):
            self.peer.says(frame(4, (ID, message_id)))
        self.synced(3)
        self.assertEqual((self.broker.lifecycle.received, self.broker.confirms.unconfirmed), (2, 2))

    def test_drain_while_it_waits(self) -> None:
        """A stop gives the receipts of what was accepted, and accepts nothing more of what waited for them."""
        mirror = self.mirrored()
        self.broker.confirms.limit = 2
        self.synced(1, 2, 3, 4)
        self.broker.stop()
        self.peer.session.drain()
        mirror.write()
        mirror.write()
        self.assertEqual([(name, contents[0]) for name, contents in self.peer.hears()[1:]], [("receipt", b"1"), ("receipt", b"2")])
        self.assertEqual(self.broker.lifecycle.received, 2)

    def test_disk_heals(self) -> None:
        """What was accepted before the disk failed is receipted when it works again, on a key's duplicate as well; nothing before."""
        mirror = self.mirrored()
        keyed = send(b"x", (LEVEL, b"synced"), (TAG, b"1"), (KEY, b"k"))
        self.assertEqual(self.peer.says(keyed), [])
        mirror.failing = True
        delta = self.store.changelog.extract(100, 1 << 20, {})
        assert delta is not None
        self.store.changelog.restore(delta)
        [(_, contents)] = self.peer.says(keyed)
        self.assertEqual((contents[0], contents[2]), (b"disk-failing", b"1"))
        mirror.failing = False
        self.assertEqual(self.peer.says(send(b"x", (LEVEL, b"synced"), (TAG, b"2"), (KEY, b"k"))), [])
        mirror.write()
        [(_, first), (_, second)] = self.peer.hears()
        self.assertEqual((first[0], second), (b"1", [b"2", first[1], b"1"]))

    def test_one_message_more(self) -> None:
        """A write gives the receipts of exactly what it brought to the file: not that of the message accepted right after."""
        mirror = self.mirrored()
        self.assertEqual(self.synced(1), [])
        delta = self.store.changelog.extract(10_000, 1 << 20, {})
        assert delta is not None
        self.assertEqual(self.synced(2), [])
        self.store.changelog.confirm(delta)
        mirror.synced()
        self.assertEqual(self.tags(self.peer.hears()), [b"1"])
        self.assertEqual(self.broker.confirms.unconfirmed, 1)
        mirror.write()
        self.assertEqual(self.tags(self.peer.hears()), [b"2"])

    def test_slow_reader_is_unblocked(self) -> None:
        """A client that does not read its receipts is not read either when its blocked send goes on, but once it has read them."""
        mirror = self.mirrored()
        self.broker.confirms.limit = 1
        self.synced(1, 2)
        self.peer.session.pause_output()
        mirror.write()
        self.assertEqual(self.broker.lifecycle.received, 2)
        self.assertFalse(self.peer.connection.reading)
        self.peer.session.resume_output()
        self.assertTrue(self.peer.connection.reading)

    def test_reader_stays_blocked(self) -> None:
        """A client whose send is blocked is not read when it has read its receipts, but once the send goes on."""
        mirror = self.mirrored()
        self.broker.confirms.limit = 1
        self.synced(1, 2)
        self.peer.session.pause_output()
        self.peer.session.resume_output()
        self.assertFalse(self.peer.connection.reading)
        mirror.write()
        self.assertTrue(self.peer.connection.reading)

    def test_sync_is_requested(self) -> None:
        """The first send that waits asks for a sync, further ones do not; after a write those that are left ask for the next one."""
        mirror = self.mirrored()
        self.synced(1)
        self.assertEqual(mirror.syncs_wanted, 1)
        delta = self.store.changelog.extract(10_000, 1 << 20, {})
        assert delta is not None
        self.synced(2)
        Peer(self.broker).says(send(b"x", (LEVEL, b"synced"), (TAG, b"1")))
        self.assertEqual(mirror.syncs_wanted, 1)
        self.store.changelog.confirm(delta)
        mirror.synced()
        self.assertEqual(mirror.syncs_wanted, 2)
        mirror.write()
        self.assertEqual((mirror.syncs_wanted, self.broker.confirms.unconfirmed), (2, 0))
        self.synced(3)
        self.assertEqual(mirror.syncs_wanted, 3)

    def test_in_the_file_already(self) -> None:
        """The receipt of a duplicate comes at once if all that was accepted before is in the file."""
        mirror = self.mirrored()
        self.peer.says(hello(b"h", b"me"), send(b"x", (TAG, b"1"), (KEY, b"k")))
        mirror.write()
        for again in send(b"x", (TAG, b"1"), (LEVEL, b"synced")), send(b"x", (TAG, b"2"), (KEY, b"k"), (LEVEL, b"synced")):
            [(name, contents)] = self.peer.says(again)
            self.assertEqual((name, contents[2]), ("receipt", b"1"))
        self.assertEqual(mirror.syncs_wanted, 0)

    def test_duplicate_is_synced(self) -> None:
        """The receipt of a duplicate whose first send was only stored waits for the file."""
        mirror = self.mirrored()
        self.peer.says(hello(b"h", b"me"), send(b"x", (TAG, b"1")))
        self.assertEqual(self.peer.says(send(b"x", (TAG, b"1"), (LEVEL, b"synced"))), [])
        mirror.write()
        [(name, contents)] = self.peer.hears()
        self.assertEqual((name, contents[2]), ("receipt", b"1"))
