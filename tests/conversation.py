"""A server in memory and its clients: sessions over a real broker and store, without transports."""

from __future__ import annotations

from phpmq.broker import Broker
from phpmq.server_frames import Versions
from phpmq.session import Session
from phpmq.store import SQLiteStore
from tests.doubles import RecordingConnection
from tests.version02 import FileMirror

_VERSIONS = Versions()


class Server:
    """
    A server whose time stands still, and whose file is written when the test says so.

    @ivar now: milliseconds since the epoch
    @ivar mirror: what writes the file
    """

    def __init__(self, file: bool = True) -> None:
        """
        @param file: false for a server that keeps its messages in memory only
        """
        self.now = 1_700_000_000_000
        store = SQLiteStore()
        self.broker = Broker(store, lambda: self.now)
        self.mirror = FileMirror(store)
        if file:
            self.mirror.synced = self.broker.synced
            self.broker.confirms.mirror = self.mirror  # type: ignore[assignment]

    def later(self, seconds: float) -> None:
        """Let time pass."""
        self.now += round(seconds * 1000)
        self.broker.tick()


class Client:
    """One end of a conversation."""

    def __init__(self, server: Server) -> None:
        self._connection = RecordingConnection()
        self.session = Session(server.broker, _VERSIONS, self._connection)

    def says(self, data: bytes, size: int = 1 << 20) -> None:
        """Send bytes, in chunks of a size; what comes once the server has closed the connection is lost, as on a transport."""
        for place in range(0, len(data), size):
            if not self.errors:
                self.session.receive(data[place : place + size])

    @property
    def unread(self) -> bytes:
        """What the server has said since the last time."""
        return b"".join(self._connection.writes)

    def hears(self) -> bytes:
        """Take what the server has said since the last time."""
        data = self.unread
        self._connection.writes.clear()
        return data

    @property
    def errors(self) -> list[Exception]:
        """Why the server closed the connection; empty while it did not."""
        return self._connection.errors

    @property
    def waits(self) -> bool:
        """Whether the server reads no more, for the time being."""
        return not self._connection.reading
