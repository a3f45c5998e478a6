"""Messages and dead letters as operators see, send, move and replay them."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping

from twisted.internet.defer import Deferred, fail
from zope.interface import implementer

from phpmq.admin.queues import check_limit, matcher, start_of
from phpmq.admin.reactor import CooperativeWork, cooperative
from phpmq.broker import Broker
from phpmq.errors import BadSetting, PHPMQError, TooLarge
from phpmq.frames import DEFAULT_LIMITS, HEADERS, KEY
from phpmq.interfaces import IOperators, IPeer, Steps
from phpmq.message import Properties, check_name
from phpmq.results import (
    LISTED,
    DeadDeleteResult,
    DeadLetterTotals,
    MoveResult,
    Page,
    Receipt,
    ReplayResult,
)

_LEVELS = {"stored": False, "synced": True}


class Messages:
    """
    What operators see of messages, and do with them.

    @ivar read: returns one message, and its whole body; see L{IOperators.message}
    """

    def __init__(self, operators: IOperators, work: CooperativeWork, broker: Broker, max_message_size: int) -> None:
        self.work = work
        self.read = operators.message
        self._operators = operators
        self._broker = broker
        self._max_message_size = max_message_size

    @cooperative
    def list(self, name: str, state: str = "ready", after: str = "", limit: int = 50, preview: int = 256) -> Steps[Page]:
        """
        Look at a queue's messages, in their order, by pages; nothing changes by it.

        A page ends early once it has a lot of bodies. To find the first of those in flight, all of them are looked at. Of very many,
        those that come or go between two steps may be left out. Among those that are C{active} a message keeps its place when it is
        delivered or comes back: so each is found once, whatever happens between two pages.

        @param state: one of L{LISTED}
        @param after: the C{next} of the page before
        @param preview: how many bytes of each body
        @raise NoSuchQueue: there is none of that name, and no dead letter of it
        @raise BadSetting: there is no such state
        """
        if state not in LISTED:
            raise BadSetting(f"a state is {', '.join(LISTED)}, not {state!r}")
        return self._operators.messages(name, state, start_of(after), check_limit(limit), preview)

    def send(
        self,
        name: str,
        body: bytes,
        ttl: float = 0,
        delay: float = 0,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        level: str = "stored",
    ) -> Deferred[Receipt]:
        """Send a message, as a client of protocol 2 does; fires with the receipt, or fails with what is wrong with it."""
        try:
            check_name(name)
            if len(body) > self._max_message_size:
                raise TooLarge(f"a body of {len(body)} bytes, the limit is {self._max_message_size}")
            if level not in _LEVELS:
                raise BadSetting(f"a level is {' or '.join(_LEVELS)}, not {level!r}")
            properties = None
            if delay or headers or key is not None:
                properties = Properties(_milliseconds("delay", delay), _key(key), _headers(headers))
            lifetime = _milliseconds("ttl", ttl)
        except PHPMQError as error:
            return fail(error)
        return OneShotSend(self._broker).send(name, body, lifetime, _LEVELS[level], properties)

    @cooperative
    def move(self, source: str, target: str, count: int | None = None) -> Steps[MoveResult]:
        """
        Move messages that are ready now to the tail of another queue; see L{IOperators.move}.

        @raise BadName: no queue can have the target's name
        @raise BadSetting: both are the same
        """
        if source == target:
            raise BadSetting("a queue's messages cannot be moved to the same queue")
        moved = yield from self._operators.move(source, target, count)
        return MoveResult(source, target, moved)


class DeadLetters:
    """What operators see of dead letters, and do with them."""

    def __init__(self, operators: IOperators, work: CooperativeWork) -> None:
        self.work = work
        self._operators = operators

    def totals(self, filter: str = "*", after: str = "", limit: int = 100) -> Page:
        """Queues that have dead letters, also those that are gone: how many, and their bytes. See L{phpmq.admin.queues.Queues.list}."""
        limit = check_limit(limit)
        totals, matches = self._operators.dead_totals, matcher(filter)
        names = heapq.nsmallest(limit + 1, (name for name in totals if name > after and matches(name)))
        items = [DeadLetterTotals(name, *totals[name]) for name in names[:limit]]
        return Page(items, names[limit - 1] if len(names) > limit else None)

    @cooperative
    def replay(
        self, name: str, target: str | None = None, ids: Iterable[str] | None = None, reason: str | None = None, count: int | None = None
    ) -> Steps[ReplayResult]:
        """Requeue dead letters to the tail of their queue, or of another one; see L{IOperators.replay}."""
        into = name if target is None else target
        replayed = yield from self._operators.replay(name, into, ids, reason, count)
        return ReplayResult(name, into, replayed)

    @cooperative
    def delete(
        self, name: str, ids: Iterable[str] | None = None, reason: str | None = None, count: int | None = None
    ) -> Steps[DeadDeleteResult]:
        """Delete a queue's dead letters; see L{IOperators.delete_dead}."""
        deleted = yield from self._operators.delete_dead(name, ids, reason, count)
        return DeadDeleteResult(name, deleted)


@implementer(IPeer)
class OneShotSend:
    """Sends one message, through a channel as everybody does."""

    def __init__(self, broker: Broker) -> None:
        self._channel = broker.channel(self)
        self._answer: Deferred[Receipt] = Deferred(lambda _: self._channel.close())

    def send(self, name: str, body: bytes, ttl: int, synced: bool, properties: Properties | None) -> Deferred[Receipt]:
        """Send it. Fires with the receipt, fails with the refusal; see L{Messages.send}."""
        self._channel.send(b"", name, body, ttl, synced, properties)
        return self._answer

    def receipt(self, tag: bytes, id: bytes = b"", duplicate: bool = False) -> None:
        """It is stored, or synced; see L{IPeer}."""
        self._channel.close()
        self._answer.callback(Receipt(id.decode("ascii"), duplicate))

    def refused(self, tag: bytes | None, error: Exception) -> None:
        """It is not; see L{IPeer}."""
        self._channel.close()
        self._answer.errback(error)

    def _ignore(self, *_: object) -> None:
        """It consumes nothing, is no producer, and has a tag, so that its send is refused instead of blocked; see L{IPeer}."""

    deliver = superseded = blocked = unblocked = flush = _ignore


def _milliseconds(what: str, seconds: float) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 10**12:
        raise BadSetting(f"{what} is a number of seconds, 0 for none, not {seconds!r}")
    return max(1, round(seconds * 1000)) if seconds else 0


def _key(key: str | None) -> str:
    if key is None:
        return ""
    if not isinstance(key, str) or not key:
        raise BadSetting("a key is a text that is not empty")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        # The store writes many messages at once: this one would take others' with it.
        raise BadSetting("a key is UTF-8") from None
    if size > DEFAULT_LIMITS[KEY]:
        raise TooLarge(f"a key has at most {DEFAULT_LIMITS[KEY]} bytes")
    return key


def _headers(headers: Mapping[str, str] | None) -> bytes:
    if not headers:
        return b""
    if not isinstance(headers, Mapping) or not all(isinstance(value, str) for value in headers.values()):
        raise BadSetting("headers are strings by name")
    content = json.dumps(dict(headers), separators=(",", ":")).encode("ascii")
    if len(content) > DEFAULT_LIMITS[HEADERS]:
        raise TooLarge(f"headers of {len(content)} bytes, the limit is {DEFAULT_LIMITS[HEADERS]}")
    return content
