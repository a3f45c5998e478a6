"""Numbers, names and tables as text for a terminal, of which nothing can steer the terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

_UNITS = "KMGT"

# What stands for what there is no room for.
_CUT = "..."


class Heading(str):
    """A line that stands out where colours are wanted."""

    __slots__ = ()


class Alarm(str):
    """A line that an operator must not overlook; in red where colours are wanted."""

    __slots__ = ()


def printable(text: str) -> str:
    r"""
    The text with everything but printable characters escaped, as C{\x1b} or C{\u202e}.

    Those are control characters, line and paragraph separators, every space but the plain one, what has no shape of its own and only
    changes the direction or the joining of others, and what Unicode does not know.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def width(text: str) -> int:
    """How many columns a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.category(one) in ("Mn", "Me") else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def cut(text: str, columns: int) -> str:
    """A text that takes no more than so many columns, its end replaced by three dots if need be."""
    if width(text) <= columns:
        return text
    kept, left = [], columns - len(_CUT)
    for one in text:
        left -= width(one)
        if left < 0:
            break
        kept.append(one)
    return ("".join(kept) + _CUT)[: max(columns, 0)]


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], least: Sequence[int] = ()) -> list[str]:
    """
    Lines of a table; the first is that of the headings.

    @param headings: those that begin with C{>} are of columns that are aligned on the right
    @param least: how wide the first columns are at least, so that they stay in their places when their content changes
    """
    right = [heading.startswith(">") for heading in headings]
    cells = [[heading.removeprefix(">") for heading in headings], *rows]
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    widths = [max(most, *least[place : place + 1], 0) for place, most in enumerate(widths)]
    lines: list[str] = []
    for row in cells:
        padded = []
        for cell, most, on_the_right in zip(row, widths, right, strict=True):
            space = " " * (most - width(cell))
            padded.append(space + cell if on_the_right else cell + space)
        lines.append("  ".join(padded).rstrip())
    lines[0] = Heading(lines[0])
    return lines


def count(number: int) -> str:
    """A number that fits into seven columns: exact up to 999,999."""
    if number < 10**6:
        return f"{number:,}"
    scaled, unit = number / 10**6, "M"
    if scaled >= 1000:
        scaled, unit = scaled / 1000, "G"
    return f"{scaled:.5g}{unit}"


def size(number: float) -> str:
    """A number of bytes."""
    if number < 1024:
        return f"{number:.0f} B"
    for unit in _UNITS:
        number /= 1024
        if number < 999.5 or unit == _UNITS[-1]:
            break
    return f"{number:.1f} {unit}iB" if number < 99.95 else f"{number:.0f} {unit}iB"


def duration(seconds: float | None) -> str:
    """A time span, in the two units that matter; a dash for none."""
    if seconds is None:
        return "-"
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if not hours:
        return f"{minutes}m {whole % 60:02}s"
    return f"{hours}h {minutes % 60:02}m" if not days else f"{days}d {hours % 24:02}h"


def rate(number: float) -> str:
    """Events a second."""
    return f"{number:,.0f}/s" if number >= 9.95 else f"{number:.1f}/s"


def several(number: int, noun: str, more: str = "") -> str:
    """A number of things."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {more or noun + 's'}"
