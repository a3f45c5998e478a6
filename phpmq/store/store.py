"""Messages, queues, keys, producers and dead letters in SQLite, as the broker asks for them."""

from __future__ import annotations

import os
import sqlite3
from binascii import hexlify
from collections.abc import Iterable, Mapping

from zope.interface import implementer

from phpmq.interfaces import IStore
from phpmq.message import DeadMessage, Message, Properties, QueueRecord
from phpmq.store.changelog import ChangeLog
from phpmq.store.rows import MESSAGE, NO_BODY, PLAIN, SIZE, WITH_EXTRA, message_of, row_of, scalar, settings_of, settings_text, up_to
from phpmq.store.schema import schema, upgrade
from phpmq.store.write_buffer import WriteBuffer

# Each start takes its message numbers from a range of its own, so that the number of a message that was lost with a crash, but perhaps seen
# by a consumer, is never given again: 2**40 messages a start, 8 million starts.
_RANGE = 2**40

# So many bytes of bodies go in a step: their pages are looked at one by one.
_PURGED_BYTES = 4 * 1024 * 1024

# By a key: a message that was sent with it not long ago, or else one that is ready.
_FIND = (
    "SELECT number FROM key WHERE queue = ? AND key = ? AND accepted > ? AND number > ?"
    " UNION ALL SELECT number FROM extra JOIN message USING (number) WHERE extra.queue = ? AND key = ?"
    " AND abs(position) > ? AND (expires IS NULL OR expires > ?) LIMIT 1"
)

_DEAD_COLUMNS = "dead.number, dead.queue, reason, text, accepted, died, attempts"


@implementer(IStore)
class SQLiteStore:
    """
    Messages and queues in an in-memory SQLite database, behind a write buffer.

    @ivar id_prefix: bytes that the ids of all messages begin with
    @ivar next_number: the number from which on this start gives numbers
    @ivar revisions: see L{IStore}
    @ivar changelog: what the file lacks, for the mirror
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
        self.id_prefix: bytes = meta.get("id_prefix") or hexlify(os.urandom(8))
        highest = max(scalar(database, f"SELECT max(number) FROM {table}") or 0 for table in ("message", "dead", "key"))
        starts = max(meta.get("starts", 0) + 1, highest // _RANGE + 1)
        self.next_number: int = starts * _RANGE
        self.revisions: dict[str, int] = dict(database.execute("SELECT name, revision FROM queue WHERE revision"))
        next_queue = max(meta.get("next_queue", 1), scalar(database, "SELECT max(number) + 1 FROM queue") or 1)
        lasting = {"starts": starts, "id_prefix": self.id_prefix}
        self.changelog = ChangeLog(database, self.next_number - 1, next_queue, lasting)
        self._buffer = buffer = WriteBuffer(database, self.changelog)
        self.changelog.flush = self.write = buffer.write
        # The methods of IStore that are called for each message are the buffer's own: to pass a call on would cost another one.
        self.add, self.put, self.retried, self.remove = buffer.add, buffer.put, buffer.retried, buffer.remove
        self.save_producer, self.request_sync = buffer.save_producer, buffer.request_sync
        self._expiry = (0, 0)

    @property
    def latest(self) -> int:
        """The number of the message that was added last; see L{IStore}."""
        return self._buffer.latest

    @property
    def mirrored(self) -> int:
        """The highest number that is in the file as well; see L{IStore}."""
        return self.changelog.mirrored

    def close(self) -> None:
        """Close the database, which gives its memory back."""
        self._database.close()

    # Messages

    def read(self, queue: QueueRecord, after: int, count: int, size: int) -> list[Message]:
        """Read messages in order; see L{IStore}."""
        self.write()
        columns, tables = WITH_EXTRA if self.changelog.properties else PLAIN
        rows = self._database.execute(
            f"SELECT {columns} FROM {tables} WHERE message.queue = ? AND position > ? ORDER BY position LIMIT ?",
            (queue.number, after, count),
        )
        return up_to(queue, rows, size)

    def peek(self, queue: QueueRecord, after: int, count: int, preview: int, delayed: bool = False, size: int = 2**62) -> list[Message]:
        """Read messages with the beginning of their bodies; see L{IStore}."""
        self.write()
        columns, tables = WITH_EXTRA
        columns = f"length(body), {columns.replace('body', NO_BODY)}"
        order = "position < ? ORDER BY position DESC" if delayed else "position > ? ORDER BY position"
        rows = self._database.execute(
            f"SELECT {columns} FROM {tables} WHERE message.queue = ? AND {order} LIMIT ?",
            (queue.number, -after if delayed else after, count),
        )
        found = []
        for length, *row in rows:
            message = message_of(queue, tuple(row))
            message.size += length
            message.body = self._beginning("message", message.number, preview)
            found.append(message)
            size -= len(message.body)
            if size <= 0:
                break
        rows.close()
        return found

    def get(self, queue: QueueRecord, number: int) -> Message | None:
        """Look up a message; see L{IStore}."""
        self.write()
        columns, tables = WITH_EXTRA
        where = "message.number = ? AND message.queue = ?"
        row = self._database.execute(f"SELECT {columns} FROM {tables} WHERE {where}", (number, queue.number)).fetchone()
        return None if row is None else message_of(queue, row)

    def due(self, now: int, count: int, queues: Mapping[int, QueueRecord]) -> list[Message]:
        """Find delayed messages that are due; see L{IStore}."""
        self.write()
        columns, _ = WITH_EXTRA
        rows = self._database.execute(
            f"SELECT {columns} FROM extra JOIN message USING (number) WHERE due > 0 AND due <= ? ORDER BY due, number LIMIT ?", (now, count)
        )
        return [message_of(queues[row[1]], row) for row in rows if row[1] in queues]

    def next_due(self) -> int:
        """Tell when the next delayed message is due; see L{IStore}."""
        if not self.changelog.properties:
            return 0
        self.write()
        return scalar(self._database, "SELECT min(due) FROM extra WHERE due > 0") or 0

    def expired(self, now: int, count: int) -> list[tuple[int, int, int, int]]:
        """Find messages that expired; see L{IStore}."""
        self.write()
        size, tables = (SIZE, WITH_EXTRA[1]) if self.changelog.properties else ("length(body)", "message")
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
            (queue.number, -queue.flushed_to, queue.flushed_to, count),
        ).fetchall()
        size, numbers = 0, []
        for number, length in rows:
            if size >= _PURGED_BYTES:
                break
            size += length
            numbers.append((number,))
        with self._database:
            self._database.execute("BEGIN")
            for table in ("message", "extra") if self.changelog.properties else ("message",):
                self._database.executemany(f"DELETE FROM {table} WHERE number = ?", numbers)
        self.changelog.note_gone(number for (number,) in numbers)
        return len(numbers) == len(rows) < count

    # Keys

    def find(self, queue: QueueRecord, key: str, now: int) -> int:
        """Find the message with a key; see L{IStore}."""
        if not self._buffer.keys_used:
            return 0
        number = self._buffer.find(queue, key, now)
        if number:
            return number
        since = queue.remembers_from(now)
        row = self._database.execute(
            _FIND, (queue.number, key, since, queue.keys_forgotten_to, queue.number, key, queue.flushed_to, now)
        ).fetchone()
        return row[0] if row else 0

    def keys(self) -> dict[int, tuple[int, int]]:
        """Count the keys that each queue remembers; see L{IStore}."""
        if not self._buffer.keys_used:
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
            if len(numbers) == count or (accepted > since and number > queue.keys_forgotten_to):
                next_one = accepted
                break
            numbers.append(number)
            size += length
        rows.close()
        if numbers:
            self._database.execute("DELETE FROM key WHERE queue = ? AND number <= ?", (queue.number, numbers[-1]))
            self.changelog.note_gone_keys(numbers)
        return len(numbers), size, next_one

    # Producers

    def producers(self) -> list[tuple[bytes, int, int]]:
        """List the producers; see L{IStore}."""
        return self._database.execute("SELECT name, number, used FROM producer").fetchall()

    def drop_producer(self, name: bytes) -> None:
        """Forget a producer; see L{IStore}."""
        self.write()
        self.changelog.note_gone_producer(name)

    # Queues

    def create_queue(self, name: str) -> QueueRecord:
        """Create a queue; see L{IStore}."""
        # One that the file may still have, perhaps with messages, is the same again: a name is never there twice.
        queue = self.changelog.take_back_queue(name)
        if queue is None:
            queue = QueueRecord(self.changelog.next_queue, name)
        self.save_queue(queue)
        return queue

    def save_queue(self, queue: QueueRecord) -> None:
        """Keep a queue's facts; see L{IStore}."""
        self._database.execute(
            "INSERT OR REPLACE INTO queue VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                queue.number,
                queue.name,
                self.revisions.get(queue.name, 0),
                queue.flushed_to,
                queue.paused,
                settings_text(queue.settings),
                queue.keys_forgotten_to,
            ),
        )
        self.changelog.note_queue(queue.number)

    def save_revision(self, name: str, revision: int) -> None:
        """Keep which revision of protocol 01 a queue's latest sender speaks; see L{IStore}."""
        row = self._database.execute("UPDATE queue SET revision = ? WHERE name = ? RETURNING number", (revision, name)).fetchone()
        if row is not None:
            self.revisions[name] = revision
            self.changelog.note_queue(row[0])

    def drop_queue(self, queue: QueueRecord) -> None:
        """Forget a queue; see L{IStore}."""
        self.revisions.pop(queue.name, None)
        self._database.execute("DELETE FROM queue WHERE number = ?", (queue.number,))
        self.changelog.note_gone_queue(queue)

    def queues(self) -> list[tuple[QueueRecord, int, int, int]]:
        """List the queues with their counts; see L{IStore}."""
        self.write()
        size, extra = (SIZE, " LEFT JOIN extra ON extra.number = message.number") if self.changelog.properties else ("length(body)", "")
        return [
            (QueueRecord(number, name, flushed, paused, settings_of(settings), forgotten), count, size, delayed)
            for number, name, _, flushed, paused, settings, forgotten, count, size, delayed in self._database.execute(
                f"SELECT queue.*, count(message.number), coalesce(sum({size}), 0), coalesce(sum(position < 0), 0) FROM queue"
                f" LEFT JOIN message ON message.queue = queue.number AND abs(position) > flushed{extra} GROUP BY queue.number"
            )
        ]

    # Dead letters

    def dead_letter(self, message: Message, reason: str, text: str, now: int) -> None:
        """Turn a message into a dead one; see L{IStore}."""
        number = message.number
        self._buffer.hand_over(number)
        with self._database:
            self._database.execute("BEGIN")
            self._database.execute("DELETE FROM message WHERE number = ?", (number,))
            if message.properties is not None:
                # Its row may be gone: if the message was flushed while it was in flight.
                row = number, message.queue.number, message.properties.headers or None
                self._database.execute("INSERT OR REPLACE INTO extra VALUES (?, ?, 0, NULL, ?)", row)
            self._database.execute(
                "INSERT OR REPLACE INTO dead VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (number, message.queue.name, reason, text, message.accepted, now, message.attempts, message.body),
            )
        self.changelog.note_changed(message)

    def dead(
        self, queue: str | None = None, after: int = 0, count: int = -1, reason: str | None = None, preview: int | None = None
    ) -> Iterable[DeadMessage]:
        """Read dead messages; see L{IStore}."""
        conditions, values = ["dead.number > ?"], [after]
        for column, value in ("queue", queue), ("reason", reason):
            if value is not None:
                conditions.append(f"dead.{column} = ?")
                values.append(value)  # type: ignore[arg-type]
        where = " AND ".join(conditions)
        rows = self._database.execute(
            f"SELECT {_DEAD_COLUMNS}, {'body' if preview is None else NO_BODY}, coalesce(headers, x''), {SIZE}, length(body)"
            f" FROM dead LEFT JOIN extra USING (number) WHERE {where} ORDER BY dead.number LIMIT ?",
            (*values, count),
        )
        for row in rows:
            dead = DeadMessage(*row)
            if preview is not None:
                dead.body = self._beginning("dead", dead.number, preview)
            yield dead

    def get_dead(self, number: int, preview: int | None = None) -> DeadMessage | None:
        """Look up a dead message; see L{IStore}."""
        known = self._database.execute("SELECT 1 FROM dead WHERE number = ?", (number,)).fetchone()
        return None if known is None else next(iter(self.dead(after=number - 1, count=1, preview=preview)))

    def dead_totals(self) -> dict[str, tuple[int, int]]:
        """Count the dead messages of each queue; see L{IStore}."""
        totals = f"SELECT dead.queue, count(*), sum({SIZE}) FROM dead LEFT JOIN extra USING (number) GROUP BY dead.queue"
        return {name: (count, size) for name, count, size in self._database.execute(totals)}

    def replay(self, dead: DeadMessage, queue: QueueRecord, position: int) -> Message:
        """Make a dead message ready again; see L{IStore}."""
        headers = self._database.execute("SELECT headers FROM extra WHERE number = ?", (dead.number,)).fetchone()
        extra = None if headers is None else Properties(0, "", headers[0] or b"")
        message = Message(dead.number, queue, position, dead.accepted, 0, 0, dead.body, extra)
        with self._database:
            self._database.execute("BEGIN")
            # In this order: pages that are given up are not taken again at once, which would have to be undoable.
            self._database.execute(f"INSERT {MESSAGE}", row_of(message))
            self._database.execute("DELETE FROM dead WHERE number = ?", (dead.number,))
            self._database.execute("UPDATE extra SET queue = ? WHERE number = ?", (queue.number, dead.number))
        self.changelog.note_changed(message)
        return message

    def delete_dead(self, numbers: Iterable[int]) -> None:
        """Forget dead messages; see L{IStore}."""
        numbers = list(numbers)
        with self._database:
            self._database.execute("BEGIN")
            for table in "dead", "extra":
                self._database.executemany(f"DELETE FROM {table} WHERE number = ?", zip(numbers))
        self.changelog.note_gone(numbers)

    def _beginning(self, table: str, number: int, preview: int) -> bytes:
        """Read the first bytes of a body. SQL's C{substr} would copy all of it first."""
        if not preview:
            return b""
        with self._database.blobopen(table, "body", number, readonly=True) as body:
            return body.read(preview)
