"""C{phpmq flush}."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from phpmq.cli.admin.address import Address
from phpmq.cli.admin.options import api_option, json_option, yes_option
from phpmq.cli.admin.question import check_askable, check_sure
from phpmq.cli.admin.several import each, in_json, there
from phpmq.cli.exits import Exit
from phpmq.cli.options import QueueName
from phpmq.cli.output import json_line
from phpmq.text import plural, terminal_safe

if TYPE_CHECKING:
    from phpmq.cli.admin.api import Api
    from phpmq.cli.pipes import Output


@click.command(short_help="Remove the messages that wait in queues.")
@click.argument("queues", type=QueueName(), nargs=-1, metavar="QUEUE...")
@click.option("--all", "everything", is_flag=True, help="Flush all queues.")
@click.option("-n", "--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@yes_option
@json_option("Print a JSON object for each queue.")
@api_option
def flush(queues: tuple[str, ...], everything: bool, dry_run: bool, yes: bool, as_json: bool, api: Address, timeout: float) -> int:
    """
    Remove the messages that wait in each QUEUE, delayed ones too.

    Those in flight are left to their consumers, and never come back. Dead letters stay.

    \b
    phpmq flush jobs --dry-run
    phpmq flush jobs mails --yes
    """
    if everything == bool(queues):
        raise click.UsageError("name queues, or give --all" if not queues else "either queues or --all")
    if not dry_run:
        check_askable(yes, "remove messages")
    from phpmq.cli.admin.reaching import reach

    names = None if everything else tuple(dict.fromkeys(queues))

    async def work(api: Api, output: Output) -> int:
        flushing = Flushing(api, output, as_json)
        if dry_run:
            return await flushing.count(names)
        if not yes:
            await check_sure(api.reactor, await flushing.question(names), yes)
        return await flushing.flush(names)

    return reach(api, timeout, work)


class Flushing:
    """Removes messages; all queues are meant where there are no names."""

    def __init__(self, api: Api, output: Output, as_json: bool) -> None:
        self._api, self._output, self._as_json = api, output, as_json

    def _put(self, line: str, value: dict[str, Any]) -> None:
        self._output.put(json_line(value) if self._as_json else f"{terminal_safe(line)}\n".encode())

    async def question(self, names: tuple[str, ...] | None) -> str:
        """What to ask before it happens."""
        if names is None:
            status = await self._api.get("count messages", "status", wants=("messages",))
            waiting, which = _waiting(status["messages"]), f"all {plural(status['queues'], 'queue')}"
        else:
            waiting, which = 0, names[0] if len(names) == 1 else plural(len(names), "queue")
            for name in names:
                if (queue := await there(self._api.get(f"flush {name}", "queues", name, wants=("ready", "delayed")))) is not None:
                    waiting += _waiting(queue)
        return f"Remove {plural(waiting)} from {which}?"

    async def flush(self, names: tuple[str, ...] | None) -> int:
        """Do it, and tell what happened to each: the exit code."""
        if names is None:
            done = await self._api.post("flush all queues", "flush", wants=("queues", "removed", "in_flight"))
            self._put(f"{plural(done['removed'])} removed from {plural(done['queues'], 'queue')}{_left(done)}", done)
            return Exit.OK
        return await each(names, self._flush, in_json(self._output, self._as_json))

    async def _flush(self, name: str) -> None:
        done = await self._api.post(f"flush {name}", "queues", name, "flush", wants=("removed", "in_flight"))
        self._put(f"{name}: {plural(done['removed'])} removed{_left(done)}", done)

    async def count(self, names: tuple[str, ...] | None) -> int:
        """Tell what would be removed: the exit code."""
        if names is not None:
            return await each(names, self._count, in_json(self._output, self._as_json))
        async for page in self._api.pages("list queues", "queues"):
            for queue in page:
                if _waiting(queue):
                    self._would(queue)
            await self._output.written()
        return Exit.OK

    async def _count(self, name: str) -> None:
        self._would(await self._api.get(f"look at {name}", "queues", name, wants=("ready", "delayed", "in_flight")))

    def _would(self, queue: dict[str, Any]) -> None:
        would = {"queue": queue["name"], "would_remove": _waiting(queue), "in_flight": queue["in_flight"]}
        self._put(f"{queue['name']}: {plural(_waiting(queue))} would be removed{_left(queue)}", would)


def _waiting(numbers: dict[str, Any]) -> int:
    return int(numbers["ready"] + numbers["delayed"])


def _left(numbers: dict[str, Any]) -> str:
    return f", {numbers['in_flight']:,} in flight left to their consumers" if numbers["in_flight"] else ""
