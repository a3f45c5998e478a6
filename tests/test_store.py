"""The promises of IStore, kept by every implementation, and those that SQLiteStore makes to the mirror."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import phpmq.store.changelog
import phpmq.store.store
from phpmq.interfaces import IStore
from phpmq.message import DEFAULT_SETTINGS, Message, Properties, QueueRecord, QueueSettings
from phpmq.store import SCHEMA_VERSION, ChangeLog, Delta, SQLiteStore, checksum, schema, upgrade
from phpmq.store.changelog import Batch
from tests.doubles import DictStore

MANY = 2**31


class StoreContract(SynchronousTestCase if TYPE_CHECKING else object):  # type: ignore[misc]
    """What every store promises."""

    def make_store(self) -> Any:
        """A new store."""
        raise NotImplementedError

    def setUp(self) -> None:
        self.store = self.make_store()
        self.next = self.store.next_number
        self.queue = self.store.create_queue("q")

    def add(self, body: bytes = b"x", queue: QueueRecord | None = None, expires: int = 0) -> Message:
        """Add a message to the store."""
        message = Message(self.next, queue or self.queue, self.next, 1000, expires, 0, body)
        self.next += 1
        self.store.add(message)
        return message

    def bodies(self, queue: QueueRecord | None = None, after: int = 0) -> list[bytes]:
        """All that a queue holds, in order."""
        return [message.body for message in self.store.read(queue or self.queue, after, MANY, MANY)]

    def counts(self) -> dict[str, tuple[int, int]]:
        """What each queue holds, by name."""
        return {record.name: (count, size) for record, count, size, _ in self.store.queues()}

    def test_interface(self) -> None:
        """It provides IStore."""
        self.assertTrue(verifyObject(IStore, self.store))

    def test_id_prefix(self) -> None:
        """Its ids start with 16 bytes of hexadecimal."""
        self.assertRegex(self.store.id_prefix, rb"\A[0-9a-f]{16}\Z")

    def test_order(self) -> None:
        """Messages are read in the order in which they were added, each queue for itself."""
        other = self.store.create_queue("other")
        for number in range(6):
            self.add(b"%d" % number, self.queue if number % 2 else other)
        self.assertEqual(self.bodies(), [b"1", b"3", b"5"])
        self.assertEqual(self.bodies(other), [b"0", b"2", b"4"])

    def test_facts(self) -> None:
        """What is read back is what was added, and belongs to the very queue that asked."""
        added = self.add(b"\x00\xff", expires=5000)
        (found,) = self.store.read(self.queue, 0, 1, 1)
        for name in "number", "position", "accepted", "expires", "attempts", "body":
            self.assertEqual(getattr(found, name), getattr(added, name), name)
        self.assertIs(found.queue, self.queue)

    def test_read_after(self) -> None:
        """Reading goes on after a position."""
        messages = [self.add(b"%d" % number) for number in range(4)]
        self.assertEqual(self.bodies(after=messages[1].position), [b"2", b"3"])

    def test_read_count(self) -> None:
        """No more messages are read than asked for."""
        for _ in range(5):
            self.add()
        self.assertEqual(len(self.store.read(self.queue, 0, 3, MANY)), 3)

    def test_read_size(self) -> None:
        """Reading ends once the bodies reach the size, and there is always at least one."""
        for _ in range(5):
            self.add(b"x" * 10)
        self.assertEqual(len(self.store.read(self.queue, 0, MANY, 11)), 2)
        self.assertEqual(len(self.store.read(self.queue, 0, MANY, 10)), 1)
        self.assertEqual(len(self.store.read(self.queue, 0, MANY, 1)), 1)

    def test_remove(self) -> None:
        """A removed message is gone, whether it was just added or is long known; twice does no harm."""
        known, kept = self.add(b"known"), self.add(b"kept")
        self.bodies()
        fresh = self.add(b"fresh")
        for message in known, fresh, known:
            self.store.remove(message.number)
        self.assertEqual(self.bodies(), [b"kept"])
        self.assertEqual(self.counts(), {"q": (1, 4)})
        self.assertEqual(kept.number, self.store.read(self.queue, 0, 1, 1)[0].number)

    def test_put(self) -> None:
        """A message that is put with a later position moves there, with its attempts, whether it was just added or is long known."""
        for read_first in True, False:
            first = self.add(b"first")
            if read_first:
                self.bodies()
            self.add(b"second")
            first.position, first.attempts, first.expires = self.next, 3, 7000
            self.next += 1
            self.store.put(first)
            second, moved = self.store.read(self.queue, 0, MANY, MANY)
            self.assertEqual([second.body, moved.body], [b"second", b"first"])
            self.assertEqual((moved.number, moved.attempts, moved.expires), (first.number, 3, 7000))
            for message in first, second:
                self.store.remove(message.number)
        self.assertEqual(self.bodies(), [])

    def test_put_then_remove(self) -> None:
        """A message that was put can be removed at once."""
        message = self.add()
        self.bodies()
        message.position = self.next
        self.store.put(message)
        self.store.remove(message.number)
        self.assertEqual(self.bodies(), [])

    def test_put_after_purge(self) -> None:
        """A message that was in flight when its queue was flushed and purged is kept again once it is put."""
        message = self.add(b"back")
        self.bodies()
        self.queue.flushed_to = message.position
        self.store.save_queue(self.queue)
        while not self.store.purge(self.queue, 10):
            pass
        self.assertEqual(self.bodies(), [])
        message.position = self.next
        self.store.put(message)
        self.assertEqual(self.bodies(), [b"back"])

    def test_retried(self) -> None:
        """Attempts are kept."""
        message = self.add()
        self.bodies()
        message.attempts = 4
        self.store.retried(message)
        self.assertEqual([found.attempts for found in self.store.read(self.queue, 0, 1, 1)], [4])

    def test_retried_then_removed(self) -> None:
        """Keeping the attempts of a message does not bring it back."""
        message = self.add()
        self.bodies()
        message.attempts = 4
        self.store.retried(message)
        self.store.remove(message.number)
        self.assertEqual(self.bodies(), [])

    def test_bury(self) -> None:
        """A buried message leaves its queue, whether it was just added or is long known, and keeps all its facts."""
        known = self.add(b"known")
        self.bodies()
        fresh = self.add(b"fresh")
        known.attempts = fresh.attempts = 2
        self.store.dead_letter(known, "rejected", "no such user", 2000)
        self.store.dead_letter(fresh, "expired", "", 2001)
        self.assertEqual(self.bodies(), [])
        self.assertEqual(self.counts(), {"q": (0, 0)})
        one, two = self.store.dead()
        self.assertEqual(
            (one.number, one.queue, one.reason, one.text, one.accepted, one.died, one.attempts, one.body),
            (known.number, "q", "rejected", "no such user", 1000, 2000, 2, b"known"),
        )
        self.assertEqual((two.reason, two.body), ("expired", b"fresh"))

    def test_bury_after_put(self) -> None:
        """A message that was re-queued and then buried is dead, and only that."""
        message = self.add()
        self.bodies()
        message.position = self.next
        self.store.put(message)
        self.store.dead_letter(message, "rejected", "", 1)
        self.assertEqual(self.bodies(), [])
        self.assertEqual(len(list(self.store.dead())), 1)

    def test_bury_after_flush(self) -> None:
        """A message that was flushed while it was in flight keeps its headers, and its size, when it dies."""
        message = Message(self.next, self.queue, self.next, 1000, 0, 0, b"x", Properties(0, "", b'{"a":"b"}'))
        self.next += 1
        self.store.add(message)
        self.queue.flushed_to = message.position
        while not self.store.purge(self.queue, MANY):
            pass
        self.store.dead_letter(message, "rejected", "", 1)
        (dead,) = self.store.dead()
        self.assertEqual((dead.headers, dead.size), (b'{"a":"b"}', message.size))

    def test_dead_totals(self) -> None:
        """How many are dead, and the size of their bodies, is known without listing them."""
        self.assertEqual(self.store.dead_totals(), {})
        for body in b"1", b"234":
            self.store.dead_letter(self.add(body), "rejected", "", 1)
        self.assertEqual(self.store.dead_totals(), {"q": (2, 4)})

    def test_dead_of_one_queue(self) -> None:
        """The dead of one queue can be listed alone, the oldest first."""
        other = self.store.create_queue("other")
        for body, queue in (b"1", self.queue), (b"2", other), (b"3", self.queue):
            self.store.dead_letter(self.add(body, queue), "rejected", "", int(body))
        self.assertEqual([dead.body for dead in self.store.dead("q")], [b"1", b"3"])
        self.assertEqual([dead.body for dead in self.store.dead()], [b"1", b"2", b"3"])
        self.assertEqual(list(self.store.dead("third")), [])

    def test_dead_pages(self) -> None:
        """The dead can be read a part at a time, by reason, and one by its number."""
        for number in range(6):
            self.store.dead_letter(self.add(b"%d" % number), ("rejected", "expired")[number % 2], "", 9 - number)
        numbers = [dead.number for dead in self.store.dead()]
        self.assertEqual(numbers, sorted(numbers))
        self.assertEqual([dead.body for dead in self.store.dead("q", after=numbers[1], count=2)], [b"2", b"3"])
        self.assertEqual([dead.body for dead in self.store.dead(reason="expired", after=numbers[1])], [b"3", b"5"])
        self.assertEqual(self.store.get_dead(numbers[4]).body, b"4")
        self.assertIsNone(self.store.get_dead(numbers[5] + 1))

    def test_revive(self) -> None:
        """A dead message waits again, at the place it was given in the queue it was given, without attempts and expiry, with headers."""
        other = self.store.create_queue("other")
        waiting = self.add(b"waiting", other)
        message = Message(self.next, self.queue, self.next, 1000, 9000, 5, b"x", Properties(0, "key", b'{"a":"b"}'))
        self.store.add(message)
        self.store.dead_letter(message, "rejected", "", 1)
        self.next += 2
        (dead,) = self.store.dead()
        self.assertEqual(dead.headers, b'{"a":"b"}')
        revived = self.store.replay(dead, other, self.next)
        self.assertEqual((revived.number, revived.attempts, revived.expires, revived.position), (message.number, 0, 0, self.next))
        self.assertEqual(self.store.expired(2**60, MANY), [])
        self.assertEqual(list(self.store.dead()), [])
        self.assertEqual(self.bodies(other), [b"waiting", b"x"])
        found = self.store.read(other, waiting.position, 1, 1)[0]
        self.assertEqual((found.accepted, found.attempts, found.expires, found.properties.headers), (1000, 0, 0, b'{"a":"b"}'))
        self.assertEqual(self.store.find(other, "key", 0), 0)

    def test_forget_dead(self) -> None:
        """Dead messages are forgotten by number."""
        for body in b"1", b"2", b"3":
            self.store.dead_letter(self.add(body), "rejected", "", 1)
        first, _, third = [dead.number for dead in self.store.dead()]
        self.store.delete_dead([first, third, third + 1])
        self.assertEqual([dead.body for dead in self.store.dead()], [b"2"])

    def test_get(self) -> None:
        """A message can be looked up in its queue by its number."""
        message = self.add(b"here")
        self.assertEqual(self.store.get(self.queue, message.number).body, b"here")
        self.assertIsNone(self.store.get(self.store.create_queue("other"), message.number))
        self.assertIsNone(self.store.get(self.queue, self.next))

    def test_delayed_pages(self) -> None:
        """Delayed messages are read in order of acceptance, a part at a time."""
        for number in range(4):
            message = Message(self.next, self.queue, -self.next, 1000, 0, 0, b"%d" % number, Properties(9000 - number))
            self.next += 1
            self.store.add(message)
        self.add(b"ready")
        delayed = self.store.peek(self.queue, 0, 2, 9, delayed=True)
        self.assertEqual([message.body for message in delayed], [b"0", b"1"])
        rest = self.store.peek(self.queue, -delayed[-1].position, 9, 9, delayed=True)
        self.assertEqual([message.body for message in rest], [b"2", b"3"])

    def test_peek(self) -> None:
        """Who only looks gets the beginning of each body, none with a preview of 0, and the sizes of the whole ones."""
        bodies = b"", b"12345", b"1" * 100_000
        for body in bodies:
            self.add(body)
        extra = Message(self.next, self.queue, self.next, 1000, 0, 0, b"xyz", Properties(0, "key", b"{}"))
        self.next += 1
        self.store.add(extra)
        for preview in 0, 2, 9, 200_000:
            found = self.store.peek(self.queue, 0, MANY, preview)
            self.assertEqual([message.body for message in found], [body[:preview] for body in (*bodies, b"xyz")])
            self.assertEqual([message.size for message in found], [0, 5, 100_000, extra.size])
        self.assertEqual(found[3].properties.key, "key")
        self.assertEqual([message.body for message in self.store.peek(self.queue, found[0].position, 1, 3)], [b"123"])
        for size, count in (1, 2), (3, 2), (4, 3), (7, 4):
            self.assertEqual(len(self.store.peek(self.queue, 0, MANY, 3, size=size)), count)

    def test_peek_at_the_dead(self) -> None:
        """Likewise for the dead, whose sizes are with their bodies' lengths beside."""
        for body in b"", b"12345":
            self.store.dead_letter(self.add(body), "rejected", "", 1)
        for preview in 0, 2, 9, None:
            found = list(self.store.dead("q", preview=preview))
            self.assertEqual([(dead.body, dead.size, dead.length) for dead in found], [(b"", 0, 0), (b"12345"[:preview], 5, 5)])

    def test_settings(self) -> None:
        """What was set for a queue is kept with it."""
        self.queue.settings = QueueSettings(max_messages=5, when_full="drop-oldest", lease=1.5)
        self.store.save_queue(self.queue)
        self.store.create_queue("other")
        found = {record.name: record.settings for record, *_ in self.store.queues()}
        self.assertEqual(found, {"q": self.queue.settings, "other": DEFAULT_SETTINGS})

    def test_expired(self) -> None:
        """Expired messages are named the earliest first, with what the broker needs to know, and not those that live."""
        late, early, never, on_time = (self.add(b"x" * 7, expires=when) for when in (3000, 2000, 0, 3001))
        self.assertEqual(
            self.store.expired(3000, 10),
            [(message.number, self.queue.number, message.position, 7) for message in (early, late)],
        )
        self.assertEqual([row[0] for row in self.store.expired(3001, 10)], [on_time.number])
        self.assertEqual(len(self.bodies()), 4)
        self.assertNotIn(never.number, [row[0] for row in self.store.expired(MANY, 10)])

    def test_expired_once(self) -> None:
        """Each expired message is named once, in as many calls as the count makes it."""
        for _ in range(5):
            self.add(expires=2000)
        found = [row[0] for _ in range(4) for row in self.store.expired(2000, 2)]
        self.assertEqual(found, sorted(set(found)))
        self.assertEqual(len(found), 5)

    def test_expired_again(self) -> None:
        """A message that was named and then got more time is named again when that is over."""
        message = self.add(expires=2000)
        self.assertEqual(len(self.store.expired(2000, 10)), 1)
        message.position, message.expires = self.next, 3000
        self.store.put(message)
        self.assertEqual(self.store.expired(2999, 10), [])
        self.assertEqual([row[0] for row in self.store.expired(3000, 10)], [message.number])

    def test_queues(self) -> None:
        """Every queue is listed with its facts as they were saved, and what waits in it; what was flushed does not."""
        self.add(b"flushed")
        self.queue.flushed_to = self.next - 1
        self.queue.paused = 3
        self.store.save_queue(self.queue)
        self.store.save_revision("q", 2)
        self.store.save_revision("none", 1)
        self.add(b"12345")
        self.add(b"67")
        self.store.create_queue("empty")
        found = {record.name: (record, count, size) for record, count, size, _ in self.store.queues()}
        self.assertEqual(set(found), {"q", "empty"})
        record, count, size = found["q"]
        self.assertEqual((count, size), (2, 7))
        self.assertEqual(
            (record.number, record.flushed_to, record.paused, self.store.revisions),
            (self.queue.number, self.queue.flushed_to, 3, {"q": 2}),
        )
        self.assertEqual(found["empty"][1:], (0, 0))

    def test_drop_queue(self) -> None:
        """A dropped queue is not listed any more, and a new one of its name is another one."""
        self.store.drop_queue(self.queue)
        self.assertEqual(self.store.queues(), [])
        again = self.store.create_queue("q")
        self.assertNotEqual(again.number, self.queue.number)
        self.assertEqual(self.counts(), {"q": (0, 0)})

    def test_purge(self) -> None:
        """Purging forgets step by step what was flushed, of that queue only, and says when it is done."""
        other = self.store.create_queue("other")
        for _ in range(5):
            self.add()
        self.add(b"other", other)
        self.queue.flushed_to = self.next - 1
        self.add(b"later")
        steps = 1
        while not self.store.purge(self.queue, 2):
            steps += 1
            self.assertLess(steps, 5)
        self.assertGreaterEqual(steps, 3)
        self.assertEqual(self.bodies(), [b"later"])
        self.assertEqual(self.bodies(other), [b"other"])

    def test_purge_of_delayed(self) -> None:
        """Purging forgets the delayed messages that were flushed as well, and none that came later."""
        for body in b"flushed", b"later":
            if body == b"later":
                self.queue.flushed_to = self.next - 1
            message = Message(self.next, self.queue, -self.next, 1000, 0, 0, body, Properties(9000))
            self.next += 1
            self.store.add(message)
        self.assertTrue(self.store.purge(self.queue, 10))
        self.assertEqual([message.body for message in self.store.peek(self.queue, 0, 10, 10, delayed=True)], [b"later"])

    def test_latest(self) -> None:
        """The number that was added last is known, also when its message is gone."""
        self.assertEqual(self.store.latest, self.store.next_number - 1)
        message = self.add()
        self.store.remove(message.number)
        self.assertEqual(self.store.latest, message.number)

    def keyed(self, key: str, expires: int = 0) -> Message:
        """Add a message with a key to the store."""
        message = Message(self.next, self.queue, self.next, 1000, expires, 0, b"x", Properties(0, key))
        self.next += 1
        self.store.add(message)
        return message

    def delayed(self, due: int) -> Message:
        """Add a message that is due later to the store."""
        message = Message(self.next, self.queue, -self.next, 1000, 0, 0, b"x", Properties(due))
        self.next += 1
        self.store.add(message)
        return message

    def test_due(self) -> None:
        """Delayed messages are named once they are due, the earliest first and no more than asked for."""
        self.assertEqual(self.store.next_due(), 0)
        third, first, second = self.delayed(3000), self.delayed(1000), self.delayed(1000)
        self.assertEqual(self.store.next_due(), 1000)
        queues = {self.queue.number: self.queue}
        self.assertEqual(self.store.due(999, 10, queues), [])
        self.assertEqual([message.number for message in self.store.due(1000, 10, queues)], [first.number, second.number])
        self.assertEqual([message.number for message in self.store.due(3000, 10, queues)], [first.number, second.number, third.number])
        self.assertEqual(len(self.store.due(3000, 2, queues)), 2)
        self.assertIs(self.store.due(3000, 10, queues)[0].queue, self.queue)

    def test_no_keys(self) -> None:
        """A store that never had a key knows none."""
        self.add()
        self.assertEqual((self.store.find(self.queue, "a", 0), self.store.keys()), (0, {}))

    def test_key_follows_its_message(self) -> None:
        """A message that is put into another queue before it is written is found there, and its key known where it came from."""
        self.queue.settings = QueueSettings(dedup=2)
        other = self.store.create_queue("other")
        message = self.keyed("a")
        message.queue, message.position = other, self.next
        self.store.put(message)
        self.assertEqual(self.store.find(other, "a", 9000), message.number)
        self.assertEqual((self.store.find(self.queue, "a", 2999), self.store.find(self.queue, "a", 3000)), (message.number, 0))

    def test_find(self) -> None:
        """Without a dedup window a key finds its message until that is flushed, expired, dead or gone; not in another queue."""
        self.queue.settings = QueueSettings(dedup=0)
        first, second, third = self.keyed("a"), self.keyed("b", expires=2000), self.keyed("c")
        for _ in range(2):
            found = [self.store.find(self.queue, key, 1999) for key in ("a", "b", "c", "d")]
            self.assertEqual(found, [first.number, second.number, third.number, 0])
            self.assertEqual(self.store.find(self.store.create_queue("other"), "a", 1999), 0)
            self.bodies()  # Now it is written.
        self.assertEqual(self.store.find(self.queue, "b", 2000), 0)
        self.store.dead_letter(third, "rejected", "", 1)
        self.assertEqual(self.store.find(self.queue, "c", 1999), 0)
        self.queue.flushed_to = first.number
        self.assertEqual(self.store.find(self.queue, "a", 1999), 0)
        self.queue.flushed_to = 0
        self.store.remove(first.number)
        self.assertEqual(self.store.find(self.queue, "a", 1999), 0)

    def test_key_taken_over(self) -> None:
        """When a message expires that had a key, its successor keeps it."""
        self.queue.settings = QueueSettings(dedup=0)
        first = self.keyed("a", expires=2000)
        second = self.keyed("a")
        self.store.remove(first.number)
        self.assertEqual(self.store.find(self.queue, "a", 2000), second.number)

    def test_dedup_window(self) -> None:
        """Within its queue's window a key is known, buffered or written, whatever becomes of its message; then only while that waits."""
        self.queue.settings = QueueSettings(dedup=2)
        gone, expired, flushed, dead, waits = (self.keyed(key, expires=1500 * (key == "b")) for key in "abcde")
        self.queue.flushed_to = flushed.number
        self.store.remove(gone.number)
        for step in range(3):
            found = [self.store.find(self.queue, key, 2999) for key in "abcdef"]
            self.assertEqual(found, [gone.number, expired.number, flushed.number, dead.number, waits.number, 0], step)
            self.assertEqual([self.store.find(self.queue, key, 3000) for key in "abce"], [0, 0, 0, waits.number], step)
            if step == 0:
                self.bodies()  # Now it is written.
                self.store.remove(expired.number)
            else:
                self.store.dead_letter(dead, "rejected", "", 1)
                self.store.purge(self.queue, MANY)

    def test_window_changed(self) -> None:
        """Another window holds at once, for keys that are not forgotten yet."""
        self.queue.settings = QueueSettings(dedup=2)
        first = self.keyed("a")
        self.store.remove(first.number)
        for dedup, now, known in (1, 2000, False), (9, 9999, True), (9, 10_000, False), (0, 1001, False), (2, 2999, True):
            self.queue.settings = QueueSettings(dedup=dedup)
            self.assertEqual(self.store.find(self.queue, "a", now), first.number if known else 0, (dedup, now))

    def test_forget_keys(self) -> None:
        """Keys are forgotten in order of acceptance, a part at a time, each once its window is over; those of other queues stay."""
        self.queue.settings = QueueSettings(dedup=2)
        for number in range(5):
            self.keyed("é" * number + "x")
        other = self.store.create_queue("other")
        message = Message(self.next, other, self.next, 1000, 0, 0, b"x", Properties(0, "x"))
        self.store.add(message)
        self.assertEqual(self.store.keys(), {self.queue.number: (5, 25), other.number: (1, 1)})
        self.assertEqual(self.store.forget_keys(self.queue, 2999, 3), (0, 0, 1000))
        self.assertEqual(self.store.forget_keys(self.queue, 3000, 3), (3, 9, 1000))
        self.assertEqual(self.store.keys(), {self.queue.number: (2, 16), other.number: (1, 1)})
        self.assertEqual(self.store.forget_keys(self.queue, 3000, 3), (2, 16, 0))
        self.assertEqual(self.store.keys(), {other.number: (1, 1)})

    def test_forgotten_at_once(self) -> None:
        """The keys that a queue's C{forgotten} covers are unknown at once, but for those of messages that wait."""
        gone, waits, later = (self.keyed(key) for key in "abc")
        for message in gone, later:
            self.store.remove(message.number)
        self.queue.keys_forgotten_to = waits.number
        for _ in range(2):
            self.assertEqual([self.store.find(self.queue, key, 1000) for key in "abc"], [0, waits.number, later.number])
            self.bodies()
        self.assertEqual(self.store.forget_keys(self.queue, 1000, 9), (2, 2, 1000))
        self.assertEqual(self.store.keys(), {self.queue.number: (1, 1)})


class SQLiteStoreContractTests(StoreContract, SynchronousTestCase):
    """L{SQLiteStore} keeps the promises of L{IStore}."""

    def make_store(self) -> SQLiteStore:
        store = SQLiteStore()
        self.addCleanup(store.close)
        return store


class DictStoreContractTests(StoreContract, SynchronousTestCase):
    """So does the double."""

    def make_store(self) -> DictStore:
        return DictStore()


class MirrorDouble:
    """A file that is nothing but dicts: what a delta says is done, as StoreFile does it."""

    def __init__(self) -> None:
        self.messages: dict[int, tuple[Any, ...]] = {}
        self.dead: dict[int, tuple[Any, ...]] = {}
        self.queues: dict[int, tuple[Any, ...]] = {}
        self.producers: dict[bytes, tuple[int, int]] = {}
        self.meta: dict[str, Any] = {}

    def apply(self, delta: Delta) -> None:
        """Carry out a delta."""
        image = sqlite3.connect(":memory:")
        image.deserialize(delta.image)
        for number in self._numbers(image, "gone"):
            self.messages.pop(number, None)
            self.dead.pop(number, None)
        for number in self._numbers(image, "changed"):
            self.messages.pop(number, None)
        for number in self._numbers(image, "gone_queue"):
            self.queues.pop(number, None)
        for (name,) in image.execute("SELECT name FROM gone_producer"):
            self.producers.pop(name, None)
        self.producers.update({row[0]: row[1:] for row in image.execute("SELECT * FROM producer")})
        for table, rows in (("message", self.messages), ("dead", self.dead), ("queue", self.queues)):
            rows.update({row[0]: row[1:] for row in image.execute(f"SELECT * FROM {table}")})
        self.meta.update(dict(image.execute("SELECT key, value FROM meta")))
        image.close()

    @staticmethod
    def _numbers(image: sqlite3.Connection, table: str) -> list[int]:
        return [number for (number,) in image.execute(f"SELECT number FROM {table}")]

    @property
    def bodies(self) -> list[bytes]:
        """The bodies in order of position."""
        return [row[-1] for row in sorted(self.messages.values(), key=lambda row: row[1])]


class SQLiteStoreTests(SynchronousTestCase):
    """What L{SQLiteStore} promises beyond L{IStore}."""

    def setUp(self) -> None:
        self.store = SQLiteStore()
        self.addCleanup(self.store.close)
        self.file = MirrorDouble()
        self.queue = self.store.create_queue("q")
        self.next = self.store.next_number

    def add(self, body: bytes = b"x", queue: QueueRecord | None = None) -> Message:
        """Add a message to the store."""
        message = Message(self.next, queue or self.queue, self.next, 1000, 0, 0, body)
        self.next += 1
        self.store.add(message)
        return message

    def extract(self, count: int = MANY, size: int = MANY) -> Delta:
        """A delta that has to be there."""
        delta = self.store.changelog.extract(count, size, {})
        assert delta is not None
        return delta

    def mirror(self) -> int:
        """Bring the file up to date; how many changes that took."""
        changes = 0
        while (delta := self.store.changelog.extract(MANY, MANY, {})) is not None:
            changes += delta.changes
            self.file.apply(delta)
            self.store.changelog.confirm(delta)
        return changes

    def requeue(self, message: Message) -> None:
        """Move a message to the tail."""
        message.position = self.next
        self.next += 1
        self.store.put(message)

    def test_first_delta(self) -> None:
        """The first delta of a new store says which range of numbers it uses, even if there is nothing else."""
        store = SQLiteStore()
        delta = store.changelog.extract(10, 10, {"more": 1})
        assert delta is not None
        self.file.apply(delta)
        self.assertEqual(self.file.meta["id_prefix"], store.id_prefix)
        self.assertEqual(self.file.meta["more"], 1)
        self.assertEqual(self.file.meta["starts"], store.next_number // 2**40)
        store.changelog.confirm(delta)
        self.assertIsNone(store.changelog.extract(10, 10, {"more": 2}))
        store.close()

    def test_first_delta_fails(self) -> None:
        """If that was not written, the next one says it."""
        self.store = SQLiteStore()
        self.addCleanup(self.store.close)
        self.store.changelog.restore(self.extract())
        self.mirror()
        self.assertEqual(self.file.meta["id_prefix"], self.store.id_prefix)

    def test_new(self) -> None:
        """A delta brings what is new, once."""
        self.add(b"1")
        self.mirror()
        self.add(b"2")
        delta = self.extract()
        self.assertEqual(delta.changes, 1)
        self.file.apply(delta)
        self.store.changelog.confirm(delta)
        self.assertEqual(self.file.bodies, [b"1", b"2"])
        self.assertIsNone(self.store.changelog.extract(MANY, MANY, {}))
        self.assertEqual(self.store.changelog.pending, 0)

    def test_never_on_disk(self) -> None:
        """What was accepted and settled between two deltas is in none."""
        self.mirror()
        for written in False, True:
            message = self.add()
            if written:
                self.store.write()
            self.store.remove(message.number)
            self.assertEqual(self.mirror(), 0)

    def test_gone(self) -> None:
        """What is settled after it was mirrored is deleted from the file."""
        first, _ = self.add(b"1"), self.add(b"2")
        self.mirror()
        self.store.remove(first.number)
        self.assertEqual(self.store.changelog.pending, 1)
        self.mirror()
        self.assertEqual(self.file.bodies, [b"2"])

    def test_changed(self) -> None:
        """Re-queued, retried and buried messages are changed in the file."""
        first, second, third, _ = (self.add(b"%d" % number) for number in range(1, 5))
        self.mirror()
        self.requeue(first)
        second.attempts = 7
        self.store.retried(second)
        self.store.dead_letter(third, "rejected", "", 2000)
        self.mirror()
        self.assertEqual(self.file.bodies, [b"2", b"4", b"1"])
        self.assertEqual(self.file.messages[second.number][4], 7)
        self.assertEqual([row[-1] for row in self.file.dead.values()], [b"3"])

    def test_purge_of_large_ones(self) -> None:
        """Of large messages a purge forgets fewer at a time, but always one."""
        self.patch(phpmq.store.store, "_PURGED_BYTES", 1000)
        for _ in range(4):
            self.add(b"x" * 600)
        self.add(b"x" * 2000)
        self.queue.flushed_to = self.next - 1
        self.assertEqual([self.store.purge(self.queue, 10) for _ in range(3)], [False, False, True])
        self.assertEqual(self.store.read(self.queue, 0, 10, MANY), [])

    def test_dead_by_index(self) -> None:
        """The dead letters of a queue are found without a look at all others, and without sorting them, also those with a reason."""
        for reason in None, "expired":
            statements: list[str] = []
            self.store._database.set_trace_callback(statements.append)
            self.assertEqual(list(self.store.dead("q", 5, 10, reason)), [])
            self.store._database.set_trace_callback(None)
            plan = self.store._database.execute(f"EXPLAIN QUERY PLAN {statements[0]}").fetchall()
            steps = [step for *_, step in plan if "dead" in step or "TEMP" in step]
            self.assertEqual(len(steps), 1, steps)
            self.assertTrue(steps[0].startswith("SEARCH"), steps[0])
            self.assertIn("queue=? AND reason=?" if reason else "queue=?", steps[0])

    def test_requeued_after_purge(self) -> None:
        """A message that was purged from the store and then re-queued by its consumer is in the file again."""
        for mirror_between in True, False:
            message = self.add(b"back")
            self.mirror()
            self.queue.flushed_to = message.position
            self.store.save_queue(self.queue)
            self.store.purge(self.queue, 10)
            if mirror_between:
                self.mirror()
                self.assertEqual(self.file.bodies, [])
            self.requeue(message)
            self.mirror()
            self.assertEqual(self.file.bodies, [b"back"])
            self.store.remove(message.number)
            self.mirror()
            self.assertEqual(self.file.bodies, [])

    def test_every_retry_is_mirrored(self) -> None:
        """Attempts of very many messages reach the file, if not with the next delta."""
        messages = [self.add(b"%d" % number) for number in range(5000)]
        self.mirror()
        for message in messages:
            message.attempts = 1
            self.store.retried(message)
        for _ in range(5):
            self.mirror()
        self.assertEqual({row[4] for row in self.file.messages.values()}, {1})
        self.assertEqual(self.store.changelog.pending, 0)

    def test_large_changes(self) -> None:
        """However large the messages are that come back or are re-queued at once, a delta holds no more than about its size of them."""
        messages = [self.add(b"x" * 100_000) for _ in range(60)]
        self.mirror()
        for message in messages[:30]:
            self.requeue(message)
        for message in messages[30:]:
            message.attempts = 1
            self.store.retried(message)
        deltas = 0
        more = True
        while more:
            delta = self.store.changelog.extract(MANY, 300_000, {})
            assert delta is not None
            self.assertLess(len(delta.image), 500_000)
            deltas += 1
            self.file.apply(delta)
            self.store.changelog.confirm(delta)
            more = delta.more
        self.assertGreaterEqual(deltas, 20)
        self.assertEqual(self.store.changelog.pending, 0)
        self.assertEqual([self.file.messages[message.number][1] for message in messages], [message.position for message in messages])
        self.assertEqual([row[4] for row in self.file.messages.values()].count(1), 30)

    def test_restore(self) -> None:
        """After a write that failed the next delta holds all of it, with what happened since."""
        gone, gone_later, changed, changed_gone = (self.add(b"%d" % number) for number in range(4))
        dropped_before = self.store.create_queue("dropped before")
        self.mirror()
        self.store.drop_queue(dropped_before)
        self.store.remove(gone.number)
        self.requeue(changed)
        self.requeue(changed_gone)
        new, new_gone, new_changed = (self.add(b"new%d" % number) for number in range(3))
        dropped = self.store.create_queue("dropped")
        delta = self.extract()
        # While the thread writes, in vain:
        self.store.remove(gone_later.number)
        self.store.remove(changed_gone.number)
        self.store.remove(new_gone.number)
        self.requeue(new_changed)
        self.store.drop_queue(dropped)
        self.store.changelog.restore(delta)
        self.mirror()
        self.assertEqual(self.file.bodies, [b"2", b"new0", b"new2"])
        self.assertEqual(new.body, b"new0")
        self.assertEqual(self.file.messages[changed.number][1], changed.position)
        self.assertEqual([row[0] for row in self.file.queues.values()], ["q"])
        self.assertEqual(self.store.changelog.pending, 0)

    def test_changes_during_a_write(self) -> None:
        """What happens to a message while the delta that holds it is written is in the next one."""
        new_gone, new_changed, new_buried = (self.add(b"%d" % number) for number in range(3))
        delta = self.extract()
        self.store.remove(new_gone.number)
        self.requeue(new_changed)
        self.store.dead_letter(new_buried, "rejected", "", 1)
        self.file.apply(delta)
        self.store.changelog.confirm(delta)
        self.assertEqual(self.file.bodies, [b"0", b"1", b"2"])
        self.mirror()
        self.assertEqual(self.file.bodies, [b"1"])
        self.assertEqual(self.file.messages[new_changed.number][1], new_changed.position)
        self.assertEqual(list(self.file.dead), [new_buried.number])

    def test_failed_extract(self) -> None:
        """A delta that cannot be made loses nothing either."""
        message = self.add(b"1")
        self.mirror()
        self.store.remove(message.number)
        self.add(b"2")
        with self.assertRaises(sqlite3.Error):
            self.store.changelog.extract(MANY, MANY, {"bad": object()})
        self.mirror()
        self.assertEqual(self.file.bodies, [b"2"])

    def test_bounded_by_count(self) -> None:
        """A delta holds about as many messages as asked for, in order; the rest follows."""
        for number in range(10_000):
            self.add(b"%d" % number)
        sizes = []
        while (delta := self.store.changelog.extract(1000, MANY, {})) is not None:
            sizes.append(delta.changes)
            self.file.apply(delta)
            self.store.changelog.confirm(delta)
            self.assertEqual(self.file.bodies, [b"%d" % number for number in range(sum(sizes))])
        self.assertEqual(sum(sizes), 10_000)
        self.assertLessEqual(max(sizes), 1000 + 2048)

    def test_bounded_by_size(self) -> None:
        """A delta holds about as many bytes as asked for."""
        body = b"x" * 10_000
        for _ in range(1000):
            self.add(body)
        delta = self.extract(size=1_000_000)
        self.assertLessEqual(delta.changes, 100 + 205)
        self.store.changelog.confirm(delta)

    def test_bounded_gone(self) -> None:
        """So many messages at most are deleted by one delta, and their queue goes with the last of them."""
        messages = [self.add() for _ in range(10)]
        self.mirror()
        for message in messages:
            self.store.remove(message.number)
        self.store.drop_queue(self.queue)
        left = []
        while (delta := self.store.changelog.extract(4, MANY, {})) is not None:
            self.file.apply(delta)
            self.store.changelog.confirm(delta)
            left.append((len(self.file.messages), len(self.file.queues)))
        self.assertEqual(left, [(6, 1), (2, 1), (0, 0)])

    def test_queue_leaves_last(self) -> None:
        """A queue's row leaves the file only with the last of its messages that go, die or move: it is needed to read them."""
        messages = [self.add() for _ in range(6)]
        self.mirror()
        other = self.store.create_queue("other")
        for message in messages[:2]:
            self.store.remove(message.number)
        for message in messages[2:4]:
            self.store.dead_letter(message, "rejected", "", 1)
        for message in messages[4:]:
            message.queue = other
            self.requeue(message)
        self.store.drop_queue(self.queue)
        of_queue = 6
        while of_queue:
            delta = self.extract(count=1)
            self.file.apply(delta)
            self.store.changelog.confirm(delta)
            of_queue = sum(row[0] == self.queue.number for row in self.file.messages.values())
            if of_queue:
                self.assertIn(self.queue.number, self.file.queues)
        self.mirror()
        self.assertEqual(list(self.file.queues), [other.number])

    def test_buffered_writes_are_seen(self) -> None:
        """Every read sees what is in the write buffer and not written yet."""
        other = self.store.create_queue("other")
        message = self.add(b"1")
        self.assertEqual(len(self.store.read(self.queue, 0, 1, 1)), 1)
        self.requeue(message)
        message.expires = 2000
        self.assertEqual(len(self.store.expired(2000, 1)), 1)
        self.add(b"2", other)
        self.assertEqual({record.name: count for record, count, *_ in self.store.queues()}, {"q": 1, "other": 1})
        late = self.add(b"3", other)
        other.flushed_to = late.position
        self.assertTrue(self.store.purge(other, 10))
        self.assertEqual(self.store.read(other, 0, MANY, MANY), [])
        self.add(b"4")
        self.assertEqual(self.extract().changes, 2)

    def test_buffer_is_bounded(self) -> None:
        """Neither many small nor few large messages are buffered without end."""
        for count, size in (10_000, 1), (20, 1_000_000):
            before = len(self.store._buffer._added)
            for _ in range(count):
                self.add(b"x" * size)
                self.assertLess(len(self.store._buffer._added) - before, 4000)
                self.assertLess(sum(len(message.body) for message in self.store._buffer._added.values()), 3_000_000)

    def test_numbers_never_reused(self) -> None:
        """A start uses numbers above all that any start before it used or may have used, although the messages are gone."""
        seen: set[int] = set()
        meta: dict[str, Any] = {}
        for _ in range(5):
            database = sqlite3.connect(":memory:", isolation_level=None)
            upgrade(database)
            database.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            store = SQLiteStore(database)
            delta = store.changelog.extract(1, 1, {})
            assert delta is not None
            self.file.apply(delta)
            meta = self.file.meta
            self.assertTrue(all(number < store.next_number for number in seen))
            # A crash after so many messages, none of which reached the file.
            seen.update({store.next_number, store.next_number + 2**39})
            self.assertEqual(meta["id_prefix"], store.id_prefix)
            store.close()
        self.assertEqual(len(seen), 10)

    def test_numbers_above_the_files(self) -> None:
        """Should the file's meta be behind its messages, numbers still start above them."""
        database = sqlite3.connect(":memory:", isolation_level=None)
        upgrade(database)
        database.execute("INSERT INTO message VALUES (?, 1, 5, 0, NULL, 0, 0, 'x')", (2**45 + 5,))
        store = SQLiteStore(database)
        self.assertGreater(store.next_number, 2**45 + 5)
        store.close()

    def test_queue_numbers_never_reused(self) -> None:
        """A queue's number is not given again after it was dropped, also by a later start."""
        self.store.drop_queue(self.queue)
        self.mirror()
        database = sqlite3.connect(":memory:", isolation_level=None)
        upgrade(database)
        database.executemany("INSERT INTO meta VALUES (?, ?)", self.file.meta.items())
        store = SQLiteStore(database)
        self.assertGreater(store.create_queue("q").number, self.queue.number)
        store.close()

    def test_rows_carry_their_checksum(self) -> None:
        """Each row in the file has the checksum of what it holds, also after a retry and a re-queue."""
        new, retried, requeued = (self.add(b"%d" % number) for number in range(3))
        self.mirror()
        retried.attempts = 2
        self.store.retried(retried)
        self.requeue(requeued)
        self.mirror()
        self.assertIn(new.number, self.file.messages)
        for number, (queue, position, accepted, expires, attempts, crc, body) in self.file.messages.items():
            self.assertEqual(crc, checksum(number, queue, position, accepted, expires, attempts, body))

    def test_retried_then_changed(self) -> None:
        """Attempts that are not written yet are not written to a row that was changed since: its checksum would be wrong."""
        for change in "put", "dead":
            old = self.add()
            self.mirror()
            old.attempts = 1
            self.store.retried(old)
            new = Message(old.number, self.queue, self.next, 1000, 0, 5, b"new")
            self.next += 1
            if change == "put":
                self.store.put(new)
            else:
                self.store.dead_letter(new, "rejected", "", 1)
                [dead] = self.store.dead()
                new = self.store.replay(dead, self.queue, new.position)
            self.mirror()
            queue, position, accepted, expires, attempts, crc, body = self.file.messages[old.number]
            self.assertEqual((position, attempts, body), (new.position, new.attempts, b"new"))
            self.assertEqual(crc, checksum(old.number, queue, position, accepted, expires, attempts, body))

    def producers(self) -> set[tuple[bytes, int]]:
        """Producers and their numbers in the file, after it was brought up to date."""
        self.mirror()
        return {(name, row[0]) for name, row in self.file.producers.items()}

    def test_producers(self) -> None:
        """A producer's number is in the same delta as the message that was added next, until it is dropped."""
        self.store.save_producer(b"a", 1, 1000)
        self.add()
        self.store.write()
        self.store.save_producer(b"a", 2, 2000)
        self.store.save_producer(b"b", 7, 2000)
        self.add()
        delta = self.extract(1)
        self.file.apply(delta)
        self.store.changelog.confirm(delta)
        self.assertEqual((len(self.file.messages), self.file.producers), (1, {b"a": (1, 1000)}))
        self.assertEqual(self.producers(), {(b"a", 2), (b"b", 7)})
        self.store.drop_producer(b"a")
        self.assertEqual(self.producers(), {(b"b", 7)})

    def test_no_less_after_a_failed_write(self) -> None:
        """What follows a write that failed has all of it, however small it is to be: it may have got to the file all the same."""
        for number in 1, 2:
            self.store.save_producer(b"a", number, 1000)
            last = self.add(b"%d" % number)
            self.store.write()
        delta = self.extract()
        self.file.apply(delta)
        self.store.changelog.restore(delta)
        self.requeue(last)
        self.add(b"3")
        delta = self.extract(1)
        self.file.apply(delta)
        self.store.changelog.confirm(delta)
        self.assertEqual((self.file.bodies, self.file.producers), ([b"1", b"2"], {b"a": (2, 1000)}))
        self.assertTrue(delta.more)

    def test_dropped_producer(self) -> None:
        """One that is dropped before its number got to the file does not come back, also if the write fails in which it would go."""
        for fails in False, True:
            self.store.save_producer(b"a", 5, 1000)
            self.add()
            self.store.drop_producer(b"a")
            if fails:
                self.store.changelog.restore(self.extract())
            self.assertEqual(self.producers(), set())
            self.store.save_producer(b"a", 1, 2000)
            self.assertEqual(self.producers(), {(b"a", 1)})
            self.store.drop_producer(b"a")
            self.assertEqual(self.producers(), set())

    def test_requested_sync(self) -> None:
        """Who asks for a sync gets C{mirrored} up to the latest number, although its message is gone; who does not may wait."""
        self.mirror()
        for asks in False, True:
            message = self.add()
            if asks:
                self.store.request_sync()
            self.store.remove(message.number)
            self.mirror()
            self.assertEqual(self.store.mirrored, message.number if asks else self.next - 2)
        self.assertEqual(self.store.latest, self.store.mirrored)
        self.assertIsNone(self.store.changelog.extract(MANY, MANY, {}))

    def test_put_is_bounded(self) -> None:
        """Neither many small nor few large messages that are put are buffered without end."""
        for count, size in (5000, 1), (20, 300_000):
            messages = [self.add(b"x" * size) for _ in range(count)]
            self.store.write()
            for message in messages:
                self.requeue(message)
                self.assertLess(len(self.store._buffer._put), 2048)
                self.assertLess(sum(len(message.body) for message in self.store._buffer._put.values()), 1024 * 1024)

    def test_removed_is_bounded(self) -> None:
        """Very many messages that are removed are deleted in parts."""
        for message in [self.add() for _ in range(5000)]:
            self.store.remove(message.number)
            self.assertLess(len(self.store._buffer._removed), 2048)
        self.assertEqual(self.store.read(self.queue, 0, MANY, MANY), [])

    def test_retried_then_dead(self) -> None:
        """Attempts that were not written when a message died do not come back with it when it is replayed."""
        message = self.add()
        self.store.write()
        message.attempts = 3
        self.store.retried(message)
        self.store.dead_letter(message, "rejected", "", 1)
        (dead,) = self.store.dead()
        self.store.replay(dead, self.queue, self.next)
        self.assertEqual([found.attempts for found in self.store.read(self.queue, 0, MANY, MANY)], [0])

    def test_producer_used_again(self) -> None:
        """A producer that is used again before the file is told that it is gone is not gone."""
        self.store.drop_producer(b"a")
        self.store.save_producer(b"a", 1, 1000)
        delta = self.extract()
        self.assertEqual((delta.producers, delta.gone_producers), ({b"a": (1, 1000)}, set()))

    def test_delayed_when_put(self) -> None:
        """The first properties of a store may come with a message that is put."""
        message = self.add()
        self.store.write()
        message.properties, message.position = Properties(5000), -message.position
        self.store.put(message)
        self.assertEqual(self.store.next_due(), 5000)

    def test_removed_in_any_order(self) -> None:
        """Messages that are removed out of order are deleted, and only those."""
        messages = [self.add(b"%d" % number) for number in range(8)]
        self.store.write()
        for place in 5, 1, 3, 2, 7:
            self.store.remove(messages[place].number)
        self.assertEqual([message.body for message in self.store.read(self.queue, 0, MANY, MANY)], [b"0", b"4", b"6"])

    def test_flush_tells_what_is_left(self) -> None:
        """Of very many retried messages a part is written at a time, and the log knows how many are left."""
        messages = [self.add() for _ in range(3000)]
        self.mirror()
        for message in messages:
            self.store.retried(message)
        self.assertEqual(self.store.write(), 3000 - 2048)
        self.assertEqual(self.store.write(), 0)

    def test_loaded(self) -> None:
        """A store that starts from a database finds messages with properties, keys and producers in it."""
        database = sqlite3.connect(":memory:", isolation_level=None)
        upgrade(database)
        database.execute("INSERT INTO queue (number, name, revision, flushed, paused) VALUES (3, 'q', 0, 0, 0)")
        database.execute("INSERT INTO key VALUES (5, 3, 1000, 'a')")
        database.execute("INSERT INTO producer VALUES (x'61', 7, 1000)")
        store = SQLiteStore(database)
        self.addCleanup(store.close)
        ((queue, *_),) = store.queues()
        self.assertEqual((store.keys(), store.find(queue, "a", 1000), store.producers()), ({3: (1, 1)}, 5, [(b"a", 7, 1000)]))
        self.assertEqual(store.create_queue("r").number, 4)

    def test_schema_version(self) -> None:
        """There is a schema file for every version up to the newest."""
        for version in range(1, SCHEMA_VERSION + 1):
            self.assertIn("CREATE TABLE" if version == 1 else "", schema(f"{version:03}"))


class ChangeLogTests(SynchronousTestCase):
    """What L{ChangeLog} promises to the mirror, without a store."""

    def setUp(self) -> None:
        database = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(database.close)
        upgrade(database)
        self.log = ChangeLog(database, 0, 1, {})
        self.queue = QueueRecord(1, "q")
        self.log.note_queue(1)
        self.log.note_batch(Batch(10, 10, 1000, {}))
        self.confirmed()

    def extract(self, count: int = MANY, size: int = MANY) -> Delta:
        """A delta that has to be there."""
        delta = self.log.extract(count, size, {})
        assert delta is not None
        return delta

    def confirmed(self, count: int = MANY, size: int = MANY) -> Delta:
        """A delta that is in the file now."""
        delta = self.extract(count, size)
        self.log.confirm(delta)
        return delta

    def change(self, *numbers: int) -> None:
        """Note messages of 100 bytes that changed."""
        for number in numbers:
            self.log.note_changed(Message(number, self.queue, number, 1000, 0, 0, b"x" * 100))

    def idle(self) -> None:
        """There is nothing left that the file lacks."""
        self.assertEqual((self.log.pending, self.log.extract(MANY, MANY, {})), (0, None))

    def test_changed_after_it_was_gone(self) -> None:
        """A purged message that its consumer re-queues is not deleted from the file, whichever delta it comes with; nor the reverse."""
        self.log.note_gone([1, 2])
        self.change(1)
        delta = self.confirmed()
        self.assertEqual((delta.gone, set(delta.changed)), ({2}, {1}))
        self.change(3, 4)
        self.log.note_gone([3])
        delta = self.confirmed()
        self.assertEqual((delta.gone, set(delta.changed)), ({3}, {4}))

    def test_queue_after_its_messages(self) -> None:
        """A queue's row leaves the file only with the last of its messages and keys that go, move or die."""
        for note in self.log.note_gone, self.log.note_gone_keys, lambda numbers: self.change(*numbers):
            note([1, 2, 3])
            self.log.note_gone_queue(self.queue)
            found = []
            more = True
            while more:
                delta = self.confirmed(2)
                found.append(list(delta.gone_queues))
                more = delta.more
            self.assertEqual(found, [[], ["q"]])
            self.idle()

    def taken_back(self) -> tuple[int, int, int, int] | None:
        """What is known of the queue that is taken back."""
        queue = self.log.take_back_queue("q")
        return None if queue is None else (queue.number, queue.flushed_to, queue.keys_forgotten_to, queue.paused)

    def test_gone_queue_keeps_its_marks(self) -> None:
        """A queue that is taken back while the file may have it is the same: its number, and what was flushed and forgotten."""
        gone, back = QueueRecord(1, "q", flushed_to=7, keys_forgotten_to=5, paused=3), (1, 7, 5, 0)
        self.log.note_gone_queue(gone)
        self.assertEqual([self.taken_back(), self.taken_back()], [back, None])
        self.log.note_gone_queue(gone)
        delta = self.extract()
        self.assertEqual(self.taken_back(), back)
        self.log.restore(delta)
        self.assertEqual([self.taken_back(), self.taken_back()], [back, None])
        self.log.note_gone_queue(gone)
        self.confirmed()
        self.assertIsNone(self.taken_back())

    def test_queue_never_extracted(self) -> None:
        """The file is not told of a queue that came and went between two deltas; its number is not given again."""
        self.log.note_queue(2)
        self.log.note_gone_queue(QueueRecord(2, "r"))
        self.idle()
        self.assertEqual(self.log.next_queue, 3)

    def test_keeps_flushed(self) -> None:
        """While changed messages are left, each delta keeps the queue's flushed position in the file, and its row is written again."""
        self.change(1, 2, 3)
        self.log.note_queue(1)
        deltas = [self.confirmed(2), self.confirmed(2)]
        self.assertEqual([(delta.keeps_flushed, delta.queues) for delta in deltas], [(True, {1}), (False, {1})])
        self.idle()

    def test_changed_by_size(self) -> None:
        """A delta takes changed messages until they reach its size, but always one."""
        self.change(1, 2, 3, 4)
        self.assertEqual([list(self.confirmed(MANY, size).changed) for size in (101, 1, 100)], [[1, 2], [3], [4]])

    def test_restore(self) -> None:
        """After a failure all that a delta held is in the next one."""
        self.log.note_gone([1])
        self.change(2)
        self.log.note_gone_keys([3])
        self.log.note_queue(2)
        self.log.note_gone_queue(self.queue)
        self.log.note_gone_producer(b"a")
        self.log.note_batch(Batch(12, 2, 200, {b"b": (7, 1000)}))
        for _ in range(3):
            delta = self.extract()
            self.assertEqual((delta.upto, delta.gone, delta.changed, delta.gone_keys, delta.changes), (12, {1}, {2: 100}, {3}, 3))
            self.assertEqual((delta.queues, list(delta.gone_queues)), ({2}, ["q"]))
            self.assertEqual((delta.producers, delta.gone_producers), ({b"b": (7, 1000)}, {b"a"}))
            self.log.restore(delta)
            self.assertEqual((self.log.mirrored, self.log.pending), (10, 8))
        self.confirmed()
        self.assertEqual(self.log.mirrored, 12)
        self.idle()

    def test_restore_meta(self) -> None:
        """After a failure the values of meta are due again, although nothing else changed."""
        self.log.note_meta()
        self.log.restore(self.extract())
        self.confirmed()
        self.idle()

    def test_restore_after_changes(self) -> None:
        """What happened to a message during a write that failed is newer than what the delta held."""
        self.log.note_gone([1])
        self.change(2)
        delta = self.extract()
        self.change(1)
        self.log.note_gone([2])
        self.log.restore(delta)
        delta = self.confirmed()
        self.assertEqual((delta.gone, delta.changed), ({2}, {1: 100}))

    def test_last_word(self) -> None:
        """A message that changed and then went is gone, one that went and was put again is changed, and neither is both."""
        self.change(1)
        self.log.note_gone([1, 2])
        self.change(2)
        delta = self.confirmed()
        self.assertEqual((delta.gone, delta.changed), ({1}, {2: 100}))

    def test_queue_before_the_first_delta(self) -> None:
        """A queue that came and went before the first delta is in none."""
        log = ChangeLog(self.log._database, 0, 1, {})
        log.note_queue(1)
        log.note_gone_queue(self.queue)
        self.assertEqual(log.pending, 0)

    def test_restore_queues(self) -> None:
        """What happened to a queue during a write that failed is newer than what the delta held."""
        self.log.note_queue(2)
        self.log.note_gone_queue(self.queue)
        delta = self.extract()
        self.log.note_queue(1)
        self.log.note_gone_queue(QueueRecord(2, "r"))
        self.log.restore(delta)
        delta = self.confirmed()
        self.assertEqual((delta.queues, list(delta.gone_queues)), ({1}, ["r"]))

    def test_restore_producers(self) -> None:
        """A producer that is used again during a write that failed stays, also if that is in the write buffer only."""
        self.log.note_gone_producer(b"a")
        delta = self.extract()

        def flush() -> int:
            self.log.note_batch(Batch(11, 0, 0, {b"a": (1, 1000)}))
            return 0

        self.log.flush = flush
        self.log.restore(delta)
        self.log.flush = lambda: 0
        delta = self.confirmed()
        self.assertEqual((delta.producers, delta.gone_producers), ({b"a": (1, 1000)}, set()))

    def test_no_less_after_a_failure(self) -> None:
        """After a failure no delta reaches less far than the failed one, which may be in the file all the same, however small it is."""
        for upto in 11, 12, 13:
            self.log.note_batch(Batch(upto, 1, 100, {b"a": (upto, 1000)}))
        self.log.restore(self.extract(2))
        self.log.note_batch(Batch(14, 1, 100, {}))
        deltas = [self.confirmed(1) for _ in range(3)]
        self.assertEqual([(delta.upto, delta.more) for delta in deltas], [(12, True), (13, True), (14, False)])
        self.idle()

    def test_known_after_a_failure(self) -> None:
        """What changes or goes after a failure is noted: the failed delta may have brought it to the file."""
        self.log.note_batch(Batch(12, 2, 200, {}))
        self.log.restore(self.extract())
        self.change(11)
        self.log.note_gone([12])
        self.log.note_gone_keys([12])
        delta = self.confirmed()
        self.assertEqual((delta.changed, delta.gone, delta.gone_keys), ({11: 100}, {12}, {12}))

    def test_unknown(self) -> None:
        """The file is not told of messages that no delta ever held."""
        self.change(11)
        self.log.note_gone([11])
        self.log.note_gone_keys([11])
        self.idle()
        self.change(10)
        self.log.note_gone_keys([10])
        self.assertEqual(self.log.pending, 2)

    def test_producer_with_its_messages(self) -> None:
        """A producer's number is in the delta that has the messages of its batch, and in none before."""
        self.log.note_batch(Batch(11, 1, 100, {b"a": (1, 1000)}))
        self.log.note_batch(Batch(12, 1, 100, {b"a": (2, 1001), b"b": (5, 1001)}))
        deltas = [self.confirmed(1), self.confirmed(1)]
        found = [(delta.upto, delta.producers) for delta in deltas]
        self.assertEqual(found, [(11, {b"a": (1, 1000)}), (12, {b"a": (2, 1001), b"b": (5, 1001)})])

    def test_forgotten_producer(self) -> None:
        """A producer that is forgotten is in no delta to come but as gone; one that is used again is not gone."""
        self.log.note_batch(Batch(11, 1, 100, {b"a": (1, 1000)}))
        self.log.note_gone_producer(b"a")
        self.assertEqual(self.log.pending, 2)
        delta = self.confirmed()
        self.assertEqual((delta.producers, delta.gone_producers), ({}, {b"a"}))
        self.log.note_gone_producer(b"a")
        self.log.note_used_producer(b"a")
        self.idle()

    def test_joined_batches(self) -> None:
        """Very many batches are put together in pairs, and nothing of them is lost."""
        self.patch(phpmq.store.changelog, "_BATCHES", 4)
        for upto in range(11, 16):
            self.assertEqual(len(self.log._batches), upto - 11)
            self.log.note_batch(Batch(upto, 1, 100, {b"a": (upto, 1000), b"%d" % upto: (1, 1000)}))
        self.assertEqual([batch[:3] for batch in self.log._batches], [(12, 2, 200), (14, 2, 200), (15, 1, 100)])
        delta = self.confirmed(3)
        self.assertEqual((delta.upto, delta.more, set(delta.producers)), (14, True, {b"a", b"11", b"12", b"13", b"14"}))
        self.assertEqual(delta.producers[b"a"], (14, 1000))
        self.assertEqual(self.log.pending, 1)

    def test_more(self) -> None:
        """A delta says that there is more while anything is left, also in the write buffer."""
        self.log.note_meta()
        self.assertFalse(self.confirmed().more)
        for note in self.log.note_gone, self.log.note_gone_keys, lambda numbers: self.change(*numbers):
            note([1, 2])
            self.assertEqual([self.confirmed(1).more, self.confirmed(1).more], [True, False])
        self.log.flush = lambda: 3
        self.log.note_meta()
        self.assertTrue(self.confirmed().more)
        self.assertEqual(self.log.pending, 3)

    def test_nothing_but(self) -> None:
        """Each kind of change makes a delta by itself."""
        for note in (
            lambda: self.log.note_batch(Batch(11, 0, 0, {})),
            lambda: self.log.note_gone([1]),
            lambda: self.change(1),
            lambda: self.log.note_gone_keys([1]),
            lambda: self.log.note_queue(1),
            lambda: self.log.note_gone_queue(self.queue),
            lambda: self.log.note_gone_producer(b"a"),
            self.log.note_meta,
        ):
            note()
            self.confirmed()
            self.idle()


class ChecksumTests(SynchronousTestCase):
    """L{checksum} finds flipped bits."""

    def test_as_before(self) -> None:
        """The checksum of a row is what it always was: with another one, all messages of older files would be damaged."""
        self.assertEqual(checksum(2**40 + 9, 3, 2**40 + 11, 1_700_000_000_000, 1_700_000_060_000, 2, b"body"), 1560124112)
        self.assertEqual(checksum(9, 3, -9, 1, None, 0, b""), 4269799140)

    @given(st.lists(st.integers(0, 2**62), min_size=6, max_size=6), st.binary(min_size=1, max_size=20), st.data())
    def test_single_bits(self, numbers: list[int], body: bytes, data: st.DataObject) -> None:
        """No flipped bit of a column or of the body leaves the checksum as it was."""
        before = _checksum(numbers, body)
        bit = data.draw(st.integers(0, len(body) * 8 - 1))
        flipped = (int.from_bytes(body, "big") ^ 1 << bit).to_bytes(len(body), "big")
        self.assertNotEqual(before, _checksum(numbers, flipped))
        numbers[data.draw(st.integers(0, 5))] ^= 1 << data.draw(st.integers(0, 62))
        self.assertNotEqual(before, _checksum(numbers, body))


def _checksum(numbers: list[int], body: bytes) -> int:
    number, queue, position, accepted, expires, attempts = numbers
    return checksum(number, queue, position, accepted, expires, attempts, body)
