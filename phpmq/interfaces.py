"""The seams of the server: between a conversation and its broker, and between the broker and its store."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any, TypeVar

from zope.interface import Attribute, Interface

from phpmq.errors import PHPMQError
from phpmq.message import DeadMessage, Message, Properties, QueueRecord
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


class IPeer(Interface):
    """What a broker needs of whoever holds a channel. All methods return at once and never raise."""

    def deliver(message: Message, now: int) -> None:
        """Take a message; it stays in flight until the channel settles it. C{now} is in milliseconds."""

    def receipt(tag: bytes, id: bytes = b"", duplicate: bool = False) -> None:
        """The command of that tag was carried out; C{duplicate}: it was before, and nothing was stored."""

    def refused(tag: bytes | None, error: Exception) -> None:
        """The command of that tag was not carried out."""

    def superseded() -> None:
        """Another client goes on as the same producer: this one's conversation is over."""

    def blocked() -> None:
        """The send that was just made was not accepted, for lack of capacity: keep it, and what follows it, until L{unblocked}."""

    def unblocked() -> None:
        """After L{blocked}, or a refusal with L{phpmq.errors.NoRoom}: a send may succeed now."""

    def flush() -> None:
        """No more deliveries and receipts for now: write them."""


class IConnection(Interface):
    """What a session needs of the transport that it speaks over."""

    def write(data: bytes) -> None:
        """Send bytes that belong together."""

    def stop_reading() -> None:
        """Hand nothing more to the session."""

    def resume_reading() -> None:
        """Undo L{stop_reading}."""

    def broken(error: Exception) -> None:
        """The peer broke the protocol: close."""


class IChannel(Interface):
    """What one client sends, consumes and holds. All methods return None; what comes of them arrives at the peer."""

    paused = Attribute("Whether deliveries are paused.")
    consumers = Attribute("Its consumers by name of the queue, each with C{window}, C{held} (messages) and C{lease} (milliseconds).")
    unacked = Attribute("The messages that it holds, by id.")

    def publish(queue: str, body: bytes, ttl: int) -> None:
        """Send a message without an answer; the peer may be L{IPeer.blocked}. C{ttl} in milliseconds, 0 means that it never expires."""

    def send(tag: bytes | None, queue: str, body: bytes, ttl: int, synced: bool, properties: Properties | None) -> None:
        """
        Send a message that may have a delay (C{properties.due}, still relative, in milliseconds), a key and headers; with a tag it is
        answered, once it is on the disk if it has to be C{synced}.
        """

    def refuse(tag: bytes | None, error: PHPMQError) -> None:
        """Refuse a send that was found wrong before it got here, as one that is found wrong here."""

    def hello(tag: bytes, producer: bytes | None) -> None:
        """Answer; with a name, the tags of later sends are that producer's numbers, and what was refused may be sent again."""

    def consume(queue: str, window: int, lease: int = 0, tag: bytes | None = None) -> None:
        """
        Keep up to C{window} messages of the queue in flight on this channel, each for C{lease} milliseconds at most (0: no limit);
        a window of 0 ends it.
        """

    def ack(tag: bytes | None, id: bytes, queue: str | None = None) -> None:
        """Settle a message: it is done."""

    def requeue(tag: bytes | None, id: bytes, ttl: int, queue: str | None = None, delay: int = 0) -> None:
        """Settle a message by sending it to the tail of its queue, with a new time to live and a delay in milliseconds."""

    def dead_letter(tag: bytes | None, id: bytes, reason: str = "", queue: str | None = None) -> None:
        """Settle a message by setting it aside, with a text for the operator."""

    def touch(tag: bytes | None, id: bytes) -> None:
        """The lease of a message starts again."""

    def pause() -> None:
        """The peer cannot take more deliveries now."""

    def resume() -> None:
        """The peer can take deliveries again."""

    def give_back() -> None:
        """The peer holds and gets nothing more: what it held becomes ready again. What it sent is still answered."""

    def close() -> None:
        """The peer is gone: what it held becomes ready again."""


class IBroker(Interface):
    """What a session needs of an engine. What is called between L{begin} and L{end} is one turn."""

    revisions = Attribute(
        "Which revision of protocol 01 (1 original, 2 documented) the latest sender of each queue speaks, by the queue's name; queues that"
        " no client of version 01 sent to are left out."
    )

    def channel(peer: IPeer, user: str = "") -> IChannel:
        """A channel for a client, who is that user; close it when the client is gone."""

    def begin() -> None:
        """Start a turn: time stands still, and deliveries wait for its end."""

    def end() -> None:
        """End a turn: deliveries are made, and peers flushed."""

    def save_revision(queue: str, revision: int) -> None:
        """Remember in C{revisions} what the latest sender of a queue speaks; ignored if there is no queue of that name."""


class IMirror(Interface):
    """What a broker needs of whoever copies its store to a file."""

    failing = Attribute("Whether the last write failed.")

    def sync_soon() -> None:
        """Write the file as soon as this reactor turn is over and no other write is running: a receipt depends on it."""


class IStore(Interface):
    """
    Keeps messages and queues, in order. Changes may be gathered, but every reading method sees them.

    A message counts as the same one by its C{number}, whatever its position.
    """

    id_prefix = Attribute("16 bytes [0-9a-f] that start the id of every message of this store.")
    mirrored = Attribute("All that was accepted up to this number is in the file as well.")
    latest = Attribute("The number of the message that was added last; one below C{next_number} before the first.")
    next_number = Attribute("The first number (and position) that no message ever had.")
    revisions = Attribute("The same as L{IBroker} has.")

    def save_revision(name: str, revision: int) -> None:
        """Remember what a sender speaks; see L{IBroker.save_revision}."""

    def add(message: Message) -> None:
        """Keep a new message, with the highest number yet, and remember its key if its queue has a dedup window."""

    def put(message: Message) -> None:
        """Keep a message as it is now: re-queued, or back with another attempt."""

    def remove(number: int) -> None:
        """Forget a message."""

    def retried(message: Message) -> None:
        """Keep how often a message was delivered; its row may lag behind until the store is mirrored."""

    def dead_letter(message: Message, reason: str, text: str, now: int) -> None:
        """Turn a message into a dead one."""

    def read(queue: QueueRecord, after: int, count: int, size: int) -> list[Message]:
        """
        The queue's messages with a position above C{after}, in order of position: up to C{count} of them, and no more once they reach
        C{size} bytes. C{after} is not negative.
        """

    def expired(now: int, count: int) -> list[tuple[int, int, int, int]]:
        """
        Messages that expired by C{now} and were not named by an earlier call: number, queue's number, position, size.
        Up to C{count} of them, the earliest first.
        """

    def due(now: int, count: int, queues: Mapping[int, QueueRecord]) -> list[Message]:
        """Up to C{count} delayed messages that are due by C{now}, the earliest first; C{queues} has their queues by number."""

    def next_due() -> int:
        """When the next delayed message is due, milliseconds since the epoch; 0 if there is none."""

    def find(queue: QueueRecord, key: str, now: int) -> int:
        """
        The number of a message with that key: one in the queue that is not flushed nor expired by C{now}, or one sent to it within its
        dedup window, unless the queue's C{keys_forgotten_to} covers it; 0 if there is none.
        """

    def keys() -> dict[int, tuple[int, int]]:
        """How many keys each queue remembers, by its number, and their bytes."""

    def forget_keys(queue: QueueRecord, now: int, count: int) -> tuple[int, int, int]:
        """
        Forget up to C{count} of the queue's keys, the oldest first, whose dedup window is over or which its C{keys_forgotten_to} covers:
        how many that were, their bytes, and when the message was accepted whose key is next; 0 if there is none.
        """

    def producers() -> list[tuple[bytes, int, int]]:
        """Every producer: name, highest number accepted, when it was last used."""

    def save_producer(name: bytes, number: int, now: int) -> None:
        """Keep a producer's highest number, together with the messages that are added from here on."""

    def drop_producer(name: bytes) -> None:
        """Forget a producer."""

    def request_sync() -> None:
        """Somebody waits for C{mirrored} to reach C{latest}, even if that message is gone meanwhile."""

    def create_queue(name: str) -> QueueRecord:
        """A new queue."""

    def save_queue(queue: QueueRecord) -> None:
        """Keep the queue's facts as they are now."""

    def drop_queue(queue: QueueRecord) -> None:
        """Forget a queue that holds no messages."""

    def queues() -> list[tuple[QueueRecord, int, int, int]]:
        """Every queue with how many messages wait in it, their size, and how many of them are delayed."""

    def purge(queue: QueueRecord, count: int) -> bool:
        """
        Forget up to C{count} messages that the queue's C{flushed_to} position covers, fewer if they are large; true when none is left.
        """

    def peek(queue: QueueRecord, after: int, count: int, preview: int, delayed: bool = False, size: int = 2**62) -> list[Message]:
        """
        As C{read}, to look at: the messages have the first C{preview} bytes of their bodies, and the size of the whole ones; there are no
        more once those beginnings reach C{size} bytes. Or likewise the queue's delayed messages, in order of acceptance, those behind the
        place C{after} in it.
        """

    def get(queue: QueueRecord, number: int) -> Message | None:
        """The message of that number in a queue, also while it is in flight; None if there is none."""

    def dead(
        queue: str | None = None,
        after: int = 0,
        count: int = -1,
        reason: str | None = None,
        preview: int | None = None,
    ) -> Iterable[DeadMessage]:
        """
        The dead messages, in order of acceptance: of one queue or of all, with a number above C{after}, up to C{count} of them (-1: all),
        perhaps only those that died for a reason, perhaps with no more than the first C{preview} bytes of their bodies.
        """

    def get_dead(number: int, preview: int | None = None) -> DeadMessage | None:
        """The dead message of that number, perhaps with no more than the first C{preview} bytes of its body; None if there is none."""

    def dead_totals() -> dict[str, tuple[int, int]]:
        """How many dead messages there are by queue, and their bytes."""

    def replay(dead: DeadMessage, queue: QueueRecord, position: int) -> Message:
        """Make a dead message wait again at a place in a queue, as if it had never been delivered; it does not expire."""

    def delete_dead(numbers: Iterable[int]) -> None:
        """Forget dead messages."""


_T = TypeVar("_T")

#: Work that may take long: others may go on between two steps. A step yields True if it takes some milliseconds, as long as a time slice.
Steps = Generator[Any, None, _T]


class IOperators(Interface):
    """
    What operators see of an engine, and do to it. All names are those of queues, and all times in milliseconds since the epoch.

    What an engine cannot do raises L{phpmq.errors.NotSupported}. A method that names a queue raises L{phpmq.errors.NoSuchQueue} if there is
    none of that name, unless it makes one.
    """

    waits = Attribute("A histogram of the time from the acceptance of messages until their first delivery.")
    dead_lettered = Attribute("How many messages became dead letters, by reason.")
    refused = Attribute("How many sends of clients were refused, by error code.")
    dead_totals = Attribute("How many dead letters each queue has, and their bytes, also those of queues that are gone, by name.")

    def now() -> int:
        """What time it is for the engine."""

    def totals() -> ServerTotals:
        """Counters since the start; none of them ever falls."""

    def gauges() -> Mapping[str, int]:
        """Numbers and limits of what there is now, by name; an engine leaves out what it does not have."""

    def alarms() -> Mapping[str, str]:
        """What is wrong, by the name of the check; empty for what is well."""

    def sums() -> tuple[ServerMessages, int]:
        """How many messages all queues have, by state, and how many consumers."""

    def names() -> list[str]:
        """The names of all queues."""

    def rank(name: str, by: str) -> float:
        """The number by which a queue is sorted, see L{phpmq.message.SORTS}; 0 if it is gone."""

    def numbers(name: str) -> QueueNumbers:
        """All numbers of a queue."""

    def counters(name: str) -> tuple[int, tuple[int, int, int]] | None:
        """A queue's number, and how many messages were received, delivered and acknowledged; None if it is gone."""

    def consumers(name: str) -> list[tuple[object, int, int, float]]:
        """The consumers of a queue: each one's channel, window, messages in flight, and lease in seconds."""

    def consuming(channel: IChannel) -> tuple[ClientConsumer, ...]:
        """What a channel consumes."""

    def configure(name: str, changes: Mapping[str, Any]) -> QueueNumbers:
        """Change settings of a queue, which is made if it is not there; None gives one back its default."""

    def pause(name: str, what: str) -> QueueNumbers:
        """Stop what is one of L{phpmq.message.PAUSES}; the queue is made if it is not there."""

    def resume(name: str, what: str) -> QueueNumbers:
        """Undo L{pause}."""

    def flush(name: str) -> FlushResult:
        """Remove what is ready or delayed; what is in flight is left to its consumers and never comes back."""

    def delete_queue(name: str) -> Steps[DeleteResult]:
        """Flush a queue and forget its settings, pause, dead letters and keys; a queue that is gone is known by its dead letters."""

    def messages(name: str, state: str, after: int, limit: int, preview: int) -> Steps[Page]:
        """
        A page of the messages in a state of L{phpmq.results.LISTED}, in their order, each with the first C{preview} bytes of its body. It
        ends early once it has much of bodies; C{next} is C{after} of the next one.
        """

    def message(name: str, id: str, preview: int = 0) -> tuple[MessageStatus | DeadLetterStatus, bytes]:
        """The message of that id with the beginning of its body, and the whole body; L{phpmq.errors.NoSuchMessage} if there is none."""

    def move(source: str, target: str, count: int | None) -> Steps[int]:
        """Move the first C{count} messages that are ready now, or all, to the tail of another queue: how many were moved."""

    def replay(name: str, target: str, ids: Iterable[str] | None, reason: str | None, count: int | None) -> Steps[int]:
        """
        Requeue dead letters, with their attempts forgotten: those of these ids, or the oldest C{count} that died for a reason; None for
        all. The answer is how many. If one of the ids is not there, nothing is done and it is L{phpmq.errors.NoSuchMessage}; if no queue
        can have the target's name, L{phpmq.errors.BadName}. A queue that is gone is known by its dead letters.
        """

    def delete_dead(name: str, ids: Iterable[str] | None, reason: str | None, count: int | None) -> Steps[int]:
        """Delete dead letters; see L{replay}."""
