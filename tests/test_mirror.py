"""The file: what it refuses, what it keeps; and the service that writes it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase

from phpmq.clock import SteadyClock
from phpmq.errors import StartError, StoreError
from phpmq.message import DEFAULT_SETTINGS, PROPERTIES_OVERHEAD, Message, QueueSettings
from phpmq.mirror import APPLICATION_ID, MirrorService, StoreFile
from phpmq.store import SCHEMA_VERSION, SQLiteStore, checksum, schema

MANY = 2**31


class FileTestCase(SynchronousTestCase):
    """A directory with a file in it."""

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "phpmq.db")
        self.damaged = 0

    def open(self, path: str | None = None) -> tuple[StoreFile, SQLiteStore]:
        """Start from the file."""
        file = StoreFile(path or self.path)
        self.addCleanup(file.close)
        memory, self.damaged = file.open()
        store = SQLiteStore(memory)
        self.addCleanup(store.close)
        return file, store

    def write(self, file: StoreFile, store: SQLiteStore, count: int = MANY) -> None:
        """Bring the file up to date."""
        while (delta := store.changelog.extract(count, MANY, {})) is not None:
            file.apply(delta)
            store.changelog.confirm(delta)

    def fill(self, store: SQLiteStore, *bodies: bytes, name: str = "q") -> list[Message]:
        """Add a queue with messages."""
        queue, messages = store.create_queue(name), []
        for body in bodies:
            messages.append(Message(store.next_number, queue, store.next_number, 1000, 0, 0, body))
            store.add(messages[-1])
            store.next_number += 1
        return messages

    def make(self, *bodies: bytes) -> None:
        """A file with these messages, closed."""
        file, store = self.open()
        self.fill(store, *bodies)
        self.write(file, store)
        file.close()

    def crash(self) -> str:
        """A copy of the file and what is beside it as they are now: what a server that was killed leaves behind."""
        path = os.path.join(os.path.dirname(self.path), "crashed", "phpmq.db")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        for suffix in "", "-wal", ".lock":
            if os.path.exists(self.path + suffix):
                shutil.copy(self.path + suffix, path + suffix)
        return path

    def bodies(self, store: SQLiteStore) -> list[bytes]:
        """All that waits, queue by queue, in order."""
        return [message.body for queue, *_ in store.queues() for message in store.read(queue, 0, MANY, MANY)]

    def sql(self, *statements: str, path: str | None = None) -> list[Any]:
        """Do something to the file; the last statement's rows."""
        database = sqlite3.connect(path or self.path, isolation_level=None)
        try:
            return [database.execute(statement).fetchall() for statement in statements][-1]
        finally:
            database.close()


class StartTests(FileTestCase):
    """L{StoreFile.open} of files that are as they should be."""

    def test_new(self) -> None:
        """A file that is not there is made, for its owner only, and marked as ours."""
        _, store = self.open()
        self.assertEqual((store.queues(), self.damaged), ([], 0))
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)
        self.assertEqual(self.sql("PRAGMA application_id"), [(APPLICATION_ID,)])
        self.assertEqual(self.sql("PRAGMA user_version"), [(SCHEMA_VERSION,)])

    def test_older_schema(self) -> None:
        """A file of each older version is brought up to date, with all that it has; one that was, is left alone the next time."""
        for version in range(1, SCHEMA_VERSION):
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            database = sqlite3.connect(self.path, isolation_level=None)
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            for number in range(1, version + 1):
                database.executescript(schema(f"{number:03}"))
            database.execute(f"PRAGMA user_version = {version}")
            database.execute("INSERT INTO meta VALUES ('commits', 7)")
            database.execute("INSERT INTO queue (number, name, revision, flushed, paused) VALUES (3, 'q', 1, 0, 2)")
            database.execute("INSERT INTO message VALUES (9, 3, 9, 1, NULL, 2, ?, 'body')", (checksum(9, 3, 9, 1, None, 2, b"body"),))
            database.execute("UPDATE message SET body = CAST(body AS BLOB)")
            database.execute("INSERT INTO extra VALUES (9, 3, 0, 'known', NULL)")
            database.execute("INSERT INTO extra VALUES (8, 3, 0, NULL, NULL)")
            database.close()
            for _ in range(2):
                file, store = self.open()
                ((queue, count, size, _),) = store.queues()
                self.assertEqual((queue.name, store.revisions, queue.paused, queue.settings), ("q", {"q": 1}, 2, DEFAULT_SETTINGS))
                self.assertEqual((count, size, self.damaged, self.bodies(store)), (1, 4 + PROPERTIES_OVERHEAD + 5, 0, [b"body"]))
                self.assertEqual((queue.keys_forgotten_to, store.keys(), store.find(queue, "known", 1)), (0, {3: (1, 5)}, 9))
                queue.settings = QueueSettings(max_messages=5)
                store.save_queue(queue)
                self.write(file, store)
                queue.settings = DEFAULT_SETTINGS
                store.save_queue(queue)
                self.write(file, store)
                file.close()
            self.assertEqual(self.sql("PRAGMA user_version"), [(SCHEMA_VERSION,)])
            os.unlink(self.path)
            os.unlink(self.path + ".lock")

    def test_half_made(self) -> None:
        """What an interrupted start left behind is in nobody's way."""
        with open(self.path + ".new", "wb") as file:
            file.write(b"half")
        self.open()
        self.assertEqual(sorted(os.listdir(os.path.dirname(self.path))), ["phpmq.db", "phpmq.db.lock"])

    def test_odd_path(self) -> None:
        """A path may hold what has a meaning in a URI."""
        self.path = os.path.join(os.path.dirname(self.path), "a?b#c%20d e.db")
        self.make(b"1")
        _, store = self.open()
        self.assertEqual(self.bodies(store), [b"1"])

    def test_clean_end(self) -> None:
        """After a clean end all is there, and the file stands alone."""
        self.make(b"1", b"2")
        self.assertEqual(sorted(os.listdir(os.path.dirname(self.path))), ["phpmq.db", "phpmq.db.lock"])
        _, store = self.open()
        self.assertEqual(self.bodies(store), [b"1", b"2"])

    def test_unclean_end(self) -> None:
        """After a crash all that was written is there."""
        file, store = self.open()
        self.fill(store, b"1", b"2")
        self.write(file, store)
        _, found = self.open(self.crash())
        self.assertEqual(self.bodies(found), [b"1", b"2"])

    def test_durable(self) -> None:
        """The file is written so that a commit survives a power cut: WAL and synchronous=FULL."""
        file, store = self.open()
        self.write(file, store)
        assert file._database is not None
        self.assertEqual(file._database.execute("PRAGMA journal_mode").fetchall(), [("wal",)])
        self.assertEqual(file._database.execute("PRAGMA synchronous").fetchall(), [(2,)])

    def test_new_is_durable(self) -> None:
        """The entry of a new file in its directory is on the disk before the start goes on."""
        synced: list[bool] = []
        fsync = os.fsync

        def note(descriptor: int) -> None:
            synced.append(os.path.samestat(os.fstat(descriptor), os.stat(os.path.dirname(self.path))))
            self.assertTrue(os.path.exists(self.path))
            fsync(descriptor)

        self.patch(os, "fsync", note)
        self.open()
        self.assertIn(True, synced)


class RefusalTests(FileTestCase):
    """L{StoreFile.open} refuses what it cannot go on with, in one sentence, and leaves everything as it was."""

    def contents(self, directory: str) -> dict[str, bytes]:
        """All files of a directory, without what SQLite makes to read a file and which holds no data."""
        found = {}
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not name.endswith("-shm"):
                with open(path, "rb") as file:
                    found[name] = file.read()
        return {name: data for name, data in found.items() if data or not name.endswith("-wal")}

    def refused(self, reason: str, path: str | None = None) -> None:
        """Opening the file is refused for that reason."""
        path = path or self.path
        with open(path + ".lock", "ab"):
            pass
        before = self.contents(os.path.dirname(path))
        for _ in range(2):
            file = StoreFile(path)
            error = self.assertRaises(StartError, file.open)
            self.assertRegex(str(error), rf"\Aphpmq: the store {path} .*{reason}.*: .*\.\Z")
            self.assertNotIn("\n", str(error))
        self.assertEqual(self.contents(os.path.dirname(path)), before)

    def put(self, data: bytes) -> None:
        """Make the file hold this."""
        with open(self.path, "wb") as file:
            file.write(data)

    def test_no_directory(self) -> None:
        """Its directory is not there; it is not made."""
        self.path = os.path.join(os.path.dirname(self.path), "none", "phpmq.db")
        error = self.assertRaises(StartError, StoreFile(self.path).open)
        self.assertIn("directory does not exist", str(error))
        self.assertFalse(os.path.exists(os.path.dirname(self.path)))

    def test_empty(self) -> None:
        """An empty file had data once."""
        self.put(b"")
        self.refused("is empty")

    def test_text(self) -> None:
        """No database at all, short or long."""
        self.put(b"hello")
        self.refused("is not a SQLite database")
        self.put(b"hello" * 1000)
        self.refused("is not a SQLite database")

    def test_foreign(self) -> None:
        """Another application's database."""
        self.sql("CREATE TABLE theirs (a)")
        self.refused("belongs to another application")

    def test_newer(self) -> None:
        """A newer version's."""
        self.make(b"1")
        self.sql(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        self.refused(f"newer phpmq .schema {SCHEMA_VERSION + 1}")

    def test_unknown(self) -> None:
        """A version that never was."""
        self.make(b"1")
        self.sql("PRAGMA user_version = 0")
        self.refused("unknown schema 0")

    def test_directory(self) -> None:
        """A directory, or a link to nowhere."""
        os.mkdir(self.path)
        self.refused("cannot be used")
        os.rmdir(self.path)
        os.symlink("nowhere", self.path)
        self.refused("cannot be used")

    def test_unwritable(self) -> None:
        """A file that cannot be written."""
        if os.geteuid() == 0:
            self.skipTest("root can write everything")
        self.make(b"1")
        os.chmod(self.path, 0o400)
        self.refused("cannot be written")

    def test_truncated(self) -> None:
        """A file that lacks its end."""
        self.make(*(b"%d" % number * 1000 for number in range(100)))
        with open(self.path, "rb") as file:
            data = file.read()
        for part in 2, 10:
            self.put(data[: len(data) // part])
            self.refused("is damaged")

    def test_overwritten(self) -> None:
        """A file with a page of something else in its middle."""
        self.make(*(b"%d" % number * 1000 for number in range(100)))
        with open(self.path, "r+b") as file:
            file.seek(3 * 4096)
            file.write(b"garbage!" * 1024)
        self.refused("is damaged")

    def test_without_meta(self) -> None:
        """A file that lacks what every file has."""
        self.make(b"1")
        self.sql("DELETE FROM meta WHERE key = 'commits'")
        self.refused("is damaged")
        self.sql("DROP TABLE meta")
        self.refused("is damaged")

    def test_locked(self) -> None:
        """A file in use; the one who uses it goes on undisturbed, and when he ends it is free."""
        file, store = self.open()
        self.fill(store, b"1")
        self.refused("is in use by another server")
        self.write(file, store)
        self.refused("is in use by another server")
        file.close()
        _, store = self.open()
        self.assertEqual(self.bodies(store), [b"1"])

    def test_locked_under_another_name(self) -> None:
        """A link to a file in use is that file."""
        self.open()
        link = self.path + ".link"
        os.symlink(self.path, link)
        with self.assertRaisesRegex(StartError, "is in use by another server"):
            self.open(link)

    def test_refused_is_unlocked(self) -> None:
        """A refusal does not keep the file locked: once repaired, the same process can open it."""
        self.make(b"1")
        self.sql("PRAGMA user_version = 99")
        self.assertRaises(StartError, StoreFile(self.path).open)
        self.sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self.open()

    def test_without_its_wal(self) -> None:
        """A server was killed and then its -wal file removed: SQLite would go on with an older state."""
        file, store = self.open()
        for body in b"1", b"2":
            self.fill(store, body, name=body.decode())
            self.write(file, store)
        path = self.crash()
        os.remove(path + "-wal")
        self.refused("lacks its last [0-9]+ commits", path)

    def test_with_a_damaged_wal(self) -> None:
        """Likewise with a -wal file that was cut or is damaged."""
        file, store = self.open()
        for body in b"1", b"2":
            self.fill(store, body, name=body.decode())
            self.write(file, store)
        path = self.crash()
        with open(path + "-wal", "rb") as wal:
            data = wal.read()
        for damaged in data[: len(data) - 4096], data[:-100] + b"x" * 100, data[:40]:
            with open(path + "-wal", "wb") as wal:
                wal.write(damaged)
            self.refused("lacks its last [0-9]+ commits", path)

    def test_older_copy(self) -> None:
        """A copy from before; whoever means it removes the .lock file, as the sentence says."""
        self.make(b"1")
        shutil.copy(self.path, self.path + ".copy")
        file, store = self.open()
        self.fill(store, b"2", name="r")
        self.write(file, store)
        file.close()
        os.replace(self.path + ".copy", self.path)
        self.refused("lacks its last [0-9]+ commits")
        os.remove(self.path + ".lock")
        _, store = self.open()
        self.assertEqual(self.bodies(store), [b"1"])

    def test_removed(self) -> None:
        """A file that was there once and is gone is missed; whoever removes the traces of it as well begins anew."""
        self.make(b"1")
        os.remove(self.path)
        with self.assertRaises(StartError) as caught:
            StoreFile(self.path).open()
        self.assertIn(f"remove {self.path}.lock to start with an empty store", str(caught.exception))
        self.assertFalse(os.path.exists(self.path))
        os.remove(self.path + ".lock")
        self.make()
        _, store = self.open()
        self.assertEqual(self.bodies(store), [])


class DamagedRowTests(FileTestCase):
    """Messages with a wrong checksum are set aside and reported, never delivered, and never silently dropped."""

    def test_flipped_bits(self) -> None:
        """One flipped bit anywhere in a body is found; the other messages are there."""
        body = b"a body like no other"
        self.make(b"1", body, b"3")
        with open(self.path, "rb") as file:
            sound = file.read()
        for bit in range(0, len(body) * 8, 7):
            data = bytearray(sound)
            data[sound.index(body) + bit // 8] ^= 1 << bit % 8
            with open(self.path, "wb") as file:
                file.write(data)
            os.remove(self.path + ".lock")
            opened, store = self.open()
            self.assertEqual(self.damaged, 1)
            self.assertEqual(self.bodies(store), [b"1", b"3"])
            opened.close()

    def test_every_column(self) -> None:
        """Any other value in any column is found."""
        for change in (
            "queue = queue + 1",
            "position = position + 1",
            "accepted = accepted - 1",
            "expires = 1",
            "attempts = 7",
            "crc = crc + 1",
            "body = 'text'",
            "attempts = 'a'",
            "number = number + 5",
        ):
            self.make(b"1", b"2")
            self.sql(f"UPDATE message SET {change} WHERE body = x'32'")
            file, store = self.open()
            self.assertEqual((self.damaged, self.bodies(store)), (1, [b"1"]), change)
            file.close()
            os.remove(self.path)
            os.remove(self.path + ".lock")

    def test_kept_and_reported_again(self) -> None:
        """They stay in the file as they were found, and every later start reports them."""
        self.make(b"1", b"2", b"3")
        self.sql("UPDATE message SET body = x'ff' WHERE body = x'32'")
        for _ in range(3):
            file, store = self.open()
            self.assertEqual((self.damaged, self.bodies(store)), (1, [b"1", b"3"]))
            self.write(file, store)
            file.close()
            self.assertEqual(self.sql("SELECT body FROM damaged"), [(b"\xff",)])

    def test_key(self) -> None:
        """Its key is not known any more, or a second send of it would be lost as well; other keys are."""
        self.make(b"1", b"2")
        self.sql("INSERT INTO key SELECT number, queue, accepted, CAST(body AS TEXT) FROM message")
        self.sql("UPDATE message SET body = x'ff' WHERE body = x'32'")
        for _ in range(2):
            file, store = self.open()
            ((queue, *_),) = store.queues()
            self.assertEqual([bool(store.find(queue, key, 1000)) for key in "12"], [True, False])
            file.close()

    def test_without_its_queue(self) -> None:
        """A message whose queue is not there is one of them."""
        self.make(b"1")
        self.sql("DELETE FROM queue")
        self.open()
        self.assertEqual(self.damaged, 1)


class ApplyTests(FileTestCase):
    """L{StoreFile.apply}."""

    def reopened(self) -> SQLiteStore:
        """What a start after a crash finds."""
        file, store = self.open(self.crash())
        file.close()
        self.assertEqual(self.damaged, 0)
        return store

    def test_everything(self) -> None:
        """New, gone, changed and dead messages and queues are in the file after a delta."""
        file, store = self.open()
        gone, changed, dead, _ = self.fill(store, b"gone", b"changed", b"dead", b"kept")
        emptied = store.create_queue("emptied")
        self.write(file, store)
        store.drop_queue(emptied)
        store.remove(gone.number)
        changed.position, changed.attempts = store.next_number, 3
        store.next_number += 1
        store.put(changed)
        store.dead_letter(dead, "rejected", "why", 2000)
        self.fill(store, b"new", name="r")
        store.drop_queue(store.create_queue("dropped"))
        self.write(file, store)
        found = self.reopened()
        self.assertEqual(self.bodies(found), [b"kept", b"changed", b"new"])
        self.assertEqual([queue.name for queue, *_ in found.queues()], ["q", "r"])
        self.assertEqual([(row.body, row.reason, row.text) for row in found.dead()], [(b"dead", "rejected", "why")])
        self.assertEqual(found.id_prefix, store.id_prefix)
        self.assertGreater(found.next_number, store.next_number)

    def test_revived(self) -> None:
        """A message that was dead in the file waits there after a delta, and is dead no more, whenever the crash comes."""
        file, store = self.open()
        first, second, third = self.fill(store, b"1", b"2", b"3")
        for message in first, second, third:
            store.dead_letter(message, "rejected", "", 1)
        self.write(file, store)
        ((queue, *_),) = store.queues()
        dead = {row.body: row for row in store.dead()}
        store.replay(dead[b"3"], queue, store.next_number)
        store.delete_dead([second.number])
        self.assertEqual([row.body for row in self.reopened().dead()], [b"1", b"2", b"3"])
        self.write(file, store)
        found = self.reopened()
        self.assertEqual((self.bodies(found), [row.body for row in found.dead()]), ([b"3"], [b"1"]))

    def test_twice(self) -> None:
        """A delta that was written, but reported as failed, does no harm when it is written again."""
        file, store = self.open()
        first, _ = self.fill(store, b"1", b"2")
        self.write(file, store)
        store.remove(first.number)
        self.fill(store, b"3", name="r")
        delta = store.changelog.extract(MANY, MANY, {})
        assert delta is not None
        file.apply(delta)
        store.changelog.restore(delta)
        self.write(file, store)
        self.assertEqual(self.bodies(self.reopened()), [b"2", b"3"])

    def test_failure(self) -> None:
        """A write that fails changes nothing in the file, says so, and the next one succeeds."""
        file, store = self.open()
        self.fill(store, b"1")
        self.write(file, store)
        self.fill(store, b"2", name="r")
        delta = store.changelog.extract(MANY, MANY, {})
        assert delta is not None
        image, delta.image = delta.image, b"no database"
        error = self.assertRaises(StoreError, file.apply, delta)
        self.assertIn(self.path, str(error))
        delta.image = image
        # A table is missing in the middle of the transaction.
        self.sql("ALTER TABLE meta RENAME TO away")
        self.assertRaises(StoreError, file.apply, delta)
        self.sql("ALTER TABLE away RENAME TO meta")
        self.assertEqual(self.bodies(self.reopened()), [b"1"])
        store.changelog.restore(delta)
        self.write(file, store)
        self.assertEqual(self.bodies(self.reopened()), [b"1", b"2"])

    def test_dropped_and_made_again(self) -> None:
        """A queue that went away and came back while most of its messages are still in the file damages nothing."""
        file, store = self.open()
        messages = self.fill(store, *(b"%d" % number for number in range(10)))
        self.write(file, store)
        for message in messages:
            store.remove(message.number)
        store.drop_queue(messages[0].queue)
        self.fill(store, b"new")
        delta = store.changelog.extract(4, MANY, {})
        assert delta is not None
        file.apply(delta)
        store.changelog.confirm(delta)
        found = self.bodies(self.reopened())
        self.assertEqual((len(found), found[-1]), (7, b"new"))
        self.write(file, store, 4)
        self.assertEqual(self.bodies(self.reopened()), [b"new"])

    def test_made_again_during_a_write(self) -> None:
        """Likewise when it comes back while the delta that deletes it is written, in vain or not."""
        file, store = self.open()
        for written in True, False:
            message = self.fill(store, b"1")[0]
            self.write(file, store)
            store.remove(message.number)
            store.drop_queue(message.queue)
            delta = store.changelog.extract(MANY, MANY, {})
            assert delta is not None
            (new,) = self.fill(store, b"new")
            if written:
                file.apply(delta)
                store.changelog.confirm(delta)
            else:
                store.changelog.restore(delta)
            self.write(file, store)
            self.assertEqual(self.bodies(self.reopened()), [b"new"])
            store.remove(new.number)
            store.drop_queue(new.queue)
            self.write(file, store)
            self.assertEqual(self.reopened().queues(), [])

    def test_dropped_with_dead(self) -> None:
        """A queue that went away while its dead messages are not written yet loses none of them."""
        file, store = self.open()
        messages = self.fill(store, b"1", b"2", b"3")
        self.write(file, store)
        for message in messages:
            store.dead_letter(message, "rejected", "", 2000)
        store.drop_queue(messages[0].queue)
        store.create_queue("q")
        found = []
        while (delta := store.changelog.extract(1, MANY, {})) is not None:
            file.apply(delta)
            store.changelog.confirm(delta)
            now = self.reopened()
            found.append((len(self.bodies(now)), len(list(now.dead()))))
        self.assertEqual(found, [(2, 1), (1, 2), (0, 3)])

    def test_durable(self) -> None:
        """A commit is on the disk when it returns, and a killed process leaves no half of one: a write-ahead log that is synced."""
        file, store = self.open()
        self.fill(store, b"1")
        self.write(file, store)
        pragmas = [file._connect().execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "synchronous")]
        self.assertEqual(pragmas, [("wal",), (2,)])

    def test_flushed_with_dead(self) -> None:
        """A flush does not take dead messages that are not written yet along."""
        file, store = self.open()
        messages = self.fill(store, b"1", b"2", b"3", b"4")
        self.write(file, store)
        for message in messages[1:]:
            store.dead_letter(message, "rejected", "", 2000)
        queue = messages[0].queue
        queue.flushed_to = store.next_number - 1
        store.save_queue(queue)
        store.purge(queue, 10)
        found = []
        while (delta := store.changelog.extract(1, MANY, {})) is not None:
            file.apply(delta)
            store.changelog.confirm(delta)
            now = self.reopened()
            waiting = sum(count for _, count, *_ in now.queues())
            found.append((waiting, len(list(now.dead()))))
        self.assertEqual(found, [(2, 1), (1, 2), (0, 3)])
        self.assertEqual([record.flushed_to for record, *_ in self.reopened().queues()], [queue.flushed_to])

    def test_dead_after_a_failed_write(self) -> None:
        """A message that died after a write that was on the disk, but reported as failed, is not alive as well."""
        file, store = self.open()
        self.write(file, store)
        messages = self.fill(store, b"1", b"2", b"3")
        delta = store.changelog.extract(MANY, MANY, {})
        assert delta is not None
        file.apply(delta)
        store.changelog.restore(delta)
        for message in messages:
            store.dead_letter(message, "rejected", "", 2000)
        delta = store.changelog.extract(1, MANY, {})
        assert delta is not None
        file.apply(delta)
        now = self.reopened()
        self.assertEqual((self.bodies(now), len(list(now.dead()))), ([], 3))

    def test_dropped_producer(self) -> None:
        """A producer that was forgotten is not in the file any more; the others are, with their highest numbers."""
        file, store = self.open()
        for name, number in (b"gone", 1), (b"kept", 1), (b"kept", 5):
            store.save_producer(name, number, 1000)
        self.write(file, store)
        store.drop_producer(b"gone")
        self.write(file, store)
        self.assertEqual(self.reopened().producers(), [(b"kept", 5, 1000)])

    def test_gives_space_back(self) -> None:
        """The file follows the live data."""
        file, store = self.open()
        messages = self.fill(store, *[b"x" * 4000] * 6000)
        self.write(file, store)
        for message in messages:
            store.remove(message.number)
        self.write(file, store)
        while file.vacuum():
            pass
        file.close()
        self.assertLess(os.path.getsize(self.path), 10_000_000)

    def test_vacuum_fails(self) -> None:
        """That space cannot be given back is said in one way, and the next call starts over."""
        file, store = self.open()
        self.fill(store, b"1")
        self.write(file, store)
        file._connect().close()
        with self.assertRaisesRegex(StoreError, self.path):
            file.vacuum()
        self.assertFalse(file.vacuum())


class ThreadPoolDouble:
    """A thread pool without threads: a job runs when the test says so, or at once."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []
        self.at_once = True
        self.running = False

    def start(self) -> None:
        """Note it."""
        self.running = True

    def stop(self) -> None:
        """Note it."""
        self.running = False

    def callInThreadWithCallback(  # noqa: N802
        self, done: Callable[[bool, Any], None], function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        """Take a job."""
        assert self.running

        def job() -> None:
            try:
                result = function(*args, **kwargs)
            except Exception:
                done(False, Failure())
            else:
                done(True, result)

        self.jobs.append(job)
        if self.at_once:
            self.work()

    def work(self) -> None:
        """Do all jobs."""
        while self.jobs:
            self.jobs.pop(0)()


class ReactorDouble(Clock):
    """A clock that threads can call."""

    def callFromThread(self, function: Callable[..., Any], *args: Any) -> None:
        """Call at once."""
        function(*args)


class FailingFile(StoreFile):
    """A file that fails as the test says."""

    error: Exception | None = None
    late_error: Exception | None = None
    vacuum_error: Exception | None = None
    applied = 0

    def apply(self, delta: Any) -> None:
        """Write, or fail before or after it."""
        if self.error is not None:
            raise self.error
        super().apply(delta)
        self.applied += 1
        if self.late_error is not None:
            raise self.late_error

    def vacuum(self) -> bool:
        """Give free pages back, or fail."""
        if self.vacuum_error is not None:
            raise self.vacuum_error
        return super().vacuum()


class MirrorServiceTests(FileTestCase):
    """L{MirrorService}."""

    def setUp(self) -> None:
        super().setUp()
        self.reactor, self.pool = ReactorDouble(), ThreadPoolDouble()
        self.clock = SteadyClock(self.reactor.seconds, self.reactor.seconds)
        self.file = FailingFile(self.path)
        self.addCleanup(self.file.close)
        self.store = SQLiteStore(self.file.open()[0])
        self.addCleanup(self.store.close)
        self.mirror = MirrorService(self.store.changelog, self.file, 0.1, self.clock, self.reactor, cast(ThreadPool, self.pool))

    def tick(self, seconds: float = 0.1) -> None:
        """Let time pass, in intervals."""
        for _ in range(round(seconds / 0.1)):
            self.reactor.advance(0.1)

    def stop(self) -> None:
        """Stop; it has to be finished at once, and nothing left to do."""
        self.assertIsNone(self.successResultOf(self.mirror.stopService()))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def found(self) -> list[bytes]:
        """What is in the file."""
        return [body for (body,) in self.sql("SELECT body FROM message ORDER BY position")]

    def test_start(self) -> None:
        """A start writes at once which range of numbers it uses, before the first is used."""
        self.assertEqual(self.sql("SELECT * FROM meta WHERE key = 'starts'"), [])
        self.mirror.startService()
        self.assertEqual(self.sql("SELECT value FROM meta WHERE key = 'starts'"), [(1,)])
        self.assertTrue(self.pool.running)
        self.stop()

    def test_start_fails(self) -> None:
        """A start that cannot write fails with one sentence, and lets go of the file."""
        self.file.error = StoreError("no space left on device")
        error = self.assertRaises(StartError, self.mirror.startService)
        self.assertRegex(str(error), r"\Aphpmq: .*no space left on device.*\.\Z")
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertFalse(self.pool.running)
        self.open()

    def test_every_interval(self) -> None:
        """What is new is in the file an interval later, with what the clocks said."""
        self.mirror.startService()
        self.fill(self.store, b"1")
        self.assertEqual(self.found(), [])
        self.tick()
        self.assertEqual(self.found(), [b"1"])
        self.assertEqual(self.mirror.last_success, self.clock.seconds())
        self.fill(self.store, b"2", name="r")
        self.tick()
        self.assertEqual(self.found(), [b"1", b"2"])
        self.assertEqual(self.sql("SELECT value FROM meta WHERE key = 'steady'"), [(self.clock.now(),)])
        self.stop()

    def test_nothing_new(self) -> None:
        """Without anything new nothing is written, and the file counts as up to date."""
        self.mirror.startService()
        self.tick(1)
        self.assertEqual(self.file.applied, 1)
        self.assertEqual(self.mirror.last_success, self.clock.seconds())
        self.stop()

    def test_more_than_a_delta(self) -> None:
        """What is too much for one delta is written in several, by the same tick."""
        self.mirror.startService()
        self.fill(self.store, *[b"x"] * 25_000)
        self.fill(self.store, *[b"x" * 1_000_000] * 10, name="r")
        self.tick()
        self.assertGreaterEqual(self.file.applied, 5)
        self.assertEqual(self.store.changelog.pending, 0)
        self.stop()

    def test_before_the_first_success(self) -> None:
        """Before its first write the mirror counts from its start, and no failure was told of."""
        self.assertEqual((self.mirror.last_success, self.mirror.lag, self.mirror.failing), (self.clock.seconds(), 0, False))
        self.reactor.advance(5)
        self.assertEqual(self.mirror.lag, 5)

    def test_failure_heals(self) -> None:
        """While writes fail nothing is lost, and the first that succeeds brings all of it."""
        self.mirror.startService()
        (kept,) = self.fill(self.store, b"1")
        self.tick()
        before = self.mirror.last_success
        self.file.error = StoreError("disk on fire")
        self.store.remove(kept.number)
        for number in range(5):
            self.fill(self.store, b"new%d" % number, name=f"{number}")
            self.tick()
            self.assertTrue(self.mirror.failing)
        self.assertEqual((self.mirror.errors, self.mirror.last_success), (5, before))
        self.assertEqual(self.found(), [b"1"])
        self.file.error = None
        self.tick()
        self.assertFalse(self.mirror.failing)
        self.assertEqual(self.found(), [b"new%d" % number for number in range(5)])
        self.stop()

    def test_failure_after_the_commit(self) -> None:
        """A write that failed when all was on the disk is written again, and nothing is twice or too few."""
        self.mirror.startService()
        messages = self.fill(self.store, b"1", b"2")
        self.file.late_error = StoreError("odd")
        self.tick()
        self.store.remove(messages[0].number)
        self.file.late_error = None
        self.tick()
        self.assertEqual(self.found(), [b"2"])
        self.stop()

    def test_alarm(self) -> None:
        """The log has an alarm at the first failure, then one a minute, and one line when it is over; also if failures come and go."""
        self.mirror.startService()
        self.fill(self.store, b"1")

        def logged(seconds: float) -> list[str | None]:
            with capturedLogs() as events:
                self.tick(seconds)
            return [event["log_level"].name for event in events]

        self.file.error = StoreError("disk on fire")
        self.assertEqual(logged(0.1), ["critical"])
        self.assertEqual(logged(59), [])
        self.assertEqual(logged(2), ["critical"])
        self.assertEqual(logged(90), ["critical"])
        self.file.error = None
        self.assertEqual(logged(0.1), ["info"])
        self.assertEqual(logged(10), [])
        self.file.error = StoreError("again")
        self.fill(self.store, b"2", name="r")
        self.assertEqual(logged(0.1), [])
        self.assertEqual(logged(60), ["critical"])
        self.file.error = None
        self.stop()

    def test_vacuum_fails(self) -> None:
        """That space cannot be given back is no failure of the mirror, and no flood of alarms; after the next write it is tried again."""
        self.mirror.startService()
        self.file.vacuum_error = StoreError("no room to give room back")
        with capturedLogs() as events:
            for number in range(3):
                self.fill(self.store, b"x", name=f"{number}")
                self.tick(2)
        self.assertEqual((events, self.mirror.failing, self.mirror.errors), ([], False, 0))
        self.fill(self.store, b"x")
        self.file.vacuum_error = None
        self.tick(2)
        self.assertFalse(self.mirror._free_pages)
        self.stop()

    def test_alarm_text(self) -> None:
        """The alarm says what is wrong and how much is at stake."""
        self.mirror.startService()
        self.fill(self.store, *[b"x"] * 7)
        self.file.error = StoreError("disk on fire")
        with capturedLogs() as events:
            self.tick()
        self.assertEqual([(str(event["error"]), event["pending"]) for event in events], [("disk on fire", 8)])
        self.file.error = None
        self.stop()

    def test_ticks_do_not_overlap(self) -> None:
        """While a write takes long there is no second one, and what came meanwhile follows."""
        self.mirror.startService()
        self.pool.at_once = False
        self.fill(self.store, b"1")
        self.tick()
        self.fill(self.store, b"2", name="r")
        self.tick(3)
        self.assertEqual(len(self.pool.jobs), 1)
        self.assertEqual(self.mirror.durations.seconds, 0)
        self.pool.at_once = True
        self.pool.work()
        self.assertAlmostEqual(self.mirror.durations.seconds, 3)
        self.assertEqual(self.found(), [b"1"])
        self.tick()
        self.assertEqual(self.found(), [b"1", b"2"])
        self.stop()

    def test_changes_during_a_write(self) -> None:
        """What is settled while it is written is not in the file in the end."""
        self.mirror.startService()
        self.pool.at_once = False
        first, _ = self.fill(self.store, b"1", b"2")
        self.tick()
        self.store.remove(first.number)
        self.pool.at_once = True
        self.pool.work()
        self.tick()
        self.assertEqual(self.found(), [b"2"])
        self.stop()

    def test_survives_everything(self) -> None:
        """No exception, whatever it is and wherever it comes from, ends the mirroring."""
        self.mirror.startService()
        self.fill(self.store, b"1")
        self.file.error = ValueError("unheard of")
        self.tick()
        self.assertTrue(self.mirror.failing)
        self.file.error = None

        def fail(*args: Any) -> None:
            raise ZeroDivisionError

        extract = self.patch(self.store.changelog, "extract", fail)
        self.tick()
        extract.restore()
        write = self.patch(self.store.changelog, "_draw", fail)
        self.tick()
        write.restore()
        self.assertEqual((self.mirror.errors, self.found()), (3, []))
        self.tick()
        self.assertEqual(self.found(), [b"1"])
        self.stop()

    def test_stop(self) -> None:
        """A stop writes all that is left, and lets go of the file and the threads."""
        self.mirror.startService()
        self.fill(self.store, *[b"x"] * 25_000)
        self.stop()
        self.assertFalse(self.pool.running)
        _, store = self.open()
        self.assertEqual(len(self.bodies(store)), 25_000)

    def test_stop_during_a_write(self) -> None:
        """A stop waits for the write that is under way, and writes what came since."""
        self.mirror.startService()
        self.pool.at_once = False
        self.fill(self.store, b"1")
        self.tick()
        self.fill(self.store, b"2", name="r")
        stopped = self.mirror.stopService()
        self.assertEqual(len(self.pool.jobs), 1)
        self.assertNoResult(stopped)
        self.pool.work()
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.found(), [b"1", b"2"])

    def test_stop_tries_again(self) -> None:
        """A stop goes on trying while writes fail."""
        self.mirror.startService()
        self.fill(self.store, b"1")
        self.file.error = StoreError("disk on fire")
        stopped = self.mirror.stopService()
        self.tick(3)
        self.assertNoResult(stopped)
        self.file.error = None
        self.tick()
        self.successResultOf(stopped)
        self.assertEqual(self.found(), [b"1"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stop_with_changes(self) -> None:
        """A stop also writes what comes while it writes: what is given back by clients that are gone."""
        self.mirror.startService()
        self.pool.at_once = False
        self.fill(self.store, b"1")
        stopped = self.mirror.stopService()
        self.fill(self.store, b"2", name="r")
        self.pool.at_once = True
        self.pool.work()
        self.tick()
        self.successResultOf(stopped)
        self.assertEqual(self.found(), [b"1", b"2"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_unalarmed(self) -> None:
        """Alarms come once a minute: a failure within that, of which nobody was told, is not said to be over either."""
        self.mirror.startService()
        with capturedLogs() as events:
            for body in b"1", b"2":
                self.file.error = StoreError("disk on fire")
                self.fill(self.store, body, name=body.decode())
                self.tick()
                self.file.error = None
                self.tick()
        self.assertEqual([event["log_level"] for event in events], [LogLevel.critical, LogLevel.info])
        self.assertEqual((self.mirror.failing, self.mirror.errors), (False, 2))
        self.stop()

    def test_stop_gives_up(self) -> None:
        """A stop ends within ten seconds although nothing could be written, and says how much is lost."""
        self.mirror.startService()
        self.fill(self.store, b"1")
        self.file.error = StoreError("disk on fire")
        with capturedLogs() as events:
            stopped = self.mirror.stopService()
            self.tick(10)
        self.successResultOf(stopped)
        self.assertEqual((events[-1]["log_level"], events[-1]["pending"]), (LogLevel.critical, 2))
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.file.error = None
        self.open()

    def test_start_is_refused(self) -> None:
        """A start that cannot write leaves nothing behind: no thread, no timer, and the file is free for the next start."""
        self.file.error = StoreError("disk on fire")
        error = self.assertRaises(StartError, self.mirror.startService)
        self.assertEqual(str(error), "phpmq: the store cannot be written (disk on fire).")
        self.assertEqual((self.pool.running, self.pool.jobs, self.reactor.getDelayedCalls()), (False, [], []))
        self.open()

    def test_sync_soon(self) -> None:
        """A sync that is asked for is one write at the end of the reactor turn, however often it is asked for."""
        self.mirror.startService()
        self.fill(self.store, b"1")
        for _ in range(3):
            self.mirror.sync_soon()
        self.assertEqual(self.found(), [])
        self.reactor.advance(0)
        self.assertEqual((self.found(), self.file.applied), ([b"1"], 2))
        self.fill(self.store, b"2", name="r")
        self.mirror.sync_soon()
        self.reactor.advance(0)
        self.assertEqual(self.found(), [b"1", b"2"])
        self.stop()

    def test_sync_soon_during_a_write(self) -> None:
        """A sync that is asked for during a write follows at once when that is over, and once only, not an interval later."""
        self.mirror.startService()
        for fails in False, True:
            self.pool.at_once = False
            self.fill(self.store, b"1", name=f"first {fails}")
            self.mirror.sync_soon()
            self.reactor.advance(0)
            self.fill(self.store, b"2", name=f"second {fails}")
            self.mirror.sync_soon()
            self.reactor.advance(0)
            self.assertEqual(len(self.pool.jobs), 1)
            self.file.error = StoreError("disk on fire") if fails else None
            self.pool.at_once = True
            self.pool.work()
            self.file.error = None
            applied = self.file.applied
            self.reactor.advance(0)
            self.assertEqual((len(self.found()), self.file.applied), (4 if fails else 2, applied + 1))
            self.reactor.advance(0)
            self.assertEqual(self.file.applied, applied + 1)
        self.stop()

    def test_sync_soon_by_the_receipts(self) -> None:
        """Who is told that the file got further may ask for the next sync: it is not lost either."""
        self.mirror.startService()
        asked = []

        def synced() -> None:
            asked.append(self.found())
            if len(asked) == 1:
                self.fill(self.store, b"2", name="r")
                self.mirror.sync_soon()

        self.mirror.synced = synced
        self.fill(self.store, b"1")
        self.mirror.sync_soon()
        self.reactor.advance(0)
        self.reactor.advance(0)
        self.assertEqual(asked, [[b"1"], [b"1", b"2"]])
        self.stop()

    def test_sync_soon_at_a_tick(self) -> None:
        """A sync that is due together with a tick makes one write, not two at a time."""
        self.mirror.startService()
        self.pool.at_once = False
        self.fill(self.store, b"1")
        self.reactor.advance(0.05)
        self.mirror.sync_soon()
        self.reactor.advance(0.05)
        self.assertEqual(len(self.pool.jobs), 1)
        self.pool.at_once = True
        self.pool.work()
        self.stop()

    def test_start_with_messages(self) -> None:
        """What the store has before the start is in the file with the first write, and is not written again."""
        self.fill(self.store, b"1")
        self.mirror.startService()
        self.assertEqual((self.found(), self.store.mirrored), ([b"1"], self.store.latest))
        self.tick()
        self.assertEqual(self.file.applied, 1)
        self.stop()

    def test_sync_soon_while_stopped(self) -> None:
        """Before a start no sync is scheduled; one that was is cancelled by a stop, which writes all."""
        self.mirror.sync_soon()
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.mirror.startService()
        self.fill(self.store, b"1")
        self.mirror.sync_soon()
        self.stop()
        self.assertEqual(self.found(), [b"1"])

    def test_sync_soon_after_a_stop(self) -> None:
        """After a stop a sync that is asked for is not scheduled."""
        self.mirror.startService()
        self.stop()
        self.mirror.sync_soon()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_vacuum_when_idle(self) -> None:
        """Free pages are given back after a start and after each write, but only by ticks that find nothing to write."""
        calls: list[int] = []
        left = [True, True, False]

        def vacuum() -> bool:
            calls.append(self.file.applied)
            return left.pop(0)

        self.patch(self.file, "vacuum", vacuum)
        self.mirror.startService()
        self.fill(self.store, b"1")
        self.tick()
        self.assertEqual(calls, [])
        self.tick(1)
        self.assertEqual(calls, [2, 2, 2])
        left.append(False)
        self.fill(self.store, b"2", name="r")
        self.tick()
        self.assertEqual(len(calls), 3)
        self.tick(1)
        self.assertEqual(calls, [2, 2, 2, 3])
        self.stop()

    def test_counts(self) -> None:
        """Writes that succeeded and that failed are counted, and the lag grows from the last moment at which all was written."""
        self.mirror.startService()
        self.assertEqual((self.mirror.interval, self.mirror.path), (0.1, self.file.path))
        self.fill(self.store, b"1")
        self.assertEqual(self.mirror.pending, 2)
        self.tick()
        self.assertEqual((self.mirror.writes, self.mirror.errors, self.mirror.pending, self.mirror.lag), (1, 0, 0, 0))
        self.file.error = StoreError("disk on fire")
        self.fill(self.store, b"2", name="r")
        self.tick(0.3)
        self.assertEqual((self.mirror.writes, self.mirror.errors, self.mirror.pending), (1, 3, 2))
        self.assertAlmostEqual(self.mirror.lag, 0.3)
        self.file.error = None
        self.tick()
        self.assertEqual((self.mirror.writes, self.mirror.lag, self.mirror.unsaved), (2, 0, 0))
        self.stop()

    def test_clock_was_set(self) -> None:
        """That the system's clock was set is written to the file at once, once, although no message changed; a little drift is not."""
        wall = [self.reactor.seconds()]
        self.clock = SteadyClock(lambda: wall[0] + self.reactor.seconds(), self.reactor.seconds)
        self.mirror = MirrorService(self.store.changelog, self.file, 0.1, self.clock, self.reactor, cast(ThreadPool, self.pool))
        self.mirror.startService()
        for step, writes in (0.49, 0), (0.02, 1), (3600, 2), (-7200, 3):
            wall[0] += step
            self.tick(1)
            self.assertEqual(self.mirror.writes, writes, step)
        self.stop()

    def test_unsaved(self) -> None:
        """A stop that could write all says so, and one that could not says how many changes are lost."""
        self.mirror.startService()
        self.fill(self.store, b"1")
        self.file.error = StoreError("disk on fire")
        stopped = self.mirror.stopService()
        self.tick(7.9)
        self.assertNoResult(stopped)
        self.tick(0.5)
        self.successResultOf(stopped)
        self.assertEqual((self.mirror.unsaved, self.pool.running), (2, False))
        self.flushLoggedErrors()
