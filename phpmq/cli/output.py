"""What is shown: plain in a pipe, made for eyes on a terminal, and never anything that a terminal would obey."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from phpmq.text import json_safe, terminal_safe

# A column that is folded has so many characters at least.
_FOLDED = 12


def is_terminal(descriptor: int) -> bool:
    """Whether somebody looks at what is written there."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def note(sentence: str) -> None:
    """A line for the user, on stderr."""
    # If nobody reads it, so be it.
    with suppress(OSError):
        os.write(2, f"phpmq: {terminal_safe(sentence)}\n".encode())


def json_line(value: Mapping[str, Any]) -> bytes:
    """A JSON object on a line of its own; readable, and harmless for a terminal."""
    return json_safe(json.dumps(value, ensure_ascii=False)).encode() + b"\n"


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
        cells = [[terminal_safe(cell) for cell in row] for row in rows]
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
