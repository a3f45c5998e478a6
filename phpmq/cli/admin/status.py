"""C{phpmq status}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from phpmq.cli.admin.address import Address
from phpmq.cli.admin.options import api_option, json_option
from phpmq.cli.admin.words import rates_of, states, totals
from phpmq.cli.exits import Exit
from phpmq.cli.output import json_line
from phpmq.text import format_duration, format_size, plural, terminal_safe

if TYPE_CHECKING:
    from phpmq.cli.admin.api import Api
    from phpmq.cli.pipes import Output


@click.command(short_help="Show how a server is.")
@json_option("Print what the API answers, on one line.")
@api_option
def status(as_json: bool, api: Address, timeout: float) -> int:
    """
    Show a server's numbers: messages, rates, memory, its file, clients, and alarms if there are any.

    \b
    phpmq status
    phpmq status --api http://mq.example:9180 --json
    """
    from phpmq.cli.admin.reaching import reach

    return reach(api, timeout, lambda api, output: show_status(api, output, as_json))


async def show_status(api: Api, output: Output, as_json: bool) -> int:
    """Show it."""
    document = await api.get("ask for the status", "status", wants=("messages", "connections", "alarms"))
    output.put(json_line(document) if as_json else "".join(f"{terminal_safe(line)}\n" for line in lines(document)).encode())
    return Exit.OK


def lines(status: Mapping[str, Any]) -> list[str]:
    """The whole server, in a few lines."""
    messages, rates, memory, connections = (status[part] for part in ("messages", "rates", "memory", "connections"))
    process = f"; the process {format_size(memory['resident'])}, {format_size(memory['peak'])} at most" if "resident" in memory else ""
    dead = ", ".join(f"{number:,} {reason}" for reason, number in status["dead_lettered"].items() if number)
    return [
        f"phpmq {status['version']}, {status['state']}, up {format_duration(status['uptime_seconds'])}",
        f"messages  {states(messages)}; {format_size(messages['bytes'])} wait",
        f"rates     {rates_of(rates)}",
        f"totals    {totals(status['totals'])}" + (f"; dead letters: {dead}" if dead else ""),
        f"memory    {format_size(memory['used'])} of {format_size(memory['limit'])}{process}",
        f"file      {_mirror(status['mirror'])}",
        f"clients   {connections['open']:,} of {connections['limit']:,}; {plural(status['consumers'], 'consumer')},"
        f" {plural(status['queues'], 'queue')}",
        *(f"ALARM     {alarm['name']}: {alarm['text']}" for alarm in status["alarms"]),
    ]


def _mirror(mirror: Mapping[str, Any]) -> str:
    if mirror["file"] is None:
        return "none: the messages are in memory only"
    file, pending, lag = mirror["file"], plural(mirror["pending_changes"], "change"), mirror["lag_seconds"]
    if mirror["failing"]:
        return f"{file} cannot be written since {format_duration(lag)}: {pending} not in it"
    return f"{file}, {pending} not in it yet, the oldest for {lag:.1f} s" if mirror["pending_changes"] else f"{file} has everything"
