"""
For people who test their own code against phpmq: a whole server in the test's process, reached without sockets.

With a L{Clock} all happens when the test says so, and an hour passes at once:

    class WorkerTests(SynchronousTestCase):
        def setUp(self):
            self.server = MemoryServer()
            self.addCleanup(self.server.stop)

        def test_work(self):
            start_worker(self.server.client())
            self.server.send("jobs", b"dig")
            self.server.settle()
            self.assertEqual(self.server.bodies("done"), [b"dug"])
            self.assertEqual(self.server.left("jobs"), 0)

With a reactor instead of the clock the same happens in real time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from phpmq.broker import Broker
from phpmq.client import QueueClient
from phpmq.clock import SteadyClock
from phpmq.interfaces import IMirror
from phpmq.message import DeadMessage, Properties
from phpmq.protocol import QueueFactory
from phpmq.service import QueueService
from phpmq.settings import Settings
from phpmq.store import ChangeLog, SQLiteStore

# What one end may have on its way before it is told to wait, in bytes.
_CAPACITY = 64 * 1024

# So many seconds pass from one event to the next. If more are to pass, it is in about a thousand steps, up to a longest one.
_EXACT, _STEPS, _LONGEST_STEP = 100.0, 1000, 10.0

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
        self._faked = isinstance(self.clock, Clock)
        # So few connections need no other limits of the process.
        defaults = {"listen": (), "store": "memory", "memory_limit": 64 * 1024**2, "max_connections": 100}
        self.service = QueueService(Settings(**{**defaults, **settings}), self.clock)
        if self._faked:
            self.service.engine.clock = SteadyClock(self._seconds, self._seconds)
        self.endpoint: IStreamClientEndpoint = _Endpoint(self)
        self.reachable = True
        self._factory = QueueFactory(self.service.connections, self.service.open_session)
        self._clients: list[QueueClient] = []
        self._ends: set[_End] = set()
        self.service.startService()
        self._store = cast(SQLiteStore, self.service.engine.store)
        self.broker.confirms.mirror = cast(IMirror, _Disk(self._store.changelog, self.broker, self.clock))

    def _seconds(self) -> float:
        # What is a little less than a millisecond, after a sum of steps, is one.
        return float(self.clock.seconds()) + 0.000001

    @property
    def broker(self) -> Broker:
        """The server's queues."""
        return self.service.broker

    def client(self, **settings: Any) -> QueueClient:
        """
        A client of this server. It runs, and is stopped with the server. To make it a part of a service is fine: a client that runs may
        be started once more.

        @param settings: of L{QueueClient}, such as C{timeout}
        """
        client = QueueClient(self.endpoint, self.clock, **settings)
        client.startService()
        self._clients.append(client)
        if self._faked:
            self.settle()
        return client

    def stop(self) -> Deferred[None]:
        """Stop the clients, then the server. With a L{Clock} that is done when this returns."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        stopping = [client.stopService() for client in self._clients]
        self.reachable = False
        await self._pause()
        # Whoever is still connected: clients that are not of this server, or whose data nobody reads.
        while self._ends:
            for end in list(self._ends):
                end.abortConnection()
            await self._pause()
        for stopped in stopping:
            await stopped
        if self.service.running:
            await self.service.stopService()

    async def _pause(self) -> None:
        if self._faked:
            self.clock.advance(0)
        else:
            await deferLater(self.clock, 0)

    # Time

    def settle(self) -> None:
        """
        Have all arrive that is under way and all happen that is due, and what follows from it, without time passing.

        @raise TypeError: time is real
        """
        if not self._faked:
            raise TypeError("real time passes by itself; only a server with a Clock can be told to settle")
        self.clock.advance(0)
        self.broker.tick()
        self.broker.sweep()
        self.clock.advance(0)

    def advance(self, seconds: float) -> None:
        """
        Let time pass, up to 100 seconds exactly. In longer ones things may happen late by a thousandth of them.

        @raise TypeError: time is real
        """
        self.settle()
        step = 0.0 if seconds <= _EXACT else min(seconds / _STEPS, _LONGEST_STEP)
        end = self.clock.seconds() + seconds
        while (now := self.clock.seconds()) < end:
            next_event = min((call.getTime() for call in self.clock.getDelayedCalls()), default=end)
            self.clock.advance(min(max(next_event, now + step), end) - now)
        self.settle()

    # Queues

    def send(self, queue: str, body: bytes, ttl: float = 0, delay: float = 0, headers: Mapping[str, str] | None = None) -> str:
        """
        Put a message into a queue: its id.

        @param ttl: seconds until it expires; 0 for never
        @param delay: seconds until it is ready
        @param headers: strings by name
        """
        properties = (
            Properties(round(delay * 1000), "", json.dumps(dict(headers)).encode() if headers else b"") if delay or headers else None
        )
        message = self.broker.publish(queue, body, round(ttl * 1000), properties)
        return self.broker.lifecycle.message_id(message.number).decode("ascii")

    def bodies(self, queue: str) -> list[bytes]:
        """What the messages say that wait in a queue, in order; those in flight or delayed are not among them."""
        there = self.broker.queues.get(queue)
        if there is None:
            return []
        behind = self._store.read(there, there.cursor, 2**31, 2**62)
        return [message.body for message in (*there.prefetched, *behind)]

    def in_flight(self, queue: str) -> int:
        """How many messages of a queue are delivered and not settled."""
        there = self.broker.queues.get(queue)
        return 0 if there is None else there.in_flight

    def delayed(self, queue: str) -> int:
        """How many messages of a queue are not ready yet, such as those that were re-queued with a delay."""
        there = self.broker.queues.get(queue)
        return 0 if there is None else there.delayed

    def left(self, queue: str) -> int:
        """How many messages of a queue there are, ready, delayed or in flight."""
        return len(self.bodies(queue)) + self.in_flight(queue) + self.delayed(queue)

    def dead(self, queue: str | None = None) -> list[DeadMessage]:
        """The dead letters of a queue, or of all."""
        return list(self._store.dead(queue))

    # Trouble

    def disconnect(self) -> None:
        """Cut all connections, as a failing network does. Within a second clients connect again, unless the server is not L{reachable}."""
        for protocol in list(self.service.connections.open):
            protocol.abort()
        if self._faked:
            self.settle()

    def connect(self, client: Protocol) -> None:
        """Connect a protocol to the server, one that speaks the wire's language by itself."""
        _connect(self.clock, self._factory.buildProtocol(_ADDRESS), client, self._ends)


def _connect(clock: Any, server: Protocol, client: Protocol, ends: set[_End]) -> None:
    there, here = _End(clock, server, ends), _End(clock, client, ends)
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


class _End(StringTransport):
    """
    One end of a connection in memory. What is written arrives a moment later, never within the call.

    @ivar other: the other end
    @ivar _ends: all ends, has this one until its protocol knows that the connection is lost
    """

    other: _End

    def __init__(self, clock: Any, protocol: Protocol, ends: set[_End]) -> None:
        super().__init__(_ADDRESS, _ADDRESS, lenient=True)
        ends.add(self)
        self._ends = ends
        self._clock = clock
        self._protocol = protocol
        self._incoming = bytearray()
        self._scheduled: Any = None
        self._choked = False

    def fileno(self) -> int:
        """There is no file."""
        return -1

    def write(self, data: bytes) -> None:
        """Send bytes; see L{ITransport}."""
        if self.connected and not self.disconnecting and self.other.connected:
            self.other._incoming += data
            self.other._schedule()
            if self.producer is not None and not self._choked and len(self.other._incoming) > _CAPACITY:
                self._choked = True
                self.producer.pauseProducing()

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
        self._lose(ConnectionLost())
        self.other._lose(ConnectionLost())

    def unregisterProducer(self) -> None:
        """Tell nobody when too much is on its way; that nobody is told already is no error."""
        self.producer = None

    def resumeProducing(self) -> None:
        """Go on; see L{IPushProducer}."""
        super().resumeProducing()
        self._schedule()

    def stopProducing(self) -> None:
        """Close; see L{IPushProducer}."""
        self.loseConnection()

    def _schedule(self) -> None:
        if self._scheduled is None and self.connected:
            self._scheduled = self._clock.callLater(0, self._arrive)

    def _arrive(self) -> None:
        self._scheduled = None
        if self._incoming and self.producerState == "producing" and self.connected:
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
            if self.producer is not None:
                self.producer.resumeProducing()

    def _lose(self, reason: Exception) -> None:
        if self.connected:
            self.connected = False
            if self._scheduled is not None:
                self._scheduled.cancel()
            self._scheduled = self._clock.callLater(0, self._lost, Failure(reason))

    def _lost(self, reason: Failure) -> None:
        self._ends.discard(self)
        self._protocol.connectionLost(reason)


@implementer(IMirror)
class _Disk:
    """A disk that is always fast and never full."""

    failing = False

    def __init__(self, changelog: ChangeLog, broker: Broker, clock: Any) -> None:
        self._changelog = changelog
        self._broker = broker
        self._clock = clock
        self._scheduled = False

    def sync_soon(self) -> None:
        """Write; see L{IMirror}."""
        if not self._scheduled:
            self._scheduled = True
            self._clock.callLater(0, self._write)

    def _write(self) -> None:
        self._scheduled = False
        while (delta := self._changelog.extract(10_000, 2**22, {})) is not None:
            self._changelog.confirm(delta)
            if not delta.more:
                break
        self._broker.synced()
