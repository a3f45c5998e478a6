"""What the console shows: results as lines of text, and the screens of monitors. Names and bodies in them are safe for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import count
from shlex import quote
from typing import Any, NamedTuple

from phpmq import results
from phpmq.admin.admin import Admin
from phpmq.errors import NoSuchQueue
from phpmq.message import STATES
from phpmq.results import Formats, Table, Unit, as_json, consumed, paused
from phpmq.text import cut, format_count, format_duration, format_rate, format_size, plural, terminal_safe, width

#: How much of a body a line shows, in columns; in bytes that is four times as much at most.
BODY = 60

# What a word may consist of without quotes, beside letters and digits.
_BARE = "-_./:@%+=,~"

_STATES = {"ready": "waiting", "in_flight": "delivered"}

_LARGEST = Table(results.QueueStatus, "in_flight", "dead", "bytes", "consumers")
_MESSAGES = Table(results.MessageStatus, "id", "size", "accepted_at", "attempts")
_DEAD_LETTERS = Table(results.DeadLetterStatus, "id", "size", "attempts", "died_at")

#: What is listed with a line for each result. Names of queues come last, as they can be of any length.
QUEUES = Table(results.QueueStatus, *STATES, "bytes", "oldest_message_age_seconds", "consumers", "name")
CONSUMERS = Table(results.QueueConsumer, "client", "in_flight", "window", "lease_seconds")
DEAD_TOTALS = Table(results.DeadLetterTotals, "dead", "bytes", "queue")
CLIENTS = Table(
    results.ClientStatus, "id", "address", "protocol", "connected_seconds", "in_flight", "bytes_received", "bytes_sent", "consuming"
)

#: Columns and rows of the smallest screen, of one that nobody named the size of, and of the largest.
SMALLEST, USUAL, LARGEST = (40, 16), (80, 24), (400, 200)

_BAR = 10

# Columns of the tables, so that nothing moves while somebody looks.
_OVERVIEW, _QUEUE = (7, 9, 5, 8, 7, _BAR), (5, 9, 32, 8, 7, 8)

_HINT = "q or Enter leaves"

# Of more messages in flight none are listed.
_FINDABLE = 20_000


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
    widths = [max(0, *map(width, column), *least[place : place + 1]) for place, column in enumerate(zip(*cells, strict=True))]
    heading, *lines = ("  ".join(map(_pad, row, widths, right)).rstrip() for row in cells)
    return [Heading(heading), *lines]


def _pad(cell: str, columns: int, right: bool) -> str:
    space = " " * (columns - width(cell))
    return space + cell if right else cell + space


# Results


def format_name(text: str) -> str:
    """A name as a command takes it, in quotes if it needs them."""
    shown = terminal_safe(text)
    return shown if shown and all(one.isalnum() or one in _BARE for one in shown) else quote(shown)


def format_status(status: Mapping[str, Any]) -> list[str]:
    """The whole server, in a few lines."""
    messages, rates, memory, connections = (status[part] for part in ("messages", "rates", "memory", "connections"))
    now = status["now"][:19].replace("T", " ")
    counted = f"queues take {format_size(memory['used'])} of {format_size(memory['limit'])}"
    process = f"{format_size(memory['resident'])} now, {format_size(memory['peak'])} peak; " if "resident" in memory else ""
    return [
        Heading(f"phpmq {status['version']}  {status['state']}, up {format_duration(status['uptime_seconds'])}, {now} UTC"),
        f"memory    {process}{counted}",
        f"file      {_mirror(status['mirror'])}",
        f"messages  {_messages(messages)}; {format_size(messages['bytes'])} wait",
        _rates(rates),
        f"clients   {connections['open']:,} of {connections['limit']:,}, with {plural(status['consumers'], 'consumer')}"
        f" of {plural(status['queues'], 'queue')}",
        *(Alarm(f"ALARM     {alarm['text']}") for alarm in status["alarms"]),
    ]


def format_totals(status: Mapping[str, Any]) -> list[str]:
    """What was counted since the server started."""
    counted = {
        **status["totals"],
        **{f"dead: {reason}": number for reason, number in status["dead_lettered"].items()},
        **{f"connections {kind}": status["connections"][kind] for kind in ("accepted", "rejected")},
        **{f"timeouts: {kind}": number for kind, number in status["connections"]["timeouts"].items()},
        **{f"protocol errors: {kind}": number for kind, number in status["connections"]["protocol_errors"].items()},
    }
    return table(("SINCE THE START", ">"), [(kind.replace("_", " "), f"{number:,}") for kind, number in counted.items()])


def _mirror(mirror: Mapping[str, Any]) -> str:
    if mirror["file"] is None:
        return "none, the messages are in memory only"
    file, pending, lag = terminal_safe(mirror["file"]), plural(mirror["pending_changes"], "change"), mirror["lag_seconds"]
    if mirror["failing"]:
        return f"{file}, which cannot be written since {format_duration(lag)}: {pending} not in it"
    return f"{file}, {pending} not in it yet, the oldest for {lag:.1f} s" if mirror["pending_changes"] else f"{file}, up to date"


def _rates(rates: Mapping[str, Any]) -> str:
    return "rates     " + ", ".join(f"{counter} {format_rate(rate['1s'])}" for counter, rate in rates.items())


def _messages(numbers: Mapping[str, Any]) -> str:
    return ", ".join(f"{format_count(numbers[state])} {state.replace('_', ' ')}" for state in STATES)


def format_queue(queue: Mapping[str, Any]) -> list[str]:
    """A queue, in a few lines."""
    age, rates = queue["oldest_message_age_seconds"], queue["rates"]
    stopped = paused(queue)
    return [
        Heading(f"queue {format_name(queue['name'])}"),
        f"messages  {_messages(queue)}",
        f"waiting   {format_size(queue['bytes'])}" + ("" if age is None else f", the next message for {format_duration(age)}"),
        _rates(rates),
        "totals    " + ", ".join(f"{counter} {number:,}" for counter, number in queue["totals"].items()),
        f"clients   {plural(queue['consumers'], 'consumer')}",
        *([f"keys      {format_count(queue['keys'])} remembered"] if queue["keys"] else []),
        *([Alarm(f"PAUSED    {stopped}; resume {format_name(queue['name'])} goes on")] if stopped else []),
    ]


_FORMATS: Formats = {
    **results.FORMATS,
    Unit.NUMBER: lambda number: "inside" if number is None else str(number),
    Unit.NAME: format_name,
    Unit.CONSUMING: lambda consuming: consumed(consuming, format_name),
}


def format_settings(settings: Mapping[str, Any]) -> list[str]:
    """What is set for a queue."""
    rows = [(setting, value if isinstance(value, str) else f"{value:.15g}") for setting, value in settings.items()]
    return table(("SETTING", "VALUE"), rows)


def format_list(columns: Table, found: Iterable[Mapping[str, Any]]) -> list[str]:
    """A table of results, in which what is stopped has a mark after its last cell."""
    rows = [columns.row(one, _FORMATS) for one in found]
    for row, one in zip(rows, found, strict=True):
        row[-1] += _mark(one)
    return table(columns.headings, rows)


def _mark(one: Mapping[str, Any]) -> str:
    if one.get("waiting_for_room"):
        return " (waits for room)"
    return f"  (paused: {stopped})" if "paused" in one and (stopped := paused(one)) else ""


def message_cells(found: Iterable[Mapping[str, Any]], now: float) -> list[list[str]]:
    """Messages as cells under L{PLACES}, at a time in seconds since the epoch. What is not waiting has no place in the line."""
    places = count(1)
    formats = {**_FORMATS, Unit.MOMENT: lambda moment: _since(moment, now)}
    return [
        [f"{next(places):,}" if one["state"] == "ready" else "-", _STATES.get(one["state"], one["state"]), *_MESSAGES.row(one, formats)]
        for one in found
    ]


#: Headings of L{message_cells}.
PLACES = ">PLACE", "STATE", *_MESSAGES.headings


def format_messages(found: list[dict[str, Any]], now: float) -> list[str]:
    """Messages, with the beginning of their bodies in a second line each."""
    return _with_bodies(table(PLACES, message_cells(found, now)), found)


def format_dead_letters(found: list[dict[str, Any]], now: float) -> list[str]:
    """Dead letters, with the beginning of their bodies in a second line each."""
    formats = {**_FORMATS, Unit.MOMENT: lambda moment: f"{_since(moment, now)} ago"}
    rows = []
    for one in found:
        said = f": {cut(terminal_safe(one['text']), BODY)}" if one["text"] else ""
        rows.append([*_DEAD_LETTERS.row(one, formats), one["reason"] + said])
    return _with_bodies(table([*_DEAD_LETTERS.headings, "REASON"], rows), found)


def _with_bodies(lines: list[str], found: Iterable[Mapping[str, Any]]) -> list[str]:
    whole = lines[:1]
    for line, one in zip(lines[1:], found, strict=True):
        body = terminal_safe(_text(one)) + ("..." if one["truncated"] else "")
        whole += [line, f"    {cut(body, BODY)}"] if one["size"] else [line]
    return whole


def _text(one: Mapping[str, Any]) -> str:
    return str(one["body"]) if "body" in one else f"base64 {one['body_base64']}"


def _since(moment: str, now: float) -> str:
    return format_duration(now - datetime.fromisoformat(moment).timestamp())


def format_message(one: Mapping[str, Any]) -> list[str]:
    """All about a message."""
    facts = {
        key.replace("_", " "): str(value)
        for key, value in one.items()
        if value not in (None, "", {}) and key not in ("body", "body_base64", "headers", "truncated")
    }
    lines = [f"{key + ':':12} {terminal_safe(value)}" for key, value in facts.items()]
    lines += [f"header:      {terminal_safe(header)}: {terminal_safe(value)}" for header, value in one["headers"].items()]
    return [*lines, "", *map(terminal_safe, _text(one).split("\n")), *(["..."] if one["truncated"] else [])]


# Monitors


class View(NamedTuple):
    """What is watched, a queue or else the whole server, on a screen of what size."""

    queue: str | None = None
    columns: int = USUAL[0]
    rows: int = USUAL[1]


class Screens:
    """The screens of all who watch. The same one is drawn once; what those of the server show is asked for once, for the largest."""

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
        if view not in self._drawn:
            whole = await (self._overview(admin, view) if view.queue is None else _queue(admin, view.queue, view))
            self._drawn[view] = [type(line)(cut(terminal_safe(line), view.columns)) for line in whole]
        return self._drawn[view]

    async def _overview(self, admin: Admin, view: View) -> list[str]:
        if self._status is None or view.rows > self._rows:
            self._rows = max(view.rows, self._rows)
            self._largest = as_json(await admin.queues.list(sort="-messages", limit=self._rows))["items"]
            self._status = as_json(admin.status())
        status = self._status
        lines = [*format_status(status), ""]
        largest = self._largest[: max(1, view.rows - len(lines) - 2)]
        # In an order that does not change while somebody reads.
        shown = sorted(largest, key=lambda queue: str(queue["name"]))
        most = max((_waiting(queue) + queue["in_flight"] for queue in shown), default=0)
        headings = ">WAITING", *_LARGEST.headings, "", "QUEUE"
        lines += table(headings, [_row(queue, most) for queue in shown], _OVERVIEW) if shown else ["no queues"]
        hidden = status["queues"] - len(shown)
        return [*lines, f"{plural(hidden, 'smaller queue')}. {_HINT}" if hidden > 0 else _HINT]


def _waiting(queue: Mapping[str, Any]) -> int:
    return int(queue["ready"] + queue["delayed"])


def _row(queue: Mapping[str, Any], most: int) -> list[str]:
    mark = "(paused) " if paused(queue) else ""
    bar = _bar(_waiting(queue), queue["in_flight"], most)
    return [format_count(_waiting(queue)), *_LARGEST.row(queue, _FORMATS), bar, mark + terminal_safe(queue["name"])]


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
        return [Heading(f"queue {format_name(name)}"), gone]
    lines = [*format_queue(queue), ""]
    room = max(1, view.rows - len(lines) - 2)
    found: list[dict[str, Any]] = []
    # However many are in flight, half of the screen is for those that wait. To find the first of very many would take too long.
    most = max(room // 2, room - _waiting(queue)) if queue["in_flight"] <= _FINDABLE else 0
    limits = {"in_flight": most, "ready": room, "delayed": room}
    for state, limit in limits.items():
        if queue[state] and len(found) < limit:
            found += as_json(await admin.messages.list(name, state, limit=limit - len(found), preview=0))["items"]
    lines += table(PLACES, message_cells(found, admin.now / 1000), _QUEUE)
    hidden = queue["in_flight"] + queue["ready"] + queue["delayed"] - len(found)
    return [*lines, f"{plural(hidden, 'more message')}. {_HINT}" if hidden > 0 else _HINT]
