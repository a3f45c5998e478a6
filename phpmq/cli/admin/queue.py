"""C{phpmq queue}: one queue, and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from phpmq.cli.admin.address import Address
from phpmq.cli.admin.options import api_option, json_option, yes_option
from phpmq.cli.admin.question import check_askable, check_sure
from phpmq.cli.admin.several import each, in_json, there
from phpmq.cli.admin.words import lease, paused, rates_of, states, totals
from phpmq.cli.exits import Exit
from phpmq.cli.options import ParamType, QueueName, Seconds, Size, want_verb
from phpmq.cli.output import json_line, table
from phpmq.text import format_duration, format_size, plural, terminal_safe

if TYPE_CHECKING:
    from phpmq.cli.admin.api import Api
    from phpmq.cli.pipes import Output

#: What gives a setting back its default.
DEFAULT = "default"

# What the API calls an unknown number of things, exactly.
_MOST = 2**53 - 1


class Setting(ParamType):
    """A value, or C{default}."""

    name = "setting"

    def __init__(self, kind: click.ParamType[Any]) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See C{click.ParamType}."""
        return DEFAULT if value == DEFAULT else self._kind.convert(value, param, ctx)


_NUMBER = Setting(click.IntRange(0, _MOST))


@click.group(invoke_without_command=True)
@click.pass_context
def queue(context: click.Context) -> None:
    """Show a queue, change its settings, or delete it."""
    want_verb(context)


@queue.command(short_help="Show a queue, who consumes it, and its settings.")
@click.argument("name", type=QueueName(), metavar="QUEUE")
@json_option("Print what the API answers, on one line.")
@api_option
def show(name: str, as_json: bool, api: Address, timeout: float) -> int:
    """
    Show a QUEUE: its messages, rates, consumers and settings.

    \b
    phpmq queue show jobs
    """
    from phpmq.cli.admin.reaching import reach

    return reach(api, timeout, lambda api, output: show_queue(api, output, name, as_json))


async def show_queue(api: Api, output: Output, name: str, as_json: bool) -> int:
    """Show it."""
    found = await api.get(f"show {name}", "queues", name, wants=("ready", "consuming", "settings"))
    output.put(json_line(found) if as_json else _facts(found).encode())
    return Exit.OK


def _facts(queue: Mapping[str, Any]) -> str:
    stopped, age = paused(queue), queue["oldest_message_age_seconds"]
    lines = [
        f"queue     {queue['name']}",
        f"messages  {states(queue)}",
        f"waiting   {format_size(queue['bytes'])}" + ("" if age is None else f", the next message for {format_duration(age)}"),
        f"rates     {rates_of(queue['rates'])}",
        f"totals    {totals(queue['totals'])}",
        *([f"PAUSED    {stopped}: phpmq resume goes on"] if stopped else []),
    ]
    consumers = [
        (str(one["client"] or "the server"), f"{one['in_flight']:,}", f"{one['window']:,}", lease(one["lease_seconds"]))
        for one in queue["consuming"]
    ]
    text = "".join(f"{terminal_safe(line)}\n" for line in lines)
    if consumers:
        text += "\n" + table(("CONSUMER", "IN FLIGHT", "WINDOW", "LEASE"), consumers)
    return f"{text}\n{_settings(queue['settings'])}"


def _settings(settings: Mapping[str, Any]) -> str:
    values = [(setting, value if isinstance(value, str) else f"{value:.15g}") for setting, value in settings.items()]
    return table(("SETTING", "VALUE"), values)


@queue.command("set", short_help="Change settings of a queue; it is made if it is not there.")
@click.argument("name", type=QueueName(), metavar="QUEUE")
@click.option("--max-messages", type=_NUMBER, metavar="N", help="How many messages may wait; 0 for no limit.")
@click.option("--max-bytes", type=Setting(Size(_MOST)), metavar="B", help="How many bytes may wait, such as 64M; 0 for no limit.")
@click.option("--when-full", type=click.Choice(["refuse", "drop-oldest", DEFAULT]), help="What happens to one more.")
@click.option("--max-attempts", type=_NUMBER, metavar="N", help="Deliveries after which a message is dead; 0 for no limit.")
@click.option("--lease", type=Setting(Seconds()), metavar="S", help="Seconds that a consumer which asks for no lease has; 0 for no limit.")
@click.option("--expired", type=click.Choice(["drop", "dead", DEFAULT]), help="What becomes of messages that expire.")
@click.option("--dedup", type=Setting(Seconds()), metavar="S", help="Seconds that the key of a message is known from its acceptance on.")
@json_option("Print the queue as it is then.")
@api_option
def set_verb(name: str, as_json: bool, api: Address, timeout: float, **settings: Any) -> int:
    """
    Change settings of a QUEUE. Others stay as they are; the value "default" gives one back its default.

    \b
    phpmq queue set jobs --max-messages 100000 --max-bytes 1G --lease 5m
    phpmq queue set jobs --lease default
    """
    changes = {setting: None if value == DEFAULT else value for setting, value in settings.items() if value is not None}
    if not changes:
        raise click.UsageError("name a setting")
    from phpmq.cli.admin.reaching import reach

    return reach(api, timeout, lambda api, output: set_queue(api, output, name, changes, as_json))


async def set_queue(api: Api, output: Output, name: str, changes: Mapping[str, Any], as_json: bool) -> int:
    """Change them, and show all."""
    changed = await api.put(f"set up {name}", "queues", name, fields=changes, wants=("settings",))
    output.put(json_line(changed) if as_json else _settings(changed["settings"]).encode())
    return Exit.OK


@queue.command(short_help="Remove queues with all that waits in them.")
@click.argument("names", type=QueueName(), nargs=-1, required=True, metavar="QUEUE...")
@yes_option
@json_option("Print a JSON object for each queue.")
@api_option
def delete(names: tuple[str, ...], yes: bool, as_json: bool, api: Address, timeout: float) -> int:
    """
    Remove what waits in each QUEUE, its dead letters, its settings and its pause.

    Messages in flight are left to their consumers, and never come back.
    """
    check_askable(yes, "delete queues")
    names = tuple(dict.fromkeys(names))
    from phpmq.cli.admin.reaching import reach

    async def work(api: Api, output: Output) -> int:
        if not yes:
            await check_sure(api.reactor, await delete_question(api, names), yes)
        return await delete_queues(api, output, names, as_json)

    return reach(api, timeout, work)


async def delete_question(api: Api, names: tuple[str, ...]) -> str:
    """What to ask before it happens."""
    waiting = dead = 0
    for name in names:
        if (found := await there(api.get(f"delete {name}", "queues", name, wants=("ready", "delayed", "dead")))) is not None:
            waiting, dead = waiting + found["ready"] + found["delayed"], dead + found["dead"]
    which = names[0] if len(names) == 1 else plural(len(names), "queue")
    return f"Delete {which} with {plural(waiting)} and {plural(dead, 'dead letter')}?"


async def delete_queues(api: Api, output: Output, names: tuple[str, ...], as_json: bool) -> int:
    """Delete them, and tell what happened to each."""

    async def remove(name: str) -> None:
        done = await api.delete(f"delete {name}", "queues", name, wants=("removed", "in_flight", "dead"))
        left = f"; {done['in_flight']:,} in flight left to their consumers" if done["in_flight"] else ""
        line = f"{name}: deleted with {plural(done['removed'])} and {plural(done['dead'], 'dead letter')}{left}"
        output.put(json_line(done) if as_json else f"{terminal_safe(line)}\n".encode())

    return await each(names, remove, in_json(output, as_json))
