"""
Results of the operators' interfaces: every status field is defined once, with its JSON name, type, unit, description and column title.

The HTTP API's JSON and OpenAPI schemas, the console's tables and those of the command are made of these definitions. What reads the API
has JSON objects, so the columns of tables are made of those.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache, reduce
from operator import getitem
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, dataclass_transform, get_args, get_origin, get_type_hints

from phpmq.message import STATES, QueueSettings
from phpmq.text import format_count, format_duration, format_rate, format_size

Schema = dict[str, Any]

#: States by which messages can be listed; C{active} are those ready and in flight, in one order.
LISTED = *STATES, "active"


class Unit(Enum):
    """What a field's value is, which decides how a table formats and aligns it."""

    COUNT = "count"
    BYTES = "bytes"
    SECONDS = "seconds"
    LEASE = "lease"  # seconds; 0 for no limit
    RATE = "rate"  # events a second by window, as in L{Rate}
    MOMENT = "moment"  # shown as the time since then
    NUMBER = "number"  # names a thing and counts nothing
    NAME = "name"
    TEXT = "text"
    BASE64 = "base64"
    CONSUMING = "consuming"  # the queues that a client consumes


# What is aligned on the left, and what a schema has beside the type.
_LEFT = Unit.NAME, Unit.TEXT, Unit.CONSUMING
_SCHEMAS: Mapping[Unit, Schema] = {Unit.MOMENT: {"format": "date-time"}, Unit.BASE64: {"contentEncoding": "base64"}}

#: A function for each unit that makes a cell of a value. What L{FORMATS} lacks depends on the server's time.
Formats = Mapping[Unit, Callable[[Any], str]]

FORMATS: Formats = {
    Unit.COUNT: format_count,
    Unit.BYTES: format_size,
    Unit.SECONDS: format_duration,
    Unit.LEASE: lambda seconds: f"{seconds:g} s" if seconds else "-",
    Unit.RATE: lambda rate: format_rate(rate["10s"]),
    Unit.NUMBER: str,
    Unit.NAME: str,
    Unit.TEXT: lambda text: text or "-",
    Unit.CONSUMING: lambda consuming: consumed(consuming),
}


class About(NamedTuple):
    """What is known of a field beside its type."""

    doc: str = ""  # one sentence, which the OpenAPI document shows
    title: str = ""  # its column's heading
    unit: Unit = Unit.COUNT  # how a table shows it
    name: str = ""  # its name in JSON where that is not the attribute's


@dataclass_transform(frozen_default=True)
class Result:
    """What operators get: each kind is a frozen dataclass, whose fields are described by L{About}."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)


_Count = Annotated[int, About()]
_Counts = Mapping[str, _Count]

# Fields of more than one result.
_Queue = Annotated[str, About("The queue's name.", "QUEUE", Unit.NAME)]
_Target = Annotated[str, About("The name of the queue that they are in now.", "TARGET", Unit.NAME)]
_Removed = Annotated[int, About("Messages removed, the delayed ones included.", "REMOVED")]
_LeftInFlight = Annotated[int, About("Messages in flight, which are left to their consumers and never come back.", "IN FLIGHT")]
_Ready = Annotated[int, About("Messages that can be delivered now.", "READY")]
_Delayed = Annotated[int, About("Messages that are not ready yet.", "DELAYED")]
_InFlight = Annotated[int, About("Messages delivered and not settled.", "IN FLIGHT")]
_Dead = Annotated[int, About("Dead letters.", "DEAD")]
_Bytes = Annotated[int, About("Bytes of the messages that are ready or delayed.", "SIZE", Unit.BYTES)]
_Received = Annotated[int, About("Messages accepted.")]
_Delivered = Annotated[int, About("Deliveries to consumers.")]
_Acknowledged = Annotated[int, About("Messages that a consumer acknowledged.")]
_Window = Annotated[int, About("Messages that the consumer may hold (prefetch).", "WINDOW")]
_Held = Annotated[int, About("Messages that it holds.", "IN FLIGHT")]
_Lease = Annotated[float, About("Seconds that it may hold a message; 0 for no limit.", "LEASE", Unit.LEASE)]
_MessageId = Annotated[str, About("The message's id.", "ID", Unit.TEXT)]
_Attempts = Annotated[int, About("Deliveries of the message until now.", "ATTEMPTS")]
_Accepted = Annotated[str, About("When the server accepted it.", "AGE", Unit.MOMENT)]
_Headers = Annotated[Mapping[str, Any], About("The sender's headers.", unit=Unit.TEXT)]
_Size = Annotated[int, About("Bytes of the whole body.", "SIZE", Unit.BYTES)]
_Truncated = Annotated[bool, About("Whether there is more of the body.")]
_Body = Annotated[str | None, About("The body if it is UTF-8.", "BODY", Unit.TEXT)]
_Base64 = Annotated[str | None, About("The body in base64 if it is not UTF-8.", unit=Unit.BASE64)]


class Rate(Result):
    """Events a second, by the length of the time that it is an average of."""

    last: Annotated[float, About("In the last second.", name="1s")]
    ten: Annotated[float, About("In about the last ten seconds.", name="10s")]
    minute: Annotated[float, About("In about the last minute.", name="60s")]


class Rates(Result):
    """Rates of the counters that queues have."""

    received: Annotated[Rate, About("Messages accepted.", "IN", Unit.RATE)]
    delivered: Annotated[Rate, About("Deliveries to consumers.", "OUT", Unit.RATE)]
    acknowledged: Annotated[Rate, About("Acknowledgements.", "ACKED", Unit.RATE)]


class QueueTotals(Result):
    """Counters of a queue, since the server started or the queue was made."""

    received: _Received
    delivered: _Delivered
    acknowledged: _Acknowledged


class Paused(Result):
    """What an operator stopped."""

    deliveries: Annotated[bool, About("Whether consumers get nothing.")]
    sends: Annotated[bool, About("Whether the queue takes nothing.")]


class QueueStatus(Result):
    """A queue, with all its numbers and settings."""

    name: _Queue
    ready: _Ready
    delayed: _Delayed
    in_flight: _InFlight
    dead: _Dead
    bytes: _Bytes
    keys: Annotated[int, About("Deduplication keys that the queue remembers.", "KEYS")]
    consumers: Annotated[int, About("Consumers of the queue.", "CONSUMERS")]
    oldest_message_age_seconds: Annotated[
        float | None, About("Age of the message that is delivered next; null if none is ready.", "AGE", Unit.SECONDS)
    ]
    paused: Paused
    totals: QueueTotals
    rates: Rates
    settings: QueueSettings


class QueueNumbers(NamedTuple):
    """What an engine knows of a queue, of which L{QueueStatus} is made; also a series of the metrics."""

    name: str
    number: int = 0  # tells it from an earlier queue of that name
    ready: int = 0
    delayed: int = 0
    in_flight: int = 0
    dead: int = 0
    bytes: int = 0
    keys: int = 0
    consumers: int = 0
    received: int = 0
    delivered: int = 0
    acknowledged: int = 0
    oldest: int | None = None  # when the message was accepted that is delivered next, milliseconds since the epoch; None if none is ready
    paused: tuple[str, ...] = ()  # what is paused of it, C{deliveries} or C{sends}
    settings: QueueSettings | None = None  # None for the sum of several queues, and for one that is gone but for its dead letters


class QueueConsumer(Result):
    """One consumer of a queue."""

    client: Annotated[int | None, About("The number of its connection; null for code within the server.", "CLIENT", Unit.NUMBER)]
    window: _Window
    in_flight: _Held
    lease_seconds: _Lease


class QueueDetail(QueueStatus):
    """One queue, and who consumes it."""

    consuming: tuple[QueueConsumer, ...]


class MessageStatus(Result):
    """A message that is ready, delayed or in flight."""

    id: _MessageId
    state: Annotated[Literal["ready", "delayed", "in_flight"], About(title="STATE", unit=Unit.TEXT)]
    attempts: _Attempts
    accepted_at: _Accepted
    expires_at: Annotated[str | None, About("When it expires; null for never.", "EXPIRES IN", Unit.MOMENT)]
    due_at: Annotated[str | None, About("When it becomes ready; null if it is not delayed.", "READY IN", Unit.MOMENT)]
    key: Annotated[str | None, About("Its deduplication key.", "KEY", Unit.TEXT)]
    headers: _Headers
    size: _Size
    truncated: _Truncated
    body: _Body = None
    body_base64: _Base64 = None


class DeadLetterStatus(Result):
    """A message that nobody gets until an operator decides."""

    id: _MessageId
    state: Annotated[Literal["dead"], About(title="STATE", unit=Unit.TEXT)]
    reason: Annotated[str, About("Why it is dead: rejected, max-attempts or expired.", "REASON", Unit.TEXT)]
    text: Annotated[str, About("What the consumer said that rejected it.", "TEXT", Unit.TEXT)]
    attempts: _Attempts
    accepted_at: _Accepted
    died_at: Annotated[str, About("When it became a dead letter.", "DIED", Unit.MOMENT)]
    headers: _Headers
    size: _Size
    truncated: _Truncated
    body: _Body = None
    body_base64: _Base64 = None


class DeadLetterTotals(Result):
    """A queue that has dead letters; it may be gone."""

    queue: _Queue
    dead: _Dead
    bytes: Annotated[int, About("Bytes of its dead letters.", "SIZE", Unit.BYTES)]


class ClientConsumer(Result):
    """One queue that a client consumes."""

    queue: _Queue
    window: _Window
    in_flight: _Held
    lease_seconds: _Lease


class ClientStatus(Result):
    """A connection, with what it consumes."""

    id: Annotated[int, About("The connection's number.", "ID", Unit.NUMBER)]
    address: Annotated[str, About("The peer's address.", "ADDRESS", Unit.TEXT)]
    listener: Annotated[str, About("The listener that accepted it.", "LISTENER", Unit.TEXT)]
    protocol: Annotated[str, About("The protocol's version; empty before the first bytes.", "PROTOCOL", Unit.TEXT)]
    user: Annotated[str | None, About("The user; null as there is no login.", "USER", Unit.TEXT)]
    connected_seconds: Annotated[float, About("Time since it was accepted.", "AGE", Unit.SECONDS)]
    in_flight: _Held
    consuming: Annotated[tuple[ClientConsumer, ...], About(title="QUEUES", unit=Unit.CONSUMING)]
    bytes_received: Annotated[int, About("Bytes received from it.", "RECEIVED", Unit.BYTES)]
    bytes_sent: Annotated[int, About("Bytes sent to it.", "SENT", Unit.BYTES)]
    waiting_for_room: Annotated[bool, About("Whether its sends are blocked.")]


class ServerMessages(Result):
    """Messages of all queues, by state."""

    ready: _Ready
    delayed: _Delayed
    in_flight: _InFlight
    dead: _Dead
    bytes: _Bytes


class ServerTotals(Result):
    """Counters since the server started; none of them ever falls."""

    received: _Received
    delivered: _Delivered
    redelivered: Annotated[int, About("Deliveries that were not the first of their message.")]
    acknowledged: _Acknowledged
    requeued: Annotated[int, About("Messages that a consumer sent back to the tail of their queue.")]
    expired: Annotated[int, About("Messages whose time to live was over.")]
    dropped: Annotated[int, About("Messages dropped from full queues, the oldest first.")]
    flushed: Annotated[int, About("Messages removed by a flush.")]
    dead_lettered: Annotated[int, About("Messages that became dead letters.")]
    duplicates: Annotated[int, About("Sends that stored nothing, as they were known already.")]
    unknown_ids: Annotated[int, About("Settlements of messages that their client did not hold.")]


class Connections(Result):
    """How many connections there are, and what happened to them."""

    open: Annotated[int, About("Connections that are open.")]
    limit: Annotated[int, About("Connections that may be open.")]
    accepted: Annotated[int, About("Connections accepted.")]
    rejected: Annotated[int, About("Connections rejected at the limit.")]
    timeouts: Annotated[_Counts, About("Connections closed as they missed a deadline, by its kind.")]
    protocol_errors: Annotated[_Counts, About("Connections closed as the client broke the protocol, by error.")]


class Keys(Result):
    """Deduplication keys of all queues."""

    remembered: _Count
    limit: _Count


class MemoryStatus(Result):
    """The memory that messages and the process take, in bytes."""

    used: Annotated[int, About("What messages, dead letters, queues, keys and producers count for.", unit=Unit.BYTES)]
    limit: Annotated[int, About("Used memory from which on sends are blocked.", unit=Unit.BYTES)]
    resident: Annotated[int | None, About("Memory of the process, where the system tells it.", unit=Unit.BYTES)] = None
    peak: Annotated[int | None, About("The most that it ever was.", unit=Unit.BYTES)] = None


class MirrorStatus(Result):
    """The file to which the store is mirrored; without one there is nothing but that."""

    file: Annotated[str | None, About("Its path; null if the server keeps its messages in memory only.", unit=Unit.TEXT)]
    failing: Annotated[bool | None, About("Whether the last write failed.")] = None
    pending_changes: Annotated[int | None, About("Changes that are not in the file yet.")] = None
    lag_seconds: Annotated[float | None, About("Age of the oldest of these changes.", unit=Unit.SECONDS)] = None
    writes: Annotated[int | None, About("Writes of the file.")] = None
    errors: Annotated[int | None, About("Writes that failed.")] = None


class Alarm(Result):
    """What an operator has to look at now."""

    name: Annotated[str, About("The name of the check that failed.", unit=Unit.NAME)]
    text: Annotated[str, About("What is wrong.", unit=Unit.TEXT)]


class Health(Result):
    """Whether the server does what it is for."""

    ready: Annotated[bool, About("Whether all is well.")]
    checks: Annotated[Mapping[str, str], About("'ok', or what is wrong, by the check's name.")]


class ServerStatus(Result):
    """The status of the whole server."""

    version: str
    state: Literal["running", "draining"]
    now: Annotated[str, About("The server's time.", unit=Unit.MOMENT)]
    uptime_seconds: Annotated[float, About("Time since it was started.", unit=Unit.SECONDS)]
    messages: ServerMessages
    totals: ServerTotals
    dead_lettered: Annotated[_Counts, About("Messages that became dead letters, by reason.")]
    rates: Rates
    queues: _Count
    consumers: _Count
    connections: Connections
    keys: Keys
    memory: MemoryStatus
    mirror: MirrorStatus
    alarms: tuple[Alarm, ...]


class Receipt(Result):
    """The receipt of a message that an operator sent."""

    id: _MessageId
    duplicate: Annotated[bool, About("Whether it was known already, and nothing was stored.")]


class FlushResult(Result):
    """What a flush of a queue removed."""

    queue: _Queue
    removed: _Removed
    in_flight: _LeftInFlight


class FlushAllResult(Result):
    """What a flush of all queues removed."""

    queues: Annotated[int, About("Queues that were flushed.")]
    removed: _Removed
    in_flight: _LeftInFlight


class DeleteResult(FlushResult):
    """What was removed with a queue."""

    dead: Annotated[int, About("Dead letters removed.", "DEAD")]


class DeadDeleteResult(Result):
    """How many dead letters were deleted."""

    queue: _Queue
    deleted: Annotated[int, About("Dead letters deleted.", "DELETED")]


class ReplayResult(Result):
    """How many dead letters were replayed."""

    queue: _Queue
    target: _Target
    replayed: Annotated[int, About("Dead letters requeued.", "REPLAYED")]


class MoveResult(Result):
    """How many messages were moved."""

    source: _Queue
    target: _Target
    moved: Annotated[int, About("Messages moved.", "MOVED")]


class Page(Result):
    """A part of a list of results of one kind."""

    items: list[Any]
    next: str | None  # what to ask for to get the part after it; None for the last one


#: Every result that the API answers with, by the name of its schema.
KINDS: Mapping[str, Any] = {
    "Status": ServerStatus,
    "Alarm": Alarm,
    "Health": Health,
    "Queue": QueueStatus,
    "QueueDetail": QueueDetail,
    "Message": MessageStatus | DeadLetterStatus,
    "Client": ClientStatus,
    "Receipt": Receipt,
    "Flushed": FlushResult,
    "FlushedAll": FlushAllResult,
    "Deleted": DeleteResult,
    "DeadDeleted": DeadDeleteResult,
    "Replayed": ReplayResult,
    "Moved": MoveResult,
}


@cache
def _fields(kind: Any) -> list[tuple[str, str, Any, bool, About]]:
    """The fields of a result: attribute, name in JSON, type, whether it is left out of JSON while it is None, and what is known of it."""
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for field in fields(kind):
        hint = hints[field.name]
        (known,) = getattr(hint, "__metadata__", (About(),))
        about = About(known) if isinstance(known, str) else known
        found.append((field.name, about.name or field.name, hint, field.default is None, about))
    return found


def docs(kind: Any) -> dict[str, str]:
    """What each field of a result means."""
    return {name: about.doc for _, name, *_, about in _fields(kind)}


def members(result: Any) -> dict[str, Any]:
    """The members of a result's JSON object, results in it as they are; a field whose default is None is left out while it is None."""
    values = vars(result)
    return {name: values[field] for field, name, _, optional, _ in _fields(result.__class__) if not optional or values[field] is not None}


def as_json(value: Any) -> Any:
    """What JSON has of a result, as dicts and lists."""
    return json.loads(json_bytes(value))


def has_lists(value: Any) -> bool:
    """Whether a result or a mapping has lists, which may be long."""
    found = value if isinstance(value, Mapping) else members(value)
    return any(isinstance(member, list | tuple) for member in found.values())


def json_bytes(value: Any) -> bytes:
    """Write JSON, in ASCII: of a result, or of what JSON can have anyway."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=members).encode("ascii")


def json_parts(value: Any) -> Iterator[bytes]:
    """Write the JSON of a result or a mapping in parts, each of which is quickly made however long the lists are."""
    before = b"{"
    for name, member in (value if isinstance(value, Mapping) else members(value)).items():
        yield before + json_bytes(name) + b":"
        before = b","
        if isinstance(member, list | tuple) and member:
            for place, item in enumerate(member):
                yield (b"," if place else b"[") + json_bytes(item)
            yield b"]"
        else:
            yield json_bytes(member)
    yield b"{}" if before == b"{" else b"}"


_PLAIN: Mapping[Any, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "minimum": 0},
    float: {"type": "number", "minimum": 0},
    Any: {},
}


def schema_of(kind: Any) -> Schema:
    """The JSON Schema of a result: an object with these fields and no other. L{Alarm}, which others have, is referred to."""
    if isinstance(kind, UnionType):
        return {"anyOf": [schema_of(one) for one in get_args(kind)]}
    properties = {}
    for field, name, hint, optional, about in _fields(kind):
        if kind is QueueSettings and field in QueueSettings._CHOICES:
            hint = Literal[QueueSettings._CHOICES[field]]
        description = {"description": about.doc} if about.doc else {}
        properties[name] = {**_schema(hint, optional), **_SCHEMAS.get(about.unit, {}), **description}
    required = [name for _, name, _, optional, _ in _fields(kind) if not optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schema(hint: Any, optional: bool = False) -> Schema:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _schema(arguments[0], optional)
    if NoneType in arguments:
        schema = _schema(arguments[0])
        return schema if optional else {**schema, "type": [schema["type"], "null"]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0])}
    if origin is not None:
        return {"type": "object", "additionalProperties": _schema(arguments[1])}
    if hint is Alarm:
        return {"$ref": "#/components/schemas/Alarm"}
    return schema_of(hint) if is_dataclass(hint) else _PLAIN[hint]


class Table:
    """
    A table of results of one kind, with these fields as columns; C{rates.received} is a field of a field.

    @ivar headings: the titles of its columns; those of numbers, which are aligned on the right, begin with C{>}
    """

    def __init__(self, kind: Any, *names: str) -> None:
        self._columns: list[tuple[list[str], Unit]] = []
        self.headings: list[str] = []
        for name in names:
            hint, about = kind, About()
            for part in name.split("."):
                known = {name: (hint, about) for _, name, hint, _, about in _fields(hint)}
                hint, about = known[part]
                hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
            self._columns.append((name.split("."), about.unit))
            self.headings.append(about.title if about.unit in _LEFT else f">{about.title}")

    def row(self, result: Any, formats: Formats) -> list[str]:
        """Return the cells of a result, as JSON has it."""
        return [formats[unit](reduce(getitem, path, result)) for path, unit in self._columns]


def paused(queue: Mapping[str, Any]) -> str:
    """What of a queue is paused; empty for nothing."""
    return " and ".join(what for what, stopped in queue["paused"].items() if stopped)


def consumed(consuming: Sequence[Mapping[str, Any]], shown: Callable[[str], str] = str) -> str:
    """The queues that a client consumes, the first four by name, which C{shown} makes text of."""
    names = [shown(consumer["queue"]) for consumer in consuming[:4]]
    return (", ".join(names) or "-") + (f" and {len(consuming) - 4:,} more" if len(consuming) > 4 else "")
