"""Queues, as an operator sees and sets them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from phpmq.admin import status
from phpmq.admin.pages import Page, check_limit, matcher, start_of
from phpmq.admin.rates import Rates
from phpmq.admin.turns import QUICK, Server, Turns
from phpmq.broker import DELIVERIES, SENDS, Consumer, Queue
from phpmq.errors import BadSetting, Draining
from phpmq.message import DEFAULT_SETTINGS

#: What can be paused, by name.
PAUSES = {"deliveries": DELIVERIES, "sends": SENDS, "all": DELIVERIES | SENDS}

_SORTS: dict[str, Callable[[Queues, Queue], float]] = {
    "ready": lambda admin, queue: queue.ready,
    "in_flight": lambda admin, queue: queue.in_flight,
    "messages": lambda admin, queue: queue.ready + queue.delayed + queue.in_flight,
    "dead": lambda admin, queue: admin.broker.dead_letters.count_of(queue.name),
    "bytes": lambda admin, queue: queue.ready_size,
    "age": lambda admin, queue: admin._age(queue),
    "rate": lambda admin, queue: admin._rate(queue),
}

#: What queues can be sorted by; C{messages} are those ready, delayed and in flight.
SORTS = "name", *_SORTS


# So many queues are sampled before others may get their turn.
_SAMPLED = 250


class Queues(Turns):
    """What can be seen of queues, and done to them."""

    _log = Logger()

    def __init__(self, service: Server, reactor: Any) -> None:
        super().__init__(service, reactor)
        self._rates: dict[Queue, Rates] = {}
        self._sampled = reactor.seconds()
        self._sampling = False

    # Rates

    def _sample_queues(self) -> None:
        """Take note of all queues' counters, unless that is still under way since the last time."""
        if not self._sampling:
            self._sampling = True
            Deferred.fromCoroutine(self._sample_each()).addErrback(lambda failure: self._log.failure("no rates of queues", failure))

    async def _sample_each(self) -> None:
        queues, slices = list(self.broker.queues.values()), self.slices()
        kept: dict[Queue, Rates] = {}
        try:
            for place in range(0, len(queues), _SAMPLED):
                self._sample(queues[place : place + _SAMPLED], kept)
                await slices.rest()
            self._rates = kept
            self._sampled = self._reactor.seconds()
        except Draining:
            pass  # Nobody asks for rates any more.
        finally:
            self._sampling = False

    def _sample(self, queues: list[Queue], kept: dict[Queue, Rates]) -> None:
        rates, now = self._rates, self._reactor.seconds()
        for queue in queues:
            known = rates.get(queue)
            if known is None:
                # A queue that nothing ever happened to needs none.
                if not (queue.received or queue.delivered or queue.acknowledged):
                    continue
                known = Rates((0,) * len(status.COUNTERS), self._sampled)
            known.sample(status.counts_of(queue), now)
            kept[queue] = known

    def _rate(self, queue: Queue) -> float:
        rates = self._rates.get(queue)
        return 0.0 if rates is None else rates.of(0)["10s"]

    def activity(self, queue: Queue) -> float:
        """Messages that a queue received and delivered in about the last minute."""
        rates = self._rates.get(queue)
        return 0.0 if rates is None or rates.idle else rates.lately(0) + rates.lately(1)

    # What there is

    async def queues(self, filter: str = "*", sort: str = "name", after: str = "", limit: int = 100) -> Page:
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
        slices, names = self.slices(), list(self.broker.queues)
        if filter != "*":
            names = await slices.those(matcher(filter), names)
        if by == "name":
            # The common case looks at as many queues as it shows.
            left = (name for name in names if not after or (name < after if descending else name > after))
            found = (heapq.nlargest if descending else heapq.nsmallest)(limit + 1, left)
            place = found[limit - 1] if len(found) > limit else None
        else:
            start = start_of(after)
            ranked = await slices.each(self._ranking(_SORTS[by], -1 if descending else 1), names, QUICK)
            await slices.rest()
            found = [name for _, name in heapq.nsmallest(start + limit + 1, ranked)[start:]]
            place = str(start + limit) if len(found) > limit else None
        await slices.rest()
        items = await slices.each(self._status_of, found[:limit])
        return Page([item for item in items if item is not None], place)

    def _ranking(self, key: Callable[[Queues, Queue], float], sign: int) -> Callable[[str], tuple[float, str]]:
        """What orders names as a key does their queues."""
        queues = self.broker.queues
        self.broker.turn.enter()

        def rank(name: str) -> tuple[float, str]:
            # What is gone meanwhile is left out in the end.
            queue = queues.get(name)
            return (0.0 if queue is None else sign * key(self, queue)), name

        return rank

    def _status_of(self, name: str) -> dict[str, Any] | None:
        queue = self.broker.queues.get(name)
        self.broker.turn.enter()
        return None if queue is None else self._queue_status(queue)

    def _queue_status(self, queue: Queue) -> dict[str, Any]:
        return status.queue_status(queue, self.broker, self.oldest(queue), self._rates.get(queue))

    def oldest(self, queue: Queue) -> int | None:
        """
        When the message that is next was accepted, milliseconds since the epoch; None if none is ready.

        It is not always the one that waits longest: re-queued ones are at the tail.
        """
        if queue.prefetched:
            return queue.prefetched[0].accepted
        if not queue.unread:
            return None
        (oldest,) = self._store.peek(queue, queue.cursor, 1, 0)
        return oldest.accepted

    def _age(self, queue: Queue) -> float:
        oldest = self.oldest(queue)
        return 0.0 if oldest is None else max(0, self.broker.turn.now - oldest) / 1000

    def numbers(self, name: str) -> dict[str, Any]:
        """
        One queue, without those who consume it.

        @raise NoSuchQueue: there is none of that name
        """
        self.broker.turn.enter()
        return self._queue_status(self._queue(name))

    async def queue(self, name: str) -> dict[str, Any]:
        """
        One queue, and who consumes it.

        @raise NoSuchQueue: there is none of that name
        """
        self.broker.turn.enter()
        slices, queue = self.slices(), self._queue(name)
        numbers = self._queue_status(queue)
        clients: dict[object, int] = {
            client.session.channel: client.number for client in self.service.connections.open if client.session is not None
        }

        def client(consumer: Consumer) -> int | None:
            return clients.get(consumer.channel)

        def describe(consumer: Consumer) -> dict[str, Any]:
            return {
                "client": client(consumer),
                "window": consumer.window,
                "in_flight": consumer.held,
                "lease_seconds": consumer.lease / 1000,
            }

        await slices.rest()
        consumers = sorted(queue.consumers, key=lambda consumer: client(consumer) or 0)
        return {**numbers, "consuming": await slices.each(describe, consumers)}

    # What is done to them

    def configure(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """
        Change settings of a queue, which is made if it is not there; None gives one back its default.

        @raise BadName: no queue can have that name
        @raise BadSetting: there is no such setting, or it cannot have that value
        """
        queue = self.broker.queues.get(name)
        changed = (DEFAULT_SETTINGS if queue is None else queue.settings).changed(settings)
        queue = self.broker.configure(name, changed)
        return self._queue_status(queue)

    def flush(self, name: str) -> dict[str, Any]:
        """
        Remove what waits in a queue; what is in flight is left to its consumers, and never comes back.

        @raise NoSuchQueue: there is none of that name
        """
        self._queue(name)
        removed, in_flight = self.broker.queues.flush(name)
        return {"queue": name, "removed": removed, "in_flight": in_flight}

    async def flush_all(self) -> dict[str, Any]:
        """Likewise for all queues that there are now, one after the other; others send and consume meanwhile."""
        queues = removed = in_flight = 0
        slices = self.slices()
        for name in list(self.broker.queues):
            if name in self.broker.queues:
                waiting, held = self.broker.queues.flush(name)
                queues, removed, in_flight = queues + 1, removed + waiting, in_flight + held
                await slices.rest()
        return {"queues": queues, "removed": removed, "in_flight": in_flight}

    def pause(self, name: str, what: str = "deliveries") -> dict[str, Any]:
        """
        Stop C{deliveries} of a queue, C{sends} to it, or C{all}; it is made if it is not there.

        @raise BadName: no queue can have that name
        @raise BadSetting: that cannot be paused
        """
        self.broker.queues.pause(name, _pause(what))
        return self._queue_status(self._queue(name))

    def resume(self, name: str, what: str = "all") -> dict[str, Any]:
        """
        Undo L{pause}.

        @raise NoSuchQueue: there is none of that name
        @raise BadSetting: that cannot be paused
        """
        queue = self._queue(name)
        self.broker.queues.resume(name, _pause(what))
        return self._queue_status(queue)


def _pause(what: str) -> int:
    if what not in PAUSES:
        raise BadSetting(f"{' or '.join(PAUSES)} can be paused, not {what!r}")
    return PAUSES[what]
