"""
The load: raw sockets and prebuilt frames, so that the broker is what takes the time.

Written for bodies that hold no line breaks and none of the protocols' words.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator

#: Messages that a consumer may hold, and that a sender may have unconfirmed where there are confirmations.
WINDOW = 1000

#: Bytes of a message.
SIZE = 100
BODY = b"x" * SIZE

# Frames joined into one write.
_CHUNK = 200

_RECEIVE = 256 * 1024


def connect(port: int, timeout: float = 10.0) -> socket.socket:
    """A connection, also to a server that only starts to listen within the time."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection


def receive(connection: socket.socket) -> bytes:
    """
    Some bytes.

    @raise EOFError: the server closed the connection
    """
    data = connection.recv(_RECEIVE)
    if not data:
        raise EOFError("the server closed the connection")
    return data


def await_bytes(connection: socket.socket, wanted: bytes) -> None:
    """Read until C{wanted} was in what was read."""
    data = b""
    while wanted not in data:
        data += receive(connection)


def send(connection: socket.socket, frame: bytes, count: int) -> None:
    """Send the same frame C{count} times."""
    chunk = frame * _CHUNK
    for _ in range(count // _CHUNK):
        connection.sendall(chunk)
    connection.sendall(frame * (count % _CHUNK))


def send_confirmed(connection: socket.socket, frame: bytes, count: int, confirmation: bytes) -> None:
    """Likewise where the server answers each with something that has C{confirmation} in it once; until the last has come."""
    chunk = frame * _CHUNK
    sent = confirmed = 0
    rest = b""
    while confirmed < count:
        while sent < count and sent - confirmed <= 2 * WINDOW - _CHUNK:
            connection.sendall(chunk if count - sent >= _CHUNK else frame * (count - sent))
            sent = min(sent + _CHUNK, count)
        data = rest + receive(connection)
        confirmed += data.count(confirmation)
        rest = data[1 - len(confirmation) :] if len(confirmation) > 1 else b""


def deliveries(connection: socket.socket, delivery: re.Pattern[bytes]) -> Iterator[list[re.Match[bytes]]]:
    """Without end, the complete deliveries of each read."""
    data = b""
    while True:
        data += receive(connection)
        found = list(delivery.finditer(data))
        if found:
            data = data[found[-1].end() :]
            yield found


def consume(connection: socket.socket, delivery: re.Pattern[bytes], count: int, settle: Callable[[bytes], bytes]) -> None:
    """Take C{count} messages and answer each with what C{settle} makes of its id, the pattern's first group."""
    for found in deliveries(connection, delivery):
        connection.sendall(b"".join([settle(match[1]) for match in found]))
        count -= len(found)
        if count <= 0:
            return
