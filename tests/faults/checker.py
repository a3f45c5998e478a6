"""
Load for a server that is about to suffer, and a checker of what it made of it.

The checker records every send, delivery and acknowledgement. A message says where it comes from: round, queue, sender and number.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.functional.client import Client, send_frame
from tests.functional.server import Server

QUEUES = b"red", b"green"

#: How many messages a consumer holds at most.
WINDOW = 300

#: Makes commits large enough to be killed in.
PADDING = b"x" * 500

#: What a server has, or should have: bodies by queue, in order.
Content = Mapping[bytes, Sequence[bytes]]


def read_store(path: Path, copy: Path) -> dict[bytes, list[bytes]]:
    """What the last commit of a store has: read from a copy, so that the server finds its files as its predecessor left them."""
    copy.mkdir(exist_ok=True)
    for suffix in "", "-wal":
        target = copy / f"copy{suffix}"
        target.unlink(missing_ok=True)
        if Path(f"{path}{suffix}").exists():
            shutil.copyfile(f"{path}{suffix}", target)
    content: dict[bytes, list[bytes]] = {queue: [] for queue in QUEUES}
    with closing(sqlite3.connect(copy / "copy")) as database:
        rows = database.execute("SELECT name, body FROM message LEFT JOIN queue ON queue = queue.number ORDER BY position")
        for name, body in rows:
            content.setdefault(name.encode(), []).append(body)
    return content


def read_server(server: Server, expected: Content) -> dict[bytes, list[bytes]]:
    """What a server delivers, and with it back in its place: as many messages as expected, and those that are too many."""
    content = {}
    for queue, bodies in expected.items():
        with Client(server.tcp) as client:
            client.consume(queue, 65535)
            content[queue] = [client.read().body for _ in bodies]
            if not client.silent(0.05):
                content[queue].append(client.read().body)
    return content


class Load:
    """
    Senders and consumers at work, until they are stopped or hung up on.

    @ivar sent: what was sent at most, by queue and sender
    @ivar delivered: what arrived, by queue
    @ivar acknowledged: what may have been acknowledged, by queue, in order
    """

    def __init__(self, server: Server, label: int, consumed: Sequence[bytes] = QUEUES, senders: int = 3) -> None:
        self._label = label
        self.sent: dict[tuple[bytes, int], list[bytes]] = defaultdict(list)
        self.delivered: dict[bytes, list[bytes]] = {queue: [] for queue in QUEUES}
        self.acknowledged: dict[bytes, list[bytes]] = {queue: [] for queue in QUEUES}
        self.errors: list[Exception] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(self._send, server, n), daemon=True) for n in range(senders)]
        self._threads += [threading.Thread(target=self._work, args=(self._consume, server, queue), daemon=True) for queue in consumed]
        for thread in self._threads:
            thread.start()

    def _work(self, work: Callable[[Client, Any], None], server: Server, what: object) -> None:
        try:
            with Client(server.tcp) as client:
                work(client, what)
        except (OSError, EOFError):
            pass  # The server has gone, as it was told to.
        except Exception as error:
            self.errors.append(error)

    def _send(self, client: Client, sender: int) -> None:
        number = 0
        while not self._stop.is_set():
            frames = []
            for _ in range(20):
                for queue in QUEUES:
                    body = b"%d:%s:%d:%d %s" % (self._label, queue, sender, number, PADDING)
                    self.sent[queue, sender].append(body)
                    frames.append(send_frame(queue, body))
                number += 1
            client.write(b"".join(frames))
            time.sleep(0.005)

    def _consume(self, client: Client, queue: bytes) -> None:
        client.consume(queue, WINDOW)
        delivered, acknowledged = self.delivered[queue], self.acknowledged[queue]
        while True:
            delivery = client.read()
            delivered.append(delivery.body)
            if len(delivered) % 50:  # the others stay in flight
                acknowledged.append(delivery.body)
                client.acknowledge(delivery)

    def settled(self) -> set[bytes]:
        """What the server must have seen acknowledged: the window would not have let it deliver so much else."""
        return {
            body
            for queue, acknowledged in self.acknowledged.items()
            for body in acknowledged[: max(0, len(self.delivered[queue]) - WINDOW)]
        }

    def unsettled(self) -> set[bytes]:
        """What was delivered and not acknowledged."""
        return {body for queue in QUEUES for body in set(self.delivered[queue]) - set(self.acknowledged[queue])}

    def wait(self) -> None:
        """Wait until all have noticed that the server has gone."""
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
            if thread.is_alive():
                raise AssertionError("a client was not hung up on")

    @property
    def count(self) -> int:
        """How many messages were sent."""
        return sum(map(len, self.sent.values()))


class Checker:
    """
    Judges one round: from what a server had at the start, over what its clients did, to what is in its file.

    @ivar faults: what is wrong, one line each
    """

    def __init__(self, before: Content, load: Load, stored: Content) -> None:
        self.faults: list[str] = [f"a client failed: {error!r}" for error in load.errors]
        self._before, self._load, self._stored = before, load, stored
        self._report("unexpected", "queues in the file", set(stored) - set(QUEUES))
        for queue in QUEUES:
            self._check_deliveries(queue)
            self._check_file(queue)

    def _report(self, kind: str, where: object, what: Iterable[bytes]) -> None:
        found = sorted(what)
        if found:
            self.faults.append(f"{kind}, {where!r}: {len(found)}, such as {found[:3]}")

    def _sent(self, queue: bytes) -> set[bytes]:
        return {body for (name, _), bodies in self._load.sent.items() if name == queue for body in bodies}

    def _check_deliveries(self, queue: bytes) -> None:
        delivered = self._load.delivered[queue]
        self._report("unexpected delivery", queue, set(delivered) - self._sent(queue) - set(self._before[queue]))
        self._report("duplicated delivery", queue, [body for body, count in Counter(delivered).items() if count > 1])
        self._check_order("delivery", queue, delivered)

    def _check_order(self, kind: str, queue: bytes, bodies: Sequence[bytes]) -> None:
        """What was there before comes first and as it was, then each sender's messages in its order."""
        before = {body: place for place, body in enumerate(self._before[queue])}
        places = {body: place for (name, _), sent in self._load.sent.items() if name == queue for place, body in enumerate(sent)}
        last: dict[bytes, int] = {}
        for body in bodies:
            sender, place = (b"", before[body]) if body in before else (body.rpartition(b":")[0], places.get(body, -1))
            if place < last.get(sender, -1) or (not sender and len(last) > (b"" in last)):
                self.faults.append(f"{kind} out of order, {queue!r}: {body!r}")
                return
            last[sender] = place

    def _check_file(self, queue: bytes) -> None:
        stored, acknowledged = self._stored[queue], set(self._load.acknowledged[queue])
        there = set(stored)
        self._report("invented or back from the dead", queue, there - self._sent(queue) - set(self._before[queue]))
        self._report("duplicated in the file", queue, [body for body, count in Counter(stored).items() if count > 1])
        self._report("lost, was in the file before", queue, set(self._before[queue]) - there - acknowledged)
        self._check_order("file", queue, stored)
        for (name, _), sent in self._load.sent.items():
            if name == queue:
                # A commit has all that was accepted before what it has.
                last = max((place for place, body in enumerate(sent) if body in there), default=0)
                self._report("lost, later ones are in the file", queue, set(sent[:last]) - there - acknowledged)

    def check_clean_stop(self) -> None:
        """After a clean stop the file is up to date: all is there that was not acknowledged, and nothing that was."""
        there = {body for bodies in self._stored.values() for body in bodies}
        self._report("lost at a clean stop", "all", self._load.unsettled() - there)
        self._report("acknowledged, but back", "all", self._load.settled() & there)

    def check_recovered(self, recovered: Content) -> None:
        """A server that is started again has what is in the file, exactly."""
        for queue in QUEUES:
            if list(recovered[queue]) != list(self._stored[queue]):
                self._report("lost at the start", queue, set(self._stored[queue]) - set(recovered[queue]))
                self._report("unexpected at the start", queue, set(recovered[queue]) - set(self._stored[queue]))
                self.faults.append(f"not as in the file, {queue!r}")
