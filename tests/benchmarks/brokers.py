"""phpmq and its peers: how each is started and spoken to."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.benchmarks import load
from tests.benchmarks.load import BODY, SIZE, WINDOW

_ROOT = Path(__file__).resolve().parents[2]
_QUEUE = b"bench"


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Broker(ABC):
    """
    A broker's process in a directory of its own, a context manager; and a client of it.

    @ivar name: what the table calls it
    @ivar program: what has to be installed
    """

    name: ClassVar[str]
    program: ClassVar[str]

    def __init__(self, directory: Path) -> None:
        self.directory = directory / self.program
        self.directory.mkdir(exist_ok=True)
        self.port = free_port()
        self.process: subprocess.Popen[bytes]

    @classmethod
    def installed(cls) -> bool:
        """Whether it can be started here."""
        return cls._path() is not None

    @classmethod
    def _path(cls) -> str | None:
        return shutil.which(cls.program, path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")

    def __enter__(self) -> Self:
        """Start it and wait until it answers."""
        self.start()
        self.prepare()
        return self

    def start(self) -> None:
        """Start the process."""
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen([self._path() or self.program, *self.arguments()], cwd=self.directory, stdout=log, stderr=log)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        """Stop it, one way or the other."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def busy(self) -> float:
        """Seconds of processor time used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @abstractmethod
    def arguments(self) -> list[str]:
        """Its command line."""

    @abstractmethod
    def prepare(self) -> None:
        """Wait until it answers, and make the queue."""

    @abstractmethod
    def send(self, count: int) -> None:
        """Send messages, until the last is accepted."""

    @abstractmethod
    def consume(self, count: int) -> None:
        """Take messages and acknowledge each."""


def packet(number: int, content: bytes) -> bytes:
    """A packet of PHPMQ's protocol."""
    return b"P%02d%029d" % (number, len(content)) + content


def phpmq_send(queue: bytes, body: bytes) -> bytes:
    """A frame that sends a message."""
    return b"H0100103" + packet(1, queue) + packet(2, body) + packet(5, b"0")


def phpmq_consume(queue: bytes, window: int) -> bytes:
    """A frame that asks for messages."""
    return b"H0100202" + packet(1, queue) + packet(4, b"%d" % window)


def phpmq_ack(queue: bytes, message_id: bytes) -> bytes:
    """A frame that settles a message."""
    return b"H0100402" + packet(1, queue) + packet(3, message_id)


def phpmq_delivery(queue: bytes, size: int) -> re.Pattern[bytes]:
    """What a delivery looks like; its groups are id and body."""
    begin = re.escape(b"H0100304" + packet(1, queue) + packet(2, b"x" * size)[:32])
    return re.compile(begin + b"(?=.{%d}(.{32}))(.{%d}).{64}P050{28}10" % (size + 32, size), re.DOTALL)


class Phpmq(Broker):
    """This server, with its file mirror at the default."""

    name = "phpmq"
    program = "phpmq"

    @classmethod
    def installed(cls) -> bool:
        """Always."""
        return True

    @property
    def store(self) -> Path:
        """Its file."""
        return self.directory / "phpmq.db"

    def start(self) -> None:
        """Start C{twistd phpmq} with a recorder of its stalls."""
        self._reports, report = os.pipe()
        command = [sys.executable, "-m", "tests.benchmarks.recorded", str(report), *self.arguments()]
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(command, cwd=_ROOT, stdout=log, stderr=log, pass_fds=[report])
        os.close(report)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        """Stop it."""
        super().__exit__(kind, value, traceback)
        os.close(self._reports)

    def arguments(self) -> list[str]:
        """Its command line."""
        listen = f"tcp:{self.port}:interface=127.0.0.1"
        doors = ["--console", "none", "--http", "none"]
        return ["--nodaemon", "--pidfile=", "phpmq", "--listen", listen, *doors, "--store", str(self.store)]

    def stall(self) -> tuple[float, float]:
        """The reactor's longest stall since the last call, and how much of it was its own work; seconds."""
        self.process.send_signal(signal.SIGUSR2)
        if not select.select([self._reports], [], [], 30)[0]:
            raise TimeoutError("the recorder does not answer")
        report = json.loads(os.read(self._reports, 4096))
        return report["stall"], report["busy"]

    def prepare(self) -> None:
        """Wait until it answers."""
        with load.connect(self.port) as connection:
            self.settle(connection)

    def settle(self, connection: socket.socket) -> None:
        """
        Wait until the server took all that was sent on a connection that does not consume.

        Version 01 has no receipts, so a message to another queue is sent behind, and its delivery awaited.
        """
        queue = b"settled-%d" % connection.getsockname()[1]
        connection.sendall(phpmq_consume(queue, 1) + phpmq_send(queue, b"."))
        match = next(load.deliveries(connection, phpmq_delivery(queue, 1)))[0]
        connection.sendall(phpmq_ack(queue, match[1]))

    def send(self, count: int) -> None:
        """Send messages, until the last is accepted."""
        with load.connect(self.port) as connection:
            load.send(connection, phpmq_send(_QUEUE, BODY), count)
            self.settle(connection)

    def send_to_many(self, count: int, queues: int) -> None:
        """Likewise, in turn to so many other queues."""
        round_ = b"".join(phpmq_send(b"other-%d" % number, BODY) for number in range(queues))
        with load.connect(self.port) as connection:
            for _ in range(count // queues):
                connection.sendall(round_)
            self.settle(connection)

    def consume(self, count: int) -> None:
        """Take messages and acknowledge each."""
        begin = phpmq_ack(_QUEUE, b"." * 32)[:-32]
        with load.connect(self.port) as connection:
            connection.sendall(phpmq_consume(_QUEUE, WINDOW))
            load.consume(connection, phpmq_delivery(_QUEUE, SIZE), count, begin.__add__)


def resp(*words: bytes) -> bytes:
    """A command in Redis' protocol."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


class Redis(Broker):
    """A stream with one group, appendonly; acknowledged entries are deleted, as a queue's are."""

    name = "Redis Streams"
    program = "redis-server"

    _entry = re.compile(rb"\$\d+\r\n(\d+-\d+)\r\n\*2\r\n\$1\r\nb\r\n\$%d\r\n.{%d}\r\n" % (SIZE, SIZE))
    _reply = re.compile(rb"\*1\r\n\*2\r\n\$\d+\r\n%s\r\n\*(\d+)\r\n" % _QUEUE)

    def arguments(self) -> list[str]:
        """Its command line."""
        return ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), "--appendonly", "yes", "--save", ""]

    def prepare(self) -> None:
        """Wait until it answers, and make the group."""
        with load.connect(self.port) as connection:
            connection.sendall(resp(b"XGROUP", b"CREATE", _QUEUE, b"g", b"0", b"MKSTREAM"))
            load.await_bytes(connection, b"+OK\r\n")

    def send(self, count: int) -> None:
        """Send messages, until the last is accepted."""
        with load.connect(self.port) as connection:
            load.send_confirmed(connection, resp(b"XADD", _QUEUE, b"*", b"b", BODY), count, b"$")

    def consume(self, count: int) -> None:
        """Take messages and acknowledge each."""
        request = resp(
            *(b"XREADGROUP", b"GROUP", b"g", b"c", b"COUNT", b"%d" % WINDOW, b"BLOCK", b"10000", b"STREAMS", _QUEUE, b">"),
        )
        with load.connect(self.port) as connection:
            while count > 0:
                connection.sendall(request)
                ids = self._batch(connection)
                connection.sendall(resp(b"XACK", _QUEUE, b"g", *ids) + resp(b"XDEL", _QUEUE, *ids))
                load.await_bytes(connection, b":%d\r\n" % len(ids) * 2)
                count -= len(ids)

    def _batch(self, connection: socket.socket) -> list[bytes]:
        data = b""
        while (reply := self._reply.match(data)) is None:
            data += load.receive(connection)
        data = data[reply.end() :]
        ids: list[bytes] = []
        while True:
            found = list(self._entry.finditer(data))
            if found:
                ids += [match[1] for match in found]
                data = data[found[-1].end() :]
            if len(ids) >= int(reply[1]):
                return ids
            data += load.receive(connection)


class Beanstalkd(Broker):
    """A tube with the binlog on, at its default interval of fsync."""

    name = "beanstalkd"
    program = "beanstalkd"

    def arguments(self) -> list[str]:
        """Its command line."""
        return ["-l", "127.0.0.1", "-p", str(self.port), "-b", str(self.directory)]

    def prepare(self) -> None:
        """Wait until it answers."""
        load.connect(self.port).close()

    def send(self, count: int) -> None:
        """Send messages, until the last is accepted."""
        with load.connect(self.port) as connection:
            connection.sendall(b"use %s\r\n" % _QUEUE)
            load.await_bytes(connection, b"\r\n")
            load.send_confirmed(connection, b"put 0 0 120 %d\r\n%s\r\n" % (SIZE, BODY), count, b"\n")

    def consume(self, count: int) -> None:
        """Take messages and acknowledge each; what is asked for too much at the end goes with the connection."""
        with load.connect(self.port) as connection:
            connection.sendall(b"watch %s\r\nignore default\r\n" % _QUEUE + b"reserve\r\n" * WINDOW)
            delivery = re.compile(rb"RESERVED (\d+) %d\r\n.{%d}\r\n" % (SIZE, SIZE))
            load.consume(connection, delivery, count, lambda number: b"delete %s\r\nreserve\r\n" % number)


class Nats(Broker):
    """A JetStream work queue in a file, with a consumer that is pushed to."""

    name = "NATS JetStream"
    program = "nats-server"

    def arguments(self) -> list[str]:
        """Its command line."""
        return ["-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.directory)]

    def _connect(self, subject: bytes) -> socket.socket:
        connection = load.connect(self.port)
        connection.sendall(b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\nSUB %s 1\r\nPING\r\n' % subject)
        load.await_bytes(connection, b"PONG\r\n")
        return connection

    def _ask(self, subject: str, **request: object) -> None:
        body = json.dumps(request).encode()
        with self._connect(b"_answer") as connection:
            connection.sendall(b"PUB $JS.API.%s _answer %d\r\n%s\r\n" % (subject.encode(), len(body), body))
            answer = b""
            while not answer.endswith(b"}\r\n"):
                answer += load.receive(connection)
        if b'"error"' in answer:
            raise RuntimeError(answer)

    def prepare(self) -> None:
        """Wait until it answers, and make stream and consumer."""
        for _ in range(200):
            try:
                self._ask("STREAM.CREATE.bench", name="bench", subjects=["bench"], retention="workqueue", storage="file")
                break
            except (OSError, EOFError, RuntimeError):
                time.sleep(0.05)  # It listens before it is ready.
        config = {"durable_name": "c", "deliver_subject": "_push", "ack_policy": "explicit", "max_ack_pending": WINDOW}
        self._ask("CONSUMER.DURABLE.CREATE.bench.c", stream_name="bench", config=config)

    def send(self, count: int) -> None:
        """Send messages, until the last is accepted."""
        with self._connect(b"_a") as connection:
            load.send_confirmed(connection, b"PUB %s _a %d\r\n%s\r\n" % (_QUEUE, SIZE, BODY), count, b"MSG _a")

    def consume(self, count: int) -> None:
        """Take messages and acknowledge each."""
        delivery = re.compile(rb"MSG \S+ 1 (\S+) %d\r\n.{%d}\r\n" % (SIZE, SIZE))
        with self._connect(b"_push") as connection:
            load.consume(connection, delivery, count, lambda reply: b"PUB %s 4\r\n+ACK\r\n" % reply)


#: What phpmq is compared with.
PEERS: tuple[type[Broker], ...] = (Redis, Beanstalkd, Nats)
