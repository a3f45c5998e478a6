"""Tests of L{phpmq.protocol}, over transports in memory and a clock that stands still."""

from __future__ import annotations

import socket
from datetime import datetime, timedelta
from typing import Any, ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL.crypto import X509, PKey
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.internet.interfaces import IAddress, IHandshakeListener, IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.internet.testing import AccumulatingProtocol, StringTransport
from twisted.logger import LogEvent, Logger, LogLevel, formatEvent
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.test import iosim
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from phpmq.broker import Broker
from phpmq.broker.queues import QUEUE_OVERHEAD
from phpmq.interfaces import IConnection
from phpmq.message import MESSAGE_OVERHEAD
from phpmq.ports import Connections
from phpmq.protocol import CLOSE_TIMEOUT, HANDSHAKE_TIMEOUT, QueueFactory, QueueProtocol, deadlines
from phpmq.server_frames import Versions
from phpmq.session import Session
from phpmq.store import SQLiteStore
from tests import version02
from tests.doubles import FarEnd
from tests.wire import BAD, acknowledge, consume, deliveries, send


class Transport(StringTransport):
    """A transport with an address, that notes whether TCP would delay small writes."""

    no_delay = half_closed = False

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802  # as Twisted calls it
        """See C{ITCPTransport}."""
        self.no_delay = enabled

    def loseWriteConnection(self) -> None:
        """See C{ITCPTransport}."""
        self.half_closed = True

    def fileno(self) -> int:
        """No socket is behind this."""
        return -1


class Peer(FarEnd):
    """A client's end of a connection."""

    transport: Transport

    def __init__(self, factory: QueueFactory, address: Any) -> None:
        self.transport = Transport(peerAddress=address)
        self.protocol: Any = factory.buildProtocol(address)
        if self.protocol is not None:
            self.protocol.makeConnection(self.transport)

    def says(self, *data: bytes) -> None:
        """Send bytes in one chunk."""
        self.protocol.dataReceived(b"".join(data))

    def bodies(self) -> list[bytes]:
        """The bodies that arrived since the last time."""
        data = self.transport.value()
        self.transport.clear()
        return [delivery.content for delivery in deliveries(data)]

    def goes(self, reason: type[Exception] = ConnectionLost) -> None:
        """The connection is lost."""
        self.protocol.connectionLost(Failure(reason()))


class ProtocolTestCase(SynchronousTestCase):
    """A server without sockets."""

    def setUp(self) -> None:
        """Start it."""
        self.clock = Clock()
        self.clock.advance(1000)
        store = SQLiteStore()
        self.addCleanup(store.close)
        self.broker = Broker(store, lambda: int(self.clock.seconds() * 1000))
        self.events: list[LogEvent] = []
        for subject in Connections, QueueProtocol:
            self.patch(subject, "_log", Logger(observer=self.events.append))  # type: ignore[arg-type]
        self.connections = self.server()

    def tearDown(self) -> None:
        """Whatever happened, no connection costs a delayed call."""
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def server(self, frame_timeout: float = 30.0, **limits: Any) -> Connections[QueueProtocol]:
        """The limits and deadlines of a server."""
        return Connections(self.clock, deadlines(frame_timeout), **limits)

    def factory(self, original: bool = False) -> QueueFactory:
        """The factory of a listener."""
        return QueueFactory(self.connections, lambda connection: Session(self.broker, Versions(), connection, original))

    def connect(self, host: str = "10.0.0.1", original: bool = False) -> Peer:
        """Connect a client."""
        return Peer(self.factory(original), IPv4Address("TCP", host, 4711))

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass; deadlines are looked at about once a second."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(min(step, end - self.clock.seconds()))
            self.connections.check()

    def warnings(self) -> list[str]:
        """What was logged for the operator since the last time."""
        lines = [formatEvent(event) for event in self.events if event["log_level"] is LogLevel.warn]
        self.events.clear()
        return lines


class ConnectionTests(ProtocolTestCase):
    """A connection's life."""

    def test_interfaces(self) -> None:
        """A protocol is what session and transport take it for."""
        protocol = self.connect().protocol
        for interface in IConnection, IPushProducer, IHandshakeListener:
            self.assertTrue(verifyObject(interface, protocol))

    def test_no_delay(self) -> None:
        """Frames leave at once: TCP is told not to wait for more."""
        self.assertTrue(self.connect().transport.no_delay)

    def test_conversation(self) -> None:
        """What one client sends another one gets; both connections are counted as long as they last."""
        sender, consumer = self.connect(), self.connect()
        self.assertEqual(set(self.connections.open), {sender.protocol, consumer.protocol})
        consumer.says(consume("q", 5))
        sender.says(send("q", b"a"), send("q", b"b"))
        self.assertEqual(consumer.bodies(), [b"a", b"b"])
        sender.goes()
        self.assertEqual(set(self.connections.open), {consumer.protocol})
        self.assertEqual(self.connections.accepted, 2)

    def test_whole_frames_in_one_write(self) -> None:
        """The deliveries of a turn reach the transport as one write: the PHP client cannot put a frame's header together."""
        consumer = self.connect()
        writes: list[bytes] = []
        self.patch(consumer.transport, "write", writes.append)
        consumer.says(consume("q", 50))
        self.connect().says(*(send("q", b"x") for _ in range(50)))
        self.assertEqual([len(deliveries(data)) for data in writes], [50])

    def test_listener_for_original_clients(self) -> None:
        """Its pure consumers get deliveries of the original revision."""
        plain, original = self.connect(), self.connect(original=True)
        for peer in plain, original:
            peer.says(consume("q", 1))
        self.connect().says(send("q", b"x"), send("q", b"y"))
        self.assertEqual([peer.transport.value()[:8] for peer in (plain, original)], [b"H0100304", b"H0100303"])

    def test_lost_connection(self) -> None:
        """What a client held that is gone is delivered to another one."""
        first, second = self.connect(), self.connect()
        first.says(send("q", b"a"), consume("q", 1))
        second.says(consume("q", 1))
        self.assertEqual(second.bodies(), [])
        first.goes()
        self.assertEqual(second.bodies(), [b"a"])

    def test_close(self) -> None:
        """A connection that the server closes is not read from nor written to any more, and closing it twice does no harm."""
        peer = self.connect()
        peer.says(consume("q", 5))
        peer.protocol.close()
        peer.protocol.close()
        self.assertTrue(peer.closed)
        peer.says(send("other", b"x"))
        self.connect().says(send("q", b"y"))
        self.assertEqual(peer.transport.value(), b"")
        self.assertNotIn("other", self.broker.queues)

    def test_unfinished_frames_together(self) -> None:
        """Half frames of all connections have a limit together; the one that goes over it is closed, the others stay."""
        self.connections.max_held = 1500
        one, two, three = self.connect(), self.connect(), self.connect()
        half = send("q", b"x" * 2000)[:800]
        one.says(half)
        self.assertEqual(self.connections.held, 800)
        two.says(half)
        self.assertEqual((one.closed, two.closed), (False, True))
        two.goes()
        one.goes()
        self.assertEqual(self.connections.held, 0)
        three.says(half, send("q", b"x" * 2000)[800:])
        self.assertEqual((three.closed, self.connections.held), (False, 0))
        self.assertEqual(self.broker.queues["q"].ready, 1)

    def test_drain(self) -> None:
        """When the server stops, a client gives back what it holds, for nobody else to get it, and is not heard any more."""
        peer, other = self.connect(), self.connect()
        peer.says(consume("q", 5), send("q", b"x"))
        other.says(consume("q", 5))
        self.broker.stop()
        peer.protocol.drain()
        self.assertEqual(self.broker.queues["q"].ready, 1)
        peer.says(send("q", b"y"))
        self.assertEqual(self.broker.queues["q"].ready, 1)
        peer.protocol.close()
        self.assertTrue(peer.closed)
        for late in peer.protocol.pauseProducing, peer.protocol.resumeProducing, peer.goes:
            late()
        self.assertEqual(other.bodies(), [])
        self.assertEqual(set(self.connections.open), {other.protocol})

    def test_drain_while_closing(self) -> None:
        """A client that broke the protocol, and has not closed yet when the server stops, is told nothing behind the reason."""
        peer = self.connect()
        peer.says(version02.hello(b"1", b"me"), b"H0299901")
        last = peer.transport.value()
        peer.protocol.drain()
        self.assertEqual(peer.transport.value(), last)
        self.assertEqual(peer.transport.producerState, "producing")
        peer.protocol.close()
        self.assertEqual(self.connections.count_deadlines()["close"], 1)

    def test_names(self) -> None:
        """In logs a client has its address and port; one on a unix socket has none."""
        factory = self.factory()
        for address, name in (
            (IPv4Address("TCP", "10.0.0.1", 1), "10.0.0.1:1"),
            (IPv6Address("TCP", "::1", 2), "::1:2"),
            (UNIXAddress(None), "unix socket"),
        ):
            self.assertEqual(Peer(factory, address).protocol.peer, name)

    def test_quiet(self) -> None:
        """Connections come and go at level debug; messages are not logged at all."""
        peer = self.connect()
        peer.says(consume("q", 5), send("q", b"x"))
        peer.goes()
        self.assertEqual([event["log_level"] for event in self.events], [LogLevel.debug] * 2)


class BadInputTests(ProtocolTestCase):
    """Clients that break the protocol."""

    def test_recorded(self) -> None:
        """Each recorded bad frame closes its own connection and is counted; a client in the middle of its frame notices nothing."""
        consumer, sender = self.connect(), self.connect()
        consumer.says(consume("q", 1000))
        for count, vector in enumerate(BAD, 1):
            frame = send("q", vector.name.encode())
            sender.says(frame[:40])
            bad = self.connect()
            bad.says(vector.frame)
            self.assertTrue(bad.closed, vector.name)
            bad.goes()
            sender.says(frame[40:])
            self.assertEqual(consumer.bodies(), [vector.name.encode()])
            self.assertEqual(sum(self.connections.errors.values()), count)
        self.assertEqual((consumer.closed, sender.closed), (False, False))
        self.assertEqual(set(self.connections.open), {consumer.protocol, sender.protocol})
        self.assertEqual(set(self.connections.errors), {"bad-frame", "unsupported", "too-large", "bad-name"})

    def test_one_line(self) -> None:
        """It is logged in one line with address, code and reason, without anything that the client wrote."""
        self.connect("10.1.2.3").says(consume("evil\x1b[31m\nline", 1))
        (line,) = self.warnings()
        self.assertTrue(line.startswith("10.1.2.3: closed, protocol error (bad-name): "), line)
        self.assertNotIn("evil", line)
        self.assertTrue(line.isprintable())

    def test_rate_limit(self) -> None:
        """An address is logged once a minute, with how many lines were left out; others are logged meanwhile; all are counted."""
        for _ in range(10):
            self.connect("10.0.0.1").says(b"x")
        self.assertEqual(len(self.warnings()), 1)
        self.connect("10.0.0.2").says(b"x")
        self.assertEqual(len(self.warnings()), 1)
        self.pass_time(59)
        self.warnings()
        self.connect("10.0.0.1").says(b"x")
        self.assertEqual(self.warnings(), [])
        self.clock.advance(1)
        self.connect("10.0.0.1").says(b"x")
        (line,) = self.warnings()
        self.assertRegex(line, r"^10\.0\.0\.1: .*\(\d+ more since the last line\)$")
        self.assertEqual(self.connections.errors["bad-frame"], 13)

    def test_left_out_lines(self) -> None:
        """The number of lines left out is exact."""
        for _ in range(10):
            peer = self.connect()
            peer.says(b"x")
            peer.goes()
        self.clock.advance(61)
        self.connect().says(b"x")
        first, second = self.warnings()
        self.assertIn("(0 more since", first)
        self.assertIn("(9 more since", second)

    def test_many_addresses(self) -> None:
        """Not more than 1,024 addresses are remembered, the latest ones."""
        for number in range(3000):
            peer = self.connect(f"10.0.{number // 256}.{number % 256}")
            peer.says(b"x")
            peer.goes()
        self.assertEqual(len(self.connections._limiter._topics), 1024)
        self.warnings()
        self.connect("10.0.11.183").says(b"x")
        self.assertEqual(self.warnings(), [])


class FrameTimeoutTests(ProtocolTestCase):
    """Frames that do not end."""

    FRAME = send("q", b"x" * 100)

    def test_half_a_frame(self) -> None:
        """A frame that was begun and not finished closes its connection when the time is over, and not before; it is counted and logged."""
        for size in 1, 7, 8, 39, 40, len(self.FRAME) - 1:
            peer = self.connect()
            peer.says(self.FRAME[:size])
            self.pass_time(29)
            self.assertFalse(peer.aborted)
            self.pass_time(1)
            self.assertTrue(peer.aborted, size)
            peer.goes(ConnectionAborted)
        self.assertEqual(self.connections.timeouts, {"frame": 6})
        self.assertIn("10.0.0.1: closed, frame took too long", self.warnings()[0])

    def test_setting(self) -> None:
        """The time is a setting."""
        self.connections = self.server(frame_timeout=3)
        peer = self.connect()
        peer.says(self.FRAME[:9])
        self.pass_time(2)
        self.assertFalse(peer.aborted)
        self.pass_time(1)
        self.assertTrue(peer.aborted)

    def test_dripping(self) -> None:
        """A byte a second is no progress: the frame's time does not start again with each."""
        peer = self.connect()
        peer.says(self.FRAME[:1])
        for index in range(1, 30):
            self.pass_time(1)
            self.assertFalse(peer.aborted)
            peer.says(self.FRAME[index : index + 1])
        self.pass_time(1)
        self.assertTrue(peer.aborted)

    def test_dripping_after_frames(self) -> None:
        """Nor is it after whole frames that came before, in the same chunk or an earlier one."""
        peer = self.connect()
        peer.says(self.FRAME, self.FRAME, self.FRAME[:5])
        self.pass_time(15)
        peer.says(self.FRAME[5:6])
        self.pass_time(15)
        self.assertTrue(peer.aborted)

    def test_slow_but_steady(self) -> None:
        """A large frame may take as long as it needs, as long as 4 KiB come within the time."""
        peer = self.connect()
        frame = send("q", b"x" * 40_960)
        for start in range(0, len(frame), 4096):
            peer.says(frame[start : start + 4096])
            self.pass_time(29)
            self.assertFalse(peer.aborted)
        self.assertEqual(self.broker.lifecycle.received, 1)
        self.pass_time(100)
        self.assertFalse(peer.aborted)

    def test_idle(self) -> None:
        """A connection without a begun frame is welcome for ever: a fresh one, a consumer, one that sent something."""
        fresh, consumer, sender = self.connect(), self.connect(), self.connect()
        consumer.says(consume("q", 5))
        sender.says(self.FRAME[:50])
        self.pass_time(20)
        sender.says(self.FRAME[50:])
        self.pass_time(100_000, step=100)
        for peer in fresh, consumer, sender:
            self.assertFalse(peer.aborted)
        sender.says(self.FRAME)
        self.assertEqual(self.connections.timeouts, {})

    def test_busy(self) -> None:
        """A sender whose chunks never end with a frame is not cut off: complete frames are progress."""
        peer = self.connect()
        stream = self.FRAME * 200
        for start in range(0, len(stream), len(self.FRAME) + 1):
            peer.says(stream[start : start + len(self.FRAME) + 1])
            self.pass_time(20, step=10)
        self.assertFalse(peer.aborted)
        self.assertEqual(self.broker.lifecycle.received, 200)

    def test_not_while_it_waits(self) -> None:
        """A sender that is not read from, as memory is full, is not blamed for its unfinished frame: its time starts when there is room."""
        self.broker.memory.limit = QUEUE_OVERHEAD + 100 + MESSAGE_OVERHEAD
        peer, consumer = self.connect(), self.connect()
        peer.says(self.FRAME, self.FRAME, self.FRAME[:50])
        self.assertFalse(peer.reading)
        self.pass_time(100)
        self.assertFalse(peer.aborted)
        consumer.says(consume("q", 1))
        consumer.says(*(acknowledge("q", delivery.id) for delivery in deliveries(consumer.transport.value())))
        self.assertTrue(peer.reading)
        self.pass_time(29)
        self.assertFalse(peer.aborted)
        self.pass_time(1)
        self.assertTrue(peer.aborted)


class FlowTests(ProtocolTestCase):
    """Pausing in both directions."""

    def test_slow_reader(self) -> None:
        """While a client's transport is full it gets nothing and others get what waits; once it has room it goes on."""
        slow, quick = self.connect(), self.connect()
        slow.says(consume("q", 10))
        self.connect().says(send("q", b"1"))
        self.assertEqual(slow.bodies(), [b"1"])
        self.assertIs(slow.transport.producer, slow.protocol)
        self.assertTrue(slow.transport.streaming)
        slow.protocol.pauseProducing()
        self.connect().says(send("q", b"2"), send("q", b"3"))
        quick.says(consume("q", 1))
        self.assertEqual((slow.bodies(), quick.bodies()), ([], [b"2"]))
        slow.protocol.resumeProducing()
        self.assertEqual(slow.bodies(), [b"3"])

    def test_full_within_a_write(self) -> None:
        """A transport that is full by the very write gets one portion of about 128 KiB."""
        slow = self.connect()
        write = slow.transport.write

        def full(data: bytes) -> None:
            write(data)
            slow.protocol.pauseProducing()

        slow.transport.write = full  # type: ignore[method-assign]
        slow.says(*(send("q", b"x" * 10_000) for _ in range(100)), consume("q", 100))
        self.assertLess(len(slow.bodies()), 16)
        slow.protocol.resumeProducing()
        self.assertGreater(len(slow.bodies()), 10)

    def test_hung_up_unread(self) -> None:
        """A client that hangs up while its send waits for room holds nothing any more: others get that, and its send is carried out."""
        self.broker.memory.limit = QUEUE_OVERHEAD + 4_000
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        peer, other = self.connect(), self.connect()
        peer.transport.fileno = ours.fileno  # type: ignore[method-assign]
        peer.says(consume("q", 10), *(send("q", b"x" * 3_000) for _ in range(2)), send("late", b"late"))
        self.pass_time(3)
        other.says(consume("q", 10))
        self.assertFalse(peer.reading)
        self.assertEqual(other.bodies(), [])
        theirs.close()
        self.pass_time(1)
        data = deliveries(other.transport.value())
        self.assertEqual([len(delivery.content) for delivery in data], [3_000, 3_000])
        other.transport.clear()
        other.says(*(acknowledge("q", delivery.id) for delivery in data), consume("late", 1))
        self.assertTrue(peer.reading)
        self.connect().says(send("q", b"next"))
        self.assertEqual(sorted(other.bodies()), [b"late", b"next"])

    def test_write_timeout(self) -> None:
        """A client that takes nothing for the time, and for what its last portion would take the slowest reader, is cut off."""
        peer = self.connect()
        peer.says(consume("q", 10))
        self.connect().says(send("q", b"x" * 160 * 1024))
        peer.protocol.pauseProducing()
        self.pass_time(69)
        self.assertFalse(peer.aborted)
        self.pass_time(2)
        self.assertTrue(peer.aborted)
        self.assertEqual(self.connections.timeouts, {"write": 1})

    def test_write_timeout_ends(self) -> None:
        """A client that reads in time may be slow again afterwards, as often as it likes."""
        peer = self.connect()
        peer.says(consume("q", 10))
        self.connect().says(send("q", b"x"))
        for _ in range(5):
            peer.protocol.pauseProducing()
            self.pass_time(59)
            peer.protocol.resumeProducing()
        self.pass_time(1000)
        self.assertFalse(peer.aborted)

    def test_cut_off_gives_back(self) -> None:
        """What a client held that was cut off goes to others."""
        peer, other = self.connect(), self.connect()
        peer.says(consume("q", 1))
        self.connect().says(send("q", b"x"))
        other.says(consume("q", 1))
        peer.protocol.pauseProducing()
        self.pass_time(62)
        peer.goes(ConnectionAborted)
        self.assertEqual(other.bodies(), [b"x"])

    def test_sender_at_the_memory_limit(self) -> None:
        """At the memory limit a sender's transport is paused, and resumed once there is room; its messages are there in order."""
        self.broker.memory.limit = QUEUE_OVERHEAD + 2 * (100 + MESSAGE_OVERHEAD)
        sender, consumer = self.connect(), self.connect()
        bodies = [b"%0100d" % number for number in range(5)]
        sender.says(*(send("q", body) for body in bodies))
        self.assertFalse(sender.reading)
        consumer.says(consume("q", 1))
        for body in bodies:
            (delivery,) = deliveries(consumer.transport.value())
            consumer.transport.clear()
            self.assertEqual(delivery.content, body)
            consumer.says(acknowledge("q", delivery.id))
        self.assertTrue(sender.reading)

    def test_room_for_a_closing_sender(self) -> None:
        """Room for a sender that the server is closing does not make its transport read again."""
        self.broker.memory.limit = QUEUE_OVERHEAD + 100 + MESSAGE_OVERHEAD
        sender = self.connect()
        sender.says(send("q", b"x" * 100), send("q", b"y" * 100))
        sender.protocol.close()
        self.broker.queues.flush("q")
        self.broker.dispatch()
        self.assertFalse(sender.reading)

    def test_stop_producing(self) -> None:
        """A transport that stops its producer, as it does when the connection is lost, does no harm."""
        peer = self.connect()
        peer.protocol.stopProducing()
        peer.goes()
        for late in peer.protocol.pauseProducing, peer.protocol.resumeProducing, peer.protocol.stopProducing:
            late()
        self.pass_time(1000, step=10)
        self.assertFalse(peer.aborted)


class CloseTimeoutTests(ProtocolTestCase):
    """Connections that the server closes."""

    def test_reader_gets_the_rest(self) -> None:
        """A closing connection has time to write what it has: it is unregistered as a producer first, and not aborted."""
        peer = self.connect()
        peer.says(consume("q", 5))
        self.connect().says(send("q", b"x"))
        peer.says(b"nonsense")
        self.assertTrue(peer.closed)
        self.assertFalse(peer.aborted)
        self.assertIsNone(peer.transport.producer)

    def test_client_closes_first(self) -> None:
        """A client of version 02 closes first, so that it surely gets what it was sent last; what it sends meanwhile counts no more."""
        peer = self.connect()
        peer.says(version02.hello(b"1", b"me"), b"H0299901", version02.send(b"x"))
        self.assertTrue(peer.transport.half_closed)
        self.assertFalse(peer.closed)
        self.assertTrue(peer.reading)
        peer.says(version02.send(b"x"))
        self.assertEqual(self.broker.lifecycle.received, 0)
        self.pass_time(CLOSE_TIMEOUT - 1)
        self.assertFalse(peer.aborted)
        self.pass_time(1)
        self.assertTrue(peer.aborted)

    def test_never_read(self) -> None:
        """If the client does not read, the connection is aborted a while later."""
        peer = self.connect()
        peer.says(b"nonsense")
        self.pass_time(CLOSE_TIMEOUT - 1)
        self.assertFalse(peer.aborted)
        self.pass_time(1)
        self.assertTrue(peer.aborted)
        self.assertEqual(self.connections.timeouts, {"close": 1})

    def test_gone_in_time(self) -> None:
        """A connection that is gone has no deadlines any more, whatever was expected of it."""
        peer = self.connect()
        peer.says(consume("q", 5), send("q", b"x"), b"H01")
        peer.protocol.pauseProducing()
        peer.protocol.close()
        peer.goes()
        self.pass_time(1000, step=10)
        self.assertEqual(self.connections.timeouts, {})
        self.assertEqual(set(self.connections.open), set())

    def all_closed(self) -> Deferred[None]:
        """Fires when a stop need not wait for clients any more."""
        return Deferred.fromCoroutine(self.connections.wait_closed(1.5))

    def test_stop_waits(self) -> None:
        """A stop waits until the last client has taken what it was sent last."""
        self.assertIsNone(self.successResultOf(self.all_closed()))
        peers = [self.connect(), self.connect()]
        for peer in peers:
            peer.protocol.close()
        stopped = self.all_closed()
        peers[0].goes()
        self.assertNoResult(stopped)
        peers[1].goes()
        self.assertIsNone(self.successResultOf(stopped))

    def test_stop_does_not_wait_for_ever(self) -> None:
        """It does not wait for one that takes nothing."""
        stuck = self.connect()
        stuck.protocol.close()
        stopped = self.all_closed()
        self.clock.advance(1.4)
        self.assertNoResult(stopped)
        self.clock.advance(0.1)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertTrue(stuck.aborted)

    def test_frame_deadline_of_a_broken_client(self) -> None:
        """Who broke the protocol is not expected to finish a frame."""
        self.connections = self.server(frame_timeout=2)
        peer = self.connect()
        peer.says(b"H01")
        peer.says(b"abc99")
        self.pass_time(60)
        self.assertEqual(self.connections.timeouts, {"close": 1})


class MaxConnectionsTests(ProtocolTestCase):
    """The limit of connections."""

    def setUp(self) -> None:
        """A server for two."""
        super().setUp()
        self.connections = self.server(max_connections=2)

    def test_limit(self) -> None:
        """At the limit a connection is hung up on and logged; those that are there stay, and when one goes there is room."""
        first, second = self.connect(), self.connect()
        third = self.connect("10.0.0.9")
        self.assertTrue(third.aborted)
        self.assertEqual((self.connections.accepted, self.connections.rejected), (2, 1))
        self.assertIn("10.0.0.9: rejected, there are 2 already", self.warnings()[0])
        self.assertEqual((first.aborted, second.aborted), (False, False))
        third.goes()
        first.goes()
        self.assertFalse(self.connect().aborted)

    def test_over_all_listeners(self) -> None:
        """The limit is the server's, not a listener's."""
        self.connect()
        self.connect(original=True)
        self.assertTrue(self.connect().aborted)
        self.assertTrue(self.connect(original=True).aborted)

    def test_one_address(self) -> None:
        """One address gets its share and no more, until one of its connections ends; others, and unix sockets, are not affected."""
        self.connections = self.server(max_connections=5, max_per_address=2)
        first, second, third = self.connect(), self.connect(), self.connect()
        self.assertEqual([peer.aborted for peer in (first, second, third)], [False, False, True])
        self.assertEqual((self.connections.rejected, self.connections.rejected_by_address), (1, 1))
        self.assertIn("10.0.0.1: rejected, there are 2 of this address already", self.warnings()[0])
        others = [self.connect("10.0.0.2"), *(Peer(self.factory(), UNIXAddress(None)) for _ in range(2))]
        self.assertFalse(any(peer.aborted for peer in others))
        self.assertTrue(self.connect("10.0.0.3").aborted)
        self.assertEqual(self.connections.rejected_by_address, 1)
        for peer in first, *others:
            peer.goes()
        self.assertEqual(self.connections.by_address, {"10.0.0.1": 1})
        self.assertFalse(self.connect().aborted)

    def test_log_is_limited(self) -> None:
        """Somebody who tries again and again is logged once."""
        for _ in range(50):
            self.connect()
        self.assertEqual(len(self.warnings()), 1)
        self.assertEqual(self.connections.rejected, 48)


def _server_options() -> CertificateOptions:
    """Of a server that nobody needs to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "phpmq")])
    start = datetime(2020, 1, 1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=36500))
    certificate = builder.sign(key, hashes.SHA256())
    return CertificateOptions(PKey.from_cryptography_key(key), X509.from_cryptography(certificate))


class TLSConnection:
    """A connection with TLS in memory; the client's handshake has not begun."""

    options: ClassVar[CertificateOptions | None] = None

    def __init__(self, factory: QueueFactory, clock: Clock) -> None:
        TLSConnection.options = TLSConnection.options or _server_options()
        address = IPv4Address("TCP", "10.0.0.1", 4711)
        self.client = AccumulatingProtocol()
        accepting = TLSMemoryBIOFactory(TLSConnection.options, False, factory, clock)
        connecting = TLSMemoryBIOFactory(CertificateOptions(), True, _Ready(self.client), clock)
        self.server_end: Any = accepting.buildProtocol(address)
        self.client_end: Any = connecting.buildProtocol(address)
        self.transport = iosim.FakeTransport(self.server_end, isServer=True, peerAddress=address)
        client_transport = iosim.FakeTransport(self.client_end, isServer=False)
        self._pump = iosim.connect(self.server_end, self.transport, self.client_end, client_transport, greet=False)
        self._clock = clock

    def flush(self) -> None:
        """Move all bytes in both directions."""
        moved = True
        while moved:
            self._clock.advance(0)
            moved = self._pump.flush()

    @property
    def closed(self) -> bool:
        """Whether the server closed the transport."""
        return bool(self.transport.disconnecting)


class _Ready(Factory):
    """A factory with its protocol at hand."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return self._protocol


class TLSTests(ProtocolTestCase):
    """Connections with TLS, over transports in memory."""

    def connect_tls(self) -> TLSConnection:
        """Connect a client."""
        return TLSConnection(self.factory(), self.clock)

    def test_conversation(self) -> None:
        """A client with TLS gets what another one without sends, and the other way round."""
        secure, plain = self.connect_tls(), self.connect()
        secure.flush()
        secure.client_end.write(consume("q", 5) + send("p", b"b"))
        secure.flush()
        plain.says(consume("p", 5), send("q", b"a"))
        secure.flush()
        self.assertEqual([delivery.content for delivery in deliveries(secure.client.data)], [b"a"])
        self.assertEqual(plain.bodies(), [b"b"])

    def test_silent(self) -> None:
        """A client that begins no handshake is cut off after its time, and counted."""
        silent = self.connect_tls()
        self.pass_time(HANDSHAKE_TIMEOUT - 1)
        self.assertFalse(silent.closed)
        self.pass_time(1)
        self.assertTrue(silent.closed)
        self.assertEqual(self.connections.timeouts, {"handshake": 1})

    def test_dripping(self) -> None:
        """A handshake that drips has no more time than a silent one."""
        dripping = self.connect_tls()
        for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc":
            dripping.server_end.dataReceived(bytes([byte]))
            self.pass_time(1)
            self.assertFalse(dripping.closed)
        self.pass_time(1)
        self.assertTrue(dripping.closed)

    def test_completed(self) -> None:
        """After its handshake a client may be silent for ever."""
        secure = self.connect_tls()
        secure.flush()
        self.pass_time(10_000, step=10)
        self.assertFalse(secure.closed)
        self.assertEqual(self.connections.timeouts, {})

    def test_not_tls(self) -> None:
        """A client that does not speak TLS is hung up on, and is no open connection afterwards."""
        peer = self.connect_tls()
        peer.server_end.dataReceived(consume("q", 1))
        self.assertTrue(peer.closed)
        peer.server_end.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(set(self.connections.open), set())

    def test_bad_input(self) -> None:
        """A client with TLS that breaks the protocol is disconnected."""
        secure = self.connect_tls()
        secure.flush()
        secure.client_end.write(b"nonsense")
        secure.flush()
        self.assertTrue(secure.client.closed)
        self.assertEqual(self.connections.errors, {"bad-frame": 1})

    def test_max_connections(self) -> None:
        """The limit of connections holds for TLS too: one too many is hung up on, in an orderly manner, before any handshake."""
        self.connections = self.server(max_connections=1)
        first, second = self.connect_tls(), self.connect_tls()
        self.assertEqual((first.closed, second.closed), (False, True))
        second.flush()
        first.flush()
        self.assertEqual(self.connections.rejected, 1)
        first.client_end.write(send("q", b"x"))
        first.flush()
        self.assertEqual(self.broker.lifecycle.received, 1)
