"""Receipts of a real server: when they come, when they do not, and that none is lost with it."""

from __future__ import annotations

import contextlib
import time
from signal import SIGKILL, SIGTERM

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.client import Client, bodies, take_all
from tests.functional.server import Server
from tests.functional.version02 import DELIVERY, DRAINING, RECEIPT, REFUSED, Client02, frame, send_frame


class ReceiptsTests(SynchronousTestCase):
    """Clients of version 02, and one of version 01."""

    timeout = 60

    def test_draining(self) -> None:
        """On SIGTERM clients are told so, what was accepted is receipted, and only that, and the connection closes."""
        server = Server(self)
        for name, delay in (b"one", 0), (b"two", 0.002), (b"three", 0.02):
            with Client02(server.tcp) as client, Client02(server.unix) as idle:
                client.hello(name)
                idle.hello(b"idle")
                client.write(b"".join([send_frame(b"q", b"x", number) for number in range(1, 3001)]))
                time.sleep(delay)
                server.send_signal(SIGTERM)
                answers = client.answers()
                self.assertEqual([answer.type for answer in idle.answers()], [DRAINING])
            self.assertEqual(server.wait(), 0)
            receipts = [answer.number for answer in answers if answer.type == RECEIPT]
            self.assertEqual([answer.type for answer in answers if answer.type != RECEIPT], [DRAINING])
            self.assertEqual(receipts, list(range(1, len(receipts) + 1)))
            server = Server(self, cwd=server.directory)
            take_all(server.tcp, b"q", len(receipts))

    def test_stuck_reader(self) -> None:
        """A client that takes nothing does not keep a stop from ending in time."""
        server = Server(self)
        with Client(server.tcp) as client:
            client.send(b"q", *[b"x" * 100_000] * 300)
            client.consume(b"q", 300)
            time.sleep(0.3)
            start = time.monotonic()
            self.assertEqual(server.stop(), 0)
            self.assertLess(time.monotonic() - start, 10)

    def test_last_refusal(self) -> None:
        """A client that goes on sending behind a bad frame still gets all receipts from before it, and the refusal."""
        server = Server(self)
        sends = [send_frame(b"q", b"x", number, b"stored") for number in range(1, 3001)]
        with Client02(server.tcp) as client:
            with contextlib.suppress(ConnectionError):
                client.write(b"".join(sends) + b"H0299901" + b"".join(sends) * 10)
            answers = client.answers()
        self.assertEqual([answer.number for answer in answers[:-1]], list(range(1, 3001)))
        self.assertEqual((answers[-1].type, answers[-1].packets[13]), (REFUSED, b"unsupported"))
        self.assertIn("protocol error (unsupported)", server.output)

    def test_limit(self) -> None:
        """However few sends may be unconfirmed, all are receipted, in order, and others do not notice."""
        server = Server(self, "--max-unconfirmed", "7")
        with Client02(server.tcp) as client, Client(server.tcp) as other:
            client.write(b"".join([send_frame(b"q", b"%d" % number, number) for number in range(100)]))
            other.send(b"other", b"x")
            other.consume(b"other")
            self.assertEqual(other.read().body, b"x")
            self.assertEqual([client.answer().number for _ in range(100)], list(range(100)))
        self.assertEqual(bodies(take_all(server.tcp, b"q", 100)), [b"%d" % number for number in range(100)])

    def test_killed_key(self) -> None:
        """A key is known after kill -9, although its message was done with before; one that is not in the file is not."""
        server = Server(self, "--mirror-interval", "5")

        def sends(client: Client02, key: bytes, level: bytes = b"stored") -> tuple[bytes, bool]:
            client.write(frame(1, {1: b"q", 2: b"x", 8: level, 10: key, 6: b"1"}))
            receipt = client.answer()
            self.assertEqual(receipt.type, RECEIPT)
            return receipt.packets[3], 17 in receipt.packets

        with Client02(server.tcp) as client:
            first, _ = sends(client, b"k")
            client.consume(b"q")
            self.assertEqual(client.answer().packets[3], first)
            client.write(frame(4, {3: first, 6: b"2"}))
            self.assertEqual(client.answer().type, RECEIPT)
            self.assertEqual(sends(client, b"k", b"synced"), (first, True))
            client.write(frame(2, {1: b"q", 4: b"0", 6: b"3"}))
            self.assertEqual(client.answer().type, RECEIPT)
            lost, _ = sends(client, b"lost")
        self.assertEqual(server.stop(SIGKILL), -SIGKILL)
        server = Server(self, cwd=server.directory)
        with Client02(server.tcp) as client:
            self.assertEqual(sends(client, b"k"), (first, True))
            again, duplicate = sends(client, b"lost")
            self.assertEqual((again != lost, duplicate), (True, False))

    def test_both_versions(self) -> None:
        """Clients of both versions share a listener and a queue."""
        server = Server(self)
        with Client(server.tcp) as old, Client02(server.tcp) as new:
            old.send(b"q", b"1")
            old.consume(b"q", 1)
            first = old.read()
            new.write(send_frame(b"q", b"2", 2, b"stored"))
            self.assertEqual(new.answer().number, 2)
            old.send(b"q", b"3")
            new.consume(b"q", 9)
            deliveries = [new.answer(), new.answer()]
            self.assertEqual([(answer.type, answer.packets[2]) for answer in deliveries], [(DELIVERY, b"2"), (DELIVERY, b"3")])
            new.close()
            old.acknowledge(first)
            second = old.read()
            self.assertEqual((first.body, second.body), (b"1", b"2"))
