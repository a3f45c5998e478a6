"""What the broker, its store and its callers pass around."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

from phpmq.errors import BadName, BadSetting

#: What a message costs in memory beside its body: the row, its index entries and their pages (measured, rounded up).
MESSAGE_OVERHEAD = 96

#: What a key, a delay or headers cost beside their own bytes: a row and its index entries.
PROPERTIES_OVERHEAD = 64

#: What a key that a queue remembers costs in memory beside its own bytes, which are in a row and in an index (measured, rounded up).
KEY_OVERHEAD = 96

#: The longest name of a queue, in bytes of UTF-8.
MAX_NAME = 255

#: States of messages.
STATES = "ready", "delayed", "in_flight", "dead"

#: What can be paused.
PAUSES = "deliveries", "sends", "all"

#: What queues can be sorted by; C{messages} are those ready, delayed and in flight.
SORTS = "name", "ready", "in_flight", "messages", "dead", "bytes", "age", "rate"

#: The most items of a page, and the most bytes of each body in a list of messages.
MAX_PAGE, MAX_PREVIEW = 1000, 65536


def key_size(length: int, count: int = 1) -> int:
    """What remembered keys with so many bytes count against the memory limit."""
    return 2 * length + count * KEY_OVERHEAD


def check_name(name: str) -> str:
    """Return a name that a queue may have; any other is a L{BadName}."""
    if not name:
        raise BadName("queue name is empty")
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise BadName("queue name is not UTF-8") from None
    if length > MAX_NAME:
        raise BadName(f"queue name of {length} bytes, the limit is {MAX_NAME}")
    for character in name:
        if character < " " or "\x7f" <= character <= "\x9f" or character in "\u2028\u2029":
            raise BadName("control character in queue name")
    return name


@dataclass(frozen=True)
class QueueSettings:
    """What an operator may set for a queue, and what each setting means, in the words of help and schemas."""

    max_messages: Annotated[int, "How many messages may wait; 0 for no limit."] = 0
    max_bytes: Annotated[int, "How many bytes may wait; 0 for no limit."] = 0
    when_full: Annotated[str, "What happens to one more."] = "refuse"
    max_attempts: Annotated[int, "Deliveries after which a message is dead; 0 for no limit."] = 20
    lease: Annotated[float, "Seconds that a consumer which asks for no lease has; 0 for no limit."] = 0.0
    expired: Annotated[str, "What becomes of messages that expire."] = "drop"
    dedup: Annotated[float, "Seconds that a message's key is known after its acceptance; 0 for no longer than it is in the queue."] = 120.0

    _CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {"when_full": ("refuse", "drop-oldest"), "expired": ("drop", "dead")}
    _SECONDS: ClassVar[tuple[str, ...]] = "lease", "dedup"

    def __post_init__(self) -> None:
        """Refuse a value that the setting cannot have with L{BadSetting}."""
        for name, value in asdict(self).items():
            choices = self._CHOICES.get(name)
            if choices is not None:
                if value not in choices:
                    raise BadSetting(f"{name} is {' or '.join(choices)}, not {value!r}")
            elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
                raise BadSetting(f"{name} is a number from 0, not {value!r}")
            elif name not in self._SECONDS and value != int(value):
                raise BadSetting(f"{name} is a whole number, not {value!r}")

    def changed(self, changes: Mapping[str, Any]) -> QueueSettings:
        """Return settings that differ in some, None for the default; L{BadSetting} if there is none of that name, or it cannot be so."""
        known = asdict(DEFAULT_SETTINGS)
        for name in changes:
            if name not in known:
                raise BadSetting(f"there is no setting {name!r}, only {', '.join(known)}")
        return QueueSettings(**{**asdict(self), **{name: known[name] if value is None else value for name, value in changes.items()}})


#: What a queue has that nobody set anything for.
DEFAULT_SETTINGS = QueueSettings()


@dataclass(slots=True, eq=False)
class QueueRecord:
    """
    The facts of a queue that outlive the process.

    @ivar number: the queue's key in the store
    @ivar flushed_to: messages up to this position were flushed
    @ivar paused: bits: 1 no deliveries, 2 no sends
    @ivar keys_forgotten_to: the keys of messages up to this number were forgotten
    """

    number: int
    name: str
    flushed_to: int = 0
    paused: int = 0
    settings: QueueSettings = DEFAULT_SETTINGS
    keys_forgotten_to: int = 0

    def remembers_from(self, now: int) -> int:
        """Its dedup window: the keys of messages that were accepted later than that are known, whatever became of the messages."""
        return now - int(self.settings.dedup * 1000)


@dataclass(slots=True, eq=False)
class Properties:
    """
    What only some messages have.

    @ivar due: when it becomes ready, milliseconds since the epoch; 0 once it is
    @ivar key: by which a second send of it is recognised; empty for none
    @ivar headers: a JSON object of strings; empty for none
    """

    due: int = 0
    key: str = ""
    headers: bytes = b""

    @property
    def size(self) -> int:
        """What it adds to the size of its message, in bytes."""
        return len(self.key.encode("utf-8")) + len(self.headers) + PROPERTIES_OVERHEAD

    def give_up_key(self) -> int:
        """Have no key any more: by how many bytes it is smaller."""
        key, self.key = self.key, ""
        return len(key.encode("utf-8"))


class Message:
    """
    One message.

    @ivar number: its key in the store, given in order of acceptance and never reused, also not after a crash
    @ivar position: its place in the queue: the number, or a later one once it was explicitly re-queued; negative while it is delayed
    @ivar accepted: when it was accepted, milliseconds since the epoch
    @ivar expires: when it expires, milliseconds since the epoch; 0 means never
    @ivar attempts: how many times it was delivered
    @ivar id: the 32 bytes C{[0-9a-f]} by which clients know it; empty until it is first needed
    @ivar consumer: who holds it while it is in flight
    @ivar properties: its delay, key and headers; None if it never had any
    @ivar size: bytes of its body and properties; against the memory limit it counts L{MESSAGE_OVERHEAD} more
    """

    __slots__ = ("accepted", "attempts", "body", "consumer", "expires", "id", "number", "position", "properties", "queue", "size")

    def __init__(
        self,
        number: int,
        queue: QueueRecord,
        position: int,
        accepted: int,
        expires: int,
        attempts: int,
        body: bytes,
        properties: Properties | None = None,
    ) -> None:
        self.number = number
        self.queue = queue
        self.position = position
        self.accepted = accepted
        self.expires = expires
        self.attempts = attempts
        self.body = body
        self.id = b""
        self.consumer: Any = None
        self.properties = properties
        self.size = len(body) if properties is None else len(body) + properties.size


@dataclass(slots=True, eq=False)
class DeadMessage:
    """
    A message that nobody will get any more, kept for the operator.

    @ivar queue: the name of the queue that it was in
    @ivar reason: C{rejected}, C{max-attempts} or C{expired}
    @ivar text: what the client said
    @ivar died: when, milliseconds since the epoch
    @ivar headers: a JSON object of strings; empty for none
    @ivar size: bytes of its body and headers; against the memory limit it counts L{MESSAGE_OVERHEAD} more
    @ivar length: bytes of its body, of which C{body} may be only the beginning
    """

    number: int
    queue: str
    reason: str
    text: str
    accepted: int
    died: int
    attempts: int
    body: bytes
    headers: bytes
    size: int
    length: int
