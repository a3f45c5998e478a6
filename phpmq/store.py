"""The store: an in-memory SQLite database, and the changes that its mirror has not seen yet."""

from __future__ import annotations

import json
import os
import sqlite3
from binascii import crc32, hexlify
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from itertools import islice, pairwise
from typing import Any

from zope.interface import implementer

from phpmq.interfaces import IStore
from phpmq.message import DEFAULT_SETTINGS, EXTRA_OVERHEAD, DeadMessage, Extra, Message, QueueRecord, QueueSettings

#: Version of the newest schema file, C{PRAGMA user_version} of a database that has it. Each file makes its version of the one before.
SCHEMA_VERSION = 3

# Each start takes its message numbers from a range of its own, so that the number of a message that was lost with a crash, but perhaps seen
# by a consumer, is never given again: 2**40 messages a start, 8 million starts.
_RANGE = 2**40

# So many new or gone messages are gathered before they are written to the database; one that is settled before never gets there.
_GATHERED = 2048
_GATHERED_BYTES = 1024 * 1024

# While the file cannot be written, so many batches are remembered before they are put together.
_BATCHES = 4096

_PRIME = 4294967291

# With what only some messages have, and without the search for it where there is none.
_PLAIN = "number, queue, position, accepted, expires, attempts, body", "message"
_WITH_EXTRA = (
    "message.number, message.queue, position, accepted, expires, attempts, body, due, key, headers",
    "message LEFT JOIN extra USING (number)",
)
_EXTRA_SIZE = f"{EXTRA_OVERHEAD} + coalesce(length(CAST(key AS BLOB)), 0) + coalesce(length(headers), 0)"
_SIZE = f"length(body) + CASE WHEN extra.number IS NULL THEN 0 ELSE {_EXTRA_SIZE} END"

# CPython's sqlite3 looks for an adapter of each value that is not exactly an int, a float, a str or a bytearray: for None that costs more
# than to have SQLite make it of 0, for bytes more than to copy them, unless they are many.
_MESSAGE = "INTO message VALUES (?, ?, ?, ?, nullif(?, 0), ?, ?, ?)"
_COPIED = 4096

# So many bytes of bodies go in a step: their pages are looked at one by one.
_PURGED_BYTES = 4 * 1024 * 1024

_NO_BODY = "x''"

# By a key: a message that was sent with it not long ago, or else one that waits.
_FIND = (
    "SELECT number FROM key WHERE queue = ? AND key = ? AND accepted > ? AND number > ?"
    " UNION ALL SELECT number FROM extra JOIN message USING (number) WHERE extra.queue = ? AND key = ?"
    " AND abs(position) > ? AND (expires IS NULL OR expires > ?) LIMIT 1"
)

_DEAD_COLUMNS = "dead.number, dead.queue, reason, text, accepted, died, attempts"


def schema(name: str) -> str:
    """The text of a schema file."""
    return (files("phpmq") / "schema" / f"{name}.sql").read_text(encoding="utf-8")


def upgrade(database: sqlite3.Connection, version: int = 0) -> None:
    """Bring the schema of a database from an older version to the newest, in one transaction."""
    later = [schema(f"{number:03}") for number in range(version + 1, SCHEMA_VERSION + 1)]
    database.executescript("".join(["BEGIN IMMEDIATE;", *later, f"PRAGMA user_version = {SCHEMA_VERSION};", "COMMIT;"]))


def checksum(number: int, queue: int, position: int, accepted: int, expires: int | None, attempts: int, body: bytes) -> int:
    """
    CRC-32 of a message's row: the body's, started from a mix of the other columns.

    The mix is taken modulo a prime, so that no single flipped bit of a column leaves it as it was.
    """
    mix = number ^ position << 5 ^ accepted << 11 ^ (expires or 0) << 17 ^ queue << 23 ^ attempts << 43
    return crc32(body, mix % _PRIME)


def _settings_text(settings: QueueSettings) -> str:
    if settings is DEFAULT_SETTINGS:
        return ""
    default = asdict(DEFAULT_SETTINGS)
    return json.dumps({name: value for name, value in asdict(settings).items() if value != default[name]})


def _settings(text: str) -> QueueSettings:
    return QueueSettings(**json.loads(text)) if text else DEFAULT_SETTINGS


def _row(message: Message) -> tuple[object, ...]:
    """The values for L{_MESSAGE}."""
    number, queue, position = message.number, message.queue.number, message.position
    accepted, expires, attempts, body = message.accepted, message.expires, message.attempts, message.body
    crc = checksum(number, queue, position, accepted, expires, attempts, body)
    return number, queue, position, accepted, expires, attempts, crc, body if len(body) > _COPIED else bytearray(body)


def _extra_row(message: Message) -> tuple[object, ...]:
    extra = message.extra
    assert extra is not None
    return message.number, message.queue.number, extra.due, extra.key or None, extra.headers or None


def _message(queue: QueueRecord, row: tuple[Any, ...]) -> Message:
    number, _, position, accepted, expires, attempts, body, *more = row
    extra = Extra(more[0], more[1] or "", more[2] or b"") if more and more[0] is not None else None
    return Message(number, queue, position, accepted, expires or 0, attempts, body, extra)


#: Messages written to the database together: highest number accepted until then, how many they were, their bytes, and the highest
#: numbers of the producers whose messages are among them.
_Batch = tuple[int, int, int, dict[bytes, tuple[int, int]]]


@dataclass
class Delta:
    """
    Changes for the mirror, as a SQLite database of their own.

    @ivar image: tables C{message}, C{extra}, C{key}, C{dead}, C{queue}, C{producer} and C{meta} with rows to replace; C{gone},
        C{gone_key}, C{gone_queue} and C{gone_producer} with keys to delete
    @ivar upto: the highest message number that it brings up to date
    @ivar changes: how many rows
    @ivar more: whether it was too small for all that the mirror has to know
    @ivar gone_keys: numbers of messages whose keys are forgotten
    @ivar extras: whether any message has or had extras
    @ivar keeps_flushed: whether changed messages are left for the next delta: a dead one among them, which the file still has as
        waiting, would be taken for flushed if its queue's C{flushed} came before it
    """

    image: bytes
    upto: int
    changes: int
    gone: set[int]
    changed: dict[int, int]
    queues: set[int]
    gone_queues: dict[str, QueueRecord]
    gone_producers: set[bytes]
    gone_keys: set[int]
    extras: bool
    more: bool = False
    keeps_flushed: bool = False


class _Keys:
    """
    Keys that were gathered or forgotten. An object of their own: CPython finds an attribute faster in one that has no more than 30.

    @ivar ever: whether there ever was one
    @ivar latest: by queue and key the latest message that was added since the last write, also if it is gone
    @ivar new: rows of those of them that are to be remembered
    @ivar gone: numbers of messages whose keys are forgotten, which the mirror does not know
    """

    __slots__ = ("ever", "gone", "latest", "new")

    def __init__(self, ever: bool) -> None:
        self.ever = ever
        self.latest: dict[tuple[int, str], Message] = {}
        self.new: list[tuple[int, int, int, str]] = []
        self.gone: set[int] = set()

    def note(self, message: Message, key: str) -> None:
        """A message with a key is added."""
        self.ever = True
        queue = message.queue
        self.latest[queue.number, key] = message
        if queue.settings.dedup:
            self.new.append((message.number, queue.number, message.accepted, key))

    def take(self) -> list[tuple[int, int, int, str]]:
        """The rows that are to be written: all will be in the database."""
        rows = self.new
        if self.latest:
            self.latest, self.new = {}, []
        return rows


@implementer(IStore)
class SQLiteStore:
    """
    Messages and queues in an in-memory SQLite database.

    Changes are gathered and written in batches. What the mirror has to copy is known by message numbers alone: those above
    C{mirrored} are new, others are noted when they change or go.

    @ivar mirrored: all that was accepted up to this number is in the file as well
    @ivar latest: the highest number that was added
    """

    def __init__(self, database: sqlite3.Connection | None = None) -> None:
        if database is None:
            database = sqlite3.connect(":memory:", isolation_level=None)
            upgrade(database)
        self._database = database
        # Where SQLite is compiled so, pages that are given up would be overwritten with zeros: in memory that protects nothing, and takes
        # longer than all else about a large body.
        database.execute("PRAGMA secure_delete = OFF")
        database.executescript(schema("memory"))
        meta = dict(database.execute("SELECT key, value FROM meta"))
        starts = meta.get("starts", 0) + 1
        prefix = meta.get("id_prefix") or hexlify(os.urandom(8))
        self.id_prefix: bytes = prefix
        self._next_queue = max(meta.get("next_queue", 1), self._one("SELECT max(number) + 1 FROM queue") or 1)
        self._meta: dict[str, object] = {"starts": starts, "id_prefix": prefix}
        highest = max(self._one(f"SELECT max(number) FROM {table}") or 0 for table in ("message", "dead", "key"))
        self.next_number: int = max(starts, highest // _RANGE + 1) * _RANGE
        self._meta["starts"] = self.next_number // _RANGE
        self.mirrored: int = self.next_number - 1
        # Gathered, not in the database yet.
        self._added: dict[int, Message] = {}
        self._put: dict[int, Message] = {}
        self._gathered_size = 0  # of all that were added or put since the last write, also of those that are gone
        self._retried: dict[int, Message] = {}
        self._removed: list[int] = []
        # What the mirror must know about messages up to _extracted.
        self._extracted = self.mirrored
        self._extracted_queue = self._next_queue - 1
        self._batches: deque[_Batch] = deque()
        self.latest = self._marked = self._wanted = self.mirrored  # number added, in a batch, waited for
        self._extras = bool(self._one("SELECT count(*) FROM extra"))  # whether there ever was one
        self._keys = _Keys(self._extras or bool(self._one("SELECT count(*) FROM key")))
        self._new_producers: dict[bytes, tuple[int, int]] = {}
        self._gone_producers: set[bytes] = set()
        self._gone: set[int] = set()
        self._changed: dict[int, int] = {}  # number -> bytes
        self._dirty_queues: set[int] = set()
        self._gone_queues: dict[str, QueueRecord] = {}
        self._leaving: dict[str, QueueRecord] = {}  # the gone queues of the delta that is being written
        self._meta_dirty = True
        self._expiry = (0, 0)

    def _one(self, sql: str) -> int | None:
        (value,) = self._database.execute(sql).fetchone()
        result: int | None = value
        return result

    # Messages

    def add(self, message: Message) -> None:
        """Keep a new message; see L{IStore}."""
        self._added[message.number] = message
        self.latest = message.number
        self._gathered_size += message.size
        if message.extra is not None:
            self._extras = True
            if message.extra.key:
                self._keys.note(message, message.extra.key)
        if len(self._added) >= _GATHERED or self._gathered_size >= _GATHERED_BYTES:
            self.write()

    def put(self, message: Message) -> None:
        """Keep a message as it is now; see L{IStore}."""
        number = message.number
        if message.extra is not None:
            self._extras = True
            if number in self._added:
                self.write()  # its key is known by the queue that it was in
        if number not in self._added:
            self._retried.pop(number, None)
            self._put[number] = message
            self._gathered_size += message.size
            if len(self._put) >= _GATHERED or self._gathered_size >= _GATHERED_BYTES:
                self.write()

    def retried(self, message: Message) -> None:
        """Keep how often a message was delivered; see L{IStore}."""
        number = message.number
        if number not in self._added and number not in self._put:
            self._retried[number] = message

    def remove(self, number: int) -> None:
        """Forget a message; see L{IStore}."""
        if self._added.pop(number, None) is None:
            if self._put:
                self._put.pop(number, None)
            if self._retried:
                self._retried.pop(number, None)
            self._removed.append(number)
            if len(self._removed) >= _GATHERED:
                self.write()

    def bury(self, message: Message, reason: str, text: str, now: int) -> None:
        """Turn a message into a dead one; see L{IStore}."""
        number = message.number
        if self._added or self._put:
            self.write()
        self._retried.pop(number, None)
        with self._transaction():
            self._database.execute("DELETE FROM message WHERE number = ?", (number,))
            if message.extra is not None:
                # Anew: it is gone if the message was flushed while it was in flight.
                row = number, message.queue.number, message.extra.headers or None
                self._database.execute("INSERT OR REPLACE INTO extra VALUES (?, ?, 0, NULL, ?)", row)
            self._database.execute(
                "INSERT OR REPLACE INTO dead VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    number,
                    message.queue.name,
                    reason,
                    text,
                    message.accepted,
                    now,
                    message.attempts,
                    message.body,
                ),
            )
        self._note_changed(message)

    def write(self) -> None:
        """Write what was gathered to the database."""
        keys = self._keys.take()
        news = keys or self._new_producers or self._wanted > self._marked
        if not (self._added or self._removed or self._put or self._retried or news):
            return
        added, self._added, self._gathered_size = self._added, {}, 0
        removed, self._removed = self._removed, []
        put, self._put = self._put, {}
        retried = self._some_retried()
        with self._transaction():
            run = self._database.executemany
            run("DELETE FROM message WHERE number BETWEEN ? AND ?", _runs(removed))
            run(f"INSERT {_MESSAGE}", map(_row, added.values()))
            run(f"INSERT OR REPLACE {_MESSAGE}", map(_row, put.values()))
            run("UPDATE message SET attempts = ?, crc = ? WHERE number = ?", map(_retry, retried))
            if self._extras:
                run("DELETE FROM extra WHERE number BETWEEN ? AND ?", _runs(removed))
                run("DELETE FROM extra WHERE number = ?", [(number,) for number in put])
                extras = [message for message in (*added.values(), *put.values()) if message.extra is not None]
                run("INSERT INTO extra VALUES (?, ?, ?, ?, ?)", map(_extra_row, extras))
            if keys:
                run("INSERT INTO key VALUES (?, ?, ?, ?)", keys)
        extracted = self._extracted
        self._note_gone(number for number in removed if number <= extracted)
        for message in (*put.values(), *retried):
            self._note_changed(message)
        if added or news:
            producers, self._new_producers = self._new_producers, {}
            self._marked = self.latest
            self._batches.append((self.latest, len(added) + len(keys), sum(message.size for message in added.values()), producers))
            if len(self._batches) > _BATCHES:
                self._join_batches()

    def _some_retried(self) -> list[Message]:
        """Take a part of those whose attempts changed: their rows are written anew with their bodies, and nobody waits for that."""
        some: list[Message] = []
        size = 0
        for message in self._retried.values():
            some.append(message)
            size += message.size
            if len(some) >= _GATHERED or size >= _GATHERED_BYTES:
                break
        for message in some:
            del self._retried[message.number]
        return some

    def _join_batches(self) -> None:
        """While nothing is mirrored, remember half as many batches of twice the size."""
        pairs = zip(*[iter(self._batches)] * 2, strict=False)
        joined = deque((second[0], first[1] + second[1], first[2] + second[2], first[3] | second[3]) for first, second in pairs)
        if len(self._batches) % 2:
            joined.append(self._batches[-1])
        self._batches = joined

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def _note_gone(self, numbers: Iterable[int]) -> None:
        if self._changed:
            numbers = list(numbers)
            for number in numbers:
                self._changed.pop(number, None)
        self._gone.update(numbers)

    def _note_changed(self, message: Message) -> None:
        number = message.number
        if number <= self._extracted:
            self._changed[number] = message.size
            self._gone.discard(number)

    def read(self, queue: QueueRecord, after: int, count: int, size: int) -> list[Message]:
        """Messages in order; see L{IStore}."""
        self.write()
        columns, tables = _WITH_EXTRA if self._extras else _PLAIN
        rows = self._database.execute(
            f"SELECT {columns} FROM {tables} WHERE message.queue = ? AND position > ? ORDER BY position LIMIT ?",
            (queue.number, after, count),
        )
        return _up_to(queue, rows, size)

    def due(self, now: int, count: int, queues: Mapping[int, QueueRecord]) -> list[Message]:
        """Delayed messages that are due; see L{IStore}."""
        self.write()
        columns, _ = _WITH_EXTRA
        rows = self._database.execute(
            f"SELECT {columns} FROM extra JOIN message USING (number) WHERE due > 0 AND due <= ? ORDER BY due, number LIMIT ?", (now, count)
        )
        return [_message(queues[row[1]], row) for row in rows if row[1] in queues]

    def next_due(self) -> int:
        """When the next delayed message is due; see L{IStore}."""
        if not self._extras:
            return 0
        self.write()
        return self._one("SELECT min(due) FROM extra WHERE due > 0") or 0

    def find(self, queue: QueueRecord, key: str, now: int) -> int:
        """The message with that key; see L{IStore}."""
        if not self._keys.ever:
            return 0
        added = self._keys.latest.get((queue.number, key))
        if added is not None:
            number = added.number
            if number in self._added and abs(added.position) > queue.flushed and not 0 < added.expires <= now:
                return number
        # Of one that does not wait, only its row tells whether it is remembered: the window may have been another one when it came.
        if added is not None or self._removed or self._put:
            self.write()
        since = queue.remembers_from(now)
        row = self._database.execute(_FIND, (queue.number, key, since, queue.forgotten, queue.number, key, queue.flushed, now)).fetchone()
        return row[0] if row else 0

    def keys(self) -> dict[int, tuple[int, int]]:
        """How many keys each queue remembers; see L{IStore}."""
        if not self._keys.ever:
            return {}
        self.write()
        rows = self._database.execute("SELECT queue, count(*), sum(length(CAST(key AS BLOB))) FROM key GROUP BY queue")
        return {number: (count, size) for number, count, size in rows}

    def forget_keys(self, queue: QueueRecord, now: int, count: int) -> tuple[int, int, int]:
        """Forget the keys whose window is over; see L{IStore}."""
        self.write()
        rows = self._database.execute(
            "SELECT number, accepted, length(CAST(key AS BLOB)) FROM key WHERE queue = ? ORDER BY number LIMIT ?", (queue.number, count + 1)
        )
        since, size, next_one = queue.remembers_from(now), 0, 0
        numbers: list[int] = []
        for number, accepted, length in rows:
            if len(numbers) == count or (accepted > since and number > queue.forgotten):
                next_one = accepted
                break
            numbers.append(number)
            size += length
        rows.close()
        if numbers:
            self._database.execute("DELETE FROM key WHERE queue = ? AND number <= ?", (queue.number, numbers[-1]))
            self._keys.gone.update(number for number in numbers if number <= self._extracted)
        return len(numbers), size, next_one

    def expired(self, now: int, count: int) -> list[tuple[int, int, int, int]]:
        """Messages that expired; see L{IStore}."""
        self.write()
        size, tables = (_SIZE, _WITH_EXTRA[1]) if self._extras else ("length(body)", "message")
        rows = self._database.execute(
            f"SELECT expires, message.number, message.queue, position, {size} FROM {tables}"
            " WHERE expires <= ? AND (expires, message.number) > (?, ?) ORDER BY expires, message.number LIMIT ?",
            (now, *self._expiry, count),
        ).fetchall()
        if rows:
            self._expiry = rows[-1][:2]
        return [row[1:] for row in rows]

    def purge(self, queue: QueueRecord, count: int) -> bool:
        """Forget flushed messages; see L{IStore}."""
        self.write()
        rows = self._database.execute(
            "SELECT number, length(body) FROM message WHERE queue = ? AND position BETWEEN ? AND ? LIMIT ?",
            (queue.number, -queue.flushed, queue.flushed, count),
        ).fetchall()
        size, numbers = 0, []
        for number, length in rows:
            if size >= _PURGED_BYTES:
                break
            size += length
            numbers.append((number,))
        with self._transaction():
            for table in ("message", "extra") if self._extras else ("message",):
                self._database.executemany(f"DELETE FROM {table} WHERE number = ?", numbers)
        self._note_gone(number for (number,) in numbers if number <= self._extracted)
        return len(numbers) == len(rows) < count

    def peek(self, queue: QueueRecord, after: int, count: int, preview: int, delayed: bool = False, size: int = 2**62) -> list[Message]:
        """Messages with the beginning of their bodies; see L{IStore}."""
        self.write()
        columns, tables = _WITH_EXTRA
        columns = f"length(body), {columns.replace('body', _NO_BODY)}"
        order = "position < ? ORDER BY position DESC" if delayed else "position > ? ORDER BY position"
        rows = self._database.execute(
            f"SELECT {columns} FROM {tables} WHERE message.queue = ? AND {order} LIMIT ?",
            (queue.number, -after if delayed else after, count),
        )
        found = []
        for length, *row in rows:
            message = _message(queue, tuple(row))
            message.size += length
            message.body = self._beginning("message", message.number, preview)
            found.append(message)
            size -= len(message.body)
            if size <= 0:
                break
        rows.close()
        return found

    def _beginning(self, table: str, number: int, preview: int) -> bytes:
        """The first bytes of a body. SQL's C{substr} would copy all of it first."""
        if not preview:
            return b""
        with self._database.blobopen(table, "body", number, readonly=True) as body:
            return body.read(preview)

    def get(self, queue: QueueRecord, number: int) -> Message | None:
        """One message; see L{IStore}."""
        self.write()
        columns, tables = _WITH_EXTRA
        row = self._database.execute(
            f"SELECT {columns} FROM {tables} WHERE message.number = ? AND message.queue = ?", (number, queue.number)
        )
        found = row.fetchone()
        return None if found is None else _message(queue, found)

    # Dead letters

    def dead(
        self,
        queue: str | None = None,
        after: int = 0,
        count: int = -1,
        reason: str | None = None,
        preview: int | None = None,
    ) -> Iterable[DeadMessage]:
        """The dead messages; see L{IStore}."""
        conditions, values = ["dead.number > ?"], [after]
        for column, value in ("queue", queue), ("reason", reason):
            if value is not None:
                conditions.append(f"dead.{column} = ?")
                values.append(value)  # type: ignore[arg-type]
        where = " AND ".join(conditions)
        rows = self._database.execute(
            f"SELECT {_DEAD_COLUMNS}, {'body' if preview is None else _NO_BODY}, coalesce(headers, x''), {_SIZE}, length(body)"
            f" FROM dead LEFT JOIN extra USING (number) WHERE {where} ORDER BY dead.number LIMIT ?",
            (*values, count),
        )
        for row in rows:
            dead = DeadMessage(*row)
            if preview is not None:
                dead.body = self._beginning("dead", dead.number, preview)
            yield dead

    def get_dead(self, number: int, preview: int | None = None) -> DeadMessage | None:
        """One dead message; see L{IStore}."""
        return next(iter(self.dead(after=number - 1, count=1, preview=preview)), None) if self._is_dead(number) else None

    def _is_dead(self, number: int) -> bool:
        return self._database.execute("SELECT 1 FROM dead WHERE number = ?", (number,)).fetchone() is not None

    def dead_totals(self) -> dict[str, tuple[int, int]]:
        """How many dead messages each queue has, and their bytes; see L{IStore}."""
        totals = f"SELECT dead.queue, count(*), sum({_SIZE}) FROM dead LEFT JOIN extra USING (number) GROUP BY dead.queue"
        return {name: (count, size) for name, count, size in self._database.execute(totals)}

    def revive(self, dead: DeadMessage, queue: QueueRecord, position: int) -> Message:
        """Make a dead message wait again; see L{IStore}."""
        headers = self._database.execute("SELECT headers FROM extra WHERE number = ?", (dead.number,)).fetchone()
        extra = None if headers is None else Extra(0, "", headers[0] or b"")
        message = Message(dead.number, queue, position, dead.accepted, 0, 0, dead.body, extra)
        with self._transaction():
            # In this order: pages that are given up are not taken again at once, which would have to be undoable.
            self._database.execute(f"INSERT {_MESSAGE}", _row(message))
            self._database.execute("DELETE FROM dead WHERE number = ?", (dead.number,))
            self._database.execute("UPDATE extra SET queue = ? WHERE number = ?", (queue.number, dead.number))
        self._note_changed(message)
        return message

    def forget_dead(self, numbers: Iterable[int]) -> None:
        """Forget dead messages; see L{IStore}."""
        numbers = list(numbers)
        with self._transaction():
            for table in "dead", "extra":
                self._database.executemany(f"DELETE FROM {table} WHERE number = ?", zip(numbers))
        self._note_gone(number for number in numbers if number <= self._extracted)

    # Producers

    def producers(self) -> list[tuple[bytes, int, int]]:
        """Every producer; see L{IStore}."""
        return self._database.execute("SELECT name, number, used FROM producer").fetchall()

    def save_producer(self, name: bytes, number: int, now: int) -> None:
        """Keep a producer's highest number; see L{IStore}."""
        self._new_producers[name] = number, now
        self._gone_producers.discard(name)

    def drop_producer(self, name: bytes) -> None:
        """Forget a producer; see L{IStore}."""
        self.write()
        for *_, producers in self._batches:
            producers.pop(name, None)
        self._gone_producers.add(name)

    def wants_sync(self) -> None:
        """Somebody waits for the mirror; see L{IStore}."""
        self._wanted = self.latest

    # Queues

    def create_queue(self, name: str) -> QueueRecord:
        """A new queue; see L{IStore}."""
        # One that the file may still have, perhaps with messages, is the same again: a name is never there twice.
        queue = self._gone_queues.pop(name, None) or self._leaving.get(name)
        if queue is None:
            queue = QueueRecord(self._next_queue, name)
            self._next_queue += 1
        self.save_queue(queue)
        return queue

    def save_queue(self, queue: QueueRecord) -> None:
        """Keep a queue's facts; see L{IStore}."""
        self._database.execute(
            "INSERT OR REPLACE INTO queue VALUES (?, ?, ?, ?, ?, ?, ?)",
            (queue.number, queue.name, queue.revision, queue.flushed, queue.paused, _settings_text(queue.settings), queue.forgotten),
        )
        self._dirty_queues.add(queue.number)

    def drop_queue(self, queue: QueueRecord) -> None:
        """Forget a queue; see L{IStore}."""
        self._database.execute("DELETE FROM queue WHERE number = ?", (queue.number,))
        self._dirty_queues.discard(queue.number)
        if queue.number <= self._extracted_queue:
            self._gone_queues[queue.name] = QueueRecord(queue.number, queue.name, flushed=queue.flushed, forgotten=queue.forgotten)

    def queues(self) -> list[tuple[QueueRecord, int, int, int]]:
        """Every queue with its counts; see L{IStore}."""
        self.write()
        size, extra = (_SIZE, " LEFT JOIN extra ON extra.number = message.number") if self._extras else ("length(body)", "")
        return [
            (QueueRecord(number, name, revision, flushed, paused, _settings(settings), forgotten), count, size, delayed)
            for number, name, revision, flushed, paused, settings, forgotten, count, size, delayed in self._database.execute(
                f"SELECT queue.*, count(message.number), coalesce(sum({size}), 0), coalesce(sum(position < 0), 0) FROM queue"
                f" LEFT JOIN message ON message.queue = queue.number AND abs(position) > flushed{extra} GROUP BY queue.number"
            )
        ]

    # The mirror

    @property
    def pending(self) -> int:
        """About how many changes the mirror has not seen."""
        gathered = len(self._added) + len(self._keys.new) + len(self._removed) + len(self._put) + len(self._retried)
        batches = sum(batch[1] for batch in self._batches)
        queues = len(self._dirty_queues) + len(self._gone_queues)
        producers = len(self._new_producers) + len(self._gone_producers)
        return gathered + batches + len(self._gone) + len(self._changed) + len(self._keys.gone) + queues + producers

    def note_meta(self) -> None:
        """The next L{extract} has something even if no message changed: its C{meta} does."""
        self._meta_dirty = True

    def extract(self, count: int, size: int, meta: dict[str, object]) -> Delta | None:
        """
        The next changes for the mirror, None when there are none.

        Afterwards either L{confirm} or L{restore} is due before the next call.

        @param count: about how many messages at most
        @param size: about how many bytes of bodies at most
        @param meta: more values for the table C{meta}
        """
        self.write()
        upto, producers = self._upto(count, size)
        gone, whole = _take(self._gone, count)
        gone_keys, no_keys = _take(self._keys.gone, count)
        changed = self._take_changed(count, size)
        queues, self._dirty_queues = self._dirty_queues, set()
        # Only with the last of the gone and the dead: a queue's row must not leave the file before its messages and keys.
        gone_queues: dict[str, QueueRecord] = {}
        if whole and no_keys and not self._changed:
            gone_queues, self._gone_queues = self._gone_queues, {}
        self._leaving = gone_queues
        gone_producers, self._gone_producers = self._gone_producers, set()
        others = queues or gone_queues or producers or gone_producers or gone_keys or self._meta_dirty
        if upto == self.mirrored and not (gone or changed or others):
            return None
        self._extracted = max(self._extracted, upto)
        self._extracted_queue = self._next_queue - 1
        changes = len(gone) + len(changed) + len(gone_keys)
        delta = Delta(b"", upto, changes, gone, changed, queues, gone_queues, gone_producers, gone_keys, self._extras)
        if self._changed:
            delta.keeps_flushed = True
            self._dirty_queues = queues.copy()
        left = self._gone or self._changed or self._retried or self._keys.gone
        delta.more = bool(left) or (bool(self._batches) and self._batches[-1][0] > upto)
        try:
            self._draw(delta, producers, {**self._meta, "next_queue": self._next_queue, **meta})
        except BaseException:
            self.restore(delta)
            raise
        self._meta_dirty = False
        return delta

    def _take_changed(self, count: int, size: int) -> dict[int, int]:
        """Move changed messages out of the set, until there are so many or so many bytes of them."""
        taken: dict[int, int] = {}
        for number, length in self._changed.items():
            if len(taken) >= count or size <= 0:
                break
            taken[number] = length
            size -= length
        for number in taken:
            del self._changed[number]
        return taken

    def _draw(self, delta: Delta, producers: dict[bytes, tuple[int, int]], meta: dict[str, object]) -> None:
        """Make the delta's image."""
        run = self._database.execute
        keys = {
            "changed": delta.changed,
            "dirty": delta.queues,
            "gone": delta.gone,
            "gone_key": delta.gone_keys,
            "gone_queue": {queue.number for queue in delta.gone_queues.values()},
        }
        run("ATTACH ':memory:' AS delta")
        try:
            run("BEGIN")
            for table, numbers in keys.items():
                run(f"CREATE TABLE delta.{table} (number INTEGER PRIMARY KEY)")
                self._database.executemany(f"INSERT INTO delta.{table} VALUES (?)", zip(numbers))
            for table in ("message", "dead", "extra") if delta.extras else ("message", "dead"):
                run(
                    f"CREATE TABLE delta.{table} AS SELECT * FROM main.{table} WHERE number > ? AND number <= ?"
                    f" UNION ALL SELECT * FROM main.{table} WHERE number IN delta.changed",
                    (self.mirrored, delta.upto),
                )
                delta.changes += self._one(f"SELECT max(rowid) FROM delta.{table}") or 0
            run("CREATE TABLE delta.key AS SELECT * FROM main.key WHERE number > ? AND number <= ?", (self.mirrored, delta.upto))
            delta.changes += self._one("SELECT max(rowid) FROM delta.key") or 0
            run("CREATE TABLE delta.queue AS SELECT * FROM main.queue WHERE number IN delta.dirty")
            run("CREATE TABLE delta.gone_producer (name)")
            self._database.executemany("INSERT INTO delta.gone_producer VALUES (?)", zip(delta.gone_producers))
            run("CREATE TABLE delta.producer (name, number, used)")
            rows = ((name, number, used) for name, (number, used) in producers.items())
            self._database.executemany("INSERT INTO delta.producer VALUES (?, ?, ?)", rows)
            run("CREATE TABLE delta.meta (key, value)")
            self._database.executemany("INSERT INTO delta.meta VALUES (?, ?)", meta.items())
            run("COMMIT")
            delta.image = self._database.serialize(name="delta")
        finally:
            if self._database.in_transaction:
                run("ROLLBACK")
            run("DETACH delta")

    def _upto(self, count: int, size: int) -> tuple[int, dict[bytes, tuple[int, int]]]:
        """
        The highest number that a delta of so many messages and bytes may reach, and the producers' numbers up to there.

        It is no lower than that of a delta before, which may have got to the disk although it failed: the file must not have a message
        without what was accepted before it, nor with an older number of its producer.
        """
        upto = self.mirrored
        producers: dict[bytes, tuple[int, int]] = {}
        for highest, messages, total, numbers in self._batches:
            if upto >= self._extracted and (count <= 0 or size <= 0):
                break
            upto = highest
            producers |= numbers
            count -= messages
            size -= total
        return upto, producers

    def confirm(self, delta: Delta) -> None:
        """The delta is in the file."""
        self._leaving = {}
        self.mirrored = max(self.mirrored, delta.upto)
        while self._batches and self._batches[0][0] <= self.mirrored:
            self._batches.popleft()

    def restore(self, delta: Delta) -> None:
        """The delta did not get to the file: what it held is part of the next one."""
        self._gone |= delta.gone.difference(self._changed)
        self._changed |= {number: length for number, length in delta.changed.items() if number not in self._gone}
        for name, queue in delta.gone_queues.items():
            if queue.number not in self._dirty_queues:
                self._gone_queues.setdefault(name, queue)
        self._dirty_queues |= delta.queues - {queue.number for queue in self._gone_queues.values()}
        self._keys.gone |= delta.gone_keys
        self._gone_producers |= delta.gone_producers.difference(self._new_producers, *(batch[3] for batch in self._batches))
        self._leaving = {}
        self._meta_dirty = True

    def close(self) -> None:
        """Give the memory back."""
        self._database.close()


def _up_to(queue: QueueRecord, rows: sqlite3.Cursor, size: int) -> list[Message]:
    """Messages of a queue, no more once they reach so many bytes."""
    messages: list[Message] = []
    total = 0
    for row in rows:
        message = _message(queue, row)
        messages.append(message)
        total += message.size
        if total >= size:
            break
    rows.close()
    return messages


def _retry(message: Message) -> tuple[object, ...]:
    number, attempts = message.number, message.attempts
    crc = checksum(
        number,
        message.queue.number,
        message.position,
        message.accepted,
        message.expires or None,
        attempts,
        message.body,
    )
    return attempts, crc, number


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """First and last of each run without a gap: what was accepted together often goes together, and a run is one statement."""
    numbers.sort()
    gaps = [place for place, (one, other) in enumerate(pairwise(numbers), 1) if other - one > 1]
    return [(numbers[start], numbers[stop - 1]) for start, stop in zip([0, *gaps], [*gaps, len(numbers)], strict=True) if stop > start]


def _take(numbers: set[int], count: int) -> tuple[set[int], bool]:
    """Move up to C{count} numbers out of a set; also whether those were all."""
    if len(numbers) <= count:
        taken = numbers.copy()
        numbers.clear()
        return taken, True
    taken = set(islice(numbers, count))
    numbers -= taken
    return taken, False
