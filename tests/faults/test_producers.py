"""Producers whose server is killed or stopped, again and again: what has a receipt is there, once and in order."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.checker import PADDING, QUEUES, Load, read_store
from tests.functional.client import take_all
from tests.functional.server import Server, directory
from tests.functional.version02 import DRAINING, RECEIPT, Answer, Client02, send_frame

#: The producers' queue, which nobody consumes until the end.
KEPT = b"kept"

#: Sends that a producer has under way.
UNCONFIRMED = 400


class Producer:
    """
    A producer that sends as long as it is let, and on the next connection first repeats what has no receipt.

    @ivar number: of its latest message
    @ivar pending: frames without a receipt, by number
    @ivar receipted: the highest number that has one
    @ivar duplicates: how many receipts said that a message was there already
    @ivar error: what went wrong, other than that the server has gone
    """

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.number = 0
        self.pending: dict[int, bytes] = {}
        self.receipted = self.duplicates = 0
        self.error: Exception | None = None
        self._thread = threading.Thread()

    def body(self, number: int) -> bytes:
        """What a message says."""
        return b"%s:%d %s" % (self.name, number, PADDING)

    def start(self, server: Server) -> None:
        """Send until the server has gone."""
        self._thread = threading.Thread(target=self._work, args=(server,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until it has noticed that the server has gone."""
        self._thread.join(20)
        if self._thread.is_alive():
            raise AssertionError("a producer was not hung up on")
        if self.error is not None:
            raise self.error

    def finish(self, server: Server) -> None:
        """Repeat what has no receipt, until all have one."""
        with Client02(server.tcp) as client:
            self._repeat(client)
            while self.pending:
                self._take(client.answer())

    def _work(self, server: Server) -> None:
        try:
            with Client02(server.tcp) as client:
                # The server has gone, as it was told to. What it said last is still to be read.
                with contextlib.suppress(OSError):
                    self._send_on(client)
                for answer in client.answers():
                    self._take(answer)
        except (OSError, EOFError):
            pass
        except Exception as error:
            self.error = error

    def _send_on(self, client: Client02) -> None:
        """Repeat, then send, until the server says that it stops."""
        self._repeat(client)
        while True:
            if len(self.pending) < UNCONFIRMED:
                self._send(client, 40)
            while len(self.pending) >= UNCONFIRMED:
                answer = client.answer()
                if answer.type == DRAINING:
                    return
                self._take(answer)

    def _repeat(self, client: Client02) -> None:
        client.hello(self.name)
        client.write(b"".join(self.pending.values()))

    def _send(self, client: Client02, count: int) -> None:
        frames = []
        for _ in range(count):
            self.number += 1
            frames.append(send_frame(KEPT, self.body(self.number), self.number))
            self.pending[self.number] = frames[-1]
        client.write(b"".join(frames))

    def _take(self, answer: Answer) -> None:
        if answer.type == RECEIPT:
            del self.pending[answer.number]
            self.receipted = max(self.receipted, answer.number)
            self.duplicates += 17 in answer.packets
        elif answer.type != DRAINING:
            raise AssertionError(f"refused: {answer}")


class ProducersTests(SynchronousTestCase):
    """Two producers, and others at work in protocol 01, round after round on the same store."""

    timeout = 60

    def check(self, producers: Sequence[Producer], bodies: Sequence[bytes], when: str, cleanly: bool = True) -> None:
        """Of each producer all messages up to one are there, once and in order: up to the last receipted one, or perhaps a later one."""
        total = 0
        for producer in producers:
            found = [body for body in bodies if body.startswith(producer.name + b":")]
            last = len(found)
            self.assertEqual(found, [producer.body(number) for number in range(1, last + 1)], when)
            if cleanly:
                self.assertEqual(last, producer.receipted, when)
            self.assertGreaterEqual(last, producer.receipted, f"receipted and lost, {when}")
            total += last
        self.assertEqual(len(bodies), total, when)

    def run_rounds(self, number: int, rounds: int) -> list[Producer]:
        """End the server so many times by a signal, then let the producers finish."""
        chance = random.Random(number)
        producers = [Producer(b"one"), Producer(b"two")]
        cwd = directory(self)
        for label in range(rounds):
            server = Server(self, cwd=cwd)
            load = Load(server, label, QUEUES, senders=1)
            for producer in producers:
                producer.start(server)
            time.sleep(chance.uniform(0.1, 0.5))
            code = server.stop(number)
            self.assertEqual(code, -9 if number == signal.SIGKILL else 0, server.output)
            self.assertNotIn("Traceback", server.output)
            load.wait()
            for producer in producers:
                producer.wait()
            self.check(producers, read_store(server.store, cwd / "copy")[KEPT], f"round {label}", number != signal.SIGKILL)
        server = Server(self, cwd=cwd)
        for producer in producers:
            producer.finish(server)
        count = sum(producer.number for producer in producers)
        self.check(producers, [delivery.body for delivery in take_all(server.tcp, KEPT, count)], "at the end")
        self.assertGreater(count, 1000 * rounds)
        return producers

    def test_kill(self) -> None:
        """kill -9, 10 times: no receipted message is lost, none is stored twice, all are in order."""
        producers = self.run_rounds(signal.SIGKILL, 10)
        # Otherwise nothing was repeated that was there already, and it proves little.
        self.assertGreater(sum(producer.duplicates for producer in producers), 0)

    def test_terminate(self) -> None:
        """SIGTERM, 4 times: the same, with exit code 0, and whatever is stored has its receipt."""
        self.run_rounds(signal.SIGTERM, 4)
