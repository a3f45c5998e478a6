"""Changes gathered before they are written, and what the mirror has to know of them."""

from __future__ import annotations

import os
import sqlite3
from binascii import hexlify
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise

from phpmq.message import Message, QueueRecord
from phpmq.store.keys import Keys
from phpmq.store.rows import MESSAGE, extra_row, retried_row, row_of
from phpmq.store.schema import schema, upgrade

# Each start takes its message numbers from a range of its own, so that the number of a message that was lost with a crash, but perhaps seen
# by a consumer, is never given again: 2**40 messages a start, 8 million starts.
_RANGE = 2**40

# So many new or gone messages are gathered before they are written to the database; one that is settled before never gets there.
_GATHERED = 2048

_GATHERED_BYTES = 1024 * 1024

# While the file cannot be written, so many batches are remembered before they are put together.
_BATCHES = 4096

#: Messages written to the database together: highest number accepted until then, how many they were, their bytes, and the highest
#: numbers of the producers whose messages are among them.
Batch = tuple[int, int, int, dict[bytes, tuple[int, int]]]


class Gathered:
    """
    A database, and what was added, changed and removed but is not in it yet.

    @ivar id_prefix: bytes that the ids of all messages begin with
    @ivar next_number: the number from which on this start gives numbers
    @ivar mirrored: all that was accepted up to this number is in the file as well
    @ivar revisions: see L{IStore}
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
        self.revisions: dict[str, int] = dict(database.execute("SELECT name, revision FROM queue WHERE revision"))
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
        self._batches: deque[Batch] = deque()
        self.latest = self._marked = self._wanted = self.mirrored  # number added, in a batch, waited for
        self._extras = bool(self._one("SELECT count(*) FROM extra"))  # whether there ever was one
        self._keys = Keys(self._extras or bool(self._one("SELECT count(*) FROM key")))
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

    def add(self, message: Message) -> None:
        """Keep a new message; see L{IStore}."""
        self._added[message.number] = message
        self.latest = message.number
        self._gathered_size += message.size
        if message.properties is not None:
            self._extras = True
            if message.properties.key:
                self._keys.note(message, message.properties.key)
        if len(self._added) >= _GATHERED or self._gathered_size >= _GATHERED_BYTES:
            self.write()

    def put(self, message: Message) -> None:
        """Keep a message as it is now; see L{IStore}."""
        number = message.number
        if message.properties is not None:
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

    def request_sync(self) -> None:
        """Somebody waits for the mirror; see L{IStore}."""
        self._wanted = self.latest

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
            run(f"INSERT {MESSAGE}", map(row_of, added.values()))
            run(f"INSERT OR REPLACE {MESSAGE}", map(row_of, put.values()))
            run("UPDATE message SET attempts = ?, crc = ? WHERE number = ?", map(retried_row, retried))
            if self._extras:
                run("DELETE FROM extra WHERE number BETWEEN ? AND ?", _runs(removed))
                run("DELETE FROM extra WHERE number = ?", [(number,) for number in put])
                extras = [message for message in (*added.values(), *put.values()) if message.properties is not None]
                run("INSERT INTO extra VALUES (?, ?, ?, ?, ?)", map(extra_row, extras))
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

    def close(self) -> None:
        """Give the memory back."""
        self._database.close()


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """First and last of each run without a gap: what was accepted together often goes together, and a run is one statement."""
    numbers.sort()
    gaps = [place for place, (one, other) in enumerate(pairwise(numbers), 1) if other - one > 1]
    return [(numbers[start], numbers[stop - 1]) for start, stop in zip([0, *gaps], [*gaps, len(numbers)], strict=True) if stop > start]
