"""Output for people and programs: plain in a pipe, made for eyes on a terminal, and never anything that a terminal would obey."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from phpmq.text import format_rate, json_safe, plural, terminal_safe

# The least characters of a column that is folded.
_FOLDED = 12
# Seconds after which progress is shown, and between two looks, on a terminal and elsewhere.
_AFTER, _TERMINAL, _ELSEWHERE = 0.4, 0.1, 1.0


def is_terminal(descriptor: int) -> bool:
    """Return whether a descriptor is a terminal."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def note(sentence: str) -> None:
    """Write a line for the user to standard error."""
    # If nobody reads it, so be it.
    with suppress(OSError):
        os.write(2, f"phpmq: {terminal_safe(sentence)}\n".encode())


def json_line(value: Mapping[str, Any]) -> bytes:
    """Return a JSON object on a line of its own, readable, and harmless for a terminal."""
    return json_safe(json.dumps(value, ensure_ascii=False)).encode() + b"\n"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose other columns are numbers."""
    return Listing(headings[0], *(f">{heading}" for heading in headings[1:])).add(rows)


class Listing:
    """A table that is shown part by part: later rows are as wide as those before, or wider. Headings of numbers begin with C{>}."""

    def __init__(self, *headings: str) -> None:
        self._right = [heading.startswith(">") for heading in headings]
        self._headings: Sequence[str] = [heading.removeprefix(">") for heading in headings]
        self._shown = is_terminal(1)
        # On a terminal each word of a heading has a line.
        self._widths = [max(map(len, heading.split() if self._shown else [heading]), default=0) for heading in self._headings]
        self._begun = self._tight = False

    def add(self, rows: Sequence[Sequence[str]]) -> str:
        """Return the text of these rows; at first also that of the headings."""
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


class Writer(Protocol):
    """Where bytes are written, as L{phpmq.cli.stdio.Output} does it."""

    def put(self, data: bytes) -> None:
        """Write data after what was put before."""

    def written(self) -> Awaitable[None]:
        """Wait until all is written."""


class Report:
    """Prints what a verb found: lines and tables for people, or JSON objects for programs."""

    def __init__(self, output: Writer, as_json: bool = False) -> None:
        self.output, self.as_json = output, as_json

    def put(self, value: Mapping[str, Any], *lines: str) -> None:
        """Print an object as JSON, or else the lines that say the same."""
        self.output.put(json_line(value) if self.as_json else "".join(f"{terminal_safe(line)}\n" for line in lines).encode())

    async def put_pages(
        self,
        pages: AsyncIterator[list[dict[str, Any]]],
        headings: Sequence[str],
        row: Callable[[Mapping[str, Any]], Sequence[str]],
        limit: int | None = None,
    ) -> int:
        """
        Print the items of pages as they come, at most C{limit}, as a table or as JSON objects.

        @return: the number of items, also those beyond the limit
        """
        listing, found = Listing(*headings), 0
        async for page in pages:
            shown = page if limit is None else page[: max(0, limit - found)]
            found += len(page)
            if self.as_json:
                self.output.put(b"".join(map(json_line, shown)))
            elif shown:
                self.output.put(listing.add([row(item) for item in shown]).encode())
            await self.output.written()
        return found


class Progress:
    """Shows on standard error how many messages are done; count them in C{done}."""

    def __init__(self, reactor: Any, label: str, total: int | None, wanted: bool | None) -> None:
        """
        @param wanted: None for "on a terminal"; elsewhere it prints a line a second
        """
        from twisted.internet.defer import CancelledError, Deferred

        self.done = 0
        self._reactor = reactor
        self._label, self._total = terminal_safe(label), total
        self._started = reactor.seconds()
        self._live: Any = None
        self._task: Any = None
        shown = is_terminal(2) if wanted is None else wanted
        self._showing: Deferred[None] = Deferred.fromCoroutine(self._show()) if shown else Deferred()
        self._showing.addErrback(lambda failure: failure.trap(CancelledError))

    async def _show(self) -> None:
        from phpmq.cli.reactor_main import sleep

        await sleep(self._reactor, _AFTER)
        if is_terminal(2):
            self._live = _bar(self._total)
            if self._live is not None:
                self._task = self._live.add_task(self._label, total=self._total, rate="")
                self._live.start()
        while True:
            self._look()
            await sleep(self._reactor, _ELSEWHERE if self._live is None else _TERMINAL)

    def _look(self) -> None:
        speed = format_rate(self.done, self._reactor.seconds() - self._started)
        if self._live is None:
            total = "" if self._total is None else f" of {self._total:,}"
            note(f"{self._label}: {plural(self.done)}{total}, {speed}")
        else:
            self._live.update(self._task, completed=self.done, rate=speed)
            self._live.refresh()

    def note(self, sentence: str) -> None:
        """Write a line for the user above the progress bar."""
        if self._live is not None:
            self._live.stop()
        note(sentence)
        if self._live is not None:
            self._live.start()

    def close(self) -> None:
        """Remove the progress bar."""
        self._showing.cancel()
        if self._live is not None:
            self._live.stop()
            self._live = None


def _bar(total: int | None) -> Any:
    """Return a progress bar; None where the terminal cannot move the cursor."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if console.is_dumb_terminal:
        return None
    count = TextColumn("{task.completed:,.0f}" + ("" if total is None else " of {task.total:,.0f}"))
    start = [SpinnerColumn()] if total is None else []
    middle = [] if total is None else [BarColumn()]
    end = TimeElapsedColumn() if total is None else TimeRemainingColumn()
    columns = [*start, TextColumn("{task.description}", markup=False), *middle, count, TextColumn("{task.fields[rate]}"), end]
    return Progress(*columns, console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
