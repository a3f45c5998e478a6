"""How the server starts, refuses to start, and stops."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sqlite3
import stat
import sys
import time
from contextlib import closing
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.client import Client, bodies, take_all
from tests.functional.server import NO_DOORS, TCP, TWISTD, Process, Server, directory, wait_until

#: Seconds that a refused start may take, with what the interpreter needs on a busy machine.
REFUSED_WITHIN = 8.0

# root may write everywhere, unless it gives that right up.
_PLAIN_USER = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()


def used_store(case: SynchronousTestCase) -> Server:
    """A server that was stopped and has a message in its file."""
    server = Server(case)
    with Client(server.tcp) as client:
        client.send(b"jobs", b"precious")
        client.send(b"ping", b"")
        client.consume(b"ping")
        client.read()
    server.stop()
    return server


class RefusalTests(SynchronousTestCase):
    """A start that cannot be ends soon, with exit code 1 and one sentence instead of a traceback."""

    def setUp(self) -> None:
        """Nothing is there yet."""
        self.directory = directory(self)

    def refused(self, *options: str, wrapper: tuple[str, ...] = (), environment: dict[str, str] | None = None) -> str:
        """The sentence with which the server refuses to start."""
        options = options if "--listen" in options else ("--listen", TCP, *options)
        arguments = [*wrapper, *TWISTD, "--nodaemon", "--pidfile=", "phpmq", *NO_DOORS, *options]
        process = Process(self, arguments, self.directory, environment)
        self.assertEqual(process.wait(), 1, process.output)
        self.assertLess(time.monotonic() - process.started, REFUSED_WITHIN)
        output = process.output
        self.assertNotIn("Traceback", output)
        self.assertNotIn("Unhandled", output)
        sentences = re.findall(r"(?:^|stderr#error\] )phpmq: (.*)$", output, re.MULTILINE)
        self.assertEqual(len(sentences), 1, output)
        # Beside that sentence there is only what twistd itself logs.
        others = [line for line in output.splitlines() if sentences[0] not in line]
        self.assertEqual([line for line in others if not re.match(r"\d{4}-\d\d-\d\dT", line)], [])
        return str(sentences[0])

    def keeps(self, path: Path) -> None:
        """When the test ends, a file is as it is now."""
        before = path.read_bytes()
        self.addCleanup(lambda: self.assertEqual(path.read_bytes(), before))

    # Listeners

    def test_port_in_use(self) -> None:
        """The sentence names the listener and the reason."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            listener = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
            sentence = self.refused("--listen", listener)
        self.assertIn(listener, sentence)
        self.assertIn("Address already in use", sentence)

    def test_console_in_use(self) -> None:
        """The console's port likewise, and the sentence says how to do without."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            console = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
            sentence = self.refused("--console", console)
        self.assertIn(f"cannot listen on {console}: ", sentence)
        self.assertIn("name another with --console, or none (--console none)", sentence)

    def test_open_console(self) -> None:
        """A console that other machines could reach is refused, and the sentence says how to mean it."""
        self.assertIn("--insecure-admin", self.refused("--console", "tcp:0"))

    def test_bad_listeners(self) -> None:
        """What is no strports string is named."""
        for listener in "nonsense", "tcp:", "tcp:port", "nonsense:1", "tcp:1:2:3:4", "ssl:0:privateKey=/nowhere.pem":
            self.assertIn(f"--listen {listener}", self.refused("--listen", listener))

    def test_foreign_file_in_the_socket_s_place(self) -> None:
        """A regular file where the unix socket should be is kept."""
        path = self.directory / "socket"
        path.write_text("somebody's data")
        self.keeps(path)
        self.assertIn(str(path), self.refused("--listen", f"unix:{path}"))

    # The store

    def test_missing_directory(self) -> None:
        """A directory that does not exist is not made."""
        self.assertIn("does not exist", self.refused("--store", "nowhere/phpmq.db"))
        self.assertFalse((self.directory / "nowhere").exists())

    def test_unwritable_directory(self) -> None:
        """A directory without rights is named."""
        if _PLAIN_USER and shutil.which(_PLAIN_USER[0]) is None:
            raise SkipTest("root can write everywhere")
        (self.directory / "closed").mkdir(mode=0o500)
        sentence = self.refused("--store", "closed/phpmq.db", wrapper=_PLAIN_USER)
        self.assertIn("Permission denied", sentence)
        self.assertIn(str(self.directory / "closed"), sentence)

    def test_unwritable_file(self) -> None:
        """A file that cannot be written is refused at the start, not at the first message."""
        if _PLAIN_USER and shutil.which(_PLAIN_USER[0]) is None:
            raise SkipTest("root can write everywhere")
        server = used_store(self)
        self.directory = server.directory
        server.store.chmod(0o400)
        self.keeps(server.store)
        self.assertIn("cannot be written", self.refused(wrapper=_PLAIN_USER))

    def test_locked(self) -> None:
        """A second server on the same file is refused, and the first goes on unharmed."""
        server = Server(self)
        with Client(server.tcp) as client:
            self.directory = server.directory
            self.assertIn("is in use by another server", self.refused())
            client.send(b"jobs", b"after")
            client.consume(b"jobs")
            self.assertEqual(client.read().body, b"after")
        self.assertEqual(server.stop(), 0)
        server = Server(self, cwd=server.directory)
        self.assertEqual(bodies(take_all(server.tcp, b"jobs", 1)), [b"after"])

    def test_foreign(self) -> None:
        """Another application's database is refused and kept."""
        path = self.directory / "phpmq.db"
        with closing(sqlite3.connect(path)) as database:
            database.executescript("PRAGMA application_id = 4711; CREATE TABLE theirs (value); INSERT INTO theirs VALUES (1)")
        self.keeps(path)
        self.assertIn("belongs to another application", self.refused())

    def test_not_sqlite(self) -> None:
        """A file that is no database is refused and kept."""
        path = self.directory / "phpmq.db"
        path.write_text("A letter to my aunt. " * 100)
        self.keeps(path)
        self.assertIn("is not a SQLite database", self.refused())

    def test_empty(self) -> None:
        """An empty file is no new store: its messages were lost, and somebody has to know."""
        path = self.directory / "phpmq.db"
        path.touch()
        self.keeps(path)
        self.assertIn("is empty", self.refused())

    def test_newer(self) -> None:
        """A newer phpmq's file is refused and kept."""
        server = used_store(self)
        self.directory = server.directory
        with closing(sqlite3.connect(server.store)) as database:
            database.execute("PRAGMA user_version = 99")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.keeps(server.store)
        self.assertIn("was written by a newer phpmq (schema 99", self.refused())

    def test_damaged(self) -> None:
        """A damaged file is refused and kept, wherever the damage is."""
        server = used_store(self)
        self.directory = server.directory
        sound = server.store.read_bytes()
        for damaged in (
            sound[:4096],
            sound[: len(sound) // 2],
            sound[:100] + bytes(4000) + sound[4100:],
            sound[:4096] + b"\xff" * (len(sound) - 4096),
        ):
            server.store.write_bytes(damaged)
            sentence = self.refused()
            self.assertIn(str(server.store), sentence)
            self.assertIn("damaged", sentence)
            self.assertEqual(server.store.read_bytes(), damaged)
        server.store.write_bytes(sound)
        server = Server(self, cwd=server.directory)
        self.assertEqual(bodies(take_all(server.tcp, b"jobs", 1)), [b"precious"])

    def test_missing_wal(self) -> None:
        """A file whose newest commits are missing is not taken for an older but sound one."""
        server = Server(self)
        with Client(server.tcp) as client:
            client.send(b"jobs", b"precious")
            wal = server.directory / "phpmq.db-wal"
            wait_until("a -wal file with content", lambda: b"precious" in wal.read_bytes())
            server.kill()
        wal.unlink()
        self.directory = server.directory
        self.assertIn("-wal", self.refused())

    # Options

    def test_bad_values(self) -> None:
        """Sizes and numbers that are none are named together with their option."""
        for option, value in (
            ("--max-message-size", "huge"),
            ("--max-message-size", "0"),
            ("--max-message-size", "2G"),
            ("--memory-limit", "10"),
            ("--memory-limit", "-1M"),
            ("--mirror-interval", "0"),
            ("--mirror-interval", "soon"),
            ("--max-connections", "none"),
        ):
            self.assertIn(f"{option} {value}: ", self.refused(option, value))

    def test_bad_configuration(self) -> None:
        """A key that does not exist is named with the nearest that does; so is a file that is not there or is no TOML."""
        path = self.directory / "phpmq.toml"
        path.write_text('store = "memory"\nmax-mesage-size = "1M"\n')
        sentence = self.refused("--config", "phpmq.toml")
        self.assertIn("'max-mesage-size'", sentence)
        self.assertIn("'max-message-size'", sentence)
        path.write_text("store = [")
        self.assertIn("phpmq.toml", self.refused("--config", "phpmq.toml"))
        path.write_text("max-connections = [1]")
        self.assertIn("max-connections", self.refused("--config", "phpmq.toml"))
        self.assertIn("nowhere.toml", self.refused("--config", "nowhere.toml"))


class DaemonTests(SynchronousTestCase):
    """As a daemon, which is what twistd makes of it unless told otherwise."""

    def daemon(self, cwd: Path, *options: str) -> Process:
        """What the one who starts the daemon sees."""
        arguments = [*TWISTD, "--pidfile=pid", "--logfile=log", "phpmq", *NO_DOORS, "--listen", "unix:socket", *options]
        return Process(self, arguments, cwd)

    def test_start_and_stop(self) -> None:
        """The command returns when the server is ready; SIGTERM ends it and takes its pid file along."""
        cwd = directory(self)
        self.assertEqual(self.daemon(cwd).wait(), 0)
        pid = int((cwd / "pid").read_text())
        self.addCleanup(self.kill, pid)
        wait_until("ready", lambda: "phpmq is ready" in (cwd / "log").read_text())
        with Client(cwd / "socket") as client:
            client.send(b"jobs", b"x")
            client.consume(b"jobs")
            client.read()
        os.kill(pid, signal.SIGTERM)
        wait_until("the pid file is gone", lambda: not (cwd / "pid").exists())
        self.assertNotIn("Traceback", (cwd / "log").read_text())

    def kill(self, pid: int) -> None:
        """Leave no daemon behind."""
        try:
            if b"phpmq" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            pass

    def refused(self, reason: str, *options: str) -> None:
        """See that the daemon does not start, and why."""
        cwd = directory(self)
        process = self.daemon(cwd, *options)
        self.assertEqual(process.wait(), 1)
        self.assertLess(time.monotonic() - process.started, REFUSED_WITHIN)
        self.assertIn("phpmq: ", process.output)
        log = cwd / "log"
        wait_until("the reason in the log", lambda: reason in log.read_text())
        self.assertNotIn("Traceback", process.output + log.read_text())
        wait_until("the pid file is gone", lambda: not (cwd / "pid").exists())

    def test_refused(self) -> None:
        """A start that cannot be: exit code 1, a reason on the terminal, the whole sentence in the log, no traceback in either."""
        self.refused("does not exist", "--store", "nowhere/phpmq.db")
        self.refused("cannot listen on unix:nowhere/socket", "--listen", "unix:nowhere/socket")


class ConfigurationTests(SynchronousTestCase):
    """Where settings come from."""

    def test_file_and_flags(self) -> None:
        """The TOML file has the options' names; what the command line says counts more."""
        cwd = directory(self)
        (cwd / "phpmq.toml").write_text(
            'listen-original = ["unix:original"]\nstore = "other.db"\nmax-message-size = "1k"\nmax-window = 2\n',
        )
        server = Server(self, "--config", "phpmq.toml", "--max-window", "3", cwd=cwd)
        self.assertTrue((cwd / "other.db").exists())
        self.assertTrue((cwd / "original").exists())
        with Client(server.tcp) as client, Client(server.tcp) as other:
            client.send(b"jobs", *[b"x" * 1024] * 4)
            client.consume(b"jobs", 100)
            client.read_many(3)
            self.assertTrue(client.silent())
            other.write(b"H0100103P0200000000000000000000000001025")
            self.assertTrue(other.hung_up())

    def test_state_directory(self) -> None:
        """Without --store the file is in $STATE_DIRECTORY, with it where --store says."""
        cwd, state = directory(self), directory(self)
        server = Server(self, cwd=cwd, environment={"STATE_DIRECTORY": str(state)})
        self.assertTrue((state / "phpmq.db").exists())
        server.stop()
        Server(self, "--store", "here.db", cwd=cwd, environment={"STATE_DIRECTORY": str(state)})
        self.assertEqual(sorted(path.name for path in cwd.glob("*.db")), ["here.db"])

    def test_private(self) -> None:
        """Nobody but the server's user can read the messages in the files."""
        server = used_store(self)
        for path in server.directory.glob("phpmq.db*"):
            self.assertEqual(stat.S_IMODE(path.stat().st_mode) & 0o077, 0, path)

    def test_memory_only(self) -> None:
        """With --store memory there is no file, and the log says what that means."""
        server = Server(self, "--store", "memory")
        self.assertIn("in memory only", server.output)
        with Client(server.tcp) as client:
            client.send(b"jobs", b"x")
            client.consume(b"jobs")
            client.read()
        self.assertEqual(server.stop(), 0)
        self.assertEqual([path.name for path in server.directory.glob("*.db*")], [])

    def test_twist(self) -> None:
        """`twist phpmq` is the same server."""
        cwd = directory(self)
        arguments = [sys.executable, "-m", "twisted", "phpmq", *NO_DOORS, "--listen", "unix:socket"]
        process = Process(self, arguments, cwd)
        process.wait_for("phpmq is ready")
        with Client(cwd / "socket") as client:
            client.send(b"jobs", b"x")
            client.consume(b"jobs")
            self.assertEqual(client.read().body, b"x")
        self.assertEqual(process.stop(), 0)

    def test_help(self) -> None:
        """Every option is explained."""
        process = Process(self, [*TWISTD, "phpmq", "--help"], directory(self))
        self.assertEqual(process.wait(), 0)
        for option in (
            *("--listen=", "--listen-original=", "--store=", "--mirror-interval=", "--max-message-size=", "--memory-limit="),
            *("--max-connections=", "--frame-timeout=", "--config="),
        ):
            self.assertRegex(process.output, rf"{option} +\w+")


class SignalTests(SynchronousTestCase):
    """What signals do."""

    def test_term_and_int(self) -> None:
        """SIGTERM and SIGINT stop cleanly: exit code 0, clients hung up on, all in the file, which another process may use."""
        for number in signal.SIGTERM, signal.SIGINT:
            server = Server(self, "--mirror-interval", "3600")
            with Client(server.tcp) as client:
                client.send(b"jobs", b"precious")
                client.send(b"ping", b"")
                client.consume(b"ping")
                client.read()
                self.assertEqual(server.stop(number), 0)
                self.assertTrue(client.hung_up())
            self.assertIn("phpmq stopped", server.output)
            self.assertNotIn("Traceback", server.output)
            self.assertFalse((server.directory / "phpmq.db-wal").exists())
            self.assertFalse(server.unix.exists())
            with closing(sqlite3.connect(server.store)) as database:
                rows = database.execute("SELECT name, body FROM message JOIN queue ON queue = queue.number ORDER BY 1").fetchall()
            self.assertEqual(rows, [("jobs", b"precious"), ("ping", b"")])

    def test_twice(self) -> None:
        """An impatient second signal changes nothing."""
        server = Server(self)
        server.send_signal(signal.SIGTERM)
        server.send_signal(signal.SIGINT)
        self.assertEqual(server.wait(), 0)

    def test_hup(self) -> None:
        """SIGHUP never kills."""
        server = Server(self)
        with Client(server.tcp) as client:
            for _ in range(3):
                server.send_signal(signal.SIGHUP)
                client.send(b"jobs", b"x")
                client.consume(b"jobs")
                client.acknowledge(client.read())
            server.wait_for("SIGHUP is ignored")
        self.assertEqual(server.stop(), 0)


class UnixSocketTests(SynchronousTestCase):
    """The unix socket's file."""

    def test_stale(self) -> None:
        """What kill -9 left behind is no obstacle."""
        server = Server(self)
        server.kill()
        self.assertTrue(server.unix.exists())
        server = Server(self, cwd=server.directory)
        with Client(server.unix) as client:
            client.send(b"jobs", b"x")
            client.consume(b"jobs")
            self.assertEqual(client.read().body, b"x")

    def test_in_use(self) -> None:
        """A socket that a living server listens on is not taken from it."""
        server = Server(self)
        arguments = [*TWISTD, "--nodaemon", "--pidfile=", "phpmq", *NO_DOORS, "--store", "memory", "--listen", f"unix:{server.unix}"]
        other = Process(self, arguments, directory(self))
        self.assertEqual(other.wait(), 1)
        with Client(server.unix) as client:
            client.send(b"jobs", b"x")
            client.consume(b"jobs")
            self.assertEqual(client.read().body, b"x")
