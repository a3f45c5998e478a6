"""Tests of L{phpmq.session}, with a real broker and store."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from phpmq.broker import SENDS, Broker
from phpmq.broker.queues import QUEUE_OVERHEAD
from phpmq.errors import BadFrame, BadName, TooLarge, Unsupported
from phpmq.interfaces import IConnection, IPeer
from phpmq.message import MESSAGE_OVERHEAD
from phpmq.server_frames import DOCUMENTED, ORIGINAL, Versions
from phpmq.session import Session
from phpmq.store import SQLiteStore
from tests.doubles import RecordingConnection
from tests.wire import BAD, GOOD, Delivery, acknowledge, consume, dead_letter, deliveries, requeue, send

UNKNOWN = b"d7e7f68761d34838494b233148b5486c"


class Client:
    """One end of a conversation, the server's session being the other."""

    def __init__(self, broker: Broker, version: Versions, original: bool) -> None:
        self.connection = RecordingConnection()
        self.session = Session(broker, version, self.connection, original)

    def says(self, *frames: bytes) -> None:
        """Send frames, all in one chunk."""
        self.session.receive(b"".join(frames))

    def hears(self) -> list[Delivery]:
        """What arrived since the last time."""
        data = b"".join(self.connection.writes)
        self.connection.writes.clear()
        return deliveries(data)

    def bodies(self) -> list[bytes]:
        """The bodies of what arrived since the last time."""
        return [delivery.content for delivery in self.hears()]

    def acknowledges(self, got: Iterable[Delivery]) -> None:
        """Acknowledge deliveries, all in one chunk."""
        self.says(*(acknowledge(delivery.queue, delivery.id) for delivery in got))

    @property
    def error(self) -> Exception | None:
        """Why the server closed the connection, None while it did not."""
        errors = self.connection.errors
        return errors[0] if errors else None


class SessionTestCase(SynchronousTestCase):
    """A server without transports."""

    def setUp(self) -> None:
        """Start it."""
        self.time = 1_700_000_000_000
        self.woken = 0
        self.store = SQLiteStore()
        self.addCleanup(self.store.close)
        self.broker = Broker(self.store, lambda: self.time, wake=self.wake)
        self.version = Versions()

    def wake(self) -> None:
        """Count how often the broker wants to be called."""
        self.woken += 1

    def client(self, original: bool = False) -> Client:
        """Connect to the usual listener, or to one for clients of the original revision."""
        return Client(self.broker, self.version, original)

    def waiting(self, queue: str) -> int:
        """How many messages wait."""
        return self.broker.queues[queue].ready if queue in self.broker.queues else 0


class InterfaceTests(SessionTestCase):
    """What fits where."""

    def test_interfaces(self) -> None:
        """A session is a peer for the broker, and the double of these tests a connection for the session."""
        client = self.client()
        self.assertTrue(verifyObject(IPeer, client.session))
        self.assertTrue(verifyObject(IConnection, client.connection))


class ConversationTests(SessionTestCase):
    """Commands."""

    def test_recorded(self) -> None:
        """Every recorded frame of a client is carried out, byte by byte, without an answer; nobody is disconnected."""
        for vector in GOOD:
            if vector.sender == "client":
                client = self.client()
                for index in range(len(vector.frame)):
                    client.session.receive(vector.frame[index : index + 1])
                self.assertIsNone(client.error, vector.name)
                self.assertEqual(client.session.pending, 0)
                client.session.close()
        self.assertEqual(self.waiting("Foo"), 5)

    def test_send_and_consume(self) -> None:
        """What is sent is delivered once to a consumer, in order, with the ttl that was given, and waits for its acknowledgement."""
        sender, consumer = self.client(), self.client()
        sender.says(send("q", b"a"), send("q", b"b", 60), send("other", b"c"))
        consumer.says(consume("q", 10))
        got = consumer.hears()
        self.assertEqual([(d.queue, d.content, d.ttl) for d in got], [("q", b"a", 0), ("q", b"b", 60)])
        for delivery in got:
            self.assertRegex(delivery.id.decode(), "^[0-9a-f]{32}$")
        self.assertEqual(self.broker.queues["q"].in_flight, 2)
        consumer.acknowledges(got)
        self.assertEqual(self.broker.lifecycle.acknowledged, 2)
        self.assertEqual(sender.connection.writes, [])

    def test_window(self) -> None:
        """No more than the window is in flight; each acknowledgement opens a place; window 0 ends it."""
        client = self.client()
        client.says(*(send("q", b"%d" % index) for index in range(6)), consume("q", 2))
        first = client.hears()
        self.assertEqual([d.content for d in first], [b"0", b"1"])
        client.acknowledges(first[:1])
        self.assertEqual(client.bodies(), [b"2"])
        client.says(consume("q", 0))
        client.acknowledges(first[1:])
        self.assertEqual(client.bodies(), [])
        self.assertEqual(self.waiting("q"), 3)

    def test_enormous_window(self) -> None:
        """A window of twenty digits is cut to what the server allows."""
        client = self.client()
        client.says(consume("q", 10**20 - 1))
        (consumer,) = self.broker.queues["q"].consumers
        self.assertEqual(consumer.window, self.broker.lifecycle.max_window)

    def test_enormous_ttl(self) -> None:
        """A ttl of twenty digits is as good as for ever."""
        client = self.client()
        client.says(send("q", b"x", 10**20 - 1), consume("q", 1))
        (delivery,) = client.hears()
        self.assertGreater(delivery.ttl or 0, 10**9)

    def test_requeue(self) -> None:
        """A re-queued message goes to the tail, keeps its id and gets the new ttl."""
        client = self.client()
        client.says(send("q", b"a"), send("q", b"b"), consume("q", 1))
        (first,) = client.hears()
        client.says(requeue("q", first.id, 9))
        (second,) = client.hears()
        self.assertEqual(second.content, b"b")
        client.acknowledges([second])
        self.assertEqual(client.hears(), [Delivery("q", b"a", first.id, 9)])

    def test_dead_letter(self) -> None:
        """A dead letter leaves the queue and is kept as rejected."""
        client = self.client()
        client.says(send("q", b"a"), consume("q", 1))
        (delivery,) = client.hears()
        client.says(dead_letter("q", delivery.id))
        self.assertEqual([(dead.body, dead.reason, dead.queue) for dead in self.store.dead()], [(b"a", "rejected", "q")])

    def test_close(self) -> None:
        """What a client held is delivered to the others when it goes, at once and in order."""
        first, second = self.client(), self.client()
        first.says(*(send("q", b"%d" % index) for index in range(4)), consume("q", 3))
        second.says(consume("q", 5))
        self.assertEqual((first.bodies(), second.bodies()), ([b"0", b"1", b"2"], [b"3"]))
        first.session.close()
        self.assertEqual(second.bodies(), [b"0", b"1", b"2"])

    def test_drain_before_the_first_frame(self) -> None:
        """Of a server that stops, a client hears nothing whose version has no word for it, or is not known yet."""
        for frames in [], [send("q", b"1"), consume("q", 1)]:
            client = self.client()
            client.says(*frames)
            self.assertEqual(client.bodies(), [b"1"] if frames else [])
            client.session.drain()
            self.assertEqual((client.connection.writes, client.error), ([], None))
        self.assertEqual(self.waiting("q"), 1)

    def test_unfinished_frame_counts_as_pending(self) -> None:
        """What was received of an unfinished frame is pending; progress is told by complete frames."""
        client = self.client()
        frame = send("q", b"x")
        self.assertFalse(client.session.receive(frame[:50]))
        self.assertEqual(client.session.pending, 50)
        self.assertTrue(client.session.receive(frame[50:] + frame[:3]))
        self.assertEqual(client.session.pending, 3)


class RevisionTests(SessionTestCase):
    """Which revision a connection speaks."""

    def delivered(self, client: Client) -> bytes:
        """The header of the only delivery that arrived."""
        data = b"".join(client.connection.writes)
        self.assertEqual(len(client.hears()), 1)
        return data[:8]

    def test_evidence(self) -> None:
        """A two-packet send makes a connection original; a three-packet send, a re-queue or a dead letter makes it documented."""
        evidence = {
            send("q", b"x", None): ORIGINAL,
            send("q", b"x", 0): DOCUMENTED,
            requeue("q", UNKNOWN): DOCUMENTED,
            dead_letter("q", UNKNOWN): DOCUMENTED,
        }
        for frame, revision in evidence.items():
            for original in False, True:
                client = self.client(original)
                client.says(frame)
                self.assertEqual(client.session.revision, revision)
                self.assertIsNone(client.error)

    def test_no_evidence(self) -> None:
        """A consume, an acknowledgement and an unfinished send are no evidence."""
        for frame in consume("q", 5), acknowledge("q", UNKNOWN), send("q", b"x", None)[:-1], send("q", b"x")[:-1]:
            client = self.client()
            client.says(frame)
            self.assertEqual(client.session.revision, 0)

    def test_evidence_decides_deliveries(self) -> None:
        """A client that sends gets deliveries of its own revision, whoever sent them and whatever the listener."""
        for ttl, header in (None, b"H0100303"), (0, b"H0100304"):
            for original in False, True:
                client = self.client(original)
                client.says(send("mine", b"x", ttl), consume("theirs", 1))
                for other_ttl in None, 0:
                    self.client().says(send("theirs", b"x", other_ttl))
                    client.acknowledges([self.only(client, header)])
                client.session.close()

    def only(self, client: Client, header: bytes) -> Delivery:
        """The only delivery that arrived, which has that header."""
        self.assertEqual(b"".join(client.connection.writes)[:8], header)
        (delivery,) = client.hears()
        return delivery

    def test_contradiction(self) -> None:
        """Frames of both revisions on one connection are an error: nothing of the second is carried out, the first counts."""
        original = [send("q", b"o", None)]
        documented = [send("q", b"d"), requeue("q", UNKNOWN), dead_letter("q", UNKNOWN)]
        for first, second in [(o, d) for o in original for d in documented] + [(d, o) for o in original for d in documented]:
            for chunks in [first + second], [first, second]:
                client = self.client()
                received = self.broker.lifecycle.received
                for chunk in chunks:
                    client.says(chunk)
                self.assertIsInstance(client.error, Unsupported)
                self.assertEqual(self.broker.lifecycle.received - received, int(first[:6] == b"H01001"))

    def test_contradiction_on_header_alone(self) -> None:
        """A contradiction is seen on the header, before the rest of the frame arrives."""
        client = self.client()
        client.says(send("q", b"o", None), b"H0100103")
        self.assertIsInstance(client.error, Unsupported)

    def test_pure_consumer_follows_senders(self) -> None:
        """A client that only consumes is taken to speak like the latest sender of the queue of its first delivery."""
        for ttls, header in ((None,), b"H0100303"), ((0,), b"H0100304"), ((0, None), b"H0100303"), ((None, 0), b"H0100304"):
            queue = f"q{ttls}"
            for ttl in ttls:
                self.client().says(send(queue, b"x", ttl))
            consumer = self.client()
            consumer.says(consume(queue, 1))
            self.assertEqual(self.delivered(consumer), header)

    def test_pure_consumer_before_the_sender(self) -> None:
        """The same when the consumer was there first."""
        for ttl, header in (None, b"H0100303"), (0, b"H0100304"):
            consumer = self.client()
            consumer.says(consume(f"q{ttl}", 1))
            self.client().says(send(f"q{ttl}", b"x", ttl))
            self.assertEqual(self.delivered(consumer), header)

    def test_pure_consumer_without_senders(self) -> None:
        """Where no client of version 01 ever sent, the listener decides: documented, or original on a listener for such clients."""
        for original, header in (False, b"H0100304"), (True, b"H0100303"):
            self.broker.publish("q", b"x")
            consumer = self.client(original)
            consumer.says(consume("q", 1))
            self.assertEqual(self.delivered(consumer), header)
            consumer.session.close()
            self.broker.queues.flush("q")
            self.broker.dispatch()

    def test_listen_original(self) -> None:
        """On a listener for clients of the original revision, who only consumes is original, whoever sent."""
        for ttl in None, 0, 60:
            self.client().says(send("q", b"x", ttl))
            consumer = self.client(original=True)
            consumer.says(consume("q", 1))
            self.assertEqual(self.delivered(consumer), b"H0100303")
            consumer.session.close()
            self.broker.queues.flush("q")
            self.broker.dispatch()

    def test_fixed_at_first_delivery(self) -> None:
        """The first delivery fixes the revision: later ones have it whoever sends, and a frame of the other one is an error."""
        for ttl, header, other, wrong in (
            (None, b"H0100303", 0, send("x", b"", 0)),
            (0, b"H0100304", None, send("x", b"", None)),
        ):
            queue = f"q{ttl}"
            consumer = self.client()
            consumer.says(consume(queue, 9))
            self.client().says(send(queue, b"1", ttl))
            self.assertEqual(self.delivered(consumer), header)
            self.client().says(send(queue, b"2", other))
            self.assertEqual(self.delivered(consumer), header)
            consumer.says(wrong)
            self.assertIsInstance(consumer.error, Unsupported)

    def test_kept_with_the_queue(self) -> None:
        """The revision of a queue's latest sender is in the store: a restart does not change what a consumer gets."""
        self.client().says(send("q", b"x", None))
        broker = Broker(self.store, lambda: self.time)
        consumer = Client(broker, self.version, original=False)
        consumer.says(consume("q", 1))
        self.assertEqual(self.delivered(consumer), b"H0100303")


class TimeToLiveTests(SessionTestCase):
    """The ttl of deliveries."""

    def test_what_is_left_rounded_up(self) -> None:
        """A delivery tells what is left, rounded up to a second, and is not made any more when nothing is."""
        for waited, left in (0, 10), (1, 10), (999, 10), (1000, 9), (9000, 1), (9001, 1), (9999, 1), (10_000, None):
            client = self.client()
            client.says(send("q", b"x", 10))
            self.time += waited
            client.says(consume("q", 1))
            got = client.hears()
            self.assertEqual([delivery.ttl for delivery in got], [] if left is None else [left])
            client.acknowledges(got)
            client.session.close()

    def test_never(self) -> None:
        """A message without ttl, or from an original client, says 0 however long it waited."""
        self.client().says(send("q", b"a", 0))
        self.client().says(send("q", b"b", None))
        self.time += 10**12
        client = self.client()
        client.says(send("x", b""), consume("q", 2))
        self.assertEqual([delivery.ttl for delivery in client.hears()], [0, 0])


class WrongIdTests(SessionTestCase):
    """Settling what one does not hold."""

    def test_ignored_and_counted(self) -> None:
        """Ids that are unknown, settled already, somebody else's or of another queue change nothing, are counted, and nobody is told."""
        owner, stranger = self.client(), self.client()
        owner.says(send("q", b"a"), send("q", b"b"), consume("q", 1))
        (held,) = owner.hears()
        settled = self.broker.lifecycle.acknowledged, self.broker.lifecycle.requeued, sum(self.broker.dead_letters.by_reason.values())
        wrong = 0
        for who, queue, message_id in (
            (stranger, "q", held.id),
            (owner, "other", held.id),
            (owner, "q", UNKNOWN),
            (owner, "q", held.id[:-1]),
            (owner, "q", held.id + b"0"),
            (owner, "q", b""),
            (owner, "q", b"\xff" * 64),
        ):
            for frame in acknowledge(queue, message_id), requeue(queue, message_id), dead_letter(queue, message_id):
                who.says(frame)
                wrong += 1
        self.assertEqual(self.broker.outcomes.unknown_ids, wrong)
        lifecycle, dead = self.broker.lifecycle, sum(self.broker.dead_letters.by_reason.values())
        self.assertEqual((lifecycle.acknowledged, lifecycle.requeued, dead), settled)
        self.assertEqual((owner.error, stranger.error), (None, None))
        self.assertEqual((owner.hears(), stranger.hears()), ([], []))
        owner.acknowledges([held])
        self.assertEqual(owner.bodies(), [b"b"])
        owner.acknowledges([held])
        self.assertEqual((self.broker.outcomes.unknown_ids, owner.bodies()), (wrong + 1, []))


class BadInputTests(SessionTestCase):
    """Clients that break the protocol."""

    def test_recorded(self) -> None:
        """Every recorded bad frame, whole and byte by byte, closes its connection once, whatever follows it; others notice nothing."""
        consumer = self.client()
        consumer.says(consume("Foo", 1000))
        for vector in BAD:
            for size in 1, len(vector.frame):
                client = self.client()
                client.says(send("Foo", b"before"))
                for start in range(0, len(vector.frame), size):
                    if client.error is None:
                        client.says(vector.frame[start : start + size])
                self.assertEqual(len(client.connection.errors), 1, (vector.name, size))
                self.assertEqual(consumer.bodies(), [b"before"])
                client.session.close()
        self.assertIsNone(consumer.error)
        self.assertEqual(set(self.broker.queues), {"Foo"})

    def test_codes(self) -> None:
        """The error has the code of what is wrong."""
        for data, error in (
            (b"GET /", BadFrame),
            (b"H0300102", Unsupported),
            (b"H0100103P02" + b"9" * 29, TooLarge),
            (consume("\n", 1), BadName),
            (send("", b"x"), BadName),
            (acknowledge("\x7f", UNKNOWN), BadName),
        ):
            client = self.client()
            client.says(data)
            self.assertIs(type(client.error), error)

    def test_frames_before_count(self) -> None:
        """What came before a bad frame in the same chunk is carried out, what comes after it is not."""
        client = self.client()
        client.says(send("q", b"a"), send("q", b"b"), b"H9999999", send("q", b"c"))
        self.assertEqual(self.waiting("q"), 2)

    def test_gets_nothing_more(self) -> None:
        """Messages do not go to a client that broke the protocol, nor stay with it, while its connection is being closed."""
        bad, good = self.client(), self.client()
        bad.says(consume("q", 10))
        self.client().says(send("q", b"1"))
        self.assertEqual(bad.bodies(), [b"1"])
        good.says(consume("q", 10))
        bad.says(b"nonsense")
        self.assertEqual(good.bodies(), [b"1"])
        self.client().says(*(send("q", b"%d" % index) for index in range(2, 6)))
        self.assertEqual(good.bodies(), [b"2", b"3", b"4", b"5"])


class OutputTests(SessionTestCase):
    """Writing deliveries."""

    def test_one_write_per_turn(self) -> None:
        """All deliveries of a turn leave in one write of whole frames."""
        client = self.client()
        client.says(*(send("q", b"%d" % index) for index in range(300)), consume("q", 300))
        self.assertEqual(len(client.connection.writes), 1)
        self.assertEqual(client.bodies(), [b"%d" % index for index in range(300)])

    def test_one_write_for_several_queues(self) -> None:
        """Also when they are from several queues."""
        client = self.client()
        client.says(*(send(f"q{index}", b"x") for index in range(20)), *(consume(f"q{index}", 5) for index in range(20)))
        self.assertEqual(len(client.connection.writes), 1)
        self.assertEqual({delivery.queue for delivery in client.hears()}, {f"q{index}" for index in range(20)})

    def test_nothing_to_write(self) -> None:
        """Without deliveries nothing is written."""
        client = self.client()
        client.says(consume("q", 5), send("other", b"x"))
        self.assertEqual(client.connection.writes, [])

    def test_output_is_written_in_portions(self) -> None:
        """More than about 128 KiB is written in several portions, none much larger, whole frames each, in order and without a loss."""
        client = self.client()
        bodies = [b"%05d" % index * 2000 for index in range(100)]
        client.says(*(send("q", body) for body in bodies), consume("q", 100))
        writes = list(client.connection.writes)
        self.assertGreater(len(writes), 5)
        for data in writes:
            self.assertLess(len(data), 128 * 1024 + 2 * 10_200)
            deliveries(data)
        self.assertEqual(client.bodies(), bodies)

    def test_large_message(self) -> None:
        """One message above the output limit is delivered like any other."""
        client = self.client()
        client.says(send("q", b"x" * 1_000_000), send("q", b"y"), consume("q", 2))
        self.assertEqual(client.bodies(), [b"x" * 1_000_000, b"y"])

    def test_choked(self) -> None:
        """A client whose transport is full gets one portion; what is left waits for others, or for the transport to have room."""
        slow, quick = self.client(), self.client()
        slow.connection.on_write = lambda data: slow.session.pause_output()
        bodies = [b"%05d" % index * 2000 for index in range(100)]
        slow.says(*(send("q", body) for body in bodies), consume("q", 100))
        self.assertEqual(len(slow.connection.writes), 1)
        got = slow.bodies()
        self.assertLess(len(got), 16)
        self.assertEqual(got, bodies[: len(got)])
        self.assertEqual(self.waiting("q"), 100 - len(got))
        quick.says(consume("q", 5))
        self.assertEqual(quick.bodies(), bodies[len(got) : len(got) + 5])
        rest = bodies[len(got) + 5 :]
        while rest:
            slow.session.resume_output()
            self.assertEqual(len(slow.connection.writes), 1)
            more = slow.bodies()
            self.assertEqual(more, rest[: len(more)])
            rest = rest[len(more) :]
        slow.session.resume_output()
        self.assertEqual(slow.bodies(), [])

    def test_choked_gets_nothing(self) -> None:
        """While the transport is full nothing is delivered, also not for acknowledgements; afterwards it goes on at once."""
        client = self.client()
        client.says(consume("q", 2))
        self.client().says(send("q", b"a"), send("q", b"b"), send("q", b"c"))
        got = client.hears()
        client.session.pause_output()
        client.acknowledges(got)
        self.client().says(send("q", b"d"))
        self.assertEqual(client.bodies(), [])
        self.assertEqual(self.waiting("q"), 2)
        client.session.resume_output()
        self.assertEqual(client.bodies(), [b"c", b"d"])

    def test_choked_is_read(self) -> None:
        """A client of version 01, which gets no answers, is read while its transport is full: it may acknowledge."""
        client = self.client()
        client.says(consume("q", 2))
        client.session.pause_output()
        self.assertTrue(client.connection.reading)
        client.session.resume_output()
        self.assertTrue(client.connection.reading)

    def test_no_queue_starves(self) -> None:
        """With two full queues and a transport that takes a portion at a time, both advance."""
        client = self.client()
        client.connection.on_write = lambda data: client.session.pause_output()
        for queue in "a", "b":
            self.client().says(*(send(queue, b"x" * 10_000) for _ in range(200)))
        client.says(consume("a", 1000), consume("b", 1000))
        for _ in range(8):
            client.session.resume_output()
        counts = [200 - self.waiting(queue) for queue in ("a", "b")]
        self.assertGreater(min(counts), 30)


class MemoryTests(SessionTestCase):
    """Senders and the memory limit."""

    BODY = 1000

    def fill(self, messages: int) -> None:
        """Set the limit to what one queue with so many messages takes."""
        self.broker.memory.limit = QUEUE_OVERHEAD + messages * (self.BODY + MESSAGE_OVERHEAD)

    def body(self, number: int) -> bytes:
        """A body that tells its number."""
        return b"%d" % number + b" " * (self.BODY - len(b"%d" % number))

    def drain(self, consumer: Client) -> list[int]:
        """Take and acknowledge all there is, turn by turn; the numbers in order of arrival."""
        numbers = []
        while got := consumer.hears():
            numbers += [int(delivery.content) for delivery in got]
            consumer.acknowledges(got)
            self.broker.dispatch()
            self.assertLessEqual(self.broker.memory.used, self.broker.memory.limit + self.BODY + MESSAGE_OVERHEAD)
        return numbers

    def test_sender_waits(self) -> None:
        """At the limit a sender is not read from any more; what it sent already is neither lost nor refused, and is accounted for."""
        self.fill(4)
        sender = self.client()
        frames = [send("q", self.body(number)) for number in range(10)]
        sender.says(*frames)
        self.assertEqual(self.waiting("q"), 4)
        self.assertTrue(sender.session.waiting)
        self.assertFalse(sender.connection.reading)
        self.assertIsNone(sender.error)
        self.assertEqual(sender.session.pending, sum(map(len, frames[4:])))

    def test_nothing_lost_or_reordered(self) -> None:
        """When there is room again all goes on in order, also what arrived while it waited, and the sender is read from again."""
        self.fill(4)
        sender, consumer = self.client(), self.client()
        sender.says(*(send("q", self.body(number)) for number in range(10)))
        last = b"".join(send("q", self.body(number)) for number in range(10, 13))
        sender.says(last[:1500])
        sender.says(last[1500:])
        consumer.says(consume("q", 2))
        self.assertEqual(self.drain(consumer), list(range(13)))
        self.assertTrue(sender.connection.reading)
        self.assertFalse(sender.session.waiting)
        self.assertEqual(sender.session.pending, 0)
        sender.says(send("q", self.body(13)))
        self.assertEqual(self.drain(consumer), [13])

    def test_waits_its_turn(self) -> None:
        """Little room is not announced yet: what arrives then is not carried out earlier than what waits, and nothing is twice."""
        self.fill(40)
        sender, consumer = self.client(), self.client()
        sender.says(*(send("q", self.body(number)) for number in range(42)))
        consumer.says(consume("q", 1))
        first = consumer.hears()
        consumer.acknowledges(first)
        self.assertLess(self.broker.memory.used, self.broker.memory.limit)
        sender.says(send("q", self.body(42)))
        self.assertTrue(sender.session.waiting)
        self.assertEqual([0, *self.drain(consumer)], list(range(43)))

    def test_several_senders(self) -> None:
        """Several senders that wait all go on, each in its own order, both revisions."""
        self.fill(4)
        consumer = self.client()
        ttls = (None, 0, 0)
        senders = [self.client() for _ in ttls]
        for index, (sender, ttl) in enumerate(zip(senders, ttls, strict=True)):
            sender.says(*(send("q", self.body(100 * index + number), ttl) for number in range(10)))
        consumer.says(consume("q", 3))
        numbers = self.drain(consumer)
        self.assertEqual(len(numbers), 30)
        for index in range(3):
            self.assertEqual([number for number in numbers if number // 100 == index], [100 * index + number for number in range(10)])
        self.assertEqual([sender.connection.reading for sender in senders], [True] * 3)

    def test_room_is_announced(self) -> None:
        """Room from outside of a turn, as by a flush of the queue, wakes the broker, and senders go on in the next one."""
        self.fill(4)
        sender = self.client()
        sender.says(*(send("q", self.body(number)) for number in range(6)))
        woken = self.woken
        self.broker.queues.flush("q")
        self.assertGreater(self.woken, woken)
        self.assertTrue(sender.session.waiting)
        self.broker.dispatch()
        self.assertFalse(sender.session.waiting)
        self.assertEqual(self.waiting("q"), 2)

    def test_consumers_go_on(self) -> None:
        """A full server still delivers and takes acknowledgements of other connections."""
        self.fill(2)
        consumer, sender = self.client(), self.client()
        sender.says(*(send("q", self.body(number)) for number in range(3)))
        consumer.says(consume("q", 1))
        (first,) = consumer.hears()
        self.assertEqual(int(first.content), 0)
        self.assertTrue(sender.session.waiting)
        consumer.acknowledges([first])
        self.assertFalse(sender.session.waiting)

    def test_bad_frame_behind_a_waiting_send(self) -> None:
        """A bad frame behind a send that waits closes the connection when its turn comes, after what was before it."""
        self.fill(1)
        sender, consumer = self.client(), self.client()
        sender.says(send("q", self.body(0)), send("q", self.body(1)), b"nonsense")
        self.assertIsNone(sender.error)
        consumer.says(consume("q", 1))
        self.assertEqual(self.drain(consumer), [0, 1])
        self.assertIsInstance(sender.error, BadFrame)

    def test_gone_while_waiting(self) -> None:
        """A sender that goes while it waits is forgotten: what was not accepted does not appear later."""
        self.fill(1)
        sender, consumer = self.client(), self.client()
        sender.says(send("q", self.body(0)), send("q", self.body(1)))
        sender.session.close()
        consumer.says(consume("q", 1))
        self.assertEqual(self.drain(consumer), [0])

    def test_queue_paused_for_sends(self) -> None:
        """A sender to a queue that is paused for sends waits in the same way."""
        self.broker.queues.pause("q", SENDS)
        sender = self.client()
        sender.says(send("q", b"a"), send("q", b"b"))
        self.assertFalse(sender.connection.reading)
        self.broker.queues.resume("q")
        self.broker.dispatch()
        self.assertTrue(sender.connection.reading)
        self.assertEqual(self.waiting("q"), 2)
