"""Who gets what, in which order, and at which cost, from a real server."""

from __future__ import annotations

import sqlite3
import threading
from collections import defaultdict
from signal import SIGKILL, SIGTERM

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.client import Client, bodies, send_frame, take_all
from tests.functional.server import Server, wait_until

MIB = 1024 * 1024


def numbers(first: int, last: int) -> list[bytes]:
    """Bodies that tell their order."""
    return [b"%d" % number for number in range(first, last)]


class DistributionTests(SynchronousTestCase):
    """Three consumers with a window of 100 on a queue of 300."""

    def setUp(self) -> None:
        """Send them all."""
        self.server = Server(self)
        self.sender = self.connect()
        self.consumers = [self.connect() for _ in range(3)]
        for consumer in self.consumers:
            consumer.consume(b"work", 100)
        self.sender.send(b"work", *numbers(0, 300))
        self.held = [consumer.read_many(100) for consumer in self.consumers]

    def connect(self) -> Client:
        """A client that is gone when the test is."""
        client = Client(self.server.tcp)
        self.addCleanup(client.close)
        return client

    def test_equal_shares(self) -> None:
        """Each gets 100, in order, each message once, and no more than its window."""
        for share in self.held:
            self.assertEqual(bodies(share), sorted(bodies(share), key=int))
        self.assertEqual(sorted((body for share in self.held for body in bodies(share)), key=int), numbers(0, 300))
        self.sender.send(b"work", b"more")
        self.assertTrue(all(consumer.silent(0.05) for consumer in self.consumers))

    def test_fourth_joins(self) -> None:
        """A fourth gets what waits at once, and a fair share of what follows."""
        self.sender.send(b"work", *numbers(300, 400))
        fourth = self.connect()
        fourth.consume(b"work", 100)
        self.assertEqual(bodies(fourth.read_many(100)), numbers(300, 400))
        fifth = self.connect()
        fifth.consume(b"work", 100)
        sixth = self.connect()
        sixth.consume(b"work", 100)
        # Nobody can tell from outside when a consume request was read, but a round trip on the same connection is later.
        for client, queue in (fifth, b"fifth"), (sixth, b"sixth"):
            client.send(queue, b"ping")
            client.consume(queue)
            self.assertEqual(client.read().queue, queue)
        self.sender.send(b"work", *numbers(400, 500))
        shares = [bodies(client.read_many(50)) for client in (fifth, sixth)]
        self.assertEqual(sorted(shares[0] + shares[1], key=int), numbers(400, 500))

    def test_one_drops(self) -> None:
        """What a consumer held comes back when it drops: in order, and before what was sent later."""
        self.sender.send(b"work", *numbers(300, 310))
        self.consumers[1].close()
        heir = self.connect()
        heir.consume(b"work", 1000)
        expected = bodies(self.held[1]) + numbers(300, 310)
        self.assertEqual(bodies(heir.read_many(110, acknowledge=True)), expected)
        self.assertTrue(heir.silent())

    def test_window_opens(self) -> None:
        """Each acknowledgement opens one place."""
        self.sender.send(b"work", *numbers(300, 310))
        self.consumers[0].acknowledge(*self.held[0][:3])
        self.assertEqual(bodies(self.consumers[0].read_many(3)), numbers(300, 303))
        self.assertTrue(self.consumers[0].silent())


class RestartTests(SynchronousTestCase):
    """Messages outlive the process."""

    def test_in_order(self) -> None:
        """After a restart all is there, in order, also what was in flight and what was re-queued."""
        server = Server(self)
        with Client(server.tcp) as client, Client(server.unix) as other:
            client.send(b"a", *numbers(0, 50))
            other.send(b"b", *numbers(0, 50), ttl=3600)
            client.consume(b"a", 10)
            held = client.read_many(10)
            client.acknowledge(*held[:5])
            self.assertEqual(bodies(client.read_many(5)), numbers(10, 15))
            self.assertEqual(server.stop(), 0)
        server = Server(self, cwd=server.directory)
        self.assertEqual(bodies(take_all(server.tcp, b"a", 45)), numbers(5, 50))
        later = take_all(server.unix, b"b", 50)
        self.assertEqual(bodies(later), numbers(0, 50))
        self.assertTrue(all(3590 < (delivery.ttl or 0) <= 3600 for delivery in later))
        server.stop()
        server = Server(self, cwd=server.directory)
        take_all(server.tcp, b"a", 0)

    def test_nothing_read_is_lost(self) -> None:
        """What the server has read when it is stopped is in the file, however long ago the file was last written."""
        server = Server(self, "--mirror-interval", "3600")
        with Client(server.tcp) as client:
            client.send(b"jobs", *numbers(0, 5000))
            client.send(b"ping", b"")
            client.consume(b"ping")
            client.read()
            self.assertEqual(server.stop(), 0)
        server = Server(self, cwd=server.directory)
        self.assertEqual(bodies(take_all(server.tcp, b"jobs", 5000)), numbers(0, 5000))

    def test_kill(self) -> None:
        """What is in the file survives kill -9."""
        server = Server(self)
        with Client(server.tcp) as client:
            client.send(b"jobs", *numbers(0, 100))
            wait_until("100 messages in the file", lambda: count_in_file(server) == 100)
            server.stop(SIGKILL)
        server = Server(self, cwd=server.directory)
        self.assertEqual(bodies(take_all(server.tcp, b"jobs", 100)), numbers(0, 100))


def count_in_file(server: Server) -> int:
    """How many messages a reader of the file sees."""
    database = sqlite3.connect(server.store)
    try:
        (count,) = database.execute("SELECT count(*) FROM message").fetchone()
        return int(count)
    finally:
        database.close()


class Sender(threading.Thread):
    """
    Sends numbered messages of its own as fast as the server takes them.

    @ivar read: set once the server has certainly read the first half
    """

    def __init__(self, name: bytes, address: int, first: int, last: int, half: int) -> None:
        super().__init__(daemon=True)
        self._label = name
        self._client = Client(address)
        self._first, self._last, self._half = first, last, half
        self.read = threading.Event()

    def run(self) -> None:
        """Send, until done or hung up on."""
        try:
            for start in range(self._first, self._last, 100):
                if start == self._half:
                    private = b"ping " + self._label
                    self._client.send(private, b"")
                    self._client.consume(private)
                    self._client.acknowledge(self._client.read())
                    self.read.set()
                end = min(start + 100, self._last)
                self._client.write(b"".join([send_frame(b"fifo", b"%s:%d" % (self._label, n)) for n in range(start, end)]))
        except OSError:
            pass  # The server stopped.
        finally:
            self._client.close()


class FirstInFirstOutTests(SynchronousTestCase):
    """50,000 messages of 8 pipelining senders, with a restart in the middle."""

    SENDERS, EACH, HALF = 8, 6250, 3000

    def test_order(self) -> None:
        """Each sender's messages come in its order, none is lost or doubled that the server had read when it was stopped."""
        server = Server(self)
        senders = [Sender(b"%d" % n, server.tcp, 0, self.EACH, self.HALF) for n in range(self.SENDERS)]
        for sender in senders:
            sender.start()
        for sender in senders:
            self.assertTrue(sender.read.wait(20))
        self.assertEqual(server.stop(SIGTERM), 0)
        for sender in senders:
            sender.join(20)
        stored = self.stored(server)
        for n in range(self.SENDERS):
            # Without a gap: all that was read, and nothing after what was not.
            self.assertEqual(stored[b"%d" % n], list(range(len(stored[b"%d" % n]))))
            self.assertGreaterEqual(len(stored[b"%d" % n]), self.HALF)
        server = Server(self, cwd=server.directory)
        senders = [Sender(b"%d" % n, server.tcp, len(stored[b"%d" % n]), self.EACH, -1) for n in range(self.SENDERS)]
        for sender in senders:
            sender.start()
        received = defaultdict(list)
        for body in bodies(take_all(server.tcp, b"fifo", self.SENDERS * self.EACH)):
            name, number = body.split(b":")
            received[name].append(int(number))
        for n in range(self.SENDERS):
            self.assertEqual(received[b"%d" % n], list(range(self.EACH)))

    def stored(self, server: Server) -> dict[bytes, list[int]]:
        """What the file has of each sender, in order."""
        stored: dict[bytes, list[int]] = defaultdict(list)
        database = sqlite3.connect(server.store)
        self.addCleanup(database.close)
        for (body,) in database.execute("SELECT body FROM message ORDER BY position"):
            name, number = body.split(b":")
            stored[name].append(int(number))
        return stored


class BackPressureTests(SynchronousTestCase):
    """Nobody's slowness costs others, or memory."""

    def test_slow_consumer(self) -> None:
        """A consumer that does not read costs no memory, and others are served meanwhile."""
        server = Server(self)
        body = b"x" * 100_000
        with Client(server.tcp) as sender, Client(server.tcp) as slow, Client(server.tcp) as other:
            sender.send(b"large", *[body] * 1200)
            sender.send(b"ping", b"")
            sender.consume(b"ping")
            sender.read()
            # What the mirror needs while it writes is no cost of the consumer's.
            wait_until("all of them in the file", lambda: count_in_file(server) == 1201)
            before = server.resident()
            slow.consume(b"large", 2000)
            other.consume(b"small")
            for number in numbers(0, 200):
                sender.send(b"small", number)
                self.assertEqual(other.read().body, number)
            self.assertLess(server.resident() - before, 32 * MIB)
            # It was only late: it gets all of them.
            self.assertEqual(len(slow.read_many(1200, acknowledge=True)), 1200)
        server.stop()

    def test_memory_limit(self) -> None:
        """At the memory limit senders wait, consumers go on, and then senders go on; nothing is lost."""
        server = Server(self, "--memory-limit", "2M")
        body = b"x" * 100_000
        with Client(server.tcp) as sender, Client(server.tcp) as consumer:
            frames = b"".join([send_frame(b"large", b"%03d" % number + body) for number in range(300)])
            thread = threading.Thread(target=sender.write, args=(frames,), daemon=True)
            before = server.resident()
            thread.start()
            thread.join(0.7)
            self.assertTrue(thread.is_alive(), "30 MB were taken with a limit of 2 MB")
            self.assertLess(server.resident() - before, 16 * MIB)
            consumer.consume(b"large", 5)
            received = [delivery.body[:3] for delivery in consumer.read_many(300, acknowledge=True)]
            self.assertEqual(received, [b"%03d" % number for number in range(300)])
            thread.join(20)
            self.assertFalse(thread.is_alive())
        server.stop()

    def test_connection_limit(self) -> None:
        """A connection too many is turned away, until another one ends."""
        server = Server(self, "--max-connections", "2", "--max-connections-per-address", "2")
        with Client(server.tcp) as first:
            with Client(server.unix) as second:
                for client in first, second:
                    client.send(b"ping", b"")
                    client.consume(b"ping", 0)
                    client.consume(b"ping", 1)
                    client.acknowledge(client.read())
                    client.consume(b"ping", 0)
                self.assertFalse(self.served(server))
            first.send(b"ping", b"still there")
            wait_until("a place", lambda: self.served(server))
        server.stop()

    def served(self, server: Server) -> bool:
        """Whether a new connection stays open."""
        try:
            with Client(server.tcp) as client:
                return not client.hung_up(2)
        except ConnectionResetError:
            return False  # It was turned away before it knew that it was made.
