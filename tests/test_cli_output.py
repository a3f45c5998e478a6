"""Tests of L{phpmq.cli.output}, L{phpmq.cli.exit_codes} and the formats of messages and figures."""

from __future__ import annotations

import os
from unittest import mock

import click
from twisted.internet.error import ConnectError, ConnectionRefusedError, DNSLookupError
from twisted.trial.unittest import SynchronousTestCase

from phpmq.cli import output
from phpmq.cli.bench import HEADINGS, Figures
from phpmq.cli.consume import format_of
from phpmq.cli.exit_codes import Exit, Failed, code_of, not_reached
from phpmq.cli.output import table
from phpmq.client import Delivery
from phpmq.client_connection import ClientConnection
from phpmq.errors import BadFrame, LoginRequired, MemoryFull, NotAllowed, NotConnected, TimedOut


class TableTests(SynchronousTestCase):
    """Tables in a pipe."""

    def test_table(self) -> None:
        """In a pipe a table is aligned, and has no lines."""
        self.assertEqual(table(("", "n"), [("a", "1"), ("bc", "1,000")]), "        n\na       1\nbc  1,000\n")


class ListingTests(SynchronousTestCase):
    """Tables on a terminal."""

    def shown(self, columns: int, *rows: tuple[str, ...]) -> list[str]:
        """The lines of a table, below its headings."""
        self.patch(output, "is_terminal", lambda descriptor: True)
        with mock.patch.dict(os.environ, {"COLUMNS": str(columns), "TERM": "dumb"}):
            text = output.Listing(">READY", ">IN FLIGHT", ">DEAD", "QUEUE").add(rows)
        return text.partition("─\n")[2].splitlines()

    def test_wide(self) -> None:
        """A name is in one piece where there is room."""
        self.assertEqual(self.shown(80, ("26,000", "0", "12", "a" * 40)), ["26,000       0    12  " + "a" * 40])

    def test_narrow(self) -> None:
        """Where there is none the name is folded, and the numbers are whole, however narrow it is."""
        for columns in 1, 20, 30:
            lines = self.shown(columns, ("1,234,567", "8,901,234", "5,678", "a" * 20))
            self.assertEqual([line.split() for line in lines], [["1,234,567", "8,901,234", "5,678", "a" * 12], ["a" * 8]])


class ExitTests(SynchronousTestCase):
    """The exit code and the sentence for what can go wrong."""

    def test_codes(self) -> None:
        """Each kind of error has its own."""
        errors = [NotConnected(), TimedOut(), NotAllowed(), LoginRequired(), MemoryFull(), BadFrame(), Failed("", Exit.PARTLY)]
        self.assertEqual([code_of(error) for error in errors], [69, 75, 77, 77, 1, 1, 3])

    def failure(self, cause: Exception | None) -> Failed:
        """What becomes of a connection that failed."""
        error = NotConnected("the server cannot be reached")
        error.__cause__ = cause
        return not_reached(error, "tcp:a:1")

    def test_not_reached(self) -> None:
        """The reason is in a few words; where the rights are missing the exit code says so."""
        expected = {
            ConnectionRefusedError(111): ("connection refused", 69),
            ConnectError(2, "?"): ("no such file or directory", 69),
            ConnectError(13, "?"): ("permission denied", 77),
            DNSLookupError("no results for  hostname\nlookup: a."): ("DNS lookup failed: no results for hostname lookup: a", 69),
        }
        for error, (why, code) in expected.items():
            failure = self.failure(error)
            self.assertEqual(failure.sentence, f"cannot reach tcp:a:1: {why}; see that phpmq is running, or name another --server")
            self.assertEqual(failure.code, code)
        self.assertIn("hung up without an answer", self.failure(None).sentence)
        untrusted = not_reached(NotConnected("the connection was lost: [('', '', 'certificate verify failed')]"), "tls:a:1")
        self.assertEqual(untrusted.sentence, "tls:a:1 hung up without an answer: its certificate is not trusted here")


class FormatTests(SynchronousTestCase):
    """C{phpmq consume --format}."""

    delivery = Delivery(ClientConnection(lambda: 0.0), "jobs", b"a{id}\xff", b"0" * 32, 3, None, None)

    def test_template(self) -> None:
        """Fields and escapes are replaced, doubled braces stand for themselves, other text is as it is, and a newline follows."""
        expected = {
            "{queue}:{attempts}": b"jobs:3\n",
            r"{body}\t{id}\n": b"a{id}\xff\t" + b"0" * 32 + b"\n",
            r"{body}\0": b"a{id}\xff\0",
            r"\\n{{queue}} \q ä%s": "\\n{queue} \\q ä%s\n".encode(),
            "{{{queue}}}": b"{jobs}\n",
            "} {": b"} {\n",
            "": b"\n",
            "\udcff": b"\xff\n",
        }
        self.assertEqual({template: format_of(template, False)(self.delivery) for template in expected}, expected)

    def test_unknown(self) -> None:
        """A field that there is not is a mistake."""
        for template in "{bod}", "{}", "{queue}{Queue}":
            self.assertRaises(click.UsageError, format_of, template, False)


class FigureTests(SynchronousTestCase):
    """What a benchmark tells."""

    def test_figures(self) -> None:
        """Rates are over the time until the last message, latencies are quantiles of what was measured."""
        figures = Figures("send", 100.0)
        for number in range(1, 101):
            now = 100 + number / 10
            figures.add(50, now - number / 1000, now)
        expected = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
        self.assertEqual(figures.as_json(), {"messages": 100, "seconds": 10, "rate": 10, "mb_per_second": 0.001, "latency_ms": expected})
        self.assertEqual(figures.row(), ("send", "100", "10.0 s", "10/s", "0.001", "50.0", "95.0", "99.0", "100"))
        self.assertEqual(len(figures.row()), len(HEADINGS))

    def test_none(self) -> None:
        """Without a message there is nothing, and no division by it."""
        self.assertEqual(Figures("send", 1.0).as_json()["latency_ms"], {"p50": 0, "p95": 0, "p99": 0, "max": 0})
