"""Tests of the command line: what is refused before anything happens. With a server: tests/functional/test_cli.py."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, ClassVar

import click
from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from phpmq.cli.command import VERBS, command
from phpmq.cli.options import HEADER, INTERVAL, QUEUE, RATE, SECONDS, TEXT, size


class ValueTests(SynchronousTestCase):
    """L{phpmq.cli.options}."""

    def refused(self, kind: click.ParamType[Any], *values: str) -> None:
        """See that they are."""
        for value in values:
            self.assertRaises(click.BadParameter, kind.convert, value, None, None)

    def test_seconds(self) -> None:
        """A duration may have decimals and a unit, and is neither negative nor without end."""
        self.assertEqual([SECONDS.convert(text, None, None) for text in ("0", "1.5", "1e3", "250ms", "5m")], [0, 1.5, 1000, 0.25, 300])
        self.refused(SECONDS, "-1", "inf", "nan", "1w", "")
        self.refused(INTERVAL, "0", "-0")

    def test_rate(self) -> None:
        """A rate is per second unless it says otherwise."""
        rates = {"100": 100.0, "2.5/s": 2.5, "30/min": 0.5, "30/m": 0.5, "7200/h": 2.0}
        self.assertEqual({text: RATE.convert(text, None, None) for text in rates}, rates)
        self.refused(RATE, "0", "-1", "1/d", "fast", "1/", "")

    def test_size(self) -> None:
        """A size may have a unit, and a limit."""
        sizes = {"0": 0, "100": 100, "4k": 4096, "1.5 KiB": 1536, "1M": 1 << 20}
        self.assertEqual({text: size(1 << 20).convert(text, None, None) for text in sizes}, sizes)
        self.refused(size(1 << 20), "-1", "2M", "1.5", "x", "")

    def test_text(self) -> None:
        """Names, headers and keys are text; what was not UTF-8 on the command line is refused."""
        self.assertEqual(QUEUE.convert("a/b c", None, None), "a/b c")
        self.refused(QUEUE, "", "x" * 256, "a\nb", "\x9b", "\udcff")
        self.assertEqual(HEADER.convert("a=b=c", None, None), ("a", "b=c"))
        self.refused(HEADER, "a", "=b", "", "a=\udcff", "\udcff=a")
        self.assertEqual(TEXT.convert("k", None, None), "k")
        self.refused(TEXT, "", "\udcff")


class UsageTests(SynchronousTestCase):
    """Wrong options end with exit code 2, the usage line, and what is wrong; nothing is sent or taken."""

    wrong: ClassVar[dict[str, tuple[str, str]]] = {
        "unknown verb": ("sned jobs x", "No such command 'sned'"),
        "unknown option": ("send jobs x --foo", "No such option"),
        "no queue": ("send", "Missing argument 'QUEUE'"),
        "no queue to consume": ("consume", "Missing argument 'QUEUE...'"),
        "bad name": ("consume jobs ''", "queue name is empty"),
        "lines and body": ("send jobs x --lines", "leave out BODY"),
        "lines and count": ("send jobs --lines --count 2", "exclude each other"),
        "no count": ("send jobs x --count 0", "x>=1"),
        "level": ("send jobs x --level safe", "'safe' is not one of 'stored', 'synced'"),
        "key": ("send jobs x --key ''", "it is empty"),
        "long key": (f"send jobs x --key {'k' * 256}", "key of 256 bytes, the limit is 255"),
        "long headers": (f"send jobs x --header a={'k' * 9000}", "the limit is 8192"),
        "json and format": ("consume jobs --json --format x", "exclude each other"),
        "field": ("consume jobs --format {boddy}", "has no field {boddy}: there are {queue}, {id}, {attempts}, {body}"),
        "jobs": ("consume jobs --jobs 2", "go with --exec"),
        "max-attempts": ("consume jobs --max-attempts 2", "go with --exec"),
        "exec and json": ("consume jobs --exec true --json", "--exec excludes"),
        "exec and ack": ("consume jobs --exec true --ack none", "--exec excludes"),
        "window": ("consume jobs --window 65536", "65535"),
        "timeout": ("consume jobs --timeout 0", "is not a duration above 0 such as 30, 30s, 5m, 2h or 1d"),
        "bench": ("bench jobs", "'jobs' is not one of"),
        "bench size": ("bench both --size 15", "at least 16"),
        "flush nothing": ("flush", "name queues, or give --all"),
        "flush everything": ("flush jobs --all", "either queues or --all"),
        "queue what": ("queue", "Usage: phpmq queue"),
        "set nothing": ("queue set jobs", "name a setting"),
        "set": ("queue set jobs --lease x", "'x' is not a duration such as 30, 30s, 5m, 2h or 1d"),
        "set choice": ("queue set jobs --when-full drop", "'drop' is not one of 'refuse', 'drop-oldest', 'default'"),
        "delete nothing": ("queue delete", "Missing argument 'QUEUE...'"),
        "disconnect and list": ("clients x --disconnect 1", "--disconnect excludes"),
        "order": ("queues --sort size", "'size' is not one of 'name', 'ready'"),
        "pattern": (f"queues {'x' * 256}", "at most 255 characters"),
        "pause": ("pause jobs --what all-of-it", "is not one of"),
        "interval": ("top --interval 0", "is not a duration above 0 such as 30, 30s, 5m, 2h or 1d"),
        "peek": ("peek jobs --state in_flight", "'in_flight' is not one of 'ready', 'delayed', 'in-flight', 'dead'"),
        "peek at one": ("peek jobs --id x --limit 5", "--id excludes --limit"),
        "preview": ("peek jobs --preview 1M", "up to 64k"),
        "dead what": ("dead", "Usage: phpmq dead"),
        "which": ("dead replay jobs --id x --count 5", "--id excludes --count"),
        "target": ("dead replay jobs --to ''", "queue name is empty"),
        "move": ("move jobs jobs", "are the same queue"),
        "no file": ("import jobs /nowhere/at/all", "does not exist"),
        "directory": ("export jobs --output /", "is a directory"),
        "api": ("status --api ftp://localhost", "expected HOST, HOST:PORT, http://HOST:PORT"),
        "api port": ("status --api localhost:99999", "a port is 1 to 65535"),
        "shell": ("completion csh", "'csh' is not one of"),
    }

    def invoke(self, line: str) -> Result:
        """Run a command line."""
        import shlex

        return CliRunner().invoke(command, shlex.split(line), prog_name="phpmq")

    def test_wrong(self) -> None:
        """Each of these."""
        for name, (line, complaint) in self.wrong.items():
            result = self.invoke(line)
            self.assertEqual(result.exit_code, 2, name)
            self.assertTrue(result.output.startswith("Usage: phpmq "), name)
            self.assertIn(complaint, result.output, name)

    def test_check(self) -> None:
        """For C{phpmq check} wrong options are UNKNOWN, on a line of stdout: 2 would be CRITICAL to who runs it."""
        for line in "check --foo", "check --ready-warn x", "check --api ftp://x":
            result = self.invoke(line)
            self.assertEqual(result.exit_code, 3, line)
            self.assertRegex(result.stdout, r"\AUNKNOWN - .*\n\Z")

    def test_nothing(self) -> None:
        """Without a verb there is help, and exit code 2."""
        result = self.invoke("")
        self.assertEqual(result.exit_code, 2)
        for verb in VERBS:
            self.assertIn(f"\n  {verb} ", result.output)

    def test_help(self) -> None:
        """Help is no error, wherever it is asked for, and says what the short form says."""
        for line in (
            "--help",
            "-h",
            "send --help",
            "consume -h",
            "bench --help",
            "flush -h",
            "queue set -h",
            "check --help",
            "completion --help",
        ):
            result = self.invoke(line)
            self.assertEqual((result.exit_code, result.output[:13]), (0, "Usage: phpmq "), line)

    def test_light(self) -> None:
        """To look at a command line, which a shell does for each completion, imports nothing that takes its time."""
        look = "from phpmq.cli.command import command, VERBS; [command.get_command(None, verb) for verb in VERBS]"
        self.assertEqual(self.imported(look, "treq", "twisted.internet", "rich", "phpmq.broker", "phpmq.results"), "")

    def test_list(self) -> None:
        """The list of verbs imports none of them."""
        look = "from phpmq.cli import main; main(['--help'])"
        self.assertEqual(self.imported(look, "phpmq.cli.verbs", "phpmq.cli.admin", "phpmq.results", "twisted"), "")

    def imported(self, look: str, *modules: str) -> str:
        """Which of these modules some code imports; empty for none."""
        code = f"import sys; {look}; sys.exit(str(found) if (found := sys.modules.keys() & {set(modules)!r}) else 0)"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
