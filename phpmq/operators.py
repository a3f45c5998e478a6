"""What operators see of a broker and do to it. No I/O: work that may take long is a generator, which yields where others may go on."""

from __future__ import annotations

import heapq
import json
import re
from base64 import b64encode
from bisect import bisect_right
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain, islice
from operator import attrgetter
from typing import Any, TypeVar

from zope.interface import implementer

from phpmq.broker.broker import Broker
from phpmq.broker.lifecycle import state_of
from phpmq.broker.queue import DELIVERIES, SENDS, Consumer, Queue
from phpmq.errors import BadSetting, NoSuchMessage, NoSuchQueue
from phpmq.interfaces import IChannel, IOperators, IStore, Steps
from phpmq.message import DEFAULT_SETTINGS, DeadMessage, Message, check_name
from phpmq.results import (
    ClientConsumer,
    DeadLetterStatus,
    DeleteResult,
    FlushResult,
    MessageStatus,
    Page,
    QueueNumbers,
    ServerMessages,
    ServerTotals,
)

#: The most bytes of bodies that a page of messages has: more would keep everybody else waiting.
PAGE_BYTES = 4 * 1024 * 1024

# How many messages in flight are looked at in one step.
_LOOK = 2000

# How many dead letters with how many bytes are worked on in one step.
_LETTERS, _LETTERS_BYTES = 250, 4 * 1024 * 1024

# After all positions; and the end of the year 9999, as later moments have no date.
_NO_POSITION, _LAST_MOMENT = 2**63, 253_402_300_799_000

_PAUSES = {"deliveries": DELIVERIES, "sends": SENDS, "all": DELIVERIES | SENDS}
_PAUSED = tuple(tuple(what for what in ("deliveries", "sends") if bits & _PAUSES[what]) for bits in range(4))

_position = attrgetter("position")

_M = TypeVar("_M", Message, DeadMessage)
_T = TypeVar("_T")
_R = TypeVar("_R")


def moment(milliseconds: int) -> str:
    """A time of the store as ISO 8601 in UTC; the last that there is for what never comes."""
    seconds = min(milliseconds, _LAST_MOMENT) / 1000
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def content_of(body: bytes, size: int, preview: int) -> dict[str, Any]:
    """
    The fields of the beginning of a body: as text if it is UTF-8, without a character that is cut in two, and as base64 if not.

    @param size: how many bytes the whole body has
    """
    part = body[:preview]
    truncated = len(part) < size
    try:
        content = {"body": getincrementaldecoder("utf-8")().decode(part, not truncated)}
    except UnicodeDecodeError:
        content = {"body_base64": b64encode(part).decode("ascii")}
    return {"size": size, "truncated": truncated, **content}


@implementer(IOperators)
class LocalOperators:
    """The operators' side of a broker in this process; see L{IOperators}."""

    def __init__(self, broker: Broker, store: IStore) -> None:
        self._broker = broker
        self._store = store
        self.waits = broker.lifecycle.waits
        self.dead_lettered: Mapping[str, int] = broker.dead_letters.by_reason
        self.refused: Mapping[str, int] = broker.outcomes.refused
        self.dead_totals: Mapping[str, tuple[int, int]] = broker.dead_letters.totals
        self._sorts: Mapping[str, Callable[[Queue], float]] = {
            "ready": lambda queue: queue.ready,
            "in_flight": lambda queue: queue.in_flight,
            "messages": lambda queue: queue.ready + queue.delayed + queue.in_flight,
            "dead": lambda queue: broker.dead_letters.count_of(queue.name),
            "bytes": lambda queue: queue.ready_size,
            "age": self._age,
        }

    # The server

    def now(self) -> int:
        """The time; see L{IOperators}."""
        self._broker.turn.enter()
        return self._broker.turn.now

    def totals(self) -> ServerTotals:
        """Counters; see L{IOperators}."""
        broker, lifecycle = self._broker, self._broker.lifecycle
        return ServerTotals(
            received=lifecycle.received,
            delivered=lifecycle.delivered,
            redelivered=lifecycle.redelivered,
            acknowledged=lifecycle.acknowledged,
            requeued=lifecycle.requeued,
            expired=lifecycle.expired,
            dropped=lifecycle.dropped,
            flushed=broker.queues.flushed,
            dead_lettered=sum(broker.dead_letters.by_reason.values()),
            duplicates=broker.outcomes.duplicates,
            unknown_ids=broker.outcomes.unknown_ids,
        )

    def gauges(self) -> Mapping[str, int]:
        """What is there now; see L{IOperators}."""
        broker = self._broker
        return {
            "queues": len(broker.queues),
            "memory_used": broker.memory.used,
            "memory_limit": broker.memory.limit,
            "senders_waiting": broker.memory.blocked,
            "receipts_waiting": broker.confirms.unconfirmed,
            "keys": broker.keys.count,
            "keys_limit": broker.keys.limit,
            "producers": len(broker.producers.by_name),
            "producer_timeout": broker.producers.timeout // 1000,
            "unconfirmed_limit": broker.confirms.limit,
            "window_limit": broker.lifecycle.max_window,
        }

    def alarms(self) -> Mapping[str, str]:
        """What is wrong; see L{IOperators}."""
        full = self._broker.memory.used >= self._broker.memory.limit
        return {"memory": "the memory limit is reached" if full else "", "keys": self._broker.keys.alarm}

    def sums(self) -> tuple[ServerMessages, int]:
        """Messages by state, and consumers; see L{IOperators}."""
        ready = delayed = in_flight = size = consumers = 0
        for queue in self._broker.queues.by_name.values():
            ready += queue.unread + len(queue.prefetched)
            delayed += queue.delayed
            in_flight += queue.in_flight
            size += queue.ready_size
            consumers += len(queue.consumers)
        return ServerMessages(ready, delayed, in_flight, self._broker.dead_letters.count, size), consumers

    # Queues

    def _queue(self, name: str) -> Queue:
        queue = self._broker.queues.by_name.get(name)
        if queue is None:
            raise NoSuchQueue(f"there is no queue {name!r}")
        return queue

    def names(self) -> list[str]:
        """The queues' names; see L{IOperators}."""
        return list(self._broker.queues.by_name)

    def rank(self, name: str, by: str) -> float:
        """What queues are sorted by; see L{IOperators}."""
        queue = self._broker.queues.by_name.get(name)
        return 0 if queue is None else self._sorts[by](queue)

    def numbers(self, name: str) -> QueueNumbers:
        """All numbers of a queue; see L{IOperators}."""
        return self._numbers(self._queue(name))

    def _numbers(self, queue: Queue) -> QueueNumbers:
        return QueueNumbers(
            queue.name,
            queue.number,
            queue.ready,
            queue.delayed,
            queue.in_flight,
            self._broker.dead_letters.count_of(queue.name),
            queue.ready_size,
            queue.keys,
            len(queue.consumers),
            queue.received,
            queue.delivered,
            queue.acknowledged,
            self._oldest(queue),
            _PAUSED[queue.paused],
            queue.settings,
        )

    def _oldest(self, queue: Queue) -> int | None:
        if queue.prefetched:
            return queue.prefetched[0].accepted
        if not queue.unread:
            return None
        (oldest,) = self._store.peek(queue, queue.cursor, 1, 0)
        return oldest.accepted

    def _age(self, queue: Queue) -> float:
        oldest = self._oldest(queue)
        return 0 if oldest is None else max(0, self._broker.turn.now - oldest)

    def counters(self, name: str) -> tuple[int, tuple[int, int, int]] | None:
        """Counters of a queue; see L{IOperators}."""
        queue = self._broker.queues.by_name.get(name)
        return None if queue is None else (queue.number, (queue.received, queue.delivered, queue.acknowledged))

    def consumers(self, name: str) -> list[tuple[object, int, int, float]]:
        """Who consumes a queue; see L{IOperators}."""
        return [(one.channel, one.window, one.held, one.lease / 1000) for one in self._queue(name).consumers]

    def consuming(self, channel: IChannel) -> tuple[ClientConsumer, ...]:
        """What a channel consumes; see L{IOperators}."""
        consumers: Mapping[str, Consumer] = channel.consumers
        return tuple(ClientConsumer(name, one.window, one.held, one.lease / 1000) for name, one in consumers.items())

    def configure(self, name: str, changes: Mapping[str, Any]) -> QueueNumbers:
        """Change settings; see L{IOperators}."""
        queue = self._broker.queues.by_name.get(name)
        changed = (DEFAULT_SETTINGS if queue is None else queue.settings).changed(changes)
        return self._numbers(self._broker.configure(name, changed))

    def pause(self, name: str, what: str) -> QueueNumbers:
        """Stop deliveries or sends; see L{IOperators}."""
        self._broker.queues.pause(name, _paused(what))
        return self.numbers(name)

    def resume(self, name: str, what: str) -> QueueNumbers:
        """Undo a pause; see L{IOperators}."""
        queue = self._queue(name)
        self._broker.queues.resume(name, _paused(what))
        return self._numbers(queue)

    def flush(self, name: str) -> FlushResult:
        """Remove what waits; see L{IOperators}."""
        self._queue(name)
        return FlushResult(name, *self._broker.queues.flush(name))

    def delete_queue(self, name: str) -> Steps[DeleteResult]:
        """Flush a queue and forget all about it; see L{IOperators}."""
        dead = yield from self.delete_dead(name)
        broker = self._broker
        removed, in_flight = broker.queues.flush(name)
        broker.keys.forget(name)
        if name in broker.queues:
            broker.queues.resume(name)
        if name in broker.queues:
            broker.configure(name, DEFAULT_SETTINGS)
        return DeleteResult(name, removed, in_flight, dead)

    # Messages

    def messages(self, name: str, state: str, after: int, limit: int, preview: int) -> Steps[Page]:
        """A page of messages; see L{IOperators}."""
        self._broker.turn.enter()
        if state == "dead":
            self._check_known(name)
            dead, more = _some(self._broker.dead_letters.page(name, after, limit + 1, preview=preview, size=PAGE_BYTES), limit, preview)
            yield
            letters = yield from steps_of(lambda one: self._dead_letter(one, preview), dead)
            return Page(letters, str(dead[-1].number) if more else None)
        queue, place = self._queue(name), None
        if state == "in_flight":
            found, place = yield from self._in_flight(queue, after, limit + 1)
        elif state == "active":
            found, place = yield from self._active(queue, after, limit + 1, preview)
        else:
            found = (self._ready if state == "ready" else self._delayed)(queue, after, limit + 1, preview)
        found, more = _some(found, limit, preview)
        if more:
            place = str(abs(found[-1].position))
        yield
        items = yield from steps_of(lambda one: self._message(one, preview), found)
        return Page(items, place)

    def _ready(self, queue: Queue, start: int, count: int, preview: int) -> list[Message]:
        place = bisect_right(queue.prefetched, start, key=_position)
        ahead = list(islice(queue.prefetched, place, place + count))
        if len(ahead) < count and queue.unread:
            ahead += self._store.peek(queue, max(start, queue.cursor), count - len(ahead), preview, size=PAGE_BYTES)
        return ahead

    def _delayed(self, queue: Queue, start: int, count: int, preview: int) -> list[Message]:
        return self._store.peek(queue, max(start, queue.flushed_to), count, preview, True, PAGE_BYTES)

    def _in_flight(self, queue: Queue, start: int, count: int) -> Steps[tuple[list[Message], str | None]]:
        """The first messages in flight, and how far was looked if there may be more."""
        first: list[Message] = []
        last = _NO_POSITION

        def is_meant(message: Message) -> bool:
            return message.queue is queue and message.consumer is not None and start < message.position <= last

        for channel in [channel for channel in self._broker.lifecycle.channels if queue.name in channel.consumers]:
            held = list(channel.unacked.values())
            for place in range(0, len(held), _LOOK):
                found = filter(is_meant, chain(first, held[place : place + _LOOK]))
                first = heapq.nsmallest(count, found, key=_position)
                if len(first) == count:
                    # From here on only those before it are looked for, even if some of these go.
                    last = first[-1].position
                yield
        # One that came back and was delivered again was perhaps seen twice.
        return list(dict.fromkeys(filter(is_meant, first))), None if last == _NO_POSITION else str(last)

    def _active(self, queue: Queue, start: int, count: int, preview: int) -> Steps[tuple[list[Message], str | None]]:
        """The first messages ready or in flight, and how far was looked if there may be more."""
        ready = self._ready(queue, start, count, preview)
        if not queue.in_flight:
            return ready, None
        held, place = yield from self._in_flight(queue, start, count)
        # Once more, for those that came back before they were looked at.
        ready += self._ready(queue, start, count, preview)
        last = _NO_POSITION if place is None else int(place)
        found = {message.number: message for message in chain(ready, held) if message.position <= last}
        return sorted(found.values(), key=_position)[:count], place

    def message(self, name: str, id: str, preview: int = 0) -> tuple[MessageStatus | DeadLetterStatus, bytes]:
        """One message; see L{IOperators}."""
        self._broker.turn.enter()
        number = self._number(id)
        if (dead := self._broker.dead_letters.find(name, number)) is not None:
            return self._dead_letter(dead, preview), dead.body
        queue = self._broker.queues.by_name.get(name)
        message = None if queue is None else self._store.get(queue, number)
        if queue is None or message is None or abs(message.position) <= queue.flushed_to:
            raise NoSuchMessage(f"there is no message {id!r} in the queue {name!r}")
        key = id.encode("ascii")
        held = next((channel.unacked[key] for channel in self._broker.lifecycle.channels if key in channel.unacked), message)
        return self._message(held, preview), held.body

    def _number(self, id: str) -> int:
        prefix = self._broker.lifecycle.message_id(0)[:16].decode("ascii")
        if not re.fullmatch(r"[0-9a-f]{32}", id) or not id.startswith(prefix):
            raise NoSuchMessage(f"there is no message {id!r}")
        return int(id[16:], 16)

    def _message(self, message: Message, preview: int) -> MessageStatus:
        properties = message.properties
        size = message.size - (0 if properties is None else properties.size)
        return MessageStatus(
            self._broker.lifecycle.message_id(message.number).decode("ascii"),
            state_of(message).value,  # type: ignore[arg-type]  # it is not dead
            message.attempts,
            moment(message.accepted),
            moment(message.expires) if message.expires else None,
            moment(properties.due) if properties is not None and properties.due else None,
            properties.key or None if properties is not None else None,
            json.loads(properties.headers or b"{}") if properties is not None else {},
            **content_of(message.body, size, preview),
        )

    def _dead_letter(self, dead: DeadMessage, preview: int) -> DeadLetterStatus:
        return DeadLetterStatus(
            self._broker.lifecycle.message_id(dead.number).decode("ascii"),
            "dead",
            dead.reason,
            dead.text,
            dead.attempts,
            moment(dead.accepted),
            moment(dead.died),
            json.loads(dead.headers or b"{}"),
            **content_of(dead.body, dead.length, preview),
        )

    def move(self, source: str, target: str, count: int | None) -> Steps[int]:
        """Move ready messages; see L{IOperators}."""
        broker, queues = self._broker, self._broker.queues
        ready = self._queue(source).ready
        left = ready if count is None else count
        # Messages that come after this are not moved: two moves in opposite directions would never end.
        last = queues.tail
        queues.get_or_create(target)
        moved = 0
        while left > moved and (queue := queues.by_name.get(source)) is not None:
            broker.begin()
            step = broker.lifecycle.move(queue, queues.get_or_create(target), left - moved, last)
            broker.end()
            if not step:
                break
            moved += step
            yield True
        queues.forget_if_unused(queues.get_or_create(target))
        return moved

    # Dead letters

    def _check_known(self, name: str) -> None:
        """Queues that are gone are known by their dead letters."""
        if not self._broker.dead_letters.count_of(name):
            self._queue(name)

    def replay(self, name: str, target: str, ids: Iterable[str] | None, reason: str | None, count: int | None) -> Steps[int]:
        """Requeue dead letters; see L{IOperators}."""
        check_name(target)
        letters = self._dead_letters(name, None, ids, reason, count)
        return (yield from self._each_part(letters, lambda part: self._broker.lifecycle.replay(part, target)))

    def delete_dead(self, name: str, ids: Iterable[str] | None = None, reason: str | None = None, count: int | None = None) -> Steps[int]:
        """Delete dead letters; see L{IOperators}."""
        return (yield from self._each_part(self._dead_letters(name, 0, ids, reason, count), self._broker.lifecycle.delete))

    def _each_part(self, parts: Iterator[list[DeadMessage]], work: Callable[[list[DeadMessage]], object]) -> Steps[int]:
        """Do something to dead letters, a part of them in each step: how many it was done to."""
        done = 0
        for part in parts:
            self._broker.begin()
            try:
                work(part)
            finally:
                self._broker.end()
            done += len(part)
            yield len(part) > 1
        return done

    def _dead_letters(
        self, name: str, preview: int | None, ids: Iterable[str] | None, reason: str | None, count: int | None
    ) -> Iterator[list[DeadMessage]]:
        """Dead letters of a queue, in parts, with the first C{preview} bytes of their bodies; None for all."""
        self._check_known(name)
        return self._some_dead(preview, name, reason, count) if ids is None else self._named_dead(preview, name, ids)

    def _some_dead(self, preview: int | None, name: str, reason: str | None, count: int | None) -> Iterator[list[DeadMessage]]:
        """Dead letters of a queue, the oldest first, a part at a time; those that become dead letters after this began are left out."""
        left, after, latest = 2**63 if count is None else count, 0, self._store.latest
        while left > 0:
            letters = self._broker.dead_letters.page(name, after, min(_LETTERS, left), reason, preview, _LETTERS_BYTES)
            letters = [dead for dead in letters if dead.number <= latest]
            if not letters:
                break
            left, after = left - len(letters), letters[-1].number
            yield letters

    def _named_dead(self, preview: int | None, name: str, ids: Iterable[str]) -> Iterator[list[DeadMessage]]:
        """Those of these ids, one at a time, if they are all there; one that was replayed or deleted since then is left out."""
        ids, find = list(dict.fromkeys(ids)), self._broker.dead_letters.find
        for id in ids:
            if find(name, self._number(id), 0) is None:
                raise NoSuchMessage(f"there is no dead letter {id!r} of the queue {name!r}")
        for id in ids:
            if (dead := find(name, self._number(id), preview)) is not None:
                yield [dead]


def steps_of(work: Callable[[_T], _R], things: Iterable[_T], size: int = 1) -> Steps[list[_R]]:
    """What comes of each thing, done one after the other, C{size} of them in a step. They do not change between two steps."""
    results: list[_R] = []
    for number, thing in enumerate(things, 1):
        results.append(work(thing))
        if not number % size:
            yield
    return results


def _paused(what: str) -> int:
    if what not in _PAUSES:
        raise BadSetting(f"{' or '.join(_PAUSES)} can be paused, not {what!r}")
    return _PAUSES[what]


def _some(found: list[_M], limit: int, preview: int) -> tuple[list[_M], bool]:
    """As many messages as a page has, by number and by bytes; and whether there may be more."""
    size = 0
    for count, message in enumerate(found[:limit], 1):
        size += min(len(message.body), preview)
        if size >= PAGE_BYTES:
            return found[:count], True
    return found[:limit], len(found) > limit
