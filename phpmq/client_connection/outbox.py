"""Sends: numbered, and kept until the server has receipted them."""

from __future__ import annotations

import os
from binascii import hexlify
from collections.abc import Callable, Iterable
from enum import Enum

from phpmq.client_connection.requests import Request, Send
from phpmq.client_frames import encode_hello
from phpmq.errors import ClientFull, Draining, MemoryFull, PHPMQError

#: Most sends that may wait for their receipts, and the most bytes of their frames.
MAX_UNCONFIRMED, MAX_UNCONFIRMED_SIZE = 10_000, 64 * 1024 * 1024

#: The tag of a hello as producer. There is one at a time.
HELLO = b"hello"


class State(Enum):
    """The states of an outbox: what it may write."""

    #: Nothing: there is no connection.
    OFFLINE = "offline"
    #: A hello: it is no producer yet, as nothing was to be sent, or the server could not have one more.
    SILENT = "silent"
    #: Nothing: a hello is under way, and sends wait for its answer so that their numbers arrive in order.
    GREETING = "greeting"
    #: Sends.
    SENDING = "sending"
    #: Nothing: the server is about to stop, and sends wait for the next connection.
    DRAINING = "draining"


class Outbox:
    """
    Sends, from the call until the receipt, over one connection after the other.

    They are numbered under a producer's name of 128 random bits, which nobody can guess (protocol, "Producers"). What has no receipt when a
    connection is lost is written again to the next one, under the same number, and so stored once.

    @ivar state: what may be written
    @ivar sends: those without a receipt, by tag, in order of their numbers
    @ivar size: bytes of their frames
    @ivar resent: how many were written again after a connection was lost
    @ivar on_answered: called when sends were answered or cancelled: there may be capacity for others
    """

    def __init__(self, max_unconfirmed: int = MAX_UNCONFIRMED, max_unconfirmed_size: int = MAX_UNCONFIRMED_SIZE) -> None:
        if not (max_unconfirmed > 0 and max_unconfirmed_size > 0):
            raise ValueError(f"a client must be able to hold a send, not {max_unconfirmed!r} with {max_unconfirmed_size!r} bytes")
        self.max_unconfirmed, self.max_unconfirmed_size = max_unconfirmed, max_unconfirmed_size
        self.on_answered: Callable[[], object] = lambda: None
        self.state = State.OFFLINE
        self.sends: dict[bytes, Send] = {}
        self.size = self.resent = 0
        self._producer = hexlify(os.urandom(16))
        self._number = 0
        self._write: Callable[[bytes], object] = lambda data: None
        # Queue and level of the send that was refused before the hello that is under way; None if that send was cancelled.
        self._refused: tuple[str, str] | None = None

    @property
    def has_room(self) -> bool:
        """Whether one more send may wait for its receipt."""
        return len(self.sends) < self.max_unconfirmed and self.size < self.max_unconfirmed_size

    def next_tag(self) -> bytes:
        """Number the next send; L{ClientFull} if too many wait already."""
        if not self.has_room:
            raise ClientFull(f"{len(self.sends)} sends with {self.size} bytes wait for their receipts")
        self._number += 1
        return b"%d" % self._number

    def put(self, send: Send) -> None:
        """Write a send, now or later."""
        self.sends[send.tag] = send
        self.size += len(send.frame)
        if self.state is State.SENDING:
            send.written = True
            self._write(send.frame)
        elif self.state is State.SILENT:
            self._greet()

    def forget(self, request: Request) -> None:
        """Expect no receipt of a send any more; one that is not written yet is never written."""
        if self._remove(request.tag) is not None:
            self.on_answered()

    def _remove(self, tag: bytes) -> Send | None:
        send = self.sends.pop(tag, None)
        if send is not None:
            self.size -= len(send.frame)
        return send

    def fail(self, sends: Iterable[Send], error: Exception) -> None:
        """Fail some sends, and forget them."""
        for send in list(sends):
            # A callback of one failure may cancel other sends.
            if self._remove(send.tag) is not None:
                send.failed(error)
        self.on_answered()

    def fail_all(self, error: Exception) -> None:
        """Fail all sends, and forget them."""
        self.fail(self.sends.values(), error)

    def fail_largest(self, error: Exception) -> None:
        """Fail the largest sends: a message was too large, and the server does not say which."""
        largest = max((send.body_size for send in self.sends.values()), default=0)
        self.fail([send for send in self.sends.values() if send.body_size == largest], error)

    # The connection

    def connected(self, write: Callable[[bytes], object]) -> None:
        """Write all that has no receipt to a new connection."""
        self._write = write
        self.state = State.SILENT
        for send in self.sends.values():
            self.resent += send.written
            send.written = False
        if self.sends:
            self._greet()

    def lost(self) -> None:
        """Wait for the next connection."""
        self.state = State.OFFLINE

    def drain(self) -> None:
        """Wait for the next connection: the server takes no more sends."""
        if self.state is not State.OFFLINE:
            self.state = State.DRAINING

    def _greet(self) -> None:
        self.state = State.GREETING
        self._write(encode_hello(HELLO, self._producer))

    def greeted(self) -> None:
        """Write the sends that are not written, in order of their numbers: refused ones are lower than those that were never written."""
        if self.state is State.GREETING:
            self.state = State.SENDING
            for send in list(self.sends.values()):
                if not send.written:
                    send.written = True
                    self._write(send.frame)

    def not_greeted(self, error: PHPMQError) -> None:
        """Fail all sends, as the server cannot have one more producer; the next send tries again."""
        if isinstance(error, Draining):
            self.drain()
        elif self.state is State.GREETING:
            self.state = State.SILENT
            self.fail_all(error)

    def receipted(self, tag: bytes, message_id: bytes | None, duplicate: bytes | None) -> bool:
        """Tell a send that it has its receipt; returns whether the tag is that of a send."""
        send = self._remove(tag)
        if send is None:
            return False
        send.confirmed(message_id, duplicate)
        self.on_answered()
        return True

    def refused(self, tag: bytes, error: PHPMQError) -> None:
        """
        The server refuses a send, and with it all later ones until a hello.

        Those that it would refuse for the same reason fail as well. The others are written again once the hello is answered. Until then
        none may overtake them: the server would take a number below one that it accepted for a repetition, and drop the message.
        """
        send = self.sends.get(tag)
        if self.state is State.SENDING:
            if isinstance(error, Draining):
                self.drain()
                return
            self._refused = None if send is None else send.group
            self._greet()
            if send is not None:
                self.fail([send], error)
        elif self.state is State.GREETING and send is not None:
            if isinstance(error, MemoryFull) or send.group == self._refused:
                self.fail([send], error)
            else:
                send.written = False
