"""Results of the API as text: the lines and the columns that the command shows of the server, of queues, clients and messages."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from phpmq.cli.admin.api import moment
from phpmq.message import STATES
from phpmq.results import FORMATS, ClientStatus, DeadLetterStatus, Formats, MessageStatus, QueueConsumer, QueueStatus, Table, Unit
from phpmq.results import paused as paused
from phpmq.text import format_duration, format_rate, format_size, plural

Result = Mapping[str, Any]

_FORMATS: Formats = {
    **FORMATS,
    Unit.COUNT: lambda number: f"{number:,}",
    Unit.NUMBER: lambda number: "the server" if number is None else str(number),
}

# The last column of each table can be of any length.
_QUEUES = Table(QueueStatus, *STATES, "bytes", "oldest_message_age_seconds", "consumers", "rates.received", "rates.delivered", "name")
_CLIENTS = Table(
    ClientStatus, "id", "address", "listener", "protocol", "connected_seconds", "in_flight", "bytes_received", "bytes_sent", "consuming"
)
_CONSUMERS = Table(QueueConsumer, "client", "in_flight", "window", "lease_seconds")
_LIVING = Table(MessageStatus, "id", "size", "attempts", "accepted_at", "body")
_MESSAGES = {
    "ready": _LIVING,
    "delayed": Table(MessageStatus, "id", "size", "attempts", "accepted_at", "due_at", "body"),
    "in_flight": _LIVING,
    "dead": Table(DeadLetterStatus, "id", "size", "attempts", "died_at", "reason", "body"),
}


class View(NamedTuple):
    """A table of results: its headings, those of numbers after a C{>}, and the function that makes a row's cells."""

    headings: Sequence[str]
    row: Callable[[Result], Sequence[str]]


def _queue_row(queue: Result) -> Sequence[str]:
    *numbers, name = _QUEUES.row(queue, _FORMATS)
    return [*numbers, f"{name}  (paused: {stopped})" if (stopped := paused(queue)) else name]


def _client_row(client: Result) -> Sequence[str]:
    *facts, queues = _CLIENTS.row(client, _FORMATS)
    return [*facts, queues + ("  (waits for room)" if client["waiting_for_room"] else "")]


#: Queues and what is paused of them, clients and whether their sends are blocked, and consumers of a queue.
QUEUES = View(_QUEUES.headings, _queue_row)
CLIENTS = View(_CLIENTS.headings, _client_row)
CONSUMERS = View(_CONSUMERS.headings, lambda consumer: _CONSUMERS.row(consumer, _FORMATS))


def messages(state: str, now: float) -> View:
    """Return the table of messages in one state, at that time of the server."""
    formats = {**_FORMATS, Unit.MOMENT: lambda text: format_duration(abs(now - moment(text)))}

    def row(message: Result) -> Sequence[str]:
        body = body_of(message).decode("utf-8", "backslashreplace") + ("…" if message["truncated"] else "")
        shown = {**message, "body": body}
        *facts, _ = _MESSAGES[state].row(shown, formats)
        if state == "dead":
            *facts, died, _ = facts
            facts += [f"{died} ago", _reason(message)]
        return [*facts, body]

    return View(_MESSAGES[state].headings, row)


def status_lines(status: Result) -> list[str]:
    """Return the whole server's status, in a few lines."""
    messages, memory, connections = (status[part] for part in ("messages", "memory", "connections"))
    process = f"; the process {format_size(memory['resident'])}, {format_size(memory['peak'])} at most" if "resident" in memory else ""
    dead = ", ".join(f"{number:,} {reason}" for reason, number in status["dead_lettered"].items() if number)
    return [
        f"phpmq {status['version']}, {status['state']}, up {format_duration(status['uptime_seconds'])}",
        f"messages  {_states(messages)}; {format_size(messages['bytes'])} wait",
        f"rates     {_rates(status['rates'])}",
        f"totals    {_totals(status['totals'])}" + (f"; dead letters: {dead}" if dead else ""),
        f"memory    {format_size(memory['used'])} of {format_size(memory['limit'])}{process}",
        f"file      {_mirror_file(status['mirror'])}",
        f"clients   {connections['open']:,} of {connections['limit']:,}; {plural(status['consumers'], 'consumer')},"
        f" {plural(status['queues'], 'queue')}",
        *(f"ALARM     {alarm['name']}: {alarm['text']}" for alarm in status["alarms"]),
    ]


def queue_lines(queue: Result) -> list[str]:
    """Return a queue's numbers, in a few lines."""
    stopped, age = paused(queue), queue["oldest_message_age_seconds"]
    return [
        f"queue     {queue['name']}",
        f"messages  {_states(queue)}",
        f"waiting   {format_size(queue['bytes'])}" + ("" if age is None else f", the next message for {format_duration(age)}"),
        f"rates     {_rates(queue['rates'])}",
        f"totals    {_totals(queue['totals'])}",
        *([f"PAUSED    {stopped}: phpmq resume goes on"] if stopped else []),
    ]


def setting_rows(queue: Result) -> list[tuple[str, str]]:
    """Return the names and values of a queue's settings."""
    return [(setting, value if isinstance(value, str) else f"{value:.15g}") for setting, value in queue["settings"].items()]


def message_lines(queue: str, message: Result, now: float) -> list[str]:
    """Return all that is known of a message but its body, in lines."""

    def time(name: str) -> str:
        away = moment(message[name]) - now
        return f"{message[name]}, " + (
            f"in {format_duration(away)}" if name in ("due_at", "expires_at") else f"{format_duration(-away)} ago"
        )

    lines = [
        f"message   {message['id']}",
        f"queue     {queue}, {message['state'].replace('_', ' ')}",
        f"body      {format_size(message['size'])}",
        f"attempts  {message['attempts']:,}",
        f"accepted  {time('accepted_at')}",
    ]
    if message["state"] == "dead":
        lines += [f"died      {time('died_at')}", f"reason    {_reason(message)}"]
    else:
        lines += [f"ready     {time('due_at')}"] if message["due_at"] is not None else []
        lines += [f"expires   {time('expires_at')}"] if message["expires_at"] is not None else []
        lines += [f"key       {message['key']}"] if message["key"] is not None else []
    return [*lines, *(f"header    {name}: {value}" for name, value in message["headers"].items())]


def body_of(message: Result) -> bytes:
    """Return the body of a message, as far as it is shown."""
    return b64decode(message["body_base64"]) if "body_base64" in message else message["body"].encode()


def _states(numbers: Result) -> str:
    return ", ".join(f"{numbers[state]:,} {state.replace('_', ' ')}" for state in STATES)


def _rates(rates: Result) -> str:
    return ", ".join(f"{counter} {format_rate(numbers['10s'])}" for counter, numbers in rates.items())


def _totals(numbers: Result) -> str:
    return ", ".join(f"{number:,} {counter.replace('_', ' ')}" for counter, number in numbers.items() if number) or "nothing"


def _reason(message: Result) -> str:
    return f"{message['reason']}: {message['text']}" if message["text"] else str(message["reason"])


def _mirror_file(mirror: Result) -> str:
    if mirror["file"] is None:
        return "none: the messages are in memory only"
    file, pending, lag = mirror["file"], plural(mirror["pending_changes"], "change"), mirror["lag_seconds"]
    if mirror["failing"]:
        return f"{file} cannot be written since {format_duration(lag)}: {pending} not in it"
    return f"{file}, {pending} not in it yet, the oldest for {lag:.1f} s" if mirror["pending_changes"] else f"{file} has everything"
