"""What is shown: plain in a pipe, made for eyes on a terminal, and never anything that a terminal would obey."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

# Control characters, line separators, what turns the direction of text, and halves of characters.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# A column that is folded has so many characters at least.
_FOLDED = 12

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\e"}


def is_terminal(descriptor: int) -> bool:
    """Whether somebody looks at what is written there."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def visible(text: str) -> str:
    """The text on one line, with escapes in place of what a terminal would obey or could not show."""
    return _UNSEEN.sub(lambda match: _SHORT.get(match[0]) or _escape(match[0]), text)


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def note(sentence: str) -> None:
    """A line for the user, on stderr."""
    # If nobody reads it, so be it.
    with suppress(OSError):
        os.write(2, f"phpmq: {visible(sentence)}\n".encode())


def json_line(value: Mapping[str, Any]) -> bytes:
    """A JSON object on a line of its own; readable, and harmless for a terminal."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode() + b"\n"


def counted(number: int, thing: str = "message") -> str:
    """C{1 message}, C{1,234 messages}."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def digits(number: float) -> str:
    """C{0.123}, C{1.23}, C{12.3}, C{1,234}: three digits, unless there are more before the point."""
    number = round(number, 3)
    places = 3 if number < 1 else 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:,.{places}f}"


def seconds(number: float) -> str:
    """C{0.123 s}, C{12.3 s}."""
    return f"{digits(number)} s"


def size(number: float) -> str:
    """C{12 B}, C{1.5 MiB}."""
    if number < 1024:
        return f"{number:.0f} B"
    for unit in "KMGT":
        number /= 1024
        if number < 999.5 or unit == "T":
            break
    return f"{number:.1f} {unit}iB" if number < 99.95 else f"{number:,.0f} {unit}iB"


def span(number: float | None) -> str:
    """A time span, in the two units that matter: C{12 s}, C{1m 05s}, C{2d 03h}; a dash for none."""
    if number is None:
        return "-"
    whole = max(0, int(number))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if not minutes:
        return f"{whole} s"
    if not hours:
        return f"{minutes}m {whole % 60:02}s"
    return f"{days:,}d {hours % 24:02}h" if days else f"{hours}h {minutes % 60:02}m"


def rate(number: int, duration: float) -> str:
    """C{1,234/s}."""
    per_second = number / max(duration, 1e-9)
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.2g}/s"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others are numbers. With lines on a terminal, aligned otherwise."""
    return Listing(headings[0], *(f">{heading}" for heading in headings[1:])).add(rows)


class Listing:
    """A table that may be shown part by part: later rows are as wide as those before, or wider."""

    def __init__(self, *headings: str) -> None:
        """
        @param headings: those that begin with C{>} are of numbers
        """
        self._right = [heading.startswith(">") for heading in headings]
        self._headings: Sequence[str] = [heading.removeprefix(">") for heading in headings]
        self._shown = is_terminal(1)
        # On a terminal each word of a heading has a line.
        self._widths = [max(map(len, heading.split() if self._shown else [heading]), default=0) for heading in self._headings]
        self._begun = self._tight = False

    def add(self, rows: Sequence[Sequence[str]]) -> str:
        """The text of these rows; at first that of the headings, too."""
        cells = [[visible(cell) for cell in row] for row in rows]
        self._widths = [max(width, *map(len, column), 0) for width, *column in zip(self._widths, *cells, strict=True)]
        begun, self._begun = self._begun, True
        if self._shown:
            return self._rich(cells, begun)
        return "".join(map(self._line, cells if begun else [self._headings, *cells]))

    def _line(self, row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, self._widths, self._right, strict=True)
        ]
        return "  ".join(padded).rstrip() + "\n"

    def _rich(self, rows: Sequence[Sequence[str]], begun: bool) -> str:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        *widths, last = self._widths
        # What is last, such as a name, is folded if it is long. Nothing is cut off, numbers least of all: rather the terminal breaks lines.
        last = min(last, _FOLDED)
        console = Console(file=sys.stdout)
        if not begun:
            self._tight = sum(widths) + 2 * len(widths) + last > console.width
        gap = 1 if self._tight else 2
        console.width = max(console.width, sum(widths) + gap * len(widths) + last)
        grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, show_header=not begun, padding=(0, gap - 1, 0, 0))
        for heading, right, width in zip(self._headings, self._right, [*widths, last], strict=True):
            lines = heading.replace(" ", "\n")
            grid.add_column(lines, justify="right" if right else "left", min_width=width, overflow="fold")
        for row in rows:
            grid.add_row(*map(Text, row))
        with console.capture() as captured:
            console.print(grid)
        return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
