"""Clients in PHP."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.client import Client, bodies, take_all
from tests.functional.server import TCP, Server

CLIENT = Path(__file__).with_name("client.php")


class PHPTests(SynchronousTestCase):
    """A client of the original revision, on listeners for everybody and on listeners for its like."""

    def setUp(self) -> None:
        """Start a server."""
        if shutil.which("php") is None:
            raise SkipTest("php is not installed")
        self.server = Server(self, "--listen-original", TCP)
        self.addresses = [f"tcp://127.0.0.1:{port}" for port in self.server.ports] + [f"unix://{self.server.unix}"]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the PHP client."""
        process = subprocess.Popen(["php", str(CLIENT), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def finish(self, process: subprocess.Popen[str]) -> list[str]:
        """What the PHP client printed, once it has ended well."""
        output, errors = process.communicate(timeout=30)
        self.assertEqual((process.returncode, errors), (0, ""))
        return output.split()

    def test_send_and_consume(self) -> None:
        """2,000 messages from one PHP client to another, in order, while they are being sent."""
        for number, address in enumerate(self.addresses):
            queue = f"queue {number}"
            consumer = self.start(address, "consume", queue, "2000", "100")
            sender = self.start(address, "send", queue, "0", "2000")
            self.finish(sender)
            self.assertEqual(self.finish(consumer), [str(number) for number in range(2000)])
            take_all(self.server.tcp, queue.encode(), 0)

    def test_backlog(self) -> None:
        """A PHP client takes a backlog that comes in one burst."""
        for address in self.addresses:
            self.finish(self.start(address, "send", "backlog", "0", "3000"))
            self.assertEqual(len(self.finish(self.start(address, "consume", "backlog", "3000", "3000"))), 3000)

    def test_mixed(self) -> None:
        """Messages of a documented sender reach a PHP client on the original listener, and a PHP client's reach a documented consumer."""
        with Client(self.server.tcp) as client:
            client.send(b"to php", *[b"%d" % number for number in range(100)], ttl=60)
            printed = self.finish(self.start(self.addresses[1], "consume", "to php", "100", "10"))
            self.assertEqual(printed, [str(number) for number in range(100)])
            self.finish(self.start(self.addresses[0], "send", "from php", "0", "100"))
            client.consume(b"from php")
            deliveries = client.read_many(100, acknowledge=True)
        self.assertEqual(bodies(deliveries), [b"%d" % number for number in range(100)])
        self.assertEqual({delivery.ttl for delivery in deliveries}, {0})
