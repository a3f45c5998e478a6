"""Queues as operators see and set them, with their rates."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import translate
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from phpmq import results
from phpmq.admin.reactor import CooperativeWork, cooperative
from phpmq.errors import BadSetting, Draining, NoSuchQueue
from phpmq.interfaces import IOperators, Steps
from phpmq.message import DEFAULT_SETTINGS, MAX_PAGE, SORTS
from phpmq.operators import steps_of
from phpmq.results import (
    DeleteResult,
    FlushAllResult,
    Page,
    Paused,
    QueueConsumer,
    QueueDetail,
    QueueNumbers,
    QueueStatus,
    QueueTotals,
    Rate,
)

#: How many things that are quickly done are done in one step.
QUICK = 50

# How many queues are sampled in one step.
_SAMPLED = 250

# The lengths in seconds of the windows of L{Rate}; rates that are less count as nothing.
_WINDOWS, _NOTHING = (1.0, 10.0, 60.0), 0.005

# What counts as the time that passed if it was none, or less: the reactor's is the system's.
_SHORTEST = 0.001

_Counts = tuple[int, int, int]

_T = TypeVar("_T")


class Rates:
    """
    Rates of the counters received, delivered and acknowledged, sampled about once a second.

    Over a second it is what the last sample says; over the longer windows an average that forgets exponentially, as a system's load
    average does, so that a queue costs the same however long its history is.

    @ivar idle: whether all rates are 0
    """

    __slots__ = ("_averages", "_counts", "_seconds", "idle")

    def __init__(self, counts: _Counts, seconds: float) -> None:
        """
        @param counts: what the counters are now, at the time C{seconds}
        """
        self._counts = counts
        self._seconds = seconds
        self._averages = [[0.0] * len(_WINDOWS) for _ in counts]
        self.idle = True

    def sample(self, counts: _Counts, seconds: float) -> None:
        """Take note of the counters, and of the time."""
        passed, self._seconds = max(seconds - self._seconds, _SHORTEST), seconds
        if self.idle and counts == self._counts:
            return
        weights = [1.0 if window <= 1 else 1 - math.exp(-passed / window) for window in _WINDOWS]
        idle = True
        for averages, count, before in zip(self._averages, counts, self._counts, strict=True):
            rate = (count - before) / passed
            for place, weight in enumerate(weights):
                average = averages[place] * (1 - weight) + rate * weight
                averages[place] = average if average > _NOTHING else 0.0
                idle = idle and not averages[place]
        self._counts = counts
        self.idle = idle

    @property
    def activity(self) -> float:
        """About how many messages were received and delivered in the longest window."""
        return _WINDOWS[-1] * (self._averages[0][-1] + self._averages[1][-1])

    @property
    def received(self) -> float:
        """Messages received a second, in about the last ten seconds."""
        return round(self._averages[0][1], 2)

    def result(self) -> results.Rates:
        """Return all rates as a result."""
        return results.Rates(*(Rate(*(round(average, 2) for average in averages)) for averages in self._averages))


_NO_RATES = Rates((0, 0, 0), 0.0).result()


def check_limit(limit: int) -> int:
    """Return the limit of a page's items; L{BadSetting} if it is none."""
    if not 1 <= limit <= MAX_PAGE:
        raise BadSetting(f"a limit is a number from 1 to {MAX_PAGE}, not {limit}")
    return limit


def start_of(after: str) -> int:
    """Where a page begins by the C{next} of the page before; L{BadSetting} if it is none."""
    # No position has more than 18 digits.
    if after and not (after.isascii() and after.isdigit() and len(after) <= 18):
        raise BadSetting(f"{after!r} is not where a page ended")
    return int(after or 0)


def matcher(pattern: str) -> Callable[[str], Any]:
    """Whether a name matches a pattern as a whole; C{*} and C{?} as in a shell, upper and lower case are the same."""
    if pattern == "*":
        return lambda name: True
    return re.compile(translate(pattern), re.IGNORECASE).match


def select(pattern: str, things: list[_T], texts: Callable[[_T], Iterable[str]]) -> Steps[list[_T]]:
    """Those of many things of whose texts one matches a pattern."""
    if pattern == "*":
        return things
    match = matcher(pattern)
    matches = yield from steps_of(lambda thing: any(map(match, texts(thing))), things, QUICK)
    return [thing for thing, matched in zip(things, matches, strict=True) if matched]


class Queues:
    """
    What operators see of queues, and do to them.

    A method that names a queue raises L{NoSuchQueue} if there is none of that name; or, if it makes one, L{BadName} if none can have it.

    @ivar flush: removes what waits in a queue; see L{IOperators.flush}
    """

    _log = Logger()

    def __init__(self, operators: IOperators, work: CooperativeWork, clients: Callable[[], Mapping[Any, int]], reactor: Any) -> None:
        """
        @param clients: tells the number of each client, by its channel
        """
        self.work = work
        self.flush = operators.flush
        self._operators = operators
        self._clients = clients
        self._reactor = reactor
        self._rates: dict[int, Rates] = {}  # by the queue's number
        self._sampled = reactor.seconds()
        self._sampling = False

    # Rates

    def sample(self) -> None:
        """Take note of all queues' counters, unless that is still under way since the last time."""
        if not self._sampling:
            self._sampling = True
            Deferred.fromCoroutine(self._sample_each()).addErrback(lambda failure: self._log.failure("no rates of queues", failure))

    async def _sample_each(self) -> None:
        try:
            await self.work.run(self._sample())
        except Draining:
            pass  # Nobody asks for rates any more.
        finally:
            self._sampling = False

    def _sample(self) -> Steps[None]:
        names, kept = self._operators.names(), {}
        for place in range(0, len(names), _SAMPLED):
            now = self._reactor.seconds()
            for name in names[place : place + _SAMPLED]:
                counted = self._operators.counters(name)
                if counted is None:
                    continue
                number, counts = counted
                known = self._rates.get(number)
                if known is None:
                    # A queue that nothing ever happened to needs none.
                    if not any(counts):
                        continue
                    known = Rates((0, 0, 0), self._sampled)
                known.sample(counts, now)
                kept[number] = known
            yield
        self._rates = kept
        self._sampled = self._reactor.seconds()

    def activity(self, number: int) -> float:
        """Messages that the queue of that number received and delivered in about the last minute."""
        rates = self._rates.get(number)
        return 0.0 if rates is None or rates.idle else rates.activity

    def _rate(self, name: str) -> float:
        counted = self._operators.counters(name)
        rates = None if counted is None else self._rates.get(counted[0])
        return 0.0 if rates is None else rates.received

    # What there is

    @cooperative
    def list(self, filter: str = "*", sort: str = "name", after: str = "", limit: int = 100) -> Steps[Page]:
        """
        Queues, by pages. Of many, each is as it was at the moment when it was looked at.

        @param filter: a pattern that the whole name has to match; C{*} and C{?} as in a shell, upper and lower case are the same
        @param sort: one of L{SORTS}; with C{-} before it in descending order
        @param after: the C{next} of the page before
        @raise BadSetting: there is no such order, or the limit is none
        """
        limit = check_limit(limit)
        descending, by = sort.startswith("-"), sort.removeprefix("-")
        if by not in SORTS:
            raise BadSetting(f"queues cannot be sorted by {by!r}, only by {', '.join(SORTS)}")
        names = yield from select(filter, self._operators.names(), lambda name: [name])
        if by == "name":
            # The common case looks at as many queues as it shows.
            left = (name for name in names if not after or (name < after if descending else name > after))
            found = (heapq.nlargest if descending else heapq.nsmallest)(limit + 1, left)
            place = found[limit - 1] if len(found) > limit else None
        else:
            start = start_of(after)
            ranked = yield from steps_of(self._ranking(by, -1 if descending else 1), names, QUICK)
            yield
            found = [name for _, name in heapq.nsmallest(start + limit + 1, ranked)[start:]]
            place = str(start + limit) if len(found) > limit else None
        yield
        items = yield from steps_of(self._status_if_there, found[:limit])
        return Page([item for item in items if item is not None], place)

    def _ranking(self, by: str, sign: int) -> Callable[[str], tuple[float, str]]:
        """Return the function that orders names by a number of their queues. A queue that is gone has 0, and is left out in the end."""
        self._operators.now()
        if by == "rate":
            return lambda name: (sign * self._rate(name), name)
        return lambda name: (sign * self._operators.rank(name, by), name)

    def _status_if_there(self, name: str) -> QueueStatus | None:
        try:
            return self.status(name)
        except NoSuchQueue:
            return None

    def exists(self, name: str) -> bool:
        """Whether there is a queue of that name now."""
        return self._operators.counters(name) is not None

    def status(self, name: str) -> QueueStatus:
        """One queue, without those who consume it."""
        return self._status(self._operators.numbers(name))

    def _status(self, numbers: QueueNumbers) -> QueueStatus:
        rates, oldest = self._rates.get(numbers.number), numbers.oldest
        return QueueStatus(
            numbers.name,
            numbers.ready,
            numbers.delayed,
            numbers.in_flight,
            numbers.dead,
            numbers.bytes,
            numbers.keys,
            numbers.consumers,
            None if oldest is None else max(0, self._operators.now() - oldest) / 1000,
            Paused("deliveries" in numbers.paused, "sends" in numbers.paused),
            QueueTotals(numbers.received, numbers.delivered, numbers.acknowledged),
            _NO_RATES if rates is None else rates.result(),
            numbers.settings or DEFAULT_SETTINGS,
        )

    @cooperative
    def get(self, name: str) -> Steps[QueueDetail]:
        """One queue, and who consumes it."""
        status, clients = self.status(name), self._clients()
        consumers = self._operators.consumers(name)
        consumers.sort(key=lambda consumer: clients.get(consumer[0], 0))
        yield
        found = yield from steps_of(lambda one: QueueConsumer(clients.get(one[0]), *one[1:]), consumers, QUICK)
        return QueueDetail(**vars(status), consuming=tuple(found))

    # What is done to them

    def configure(self, name: str, settings: Mapping[str, Any]) -> QueueStatus:
        """
        Change settings of a queue, which is made if it is not there; None gives one back its default.

        @raise BadSetting: there is no such setting, or it cannot have that value
        """
        return self._status(self._operators.configure(name, settings))

    def pause(self, name: str, what: str = "deliveries") -> QueueStatus:
        """Stop C{deliveries} of a queue, C{sends} to it, or C{all}, else L{BadSetting}; it is made if it is not there."""
        return self._status(self._operators.pause(name, what))

    def resume(self, name: str, what: str = "all") -> QueueStatus:
        """Undo L{pause}."""
        return self._status(self._operators.resume(name, what))

    @cooperative
    def flush_all(self) -> Steps[FlushAllResult]:
        """Flush all queues that there are now, one after the other; others send and consume between two steps."""
        queues = removed = in_flight = 0
        for name in self._operators.names():
            try:
                flushed = self._operators.flush(name)
            except NoSuchQueue:
                continue  # The queue went between two steps.
            queues, removed, in_flight = queues + 1, removed + flushed.removed, in_flight + flushed.in_flight
            yield
        return FlushAllResult(queues, removed, in_flight)

    @cooperative
    def delete(self, name: str) -> Steps[DeleteResult]:
        """Delete a queue with its settings, pause, dead letters and keys; with consumers it stays, empty. Dead letters alone will do."""
        return self._operators.delete_queue(name)
