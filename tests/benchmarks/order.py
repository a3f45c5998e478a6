"""Whether a queue is first in, first out, also through a restart while its senders send."""

from __future__ import annotations

import multiprocessing
import socket
import sqlite3
import time
from collections import Counter
from contextlib import closing, suppress
from multiprocessing.sharedctypes import RawArray

from tests.benchmarks import load
from tests.benchmarks.brokers import Phpmq, phpmq_ack, phpmq_consume, phpmq_delivery, phpmq_send

_SENDERS = 8
_QUEUE = b"order"
_BODY = b"%d%09d"
_SIZE = 10


class Order:
    """
    Eight senders send numbered messages as fast as they can, a consumer takes some, and the server restarts.

    Version 01 has no receipts: what the server had accepted when it stopped is what its file and the consumer have, and there each
    sender goes on. The consumer holds a window of messages when the server stops; these have to come first afterwards.

    @ivar count: how many messages there are
    @ivar before: how many of them were accepted before the restart
    @ivar lost: messages that never came
    @ivar duplicated: messages that came again after they were acknowledged, or more often than they were delivered
    @ivar misplaced: messages that came after a later one of the same sender, or at another place than they have in the file
    """

    def __init__(self, server: Phpmq, count: int) -> None:
        self._server = server
        self._each = count // _SENDERS
        self.count = self._each * _SENDERS
        # How far the server is with each sender.
        self._sent = RawArray("q", _SENDERS)
        self.before = self.lost = self.duplicated = self.misplaced = 0

    def run(self) -> None:
        """Do all that and count."""
        senders = self._senders([0] * _SENDERS)
        with self._server:
            connection = load.connect(self._server.port)
            taken = self._take(connection, max(self.count // 20, 2 * load.WINDOW))
            while sum(self._sent) < self.count // 2:
                time.sleep(0.001)
            if sum(self._sent) == self.count:
                raise RuntimeError("the senders were done before the restart: nothing was tested")
        connection.close()
        settled, held = taken[: -load.WINDOW], taken[-load.WINDOW :]
        waiting = self._waiting()
        accepted = settled + waiting
        self.before = len(accepted)
        self._compare(waiting[: len(held)], held)
        with self._server:
            senders = self._senders([sum(1 for body in accepted if body[0] == 48 + sender) for sender in range(_SENDERS)])
            with load.connect(self._server.port) as connection:
                rest = self._take(connection, self.count - len(settled))
            self._finish(senders)
        self._compare(rest[: len(waiting)], waiting)
        self._judge(settled + rest)

    # Senders

    def _senders(self, begins: list[int]) -> list[multiprocessing.process.BaseProcess]:
        fork = multiprocessing.get_context("fork")
        processes = [fork.Process(target=self._send, args=(sender, begin), daemon=True) for sender, begin in enumerate(begins)]
        for process in processes:
            process.start()
        return list(processes)

    def _send(self, sender: int, begin: int) -> None:
        frame = phpmq_send(_QUEUE, b"." * _SIZE).split(b"." * _SIZE)
        with suppress(ConnectionError, EOFError), load.connect(self._server.port) as connection:
            for number in range(begin, self._each, load.WINDOW):
                numbers = range(number, min(number + load.WINDOW, self._each))
                connection.sendall(b"".join([(_BODY % (sender, each)).join(frame) for each in numbers]))
                # Else all would soon wait in the sockets' buffers, and the restart not be in the middle.
                self._server.settle(connection)
                self._sent[sender] = numbers.stop

    @staticmethod
    def _finish(senders: list[multiprocessing.process.BaseProcess]) -> None:
        for sender in senders:
            sender.join(60)
            sender.kill()

    # Consumer

    def _take(self, connection: socket.socket, count: int) -> list[bytes]:
        """The bodies of that many messages, settled but for the last window: so not one more is delivered."""
        bodies: list[bytes] = []
        deliveries = load.deliveries(connection, phpmq_delivery(_QUEUE, _SIZE))
        connection.sendall(phpmq_consume(_QUEUE, load.WINDOW))
        while len(bodies) < count:
            found = next(deliveries)
            settled = max(0, min(len(found), count - load.WINDOW - len(bodies)))
            connection.sendall(b"".join([phpmq_ack(_QUEUE, match[1]) for match in found[:settled]]))
            bodies += [match[2] for match in found]
        self._server.settle(connection)
        return bodies

    def _waiting(self) -> list[bytes]:
        with closing(sqlite3.connect(f"file:{self._server.store}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT body FROM message JOIN queue ON queue.number = queue WHERE name = ? ORDER BY position", (_QUEUE.decode(),)
            )
            return [bytes(body) for (body,) in rows]

    # Judgement

    def _compare(self, got: list[bytes], expected: list[bytes]) -> None:
        self.misplaced += sum(map(bytes.__ne__, got, expected)) + abs(len(expected) - len(got))

    def _judge(self, bodies: list[bytes]) -> None:
        """Each sender's messages have to be there, each once, in order."""
        times = Counter(bodies)
        self.duplicated += len(bodies) - len(times)
        self.lost += self.count - len(times)
        latest = [-1] * _SENDERS
        for body in times:
            sender, number = body[0] - 48, int(body[1:])
            self.misplaced += number < latest[sender]
            latest[sender] = max(latest[sender], number)
