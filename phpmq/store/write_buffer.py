"""The write buffer between the broker and the store's database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from itertools import pairwise
from operator import attrgetter

from phpmq.message import Message, QueueRecord
from phpmq.store.changelog import Batch, ChangeLog, Producers, take_sized
from phpmq.store.rows import MESSAGE, extra_row, retried_row, row_of, scalar

# So many changes of a kind, or bytes of bodies, are collected before they are written to the database; a message that is settled before
# never gets there.
_CHANGES = 2048

_BYTES = 1024 * 1024

_Messages = dict[int, Message]
_Key = tuple[int, int, int, str]  # number of the message, number of the queue, when it was accepted, key


class WriteBuffer:
    """
    What was added, changed and removed, but is not in the database yet. It is written in one transaction, and noted in the log.

    @ivar latest: the highest number that was added
    @ivar keys_used: whether any message had a key
    """

    def __init__(self, database: sqlite3.Connection, log: ChangeLog) -> None:
        self._database = database
        self._log = log
        self._added: _Messages = {}
        self._put: _Messages = {}
        self._size = 0  # of all that were added or put since the last write, also of those that are gone
        self._retried: _Messages = {}
        self._removed: list[int] = []
        self.latest = self._written = self._wanted = log.mirrored  # number added, in a batch, waited for
        self.keys_used = log.properties or bool(scalar(database, "SELECT EXISTS (SELECT 1 FROM key)"))
        self._keyed: dict[tuple[int, str], Message] = {}  # the latest with each queue and key, also if it is gone
        self._keys: list[_Key] = []  # those of them that are to be remembered
        self._producers: Producers = {}

    def add(self, message: Message) -> None:
        """Keep a new message; see L{IStore}."""
        self._added[message.number] = message
        self.latest = message.number
        self._size += message.size
        if message.properties is not None:
            self._log.properties = True
            if message.properties.key:
                self._add_key(message, message.properties.key)
        if len(self._added) >= _CHANGES or self._size >= _BYTES:
            self.write()

    def _add_key(self, message: Message, key: str) -> None:
        self.keys_used = True
        queue = message.queue
        self._keyed[queue.number, key] = message
        if queue.settings.dedup:
            self._keys.append((message.number, queue.number, message.accepted, key))

    def put(self, message: Message) -> None:
        """Keep a message as it is now; see L{IStore}."""
        number = message.number
        if message.properties is not None:
            self._log.properties = True
            if number in self._added:
                self.write()  # its key is known by the queue that it was in
        if number not in self._added:
            self._retried.pop(number, None)
            self._put[number] = message
            self._size += message.size
            if len(self._put) >= _CHANGES or self._size >= _BYTES:
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
            if len(self._removed) >= _CHANGES:
                self.write()

    def hand_over(self, number: int) -> None:
        """Write what was added or put, and keep no attempts of a message whose row the caller changes."""
        if self._added or self._put:
            self.write()
        self._retried.pop(number, None)

    def find(self, queue: QueueRecord, key: str, now: int) -> int:
        """
        The number of a ready message with that key, which was added since the last write; 0 if there is none.

        Then the database can tell whether the key is known: what was collected and matters for that is written.
        """
        message = self._keyed.get((queue.number, key))
        if message is not None:
            number = message.number
            if number in self._added and abs(message.position) > queue.flushed_to and not 0 < message.expires <= now:
                return number
        # Of one that is not ready, only its row tells whether it is remembered: the window may have been another one when it came.
        if message is not None or self._removed or self._put:
            self.write()
        return 0

    def save_producer(self, name: bytes, number: int, now: int) -> None:
        """Keep a producer's highest number; see L{IStore}."""
        self._producers[name] = number, now
        self._log.note_used_producer(name)

    def request_sync(self) -> None:
        """Have the log reach the latest number; see L{IStore}."""
        self._wanted = self.latest

    def write(self) -> int:
        """Write what was collected to the database, and of retried messages a part; how many of these are left."""
        new = self._keys or self._producers or self._wanted > self._written
        if self._added or self._removed or self._put or self._retried or new:
            added, self._added, self._size = self._added, {}, 0
            removed, self._removed = self._removed, []
            put, self._put = self._put, {}
            keys, self._keys = self._keys, []
            if self._keyed:
                self._keyed = {}
            # A part of them: their rows are written again with their bodies, and no receipt depends on that.
            retried = take_sized(self._retried, _CHANGES, _BYTES, attrgetter("size")).values()
            self._write_rows(added, put, retried, removed, keys)
            self._log.note_gone(removed)
            for message in (*put.values(), *retried):
                self._log.note_changed(message)
            if added or new:
                size = sum(message.size for message in added.values())
                self._log.note_batch(Batch(self.latest, len(added) + len(keys), size, self._producers))
                self._written, self._producers = self.latest, {}
        return len(self._retried)

    def _write_rows(self, added: _Messages, put: _Messages, retried: Iterable[Message], removed: list[int], keys: list[_Key]) -> None:
        """Write rows in one transaction."""
        run = self._database.executemany
        with self._database:
            self._database.execute("BEGIN")
            run("DELETE FROM message WHERE number BETWEEN ? AND ?", _runs(removed))
            run(f"INSERT {MESSAGE}", map(row_of, added.values()))
            run(f"INSERT OR REPLACE {MESSAGE}", map(row_of, put.values()))
            run("UPDATE message SET attempts = ?, crc = ? WHERE number = ?", map(retried_row, retried))
            if self._log.properties:
                run("DELETE FROM extra WHERE number BETWEEN ? AND ?", _runs(removed))
                run("DELETE FROM extra WHERE number = ?", zip(put))
                extras = [message for message in (*added.values(), *put.values()) if message.properties is not None]
                run("INSERT INTO extra VALUES (?, ?, ?, ?, ?)", map(extra_row, extras))
            if keys:
                run("INSERT INTO key VALUES (?, ?, ?, ?)", keys)


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """First and last of each run without a gap: what was accepted together often goes together, and a run is one statement."""
    numbers.sort()
    gaps = [place for place, (one, other) in enumerate(pairwise(numbers), 1) if other - one > 1]
    return [(numbers[start], numbers[stop - 1]) for start, stop in zip([0, *gaps], [*gaps, len(numbers)], strict=True) if stop > start]
