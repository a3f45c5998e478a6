"""Turns of the reactor: what takes long is done in slices, between which everybody else gets theirs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from twisted.internet.defer import Deferred

from phpmq.admin.pulse import Pulse
from phpmq.broker import Broker, Queue
from phpmq.clock import SteadyClock
from phpmq.errors import Draining, NoSuchQueue
from phpmq.mirror import MirrorService
from phpmq.protocol import Connections
from phpmq.store import SQLiteStore

if TYPE_CHECKING:
    from phpmq.admin.console import ConsoleFactory
    from phpmq.admin.http import Site

#: Seconds of work after which others get their turn.
SLICE = 0.005

#: So many things that are quickly done are done between two looks at the clock.
QUICK = 50

_Thing = TypeVar("_Thing")
_Result = TypeVar("_Result")


class Server(Protocol):
    """What an L{phpmq.admin.Admin} looks at: a L{phpmq.service.QueueService}."""

    connections: Connections
    running: int
    pulse: Pulse
    consoles: ConsoleFactory
    site: Site | None

    @property
    def broker(self) -> Broker:
        """The queues."""

    @property
    def mirror(self) -> MirrorService | None:
        """What copies the store to the file."""

    @property
    def store(self) -> SQLiteStore | None:
        """The messages."""

    @property
    def clock(self) -> SteadyClock:
        """The time that messages live by."""

    @property
    def max_message_size(self) -> int:
        """Bytes of one message's body."""

    @property
    def metrics_queues(self) -> int:
        """Queues that the metrics have series of their own for."""


class Turns:
    """
    What all that an operator does has in common: a server, and its reactor's turns.

    @ivar service: the server, which has been started
    """

    def __init__(self, service: Server, reactor: Any) -> None:
        self.service = service
        self._reactor = reactor
        self._breaths: deque[Deferred[None]] = deque()
        self._waking = False

    @property
    def broker(self) -> Broker:
        """The queues."""
        return self.service.broker

    @property
    def _store(self) -> SQLiteStore:
        assert self.service.store is not None
        return self.service.store

    def _queue(self, name: str) -> Queue:
        queue = self.broker.queues.get(name)
        if queue is None:
            raise NoSuchQueue(f"there is no queue {name!r}")
        return queue

    def _check_known(self, name: str) -> None:
        """
        Queues that are gone are known by their dead letters.

        @raise NoSuchQueue: there is none of that name, and no dead letter of it
        """
        if not self.broker.dead_letters.count_of(name):
            self._queue(name)

    async def breathe(self) -> None:
        """
        Let the reactor do other work, and others who wait here go on first.

        @raise Draining: the server is about to stop: what is left to do is not done
        """
        breath: Deferred[None] = Deferred()
        self._breaths.append(breath)
        self._wake_soon()
        await breath
        if not self.service.running:
            raise Draining("the server is about to stop: this is not finished")

    @property
    def busy(self) -> bool:
        """Whether there is work that waits for its turn."""
        return bool(self._breaths)

    def _wake_soon(self) -> None:
        if not self._waking:
            self._waking = True
            self._reactor.callLater(0, self._wake)

    def _wake(self) -> None:
        """Have those who wait go on, for one slice all together: of a hundred slices in one turn everybody else would notice."""
        self._waking = False
        begun = self.service.clock.seconds()
        for _ in range(len(self._breaths)):
            breath = self._breaths.popleft()
            # It is called already if its client is gone.
            if not breath.called:
                breath.callback(None)
                if self.service.running and self.service.clock.seconds() - begun >= SLICE:
                    break
        if self._breaths:
            self._wake_soon()

    def slices(self) -> Slices:
        """For work that begins now."""
        return Slices(self)


class Slices:
    """Work that may take long. What it looks at may change whenever it rests."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._seconds = turns.service.clock.seconds
        # While others wait for their turn, it waits as well before it goes on for long.
        self._begun = -inf if turns.busy else self._seconds()

    @property
    def over(self) -> bool:
        """Whether it is others' turn."""
        return self._seconds() - self._begun >= SLICE

    async def rest(self) -> None:
        """
        Go on at once, or once others had their turn, if it is their turn.

        @raise Draining: the server is about to stop
        """
        if self.over:
            await self._turns.breathe()
            self._begun = self._seconds()

    async def each(self, work: Callable[[_Thing], _Result], things: Iterable[_Thing], steps: int = 1) -> list[_Result]:
        """
        What comes of each, done one after the other.

        @param things: nothing that changes meanwhile
        @param steps: how many are done between two looks at the clock, which takes longer than what is quickly done
        """
        results: list[_Result] = []
        for number, thing in enumerate(things, 1):
            results.append(work(thing))
            if not number % steps and self.over:
                await self.rest()
        return results

    async def those(self, matches: Callable[[_Thing], object], things: Sequence[_Thing]) -> list[_Thing]:
        """Those that match; see L{each}."""
        found = await self.each(matches, things, QUICK)
        return [thing for thing, matched in zip(things, found, strict=True) if matched]
