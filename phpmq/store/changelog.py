"""The log of changes that the file does not have yet."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar

from phpmq.message import Message, QueueRecord
from phpmq.store.rows import scalar

_T = TypeVar("_T")

# While the file cannot be written, so many batches are remembered before they are put together.
_BATCHES = 4096

#: The highest number of each producer, and when it was used.
Producers = dict[bytes, tuple[int, int]]


class Batch(NamedTuple):
    """Messages that were written to the database together."""

    upto: int  # the highest number that was accepted until then
    changes: int  # how many messages and keys
    size: int  # their bytes
    producers: Producers  # of these messages


@dataclass
class Delta:
    """
    Changes for the file, as a SQLite database of their own.

    @ivar image: tables C{message}, C{extra}, C{key}, C{dead}, C{queue}, C{producer} and C{meta} with rows to replace; C{gone},
        C{gone_key}, C{gone_queue} and C{gone_producer} with keys to delete
    @ivar keeps_flushed: whether changed messages are left for the next delta: a dead one among them, which the file still has as
        ready, would be taken for flushed if its queue's C{flushed} came before it
    """

    upto: int  # the highest message number that it brings up to date
    gone: set[int]  # messages to delete
    changed: dict[int, int]  # messages to replace, with their bytes
    gone_keys: set[int]  # messages whose keys are forgotten
    queues: set[int]  # queues to replace
    gone_queues: dict[str, QueueRecord]
    producers: Producers
    gone_producers: set[bytes]
    properties: bool  # whether any message has or had properties
    keeps_flushed: bool
    image: bytes = b""
    changes: int = 0  # how many rows
    more: bool = False  # whether the file lacks more than this delta holds


class ChangeLog:
    """
    What the file lacks of the store's database. The mirror extracts it in deltas, and confirms or restores each.

    Messages are known by their numbers alone: those above C{mirrored} are new, others are noted when they change or go, unless no delta
    ever held them. Their rows are read from the database when a delta is made.

    @ivar mirrored: all that was accepted up to this number is in the file as well
    @ivar next_queue: a number above that of every queue that ever was
    @ivar properties: whether any message has or had properties
    @ivar flush: writes what is only in the write buffer to the database, and returns how many changes are left in the buffer
    """

    def __init__(self, database: sqlite3.Connection, mirrored: int, next_queue: int, meta: dict[str, object]) -> None:
        self._database = database
        self._meta = meta  # values for the file's table
        self._meta_changed = True
        self.flush: Callable[[], int] = lambda: 0
        self.properties = bool(scalar(database, "SELECT EXISTS (SELECT 1 FROM extra)"))
        self.mirrored = self._extracted = mirrored  # _extracted: the highest number that a delta held, also one that failed
        self._batches: deque[Batch] = deque()
        self._gone: set[int] = set()
        self._changed: dict[int, int] = {}  # number -> bytes
        self._gone_keys: set[int] = set()
        self.next_queue = next_queue
        self._extracted_queue = next_queue - 1
        self._queues: set[int] = set()
        self._gone_queues: dict[str, QueueRecord] = {}
        self._leaving: dict[str, QueueRecord] = {}  # the gone queues of the delta that is being written
        self._gone_producers: set[bytes] = set()

    # The store's side

    def note_batch(self, batch: Batch) -> None:
        """Note messages that were written to the database."""
        self._batches.append(batch)
        if len(self._batches) > _BATCHES:
            self._join_batches()

    def _join_batches(self) -> None:
        """While nothing is mirrored, remember half as many batches of twice the size."""
        batches, self._batches = self._batches, deque()
        while len(batches) > 1:
            one, two = batches.popleft(), batches.popleft()
            self._batches.append(Batch(two.upto, one.changes + two.changes, one.size + two.size, one.producers | two.producers))
        self._batches += batches

    def note_gone(self, numbers: Iterable[int]) -> None:
        """Note messages, or dead letters, that are not in the database any more."""
        gone = [number for number in numbers if number <= self._extracted]
        if self._changed:
            for number in gone:
                self._changed.pop(number, None)
        self._gone.update(gone)

    def note_changed(self, message: Message) -> None:
        """Note a message that moved, was delivered again, died or was replayed."""
        number = message.number
        if number <= self._extracted:
            self._changed[number] = message.size
            self._gone.discard(number)

    def note_gone_keys(self, numbers: Iterable[int]) -> None:
        """Note messages whose keys are forgotten."""
        self._gone_keys.update(number for number in numbers if number <= self._extracted)

    def note_queue(self, number: int) -> None:
        """Note a queue whose row is new or changed."""
        self._queues.add(number)
        self.next_queue = max(self.next_queue, number + 1)

    def note_gone_queue(self, queue: QueueRecord) -> None:
        """Note a queue whose row is not in the database any more."""
        self._queues.discard(queue.number)
        if queue.number <= self._extracted_queue:
            self._gone_queues[queue.name] = QueueRecord(
                queue.number, queue.name, flushed_to=queue.flushed_to, keys_forgotten_to=queue.keys_forgotten_to
            )

    def take_back_queue(self, name: str) -> QueueRecord | None:
        """The queue of that name that is gone, but which the file may still have, perhaps with messages."""
        return self._gone_queues.pop(name, self._leaving.get(name))

    def note_used_producer(self, name: bytes) -> None:
        """Note that a producer is used: the next batch has its number."""
        self._gone_producers.discard(name)

    def note_gone_producer(self, name: bytes) -> None:
        """Note that a producer is forgotten."""
        for batch in self._batches:
            batch.producers.pop(name, None)
        self._gone_producers.add(name)

    # The mirror's side

    @property
    def pending(self) -> int:
        """About how many changes the file lacks."""
        noted = self._gone, self._changed, self._gone_keys, self._queues, self._gone_queues, self._gone_producers
        return self.flush() + sum(batch.changes for batch in self._batches) + sum(map(len, noted))

    def note_meta(self) -> None:
        """Make the next L{extract} return a delta even if nothing else changed: the values of its C{meta} did."""
        self._meta_changed = True

    def extract(self, count: int, size: int, meta: dict[str, object]) -> Delta | None:
        """
        Make a delta of the next changes, None when there are none.

        Afterwards either L{confirm} or L{restore} is due before the next call.

        @param count: about how many messages at most
        @param size: about how many bytes of bodies at most
        @param meta: more values for the table C{meta}
        """
        buffered = self.flush()
        delta = self._take(count, size)
        others = delta.queues or delta.gone_queues or delta.producers or delta.gone_producers or delta.gone_keys
        if not (delta.upto > self.mirrored or delta.gone or delta.changed or others or self._meta_changed):
            return None
        later = bool(self._batches) and self._batches[-1].upto > delta.upto
        delta.more = bool(buffered or self._gone or self._changed or self._gone_keys or later)
        self._extracted = max(self._extracted, delta.upto)
        self._extracted_queue = self.next_queue - 1
        try:
            self._draw(delta, {**self._meta, "next_queue": self.next_queue, **meta})
        except BaseException:
            self.restore(delta)
            raise
        self._meta_changed = False
        return delta

    def _take(self, count: int, size: int) -> Delta:
        """Move changes out of the log into a delta that has no image yet."""
        upto, producers = self._reach(count, size)
        gone, gone_keys = _take_some(self._gone, count), _take_some(self._gone_keys, count)
        changed = take_sized(self._changed, count, size, int)
        queues, self._queues = self._queues, set()
        gone_producers, self._gone_producers = self._gone_producers, set()
        # Only with the last of the messages and keys that go, move or die: a queue's row must not leave the file before them.
        if not (self._gone or self._gone_keys or self._changed):
            self._leaving, self._gone_queues = self._gone_queues, {}
        keeps_flushed = bool(self._changed)
        if keeps_flushed:
            self._queues = queues.copy()
        return Delta(upto, gone, changed, gone_keys, queues, self._leaving, producers, gone_producers, self.properties, keeps_flushed)

    def _reach(self, count: int, size: int) -> tuple[int, Producers]:
        """
        The highest number that a delta of so many messages and bytes may reach, and the producers' numbers up to there.

        It is no lower than that of a delta before, which may have got to the disk although it failed: the file must not have a message
        without what was accepted before it, nor with an older number of its producer.
        """
        upto = self.mirrored
        producers: Producers = {}
        for batch in self._batches:
            if upto >= self._extracted and (count <= 0 or size <= 0):
                break
            upto = batch.upto
            producers |= batch.producers
            count -= batch.changes
            size -= batch.size
        return upto, producers

    def _draw(self, delta: Delta, meta: dict[str, object]) -> None:
        """Make the delta's image."""
        run = self._database.execute
        run("ATTACH ':memory:' AS delta")
        try:
            with self._database:
                run("BEGIN")
                self._draw_keys(delta, meta)
                new = "SELECT * FROM main.{0} WHERE number > ? AND number <= ?"
                changed = " UNION ALL SELECT * FROM main.{0} WHERE number IN delta.changed"
                for table in ("message", "dead", "extra", "key") if delta.properties else ("message", "dead", "key"):
                    rows = new if table == "key" else new + changed
                    run(f"CREATE TABLE delta.{table} AS {rows.format(table)}", (self.mirrored, delta.upto))
                    delta.changes += scalar(self._database, f"SELECT max(rowid) FROM delta.{table}") or 0
                run("CREATE TABLE delta.queue AS SELECT * FROM main.queue WHERE number IN delta.dirty")
            delta.image = self._database.serialize(name="delta")
        finally:
            run("DETACH delta")

    def _draw_keys(self, delta: Delta, meta: dict[str, object]) -> None:
        """Make the tables of the image that hold what the log knows."""
        delta.changes = len(delta.gone) + len(delta.changed) + len(delta.gone_keys)
        number = "number INTEGER PRIMARY KEY"
        gone_queues = {queue.number for queue in delta.gone_queues.values()}
        producers = [(name, *row) for name, row in delta.producers.items()]
        tables: list[tuple[str, str, Iterable[tuple[object, ...]]]] = [
            ("changed", number, zip(delta.changed)),
            ("dirty", number, zip(delta.queues)),
            ("gone", number, zip(delta.gone)),
            ("gone_key", number, zip(delta.gone_keys)),
            ("gone_queue", number, zip(gone_queues)),
            ("gone_producer", "name", zip(delta.gone_producers)),
            ("producer", "name, number, used", producers),
            ("meta", "key, value", meta.items()),
        ]
        for table, columns, rows in tables:
            self._database.execute(f"CREATE TABLE delta.{table} ({columns})")
            values = ", ".join("?" for _ in columns.split(","))
            self._database.executemany(f"INSERT INTO delta.{table} VALUES ({values})", rows)

    def confirm(self, delta: Delta) -> None:
        """Note that the delta is in the file."""
        self._leaving = {}
        self.mirrored = max(self.mirrored, delta.upto)
        producers: Producers = {}
        while self._batches and self._batches[0].upto <= self.mirrored:
            producers |= self._batches.popleft().producers
        # A duplicate by its key gives its producer a number, but is no message: its batch goes no further than the one before.
        late = {name: row for name, row in producers.items() if delta.producers.get(name) != row}
        if late:
            self._batches.appendleft(Batch(self.mirrored, len(late), 0, late))

    def restore(self, delta: Delta) -> None:
        """Note that the delta did not get to the file: what it held is part of the next one, but for what happened since."""
        self.flush()  # a producer that is used again is in a batch now
        self._gone |= delta.gone.difference(self._changed)
        self._changed |= {number: length for number, length in delta.changed.items() if number not in self._gone}
        for name, queue in delta.gone_queues.items():
            if queue.number not in self._queues:
                self._gone_queues.setdefault(name, queue)
        self._queues |= delta.queues - {queue.number for queue in self._gone_queues.values()}
        self._gone_keys |= delta.gone_keys
        self._gone_producers |= delta.gone_producers.difference(*(batch.producers for batch in self._batches))
        self._leaving = {}
        self._meta_changed = True


def take_sized(items: dict[int, _T], count: int, size: int, size_of: Callable[[_T], int]) -> dict[int, _T]:
    """Move items out of a dict, until there are so many or they reach so many bytes."""
    taken: dict[int, _T] = {}
    for number, item in items.items():
        taken[number] = item
        size -= size_of(item)
        if len(taken) >= count or size <= 0:
            break
    for number in taken:
        del items[number]
    return taken


def _take_some(numbers: set[int], count: int) -> set[int]:
    """Move up to C{count} numbers out of a set."""
    taken = set(islice(numbers, count))
    numbers -= taken
    return taken
