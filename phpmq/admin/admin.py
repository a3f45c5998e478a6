"""The operator's side of a server."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred

from phpmq import __version__
from phpmq.admin import status
from phpmq.admin.pulse import Pulse
from phpmq.admin.rates import Rates
from phpmq.admin.sender import Sender
from phpmq.broker import DELIVERIES, SENDS, Broker, Queue
from phpmq.clock import SteadyClock
from phpmq.errors import BadSetting, Draining, NoSuchClient, NoSuchMessage, NoSuchQueue
from phpmq.message import DEFAULT_SETTINGS, DeadMessage, Message, check_name
from phpmq.mirror import MirrorService
from phpmq.protocol import Connections
from phpmq.store import SQLiteStore

if TYPE_CHECKING:
    from phpmq.admin.console import ConsoleFactory
    from phpmq.admin.http import Site


class Server(Protocol):
    """What an L{Admin} looks at: a L{phpmq.service.QueueService}."""

    broker: Broker
    connections: Connections
    mirror: MirrorService | None
    store: SQLiteStore | None
    running: int
    clock: SteadyClock
    pulse: Pulse
    consoles: ConsoleFactory
    site: Site | None

    @property
    def max_message_size(self) -> int:
        """Bytes of one message's body."""

    @property
    def metrics_queues(self) -> int:
        """Queues that the metrics have series of their own for."""


#: What can be paused, by name.
PAUSES = {"deliveries": DELIVERIES, "sends": SENDS, "all": DELIVERIES | SENDS}

#: States in which messages can be listed.
STATES = "ready", "delayed", "in_flight", "dead"

#: The most items of a page.
MAX_PAGE = 1000

#: Without one written for so long, in seconds, the mirror counts as failing.
MIRROR_PATIENCE = 10.0

#: The most bytes of bodies that a page of messages has: more would keep everybody else waiting.
PAGE_BYTES = 4 * 1024 * 1024

# So many dead letters, with so many bytes, are worked on before others get their turn.
_LETTERS, _LETTERS_BYTES = 500, 4 * 1024 * 1024

_SORTS: dict[str, Callable[[Admin, Queue], float]] = {
    "ready": lambda admin, queue: queue.ready,
    "in_flight": lambda admin, queue: queue.in_flight,
    "messages": lambda admin, queue: queue.ready + queue.delayed + queue.in_flight,
    "dead": lambda admin, queue: admin.broker.dead.count(queue.name),
    "bytes": lambda admin, queue: queue.ready_size,
    "age": lambda admin, queue: admin._age(queue),
    "rate": lambda admin, queue: admin._rate(queue),
}

#: What queues can be sorted by; C{messages} are those ready, delayed and in flight.
SORTS = "name", *_SORTS


@dataclass(frozen=True)
class Page:
    """
    A part of a list.

    @ivar items: dicts
    @ivar next: what to ask for to get the part after it; None for the last one
    """

    items: list[dict[str, Any]]
    next: str | None


@dataclass(frozen=True)
class Health:
    """
    Whether the server does what it is for.

    @ivar checks: name -> what is wrong; empty for what is well
    """

    checks: Mapping[str, str]

    @property
    def ready(self) -> bool:
        """Whether all is well."""
        return not any(self.checks.values())


class Admin:
    """
    What an operator can see and do. To be called on the reactor's thread.

    @ivar service: the server, which has been started
    """

    def __init__(self, service: Server, reactor: Any) -> None:
        self.service = service
        self._reactor = reactor
        self._started = reactor.seconds()
        self._sampled = self._started
        self._totals = Rates(self._counts())
        self._rates: dict[Queue, Rates] = {}

    @property
    def broker(self) -> Broker:
        """The queues."""
        return self.service.broker

    @property
    def uptime(self) -> float:
        """Seconds since the server started."""
        return float(self._reactor.seconds() - self._started)

    def _counts(self) -> tuple[int, ...]:
        return self.broker.received, self.broker.delivered, self.broker.acknowledged_total

    def sample(self) -> None:
        """Take note of all counters; to be called about once a second."""
        now = self._reactor.seconds()
        seconds, self._sampled = max(now - self._sampled, 0.001), now
        self._totals.sample(self._counts(), seconds)
        rates, self._rates = self._rates, {}
        for queue in self.broker.queues.values():
            known = rates.get(queue)
            if known is None:
                # A queue that nothing ever happened to needs none.
                if any(counts := status.counts_of(queue)):
                    known = self._rates[queue] = Rates((0,) * len(counts))
                    known.sample(counts, seconds)
            else:
                self._rates[queue] = known
                known.sample(status.counts_of(queue), seconds)

    # Status

    def status(self) -> dict[str, Any]:
        """The whole server."""
        service, broker = self.service, self.broker
        broker.enter()
        queues = broker.queues.values()
        connections = service.connections
        return {
            "version": __version__,
            "state": "running" if service.running else "draining",
            "now": status.moment(broker.now),
            "uptime_seconds": round(self.uptime, 3),
            "messages": {
                "ready": sum(queue.ready for queue in queues),
                "delayed": sum(queue.delayed for queue in queues),
                "in_flight": sum(queue.in_flight for queue in queues),
                "dead": sum(count for count, _ in broker.dead.totals.values()),
                "bytes": sum(queue.ready_size for queue in queues),
            },
            "totals": status.totals_of(broker),
            "dead_lettered": dict(broker.dead.buried),
            "rates": status.rates_of(self._totals),
            "queues": len(broker.queues),
            "consumers": sum(len(queue.consumers) for queue in queues),
            "connections": {
                "open": len(connections.open),
                "limit": connections.max_connections,
                "accepted": connections.accepted,
                "rejected": connections.rejected,
                "timeouts": dict(connections.timeouts),
                "protocol_errors": dict(connections.errors),
            },
            "keys": {"remembered": broker.keys.count, "limit": broker.keys.limit},
            "memory": {"used": broker.used, "limit": broker.memory_limit, **status.memory_of_process()},
            "mirror": self.mirror(),
            "alarms": self.alarms(),
        }

    def mirror(self) -> dict[str, Any]:
        """The store's file."""
        service = self.service
        mirror, store = service.mirror, service.store
        if mirror is None or store is None:
            return {"file": None}
        pending = store.pending
        return {
            "file": mirror.path,
            "failing": mirror.failing,
            "pending_changes": pending,
            "lag_seconds": round(mirror.lag if pending or mirror.failing else 0.0, 3),
            "writes": mirror.writes,
            "errors": mirror.errors,
        }

    def alarms(self) -> list[dict[str, str]]:
        """What an operator has to look at now."""
        alarms = {**self.health().checks, "keys": self.broker.keys.alarm}
        return [{"name": name, "text": text} for name, text in alarms.items() if text]

    def health(self) -> Health:
        """Whether the server does what it is for, check by check."""
        broker, mirror = self.broker, self.service.mirror
        checks = {
            "running": "" if self.service.running else "the server is about to stop",
            "memory": "the memory limit is reached" if broker.used >= broker.memory_limit else "",
        }
        if mirror is not None:
            late = mirror.lag > MIRROR_PATIENCE + mirror.interval
            checks["mirror"] = (
                "the store's file cannot be written"
                if mirror.failing
                else f"the store's file was not written for {mirror.lag:.0f} s"
                if late
                else ""
            )
        return Health(checks)

    # Queues

    def queues(self, filter: str = "*", sort: str = "name", after: str = "", limit: int = 100) -> Page:
        """
        Queues, by pages.

        @param filter: a pattern that the whole name has to match; C{*} and C{?} as in a shell, upper and lower case are the same
        @param sort: one of L{SORTS}; with C{-} before it in descending order
        @param after: the C{next} of the page before
        @raise BadSetting: there is no such order, or the limit is none
        """
        self.broker.enter()
        limit = _page(limit)
        matches = _matcher(filter)
        names = [name for name in self.broker.queues if matches(name)]
        descending, by = sort.startswith("-"), sort.removeprefix("-")
        if by == "name":
            # The common case looks at as many queues as it shows.
            left = (name for name in names if not after or (name < after if descending else name > after))
            names = (heapq.nlargest if descending else heapq.nsmallest)(limit + 1, left)
            items = [self._queue_status(self.broker.queues[name]) for name in names[:limit]]
            return Page(items, names[limit - 1] if len(names) > limit else None)
        if by not in _SORTS:
            raise BadSetting(f"queues cannot be sorted by {by!r}, only by {', '.join(SORTS)}")
        key, sign, start = _SORTS[by], -1 if descending else 1, _start(after)
        ranked = ((sign * key(self, self.broker.queues[name]), name) for name in names)
        found = heapq.nsmallest(start + limit + 1, ranked)[start:]
        items = [self._queue_status(self.broker.queues[name]) for _, name in found[:limit]]
        return Page(items, str(start + limit) if len(found) > limit else None)

    def _queue_status(self, queue: Queue) -> dict[str, Any]:
        return status.queue_status(queue, self.broker, self.oldest(queue), self._rates.get(queue))

    def oldest(self, queue: Queue) -> int | None:
        """
        When the message that is next was accepted, milliseconds since the epoch; None if none is ready.

        It is not always the one that waits longest: re-queued ones are at the tail.
        """
        if queue.ahead:
            return queue.ahead[0].accepted
        if not queue.behind:
            return None
        assert self.service.store is not None
        (oldest,) = self.service.store.peek(queue, queue.cursor, 1, 0)
        return oldest.accepted

    def _age(self, queue: Queue) -> float:
        oldest = self.oldest(queue)
        return 0.0 if oldest is None else max(0, self.broker.now - oldest) / 1000

    def _rate(self, queue: Queue) -> float:
        rates = self._rates.get(queue)
        return 0.0 if rates is None else rates.of(0)["10s"]

    def activity(self, queue: Queue) -> float:
        """Messages that a queue received and delivered in about the last minute."""
        rates = self._rates.get(queue)
        return 0.0 if rates is None or rates.idle else rates.lately(0) + rates.lately(1)

    def _queue(self, name: str) -> Queue:
        queue = self.broker.queues.get(name)
        if queue is None:
            raise NoSuchQueue(f"there is no queue {name!r}")
        return queue

    def queue(self, name: str) -> dict[str, Any]:
        """
        One queue, and who consumes it.

        @raise NoSuchQueue: there is none of that name
        """
        self.broker.enter()
        queue = self._queue(name)
        numbers = {client.session.channel: client.number for client in self.service.connections.open if client.session is not None}
        consuming = [
            {
                "client": numbers.get(consumer.channel),
                "window": consumer.window,
                "in_flight": consumer.held,
                "lease_seconds": consumer.lease / 1000,
            }
            for consumer in queue.consumers
        ]
        return {**self._queue_status(queue), "consuming": sorted(consuming, key=lambda consumer: consumer["client"] or 0)}

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

    async def delete_queue(self, name: str) -> dict[str, Any]:
        """
        Flush a queue and forget its settings, pause, dead letters and keys. It goes away unless somebody consumes it.

        @raise NoSuchQueue: there is none of that name, and no dead letter of it
        """
        if not self.broker.dead.count(name):
            self._queue(name)
        dead = (await self.delete_dead(name))["deleted"]
        removed, in_flight = self.broker.flush(name)
        self.broker.forget_keys(name)
        if name in self.broker.queues:
            self.broker.resume(name)
        if name in self.broker.queues:
            self.broker.configure(name, DEFAULT_SETTINGS)
        return {"queue": name, "removed": removed, "in_flight": in_flight, "dead": dead}

    def flush(self, name: str) -> dict[str, Any]:
        """
        Remove what waits in a queue; what is in flight is left to its consumers, and never comes back.

        @raise NoSuchQueue: there is none of that name
        """
        self._queue(name)
        removed, in_flight = self.broker.flush(name)
        return {"queue": name, "removed": removed, "in_flight": in_flight}

    def flush_all(self) -> dict[str, Any]:
        """Likewise for all queues."""
        queues = len(self.broker.queues)
        removed, in_flight = self.broker.flush_all()
        return {"queues": queues, "removed": removed, "in_flight": in_flight}

    def pause(self, name: str, what: str = "deliveries") -> dict[str, Any]:
        """
        Stop C{deliveries} of a queue, C{sends} to it, or C{all}; it is made if it is not there.

        @raise BadName: no queue can have that name
        @raise BadSetting: that cannot be paused
        """
        self.broker.pause(name, _pause(what))
        return self._queue_status(self._queue(name))

    def resume(self, name: str, what: str = "all") -> dict[str, Any]:
        """
        Undo L{pause}.

        @raise NoSuchQueue: there is none of that name
        @raise BadSetting: that cannot be paused
        """
        queue = self._queue(name)
        self.broker.resume(name, _pause(what))
        return self._queue_status(queue)

    # Messages

    def messages(self, name: str, state: str = "ready", after: str = "", limit: int = 50, preview: int = 256) -> Page:
        """
        Look at a queue's messages, in their order, by pages; nothing changes by it.

        @param state: C{ready}, C{delayed}, C{in_flight} or C{dead}
        @param after: the C{next} of the page before
        @param preview: how many bytes of each body; fewer if those of all C{limit} messages would be more than L{PAGE_BYTES}
        @raise NoSuchQueue: there is none of that name, and no dead letter of it
        @raise BadSetting: there is no such state
        """
        self.broker.enter()
        limit = _page(limit)
        preview = min(preview, PAGE_BYTES // limit)
        if state not in STATES:
            raise BadSetting(f"a state is {', '.join(STATES)}, not {state!r}")
        start = _start(after)
        if state == "dead":
            return self._dead_page(name, start, limit, preview)
        queue = self._queue(name)
        place = "position" if state != "delayed" else "number"
        read = {"ready": self._ready, "delayed": self._delayed, "in_flight": self._in_flight}[state]
        found = read(queue, start, limit + 1, preview)
        items = [status.message_status(message, state, self.broker, preview) for message in found[:limit]]
        return Page(items, str(getattr(found[limit - 1], place)) if len(found) > limit else None)

    def _ready(self, queue: Queue, start: int, count: int, preview: int) -> list[Message]:
        ahead = [message for message in queue.ahead if message.position > start][:count]
        if len(ahead) < count and queue.behind:
            assert self.service.store is not None
            ahead += self.service.store.peek(queue, max(start, queue.cursor), count - len(ahead), preview)
        return ahead

    def _delayed(self, queue: Queue, start: int, count: int, preview: int) -> list[Message]:
        assert self.service.store is not None
        return self.service.store.peek(queue, max(start, queue.flushed), count, preview, delayed=True)

    def _in_flight(self, queue: Queue, start: int, count: int, preview: int) -> list[Message]:
        channels = (channel for channel in self.broker.channels if queue.name in channel.consumers)
        held = (message for channel in channels for message in channel.unacked.values())
        found = (message for message in held if message.queue is queue and message.position > start)
        return heapq.nsmallest(count, found, key=lambda message: message.position)

    def _dead_page(self, name: str, start: int, limit: int, preview: int) -> Page:
        if not self.broker.dead.count(name):
            self._queue(name)
        found = self.broker.dead.some(name, start, limit + 1, preview=preview)
        items = [status.dead_status(dead, self.broker, preview) for dead in found[:limit]]
        return Page(items, str(found[limit - 1].number) if len(found) > limit else None)

    def message(self, name: str, id: str, preview: int | None = None) -> dict[str, Any]:
        """
        One message.

        @param preview: how many bytes of its body; None for all
        @raise NoSuchMessage: there is none of that id in the queue
        """
        broker = self.broker
        broker.enter()
        number = self._number(id)
        if (dead := broker.dead.find(name, number)) is not None:
            return status.dead_status(dead, broker, preview)
        queue = broker.queues.get(name)
        assert self.service.store is not None
        message = None if queue is None else self.service.store.get(queue, number)
        if queue is None or message is None or abs(message.position) <= queue.flushed:
            raise NoSuchMessage(f"there is no message {id!r} in the queue {name!r}")
        key = id.encode("ascii")
        held = next((channel.unacked[key] for channel in broker.channels if key in channel.unacked), None)
        state = "in_flight" if held is not None else "delayed" if message.position < 0 else "ready"
        return status.message_status(held or message, state, broker, preview)

    def _number(self, id: str) -> int:
        prefix = self.broker.message_id(0)[:16].decode("ascii")
        if not re.fullmatch(r"[0-9a-f]{32}", id) or not id.startswith(prefix):
            raise NoSuchMessage(f"there is no message {id!r}")
        return int(id[16:], 16)

    def send(
        self,
        name: str,
        body: bytes,
        ttl: float = 0,
        delay: float = 0,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        level: str = "stored",
    ) -> Deferred[dict[str, Any]]:
        """
        Send a message, as a client of protocol 2 does; the answer is the receipt.

        @raise PHPMQError: what is wrong with it, as the Deferred's failure
        """
        return Sender(self.broker, self.service.max_message_size).send(name, body, ttl, delay, headers, key, level)

    # Dead letters

    def dead(self, filter: str = "*", after: str = "", limit: int = 100) -> Page:
        """
        Queues that have dead letters, also those that are gone, by name and by pages: how many, and their bytes.

        @param filter: a pattern for their names; see L{queues}
        @param after: the C{next} of the page before
        """
        limit = _page(limit)
        totals, matches = self.broker.dead.totals, _matcher(filter)
        names = heapq.nsmallest(limit + 1, (name for name in totals if name > after and matches(name)))
        items = [{"queue": name, "dead": totals[name][0], "bytes": totals[name][1]} for name in names[:limit]]
        return Page(items, names[limit - 1] if len(names) > limit else None)

    async def replay(
        self,
        name: str,
        target: str | None = None,
        ids: Iterable[str] | None = None,
        reason: str | None = None,
        count: int | None = None,
    ) -> dict[str, Any]:
        """
        Have a queue's dead letters delivered again: they go to its tail, or to another queue's, with their attempts forgotten.

        @param ids: which; None for all
        @param reason: only those that died of it
        @param count: at most so many, the oldest ones
        @raise NoSuchMessage: one of the ids is not that of a dead letter of the queue
        @raise BadName: no queue can have the target's name
        """
        into = check_name(name if target is None else target)

        def replay(letters: list[DeadMessage]) -> None:
            self.broker.dead.replay(letters, into)

        return {"queue": name, "target": into, "replayed": await self._each_dead(replay, name, ids, reason, count)}

    async def delete_dead(
        self, name: str, ids: Iterable[str] | None = None, reason: str | None = None, count: int | None = None
    ) -> dict[str, Any]:
        """Forget a queue's dead letters; parameters and errors are those of L{replay}."""
        return {"queue": name, "deleted": await self._each_dead(self.broker.dead.delete, name, ids, reason, count)}

    async def _each_dead(
        self,
        work: Callable[[list[DeadMessage]], object],
        name: str,
        ids: Iterable[str] | None,
        reason: str | None,
        count: int | None,
    ) -> int:
        """Do something to dead letters, a part at a time, so that nobody waits for many of them: how many it was done to."""
        broker = self.broker
        if ids is not None:
            return await self._named_dead(work, name, list(dict.fromkeys(ids)))
        done = after = 0
        # Those that die meanwhile are not meant.
        latest = broker.latest
        while count is None or done < count:
            letters = broker.dead.some(name, after, _LETTERS if count is None else min(_LETTERS, count - done), reason, size=_LETTERS_BYTES)
            letters = [dead for dead in letters if dead.number <= latest]
            if not letters:
                break
            self._turn(work, letters)
            done += len(letters)
            after = letters[-1].number
            await self.breathe()
        return done

    async def _named_dead(self, work: Callable[[list[DeadMessage]], object], name: str, ids: list[str]) -> int:
        """Likewise to those of these ids, if they are all there; one at a time in memory."""
        broker = self.broker
        for id in ids:
            if broker.dead.find(name, self._number(id)) is None:
                raise NoSuchMessage(f"there is no dead letter {id!r} of the queue {name!r}")
        done = 0
        for start in range(0, len(ids), _LETTERS):
            if start:
                await self.breathe()
            for id in ids[start : start + _LETTERS]:
                # It may have been dealt with meanwhile.
                if (dead := broker.dead.find(name, self._number(id))) is not None:
                    self._turn(work, [dead])
                    done += 1
        return done

    def _turn(self, work: Callable[[list[DeadMessage]], object], letters: list[DeadMessage]) -> None:
        self.broker.begin()
        try:
            work(letters)
        finally:
            self.broker.end()

    async def move(self, source: str, target: str, count: int | None = None) -> dict[str, Any]:
        """
        Have messages that are ready in a queue go to the tail of another one.

        @param count: at most so many, the first ones; None for as many as there are now
        @raise NoSuchQueue: there is no queue of the source's name
        @raise BadName: no queue can have the target's name
        @raise BadSetting: both are the same
        """
        if source == target:
            raise BadSetting("a queue's messages cannot be moved to the same queue")
        ready = self._queue(source).ready
        left = ready if count is None else count
        self.broker.queue(target)
        moved = 0
        while left > moved and (queue := self.broker.queues.get(source)) is not None:
            self.broker.begin()
            step = self.broker.move(queue, self.broker.queue(target), left - moved)
            self.broker.end()
            if not step:
                break
            moved += step
            await self.breathe()
        self.broker.forget_if_unused(self.broker.queue(target))
        return {"source": source, "target": target, "moved": moved}

    async def breathe(self) -> None:
        """
        Let the reactor do other work.

        @raise Draining: the server is about to stop: what is left to do is not done
        """
        breath: Deferred[None] = Deferred()
        self._reactor.callLater(0, breath.callback, None)
        await breath
        if not self.service.running:
            raise Draining("the server is about to stop: this is not finished")

    # Clients

    def clients(self, filter: str = "*", after: str = "", limit: int = 100) -> Page:
        """
        Connections in the order in which they were made, by pages.

        @param filter: a pattern for address, listener or protocol
        @param after: the C{next} of the page before
        """
        limit = _page(limit)
        start, matches = _start(after), _matcher(filter)
        found = heapq.nsmallest(
            limit + 1,
            (client for client in self.service.connections.open if client.number > start and (filter == "*" or _is(client, matches))),
            key=lambda client: client.number,
        )
        now = self.service.connections.seconds()
        items = [status.client_status(client, now) for client in found[:limit]]
        return Page(items, str(found[limit - 1].number) if len(found) > limit else None)

    def disconnect(self, id: int) -> dict[str, Any]:
        """
        Close a connection; what it holds is ready again.

        @raise NoSuchClient: there is none of that number
        """
        for client in self.service.connections.open:
            if client.number == id:
                result = status.client_status(client, self.service.connections.seconds())
                client.abort()
                return result
        raise NoSuchClient(f"there is no client {id}")


def _pause(what: str) -> int:
    if what not in PAUSES:
        raise BadSetting(f"{' or '.join(PAUSES)} can be paused, not {what!r}")
    return PAUSES[what]


def _page(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise BadSetting(f"a limit is a number from 1 to {MAX_PAGE}, not {limit}")
    return limit


def _start(after: str) -> int:
    # No position has more than 18 digits.
    if after and not (after.isascii() and after.isdigit() and len(after) <= 18):
        raise BadSetting(f"{after!r} is not where a page ended")
    return int(after or 0)


def _matcher(pattern: str) -> Callable[[str], Any]:
    if pattern == "*":
        return lambda name: True
    return re.compile(translate(pattern), re.IGNORECASE).match


def _is(client: Any, matches: Callable[[str], Any]) -> bool:
    language = "" if client.session is None else client.session.language
    return any(matches(text) for text in (client.peer, client.listener, language))
