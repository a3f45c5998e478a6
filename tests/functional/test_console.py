"""The console of a real server, as telnet, nc and socat reach it."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.client import Address, Client
from tests.functional.server import PATIENCE, TCP, Server, wait_until

#: A name that every door has to bear, and how a shell quotes it.
ODD = "a/b %d <b>é"

PROMPT = b"phpmq > "


def connect(address: Address) -> socket.socket:
    """A connection to a console."""
    if isinstance(address, Path):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE)
        connection.connect(str(address))
        return connection
    return socket.create_connection(("127.0.0.1", address), PATIENCE)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    data = b""
    while part := connection.recv(65536):
        data += part
    return data


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """What comes until there is C{end} in it."""
    data = b""
    while end not in data:
        part = connection.recv(65536)
        if not part:
            raise AssertionError(f"closed before {end!r}: {data!r}")
        data += part
    return data


def tool(name: str) -> str:
    """The path of a program, without which the test is skipped."""
    path = shutil.which(name)
    if path is None:
        raise SkipTest(f"{name} is not installed")
    return path


class ConsoleTestCase(SynchronousTestCase):
    """A server with a console on a TCP port, whose queue has an odd name and three messages."""

    def setUp(self) -> None:
        """Start it."""
        self.server = Server(self, "--console", TCP)
        self.port = self.server.ports[1]
        with Client(self.server.tcp) as client:
            client.send(ODD.encode(), b"one", b"two", b"three\x1b[2J")
            client.send(b"ping", b"")
            client.consume(b"ping")
            client.read()

    def ask(self, *lines: str) -> str:
        """What comes of lines, sent in one packet by a client that then sends no more."""
        with connect(self.port) as connection:
            connection.sendall("".join(f"{line}\n" for line in lines).encode())
            connection.shutdown(socket.SHUT_WR)
            return read_all(connection).decode()


class ConversationTests(ConsoleTestCase):
    """Over a socket."""

    def test_commands(self) -> None:
        """Commands are answered in order, a line that changes something is in the log, and what is removed is gone."""
        answer = self.ask("plain", f"show --json '{ODD}'", f"flush '{ODD}'", "nothing", "status --json")
        lines = answer.split("\r\n")[2:]
        self.assertEqual([message["body"] for message in json.loads(lines[0])["messages"]], ["one", "two", "three\x1b[2J"])
        self.assertEqual((lines[1], lines[2][:6]), (f"3 messages removed from '{ODD}'", "error:"))
        status = json.loads(lines[3])
        self.assertEqual((status["totals"]["flushed"], status["mirror"]["file"]), (3, str(self.server.store)))
        self.assertGreater(status["memory"]["resident"], 0)
        self.server.wait_for(f"says: flush '{ODD}'")
        self.assertNotIn("says: show", self.server.output)

    def test_monitor(self) -> None:
        """A monitor is refreshed while things change, and left by q."""
        with connect(self.port) as connection, Client(self.server.tcp) as client:
            connection.sendall(b"monitor\r\n")
            self.assertIn(ODD.encode(), read_until(connection, b"Enter leaves"))
            client.send(b"new", b"x")
            read_until(connection, b"  new\x1b[K")
            connection.sendall(b"q\r\n")
            read_until(connection, PROMPT)
            started = time.monotonic()
            connection.sendall(b"quit\r\n")
            self.assertEqual(read_all(connection), b"")
            self.assertLess(time.monotonic() - started, PATIENCE / 2)

    def test_browser(self) -> None:
        """A request that a web page could make closes the connection and does nothing."""
        with connect(self.port) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 14\r\n\r\nflushall yes\r\n")
            self.assertNotIn(b"removed", read_all(connection))
        self.assertIn("3 ready", self.ask(f"show '{ODD}'"))

    def test_who_never_reads(self) -> None:
        """Who sends commands for ever and reads nothing is read no more from; others are answered, and memory does not grow."""
        before = self.server.resident()
        with connect(self.port) as greedy:
            greedy.setblocking(False)
            sent, quiet_since = 0, time.monotonic()
            while time.monotonic() - quiet_since < 0.5 and sent < 64 * 1024**2:
                try:
                    sent += greedy.send(b"help\n" * 1000)
                    quiet_since = time.monotonic()
                except BlockingIOError:
                    time.sleep(0.01)
            self.assertLess(sent, 64 * 1024**2)
            self.assertIn("3 ready", self.ask(f"show '{ODD}'"))
            self.assertLess(self.server.resident() - before, 32 * 1024**2)

    def test_stop(self) -> None:
        """A server that stops closes its consoles, and says so to who watches."""
        with connect(self.port) as idle, connect(self.port) as watching:
            watching.sendall(b"monitor\n")
            read_until(watching, b"Enter leaves")
            self.assertEqual(self.server.stop(), 0)
            for connection in idle, watching:
                self.assertIn(b"the server stops", read_all(connection))
        self.assertNotIn("Traceback", self.server.output)


class UnixSocketTests(SynchronousTestCase):
    """A console for those only who may open a file."""

    def test_unix(self) -> None:
        """It is where the option says, with its rights, works with the tools that know such sockets, and goes with the server."""
        server = Server(self, "--console", "unix:console:mode=600")
        path = server.directory / "console"
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        with connect(path) as connection:
            connection.sendall(b"dead\nquit\n")
            self.assertIn(b"no dead letters", read_all(connection))
        for program, *arguments in ("nc", "-N", "-U", str(path)), ("socat", "-", f"UNIX:{path}"):
            if shutil.which(program) is not None:
                result = subprocess.run([program, *arguments], input=b"dead\nquit\n", capture_output=True, timeout=PATIENCE)
                self.assertIn(b"no dead letters", result.stdout, program)
        self.assertEqual(server.stop(), 0)
        self.assertFalse(path.exists())


class ToolTests(ConsoleTestCase):
    """The tools that an operator has at hand."""

    def pipe(self, *command: str) -> str:
        """What a tool prints that is given some lines."""
        program, *arguments = command
        lines = f"plain\nsearch --json '{ODD}'\ndead\nmonitor\nq\nquit\n".encode()
        result = subprocess.run([tool(program), *arguments], input=lines, capture_output=True, timeout=PATIENCE)
        return result.stdout.decode()

    def check(self, printed: str) -> None:
        """It printed what was asked for."""
        lines = printed.splitlines()
        (found,) = (line for line in lines if line.startswith("{"))
        self.assertEqual(json.loads(found)["items"][0]["name"], ODD)
        self.assertIn("there are no dead letters", lines)
        self.assertIn("q or Enter leaves", lines)
        self.assertNotIn("\x1b", printed)

    def test_nc(self) -> None:
        """Nc, that closes its side at the end of its input or does not."""
        self.check(self.pipe("nc", "-N", "127.0.0.1", str(self.port)))
        self.check(self.pipe("nc", "127.0.0.1", str(self.port)))

    def test_socat(self) -> None:
        """Socat, with lines and with CR LF at their ends."""
        self.check(self.pipe("socat", "-", f"TCP:127.0.0.1:{self.port}"))
        self.check(self.pipe("socat", "-", f"TCP:127.0.0.1:{self.port},crnl"))

    def test_telnet(self) -> None:
        """Telnet on a terminal: a monitor is left by q, by Ctrl-C and by Ctrl-D, each time back to the prompt, and at last it is closed."""
        terminal = Terminal(self, [tool("telnet"), "127.0.0.1", str(self.port)])
        terminal.waits_for(PROMPT)
        for way in b"q\r", b"\x03", b"\x04", b"\r":
            terminal.types(b"monitor\r")
            terminal.waits_for(ODD.encode())
            terminal.waits_for(b"Enter leaves")
            terminal.types(way)
            terminal.waits_for(PROMPT)
        terminal.types(b"quit\r")
        terminal.waits_for(b"Connection closed by foreign host")


class Terminal:
    """A program that believes to have a terminal."""

    def __init__(self, case: SynchronousTestCase, command: Sequence[str]) -> None:
        self._pid, self._file = pty.fork()
        if not self._pid:
            os.execvp(command[0], list(command))
        self._shown = b""
        case.addCleanup(self._end)

    def _end(self) -> None:
        os.close(self._file)
        wait_until("it ends when its terminal does", lambda: os.waitpid(self._pid, os.WNOHANG)[0])

    def types(self, keys: bytes) -> None:
        """Press keys. What was shown before is not waited for any more."""
        self._shown = b""
        os.write(self._file, keys)

    def waits_for(self, text: bytes) -> None:
        """Wait until something is shown."""

        def shown() -> bool:
            if select.select([self._file], [], [], 0.05)[0]:
                try:
                    self._shown += os.read(self._file, 65536)
                except OSError:
                    return text in self._shown  # The program has ended.
            return text in self._shown

        wait_until(f"{text!r} on the terminal", shown)
