"""
The console's commands: what each is called with, and what does it.

The help of a command is the docstring of its function, in which the names of L{LIMITS} may stand.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from textwrap import wrap
from typing import Any

from phpmq.admin.admin import Admin
from phpmq.admin.console import display
from phpmq.admin.console.display import CLIENTS, CONSUMERS, DEAD_TOTALS, QUEUES, Heading, View, format_name, table
from phpmq.admin.console.grammar import Answer, BadCommand, Call, Command, find
from phpmq.errors import NoSuchClient
from phpmq.results import Table, as_json, members, paused
from phpmq.text import parse_duration, parse_size, plural

_Function = Callable[[Admin, Call], Answer | Awaitable[Answer]]

#: How many messages, dead letters, queues, clients and consumers are listed at most, and KiB of a body that is shown alone.
LIMITS = {"messages": 10, "dead": 50, "queues": 200, "clients": 200, "consumers": 200, "body": 64}

# Bytes of a body in a list.
_PREVIEW = 4 * display.BODY

# How long the lines of help are at most.
_WIDTH = 79

# Settings that take a unit.
_WITH_UNIT: dict[str, Callable[[str], float]] = {"max_bytes": parse_size, "lease": parse_duration, "dedup": parse_duration}

#: Every command by its name, in the order in which C{help} lists them.
TABLE: dict[str, Command] = {}


def _command(arguments: str, summary: str, options: Sequence[str] = ("--json",), changes: bool = False) -> Callable[[_Function], _Function]:
    """Put a function into L{TABLE} as the command of its name."""

    def add(run: _Function) -> _Function:
        name = run.__name__.removeprefix("_")
        paragraphs = (run.__doc__ or "").format(**LIMITS).split("\n\n")
        text = "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        TABLE[name] = Command(name, arguments, summary, text, run, options, changes)
        return run

    return add


@_command("[COMMAND]", "the commands, or more about one", ())
def _help(admin: Admin, call: Call) -> Answer:
    """Commands and options are written out, there are no abbreviations. A name that begins with two dashes goes after a --."""
    if call.words:
        command = find(call.words[0], TABLE)
        paragraphs = f"{command.summary}.", *command.text.split("\n")
        return Answer([Heading(command.usage), *(line for paragraph in paragraphs for line in wrap(paragraph, _WIDTH))])
    lines = table(("COMMAND", ""), [(f"{command.name} {command.arguments}", command.summary) for command in TABLE.values()])
    hints = "help COMMAND tells more. A name with spaces goes into quotes. With --json most", "commands answer for programs."
    return Answer([*lines, "", *hints])


@_command("[QUEUE]", "watch the server or a queue; q leaves", ("--size",))
def _monitor(admin: Admin, call: Call) -> Answer:
    """
    It is refreshed twice a second. That of the server has the queues with the most messages, sorted by name, and a bar for each: # is what
    waits, + is what is in flight. That of a queue has its messages, those in flight first. The screen has 80 columns and 24 rows, unless
    --size says otherwise. A command that is typed meanwhile leaves the monitor and is run.
    """
    queue = call.words[0] if call.words else None
    return Answer(view=View(queue, *call.size) if call.size else View(queue))


@_command("", "the server in numbers")
def _status(admin: Admin, call: Call) -> Answer:
    """Memory, file, messages, rates, clients and alarms, and what was counted since the start."""
    status = as_json(admin.status())
    return Answer([*display.format_status(status), "", *display.format_totals(status)], status)


@_command("QUEUE [ID]", "a queue and its messages, or one of them")
async def _show(admin: Admin, call: Call) -> Answer:
    """
    Up to {messages} messages of each state are listed with the beginnings of their bodies. With an ID it is that message, also a dead one,
    with up to {body} KiB of its body. Nothing changes by looking.
    """
    name, *id = call.words
    if id:
        message = as_json(admin.messages.read(name, id[0], LIMITS["body"] * 1024)[0])
        return Answer(display.format_message(message), message)
    detail = await admin.queues.get(name)
    queue = as_json(replace(detail, consuming=detail.consuming[: LIMITS["consumers"]]))
    consuming = queue["consuming"]
    found: list[dict[str, Any]] = []
    for state in "in_flight", "ready", "delayed":
        if queue[state]:
            found += as_json(await admin.messages.list(name, state, limit=LIMITS["messages"], preview=_PREVIEW))["items"]
    more = queue["in_flight"] + queue["ready"] + queue["delayed"] - len(found)
    blocks = (
        display.format_list(CONSUMERS, consuming) + _more(len(detail.consuming) - len(consuming), "consumer") if consuming else [],
        display.format_settings(queue["settings"]),
        display.format_messages(found, admin.now / 1000) if found else [],
    )
    lines = [*display.format_queue(queue), *(line for block in blocks if block for line in ("", *block)), *_more(more, "message")]
    return Answer(lines, {**members(detail), "messages": found})


def _more(number: int, noun: str) -> list[str]:
    return [f"and {plural(number, f'more {noun}')}"] if number > 0 else []


def _listed(page: Any, columns: Table | Callable[[list[dict[str, Any]]], list[str]], none: str, more: str = "and more") -> Answer:
    """The answer for a page of results: a line of its own if there are none, and another one if there are more."""
    page = as_json(page)
    items = page["items"]
    lines = display.format_list(columns, items) if isinstance(columns, Table) else columns(items)
    return Answer([*(lines if items else [none]), *([more] if page["next"] else [])], page)


@_command("PATTERN", "queues with PATTERN in their names")
async def _search(admin: Admin, call: Call) -> Answer:
    """An asterisk stands for any characters; upper and lower case are the same. search * lists all, but never more than {queues}."""
    most = LIMITS["queues"]
    # Only the asterisk means something.
    pattern = call.words[0].replace("[", "[[]").replace("?", "[?]")
    page = await admin.queues.list(f"*{pattern}*", limit=most)
    more = f"and more: these are the first {most} by name, a longer pattern finds fewer"
    return _listed(page, QUEUES, f"no queue matches {format_name(call.words[0])}", more)


@_command("QUEUE", "remove what waits in a queue", changes=True)
def _flush(admin: Admin, call: Call) -> Answer:
    """Delayed ones too. Those in flight are left to their consumers, and are gone if they come back. Dead letters stay."""
    done = admin.queues.flush(call.words[0])
    return Answer([f"{plural(done.removed)} removed from {format_name(done.queue)}{_left(done.in_flight)}"], as_json(done))


def _left(in_flight: int) -> str:
    return f"; {in_flight:,} in flight left to their consumers, and gone if they come back" if in_flight else ""


@_command("[yes]", "remove what waits in all queues", changes=True)
async def _flushall(admin: Admin, call: Call) -> Answer:
    """Without the yes it only tells how many those are."""
    if call.words != ["yes"]:
        messages = admin.status().messages
        waiting = plural(messages.ready + messages.delayed)
        raise BadCommand(f"this removes all that waits, {waiting} now; if that is what you want, type: flushall yes")
    done = await admin.queues.flush_all()
    return Answer([f"{plural(done.removed)} removed from {plural(done.queues, 'queue')}{_left(done.in_flight)}"], as_json(done))


@_command("QUEUE [deliveries|sends|all]", "stop deliveries, sends or both", changes=True)
def _pause(admin: Admin, call: Call) -> Answer:
    """
    Deliveries, unless told otherwise. It holds over a restart, until resume. A queue that is not there is made. What is in flight is left
    alone; while sends are paused, senders wait or are refused.
    """
    return _how_paused(as_json(admin.queues.pause(*call.words)))


@_command("QUEUE [deliveries|sends|all]", "undo pause", changes=True)
def _resume(admin: Admin, call: Call) -> Answer:
    """Of all that is paused, unless told otherwise. Deliveries and senders that wait go on at once."""
    return _how_paused(as_json(admin.queues.resume(*call.words)))


def _how_paused(queue: dict[str, Any]) -> Answer:
    stopped = paused(queue)
    return Answer([f"{format_name(queue['name'])}: {stopped + ' paused' if stopped else 'nothing is paused'}"], queue)


@_command("[QUEUE]", "dead letters, or which queues have them")
async def _dead(admin: Admin, call: Call) -> Answer:
    """The oldest {dead}, with reason, what the client said, and the beginnings of their bodies. show QUEUE ID has the whole one."""
    if not call.words:
        return _listed(admin.dead_letters.totals(limit=LIMITS["queues"]), DEAD_TOTALS, "there are no dead letters")
    page = await admin.messages.list(call.words[0], "dead", limit=LIMITS["dead"], preview=_PREVIEW)
    none = f"{format_name(call.words[0])} has no dead letters"
    return _listed(page, lambda found: display.format_dead_letters(found, admin.now / 1000), none)


@_command("QUEUE [TARGET]", "requeue dead letters", changes=True)
async def _replay(admin: Admin, call: Call) -> Answer:
    """All of them go to the tail of the queue, or to that of another one, with their attempts forgotten."""
    name, *target = call.words
    done = await admin.dead_letters.replay(name, target[0] if target else None)
    replayed = plural(done.replayed, "dead letter")
    return Answer([f"{replayed} of {format_name(name)} replayed to {format_name(done.target)}"], as_json(done))


@_command("", "who is connected, with what they consume")
async def _clients(admin: Admin, call: Call) -> Answer:
    """The longest connected come first, {clients} at most. Bytes are those received from and sent to the client."""
    return _listed(await admin.clients.list(limit=LIMITS["clients"]), CLIENTS, "nobody is connected")


@_command("ID", "close a client's connection", changes=True)
def _disconnect(admin: Admin, call: Call) -> Answer:
    """The id is that of clients. What the client holds is ready again; most clients connect again."""
    if not re.fullmatch(r"\d{1,18}", call.words[0], re.ASCII):
        raise NoSuchClient(f"a client has a number, not {call.words[0]!r}")
    client = admin.clients.disconnect(int(call.words[0]))
    return Answer([f"client {client.id} ({client.address}) disconnected; {plural(client.in_flight)} in flight given back"], as_json(client))


@_command("FROM TO", "move what is ready to another queue", changes=True)
async def _move(admin: Admin, call: Call) -> Answer:
    """They keep their order, ids and attempts. Delayed ones and those in flight stay."""
    source, target = call.words
    done = await admin.messages.move(source, target)
    return Answer([f"{plural(done.moved)} moved from {format_name(source)} to {format_name(target)}"], as_json(done))


@_command("QUEUE [NAME VALUE]...", "what is set for a queue, or set it", changes=True)
def _settings(admin: Admin, call: Call) -> Answer:
    """
    The value default gives a setting its default back. A queue that is not there is made.

    max_messages, max_bytes: how much may wait, such as 1000 or 64M, 0 for no limit

    when_full: refuse or drop-oldest

    max_attempts: dead after so many deliveries, 0 for never

    lease: how long a consumer may hold a message, such as 30, 30s or 5m, 0 for no limit

    expired: drop, or dead to keep what expires as dead letters

    dedup: how long a message's key is known, 0 for while it is there
    """
    name, *pairs = call.words
    values = {setting: _value(setting, text) for setting, text in zip(pairs[::2], pairs[1::2], strict=True)}
    queues = admin.queues
    settings = as_json(queues.configure(name, values) if values else queues.status(name))["settings"]
    return Answer(display.format_settings(settings), {"queue": name, "settings": settings})


def _value(setting: str, text: str) -> Any:
    """A setting's value: a number, a word, or None for the default."""
    if text == "default":
        return None
    for kind in int, float, _WITH_UNIT.get(setting, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _add(name: str, summary: str, text: str, answer: Answer) -> None:
    """Add a command whose answer is always the same."""
    TABLE[name] = Command(name, "", summary, text, lambda *_: answer, ())


_add("clear", "clear the screen", "The one command that always sends an escape sequence.", Answer(clear=True))
_add("colour", "headings and alarms in colours", "plain ends that.", Answer([""], style="colour"))
_PLAIN = "Monitors go on below each other, with an empty line between. colour ends that."
_add("plain", "no prompt and no colours: for programs", _PLAIN, Answer([""], style="plain"))
_QUIT = "Ctrl-C and Ctrl-D do so too, but while a monitor is shown they leave it."
_add("quit", "close the connection", _QUIT, Answer(close=True))
_add("exit", "close the connection", "Another name of quit.", Answer(close=True))
