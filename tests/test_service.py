"""Tests of L{phpmq.service}: a L{QueueService} in this process, on sockets of its own and the reactor that trial runs."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from twisted.application.service import IService, MultiService
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, Logger, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from phpmq import service
from phpmq.errors import StartError
from phpmq.service import QueueService
from phpmq.settings import Settings, default_memory_limit
from tests.doubles import RecordingPeer
from tests.wire import Delivery, acknowledge, consume, deliveries, send


class Conversation(Protocol):
    """
    A client's connection.

    @ivar closed: fires when it is gone
    """

    def __init__(self) -> None:
        self.closed: Deferred[None] = Deferred()
        self._data = b""
        self._waiting: tuple[int, Deferred[None]] | None = None

    def says(self, *frames: bytes) -> None:
        """Send frames."""
        transport: Any = self.transport
        transport.write(b"".join(frames))

    async def hears(self, count: int) -> list[Delivery]:
        """So many deliveries, exactly."""
        if self._data.count(b"H01003") < count:
            self._waiting = count, Deferred()
            await self._waiting[1]
        data, self._data = self._data, b""
        return deliveries(data)

    def dataReceived(self, data: bytes) -> None:
        """Keep what came."""
        self._data += data
        if self._waiting is not None and self._data.count(b"H01003") >= self._waiting[0]:
            (_, waiting), self._waiting = self._waiting, None
            waiting.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Note it."""
        self.closed.callback(None)


class Case(TestCase):
    """A directory for sockets and files: its name is short, as a unix socket's has to be."""

    timeout = 20

    def setUp(self) -> None:
        """Make it."""
        self.directory = Path(tempfile.mkdtemp(prefix="phpmq-"))
        self.addCleanup(shutil.rmtree, self.directory, True)
        self.path = self.directory / "phpmq.db"
        # Settings are the whole process's, and a server raises this one.
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limit)

    def make(self, **settings: Any) -> QueueService:
        """A service that listens on a unix socket, not started."""
        defaults: dict[str, Any] = {"listen": [f"unix:{self.directory}/socket"], "store": str(self.path), "max_connections": 100}
        return QueueService(Settings(**{**defaults, **settings}), reactor)

    def start(self, **settings: Any) -> QueueService:
        """A service that runs until the test ends."""
        queue_service = self.make(**settings)
        queue_service.privilegedStartService()
        queue_service.startService()
        self.addCleanup(lambda: queue_service.stopService() if queue_service.running else None)
        return queue_service

    async def connect(self, socket_name: str = "socket") -> Conversation:
        """A client."""
        endpoint = clientFromString(reactor, f"unix:{self.directory}/{socket_name}")
        conversation: Conversation = await connectProtocol(endpoint, Conversation())

        async def hang_up() -> None:
            transport: Any = conversation.transport
            transport.loseConnection()
            await conversation.closed

        self.addCleanup(lambda: Deferred.fromCoroutine(hang_up()) if not conversation.closed.called else None)
        return conversation

    def rows(self) -> list[tuple[str, bytes]]:
        """What the file has, in order."""
        with closing(sqlite3.connect(self.path)) as database:
            return database.execute("SELECT name, body FROM message JOIN queue ON queue = queue.number ORDER BY position").fetchall()


class QueueServiceTests(Case):
    """L{QueueService}"""

    def test_interface(self) -> None:
        """It is a service like any other, and making it opens nothing."""
        verifyObject(IService, self.make())
        self.assertEqual(list(self.directory.iterdir()), [])

    async def test_in_process_to_client(self) -> None:
        """What the application sends in-process arrives at clients, also when nothing else is going on."""
        queue_service = self.start()
        client = await self.connect()
        client.says(consume("news", 10), send("news", b"first"))
        await client.hears(1)
        channel = queue_service.broker.channel(RecordingPeer(queue_service.broker))
        channel.publish("news", b"second", 0)
        (delivery,) = await client.hears(1)
        self.assertEqual(delivery.content, b"second")

    async def test_client_to_in_process(self) -> None:
        """What clients send arrives in-process, and is settled there."""
        queue_service = self.start()
        peer = RecordingPeer(queue_service.broker)
        peer.channel.consume("jobs", 10)
        client = await self.connect()
        client.says(send("jobs", b"one"), send("jobs", b"two"), consume("jobs", 0), consume("ping", 1), send("ping", b""))
        await client.hears(1)
        self.assertEqual(peer.bodies, [b"one", b"two"])
        peer.ack(b"one")
        await queue_service.stopService()
        self.assertEqual(self.rows(), [("jobs", b"two"), ("ping", b"")])

    async def test_stop(self) -> None:
        """A stop saves all that was read, frees the file and the sockets, and hangs up on clients."""
        queue_service = self.start(mirror_interval=3600)
        client = await self.connect()
        client.says(*[send("jobs", b"%d" % number) for number in range(5000)], consume("ping", 1), send("ping", b""))
        await client.hears(1)
        await queue_service.stopService()
        await client.closed
        self.assertEqual([body for name, body in self.rows() if name == "jobs"], [b"%d" % number for number in range(5000)])
        self.assertFalse((self.directory / "socket").exists())
        again = self.start()
        self.assertEqual(again.broker.queues["jobs"].ready, 5000)

    async def test_original_listeners(self) -> None:
        """Clients of the other kind of listener get deliveries of the original revision."""
        self.start(listen_original=[f"unix:{self.directory}/original"])
        for name, ttl in (("socket", 0), ("original", None)):
            client, sender = await self.connect(name), await self.connect()
            client.says(consume(name, 1))
            sender.says(send(name, b"x"))
            (delivery,) = await client.hears(1)
            self.assertEqual(delivery.ttl, ttl)
            client.says(acknowledge(name, delivery.id), consume(name, 0))

    async def test_tcp(self) -> None:
        """A listener may be TCP as well."""
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        self.start(listen=[f"tcp:{port}:interface=127.0.0.1"])
        client: Conversation = await connectProtocol(clientFromString(reactor, f"tcp:127.0.0.1:{port}"), Conversation())
        client.says(consume("jobs", 1), send("jobs", b"x"))
        self.assertEqual((await client.hears(1))[0].content, b"x")
        transport: Any = client.transport
        transport.loseConnection()
        await client.closed

    async def test_expiry_without_consumers(self) -> None:
        """Messages that expire leave within a second or so, though nobody asks for them."""
        queue_service = self.start()
        channel = queue_service.broker.channel(RecordingPeer(queue_service.broker))
        for _ in range(5000):
            channel.publish("jobs", b"x", 1)
        channel.publish("jobs", b"stays", 0)
        used = queue_service.broker.memory.used
        while queue_service.broker.queues["jobs"].ready > 1:
            await deferLater(reactor, 0.05)
        self.assertLess(queue_service.broker.memory.used, used)

    async def test_console(self) -> None:
        """There is a console where the settings say, none otherwise, and it closes with the service."""
        queue_service = self.start(console=f"unix:{self.directory}/console")
        client = await self.connect("console")
        client.says(b"plain\nstatus --json\n")
        while b"}\r\n" not in client._data:
            await deferLater(reactor, 0.01)
        self.assertIn(b'"state":"running"', client._data)
        await queue_service.stopService()
        await client.closed
        self.assertIn(b"the server stops", client._data)
        self.assertFalse((self.directory / "console").exists())
        self.assertEqual([listener.option for listener in self.make()._listeners], ["--listen"])

    async def test_child(self) -> None:
        """In another application's tree it starts and stops with the rest."""
        application = MultiService()
        queue_service = self.make()
        queue_service.setServiceParent(application)
        application.privilegedStartService()
        application.startService()
        queue_service.broker.channel(RecordingPeer(queue_service.broker)).publish("jobs", b"x", 0)
        stopped: Any = application.stopService()
        await stopped
        self.assertEqual(self.rows(), [("jobs", b"x")])


class HTTPTests(Case):
    """The HTTP API as a part of the service."""

    async def get(self, path: str) -> bytes:
        """What a request is answered."""
        said = b"GET %s HTTP/1.0\r\n\r\n" % path.encode()
        conversation: Conversation = await connectProtocol(clientFromString(reactor, f"unix:{self.directory}/http"), Conversation())
        conversation.says(said)
        await conversation.closed
        return conversation._data

    def test_not_asked_for(self) -> None:
        """An application that does not ask for it has none."""
        self.assertIsNone(self.start().site)

    async def test_until_the_end(self) -> None:
        """It answers while the server stops, and tells so, until all is saved."""
        queue_service = self.start(http=[f"unix:{self.directory}/http"])
        self.assertIn(b'"state":"running"', await self.get("/api/v1/status"))
        mirror: Any = queue_service.mirror
        saved: Deferred[None] = Deferred()
        stop = mirror.stopService

        async def stop_late() -> None:
            await saved
            await stop()

        self.patch(mirror, "stopService", lambda: Deferred.fromCoroutine(stop_late()))
        stopped = queue_service.stopService()
        answer = await self.get("/readyz")
        self.assertTrue(answer.startswith(b"HTTP/1.0 503 "), answer)
        self.assertIn(b"about to stop", answer)
        saved.callback(None)
        await stopped
        self.assertFalse((self.directory / "http").exists())

    def test_open_to_others(self) -> None:
        """A port that other machines reach is an error, before it is opened."""
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        self.assertIn("--insecure-admin", str(self.assertRaises(StartError, self.make, http=[f"tcp:{port}"])))
        with socket.create_server(("", port)):
            pass

    async def test_insecure(self) -> None:
        """It is none if the application insists."""
        self.start(http=["tcp:0"], insecure_admin=True)

    def test_description(self) -> None:
        """What is no listener is refused when the service is made."""
        self.assertRaises(ValueError, self.make, http=["nonsense"])


class StartErrorTests(Case):
    """A start that cannot be is an exception that an application can catch, and leaves nothing behind."""

    async def test_listener(self) -> None:
        """A listener that cannot be bound."""
        queue_service = self.make(listen=[f"unix:{self.directory}/good", f"unix:{self.directory}/nowhere/socket"])
        error = self.assertRaises(StartError, queue_service.privilegedStartService)
        self.assertIsInstance(error, Exception)
        self.assertRegex(str(error), rf"^phpmq: cannot listen on unix:{self.directory}/nowhere/socket: [^\n]+\.$")
        await queue_service.stopService()
        self.assertEqual(list(self.directory.iterdir()), [])

    async def test_store(self) -> None:
        """A store that cannot be used."""
        queue_service = self.make(store=str(self.directory / "nowhere" / "phpmq.db"))
        queue_service.privilegedStartService()
        self.assertRaises(StartError, queue_service.startService)
        await queue_service.stopService()
        self.assertEqual(list(self.directory.iterdir()), [])

    async def test_locked(self) -> None:
        """Another service has the file: it goes on unharmed, and the second may start once the first has stopped."""
        first = self.start()
        second = self.make(listen=[])
        self.assertIn("in use", str(self.assertRaises(StartError, second.startService)))
        await second.stopService()
        first.broker.channel(RecordingPeer(first.broker)).publish("jobs", b"x", 0)
        await first.stopService()
        third = self.start()
        self.assertEqual(third.broker.queues["jobs"].ready, 1)

    def test_description(self) -> None:
        """What is no listener is refused when the service is made."""
        self.assertRaises(ValueError, self.make, listen=["nonsense"])

    def test_port_9100(self) -> None:
        """The default port is also that of Prometheus' node_exporter, and the refusal says so; it does not for others."""

        class Taken(MemoryReactorClock):
            def listenTCP(self, port: int, *arguments: Any, **named: Any) -> Any:  # noqa: N802  # as Twisted calls it
                raise CannotListenError("", port, OSError(98, "Address already in use"))

        for port, hint in ((9100, True), (9102, False)):
            queue_service = QueueService(Settings(listen=[f"tcp:{port}"], store="memory"), Taken())
            error = self.assertRaises(StartError, queue_service.privilegedStartService)
            self.assertIn(f"cannot listen on tcp:{port}: ", str(error))
            self.assertEqual("node_exporter" in str(error), hint)

    async def test_console(self) -> None:
        """The console's listener cannot be bound: the sentence says how to do without."""
        queue_service = self.make(listen=[], console=f"unix:{self.directory}/nowhere/console")
        error = self.assertRaises(StartError, queue_service.privilegedStartService)
        self.assertRegex(
            str(error), r"^phpmq: cannot listen on unix:[^\n]+/console: [^\n]+ name another with --console, or none \(--console none\)\.$"
        )
        await queue_service.stopService()

    def test_open_console(self) -> None:
        """A console that other machines could reach is refused when the service is made."""
        self.assertRaises(StartError, self.make, console="tcp:9101")


class DeadSocketTests(Case):
    """What a killed server leaves of a unix socket, with a lock whose number a process has again, as it is in containers."""

    def leave(self) -> Path:
        """The socket of a server that was killed while it had this process's number."""
        path = self.directory / "socket"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        Path(f"{path}.lock").symlink_to(str(os.getpid()))
        return path

    async def test_nobody_listens(self) -> None:
        """It is replaced, and goes when the new server stops."""
        self.leave()
        queue_service = self.start()
        client = await self.connect()
        client.says(consume("jobs", 1), send("jobs", b"x"))
        self.assertEqual([delivery.content for delivery in await client.hears(1)], [b"x"])
        await queue_service.stopService()
        self.assertEqual([path for path in self.directory.iterdir() if path.name.startswith("socket")], [])

    async def test_without_lock(self) -> None:
        """Without its lock it is no obstacle either."""
        Path(f"{self.leave()}.lock").unlink()
        self.start()
        await self.connect()

    async def test_in_use(self) -> None:
        """While somebody listens, the socket is not taken away."""
        self.start()
        self.assertRaises(StartError, self.make(store="memory").privilegedStartService)
        await self.connect()

    def test_file(self) -> None:
        """A file that is no socket is kept, and so is its lock."""
        path = self.leave()
        path.unlink()
        path.write_text("precious")
        self.assertRaises(StartError, self.make().privilegedStartService)
        self.assertEqual(path.read_text(), "precious")
        self.assertTrue(Path(f"{path}.lock").is_symlink())


class LimitsTests(SynchronousTestCase):
    """What a service finds out about its machine."""

    def check_descriptors(self, soft: int, hard: int, need: int, **settings: Any) -> tuple[list[tuple[int, int]], list[str]]:
        """Limits that were set, and lines that were logged, with these limits and so many connections wanted."""
        limits: list[tuple[int, int]] = []
        events: list[LogEvent] = []

        class Resource:
            RLIM_INFINITY: ClassVar[int] = resource.RLIM_INFINITY
            RLIMIT_NOFILE: ClassVar[int] = resource.RLIMIT_NOFILE

            @staticmethod
            def getrlimit(_: int) -> tuple[int, int]:
                return soft, hard

            @staticmethod
            def setrlimit(_: int, new: tuple[int, int]) -> None:
                limits.append(new)

        self.patch(service, "resource", Resource)
        self.patch(QueueService, "_log", Logger("test", observer=events.append))  # type: ignore[arg-type]  # a plain function
        server = Settings(listen=(), store="memory", max_connections=need - 64, **settings)
        QueueService(server, MemoryReactorClock())._check_descriptors()
        return limits, [formatEvent(event) for event in events]

    def test_descriptors(self) -> None:
        """The limit of file descriptors is raised as needed and as allowed, and where that does not do, the log says what will."""
        infinity = resource.RLIM_INFINITY
        self.assertEqual(self.check_descriptors(20000, 20000, 10064), ([], []))
        self.assertEqual(self.check_descriptors(infinity, infinity, 10064), ([], []))
        self.assertEqual(self.check_descriptors(1024, infinity, 10064), ([(10064, infinity)], []))
        self.assertEqual(self.check_descriptors(1024, 20000, 10064), ([(10064, 20000)], []))
        self.assertEqual(self.check_descriptors(1024, 20000, 10064, http=["unix:http"]), ([(10320, 20000)], []))
        limits, (line,) = self.check_descriptors(1024, 4096, 10064)
        self.assertEqual(limits, [(4096, 4096)])
        for text in "4096", "10000", "LimitNOFILE", "10064":
            self.assertIn(text, line)

    def test_doors(self) -> None:
        """So many operators may come, over HTTP and to the console, as the settings say."""
        settings = Settings(listen=(), store="memory", http=["unix:http"], max_http_connections=7, max_http_bodies=8, max_consoles=9)
        server = QueueService(settings, MemoryReactorClock())
        assert server.site is not None
        connections = server.site.connections
        self.assertEqual((connections.max_connections, connections.max_held, server.consoles.connections.max_connections), (7, 8, 9))
        self.assertGreaterEqual(connections.max_per_address, 7)
        self.assertGreaterEqual(server.consoles.connections.max_per_address, 9)
        server = QueueService(replace(settings, max_connections_per_address=3), MemoryReactorClock())
        assert server.site is not None
        every = server.connections, server.consoles.connections, server.site.connections
        self.assertEqual([connections.max_per_address for connections in every], [3, 3, 3])

    def test_memory(self) -> None:
        """The default memory limit is a part of what this process may have."""
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.assertGreater(default_memory_limit(), 0)
        self.assertLessEqual(default_memory_limit(), total * 6 // 10)
