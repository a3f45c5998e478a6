"""The mirror file: its checks at a start, and its writes in the mirror's thread."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from phpmq.errors import StartError, StoreError
from phpmq.store import SCHEMA_VERSION, Delta, checksum, upgrade

#: C{PRAGMA application_id} of the file: "PHMQ".
APPLICATION_ID = 0x50484D51

# Free pages of the file that are given back at a time.
_VACUUM_PAGES = 500


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
        if not header:
            raise self._refusal("is empty, which no store ever is", "restore it from a backup")
        if len(header) < 100 or header[:16] != b"SQLite format 3\0":
            raise self._refusal("is not a SQLite database", "name another --store")
        if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
            raise self._refusal("belongs to another application", "name another --store")
        version = int.from_bytes(header[60:64], "big")
        if version > SCHEMA_VERSION:
            raise self._refusal(f"was written by a newer phpmq (schema {version}, this one knows {SCHEMA_VERSION})", "upgrade phpmq")
        if not version:
            raise self._refusal("has the unknown schema 0", "restore it from a backup")
        if not os.access(self.path, os.W_OK):
            raise self._refusal("cannot be written", "give the server's user the right to write it")

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
