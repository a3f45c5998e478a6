"""Writes messages, and acknowledges what was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

from phpmq.cli.consume.formats import Format
from phpmq.cli.consume.intake import Intake
from phpmq.cli.exits import Failed
from phpmq.cli.pipes import Output
from phpmq.client import Delivery

# Seconds that the reader of the output has to take what is being written when the command is to end.
_GRACE = 1.0


class Printer:
    """Writes messages to standard output: those that came together at once, the next ones when those are written."""

    def __init__(self, reactor: Any, intake: Intake, format: Format, keep: bool, failed: Callable[[Failure], object]) -> None:
        """
        @param keep: whether they are not acknowledged
        @param failed: called when they cannot be written
        """
        self._reactor, self._intake, self._format, self._keep, self._failed = reactor, intake, format, keep, failed
        self._out = Output(reactor)
        self._out.closed().addCallback(lambda _: failed(Failure(BrokenPipeError())))
        self._batch: list[Delivery] = []
        self._writing: Deferred[None] | None = None
        self._written: Deferred[None] | None = None
        self._ended = False

    @property
    def busy(self) -> bool:
        """Whether something is not written yet."""
        return self._writing is not None

    def take(self, delivery: Delivery) -> None:
        """Write it with what comes in the same moment."""
        self._batch.append(delivery)
        if self._writing is None and not self._ended:
            self._writing = Deferred()
            self._reactor.callLater(0, self._start)

    def _start(self) -> None:
        Deferred.fromCoroutine(self._write()).addErrback(self._unwritten).addBoth(self._wrote)

    async def _write(self) -> None:
        while self._batch and not self._ended:
            batch, self._batch = self._batch, []
            # What the server took back comes again.
            batch = [delivery for delivery in batch if not delivery.lost]
            self._out.put(b"".join(map(self._format, batch)))
            self._written = self._out.written()
            await self._written
            for delivery in batch:
                if self._keep:
                    self._intake.keep(delivery)
                else:
                    self._intake.settle(delivery, delivery.ack)

    def _unwritten(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self._failed(failure)

    def _wrote(self, _: object) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.callback(None)

    def end(self) -> Deferred[None]:
        """Fires when what is being written is written and acknowledged, or nobody reads it."""
        self._ended = True
        if self._writing is None:
            return succeed(None)
        self._reactor.callLater(_GRACE, self.kill)
        return self._writing

    def kill(self) -> None:
        """Nobody may read what is being written: it is not acknowledged."""
        if self._written is not None:
            self._written.cancel()

    def outcome(self) -> Failed | None:
        """What cannot be written ends it at once."""
        return None
