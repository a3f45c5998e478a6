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


def rate(number: int, duration: float) -> str:
    """C{1,234/s}."""
    per_second = number / max(duration, 1e-9)
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.2g}/s"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others are numbers. With lines on a terminal, aligned otherwise."""
    if is_terminal(1):
        return _rich_table(headings, rows)
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = []
    for row in (headings, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)


def _rich_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for number, heading in enumerate(headings):
        grid.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(Text(visible(cell)) for cell in row))
    console = Console(file=sys.stdout)
    with console.capture() as captured:
        console.print(grid)
    return captured.get()
