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
from phpmq.cli.output import Listing, is_terminal, json_line, note, visible
from phpmq.cli.pipes import Output
from phpmq.cli.running import sleep

# Queues that are asked for where frames are printed, and for a screen, which may become larger.
_USUAL, _LARGEST = 20, 200

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
        return [visible(line) for line in lines(self.status)]

    def hint(self, shown: int) -> str:
        """What is to be said below it."""
        return "no queues" if not self.queues else "and more queues" if self.more or shown < len(self.queues) else ""


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
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", expand=False)
        for place, heading in enumerate(HEADINGS):
            last = place == len(HEADINGS) - 1
            grid.add_column(heading.removeprefix(">"), justify="left" if last else "right", no_wrap=True, overflow="ellipsis")
        for queue in frame.queues[:room]:
            grid.add_row(*(Text(visible(cell)) for cell in row(queue)))
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
