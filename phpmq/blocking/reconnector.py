"""The socket of a client, and the connection that is made again over the next one while a call waits for something."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from phpmq.addresses import Address
from phpmq.client_connection import ClientConnection, Delivery, Request
from phpmq.errors import NotConnected, PHPMQError

_T = TypeVar("_T")

# The most bytes to read or write at once.
_CHUNK = 256 * 1024

_WOULD_BLOCK = BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError

# Kinds of addresses, and the options that this client understands.
_OPTIONS = {"tcp": {"timeout"}, "unix": {"timeout"}, "tls": {"timeout", "trustRoots", "certificate", "privateKey"}}

# Seconds that a connection may take.
_CONNECT_TIMEOUT = 30.0

# While the server cannot be reached, seconds between two attempts: the first pause, and the longest, if the timeout allows several.
_PAUSES = 0.05, 2.0

# Longest time to wait for the socket at once, and shortest that a connection gets.
_LOOK_UP = 1.0

# The most failed sends to remember until their results are asked for.
_REMEMBERED = 100


def check_address(address: Address, tls: ssl.SSLContext | None) -> None:
    """
    Check that this client understands an address.

    C{timeout=} is the most seconds that a connection may take. C{tls:} checks the server's certificate against those that the system
    trusts, or against those of C{trustRoots=}, a file or a directory with files that end with C{.pem}; C{certificate=} and
    C{privateKey=} are files to show to the server.

    @raise ValueError: it has another option, or there is a context for TLS and the address is one without
    """
    if unknown := address.options.keys() - _OPTIONS[address.kind]:
        raise ValueError(f"{address.text!r} is no address for this client: it does not understand {min(unknown)}=")
    if tls is not None and address.kind != "tls":
        raise ValueError(f"{address.text!r} is no address with TLS")


def connected_socket(address: Address, timeout: float, tls: ssl.SSLContext | None = None) -> socket.socket:
    """
    Return a connected socket that does not block.

    @param timeout: the most seconds that each step of it may take
    @param tls: for C{tls:}, instead of a context made of the address
    @raise OSError: there is no server, or its certificate is not trusted
    """
    timeout = min(timeout, float(address.options.get("timeout", timeout)))
    if address.kind == "unix":
        connection = socket.socket(socket.AF_UNIX)
    else:
        connection = socket.create_connection((address.host, address.port), timeout)
    try:
        if address.kind == "unix":
            connection.settimeout(timeout)
            connection.connect(address.path)
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if address.kind == "tls":
            connection = (tls or tls_context(address)).wrap_socket(connection, server_hostname=address.host)
        connection.setblocking(False)
    except BaseException:
        connection.close()
        raise
    return connection


def tls_context(address: Address) -> ssl.SSLContext:
    """Return the context for TLS that the options of an address describe."""
    roots = address.options.get("trustRoots")
    if roots is None:
        context = ssl.create_default_context()
    else:
        # This context trusts no authority yet.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for file in sorted(Path(roots).glob("*.[pP][eE][mM]")) if Path(roots).is_dir() else [Path(roots)]:
            context.load_verify_locations(file)
    if "certificate" in address.options:
        context.load_cert_chain(address.options["certificate"], address.options.get("privateKey"))
    return context


class BufferedSocket:
    """
    A connected socket that reads while it writes, so that neither end waits for the other.

    @ivar outgoing: the bytes that the socket did not take yet
    @ivar choked: whether it took no more, as the other end has not read what it took before
    @ivar written: how many bytes it took
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.outgoing = bytearray()
        self.choked = False
        self.written = 0
        self._error: OSError | None = None
        self._poll = select.poll()

    def write(self, data: bytes) -> None:
        """Keep bytes for the next L{flush} or L{exchange} to write."""
        if self._error is None:
            self.outgoing += data

    def flush(self) -> None:
        """Write what the socket takes now. If it fails, L{exchange} raises why once all is read: the last frames may have the reason."""
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
        Write what the socket takes, and wait for bytes for that many seconds; None if there are none.

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
        """Close the socket; what it did not take is lost."""
        self._socket.close()


class Submission(Generic[_T]):
    """
    A request that was submitted, such as a send.

    @ivar done: whether L{result} returns or raises at once
    """

    __slots__ = ("_error", "_failed", "_result", "_wait", "done")

    def __init__(self, wait: Callable[[Callable[[], object]], None], failed: dict[Any, Exception]) -> None:
        """C{wait} works until a function returns true; C{failed} has the errors until their results are asked for."""
        self._wait, self._failed = wait, failed
        self.done = False
        self._result: Any = None
        self._error: Exception | None = None

    def result(self) -> _T:
        """Wait for the answer, which is the receipt of a send; raises what L{QueueClient.send} does."""
        if not self.done:
            self._wait(lambda: self.done)
        self._failed.pop(self, None)
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[no-any-return]

    # Answer

    def callback(self, result: _T) -> None:
        """Take the result; see L{client_connection.Answer}."""
        self.done, self._result = True, result

    def errback(self, fail: Exception) -> None:
        """Take the failure; see L{client_connection.Answer}."""
        self.done, self._error = True, fail
        if len(self._failed) < _REMEMBERED:
            self._failed[self] = fail


class Reconnector:
    """Keeps a client connected while a call waits. Its time is the seconds that calls waited: what no call waited for is never late."""

    def __init__(
        self, address: Address, tls: ssl.SSLContext | None, delivery: type[Delivery[Any]], timeout: float, heartbeat: float, *limits: int
    ) -> None:
        """C{limits} are those of the connection's outbox; C{ValueError} if a number is not positive, or by L{check_address}."""
        check_address(address, tls)
        self._address, self._tls, self._timeout = address, tls, timeout
        # Longest time to wait for the socket at once: late requests are failed in between.
        self._step = min(_LOOK_UP, timeout, heartbeat)
        self._waited = 0.0
        self.connection = ClientConnection(lambda: self._waited, delivery, timeout, heartbeat, *limits)
        self._socket: BufferedSocket | None = None
        self._unreachable: float | None = None  # Since when there is trouble to reach the server.
        # When, on the system's clock, to try again, and the pause after that.
        self._try_at = 0.0
        self._pause = _PAUSES[0]

    def answer(self, request: Request) -> Any:
        """Wait for the answer to a request; raises why it failed."""
        submission: Submission[Any] = Submission(self.wait, {})
        request.answer = submission
        return submission.result()

    def wait(self, done: Callable[[], object], timeout: float | None = None) -> None:
        """Work until something is done, or for that many seconds; L{NotConnected} if no server was reached for the client's timeout."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not done():
            now = time.monotonic()
            left = _CONNECT_TIMEOUT if deadline is None else max(0.0, deadline - now)
            try:
                if self._socket is None:
                    self._reconnect(left)
                else:
                    self._exchange(self._socket, min(left, self._step))
            finally:
                self._waited += time.monotonic() - now
            self.connection.expire()
            if deadline is not None and time.monotonic() >= deadline:
                return

    def flush(self) -> None:
        """Write what the socket takes now."""
        if self._socket is not None:
            try:
                self._socket.flush()
            except BaseException:
                self._lose(NotConnected("interrupted"))
                raise

    def close(self) -> None:
        """Close the connection; what the socket did not take is lost."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # The connection that there is

    def _exchange(self, line: BufferedSocket, seconds: float) -> None:
        choked, written = line.choked, line.written
        try:
            data = line.exchange(seconds)
            if data is None:
                if choked and line.written > written:
                    # The server reads, so it is there, though the answer to a large message may take long.
                    self.connection.heard()
                else:
                    self.connection.check_silence()
                return
            self.connection.receive(data)
        except (OSError, EOFError, PHPMQError) as error:
            self._lose(error)
            self._give_up_in_time(error)
            return
        except BaseException:
            # The handler of a signal raised it, and it is not known what was done before.
            self._lose(NotConnected("interrupted"))
            raise
        self._unreachable = None
        self._pause = _PAUSES[0]

    def _lose(self, error: Exception) -> None:
        self.close()
        self._troubled()
        self.connection.lost(error if isinstance(error, PHPMQError) else NotConnected(f"the connection was lost: {error}"))

    # The next one

    def _reconnect(self, left: float) -> None:
        pause = self._try_at - time.monotonic()
        if pause > 0:
            time.sleep(min(left, pause))
            return
        try:
            self.connect(max(left, _LOOK_UP))
        except NotConnected as error:
            self.connection.trouble = error
            self._troubled()
            self._give_up_in_time(error)

    def _troubled(self) -> None:
        """Set the time of the next attempt: after a longer pause each time, until a server answers."""
        self._try_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _PAUSES[1], self._timeout / 4)
        if self._unreachable is None:
            self._unreachable = self._waited

    def _give_up_in_time(self, why: Exception) -> None:
        if self._unreachable is not None and self._waited - self._unreachable >= self._timeout:
            error = NotConnected(f"no server at {self._address.text} for {self._timeout:g} s: {why}")
            self.connection.outbox.fail_all(error)
            raise error from why

    def connect(self, timeout: float = _CONNECT_TIMEOUT) -> None:
        """Connect, or raise L{NotConnected} if the server cannot be reached."""
        try:
            opened = BufferedSocket(connected_socket(self._address, min(timeout, self._timeout), self._tls))
        except OSError as error:
            raise NotConnected(f"the server at {self._address.text} cannot be reached: {error}") from error
        self._socket = opened
        self.connection.connected(opened.write)
