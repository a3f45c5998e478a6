"""The frames of wire.json on real sockets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

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

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "wire.json").read_text(encoding="utf-8"))
GOOD: dict[str, dict[str, Any]] = {vector["name"]: vector for vector in VECTORS["good"]}

#: A frame that shows which revision a client speaks, by revision.
EVIDENCE = {
    "none": b"",
    "original": original_send_frame(b"evidence", b"original"),
    "documented": send_frame(b"evidence", b"documented"),
}


def good(name: str, message_id: bytes = b"", ttl: int | None = None) -> bytes:
    """A frame, with another id or time to live if wanted."""
    vector = GOOD[name]
    frame: bytes = vector["frame"].encode("latin-1")
    if message_id:
        frame = frame.replace(vector["fields"]["id"].encode(), message_id)
    if ttl is not None:
        frame = frame.replace(packet(5, b"%d" % vector["fields"]["ttl"]), packet(5, b"%d" % ttl))
    return frame


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
                start = expected.index(GOOD["deliver"]["fields"]["id"].encode())
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
            for vector in VECTORS["bad"]:
                for revision, evidence in EVIDENCE.items():
                    client = self.connect(address)
                    client.write(evidence + vector["frame"].encode("latin-1"))
                    self.assertTrue(client.hung_up(), (address, revision, vector["name"]))
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
