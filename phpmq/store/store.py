"""Messages and queues, as the broker asks for them."""

from __future__ import annotations

from collections.abc import Mapping

from zope.interface import implementer

from phpmq.interfaces import IStore
from phpmq.message import Message, QueueRecord
from phpmq.store.changes import Changes
from phpmq.store.letters import Letters
from phpmq.store.rows import NO_BODY, PLAIN, SIZE, WITH_EXTRA, message_of, settings_of, settings_text, up_to

# So many bytes of bodies go in a step: their pages are looked at one by one.
_PURGED_BYTES = 4 * 1024 * 1024

# By a key: a message that was sent with it not long ago, or else one that waits.
_FIND = (
    "SELECT number FROM key WHERE queue = ? AND key = ? AND accepted > ? AND number > ?"
    " UNION ALL SELECT number FROM extra JOIN message USING (number) WHERE extra.queue = ? AND key = ?"
    " AND abs(position) > ? AND (expires IS NULL OR expires > ?) LIMIT 1"
)


@implementer(IStore)
class SQLiteStore(Letters, Changes):
    """
    Messages and queues in an in-memory SQLite database.

    Changes are gathered and written in batches. What the mirror has to copy is known by message numbers alone: those above
    C{mirrored} are new, others are noted when they change or go.
    """

    # Messages

    def read(self, queue: QueueRecord, after: int, count: int, size: int) -> list[Message]:
        """Messages in order; see L{IStore}."""
        self.write()
        columns, tables = WITH_EXTRA if self._extras else PLAIN
        rows = self._database.execute(
            f"SELECT {columns} FROM {tables} WHERE message.queue = ? AND position > ? ORDER BY position LIMIT ?",
            (queue.number, after, count),
        )
        return up_to(queue, rows, size)

    def peek(self, queue: QueueRecord, after: int, count: int, preview: int, delayed: bool = False, size: int = 2**62) -> list[Message]:
        """Messages with the beginning of their bodies; see L{IStore}."""
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
        """One message; see L{IStore}."""
        self.write()
        columns, tables = WITH_EXTRA
        row = self._database.execute(
            f"SELECT {columns} FROM {tables} WHERE message.number = ? AND message.queue = ?", (number, queue.number)
        )
        found = row.fetchone()
        return None if found is None else message_of(queue, found)

    def due(self, now: int, count: int, queues: Mapping[int, QueueRecord]) -> list[Message]:
        """Delayed messages that are due; see L{IStore}."""
        self.write()
        columns, _ = WITH_EXTRA
        rows = self._database.execute(
            f"SELECT {columns} FROM extra JOIN message USING (number) WHERE due > 0 AND due <= ? ORDER BY due, number LIMIT ?", (now, count)
        )
        return [message_of(queues[row[1]], row) for row in rows if row[1] in queues]

    def next_due(self) -> int:
        """When the next delayed message is due; see L{IStore}."""
        if not self._extras:
            return 0
        self.write()
        return self._one("SELECT min(due) FROM extra WHERE due > 0") or 0

    def expired(self, now: int, count: int) -> list[tuple[int, int, int, int]]:
        """Messages that expired; see L{IStore}."""
        self.write()
        size, tables = (SIZE, WITH_EXTRA[1]) if self._extras else ("length(body)", "message")
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
        with self._transaction():
            for table in ("message", "extra") if self._extras else ("message",):
                self._database.executemany(f"DELETE FROM {table} WHERE number = ?", numbers)
        self._note_gone(number for (number,) in numbers if number <= self._extracted)
        return len(numbers) == len(rows) < count

    # Keys

    def find(self, queue: QueueRecord, key: str, now: int) -> int:
        """The message with that key; see L{IStore}."""
        if not self._keys.ever:
            return 0
        added = self._keys.latest.get((queue.number, key))
        if added is not None:
            number = added.number
            if number in self._added and abs(added.position) > queue.flushed_to and not 0 < added.expires <= now:
                return number
        # Of one that does not wait, only its row tells whether it is remembered: the window may have been another one when it came.
        if added is not None or self._removed or self._put:
            self.write()
        since = queue.remembers_from(now)
        row = self._database.execute(
            _FIND, (queue.number, key, since, queue.keys_forgotten_to, queue.number, key, queue.flushed_to, now)
        ).fetchone()
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
            if len(numbers) == count or (accepted > since and number > queue.keys_forgotten_to):
                next_one = accepted
                break
            numbers.append(number)
            size += length
        rows.close()
        if numbers:
            self._database.execute("DELETE FROM key WHERE queue = ? AND number <= ?", (queue.number, numbers[-1]))
            self._keys.gone.update(number for number in numbers if number <= self._extracted)
        return len(numbers), size, next_one

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
        self._dirty_queues.add(queue.number)

    def save_revision(self, name: str, revision: int) -> None:
        """Keep which revision of protocol 01 a queue's latest sender speaks; see L{IStore}."""
        row = self._database.execute("UPDATE queue SET revision = ? WHERE name = ? RETURNING number", (revision, name)).fetchone()
        if row is not None:
            self.revisions[name] = revision
            self._dirty_queues.add(row[0])

    def drop_queue(self, queue: QueueRecord) -> None:
        """Forget a queue; see L{IStore}."""
        self.revisions.pop(queue.name, None)
        self._database.execute("DELETE FROM queue WHERE number = ?", (queue.number,))
        self._dirty_queues.discard(queue.number)
        if queue.number <= self._extracted_queue:
            self._gone_queues[queue.name] = QueueRecord(
                queue.number, queue.name, flushed_to=queue.flushed_to, keys_forgotten_to=queue.keys_forgotten_to
            )

    def queues(self) -> list[tuple[QueueRecord, int, int, int]]:
        """Every queue with its counts; see L{IStore}."""
        self.write()
        size, extra = (SIZE, " LEFT JOIN extra ON extra.number = message.number") if self._extras else ("length(body)", "")
        return [
            (QueueRecord(number, name, flushed, paused, settings_of(settings), forgotten), count, size, delayed)
            for number, name, _, flushed, paused, settings, forgotten, count, size, delayed in self._database.execute(
                f"SELECT queue.*, count(message.number), coalesce(sum({size}), 0), coalesce(sum(position < 0), 0) FROM queue"
                f" LEFT JOIN message ON message.queue = queue.number AND abs(position) > flushed{extra} GROUP BY queue.number"
            )
        ]
