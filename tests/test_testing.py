"""The server in memory, as somebody uses it who tests a worker."""

from __future__ import annotations

import resource
from typing import Any

from twisted.application.service import MultiService
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IStreamClientEndpoint, ITransport
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from phpmq.client import Delivery, QueueClient
from phpmq.client_frames import encode_consume, encode_send
from phpmq.errors import Closed, MemoryFull, NotConnected, QueueFull
from phpmq.interfaces import IMirror
from phpmq.testing import MemoryServer
from tests.doubles import RecordingProtocol


class Digger(MultiService):
    """A worker such as people write: it digs, and says so in another queue."""

    def __init__(self, client: QueueClient) -> None:
        super().__init__()
        self._client = client
        client.setServiceParent(self)

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._client.subscribe("jobs", self.work, window=2, lease=60)

    async def work(self, delivery: Delivery) -> None:
        """Do one job."""
        if delivery.body == b"rock":
            delivery.dead_letter("too hard")
        elif delivery.body == b"later":
            delivery.requeue(delay=3600)
        elif delivery.body == b"never":
            raise RuntimeError("no spade")
        else:
            await self._client.send("done", delivery.body.upper(), headers=delivery.headers)
            delivery.ack()


class WorkerTests(SynchronousTestCase):
    """A worker's own tests."""

    def setUp(self) -> None:
        """A server, and the worker as a service of its own."""
        self.server = MemoryServer()
        self.addCleanup(self.server.stop)
        self.worker = Digger(self.server.client())
        self.worker.startService()

    def test_work(self) -> None:
        """Jobs are done in order."""
        for body in b"dig", b"delve":
            self.server.send("jobs", body, headers={"by": "me"})
        self.server.settle()
        self.assertEqual((self.server.bodies("done"), self.server.left("jobs")), ([b"DIG", b"DELVE"], 0))

    def test_dead_letter(self) -> None:
        """What is too hard is set aside."""
        self.server.send("jobs", b"rock")
        self.server.settle()
        self.assertEqual([(dead.body, dead.text) for dead in self.server.dead("jobs")], [(b"rock", "too hard")])
        self.assertEqual(self.server.dead("done"), [])

    def test_later(self) -> None:
        """What is for later waits an hour, which passes at once."""
        self.server.send("jobs", b"later")
        self.server.settle()
        self.assertEqual((self.server.delayed("jobs"), self.server.in_flight("jobs"), self.server.left("jobs")), (1, 0, 1))
        self.server.advance(3590)
        self.assertEqual(self.server.delayed("jobs"), 1)
        self.worker.stopService()
        self.server.advance(20)
        self.assertEqual((self.server.delayed("jobs"), self.server.bodies("jobs")), (0, [b"later"]))

    def test_failure(self) -> None:
        """What fails is logged and comes again."""
        self.server.send("jobs", b"never")
        self.server.settle()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.server.advance(1)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_trouble(self) -> None:
        """A network that fails in the middle loses nothing."""
        self.server.send("jobs", b"dig")
        self.server.reachable = False
        self.server.disconnect()
        self.server.send("jobs", b"delve")
        self.server.advance(60)
        self.assertEqual(self.server.bodies("jobs"), [b"dig", b"delve"])
        self.server.reachable = True
        self.server.advance(15)
        self.assertEqual((self.server.bodies("done"), self.server.left("jobs")), ([b"DIG", b"DELVE"], 0))


class FakedTimeTests(SynchronousTestCase):
    """L{MemoryServer} with a L{Clock}."""

    def setUp(self) -> None:
        """Start one."""
        self.clock = Clock()
        self.server = MemoryServer(self.clock)
        self.addCleanup(self.server.stop)

    def test_interfaces(self) -> None:
        """Its parts provide what they stand for."""
        self.assertTrue(verifyObject(IStreamClientEndpoint, self.server.endpoint))
        self.assertTrue(verifyObject(IMirror, self.server.broker.confirms.mirror))
        self.server.client()
        for end in self.server._ends:
            self.assertTrue(verifyObject(ITransport, end))
            self.assertTrue(verifyObject(IPushProducer, end))

    def test_two_clients(self) -> None:
        """Clients see each other's messages."""
        got: list[Delivery] = []
        self.server.client().subscribe("q", got.append)
        sent = self.server.client().send("q", b"x")
        self.server.settle()
        self.assertEqual(self.successResultOf(sent), got[0].id)

    def test_send(self) -> None:
        """What the test sends is what a client would send."""
        got: list[Delivery] = []
        message_id = self.server.send("q", b"x", ttl=60, delay=1.5, headers={"a": "é"})
        self.server.client().subscribe("q", got.append)
        self.server.advance(1.499)
        self.assertEqual((got, self.server.bodies("q"), self.server.delayed("q")), ([], [], 1))
        self.server.advance(0.001)
        [delivery] = got
        self.assertEqual((delivery.id, delivery.body, delivery.ttl, delivery.headers), (message_id, b"x", 58.5, {"a": "é"}))
        self.server.broker.queues.pause("q", 2)
        self.assertRaises(QueueFull, self.server.send, "q", b"x")

    def test_views(self) -> None:
        """Of a queue that does not exist there is nothing."""
        server = self.server
        self.assertEqual(
            (server.bodies("q"), server.in_flight("q"), server.delayed("q"), server.left("q"), server.dead()), ([], 0, 0, 0, [])
        )
        for number in range(3000):
            server.send("q", b"%d" % number)
        self.assertEqual(server.bodies("q"), [b"%d" % number for number in range(3000)])

    def test_exact_time(self) -> None:
        """Time to live, leases and timers end when they should, wherever the clock stands, and not before."""
        for start in 0.001, 0.57, 0.1 + 0.2, 1234.5678:
            self.server.advance(start)
            self.server.send("q", b"x", ttl=1)
            self.server.send("p", b"x", delay=1)
            fired: list[float] = []
            begin = self.clock.seconds()
            self.clock.callLater(0.35, lambda begin=begin, fired=fired: fired.append(self.clock.seconds() - begin))
            self.server.advance(0.998)
            self.assertEqual((self.server.bodies("q"), self.server.delayed("p")), ([b"x"], 1))
            self.server.advance(0.002)
            self.assertEqual((self.server.bodies("q"), self.server.delayed("p")), ([], 0))
            self.assertAlmostEqual(fired[0], 0.35)

    def test_lease(self) -> None:
        """A lease passes at once, too."""
        first, second = list[Delivery](), list[Delivery]()
        self.server.client().subscribe("q", first.append, window=1, lease=30)
        self.server.send("q", b"x")
        self.server.settle()
        self.server.client().subscribe("q", second.append)
        self.server.advance(29.9)
        self.assertEqual(second, [])
        self.server.advance(0.1)
        self.assertEqual([one.attempts for one in second], [2])

    def test_days(self) -> None:
        """Many days pass, and clients stay connected."""
        client = self.server.client()
        accepted = self.server.service.connections.accepted
        self.server.advance(5 * 86_400)
        self.assertEqual((client.connection.online, self.server.service.connections.accepted), (True, accepted))
        self.assertEqual(self.clock.seconds(), 5 * 86_400)

    def test_synced(self) -> None:
        """Synced sends are receipted, and many of them at once."""
        client = self.server.client()
        sent = [client.send("q", b"x", level="synced") for _ in range(200)]
        self.server.settle()
        self.assertEqual(len({self.successResultOf(one) for one in sent}), 200)

    def test_settings(self) -> None:
        """Settings of the server and of clients have effect."""
        server = MemoryServer(self.clock, max_window=2, memory_limit=0)
        client = server.client(max_unconfirmed=1)
        sent = client.send("q", b"x")
        self.assertFalse(client.connection.outbox.has_room)
        server.settle()
        self.failureResultOf(sent, MemoryFull)
        self.successResultOf(server.stop())

    def test_process(self) -> None:
        """The limits of the test's process stay as they are."""
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        MemoryServer(self.clock).stop()
        self.assertEqual(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 256)

    def test_disconnect(self) -> None:
        """Cut connections are made again within a second, unless the server is not reachable."""
        client = self.server.client()
        self.server.disconnect()
        self.assertFalse(client.connection.online)
        self.server.advance(1)
        self.assertTrue(client.connection.online)
        self.server.reachable = False
        self.assertTrue(client.connection.online)
        self.server.disconnect()
        attempt = client.connected(1)
        self.server.advance(1)
        self.failureResultOf(attempt, NotConnected)

    def test_stop(self) -> None:
        """A stop leaves nothing behind, in whatever state clients are; those of others are cut off."""
        foreign = QueueClient(self.server.endpoint, self.clock)
        foreign.startService()
        stopped_before, deaf = self.server.client(), self.server.client()
        stopped_before.stopService()
        [end] = [end for end in self.server._ends if end is deaf._reconnector.protocol.transport]  # type: ignore[union-attr]
        end.other.pauseProducing()
        sent = [deaf.send("q", b"x", level="synced"), self.server.client().send("q", b"x", level="synced")]
        self.successResultOf(self.server.stop())
        for one in sent:
            self.failureResultOf(one, Closed)
        self.assertFalse(foreign.connection.online)
        foreign.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(self.server.stop())

    def test_own_protocol(self) -> None:
        """Somebody who speaks the wire's language can be connected."""
        protocol = RecordingProtocol()
        self.server.connect(protocol)
        transport: Any = protocol.transport
        transport.writeSequence([encode_send(b"", "q", b"x"), encode_consume(b"t", "q", 1)])
        self.assertEqual(protocol.heard, b"")
        self.server.settle()
        self.assertIn(b"x", protocol.heard)
        transport.write(b"GET / HTTP/1.1\r\n\r\n")
        self.server.settle()
        self.assertTrue(protocol.is_lost)
        transport.write(b"too late")
        transport.loseConnection()
        transport.abortConnection()

    def test_close(self) -> None:
        """Who closes is heard to the end."""
        protocol = RecordingProtocol()
        self.server.connect(protocol)
        transport: Any = protocol.transport
        transport.write(encode_send(b"", "q", b"x"))
        transport.loseConnection()
        transport.write(encode_send(b"", "q", b"y"))
        self.server.settle()
        self.assertEqual((self.server.bodies("q"), protocol.is_lost, len(self.server.service.connections.open)), ([b"x"], True, 0))

    def test_too_many_connections(self) -> None:
        """The server's limit of connections holds here, too."""
        server = MemoryServer(self.clock, max_connections=1)
        client, other = server.client(), server.client()
        self.assertEqual((client.connection.online, other.connection.online), (True, False))
        server.stop()

    def test_slow_reader(self) -> None:
        """A client that does not read is not sent all there is: its transport tells the server to wait, and to go on."""
        protocol = RecordingProtocol()
        for _ in range(100):
            self.server.send("q", b"x" * 20_000)
        self.server.connect(protocol)
        transport: Any = protocol.transport
        transport.pauseProducing()
        transport.write(encode_consume(b"t", "q", 1000))
        self.server.settle()
        self.assertLess(len(transport._incoming), 300_000)
        self.assertGreater(self.server.left("q"), 90)
        transport.resumeProducing()
        self.server.settle()
        self.assertEqual((protocol.heard.count(b"x" * 20_000), self.server.in_flight("q")), (100, 100))

    def test_reader_that_never_reads(self) -> None:
        """It is cut off after a while, as on a socket."""
        server = MemoryServer(self.clock, write_timeout=5)
        protocol = RecordingProtocol()
        for _ in range(100):
            server.send("q", b"x" * 20_000)
        server.connect(protocol)
        transport: Any = protocol.transport
        transport.pauseProducing()
        transport.write(encode_consume(b"t", "q", 1000))
        server.advance(60)
        self.assertEqual((protocol.is_lost, len(server.bodies("q"))), (True, 100))
        server.stop()


class RealTimeTests(TestCase):
    """L{MemoryServer} with a reactor."""

    timeout = 20

    def setUp(self) -> None:
        """Start one."""
        self.server = MemoryServer(installed_reactor)
        self.addCleanup(self.server.stop)

    async def test_work(self) -> None:
        """All that a client does is done without a word about time."""
        client, worker = self.server.client(), self.server.client()
        await client.connected()
        sent = [await client.send("q", b"%d" % number, level="synced") for number in range(3)]
        got = []
        async for delivery in worker.consume("q"):
            got.append(delivery.id)
            await delivery.ack()
            if len(got) == 3:
                break
        self.assertEqual(got, sent)
        self.assertEqual(self.server.left("q"), 0)

    async def test_delay(self) -> None:
        """Time is what it is."""
        client = self.server.client()
        await client.send("q", b"x", delay=0.2)
        self.assertEqual(self.server.delayed("q"), 1)
        delivery = await anext(client.consume("q"))
        self.assertEqual(delivery.body, b"x")

    async def test_disconnect(self) -> None:
        """A cut connection is made again."""
        client = self.server.client()
        await client.connected()
        sending = client.send("q", b"x")
        self.server.disconnect()
        await sending
        self.assertEqual(self.server.bodies("q"), [b"x"])

    async def test_stop_at_once(self) -> None:
        """A stop in the middle of everything leaves nothing behind."""
        clients = [self.server.client() for _ in range(3)]
        sending = [client.send("q", b"x", level="synced") for client in clients]
        self.server.send("q", b"y", delay=5)
        await deferLater(installed_reactor, 0)
        await self.server.stop()
        for one in sending:
            await self.assertFailure(one, Closed)

    def test_no_faked_time(self) -> Deferred[None]:
        """Real time cannot be told to pass."""
        self.assertRaises(TypeError, self.server.settle)
        self.assertRaises(TypeError, self.server.advance, 1)
        return self.server.stop()
