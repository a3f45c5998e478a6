"""Tests of L{phpmq.ports}: admission, deadlines, closing, and log lines that clients cannot multiply."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, ISSLTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides

from phpmq.errors import ProtocolError, TooLarge
from phpmq.ports import NO_LIMIT, Connections, LogLimiter, Rejected, host_of, peer_name


def tcp(host: str) -> IPv4Address:
    """The address of a client."""
    return IPv4Address("TCP", host, 4711)


class Transport(StringTransport):
    """A transport that notes what is done to it, in order."""

    def __init__(self, address: IAddress) -> None:
        super().__init__(peerAddress=address)
        self.done: list[str] = []
        self.descriptor = -1

    def fileno(self) -> int:
        """See C{IFileDescriptor}."""
        return self.descriptor

    def unregisterProducer(self) -> None:
        """See C{IConsumer}."""
        self.done.append("unregister")

    def resumeProducing(self) -> None:
        """See C{IPushProducer}."""
        self.done.append("read")

    def loseConnection(self) -> None:
        """See C{ITransport}."""
        self.done.append("close")

    def abortConnection(self) -> None:
        """See C{ITCPTransport}."""
        self.done.append("abort")


class TwoSidedTransport(Transport):
    """One whose writing end can be closed alone, as that of TCP."""

    def loseWriteConnection(self) -> None:
        """See C{IHalfCloseableDescriptor}."""
        self.done.append("close for writing")


class Client:
    """A connection that notes what the port does to it."""

    def __init__(self, address: IAddress) -> None:
        self.transport: Any = TwoSidedTransport(address)
        self.held = 0
        self.missed: list[str] = []
        self.aborted = False

    def miss_deadline(self, kind: str) -> None:
        """See L{phpmq.ports.Connection}."""
        self.missed.append(kind)

    def abort(self) -> None:
        """See L{phpmq.ports.Connection}."""
        self.aborted = True


class PortTestCase(SynchronousTestCase):
    """A port without sockets."""

    def setUp(self) -> None:
        """Set the clock, and gather what is logged."""
        self.clock = Clock()
        self.clock.advance(1000)
        self.events: list[LogEvent] = []
        self.patch(Connections, "_log", Logger(observer=self.events.append))  # type: ignore[arg-type]

    def tearDown(self) -> None:
        """Deadlines cost no delayed calls."""
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def port(self, **limits: Any) -> Connections[Client]:
        """A port with two kinds of deadlines beside that of closing."""
        return Connections(self.clock, {"idle": 60.0, "write": 30.0, "close": 10.0}, **limits)

    def connect(self, port: Connections[Client], address: IAddress | None = None) -> Client:
        """Connect a client that is admitted."""
        client = Client(address or tcp("10.0.0.1"))
        self.assertTrue(port.admit(client.transport.getPeer()))
        port.add(client)
        return client

    def lines(self) -> list[str]:
        """What was logged since the last time."""
        lines = [formatEvent(event) for event in self.events]
        self.events.clear()
        return lines


class AdmissionTests(PortTestCase):
    """Who may connect."""

    def test_all(self) -> None:
        """At most so many clients are admitted; one that goes leaves its place to another."""
        port = self.port(max_connections=2)
        first = self.connect(port, tcp("10.0.0.1"))
        self.connect(port, UNIXAddress(None))
        self.assertFalse(port.admit(tcp("10.0.0.2")))
        self.assertFalse(port.admit(UNIXAddress(None)))
        port.remove(first)
        self.assertTrue(port.admit(tcp("10.0.0.2")))
        self.assertEqual((port.accepted, port.rejected, port.rejected_by_address), (3, 2, 0))

    def test_address(self) -> None:
        """At most so many clients of one address are admitted; others are not concerned, and unix sockets have no address."""
        port = self.port(max_per_address=2)
        first = self.connect(port)
        self.connect(port)
        self.assertFalse(port.admit(tcp("10.0.0.1")))
        self.connect(port, tcp("10.0.0.2"))
        for _ in range(3):
            self.connect(port, UNIXAddress(None))
        self.assertEqual(port.by_address, {"10.0.0.1": 2, "10.0.0.2": 1})
        port.remove(first)
        self.connect(port)
        self.assertEqual((port.accepted, port.rejected, port.rejected_by_address), (7, 1, 1))

    def test_addresses_are_forgotten(self) -> None:
        """An address without a connection takes no memory, and an unknown connection is no error."""
        port = self.port()
        client = self.connect(port)
        port.remove(client)
        port.remove(client)
        self.assertEqual((dict(port.by_address), port.open), ({}, {}))

    def test_log(self) -> None:
        """What is rejected is logged with the client's host, the port's noun and the limit."""
        port = self.port(max_connections=2, max_per_address=1, noun="console")
        self.connect(port)
        port.admit(tcp("10.0.0.1"))
        self.connect(port, UNIXAddress(None))
        port.admit(UNIXAddress(None))
        of_address, of_all = self.lines()
        self.assertIn("10.0.0.1: console", of_address)
        self.assertIn("there are 1 of this address already", of_address)
        self.assertIn("unix socket: console", of_all)
        self.assertIn("there are 2 already", of_all)

    def test_rejected(self) -> None:
        """Who is rejected is hung up on at once, unless there is something to be told first."""
        for farewell, done in (b"", "abort"), (b"too many", "close"):
            transport = Transport(tcp("10.0.0.1"))
            Rejected(farewell).makeConnection(transport)
            self.assertEqual((transport.value(), transport.done), (farewell, [done]))

    def test_names(self) -> None:
        """Logs name a client by host and port."""
        self.assertEqual(peer_name(Transport(tcp("10.0.0.1"))), "10.0.0.1:4711")
        self.assertEqual((peer_name(Transport(UNIXAddress(None))), peer_name(None)), ("unix socket", "unix socket"))
        self.assertEqual((host_of(tcp("10.0.0.1")), host_of(UNIXAddress(None)), host_of(None)), ("10.0.0.1", "", ""))


class HeldTests(PortTestCase):
    """What connections keep for their clients."""

    def test_together(self) -> None:
        """All together keep no more than the limit; what is refused is not counted."""
        port = self.port(max_held=100)
        one, other = self.connect(port), self.connect(port)
        self.assertTrue(port.account(one, 60))
        self.assertTrue(port.account(other, 40))
        self.assertFalse(port.account(other, 41))
        self.assertEqual((port.held, one.held, other.held), (100, 60, 40))
        port.remove(one)
        self.assertEqual((port.held, one.held), (40, 0))

    def test_less(self) -> None:
        """A connection may always keep less, also if the limit is passed already."""
        port = self.port(max_held=100)
        client = self.connect(port)
        port.account(client, 100)
        port.max_held = 10
        self.assertTrue(port.account(client, 50))
        self.assertEqual(port.held, 50)

    def test_without_limit(self) -> None:
        """There is no limit unless one is given."""
        port = self.port()
        self.assertEqual((port.max_held, port.max_per_address), (NO_LIMIT, NO_LIMIT))


class DeadlineTests(PortTestCase):
    """Deadlines, by kind."""

    def test_missed(self) -> None:
        """A deadline passes after the seconds of its kind, not before, and only once."""
        port = self.port()
        client = self.connect(port)
        port.set_deadline(client, "write")
        self.clock.advance(29)
        port.check()
        self.assertEqual(client.missed, [])
        self.clock.advance(1)
        port.check()
        port.check()
        self.assertEqual((client.missed, port.timeouts), (["write"], {"write": 1}))

    def test_kinds(self) -> None:
        """A connection has one deadline of each kind, and more seconds for what takes longer."""
        port = self.port()
        client = self.connect(port)
        port.set_deadline(client, "idle")
        port.set_deadline(client, "write", 5)
        port.set_deadline(client, "close")
        port.clear_deadline(client, "close")
        port.clear_deadline(client, "close")
        self.assertEqual(port.count_deadlines(), {"idle": 1, "write": 1, "close": 0})
        self.clock.advance(34)
        port.check()
        self.assertEqual(client.missed, [])
        self.clock.advance(1)
        port.check()
        self.assertEqual(client.missed, ["write"])
        self.clock.advance(25)
        port.check()
        self.assertEqual(client.missed, ["write", "idle"])

    def test_again(self) -> None:
        """A deadline that is set again counts from then on."""
        port = self.port()
        client = self.connect(port)
        port.set_deadline(client, "write")
        self.clock.advance(20)
        port.set_deadline(client, "write")
        self.clock.advance(29)
        port.check()
        self.assertEqual(client.missed, [])
        self.clock.advance(1)
        port.check()
        self.assertEqual(client.missed, ["write"])

    def test_cleared(self) -> None:
        """One connection's deadlines are cleared together, and when it is lost; those of others stay."""
        port = self.port()
        cleared, lost, late = (self.connect(port) for _ in range(3))
        for client in cleared, lost, late:
            port.set_deadline(client, "idle")
            port.set_deadline(client, "write")
        port.clear_deadlines(cleared)
        port.remove(lost)
        self.assertEqual(port.count_deadlines(), {"idle": 1, "write": 1, "close": 0})
        self.clock.advance(60)
        port.check()
        self.assertEqual((cleared.missed, lost.missed, late.missed), ([], [], ["idle", "write"]))

    def test_log(self) -> None:
        """A missed deadline is logged; who was only idle did nothing wrong."""
        port = self.port()
        idle, slow = self.connect(port, tcp("10.0.0.1")), self.connect(port, tcp("10.0.0.2"))
        port.set_deadline(idle, "idle")
        port.set_deadline(slow, "write")
        self.clock.advance(60)
        port.check()
        self.assertEqual(self.lines(), ["10.0.0.2: closed, write took too long (0 more since the last line)"])
        self.assertEqual(port.timeouts, {"write": 1, "idle": 1})


class UnreadTests(PortTestCase):
    """Clients that hang up while they are not read."""

    def pair(self, port: Connections[Client]) -> tuple[Client, socket.socket]:
        """A client that is connected with a socket, and its end of it."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        client = self.connect(port)
        client.transport.descriptor = ours.fileno()
        return client, theirs

    def test_hung_up(self) -> None:
        """A client that hangs up is found once, by the next check; another one is not."""
        port = self.port()
        told: list[str] = []
        (gone, end), (there, _) = self.pair(port), self.pair(port)
        port.unread[gone] = lambda: told.append("gone")
        port.unread[there] = lambda: told.append("there")
        port.check()
        self.assertEqual(told, [])
        end.close()
        port.check()
        port.check()
        self.assertEqual(told, ["gone"])

    def test_watched_no_more(self) -> None:
        """Nobody is told of a connection that is read again, that is lost, or that has no socket any more."""
        port = self.port()
        told: list[str] = []
        (read, end), (lost, other_end) = self.pair(port), self.pair(port)
        closed = self.connect(port)
        for client in read, lost, closed:
            port.unread[client] = lambda: told.append("hung up")
        del port.unread[read]
        port.remove(lost)
        end.close()
        other_end.close()
        port.check()
        self.assertEqual(told, [])


class CloseTests(PortTestCase):
    """Closing that loses nothing."""

    def closed(self, linger: bool, transport: Transport) -> list[str]:
        """What is done to the transport of a connection that is closed, which has a deadline then."""
        port = self.port()
        client = self.connect(port)
        client.transport = transport
        port.close(client, linger)
        self.assertEqual(port.count_deadlines()["close"], 1)
        self.clock.advance(10)
        port.check()
        self.assertEqual(client.missed, ["close"])
        return transport.done

    def test_close(self) -> None:
        """Nothing is asked for more to write, and the connection closes."""
        self.assertEqual(self.closed(False, TwoSidedTransport(tcp("10.0.0.1"))), ["unregister", "close"])

    def test_linger(self) -> None:
        """If the client is to close first, it is read, and only the writing end closes."""
        self.assertEqual(self.closed(True, TwoSidedTransport(tcp("10.0.0.1"))), ["unregister", "read", "close for writing"])

    def test_linger_over_tls(self) -> None:
        """TLS cannot close one side only."""
        transport = TwoSidedTransport(tcp("10.0.0.1"))
        alsoProvides(transport, ISSLTransport)
        self.assertEqual(self.closed(True, transport), ["unregister", "read", "close"])

    def test_linger_without_sides(self) -> None:
        """A transport that has no two ends is closed."""
        self.assertEqual(self.closed(True, Transport(tcp("10.0.0.1"))), ["unregister", "read", "close"])

    def wait(self, port: Connections[Client]) -> Deferred[None]:
        """Begin to wait for five seconds."""
        return Deferred.fromCoroutine(port.wait_closed(5))

    def test_none_open(self) -> None:
        """Without connections nothing is waited for."""
        self.successResultOf(self.wait(self.port()))

    def test_wait(self) -> None:
        """The wait ends with the last connection."""
        port = self.port()
        one, other = self.connect(port), self.connect(port)
        waiting = self.wait(port)
        port.remove(one)
        self.assertNoResult(waiting)
        port.remove(other)
        self.successResultOf(waiting)
        self.assertEqual((one.aborted, other.aborted), (False, False))

    def test_wait_no_longer(self) -> None:
        """Those that are open when the time is over are aborted; that they are lost then is of no concern any more."""
        port = self.port()
        closed, *stuck = (self.connect(port) for _ in range(3))
        waiting = self.wait(port)
        self.clock.advance(4)
        port.remove(closed)
        self.assertNoResult(waiting)
        self.clock.advance(1)
        self.successResultOf(waiting)
        self.assertEqual([client.aborted for client in (closed, *stuck)], [False, True, True])
        for client in stuck:
            port.remove(client)
            port.remove(client)


class LogTests(PortTestCase):
    """Log lines that clients can cause as often as they like."""

    def test_one_in_a_minute(self) -> None:
        """A topic has a line, then none for a minute; the next one tells how many were left out."""
        limiter = LogLimiter(self.clock)
        self.assertEqual([limiter.admit("a") for _ in range(3)], [0, None, None])
        self.clock.advance(59.5)
        self.assertEqual(limiter.admit("a"), None)
        self.clock.advance(0.5)
        self.assertEqual([limiter.admit("a"), limiter.admit("a")], [3, None])
        self.clock.advance(60)
        self.assertEqual(limiter.admit("a"), 1)

    def test_topics(self) -> None:
        """Each topic has its own line."""
        limiter = LogLimiter(self.clock)
        self.assertEqual([limiter.admit("a"), limiter.admit("b"), limiter.admit("a")], [0, 0, None])

    def test_many_topics(self) -> None:
        """Of a great many topics the one that was silent for longest is forgotten."""
        limiter = LogLimiter(self.clock)
        for number in range(1024):
            limiter.admit(str(number))
        self.assertEqual(limiter.admit("0"), None)
        self.assertEqual(limiter.admit("another"), 0)
        self.assertEqual([limiter.admit("0"), limiter.admit("1")], [None, 0])

    def test_errors(self) -> None:
        """Errors of the protocol are counted by their code, each, and logged, one in a minute for each host."""
        port = self.port()
        one, other = self.connect(port), self.connect(port, UNIXAddress(None))
        for client in one, one, other:
            port.count_error(client, TooLarge("a frame is too long"))
        port.count_error(one, ValueError("no code"))
        self.assertEqual(port.errors, {TooLarge.code: 3, ProtocolError.code: 1})
        rest = f"closed, protocol error ({TooLarge.code}): a frame is too long (0 more since the last line)"
        self.assertEqual(self.lines(), [f"10.0.0.1: {rest}", f"unix socket: {rest}"])
        self.clock.advance(60)
        port.count_error(one, ValueError("no code"))
        self.assertTrue(self.lines()[0].endswith("no code (2 more since the last line)"))
