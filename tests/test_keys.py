"""Tests of L{phpmq.broker.keys}."""

from __future__ import annotations

import os
import shutil

from phpmq.broker import Broker, keys
from phpmq.frames import DELAY, ID, KEY, LEVEL, TAG, TTL
from phpmq.message import DEFAULT_SETTINGS, KEY_OVERHEAD, QueueSettings
from phpmq.mirror import StoreFile
from phpmq.store import SQLiteStore
from tests import wire
from tests.version02 import ConversationTestCase, Peer, consume, frame, send

#: Milliseconds of the default window.
WINDOW = int(DEFAULT_SETTINGS.dedup * 1000)


class KeyTestCase(ConversationTestCase):
    """A client that sends with keys."""

    def sends(self, key: bytes = b"k", *more: tuple[int, bytes], queue: bytes = b"q") -> tuple[bytes, bool]:
        """Send a message with a key: the id of its receipt, and whether it is a duplicate."""
        answers = self.peer.says(send(b"x", (KEY, key), *more, (TAG, b"t"), queue=queue))
        (contents,) = (contents for name, contents in answers if name == "receipt")
        return contents[1], contents[2] is not None

    def holds(self) -> bytes:
        """Consume what waits, which is one message: its id."""
        self.peer.says(consume(9))
        (message_id,) = self.peer.session.channel.unacked
        return bytes(message_id)

    def check_known_until(self, first: bytes, end: int) -> None:
        """The key is known until a moment and no longer, with sweeps and without."""
        self.peer.says(consume(0))
        self.now = end - 1
        self.assertEqual(self.sends(), (first, True))
        self.broker.sweep()
        self.assertEqual(self.sends(), (first, True))
        self.now = end
        second, duplicate = self.sends()
        self.assertEqual((second != first, duplicate), (True, False))
        self.broker.sweep()
        self.assertEqual((self.broker.keys.count, self.sends()), (1, (second, True)))


class WindowTests(KeyTestCase):
    """Rule 17: what becomes of a key, whatever becomes of its message."""

    def setUp(self) -> None:
        super().setUp()
        self.end = self.now + WINDOW

    def test_acknowledged(self) -> None:
        """It is known until its window, which began with the acceptance, is over."""
        first, _ = self.sends()
        self.now += 1000
        self.peer.says(frame(4, (ID, self.holds())))
        self.check_known_until(first, self.end)

    def test_waits(self) -> None:
        """While the message is in the queue its key is known, however long that is; when it is settled later, the key is free at once."""
        first, _ = self.sends()
        self.now = self.end + 1
        self.assertTrue(self.broker.sweep())
        self.assertEqual((self.broker.keys.count, self.sends()), (0, (first, True)))
        self.assertEqual((self.holds(), self.sends()), (first, (first, True)))
        self.peer.says(frame(4, (ID, first)), consume(0))
        self.assertEqual((self.broker.queues, self.broker.memory.used), ({}, 0))
        self.assertFalse(self.sends()[1])

    def test_requeued(self) -> None:
        """A re-queue and a delay change nothing: the message is in the queue, and the window began with its acceptance."""
        first, _ = self.sends(b"k", (DELAY, b"1"))
        self.assertEqual(self.sends(), (first, True))
        self.now += 1000
        self.broker.tick()
        self.peer.says(frame(5, (ID, self.holds()), (TTL, b"1")), consume(0))
        self.now += 1000
        self.broker.sweep()
        self.check_known_until(first, self.end)

    def test_expired(self) -> None:
        """A message that expired within the window is not stored again by a late retry."""
        first, _ = self.sends(b"k", (TTL, b"1"))
        self.now += 1000
        self.assertEqual(self.sends(), (first, True))
        self.broker.sweep()
        self.assertEqual(self.broker.lifecycle.expired, 1)
        self.check_known_until(first, self.end)

    def test_dropped(self) -> None:
        """Nor is one that was dropped for room."""
        self.broker.configure("q", QueueSettings(max_messages=1, when_full="drop-oldest"))
        first, _ = self.sends()
        self.peer.says(send(b"other"))
        self.assertEqual(self.broker.lifecycle.dropped, 1)
        self.check_known_until(first, self.end)

    def test_flushed(self) -> None:
        """A flush removes messages, not keys: neither what waits nor what was in flight comes back by a late retry."""
        self.broker.configure("q", QueueSettings(lease=1))
        first, _ = self.sends(b"in flight")
        self.holds()
        self.peer.says(consume(1))
        second, _ = self.sends()
        self.assertEqual(self.broker.queues.flush("q"), (1, 1))
        self.assertEqual(self.sends(), (second, True))
        self.broker.dispatch()
        self.now += 1000
        self.broker.tick()
        self.assertEqual(self.sends(b"in flight"), (first, True))
        self.now = self.end - 1
        self.assertEqual(self.sends(), (second, True))
        self.now = self.end
        self.assertFalse(self.sends()[1])

    def test_dead_and_replayed(self) -> None:
        """A retry of what died is a duplicate; a replayed message has no key any more, so the key is free when the window is over."""
        first, _ = self.sends()
        self.peer.says(frame(6, (ID, self.holds())), consume(0))
        self.assertEqual((self.broker.dead_letters.count_of("q"), self.sends()), (1, (first, True)))
        self.broker.lifecycle.replay(self.broker.dead_letters.page("q"), "other")
        self.assertEqual((self.broker.dead_letters.count_of("q"), self.sends()), (0, (first, True)))
        self.assertFalse(self.sends(queue=b"other")[1])
        self.check_known_until(first, self.end)

    def test_moved(self) -> None:
        """A move leaves the key with the queue that it was sent to; the other one knows it while it has the message."""
        first, _ = self.sends()
        self.broker.lifecycle.move(self.broker.queues["q"], self.broker.queues.get_or_create("other"), 1)
        self.assertEqual([self.sends(queue=queue) for queue in (b"q", b"other")], [(first, True)] * 2)
        self.broker.queues.flush("other")
        self.assertFalse(self.sends(queue=b"other")[1])
        self.check_known_until(first, self.end)

    def test_deleted(self) -> None:
        """A queue's keys can be forgotten: what was sent before may be sent again, also what is in flight once it is settled."""
        first, _ = self.sends()
        second, _ = self.sends(b"in flight")
        self.peer.says(consume(2))
        self.broker.keys.forget("q")
        self.assertEqual(self.sends(b"in flight"), (second, True))
        self.peer.says(frame(4, (ID, first)), frame(4, (ID, second)))
        self.assertEqual([self.sends(key)[1] for key in (b"k", b"in flight")], [False, False])
        self.sends()
        self.broker.queues.flush("q")
        self.broker.keys.forget("q")
        self.assertFalse(self.sends()[1])
        self.broker.keys.forget("nowhere")
        self.assertNotIn("nowhere", self.broker.queues)

    def test_other_queue(self) -> None:
        """Each queue knows its own keys."""
        self.sends()
        self.assertFalse(self.sends(queue=b"other")[1])

    def test_turned_off(self) -> None:
        """With no window, or none any more, a key is known as long as its message is in the queue."""
        self.broker.configure("q", QueueSettings(dedup=1))
        self.sends(b"before")
        self.broker.configure("q", QueueSettings(dedup=0))
        first, _ = self.sends()
        self.assertEqual(self.sends(), (first, True))
        self.assertEqual(self.broker.queues.flush("q"), (2, 0))
        self.broker.dispatch()
        self.assertEqual([self.sends(key)[1] for key in (b"k", b"before")], [False, False])
        self.broker.sweep()
        self.assertEqual((self.broker.keys.count, self.broker.queues["q"].keys), (0, 0))

    def test_turned_on(self) -> None:
        """A message that was accepted without a window has none afterwards either, however short ago that was."""
        self.broker.configure("q", QueueSettings(dedup=0))
        self.sends()
        self.peer.says(frame(4, (ID, self.holds())))
        self.broker.configure("q", QueueSettings(dedup=60))
        self.assertFalse(self.sends()[1])

    def test_shorter_and_longer(self) -> None:
        """Another window holds for keys that are known, from now on."""
        first, _ = self.sends()
        self.peer.says(frame(4, (ID, self.holds())))
        self.broker.configure("q", QueueSettings(dedup=WINDOW))
        self.now = self.end
        self.assertTrue(self.broker.sweep())
        self.assertEqual(self.sends(), (first, True))
        self.broker.configure("q", QueueSettings(dedup=1))
        self.broker.sweep()
        self.assertEqual((self.broker.keys.count, self.sends()[1]), (0, False))


class LimitTests(KeyTestCase):
    """What keys take, and where that ends."""

    def test_queue_goes(self) -> None:
        """A queue that has nothing but keys stays until the last of them is forgotten; then nothing is left of it."""
        self.sends("é".encode())
        self.peer.says(frame(4, (ID, self.holds())), consume(0))
        self.assertEqual(self.broker.queues["q"].keys, 1)
        self.now += WINDOW
        self.broker.sweep()
        self.assertEqual((self.broker.queues, self.broker.memory.used), ({}, 0))

    def test_memory(self) -> None:
        """They count against the memory limit until they are forgotten."""
        self.sends()
        used = self.broker.memory.used
        self.peer.says(frame(4, (ID, self.holds())))
        self.now += WINDOW // 2
        self.sends(b"four")
        self.peer.says(frame(4, (ID, self.holds())))
        held = self.broker.memory.used
        self.now += WINDOW // 2
        self.broker.sweep()
        self.assertEqual(held - self.broker.memory.used, 2 + KEY_OVERHEAD)
        self.assertLess(self.broker.memory.used, used)

    def test_memory_full_of_keys(self) -> None:
        """Who waits for room that keys take, whether with a key or not, goes on when windows are over."""
        self.sends()
        self.peer.says(frame(4, (ID, self.holds())), consume(0))
        self.broker.memory.limit = self.broker.memory.used
        waiting = [Peer(self.broker) for _ in range(3)]
        sends = wire.send("other", b"x"), send(b"x", queue=b"other"), send(b"x", (KEY, b"2"), queue=b"other")
        for peer, one in zip(waiting, sends, strict=True):
            peer.says(one)
        self.assertEqual([peer.connection.reading for peer in waiting], [False] * 3)
        self.now += WINDOW
        self.broker.memory.limit += 1000
        self.broker.sweep()
        self.broker.dispatch()
        self.assertEqual([peer.connection.reading for peer in waiting], [True] * 3)
        self.assertEqual(self.broker.queues["other"].ready, 3)

    def test_limit(self) -> None:
        """At the limit a send with a new key is refused, or waits; a duplicate, one without a key or without a window does not."""
        self.broker.keys.limit = 2
        first, _ = self.sends(b"1")
        self.sends(b"2")
        self.assertEqual(self.broker.keys.alarm, "")
        [(_, contents)] = self.peer.says(send(b"x", (KEY, b"3"), (TAG, b"t")))
        self.assertEqual((contents[0], contents[2]), (b"memory-full", b"t"))
        self.assertRegex(self.broker.keys.alarm, "2 keys")
        self.assertEqual((self.broker.outcomes.refused, self.broker.lifecycle.received), ({"memory-full": 1}, 2))
        self.assertEqual(self.sends(b"1"), (first, True))
        self.peer.says(send(b"y"))
        self.broker.configure("none", QueueSettings(dedup=0))
        self.assertFalse(self.sends(b"3", queue=b"none")[1])
        waits = Peer(self.broker)
        waits.says(send(b"waited", (KEY, b"3")))
        self.assertFalse(waits.connection.reading)
        self.now += WINDOW
        self.broker.sweep()
        self.broker.dispatch()
        self.assertEqual((waits.connection.reading, self.broker.keys.alarm, self.broker.keys.count), (True, "", 1))
        self.peer.session.receive(consume(9))
        self.assertEqual(self.peer.gets(), [b"x", b"x", b"y", b"waited"])

    def test_refused_leaves_no_trace(self) -> None:
        """A send that is refused for its key neither leaves a queue behind nor has a message dropped for it."""
        self.broker.keys.limit = 1
        self.broker.configure("q", QueueSettings(max_messages=2, when_full="drop-oldest"))
        self.sends(b"1")
        self.peer.says(send(b"y"))
        used = self.broker.memory.used
        for queue in b"q", b"new":
            self.assertEqual(self.peer.says(send(b"x", (KEY, b"2"), (TAG, b"t"), queue=queue))[0][0], "refused")
        self.assertEqual((self.broker.lifecycle.dropped, list(self.broker.queues), self.broker.memory.used), (0, ["q"], used))

    def test_parts(self) -> None:
        """However many are due at once, they are forgotten a part at a time, each with another call."""
        self.patch(keys, "STEP", 20)
        for number in range(50):
            self.sends(b"%d" % number, queue=b"many")
        for number in range(4):
            self.sends(b"k", queue=b"queue %d" % number)
        left, parts, counts = False, 0, []
        self.now += WINDOW
        while not left:
            left = self.broker.sweep()
            parts += 1
            counts.append(self.broker.keys.count)
            self.assertLess(parts, 9)
        self.assertEqual((counts[0], counts[-1]), (34, 0))
        self.assertGreater(parts, 3)

    def test_forgotten_in_parts(self) -> None:
        """All keys of a queue are unknown at once, however long it takes to forget them."""
        self.patch(keys, "STEP", 2)
        for number in range(5):
            self.sends(b"%d" % number)
        self.broker.queues.flush("q")
        self.broker.dispatch()
        self.broker.keys.forget("q")
        self.assertEqual(self.broker.queues["q"].keys, 3)
        self.assertFalse(self.sends(b"4")[1])
        while not self.broker.sweep():
            pass
        self.assertEqual(self.broker.queues["q"].keys, 1)


class RestartTests(KeyTestCase):
    """Keys and the file."""

    def setUp(self) -> None:
        super().setUp()
        directory = self.mktemp()
        os.mkdir(directory)
        self.path = os.path.join(directory, "phpmq.db")
        self.start()

    def start(self) -> None:
        """Start from the file as it is now, as after a crash."""
        path, self.path = self.path, f"{self.path}x"
        for suffix in "", "-wal", ".lock":
            if os.path.exists(path + suffix):
                shutil.copy(path + suffix, self.path + suffix)
        self.file = StoreFile(self.path)
        self.addCleanup(self.file.close)
        self.store = SQLiteStore(self.file.open()[0])
        self.addCleanup(self.store.close)
        self.broker = Broker(self.store, lambda: self.now)
        self.broker.dispatch()
        self.peer = Peer(self.broker)

    def write(self) -> None:
        """Bring the file up to date."""
        while (delta := self.store.changelog.extract(100, 1 << 20, {})) is not None:
            self.file.apply(delta)
            self.store.changelog.confirm(delta)

    def test_crash(self) -> None:
        """A key is in the file if and only if its message got there, also when that is gone; beyond its window it is nowhere."""
        mirror = self.mirrored()
        first, _ = self.sends()
        self.write()
        self.peer.says(frame(4, (ID, self.holds())), consume(0))
        second, _ = self.sends(b"at once")
        self.peer.says(frame(4, (ID, self.holds())), consume(0))
        self.assertEqual(self.peer.says(send(b"x", (KEY, b"at once"), (LEVEL, b"synced"), (TAG, b"t"))), [])
        self.write()
        mirror.synced()
        self.assertEqual(self.peer.hears(), [("receipt", [b"t", second, b"1"])])
        third, _ = self.sends(b"lost")
        self.start()
        self.assertEqual((self.broker.keys.count, self.broker.queues["q"].keys), (2, 2))
        self.assertEqual([self.sends(key) for key in (b"k", b"at once")], [(first, True), (second, True)])
        again, duplicate = self.sends(b"lost")
        self.assertEqual((again != third, duplicate), (True, False))
        self.now += WINDOW
        self.assertFalse(self.sends(b"at once")[1])
        self.broker.sweep()
        self.write()
        self.start()
        self.assertEqual((self.broker.keys.count, self.sends(b"at once")[1], self.sends()[1]), (1, True, False))

    def test_used_again(self) -> None:
        """After a start the keys count as before it, and go as before it, with their queue."""
        self.sends()
        self.peer.says(frame(4, (ID, self.holds())), consume(0))
        self.broker.sweep()
        self.write()
        used = self.broker.memory.used
        self.start()
        self.assertEqual(self.broker.memory.used, used)
        self.now += WINDOW
        self.broker.sweep()
        self.assertEqual((self.broker.queues, self.broker.memory.used), ({}, 0))
        self.write()
        self.start()
        self.assertEqual((self.broker.queues, self.broker.keys.count), ({}, 0))

    def test_deleted(self) -> None:
        """Forgotten keys stay forgotten, also if the server dies before all of them are gone."""
        self.patch(keys, "STEP", 2)
        for number in range(5):
            self.sends(b"%d" % number)
        self.peer.says(consume(1))
        self.write()
        self.broker.queues.flush("q")
        self.broker.keys.forget("q")
        delta = self.store.changelog.extract(1, 1 << 20, {})
        assert delta is not None
        self.file.apply(delta)
        self.start()
        self.assertGreater(self.broker.keys.count, 1)
        self.assertEqual([self.sends(b"%d" % number)[1] for number in range(5)], [False] * 5)

    def test_failed_write(self) -> None:
        """A write that failed, or did not though it seemed to, leaves neither a key out nor one behind."""
        for arrives in False, True:
            first, _ = self.sends()
            self.peer.says(frame(4, (ID, self.holds())), consume(0))
            delta = self.store.changelog.extract(100, 1 << 20, {})
            assert delta is not None
            if arrives:
                self.file.apply(delta)
            self.store.changelog.restore(delta)
            self.write()
            self.start()
            self.assertEqual(self.sends(), (first, True))
            self.now += WINDOW
            self.broker.sweep()
            delta = self.store.changelog.extract(100, 1 << 20, {})
            assert delta is not None
            if arrives:
                self.file.apply(delta)
            self.store.changelog.restore(delta)
            self.write()
            self.start()
            self.assertEqual(self.broker.keys.count, 0)

    def test_queue_stays_with_its_keys(self) -> None:
        """A queue's row leaves the file with the last of its keys and not before, however small the writes are."""
        for number in range(5):
            self.sends(b"%d" % number)
        self.broker.queues.flush("q")
        self.write()
        self.now += WINDOW
        self.broker.sweep()
        self.broker.dispatch()
        self.assertEqual(self.broker.queues, {})
        while (delta := self.store.changelog.extract(2, 1 << 20, {})) is not None:
            self.file.apply(delta)
            self.store.changelog.confirm(delta)
            self.start_aside()
        self.assertEqual(self.start_aside(), (0, 0))

    def start_aside(self) -> tuple[int, int]:
        """What a start from the file would find now: queues, and keys, of which none is without its queue."""
        path = f"{self.path}-aside"
        for suffix in "", "-wal", ".lock":
            shutil.copy(self.path + suffix, path + suffix)
        file = StoreFile(path)
        store = SQLiteStore(file.open()[0])
        queues, found = {queue.number for queue, *_ in store.queues()}, store.keys()
        file.close()
        store.close()
        self.assertLessEqual(set(found), queues)
        return len(queues), sum(count for count, _ in found.values())


class BufferedKeyTests(KeyTestCase):
    """Rule 17 before anything is written to the store's database."""

    def test_delayed(self) -> None:
        """A delayed message is known by its key."""
        self.broker.configure("q", QueueSettings(dedup=0))
        first, _ = self.sends(b"k", (DELAY, b"9"))
        self.assertEqual(self.sends(), (first, True))

    def test_flushed(self) -> None:
        """A delayed or ready message that was flushed is not known by its key, where keys are not remembered."""
        self.broker.configure("q", QueueSettings(dedup=0))
        for more in [], [(DELAY, b"9")]:
            first, _ = self.sends(b"k", *more)
            self.broker.queues.flush("q")
            second, duplicate = self.sends(b"k", *more)
            self.assertEqual((second != first, duplicate), (True, False))
            self.broker.queues.flush("q")

    def test_moved(self) -> None:
        """A message that is moved to another queue is known by its key there, and no longer where it was."""
        self.broker.configure("q", QueueSettings(dedup=0))
        self.broker.configure("r", QueueSettings(dedup=0))
        first, _ = self.sends()
        queues = self.broker.queues
        self.broker.lifecycle.move(queues["q"], queues["r"], 1)
        self.assertEqual(self.sends(queue=b"r"), (first, True))
        self.assertFalse(self.sends()[1])

    def test_keys_of_a_queue_that_is_gone(self) -> None:
        """Keys that a file kept of a queue that it lost are nobody's: a start counts none of them."""
        self.sends()
        self.store.drop_queue(self.broker.queues["q"])
        broker = Broker(self.store, lambda: self.now)
        self.assertEqual((broker.keys.count, dict(broker.queues), broker.memory.used), (0, {}, 0))
