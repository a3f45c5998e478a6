"""Tests of L{phpmq.broker.lifecycle}, as far as version 01 does not show it: see also tests/test_broker.py."""

from __future__ import annotations

from phpmq.broker import Broker, lifecycle
from phpmq.frames import COUNT, DELAY, HEADERS, ID, KEY, LEASE, QUEUE, TAG, TTL
from phpmq.message import DEFAULT_SETTINGS, PROPERTIES_OVERHEAD, QueueSettings
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
        used = self.broker.memory.used
        self.peer.says(send(b"x", (DELAY, b"1")), send(b"y"))
        self.assertEqual(self.broker.queues.flush("q"), (2, 0))
        self.peer.says(send(b"z", (DELAY, b"1")))
        self.broker.dispatch()
        self.now += 1000
        self.broker.tick()
        self.peer.session.receive(consume(9))
        self.assertEqual(self.peer.gets(), [b"z"])
        [message_id] = self.peer.session.channel.unacked
        self.peer.says(frame(4, (ID, message_id)), consume(0))
        self.assertEqual(self.broker.memory.used, used)

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

    def test_shorter_lease(self) -> None:
        """A consume that changes the lease starts it again for all that is held: a longer one before does not hold back a shorter one."""
        self.peer.says(send(b"1"), send(b"2"), send(b"3"), consume(1, (LEASE, b"3600")))
        self.peer.says(consume(2, (LEASE, b"1")))
        other = Peer(self.broker)
        self.assertEqual([delivery[1] for _, delivery in other.says(consume(9))], [b"3"])
        self.now += 1000
        self.broker.tick()
        self.assertEqual((other.gets(), self.peer.gets()), ([b"1"], [b"2"]))

    def test_no_lease_any_more(self) -> None:
        """A consume without a lease ends that of what is held, one with a lease begins it."""
        self.peer.says(send(b"1"), consume(1, (LEASE, b"1")))
        self.peer.says(consume(1))
        [message_id] = self.peer.session.channel.unacked
        self.now += 5000
        self.broker.tick()
        self.assertEqual(self.peer.says(frame(9, (ID, message_id), (TAG, b"t"))), [("receipt", [b"t", None, None])])
        self.peer.says(consume(1, (LEASE, b"1")))
        self.now += 1000
        self.broker.tick()
        [(_, delivery)] = self.peer.hears()
        self.assertEqual((delivery[1], delivery[3]), (b"1", b"2"))

    def test_lease_of_one_that_ended(self) -> None:
        """A window of 0 ends the consumer, but not its leases; once they are over, nothing is left of it."""
        self.peer.says(send(b"1"), send(b"2"), consume(2, (LEASE, b"1")))
        self.peer.says(consume(0))
        [first, _] = self.peer.session.channel.unacked
        self.now += 900
        self.peer.says(frame(9, (ID, first)))
        self.now += 100
        self.broker.tick()
        self.assertEqual(list(self.peer.session.channel.unacked), [first])
        other = Peer(self.broker)
        self.assertEqual([delivery[1] for _, delivery in other.says(consume(9))], [b"2"])
        self.now += 900
        self.broker.tick()
        self.assertEqual(other.gets(), [b"1"])
        self.assertEqual((self.peer.session.channel.consumers, self.broker.lifecycle.leased), ({}, {}))

    def test_consumers_come_and_go(self) -> None:
        """Consumers that ended are not remembered for their lease."""
        for _ in range(5):
            self.peer.says(consume(1, (LEASE, b"9")), consume(0))
        self.peer.says(send(b"x"), consume(1, (LEASE, b"9")))
        [message_id] = self.peer.session.channel.unacked
        self.assertEqual(len(self.broker.lifecycle.leased), 1)
        self.peer.says(frame(4, (ID, message_id)), consume(0))
        self.broker.tick()
        self.assertEqual(len(self.broker.lifecycle.leased), 0)

    def test_lease_and_acknowledgement(self) -> None:
        """Whichever comes first within a tick counts: an acknowledgement at the last moment, or the end of the lease."""
        self.peer.says(send(b"1"), send(b"2"), consume(2, (LEASE, b"1")))
        first, second = self.peer.session.channel.unacked
        self.now += 1000
        self.assertEqual(self.peer.says(frame(4, (ID, first), (TAG, b"a")))[0][0], "receipt")
        self.broker.tick()
        [(_, delivery)] = self.peer.hears()
        self.assertEqual((delivery[1], delivery[2], delivery[3]), (b"2", second, b"2"))
        self.assertEqual((self.broker.queues["q"].in_flight, self.broker.lifecycle.acknowledged), (1, 1))

    def test_lease_after_flush(self) -> None:
        """What was flushed while it was leased is gone when the lease is over; so is what has expired."""
        used = self.broker.memory.used
        self.peer.says(send(b"1"), send(b"2", (TTL, b"0.5")), consume(2, (LEASE, b"1")))
        self.peer.says(send(b"3"))
        self.assertEqual(self.broker.queues.flush("q"), (1, 2))
        self.broker.dispatch()
        self.now += 1000
        self.broker.tick()
        self.assertEqual(self.peer.hears(), [])
        self.peer.says(consume(0))
        self.assertEqual((self.broker.queues, self.broker.memory.used), ({}, used))

    def test_delayed_requeue_and_flush(self) -> None:
        """A message that was re-queued with a delay is flushed with the others; one re-queued after the flush is not."""
        self.peer.says(send(b"1"), send(b"2"), consume(2))
        first, second = self.peer.session.channel.unacked
        self.peer.says(frame(5, (ID, first), (DELAY, b"1")))
        self.assertEqual(self.broker.queues.flush("q"), (1, 1))
        self.peer.says(frame(5, (ID, second), (DELAY, b"1")))
        self.broker.dispatch()
        self.now += 1000
        self.broker.tick()
        [(_, delivery)] = self.peer.hears()
        self.assertEqual((delivery[1:4]), [b"2", second, b"2"])
        self.peer.says(frame(4, (ID, second)), consume(0))
        self.assertEqual((self.broker.queues, self.broker.memory.used), ({}, 0))

    def test_key_delay_and_ttl(self) -> None:
        """A key holds while its message is delayed; if it expires before it is due, nobody gets it, and the key is free once it may be."""
        self.broker.configure("q", QueueSettings(dedup=0))

        def both(delay: bytes) -> list[tuple[str, list[bytes]]]:
            return self.peer.says(send(b"x", (KEY, b"schl\xc3\xbcssel"), (DELAY, delay), (TTL, b"1"), (TAG, b"t")))

        [(_, (_, first, _))] = both(b"2")
        self.assertEqual(both(b"2"), [("receipt", [b"t", first, b"1"])])
        self.now += 1000
        [(_, (_, second, duplicate))] = both(b"0.9")
        self.assertEqual((second != first, duplicate), (True, None))
        self.broker.sweep()
        self.broker.tick()
        self.assertEqual((self.broker.lifecycle.expired, self.broker.queues["q"].delayed), (1, 1))
        self.assertEqual(both(b"2"), [("receipt", [b"t", second, b"1"])])
        self.now += 900
        self.broker.tick()
        [(_, delivery)] = self.peer.says(consume(9))
        self.assertEqual((delivery[2], delivery[4]), (second, b"0.100"))
        self.assertEqual(both(b"0"), [("receipt", [b"t", second, b"1"])])
        self.peer.says(frame(4, (ID, second)), consume(0))
        self.broker.configure("q", DEFAULT_SETTINGS)
        self.assertEqual((self.broker.queues, self.broker.memory.used), ({}, 0))

    def test_many_due(self) -> None:
        """However many are due at once, they are released in portions, each with the next turn, in order."""
        self.patch(lifecycle, "STEP", 2)
        self.peer.says(consume(99), *[send(b"%d" % number, (DELAY, b"1")) for number in range(5)])
        self.now += 1000
        self.assertFalse(self.broker.tick())
        self.assertEqual(self.peer.gets(), [b"0", b"1"])
        self.assertFalse(self.broker.tick())
        self.assertTrue(self.broker.tick())
        self.assertEqual(self.peer.gets(), [b"2", b"3", b"4"])

    def test_dead_with_key(self) -> None:
        """A dead letter has no key any more, which it does not count either."""
        self.peer.says(send(b"x", (KEY, "schlüssel".encode()), (HEADERS, b'{"a": "b"}')), consume(1))
        [message_id] = self.peer.session.channel.unacked
        self.peer.says(frame(6, (ID, message_id)), consume(0))
        self.assertEqual(Broker(self.store, lambda: self.now).memory.used, self.broker.memory.used)

    def test_dead_after_flush(self) -> None:
        """A message that was flushed while it was in flight is a dead letter like any other."""
        self.peer.says(send(b"x", (HEADERS, b'{"a": "b"}'), (KEY, b"k")), consume(1))
        [message_id] = self.peer.session.channel.unacked
        self.broker.queues.flush("q")
        self.broker.dispatch()
        self.peer.says(frame(6, (ID, message_id)), consume(0))
        self.assertEqual(self.store.dead_totals(), {"q": (1, 1 + PROPERTIES_OVERHEAD + len(b'{"a": "b"}'))})
        self.assertEqual(Broker(self.store, lambda: self.now).memory.used, self.broker.memory.used)

    def test_shorter_lease_of_one_queue(self) -> None:
        """Another lease for one queue leaves what the client holds of others as it is."""
        self.peer.says(send(b"x"), send(b"y", queue=b"r"), consume(1, (LEASE, b"9")), frame(2, (QUEUE, b"r"), (COUNT, b"1"), (LEASE, b"9")))
        self.peer.says(consume(1, (LEASE, b"1")))
        self.now += 1000
        self.broker.tick()
        held = self.peer.session.channel.unacked.values()
        self.assertEqual({message.body: message.attempts for message in held}, {b"x": 2, b"y": 1})

    def test_lease_to_the_millisecond(self) -> None:
        """A lease is over when its time is, not a moment before; a touch starts it again from then."""
        self.peer.says(send(b"x"), consume(1, (LEASE, b"1")))
        [message_id] = self.peer.session.channel.unacked
        self.now += 999
        self.broker.tick()
        self.peer.says(frame(9, (ID, message_id)))
        self.now += 999
        self.broker.tick()
        self.assertEqual(self.broker.lifecycle.redelivered, 0)
        self.now += 1
        self.broker.tick()
        self.assertEqual(self.broker.lifecycle.redelivered, 1)

    def test_requeue_with_headers_and_delay(self) -> None:
        """A re-queue with a delay keeps headers, and counts what the delay takes only once."""
        self.peer.says(send(b"x", (HEADERS, b'{"a":"b"}')), consume(1))
        used = self.broker.memory.used
        for attempts in b"2", b"3":
            [message_id] = self.peer.session.channel.unacked
            self.peer.says(frame(5, (ID, message_id), (DELAY, b"1")))
            self.assertEqual(self.broker.memory.used, used)
            self.now += 1000
            self.broker.tick()
            [(_, contents)] = self.peer.hears()
            self.assertEqual((contents[3], contents[5]), (attempts, b'{"a":"b"}'))

    def test_expired_dead_unread(self) -> None:
        """A message that expires where expired messages are kept is a dead letter, also if nobody consumes and it is delayed."""
        self.broker.configure("q", QueueSettings(expired="dead"))
        self.peer.says(send(b"x", (TTL, b"1")), send(b"y", (TTL, b"1"), (DELAY, b"9")))
        self.now += 1000
        self.broker.sweep()
        self.assertEqual([(dead.reason, dead.body) for dead in self.store.dead()], [("expired", b"x"), ("expired", b"y")])
        queue = self.broker.queues["q"]
        self.assertEqual((queue.ready, queue.delayed, queue.ready_size), (0, 0, 0))
        self.assertEqual((self.broker.dead_letters.count_of("q"), self.broker.lifecycle.expired), (2, 2))
