"""The Twisted client, with a server in memory and in faked time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from phpmq.broker import SENDS
from phpmq.client import Delivery, DuplicateId, QueueClient
from phpmq.client_connection import backoff
from phpmq.errors import (
    BadFrame,
    BadName,
    ClientFull,
    Closed,
    LoginRequired,
    NotConnected,
    ProtocolError,
    QueueFull,
    TimedOut,
    TooLarge,
)
from phpmq.server_frames import encode_refusal
from phpmq.testing import MemoryServer, _connect
from tests.doubles import RecordingProtocol


def _transport(client: QueueClient) -> Any:
    """The transport of a client's connection."""
    connection = client._reconnector.protocol
    assert connection is not None
    return connection.transport


class Case(SynchronousTestCase):
    """A server, and a client that is connected to it."""

    def setUp(self) -> None:
        """Start them."""
        self.clock = Clock()
        self.server = MemoryServer(self.clock)
        self.client = self.server.client()
        self.addCleanup(self.stopped)

    def stopped(self) -> None:
        """Nothing is left behind."""
        self.successResultOf(self.server.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        """Run a coroutine as far as it gets."""
        return Deferred.fromCoroutine(coroutine)


class SendTests(Case):
    """Sending."""

    def test_send(self) -> None:
        """A send fires with the id of its message."""
        sent = self.client.send("q", b"x")
        self.assertNoResult(sent)
        self.server.settle()
        message_id = self.successResultOf(sent)
        self.assertEqual((len(message_id), message_id.duplicate, self.server.bodies("q")), (32, False, [b"x"]))

    def test_everything(self) -> None:
        """All that a message can have arrives with it."""
        self.client.send("q", b"x", ttl=60, delay=10, headers={"a": "b"}, key="k", level="synced")
        again = self.client.send("q", b"y", key="k")
        self.server.settle()
        self.assertIsInstance(self.successResultOf(again), DuplicateId)
        got: list[Delivery] = []
        self.client.subscribe("q", got.append)
        self.server.advance(9.9)
        self.assertEqual(got, [])
        self.server.advance(0.1)
        [delivery] = got
        self.assertEqual((delivery.body, delivery.headers, delivery.ttl), (b"x", {"a": "b"}, 50.0))

    def test_bad_arguments(self) -> None:
        """A bad argument is an error at the call, and nothing is sent."""
        bad: list[tuple[type[Exception], dict[str, Any]]] = [
            (BadName, {"queue": "\n"}),
            (TypeError, {"body": "x"}),
            (ValueError, {"delay": -1}),
            (ValueError, {"level": "best"}),
            (TooLarge, {"key": "k" * 256}),
        ]
        for error, order in bad:
            self.assertRaises(error, self.client.send, **{"queue": "q", "body": b"x", **order})
        self.server.settle()
        self.assertEqual(self.server.broker.lifecycle.received, 0)

    def test_refused(self) -> None:
        """A refusal is the failure of its send, not of others."""
        self.server.broker.queues.pause("full", SENDS)
        sent = [self.client.send(queue, b"x") for queue in ("q", "full", "q")]
        self.server.settle()
        self.successResultOf(sent[0])
        self.failureResultOf(sent[1], QueueFull)
        self.successResultOf(sent[2])

    def test_too_large(self) -> None:
        """What is larger than the server allows fails; others get through."""
        server = MemoryServer(self.clock, max_message_size=100)
        client = server.client()
        sent = [client.send("q", b"x" * size) for size in (1, 101, 2)]
        server.advance(2)
        self.failureResultOf(sent[1], TooLarge)
        self.assertEqual([len(body) for body in server.bodies("q")], [1, 2])
        self.successResultOf(sent[0])
        self.successResultOf(sent[2])
        server.stop()

    def test_not_connected(self) -> None:
        """What is sent while the server cannot be reached is stored once it can, in order; a moment later or much later."""
        self.server.reachable = False
        self.server.disconnect()
        sent = [self.client.send("q", b"%d" % number) for number in range(3)]
        self.server.advance(50)
        self.assertNoResult(sent[0])
        self.server.reachable = True
        self.server.advance(11)
        self.assertEqual(self.server.bodies("q"), [b"0", b"1", b"2"])
        for one in sent:
            self.successResultOf(one)

    def test_lost(self) -> None:
        """What had no receipt when the connection was lost is sent again, and stored once."""
        first, second = self.client.send("q", b"1"), self.client.send("q", b"2")
        self.server.disconnect()
        self.assertNoResult(first)
        self.server.advance(1)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(self.server.bodies("q"), [b"1", b"2"])

    def test_timeout(self) -> None:
        """A send that is not receipted in time fails."""
        self.server.reachable = False
        self.server.disconnect()
        sent = self.client.send("q", b"x")
        self.server.advance(58)
        self.assertNoResult(sent)
        self.server.advance(3)
        self.assertIn("refused", str(self.failureResultOf(sent, TimedOut).value))

    def test_cancel(self) -> None:
        """A send that is cancelled before it was written never is; those who wait for room or receipts hear of it."""
        client = QueueClient(self.server.endpoint, self.clock, max_unconfirmed=1)
        sent = client.send("q", b"1")
        room, confirmed = client.room(), client.confirmed()
        self.failureResultOf(client.send("q", b"2"), ClientFull)
        self.assertNoResult(room)
        sent.cancel()
        self.failureResultOf(sent, CancelledError)
        self.successResultOf(room)
        self.successResultOf(confirmed)
        client.startService()
        self.server.advance(1)
        self.assertEqual(self.server.bodies("q"), [])
        client.stopService()
        self.server.settle()

    def test_room(self) -> None:
        """Those who wait for room are served in turn; one who no longer waits is not."""
        client = self.server.client(max_unconfirmed=2)
        sent: list[int] = []

        async def send(number: int) -> None:
            await client.room()
            sent.append(number)
            await client.send("q", b"%d" % number)

        tasks = [self.start(send(number)) for number in range(6)]
        self.assertEqual(sent, [0, 1])
        tasks[3].cancel()
        self.failureResultOf(tasks[3], CancelledError)
        self.server.settle()
        self.assertEqual((sent, self.server.bodies("q")), ([0, 1, 2, 4, 5], [b"0", b"1", b"2", b"4", b"5"]))
        for number in 0, 1, 2, 4, 5:
            self.successResultOf(tasks[number])

    def test_confirmed(self) -> None:
        """Confirmed fires when nothing waits, whatever became of it."""
        self.successResultOf(self.client.confirmed())
        self.server.broker.queues.pause("full", SENDS)
        good, bad = self.client.send("q", b"x"), self.client.send("full", b"x")
        confirmed, cancelled = self.client.confirmed(), self.client.confirmed()
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        self.assertNoResult(confirmed)
        self.server.settle()
        self.successResultOf(confirmed)
        self.successResultOf(good)
        self.failureResultOf(bad, QueueFull)

    def test_unseen_failure(self) -> None:
        """A failed send that nobody looked at is logged, as any failure is that nobody looked at."""
        self.server.broker.queues.pause("full", SENDS)
        self.client.send("full", b"x")
        self.server.settle()
        self.assertEqual(len(self.flushLoggedErrors(QueueFull)), 1)

    def test_ping(self) -> None:
        """A ping fires when the server has carried out what it was told before; it fails when the connection is lost, or not there."""
        sent, ping = self.client.send("q", b"x"), self.client.ping()
        self.server.settle()
        self.successResultOf(sent)
        self.successResultOf(ping)
        ping = self.client.ping()
        self.server.disconnect()
        self.failureResultOf(ping, NotConnected)
        self.failureResultOf(self.client.ping(), NotConnected)


class LifeTests(Case):
    """Connecting, and its end."""

    def test_connected(self) -> None:
        """Connected fires once the server answers, at once if it has, and does not wait for attempts that are not its."""
        self.successResultOf(self.client.connected())
        client = QueueClient(self.server.endpoint, self.clock)
        early = client.connected()
        self.assertNoResult(early)
        client.startService()
        self.assertNoResult(early)
        self.server.settle()
        self.successResultOf(early)
        client.stopService()
        self.server.settle()

    def test_attempts(self) -> None:
        """It gives up after as many failed attempts as wanted, with the reason."""
        self.server.reachable = False
        self.server.disconnect()
        one, three, patient = self.client.connected(1), self.client.connected(3), self.client.connected()
        impatient = self.client.connected()
        impatient.cancel()
        self.failureResultOf(impatient, CancelledError)
        self.server.advance(0.3)
        error = self.failureResultOf(one, NotConnected).value
        self.assertIsInstance(error.__cause__, ConnectionRefusedError)
        self.assertNoResult(three)
        self.server.advance(3)
        self.failureResultOf(three, NotConnected)
        self.assertNoResult(patient)
        self.server.reachable = True
        self.server.advance(11)
        self.successResultOf(patient)

    def test_backoff(self) -> None:
        """Attempts come after growing pauses, and after a success from the beginning again."""
        pauses: list[int] = []

        def retry(failures: int) -> float:
            pauses.append(failures)
            return failures

        client = self.server.client(retry=retry)
        self.assertEqual(pauses, [])
        self.server.reachable = False
        self.server.disconnect()
        self.server.advance(6.5)
        self.assertEqual(pauses, [1, 2, 3, 4])
        self.server.reachable = True
        self.server.advance(3.6)
        self.successResultOf(client.connected())
        self.server.disconnect()
        self.assertEqual(pauses, [1, 2, 3, 4, 1])

    def test_default_backoff(self) -> None:
        """By default the first attempt follows at once, and none later than ten seconds."""
        self.server.reachable = False
        self.server.disconnect()
        self.server.advance(100)
        self.server.reachable = True
        self.server.advance(10.2)
        self.successResultOf(self.client.connected())
        self.server.disconnect()
        self.server.advance(0.3)
        self.successResultOf(self.client.connected())

    def test_stop(self) -> None:
        """A stop ends everything: what waits fails with Closed, what is consumed ends, and nothing new is begun."""
        self.server.broker.queues.pause("q")
        client = self.server.client(max_unconfirmed=1)
        consumer = client.consume("q")
        next_one = self.start(consumer.__anext__())
        waiting = [client.send("q", b"x"), client.room(), client.ping()]
        confirmed = client.confirmed()
        stopped = client.stopService()
        for one in waiting:
            self.failureResultOf(one, Closed)
        self.successResultOf(confirmed)
        self.failureResultOf(next_one, StopAsyncIteration)
        self.server.settle()
        self.successResultOf(stopped)
        for one in (client.send("q", b"x"), client.room(), client.connected()):
            self.failureResultOf(one, Closed)
        self.failureResultOf(client.ping(), NotConnected)
        self.assertRaises(Closed, client.consume, "q")
        self.successResultOf(client.stopService())

    def test_stop_in_every_state(self) -> None:
        """Whatever the client is doing, a stop ends it, and who waits for a connection hears of it."""

        def connecting(client: QueueClient) -> None:
            self.server.reachable = True
            client.startService()

        def waiting(client: QueueClient) -> None:
            self.server.reachable = False
            client.startService()
            self.server.settle()

        def connected(client: QueueClient) -> None:
            connecting(client)
            self.server.settle()

        def lost(client: QueueClient) -> None:
            connected(client)
            self.server.disconnect()

        for prepare in (lambda client: None), connecting, waiting, connected, lost:
            client = QueueClient(self.server.endpoint, self.clock)
            prepare(client)
            was_connected = client.connected()
            first, second = client.stopService(), client.stopService()
            self.server.settle()
            self.successResultOf(first)
            self.successResultOf(second)
            if prepare is connected:
                self.successResultOf(was_connected)
            else:
                self.failureResultOf(was_connected, Closed)
            self.assertFalse(client.connection.online)
            self.server.reachable = True

    def test_restart(self) -> None:
        """After a stop it can be started again, also before the old connection is closed; what it consumed is not consumed any more."""
        for wait in True, False:
            old = self.client.consume("q")
            stopped = self.client.stopService()
            if wait:
                self.server.settle()
            self.client.startService()
            self.server.settle()
            self.successResultOf(stopped)
            self.successResultOf(self.client.connected())
            self.assertEqual(len(self.server.service.connections.open), 1)
            self.assertEqual(self.server.broker.queues, {})
            sent = self.client.send("q", b"x")
            new = self.client.consume("q")
            self.assertIsNot(new, old)
            self.server.settle()
            self.successResultOf(sent)
            delivery = self.successResultOf(self.start(new.__anext__()))
            self.failureResultOf(self.start(old.__anext__()), StopAsyncIteration)
            self.successResultOf(self.settled(delivery.ack()))
            new.stop()
            self.server.settle()

    def settled(self, deferred: Deferred[Any]) -> Deferred[Any]:
        """The same after all has arrived."""
        self.server.settle()
        return deferred

    def test_start_twice(self) -> None:
        """To start a client that runs changes nothing, so that it can be made part of a service at any time."""
        self.client.startService()
        self.server.advance(1)
        self.assertEqual(len(self.server.service.connections.open), 1)

    def test_stop_by_what_it_causes(self) -> None:
        """A stop or a restart in the middle of hearing that the connection is lost is a stop or a restart."""
        for restart in False, True:
            client = self.server.client()
            ping = client.ping()

            def react(_: object, client: QueueClient = client, restart: bool = restart) -> None:
                client.stopService()
                if restart:
                    client.startService()

            ping.addBoth(react)
            self.server.disconnect()
            self.server.advance(1)
            self.assertEqual(client.connection.online, restart)

    def test_async_with(self) -> None:
        """C{async with} starts it, waits for the receipts and stops it."""

        async def script() -> str:
            async with QueueClient(self.server.endpoint, self.clock) as client:
                client.send("q", b"x")
            assert not client.running
            return "done"

        done = self.start(script())
        self.assertNoResult(done)
        self.server.settle()
        self.assertEqual((self.successResultOf(done), self.server.bodies("q")), ("done", [b"x"]))

    def test_async_with_error(self) -> None:
        """An error within ends it at once, and so does a cancellation of the wait for receipts."""

        async def script() -> None:
            async with QueueClient(self.server.endpoint, self.clock) as client:
                sent.append(client.send("q", b"x"))
                raise KeyError("x")

        sent: list[Deferred[Any]] = []
        done = self.start(script())
        self.server.settle()
        self.failureResultOf(done, KeyError)
        self.failureResultOf(sent[0], Closed)

        async def impatient() -> None:
            async with QueueClient(self.server.endpoint, self.clock) as client:
                clients.append(client)
                sent.append(client.send("q", b"x"))

        clients: list[QueueClient] = []
        done = self.start(impatient())
        done.cancel()
        self.server.settle()
        self.failureResultOf(done, CancelledError)
        self.failureResultOf(sent[1], Closed)
        self.assertFalse(clients[0].running)

    def test_endpoints(self) -> None:
        """A string describes an endpoint, or is an error; numbers have to make sense."""
        for bad in "", "9100", "tcp:9100", "tcp:host:port", "tcp:host:0", "foo:bar", "tcp:host:1:foo=bar", "http://host":
            self.assertIn(repr(bad), str(self.assertRaises(ValueError, QueueClient, bad, self.clock)))
        for settings in {"timeout": 0}, {"heartbeat": 0}, {"heartbeat": float("nan")}, {"max_unconfirmed": 0}, {"max_unconfirmed_size": -1}:
            self.assertRaises(ValueError, QueueClient, "tcp:host:1", self.clock, **settings)
        memory = MemoryReactorClock()
        for address, place in ("127.0.0.1", ("127.0.0.1", 9100)), ("tcp://[::1]:9200", ("::1", 9200)), ("ssl:127.0.0.1:9300", None):
            client = QueueClient(address, memory)
            client.startService()
            self.assertEqual(memory.tcpClients.pop()[:2] if place else memory.sslClients.pop()[:2], place or ("127.0.0.1", 9300))
            client.stopService()
        self.assertEqual(memory.getDelayedCalls(), [])

    def test_installed_reactor(self) -> None:
        """Without a reactor it is the installed one, and a step of the system's time is none of the client's."""
        client = QueueClient()
        now: Callable[[], float] = client.connection._now
        self.assertIs(now, time.monotonic)
        self.assertIsNot(reactor, None)


class Closing(RecordingProtocol):
    """Hangs up at once."""

    def connectionMade(self) -> None:
        """Hang up."""
        assert self.transport is not None
        self.transport.loseConnection()


class Version01(RecordingProtocol):
    """Hangs up when it hears what it does not know, as a server of version 01 does."""

    def dataReceived(self, data: bytes) -> None:
        """Hang up."""
        assert self.transport is not None
        self.transport.loseConnection()


class Garbage(RecordingProtocol):
    """Speaks another language."""

    def dataReceived(self, data: bytes) -> None:
        """Answer."""
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


class Refusing(RecordingProtocol):
    """Ends each connection with a reason."""

    def dataReceived(self, data: bytes) -> None:
        """Answer and hang up."""
        assert self.transport is not None
        self.transport.write(encode_refusal(None, "login-required", "who are you?"))
        self.transport.loseConnection()


@implementer(IStreamClientEndpoint)
class Strangers:
    """An endpoint of servers that are no phpmq."""

    def __init__(self, clock: Clock, kind: type[RecordingProtocol]) -> None:
        self._clock, self._kind = clock, kind
        self.servers: list[RecordingProtocol] = []

    def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803
        """Connect."""
        self.servers.append(self._kind())
        client = protocolFactory.buildProtocol(None)
        _connect(self._clock, self.servers[-1], client, set())
        return succeed(client)


class StrangeServerTests(Case):
    """Servers that are no phpmq, or none that is well."""

    def meet(self, kind: type[RecordingProtocol], **settings: Any) -> tuple[Strangers, QueueClient]:
        """A client of such servers."""
        strangers = Strangers(self.clock, kind)
        client = QueueClient(strangers, self.clock, **settings)

        def stop() -> None:
            stopped = client.stopService()
            self.server.settle()
            self.successResultOf(stopped)

        self.addCleanup(stop)
        client.startService()
        return strangers, client

    def test_no_phpmq(self) -> None:
        """What does not answer as it should is an error to who waits for a connection, and is tried again with growing pauses."""
        kinds: list[tuple[type[RecordingProtocol], type[Exception], str]] = [
            (Closing, NotConnected, "the server closed it"),
            (Version01, NotConnected, "the server closed it"),
            (Garbage, BadFrame, "frame header expected"),
            (Refusing, LoginRequired, "who are you"),
        ]
        for kind, error, why in kinds:
            strangers, client = self.meet(kind)
            one, sent = client.connected(1), client.send("q", b"x")
            self.server.settle()
            self.assertIn(why, str(self.failureResultOf(one, error).value))
            self.server.advance(40)
            self.assertLess(len(strangers.servers), 20)
            self.assertGreater(len(strangers.servers), 10)
            self.server.advance(30)
            self.assertTrue(all(server.is_lost for server in strangers.servers[:-1]))
            self.failureResultOf(sent, TimedOut, LoginRequired)

    def test_silent(self) -> None:
        """A server that takes a connection and says nothing is given up after the heartbeat's time, or that of the first answer."""
        for settings, error in (({"heartbeat": 5}, NotConnected), ({"timeout": 5}, TimedOut)):
            strangers, client = self.meet(RecordingProtocol, **settings)
            one = client.connected(1)
            self.server.advance(4.9)
            self.assertNoResult(one)
            self.server.advance(7)
            self.failureResultOf(one, error)
            self.assertTrue(strangers.servers[0].is_lost)
            self.assertGreater(len(strangers.servers), 1)

    def test_half_open(self) -> None:
        """A connection whose other end fell silent is given up, and what it was to bring goes over the next one."""
        client = self.server.client(heartbeat=10)
        [end] = [end for end in self.server._ends if end is _transport(client)]
        sent = client.send("q", b"1")
        self.server.settle()
        self.successResultOf(sent)
        end.other.pauseProducing()
        sent, ping = client.send("q", b"2"), client.ping()
        consumer = client.consume("q")
        self.server.advance(9)
        self.assertTrue(client.connection.online)
        self.server.advance(14)
        self.successResultOf(sent)
        self.failureResultOf(ping, NotConnected)
        bodies = [self.successResultOf(self.start(consumer.__anext__())).body for _ in range(2)]
        self.assertEqual(bodies, [b"1", b"2"])

    def test_idle(self) -> None:
        """A connection on which nothing is to be said stays for days, whatever the heartbeat."""
        for heartbeat in 0.2, 30, 1e9:
            self.server.client(heartbeat=heartbeat)
        before = self.server.service.connections.accepted
        self.server.advance(100_000)
        self.assertEqual(self.server.service.connections.accepted, before)

    def test_stop_of_a_silent_server(self) -> None:
        """A server that neither reads nor closes cannot hold up a stop for long."""
        client = self.server.client()
        [end] = [end for end in self.server._ends if end is _transport(client)]
        end.other.pauseProducing()
        sent = client.send("q", b"x")
        stopped = client.stopService()
        self.failureResultOf(sent, Closed)
        self.server.advance(4.9)
        self.assertNoResult(stopped)
        self.server.advance(0.1)
        self.successResultOf(stopped)

    def test_stop_on_failure(self) -> None:
        """Whoever hears that the server cannot be reached may stop the client there and then, and more than once."""
        self.server.reachable = False
        client = QueueClient(self.server.endpoint, self.clock)
        stops: list[Deferred[None]] = []
        client.connected(1).addErrback(lambda _: stops.extend([client.stopService(), client.stopService()]))
        client.startService()
        self.server.settle()
        for stopped in stops:
            self.successResultOf(stopped)
        self.assertEqual(len(stops), 2)
        client.startService()
        again = client.stopService().addCallback(lambda _: client.stopService())
        self.server.settle()
        self.successResultOf(again)

    def test_lost_at_once(self) -> None:
        """A connection that is lost as soon as it is made is made again."""
        server = self.server

        @implementer(IStreamClientEndpoint)
        class Hasty:
            """Hangs up the first time."""

            attempts = 0

            def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803
                """Connect, the first time just for a moment."""
                protocol = protocolFactory.buildProtocol(None)
                self.attempts += 1
                server.connect(protocol)
                if self.attempts == 1:
                    _transport(client).abortConnection()
                return succeed(protocol)

        endpoint = Hasty()
        client = QueueClient(endpoint, self.clock)
        client.startService()
        self.server.advance(3)
        self.successResultOf(client.connected())
        self.assertEqual(endpoint.attempts, 2)
        client.stopService()
        self.server.settle()

    def test_endpoint_that_raises(self) -> None:
        """An endpoint that raises an exception is one that cannot be reached."""

        @implementer(IStreamClientEndpoint)
        class Broken:
            """Raises."""

            def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803
                """Raise."""
                raise OSError("no network")

        client = QueueClient(Broken(), self.clock)
        client.startService()
        one = client.connected(1)
        self.server.advance(1)
        self.assertIn("no network", str(self.failureResultOf(one, NotConnected).value))
        self.successResultOf(client.stopService())

    def test_tcp_options(self) -> None:
        """On TCP frames leave without delay, and the system watches the connection, too."""

        class Transport(StringTransport):
            """Notes options."""

            def __init__(self) -> None:
                super().__init__(peerAddress=IPv4Address("TCP", "127.0.0.1", 9100))
                self.options: list[str] = []

            def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802
                """Note it."""
                self.options.append("nodelay")

            def setTcpKeepAlive(self, enabled: bool) -> None:  # noqa: N802
                """Note it."""
                self.options.append("keepalive")

        transport: Any = Transport()

        @implementer(IStreamClientEndpoint)
        class Tcp:
            """Connects to that."""

            def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803
                """Connect."""
                transport.protocol = protocolFactory.buildProtocol(None)
                transport.protocol.makeConnection(transport)
                return succeed(transport.protocol)

        client = QueueClient(Tcp(), self.clock)
        client.startService()
        self.assertEqual(transport.options, ["nodelay", "keepalive"])
        stopped = client.stopService()
        self.assertTrue(transport.disconnecting)
        self.assertNoResult(stopped)
        transport.protocol.connectionLost(Failure(ConnectionDone()))
        self.successResultOf(stopped)


class ConsumeTests(Case):
    """Iterating."""

    def setUp(self) -> None:
        """Put something into the queue."""
        super().setUp()
        for number in range(4):
            self.server.send("q", b"%d" % number)

    def consumed(self, consumer: Any, got: list[bytes], ack: bool = True) -> Deferred[None]:
        """Iterate in a task."""

        async def task() -> None:
            async for delivery in consumer:
                got.append(delivery.body)
                if ack:
                    delivery.ack()

        return self.start(task())

    def test_iterate(self) -> None:
        """An iteration gets all messages in order, those to come as well, until the consumer is stopped."""
        got: list[bytes] = []
        consumer = self.client.consume("q", window=2)
        task = self.consumed(consumer, got)
        self.server.settle()
        self.assertEqual((got, self.server.left("q")), ([b"0", b"1", b"2", b"3"], 0))
        self.server.send("q", b"4")
        self.server.settle()
        self.assertEqual(got[4:], [b"4"])
        stopped = consumer.stop()
        self.assertNoResult(task)
        self.server.settle()
        self.successResultOf(stopped)
        self.successResultOf(task)
        self.successResultOf(consumer.stop())

    def test_window(self) -> None:
        """Consuming again changes the window of the same consumer."""
        consumer = self.client.consume("q", window=1)
        self.server.settle()
        self.assertEqual(self.server.in_flight("q"), 1)
        self.assertIs(self.client.consume("q", window=3), consumer)
        self.server.settle()
        self.assertEqual((self.server.in_flight("q"), consumer.window, consumer.queue, consumer.lease), (3, 3, "q", 0))

    def test_bad_arguments(self) -> None:
        """A bad argument is an error at the call, and changes nothing."""
        consumer = self.client.consume("q", window=1)
        bad: list[tuple[type[Exception], Callable[[], object]]] = [
            (BadName, lambda: self.client.consume("")),
            (TypeError, lambda: self.client.consume(b"q")),  # type: ignore[arg-type]
            (ValueError, lambda: self.client.consume("q", 0)),
            (TypeError, lambda: self.client.consume("q", 1.5)),  # type: ignore[arg-type]
            (ValueError, lambda: self.client.consume("q", lease=-1)),
            (ValueError, lambda: self.client.subscribe("q", print)),
            (TypeError, lambda: self.client.subscribe("p", None)),  # type: ignore[arg-type]
        ]
        for error, call in bad:
            self.assertRaises(error, call)
        self.assertEqual((consumer.window, list(self.client.connection.receivers)), (1, ["q"]))
        self.client.subscribe("p", print)
        self.assertRaises(ValueError, self.client.consume, "p")
        self.assertRaises(ValueError, self.client.subscribe, "p", print)

    def test_several_tasks(self) -> None:
        """Tasks that share a consumer share its messages, each gets one at a time, the one that waits longest first."""
        consumer = self.client.consume("q", window=10)
        done: list[tuple[int, bytes]] = []
        going_on: list[Deferred[None]] = []

        async def task(number: int) -> None:
            async for delivery in consumer:
                done.append((number, delivery.body))
                going_on.append(Deferred())
                await going_on[-1]
                delivery.ack()

        tasks = [self.start(task(number)) for number in range(3)]
        self.server.settle()
        self.assertEqual(done, [(0, b"0"), (1, b"1"), (2, b"2")])
        going_on[1].callback(None)
        self.assertEqual(done[3:], [(1, b"3")])
        consumer.stop()
        self.server.settle()
        for one in going_on:
            if not one.called:
                one.callback(None)
        for one in tasks:
            self.successResultOf(one)

    def test_stop_with_messages_on_their_way(self) -> None:
        """What was delivered before the stop was known can still be iterated, and settled; then the iteration ends."""
        consumer = self.client.consume("q", window=3)
        self.server.settle()
        stopped = consumer.stop()
        self.assertEqual(consumer.window, 0)
        got: list[bytes] = []
        task = self.consumed(consumer, got)
        self.server.settle()
        self.successResultOf(stopped)
        self.successResultOf(task)
        self.assertEqual((got, self.server.bodies("q"), self.server.in_flight("q")), ([b"0", b"1", b"2"], [b"3"], 0))

    def test_stop_then_lost(self) -> None:
        """What a stopped consumer still had when the connection was lost is the server's: it is not handed out."""
        consumer = self.client.consume("q", window=3)
        self.server.settle()
        consumer.stop()
        self.server.settle()
        self.server.disconnect()
        self.failureResultOf(self.start(consumer.__anext__()), StopAsyncIteration)

    def test_stop_and_consume(self) -> None:
        """Whoever consumes a queue right after a stop gets what the stopped consumer did not get."""
        old = self.client.consume("q", window=1)
        self.server.settle()
        old.stop()
        new = self.client.consume("q")
        got: list[bytes] = []
        self.consumed(new, got)
        self.server.settle()
        self.assertEqual(got, [b"1", b"2", b"3"])
        self.assertEqual(self.successResultOf(self.start(old.__anext__())).body, b"0")

    def test_nobody_iterates(self) -> None:
        """Of what nobody asks for no more is kept than the window, over any number of connections."""
        consumer = self.client.consume("q", window=3)
        for _ in range(5):
            self.server.disconnect()
            self.server.advance(1)
        self.assertEqual([delivery.lost for delivery in consumer._delivered], [False] * 3)

    def test_cancelled_wait(self) -> None:
        """A task that no longer waits takes no message with it: the next one goes to another."""
        consumer = self.client.consume("p")
        first, second = self.start(consumer.__anext__()), self.start(consumer.__anext__())
        self.server.settle()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.server.send("p", b"x")
        self.server.settle()
        self.assertEqual(self.successResultOf(second).body, b"x")
        third = self.start(consumer.__anext__())
        third.cancel()
        self.failureResultOf(third, CancelledError)
        self.server.send("p", b"y")
        self.server.settle()
        self.assertEqual(self.successResultOf(self.start(consumer.__anext__())).body, b"y")

    def test_reconnect(self) -> None:
        """An iteration goes on over lost connections; what was handed out comes again, and the old delivery cannot be settled."""
        consumer = self.client.consume("q", window=2)
        self.server.settle()
        old = self.successResultOf(self.start(consumer.__anext__()))
        self.server.disconnect()
        waiting = self.start(consumer.__anext__())
        self.assertNoResult(waiting)
        self.assertIs(self.successResultOf(old.ack()), False)
        self.server.advance(1)
        new = self.successResultOf(waiting)
        self.assertEqual((new.body, new.id, new.attempts, old.lost, new.lost), (b"0", old.id, 2, True, False))
        self.assertIs(self.successResultOf(old.ack()), False)
        acknowledged = new.ack()
        self.server.settle()
        self.assertIs(self.successResultOf(acknowledged), True)
        self.assertEqual(self.successResultOf(self.start(consumer.__anext__())).body, b"1")

    def test_settle(self) -> None:
        """Each way to settle does what it says and tells whether it was done; nothing is settled twice."""
        consumer = self.client.consume("q", window=4, lease=10)
        self.server.settle()
        deliveries = [self.successResultOf(self.start(consumer.__anext__())) for _ in range(4)]
        done = [deliveries[0].ack(), deliveries[1].requeue(delay=60), deliveries[2].dead_letter("why"), deliveries[3].touch()]
        self.assertRaises(ValueError, deliveries[3].requeue, -1)
        self.assertRaises(TypeError, deliveries[3].dead_letter, ValueError())
        self.server.settle()
        self.assertEqual([self.successResultOf(one) for one in done], [True] * 4)
        self.assertEqual([self.successResultOf(one.ack()) for one in deliveries[:3]], [False] * 3)
        self.assertEqual((self.server.delayed("q"), [dead.text for dead in self.server.dead("q")]), (1, ["why"]))
        self.assertEqual(self.server.in_flight("q"), 1)

    def test_lease(self) -> None:
        """After its lease a message is delivered to another client; touching it in time prevents that."""
        other: list[Delivery] = []
        consumer = self.client.consume("q", window=1, lease=10)
        self.server.settle()
        delivery = self.successResultOf(self.start(consumer.__anext__()))
        self.server.client().subscribe("q", other.append)
        self.server.advance(9)
        delivery.touch()
        self.server.advance(9)
        self.assertNotIn(b"0", [one.body for one in other])
        self.server.advance(1.2)
        late = delivery.ack()
        self.server.settle()
        self.assertIs(self.successResultOf(late), False)
        self.assertIn(b"0", [one.body for one in other])

    def test_settle_in_time(self) -> None:
        """A settlement that is not answered is not known to be done, when time is over, the connection is lost or the client stopped."""
        consumer = self.client.consume("q", window=4)
        self.server.settle()
        deliveries = [self.successResultOf(self.start(consumer.__anext__())) for _ in range(4)]
        cancelled = deliveries[3].ack()
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        lost = deliveries[0].ack()
        self.server.disconnect()
        self.assertIs(self.successResultOf(lost), False)
        self.server.advance(1)
        again = self.successResultOf(self.start(consumer.__anext__()))
        stopped = again.ack()
        self.client.stopService()
        self.assertIs(self.successResultOf(stopped), False)

    def test_refused(self) -> None:
        """A queue that the server does not let be consumed: whoever iterates hears why, and consuming again begins anew."""
        consumer = self.client.consume("p")
        waiting = self.start(consumer.__anext__())
        tag = next(reversed(self.client.connection._requests))
        self.client.connection.receive(encode_refusal(tag, "login-required", "no"))
        self.failureResultOf(waiting, LoginRequired)
        self.failureResultOf(self.start(consumer.__anext__()), LoginRequired)
        again = self.client.consume("p")
        self.assertIsNot(again, consumer)
        self.server.send("p", b"x")
        self.server.advance(1)
        self.assertEqual(self.successResultOf(self.start(again.__anext__())).body, b"x")

    def test_two_clients(self) -> None:
        """Two clients share a queue; what one of them holds when it goes is the other's."""
        got: list[bytes] = []
        other = self.server.client()
        self.consumed(other.consume("q", window=2), [], ack=False)
        self.server.settle()
        self.consumed(self.client.consume("q"), got)
        self.server.settle()
        self.assertEqual(got, [b"2", b"3"])
        other.stopService()
        self.server.settle()
        self.assertEqual(got, [b"2", b"3", b"0", b"1"])

    def test_stop_in_the_middle(self) -> None:
        """A stop of the client by whoever got a message ends the iteration, and none of the messages behind it is handed out."""
        got: list[bytes] = []

        async def task() -> None:
            async for delivery in self.client.consume("q"):
                got.append(delivery.body)
                await self.client.stopService()

        done = self.start(task())
        self.server.settle()
        self.successResultOf(done)
        self.assertEqual((got, self.server.bodies("q")), ([b"0"], [b"0", b"1", b"2", b"3"]))

    def test_many_queues(self) -> None:
        """One client consumes many queues."""
        got: dict[str, list[bytes]] = {"q": [], "p": []}
        self.server.send("p", b"x")
        for queue, bodies in got.items():
            self.consumed(self.client.consume(queue), bodies)
        self.server.settle()
        self.assertEqual(got, {"q": [b"0", b"1", b"2", b"3"], "p": [b"x"]})


class SubscribeTests(Case):
    """Functions that are called."""

    def subscribed(self, worker: Callable[[Delivery], Awaitable[object] | object], **settings: Any) -> Any:
        """Subscribe, send one message, have it handled."""
        self.server.send("q", b"x", ttl=100)
        consumer = self.client.subscribe("q", worker, **settings)
        self.server.settle()
        return consumer

    def test_function(self) -> None:
        """A plain function is called with each message."""

        def work(delivery: Delivery) -> None:
            delivery.ack()

        consumer = self.subscribed(work)
        self.assertEqual((self.server.left("q"), consumer.subscribed), (0, True))
        self.assertRaises(TypeError, aiter, consumer)

    def test_coroutine(self) -> None:
        """A coroutine runs, several at a time up to the window."""
        going_on: list[Deferred[None]] = []

        async def work(delivery: Delivery) -> None:
            going_on.append(Deferred())
            await going_on[-1]
            await delivery.ack()

        for _ in range(4):
            self.server.send("q", b"x")
        self.subscribed(work, window=3)
        self.assertEqual(len(going_on), 3)
        going_on[1].callback(None)
        self.server.settle()
        self.assertEqual((len(going_on), self.server.left("q")), (4, 4))

    def test_deferred(self) -> None:
        """So does what a Deferred stands for."""

        def work(delivery: Delivery) -> Deferred[bool]:
            return delivery.ack()

        self.subscribed(work)
        self.assertEqual(self.server.left("q"), 0)

    def test_failures(self) -> None:
        """Whatever fails is logged; the message comes again after a pause that grows, and expires when it would have."""

        def raises(delivery: Delivery) -> None:
            raise KeyError(delivery.attempts)

        async def fails(delivery: Delivery) -> None:
            raise KeyError(delivery.attempts)

        def deferred(delivery: Delivery) -> Deferred[None]:
            return fail(KeyError(delivery.attempts))

        for worker in raises, fails, deferred:
            consumer = self.subscribed(worker)
            self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
            failed = []
            for second in range(1, 100):
                self.server.advance(1)
                failed += [second] * len(self.flushLoggedErrors(KeyError))
            self.assertEqual(failed, [1, 3, 7, 15, 31, 63])
            self.assertEqual((self.server.in_flight("q"), self.server.delayed("q")), (0, 1))
            self.server.advance(2)
            self.assertEqual(self.server.left("q"), 0)
            consumer.stop()
            self.server.settle()

    def test_settled_and_failed(self) -> None:
        """A message that was settled before the failure stays settled."""

        def work(delivery: Delivery) -> None:
            delivery.ack()
            raise KeyError("x")

        self.subscribed(work)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.server.advance(10)
        self.assertEqual(self.server.left("q"), 0)

    def test_unsettled(self) -> None:
        """A message that the function leaves unsettled stays with this client."""
        self.subscribed(lambda delivery: None)
        self.server.advance(1000)
        self.assertEqual(self.server.in_flight("q"), 1)

    def test_stop_waits_for_work(self) -> None:
        """A stop fires when what was begun is done; nothing new is begun meanwhile."""
        going_on: list[Deferred[None]] = []

        async def work(delivery: Delivery) -> None:
            going_on.append(Deferred())
            await going_on[-1]
            delivery.ack()

        self.server.send("q", b"y")
        consumer = self.subscribed(work, window=1)
        stopped, cancelled = consumer.stop(), consumer.stop()
        self.server.settle()
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        self.assertNoResult(stopped)
        going_on[0].callback(None)
        self.successResultOf(stopped)
        self.server.settle()
        self.assertEqual((len(going_on), self.server.bodies("q"), self.server.in_flight("q")), (1, [b"x"], 0))

    def test_stop_in_the_middle(self) -> None:
        """After a stop of the client within a call, no message of the same chunk is handed out."""
        got: list[bytes] = []

        def work(delivery: Delivery) -> None:
            got.append(delivery.body)
            self.client.stopService()

        for _ in range(3):
            self.server.send("q", b"x")
        self.subscribed(work)
        self.assertEqual((got, self.server.left("q")), ([b"x"], 4))

    def test_reconnect(self) -> None:
        """A function is called again with what it did not settle before the connection was lost."""
        got: list[Delivery] = []
        self.subscribed(got.append)
        self.server.disconnect()
        self.server.advance(1)
        self.assertEqual([(one.body, one.attempts) for one in got], [(b"x", 1), (b"x", 2)])
        got[1].ack()
        self.server.settle()
        self.assertEqual(self.server.left("q"), 0)

    def test_backoff(self) -> None:
        """The pauses after failed attempts: doubled each time, five minutes at most."""
        self.assertEqual([backoff(attempts) for attempts in (1, 2, 3, 9, 10, 1000)], [1, 2, 4, 256, 300, 300])


class ErrorTests(SynchronousTestCase):
    """What the errors are."""

    def test_families(self) -> None:
        """What the client finds out by itself is not confused with what breaks the protocol."""
        for kind in NotConnected, TimedOut, ClientFull, Closed:
            self.assertFalse(issubclass(kind, ProtocolError))
