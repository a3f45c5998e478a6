"""The blocking client, with a server in a thread."""

from __future__ import annotations

import gc
import shutil
import signal
import socket
import ssl
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from phpmq.addresses import parse_address
from phpmq.blocking import Consumer, Delivery, DuplicateId, QueueClient
from phpmq.blocking.reconnector import BufferedSocket, connected_socket, tls_context
from phpmq.broker import SENDS
from phpmq.errors import (
    BadFrame,
    BadName,
    Closed,
    LoginRequired,
    MemoryFull,
    NotConnected,
    QueueFull,
    TimedOut,
    TooLarge,
)
from phpmq.server_frames import encode_refusal
from tests.functional.server import Server, wait_until
from tests.functional.test_tls import make_certificate
from tests.sockets import SocketServer


class AddressTests(SynchronousTestCase):
    """The addresses of this client, which L{tests.test_addresses} has in full."""

    def test_not_understood(self) -> None:
        """What this client does not understand is an error at once; nothing is ignored."""
        for text in "tcp:a:1:bindAddress=b", "unix:/a:lockfile=1", "tcp:a:1:trustRoots=/a", "tls:a:1:endpoint=tcp", "tcp:a:0", "unix:", "":
            self.assertIn(repr(text), str(self.assertRaises(ValueError, QueueClient, text)))

    def test_timeout(self) -> None:
        """The time of the address is a limit to that of the caller."""
        calls: list[tuple[object, float]] = []

        def create_connection(address: object, timeout: float) -> socket.socket:
            calls.append((address, timeout))
            raise OSError("no")

        self.patch(socket, "create_connection", create_connection)
        for text, timeout in (("tcp:a:1:timeout=5", 60), ("tcp:a:1:timeout=5", 2), ("[::1]", 60)):
            self.assertRaises(OSError, connected_socket, parse_address(text), timeout)
        self.assertEqual(calls, [(("a", 1), 5), (("a", 1), 2), (("::1", 9100), 60)])


class ConnectionTests(SynchronousTestCase):
    """L{BufferedSocket}"""

    def setUp(self) -> None:
        """Connect one."""
        ours, self.other = socket.socketpair()
        ours.setblocking(False)
        self.connection = BufferedSocket(ours)
        self.addCleanup(self.connection.close)
        self.addCleanup(self.other.close)

    def test_both_ways(self) -> None:
        """What is written arrives, what arrives is read, and no more is waited for than has to be."""
        self.connection.write(b"there")
        self.other.send(b"back")
        self.assertEqual((self.connection.exchange(60), self.other.recv(100)), (b"back", b"there"))
        self.assertIs(self.connection.exchange(0), None)

    def test_choked(self) -> None:
        """It knows whether the other end takes what it is sent."""
        self.connection.write(b"x" * 10_000_000)
        self.connection.flush()
        self.assertTrue(self.connection.choked)
        count = 0
        while count < 10_000_000:
            count += len(self.other.recv(1 << 20))
            self.assertIs(self.connection.exchange(0), None)
        self.assertEqual((self.connection.choked, self.connection.written, self.connection.outgoing), (False, count, b""))

    def test_last_words(self) -> None:
        """What the server said before it hung up is read, though there was more to write to it."""
        self.other.send(b"why")
        self.other.close()
        self.connection.write(b"x")
        self.connection.flush()
        self.connection.write(b"y")
        self.assertEqual(self.connection.exchange(60), b"why")
        self.assertRaises((EOFError, OSError), self.connection.exchange, 60)

    def test_takes_no_more(self) -> None:
        """A server that takes nothing and says nothing is lost."""
        self.other.shutdown(socket.SHUT_RD)
        self.connection.write(b"x")
        self.connection.flush()
        self.assertEqual(self.connection.outgoing, b"")
        self.assertRaises(OSError, self.connection.exchange, 60)


@contextmanager
def no_leak(case: SynchronousTestCase) -> Iterator[None]:
    """Within it no socket is left open."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    case.assertEqual([str(one.message) for one in caught if issubclass(one.category, ResourceWarning)], [])


class Case(SynchronousTestCase):
    """A server in a thread."""

    def setUp(self) -> None:
        """Start it."""
        self.server = SocketServer(self)

    def connect(self, **settings: Any) -> QueueClient:
        """A client that is gone when the test is."""
        client = QueueClient(self.server.address, **{"timeout": 20, **settings})
        self.addCleanup(client.close)
        return client


class SendTests(Case):
    """Sending."""

    def test_send(self) -> None:
        """A send returns the id of its message."""
        client = self.connect()
        message_id = client.send("q", b"x")
        self.assertEqual((len(message_id), message_id.duplicate, self.server.bodies()), (32, False, [b"x"]))
        self.assertEqual(client.send("q", b"y", level="synced").duplicate, False)

    def test_everything(self) -> None:
        """All that a message can have arrives with it."""
        client = self.connect()
        client.send("q", b"x", ttl=60, headers={"a": "b"}, key="k", level="synced")
        client.send("later", b"x", delay=60)
        self.assertIsInstance(client.send("q", b"y", key="k"), DuplicateId)
        delivery = client.consume("q").get(10)
        assert delivery is not None
        self.assertEqual((delivery.body, delivery.headers, 0 < delivery.ttl <= 60), (b"x", {"a": "b"}, True))
        self.assertIs(client.consume("later").get(0.1), None)

    def test_bad_arguments(self) -> None:
        """A bad argument is an error at the call, and harms nothing else."""
        client = self.connect()
        submission = client.submit("q", b"1")
        bad: list[tuple[type[Exception], dict[str, Any]]] = [
            (BadName, {"queue": "\n"}),
            (TypeError, {"body": bytearray(b"x")}),
            (ValueError, {"delay": -1}),
            (ValueError, {"level": "best"}),
            (TooLarge, {"key": "k" * 256}),
        ]
        for error, order in bad:
            self.assertRaises(error, client.send, **{"queue": "q", "body": b"x", **order})
            self.assertRaises(error, client.submit, **{"queue": "q", "body": b"x", **order})
        submission.result()
        self.assertEqual(self.server.bodies(), [b"1"])

    def test_submit(self) -> None:
        """Many are sent quickly, in order; each has its result, whenever that is asked for, and however often."""
        client = self.connect()
        submissions = [client.submit("q", b"%d" % number) for number in range(3000)]
        ids = [submission.result() for submission in submissions]
        self.assertEqual(len(set(ids)), 3000)
        self.assertEqual(submissions[0].result(), ids[0])
        self.assertTrue(all(submission.done for submission in submissions))
        self.assertEqual(self.server.bodies(), [b"%d" % number for number in range(3000)])

    def test_submit_when_full(self) -> None:
        """With as many unconfirmed as there may be, a submit waits for the next receipt."""
        for settings in {"max_unconfirmed": 5}, {"max_unconfirmed_size": 1000}:
            client = self.connect(**settings)
            outbox = client._connection.outbox
            for number in range(300):
                client.submit("q", b"%d" % number)
                self.assertTrue(len(outbox.sends) <= 5 or outbox.size < 1200)
            client.confirmed()
        self.assertEqual(self.server.bodies(), [b"%d" % number for number in range(300)] * 2)

    def test_refused(self) -> None:
        """A refusal is the error of its send, not of others."""
        client = self.connect()
        self.server.do(self.server.broker.queues.pause, "full", SENDS)
        self.assertRaises(QueueFull, client.send, "full", b"x")
        submissions = [client.submit(queue, b"x") for queue in ("q", "full", "q")]
        submissions[0].result()
        self.assertRaises(QueueFull, submissions[1].result)
        self.assertRaises(QueueFull, submissions[1].result)
        submissions[2].result()
        client.confirmed()

    def test_unseen_failure(self) -> None:
        """A failure that nobody asked for is raised when all is to be confirmed, also at the end of C{with}; the first one, once."""
        client = self.connect()
        self.server.do(self.server.broker.queues.pause, "full", SENDS)
        client.submit("q", b"1")
        client.submit("full", b"2")
        seen = client.submit("full", b"3")
        self.assertRaises(QueueFull, seen.result)
        self.assertRaises(QueueFull, client.confirmed)
        client.confirmed()
        with self.assertRaises(QueueFull), self.connect() as client:
            client.submit("full", b"4")
        with self.assertRaises(KeyError), self.connect() as client:
            client.submit("full", b"5")
            raise KeyError("comes first")

    def test_ignored_failures(self) -> None:
        """Failures that nobody ever asks for do not pile up."""
        client = self.connect()
        self.server.do(self.server.broker.queues.pause, "full", SENDS)
        for _ in range(500):
            client.submit("full", b"x")
            client.ping()
        self.assertLessEqual(len(client._failed), 100)

    def test_memory_full(self) -> None:
        """A server without memory refuses."""
        client = self.connect()
        self.server.broker.memory.limit = 0
        self.assertRaises(MemoryFull, client.send, "q", b"x")

    def test_too_large(self) -> None:
        """What is too large for the server fails, and others get through."""
        server = SocketServer(self, max_message_size=100)
        with closing(QueueClient(server.address)) as client:
            submissions = [client.submit("q", b"x" * size) for size in (1, 101, 2)]
            submissions[0].result()
            self.assertRaises(TooLarge, submissions[1].result)
            submissions[2].result()
        self.assertEqual([len(body) for body in server.bodies()], [1, 2])

    def test_large(self) -> None:
        """Large bodies go both ways."""
        client = self.connect()
        body = bytes(range(256)) * 20_000
        for _ in range(3):
            client.submit("q", body)
        consumer = client.consume("q", window=1)
        for _ in range(3):
            delivery = consumer.get(10)
            assert delivery is not None
            self.assertTrue(delivery.body == body and delivery.ack())

    def test_lost(self) -> None:
        """Connections that are lost all the time do not matter: everything is stored once, in order."""
        client = self.connect()
        submissions = []
        for number in range(1000):
            submissions.append(client.submit("q", b"%d" % number, level="synced"))
            if number % 100 == 50:
                self.server.hang_up()
            elif number % 100 == 99:
                submissions[-1].result()
        client.confirmed()
        self.assertEqual(self.server.bodies(), [b"%d" % number for number in range(1000)])
        self.assertGreater(self.server.accepted, 9)
        # After each success the pauses begin anew.
        self.assertEqual(client._reconnector._pause, 0.05)

    def test_ping(self) -> None:
        """A ping returns when what was done before is carried out, and tells if the connection is lost."""
        client = self.connect()
        client.send("q", b"x")
        delivery = client.consume("q").get(5)
        assert delivery is not None
        delivery.ack(wait=False)
        client.ping()
        self.assertEqual(self.server.bodies(), [])
        self.server.vanish()
        self.assertRaises(NotConnected, client.ping)
        self.assertRaises(NotConnected, client.ping)


class TimeTests(Case):
    """Time that passes, and time that does not count."""

    def test_timeout(self) -> None:
        """A send without a receipt in time fails; the next one works, once the server does."""
        client = self.connect(timeout=0.5)
        self.server.stalled = True
        self.assertRaises(TimedOut, client.send, "q", b"1")
        self.assertRaises(TimedOut, client.ping)
        self.server.stalled = False
        client.send("q", b"2")
        self.assertIn(b"2", self.server.bodies())

    def test_work_between(self) -> None:
        """What a script does between its calls is not waiting: receipts that came meanwhile are in time."""
        client = self.connect(timeout=0.5)
        submissions = [client.submit("q", b"%d" % number) for number in range(5000)]
        time.sleep(1)
        for submission in submissions:
            submission.result()

    def test_work_between_messages(self) -> None:
        """Nor is it silence: after long work on a message its connection is as good as before."""
        client = self.connect(heartbeat=0.3)
        client.send("q", b"x")
        consumer = client.consume("q", window=1)
        delivery = consumer.get(5)
        assert delivery is not None
        time.sleep(1)
        self.assertIs(consumer.get(0), None)
        self.assertTrue(delivery.ack())
        time.sleep(1)
        self.assertIs(consumer.get(0.05), None)
        self.assertEqual(self.server.accepted, 1)

    def test_heartbeat(self) -> None:
        """Who waits for a server that fell silent gives the connection up, and goes on over the next one."""
        client = self.connect(heartbeat=0.1)
        consumer = client.consume("q")
        self.server.stalled = True
        threading.Timer(0.6, setattr, (self.server, "stalled", False)).start()
        client.submit("q", b"x")
        delivery = consumer.get(10)
        assert delivery is not None
        self.assertEqual(delivery.body, b"x")
        self.assertGreater(self.server.accepted, 1)
        self.assertEqual(len(self.server.bodies()), 1)

    def test_idle(self) -> None:
        """A connection on which nothing is to be said stays."""
        client = self.connect(heartbeat=0.3)
        self.assertIs(client.consume("q").get(1), None)
        self.assertEqual(self.server.accepted, 1)

    def test_stalled(self) -> None:
        """A server that never reads costs no more memory than is allowed, and nobody waits for ever."""
        client = self.connect(timeout=0.3, max_unconfirmed_size=1 << 20)
        self.server.stalled = True
        for _ in range(40):
            client.submit("q", b"x" * 100_000)
            connection = client._reconnector._socket
            assert connection is not None
            self.assertLess(len(connection.outgoing), 3 << 20)
        self.assertRaises((TimedOut, NotConnected), client.confirmed)

    def test_slow_reader(self) -> None:
        """A server that takes a large message slowly is not taken for dead."""
        client = self.connect(heartbeat=0.5)
        client.send("p", b"")
        self.server.stalled = True
        submission = client.submit("q", b"x" * 8_000_000)

        def read_slowly() -> None:
            for _ in range(1000):
                with self.server.lock:
                    for one in self.server.clients:
                        self.server.read(one)
                if self.server.bodies():
                    break
                time.sleep(0.05)
            self.server.stalled = False

        thread = threading.Thread(target=read_slowly)
        thread.start()
        submission.result()
        thread.join()
        self.assertEqual(self.server.accepted, 1)

    def test_bad_times(self) -> None:
        """Times that make no sense are errors."""
        for settings in {"timeout": 0}, {"timeout": -1}, {"heartbeat": 0}, {"heartbeat": float("nan")}, {"max_unconfirmed": 0}:
            self.assertRaises(ValueError, self.connect, **settings)
        client = self.connect()
        for timeout in -1, float("nan"):
            self.assertRaises(ValueError, client.consume, "q", timeout=timeout)
        consumer = client.consume("q")
        for timeout in -1, float("nan"):
            self.assertRaises(ValueError, consumer.get, timeout)


class ConnectTests(Case):
    """Servers that are not there, or not what they should be."""

    def test_no_server(self) -> None:
        """Without a server there is no client."""
        self.server.vanish()
        self.assertRaises(NotConnected, self.connect)
        for address in "tcp:127.0.0.1:1", f"unix:{self.server.path}/not/there", "tcp:no.such.host.invalid:1":
            self.assertRaises(NotConnected, QueueClient, address)
        self.assertRaises(ValueError, QueueClient, "no sense")

    def test_no_phpmq(self) -> None:
        """What answers in another language, or hangs up, is no server."""
        for greeting, error in (
            (b"", NotConnected),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", BadFrame),
            (encode_refusal(None, "login-required", "who are you?"), LoginRequired),
        ):
            self.server.greeting = greeting
            self.assertRaises(error, self.connect)

    def test_silent(self) -> None:
        """Nor is what says nothing."""
        self.server.stalled = True
        with no_leak(self):
            self.assertRaises(TimedOut, self.connect, timeout=0.2)
            self.assertRaises(NotConnected, self.connect, heartbeat=0.1)

    def test_tls_without_tls(self) -> None:
        """A context for TLS and an address without it are a mistake that must not go unnoticed."""
        self.assertRaises(ValueError, QueueClient, self.server.address, tls=ssl.create_default_context())

    def test_unreachable(self) -> None:
        """When the server cannot be reached for the client's timeout, who waits hears of it; when it is back, all goes on."""
        client = self.connect(timeout=0.8)
        consumer = client.consume("q")
        self.server.vanish()
        submission = client.submit("q", b"1")
        self.assertRaises(NotConnected, consumer.get)
        self.assertRaises((NotConnected, TimedOut), submission.result)
        self.assertRaises((NotConnected, TimedOut), client.send, "q", b"2")
        self.server.listen()
        client.send("q", b"3")
        delivery = consumer.get(5)
        assert delivery is not None
        self.assertEqual(delivery.body, b"3")

    def test_given_up(self) -> None:
        """When the server is given up, so is all that waits for it: nothing is sent later that somebody may have sent again meanwhile."""
        client = self.connect(timeout=1)
        consumer = client.consume("q")
        self.server.vanish()
        self.assertIs(consumer.get(0.3), None)
        late = client.submit("q", b"late")
        self.assertRaises(NotConnected, consumer.get)
        self.assertTrue(late.done)
        self.assertRaises(NotConnected, late.result)
        self.server.listen()
        client.send("q", b"again")
        self.assertEqual(self.server.bodies(), [b"again"])

    def test_back_soon(self) -> None:
        """A server that is back in time has not been away."""
        client = self.connect()
        self.server.vanish()
        threading.Timer(0.3, self.server.listen).start()
        client.send("q", b"x")
        self.assertEqual(self.server.bodies(), [b"x"])

    def test_no_storm(self) -> None:
        """A server that hangs up on everybody is tried again with pauses, and given up in time."""
        client = self.connect(timeout=1)
        self.server.greeting = b""
        self.server.hang_up()
        self.assertRaises((NotConnected, TimedOut), client.send, "q", b"x")
        self.assertRaises(NotConnected, client.consume("q").get)
        self.assertLess(self.server.accepted, 20)


class EndTests(Case):
    """Closing."""

    def test_close(self) -> None:
        """After the end nothing can be done, and what waited has failed."""
        client = self.connect()
        consumer = client.consume("q")
        self.server.stalled = True
        submission = client.submit("q", b"x")
        client.close()
        client.close()
        self.assertTrue(submission.done)
        self.assertRaises(Closed, submission.result)
        for call in (lambda: client.send("q", b"x"), lambda: client.submit("q", b"x"), lambda: client.consume("q")):
            self.assertRaises(Closed, call)
        self.assertRaises(NotConnected, client.ping)
        self.assertEqual(list(consumer), [])
        consumer.stop()

    def test_close_and_unseen(self) -> None:
        """What failed because of the end is no surprise."""
        with self.connect() as client:
            self.server.stalled = True
            client.submit("q", b"x")
            client.close()
            self.assertRaises(Closed, client.confirmed)

    def test_close_while_iterating(self) -> None:
        """A close within the iteration ends it."""
        client = self.connect()
        for number in range(3):
            client.send("q", b"%d" % number)
        got = []
        for delivery in client.consume("q"):
            got.append(delivery)
            client.close()
        self.assertEqual([delivery.body for delivery in got], [b"0"])
        self.assertFalse(got[0].ack())
        self.assertFalse(got[0].ack(wait=False))

    def test_close_unreachable(self) -> None:
        """A close without a connection."""
        client = self.connect()
        self.server.vanish()
        submission = client.submit("q", b"x")
        client.close()
        self.assertRaises(Closed, submission.result)

    def test_with(self) -> None:
        """C{with} waits for the receipts, but not after an error."""
        with self.connect() as client:
            client.submit("q", b"x")
        self.assertEqual(self.server.bodies(), [b"x"])
        self.assertRaises(Closed, client.send, "q", b"y")
        self.server.stalled = True
        with self.assertRaises(KeyError), self.connect_stalled() as client:
            submission = client.submit("q", b"y")
            raise KeyError("x")
        self.assertRaises(Closed, submission.result)

    def connect_stalled(self) -> QueueClient:
        """A client whose server stalls after the first answer."""
        self.server.stalled = False
        client = self.connect()
        self.server.stalled = True
        return client


class ConsumeTests(Case):
    """Iterating."""

    def setUp(self) -> None:
        """Put something into the queue."""
        super().setUp()
        self.client = self.connect()
        for number in range(4):
            self.client.submit("q", b"%d" % number)
        self.client.confirmed()

    def arrived(self, consumer: Consumer, count: int) -> None:
        """Wait until so many are delivered, without taking one."""
        while len(consumer._delivered) < count:
            self.client.ping()

    def test_iterate(self) -> None:
        """An iteration gets all in order, and ends when nothing comes for the time that was given."""
        got = []
        for delivery in self.client.consume("q", window=2, timeout=0.5):
            got.append(delivery.body)
            self.assertTrue(delivery.ack())
        self.assertEqual((got, self.server.bodies()), ([b"0", b"1", b"2", b"3"], []))

    def test_get(self) -> None:
        """One at a time, with a time to wait for each; no time means to look."""
        consumer = self.client.consume("q", window=1)
        wait_until("one is there", lambda: consumer.get(0) is not None)
        self.assertIs(consumer.get(0), None)
        self.assertIs(consumer.get(0.05), None)
        self.assertIs(self.client.consume("q", window=2), consumer)
        second = consumer.get()
        assert second is not None
        self.assertEqual((second.body, consumer.window, consumer.queue), (b"1", 2, "q"))

    def test_settle(self) -> None:
        """Each way to settle does what it says, and tells whether it was done; nothing is settled twice."""
        consumer = self.client.consume("q", lease=30)
        ack, requeue, dead, touch = [delivery for _ in range(4) if (delivery := consumer.get(5)) is not None]
        self.assertRaises(ValueError, requeue.requeue, -1)
        self.assertRaises(TypeError, dead.dead_letter, ValueError("x"))
        self.assertEqual([ack.ack(), requeue.requeue(delay=60), dead.dead_letter("why"), touch.touch()], [True] * 4)
        self.assertEqual([ack.ack(), requeue.ack(wait=False), dead.touch()], [False] * 3)
        self.assertTrue(touch.ack(wait=False))
        self.client.ping()
        self.assertEqual([one.text for one in self.server.do(lambda: list(self.server._store.dead()))], ["why"])
        self.assertEqual(self.server.broker.queues["q"].in_flight, 0)

    def test_bad_arguments(self) -> None:
        """A bad argument is an error, and changes nothing."""
        consumer = self.client.consume("q", window=1)
        bad: list[tuple[type[Exception], tuple[Any, ...]]] = [
            (BadName, ("",)),
            (TypeError, (5,)),
            (ValueError, ("q", 0)),
            (TypeError, ("q", 1.5)),
            (ValueError, ("q", 1, -1)),
        ]
        for error, arguments in bad:
            self.assertRaises(error, self.client.consume, *arguments)
        self.assertEqual((consumer.window, consumer.timeout), (1, None))

    def test_stop(self) -> None:
        """After a stop what was delivered can still be iterated and settled; then the iteration ends."""
        consumer = self.client.consume("q", window=2)
        self.arrived(consumer, 2)
        consumer.stop()
        consumer.stop()
        self.assertEqual([(delivery.body, delivery.ack()) for delivery in consumer], [(b"0", True), (b"1", True)])
        self.assertIs(consumer.get(), None)
        other = self.client.consume("q", timeout=0.5)
        self.assertEqual([delivery.body for delivery in other], [b"2", b"3"])

    def test_stop_and_lost(self) -> None:
        """What a stopped consumer had when the connection was lost is the server's; a lost connection ends a stop as well."""
        consumer = self.client.consume("q", window=2)
        self.arrived(consumer, 2)
        consumer.stop()
        self.server.hang_up()
        self.client.send("other", b"x")
        self.assertEqual(list(consumer), [])
        consumer = self.client.consume("q", window=2)
        self.server.hang_up()
        consumer.stop()
        self.assertIs(consumer.get(), None)

    def test_lost(self) -> None:
        """An iteration goes on over lost connections; a delivery of the old one cannot be settled, and comes again."""
        got: list[Delivery] = []
        for delivery in self.client.consume("q", timeout=1):
            got.append(delivery)
            if len(got) == 2:
                self.server.hang_up()
            self.assertEqual(delivery.ack(), len(got) != 2)
        self.assertEqual([(one.body, one.attempts) for one in got], [(b"0", 1), (b"1", 1), (b"1", 2), (b"2", 2), (b"3", 2)])
        self.assertEqual(got[1].id, got[2].id)
        self.assertEqual(self.server.bodies(), [])

    def test_nobody_iterates(self) -> None:
        """Of what nobody asks for no more is kept than the window, over any number of connections."""
        consumer = self.client.consume("q", window=3)
        for _ in range(4):
            self.server.hang_up()
            self.client.send("p", b"x")
            self.arrived(consumer, 3)
        self.assertEqual([delivery.lost for delivery in consumer._delivered], [False] * 3)

    def test_refused(self) -> None:
        """A queue that may not be consumed is an error, at once or when that is found out."""
        consumer = self.client.consume("p")
        receive = self.client._connection.receive
        refusal: Callable[[bytes], bytes] = lambda tag: encode_refusal(tag, "login-required", "no")  # noqa: E731
        self.patch(self.client._connection, "receive", lambda data: receive(refusal(next(reversed(self.client._connection._requests)))))
        self.assertRaises(LoginRequired, self.client.consume, "p")
        self.assertRaises(LoginRequired, consumer.get)
        self.assertRaises(LoginRequired, next, consumer)
        self.patch(self.client._connection, "receive", receive)
        again = self.client.consume("p")
        self.client.send("p", b"x")
        delivery = again.get(5)
        assert delivery is not None
        self.assertEqual(delivery.body, b"x")

    def test_consume_while_unreachable(self) -> None:
        """A queue may be consumed, and be left, while the server is away."""
        self.server.vanish()
        self.assertRaises(NotConnected, self.client.ping)
        left = self.client.consume("p")
        left.stop()
        self.assertEqual(list(left), [])
        consumer = self.client.consume("q")
        self.server.listen()
        delivery = consumer.get(5)
        assert delivery is not None
        self.assertEqual(delivery.body, b"0")

    def test_lost_while_consuming(self) -> None:
        """A connection that is lost while the request is under way has it again on the next one."""
        self.server.stalled = True
        threading.Timer(0.2, self.server.hang_up).start()
        consumer = self.client.consume("q")
        self.server.stalled = False
        delivery = consumer.get(5)
        assert delivery is not None
        self.assertEqual(delivery.body, b"0")


class Alarm(Exception):
    """A signal's handler raised it."""


class SignalTests(Case):
    """Signals in the middle of everything."""

    def ring(self, handler: Callable[..., object], interval: float) -> None:
        """Have a signal come all the time, until the test is over."""
        before = signal.signal(signal.SIGALRM, handler)
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        self.addCleanup(signal.setitimer, signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_REAL, interval, interval)

    def test_interrupted(self) -> None:
        """A signal that is handled disturbs nothing."""
        client = self.connect()
        count: list[int] = []
        self.ring(lambda number, frame: count.append(number), 0.005)
        for number in range(200):
            client.send("q", b"%d" % number)
        self.assertIs(client.consume("p").get(0.1), None)
        self.assertEqual(self.server.bodies(), [b"%d" % number for number in range(200)])
        self.assertGreater(len(count), 1)
        self.assertEqual(self.server.accepted, 1)

    def test_exception_while_reading(self) -> None:
        """After an exception in the middle of what was read the connection is another one: nobody knows where in the old one it was."""
        client = self.connect()
        receive = client._connection.receive

        def interrupted(data: bytes) -> None:
            receive(data[:10])
            raise Alarm

        self.patch(client._connection, "receive", interrupted)
        self.assertRaises(Alarm, client.send, "q", b"1")
        self.patch(client._connection, "receive", receive)
        client.send("q", b"2")
        self.assertEqual((self.server.bodies(), self.server.accepted), ([b"1", b"2"], 2))

    def test_exception(self) -> None:
        """After an exception of a signal's handler the client goes on: nothing that it had begun is lost, stored twice or out of order."""

        def handler(number: int, frame: object) -> None:
            raise Alarm

        client = self.connect()
        submitted, interrupted = 0, 0
        self.ring(handler, 0.02)
        while interrupted < 20:
            try:
                while True:
                    client.submit("q", b"%d" % submitted, level="synced")
                    submitted += 1
                    if submitted % 50 == 0:
                        client.confirmed()
            except Alarm:
                interrupted += 1
                submitted += 1  # Perhaps it had come so far.
        signal.setitimer(signal.ITIMER_REAL, 0)
        client.confirmed()
        stored = [int(body) for body in self.server.bodies()]
        self.assertEqual(stored, sorted(set(stored)))
        self.assertGreaterEqual(len(stored), submitted - interrupted)


class ThreadTests(Case):
    """Several threads."""

    def test_client_each(self) -> None:
        """With a client each they do not disturb each other."""
        errors: list[BaseException] = []

        def work(name: str) -> None:
            try:
                with QueueClient(self.server.address) as client:
                    for number in range(200):
                        client.submit(name, b"%d" % number)
                    got = []
                    for delivery in client.consume(name, timeout=5):
                        got.append(int(delivery.body))
                        delivery.ack()
                        if len(got) == 200:
                            break
                    assert got == list(range(200))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(f"q{number}",)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])


class TLSTests(SynchronousTestCase):
    """TLS, with a real server."""

    def setUp(self) -> None:
        """Start it, with a certificate that it signed itself."""
        self.folder = Path(tempfile.mkdtemp(prefix="phpmq-"))
        self.addCleanup(shutil.rmtree, self.folder)
        make_certificate(self.folder / "server.pem")
        make_certificate(self.folder / "other.pem", "other")
        listener = f"ssl:0:interface=127.0.0.1:privateKey={self.folder / 'server.pem'}"
        self.port = Server(self, "--listen", listener).ports[1]

    def test_trusted(self) -> None:
        """A certificate is trusted by file, by directory or by context; messages go both ways, also large ones."""
        roots = self.folder / "roots"
        roots.mkdir()
        (roots / "README").write_text("not a certificate")
        shutil.copy(self.folder / "other.pem", roots / "a.pem")
        shutil.copy(self.folder / "server.pem", roots / "b.PEM")
        context = ssl.create_default_context(cafile=self.folder / "server.pem")
        address = f"tls:localhost:{self.port}"
        for settings in (
            {"address": f"{address}:trustRoots={self.folder / 'server.pem'}"},
            {"address": f"{address}:trustRoots={roots}"},
            {"address": address, "tls": context},
        ):
            with QueueClient(**settings) as client:
                for size in 0, 100, 1_000_000:
                    client.submit("q", b"x" * size)
                sizes = []
                for delivery in client.consume("q", timeout=5):
                    sizes.append(len(delivery.body))
                    delivery.ack()
                    if len(sizes) == 3:
                        break
                self.assertEqual(sizes, [0, 100, 1_000_000])

    def test_not_trusted(self) -> None:
        """A certificate that is not trusted, or of another name, is none, and the reason is told."""
        address = f"tls:localhost:{self.port}"
        empty = self.folder / "empty"
        empty.mkdir()
        for bad in (
            address,
            f"{address}:trustRoots={self.folder / 'other.pem'}",
            f"{address}:trustRoots={empty}",
            f"tls:127.0.0.1:{self.port}:trustRoots={self.folder / 'server.pem'}",
        ):
            with no_leak(self):
                self.assertIn("certificate verify failed", str(self.assertRaises(NotConnected, QueueClient, bad)))
        with no_leak(self):
            self.assertRaises(NotConnected, QueueClient, f"{address}:trustRoots={self.folder / 'not there'}")
            self.assertRaises(NotConnected, QueueClient, f"{address}:certificate={self.folder / 'not there'}")
        # Who names roots trusts nobody else.
        context = tls_context(parse_address(f"{address}:trustRoots={self.folder / 'other.pem'}"))
        self.assertEqual(context.cert_store_stats()["x509"], 1)

    def test_no_tls(self) -> None:
        """A server without TLS is none."""
        server = SocketServer(self)
        self.assertRaises(ValueError, QueueClient, server.address, tls=ssl.create_default_context())
        with closing(socket.socket()) as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            self.assertRaises(NotConnected, QueueClient, f"tls:127.0.0.1:{listener.getsockname()[1]}", timeout=0.2)
