"""A server process for tests: started in a directory of its own, on free ports, and gone when the test is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGTERM
from typing import IO

from twisted.trial.unittest import SynchronousTestCase

#: What runs twistd with the interpreter that runs the tests.
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")

#: A listener on a port that the system chooses; see L{Server.ports}.
TCP = "tcp:0:interface=127.0.0.1"

#: The default ports of a server's console and HTTP API may be taken.
NO_DOORS = ("--console", "none", "--http", "none")

#: Seconds after which a process counts as hung.
PATIENCE = 20.0


def directory(case: SynchronousTestCase) -> Path:
    """A directory for a test; its name is short, as a unix socket's has to be."""
    path = Path(tempfile.mkdtemp(prefix="phpmq-"))
    case.addCleanup(shutil.rmtree, path, True)
    return path


def wait_until(promise: str, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Call C{condition} until it is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{promise}: not within {seconds:g} s")
        time.sleep(0.005)


class Process:
    """A process whose output is kept."""

    def __init__(
        self,
        case: SynchronousTestCase,
        arguments: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        stdin: IO[str] | int = subprocess.DEVNULL,
    ) -> None:
        self._output = cwd / "output"
        self._from = self._output.stat().st_size if self._output.exists() else 0
        self.started = time.monotonic()
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                arguments,
                cwd=cwd,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid
        case.addCleanup(self.kill)

    @property
    def output(self) -> str:
        """What it has written so far."""
        with self._output.open("rb") as file:
            file.seek(self._from)
            return file.read().decode(errors="replace")

    @property
    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.poll()

    def wait_for(self, text: str, seconds: float = PATIENCE) -> None:
        """Wait until the output has a text."""
        wait_until(f"{text!r} in the output", lambda: text in self.output or self.code is not None, seconds)
        if text not in self.output:
            raise AssertionError(f"ended with {self.code} before {text!r}:\n{self.output}")

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for its end: the exit code."""
        return self._process.wait(seconds)

    def stop(self, number: int = SIGTERM) -> int:
        """Have it end: the exit code."""
        self.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """kill -9, unless it has ended."""
        self._process.kill()
        self._process.wait(PATIENCE)


class Server(Process):
    """
    C{twistd phpmq}, ready, listening on TCP and on a unix socket; without HTTP unless the options ask for it.

    @ivar directory: its working directory
    @ivar ports: its TCP ports, in the order of its listeners; those of HTTP come last
    @ivar unix: its unix socket
    """

    def __init__(
        self,
        case: SynchronousTestCase,
        *options: str,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
        program: Sequence[str] = TWISTD,
    ) -> None:
        """
        @param options: more options; those given twice count as given last
        @param cwd: where an earlier server ran, whose store this one takes over
        @param wrapper: command that runs the server
        @param program: what runs twistd
        """
        self.directory = cwd or directory(case)
        self.unix = self.directory / "socket"
        listen = ("--listen", TCP, "--listen", f"unix:{self.unix}", *NO_DOORS)
        super().__init__(
            case,
            [*wrapper, *program, "--nodaemon", "--pidfile=", "phpmq", *listen, *options],
            self.directory,
            environment,
        )
        self.wait_for("phpmq is ready")
        self.seconds_to_ready = time.monotonic() - self.started
        self.ports = [int(port) for port in re.findall(r"starting on (\d+)$", self.output, re.MULTILINE)]

    @property
    def tcp(self) -> int:
        """The port of the listener for everybody."""
        return self.ports[0]

    @property
    def store(self) -> Path:
        """The store's file."""
        return self.directory / "phpmq.db"

    def resident(self) -> int:
        """Its memory in bytes."""
        match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert match is not None
        return int(match[1]) * 1024
