"""Senders and consumers at work, each on a connection and a thread of its own, who keep count themselves."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter

from tests.functional.client import Client, Delivery, packet
from tests.functional.server import PATIENCE, Server
from tests.functional.version02 import RECEIPT, Client02, send_frame

#: So many messages a consumer keeps; of those that come on top it settles the oldest.
KEPT = 10

# One message in so many is not acknowledged, but becomes a dead letter.
_BAD = 25


class Worker(ABC, threading.Thread):
    """
    One that works until it is told to stop.

    @ivar error: what went wrong
    """

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.error: Exception | None = None
        self._over = threading.Event()

    def run(self) -> None:
        """Work."""
        try:
            self._work()
        except Exception as error:
            self.error = error

    @abstractmethod
    def _work(self) -> None: ...

    def stop(self) -> None:
        """Stop, hang up, and say what went wrong."""
        self._over.set()
        self.join(PATIENCE)
        if self.error is not None:
            raise self.error


class Sender(Worker):
    """
    Sends one message after the other, each when the one before has its receipt; one that is refused is sent again.

    @ivar sent: how many have a receipt, by queue
    """

    def __init__(self, server: Server, queues: tuple[str, ...]) -> None:
        super().__init__(server)
        self.sent: Counter[str] = Counter()
        self._queues = queues

    def _work(self) -> None:
        with Client02(self.server.tcp) as client:
            number = 0
            while not self._over.is_set():
                queue = self._queues[number % len(self._queues)]
                client.write(send_frame(queue.encode(), b"x" * (number % 100), number, b"stored"))
                if client.answer().type == RECEIPT:
                    self.sent[queue] += 1
                    number += 1
                else:
                    time.sleep(0.01)


class Consumer(Worker):
    """
    Consumes a queue, with more in flight than it settles.

    @ivar held: what is in flight
    @ivar received: how many came
    @ivar acknowledged: how many it acknowledged
    @ivar buried: how many it made dead letters of
    """

    def __init__(self, server: Server, queue: str) -> None:
        super().__init__(server)
        self.queue = queue
        self.held: list[Delivery] = []
        self.received = self.acknowledged = self.buried = 0

    def _work(self) -> None:
        with Client(self.server.tcp) as client:
            client.consume(self.queue.encode(), 2 * KEPT)
            while not self._over.is_set():
                # It waits here, between two deliveries, so that a stop never comes in the middle of one.
                if not client.silent(0.05):
                    self.held.append(client.read())
                    if len(self.held) > KEPT:
                        self._settle(client, self.held.pop(0))
                    # Last, so that whoever finds that all that was delivered came also finds the rest done.
                    self.received += 1

    def _settle(self, client: Client, delivery: Delivery) -> None:
        if self.received % _BAD:
            client.acknowledge(delivery)
            self.acknowledged += 1
        else:
            client.write(b"H0100602" + packet(1, delivery.queue) + packet(3, delivery.id))
            self.buried += 1
