"""Memory to file: the background copy of the store, and how a server gets its store back from it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from phpmq.clock import SteadyClock
from phpmq.errors import StartError, StoreError
from phpmq.histogram import Histogram
from phpmq.interfaces import IMirror
from phpmq.store import SCHEMA_VERSION, ChangeLog, Delta, checksum, upgrade

_T = TypeVar("_T")

#: C{PRAGMA application_id} of the file: "PHMQ".
APPLICATION_ID = 0x50484D51

# Free pages of the file that are given back at a time.
_VACUUM_PAGES = 500

# Size of one delta: the messages and bytes that are drawn in one reactor turn (5-20 ms) and written in one transaction.
_DELTA_SIZE = 10_000, 4 * 1024 * 1024

# While the mirror fails, seconds between two alarms in the log.
_ALARM_INTERVAL = 60.0

# By how much the system's clock has to be set so that the file is written for that alone, in milliseconds.
_CLOCK_STEP = 500

# Seconds that a stop tries to save what is not saved yet.
_STOP_TIMEOUT = 8.0

# Buckets of the histogram of write durations, from an eighth of a millisecond to 16 seconds.
_DURATION_UNIT, _DURATION_BUCKETS = 0.000125, 18


class StoreFile:
    """
    The SQLite file.

    Beside it lies C{FILE.lock}: locked while a server uses the file, it holds the number of the last commit, by which a start finds out
    that commits are missing (a C{-wal} file was removed or damaged), which SQLite takes for an older but intact database.
    """

    def __init__(self, path: str) -> None:
        # One file has one lock, by whatever link it is named; a link to nowhere is refused as it is.
        self.path = os.path.realpath(path) if os.path.exists(path) else os.path.abspath(path)
        self._lock = -1
        self._database: sqlite3.Connection | None = None
        self._commits = 0

    # Start

    def open(self) -> tuple[sqlite3.Connection, int]:
        """
        Lock the file, make it if it is not there, and read it.

        @return: a database in memory with its content, and how many messages were set aside because they are damaged
        @raise StartError: the file cannot be used; it is left as it was
        """
        self._acquire()
        try:
            try:
                if not os.path.lexists(self.path):
                    self._check_that_none_was()
                    self._create()
                self._check_header()
                memory = self._read()
                self._upgrade(memory)
                return memory, self._set_damaged_aside(memory)
            except (OSError, sqlite3.Error) as error:
                raise self._refusal(f"cannot be used ({error})", "check the disk and the file's rights") from error
        except BaseException:
            self.close()
            raise

    def _refusal(self, reason: str, remedy: str) -> StartError:
        return StartError(f"phpmq: the store {self.path} {reason}: {remedy}.")

    def _acquire(self) -> None:
        directory = os.path.dirname(self.path)
        if not os.path.isdir(directory):
            raise self._refusal("cannot be made, its directory does not exist", "make the directory or name another --store")
        try:
            self._lock = os.open(self.path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise self._refusal("is in use by another server", "stop that one or name another --store") from error
        except OSError as error:
            raise self._refusal(f"cannot be locked ({error.strerror})", "give the server's user rights to its directory") from error

    def _check_that_none_was(self) -> None:
        """A store that vanished is not the same as one that never was."""
        traces = [trace for trace in (self.path + "-wal", self.path + ".lock") if os.path.exists(trace) and os.path.getsize(trace)]
        if traces:
            remedy = f"restore it, or remove {' and '.join(traces)} to start with an empty store"
            raise self._refusal("is missing, but it was there once", remedy)

    def _create(self) -> None:
        # Made beside and moved into place: there never is a file that is half made.
        new = self.path + ".new"
        Path(new).unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with closing(sqlite3.connect(new, isolation_level=None)) as database:
            database.execute("PRAGMA page_size = 8192")  # a tenth less memory than 4096; in memory the pages are the same
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            upgrade(database)
            database.execute("INSERT INTO meta VALUES ('commits', 0)")
        os.rename(new, self.path)
        directory = os.open(os.path.dirname(self.path), os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def _check_header(self) -> None:
        """What the first 100 bytes tell, before SQLite touches anything. Source: the SQLite file format, section 1.3."""
        with open(self.path, "rb") as file:
            header = file.read(100)
        version = int.from_bytes(header[60:64], "big")
        newer = f"was written by a newer phpmq (schema {version}, this one knows {SCHEMA_VERSION})"
        for wrong, reason, remedy in (
            (not header, "is empty, which no store ever is", "restore it from a backup"),
            (len(header) < 100 or header[:16] != b"SQLite format 3\0", "is not a SQLite database", "name another --store"),
            (int.from_bytes(header[68:72], "big") != APPLICATION_ID, "belongs to another application", "name another --store"),
            (version > SCHEMA_VERSION, newer, "upgrade phpmq"),
            (not version, "has the unknown schema 0", "restore it from a backup"),
            (not os.access(self.path, os.W_OK), "cannot be written", "give the server's user the right to write it"),
        ):
            if wrong:
                raise self._refusal(reason, remedy)

    def _read(self) -> sqlite3.Connection:
        """Copy the file to memory, and see that the copy is sound and complete before anything is written."""
        remedy = "restore it from a backup, or save what can be saved with sqlite3's .recover"
        memory = sqlite3.connect(":memory:", isolation_level=None)
        try:
            with closing(sqlite3.connect(f"file:{quote(self.path)}?mode=ro", uri=True)) as database:
                database.backup(memory)
            faults = memory.execute("PRAGMA quick_check(1)").fetchall()
            if faults != [("ok",)]:
                raise self._refusal(f"is damaged ({faults[0][0].splitlines()[-1]})", remedy)
            (self._commits,) = memory.execute("SELECT value FROM meta WHERE key = 'commits'").fetchone()
        except (sqlite3.DatabaseError, TypeError) as error:
            raise self._refusal(f"is damaged ({error})", remedy) from error
        noted = os.pread(self._lock, 20, 0)
        if noted.strip().isdigit() and int(noted) > self._commits:
            raise self._refusal(
                f"lacks its last {int(noted) - self._commits} commits, its -wal file is missing or damaged",
                f"restore both, or remove {self.path}.lock to go on with the older state",
            )
        return memory

    def _upgrade(self, memory: sqlite3.Connection) -> None:
        """A file of an older phpmq, which was read and found sound, gets the newest schema, and so does its copy."""
        (version,) = memory.execute("PRAGMA user_version").fetchone()
        if version < SCHEMA_VERSION:
            for database in self._connect(), memory:
                upgrade(database, version)

    def _set_damaged_aside(self, memory: sqlite3.Connection) -> int:
        """Move messages whose checksum is wrong to the table C{damaged}. Their keys are forgotten: who has no receipt can send again."""
        queues = {number for (number,) in memory.execute("SELECT number FROM queue")}
        damaged = []
        for number, queue, position, accepted, expires, attempts, crc, body in memory.execute("SELECT * FROM message"):
            try:
                sound = queue in queues and crc == checksum(number, queue, position, accepted, expires, attempts, body)
            except TypeError:
                sound = False
            if not sound:
                damaged.append((number,))
        if damaged:
            for database in self._connect(), memory:
                database.execute("BEGIN IMMEDIATE")
                for statement in "INSERT INTO damaged SELECT *", "DELETE":
                    database.executemany(f"{statement} FROM message WHERE number = ?", damaged)
                database.executemany("DELETE FROM key WHERE number = ?", damaged)
                database.execute("COMMIT")
        (count,) = memory.execute("SELECT count(*) FROM damaged").fetchone()
        return int(count)

    # In the thread

    def _connect(self) -> sqlite3.Connection:
        if self._database is None:
            database = sqlite3.connect(
                f"file:{quote(self.path)}?mode=rw", uri=True, isolation_level=None, check_same_thread=False, timeout=2
            )
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 4000", "journal_size_limit = 33554432"):
                database.execute(f"PRAGMA {pragma}").fetchall()
            self._database = database
        return self._database

    def apply(self, delta: Delta) -> None:
        """
        Write a delta in one transaction; when this returns, it is on the disk.

        @raise StoreError: it is not; the next call starts over with a fresh connection
        """
        with self._connected() as database:
            database.execute("ATTACH ':memory:' AS delta")
            database.deserialize(delta.image, name="delta")
            database.execute("BEGIN IMMEDIATE")
            self._replace_rows(database, delta)
            database.execute("INSERT OR REPLACE INTO meta VALUES ('commits', ?)", (self._commits + 1,))
            database.execute("COMMIT")
            self._commits += 1
            database.execute("DETACH delta")
            os.pwrite(self._lock, b"%019d\n" % self._commits, 0)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._connect()
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            raise StoreError(f"{self.path}: {error}") from error

    def _replace_rows(self, database: sqlite3.Connection, delta: Delta) -> None:
        """Delete what is gone or changed, and insert what is new or changed."""
        run = database.execute
        tables = ("message", "dead", "extra") if delta.properties else ("message", "dead")  # what was dead may be ready again
        for table in tables:
            for keys in "gone", "changed":
                run(f"DELETE FROM {table} WHERE number IN delta.{keys}")
        run("DELETE FROM message WHERE number IN (SELECT number FROM delta.dead)")
        run("DELETE FROM key WHERE number IN delta.gone_key")
        run("DELETE FROM queue WHERE number IN delta.gone_queue")
        run("DELETE FROM producer WHERE name IN (SELECT name FROM delta.gone_producer)")
        if delta.keeps_flushed:
            kept = "(SELECT flushed FROM main.queue WHERE number = new.number)"
            run(f"UPDATE delta.queue AS new SET flushed = coalesce({kept}, 0)")
        for table in (*tables, "key", "queue", "producer", "meta"):
            run(f"INSERT OR REPLACE INTO main.{table} SELECT * FROM delta.{table}")

    def vacuum(self) -> bool:
        """Give free pages back, a part of them at a time; false when there are none. A L{StoreError} harms nothing."""
        with self._connected() as database:
            # Not execute(): that takes one step of the statement, which is one page.
            database.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
            (free,) = database.execute("PRAGMA freelist_count").fetchone()
        return bool(free)

    def _disconnect(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            # It may have failed before, and what it held is in memory.
            with suppress(sqlite3.Error):
                database.close()

    def close(self) -> None:
        """Close the file and unlock it."""
        self._disconnect()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


@implementer(IMirror)
class MirrorService(Service):
    """
    Writes to the mirror file what it lacks, every interval and as soon as a receipt depends on it.

    A write that fails loses nothing: its changes are part of the next one. Until that succeeds C{failing} is true and the log has an alarm
    a minute.

    @ivar interval: seconds between two writes
    @ivar path: the file's
    @ivar failing: whether the last write failed
    @ivar errors: how many writes failed
    @ivar writes: how many writes succeeded
    @ivar durations: how long those took, with the way to the thread and back
    @ivar unsaved: after a stop, how many changes could not be written
    @ivar synced: called after each write that succeeded
    @ivar last_success: when the file was last up to date, by the clock's seconds
    """

    _log = Logger()

    def __init__(
        self,
        changelog: ChangeLog,
        file: StoreFile,
        interval: float,
        clock: SteadyClock,
        reactor: IReactorTime,
        pool: ThreadPool | None = None,
    ) -> None:
        self._changelog, self._file = changelog, file
        self.interval, self.path = interval, file.path
        self._clock, self._reactor = clock, reactor
        # A pool of its own with one thread: the reactor's is also for others, and stops before this service has written all.
        self._pool = pool or ThreadPool(1, 1, "phpmq-mirror")
        self._loop = LoopingCall(self._write)
        self._loop.clock = reactor
        self._writing = self._write_again = False
        self._last_write: Deferred[None] | None = None
        self._soon: IDelayedCall | None = None  # a write at the end of this reactor turn
        self.synced: Callable[[], object] = lambda: None
        self.failing = False
        self.errors = self.writes = self.unsaved = 0
        self.durations = Histogram(_DURATION_UNIT, _DURATION_BUCKETS)
        self.last_success = clock.seconds()
        self._next_alarm = 0.0
        self._alarmed = False  # since the file was last written
        self._ahead = 0  # milliseconds by which the system's clock is ahead of the steady one, as the file knows it
        self._free_pages = True  # whether the file may have some to give back, which is done while there is nothing to write

    def startService(self) -> None:
        """Write once, then every interval; raises L{StartError} if the file cannot be written."""
        super().startService()
        # This start's range of message numbers has to be in the file before the first number is used.
        delta = self._extract()
        assert delta is not None
        try:
            self._file.apply(delta)
        except StoreError as error:
            self._file.close()
            raise StartError(f"phpmq: the store cannot be written ({error}).") from error
        self._changelog.confirm(delta)
        self._pool.start()
        self._loop.start(self.interval, now=False)

    @property
    def pending(self) -> int:
        """About how many changes the file lacks."""
        return self._changelog.pending

    @property
    def lag(self) -> float:
        """Seconds since the file was last up to date."""
        return max(0.0, self._clock.seconds() - self.last_success)

    def _extract(self) -> Delta | None:
        reading = self._clock.reading()
        ahead = reading["wall"] - reading["steady"]
        if abs(ahead - self._ahead) > _CLOCK_STEP:
            # The system's time was set. The file has to know, or the next start would take it for time that has passed.
            self._ahead = ahead
            self._changelog.note_meta()
        return self._changelog.extract(*_DELTA_SIZE, {**reading})

    def sync_soon(self) -> None:
        """Write as soon as this reactor turn is over and no other write is running; see L{IMirror}."""
        if self._writing:
            self._write_again = True
        elif self._soon is None and self.running:
            self._soon = self._reactor.callLater(0, self._write_now)

    def _write_now(self) -> None:
        self._soon = None
        self._write()

    def _write(self) -> Deferred[None] | None:
        """Start a write, unless one is running; LoopingCall waits for the Deferred."""
        if self._writing:
            return None
        self._writing = True
        self._last_write = Deferred.fromCoroutine(self._write_all())
        return self._last_write

    async def _write_all(self) -> None:
        """Write until the file is up to date. Catches everything: a LoopingCall that fails once never runs again."""
        try:
            wrote = False
            while delta := self._extract():
                wrote = True
                await self._write_delta(delta)
                if not delta.more:
                    break
            self._succeeded()
            self._free_pages = wrote or (self._free_pages and await self._vacuum())
        except Exception as error:
            self._failed(error)
        finally:
            self._writing = False
        if self._write_again:
            self._write_again = False
            self.sync_soon()

    async def _write_delta(self, delta: Delta) -> None:
        begun = self._clock.seconds()
        try:
            await self._in_thread(self._file.apply, delta)
        except BaseException:
            self._changelog.restore(delta)
            raise
        self._changelog.confirm(delta)
        self.writes += 1
        self.durations.observe_seconds(self._clock.seconds() - begun)
        self.synced()

    async def _vacuum(self) -> bool:
        """Give free pages back, a part of them. A failure loses nothing: no alarm, it is tried again after the next write."""
        try:
            return await self._in_thread(self._file.vacuum)
        except StoreError:
            return False

    def _in_thread(self, work: Callable[..., _T], *args: object) -> Deferred[_T]:
        return deferToThreadPool(self._reactor, self._pool, work, *args)  # type: ignore[arg-type]

    def _succeeded(self) -> None:
        self.last_success = self._clock.seconds()
        self.failing = False
        if self._alarmed:
            self._alarmed = False
            self._log.info("the store's file is written again; nothing was lost")

    def _failed(self, error: Exception) -> None:
        self.failing = True
        self.errors += 1
        now = self._clock.seconds()
        if now >= self._next_alarm:
            self._next_alarm, self._alarmed = now + _ALARM_INTERVAL, True
            text = "the store's file cannot be written ({error}); {pending} changes are in memory only"
            self._log.critical(text, error=error, pending=self._changelog.pending)

    def stopService(self) -> Deferred[None]:
        """Write what is left, then close the file."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._loop.running:
            self._loop.stop()
        if self._soon is not None:
            self._soon.cancel()
        if self._last_write is not None:
            await self._last_write
        deadline = self._clock.seconds() + _STOP_TIMEOUT
        await self._write_all()
        while (self.failing or self._changelog.pending) and self._clock.seconds() < deadline:
            await deferLater(self._reactor, min(self.interval, 0.1))
            await self._write_all()
        self.unsaved = self._changelog.pending if self.failing else 0
        if self.unsaved:
            self._log.critical("stopped with {pending} changes that could not be written to the file", pending=self.unsaved)
        self._pool.stop()
        self._file.close()
