"""The verbs of the C{phpmq} command that see and steer a real server: what they print, and how they end."""

from __future__ import annotations

import re
import signal
import socket
from contextlib import closing
from functools import cache
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.client import Client, take_all
from tests.functional.command import Command, Result, Terminal, phpmq
from tests.functional.server import TCP, Server, directory
from tests.functional.test_cli import _Process
from tests.web import ODD


@cache
def common_server() -> Server:
    """A server for all tests here, which has its API on a socket and on a port."""
    process = cast(SynchronousTestCase, _Process())
    cwd = directory(process)
    return Server(process, "--http", "none", "--http", f"unix:{cwd}/http", "--http", TCP, cwd=cwd)


class AdminTestCase(SynchronousTestCase):
    """Tests against one server, with queues of their own in each."""

    def setUp(self) -> None:
        """Use the common one."""
        self.server = common_server()
        self.api = {"PHPMQ_API": f"unix:{self.server.directory}/http"}
        self.port = f"http://127.0.0.1:{self.server.ports[-1]}"

    def start(self, *arguments: str, **settings: Any) -> Command:
        """Start a command."""
        return Command(self, self.server, *arguments, more=self.api, **settings)

    def phpmq(self, *arguments: str) -> Result:
        """Run a command to its end."""
        return phpmq(self, self.server, *arguments, more=self.api)

    def terminal(self, *arguments: str) -> Terminal:
        """Start a command on a terminal."""
        return Terminal(self, self.server, *arguments, more=self.api)

    def fill(self, queue: str, *messages: bytes) -> None:
        """Put messages into a queue."""
        with Client(self.server.tcp) as client:
            client.send(queue.encode(), *messages)
            client.consume(b"its own", 1)
            client.send(b"its own", b"")
            client.read_many(1, acknowledge=True)

    def check(self, result: Result, code: int, complaint: str = "") -> None:
        """See how a command ended, and that it says why on one line."""
        self.assertEqual(result.code, code, result)
        expected = rf"\Aphpmq: .*{complaint}.*\n\Z" if complaint else r"\A\Z"
        self.assertRegex(result.err, expected)


class AdminTests(AdminTestCase):
    """Verbs that see and steer."""

    def test_look(self) -> None:
        """What is there is shown, over a socket and over a port; a pipe gets no escape sequences."""
        self.fill("look", b"1", b"2")
        self.fill(ODD, b"1")
        with Client(self.server.tcp) as worker:
            worker.consume(b"look", 1)
            worker.read()
            commands = {
                "status": self.start("status", "--api", self.port),
                "queues": self.start("queues", "loo?"),
                "show": self.start("queue", "show", ODD),
                "top": self.start("top", "look", "--count", "2", "--interval", "0.1"),
            }
            results = {name: command.end() for name, command in commands.items()}
        for result in results.values():
            self.check(result, 0)
            self.assertNotIn(b"\x1b", result.out)
        shown = {name: result.out.decode() for name, result in results.items()}
        self.assertRegex(shown["status"], r"\Aphpmq \S+, running, up .*\nmessages .* ready")
        self.assertRegex(shown["queues"], r"\A *READY .* QUEUE\n +1 +0 +1 +0 .*  look\n\Z")
        self.assertTrue(shown["show"].startswith(f"queue     {ODD}\nmessages  1 ready"))
        self.assertEqual(len(re.findall(r" +1 +0 +1 +0 .*  look\n", shown["top"])), 2)

    def test_steer(self) -> None:
        """What is told is done, for each queue by itself; nothing is removed unasked."""
        self.fill("a", b"1", b"2")
        self.fill("..", b"1")
        self.check(self.phpmq("flush", "a"), 2, "--yes")
        steps = (
            (("queue", "set", "a", "--max-messages", "9"), 0, r"max_messages +9\n", ""),
            (("pause", "a", "--what", "sends"), 0, r"\Aa: sends paused\n\Z", ""),
            (("flush", "a", "nope", "..", "--yes"), 3, r"\Aa: 2 messages removed\n\.\.: 1 message removed\n\Z", "no queue 'nope'"),
            (("queue", "delete", "a", "--yes", "--json"), 0, r'\A{"queue": "a", "removed": 0, .*}\n\Z', ""),
        )
        for arguments, code, out, complaint in steps:
            result = self.phpmq(*arguments)
            self.check(result, code, complaint)
            self.assertRegex(result.out.decode(), out)

    def test_question(self) -> None:
        """On a terminal it is asked, and only yes is yes."""
        self.fill("asked", b"1", b"2")
        terminals = {keys: self.terminal("flush", "asked") for keys in (b"n\n", b"\x04")}
        for keys, terminal in terminals.items():
            terminal.wait_for(b"Remove 2 messages from asked? [y/N] ")
            terminal.type(keys)
        for terminal in terminals.values():
            result = terminal.end()
            self.assertEqual(result.code, 1)
            self.assertIn(b"phpmq: nothing was changed\r\n", result.out)
        interrupted = self.terminal("queue", "delete", "asked")
        interrupted.wait_for(b"Delete asked with 2 messages and 0 dead letters? [y/N] ")
        interrupted.command.signal(signal.SIGINT)
        self.assertEqual(interrupted.end().code, 130)
        self.assertEqual(len(take_all(self.server.tcp, b"asked", 2)), 2)
        self.fill("asked", b"3")
        sure = self.terminal("flush", "asked")
        sure.wait_for(b"[y/N] ")
        sure.type(b"Y\n")
        result = sure.end()
        self.assertEqual(result.code, 0)
        self.assertIn(b"asked: 1 message removed\r\n", result.out)

    def test_top(self) -> None:
        """On a terminal it is one screen, which fits the terminal as it is now, and leaves nothing behind."""
        for number in range(30):
            self.fill(f"top-{number:02}", *[b"x"] * (40 - number))
        terminal = self.terminal("top", "top-*", "--interval", "0.2")
        terminal.wait_for(b"and more queues; Ctrl-C ends")
        self.assertIn(b"top-05", terminal.shown)
        self.assertNotIn(b"top-29", terminal.shown)
        terminal.resize(60, 100)
        terminal.command.signal(signal.SIGWINCH)
        terminal.wait_for(b"top-29")
        terminal.resize(24, 20)
        terminal.command.signal(signal.SIGWINCH)
        terminal.wait_for(b"   40 top-00")
        terminal.command.signal(signal.SIGINT)
        result = terminal.end()
        self.assertEqual(result.code, 130)
        enter, leave = b"\x1b[?1049h", b"\x1b[?1049l"
        self.assertEqual((result.out.count(enter), result.out.count(leave)), (1, 1))
        self.assertIn(b"\x1b[?25h", result.out)
        self.assertEqual(result.out.rpartition(leave)[2], b"")

    def test_complete(self) -> None:
        """A shell completes names of queues, but for those that it would have to quote."""
        for name in "complete-b", "complete-a", "complete it", "other":
            self.fill(name, b"1")
        more = {**self.api, "_PHPMQ_COMPLETE": "bash_complete", "COMP_WORDS": "phpmq flush complete", "COMP_CWORD": "2"}
        self.assertEqual(phpmq(self, None, more=more), Result(0, b"plain,complete-a\nplain,complete-b\n", ""))

    def test_ends(self) -> None:
        """What goes wrong has its exit code, whatever is at the address; nobody who reads is no trouble."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            nobody = socket.create_server(("127.0.0.1", 0))
            with closing(nobody):
                free = nobody.getsockname()[1]
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            waiting = self.start("status", "--api", address)
            connection, _ = silent.accept()
            commands = (
                (self.start("flush", "a", "--yes", "--api", f"127.0.0.1:{free}"), 69, "cannot reach .*: connection refused"),
                (self.start("status", "--api", f"127.0.0.1:{self.server.tcp}"), 69, "port 9180 unless told otherwise"),
                (self.start("status", "--api", address, "--timeout", "0.2"), 75, "does not answer within 0.2 s"),
            )
            for command, code, complaint in commands:
                result = command.end()
                self.assertEqual(result.code, code, result)
                self.assertRegex(result.err, complaint)
            waiting.signal(signal.SIGINT)
            self.check(waiting.end(), 130)
            connection.close()
        unread = self.start("top", "--interval", "0.05")
        unread.line()
        assert unread.process.stdout is not None
        unread.process.stdout.close()
        self.assertEqual(unread.process.wait(20), 1)
        assert unread.process.stderr is not None
        self.assertEqual(unread.process.stderr.read(), b"")

    def test_check(self) -> None:
        """A plugin's line and its exit codes."""
        self.fill("checked", b"1", b"2")
        commands = (
            (self.start("check", "checked"), 0, r"\AOK - checked: 2 ready, .* \| ready=2;;;0 .* mirror_lag=[\d.]+s;;;0\n\Z"),
            (self.start("check", "checked", "--min-consumers", "1"), 2, r"\ACRITICAL - checked: 0 consumers, fewer than 1 \| "),
            (self.start("check", "--api", "unix:/nowhere"), 2, r"\ACRITICAL - cannot reach .*\n\Z"),
        )
        for command, code, out in commands:
            result = command.end()
            self.check(result, code)
            self.assertRegex(result.out.decode(), out)

    def test_check_unheard(self) -> None:
        """A line that cannot be written is UNKNOWN, and not the 1 of other verbs, which is WARNING."""
        with open("/dev/full", "wb") as full:
            result = self.start("check", stdout=full).end()
        self.assertEqual(result, Result(3, b"", "phpmq: cannot write to standard output: No space left on device\n"))
