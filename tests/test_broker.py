"""What a queue does: every rule of docs/reference/semantics.md that is the broker's to keep, by its number."""

from __future__ import annotations

import os
from itertools import pairwise
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import phpmq.broker.broker
import phpmq.broker.queue
from phpmq.broker import DELIVERIES, SENDS, Broker
from phpmq.errors import BadName, MemoryFull, QueueFull, UnknownId
from phpmq.interfaces import IChannel, IPeer
from phpmq.message import MESSAGE_OVERHEAD, DeadMessage, Properties
from phpmq.mirror import StoreFile
from phpmq.store import SQLiteStore
from phpmq.store.rows import scalar
from tests.doubles import DictStore, RecordingPeer

MANY = 2**31


def bodies(*numbers: int) -> list[bytes]:
    """Bodies as L{BrokerTestCase.send} numbers them."""
    return [b"%d" % number for number in numbers]


class BrokerTestCase(SynchronousTestCase):
    """A broker, a clock that stands still, and a file for those who restart."""

    memory_limit = 2**62

    def setUp(self) -> None:
        self.time = 1_700_000_000_000
        self.woken = False
        self.file: StoreFile | None = None
        self.start(SQLiteStore())

    def start(self, store: SQLiteStore) -> None:
        """A broker over a store."""
        self.store = store
        self.broker = Broker(store, lambda: self.time, self.memory_limit, wake=self.wake)
        self.broker.dispatch()
        self.settle()

    def wake(self) -> None:
        """The broker wants a dispatch soon."""
        self.woken = True

    def settle(self) -> None:
        """Let the broker do all that it wants to do now."""
        while self.woken:
            self.woken = False
            self.broker.dispatch()

    def restart(self) -> None:
        """Write everything to a file, and start again from what is there."""
        if self.file is None:
            folder = TemporaryDirectory()
            self.addCleanup(folder.cleanup)
            self.path = os.path.join(folder.name, "phpmq.db")
            self.file = StoreFile(self.path)
            self.file.open()[0].close()
        while (delta := self.store.changelog.extract(MANY, MANY, {})) is not None:
            self.file.apply(delta)
            self.store.changelog.confirm(delta)
        self.crash()

    def crash(self) -> None:
        """Start again from what was in the file at the last L{restart}."""
        assert self.file is not None
        self.store.close()
        self.file.close()
        self.file = StoreFile(self.path)
        memory, damaged = self.file.open()
        self.assertEqual(damaged, 0)
        self.start(SQLiteStore(memory))

    def rows(self) -> int:
        """How many messages the store has."""
        self.store.write()
        return scalar(self.store._database, "SELECT count(*) FROM message") or 0

    def tearDown(self) -> None:
        self.store.close()
        if self.file is not None:
            self.file.close()

    def send(self, *numbers: int, queue: str = "q", ttl: int = 0) -> None:
        """Send messages whose bodies are numbers."""
        for number in numbers:
            self.broker.publish(queue, b"%d" % number, ttl)
        self.settle()

    def consumer(self, window: int, *queues: str, output: int = 0) -> RecordingPeer:
        """A client that consumes, the queue C{q} if none is named."""
        peer = RecordingPeer(self.broker, output)
        for queue in queues or ["q"]:
            peer.channel.consume(queue, window)
        self.settle()
        return peer

    def ack(self, peer: RecordingPeer, *numbers: int) -> None:
        """Acknowledge; all that the peer holds if nothing is named."""
        peer.ack(*bodies(*numbers))
        self.settle()

    def requeue(self, peer: RecordingPeer, number: int, ttl: int = 0) -> None:
        """Re-queue a message."""
        peer.channel.requeue(None, peer.take(b"%d" % number), ttl)
        self.settle()

    def drop(self, peer: RecordingPeer) -> None:
        """The client is gone."""
        peer.channel.close()
        self.settle()

    def sweep(self) -> None:
        """What happens once a second."""
        while not self.broker.sweep():
            pass
        self.settle()

    def dead(self, peer: RecordingPeer, number: int) -> None:
        """Reject a message."""
        peer.channel.dead_letter(None, peer.take(b"%d" % number))
        self.settle()

    def drain(self, queue: str = "q") -> list[bytes]:
        """Take and acknowledge all that waits in a queue."""
        peer = self.consumer(1, queue)
        while peer.held:
            self.ack(peer)
        self.drop(peer)
        return peer.got

    def ready(self, queue: str = "q") -> int:
        """How many messages wait; -1 if there is no such queue."""
        return self.broker.queues[queue].ready if queue in self.broker.queues else -1


class SeamTests(BrokerTestCase):
    """The seam between broker and client."""

    def test_interfaces(self) -> None:
        """Channels and the double provide what they say."""
        peer = RecordingPeer(self.broker)
        self.assertTrue(verifyObject(IPeer, peer))
        self.assertTrue(verifyObject(IChannel, peer.channel))

    def test_any_store(self) -> None:
        """The broker needs nothing of its store but L{IStore}."""
        self.broker = Broker(DictStore(), lambda: self.time, wake=self.wake)
        peer = self.consumer(2)
        self.send(1, 2, 3, 4)
        self.requeue(peer, 1)
        self.drop(peer)
        self.assertEqual(self.broker.queues.flush("q"), (4, 0))
        self.settle()
        self.assertEqual(self.broker.queues, {})

    def test_odd_arguments(self) -> None:
        """Code of the same process that sends something odd cannot spoil what others sent before."""
        self.send(1)
        self.assertRaises(TypeError, self.broker.publish, "q", "text")
        self.broker.publish("q", b"half a second", ttl=1500.5)  # type: ignore[arg-type]
        peer = self.consumer(2)
        self.assertEqual(peer.bodies, [b"1", b"half a second"])
        peer.channel.requeue(None, peer.held[-1].id, 1500.5)  # type: ignore[arg-type]
        self.settle()
        self.store.write()

    def test_facts_of_a_delivery(self) -> None:
        """A delivery carries its queue, its body, when it was accepted and expires, and an id of 32 hexadecimal digits."""
        peer = self.consumer(1)
        self.send(1, ttl=500)
        (message,) = peer.held
        self.assertEqual((message.queue.name, message.body), ("q", b"1"))
        self.assertEqual((message.accepted, message.expires), (self.time, self.time + 500))
        self.assertRegex(message.id, rb"\A[0-9a-f]{32}\Z")

    def test_ids_are_distinct(self) -> None:
        """No two messages have the same id, also over queues and restarts."""
        ids: set[bytes] = set()
        for _ in range(3):
            for queue in "a", "b":
                self.send(1, 2, queue=queue)
            peer = self.consumer(10, "a", "b")
            ids.update(message.id for message in peer.held)
            self.ack(peer)
            self.restart()
        self.assertEqual(len(ids), 12)

    def test_turn(self) -> None:
        """What is called between begin and end is one turn: deliveries and one flush at its end."""
        peer = RecordingPeer(self.broker)
        self.broker.begin()
        peer.channel.consume("q", 10)
        for number in range(5):
            peer.channel.publish("q", b"%d" % number, 0)
        self.assertEqual(peer.got, [])
        self.broker.end()
        self.assertEqual(peer.got, bodies(0, 1, 2, 3, 4))
        self.assertEqual(peer.flushed, [5])

    def test_wake(self) -> None:
        """Outside of a turn the broker asks for a dispatch whenever there is something to deliver, and only then."""
        peer = RecordingPeer(self.broker)
        self.broker.publish("q", b"1")
        self.assertFalse(self.woken)
        peer.channel.consume("q", 1)
        self.assertTrue(self.woken)
        self.settle()
        self.broker.publish("q", b"2")
        self.assertFalse(self.woken)
        peer.ack()
        self.assertTrue(self.woken)
        self.settle()
        self.assertEqual(peer.bodies, [b"2"])

    def test_wake_for_an_answer(self) -> None:
        """An answer outside of a turn wakes the broker, which has the peer flush it; inside of one it is flushed at the end."""
        peer = RecordingPeer(self.broker)
        peer.channel.hello(b"1", None)
        self.assertTrue(self.woken)
        self.assertEqual((len(peer.receipts), peer.flushed), (1, []))
        self.settle()
        self.assertEqual(peer.flushed, [0])
        self.broker.begin()
        peer.channel.hello(b"2", None)
        peer.channel.hello(b"3", None)
        self.assertFalse(self.woken)
        self.broker.end()
        self.assertEqual((peer.flushed, self.woken), ([0, 0], False))


class QueueLifeTests(BrokerTestCase):
    """Rule 1: a queue exists as long as somebody would miss it."""

    def test_send_makes_it(self) -> None:
        """The first send that names a queue makes it."""
        self.send(1)
        self.assertEqual(list(self.broker.queues), ["q"])

    def test_consume_makes_it(self) -> None:
        """So does the first consume."""
        self.consumer(1)
        self.assertEqual(list(self.broker.queues), ["q"])

    def test_bad_names(self) -> None:
        """No queue has a name that none may have."""
        peer = RecordingPeer(self.broker)
        for name in "", "a\x00", "a\n", "\x7f", "\x85", "\u2028", "x" * 256, "\u00e9" * 128, "\ud800":
            with self.assertRaises(BadName):
                peer.channel.publish(name, b"", 0)
            with self.assertRaises(BadName):
                peer.channel.consume(name, 1)
        self.assertEqual(self.broker.queues, {})

    def test_goes_when_empty(self) -> None:
        """An empty queue without consumers goes away, when the last acknowledgement or the last consumer goes, in any order."""
        self.send(1)
        self.drain()
        self.assertEqual(self.broker.queues, {})
        peer = self.consumer(1)
        self.send(1)
        peer.channel.consume("q", 0)
        self.assertEqual(list(self.broker.queues), ["q"])
        self.ack(peer)
        self.assertEqual(self.broker.queues, {})
        peer.channel.consume("q", 5)
        peer.channel.consume("q", 0)
        self.assertEqual(self.broker.queues, {})
        self.assertEqual(peer.channel.consumers, {})

    def test_goes_when_expired(self) -> None:
        """A queue goes away with its last message, also when that expires."""
        self.send(1, ttl=10)
        self.time += 10
        self.sweep()
        self.assertEqual(self.broker.queues, {})

    def test_goes_when_dead(self) -> None:
        """A queue goes away although dead messages of it are kept."""
        peer = self.consumer(1)
        self.send(1)
        peer.channel.consume("q", 0)
        peer.channel.dead_letter(None, peer.take(b"1"))
        self.assertEqual(self.broker.queues, {})
        self.assertEqual(len(list(self.store.dead("q"))), 1)

    def test_goes_when_flushed(self) -> None:
        """A flushed queue goes away unless somebody consumes it."""
        self.send(1)
        self.broker.queues.flush("q")
        self.settle()
        self.assertEqual(self.broker.queues, {})
        self.consumer(1)
        self.broker.queues.flush("q")
        self.settle()
        self.assertEqual(list(self.broker.queues), ["q"])

    def test_stays(self) -> None:
        """A queue stays while it holds messages, has consumers, has messages in flight or is paused."""
        self.send(1, queue="ready")
        self.consumer(1, "consumed")
        peer = self.consumer(1, "in flight")
        self.send(1, queue="in flight")
        peer.channel.consume("in flight", 0)
        self.broker.queues.pause("paused")
        self.sweep()
        self.assertEqual(set(self.broker.queues), {"ready", "consumed", "in flight", "paused"})

    def test_gone_in_the_file(self) -> None:
        """A queue that went away does not come back with a restart, and one that stays does."""
        self.send(1, queue="gone")
        self.send(1, queue="kept")
        self.restart()
        self.drain("gone")
        self.restart()
        self.assertEqual(list(self.broker.queues), ["kept"])

    def test_memory_of_many(self) -> None:
        """Queues that come and go leave nothing behind."""
        for number in range(100):
            self.send(1, queue=f"q{number}")
            self.drain(f"q{number}")
        self.assertEqual((self.broker.queues, self.broker.queues.by_number, self.broker.memory.used), ({}, {}, 0))

    def test_requeue_into_ended_consumption(self) -> None:
        """A message that is re-queued by a consumer that ended keeps its queue."""
        peer = self.consumer(1)
        self.send(1)
        peer.channel.consume("q", 0)
        self.requeue(peer, 1)
        self.assertEqual(self.ready(), 1)
        self.restart()
        self.assertEqual(self.drain(), bodies(1))


class OrderTests(BrokerTestCase):
    """Rules 2 and 3: the order of messages."""

    def test_first_in_first_out(self) -> None:
        """Rule 2: by acceptance order, per queue, whoever sends; also with many more messages than are read ahead."""
        senders = [RecordingPeer(self.broker) for _ in range(3)]
        for number in range(3000):
            senders[number % 3].channel.publish("ab"[number % 2], b"%d" % number, 0)
        self.assertEqual(self.drain("a"), bodies(*range(0, 3000, 2)))
        self.assertEqual(self.drain("b"), bodies(*range(1, 3000, 2)))

    def test_while_consuming(self) -> None:
        """Rule 2: also when sends and acknowledgements alternate, over the bounds of what is read ahead."""
        peer = self.consumer(100)
        for start in range(0, 3000, 1000):
            self.send(*range(start, start + 1000))
            for _ in range(8):
                self.ack(peer)
        while peer.held:
            self.ack(peer)
        self.assertEqual(peer.got, bodies(*range(3000)))

    def test_large_bodies(self) -> None:
        """Rule 2: also when few messages fill the read-ahead by their size."""
        peer = self.consumer(1)
        for number in range(20):
            self.broker.publish("q", b"%d" % number + b" " * 100_000)
        self.settle()
        self.assertLess(len(self.broker.queues["q"].prefetched), 5)
        while peer.held:
            self.ack(peer)
        self.assertEqual([body.strip() for body in peer.got], bodies(*range(20)))

    def test_restart(self) -> None:
        """Rule 2: over restarts."""
        for start in range(0, 40, 10):
            self.send(*range(start, start + 10))
            self.restart()
        self.assertEqual(self.drain(), bodies(*range(40)))

    def test_step_of_the_clock(self) -> None:
        """Rule 2: whatever the clock says."""
        self.send(1)
        self.time -= 10**6
        self.send(2)
        self.restart()
        self.time += 10**7
        self.send(3)
        self.assertEqual(self.drain(), bodies(1, 2, 3))

    def test_comes_back_to_its_place(self) -> None:
        """Rule 3: what a consumer that is gone held comes before all that is younger, in order, whatever it acknowledged."""
        first, second = self.consumer(3), self.consumer(3)
        self.send(*range(9))
        self.assertEqual((first.bodies, second.bodies), (bodies(0, 2, 4), bodies(1, 3, 5)))
        second.channel.pause()
        self.ack(first, 2)
        self.drop(first)
        self.drop(second)
        self.assertEqual(self.drain(), bodies(0, 1, 3, 4, 5, 6, 7, 8))

    def test_requeue_goes_to_the_tail(self) -> None:
        """Rule 3: an explicit re-queue goes behind all that waits, and what is sent later behind it."""
        peer = self.consumer(1)
        self.send(1, 2)
        self.requeue(peer, 1)
        self.send(3)
        self.drop(peer)
        positions = [message.position for message in self.store.read(self.broker.queues["q"], 0, MANY, MANY)]
        self.assertEqual(len(set(positions)), 3)
        self.assertEqual(self.drain(), bodies(2, 1, 3))

    def test_requeue_comes_back_to_its_new_place(self) -> None:
        """Rule 3: once re-queued, its place is the new one, also over a restart and when its consumer drops."""
        peer = self.consumer(1)
        self.send(1, 2)
        self.requeue(peer, 1)
        self.send(3)
        self.restart()
        self.drop(self.consumer(3))
        self.assertEqual(self.drain(), bodies(2, 1, 3))

    def test_requeue_behind_the_read_ahead(self) -> None:
        """Rule 3: the tail is behind what was not read ahead, too."""
        peer = self.consumer(1)
        self.send(*range(2000))
        self.requeue(peer, 0)
        self.drop(peer)
        self.assertEqual(self.drain(), bodies(*range(1, 2000), 0))

    def test_requeue_keeps_id_and_attempts(self) -> None:
        """Rule 3: a re-queued message keeps its id and attempts, and takes the new ttl."""
        peer = self.consumer(1)
        self.send(1, ttl=1000)
        before = peer.held[0].id
        self.requeue(peer, 1, 5000)
        (message,) = peer.held
        self.assertEqual((message.id, message.attempts, message.expires), (before, 2, self.time + 5000))
        self.requeue(peer, 1)
        self.assertEqual((peer.held[0].id, peer.held[0].expires), (before, 0))
        self.requeue(peer, 1)
        self.restart()
        self.assertEqual((self.consumer(1).held[0].id, self.broker.lifecycle.redelivered), (before, 1))


class MoveTests(BrokerTestCase):
    """An operator has messages go to another queue."""

    def test_large_ones_are_moved(self) -> None:
        """Of large messages fewer are moved at a time, but always one."""
        self.patch(phpmq.broker.lifecycle, "MOVED_BYTES", 3)
        self.send(10, 20, 30, 40, 12345, 50)
        source, target = self.broker.queues.get_or_create("q"), self.broker.queues.get_or_create("other")
        moved = []
        while source.ready:
            moved.append(self.broker.lifecycle.move(source, target, 100))
        self.assertEqual(moved, [2, 2, 1, 1])
        self.assertEqual(self.drain("other"), bodies(10, 20, 30, 40, 12345, 50))

    def test_count(self) -> None:
        """As many are moved as were asked for, from the head, and none that came after the given position."""
        self.send(1, 2, 3, 4)
        source, target = self.broker.queues["q"], self.broker.queues.get_or_create("other")
        last = self.broker.queues.tail
        self.send(5)
        self.assertEqual(self.broker.lifecycle.move(source, target, 2), 2)
        self.assertEqual((source.ready, target.ready), (3, 2))
        self.assertEqual(self.broker.lifecycle.move(source, target, 100, last), 2)
        self.assertEqual((self.drain("other"), self.drain()), (bodies(1, 2, 3, 4), bodies(5)))


class FlushTests(BrokerTestCase):
    """Rule 4: flush removes what waits, and what is in flight never comes back."""

    def start_flush(self) -> RecordingPeer:
        """Three messages in flight, seven waiting; flush."""
        peer = self.consumer(3)
        self.send(*range(10))
        self.assertEqual(self.broker.queues.flush("q"), (7, 3))
        return peer

    def test_counts(self) -> None:
        """The report names what was removed and what is in flight; a queue that is not there has neither."""
        self.start_flush()
        self.assertEqual(self.broker.queues.flush("q"), (0, 3))
        self.assertEqual(self.broker.queues.flush("none"), (0, 0))
        self.assertEqual(self.broker.queues.flushed, 7)

    def test_removes_what_waits(self) -> None:
        """Nothing of what waited is ever delivered; what is sent afterwards is."""
        peer = self.start_flush()
        self.send(10)
        self.ack(peer)
        self.assertEqual(peer.bodies, bodies(10))
        self.restart()
        self.assertEqual(self.drain(), bodies(10))

    def test_many(self) -> None:
        """More messages than are forgotten in one step are removed at once, and forgotten bit by bit."""
        self.send(*range(5000))
        self.broker.queues.flush("q")
        self.send(5000)
        self.assertEqual(self.drain(), bodies(5000))
        self.settle()
        self.assertEqual((self.broker.queues, self.broker.memory.used), ({}, 0))
        self.assertEqual(self.rows(), 0)

    def test_purging_yields(self) -> None:
        """A dispatch forgets a bounded number of messages, so that others get their turn."""
        self.send(*range(10_000))
        self.broker.queues.flush("q")
        dispatches = 0
        while self.woken:
            self.woken = False
            self.broker.dispatch()
            dispatches += 1
        self.assertGreater(dispatches, 3)

    def test_crash_while_purging(self) -> None:
        """A restart before all was forgotten delivers none of it, and forgets the rest."""
        self.send(*range(5000))
        self.broker.queues.flush("q")
        self.broker.dispatch()
        self.restart()
        self.assertEqual(self.broker.queues, {})
        self.assertEqual(self.rows(), 0)
        self.restart()
        self.assertEqual((self.broker.queues, self.broker.memory.used), ({}, 0))

    def test_crash_while_purging_with_others(self) -> None:
        """Likewise with younger messages in the queue."""
        self.send(*range(5000))
        self.broker.queues.flush("q")
        self.send(5000, 5001)
        self.restart()
        self.restart()
        self.assertEqual(self.rows(), 2)
        self.assertEqual(self.drain(), bodies(5000, 5001))

    def test_queue_stays_until_purged(self) -> None:
        """A queue is in the file until all that was flushed from it is gone there, whoever looks in meanwhile."""
        self.send(*range(5000))
        self.restart()
        self.broker.queues.flush("q")
        self.broker.dispatch()
        peer = RecordingPeer(self.broker)
        peer.channel.consume("q", 1)
        peer.channel.consume("q", 0)
        self.restart()
        self.restart()
        self.assertEqual((self.rows(), self.broker.queues), (0, {}))

    def consume_in_one_turn(self) -> list[bytes]:
        """What a consumer gets in a turn that also sends message 3, before the broker can forget anything."""
        peer = RecordingPeer(self.broker)
        self.broker.publish("q", b"3")
        peer.channel.consume("q", 10)
        self.broker.end()
        return peer.bodies

    def test_not_read_before_it_is_purged(self) -> None:
        """Whoever consumes in the turn of the flush gets nothing of what the store did not forget yet."""
        self.send(1, 2)
        self.broker.begin()
        self.broker.queues.flush("q")
        self.assertEqual(self.consume_in_one_turn(), bodies(3))

    def test_not_read_by_a_start(self) -> None:
        """Nor does one who consumes in the first turn of a start."""
        self.send(1, 2)
        self.broker.queues.flush("q")
        self.store.next_number = self.broker.queues.next
        self.broker = Broker(self.store, lambda: self.time, wake=self.wake)
        self.broker.begin()
        self.assertEqual(self.consume_in_one_turn(), bodies(3))

    def test_in_flight_is_settled_as_usual(self) -> None:
        """A flushed message in flight is acknowledged, dead-lettered or re-queued as usual, purged or not."""
        for purge in True, False:
            peer = self.start_flush()
            if purge:
                self.settle()
            self.ack(peer, 0)
            self.assertEqual(peer.refusals, [])
            peer.channel.dead_letter(None, peer.take(b"1"), "bad")
            self.settle()
            self.requeue(peer, 2)
            self.assertEqual(peer.bodies, bodies(2))
            self.drop(peer)
            self.restart()
            self.assertEqual([dead.body for dead in self.store.dead()][-1:], [b"1"])
            self.assertEqual(self.drain(), bodies(2))

    def test_requeued_then_dropped(self) -> None:
        """A flushed message that was re-queued is a new one: it comes back like others."""
        peer = self.start_flush()
        self.requeue(peer, 2)
        self.ack(peer, 0, 1)
        self.assertEqual(peer.bodies, bodies(2))
        self.drop(peer)
        self.assertEqual(self.drain(), bodies(2))

    def test_in_flight_never_comes_back(self) -> None:
        """When its consumer drops, it is gone; younger messages in flight come back."""
        peer = self.start_flush()
        self.settle()
        self.ack(peer, 1)
        self.send(10, 11)
        self.assertEqual(peer.bodies, bodies(0, 2, 10))
        self.drop(peer)
        self.assertEqual(self.drain(), bodies(10, 11))
        self.assertEqual((self.broker.queues, self.broker.memory.used), ({}, 0))

    def test_the_only_consumer_drops_both(self) -> None:
        """A flushed message that is gone does not take a younger one with it."""
        peer = self.start_flush()
        self.settle()
        self.ack(peer, 0, 1)
        self.send(10)
        self.assertEqual(peer.bodies, bodies(2, 10))
        self.drop(peer)
        self.assertEqual(self.ready(), 1)
        self.assertEqual(self.drain(), bodies(10))

    def test_last_of_the_flushed(self) -> None:
        """A flush reaches to the very last message that was sent before it, and no further."""
        peer = self.consumer(1)
        self.send(1)
        self.assertEqual(self.broker.queues.flush("q"), (0, 1))
        self.send(2)
        self.drop(peer)
        self.assertEqual(self.drain(), bodies(2))

    def test_flushed_stay_gone_before_they_are_purged(self) -> None:
        """What is flushed neither expires nor is released by its delay while the store still has it."""
        self.broker.publish("q", b"1", 1000)
        self.broker.publish("q", b"2", 0, Properties(1000))
        self.broker.publish("q", b"2", 1000, Properties(5000))
        self.broker.queues.flush("q")
        self.broker.publish("q", b"3", 0, Properties(1000))
        self.time += 1000
        self.broker.turn.enter()
        self.broker.lifecycle.tick()
        self.broker.lifecycle.sweep()
        queue = self.broker.queues["q"]
        self.assertEqual((queue.ready, queue.delayed, self.broker.lifecycle.expired), (1, 0, 0))
        self.settle()
        self.assertEqual(self.drain(), bodies(3))
        self.assertEqual(self.broker.memory.used, 0)

    def test_in_flight_at_a_restart(self) -> None:
        """It does not come back with a restart either, purged or not."""
        for purge in True, False:
            self.start_flush()
            if purge:
                self.settle()
            self.restart()
            self.assertEqual(self.broker.queues, {})

    def test_acknowledged_after_flush_frees(self) -> None:
        """What is in flight counts against the memory limit until it is settled."""
        peer = self.start_flush()
        self.settle()
        used = self.broker.memory.used
        self.ack(peer, 0)
        self.assertEqual(used - self.broker.memory.used, 1 + MESSAGE_OVERHEAD)

    def test_flush_all(self) -> None:
        """Flush-all does it to every queue and reports the sums."""
        peer = self.start_flush()
        self.send(1, 2, queue="other")
        self.send(10)
        self.assertEqual(self.broker.queues.flush_all(), (3, 3))
        self.settle()
        self.assertEqual(list(self.broker.queues), ["q"])
        self.ack(peer)
        self.assertEqual(peer.held, [])


class PauseTests(BrokerTestCase):
    """Rule 5: pause stops deliveries, sends or both."""

    def test_deliveries(self) -> None:
        """A paused queue delivers nothing and takes sends; others go on. Resumed it delivers at once and in order."""
        peer = self.consumer(5, "q", "other")
        self.broker.queues.pause("q")
        self.send(1, 2)
        self.send(3, queue="other")
        self.assertEqual(peer.bodies, bodies(3))
        self.broker.queues.resume("q")
        self.settle()
        self.assertEqual(peer.bodies, bodies(3, 1, 2))

    def test_settling(self) -> None:
        """What is in flight is settled as usual, and nothing follows."""
        peer = self.consumer(1)
        self.send(1, 2)
        self.broker.queues.pause("q")
        self.ack(peer)
        self.assertEqual(peer.bodies, [])

    def test_sends(self) -> None:
        """Paused for sends, it refuses them and delivers what it has; who waits is told when it is over."""
        self.send(1)
        self.broker.queues.pause("q", SENDS)
        peer = self.consumer(5)
        self.assertEqual(peer.bodies, bodies(1))
        peer.channel.publish("q", b"2", 0)
        self.assertEqual((peer.blocks, self.broker.outcomes.refused), (1, {QueueFull.code: 1}))
        self.settle()
        self.assertEqual(peer.unblocks, 0)
        self.broker.queues.resume("q")
        self.settle()
        self.assertEqual(peer.unblocks, 1)
        peer.channel.publish("q", b"2", 0)
        self.settle()
        self.assertEqual(peer.bodies, bodies(1, 2))

    def test_one_of_both(self) -> None:
        """Both can be paused, and one of them resumed."""
        self.broker.queues.pause("q", DELIVERIES | SENDS)
        self.broker.queues.resume("q", SENDS)
        peer = self.consumer(5)
        self.send(1)
        self.assertEqual(peer.bodies, [])

    def test_restart(self) -> None:
        """Pause survives a restart, and so does its end."""
        self.broker.queues.pause("q")
        self.broker.queues.pause("sends", SENDS)
        self.send(1)
        self.restart()
        peer = self.consumer(1)
        self.assertEqual(peer.bodies, [])
        with self.assertRaises(QueueFull):
            self.broker.publish("sends", b"")
        self.broker.queues.resume("q")
        self.broker.queues.resume("sends")
        self.settle()
        self.assertEqual(peer.bodies, bodies(1))
        self.restart()
        self.assertEqual(self.consumer(1).bodies, bodies(1))
        self.assertEqual(list(self.broker.queues), ["q"])

    def test_resume_without_a_queue(self) -> None:
        """Resuming what is not there changes nothing."""
        self.broker.queues.resume("q")
        self.assertEqual(self.broker.queues, {})


class WindowTests(BrokerTestCase):
    """Rules 6 and 7: windows."""

    def test_filled(self) -> None:
        """Rule 6: messages are pushed until the window is full."""
        peer = self.consumer(3)
        self.send(*range(10))
        self.assertEqual(peer.bodies, bodies(0, 1, 2))

    def test_every_acknowledgement(self) -> None:
        """Rule 6: every acknowledgement, in any order, opens one place."""
        peer = self.consumer(3)
        self.send(*range(10))
        self.ack(peer, 1)
        self.assertEqual(peer.bodies, bodies(0, 2, 3))
        self.ack(peer, 2, 3)
        self.assertEqual(peer.bodies, bodies(0, 4, 5))

    def test_other_settlements(self) -> None:
        """Rule 6: so do a re-queue and a dead letter."""
        peer = self.consumer(2)
        self.send(*range(5))
        self.requeue(peer, 0)
        peer.channel.dead_letter(None, peer.take(b"1"))
        self.settle()
        self.assertEqual(peer.bodies, bodies(2, 3))

    def test_largest(self) -> None:
        """Rule 6: a window is cut to the largest that the server allows."""
        self.broker.lifecycle.max_window = 4
        self.send(*range(10))
        self.assertEqual(len(self.consumer(5).held), 4)

    def test_grow(self) -> None:
        """Rule 7: a larger window is filled; what is in flight counts."""
        peer = self.consumer(2)
        self.send(*range(10))
        peer.channel.consume("q", 5)
        self.settle()
        self.assertEqual(peer.bodies, bodies(0, 1, 2, 3, 4))

    def test_shrink(self) -> None:
        """Rule 7: after a smaller window nothing comes until fewer are in flight; what is stays."""
        peer = self.consumer(5)
        self.send(*range(10))
        peer.channel.consume("q", 2)
        self.settle()
        self.ack(peer, 0, 1, 2)
        self.assertEqual(peer.bodies, bodies(3, 4))
        self.ack(peer, 3)
        self.assertEqual(peer.bodies, bodies(4, 5))

    def test_shrink_while_idle(self) -> None:
        """Rule 7: also when it was waiting for messages."""
        peer = self.consumer(5)
        self.send(1, 2)
        peer.channel.consume("q", 2)
        self.send(3)
        self.assertEqual(peer.bodies, bodies(1, 2))

    def test_zero(self) -> None:
        """Rule 7: window 0 ends the consumer; what it holds it may settle, and gets nothing more."""
        peer, other = self.consumer(2), self.consumer(1)
        self.send(*range(10))
        peer.channel.consume("q", 0)
        self.settle()
        self.assertEqual(peer.bodies, bodies(0, 2))
        self.ack(peer)
        self.assertEqual((peer.held, peer.refusals), ([], []))
        self.ack(other)
        self.assertEqual(other.bodies, bodies(3))

    def test_zero_and_back(self) -> None:
        """Rule 7: consuming again counts what is still in flight."""
        peer = self.consumer(3)
        self.send(*range(10))
        peer.channel.consume("q", 0)
        self.ack(peer, 0)
        peer.channel.consume("q", 3)
        self.settle()
        self.assertEqual(peer.bodies, bodies(1, 2, 3))

    def test_zero_then_gone(self) -> None:
        """Rule 7: what an ended consumer holds comes back when its connection goes."""
        peer = self.consumer(2)
        self.send(1, 2, 3)
        peer.channel.consume("q", 0)
        self.drop(peer)
        self.assertEqual(self.drain(), bodies(1, 2, 3))

    def test_zero_then_settled(self) -> None:
        """A consumption that ended is forgotten once the last message of it is settled, however it is."""
        for settle in RecordingPeer.ack, lambda peer: peer.channel.requeue(None, peer.take(b"1"), 0), lambda peer: self.dead(peer, 1):
            self.send(1)
            peer = self.consumer(1)
            peer.channel.consume("q", 0)
            self.assertEqual(list(peer.channel.consumers), ["q"])
            settle(peer)
            self.assertEqual(peer.channel.consumers, {})
            self.drain()
            self.assertEqual(self.broker.queues, {})

    def test_zero_of_nothing(self) -> None:
        """Rule 7: ending what never began makes no queue."""
        self.consumer(0)
        self.assertEqual(self.broker.queues, {})

    def test_many_queues(self) -> None:
        """Rule 7: each queue of a connection has a window of its own."""
        peer = RecordingPeer(self.broker)
        for window, queue in enumerate("abc", 1):
            self.send(*range(5), queue=queue)
            peer.channel.consume(queue, window)
        self.settle()
        self.assertEqual([message.queue.name for message in peer.held], ["a", "b", "b", "c", "c", "c"])


class DistributionTests(BrokerTestCase):
    """Rules 8 and 9: who gets what."""

    def test_hundred_each(self) -> None:
        """Three consumers with window 100 get 100 of 300 messages each."""
        peers = [self.consumer(100) for _ in range(3)]
        self.send(*range(300))
        self.assertEqual([len(peer.held) for peer in peers], [100, 100, 100])

    def test_hundred_each_of_a_backlog(self) -> None:
        """Also when they come one after the other to what waits already, in a turn each."""
        self.send(*range(300))
        self.assertEqual([len(self.consumer(100).held) for _ in range(3)], [100, 100, 100])

    def test_never_two_apart(self) -> None:
        """Rule 8: while all have room, counts differ by at most one, at every moment."""
        peers = [self.consumer(1000) for _ in range(3)]
        for number in range(100):
            self.send(number)
            counts = [len(peer.got) for peer in peers]
            self.assertLessEqual(max(counts) - min(counts), 1)

    def test_fast_and_slow(self) -> None:
        """Rule 8: the one that settles gets the next; the one that does not keeps what it has."""
        slow, fast = self.consumer(2), self.consumer(2)
        self.send(*range(10))
        while fast.held:
            self.ack(fast)
        self.assertEqual((len(slow.got), len(fast.got)), (2, 8))

    def test_longest_waiting(self) -> None:
        """Rule 8: the next message goes to the one that has waited longest."""
        first, second, third = (self.consumer(1) for _ in range(3))
        self.send(1, 2, 3)
        for peer in second, third, first:
            self.ack(peer)
        self.send(4, 5, 6)
        self.assertEqual((second.bodies, third.bodies, first.bodies), (bodies(4), bodies(5), bodies(6)))

    def test_a_fourth_joins(self) -> None:
        """Rule 9: one that joins gets its share at once."""
        peers = [self.consumer(100) for _ in range(3)]
        self.send(*range(400))
        fourth = self.consumer(100)
        self.assertEqual(len(fourth.held), 100)
        for peer in [*peers, fourth]:
            self.ack(peer)
        self.send(*range(400, 800))
        self.assertEqual([len(peer.held) for peer in [*peers, fourth]], [100] * 4)

    def test_joins_with_room_everywhere(self) -> None:
        """Rule 9: the next messages are distributed over the new set."""
        peers = [self.consumer(100) for _ in range(2)]
        self.send(*range(10))
        peers.append(self.consumer(100))
        self.send(*range(9))
        self.assertEqual([len(peer.got) for peer in peers], [8, 8, 3])

    def test_one_drops(self) -> None:
        """Rule 9: what one that drops held is given to the others at once, in order."""
        peers = [self.consumer(100) for _ in range(3)]
        self.send(*range(300))
        peers.append(self.consumer(300))
        held = peers[1].bodies
        self.drop(peers[1])
        self.assertEqual(peers[3].bodies, held)
        self.assertEqual(held, sorted(held, key=int))

    def test_one_drops_and_nobody_has_room(self) -> None:
        """Rule 9: it comes first when somebody has."""
        first, second = self.consumer(2), self.consumer(2)
        self.send(*range(10))
        self.drop(first)
        self.ack(second)
        self.assertEqual(second.bodies, bodies(0, 2))
        self.ack(second)
        self.assertEqual(second.bodies, bodies(4, 5))

    def test_gone_gets_nothing(self) -> None:
        """Rule 9: one that is gone gets nothing any more, whatever it called last."""
        gone, other = self.consumer(5, "q", "r"), self.consumer(5)
        self.drop(gone)
        gone.channel.close()
        self.send(1, 2)
        self.send(3, queue="r")
        self.assertEqual((gone.got, other.got), ([], bodies(1, 2)))
        self.assertEqual(self.ready("r"), 1)

    def test_gone_with_several_queues(self) -> None:
        """Rule 9: all that it held of all its queues comes back."""
        peer = self.consumer(5, "a", "b")
        self.send(1, 2, queue="a")
        self.send(3, 4, queue="b")
        self.drop(peer)
        self.assertEqual((self.drain("a"), self.drain("b")), (bodies(1, 2), bodies(3, 4)))

    def test_no_queue_starves(self) -> None:
        """Rule 8: when the output of a connection is too little for its queues, each gets its share."""
        peer = RecordingPeer(self.broker, output=2)
        for queue in "abc":
            self.send(*range(100), queue=queue)
        for queue in "abc":
            peer.channel.consume(queue, 1000)
        peer.choked = True
        for _ in range(12):
            self.settle()
            # The transport has written the one flush of this turn.
            peer.channel.resume()
        counts = [sum(message.queue.name == queue for message in peer.held) for queue in "abc"]
        self.assertEqual(sum(counts), 24)
        self.assertLessEqual(max(counts) - min(counts), 2, counts)

    def test_no_queue_starves_unchoked(self) -> None:
        """Rule 8: also within one turn, in which the output is written again and again."""
        peer = self.consumer(1000, "a", "b", output=2)
        self.broker.begin()
        for number in range(100):
            for queue in "a", "b":
                self.broker.publish(queue, b"%d" % number)
        self.broker.end()
        half = [message.queue.name for message in peer.held[:100]]
        self.assertEqual((half.count("a"), half.count("b")), (50, 50))
        self.assertEqual(len(peer.held), 200)

    def test_acknowledging_does_not_favour(self) -> None:
        """Rule 8: a queue whose messages are acknowledged at once does not starve another."""
        peer = RecordingPeer(self.broker, output=2)
        for queue in "ab":
            self.send(*range(100), queue=queue)
            peer.channel.consume(queue, 2)
        self.settle()
        while len(peer.got) < 200:
            self.ack(peer)
        self.assertEqual(self.broker.lifecycle.delivered, 200)


class SettlingTests(BrokerTestCase):
    """Rule 10: who may settle a message."""

    def test_strangers(self) -> None:
        """What another channel holds, what was settled already and what never was is refused, counted, and changes nothing."""
        holder, other = self.consumer(1), RecordingPeer(self.broker)
        self.send(1)
        (message,) = holder.held
        for identity in message.id, b"f" * 32, b"":
            other.channel.ack(b"tag", identity)
            other.channel.requeue(b"tag", identity, 0)
            other.channel.dead_letter(b"tag", identity)
        self.assertEqual([(tag, type(error)) for tag, error in other.refusals], [(b"tag", UnknownId)] * 9)
        self.assertEqual(self.broker.outcomes.unknown_ids, 9)
        self.assertEqual((self.ready(), self.broker.queues["q"].in_flight), (0, 1))
        self.ack(holder)
        holder.channel.ack(None, message.id)
        self.assertEqual(len(holder.refusals), 1)

    def test_other_queue(self) -> None:
        """Naming the wrong queue settles nothing; the right one does."""
        peer = self.consumer(1)
        self.send(1)
        peer.channel.ack(None, peer.held[0].id, "other")
        self.assertEqual(self.broker.queues["q"].in_flight, 1)
        peer.channel.ack(None, peer.held[0].id, "q")
        self.assertEqual(self.broker.queues["q"].in_flight, 0)
        self.assertEqual(len(peer.refusals), 1)

    def test_after_it_came_back(self) -> None:
        """A channel that is gone settles nothing: the message is somebody else's."""
        gone, other = self.consumer(1), self.consumer(1)
        self.send(1)
        (message,) = gone.held
        self.drop(gone)
        gone.channel.ack(None, message.id)
        self.assertEqual(other.bodies, bodies(1))
        self.ack(other)
        self.assertEqual(other.refusals, [])

    def test_after_requeue(self) -> None:
        """Whoever re-queued a message cannot settle it any more, unless it gets it again."""
        peer = self.consumer(1)
        self.send(1, 2)
        identity = peer.held[0].id
        self.requeue(peer, 1)
        peer.channel.ack(None, identity)
        self.assertEqual(len(peer.refusals), 1)
        self.assertEqual(self.ready(), 1)

    def test_acknowledged_is_gone(self) -> None:
        """An acknowledged message never comes back, also not by a restart."""
        peer = self.consumer(2)
        self.send(1, 2, 3)
        self.restart()
        peer = self.consumer(2)
        self.ack(peer, 1)
        self.restart()
        self.assertEqual(self.drain(), bodies(2, 3))
        self.assertEqual(self.broker.memory.used, 0)

    def test_dead_letter(self) -> None:
        """A dead letter leaves its queue and is kept with its reason and text, also over a restart."""
        peer = self.consumer(1)
        self.send(1, 2)
        self.time += 500
        peer.channel.dead_letter(None, peer.take(b"1"), "no such user")
        self.settle()
        for _ in range(2):
            (dead,) = self.store.dead("q")
            self.assertEqual((dead.body, dead.reason, dead.text), (b"1", "rejected", "no such user"))
            self.assertEqual((dead.accepted, dead.died, dead.attempts), (self.time - 500, self.time, 1))
            self.restart()
        self.assertEqual(self.drain(), bodies(2))

    def test_dead_letters_count(self) -> None:
        """Dead letters count against the memory limit, also after a restart."""
        peer = self.consumer(1)
        self.send(1)
        peer.channel.dead_letter(None, peer.take(b"1"))
        self.drop(peer)
        self.assertEqual(self.broker.memory.used, 1 + MESSAGE_OVERHEAD)
        self.restart()
        self.assertEqual(self.broker.memory.used, 1 + MESSAGE_OVERHEAD)


class SlowReaderTests(BrokerTestCase):
    """Rule 11: a slow reader never costs others."""

    def test_paused(self) -> None:
        """A paused channel gets nothing; the others get all, in order, and it takes part again once it is resumed."""
        slow, fast = self.consumer(100), self.consumer(100)
        slow.channel.pause()
        self.send(*range(10))
        self.assertEqual((slow.bodies, fast.bodies), ([], bodies(*range(10))))
        slow.channel.resume()
        self.send(10, 11)
        self.assertEqual(len(slow.bodies), 1)

    def test_resumed(self) -> None:
        """What waits is delivered as soon as the channel is resumed."""
        peer = self.consumer(100)
        peer.channel.pause()
        self.send(1, 2)
        peer.channel.resume()
        self.settle()
        self.assertEqual(peer.bodies, bodies(1, 2))

    def test_consume_while_paused(self) -> None:
        """A paused channel that begins to consume or settles gets nothing until it is resumed."""
        peer = self.consumer(1)
        self.send(1, 2)
        self.send(3, queue="other")
        peer.channel.pause()
        peer.channel.consume("other", 5)
        self.ack(peer)
        self.assertEqual(peer.bodies, [])
        peer.channel.resume()
        self.settle()
        self.assertEqual(sorted(peer.bodies), bodies(2, 3))

    def test_bounded_output(self) -> None:
        """Deliveries stop in the middle of a queue when the output is full, and the rest is not lost."""
        peer = RecordingPeer(self.broker, output=3)
        peer.choked = True
        self.send(*range(10))
        peer.channel.consume("q", 100)
        self.settle()
        self.assertEqual((peer.bodies, self.ready()), (bodies(0, 1, 2), 7))
        peer.choked = False
        peer.channel.resume()
        self.settle()
        self.assertEqual(peer.bodies, bodies(*range(10)))
        self.assertEqual(peer.flushed, [3, 3, 3, 1])

    def test_dropped_while_paused(self) -> None:
        """What a paused channel held comes back when it is cut off."""
        slow, fast = self.consumer(2), self.consumer(5)
        self.send(1, 2, 3)
        slow.channel.pause()
        self.drop(slow)
        self.assertEqual(sorted(fast.bodies), bodies(1, 2, 3))


class ExpiryTests(BrokerTestCase):
    """Rule 12: the time to live."""

    def test_from_acceptance(self) -> None:
        """It counts from acceptance, to the millisecond."""
        self.send(1, 2, ttl=1000)
        self.time += 999
        first = self.consumer(1)
        self.assertEqual(first.bodies, bodies(1))
        self.time += 1
        self.assertEqual(self.consumer(1).bodies, [])
        self.assertEqual(self.broker.lifecycle.expired, 1)

    def test_never(self) -> None:
        """Without one a message never expires; the longest is bounded."""
        self.send(1)
        self.send(2, ttl=2**63)
        self.time += 10**14
        self.sweep()
        self.assertEqual(self.drain(), bodies(1, 2))

    def test_never_delivered(self) -> None:
        """An expired message is not delivered, wherever in the queue it is and before any sweep."""
        for number in range(2000):
            self.send(number, ttl=1000 if number % 3 else 0)
        peer = self.consumer(1)
        self.time += 1000
        while peer.held:
            self.ack(peer)
        self.assertEqual(peer.got, bodies(*range(0, 2000, 3)))
        self.drop(peer)
        self.assertEqual((self.broker.queues, self.broker.memory.used), ({}, 0))

    def test_leaves_memory(self) -> None:
        """A sweep frees what expired although nobody consumes it: what was never read, what is read ahead, other queues."""
        peer = self.consumer(1)
        self.send(*range(1000), ttl=1000)
        self.send(*range(1000, 1010))
        self.send(1, ttl=1000, queue="other")
        self.time += 1000
        self.sweep()
        self.assertEqual(self.ready(), 10)
        self.assertEqual(list(self.broker.queues), ["q"])
        self.assertEqual(self.broker.lifecycle.expired, 1000)
        self.assertEqual(self.rows(), 11)
        self.assertEqual(self.broker.queues["q"].ready_size, 10 * 4)
        self.ack(peer)
        self.assertEqual(peer.bodies, bodies(1000))
        self.drop(peer)
        self.assertEqual(self.drain(), bodies(*range(1000, 1010)))
        self.assertEqual(self.broker.memory.used, 0)

    def test_sweep_is_bounded(self) -> None:
        """A sweep of many says that there is more, so that others get their turn."""
        self.send(*range(5000), ttl=1000)
        self.time += 1000
        steps = [self.broker.sweep() for _ in range(3)]
        self.assertEqual(steps, [False, False, True])
        self.assertEqual(self.broker.memory.used, 0)

    def test_only_what_expired(self) -> None:
        """A sweep ends what has expired, and nothing else of what is prefetched."""
        peer = self.consumer(1)
        self.send(0)
        for number, ttl in (1, 0), (2, 1000), (3, 1001), (4, 1000):
            self.send(number, ttl=ttl)
        self.assertGreater(len(self.broker.queues["q"].prefetched), 1)
        self.time += 1000
        self.sweep()
        self.assertEqual((self.broker.lifecycle.expired, self.ready()), (2, 2))
        self.drop(peer)
        self.assertEqual(self.drain(), bodies(0, 1, 3))

    def test_valid_in_flight(self) -> None:
        """In flight it stays valid."""
        peer = self.consumer(1)
        self.send(1, ttl=1000)
        self.time += 5000
        self.sweep()
        self.ack(peer)
        self.assertEqual((peer.refusals, self.broker.lifecycle.acknowledged, self.broker.lifecycle.expired), ([], 1, 0))

    def test_comes_back_expired(self) -> None:
        """If it comes back expired it is dropped; what came back with it is not."""
        for swept in True, False:
            peer = self.consumer(3)
            self.send(1, ttl=1000)
            self.send(2)
            self.send(3, ttl=1000)
            self.time += 1000
            if swept:
                self.sweep()
            self.drop(peer)
            self.assertEqual(self.ready(), 1)
            self.assertEqual(self.drain(), bodies(2))
            self.assertEqual(self.broker.memory.used, 0)

    def test_comes_back_alive_then_expires(self) -> None:
        """What comes back alive expires like others."""
        peer = self.consumer(1)
        self.send(1, ttl=1000)
        self.time += 999
        self.drop(peer)
        self.assertEqual(self.ready(), 1)
        self.time += 1
        self.sweep()
        self.assertEqual(self.broker.queues, {})

    def test_requeued_after_expiry(self) -> None:
        """Re-queued with a new ttl it lives by that one, although it was found expired before."""
        peer = self.consumer(1)
        self.send(1, ttl=1000)
        self.time += 2000
        self.sweep()
        self.requeue(peer, 1, 1000)
        self.drop(peer)
        self.time += 999
        self.sweep()
        self.assertEqual(self.ready(), 1)
        self.time += 1
        self.sweep()
        self.assertEqual(self.broker.queues, {})

    def test_over_a_restart(self) -> None:
        """It goes on counting over a restart."""
        self.send(1, ttl=1000)
        self.send(2, ttl=2000)
        self.time += 500
        self.restart()
        self.time += 500
        self.sweep()
        self.assertEqual(self.ready(), 1)
        self.assertEqual(self.drain(), bodies(2))

    def test_swept_while_flushed(self) -> None:
        """Messages that expire after they were flushed are not counted twice."""
        self.send(*range(10), ttl=1000)
        self.broker.queues.flush("q")
        self.time += 1000
        while not self.broker.sweep():
            pass
        self.settle()
        self.assertEqual((self.broker.lifecycle.expired, self.broker.memory.used), (0, 0))


class AttemptTests(BrokerTestCase):
    """Rule 14: attempts are counted and kept."""

    def attempts(self) -> list[int]:
        """Attempts of all that waits, as they are delivered next, and give it back."""
        peer = self.consumer(MANY)
        found = [message.attempts for message in peer.held]
        self.drop(peer)
        return found

    def test_counted(self) -> None:
        """Every delivery counts, the first is 1; redeliveries are counted."""
        self.send(1, 2)
        self.assertEqual([self.attempts() for _ in range(3)], [[1, 1], [2, 2], [3, 3]])
        self.assertEqual((self.broker.lifecycle.delivered, self.broker.lifecycle.redelivered), (6, 4))

    def test_other_consumers(self) -> None:
        """Whoever gets it."""
        first, second = self.consumer(1), self.consumer(1)
        self.send(1)
        self.drop(first)
        self.assertEqual([message.attempts for message in second.held], [2])

    def test_restart(self) -> None:
        """Messages that came back keep their attempts over restarts, many of them and with any state of the file."""
        self.send(*range(3000))
        self.attempts()
        for _ in range(3):
            self.restart()
        self.assertEqual(set(self.attempts()), {2})
        for _ in range(3):
            self.restart()
        self.assertEqual(set(self.attempts()), {3})

    def test_requeued(self) -> None:
        """A re-queue keeps them, also over a restart."""
        peer = self.consumer(1)
        self.send(1)
        self.requeue(peer, 1)
        self.drop(peer)
        self.restart()
        self.assertEqual(self.attempts(), [3])

    def test_dead(self) -> None:
        """A dead letter has them."""
        self.send(1)
        self.attempts()
        peer = self.consumer(1)
        peer.channel.dead_letter(None, peer.take(b"1"))
        self.assertEqual([dead.attempts for dead in self.store.dead()], [2])

    def test_most(self) -> None:
        """Rule 15: what comes back after the most attempts that its queue allows is dead, not before."""
        self.broker.configure("q", self.broker.queues.get_or_create("q").settings.changed({"max_attempts": 2}))
        self.send(1)
        self.assertEqual(self.attempts(), [1])
        self.assertEqual((self.ready(), list(self.store.dead())), (1, []))
        self.assertEqual(self.attempts(), [2])
        [dead] = self.store.dead()
        self.assertEqual((dead.reason, dead.attempts, dead.body), ("max-attempts", 2, b"1"))
        self.assertEqual(self.ready(), 0)

    def test_no_most(self) -> None:
        """Without a limit of attempts a message always comes back."""
        self.broker.configure("q", self.broker.queues.get_or_create("q").settings.changed({"max_attempts": 0}))
        self.send(1)
        for attempt in range(1, 100):
            self.assertEqual(self.attempts(), [attempt])

    def test_beyond_the_read_ahead(self) -> None:
        """Attempts survive when a message leaves Python and is read again."""
        peer = self.consumer(1)
        self.send(*range(2000))
        self.requeue(peer, 0)
        self.drop(peer)
        peer = self.consumer(MANY)
        found = {message.body: message.attempts for message in peer.held}
        self.assertEqual((found[b"0"], found[b"1"], found[b"1999"]), (2, 2, 1))


class MemoryLimitTests(BrokerTestCase):
    """Rule 19: the memory limit."""

    memory_limit = 20_000

    def fill(self) -> int:
        """Send until the limit is reached; how many were accepted."""
        count = 0
        with self.assertRaises(MemoryFull):
            while True:
                self.broker.publish("q", b"%d" % count + b" " * 100)
                count += 1
        return count

    def test_refused(self) -> None:
        """Above the limit sends are refused, in-process and by channel, and make no queue; at most one message is too much."""
        self.fill()
        self.assertLess(self.broker.memory.used, self.memory_limit + 300)
        peer = RecordingPeer(self.broker)
        peer.channel.publish("new", b"", 0)
        self.assertEqual((peer.blocks, self.broker.outcomes.refused), (1, {MemoryFull.code: 1}))
        self.assertEqual(list(self.broker.queues), ["q"])

    def test_consumers_go_on(self) -> None:
        """Consumers go on, and nothing that was accepted is lost."""
        count = self.fill()
        self.assertEqual([body.strip() for body in self.drain()], bodies(*range(count)))
        self.assertEqual(self.broker.memory.used, 0)

    def test_room(self) -> None:
        """Who waits is told once, when there is some room again and not at the first message that leaves."""
        self.fill()
        peers = [RecordingPeer(self.broker) for _ in range(3)]
        for peer in peers:
            peer.channel.publish("q", b"", 0)
        peers[2].channel.close()
        consumer = self.consumer(1)
        self.ack(consumer)
        self.assertEqual([peer.unblocks for peer in peers], [0, 0, 0])
        while self.broker.memory.used > 10_000:
            self.ack(consumer)
        self.assertEqual([peer.unblocks for peer in peers], [1, 1, 0])
        peers[0].channel.publish("q", b"", 0)
        self.assertEqual(peers[0].blocks, 1)

    def test_room_by_flush(self) -> None:
        """A flush makes room."""
        self.fill()
        peer = RecordingPeer(self.broker)
        peer.channel.publish("q", b"", 0)
        self.broker.queues.flush("q")
        self.settle()
        self.assertEqual(peer.unblocks, 1)

    def test_many_wait_for_room(self) -> None:
        """When very many wait they are told some at a time, so that others get their turn, and each once."""
        self.fill()
        peers = [RecordingPeer(self.broker) for _ in range(1000)]
        for peer in peers:
            peer.channel.publish("q", b"", 0)
        self.broker.queues.flush("q")
        self.woken = False
        self.broker.dispatch()
        told = sum(peer.unblocks for peer in peers)
        self.assertTrue(0 < told < 500, told)
        self.assertTrue(self.woken)
        self.settle()
        self.assertEqual({peer.unblocks for peer in peers}, {1})

    def test_blocked_again(self) -> None:
        """A sender that may try again, and is blocked before it was told, is told once."""
        sender, memory = RecordingPeer(self.broker), self.broker.memory
        memory.block(sender.channel)
        memory.unblock_all()
        memory.block(sender.channel)
        self.assertEqual((memory.blocked, memory.may_unblock), (0, True))
        self.broker.dispatch()
        self.assertEqual(sender.unblocks, 1)

    def test_gone_before_it_is_told(self) -> None:
        """A sender that is gone is not told that it may try again, whether it already might or not."""
        memory = self.broker.memory
        for unblock_first in False, True:
            sender = RecordingPeer(self.broker)
            memory.block(sender.channel)
            if unblock_first:
                memory.unblock_all()
            sender.channel.close()
            memory.unblock_all()
            self.broker.dispatch()
            self.assertEqual((sender.unblocks, memory.blocked, memory.may_unblock), (0, 0, False))

    def test_freed_outside_of_a_turn(self) -> None:
        """Memory that an operator frees while senders are blocked wakes the broker, so that they go on."""
        self.send(1)
        peer = self.consumer(1)
        self.dead(peer, 1)
        self.drop(peer)
        self.fill()
        self.settle()
        self.broker.lifecycle.delete(list(self.store.dead()))
        self.assertTrue(self.woken)

    def test_freed_by_a_client_that_is_gone(self) -> None:
        """Flushed messages that a client gives back free memory, and wake the broker while senders are blocked."""
        self.send(1)
        peer = self.consumer(1)
        self.broker.queues.flush("q")
        self.fill()
        self.settle()
        peer.channel.close()
        self.assertTrue(self.woken)

    def test_room_by_expiry(self) -> None:
        """So does expiry."""
        self.send(*range(100), ttl=1000)
        self.fill()
        peer = RecordingPeer(self.broker)
        peer.channel.publish("q", b"", 0)
        self.time += 1000
        self.sweep()
        self.assertEqual(peer.unblocks, 1)

    def test_room_at_the_limit_again(self) -> None:
        """Those who are told and find none wait again, and are told again."""
        self.fill()
        peer = RecordingPeer(self.broker)
        for rooms in 1, 2, 3:
            peer.channel.publish("q", b"", 0)
            self.assertEqual(peer.blocks, rooms)
            self.broker.queues.flush("q")
            self.settle()
            self.assertEqual(peer.unblocks, rooms)
            self.fill()

    def test_restart(self) -> None:
        """A restart counts what is there."""
        self.fill()
        used = self.broker.memory.used
        self.restart()
        self.assertEqual(self.broker.memory.used, used)


class QueueLimitTests(BrokerTestCase):
    """Rule 18: what a queue's settings let wait in it."""

    def limit(self, **settings: object) -> None:
        """Configure the queue."""
        self.broker.configure("q", self.broker.queues.get_or_create("q").settings.changed(settings))

    def accepted(self, body: bytes, delay: int = 0) -> bool:
        """Whether a send is accepted."""
        try:
            self.broker.publish("q", body, 0, Properties(delay) if delay else None)
        except QueueFull:
            return False
        return True

    def test_messages(self) -> None:
        """As many messages as are allowed may wait, those that are not due yet included; those in flight do not."""
        self.limit(max_messages=2)
        self.assertEqual([self.accepted(b"1"), self.accepted(b"2", 1000), self.accepted(b"3")], [True, True, False])
        self.consumer(1)
        self.assertEqual([self.accepted(b"4"), self.accepted(b"5")], [True, False])

    def test_bytes(self) -> None:
        """As many bytes as are allowed may wait, to the last one."""
        self.limit(max_bytes=10)
        self.assertEqual([self.accepted(b"x" * size) for size in (11, 9, 2, 1, 1)], [False, True, False, True, False])
        self.consumer(1)
        self.assertEqual([self.accepted(b"x" * size) for size in (10, 9)], [False, True])

    def test_blocked_by_a_full_queue(self) -> None:
        """A sender that cannot be refused is blocked by a full queue, and may try again when it has capacity, not before."""
        self.limit(max_messages=2)
        consumer = self.consumer(1)
        self.send(1)
        self.send(2, 3)
        sender = RecordingPeer(self.broker)
        for number in 4, 5:
            sender.channel.publish("q", b"%d" % number, 0)
            self.settle()
            self.assertEqual((sender.blocks, sender.unblocks), (number - 3, number - 4))
            self.ack(consumer)
            self.assertEqual(sender.unblocks, number - 3)
            sender.channel.publish("q", b"%d" % number, 0)

    def test_drop_oldest(self) -> None:
        """A queue that drops its oldest messages drops as few as make place for the new one, and none for one that never fits."""
        self.limit(max_bytes=10, when_full="drop-oldest")
        self.assertEqual([self.accepted(body) for body in (b"1234", b"567", b"890", b"x" * 11, b"abcd")], [True, True, True, False, True])
        self.assertEqual(self.broker.lifecycle.dropped, 1)
        self.assertEqual(self.drain(), [b"567", b"890", b"abcd"])


class MemoryAccountingTests(BrokerTestCase):
    """Whatever becomes of a message, in the end it uses no memory, and a queue that is not used none either."""

    def publish(self, key: str = "", delay: int = 0) -> None:
        """Send a message with all that it may have."""
        self.broker.publish("q", b"x" * 1000, 5000, Properties(delay, key, b'{"a":"b"}'))
        self.settle()

    def check(self) -> None:
        """Take what waits; nothing is used any more, and nothing remembered once the keys' time is over."""
        for name in list(self.broker.queues):
            self.drain(name)
        self.time += 1_000_000
        self.sweep()
        self.assertEqual((self.broker.memory.used, dict(self.broker.queues), self.broker.keys.count), (0, {}, 0))
        self.assertEqual((self.broker.dead_letters.count, self.broker.dead_letters.totals), (0, {}))

    def reject(self) -> DeadMessage:
        """Reject the next message."""
        peer = self.consumer(1)
        peer.channel.dead_letter(None, peer.held.pop().id)
        self.drop(peer)
        [dead] = self.broker.dead_letters.page("q")
        return dead

    def test_acknowledged(self) -> None:
        """One that is acknowledged."""
        self.publish("ké")
        self.check()

    def test_requeued_with_a_delay(self) -> None:
        """One that is re-queued with a delay, and had no properties before."""
        self.send(1)
        peer = self.consumer(1)
        peer.channel.requeue(None, peer.take(b"1"), 0, None, 1000)
        self.time += 1000
        self.broker.tick()
        self.drop(peer)
        self.check()

    def test_dead_letter(self) -> None:
        """One that is rejected, and its dead letter deleted."""
        self.publish("ké")
        dead = self.reject()
        self.assertEqual(self.broker.dead_letters.totals, {"q": (1, dead.size)})
        self.broker.lifecycle.delete([dead])
        self.check()

    def test_dead_letters_of_two(self) -> None:
        """What the dead letters of a queue take falls with each that is deleted."""
        self.publish()
        self.send(1)
        peer = self.consumer(2)
        for message in peer.held:
            peer.channel.dead_letter(None, message.id)
        self.drop(peer)
        one, other = self.broker.dead_letters.page("q")
        self.assertEqual(self.broker.dead_letters.totals, {"q": (2, one.size + other.size)})
        self.broker.lifecycle.delete([one])
        self.assertEqual(self.broker.dead_letters.totals, {"q": (1, other.size)})
        self.broker.lifecycle.delete([other])
        self.check()

    def test_replayed(self) -> None:
        """One that is rejected, replayed to another queue and acknowledged there."""
        self.publish("ké")
        self.broker.lifecycle.replay([self.reject()], "r")
        self.assertEqual(self.ready("r"), 1)
        self.check()

    def test_moved(self) -> None:
        """One that is moved to another queue."""
        self.publish("ké")
        self.broker.lifecycle.move(self.broker.queues["q"], self.broker.queues.get_or_create("r"), 5)
        self.check()

    def test_expired(self) -> None:
        """One that expires while it waits, in Python or only in the store, or while it is delayed."""
        for consumed in False, True:
            for delay in 0, 10_000:
                self.publish("ké", delay)
                peer = self.consumer(1)
                if not consumed:
                    self.drop(peer)
                self.time += 5000
                self.sweep()
                if consumed:
                    self.drop(peer)
                self.check()

    def test_flushed(self) -> None:
        """One that is flushed, ready or delayed."""
        self.publish("ké")
        self.publish("other", 1000)
        self.broker.queues.flush("q")
        self.settle()
        self.check()

    def test_many_keys(self) -> None:
        """The keys of many, which are forgotten together."""
        for number in range(30):
            self.publish(f"ké{number}")
        self.check()

    def test_restart(self) -> None:
        """A restart counts the same: messages, keys, dead letters, producers and queues."""
        peer = RecordingPeer(self.broker)
        peer.channel.hello(b"h", b"me")
        peer.channel.send(b"1", "q", b"x", 0, False, Properties(0, "ké", b"{}"))
        self.drop(peer)
        self.publish()
        self.publish("k2")
        self.reject()
        used = self.broker.memory.used
        self.restart()
        self.assertEqual(self.broker.memory.used, used)
        self.broker.lifecycle.delete(list(self.store.dead()))
        for _ in range(2):
            self.time += 86_400_000
            self.sweep()
        self.check()


class PrefetchTests(BrokerTestCase):
    """What a queue keeps ready in Python, and what it counts of it."""

    def check(self) -> None:
        """Its sizes are those of the messages."""
        queue = self.broker.queues["q"]
        self.assertEqual(queue.prefetched_size, sum(message.size for message in queue.prefetched))
        self.store.write()
        sizes = {message.position: message.size for message in self.store.read(queue, queue.flushed_to, MANY, MANY)}
        held = sum(message.size for channel in self.broker.lifecycle.channels for message in channel.unacked.values())
        self.assertEqual(queue.ready_size, sum(sizes.values()) - held)

    def test_sizes(self) -> None:
        """Sizes follow every way of a message in and out."""
        peer = self.consumer(2)
        self.send(1, 22, 333, 4444, 55555)
        self.check()
        self.ack(peer, 1)
        self.check()
        self.requeue(peer, 22)
        self.check()
        self.dead(peer, 333)
        self.check()
        other = self.consumer(1)
        self.drop(peer)
        self.check()
        self.send(666666, ttl=1)
        self.time += 1
        self.sweep()
        self.check()
        self.broker.lifecycle.move(self.broker.queues["q"], self.broker.queues.get_or_create("r"), 1)
        self.check()
        self.drop(other)
        self.check()
        self.broker.queues.flush("q")
        self.assertEqual((self.broker.queues["q"].prefetched_size, self.broker.queues["q"].ready_size), (0, 0))

    def test_waits(self) -> None:
        """The wait of each message until its first delivery is counted, once."""
        self.send(1, 2, 3)
        self.time += 10
        self.send(4, 5)
        self.time += 10
        self.drop(self.consumer(MANY))
        self.drop(self.consumer(MANY))
        waits = self.broker.lifecycle.waits
        self.assertEqual((sum(waits.counts), round(waits.seconds * 1000)), (5, 3 * 20 + 2 * 10))


class ProducerOfUserTests(BrokerTestCase):
    """Rule 17b: whose a producer is."""

    def sends(self, user: str, name: bytes, number: int) -> bool:
        """Send as a user's producer, on a connection of its own; whether the send is a duplicate."""
        peer = RecordingPeer(self.broker)
        channel = self.broker.channel(peer, user)
        channel.hello(b"h", name)
        channel.send(b"%d" % number, "q", b"x", 0, False, None)
        channel.close()
        [_, (_, _, duplicate)] = peer.receipts
        return duplicate

    def test_users(self) -> None:
        """Producers of the same name are different ones if their users are, also after a restart; so is one whose name looks like both."""
        producers = ("", b"me"), ("anna", b"me"), ("b\u00e9n", b"me"), ("", b"anna\0me"), ("anna", b"\0me"), ("anna", b"m\0e")
        for number, (user, name) in enumerate(producers, 1):
            self.assertFalse(self.sends(user, name, number))
        self.restart()
        for number, (user, name) in enumerate(producers, 1):
            self.assertTrue(self.sends(user, name, number))
            self.assertFalse(self.sends(user, name, number + 1))


class DeadLetterPageTests(BrokerTestCase):
    """Dead letters as operators read them."""

    def test_bounded_by_size(self) -> None:
        """A page ends with the dead letter that brings it to its size, headers included; it has one at least."""
        for _ in range(5):
            self.broker.publish("q", b"12345", 0, Properties(headers=b"{     }"))
        peer = self.consumer(5)
        for message in peer.held:
            peer.channel.dead_letter(None, message.id)
        page = self.broker.dead_letters.page
        self.assertEqual([len(page("q", size=size)) for size in (1, 12, 13, 24, 25, 60, 61)], [1, 1, 2, 2, 3, 5, 5])
        self.assertEqual([len(page("q", size=size, preview=0)) for size in (7, 8)], [1, 2])

    def test_by_reason(self) -> None:
        """How many messages became dead letters is counted by reason, and does not fall when they are deleted."""
        self.broker.configure("q", self.broker.queues.get_or_create("q").settings.changed({"max_attempts": 1, "expired": "dead"}))
        self.send(1, 2, 3)
        peer = self.consumer(1)
        self.dead(peer, 1)
        self.dead(peer, 2)
        self.drop(peer)
        self.send(4, ttl=1)
        self.time += 1
        self.sweep()
        expected = {"rejected": 2, "max-attempts": 1, "expired": 1}
        self.assertEqual((self.broker.dead_letters.by_reason, self.broker.dead_letters.count_of("q")), (expected, 4))
        self.broker.lifecycle.delete(list(self.store.dead()))
        self.assertEqual((self.broker.dead_letters.by_reason, self.broker.dead_letters.count_of("q")), (expected, 0))

    def test_replay_of_none(self) -> None:
        """A replay of no dead letters makes no queue."""
        self.broker.lifecycle.replay([], "r")
        self.assertEqual(self.broker.queues, {})

    def test_replay_is_delivered(self) -> None:
        """A consumer that waits gets what is replayed at once, and what is moved as well."""
        self.send(1, 2)
        peer = self.consumer(1)
        self.dead(peer, 1)
        self.drop(peer)
        other = self.consumer(2, "r")
        self.broker.lifecycle.replay(list(self.store.dead()), "r")
        self.settle()
        self.assertEqual(other.got, bodies(1))
        self.broker.lifecycle.move(self.broker.queues["q"], self.broker.queues["r"], 1)
        self.settle()
        self.assertEqual(other.got, bodies(1, 2))

    def test_counts_of_a_queue(self) -> None:
        """A queue counts what was sent to it, delivered and acknowledged."""
        self.send(1, 2, 3)
        self.send(4, queue="other")
        peer = self.consumer(2)
        self.drop(peer)
        self.ack(self.consumer(2), 1)
        queue, lifecycle = self.broker.queues["q"], self.broker.lifecycle
        self.assertEqual((queue.received, queue.delivered, queue.acknowledged), (3, 5, 1))
        self.assertEqual((lifecycle.received, lifecycle.delivered, lifecycle.redelivered, lifecycle.acknowledged), (4, 5, 2, 1))

    def test_of_another_queue(self) -> None:
        """A dead letter is found by its number in its queue only."""
        self.send(1)
        peer = self.consumer(1)
        peer.channel.dead_letter(None, peer.held[0].id)
        number = peer.held[0].number
        self.assertIsNotNone(self.broker.dead_letters.find("q", number))
        self.assertIsNone(self.broker.dead_letters.find("r", number))
        self.assertIsNone(self.broker.dead_letters.find("q", number + 1))


class RevisionTests(BrokerTestCase):
    """A queue remembers the revision of protocol 01 that its latest sender spoke."""

    def test_kept(self) -> None:
        """Over a restart, as long as the queue is there; a queue that is not there has none."""
        self.broker.save_revision("q", 1)
        self.assertEqual(self.broker.revisions, {})
        self.broker.publish("q", b"")
        self.broker.save_revision("q", 1)
        self.broker.save_revision("q", 2)
        self.broker.queues.pause("q")
        self.assertEqual(self.broker.revisions, {"q": 2})
        self.restart()
        self.assertEqual(self.broker.revisions, {"q": 2})
        self.broker.queues.resume("q")
        self.broker.queues.flush("q")
        self.broker.dispatch()
        self.assertEqual(self.broker.revisions, {})


class SmallReadAheadTests(OrderTests, FlushTests, ExpiryTests, AttemptTests):
    """The same with a read-ahead of three messages, so that each of them crosses its bound."""

    def setUp(self) -> None:
        self.patch(phpmq.broker.queue, "_PREFETCHED_MESSAGES", 3)
        super().setUp()

    def test_bound(self) -> None:
        """The bound is kept."""
        self.consumer(1)
        self.send(*range(10))
        self.assertIn(len(self.broker.queues["q"].prefetched), (1, 2, 3))
        positions = [message.position for message in self.broker.queues["q"].prefetched]
        self.assertTrue(all(first < second for first, second in pairwise(positions)))
