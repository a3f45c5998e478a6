"""
For people who test their own code against phpmq: a whole server in the test's process, reached without sockets.

With a L{Clock} all happens when the test says so, and an hour passes at once:

    class WorkerTests(SynchronousTestCase):
        def setUp(self):
            self.server = MemoryServer(Clock())
            self.addCleanup(self.server.stop)

        def test_work(self):
            start_worker(self.server.client())
            self.server.send("jobs", b"dig")
            self.server.settle()
            self.assertEqual(self.server.bodies("jobs"), [])

With a reactor instead of the clock the same happens in real time.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IAddress, IPullProducer, IPushProducer, IStreamClientEndpoint, ITransport
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from phpmq.broker import Broker
from phpmq.client import QueueClient
from phpmq.clock import SteadyClock
from phpmq.interfaces import IMirror
from phpmq.message import DeadMessage
from phpmq.protocol import QueueFactory
from phpmq.service import QueueService, Settings
from phpmq.store import SQLiteStore

# What one end may have on its way before it is told to wait, in bytes.
_CAPACITY = 64 * 1024

# The largest steps in which time passes, unless so much of it does that they would be too many.
_STEP, _STEPS = 0.1, 1000

_ADDRESS = UNIXAddress(None)


class MemoryServer:
    """
    A server whose messages are in memory, and whose clients are in the same process.

    It is the real one but for sockets and file. C{synced} receipts are given as if there were a disk.

    @ivar clock: its time
    @ivar endpoint: where clients connect
    @ivar reachable: set it to false, and new connections are refused
    @ivar service: the server's service, for what this class does not do
    """

    def __init__(self, clock: Any = None, **settings: Any) -> None:
        """
        It runs at once; L{stop} it at the end.

        @param clock: a L{Clock} for faked time, or a reactor for real time; None for a new L{Clock}
        @param settings: of L{Settings}, such as C{max_window}
        """
        self.clock = Clock() if clock is None else clock
        settings = {"listen": (), "store": "memory", "memory_limit": 64 * 1024**2, **settings}
        self.service = QueueService(Settings(**settings), self.clock)
        if isinstance(self.clock, Clock):
            self.service.clock = SteadyClock(self.clock.seconds, self.clock.seconds)
        self.endpoint: IStreamClientEndpoint = _Endpoint(self)
        self.reachable = True
        self._factory = QueueFactory(self.service.connections)
        self._clients: list[QueueClient] = []
        self.service.startService()
        self._store = cast(SQLiteStore, self.service.store)
        self.broker.mirror = cast(IMirror, _Disk(self._store, self.broker, self.clock))

    @property
    def broker(self) -> Broker:
        """The server's queues."""
        return self.service.broker

    def client(self, **settings: Any) -> QueueClient:
        """
        A client of this server. It is started, and stopped with the server.

        @param settings: of L{QueueClient}, such as C{timeout}
        """
        client = QueueClient(self.endpoint, self.clock, **settings)
        client.startService()
        self._clients.append(client)
        if isinstance(self.clock, Clock):
            self.settle()
        return client

    def stop(self) -> Deferred[None]:
        """Stop the clients, then the server."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for client in self._clients:
            stopped = client.stopService()
            if isinstance(self.clock, Clock):
                self.settle()
            await stopped
        self.disconnect()
        await self.service.stopService()

    # Time

    def settle(self) -> None:
        """Have all that is under way arrive, and what follows from it, without time passing. Needs a L{Clock}."""
        self.clock.advance(0)

    def advance(self, seconds: float) -> None:
        """Let time pass. Needs a L{Clock}."""
        steps = min(_STEPS, max(1, round(seconds / _STEP)))
        self.clock.pump([seconds / steps] * steps)
        self.settle()

    # Queues

    def send(self, queue: str, body: bytes, ttl: float = 0) -> str:
        """
        Put a message into a queue: its id.

        @param ttl: seconds until it expires; 0 for never
        """
        message = self.broker.publish(queue, body, round(ttl * 1000))
        return self.broker.message_id(message.number).decode("ascii")

    def bodies(self, queue: str) -> list[bytes]:
        """What the messages say that wait in a queue, in order; those in flight are not among them."""
        there = self.broker.queues.get(queue)
        if there is None:
            return []
        behind = self._store.read(there, there.cursor, 2**31, 2**62)
        return [message.body for message in (*there.ahead, *behind)]

    def in_flight(self, queue: str) -> int:
        """How many messages of a queue are delivered and not settled."""
        there = self.broker.queues.get(queue)
        return 0 if there is None else there.in_flight

    def dead(self, queue: str | None = None) -> list[DeadMessage]:
        """The dead letters of a queue, or of all."""
        return list(self._store.dead(queue))

    # Trouble

    def disconnect(self) -> None:
        """Cut all connections, as a network does that fails. Clients connect again unless the server is not L{reachable}."""
        for protocol in list(self.service.connections.open):
            protocol.abort()
        if isinstance(self.clock, Clock):
            self.settle()

    def connect(self, client: Protocol) -> None:
        """Connect a protocol to the server, one that speaks the wire's language by itself."""
        server = self._factory.buildProtocol(_ADDRESS)
        there, here = _End(self.clock, server), _End(self.clock, client)
        there.other, here.other = here, there
        server.makeConnection(there)
        client.makeConnection(here)


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """Where a L{MemoryServer} listens."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server

    def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803  # the interface's name
        """Connect; see L{IStreamClientEndpoint}."""
        if not self._server.reachable:
            return fail(ConnectionRefusedError())
        protocol = protocolFactory.buildProtocol(_ADDRESS)
        self._server.connect(protocol)
        return succeed(protocol)


@implementer(ITransport, IPushProducer)
class _End:
    """
    One end of a connection in memory. What is written arrives a moment later, never within the call.

    @ivar other: the other end
    """

    disconnecting = False
    other: _End

    def __init__(self, clock: Any, protocol: Protocol) -> None:
        self._clock = clock
        self._protocol = protocol
        self._incoming = bytearray()
        self._reading = self.connected = True
        self._scheduled: Any = None
        self._producer: IPushProducer | IPullProducer | None = None
        self._choked = False

    # ITransport

    def write(self, data: bytes) -> None:
        """Send bytes; see L{ITransport}."""
        if self.connected and not self.disconnecting and self.other.connected:
            self.other._incoming += data
            self.other._schedule()
            if self._producer is not None and not self._choked and len(self.other._incoming) > _CAPACITY:
                self._choked = True
                cast(IPushProducer, self._producer).pauseProducing()

    def writeSequence(self, data: Any) -> None:
        """Send bytes; see L{ITransport}."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close once the other end has all that was written; see L{ITransport}."""
        self.disconnecting = True
        self.other._schedule()

    def abortConnection(self) -> None:
        """Close at once."""
        self.disconnecting = True
        self.other._incoming.clear()
        self._lose(ConnectionLost())
        self.other._lose(ConnectionLost())

    def getPeer(self) -> IAddress:
        """The other end has no address; see L{ITransport}."""
        return _ADDRESS

    getHost = getPeer

    def fileno(self) -> int:
        """There is no file."""
        return -1

    # IConsumer, as far as a transport is one

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Tell it when too much is on its way."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Tell nobody."""
        self._producer = None

    # IPushProducer

    def pauseProducing(self) -> None:
        """Hand nothing to the protocol; see L{IPushProducer}."""
        self._reading = False

    def resumeProducing(self) -> None:
        """Go on; see L{IPushProducer}."""
        self._reading = True
        self._schedule()

    def stopProducing(self) -> None:
        """Close; see L{IPushProducer}."""
        self.loseConnection()

    # What arrives

    def _schedule(self) -> None:
        if self._scheduled is None and self.connected:
            self._scheduled = self._clock.callLater(0, self._arrive)

    def _arrive(self) -> None:
        self._scheduled = None
        if self._incoming and self._reading and self.connected:
            data = bytes(self._incoming)
            self._incoming.clear()
            self._protocol.dataReceived(data)
            self.other._unchoke()
        if self.other.disconnecting and not self._incoming:
            self._lose(ConnectionDone())
            self.other._lose(ConnectionDone())

    def _unchoke(self) -> None:
        if self._choked:
            self._choked = False
            if self._producer is not None:
                self._producer.resumeProducing()

    def _lose(self, reason: Exception) -> None:
        if self.connected:
            self.connected = False
            if self._scheduled is not None:
                self._scheduled.cancel()
            self._scheduled = self._clock.callLater(0, self._protocol.connectionLost, Failure(reason))


@implementer(IMirror)
class _Disk:
    """A disk that is always fast and never full."""

    failing = False

    def __init__(self, store: SQLiteStore, broker: Broker, clock: Any) -> None:
        self._store = store
        self._broker = broker
        self._clock = clock

    def hurry(self) -> None:
        """Write; see L{IMirror}."""
        self._clock.callLater(0, self._write)

    def _write(self) -> None:
        while (delta := self._store.extract(10_000, 2**22, {})) is not None:
            self._store.confirm(delta)
            if not delta.more:
                break
        self._broker.synced()
