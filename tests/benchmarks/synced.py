"""Brokers that answer a send once it is on the disk: how each is started and sent to."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

from tests.benchmarks import load
from tests.benchmarks.brokers import Beanstalkd, Broker, Phpmq, Redis, free_port, packet
from tests.benchmarks.load import BODY, SIZE

_QUEUE = b"bench"


class SyncedPhpmq(Phpmq):
    """This server, sends of protocol 2 at the level C{synced}."""

    def send(self, count: int) -> None:
        """Send messages, until the last is receipted."""
        frame = b"H0200104" + packet(1, _QUEUE) + packet(2, BODY) + packet(8, b"synced") + packet(6, b"1")
        with load.connect(self.port) as connection:
            load.send_confirmed(connection, frame, count, b"H02007")


class SyncedRedis(Redis):
    """A stream whose file is synced for each batch of commands."""

    name = "Redis Streams, appendfsync always"

    def arguments(self) -> list[str]:
        """Its command line."""
        return [*super().arguments(), "--appendfsync", "always"]


class SyncedBeanstalkd(Beanstalkd):
    """A tube whose binlog is synced for each job."""

    name = "beanstalkd -f 0"

    def arguments(self) -> list[str]:
        """Its command line."""
        return [*super().arguments(), "-f", "0"]


def _short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def _long(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def _method(group: int, number: int, arguments: bytes = b"", channel: int = 1) -> bytes:
    return _frame(1, channel, struct.pack(">HH", group, number) + arguments)


class RabbitMQ(Broker):
    """A quorum queue with publisher confirms. Source: AMQP 0-9-1, and RabbitMQ's manual."""

    name = "RabbitMQ, quorum queue"
    program = "rabbitmq-server"

    # The one on the path is for the package's own user and folders.
    _script = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

    @classmethod
    def _path(cls) -> str | None:
        return str(cls._script) if cls._script.exists() and shutil.which("epmd") else None

    def arguments(self) -> list[str]:
        """Its command line."""
        return []

    def start(self) -> None:
        """Start the process, with all that it writes in its folder."""
        self._mapper_port = free_port()
        config = self.directory / "rabbitmq.conf"
        config.write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\n")
        (self.directory / "plugins").write_text("[].\n")
        environment = {
            **os.environ,
            "HOME": str(self.directory),
            "RABBITMQ_NODENAME": f"bench{self.port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.directory),
            "RABBITMQ_LOG_BASE": str(self.directory),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                [str(self._script)], cwd=self.directory, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def __exit__(self, *error: object) -> None:
        """Stop it, with all that it started."""
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(30)
        # The port mapper outlives its nodes.
        subprocess.run(["epmd", "-port", str(self._mapper_port), "-kill"], check=True, stdout=subprocess.DEVNULL)

    def prepare(self) -> None:
        """Wait until it answers, and make the queue."""
        deadline = time.monotonic() + 60
        while True:
            try:
                self._open().close()
                return
            except (OSError, EOFError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def _open(self) -> socket.socket:
        connection = load.connect(self.port, 60)
        connection.settimeout(30)
        connection.sendall(b"AMQP\x00\x00\x09\x01")
        _await(connection, 10, 10)
        login = _short(b"PLAIN") + _long(b"\0guest\0guest") + _short(b"en_US")
        connection.sendall(_method(10, 11, struct.pack(">I", 0) + login, 0))
        _await(connection, 10, 30)
        connection.sendall(
            _method(10, 31, struct.pack(">HIH", 2047, 131072, 0), 0) + _method(10, 40, _short(b"/") + _short(b"") + b"\0", 0)
        )
        _await(connection, 10, 41)
        connection.sendall(_method(20, 10, _short(b"")))
        _await(connection, 20, 11)
        arguments = _short(b"x-queue-type") + b"S" + _long(b"quorum")
        connection.sendall(_method(50, 10, struct.pack(">H", 0) + _short(_QUEUE) + b"\x02" + _long(arguments)))
        _await(connection, 50, 11)
        connection.sendall(_method(85, 10, b"\0"))
        _await(connection, 85, 11)
        return connection

    def send(self, count: int) -> None:
        """Send messages, until the last is confirmed."""
        frame = (
            _method(60, 40, struct.pack(">H", 0) + _short(b"") + _short(_QUEUE) + b"\0")
            + _frame(2, 1, struct.pack(">HHQH", 60, 0, SIZE, 0x1000) + b"\x02")
            + _frame(3, 1, BODY)
        )
        chunk = 200
        with self._open() as connection:
            sent = confirmed = 0
            data = b""
            while confirmed < count:
                while sent < count and sent - confirmed <= 2 * load.WINDOW - chunk:
                    connection.sendall(frame * min(chunk, count - sent))
                    sent = min(sent + chunk, count)
                data += load.receive(connection)
                # basic.ack: 7 bytes before it, method 60.80, delivery tag, whether all before it too, and the end of the frame
                while len(data) >= 7 and len(data) >= (end := 8 + int.from_bytes(data[3:7], "big")):
                    if data[7:11] == b"\0\x3c\0\x50":
                        confirmed = max(confirmed, int.from_bytes(data[11:19], "big"))
                    data = data[end:]

    def consume(self, count: int) -> None:
        """It is only sent to."""
        raise NotImplementedError


def _await(connection: socket.socket, group: int, number: int) -> None:
    """Read frames until a method comes."""
    data = b""
    while True:
        data += load.receive(connection)
        while len(data) >= 7 and len(data) >= (end := 8 + int.from_bytes(data[3:7], "big")):
            if data[:1] == b"\1" and data[7:11] == struct.pack(">HH", group, number):
                return
            data = data[end:]


#: What synced sends are compared with.
SYNCED_PEERS: tuple[type[Broker], ...] = (RabbitMQ, SyncedBeanstalkd, SyncedRedis)
