"""A coroutine on the reactor: started, stopped by signals, and nothing of Twisted's to be seen."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from types import FrameType
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList, FirstError
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, globalLogBeginner, textFileLogObserver
from twisted.python.failure import Failure

from phpmq.cli.exit_codes import Exit

_T = TypeVar("_T")

#: Names the environment variable that lets errors be seen with their tracebacks, and Twisted's log.
DEBUG = "PHPMQ_DEBUG"


class Signals:
    """
    Counts SIGINT and SIGTERM.

    The first one calls what L{gracefully} was given, otherwise it cancels the command; the second one calls C{at_once}; the third one ends
    the process.
    """

    def __init__(self) -> None:
        self.count = 0
        self._gracefully: Callable[[], object] | None = None
        self._at_once: Callable[[], object] | None = None
        self.cancel: Callable[[], object] = lambda: None

    def gracefully(self, call: Callable[[], object], at_once: Callable[[], object] | None = None) -> None:
        """Set what the first signal calls, and perhaps what the second one calls."""
        self._gracefully, self._at_once = call, at_once

    def received(self) -> None:
        """Count a signal."""
        self.count += 1
        if self.count == 1 and self._gracefully is not None:
            self._gracefully()
        elif self.count == 2 and self._at_once is not None:
            self._at_once()
        elif self.count <= 2:
            self.cancel()
        else:
            os._exit(Exit.INTERRUPTED)


def run(work: Callable[[Any, Signals], Coroutine[Any, Any, int]]) -> int:
    """Run a coroutine on the reactor, with the reactor and the signals: its exit code, or the one for an interruption."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    observer: Any = textFileLogObserver(sys.stderr) if os.environ.get(DEBUG) else _ignore
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=True)
    signals = Signals()
    results: list[int | Failure] = []

    def start() -> None:
        working = Deferred.fromCoroutine(work(reactor, signals))
        signals.cancel = working.cancel
        working.addBoth(end)

    def end(result: int | Failure) -> None:
        results.append(result)
        reactor.stop()

    def handle(number: int, frame: FrameType | None) -> None:
        reactor.callFromThread(signals.received)

    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, handle)
    reactor.callWhenRunning(start)
    reactor.run(installSignalHandlers=False)
    (result,) = results
    if isinstance(result, Failure):
        if signals.count and result.check(CancelledError):
            return Exit.INTERRUPTED
        result.raiseException()
    return Exit.INTERRUPTED if signals.count else result


def _ignore(event: LogEvent) -> None:
    """Discard an event: what goes wrong ends the command with a sentence of its own."""


async def sleep(reactor: Any, duration: float) -> None:
    """Wait for a number of seconds."""
    await deferLater(reactor, duration, lambda: None)


async def within(reactor: Any, duration: float, waiting: Deferred[_T]) -> _T:
    """Wait for at most a number of seconds; then cancel what is waited for, and raise C{TimeoutError}."""

    def expire(result: Any, seconds: float) -> Any:
        if isinstance(result, Failure):
            raise TimeoutError(f"no answer within {seconds:g} s") from result.value
        return result

    return await waiting.addTimeout(duration, reactor, expire)


async def wait_for(waiting: Sequence[Deferred[None]], every: bool = False) -> None:
    """Wait until one has ended, or every one, or one has failed; cancel the others."""
    try:
        end: Any = DeferredList(waiting, not every, fireOnOneErrback=True, consumeErrors=True)  # type: ignore[call-overload]
        await end
    except FirstError as error:
        error.subFailure.raiseException()
    finally:
        for one in waiting:
            one.cancel()


class Pace:
    """Limits to a rate per second, None for no limit. Time without anything to do is not made up for."""

    def __init__(self, reactor: Any, rate: float | None) -> None:
        self._reactor = reactor
        self._interval = 1 / rate if rate else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        """Wait until the next one may go."""
        if not self._interval:
            return
        now = self._reactor.seconds()
        # A millisecond early is early enough: timers are not better.
        if self._next > now + 0.001:
            await sleep(self._reactor, self._next - now)
        self._next = max(self._next, now) + self._interval
