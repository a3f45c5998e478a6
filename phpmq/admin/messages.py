"""Messages, as an operator sees, sends and moves them."""

from __future__ import annotations

import heapq
import re
from bisect import bisect_right
from collections.abc import Mapping
from itertools import chain, islice
from operator import attrgetter
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from phpmq.admin import status
from phpmq.admin.pages import Page, check_limit, start_of
from phpmq.admin.sender import Sender
from phpmq.admin.turns import Slices, Turns
from phpmq.broker import Queue
from phpmq.errors import BadSetting, NoSuchMessage
from phpmq.message import DeadMessage, Message

#: States in which messages can be.
STATES = "ready", "delayed", "in_flight", "dead"

#: States by which messages can be listed; C{active} are those ready and in flight, in one order.
LISTED = *STATES, "active"

#: The most bytes of bodies that a page of messages has: more would keep everybody else waiting.
PAGE_BYTES = 4 * 1024 * 1024

# So many messages in flight are looked at before others may get their turn.
_LOOK = 2000

# After all positions.
_NO_POSITION = 2**63

_position = attrgetter("position")

_M = TypeVar("_M", Message, DeadMessage)


class Messages(Turns):
    """What can be seen of messages, and done with them."""

    async def messages(self, name: str, state: str = "ready", after: str = "", limit: int = 50, preview: int = 256) -> Page:
        """
        Look at a queue's messages, in their order, by pages; nothing changes by it.

        A page ends early once it has L{PAGE_BYTES} of bodies. To find the first of those in flight, all of them are looked at. Of very
        many, those that come or go meanwhile may be left out. Among those that are C{active} a message keeps its place when it is
        delivered or comes back: so each is found once, whatever happens between two pages.

        @param state: one of L{LISTED}
        @param after: the C{next} of the page before
        @param preview: how many bytes of each body
        @raise NoSuchQueue: there is none of that name, and no dead letter of it
        @raise BadSetting: there is no such state
        """
        self.broker.enter()
        limit = check_limit(limit)
        if state not in LISTED:
            raise BadSetting(f"a state is {', '.join(LISTED)}, not {state!r}")
        start, slices = start_of(after), self.slices()
        if state == "dead":
            return await self._dead_page(name, start, limit, preview, slices)
        queue = self._queue(name)
        place = None
        if state == "in_flight":
            found, place = await self._in_flight(queue, start, limit + 1, slices)
        elif state == "active":
            found, place = await self._active(queue, start, limit + 1, preview, slices)
        else:
            found = (self._ready if state == "ready" else self._delayed)(queue, start, limit + 1, preview)
        found, more = _some(found, limit, preview)
        if more:
            place = str(abs(found[-1].position))
        await slices.rest()
        items = await slices.each(lambda one: status.message_status(one, _state(one, state), self.broker, preview), found)
        return Page(items, place)

    def _ready(self, queue: Queue, start: int, count: int, preview: int) -> list[Message]:
        place = bisect_right(queue.ahead, start, key=_position)
        ahead = list(islice(queue.ahead, place, place + count))
        if len(ahead) < count and queue.behind:
            ahead += self._store.peek(queue, max(start, queue.cursor), count - len(ahead), preview, size=PAGE_BYTES)
        return ahead

    def _delayed(self, queue: Queue, start: int, count: int, preview: int) -> list[Message]:
        return self._store.peek(queue, max(start, queue.flushed_to), count, preview, True, PAGE_BYTES)

    async def _in_flight(self, queue: Queue, start: int, count: int, slices: Slices) -> tuple[list[Message], str | None]:
        """The first messages in flight, and how far was looked if there may be more."""
        first: list[Message] = []
        last = _NO_POSITION

        def is_meant(message: Message) -> bool:
            return message.queue is queue and message.consumer is not None and start < message.position <= last

        for channel in [channel for channel in self.broker.channels if queue.name in channel.consumers]:
            held = list(channel.unacked.values())
            for place in range(0, len(held), _LOOK):
                found = filter(is_meant, chain(first, held[place : place + _LOOK]))
                first = heapq.nsmallest(count, found, key=_position)
                if len(first) == count:
                    # From here on only those before it are looked for, even if some of these go.
                    last = first[-1].position
                await slices.rest()
        # One that came back and was delivered again was perhaps seen twice.
        return list(dict.fromkeys(filter(is_meant, first))), None if last == _NO_POSITION else str(last)

    async def _active(self, queue: Queue, start: int, count: int, preview: int, slices: Slices) -> tuple[list[Message], str | None]:
        """The first messages ready or in flight, and likewise."""
        ready = self._ready(queue, start, count, preview)
        if not queue.in_flight:
            return ready, None
        held, place = await self._in_flight(queue, start, count, slices)
        # Once more, for those that came back before they were looked at.
        ready += self._ready(queue, start, count, preview)
        last = _NO_POSITION if place is None else int(place)
        found = {message.number: message for message in chain(ready, held) if message.position <= last}
        return sorted(found.values(), key=_position)[:count], place

    async def _dead_page(self, name: str, start: int, limit: int, preview: int, slices: Slices) -> Page:
        self._check_known(name)
        found, more = _some(self.broker.dead.some(name, start, limit + 1, preview=preview, size=PAGE_BYTES), limit, preview)
        place = str(found[-1].number) if more else None
        await slices.rest()
        items = await slices.each(lambda dead: status.dead_status(dead, self.broker, preview), found)
        return Page(items, place)

    async def message(self, name: str, id: str, preview: int | None = None) -> dict[str, Any]:
        """
        One message.

        @param preview: how many bytes of its body; None for all
        @raise NoSuchMessage: there is none of that id in the queue
        """
        broker, slices = self.broker, self.slices()
        broker.enter()
        number = self._number(id)
        if (dead := broker.dead.find(name, number)) is not None:
            found, body = status.dead_status(dead, broker, preview or 0), dead.body
        else:
            message, state = self._find(name, number, id)
            found, body = status.message_status(message, state, broker, preview or 0), message.body
        if preview is None:
            del found["body"]
            await slices.rest()
            found |= await _whole(body, slices)
        return found

    def _find(self, name: str, number: int, id: str) -> tuple[Message, str]:
        """A message that is not dead, and its state."""
        broker = self.broker
        queue = broker.queues.get(name)
        message = None if queue is None else self._store.get(queue, number)
        if queue is None or message is None or abs(message.position) <= queue.flushed_to:
            raise NoSuchMessage(f"there is no message {id!r} in the queue {name!r}")
        key = id.encode("ascii")
        held = next((channel.unacked[key] for channel in broker.channels if key in channel.unacked), None)
        return held or message, "in_flight" if held is not None else "delayed" if message.position < 0 else "ready"

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

    async def move(self, source: str, target: str, count: int | None = None) -> dict[str, Any]:
        """
        Have messages that are ready in a queue go to the tail of another one; those that come meanwhile stay.

        @param count: at most so many, the first ones; None for as many as there are now
        @raise NoSuchQueue: there is no queue of the source's name
        @raise BadName: no queue can have the target's name
        @raise BadSetting: both are the same
        """
        if source == target:
            raise BadSetting("a queue's messages cannot be moved to the same queue")
        ready = self._queue(source).ready
        left = ready if count is None else count
        # What comes meanwhile is not meant: two who move to and fro would never end.
        last = self.broker.tail
        self.broker.queue(target)
        moved = 0
        while left > moved and (queue := self.broker.queues.get(source)) is not None:
            self.broker.begin()
            step = self.broker.move(queue, self.broker.queue(target), left - moved, last)
            self.broker.end()
            if not step:
                break
            moved += step
            await self.breathe()
        self.broker.forget_if_unused(self.broker.queue(target))
        return {"source": source, "target": target, "moved": moved}


def _some(found: list[_M], limit: int, preview: int) -> tuple[list[_M], bool]:
    """As many messages as a page has, by number and by bytes; and whether there may be more."""
    size = 0
    for count, message in enumerate(found[:limit], 1):
        size += min(len(message.body), preview)
        if size >= PAGE_BYTES:
            return found[:count], True
    return found[:limit], len(found) > limit


def _state(message: Message, listed: str) -> str:
    if listed != "active":
        return listed
    return "ready" if message.consumer is None else "in_flight"


async def _whole(body: bytes, slices: Slices) -> dict[str, Any]:
    """All of a body, however long it is; see L{status.content_of}."""
    parts: list[str] = []
    decode = status.decoder()
    try:
        for part in status.parts_of(body):
            parts.append(decode(part, False))
            await slices.rest()
        parts.append(decode(b"", True))
        return {"truncated": False, "body": "".join(parts)}
    except UnicodeDecodeError:
        parts = await slices.each(status.base64_of, status.parts_of(body))
        return {"truncated": False, "body_base64": "".join(parts)}
