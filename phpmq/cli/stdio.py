"""
Standard input and output without blocking the reactor, and without making them non-blocking: they are shared with other processes.

A descriptor that is ready is read, or written to, by as much as cannot block.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from phpmq.cli.exit_codes import Failed
from phpmq.client_frames import MAX_BODY

_BLOCK = 1 << 16

# Bytes that are written before others get their turn.
_TURN = 1 << 18


@implementer(IReadWriteDescriptor)
class _Descriptor:
    """Tells when a descriptor is ready."""

    def __init__(self, reactor: Any, number: int) -> None:
        self._reactor = reactor
        self._number = number
        # What is waited for, by what ends the wait at the reactor.
        self._waiting: dict[Callable[[Any], object], Deferred[None]] = {}

    def readable(self) -> Deferred[None]:
        """Fire when it can be read, or its other end is closed; one wait at a time, which can be cancelled."""
        return self._wait(self._reactor.addReader, self._reactor.removeReader)

    def writable(self) -> Deferred[None]:
        """Fire when it can be written to, or its other end is closed; one wait at a time, which can be cancelled."""
        return self._wait(self._reactor.addWriter, self._reactor.removeWriter)

    def _wait(self, add: Callable[[Any], object], remove: Callable[[Any], object]) -> Deferred[None]:
        waiting = self._waiting[remove] = Deferred(lambda _: self._end(remove))
        add(self)
        return waiting

    def _end(self, remove: Callable[[Any], object]) -> None:
        remove(self)
        self._waiting.pop(remove, None)

    def _ready(self, remove: Callable[[Any], object]) -> None:
        waiting = self._waiting.get(remove)
        self._end(remove)
        if waiting is not None:
            waiting.callback(None)

    def doRead(self) -> None:
        """See L{IReadWriteDescriptor}."""
        self._ready(self._reactor.removeReader)

    def doWrite(self) -> None:
        """See L{IReadWriteDescriptor}."""
        self._ready(self._reactor.removeWriter)

    def connectionLost(self, reason: Failure) -> None:
        """End both waits: to read or to write will say that the other end is closed."""
        self.doRead()
        self.doWrite()

    def fileno(self) -> int:
        """The descriptor's number."""
        return self._number

    def logPrefix(self) -> str:
        """See L{IReadWriteDescriptor}."""
        return "phpmq"


class Input:
    """A stream of bytes that is read without blocking, with at most C{longest} bytes, or bytes a line; C{line} counts the lines read."""

    def __init__(self, reactor: Any, descriptor: int = 0, name: str = "standard input", longest: int = MAX_BODY) -> None:
        self._number, self._name, self._longest = descriptor, name, longest
        self._descriptor = _Descriptor(reactor, descriptor)
        # The beginning of a line whose end is still to come.
        self._rest: list[bytes] = []
        self._rest_size = 0
        self._ended = False
        self.line = 0

    async def _read(self) -> bytes:
        while True:
            await self._descriptor.readable()
            try:
                return os.read(self._number, _BLOCK)
            except BlockingIOError:
                pass  # Others made it non-blocking, and were first.
            except OSError as error:
                raise Failed(f"cannot read {self._name}: {error.strerror}") from error

    async def all(self) -> bytes:
        """Return everything until the end."""
        blocks = []
        size = 0
        while block := await self._read():
            blocks.append(block)
            size += len(block)
            self._check(size, self._name)
        return b"".join(blocks)

    def _check(self, size: int, what: str) -> None:
        if size > self._longest:
            raise Failed(f"{what} is longer than {self._longest >> 20} MiB, which no message can have")

    async def lines(self) -> list[bytes] | None:
        """Return the next lines that are there, without their newlines; None at the end."""
        while not self._ended:
            block = await self._read()
            if not block:
                self._ended = True
                if self._rest_size:
                    self.line += 1
                    return [b"".join(self._rest)]
            elif b"\n" in block:
                *lines, rest = b"".join((*self._rest, block)).split(b"\n")
                self._rest, self._rest_size = [rest], len(rest)
                self.line += len(lines)
                return lines
            else:
                self._rest.append(block)
                self._rest_size += len(block)
                self._check(self._rest_size, f"line {self.line + 1:,} of {self._name}")
        return None


class Output:
    """A stream of bytes that is written without blocking; C{waiting} counts the bytes that are not written yet."""

    def __init__(self, reactor: Any, descriptor: int = 1, name: str = "standard output") -> None:
        if descriptor == 1 and sys.stdout is None:
            raise Failed("standard output is closed")
        self._number, self._name = descriptor, name
        self._descriptor = _Descriptor(reactor, descriptor)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        # A pipe that is ready takes this number of bytes at once, a file any number.
        mode = os.fstat(descriptor).st_mode
        self._piece = _TURN if stat.S_ISREG(mode) else select.PIPE_BUF
        self._is_pipe = stat.S_ISFIFO(mode)
        self._blocks: list[bytes] = []
        self._writing = False
        self._error: Exception | None = None
        self._waiters: list[Deferred[None]] = []
        self.waiting = 0

    def put(self, data: bytes) -> None:
        """Write this after what was put before; L{check} and L{written} report failures."""
        if data and self._error is None:
            self._blocks.append(data)
            self.waiting += len(data)
            if not self._writing:
                self._writing = True
                Deferred.fromCoroutine(self._write())

    def check(self) -> None:
        """Raise the failure of an earlier write: C{BrokenPipeError} if nobody reads, otherwise L{Failed}."""
        if self._error is not None:
            raise self._error

    def written(self) -> Deferred[None]:
        """Fire when all that was put is written; fail with C{BrokenPipeError} or L{Failed}."""
        waiter: Deferred[None] = Deferred(self._waiters.remove)
        self._waiters.append(waiter)
        if not self._writing:
            self._tell()
        return waiter

    def closed(self) -> Deferred[None]:
        """Fire when nobody will read any more, if that can be known without writing."""
        return self._descriptor.readable() if self._is_pipe else Deferred()

    def _tell(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if self._error is None:
                waiter.callback(None)
            else:
                waiter.errback(self._error)

    async def _write(self) -> None:
        try:
            while self._blocks:
                blocks, self._blocks = self._blocks, []
                await self._write_all(memoryview(b"".join(blocks)))
        except BrokenPipeError as error:
            self._error = error
        except OSError as error:
            self._error = Failed(f"cannot write to {self._name}: {error.strerror}")
        self._writing = False
        self._tell()

    async def _write_all(self, data: memoryview) -> None:
        budget = _TURN
        while data:
            if budget <= 0 or not self._poll.poll(0):
                await self._descriptor.writable()
                budget = _TURN
            try:
                written = os.write(self._number, data[: self._piece])
            except BlockingIOError:
                budget = 0  # Others made it non-blocking.
                continue
            data = data[written:]
            budget -= written
            self.waiting -= written
