"""A socket that reads while it writes, so that neither end waits for the other."""

from __future__ import annotations

import select
import socket
import ssl

# So much is read at a time.
_CHUNK = 256 * 1024

_WOULD_BLOCK = BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError


class Connection:
    """
    A connected socket, and what is to be written to it.

    @ivar outgoing: bytes that the socket did not take yet
    @ivar choked: whether it took no more, as the other end has not read what it took before
    @ivar written: how many it took
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.outgoing = bytearray()
        self.choked = False
        self.written = 0
        self._error: OSError | None = None
        self._poll = select.poll()

    def write(self, data: bytes) -> None:
        """Have bytes written by the next L{flush} or L{exchange}."""
        if self._error is None:
            self.outgoing += data

    def flush(self) -> None:
        """
        Write what the socket takes now.

        If it takes nothing any more, L{exchange} tells, once all is read: the last that the server said may be why.
        """
        self.choked = bool(self.outgoing)
        while self.outgoing:
            # The same bytes have to be offered again if TLS did not take them, so no more than it takes at once.
            with memoryview(self.outgoing) as view, view[:_CHUNK] as part:
                try:
                    sent = self._socket.send(part)
                except _WOULD_BLOCK:
                    return
                except OSError as error:
                    self._error = error
                    break
            del self.outgoing[:sent]
            self.written += sent
        self.choked = False
        if self._error is not None:
            self.outgoing.clear()

    def exchange(self, seconds: float) -> bytes | None:
        """
        Write what the socket takes, and wait for bytes for so long; None if there are none.

        @raise OSError: the connection is lost
        @raise EOFError: the server closed it
        """
        self.flush()
        data = self._read()
        if data is None:
            self._poll.register(self._socket, select.POLLIN | (select.POLLOUT if self.outgoing else 0))
            if self._poll.poll(max(0.0, seconds) * 1000):
                self.flush()
                data = self._read()
        return data

    def _read(self) -> bytes | None:
        try:
            data = self._socket.recv(_CHUNK)
        except _WOULD_BLOCK:
            if self._error is not None:
                raise self._error from None
            return None
        if not data:
            raise EOFError("the server closed the connection")
        return data

    def close(self) -> None:
        """Close it; what the socket did not take is lost."""
        self._socket.close()
