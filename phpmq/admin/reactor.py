"""The reactor's time: work that takes long is done in time slices, and how late the reactor is is measured."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Cooperator

from phpmq.errors import Draining
from phpmq.histogram import Histogram
from phpmq.interfaces import Steps

#: Seconds of operators' work in one reactor turn.
SLICE = 0.005

#: Seconds between two measurements of the reactor's lag.
INTERVAL = 0.1

# Lags are counted from an eighth of a millisecond to 16 seconds.
_UNIT, _BUCKETS = 0.000125, 18

_T = TypeVar("_T")
_P = ParamSpec("_P")


class CooperativeWork:
    """
    Work of all operators, done step by step: one time slice in a reactor turn, however many tasks there are.

    The first step is done at once, and all others that fit into a slice unless earlier tasks wait: short work needs no reactor turn.

    @ivar tasks: how many tasks wait for their next slice
    """

    def __init__(self, reactor: Any, seconds: Callable[[], float], is_running: Callable[[], object]) -> None:
        """
        @param seconds: a clock that tells how long steps take
        @param is_running: false once the server is about to stop
        """
        self._seconds = seconds
        self._is_running = is_running
        self._cooperator = Cooperator(self._slice, lambda tick: reactor.callLater(0, tick))
        self.tasks = 0
        self._long = False  # whether the last step was as long as a slice

    def _slice(self) -> Callable[[], bool]:
        """Start the slice of a reactor turn, and return whether it is over; when the server stops all tasks end in it."""
        self._long = False
        end = self._seconds() + SLICE
        return lambda: (self._long or self._seconds() >= end) and bool(self._is_running())

    async def run(self, steps: Steps[_T]) -> _T:
        """Do the work: its result. L{Draining}, and what is left to do is not done, if the server is about to stop."""
        results: list[_T] = []
        work = _kept(steps, results)
        end = self._seconds() + SLICE
        for was_long in work:
            if was_long or self.tasks or self._seconds() >= end:
                break
        if not results:
            await self._cooperate(work)
        return results[0]

    async def _cooperate(self, work: Iterator[Any]) -> None:
        task = self._cooperator.cooperate(self._until_stopped(work))
        self.tasks += 1
        try:
            await task.whenDone()
        except CancelledError:
            task.stop()
            raise
        finally:
            self.tasks -= 1

    def _until_stopped(self, work: Iterator[Any]) -> Iterator[None]:
        while self._is_running():
            try:
                self._long = bool(next(work))
            except StopIteration:
                return
            yield
        raise Draining("the server is about to stop: this is not finished")


def _kept(steps: Steps[_T], results: list[_T]) -> Iterator[Any]:
    """The steps, whose result is kept in a list."""
    results.append((yield from steps))


class _Worker(Protocol):
    work: CooperativeWork


_Self = TypeVar("_Self", bound=_Worker)


def cooperative(
    method: Callable[Concatenate[_Self, _P], Steps[_T]],
) -> Callable[Concatenate[_Self, _P], Coroutine[Deferred[Any], Any, _T]]:
    """Make a coroutine of a method that is a generator; the object's L{CooperativeWork} runs it."""

    @wraps(method)
    async def run(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self.work.run(method(self, *args, **kwargs))

    return run


class ReactorLag:
    """
    By how much calls of the reactor come late, measured ten times a second: as late as everything else that was due then.

    Each call asks for the next one by itself. A LoopingCall leaves calls out when it is late, and does not tell how late it was.

    @ivar delays: by how much
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.delays = Histogram(_UNIT, _BUCKETS)
        self._due = 0.0
        self._next: Any = None

    @property
    def running(self) -> bool:
        """Whether it is measured."""
        return self._next is not None

    def start(self) -> None:
        """Begin to measure the lag."""
        self._due = self._reactor.seconds() + INTERVAL
        self._next = self._reactor.callLater(INTERVAL, self._measure)

    def _measure(self) -> None:
        self.delays.observe_seconds(self._reactor.seconds() - self._due)
        self.start()

    def stop(self) -> None:
        """Stop measuring the lag."""
        self._next.cancel()
        self._next = None
