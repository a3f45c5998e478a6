"""Screens that show what goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from phpmq.admin.admin import Admin
from phpmq.admin.console import answers
from phpmq.admin.console.text import Heading, table
from phpmq.errors import NoSuchQueue
from phpmq.results import as_json, paused
from phpmq.text import cut, format_count, format_size, plural, terminal_safe

#: Columns and rows of the smallest screen, of one that nobody named the size of, and of the largest.
SMALLEST, USUAL, LARGEST = (40, 16), (80, 24), (400, 200)

_BAR = 10

# Columns of the tables, so that nothing moves while somebody looks.
_OVERVIEW, _QUEUE = (7, 9, 5, 8, 7, _BAR), (5, 9, 32, 8, 7, 8)

_HINT = "q or Enter leaves"

# Of more messages in flight none are listed.
_FINDABLE = 20_000


class View(NamedTuple):
    """
    What is watched, on a screen of what size.

    @ivar queue: a queue's name; None for the whole server
    """

    queue: str | None = None
    columns: int = USUAL[0]
    rows: int = USUAL[1]


class Screens:
    """
    The screens of all who watch: who watches the same sees the same, and it is drawn once.

    What all screens of the server show is asked for once, for the largest of them.
    """

    def __init__(self) -> None:
        self._drawn: dict[View, list[str]] = {}
        self._status: dict[str, Any] | None = None
        self._largest: list[dict[str, Any]] = []
        self._rows = 0

    def forget(self) -> None:
        """Draw anew from here on."""
        self._drawn.clear()
        self._status = None

    async def draw(self, admin: Admin, view: View) -> list[str]:
        """The lines of a screen, none longer and no more than there is room for."""
        lines = self._drawn.get(view)
        if lines is None:
            whole = await (self._overview(admin, view) if view.queue is None else _queue(admin, view.queue, view))
            lines = self._drawn[view] = [type(line)(cut(terminal_safe(line), view.columns)) for line in whole]
        return lines

    async def _overview(self, admin: Admin, view: View) -> list[str]:
        status, largest = await self._ask(admin, view.rows)
        lines = [*answers.status(status), ""]
        largest = largest[: max(1, view.rows - len(lines) - 2)]
        # In an order that does not change while somebody reads.
        shown = sorted(largest, key=lambda queue: str(queue["name"]))
        most = max((_waiting(queue) + queue["in_flight"] for queue in shown), default=0)
        headings = ">WAITING", ">IN FLIGHT", ">DEAD", ">SIZE", ">CLIENTS", "", "QUEUE"
        lines += table(headings, [_row(queue, most) for queue in shown], _OVERVIEW) if shown else ["no queues"]
        hidden = status["queues"] - len(shown)
        return [*lines, f"{plural(hidden, 'smaller queue')}. {_HINT}" if hidden > 0 else _HINT]

    async def _ask(self, admin: Admin, rows: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The server's numbers, with the largest queues for a screen of so many rows."""
        if self._status is None or rows > self._rows:
            self._rows = max(rows, self._rows)
            self._largest = as_json(await admin.queues.list(sort="-messages", limit=self._rows))["items"]
            self._status = as_json(admin.status())
        return self._status, self._largest


def _waiting(queue: Mapping[str, Any]) -> int:
    return int(queue["ready"] + queue["delayed"])


def _row(queue: Mapping[str, Any], most: int) -> tuple[str, ...]:
    return (
        format_count(_waiting(queue)),
        format_count(queue["in_flight"]),
        format_count(queue["dead"]),
        format_size(queue["bytes"]),
        format_count(queue["consumers"]),
        _bar(_waiting(queue), queue["in_flight"], most),
        ("(paused) " if paused(queue) else "") + terminal_safe(queue["name"]),
    )


def _bar(waiting: int, in_flight: int, most: int) -> str:
    """A bar whose length is the queue's share of the longest: what waits, then what is in flight."""
    together = _share(waiting + in_flight, most)
    held = min(_share(in_flight, most), together - bool(waiting and together > 1))
    return ("#" * (together - held) + "+" * held).ljust(_BAR)


def _share(number: int, most: int) -> int:
    return max(1, round(_BAR * number / most)) if number else 0


async def _queue(admin: Admin, name: str, view: View) -> list[str]:
    try:
        queue = as_json(admin.queues.status(name))
    except NoSuchQueue:
        gone = f"There is no such queue now: it comes with its first message or consumer. {_HINT}"
        return [Heading(f"queue {answers.name(name)}"), gone]
    lines = [*answers.queue(queue), ""]
    room = max(1, view.rows - len(lines) - 2)
    found: list[dict[str, Any]] = []
    # However many are in flight, half of the screen is for those that wait. To find the first of very many would take too long.
    most = max(room // 2, room - _waiting(queue)) if queue["in_flight"] <= _FINDABLE else 0
    limits = {"in_flight": most, "ready": room, "delayed": room}
    for state, limit in limits.items():
        if queue[state] and len(found) < limit:
            found += as_json(await admin.messages.list(name, state, limit=limit - len(found), preview=0))["items"]
    lines += table(answers.PLACES, answers.places(found, admin.now / 1000), _QUEUE)
    hidden = queue["in_flight"] + queue["ready"] + queue["delayed"] - len(found)
    return [*lines, f"{plural(hidden, 'more message')}. {_HINT}" if hidden > 0 else _HINT]
