"""The console's commands: one table of what there is, what it is called with, and what does it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from textwrap import wrap
from typing import Any

from phpmq.admin.admin import Admin
from phpmq.admin.console import answers
from phpmq.admin.console.language import Answer, BadCommand, Call, Command, Terminal, find
from phpmq.admin.console.monitor import View
from phpmq.admin.console.text import Heading, table
from phpmq.errors import NoSuchClient
from phpmq.results import as_json, members, paused
from phpmq.text import parse_duration, parse_size, plural

# So many messages, dead letters, queues, clients and consumers are listed at most; a body is shown up to so many bytes, in lists and alone.
_MESSAGES, _DEAD, _QUEUES, _CLIENTS, _CONSUMERS = 10, 50, 200, 200, 200
_PREVIEW, _WHOLE = 4 * answers.BODY, 64 * 1024

# How long the lines of help are at most.
_WIDTH = 79


def _help(terminal: Terminal, call: Call) -> Answer:
    if call.words:
        command = find(call.words[0], TABLE)
        paragraphs = f"{command.summary}.", *command.text.split("\n")
        return Answer([Heading(command.usage), *(line for paragraph in paragraphs for line in wrap(paragraph, _WIDTH))])
    lines = table(("COMMAND", ""), [(f"{command.name} {command.arguments}", command.summary) for command in TABLE.values()])
    hints = "help COMMAND tells more. A name with spaces goes into quotes. With --json most", "commands answer for programs."
    return Answer([*lines, "", *hints])


async def _monitor(terminal: Terminal, call: Call) -> Answer:
    queue = call.words[0] if call.words else None
    await terminal.watch(View(queue, *call.size) if call.size else View(queue))
    return Answer()


def _status(terminal: Terminal, call: Call) -> Answer:
    status = as_json(terminal.admin.status())
    return Answer([*answers.status(status), "", *answers.totals(status)], status)


async def _show(terminal: Terminal, call: Call) -> Answer:
    admin, (name, *id) = terminal.admin, call.words
    if id:
        message = as_json(await admin.messages.get(name, id[0], _WHOLE))
        return Answer(answers.message(message), message)
    detail = await admin.queues.get(name)
    more_consumers = len(detail.consuming) - _CONSUMERS
    queue = as_json(replace(detail, consuming=detail.consuming[:_CONSUMERS]))
    found: list[dict[str, Any]] = []
    for state in "in_flight", "ready", "delayed":
        if queue[state]:
            found += as_json(await admin.messages.list(name, state, limit=_MESSAGES, preview=_PREVIEW))["items"]
    more = queue["in_flight"] + queue["ready"] + queue["delayed"] - len(found)
    lines = [*answers.queue(queue), *_block(_consumers(queue["consuming"], more_consumers)), *_block(answers.settings(queue["settings"]))]
    lines += _block(answers.messages(found, _now(admin)) if found else [])
    return Answer([*lines, *([f"and {plural(more, 'more message')}"] if more > 0 else [])], {**members(detail), "messages": found})


def _consumers(consuming: list[dict[str, Any]], more: int) -> list[str]:
    return [*answers.consumers(consuming), *([f"and {plural(more, 'more consumer')}"] if more > 0 else [])]


def _block(lines: list[str]) -> list[str]:
    return ["", *lines] if lines else []


def _now(admin: Admin) -> float:
    return admin.now / 1000


async def _search(terminal: Terminal, call: Call) -> Answer:
    # Only the asterisk means something.
    pattern = call.words[0].replace("[", "[[]").replace("?", "[?]")
    page = as_json(await terminal.admin.queues.list(f"*{pattern}*", limit=_QUEUES))
    lines = answers.queues(page["items"]) if page["items"] else [f"no queue matches {answers.name(call.words[0])}"]
    more = [f"and more: these are the first {_QUEUES} by name, a longer pattern finds fewer"] if page["next"] else []
    return Answer(lines + more, page)


def _flush(terminal: Terminal, call: Call) -> Answer:
    done = as_json(terminal.admin.queues.flush(call.words[0]))
    return Answer([f"{plural(done['removed'], 'message')} removed from {answers.name(done['queue'])}{_left(done)}"], done)


def _left(done: dict[str, Any]) -> str:
    return f"; {done['in_flight']:,} in flight left to their consumers, and gone if they come back" if done["in_flight"] else ""


async def _flush_all(terminal: Terminal, call: Call) -> Answer:
    if call.words != ["yes"]:
        messages = as_json(terminal.admin.status())["messages"]
        waiting = plural(messages["ready"] + messages["delayed"], "message")
        raise BadCommand(f"this removes all that waits, {waiting} now; if that is what you want, type: flushall yes")
    done = as_json(await terminal.admin.queues.flush_all())
    return Answer([f"{plural(done['removed'], 'message')} removed from {plural(done['queues'], 'queue')}{_left(done)}"], done)


def _pause(terminal: Terminal, call: Call) -> Answer:
    queue = as_json(terminal.admin.queues.pause(*call.words))
    return Answer([_how_paused(queue)], queue)


def _resume(terminal: Terminal, call: Call) -> Answer:
    queue = as_json(terminal.admin.queues.resume(*call.words))
    return Answer([_how_paused(queue)], queue)


def _how_paused(queue: dict[str, Any]) -> str:
    stopped = paused(queue)
    return f"{answers.name(queue['name'])}: {stopped + ' paused' if stopped else 'nothing is paused'}"


async def _dead(terminal: Terminal, call: Call) -> Answer:
    admin = terminal.admin
    if not call.words:
        page = as_json(admin.dead_letters.totals(limit=_QUEUES))
        lines = answers.dead_totals(page["items"]) if page["items"] else ["there are no dead letters"]
    else:
        page = as_json(await admin.messages.list(call.words[0], "dead", limit=_DEAD, preview=_PREVIEW))
        lines = answers.dead(page["items"], _now(admin)) if page["items"] else [f"{answers.name(call.words[0])} has no dead letters"]
    return Answer([*lines, *(["and more"] if page["next"] else [])], page)


async def _replay(terminal: Terminal, call: Call) -> Answer:
    name, *target = call.words
    done = as_json(await terminal.admin.dead_letters.replay(name, target[0] if target else None))
    return Answer([f"{plural(done['replayed'], 'dead letter')} of {answers.name(name)} replayed to {answers.name(done['target'])}"], done)


async def _clients(terminal: Terminal, call: Call) -> Answer:
    page = as_json(await terminal.admin.clients.list(limit=_CLIENTS))
    lines = answers.clients(page["items"]) if page["items"] else ["nobody is connected"]
    return Answer([*lines, *(["and more"] if page["next"] else [])], page)


def _disconnect(terminal: Terminal, call: Call) -> Answer:
    if not re.fullmatch(r"\d{1,18}", call.words[0], re.ASCII):
        raise NoSuchClient(f"a client has a number, not {call.words[0]!r}")
    client = as_json(terminal.admin.clients.disconnect(int(call.words[0])))
    returned = plural(client["in_flight"], "message")
    return Answer([f"client {client['id']} ({client['address']}) disconnected; {returned} in flight given back"], client)


async def _move(terminal: Terminal, call: Call) -> Answer:
    source, target = call.words
    done = as_json(await terminal.admin.messages.move(source, target))
    return Answer([f"{plural(done['moved'], 'message')} moved from {answers.name(source)} to {answers.name(target)}"], done)


def _settings(terminal: Terminal, call: Call) -> Answer:
    name, *pairs = call.words
    values = {setting: _value(setting, text) for setting, text in zip(pairs[::2], pairs[1::2], strict=True)}
    queues = terminal.admin.queues
    queue = as_json(queues.configure(name, values) if values else queues.status(name))
    return Answer(answers.settings(queue["settings"]), {"queue": name, "settings": queue["settings"]})


# Settings that take a unit.
_WITH_UNIT: dict[str, Callable[[str], float]] = {"max_bytes": parse_size, "lease": parse_duration, "dedup": parse_duration}


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


def _clear(terminal: Terminal, call: Call) -> Answer:
    terminal.clear()
    return Answer()


def _style(terminal: Terminal, call: Call) -> Answer:
    terminal.style = call.command.name
    return Answer([""])


def _quit(terminal: Terminal, call: Call) -> Answer:
    terminal.leave()
    return Answer()


_SIZE = ("--size",)

#: Every command by its name, in the order in which C{help} lists them.
TABLE: dict[str, Command] = {
    command.name: command
    for command in (
        Command(
            "help",
            "[COMMAND]",
            "the commands, or more about one",
            "Commands and options are written out, there are no abbreviations. A name that begins with two dashes goes after a --.",
            _help,
            (),
        ),
        Command(
            "monitor",
            "[QUEUE]",
            "watch the server or a queue; q leaves",
            "It is refreshed twice a second. That of the server has the queues with the most messages, sorted by name, and a bar for each: "
            "# is what waits, + is what is in flight. That of a queue has its messages, those in flight first. The screen has 80 columns "
            "and 24 rows, unless --size says otherwise. A command that is typed meanwhile leaves the monitor and is run.",
            _monitor,
            _SIZE,
        ),
        Command(
            "status",
            "",
            "the server in numbers",
            "Memory, file, messages, rates, clients and alarms, and what was counted since the start.",
            _status,
        ),
        Command(
            "show",
            "QUEUE [ID]",
            "a queue and its messages, or one of them",
            f"Up to {_MESSAGES} messages of each state are listed with the beginnings of their bodies. With an ID it is that message, "
            f"also a dead one, with up to {_WHOLE // 1024} KiB of its body. Nothing changes by looking.",
            _show,
        ),
        Command(
            "search",
            "PATTERN",
            "queues with PATTERN in their names",
            f"An asterisk stands for any characters; upper and lower case are the same. search * lists all, but never more than {_QUEUES}.",
            _search,
        ),
        Command(
            "flush",
            "QUEUE",
            "remove what waits in a queue",
            "Delayed ones too. Those in flight are left to their consumers, and are gone if they come back. Dead letters stay.",
            _flush,
            changes=True,
        ),
        Command(
            "flushall",
            "[yes]",
            "remove what waits in all queues",
            "Without the yes it only tells how many those are.",
            _flush_all,
            changes=True,
        ),
        Command(
            "pause",
            "QUEUE [deliveries|sends|all]",
            "stop deliveries, sends or both",
            "Deliveries, unless told otherwise. It holds over a restart, until resume. A queue that is not there is made. What is in "
            "flight is left alone; while sends are paused, senders wait or are refused.",
            _pause,
            changes=True,
        ),
        Command(
            "resume",
            "QUEUE [deliveries|sends|all]",
            "undo pause",
            "Of all that is paused, unless told otherwise. Deliveries and senders that wait go on at once.",
            _resume,
            changes=True,
        ),
        Command(
            "dead",
            "[QUEUE]",
            "dead letters, or which queues have them",
            f"The oldest {_DEAD}, with reason, what the client said, and the beginnings of their bodies. show QUEUE ID has the whole one.",
            _dead,
        ),
        Command(
            "replay",
            "QUEUE [TARGET]",
            "have dead letters delivered again",
            "All of them go to the tail of the queue, or to that of another one, with their attempts forgotten.",
            _replay,
            changes=True,
        ),
        Command(
            "clients",
            "",
            "who is connected, with what they consume",
            f"The longest connected come first, {_CLIENTS} at most. Bytes are those received from and sent to the client.",
            _clients,
        ),
        Command(
            "disconnect",
            "ID",
            "close a client's connection",
            "The id is that of clients. What the client holds is ready again; most clients connect again.",
            _disconnect,
            changes=True,
        ),
        Command(
            "move",
            "FROM TO",
            "move what is ready to another queue",
            "They keep their order, ids and attempts. Delayed ones and those in flight stay.",
            _move,
            changes=True,
        ),
        Command(
            "settings",
            "QUEUE [NAME VALUE]...",
            "what is set for a queue, or set it",
            "The value default gives a setting its default back. A queue that is not there is made.\n"
            "max_messages, max_bytes: how much may wait, such as 1000 or 64M, 0 for no limit\n"
            "when_full: refuse or drop-oldest\n"
            "max_attempts: dead after so many deliveries, 0 for never\n"
            "lease: how long a consumer may hold a message, such as 30, 30s or 5m, 0 for no limit\n"
            "expired: drop, or dead to keep what expires as dead letters\n"
            "dedup: how long a message's key is known, 0 for while it is there",
            _settings,
            changes=True,
        ),
        Command("clear", "", "clear the screen", "The one command that always sends an escape sequence.", _clear, ()),
        Command("colour", "", "headings and alarms in colours", "plain ends that.", _style, ()),
        Command(
            "plain",
            "",
            "no prompt and no colours: for programs",
            "Monitors go on below each other, with an empty line between. colour ends that.",
            _style,
            (),
        ),
        Command("quit", "", "close the connection", "Ctrl-C and Ctrl-D do so too, but while a monitor is shown they leave it.", _quit, ()),
        Command("exit", "", "close the connection", "Another name of quit.", _quit, ()),
    )
}
