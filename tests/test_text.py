"""Tests of L{phpmq.text}: what people write is understood, and what they read is short, exact and safe on a terminal."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from phpmq.admin.console import display
from phpmq.cli import consume
from phpmq.cli.output import Listing, json_line
from phpmq.client import Delivery
from phpmq.client_connection import ClientConnection
from phpmq.text import (
    cut,
    format_count,
    format_duration,
    format_number,
    format_rate,
    format_seconds,
    format_size,
    json_safe,
    parse_count,
    parse_duration,
    parse_size,
    plural,
    short_size,
    terminal_safe,
    width,
)

#: Every character there is.
EVERY = [chr(code) for code in range(0x110000)]


class ParseTests(SynchronousTestCase):
    """Sizes and durations as people write them."""

    def test_sizes(self) -> None:
        """Units are powers of 1024, in either case, with or without B; only a size with a unit may have a fraction."""
        expected = {
            "0": 0,
            "100": 100,
            " 64k ": 65536,
            "64 K": 65536,
            "16M": 16 << 20,
            "1.5 MiB": 1572864,
            "2GB": 2 << 30,
            "1t": 1 << 40,
            "10b": 10,
            "9007199254740993": 9007199254740993,
        }
        self.assertEqual({text: parse_size(text) for text in expected}, expected)

    def test_no_sizes(self) -> None:
        """What is no size is refused with an example."""
        for text in "", "k", "-1", "+1", "1.5", "1e3", "1 x", "1kk", "1ki k", "0x10", "1_000", "\u0661", "1" * 21, "inf":
            error = self.assertRaises(ValueError, parse_size, text)
            self.assertEqual(str(error), "expected a number of bytes, such as 1048576, 64k, 16M or 2G")

    def test_durations(self) -> None:
        """Without a unit a number is one of seconds; every number may have a fraction."""
        expected = {
            "30": 30.0,
            "30s": 30.0,
            " 30 S ": 30.0,
            "0.1": 0.1,
            ".5": 0.5,
            "1.": 1.0,
            "250ms": 0.25,
            "100ms": 0.1,
            "5m": 300.0,
            "1.5h": 5400.0,
            "1d": 86400.0,
            "1e-05": 1e-05,
            "1e+16": 1e16,
            "0": 0.0,
        }
        self.assertEqual({text: parse_duration(text) for text in expected}, expected)

    def test_no_durations(self) -> None:
        """What is no duration is refused with an example; infinity is none."""
        for text in "", "s", "-1", "+1", ".", "5 min", "1w", "1h30m", "1e999", "nan", "inf", "1_000", "\u0663", "1" * 21:
            error = self.assertRaises(ValueError, parse_duration, text)
            self.assertEqual(str(error), "expected a number of seconds or a duration, such as 30, 30s, 5m, 2h or 1d")

    def test_short(self) -> None:
        """The short form is the one with the largest unit in which a value is whole."""
        sizes = {0: "0", 100: "100", 1025: "1025", 65536: "64k", 16 << 20: "16M", 3 << 29: "1536M", 2 << 30: "2G", 1 << 40: "1T"}
        self.assertEqual({number: short_size(number) for number in sizes}, sizes)

    @given(st.integers(0, 10**18))
    def test_round_trip(self, size: int) -> None:
        """What the short form says is read as the same."""
        self.assertEqual(parse_size(short_size(size)), size)

    def test_counts(self) -> None:
        """A count is a whole number."""
        self.assertEqual([parse_count(text) for text in ("0", "16", "-1")], [0, 16, -1])
        for text in "", "x", "1.5", "1e3", "inf":
            self.assertEqual(str(self.assertRaises(ValueError, parse_count, text)), "expected a whole number")


class FormatTests(SynchronousTestCase):
    """Numbers as people read them."""

    def test_numbers(self) -> None:
        """Numbers are short, and exact where there is room."""
        self.assertEqual(
            [format_count(number) for number in (0, 999_999, 1_000_000, 1_234_567, 123_456_789, 12_345_678_901)],
            ["0", "999,999", "1M", "1.2346M", "123.46M", "12.346G"],
        )
        self.assertEqual([format_number(number) for number in (0.0123, 1.5, 12.34, 1234.56)], ["0.012", "1.50", "12.3", "1,235"])
        self.assertEqual([format_seconds(number) for number in (0.0123, 1.5, 1234.56)], ["0.012 s", "1.50 s", "1,235 s"])

    def test_sizes(self) -> None:
        """Sizes have the unit that suits them."""
        self.assertEqual(
            [format_size(number) for number in (0, 1023, 1024, 102_400, 1024**2 - 1, 5 * 1024**3, 2048 * 1024**4)],
            ["0 B", "1023 B", "1.0 KiB", "100 KiB", "1.0 MiB", "5.0 GiB", "2,048 TiB"],
        )

    def test_durations(self) -> None:
        """Time spans have the two units that matter."""
        self.assertEqual(
            [format_duration(seconds) for seconds in (None, -1, 0.9, 59, 60, 3599, 3600, 86399, 86400, 10**7, 10**8)],
            ["-", "0 s", "0 s", "59 s", "1m 00s", "59m 59s", "1h 00m", "23h 59m", "1d 00h", "115d 17h", "1,157d 09h"],
        )

    def test_rates(self) -> None:
        """A rate is never shown as nothing because it is small."""
        self.assertEqual(
            [format_rate(number) for number in (0, 0.012, 0.94, 0.96, 9.94, 9.96, 12345.6)],
            ["0.0/s", "0.012/s", "0.94/s", "1.0/s", "9.9/s", "10/s", "12,346/s"],
        )
        self.assertEqual([format_rate(12345, 2), format_rate(1, 3), format_rate(0, 0)], ["6,172/s", "0.33/s", "0.0/s"])

    def test_plural(self) -> None:
        """One thing has the singular, any other number of them the plural."""
        self.assertEqual([plural(number) for number in (0, 1, 1234)], ["0 messages", "1 message", "1,234 messages"])
        self.assertEqual([plural(2, "queue"), plural(2, "query", "queries")], ["2 queues", "2 queries"])


class TerminalTests(SynchronousTestCase):
    """Nothing that is shown steers a terminal or misleads who reads it."""

    def test_examples(self) -> None:
        """All that could steer a terminal or is not seen is escaped, and the rest is as it is."""
        for raw, shown in (
            ("a/b %d <b>é漢 \N{ELEPHANT}{}\\", "a/b %d <b>é漢 \N{ELEPHANT}{}\\"),
            ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
            ("a\r\nb\tc\x7f\x9b", r"a\r\nb\tc\x7f\x9b"),
            ("\u202egnp.exe\u2066\u200b\u200d\ufeff", r"\u202egnp.exe\u2066\u200b\u200d\ufeff"),
            ("\u2028\u00a0\u3000", r"\u2028\xa0\u3000"),
            ("\U000e0041\ud800\ue000", r"\U000e0041\ud800\ue000"),
            ("a\u3164\u115f\u2800", r"a\u3164\u115f\u2800"),
        ):
            self.assertEqual(terminal_safe(raw), shown)

    def test_every_character(self) -> None:
        """Of every character there is, none gets through that controls, formats or separates."""
        kept = [one for one in EVERY if terminal_safe(one) == one]
        self.assertEqual([one for one in kept if unicodedata.category(one)[0] in "CZ"], [" "])
        escaped = terminal_safe("".join(set(EVERY).difference(kept)))
        self.assertTrue(escaped.isascii() and escaped.isprintable())

    def test_json(self) -> None:
        """The same characters are escaped in JSON, which means what it meant."""
        self.assertEqual([one for one in EVERY if json_safe(one) != one], [one for one in EVERY if terminal_safe(one) != one])
        value = {"text": "".join(EVERY[:0x20] + EVERY[0x7F:0x110000:97]), "name": "Grüße"}
        line = json_line(value).decode()
        self.assertEqual(json.loads(line), json.loads(json.dumps(value)))
        self.assertIn("Grüße", line)
        self.assertTrue(line.endswith("}\n") and terminal_safe(line[:-1]) == line[:-1])

    def test_front_ends(self) -> None:
        """The console and the command show every character in the same way."""
        facts: dict[str, Any] = {"headers": {}, "truncated": False}
        self.patch(consume, "is_terminal", lambda descriptor: True)
        show = consume.format_of(None, False)
        for start in range(0, 0x110000, 0x100):
            # A body that the console shows is UTF-8, and has a line for each of its own.
            text = "".join(EVERY[start : start + 0x100]).replace("\n", "")
            expected = terminal_safe(text)
            *_, shown = display.format_message({**facts, "body": text})
            self.assertEqual(shown, expected)
            self.assertEqual(Listing("QUEUE").add([[text]]).splitlines()[1:], [expected.rstrip()])
            if not 0xD800 <= start < 0xE000:
                body = Delivery(ClientConnection(lambda: 0.0), "jobs", text.encode(), b"0" * 32, 1, None, None)
                self.assertEqual(show(body).decode().strip("\n"), expected)

    def test_width(self) -> None:
        """Wide characters take two columns and combining ones none; a cut text fits and says that it is cut."""
        self.assertEqual([width(one) for one in ("abc", "é", "e\u0301", "漢字", "ﾊﾝ")], [3, 1, 1, 4, 2])
        self.assertEqual([cut("abcdefgh", columns) for columns in (8, 7, 4, 3, 2, 0)], ["abcdefgh", "abcd...", "a...", "...", "..", ""])
        self.assertEqual(cut("漢字のキュー", 8), "漢字...")
