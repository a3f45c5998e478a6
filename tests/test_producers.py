"""Tests of L{phpmq.broker.producers}."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

from phpmq.broker import SENDS, Broker
from phpmq.broker.producers import PRODUCER_OVERHEAD
from phpmq.frames import COUNT, ID, KEY, LEVEL, QUEUE, TAG
from phpmq.mirror import StoreFile
from phpmq.store import SQLiteStore
from tests.doubles import RecordingPeer
from tests.version02 import ConversationTestCase, Peer, consume, frame, hello, send


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
        self.broker.queues.pause("full", SENDS)
        self.peer.says(hello(b"h", b"me"))
        answers = self.peer.says(send(b"1", (TAG, b"1"), queue=b"full"), send(b"2", (TAG, b"2")))
        self.assertEqual([contents[0] for _, contents in answers], [b"queue-full", b"queue-full"])
        self.broker.queues.resume("full")
        answers = self.peer.says(hello(b"h", b"me"), send(b"1", (TAG, b"1"), queue=b"full"), send(b"2", (TAG, b"2")))
        self.assertEqual([(name, contents[2]) for name, contents in answers], [("receipt", None)] * 3)

    def test_producer_is_mirrored(self) -> None:
        """The number gets to the file in the same delta as its message; it is forgotten when it was not used for long."""
        self.peer.says(hello(b"h", b"me"), send(b"x", (TAG, b"7")))
        delta = self.store.changelog.extract(100, 1 << 20, {})
        assert delta is not None
        self.assertIn(b"me", delta.image)
        self.store.changelog.confirm(delta)
        self.peer.session.close()
        self.now += 86_400_001
        self.broker.sweep()
        self.assertEqual(self.broker.producers.by_name, {})

    def receipts(self, answers: list[tuple[str, list[bytes]]]) -> list[tuple[bytes, bool]]:
        """Tags of receipts, and whether each was of a duplicate; there are no other answers."""
        self.assertEqual({name for name, _ in answers} - {"receipt"}, set(), answers)
        return [(contents[0], contents[2] is not None) for _, contents in answers]

    def refusals(self, answers: list[tuple[str, list[bytes]]]) -> list[tuple[bytes, bytes]]:
        """Codes and tags of refusals; there are no other answers."""
        self.assertEqual({name for name, _ in answers} - {"refused"}, set(), answers)
        return [(contents[0], contents[2]) for _, contents in answers]

    def test_refused_within_a_burst(self) -> None:
        """From the first refusal on all is refused, with its code; what was accepted before still gets its receipts from the disk."""
        mirror = self.mirrored()
        synced = (LEVEL, b"synced")
        for queue, code in (b"\n", b"bad-name"), (b"full", b"queue-full"):
            self.broker.queues.pause("full", SENDS)
            self.peer.says(hello(b"h", b"me-" + code))
            burst = [send(b"%d" % number, (TAG, b"%d" % number), synced) for number in range(1, 8)]
            burst[3] = send(b"4", (TAG, b"4"), synced, queue=queue)
            burst[5] = send(b"6", (TAG, b"6"), synced, queue=b"\n")
            answers = self.peer.says(*burst, send(b"again", (TAG, b"1")), frame(10, (TAG, b"ping")), send(b"8", (TAG, b"8")))
            expected = [(code, b"%d" % number) for number in (4, 5, 6, 7, 1, 8)]
            self.assertEqual(self.refusals([answer for answer in answers if answer[1][0] != b"ping"]), expected)
            mirror.write()
            self.assertEqual(self.receipts(self.peer.hears()), [(b"1", False), (b"2", False), (b"3", False)])
            self.assertEqual(self.refusals(self.peer.says(send(b"9", (TAG, b"9")))), [(code, b"9")])
            self.broker.queues.resume("full")
            repeated = [send(b"%d" % number, (TAG, b"%d" % number), synced) for number in range(4, 9)]
            self.assertEqual(self.receipts(self.peer.says(hello(b"h", b"me-" + code), *repeated)), [(b"h", False)])
            mirror.write()
            self.assertEqual(self.receipts(self.peer.hears()), [(b"%d" % number, False) for number in range(4, 9)])
        self.peer.session.receive(consume(99))
        self.assertEqual(self.peer.gets(), [b"%d" % number for number in range(1, 9)] * 2)

    def test_refusal_holds_nothing(self) -> None:
        """However often it is repeated, a refusal keeps neither bodies nor calls alive."""
        self.broker.queues.pause("q", SENDS)
        self.peer.says(hello(b"h", b"me"), *[send(b"x", (TAG, b"%d" % number)) for number in range(5)])
        refusal = next(iter(self.broker.lifecycle.channels)).refusal  # type: ignore[attr-defined]
        assert refusal is not None
        self.assertIsNone(refusal.__traceback__)

    def test_refused_hello(self) -> None:
        """If there is no room for a new producer, its sends are refused too: they must not be stored as if they had no numbers."""
        limit, self.broker.memory.limit = self.broker.memory.limit, 0
        peer = Peer(self.broker)
        answers = peer.says(hello(b"h", b"me"))
        self.broker.memory.limit = limit
        answers += peer.says(send(b"1", (TAG, b"1")), send(b"2", (TAG, b"2")))
        self.assertEqual(self.refusals(answers), [(b"memory-full", tag) for tag in (b"h", b"1", b"2")])
        answers = peer.says(hello(b"h", b"me"), *[send(b"1", (TAG, b"1"))] * 2)
        self.assertEqual(self.receipts(answers), [(b"h", False), (b"1", False), (b"1", True)])

    def test_takeover_within_a_burst(self) -> None:
        """What the first connection sent behind the takeover is not carried out, neither what waited nor what comes."""
        self.peer.says(hello(b"h", b"me"), send(b"1", (TAG, b"1")))
        self.broker.queues.pause("full", SENDS)
        self.peer.says(send(b"waits", queue=b"full"), send(b"2", (TAG, b"2")), send(b"3", (TAG, b"3")))
        other = Peer(self.broker)
        self.assertEqual(self.receipts(other.says(hello(b"h", b"me"), send(b"2", (TAG, b"2")))), [(b"h", False), (b"2", False)])
        self.broker.queues.resume("full")
        self.broker.dispatch()
        self.peer.session.receive(send(b"4", (TAG, b"4")))
        self.assertEqual(self.refusals(self.peer.hears()), [(b"not-allowed", None)])
        self.assertEqual(self.receipts(other.says(send(b"3", (TAG, b"3")))), [(b"3", False)])
        other.session.receive(consume(9))
        self.assertEqual(other.gets(), [b"1", b"2", b"3"])

    def test_takeover_of_unconfirmed(self) -> None:
        """The receipts that the first connection waited for are lost with it; the second one's duplicates get theirs from the disk."""
        mirror = self.mirrored()
        burst = [send(b"x", (TAG, b"%d" % number), (LEVEL, b"synced")) for number in range(1, 4)]
        self.assertEqual(self.receipts(self.peer.says(hello(b"h", b"me"), *burst)), [(b"h", False)])
        other = Peer(self.broker)
        self.assertEqual(self.receipts(other.says(hello(b"h", b"me"), *burst)), [(b"h", False)])
        self.peer.hears()
        mirror.write()
        self.assertEqual(self.receipts(other.hears()), [(b"1", True), (b"2", True), (b"3", True)])
        self.assertEqual((self.peer.hears(), self.broker.lifecycle.received), ([], 3))

    def test_synced_duplicate(self) -> None:
        """A synced duplicate waits for the message that it repeats and no longer, whatever else got a place in a queue meanwhile."""
        mirror = self.mirrored()
        self.peer.says(hello(b"h", b"me"), send(b"x", (TAG, b"1")), consume(1))
        [message_id] = self.peer.session.channel.unacked
        self.peer.says(frame(5, (ID, message_id)))
        self.assertEqual(self.peer.says(send(b"x", (TAG, b"1"), (LEVEL, b"synced"))), [])
        mirror.write()
        self.assertEqual(self.receipts(self.peer.hears()), [(b"1", True)])
        self.assertEqual(self.receipts(self.peer.says(send(b"x", (TAG, b"1"), (LEVEL, b"synced")))), [(b"1", True)])

    def test_duplicate_by_key(self) -> None:
        """A number whose send was a duplicate by its key is done with: repeated when the key is free, it stores nothing."""
        self.peer.says(send(b"x", (KEY, b"k")), consume(1))
        [message_id] = self.peer.session.channel.unacked
        self.peer.says(hello(b"h", b"me"))
        numbered = send(b"y", (KEY, b"k"), (TAG, b"5"))
        self.assertEqual(self.peer.says(numbered), [("receipt", [b"5", message_id, b"1"])])
        self.peer.says(frame(4, (ID, message_id)))
        self.now += 3_600_000
        self.broker.sweep()
        self.assertEqual(self.peer.says(numbered), [("receipt", [b"5", None, b"1"])])
        self.assertEqual(self.broker.lifecycle.received, 1)

    def test_duplicate_by_key_is_mirrored(self) -> None:
        """That number gets to the file with what was accepted before it, and without anything new as well."""
        self.peer.says(hello(b"h", b"me"), send(b"x", (KEY, b"k")))
        for number in 0, 6:
            self.peer.says(send(b"y", (KEY, b"k"), (TAG, b"%d" % number)))
            delta = self.store.changelog.extract(100, 1 << 20, {})
            assert delta is not None
            with closing(sqlite3.connect(":memory:")) as image:
                image.deserialize(delta.image)
                self.assertEqual(image.execute("SELECT name, number FROM producer").fetchall(), [(b"me", number)])
                self.assertEqual(image.execute("SELECT count(*) FROM message").fetchall(), [(0 if number else 1,)])
            self.store.changelog.confirm(delta)
            self.assertEqual(self.store.changelog.pending, 0)

    def test_number_of_a_duplicate_is_mirrored(self) -> None:
        """The number of a duplicate by its key, which adds no message, gets to the file also if that is being written, or was not."""
        self.peer.says(hello(b"h", b"me"), send(b"x", (TAG, b"1"), (KEY, b"k")))
        for number, is_written in (2, True), (3, False):
            delta = self.store.changelog.extract(100, 1 << 20, {})
            assert delta is not None
            self.assertEqual(self.receipts(self.peer.says(send(b"x", (TAG, b"%d" % number), (KEY, b"k")))), [(b"%d" % number, True)])
            self.store.write()
            (self.store.changelog.confirm if is_written else self.store.changelog.restore)(delta)
            self.assertGreater(self.store.changelog.pending, 0)
        numbers = []
        while (delta := self.store.changelog.extract(1, 1, {})) is not None:
            with closing(sqlite3.connect(":memory:")) as image:
                image.deserialize(delta.image)
                numbers += [number for (number,) in image.execute("SELECT number FROM producer WHERE name = ?", (b"me",))]
            self.store.changelog.confirm(delta)
        self.assertEqual(numbers[-1], 3)

    def test_numbers(self) -> None:
        """A producer's numbers are up to 18 digits; untagged sends have none; other requests' tags are just tags."""
        top = b"9" * 18
        answers = self.peer.says(hello(b"h", b"me"), send(b"1", (TAG, b"007")), send(b"2", (TAG, b"7")), send(b"3"), send(b"4", (TAG, top)))
        self.assertEqual(self.receipts(answers), [(b"h", False), (b"007", False), (b"7", True), (top, False)])
        self.assertEqual(self.receipts(self.peer.says(frame(2, (QUEUE, b"other"), (COUNT, b"1"), (TAG, b"c")))), [(b"c", False)])
        self.assertEqual(self.broker.lifecycle.received, 3)
        for bad in b"", b"x", b"-1", b"1.0", b"1" * 19, b"\xb2":
            peer = Peer(self.broker)
            self.assertEqual(self.refusals(peer.says(hello(b"h", b"you"), send(b"x", (TAG, bad)))[1:]), [(b"bad-frame", None)], bad)
        self.assertEqual(self.refusals(Peer(self.broker).says(hello(b"h", b""))), [(b"bad-frame", None)])

    def test_other_name(self) -> None:
        """A connection may go on as another producer; who never sent anything leaves nothing behind."""
        used = self.broker.memory.used
        self.peer.says(hello(b"h", b"one"), hello(b"h", b"two"), send(b"x", (TAG, b"1"), queue=b"\n"), hello(b"h", b"three"))
        self.assertEqual(list(self.broker.producers.by_name), [("", b"three")])
        self.peer.session.close()
        self.assertEqual((self.broker.producers.by_name, self.broker.memory.used), ({}, used))

    def test_end_of_both(self) -> None:
        """A peer in this process may close the channel that takes its name over: nothing is left of the producer."""
        first, second = RecordingPeer(self.broker), RecordingPeer(self.broker)
        first.channel.hello(b"h", b"me")
        first.superseded = second.channel.close  # type: ignore[method-assign]
        second.channel.hello(b"h", b"me")
        self.assertEqual((second.channel.producer, self.broker.producers.by_name), (None, {}))

    def test_restart(self) -> None:
        """Number and message come back together: what is in the file is a duplicate, the rest is stored."""
        directory = self.mktemp()
        os.mkdir(directory)
        file = StoreFile(os.path.join(directory, "phpmq.db"))
        store = SQLiteStore(file.open()[0])
        peer = Peer(Broker(store, lambda: self.now))
        peer.says(hello(b"h", b"me"), send(b"1", (TAG, b"1")), send(b"2", (TAG, b"2"), (KEY, b"k")))
        delta = store.changelog.extract(100, 1 << 20, {})
        assert delta is not None
        file.apply(delta)
        store.changelog.confirm(delta)
        peer.says(send(b"3", (TAG, b"3")), send(b"4", (KEY, b"other")))
        file.close()
        file = StoreFile(file.path)
        self.addCleanup(file.close)
        peer = Peer(Broker(SQLiteStore(file.open()[0]), lambda: self.now))
        answers = peer.says(hello(b"h", b"me"), *[send(b"%d" % number, (TAG, b"%d" % number)) for number in (1, 2, 3)])
        self.assertEqual(self.receipts(answers), [(b"h", False), (b"1", True), (b"2", True), (b"3", False)])
        self.assertEqual(self.receipts(peer.says(send(b"k", (TAG, b"4"), (KEY, b"k")))), [(b"4", True)])
        peer.session.receive(consume(9))
        self.assertEqual(peer.gets(), [b"1", b"2", b"3"])

    def test_forgotten_in_the_file(self) -> None:
        """A producer that was not used for long is forgotten by the store, too, and uses no memory; one that is connected is not."""
        self.peer.says(hello(b"h", b"me"), send(b"x", (TAG, b"7")), send(b"y"))
        used = self.broker.memory.used
        self.now += 86_400_001
        self.broker.sweep()
        self.assertEqual([name for _, name in self.broker.producers.by_name], [b"me"])
        self.peer.session.close()
        for passes, left in (59_999, [b"me"]), (1, []):
            self.now += passes
            self.broker.sweep()
            self.assertEqual([name for _, name in self.broker.producers.by_name], left)
        self.assertEqual(self.broker.memory.used, used - PRODUCER_OVERHEAD)
        delta = self.store.changelog.extract(100, 1 << 20, {})
        assert delta is not None
        self.assertEqual((delta.producers, delta.gone_producers), ({}, {b"me"}))

    def test_retry_of_a_duplicate(self) -> None:
        """A send that was a duplicate by its key stays one by its number, also when the key is free again."""
        self.peer.says(send(b"x", (KEY, b"k")), hello(b"h", b"me"))
        self.assertEqual(self.receipts(self.peer.says(send(b"x", (TAG, b"5"), (KEY, b"k")))), [(b"5", True)])
        self.broker.queues.flush("q")
        self.broker.keys.forget("q")
        self.broker.dispatch()
        self.assertEqual(self.receipts(self.peer.says(send(b"x", (TAG, b"5"), (KEY, b"k")))), [(b"5", True)])
        self.assertEqual(self.receipts(self.peer.says(send(b"x", (TAG, b"6"), (KEY, b"k")))), [(b"6", False)])

    def test_superseded_and_gone(self) -> None:
        """The connection that was superseded says goodbye later: the other one goes on as the producer."""
        self.peer.says(hello(b"h", b"me"), send(b"1", (TAG, b"1")))
        other = Peer(self.broker)
        other.says(hello(b"h", b"me"))
        self.peer.session.close()
        self.now += 2 * 86_400_000
        self.broker.sweep()
        self.assertEqual(self.receipts(other.says(send(b"1", (TAG, b"1")), send(b"2", (TAG, b"2")))), [(b"1", True), (b"2", False)])

    def test_restart_with_any_name(self) -> None:
        """A name may have any bytes: a file that has it as it is, as all had before producers had users, brings it back."""
        names = b"me", b"a\0b", b"\0", b"\0a\0b", b"\0\0x", b"\xff\0\xfe", bytes(64)
        for name in names:
            self.peer.says(hello(b"h", name), send(b"x", (TAG, b"7")))
        delta = self.store.changelog.extract(100, 1 << 20, {})
        assert delta is not None
        with closing(sqlite3.connect(":memory:")) as image:
            image.deserialize(delta.image)
            self.assertEqual({name for (name,) in image.execute("SELECT name FROM producer")}, set(names))
        self.store.producers = lambda: [(name, 7, self.now) for name in names]  # type: ignore[method-assign]
        peer = Peer(Broker(self.store, lambda: self.now))
        for name in names:
            answers = peer.says(hello(b"h", name), send(b"x", (TAG, b"7")))
            self.assertEqual(self.receipts(answers), [(b"h", False), (b"7", True)], name)

    def test_restart_with_users(self) -> None:
        """The producers of two users with the same name are two, also after a restart, and neither is one without a user."""
        broker, names = Broker(self.store, lambda: self.now), (("", b"n"), ("u", b"n"), ("\u00fc", b"n\0"), ("", b"u\0n"))
        for number, (user, name) in enumerate(names):
            broker.producers.accepted(broker.producers.get(user, name), number)
        delta = self.store.changelog.extract(100, 1 << 20, {})
        assert delta is not None
        with closing(sqlite3.connect(":memory:")) as image:
            image.deserialize(delta.image)
            rows = image.execute("SELECT name, number, used FROM producer").fetchall()
        self.store.producers = lambda: rows  # type: ignore[method-assign]
        found = Broker(self.store, lambda: self.now).producers.by_name
        self.assertEqual({key: producer.number for key, producer in found.items()}, {key: number for number, key in enumerate(names)})
