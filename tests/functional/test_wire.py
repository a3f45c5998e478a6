"""The frames of wire.json on real sockets."""

from __future__ import annotations

import random
from signal import SIGKILL, SIGTERM

from twisted.trial.unittest import SynchronousTestCase

from tests import wire
from tests.functional.client import (
    Address,
    Client,
    acknowledge_frame,
    bodies,
    original_send_frame,
    packet,
    send_frame,
    take_all,
)
from tests.functional.server import TCP, Server
from tests.wire import BAD, BAD_02, GOOD_02, Frame, Vector, as_bytes, compose

GOOD = {vector.name: vector for vector in wire.GOOD + GOOD_02}

#: A frame that shows which revision a client speaks, by revision.
EVIDENCE = {
    "none": b"",
    "original": original_send_frame(b"evidence", b"original"),
    "documented": send_frame(b"evidence", b"documented"),
}


def good(name: str, message_id: bytes = b"", ttl: int | None = None) -> bytes:
    """A frame, with another id or time to live if wanted."""
    vector = GOOD[name]
    frame = vector.frame
    if message_id:
        frame = frame.replace(vector.fields["id"].encode(), message_id)
    if ttl is not None:
        frame = frame.replace(packet(5, b"%d" % vector.fields["ttl"]), packet(5, b"%d" % ttl))
    return frame


class Client02(Client):
    """A client of version 02."""

    def ask(self, name: str, **fields: str | bytes | int) -> None:
        """Send a frame."""
        self.write(compose(name, **fields))

    def hear_raw(self) -> bytes:
        """The next frame, as it comes."""
        data = self.read_raw(8)
        for _ in range(int(data[6:8])):
            header = self.read_raw(32)
            data += header + self.read_raw(int(header[3:]))
        return data

    def hear(self) -> Frame:
        """The next frame."""
        [frame] = wire.read(self.hear_raw())
        return frame

    def answer(self, name: str, **fields: str | bytes | int) -> Frame:
        """Ask, and wait for the answer."""
        self.ask(name, **fields)
        while (frame := self.hear()).fields.get("tag") != as_bytes(fields["tag"]):
            pass
        return frame

    def hear_rest(self) -> list[Frame]:
        """All that comes until the server hangs up."""
        frames = []
        try:
            while True:
                frames.append(self.hear())
        except (EOFError, ConnectionResetError):
            return frames


class Neighbour:
    """A client that works all the while and must not notice what others do."""

    def __init__(self, address: Address) -> None:
        self._client = Client(address)
        self._client.consume(b"neighbour", 10)
        self._count = 0

    def work(self) -> None:
        """Send a message and get it, on the connection of the first day."""
        self._count += 1
        body = b"%d" % self._count
        self._client.send(b"neighbour", body)
        delivery = self._client.read()
        assert delivery.body == body, delivery
        self._client.acknowledge(delivery)


class Neighbour02:
    """The same for version 02: every request is answered."""

    def __init__(self, address: Address) -> None:
        self._client = Client02(address)
        self._client.answer("hello", tag="h", producer="neighbour")
        self._client.answer("consume", queue="neighbour 02", count=10, tag="c")
        self._count = 0

    def work(self) -> None:
        """Send a message, get it and settle it, on the connection of the first day."""
        self._count += 1
        receipt = self._client.answer("send", queue="neighbour 02", content=b"%d" % self._count, tag=self._count)
        delivery = self._client.hear()
        assert delivery.fields["content"] == b"%d" % self._count, delivery
        assert receipt.fields["id"] == delivery.fields["id"], receipt
        settled = self._client.answer("acknowledge", id=delivery.fields["id"], tag="a")
        assert settled == Frame("receipt", {"tag": b"a"}), settled


class WireTests(SynchronousTestCase):
    """One server, listeners for everybody and for clients of the original revision, each on TCP and on a unix socket."""

    def setUp(self) -> None:
        """Start it, and somebody who works there."""
        self.server = Server(self, "--listen-original", TCP, "--listen-original", "unix:original")
        self.neighbour = Neighbour(self.server.tcp)
        self.everybody: list[Address] = [self.server.tcp, self.server.unix]
        self.originals: list[Address] = [self.server.ports[1], self.server.directory / "original"]

        self.addCleanup(self.undisturbed)

    def undisturbed(self) -> None:
        """Whatever came, the server lives, and nothing in it broke."""
        self.neighbour.work()
        self.assertNotIn("Traceback", self.server.output)
        self.assertEqual(self.server.stop(), 0)

    def connect(self, address: Address) -> Client:
        """A client that is gone when the test is."""
        client = Client(address)
        self.addCleanup(client.close)
        return client

    def test_original_revision(self) -> None:
        """An original send comes to a consumer byte by byte as wire.json has it, and its acknowledgement settles it."""
        for address in self.everybody + self.originals:
            sender, consumer = self.connect(address), self.connect(address)
            sender.write(good("send"))
            consumer.write(good("consume"))
            frame = consumer.read_raw(len(good("deliver")))
            message_id = frame[-32:]
            self.assertRegex(message_id, rb"^[0-9a-f]{32}$")
            self.assertEqual(frame, good("deliver", message_id))
            self.neighbour.work()
            consumer.write(good("acknowledge", message_id))
            consumer.write(b"H0100202" + packet(1, b"Foo") + packet(4, b"0"))
            consumer.close()
            take_all(address, b"Foo", 0)

    def test_documented_revision(self) -> None:
        """A send with a time to live comes to a consumer byte by byte as wire.json has it, and its acknowledgement settles it."""
        for address in self.everybody:
            for name, ttl in (("send with ttl", 3600), ("send without ttl", 0)):
                sender, consumer = self.connect(address), self.connect(address)
                sender.write(good(name))
                consumer.write(good("consume"))
                expected = good("deliver with ttl", ttl=ttl)
                frame = consumer.read_raw(len(expected))
                start = expected.index(GOOD["deliver"].fields["id"].encode())
                message_id = frame[start : start + 32]
                self.assertEqual(frame, good("deliver with ttl", message_id, ttl))
                self.neighbour.work()
                consumer.write(good("acknowledge", message_id))
                consumer.close()
                take_all(address, b"Foo", 0)

    def test_requeue_and_dead_letter(self) -> None:
        """A re-queued message comes again, last and with its new time to live; a dead letter never comes again."""
        for address in self.everybody:
            client = self.connect(address)
            client.send(b"Foo", b"one", b"two")
            client.consume(b"Foo", 1)
            one = client.read()
            client.write(good("re-queue", one.id))
            two = client.read()
            self.assertEqual((one.body, two.body), (b"one", b"two"))
            client.write(good("dead letter", two.id))
            again = client.read()
            self.assertEqual(again, one._replace(ttl=3600))
            self.neighbour.work()
            client.acknowledge(again)
            self.assertTrue(client.silent())
            client.close()
            take_all(address, b"Foo", 0)

    def test_empty_content_and_other_order(self) -> None:
        """Empty bodies and packets in any order are welcome."""
        for address in self.everybody:
            client = self.connect(address)
            client.write(good("send, empty content") + good("send, packets in another order"))
            client.consume(b"Foo")
            empty, other = client.read_many(2, acknowledge=True)
            self.assertEqual((empty.body, empty.ttl), (b"", 0))
            self.assertEqual((other.body, other.ttl), (b"x", 7))
            client.close()
            take_all(address, b"Foo", 0)

    def test_unknown_ids(self) -> None:
        """Settling what one does not hold changes nothing, and the connection stays open."""
        for address in self.everybody:
            client = self.connect(address)
            client.write(good("acknowledge") + good("re-queue") + good("dead letter"))
            client.send(b"Foo", b"still here")
            client.consume(b"Foo")
            self.assertEqual(bodies(client.read_many(1, acknowledge=True)), [b"still here"])
            other = self.connect(address)
            other.send(b"Foo", b"mine")
            held = client.read()
            other.write(acknowledge_frame(held))
            self.assertTrue(other.silent(0.05))
            client.close()
            self.assertEqual(bodies(take_all(address, b"Foo", 1)), [b"mine"])

    def test_byte_by_byte(self) -> None:
        """Frames may come in single bytes."""
        for address in self.everybody + self.originals:
            client = self.connect(address)
            for byte in good("send") + good("consume"):
                client.write(bytes([byte]))
            self.assertEqual(bodies(client.read_many(1, acknowledge=True)), [b"Hello World"])
            client.close()

    def test_bad_frames(self) -> None:
        """Each bad frame closes its own connection, whatever revision it spoke before; all else goes on."""
        sent = []
        for address in self.everybody + self.originals:
            for vector in BAD:
                for revision, evidence in EVIDENCE.items():
                    client = self.connect(address)
                    client.write(evidence + vector.frame)
                    self.assertTrue(client.hung_up(), (address, revision, vector.name))
                    self.neighbour.work()
                    sent += [revision.encode()] * bool(evidence)
        # What came before the bad frame counts.
        self.assertEqual(bodies(take_all(self.server.tcp, b"evidence", len(sent))), sent)
        # One line a minute for each address, and the bytes in it are harmless.
        complaints = [line for line in self.server.output.splitlines() if "protocol error" in line]
        self.assertEqual(len(complaints), 2)
        self.assertNotIn("\x1b", self.server.output)

    def test_frames_of_the_other_revision(self) -> None:
        """A client that showed which revision it speaks is held to it."""
        for address in self.everybody + self.originals:
            for first, second in (("original", "documented"), ("documented", "original")):
                client = self.connect(address)
                client.write(EVIDENCE[first] + EVIDENCE[second])
                self.assertTrue(client.hung_up(), (address, first))
                self.neighbour.work()
        for name in "re-queue", "dead letter":
            client = self.connect(self.server.tcp)
            client.write(EVIDENCE["original"] + good(name))
            self.assertTrue(client.hung_up(), name)

    def test_consumer_without_evidence(self) -> None:
        """Who only consumes gets the revision of the queue's latest sender, or always the original one on an original listener."""
        for send, revision in ((send_frame, "documented"), (original_send_frame, "original")):
            for address in self.everybody + self.originals:
                sender, consumer = self.connect(self.server.tcp), self.connect(address)
                consumer.consume(revision.encode())
                sender.write(send(revision.encode(), b"x"))
                (delivery,) = consumer.read_many(1, acknowledge=True)
                self.assertEqual(delivery.ttl is None, revision == "original" or address in self.originals)
                consumer.close()
                sender.close()

    def test_http(self) -> None:
        """A browser is turned away, and nothing that it posts is carried out."""
        request = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
        for address in self.everybody + self.originals:
            client = self.connect(address)
            client.write(request + good("send"))
            self.assertTrue(client.hung_up())
            take_all(address, b"Foo", 0)


class Wire02Tests(SynchronousTestCase):
    """Version 02: one server, which listens on TCP, on a unix socket, and for clients of the original revision of version 01."""

    def setUp(self) -> None:
        """Start it, and two who work there."""
        self.server = Server(self, "--listen-original", TCP)
        self.neighbours = Neighbour(self.server.tcp), Neighbour02(self.server.unix)
        self.addresses: list[Address] = [self.server.tcp, self.server.unix, self.server.ports[1]]
        self.addCleanup(self.undisturbed)

    def undisturbed(self) -> None:
        """Whatever came, the server lives, and nothing in it broke."""
        self.work()
        self.assertNotIn("Traceback", self.server.output)
        self.assertEqual(self.server.stop(), 0)

    def work(self) -> None:
        """Nobody else notices anything."""
        for neighbour in self.neighbours:
            neighbour.work()

    def connect(self, address: Address) -> Client02:
        """A client that is gone when the test is."""
        client = Client02(address)
        self.addCleanup(client.close)
        return client

    def test_good_frames(self) -> None:
        """Every good frame of a client is taken as the first of a connection, and answered once if it has a tag, and else not at all."""
        for address in self.addresses:
            for vector in GOOD_02:
                if vector.sender == "client":
                    client = self.connect(address)
                    client.write(vector.frame)
                    self.assert_answered(client, vector)
                    client.close()
            self.work()

    def assert_answered(self, client: Client02, vector: Vector) -> None:
        """See that a good frame is answered, and the connection goes on."""
        client.ask("hello", tag="last")
        wanted = {b"last"} | ({as_bytes(vector.fields["tag"])} if "tag" in vector.fields else set())
        answers: dict[bytes, Frame] = {}
        while answers.keys() != wanted:
            frame = client.hear()
            if frame.name != "deliver":
                self.assertNotIn(frame.fields["tag"], answers, vector.name)
                answers[frame.fields["tag"]] = frame
        # A settlement is of a message that nobody holds.
        codes = {b"unknown-id"} if "id" in vector.fields and "tag" in vector.fields else set()
        self.assertEqual({frame.fields["code"] for frame in answers.values() if frame.name == "refused"}, codes, vector.name)

    def test_answers(self) -> None:
        """Receipts, refusals and deliveries have, byte by byte, what wire.json has."""
        for number, address in enumerate(self.addresses, 17):
            client = self.connect(address)
            client.write(good("send with a tag"))
            receipt = client.hear_raw()
            message_id = wire.read(receipt)[0].fields["id"]
            self.assertEqual(receipt, good("receipt with an id", message_id))
            client.write(good("acknowledge with a tag"))
            self.assertEqual(client.hear_raw(), good("refused"))
            client.write(good("consume in 02"))
            self.assertEqual(client.hear_raw(), good("deliver in 02", message_id))
            # The key of the round before is still known.
            another = good("send with everything").replace(b"order 17", b"order %d" % number)
            client.write(good("acknowledge in 02", message_id) + another)
            receipt, delivery = client.hear_raw(), client.hear_raw()
            [(name, fields)] = wire.read(delivery)
            self.assertEqual(receipt, good("receipt with an id", fields["id"]))
            # With time to live and headers; the first time that it is delivered.
            self.assertTrue(3590 < float(fields["ttl"]) <= 3600, fields["ttl"])
            self.assertRegex(fields["ttl"], rb"^[0-9]+\.[0-9]{3}$")
            self.assertEqual(
                delivery, compose(name, **{**fields, "attempts": 1, "headers": GOOD["deliver with headers"].fields["headers"]})
            )
            client.write(good("acknowledge in 02", fields["id"]))
            client.write(compose("send", queue="q", content="x", ttl="1."))
            self.assertEqual(client.hear_raw(), good("refused for good"))
            self.assertRaises(EOFError, client.hear_raw)
            self.work()

    def test_bad_frames(self) -> None:
        """Each bad frame is refused with its code: with its tag, and the connection goes on, or without, and it closes, and no other."""
        for address in self.addresses:
            for vector in BAD_02:
                client = self.connect(address)
                client.answer("hello", tag="first")
                if vector.after:
                    client.write(good(vector.after))
                    client.hear()
                client.write(vector.frame)
                refused = client.hear()
                self.assertEqual((refused.name, refused.fields["code"].decode()), ("refused", vector.code), (address, vector.name))
                self.assertEqual(refused.fields.get("tag"), None if vector.tag is None else vector.tag.encode(), vector.name)
                if vector.tag is None:
                    self.assertEqual(client.hear_rest(), [], vector.name)
                else:
                    self.assertEqual(client.answer("hello", tag="last").name, "receipt", vector.name)
                client.close()
                self.work()
        self.assertNotIn("\x1b", self.server.output)

    def test_bad_first_frames(self) -> None:
        """A bad frame that is the first of its connection closes it; if that is answered, then by the same refusal."""
        for address in self.addresses:
            for vector in BAD_02:
                if vector.tag is None and not vector.after and vector.frame.startswith(b"H02"):
                    client = self.connect(address)
                    client.write(vector.frame)
                    codes = [(frame.name, frame.fields["code"].decode()) for frame in client.hear_rest()]
                    self.assertIn(codes, ([], [("refused", vector.code)]), vector.name)
                    client.close()
            self.work()

    def test_good_before_bad(self) -> None:
        """What came before a bad frame in the same write is carried out and answered."""
        for address in self.addresses:
            client = self.connect(address)
            client.write(good("send with a tag") * 3 + b"H0200301")
            self.assertEqual([frame.name for frame in client.hear_rest()], ["receipt"] * 3 + ["refused"])
            taken = take_all(address, b"Foo", 3)
            self.assertEqual(bodies(taken), [b"Hello World"] * 3)

    def test_byte_by_byte(self) -> None:
        """Frames may come in single bytes."""
        for number, address in enumerate(self.addresses, 27):
            client = self.connect(address)
            another = good("send with everything").replace(b"order 17", b"order %d" % number)
            for byte in good("hello") + another + good("consume with a lease"):
                client.write(bytes([byte]))
            names = [client.hear().name for _ in range(4)]
            self.assertEqual(names, ["receipt", "receipt", "receipt", "deliver"])
            client.close()
            take_all(address, b"Foo", 1)
            self.work()

    def test_other_version(self) -> None:
        """A connection speaks the version of its first frame: one of the other version closes it."""
        for address in self.addresses:
            for vector in GOOD_02:
                client = self.connect(address)
                client.write(EVIDENCE["original"] + vector.frame)
                self.assertTrue(client.hung_up(), vector.name)
                client.close()
            for vector in wire.GOOD:
                client = self.connect(address)
                client.write(good("hello") + vector.frame)
                [receipt, refused] = client.hear_rest()
                self.assertEqual((receipt.fields["tag"], refused.fields["code"]), (b"h1", b"unsupported"), vector.name)
                client.close()
            self.work()


class Producer:
    """
    A client that sends exactly once; it follows the steps of docs/reference/protocol-producers.md.

    @ivar pending: number -> body of what was sent and is not receipted, in rising order
    @ivar refused: those of them that were refused since the last hello was answered
    """

    def __init__(self, address: Address, name: str) -> None:
        self._address = address
        self._name = name
        self._next = 1
        self._hellos = 0
        self.pending: dict[int, bytes] = {}
        self.refused: set[int] = set()
        self.duplicates = 0

    def connect(self) -> None:
        """On a new connection: say hello, and repeat all that has no receipt."""
        self._client = Client02(self._address)
        self.refused = set(self.pending)
        self.go_on()

    def go_on(self) -> None:
        """Say hello, wait for its receipt, and repeat what was refused, in rising order."""
        self._hellos += 1
        tag = b"hello %d" % self._hellos
        self._client.ask("hello", tag=tag, producer=self._name)
        while self.hear() != tag:
            pass
        repeated, self.refused = sorted(self.refused), set()
        for number in repeated:
            self._write(number)

    def send(self, body: bytes) -> None:
        """Send a new message; not while something is refused."""
        assert not self.refused
        self.pending[self._next] = body
        self._write(self._next)
        self._next += 1

    def _write(self, number: int) -> None:
        self._client.ask("send", queue="q", content=self.pending[number], level="synced", tag=number)

    def hear(self) -> bytes:
        """Take the next answer: its tag."""
        name, fields = self._client.hear()
        if name == "draining":
            return b""
        tag = fields["tag"]
        if not tag.startswith(b"hello"):
            if name == "receipt":
                self.duplicates += "duplicate" in fields
                del self.pending[int(tag)]
            else:
                self.refused.add(int(tag))
        return tag

    def hear_rest(self) -> None:
        """Take all answers until the connection is lost."""
        try:
            while True:
                self.hear()
        except (EOFError, OSError):
            self.close()

    def close(self) -> None:
        """Lose the connection."""
        self._client.close()


class StopTests(SynchronousTestCase):
    """How a server goes, and what its clients know then."""

    def test_draining(self) -> None:
        """A server that stops tells those of version 02, byte by byte as wire.json has it, and hangs up on everybody."""
        server = Server(self)
        new, old, fresh = Client02(server.tcp), Client(server.unix), Client(server.tcp)
        new.answer("hello", tag="h")
        old.write(good("send"))
        server.send_signal(SIGTERM)
        self.assertEqual(new.hear_raw(), good("draining"))
        for client in new, old, fresh:
            self.assertRaises(EOFError, client.read_raw, 1)
            client.close()
        self.assertEqual(server.wait(), 0)

    def test_exactly_once(self) -> None:
        """However often a server is killed or stopped, a producer that repeats what has no receipt has all stored once, in order."""
        chance = random.Random(17)
        server = Server(self)
        producer = Producer(server.unix, "steady")
        count = 0
        for end, deaf in [(SIGKILL, False), (SIGTERM, False), (SIGKILL, True), (SIGTERM, True)] * 2:
            producer.connect()
            for _ in range(chance.randrange(1, 40)):
                count += 1
                producer.send(b"%d" % count)
                while len(producer.pending) > 15:
                    producer.hear()
            if deaf:
                # The file has all that was sent, but the connection is lost before the producer hears of it.
                other = Client02(server.unix)
                other.answer("send", queue="other", content="", level="synced", tag="1")
                other.close()
                producer.close()
            server.send_signal(end)
            producer.hear_rest()
            server.wait()
            self.assertNotIn("Traceback", server.output)
            server = Server(self, cwd=server.directory)
        producer.connect()
        while producer.pending:
            producer.hear()
        self.assertEqual(bodies(take_all(server.unix, b"q", count)), [b"%d" % number for number in range(1, count + 1)])
        # Otherwise nothing had to be told apart.
        self.assertGreater(producer.duplicates, 4)

    def test_refused_and_repeated(self) -> None:
        """A producer that meets a full memory again and again has each message stored once, in order."""
        server = Server(self, "--memory-limit", "1M")
        producer, consumer = Producer(server.tcp, "patient"), Client02(server.unix)
        producer.connect()
        consumer.answer("consume", queue="q", count=20, tag="c")
        taken: list[bytes] = []
        waits = unsettled = 0
        for number in range(250):
            producer.send(b"%d " % number + b"x" * 30_000)
            unsettled += 1
            while len(producer.pending) - len(producer.refused) > 20:
                producer.hear()
            # Room comes while the producer has not heard yet that there was none.
            if producer.refused or unsettled == 38:
                taken += self.settle(consumer)
                unsettled = 0
            if producer.refused:
                waits += 1
                producer.go_on()
        while producer.pending:
            if producer.refused:
                taken += self.settle(consumer)
                producer.go_on()
            else:
                producer.hear()
        while len(taken) < 250 and (more := self.settle(consumer)):
            taken += more
        self.assertEqual([int(content.split()[0]) for content in taken], list(range(250)))
        self.assertGreater(waits, 2)
        self.assertEqual(producer.duplicates, 0)

    def settle(self, consumer: Client02) -> list[bytes]:
        """Acknowledge what was delivered up to now: what it was."""
        taken = []
        for tag in "arrived", "settled":
            consumer.ask("hello", tag=tag)
            while (frame := consumer.hear()).name == "deliver":
                taken.append(frame.fields["content"])
                consumer.ask("acknowledge", id=frame.fields["id"])
        return taken
