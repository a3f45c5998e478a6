"""A blocking client of PHPMQ protocol version 01 on a plain socket; it shares no code with the server."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

#: Where a server listens: a TCP port of this machine, or a unix socket.
Address = int | Path

_PACKET = re.compile(rb"P(\d\d)(\d{29})")


class Delivery(NamedTuple):
    """A message as it came; C{ttl} is None in the original revision."""

    queue: bytes
    body: bytes
    id: bytes
    ttl: int | None


def packet(number: int, content: bytes) -> bytes:
    """One packet."""
    return b"P%02d%029d" % (number, len(content)) + content


def send_frame(queue: bytes, body: bytes, ttl: int = 0) -> bytes:
    """A send of the documented revision."""
    return b"H0100103" + packet(1, queue) + packet(2, body) + packet(5, b"%d" % ttl)


def original_send_frame(queue: bytes, body: bytes) -> bytes:
    """A send of the original revision."""
    return b"H0100102" + packet(1, queue) + packet(2, body)


def acknowledge_frame(delivery: Delivery) -> bytes:
    """The acknowledgement of a delivery."""
    return b"H0100402" + packet(1, delivery.queue) + packet(3, delivery.id)


class Client:
    """One connection."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None = None, timeout: float = 20.0) -> None:
        if isinstance(address, Path):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(str(address))
        else:
            self.socket = socket.create_connection(("127.0.0.1", address), timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self._timeout = timeout
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    # Out

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def send(self, queue: bytes, *bodies: bytes, ttl: int = 0) -> None:
        """Send messages, in the documented revision."""
        self.write(b"".join([send_frame(queue, body, ttl) for body in bodies]))

    def consume(self, queue: bytes, count: int = 1000) -> None:
        """Ask for a queue's messages."""
        self.write(b"H0100202" + packet(1, queue) + packet(4, b"%d" % count))

    def acknowledge(self, *deliveries: Delivery) -> None:
        """Settle messages."""
        self.write(b"".join(map(acknowledge_frame, deliveries)))

    # In

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self.socket.recv(1 << 18)
            if not data:
                raise EOFError("the server hung up")
            self._buffer += data
        result = bytes(self._buffer[:size])
        del self._buffer[:size]  # cheap at a bytearray's front
        return result

    def _packet(self) -> tuple[int, bytes]:
        header = self._exactly(32)
        match = _PACKET.fullmatch(header)
        if match is None:
            raise AssertionError(f"no packet header: {header!r}")
        return int(match[1]), self._exactly(int(match[2]))

    def read(self) -> Delivery:
        """The next delivery."""
        header = self._exactly(8)
        if header not in (b"H0100303", b"H0100304"):
            raise AssertionError(f"no delivery: {header!r}")
        packets = dict(self._packet() for _ in range(int(header[6:])))
        expected = {1, 2, 3} if header == b"H0100303" else {1, 2, 3, 5}
        if packets.keys() != expected:
            raise AssertionError(f"a delivery with the packets {sorted(packets)}")
        return Delivery(packets[1], packets[2], packets[3], int(packets[5]) if 5 in packets else None)

    def read_many(self, count: int, acknowledge: bool = False) -> list[Delivery]:
        """The next deliveries, settled at once if wanted."""
        result = []
        for _ in range(count):
            delivery = self.read()
            if acknowledge:
                self.acknowledge(delivery)
            result.append(delivery)
        return result

    def read_raw(self, size: int) -> bytes:
        """The next bytes."""
        return self._exactly(size)

    def silent(self, seconds: float = 0.15) -> bool:
        """Whether nothing comes and the connection stays open for a while."""
        if self._buffer:
            return False
        self.socket.settimeout(seconds)
        try:
            self._buffer += self.socket.recv(1 << 18)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(self._timeout)
        return False

    def hung_up(self, seconds: float = 5.0) -> bool:
        """Whether the server closes the connection in time, whatever it sends before."""
        self.socket.settimeout(seconds)
        deadline = time.monotonic() + seconds
        try:
            while time.monotonic() < deadline:
                if not self.socket.recv(1 << 18):
                    return True
        except TimeoutError:
            return False
        except OSError:
            return True  # Reset: the server did not read all that was sent.
        return False


def take_all(address: Address, queue: bytes, count: int, window: int = 1000) -> list[Delivery]:
    """
    Take and acknowledge that many messages, and see that no more come.

    @raise AssertionError: there are more
    """
    taken: list[Delivery] = []
    with Client(address) as client:
        client.consume(queue, window)
        while len(taken) < count:
            taken.append(client.read())
            client.acknowledge(taken[-1])
        if not client.silent():
            raise AssertionError(f"more than {count} messages in {queue!r}: {client.read()}")
    return taken


def bodies(deliveries: Iterable[Delivery]) -> list[bytes]:
    """What the messages say."""
    return [delivery.body for delivery in deliveries]
