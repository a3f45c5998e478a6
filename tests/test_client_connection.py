"""A client's connection to a real session, broker and store, in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from phpmq.broker import SENDS
from phpmq.client_connection import ClientConnection, Delivery, DuplicateId, MessageId
from phpmq.client_connection.outbox import State
from phpmq.client_frames import encode_ack, encode_dead_letter, encode_requeue, encode_touch
from phpmq.errors import (
    BadFrame,
    BadName,
    ClientFull,
    Closed,
    DiskFailing,
    LoginRequired,
    MemoryFull,
    NotAllowed,
    NotConnected,
    PHPMQError,
    QueueFull,
    TimedOut,
    TooLarge,
)
from phpmq.frames import frame_header, packet
from phpmq.server_frames import encode_draining, encode_refusal
from tests.lines import FileServer, Inbox, Line, Outcome


class Case(SynchronousTestCase):
    """A client that is not connected yet, and a server."""

    max_message_size = 1 << 20

    def setUp(self) -> None:
        """Start them."""
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.server = FileServer(Path(folder.name) / "phpmq.db", self.max_message_size)
        self.addCleanup(lambda: self.server.close())
        self.now = 1000.0
        self.client = self.new_client()

    def new_client(self, **settings: Any) -> ClientConnection:
        """A client."""
        return ClientConnection(lambda: self.now, **settings)

    def connect(self, client: ClientConnection | None = None) -> Line:
        """Connect, without anything having arrived yet."""
        self.line = Line(client or self.client, self.server)
        return self.line

    def send(self, body: bytes, queue: str = "q", **order: Any) -> Outcome:
        """Send a message."""
        return Outcome(self.client.send(queue, body, **order))

    def stored(self, queue: str = "q") -> list[bytes]:
        """What the server has in a queue."""
        return self.server.bodies(queue)


class SendTests(Case):
    """Sends while nothing goes wrong."""

    def test_receipt(self) -> None:
        """A send is receipted with the id that the message has."""
        self.connect()
        sent = self.send(b"x")
        self.line.settle()
        self.assertIs(type(sent.result), MessageId)
        self.assertFalse(sent.result.duplicate)
        self.assertEqual(self.server.ids(), {sent.result})
        self.assertEqual((self.client.outbox.sends, self.client.outbox.size), ({}, 0))

    def test_before_connection(self) -> None:
        """What is sent before there is a connection goes out with it, in order, and one at a time or together makes no difference."""
        sent = [self.send(b"%d" % number) for number in range(3)]
        self.connect()
        sent += [self.send(b"%d" % number) for number in range(3, 6)]
        self.line.settle()
        sent += [self.send(b"%d" % number) for number in range(6, 9)]
        self.line.settle()
        self.assertEqual(self.stored(), [b"%d" % number for number in range(9)])
        self.assertEqual([one.done for one in sent], [1] * 9)
        self.assertEqual(self.client.outbox.resent, 0)

    def test_silent(self) -> None:
        """A client that sends nothing is no producer, and writes nothing."""
        self.connect()
        self.assertEqual((self.line.to_server, self.client.outbox.state), (b"", State.SILENT))
        self.line.settle()
        self.assertEqual(self.server.broker.producers.by_name, {})

    def test_numbers_wait_for_hello(self) -> None:
        """No send is written before the hello is answered: without a name its number would not count."""
        self.connect()
        self.send(b"x")
        self.line.up()
        self.assertEqual(self.server.broker.lifecycle.received, 0)
        self.line.settle()
        self.assertEqual(self.server.broker.lifecycle.received, 1)

    def test_secret_name(self) -> None:
        """A client's name as a producer has 128 random bits, and is the same for all its connections: who knows it can spoil its sends."""
        bits: list[int] = []

        def urandom(size: int) -> bytes:
            bits.append(8 * size)
            return bytes([len(bits)]) * size

        self.patch(os, "urandom", urandom)
        for client in self.new_client(), self.new_client():
            for body in b"x", b"y":
                self.connect(client)
                client.send("q", body)
                self.line.settle()
                self.line.cut()
        self.assertEqual(bits, [128, 128])
        self.assertEqual([name for _, name in self.server.broker.producers.by_name], [b"01" * 16, b"02" * 16])

    def test_byte_by_byte(self) -> None:
        """Bytes may arrive one at a time."""
        self.connect()
        sent = self.send(b"x")
        for _ in range(2000):
            self.line.up(1)
            self.line.down(1)
        self.assertEqual((sent.done, self.stored()), (1, [b"x"]))

    def test_synced(self) -> None:
        """The receipt of a synced send comes when the file has it; those of others do not wait for that."""
        self.connect()
        synced, other = self.send(b"x", level="synced"), self.send(b"y")
        self.line.settle()
        self.assertEqual((synced.done, other.done), (0, 1))
        self.server.write()
        self.line.settle()
        self.assertEqual(synced.done, 1)

    def test_key(self) -> None:
        """A second send with a key is a duplicate of the first one."""
        self.connect()
        first, second = self.send(b"x", key="k"), self.send(b"y", key="k")
        self.line.settle()
        self.assertIs(type(second.result), DuplicateId)
        self.assertEqual((second.result, second.result.duplicate), (first.result, True))

    def test_bad_arguments(self) -> None:
        """A bad argument is an error at the call, leaves nothing behind and harms no other send."""
        self.connect()
        bad: list[tuple[type[Exception], dict[str, Any]]] = [
            (BadName, {"queue": ""}),
            (TypeError, {"body": "x"}),
            (ValueError, {"ttl": -1}),
            (ValueError, {"level": "best"}),
            (TooLarge, {"key": "k" * 256}),
            (TypeError, {"headers": {"a": 1}}),
        ]
        for error, order in bad:
            self.assertRaises(error, self.client.send, **{"queue": "q", "body": b"x", **order})
        sent = self.send(b"good")
        self.line.settle()
        self.assertEqual((sent.done, self.stored(), self.client.outbox.size), (1, [b"good"], 0))

    def test_full(self) -> None:
        """Only so many sends, and so many bytes, may wait for their receipts; those who wait for room hear of it."""
        self.client = self.new_client(max_unconfirmed=2)
        heard: list[bool] = []
        self.client.outbox.on_answered = lambda: heard.append(self.client.outbox.has_room)
        first, _ = self.send(b"1"), self.send(b"2")
        self.assertRaises(ClientFull, self.send, b"3")
        assert first.request is not None
        first.request.cancel()
        self.assertEqual(heard, [True])
        self.send(b"3")
        self.assertRaises(ClientFull, self.send, b"4")
        self.connect()
        self.line.settle()
        self.assertEqual(self.stored(), [b"2", b"3"])
        self.send(b"4")
        self.client = self.new_client(max_unconfirmed_size=1000)
        self.send(b"x" * 2000)
        self.assertRaises(ClientFull, self.send, b"")

    def test_bad_settings(self) -> None:
        """A client that could never send, or never wait, is an error at once."""
        for settings in {"timeout": 0}, {"timeout": -1}, {"timeout": float("nan")}, {"max_unconfirmed": 0}, {"max_unconfirmed_size": 0}:
            self.assertRaises(ValueError, self.new_client, **settings)


class LossTests(Case):
    """Connections that are lost."""

    def test_every_byte(self) -> None:
        """Wherever a connection is cut, in either direction, the next one completes the sends: each is stored once, in order."""
        bodies = [b"0", b"1", b"2"]
        for level in "stored", "synced":
            # Requests of 400 bytes or so, their answers of 300.
            for number, (said, heard) in enumerate((said, heard) for said in range(0, 450, 5) for heard in (0, 1, 50, 1000)):
                queue = f"{level} {number}"
                self.client = self.new_client()
                self.connect()
                sent = [self.send(body, queue, level=level) for body in bodies]
                self.line.up()
                self.line.down()
                self.line.up(said)
                self.server.write()
                self.line.down(heard)
                self.line.cut()
                self.connect()
                self.line.settle()
                self.server.write()
                self.line.settle()
                self.assertEqual(self.stored(queue), bodies, (said, heard))
                self.assertEqual([one.done for one in sent], [1] * 3)
                self.line.cut()

    def test_lost_receipt(self) -> None:
        """A send whose receipt was lost is a duplicate without an id; it was sent once more, which is counted."""
        self.connect()
        sent = self.send(b"x")
        self.line.up()
        self.line.down()
        self.line.up()
        self.line.cut()
        self.assertEqual(sent.done, 0)
        self.connect()
        self.line.settle()
        self.assertEqual((type(sent.result), sent.result), (DuplicateId, ""))
        self.assertEqual(self.client.outbox.resent, 1)

    def test_crash(self) -> None:
        """What a server lost in a crash it gets again, unless it had receipted it; what it kept it does not store again."""
        self.connect()
        kept, pending = self.send(b"1", level="synced"), self.send(b"2", level="synced")
        self.line.up()
        self.line.down()
        self.line.up(len(self.line.to_server) // 2)
        self.server.write()
        self.line.up()
        self.server.crash()
        self.assertEqual((self.stored(), kept.done, pending.done), ([b"1"], 0, 0))
        self.connect()
        self.line.settle()
        self.server.write()
        self.line.settle()
        self.assertEqual((self.stored(), kept.done, pending.done), ([b"1", b"2"], 1, 1))

    def test_two_connections(self) -> None:
        """A new connection takes over from one that the server has not seen lost; what that one still brings is not carried out."""
        old = self.connect()
        sent = self.send(b"1")
        old.settle()
        self.send(b"2")
        old.abandon()
        self.connect()
        self.line.settle()
        old.up()
        self.line.settle()
        self.assertEqual((sent.done, self.stored()), (1, [b"1", b"2"]))

    def test_retry_after_requeue(self) -> None:
        """A synced retry is receipted also when its message was re-queued meanwhile."""
        inbox = Inbox()
        self.connect()
        self.client.consume("q", inbox, 1, 0)
        sent = self.send(b"x", level="synced")
        self.line.settle()
        self.client.settle(inbox.got[0], encode_requeue)
        self.line.up()
        self.line.cut()
        self.connect()
        self.line.settle()
        self.server.write()
        self.line.settle()
        self.assertEqual(sent.done, 1)

    def test_drain(self) -> None:
        """While a server stops nothing is written to it; what it took before is receipted, all else goes to the next one."""
        self.connect()
        first = self.send(b"1", level="synced")
        self.line.settle()
        self.line.session.drain()
        self.line.down()
        second = self.send(b"2")
        self.assertEqual((self.client.outbox.state, self.line.to_server), (State.DRAINING, b""))
        self.server.stop()
        self.assertEqual((first.done, second.done), (1, 0))
        self.connect()
        self.line.settle()
        self.assertEqual((second.done, self.stored()), (1, [b"1", b"2"]))

    def test_drain_while_greeting(self) -> None:
        """A hello that is answered by a server that stops begins nothing."""
        self.connect()
        sent = self.send(b"x")
        self.line.up()
        self.client.receive(encode_draining("bye"))
        self.line.down()
        self.assertEqual((self.client.outbox.state, self.line.to_server), (State.DRAINING, b""))
        self.server.stop()
        self.connect()
        self.line.settle()
        self.assertEqual((sent.done, self.stored()), (1, [b"x"]))

    def test_draining_refusal(self) -> None:
        """A send, or a hello, that is refused because the server stops is not over: it waits for the next connection."""
        for greeted in True, False:
            self.setUp()
            self.connect()
            if greeted:
                self.send(b"0")
                self.line.settle()
            sent = [self.send(b"1"), self.send(b"2")]
            self.line.to_server.clear()
            for tag in (b"2", b"3") if greeted else (b"hello",):
                self.client.receive(encode_refusal(tag, "draining", "bye"))
            self.assertEqual((self.client.outbox.state, [one.done for one in sent]), (State.DRAINING, [0, 0]))
            self.line.cut()
            self.connect()
            self.line.settle()
            self.assertEqual(self.stored()[-2:], [b"1", b"2"])

    def test_reason(self) -> None:
        """What was lost with a connection fails at once; with the reason, if there is one."""
        for error, expected in ((None, NotConnected), (BadFrame("no"), BadFrame)):
            self.setUp()
            self.connect()
            ping = Outcome(self.client.ping())
            self.line.cut(error)
            self.assertIsInstance(ping.error, expected)
            self.assertRaises(NotConnected, self.client.ping)

    def test_taken_back_offline(self) -> None:
        """Sends that are taken back while there is no connection leave nothing behind, however many they are."""
        for _ in range(3):
            sent = self.send(b"x")
            assert sent.request is not None
            sent.request.cancel()
        outbox = self.client.outbox
        self.assertEqual((outbox.sends, outbox.size), ({}, 0))
        self.connect()
        self.assertEqual((outbox.state, self.line.to_server), (State.SILENT, b""))


class RefusalTests(Case):
    """Sends that are refused."""

    def setUp(self) -> None:
        """A queue that takes no sends, and a producer that is known."""
        super().setUp()
        self.server.broker.queues.pause("full", SENDS)
        self.connect()
        self.send(b"0")
        self.line.settle()

    def test_middle(self) -> None:
        """Of a burst just those are refused that must be: what follows them is stored, in order, once."""
        sent = [self.send(b"1"), self.send(b"2", "full"), self.send(b"3"), self.send(b"4", "full"), self.send(b"5"), self.send(b"6", "p")]
        self.line.settle()
        self.assertEqual([type(one.error) for one in sent], [type(None), QueueFull, type(None), QueueFull, type(None), type(None)])
        self.assertEqual([one.done for one in sent], [1] * 6)
        self.assertEqual((self.stored(), self.stored("p"), self.stored("full")), ([b"0", b"1", b"3", b"5"], [b"6"], []))

    def test_middle_is_cut(self) -> None:
        """The same when the connection is lost at any moment of it."""
        for step in range(12):
            self.setUp()
            sent = [self.send(b"1"), self.send(b"2", "full"), self.send(b"3"), self.send(b"4", "full"), self.send(b"5")]
            for number in range(step):
                (self.line.up, self.line.down)[number % 2](70)
            self.line.cut()
            self.connect()
            self.line.settle()
            self.assertEqual([type(one.error) for one in sent], [type(None), QueueFull, type(None), QueueFull, type(None)])
            self.assertEqual((self.stored(), self.stored("full")), ([b"0", b"1", b"3", b"5"], []))

    def test_one_round(self) -> None:
        """A burst to a queue that takes none costs one round, not one for each message."""
        sent = [self.send(b"%d" % number, "full") for number in range(200)]
        written = 0
        while self.line.to_server:
            written += len(self.line.to_server)
            self.line.up()
            self.line.down()
        self.assertEqual({type(one.error) for one in sent}, {QueueFull})
        self.assertLess(written, 200 * 150)

    def test_levels(self) -> None:
        """What is refused for its level does not take the others of its queue with it."""
        self.server.failing = True
        sent = [self.send(b"1", level="synced"), self.send(b"2"), self.send(b"3", level="synced"), self.send(b"4")]
        self.line.settle()
        self.assertEqual([type(one.error) for one in sent], [DiskFailing, type(None), DiskFailing, type(None)])
        self.assertEqual(self.stored(), [b"0", b"2", b"4"])

    def test_memory_full(self) -> None:
        """A full memory is full for all."""
        self.server.broker.memory.limit = 0
        sent = [self.send(b"%d" % number, f"q{number}") for number in range(5)]
        self.line.settle()
        self.assertEqual([type(one.error) for one in sent], [MemoryFull] * 5)
        self.server.broker.memory.limit = 1 << 30
        sent = [self.send(b"x")]
        self.line.settle()
        self.assertEqual(sent[0].done, 1)

    def test_retry(self) -> None:
        """Who hears that a queue is full may send again at once, or later; all comes in the order of those calls."""
        again: list[Outcome] = []
        first = self.send(b"1", "full")
        first.then = lambda: again.append(self.send(b"again"))
        self.send(b"2")
        self.line.settle()
        self.assertEqual((again[0].done, self.stored()), (1, [b"0", b"2", b"again"]))

    def test_ping_between(self) -> None:
        """A ping among them changes nothing."""
        sent = [self.send(b"1", "full"), self.send(b"2")]
        ping = Outcome(self.client.ping())
        sent.append(self.send(b"3"))
        self.line.settle()
        self.assertEqual((ping.done, self.stored(), [one.done for one in sent]), (1, [b"0", b"2", b"3"], [1] * 3))

    def test_cancelled(self) -> None:
        """That a send was refused which nobody waits for any more is not blamed on the next one."""
        for late in False, True:
            self.setUp()
            refused, other = self.send(b"1", "full"), self.send(b"2")
            assert refused.request is not None
            if late:
                self.line.up()
            refused.request.cancel()
            self.line.settle()
            self.assertEqual((other.error, self.stored(), refused.done), (None, [b"0", b"2"], 0))

    def test_cancelled_after_another(self) -> None:
        """Nor on one that goes to a queue that was full before."""
        self.send(b"1", "full")
        self.line.settle()
        self.server.broker.queues.resume("full")
        self.server.broker.queues.pause("p", SENDS)
        refused, other = self.send(b"2", "p"), self.send(b"3", "full")
        assert refused.request is not None
        refused.request.cancel()
        self.line.settle()
        self.assertEqual((other.error, self.stored("full")), (None, [b"3"]))

    def test_hello_refused(self) -> None:
        """A server without memory for one more producer refuses the hello, and with it all that waits; the next send tries again."""
        self.server.broker.memory.limit = 0
        self.client = self.new_client()
        sent = [self.send(b"1"), self.send(b"2")]
        self.connect()
        again: list[Outcome] = []
        sent[0].then = lambda: again.append(self.send(b"3"))
        self.line.up()
        self.line.down()
        self.assertEqual([type(one.error) for one in sent], [MemoryFull] * 2)
        self.assertEqual((self.client.outbox.state, again[0].done), (State.GREETING, 0))
        self.server.broker.memory.limit = 1 << 30
        self.line.settle()
        self.assertEqual((again[0].done, self.stored()), (1, [b"0", b"3"]))

    def test_fatal(self) -> None:
        """When the server ends the connection, all that waits fails with its reason, and the next connection begins anew."""
        sent = self.send(b"1")
        ping = Outcome(self.client.ping())
        self.line.to_server[:] = b"H0200101"
        self.line.settle()
        self.assertEqual((sent.error.__class__.__name__, ping.error.__class__.__name__), ("Unsupported", "Unsupported"))
        self.assertFalse(self.client.online)
        self.connect()
        sent = self.send(b"2")
        self.line.settle()
        self.assertEqual(self.stored(), [b"0", b"2"])


class TooLargeTests(Case):
    """A server that takes less than the client sends."""

    max_message_size = 100

    def settle(self) -> int:
        """Connect until all is answered: how many connections that took."""
        for count in range(1, 20):
            self.connect()
            self.line.settle()
            if not self.client.outbox.sends:
                return count
        raise AssertionError("no end")

    def test_others_get_through(self) -> None:
        """What is too large fails, though it ends the connection; all else is stored, in order, once."""
        sizes = [1, 200, 2, 150, 100, 101, 0]
        sent = [self.send(b"x" * size) for size in sizes]
        self.assertLess(self.settle(), 6)
        self.assertEqual([isinstance(one.error, TooLarge) for one in sent], [size > 100 for size in sizes])
        self.assertEqual([one.done for one in sent], [1] * 7)
        self.assertEqual([len(body) for body in self.stored()], [1, 2, 100, 0])

    def test_alone(self) -> None:
        """One that is alone fails, and the next connection is a good one."""
        sent = self.send(b"x" * 101)
        self.settle()
        self.assertIsInstance(sent.error, TooLarge)
        self.connect()
        sent = self.send(b"y")
        self.line.settle()
        self.assertEqual((sent.done, sent.error), (1, None))

    def test_consumer(self) -> None:
        """A consumer whose request is under way when the connection ends has it again."""
        inbox = Inbox()
        self.connect()
        self.send(b"x" * 101)
        self.line.up()
        self.line.down()
        self.client.consume("q", inbox, 5, 0)
        self.line.settle()
        self.assertFalse(self.line.connected)
        self.connect()
        self.send(b"y")
        self.line.settle()
        self.assertEqual((inbox.bodies, inbox.ends), ([b"y"], []))


class EndTests(Case):
    """Sends and requests that are given up."""

    def test_cancel(self) -> None:
        """A send that is taken back before it was written never is; later the server may have it or not, and nobody hears of it."""
        early = self.send(b"1")
        other = self.send(b"2")
        assert early.request is not None
        early.request.cancel()
        self.connect()
        self.line.settle()
        late = self.send(b"3")
        assert late.request is not None
        late.request.cancel()
        self.line.settle()
        self.assertEqual((early.done, other.done, late.done, self.stored()), (0, 1, 0, [b"2", b"3"]))
        self.assertEqual(self.client.outbox.size, 0)

    def test_cancel_while_greeting(self) -> None:
        """Likewise between the hello and its answer."""
        self.connect()
        early, other = self.send(b"1"), self.send(b"2")
        assert early.request is not None
        early.request.cancel()
        self.line.settle()
        self.assertEqual((other.done, self.stored()), (1, [b"2"]))

    def test_expire(self) -> None:
        """What is not answered in time fails, the oldest first; a late answer does no harm."""
        self.connect()
        old, ping = self.send(b"1"), Outcome(self.client.ping())
        self.now += 59
        young = self.send(b"2")
        self.client.expire()
        self.assertEqual((old.done, ping.done), (0, 0))
        self.now += 1
        self.client.expire()
        self.assertEqual((type(old.error), type(ping.error), young.done), (TimedOut, TimedOut, 0))
        self.line.settle()
        self.assertEqual((old.done, young.result.duplicate, self.stored()), (1, False, [b"2"]))
        self.now += 1000
        self.client.expire()

    def test_silence(self) -> None:
        """A server that is silent for a heartbeat is asked, once; one that is silent for another one is lost."""
        self.connect()
        self.now += 29.9
        self.client.check_silence()
        self.assertEqual(self.line.to_server, b"")
        self.now += 0.1
        self.client.check_silence()
        asked = bytes(self.line.to_server)
        self.now += 29.9
        self.client.check_silence()
        self.assertEqual((asked[:8], self.line.to_server), (frame_header(2, 10, 1), asked))
        self.now += 0.1
        error = self.assertRaises(EOFError, self.client.check_silence)
        self.assertEqual(str(error), "nothing was heard of the server for 60 s")
        self.line.settle()
        self.client.check_silence()
        self.now += 30
        self.client.heard()
        self.client.check_silence()
        self.assertEqual(self.line.to_server, b"")

    def test_expired_and_written(self) -> None:
        """One that was written and then given up is not written again, but may be stored."""
        self.connect()
        self.send(b"0")
        self.line.settle()
        old = self.send(b"1")
        self.line.up()
        self.now += 60
        self.client.expire()
        self.assertIsInstance(old.error, TimedOut)
        self.line.cut()
        self.connect()
        self.send(b"2")
        self.line.settle()
        self.assertEqual((old.done, self.stored()), (1, [b"0", b"1", b"2"]))

    def test_expire_says_why(self) -> None:
        """The reason for which there is no connection is told, while there is none."""
        self.connect()
        self.line.cut(BadFrame("nonsense"))
        sent = self.send(b"x")
        self.now += 60
        self.client.expire()
        self.assertIn("nonsense", str(sent.error))
        self.connect()
        sent = self.send(b"x")
        self.now += 60
        self.client.expire()
        self.assertNotIn("nonsense", str(sent.error))

    def test_close(self) -> None:
        """After the end everything has failed with Closed, consumers have ended, and nothing can be begun; until it is opened again."""
        inbox, stopping = Inbox(), Inbox()
        self.connect()
        self.client.consume("q", inbox, 5, 0)
        self.client.consume("p", stopping, 5, 0)
        stop = self.client.stop_consuming("p", stopping)
        outcomes = [self.send(b"x"), Outcome(self.client.ping()), Outcome(stop)]
        self.client.close()
        self.assertEqual([type(one.error) for one in outcomes], [Closed, Closed, type(None)])
        self.assertEqual([one.done for one in outcomes], [1] * 3)
        self.assertEqual((inbox.ends, stopping.ends), ([None], [None]))
        self.assertRaises(Closed, self.send, b"y")
        self.assertRaises(Closed, self.client.consume, "q", Inbox(), 1, 0)
        self.assertRaises(NotConnected, self.client.ping)
        self.assertIs(self.client.stop_consuming("q", inbox), None)
        self.client.close()
        self.line.cut()
        self.client.open()
        self.connect()
        sent = self.send(b"z")
        self.line.settle()
        self.assertEqual((sent.done, self.stored(), inbox.got), (1, [b"z"], []))

    def test_close_offline(self) -> None:
        """The same without a connection."""
        inbox = Inbox()
        self.client.consume("q", inbox, 5, 0)
        sent = self.send(b"x")
        self.client.close()
        self.assertEqual((type(sent.error), inbox.ends), (Closed, [None]))


class ReentrancyTests(Case):
    """What is called while the client is in the middle of something else."""

    def answers(self, then: Callable[[], object]) -> list[Outcome]:
        """Ten sends; the first answer does something."""
        self.connect()
        sent = [self.send(b"%d" % number) for number in range(10)]
        sent[0].then = then
        self.line.settle()
        return sent

    def test_send(self) -> None:
        """Send."""
        more: list[Outcome] = []
        sent = self.answers(lambda: more.append(self.send(b"more")))
        self.assertEqual((self.stored(), more[0].done), ([b"%d" % number for number in range(10)] + [b"more"], 1))
        self.assertEqual([one.done for one in sent], [1] * 10)

    def test_cancel(self) -> None:
        """Take back the others."""

        def cancel() -> None:
            for request in list(self.client.outbox.sends.values()):
                request.cancel()

        sent = self.answers(cancel)
        self.assertEqual([one.done for one in sent], [1] + [0] * 9)
        self.assertEqual((len(self.stored()), self.client.outbox.size), (10, 0))

    def test_close(self) -> None:
        """Close: the other answers, though they have arrived, are too late."""
        sent = self.answers(lambda: self.client.close())
        self.assertEqual([type(one.error) for one in sent], [type(None)] + [Closed] * 9)
        self.assertEqual([one.done for one in sent], [1] * 10)

    def test_lost(self) -> None:
        """Lose the connection: the others are sent again, and not stored again."""
        sent = self.answers(lambda: self.line.cut())
        self.assertEqual([one.done for one in sent], [1] + [0] * 9)
        self.connect()
        self.line.settle()
        self.assertEqual([one.done for one in sent], [1] * 10)
        self.assertEqual(len(self.stored()), 10)

    def test_in_failures(self) -> None:
        """Whoever hears that a send failed sends again, and takes back others that were about to fail."""
        sent = [self.send(b"%d" % number) for number in range(4)]
        more: list[Outcome] = []

        def react() -> None:
            assert sent[1].request is not None
            sent[1].request.cancel()
            more.append(self.send(b"more"))

        sent[0].then = react
        self.now += 60
        self.client.expire()
        self.assertEqual([one.done for one in sent], [1, 0, 1, 1])
        self.assertEqual([send.frame for send in self.client.outbox.sends.values()], [more[0].request.frame])  # type: ignore[union-attr]

    def test_close_in_failures(self) -> None:
        """Whoever hears that a send failed closes: each fails once."""
        sent = [self.send(b"%d" % number) for number in range(4)]
        sent[0].then = lambda: self.client.close()
        self.now += 60
        self.client.expire()
        self.assertEqual([one.done for one in sent], [1] * 4)

    def test_send_while_closing(self) -> None:
        """Whoever hears of the end cannot begin again, and so not for ever."""
        errors: list[Exception] = []
        sent = self.send(b"x")
        sent.then = lambda: errors.append(self.assertRaises(Closed, self.send, b"y"))
        self.client.close()
        self.assertEqual((len(errors), self.client.outbox.sends), (1, {}))

    def test_close_while_delivering(self) -> None:
        """Close in the middle of deliveries: those behind are not delivered, and none can be settled."""
        self.connect()
        for number in range(5):
            self.send(b"%d" % number)
        self.line.settle()
        inbox = Inbox(lambda delivery: self.client.close() if len(inbox.got) == 2 else None)
        self.client.consume("q", inbox, 5, 0)
        self.line.up()
        self.line.down()
        self.assertEqual(inbox.bodies, [b"0", b"1"])
        self.assertEqual([self.client.settle(delivery, encode_ack) for delivery in inbox.got], [None, None])


class ConsumeTests(Case):
    """Deliveries and what becomes of them."""

    def setUp(self) -> None:
        """Send a few."""
        super().setUp()
        self.connect()
        for number in range(6):
            self.send(b"%d" % number, ttl=60, headers={"n": str(number)})
        self.line.settle()
        self.inbox = Inbox()

    def test_window(self) -> None:
        """So many are delivered as the window says, and others when those are settled."""
        request = self.client.consume("q", self.inbox, 2, 0)
        outcome = Outcome(request)
        self.line.settle()
        self.assertEqual((outcome.done, self.inbox.bodies), (1, [b"0", b"1"]))
        settled = Outcome(self.client.settle(self.inbox.got[0], encode_ack))
        self.assertTrue(self.client.ack_unanswered(self.inbox.got[1]))
        self.line.settle()
        self.assertEqual((settled.result, self.inbox.bodies), (True, [b"0", b"1", b"2", b"3"]))
        self.client.consume("q", self.inbox, 4, 0)
        self.line.settle()
        self.assertEqual(len(self.inbox.got), 6)

    def test_delivery(self) -> None:
        """A delivery has all that there is to know."""
        self.client.consume("q", self.inbox, 1, 0)
        self.line.settle()
        [delivery] = self.inbox.got
        self.assertEqual((delivery.queue, delivery.body, delivery.attempts, delivery.headers), ("q", b"0", 1, {"n": "0"}))
        self.assertEqual((delivery.ttl, delivery.settled, delivery.lost), (60.0, False, False))
        self.assertEqual(Delivery(self.client, "q", b"", b"", 1, None, None).headers, {})
        self.assertIn(delivery.id, self.server.ids())
        self.assertEqual(repr(delivery), f"<Delivery {delivery.id} from 'q', 1 bytes, attempt 1>")

    def test_settle(self) -> None:
        """Each way to settle is carried out, once; what is settled cannot be settled again."""
        self.client.consume("q", self.inbox, 4, 30)
        self.line.settle()
        ack, requeue, dead, touch = self.inbox.got
        outcomes = [
            Outcome(self.client.settle(ack, encode_ack)),
            Outcome(self.client.settle(requeue, encode_requeue, 5, 0.5)),
            Outcome(self.client.settle(dead, encode_dead_letter, "why")),
            Outcome(self.client.settle(touch, encode_touch, final=False)),
        ]
        self.line.settle()
        self.assertEqual([one.result for one in outcomes], [True] * 4)
        self.assertEqual([delivery.settled for delivery in (ack, requeue, dead, touch)], [True, True, True, False])
        for delivery in ack, requeue, dead:
            self.assertIs(self.client.settle(delivery, encode_ack), None)
            self.assertFalse(self.client.ack_unanswered(delivery))
        self.assertEqual([one.text for one in self.server.store.dead()], ["why"])
        self.assertEqual(self.server.broker.queues["q"].delayed, 1)

    def test_bad_settlement(self) -> None:
        """A bad argument is an error, and the delivery can still be settled."""
        self.client.consume("q", self.inbox, 1, 0)
        self.line.settle()
        [delivery] = self.inbox.got
        self.assertRaises(ValueError, self.client.settle, delivery, encode_requeue, -1)
        self.assertRaises(TypeError, self.client.settle, delivery, encode_dead_letter, ValueError("no"))
        self.assertFalse(delivery.settled)
        settled = Outcome(self.client.settle(delivery, encode_ack))
        self.line.settle()
        self.assertTrue(settled.result)
        self.now += 60
        self.client.expire()

    def test_lease(self) -> None:
        """After its lease a delivery is somebody else's: to settle it tells so."""
        self.client.consume("q", self.inbox, 6, 1)
        self.line.settle()
        other, inbox = self.new_client(), Inbox()
        line = Line(other, self.server)
        other.consume("q", inbox, 6, 0)
        line.settle()
        self.server.now += 1000
        self.server.broker.tick()
        line.settle()
        self.assertIn(b"0", inbox.bodies)
        settled = Outcome(self.client.settle(self.inbox.got[0], encode_ack))
        self.line.settle()
        self.assertIs(settled.result, False)

    def test_lost(self) -> None:
        """Deliveries of a connection that was lost cannot be settled over the next one, where they come again."""
        self.client.consume("q", self.inbox, 2, 0)
        self.line.settle()
        old = list(self.inbox.got)
        settled = Outcome(self.client.settle(old[0], encode_ack))
        self.line.cut()
        self.assertEqual((settled.result, self.inbox.losses), (False, 1))
        self.assertEqual([delivery.lost for delivery in old], [True, True])
        self.connect()
        self.line.settle()
        self.assertEqual(self.inbox.bodies, [b"0", b"1", b"0", b"1"])
        self.assertEqual([delivery.attempts for delivery in self.inbox.got], [1, 1, 2, 2])
        self.assertIs(self.client.settle(old[1], encode_ack), None)
        self.assertFalse(self.client.ack_unanswered(old[1]))
        self.assertEqual(self.line.to_server, b"")

    def test_stop(self) -> None:
        """After a stop nothing is delivered; what was on its way arrives before that is confirmed."""
        self.client.consume("q", self.inbox, 2, 0)
        self.line.up()
        stop = Outcome(self.client.stop_consuming("q", self.inbox))
        self.line.up()
        self.assertEqual(self.inbox.ends, [])
        self.line.settle()
        self.assertEqual((stop.done, self.inbox.bodies, self.inbox.ends), (1, [b"0", b"1"], [None]))
        for delivery in self.inbox.got:
            self.assertIsNot(self.client.settle(delivery, encode_ack), None)
        self.line.settle()
        self.assertEqual((len(self.inbox.got), self.client.receivers), (2, {}))
        self.line.cut()
        self.connect()
        self.line.settle()
        self.assertEqual(len(self.inbox.got), 2)

    def test_stop_and_lost(self) -> None:
        """A connection that is lost ends it as well, also if nobody waits for that."""
        for cancel in False, True:
            self.setUp()
            self.client.consume("q", self.inbox, 2, 0)
            stop = Outcome(self.client.stop_consuming("q", self.inbox))
            assert stop.request is not None
            if cancel:
                stop.request.cancel()
            self.line.cut()
            self.assertEqual((stop.done, self.inbox.ends, self.client.receivers), (int(not cancel), [None], {}))
            self.connect()
            self.line.settle()
            self.assertEqual(self.inbox.got, [])

    def test_stop_offline(self) -> None:
        """Without a connection there is nothing to wait for."""
        self.line.cut()
        self.client.consume("q", self.inbox, 2, 0)
        self.assertIs(self.client.stop_consuming("q", self.inbox), None)
        self.assertEqual(self.inbox.ends, [None])
        self.assertIs(self.client.stop_consuming("q", self.inbox), None)

    def test_another_one(self) -> None:
        """Somebody who consumes a queue just after another one stopped gets what comes from then on."""
        other = Inbox()
        self.client.consume("q", self.inbox, 2, 0)
        self.line.settle()
        self.client.stop_consuming("q", self.inbox)
        self.client.consume("q", other, 4, 0)
        self.line.settle()
        self.assertEqual((self.inbox.bodies, self.inbox.ends), ([b"0", b"1"], [None]))
        self.assertEqual((other.bodies, other.ends, self.client.receivers), ([b"2", b"3"], [], {"q": other}))

    def test_refused(self) -> None:
        """A consumer that the server refuses ends with the reason, also if the server does that at a later connection."""
        for reconnect in False, True:
            self.setUp()
            request = Outcome(self.client.consume("q", self.inbox, 2, 0))
            if reconnect:
                self.line.settle()
                self.line.cut()
                self.connect()
            [tag] = self.client._requests
            self.client.receive(encode_refusal(tag, "login-required", "who are you?"))
            self.assertEqual([type(end) for end in self.inbox.ends], [LoginRequired])
            self.assertEqual((type(request.error), self.client.receivers), (type(None) if reconnect else LoginRequired, {}))

    def test_bad_arguments(self) -> None:
        """A bad argument is an error at the call; nothing of it is left for the next connection to fail on."""
        bad: list[tuple[type[Exception], tuple[Any, ...]]] = [
            (BadName, ("", 1, 0)),
            (TypeError, (b"q", 1, 0)),
            (ValueError, ("q", 0, 0)),
            (ValueError, ("q", -1, 0)),
            (ValueError, ("q", 10**20, 0)),
            (TypeError, ("q", 1.5, 0)),
            (TypeError, ("q", float("nan"), 0)),
            (ValueError, ("q", 1, -1)),
            (ValueError, ("q", 1, float("nan"))),
            (TypeError, ("q", 1, "1")),
        ]
        for error, (queue, window, lease) in bad:
            self.assertRaises(error, self.client.consume, queue, self.inbox, window, lease)
        self.assertEqual((self.client.receivers, self.inbox.window, self.line.to_server), ({}, 0, b""))

    def test_unanswered(self) -> None:
        """A consume that is not answered in time is forgotten, and the consumer stays."""
        self.client.consume("q", self.inbox, 2, 0)
        self.now += 60
        self.client.expire()
        self.line.settle()
        self.assertEqual((self.inbox.bodies, self.inbox.ends), ([b"0", b"1"], []))

    def test_many_queues(self) -> None:
        """Each queue has its own receiver."""
        other = Inbox()
        self.send(b"other", "p")
        self.client.consume("q", self.inbox, 1, 0)
        self.client.consume("p", other, 1, 0)
        self.line.settle()
        self.assertEqual((self.inbox.bodies, other.bodies), ([b"0"], [b"other"]))


class StrangeServerTests(Case):
    """Answers that no server of ours gives."""

    def test_nonsense(self) -> None:
        """Nobody waits for ever because of an answer that makes no sense, and no answer does harm."""
        self.connect()
        sent = self.send(b"x")
        self.line.up()
        self.line.down()
        strange = [
            frame_header(2, 7, 1) + packet(6, b"none"),
            frame_header(2, 7, 1) + packet(6, b"999"),
            frame_header(2, 7, 1) + packet(6, b""),
            frame_header(2, 7, 1) + packet(6, b"hello"),
            encode_refusal(b"none", "internal", "what?"),
            encode_refusal(b"", "internal", "what?"),
            frame_header(2, 3, 4) + packet(1, b"\xff") + packet(2, b"x") + packet(3, b"\xff") + packet(11, b"1"),
        ]
        for answer in strange:
            self.client.receive(answer)
        self.assertEqual(sent.done, 0)
        self.client.receive(frame_header(2, 7, 2) + packet(6, b"1") + packet(3, b"\xff\xff"))
        self.assertEqual((sent.done, len(sent.result)), (1, 2))

    def test_strange_delivery(self) -> None:
        """A delivery whose id is no text can be shown and settled; one without a number of attempts breaks the protocol."""
        inbox = Inbox()
        self.connect()
        self.client.consume("q", inbox, 1, 0)
        start = frame_header(2, 3, 4) + packet(1, b"q") + packet(2, b"x") + packet(3, b"\xff")
        self.client.receive(start + packet(11, b"1"))
        [delivery] = inbox.got
        self.assertIn("1 bytes", repr(delivery))
        self.assertIsNot(self.client.settle(delivery, encode_ack), None)
        self.assertRaises(BadFrame, self.client.receive, start + packet(11, b"one"))

    def test_unknown_code(self) -> None:
        """A code that this client does not know is an error all the same."""
        self.connect()
        sent = self.send(b"x")
        self.line.up()
        self.line.down()
        self.line.to_server.clear()
        self.client.receive(encode_refusal(b"1", "from-the-future", "no"))
        self.assertIs(type(sent.error), PHPMQError)

    def test_not_allowed(self) -> None:
        """A hello that is not allowed fails what waits, and so does a send."""
        self.connect()
        sent = self.send(b"x")
        self.client.receive(encode_refusal(b"hello", "not-allowed", "no"))
        self.assertIsInstance(sent.error, NotAllowed)
        self.assertEqual(self.client.outbox.state, State.SILENT)
