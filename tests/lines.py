"""A client's connection and a real server's session, with a line between them that a test can cut at any byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from zope.interface import implementer

from phpmq.broker import Broker
from phpmq.client_connection import ClientConnection, Delivery, Request
from phpmq.errors import PHPMQError
from phpmq.interfaces import IConnection, IMirror
from phpmq.mirror import StoreFile
from phpmq.server_frames import Versions
from phpmq.session import Session
from phpmq.store import SQLiteStore

_MANY = 2**31


@implementer(IMirror)
class FileServer:
    """
    Broker and store of a server, and a file that is written when the test says so.

    @ivar now: the time, in milliseconds
    @ivar sync_wanted: whether a receipt depends on a write of the file
    """

    def __init__(self, path: Path, max_message_size: int = 1 << 20) -> None:
        self._path = str(path)
        self._versions = Versions(max_message_size)
        self.now = 1_000_000
        self.failing = False
        self.lines: list[Line] = []
        self.start()

    def start(self) -> None:
        """Start from the file."""
        self._file = StoreFile(self._path)
        memory, damaged = self._file.open()
        assert damaged == 0
        # No crash here is one of the machine.
        self._file._connect().execute("PRAGMA synchronous = OFF")
        self.store = SQLiteStore(memory)
        self.broker = Broker(self.store, lambda: self.now, wake=lambda: None)
        self.broker.confirms.mirror = self
        self.sync_wanted = False
        self.write()

    def session(self, connection: IConnection) -> Session:
        """A session."""
        return Session(self.broker, self._versions, connection)

    def sync_soon(self) -> None:
        """Note it; see L{IMirror}."""
        self.sync_wanted = True

    def write(self) -> None:
        """The file gets all that is new, and those who wait for that hear of it."""
        self.sync_wanted = False
        while (delta := self.store.changelog.extract(_MANY, _MANY, {})) is not None:
            self._file.apply(delta)
            self.store.changelog.confirm(delta)
        self.broker.synced()

    def close(self) -> None:
        """The process ends as it is."""
        self.store.close()
        self._file.close()

    def crash(self) -> None:
        """The process dies with all its connections, and starts again with what is in the file."""
        for line in list(self.lines):
            line.cut()
        self.close()
        self.start()

    def stop(self) -> None:
        """The process stops as it should, and starts again. What it said arrives before its connections close."""
        lines = list(self.lines)
        self.broker.stop()
        for line in lines:
            line.session.drain()
        self.write()
        for line in lines:
            line.down()
            line.cut()
        self.close()
        self.start()

    def bodies(self, queue: str) -> list[bytes]:
        """What waits in a queue, in order."""
        there = self.broker.queues.get(queue)
        return [] if there is None else [message.body for message in self.store.read(there, there.flushed_to, _MANY, _MANY)]

    def ids(self) -> set[str]:
        """The ids of all that waits."""
        messages = [message for queue in self.broker.queues.values() for message in self.store.read(queue, queue.flushed_to, _MANY, _MANY)]
        return {self.broker.lifecycle.message_id(message.number).decode() for message in messages}


@implementer(IConnection)
class Line:
    """
    A connection of a L{ClientConnection} to a L{FileServer}. What is written is on its way until the test has it arrive.

    @ivar to_server: bytes on their way there
    @ivar to_client: bytes on their way back
    @ivar connected: whether it is
    """

    def __init__(self, connection: ClientConnection, server: FileServer) -> None:
        self._connection, self._server = connection, server
        self.to_server, self.to_client = bytearray(), bytearray()
        self.connected = True
        self._abandoned = self._closing = False
        server.lines.append(self)
        self.session = server.session(self)
        connection.connected(self._say)

    def _say(self, data: bytes) -> None:
        # A transport takes what is written to it after its connection was lost, too.
        if self.connected and not self._abandoned:
            self.to_server += data

    # IConnection

    def write(self, data: bytes) -> None:
        """See L{IConnection}."""
        if self.connected and not self._closing:
            self.to_client += data

    def stop_reading(self) -> None:
        """See L{IConnection}."""

    def resume_reading(self) -> None:
        """See L{IConnection}."""

    def broken(self, error: Exception) -> None:
        """The server closes; see L{IConnection}."""
        self._closing = True

    # The test

    def up(self, count: int = _MANY) -> None:
        """So many bytes arrive at the server."""
        data = bytes(self.to_server[:count])
        del self.to_server[:count]
        if self.connected and not self._closing and data:
            self.session.receive(data)

    def down(self, count: int = _MANY) -> None:
        """So many bytes arrive at the client. After the last ones the connection is closed, if the server wants that."""
        data = bytes(self.to_client[:count])
        del self.to_client[:count]
        if self.connected and data and not self._abandoned:
            try:
                self._connection.receive(data)
            except PHPMQError as error:
                self.cut(error)
        if self.connected and self._closing and not self.to_client:
            self.cut()

    def settle(self) -> None:
        """All arrives, and what follows from it."""
        while self.connected and (self.to_server or self.to_client or self._closing):
            self.up()
            self.down()

    def cut(self, error: Exception | None = None) -> None:
        """The connection is lost, with all that is on its way."""
        if not self.connected:
            return
        self.connected = False
        self._server.lines.remove(self)
        self.session.close()
        if not self._abandoned:
            self._connection.lost(error)

    def abandon(self) -> None:
        """The client gives it up, and the server does not notice."""
        self._abandoned = True
        self._connection.lost()


class Outcome:
    """
    What becomes of a request.

    @ivar done: how often it was answered
    @ivar result: what was answered
    @ivar error: why it failed
    @ivar then: called with each answer
    """

    def __init__(self, request: Request | None = None, then: Callable[[], object] = lambda: None) -> None:
        self.request = request
        self.done = 0
        self.result: Any = None
        self.error: Exception | None = None
        self.then = then
        if request is not None:
            request.answer = self

    def callback(self, result: Any) -> None:
        """It was carried out."""
        self.done += 1
        self.result = result
        self.then()

    def errback(self, fail: Exception) -> None:
        """It was not."""
        self.done += 1
        self.error = fail
        self.then()


class Inbox:
    """
    Takes deliveries.

    @ivar got: those that it got
    @ivar losses: how often the connection was lost
    @ivar ends: with what it ended; once, or not yet
    """

    def __init__(self, then: Callable[[Delivery[Any]], object] = lambda delivery: None) -> None:
        self.window, self.lease = 0, 0.0
        self.got: list[Delivery[Any]] = []
        self.losses = 0
        self.ends: list[Exception | None] = []
        self._then = then

    def deliver(self, delivery: Delivery[Any]) -> None:
        """Take one."""
        self.got.append(delivery)
        self._then(delivery)

    def lost(self) -> None:
        """Count it."""
        self.losses += 1

    def end(self, error: Exception | None) -> None:
        """Note it."""
        self.ends.append(error)

    @property
    def bodies(self) -> list[bytes]:
        """What they say."""
        return [delivery.body for delivery in self.got]
