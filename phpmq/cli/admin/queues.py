"""C{phpmq queues}, C{queue}, C{flush}, C{pause} and C{resume}: queues, what waits in them, and their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import click

from phpmq.cli.admin.api import Api
from phpmq.cli.admin.run import api_verb, check_askable, confirm, each, if_found
from phpmq.cli.options import PATTERN, QUEUE, SECONDS, Value, order, size, sort_options, want_verb, yes_option
from phpmq.cli.output import Listing, Report, note, table
from phpmq.message import DEFAULT_SETTINGS, PAUSES, QueueSettings
from phpmq.text import plural

#: What resets a setting.
DEFAULT = "default"

# The largest number that every program reads exactly from JSON.
_MOST = 2**53 - 1


def _setting(kind: click.ParamType[Any]) -> Value:
    """Return the type of a setting's value, which may be C{default}."""
    return Value("setting", lambda text: DEFAULT if text == DEFAULT else kind.convert(text, None, None))


def _setting_options(function: Any) -> Any:
    """Add an option for each setting of a queue."""
    kinds: dict[str, tuple[click.ParamType[Any], str]] = {"max_bytes": (size(_MOST), "B"), "lease": (SECONDS, "S"), "dedup": (SECONDS, "S")}
    hints = get_type_hints(QueueSettings, include_extras=True)
    for name in reversed(vars(DEFAULT_SETTINGS)):
        (help,) = hints[name].__metadata__
        kind, metavar = kinds.get(name, (click.IntRange(0, _MOST), "N"))
        if name in QueueSettings._CHOICES:
            option: Any = {"type": click.Choice([*QueueSettings._CHOICES[name], DEFAULT])}
        else:
            option = {"type": _setting(kind), "metavar": metavar}
        function = click.option(f"--{name.replace('_', '-')}", help=help, **option)(function)
    return function


_queue_argument = click.argument("name", type=QUEUE, metavar="QUEUE")


def _queues_argument(name: str, required: bool = True) -> Callable[[Any], Any]:
    """Return the argument C{QUEUE...}, which takes each name once."""
    once = lambda context, parameter, names: tuple(dict.fromkeys(names))  # noqa: E731
    return click.argument(name, type=QUEUE, nargs=-1, required=required, metavar="QUEUE...", callback=once)


@click.command()
@click.argument("pattern", type=PATTERN, default="*", metavar="[GLOB]")
@sort_options("name")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="List at most N queues.  [default: all]")
@api_verb("Print a JSON object for each queue.")
async def queues(api: Api, report: Report, pattern: str, sort: str, reverse: bool, limit: int | None) -> None:
    """
    List the queues whose names match GLOB, where * and ? stand for what they do in a shell; all queues without it.

    \b
    phpmq queues 'mail-*' --sort ready --limit 10
    """
    from phpmq.cli.admin.format import QUEUES

    pages = api.pages("list queues", "queues", most=limit, filter=pattern, sort=order(sort, reverse))
    if not await report.put_pages(pages, *QUEUES):
        note("there are no queues" if pattern == "*" else f"no queue matches {pattern}")


@click.group(invoke_without_command=True)
@click.pass_context
def queue(context: click.Context) -> None:
    """Show a queue, change its settings, or delete it."""
    want_verb(context)


@queue.command(short_help="Show a queue, who consumes it, and its settings.")
@_queue_argument
@api_verb("Print what the API answers, on one line.")
async def show(api: Api, report: Report, name: str) -> None:
    """
    Show a QUEUE: its messages, rates, consumers and settings.

    \b
    phpmq queue show jobs
    """
    from phpmq.cli.admin.format import CONSUMERS, queue_lines, setting_rows

    found = await api.get(f"show {name}", "queues", name, wants=("ready", "consuming", "settings"))
    report.put(found, *queue_lines(found))
    if not report.as_json:
        consumers = list(map(CONSUMERS.row, found["consuming"]))
        text = "\n" + Listing(*CONSUMERS.headings).add(consumers) if consumers else ""
        report.output.put(f"{text}\n{table(('SETTING', 'VALUE'), setting_rows(found))}".encode())


def _check_settings(name: str, **settings: object) -> None:
    if not any(value is not None for value in settings.values()):
        raise click.UsageError("name a setting")


@queue.command("set", short_help="Change settings of a queue; it is made if it is not there.")
@_queue_argument
@_setting_options
@api_verb("Print the queue as it is then.", check=_check_settings)
async def set_verb(api: Api, report: Report, name: str, **settings: Any) -> None:
    """
    Change settings of a QUEUE. Others stay as they are; the value "default" gives one back its default.

    \b
    phpmq queue set jobs --max-messages 100000 --max-bytes 1G --lease 5m
    phpmq queue set jobs --lease default
    """
    from phpmq.cli.admin.format import setting_rows

    changes = {setting: None if value == DEFAULT else value for setting, value in settings.items() if value is not None}
    changed = await api.put(f"set up {name}", "queues", name, fields=changes, wants=("settings",))
    if report.as_json:
        report.put(changed)
    else:
        report.output.put(table(("SETTING", "VALUE"), setting_rows(changed)).encode())


@queue.command(short_help="Remove queues with all that waits in them.")
@_queues_argument("names")
@yes_option
@api_verb("Print a JSON object for each queue.", check=lambda yes, **_: check_askable(yes, "delete queues"))
async def delete(api: Api, report: Report, names: tuple[str, ...], yes: bool) -> int:
    """
    Remove what waits in each QUEUE, its dead letters, its settings and its pause.

    Messages in flight are left to their consumers, and never come back.
    """
    if not yes:
        await confirm(api.reactor, await delete_question(api, names))

    async def remove(name: str) -> None:
        done = await api.delete(f"delete {name}", "queues", name, wants=("removed", "in_flight", "dead"))
        left = f"; {done['in_flight']:,} in flight left to their consumers" if done["in_flight"] else ""
        report.put(done, f"{name}: deleted with {plural(done['removed'])} and {plural(done['dead'], 'dead letter')}{left}")

    return await each(report, names, remove)


async def delete_question(api: Api, names: tuple[str, ...]) -> str:
    """Return what to ask before queues are deleted."""
    waiting, dead = await _count(api, "delete", names, "dead")
    return f"Delete {_named(names)} with {plural(waiting)} and {plural(dead, 'dead letter')}?"


async def _count(api: Api, verb: str, names: tuple[str, ...], other: str = "ready") -> tuple[int, int]:
    """Count the messages that wait in queues, and another of their numbers; a queue that is not there has none."""
    waiting = others = 0
    for name in names:
        if (found := await if_found(api.get(f"{verb} {name}", "queues", name, wants=("ready", "delayed", other)))) is not None:
            waiting, others = waiting + _waiting(found), others + found[other]
    return waiting, others


def _named(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else plural(len(names), "queue")


def _waiting(numbers: Mapping[str, Any]) -> int:
    return int(numbers["ready"] + numbers["delayed"])


def _check_flush(names: tuple[str, ...], everything: bool, dry_run: bool, yes: bool) -> None:
    if everything == bool(names):
        raise click.UsageError("name queues, or give --all" if not names else "either queues or --all")
    check_askable(dry_run or yes, "remove messages")


@click.command()
@_queues_argument("names", required=False)
@click.option("--all", "everything", is_flag=True, help="Flush all queues.")
@click.option("-n", "--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@yes_option
@api_verb("Print a JSON object for each queue.", check=_check_flush)
async def flush(api: Api, report: Report, names: tuple[str, ...], everything: bool, dry_run: bool, yes: bool) -> int | None:
    """
    Remove the messages that wait in each QUEUE, delayed ones too.

    Those in flight are left to their consumers, and never come back. Dead letters stay.

    \b
    phpmq flush jobs --dry-run
    phpmq flush jobs mails --yes
    """
    if dry_run:
        return await _count_flushed(api, report, names)
    if not yes:
        await confirm(api.reactor, await flush_question(api, names))

    async def flush_one(name: str) -> None:
        done = await api.post(f"flush {name}", "queues", name, "flush", wants=("removed", "in_flight"))
        report.put(done, f"{name}: {plural(done['removed'])} removed{_left(done)}")

    if names:
        return await each(report, names, flush_one)
    done = await api.post("flush all queues", "flush", wants=("queues", "removed", "in_flight"))
    report.put(done, f"{plural(done['removed'])} removed from {plural(done['queues'], 'queue')}{_left(done)}")
    return None


async def flush_question(api: Api, names: tuple[str, ...]) -> str:
    """Return what to ask before queues are flushed; all of them without names."""
    if names:
        waiting, _ = await _count(api, "flush", names)
        return f"Remove {plural(waiting)} from {_named(names)}?"
    status = await api.get("count messages", "status", wants=("messages",))
    return f"Remove {plural(_waiting(status['messages']))} from all {plural(status['queues'], 'queue')}?"


async def _count_flushed(api: Api, report: Report, names: tuple[str, ...]) -> int | None:
    def tell(queue: Mapping[str, Any]) -> None:
        would = {"queue": queue["name"], "would_remove": _waiting(queue), "in_flight": queue["in_flight"]}
        report.put(would, f"{queue['name']}: {plural(_waiting(queue))} would be removed{_left(queue)}")

    async def count(name: str) -> None:
        tell(await api.get(f"look at {name}", "queues", name, wants=("ready", "delayed", "in_flight")))

    if names:
        return await each(report, names, count)
    async for page in api.pages("list queues", "queues"):
        for queue in filter(_waiting, page):
            tell(queue)
        await report.output.written()
    return None


def _left(numbers: Mapping[str, Any]) -> str:
    return f", {numbers['in_flight']:,} in flight left to their consumers" if numbers["in_flight"] else ""


@click.command()
@_queues_argument("names")
@click.option("--what", type=click.Choice(PAUSES), default="deliveries", show_default=True, help="What stops.")
@api_verb("Print each queue as it is then.")
async def pause(api: Api, report: Report, names: tuple[str, ...], what: str) -> int:
    """
    Stop deliveries from each QUEUE, or sends to it, or both, until phpmq resume.

    A pause survives a restart of the server. A queue that is not there is made.

    \b
    phpmq pause jobs --what sends
    """
    return await _change_pauses(api, report, "pause", names, what)


@click.command()
@_queues_argument("names")
@click.option("--what", type=click.Choice(PAUSES), default="all", show_default=True, help="What goes on.")
@api_verb("Print each queue as it is then.")
async def resume(api: Api, report: Report, names: tuple[str, ...], what: str) -> int:
    """
    Resume deliveries from each QUEUE, and sends to it.

    \b
    phpmq resume jobs mails
    """
    return await _change_pauses(api, report, "resume", names, what)


async def _change_pauses(api: Api, report: Report, verb: str, names: tuple[str, ...], what: str) -> int:
    from phpmq.cli.admin.format import paused

    async def change(name: str) -> None:
        queue = await api.post(f"{verb} {name}", "queues", name, verb, what=what, wants=("paused",))
        report.put(queue, f"{name}: {paused(queue) or 'nothing'} paused")

    return await each(report, names, change)
