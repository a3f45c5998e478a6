"""What L{phpmq.admin.Admin} tells, as lines of text. All names and bodies in them are printable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from shlex import quote
from typing import Any

from phpmq.admin.console.text import Alarm, Heading, table
from phpmq.text import cut, format_count, format_duration, format_rate, format_size, plural, terminal_safe

#: How much of a body a line shows, in columns; in bytes that is four times as much at most.
BODY = 60

# What a word may consist of without quotes, beside letters and digits.
_BARE = "-_./:@%+=,~"

# So many of the queues that a client consumes are named.
_NAMED = 4

_STATES = {"ready": "waiting", "in_flight": "delivered"}


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
    return ", ".join(f"{format_count(numbers[state])} {state.replace('_', ' ')}" for state in ("ready", "delayed", "in_flight", "dead"))


def paused(queue: Mapping[str, Any]) -> str:
    """What of a queue is paused; empty for nothing."""
    return " and ".join(what for what, is_paused in queue["paused"].items() if is_paused)


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


def consumers(consuming: Iterable[Mapping[str, Any]]) -> list[str]:
    """Who consumes a queue; no lines for nobody."""
    rows = [
        (str(one["client"] or "inside"), format_count(one["in_flight"]), format_count(one["window"]), _lease(one["lease_seconds"]))
        for one in consuming
    ]
    return table((">CLIENT", ">IN FLIGHT", ">WINDOW", ">LEASE"), rows) if rows else []


def _lease(seconds: float) -> str:
    return f"{seconds:g} s" if seconds else "-"


def settings(settings: Mapping[str, Any]) -> list[str]:
    """What is set for a queue."""
    return table(
        ("SETTING", "VALUE"), [(setting, value if isinstance(value, str) else f"{value:.15g}") for setting, value in settings.items()]
    )


def queues(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Queues, a line each. Their names come last, as they are: they can be of any length."""
    rows = [
        (
            *(format_count(one[state]) for state in ("ready", "delayed", "in_flight", "dead")),
            format_size(one["bytes"]),
            format_duration(one["oldest_message_age_seconds"]),
            format_count(one["consumers"]),
            name(one["name"]) + (f"  (paused: {paused(one)})" if paused(one) else ""),
        )
        for one in found
    ]
    return table((">READY", ">DELAYED", ">IN FLIGHT", ">DEAD", ">SIZE", ">AGE", ">CLIENTS", "QUEUE"), rows)


def places(found: Iterable[Mapping[str, Any]], now: float) -> list[tuple[str, ...]]:
    """
    Messages as cells: place, state, id, size, age and attempts. What is not waiting has no place in the line.

    @param now: seconds since the epoch
    """
    rows: list[tuple[str, ...]] = []
    place = 0
    for one in found:
        place += one["state"] == "ready"
        where = f"{place:,}" if one["state"] == "ready" else "-"
        state = _STATES.get(one["state"], one["state"])
        rows.append(
            (
                where,
                state,
                one["id"],
                format_size(one["size"]),
                format_duration(_since(one["accepted_at"], now)),
                format_count(one["attempts"]),
            )
        )
    return rows


#: Headings of L{places}.
PLACES = ">PLACE", "STATE", "ID", ">SIZE", ">AGE", ">ATTEMPTS"


def messages(found: list[dict[str, Any]], now: float) -> list[str]:
    """Messages, with the beginning of their bodies in a second line each."""
    return _with_bodies(table(PLACES, places(found, now)), found)


def dead(found: list[dict[str, Any]], now: float) -> list[str]:
    """Dead letters, likewise."""
    rows = [
        (
            one["id"],
            format_size(one["size"]),
            format_count(one["attempts"]),
            f"{format_duration(_since(one['died_at'], now))} ago",
            _why(one),
        )
        for one in found
    ]
    return _with_bodies(table(("ID", ">SIZE", ">ATTEMPTS", ">DIED", "REASON"), rows), found)


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


def graves(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Queues that have dead letters."""
    return table((">DEAD", ">SIZE", "QUEUE"), [(format_count(one["dead"]), format_size(one["bytes"]), name(one["queue"])) for one in found])


def clients(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Connections, a line each."""
    rows = [
        (
            str(one["id"]),
            one["address"],
            one["protocol"] or "-",
            format_duration(one["connected_seconds"]),
            format_count(one["in_flight"]),
            format_size(one["bytes_received"]),
            format_size(one["bytes_sent"]),
            _consumed(one["consuming"]) + (" (waits for room)" if one["waiting_for_room"] else ""),
        )
        for one in found
    ]
    return table((">ID", "ADDRESS", "PROTOCOL", ">AGE", ">IN FLIGHT", ">RECEIVED", ">SENT", "QUEUES"), rows)


def _consumed(consuming: list[dict[str, Any]]) -> str:
    names = [name(consumer["queue"]) for consumer in consuming[:_NAMED]]
    more = len(consuming) - len(names)
    return (", ".join(names) or "-") + (f" and {more:,} more" if more else "")
