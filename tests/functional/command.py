"""The C{phpmq} command as a process: run to its end, or watched and signalled on the way."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from typing import IO, NamedTuple

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.server import PATIENCE, Server, wait_until

#: What runs the command with the interpreter that runs the tests.
PHPMQ = (sys.executable, "-m", "phpmq")


class Result(NamedTuple):
    """How a command ended."""

    code: int
    out: bytes
    err: str


def environment(server: Server | None, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a command finds in its environment: where the server is, and nothing that is the caller's taste."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "FORCE_COLOR", "PHPMQ_SERVER", "PHPMQ_API", "PHPMQ_DEBUG")
    }
    ours |= {"TERM": "xterm-256color", "COLUMNS": "100"}
    if server is not None:
        # The socket is in the same place when the server is started again.
        ours["PHPMQ_SERVER"] = f"unix:{server.unix}"
    return {**ours, **(more or {})}


class Command:
    """A command that runs."""

    def __init__(
        self,
        case: SynchronousTestCase,
        server: Server | None,
        *arguments: str | bytes,
        stdin: int | IO[bytes] = subprocess.PIPE,
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.PIPE,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """
        @param more: of its environment
        """
        # Without buffers, as some of the output may be read line by line and the rest at the end.
        command = [*PHPMQ, *arguments]
        self.process = subprocess.Popen(command, bufsize=0, stdin=stdin, stdout=stdout, stderr=stderr, env=environment(server, more))
        self._case = case
        case.addCleanup(self._clean)

    def _clean(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        for stream in self.process.stdin, self.process.stdout, self.process.stderr:
            if stream is not None:
                stream.close()

    @property
    def input(self) -> IO[bytes]:
        """Its standard input."""
        assert self.process.stdin is not None
        return self.process.stdin

    def write(self, data: bytes) -> None:
        """Give it some input."""
        self.input.write(data)
        self.input.flush()

    def line(self) -> bytes:
        """The next line of its standard output; waits for it."""
        assert self.process.stdout is not None
        line: list[bytes] = []
        reader = threading.Thread(target=lambda: line.append(self.process.stdout.readline()), daemon=True)  # type: ignore[union-attr]
        reader.start()
        reader.join(PATIENCE)
        self._case.assertTrue(line, "no line of output")
        return line[0]

    def end(self, input: bytes | None = None) -> Result:
        """Give it the rest of its input, and wait for its end."""
        out, err = self.process.communicate(input, PATIENCE)
        return Result(self.process.returncode, out or b"", (err or b"").decode())

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)


def phpmq(
    case: SynchronousTestCase, server: Server | None, *arguments: str | bytes, input: bytes = b"", more: Mapping[str, str] | None = None
) -> Result:
    """Run a command to its end."""
    return Command(case, server, *arguments, more=more).end(input)


def on_terminal(
    case: SynchronousTestCase, server: Server | None, *arguments: str, more: Mapping[str, str] | None = None, input: bytes | None = b""
) -> Result:
    """
    Run a command on a terminal: what it shows is in C{out}.

    @param input: what it gets on a pipe; None for the terminal
    """
    master, slave = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(master, 65536):
                shown.append(data)
        except OSError:
            pass  # The terminal is closed.

    stdin = slave if input is None else subprocess.PIPE
    command = Command(case, server, *arguments, stdin=stdin, stdout=slave, stderr=slave, more=more)
    os.close(slave)
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    result = command.end(input)
    reader.join(PATIENCE)
    os.close(master)
    return Result(result.code, b"".join(shown), "")


def wait_for_end(commands: Sequence[Command]) -> list[Result]:
    """Wait for several that run at the same time."""
    return [command.end() for command in commands]


class Terminal:
    """
    A command on a terminal, with somebody who reads and types.

    @ivar command: the command
    """

    def __init__(self, case: SynchronousTestCase, server: Server | None, *arguments: str, more: Mapping[str, str] | None = None) -> None:
        self._master, slave = pty.openpty()
        self.resize(24, 100)
        self._shown: list[bytes] = []
        # The size is the terminal's.
        sized = {"COLUMNS": "", "LINES": "", **(more or {})}
        self.command = Command(case, server, *arguments, stdin=slave, stdout=slave, stderr=slave, more=sized)
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._master, 65536):
                self._shown.append(data)
        except OSError:
            pass  # The terminal is closed.

    @property
    def shown(self) -> bytes:
        """What came so far."""
        return b"".join(self._shown)

    def wait_for(self, text: bytes) -> None:
        """Wait until the terminal shows something."""
        wait_until(f"{text!r} on the terminal", lambda: text in self.shown)

    def type(self, keys: bytes) -> None:
        """Type something."""
        os.write(self._master, keys)

    def resize(self, rows: int, columns: int) -> None:
        """Have the terminal be of that size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end(self) -> Result:
        """Wait for its end."""
        code = self.command.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        os.close(self._master)
        return Result(code, self.shown, "")
