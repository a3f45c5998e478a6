"""A server on a unix socket, in a thread, that stalls, hangs up and comes back as a test wants."""

from __future__ import annotations

import select
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from phpmq.broker import Broker
from phpmq.interfaces import IConnection
from phpmq.server_frames import Versions
from phpmq.session import Session
from phpmq.store import SQLiteStore, upgrade


@implementer(IConnection)
class _Client:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.outgoing = bytearray()
        self.session: Session | None = None
        self.closing = False

    def write(self, data: bytes) -> None:
        """Send bytes; see L{IConnection}."""
        if not self.closing:
            self.outgoing += data

    def stop_reading(self) -> None:
        """See L{IConnection}."""

    def resume_reading(self) -> None:
        """See L{IConnection}."""

    def broken(self, error: Exception) -> None:
        """Close; see L{IConnection}."""
        self.closing = True


class SocketServer:
    """
    Broker and store of a server, reached over a unix socket.

    @ivar path: the socket
    @ivar broker: the queues; to be used within C{with server.lock} or by L{do}
    @ivar clients: the connections
    @ivar accepted: how many connections there were
    @ivar stalled: set it, and the server neither reads nor writes
    @ivar greeting: what each new client is told before it is hung up on; None for one that is served
    """

    def __init__(self, case: SynchronousTestCase, max_message_size: int = 1 << 24) -> None:
        folder = tempfile.TemporaryDirectory(prefix="phpmq-")
        case.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "socket"
        self.lock = threading.RLock()
        self.accepted = 0
        self.stalled = False
        self.greeting: bytes | None = None
        self._versions = Versions(max_message_size)
        database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        upgrade(database)
        self._store = SQLiteStore(database)
        self.broker = Broker(self._store, lambda: int(time.monotonic() * 1000))
        self.failing = False
        self.broker.confirms.mirror = self  # type: ignore[assignment]
        self.clients: list[_Client] = []
        self._listener: socket.socket | None = None
        self._running = True
        self.listen()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        case.addCleanup(self._end)

    @property
    def address(self) -> str:
        """Where it listens, as clients write it."""
        return f"unix:{self.path}"

    # What a test does

    def do(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call something of the broker."""
        with self.lock:
            result = call(*arguments)
            self.broker.dispatch()
            return result

    def bodies(self, queue: str = "q") -> list[bytes]:
        """What waits in a queue."""
        with self.lock:
            there = self.broker.queues.get(queue)
            return [] if there is None else [message.body for message in self._store.read(there, there.flushed_to, 2**31, 2**62)]

    def listen(self) -> None:
        """Be there."""
        with self.lock:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self.path))
            self._listener.listen(64)

    def vanish(self) -> None:
        """Be there no more, with all connections."""
        with self.lock:
            if self._listener is not None:
                self._listener.close()
                self._listener = None
                self.path.unlink()
            self.hang_up()

    def hang_up(self) -> None:
        """Cut all connections."""
        with self.lock:
            for client in self.clients:
                self._close(client)
            self.clients = []

    # IMirror

    def sync_soon(self) -> None:
        """Nothing to do: it is written all the time."""

    def _write(self) -> None:
        while (delta := self._store.changelog.extract(10_000, 1 << 24, {})) is not None:
            self._store.changelog.confirm(delta)
        self.broker.synced()

    # The thread

    def _run(self) -> None:
        while self._running:
            with self.lock:
                self.broker.tick()
                self._write()
                sockets = [] if self._listener is None else [self._listener]
                sockets += [] if self.stalled else [client.socket for client in self.clients]
                writers = [] if self.stalled else [client.socket for client in self.clients if client.outgoing]
            try:
                readable, _, _ = select.select(sockets, writers, [], 0.005)
            except (OSError, ValueError):
                continue  # One was closed meanwhile.
            with self.lock:
                self._serve(set(readable))

    def _serve(self, readable: set[socket.socket]) -> None:
        if self._listener is not None and self._listener in readable:
            self._accept(self._listener.accept()[0])
        if self.stalled:
            return
        for client in self.clients.copy():
            if client.socket.fileno() in (one.fileno() for one in readable):
                self.read(client)
        for client in self.clients.copy():
            self._flush(client)

    def _accept(self, connection: socket.socket) -> None:
        self.accepted += 1
        if self.greeting is not None:
            connection.sendall(self.greeting)
            connection.close()
            return
        client = _Client(connection)
        client.session = Session(self.broker, self._versions, client)
        self.clients.append(client)

    def read(self, client: _Client) -> None:
        """Read some of what a client sent, even if the server is stalled."""
        try:
            data = client.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.clients = [one for one in self.clients if one is not client]
            self._close(client)
        elif client.session is not None and not client.closing:
            client.session.receive(data)

    def _flush(self, client: _Client) -> None:
        try:
            while client.outgoing:
                sent = client.socket.send(client.outgoing)
                del client.outgoing[:sent]
        except BlockingIOError:
            return
        except OSError:
            client.closing = True
        if client.closing:
            self.clients.remove(client)
            self._close(client)

    def _close(self, client: _Client) -> None:
        client.socket.close()
        if client.session is not None:
            client.session.close()

    def _end(self) -> None:
        self._running = False
        self._thread.join()
        with self.lock:
            self.hang_up()
            if self._listener is not None:
                self._listener.close()
            self._store.close()
