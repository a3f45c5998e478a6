"""What an operator sees: plain dicts of live objects, the same for every door."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from phpmq.admin.rates import WINDOWS, Rates
from phpmq.broker import DELIVERIES, SENDS, Broker, Queue
from phpmq.client_frames import headers_of
from phpmq.message import DeadMessage, Message
from phpmq.protocol import QueueProtocol

#: Counters of a queue, and of the whole server, in the order in which L{Rates} has them.
COUNTERS = "received", "delivered", "acknowledged"

_NO_RATES = {name: dict.fromkeys(WINDOWS, 0.0) for name in COUNTERS}


# The end of the year 9999: later ones have no date.
_LAST = 253_402_300_799_000


def moment(milliseconds: int) -> str:
    """A time of the store as ISO 8601 in UTC; the last that there is for what never comes."""
    milliseconds = min(milliseconds, _LAST)
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def counts_of(queue: Queue) -> tuple[int, ...]:
    """A queue's counters."""
    return queue.received, queue.delivered, queue.acknowledged


def totals_of(broker: Broker) -> dict[str, int]:
    """Everything that is counted since the server started; none of it ever falls."""
    return {
        "received": broker.lifecycle.received,
        "delivered": broker.lifecycle.delivered,
        "redelivered": broker.lifecycle.redelivered,
        "acknowledged": broker.lifecycle.acknowledged,
        "requeued": broker.lifecycle.requeued,
        "expired": broker.lifecycle.expired,
        "dropped": broker.lifecycle.dropped,
        "flushed": broker.queues.flushed,
        "dead_lettered": sum(broker.dead_letters.by_reason.values()),
        "duplicates": broker.outcomes.duplicates,
        "unknown_ids": broker.outcomes.unknown_ids,
    }


def sums_of(broker: Broker) -> tuple[dict[str, int], int]:
    """How many messages there are in each state, with the bytes of those that wait, and how many consumers."""
    ready = delayed = in_flight = size = consumers = 0
    for queue in broker.queues.values():
        ready += queue.unread + len(queue.prefetched)
        delayed += queue.delayed
        in_flight += queue.in_flight
        size += queue.ready_size
        consumers += len(queue.consumers)
    return {"ready": ready, "delayed": delayed, "in_flight": in_flight, "dead": broker.dead_letters.count, "bytes": size}, consumers


def rates_of(rates: Rates | None) -> dict[str, dict[str, float]]:
    """Rates by counter, then by window, in events a second."""
    return _NO_RATES if rates is None else {name: rates.of(place) for place, name in enumerate(COUNTERS)}


def memory_of_process() -> dict[str, int]:
    """What the process takes now and took at most, in bytes; nothing where the system does not tell it in /proc."""
    try:
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        return {"resident": int(lines["VmRSS"].split()[0]) * 1024, "peak": int(lines["VmHWM"].split()[0]) * 1024}
    except (OSError, KeyError, ValueError):
        return {}


def queue_status(queue: Queue, broker: Broker, oldest: int | None, rates: Rates | None) -> dict[str, Any]:
    """
    A queue.

    @param oldest: when the message that is next was accepted; None if there is none
    """
    return {
        "name": queue.name,
        "ready": queue.ready,
        "delayed": queue.delayed,
        "in_flight": queue.in_flight,
        "dead": broker.dead_letters.count_of(queue.name),
        "bytes": queue.ready_size,
        "keys": queue.keys,
        "consumers": len(queue.consumers),
        "oldest_message_age_seconds": None if oldest is None else max(0, broker.turn.now - oldest) / 1000,
        "paused": {"deliveries": bool(queue.paused & DELIVERIES), "sends": bool(queue.paused & SENDS)},
        "totals": dict(zip(COUNTERS, counts_of(queue), strict=True)),
        "rates": rates_of(rates),
        "settings": dict(vars(queue.settings)),
    }


_Decoder = codecs.getincrementaldecoder("utf-8")

# So many bytes of a long body are made text at a time: a whole number of base64's groups.
_PART = 3 * 2**18


def parts_of(body: bytes) -> Iterator[bytes]:
    """A body in parts."""
    return (body[start : start + _PART] for start in range(0, len(body), _PART))


def decoder() -> Callable[[bytes, bool], str]:
    """Makes text of the parts of a body, one after the other; the last one is to be named as such."""
    return _Decoder().decode


def base64_of(part: bytes) -> str:
    """A part of a body in base64."""
    return base64.b64encode(part).decode("ascii")


def content_of(body: bytes, length: int, limit: int | None) -> dict[str, Any]:
    """
    A body, or its beginning, as text if it is UTF-8 and as base64 if not.

    @param length: that of the whole body
    """
    part = body if limit is None else body[:limit]
    truncated = len(part) < length
    content: dict[str, Any] = {"size": length, "truncated": truncated}
    try:
        # A character that the limit cuts in two is left out.
        content["body"] = _Decoder().decode(part, not truncated)
    except UnicodeDecodeError:
        content["body_base64"] = base64_of(part)
    return content


def message_status(message: Message, state: str, broker: Broker, limit: int | None) -> dict[str, Any]:
    """
    A message that waits or is in flight.

    @param limit: how many bytes of its body; None for all
    """
    properties = message.properties
    length = message.size if properties is None else message.size - properties.size
    return {
        "id": broker.lifecycle.message_id(message.number).decode("ascii"),
        "state": state,
        "attempts": message.attempts,
        "accepted_at": moment(message.accepted),
        "expires_at": moment(message.expires) if message.expires else None,
        "due_at": moment(properties.due) if properties is not None and properties.due else None,
        "key": properties.key or None if properties is not None else None,
        "headers": _headers(properties.headers if properties is not None else b""),
        **content_of(message.body, length, limit),
    }


def dead_status(dead: DeadMessage, broker: Broker, limit: int | None) -> dict[str, Any]:
    """A dead message; see L{message_status}."""
    return {
        "id": broker.lifecycle.message_id(dead.number).decode("ascii"),
        "state": "dead",
        "reason": dead.reason,
        "text": dead.text,
        "attempts": dead.attempts,
        "accepted_at": moment(dead.accepted),
        "died_at": moment(dead.died),
        "headers": _headers(dead.headers),
        **content_of(dead.body, dead.length, limit),
    }


def _headers(content: bytes) -> Mapping[str, str]:
    return headers_of(content or None)


def client_status(client: QueueProtocol, now: float) -> dict[str, Any]:
    """
    A connection.

    @param now: seconds of the connections' clock
    """
    session = client.session
    consumers = [] if session is None else list(session.channel.consumers.values())
    return {
        "id": client.number,
        "address": client.peer,
        "listener": client.listener,
        "protocol": "" if session is None else session.protocol_version,
        "user": None,
        "connected_seconds": round(now - client.since, 3),
        "in_flight": sum(consumer.held for consumer in consumers),
        "consuming": [
            {"queue": consumer.queue.name, "window": consumer.window, "in_flight": consumer.held, "lease_seconds": consumer.lease / 1000}
            for consumer in consumers
        ],
        "bytes_received": client.received,
        "bytes_sent": client.sent,
        "waiting_for_room": session is not None and session.waiting,
    }
