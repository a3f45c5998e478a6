"""Lines of the console that stand out, and tables; see L{phpmq.text} for what is in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from phpmq.text import width


class Heading(str):
    """A line that stands out where colours are wanted."""

    __slots__ = ()


class Alarm(str):
    """A line that an operator must not overlook; in red where colours are wanted."""

    __slots__ = ()


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
