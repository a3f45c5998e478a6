"""How long the reactor stands still for what operators do to a server that has a lot."""

from __future__ import annotations

import http.client
import json
import os
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.benchmarks import load
from tests.benchmarks.brokers import Phpmq, free_port, phpmq_consume, phpmq_delivery, phpmq_send
from tests.benchmarks.table import Row, Scale, settled, stall

# Messages that a consumer holds.
_HELD = 50_000

_LARGE = 16 * 1024 * 1024


class OperatedPhpmq(Phpmq):
    """This server, with its HTTP API and its console."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.http_port, self.console_port = free_port(), free_port()

    def arguments(self) -> list[str]:
        """Its command line."""
        ports = {"--console": self.console_port, "--http": self.http_port}
        doors = [word for option, port in ports.items() for word in (option, f"tcp:{port}:interface=127.0.0.1")]
        return [*super().arguments(), *doors]

    def ask(self, method: str, path: str, value: Any = None) -> Any:
        """What the API answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=60)
        headers = {} if value is None else {"Content-Type": "application/json"}
        connection.request(method, f"/api/v1{path}", None if value is None else json.dumps(value), headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if response.status >= 400:
            raise ValueError(f"{method} {path}: {response.status} {content[:200]!r}")
        return json.loads(content)

    def watch(self, line: str, screens: int) -> None:
        """Watch so many screens of a monitor."""
        with load.connect(self.console_port) as console:
            console.sendall(f"plain\r\n{line}\r\n".encode())
            for _ in range(screens):
                load.await_bytes(console, b"q or Enter leaves")

    def fly(self, stack: ExitStack, queue: bytes, count: int) -> None:
        """Have messages in flight, until the stack is closed."""
        with load.connect(self.port) as sender:
            load.send(sender, phpmq_send(queue, load.BODY), count)
            self.settle(sender)
        for taken in range(0, count, _HELD):
            left = min(_HELD, count - taken)
            consumer = stack.enter_context(load.connect(self.port))
            consumer.sendall(phpmq_consume(queue, left))
            for found in load.deliveries(consumer, phpmq_delivery(queue, load.SIZE)):
                left -= len(found)
                if left <= 0:
                    break


def stalls(directory: Path, scale: Scale) -> Iterator[Row]:
    """The longest stalls while an operator looks, and does things, one after the other."""
    queues, flying = scale.scraped, scale.backlog // 4
    with OperatedPhpmq(directory) as server, ExitStack() as stack:
        server.send_to_many(queues * 3, queues)
        settled(server)
        server.stall()
        server.watch("monitor", 8)
        yield stall(server, f"{queues:,} queues, a monitor")
        for path in "/status", "/queues?limit=1000", "/queues?sort=-age&limit=1000", "/queues?filter=*9*&sort=rate":
            server.ask("GET", path)
            yield stall(server, f"{queues:,} queues, GET {path}")
        server.fly(stack, b"flying", flying)
        server.stall()
        for path in "", "/messages?state=in_flight&limit=1000":
            server.ask("GET", f"/queues/flying{path}")
            yield stall(server, f"{flying:,} in flight, GET {path or 'the queue'}")
        content = os.urandom(_LARGE)
        sent = server.ask("POST", "/queues/large/messages", {"body_base64": b64encode(content).decode()})
        yield stall(server, "a message of 16 MiB, sent")
        server.ask("GET", f"/queues/large/messages/{sent['id']}")
        yield stall(server, "read")
        with load.connect(server.port) as sender:
            load.send(sender, phpmq_send(b"bulky", b"x" * (_LARGE // 16)), 200)
            server.settle(sender)
        server.stall()
        server.ask("POST", "/queues/bulky/move", {"target": "moved"})
        yield stall(server, "200 messages of 1 MiB are moved")
        server.ask("POST", "/flush", {})
        server.settle(stack.enter_context(load.connect(server.port)))
        yield stall(server, "all queues are flushed")
