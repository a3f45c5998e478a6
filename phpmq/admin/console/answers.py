"""What L{phpmq.admin.Admin} tells, as lines of text. All names and bodies in them are printable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from shlex import quote
from typing import Any

from phpmq.admin.console.text import Alarm, Heading, table
from phpmq.results import (
    FORMATS,
    STATES,
    ClientStatus,
    DeadLetterStatus,
    DeadLetterTotals,
    Formats,
    MessageStatus,
    QueueConsumer,
    QueueStatus,
    Table,
    Unit,
    consumed,
    paused,
)
from phpmq.text import cut, format_count, format_duration, format_rate, format_size, plural, terminal_safe

#: How much of a body a line shows, in columns; in bytes that is four times as much at most.
BODY = 60

# What a word may consist of without quotes, beside letters and digits.
_BARE = "-_./:@%+=,~"

_STATES = {"ready": "waiting", "in_flight": "delivered"}

_QUEUES = Table(QueueStatus, *STATES, "bytes", "oldest_message_age_seconds", "consumers", "name")
_CONSUMERS = Table(QueueConsumer, "client", "in_flight", "window", "lease_seconds")
_MESSAGES = Table(MessageStatus, "id", "size", "accepted_at", "attempts")
_DEAD_LETTERS = Table(DeadLetterStatus, "id", "size", "attempts", "died_at")
_DEAD_TOTALS = Table(DeadLetterTotals, "dead", "bytes", "queue")
_CLIENTS = Table(ClientStatus, "id", "address", "protocol", "connected_seconds", "in_flight", "bytes_received", "bytes_sent", "consuming")


def name(text: str) -> str:
    """A name as a command takes it, in quotes if it needs them."""
    shown = terminal_safe(text)
    return shown if shown and all(one.isalnum() or one in _BARE for one in shown) else quote(shown)


def status(status: Mapping[str, Any]) -> list[str]:
    """The whole server, in a few lines."""
    messages, rates, memory, connections = (status[part] for part in ("messages", "rates", "memory", "connections"))
    counted = f"queues take {format_size(memory['used'])} of {format_size(memory['limit'])}"
    process = f"{format_size(memory['resident'])} now, {format_size(memory['peak'])} peak; " if "resident" in memory else ""
    return [
        Heading(
            f"phpmq {status['version']}  {status['state']}, up {format_duration(status['uptime_seconds'])}, {_clock(status['now'])} UTC"
        ),
        f"memory    {process}{counted}",
        f"file      {_mirror(status['mirror'])}",
        f"messages  {_messages(messages)}; {format_size(messages['bytes'])} wait",
        "rates     " + ", ".join(f"{counter} {format_rate(rates[counter]['1s'])}" for counter in rates),
        f"clients   {connections['open']:,} of {connections['limit']:,}, with {plural(status['consumers'], 'consumer')}"
        f" of {plural(status['queues'], 'queue')}",
        *(Alarm(f"ALARM     {alarm['text']}") for alarm in status["alarms"]),
    ]


def totals(status: Mapping[str, Any]) -> list[str]:
    """What was counted since the server started."""
    counted = {
        **status["totals"],
        **{f"dead: {reason}": number for reason, number in status["dead_lettered"].items()},
        **{f"connections {kind}": status["connections"][kind] for kind in ("accepted", "rejected")},
        **{f"timeouts: {kind}": number for kind, number in status["connections"]["timeouts"].items()},
        **{f"protocol errors: {kind}": number for kind, number in status["connections"]["protocol_errors"].items()},
    }
    return table(("SINCE THE START", ">"), [(kind.replace("_", " "), f"{number:,}") for kind, number in counted.items()])


def _clock(moment: str) -> str:
    return datetime.fromisoformat(moment).strftime("%Y-%m-%d %H:%M:%S")


def _mirror(mirror: Mapping[str, Any]) -> str:
    if mirror["file"] is None:
        return "none, the messages are in memory only"
    file, pending, lag = terminal_safe(mirror["file"]), plural(mirror["pending_changes"], "change"), mirror["lag_seconds"]
    if mirror["failing"]:
        return f"{file}, which cannot be written since {format_duration(lag)}: {pending} not in it"
    return f"{file}, {pending} not in it yet, the oldest for {lag:.1f} s" if mirror["pending_changes"] else f"{file}, up to date"


def _messages(numbers: Mapping[str, Any]) -> str:
    return ", ".join(f"{format_count(numbers[state])} {state.replace('_', ' ')}" for state in STATES)


def queue(queue: Mapping[str, Any]) -> list[str]:
    """A queue, in a few lines."""
    age, rates = queue["oldest_message_age_seconds"], queue["rates"]
    stopped = paused(queue)
    return [
        Heading(f"queue {name(queue['name'])}"),
        f"messages  {_messages(queue)}",
        f"waiting   {format_size(queue['bytes'])}" + ("" if age is None else f", the next message for {format_duration(age)}"),
        "rates     " + ", ".join(f"{counter} {format_rate(rates[counter]['1s'])}" for counter in rates),
        "totals    " + ", ".join(f"{counter} {number:,}" for counter, number in queue["totals"].items()),
        f"clients   {plural(queue['consumers'], 'consumer')}",
        *([f"keys      {format_count(queue['keys'])} remembered"] if queue["keys"] else []),
        *([Alarm(f"PAUSED    {stopped}; resume {name(queue['name'])} goes on")] if stopped else []),
    ]


_FORMATS: Formats = {
    **FORMATS,
    Unit.NUMBER: lambda number: "inside" if number is None else str(number),
    Unit.NAME: name,
    Unit.CONSUMING: lambda consuming: consumed(consuming, name),
}


def consumers(consuming: Sequence[Mapping[str, Any]]) -> list[str]:
    """Who consumes a queue; no lines for nobody."""
    return table(_CONSUMERS.headings, [_CONSUMERS.row(one, _FORMATS) for one in consuming]) if consuming else []


def settings(settings: Mapping[str, Any]) -> list[str]:
    """What is set for a queue."""
    return table(
        ("SETTING", "VALUE"), [(setting, value if isinstance(value, str) else f"{value:.15g}") for setting, value in settings.items()]
    )


def queues(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Queues, a line each. Their names come last, as they are: they can be of any length."""
    return _marked(_QUEUES, found, lambda one: f"  (paused: {stopped})" if (stopped := paused(one)) else "")


def _marked(columns: Table, found: Iterable[Mapping[str, Any]], mark: Callable[[Mapping[str, Any]], str]) -> list[str]:
    """A table in which some rows have something after their last cell."""
    rows = [columns.row(one, _FORMATS) for one in found]
    for row, one in zip(rows, found, strict=True):
        row[-1] += mark(one)
    return table(columns.headings, rows)


def places(found: Iterable[Mapping[str, Any]], now: float) -> list[list[str]]:
    """
    Messages as cells: place, state, id, size, age and attempts. What is not waiting has no place in the line.

    @param now: seconds since the epoch
    """
    rows: list[list[str]] = []
    place = 0
    formats = {**_FORMATS, Unit.MOMENT: lambda moment: format_duration(_since(moment, now))}
    for one in found:
        place += one["state"] == "ready"
        where = f"{place:,}" if one["state"] == "ready" else "-"
        rows.append([where, _STATES.get(one["state"], one["state"]), *_MESSAGES.row(one, formats)])
    return rows


#: Headings of L{places}.
PLACES = ">PLACE", "STATE", *_MESSAGES.headings


def messages(found: list[dict[str, Any]], now: float) -> list[str]:
    """Messages, with the beginning of their bodies in a second line each."""
    return _with_bodies(table(PLACES, places(found, now)), found)


def dead(found: list[dict[str, Any]], now: float) -> list[str]:
    """Dead letters, with the beginning of their bodies in a second line each."""
    formats = {**_FORMATS, Unit.MOMENT: lambda moment: f"{format_duration(_since(moment, now))} ago"}
    rows = [[*_DEAD_LETTERS.row(one, formats), _why(one)] for one in found]
    return _with_bodies(table([*_DEAD_LETTERS.headings, "REASON"], rows), found)


def _why(one: Mapping[str, Any]) -> str:
    return f"{one['reason']}: {cut(terminal_safe(one['text']), BODY)}" if one["text"] else str(one["reason"])


def _with_bodies(lines: list[str], found: Iterable[Mapping[str, Any]]) -> list[str]:
    whole = lines[:1]
    for line, one in zip(lines[1:], found, strict=True):
        whole += [line, f"    {_body(one)}"] if one["size"] else [line]
    return whole


def _body(one: Mapping[str, Any]) -> str:
    text = one["body"] if "body" in one else f"base64 {one['body_base64']}"
    return cut(terminal_safe(text) + ("..." if one["truncated"] else ""), BODY)


def _since(moment: str, now: float) -> float:
    return now - datetime.fromisoformat(moment).timestamp()


def message(one: Mapping[str, Any]) -> list[str]:
    """All about a message."""
    facts = {
        key.replace("_", " "): str(value)
        for key, value in one.items()
        if value not in (None, "", {}) and key not in ("body", "body_base64", "headers", "truncated")
    }
    lines = [f"{key + ':':12} {terminal_safe(value)}" for key, value in facts.items()]
    lines += [f"header:      {terminal_safe(header)}: {terminal_safe(value)}" for header, value in one["headers"].items()]
    text = one["body"] if "body" in one else f"base64 {one['body_base64']}"
    return [*lines, "", *map(terminal_safe, text.split("\n")), *(["..."] if one["truncated"] else [])]


def dead_totals(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Queues that have dead letters."""
    return table(_DEAD_TOTALS.headings, [_DEAD_TOTALS.row(one, _FORMATS) for one in found])


def clients(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Connections, a line each."""
    return _marked(_CLIENTS, found, lambda one: " (waits for room)" if one["waiting_for_room"] else "")
