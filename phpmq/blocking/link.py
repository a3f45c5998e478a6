"""The connection of a client, and the work that is done while something is waited for."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable

from phpmq.blocking.address import Address
from phpmq.blocking.connection import Connection
from phpmq.blocking.consumer import Delivery
from phpmq.conversation import Conversation
from phpmq.errors import NotConnected, PHPMQError

# Seconds that a connection may take.
_CONNECT_TIMEOUT = 30.0

# While the server cannot be reached, seconds between two attempts: the first pause, and the longest, if the timeout has room for several.
_PAUSES = 0.05, 2.0

# Longest time to wait for the socket at once, and shortest that a connection gets.
_LOOK_UP = 1.0


class Link:
    """
    Keeps a conversation connected, as long as somebody waits.

    Its time is the seconds that were waited: what nobody waited for cannot have been late.

    @ivar conversation: what is sent and consumed
    """

    def __init__(
        self,
        address: Address,
        tls: ssl.SSLContext | None,
        timeout: float,
        heartbeat: float,
        max_unconfirmed: int,
        max_unconfirmed_size: int,
    ) -> None:
        """
        @raise ValueError: a number is not positive
        """
        if not heartbeat > 0:
            raise ValueError(f"a heartbeat is a number of seconds above 0, not {heartbeat!r}")
        self._address = address
        self._tls = tls
        self._timeout = timeout
        self._heartbeat = heartbeat
        # Longest time to wait for the socket at once: what is late is looked at in between.
        self._step = min(_LOOK_UP, timeout, heartbeat)
        self._waited = 0.0
        self.conversation = Conversation(lambda: self._waited, Delivery, timeout, max_unconfirmed, max_unconfirmed_size)
        self._connection: Connection | None = None
        # Since when: the last word of the server; the question whether it is there; trouble to reach it.
        self._heard = 0.0
        self._asked: float | None = None
        self._unreachable: float | None = None
        # When, on the system's clock, to try again, and the pause after that.
        self._try_at = 0.0
        self._pause = _PAUSES[0]

    def wait(self, done: Callable[[], object], timeout: float | None = None) -> None:
        """
        Work until something is done, or for so many seconds.

        @raise NotConnected: the server could not be reached for as long as the client's timeout
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not done():
            now = time.monotonic()
            left = _CONNECT_TIMEOUT if deadline is None else max(0.0, deadline - now)
            try:
                if self._connection is None:
                    self._reconnect(left)
                else:
                    self._exchange(self._connection, min(left, self._step))
            finally:
                self._waited += time.monotonic() - now
            self.conversation.expire()
            if deadline is not None and time.monotonic() >= deadline:
                return

    def flush(self) -> None:
        """Write what the socket takes now."""
        if self._connection is not None:
            try:
                self._connection.flush()
            except BaseException:
                self._lose(NotConnected("interrupted"))
                raise

    def close(self) -> None:
        """Close the connection; what the socket did not take is lost."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # The connection that there is

    def _exchange(self, connection: Connection, seconds: float) -> None:
        choked, written = connection.choked, connection.written
        try:
            data = connection.exchange(seconds)
            if data is None:
                if choked and connection.written > written:
                    # Whoever reads is there, though it may be long until the answer to a large message.
                    self._heard, self._asked = self._waited, None
                else:
                    self._check_silence()
                return
            self.conversation.receive(data)
        except (OSError, EOFError, PHPMQError) as error:
            self._lose(error)
            self._give_up_in_time(error)
            return
        except BaseException:
            # A signal's handler raised it, and nobody knows how far this had got.
            self._lose(NotConnected("interrupted"))
            raise
        self._heard, self._asked, self._unreachable = self._waited, None, None
        self._pause = _PAUSES[0]

    def _check_silence(self) -> None:
        if self._asked is not None:
            if self._waited - self._asked >= self._heartbeat:
                raise EOFError(f"nothing was heard of the server for {self._waited - self._heard:.0f} s")
        elif self._waited - self._heard >= self._heartbeat:
            self._asked = self._waited
            self.conversation.ping()

    def _lose(self, error: Exception) -> None:
        self.close()
        self._troubled()
        self.conversation.lost(error if isinstance(error, PHPMQError) else NotConnected(f"the connection was lost: {error}"))

    # The next one

    def _reconnect(self, left: float) -> None:
        pause = self._try_at - time.monotonic()
        if pause > 0:
            time.sleep(min(left, pause))
            return
        try:
            self.connect(max(left, _LOOK_UP))
        except NotConnected as error:
            self.conversation.trouble = error
            self._troubled()
            self._give_up_in_time(error)

    def _troubled(self) -> None:
        """Try again, but not at once, and after a longer pause each time until a server answers."""
        self._try_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _PAUSES[1], self._timeout / 4)
        if self._unreachable is None:
            self._unreachable = self._waited

    def _give_up_in_time(self, why: Exception) -> None:
        if self._unreachable is not None and self._waited - self._unreachable >= self._timeout:
            error = NotConnected(f"no server at {self._address.text} for {self._timeout:g} s: {why}")
            self.conversation.outbox.fail_all(error)
            raise error from why

    def connect(self, timeout: float = _CONNECT_TIMEOUT) -> None:
        """
        Connect.

        @raise NotConnected: the server cannot be reached
        """
        try:
            connection = Connection(self._address.connect(min(timeout, self._timeout), self._tls))
        except OSError as error:
            raise NotConnected(f"the server at {self._address.text} cannot be reached: {error}") from error
        self._connection = connection
        self._heard, self._asked = self._waited, None
        self.conversation.connected(connection.write)
