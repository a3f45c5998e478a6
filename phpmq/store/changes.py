"""The mirror's side of the store: what the file does not have yet."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from phpmq.message import QueueRecord
from phpmq.store.gathered import Gathered


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


class Changes(Gathered):
    """Gives the mirror changes, and hears whether they are in the file."""

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


def _take(numbers: set[int], count: int) -> tuple[set[int], bool]:
    """Move up to C{count} numbers out of a set; also whether those were all."""
    if len(numbers) <= count:
        taken = numbers.copy()
        numbers.clear()
        return taken, True
    taken = set(islice(numbers, count))
    numbers -= taken
    return taken, False
