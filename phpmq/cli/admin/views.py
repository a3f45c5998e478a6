"""C{phpmq status}, C{clients} and C{top}: the server as a whole, who is connected to it, and what goes on."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import click

from phpmq.cli.admin.api import Api
from phpmq.cli.admin.run import api_verb, each
from phpmq.cli.exit_codes import Exit, Failed
from phpmq.cli.options import INTERVAL, PATTERN, order, sort_options
from phpmq.cli.output import Listing, Report, Writer, is_terminal, json_line, note
from phpmq.text import plural, terminal_safe

# Queues that are asked for where frames are printed, and for a screen, which may become larger.
_USUAL, _LARGEST = 20, 200
# How much of a name is shown at least, and the columns that a narrow screen can spare, the first one first.
_SHORTEST = 10
_SPARED = ">SIZE", ">CONSUMERS", ">DELAYED", ">AGE", ">OUT", ">IN", ">DEAD", ">IN FLIGHT"

# Failures that may pass: the server is started again, or has much to do.
_PASSING = Exit.UNREACHABLE, Exit.TIMED_OUT


@click.command()
@api_verb("Print what the API answers, on one line.")
async def status(api: Api, report: Report) -> None:
    """
    Show a server's numbers: messages, rates, memory, its file, clients, and alarms if there are any.

    \b
    phpmq status
    phpmq status --api http://mq.example:9180 --json
    """
    from phpmq.cli.admin.format import status_lines

    status = await _ask_status(api)
    report.put(status, *([] if report.as_json else status_lines(status)))


async def _ask_status(api: Api) -> dict[str, Any]:
    return await api.get("ask for the status", "status", wants=("messages", "connections", "alarms"))


def _check_clients(pattern: str, limit: int | None, disconnect: tuple[int, ...]) -> None:
    if disconnect and (pattern != "*" or limit is not None):
        raise click.UsageError("--disconnect excludes GLOB and --limit")


@click.command()
@click.argument("pattern", type=PATTERN, default="*", metavar="[GLOB]")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="List at most N.  [default: all]")
@click.option("--disconnect", type=click.IntRange(0), multiple=True, metavar="ID", help="Close this connection. May be repeated.")
@api_verb("Print a JSON object for each connection.", check=_check_clients)
async def clients(api: Api, report: Report, pattern: str, limit: int | None, disconnect: tuple[int, ...]) -> int | None:
    """
    List the connections whose address, listener or protocol matches GLOB, where * and ? stand for what they do in a shell; all without it.

    With --disconnect close connections. The messages that such a client holds are ready again, and nothing keeps it from connecting again.

    \b
    phpmq clients '127.0.0.1:*'
    phpmq clients --disconnect 17
    """
    if disconnect:
        return await _close_clients(api, report, tuple(dict.fromkeys(disconnect)))
    from phpmq.cli.admin.format import CLIENTS

    pages = api.pages("list clients", "clients", most=limit, filter=pattern)
    if not await report.put_pages(pages, *CLIENTS):
        note("there are no connections" if pattern == "*" else f"no connection matches {pattern}")
    return None


async def _close_clients(api: Api, report: Report, ids: Sequence[int]) -> int:
    async def close(id: int) -> None:
        done = await api.delete(f"disconnect {id}", "clients", str(id), wants=("address", "in_flight"))
        held = f"; the {plural(done['in_flight'])} that it held are ready again" if done["in_flight"] else ""
        report.put(done, f"{id}: {done['address']} is disconnected{held}")

    return await each(report, ids, close, "client")


@click.command()
@click.argument("pattern", type=PATTERN, default="*", metavar="[GLOB]")
@sort_options("messages")
@click.option("--interval", type=INTERVAL, default=1.0, show_default=True, metavar="S", help="Ask the server every S seconds.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N times.")
@click.option("--limit", type=click.IntRange(1, 1000), metavar="N", help="Show at most N queues.  [default: the screen, or 20]")
@api_verb("Print a JSON object each time.")
async def top(api: Api, report: Report, pattern: str, interval: float, count: int | None, limit: int | None, **sorted_by: Any) -> None:
    """
    Show what goes on, again and again: the server's numbers, and the queues that have most, or those that match GLOB. Ctrl-C ends it.

    On a terminal it is one screen that changes; elsewhere each time is printed below the last.

    \b
    phpmq top
    phpmq top 'mail-*' --sort rate
    """
    from phpmq.cli.reactor_main import sleep

    screen = not report.as_json and is_terminal(1) and os.environ.get("TERM", "dumb") != "dumb"
    view: Screen | Lines | None = None
    try:
        for number in itertools.count(1):
            begun = api.reactor.seconds()
            try:
                frame = await _ask(api, pattern, order(**sorted_by), limit or (_LARGEST if screen else _USUAL))
            except Failed as error:
                if view is None or error.code not in _PASSING:
                    raise
                view.trouble(error)
            else:
                if view is None:
                    view = Screen(api.reactor) if screen else Lines(report.output, report.as_json)
                view.show(frame)
                await report.output.written()
            if number == count:
                return
            await sleep(api.reactor, max(0.0, begun + interval - api.reactor.seconds()))
    finally:
        if view is not None:
            # The terminal may be gone.
            with suppress(OSError):
                view.close()


@dataclass(frozen=True)
class Frame:
    """A server's status and its first queues at one moment, and whether there are more queues."""

    status: Mapping[str, Any]
    queues: list[dict[str, Any]]
    more: bool

    def head(self) -> list[str]:
        """Return the lines above the table."""
        from phpmq.cli.admin.format import status_lines

        return [terminal_safe(line) for line in status_lines(self.status)]

    def hint(self, shown: int) -> str:
        """Return the line below the table, of which so many rows are shown; empty for none."""
        return "no queues" if not self.queues else "and more queues" if self.more or shown < len(self.queues) else ""


def _fitting(headings: Sequence[str], widths: Sequence[int], room: int) -> tuple[list[int], int]:
    """Return the columns that fit on a screen, and the gap between them: a narrow screen has a smaller gap, and fewer columns."""
    columns, name = list(range(len(widths))), len(widths) - 1

    def need(gap: int, shown: int) -> int:
        return sum(widths[column] for column in columns if column != name) + gap * len(columns) + shown

    if need(2, widths[name]) <= room:
        return columns, 2
    for spared in map(headings.index, _SPARED):
        if need(1, min(widths[name], _SHORTEST)) <= room:
            break
        columns.remove(spared)
    return columns, 1


class Lines:
    """Frames one below the other."""

    def __init__(self, output: Writer, as_json: bool) -> None:
        self._output, self._as_json = output, as_json
        self._begun = self._troubled = False

    def show(self, frame: Frame) -> None:
        """Print a frame."""
        from phpmq.cli.admin.format import QUEUES

        self._troubled = False
        if self._as_json:
            self._output.put(json_line({"status": frame.status, "queues": frame.queues}))
            return
        text = "\n".join([*([""] if self._begun else []), *frame.head(), "", ""])
        if frame.queues:
            text += Listing(*QUEUES.headings).add(list(map(QUEUES.row, frame.queues)))
        if hint := frame.hint(len(frame.queues)):
            text += f"{hint}\n"
        self._begun = True
        self._output.put(text.encode())

    def trouble(self, error: Failed) -> None:
        """Report once that the server does not answer."""
        if not self._troubled:
            self._troubled = True
            note(f"{error.sentence}; trying again")

    def close(self) -> None:
        """Do nothing: lines stay."""


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
        """Draw a frame."""
        self._frame, self._trouble = frame, ""
        self._draw()

    def trouble(self, error: Failed) -> None:
        """Draw the last frame again, and say that the server does not answer."""
        self._trouble = f"{error.sentence}; trying again"
        self._draw()

    def _draw(self) -> None:
        from rich.console import Group
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
        self._live.update(Group(*head, Text(""), _grid(frame.queues[:room], self._console.size.width), hint), refresh=True)

    def close(self) -> None:
        """Restore the terminal."""
        signal.signal(signal.SIGWINCH, self._before)
        self._live.stop()


def _grid(queues: Sequence[Mapping[str, Any]], room: int) -> Any:
    """Return a table of queues that fits on a screen."""
    from rich.table import Table
    from rich.text import Text

    from phpmq.cli.admin.format import QUEUES

    rows = [[terminal_safe(cell) for cell in QUEUES.row(queue)] for queue in queues]
    headings = [heading.removeprefix(">") for heading in QUEUES.headings]
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    columns, gap = _fitting(QUEUES.headings, widths, room)
    grid = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold", expand=False)
    for column in columns:
        # Names, which are the last column, are cut off before numbers are.
        number = column != len(widths) - 1
        least = widths[column] if number else None
        grid.add_column(headings[column], justify="right" if number else "left", min_width=least, no_wrap=True, overflow="ellipsis")
    for cells in rows:
        grid.add_row(*(Text(cells[column]) for column in columns))
    return grid


async def _ask(api: Api, pattern: str, sort: str, limit: int) -> Frame:
    status = await _ask_status(api)
    page = await api.get("list queues", "queues", wants=("items", "next"), filter=pattern, sort=sort, limit=limit)
    return Frame(status, page["items"], page["next"] is not None)
