"""A server that is asked again and again, on one screen or line below line."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from phpmq.cli.admin.api import Api
from phpmq.cli.admin.queues import HEADINGS, row
from phpmq.cli.admin.status import lines
from phpmq.cli.exits import Exit, Failed
from phpmq.cli.output import Listing, is_terminal, json_line, note
from phpmq.cli.pipes import Output
from phpmq.cli.running import sleep
from phpmq.text import terminal_safe

# Queues that are asked for where frames are printed, and for a screen, which may become larger.
_USUAL, _LARGEST = 20, 200

# The column of names, how much of them is shown at least, and the columns that a narrow screen can spare, the first one first.
_NAME, _SHORTEST = len(HEADINGS) - 1, 10
_SPARED = [HEADINGS.index(heading) for heading in (">SIZE", ">CONSUMERS", ">DELAYED", ">AGE", ">OUT", ">IN", ">DEAD", ">IN FLIGHT")]

# Failures that may pass: the server is started again, or has much to do.
_PASSING = Exit.UNREACHABLE, Exit.TIMED_OUT


@dataclass(frozen=True)
class Order:
    """What is to be watched; see the options."""

    pattern: str
    sort: str
    interval: float
    count: int | None
    limit: int | None
    as_json: bool


@dataclass(frozen=True)
class Frame:
    """
    What a server said at one moment.

    @ivar more: whether there are more queues
    """

    status: Mapping[str, Any]
    queues: list[dict[str, Any]]
    more: bool

    def head(self) -> list[str]:
        """The lines above the table."""
        return [terminal_safe(line) for line in lines(self.status)]

    def hint(self, shown: int) -> str:
        """What is to be said below it."""
        return "no queues" if not self.queues else "and more queues" if self.more or shown < len(self.queues) else ""


def _fitting(widths: list[int], room: int) -> tuple[list[int], int]:
    """Columns that a screen has room for, and what there is between them: less where it is narrow, and rather fewer than parts of some."""

    def need(columns: list[int], gap: int, name: int) -> int:
        return sum(widths[column] for column in columns if column != _NAME) + gap * len(columns) + name

    columns = list(range(len(widths)))
    if need(columns, 2, widths[_NAME]) <= room:
        return columns, 2
    for spared in _SPARED:
        if need(columns, 1, min(widths[_NAME], _SHORTEST)) <= room:
            break
        columns.remove(spared)
    return columns, 1


class Lines:
    """Frames one below the other."""

    def __init__(self, output: Output, as_json: bool) -> None:
        self._output, self._as_json = output, as_json
        self._begun = self._troubled = False

    def show(self, frame: Frame) -> None:
        """Print it."""
        self._troubled = False
        if self._as_json:
            self._output.put(json_line({"status": frame.status, "queues": frame.queues}))
            return
        text = "\n".join([*([""] if self._begun else []), *frame.head(), "", ""])
        if frame.queues:
            text += Listing(*HEADINGS).add([row(queue) for queue in frame.queues])
        if hint := frame.hint(len(frame.queues)):
            text += f"{hint}\n"
        self._begun = True
        self._output.put(text.encode())

    def trouble(self, error: Failed) -> None:
        """Say that there is none at the moment, once."""
        if not self._troubled:
            self._troubled = True
            note(f"{error.sentence}; trying again")

    def close(self) -> None:
        """Nothing is to be put back."""


class Screen:
    """Frames in the same place, on the terminal's other screen, so that nothing of them is left behind."""

    def __init__(self, reactor: Any) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._live = Live(console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._frame: Frame | None = None
        self._trouble = ""
        self._live.start()
        self._before = signal.signal(signal.SIGWINCH, lambda number, frame: reactor.callFromThread(self._draw))

    def show(self, frame: Frame) -> None:
        """Draw it."""
        self._frame, self._trouble = frame, ""
        self._draw()

    def trouble(self, error: Failed) -> None:
        """Draw the last one again, and say that it is that."""
        self._trouble = f"{error.sentence}; trying again"
        self._draw()

    def _draw(self) -> None:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        frame = self._frame
        if frame is None:
            return
        head = [Text(line, "bold red" if line.startswith("ALARM") else "", no_wrap=True, overflow="ellipsis") for line in frame.head()]
        head[0].stylize("bold")
        room = max(1, self._console.size.height - len(head) - 3)
        below = frame.hint(room)
        hint = Text(self._trouble or (f"{below}; Ctrl-C ends" if below else "Ctrl-C ends"), no_wrap=True, overflow="ellipsis")
        hint.stylize("bold red" if self._trouble else "dim")
        rows = [[terminal_safe(cell) for cell in row(queue)] for queue in frame.queues[:room]]
        headings = [heading.removeprefix(">") for heading in HEADINGS]
        widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
        columns, gap = _fitting(widths, self._console.size.width)
        grid = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold", expand=False)
        for column in columns:
            # Names are cut off before numbers are.
            number = column != _NAME
            least = widths[column] if number else None
            grid.add_column(headings[column], justify="right" if number else "left", min_width=least, no_wrap=True, overflow="ellipsis")
        for cells in rows:
            grid.add_row(*(Text(cells[column]) for column in columns))
        self._live.update(Group(*head, Text(""), grid, hint), refresh=True)

    def close(self) -> None:
        """Give the terminal back."""
        signal.signal(signal.SIGWINCH, self._before)
        self._live.stop()


async def watch(api: Api, output: Output, order: Order) -> int:
    """Show frame after frame: the exit code."""
    screen = not order.as_json and is_terminal(1) and os.environ.get("TERM", "dumb") != "dumb"
    view: Screen | Lines | None = None
    number = 0
    try:
        while True:
            begun = api.reactor.seconds()
            try:
                frame = await _ask(api, order, _LARGEST if screen else _USUAL)
            except Failed as error:
                if view is None or error.code not in _PASSING:
                    raise
                view.trouble(error)
            else:
                if view is None:
                    view = Screen(api.reactor) if screen else Lines(output, order.as_json)
                view.show(frame)
                await output.written()
            number += 1
            if number == order.count:
                return Exit.OK
            await sleep(api.reactor, max(0.0, begun + order.interval - api.reactor.seconds()))
    finally:
        if view is not None:
            # The terminal may be gone.
            with suppress(OSError):
                view.close()


async def _ask(api: Api, order: Order, usual: int) -> Frame:
    status = await api.get("ask for the status", "status", wants=("messages", "connections", "alarms"))
    limit = order.limit or usual
    page = await api.get("list queues", "queues", wants=("items", "next"), filter=order.pattern, sort=order.sort, limit=limit)
    return Frame(status, page["items"], page["next"] is not None)
