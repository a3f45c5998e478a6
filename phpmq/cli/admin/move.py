"""C{phpmq move}."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from phpmq.cli.admin.address import Address
from phpmq.cli.admin.options import api_option, json_option
from phpmq.cli.exits import Exit
from phpmq.cli.options import QueueName
from phpmq.cli.output import json_line
from phpmq.text import plural, terminal_safe

if TYPE_CHECKING:
    from phpmq.cli.admin.api import Api
    from phpmq.cli.pipes import Output


@click.command(short_help="Have messages go to another queue.")
@click.argument("source", type=QueueName(), metavar="FROM")
@click.argument("target", type=QueueName(), metavar="TO")
@click.option("--count", type=click.IntRange(1), metavar="N", help="At most N, the first ones.  [default: all that are ready now]")
@json_option("Print what the API answers, on one line.")
@api_option
def move(source: str, target: str, count: int | None, as_json: bool, api: Address, timeout: float) -> int:
    """
    Have messages that are ready in the queue FROM go to the tail of the queue TO, in their order.

    They keep their ids, attempts and time to live. Those delayed or in flight stay where they are.

    \b
    phpmq move jobs.inspect jobs --count 10
    """
    if source == target:
        raise click.UsageError("FROM and TO are the same queue")
    from phpmq.cli.admin.reaching import reach

    return reach(api, timeout, lambda api, output: move_messages(api, output, source, target, count, as_json))


async def move_messages(api: Api, output: Output, source: str, target: str, count: int | None, as_json: bool) -> int:
    """Do it, and tell how many: the exit code."""
    done = await api.post(f"move messages of {source}", "queues", source, "move", target=target, count=count, wants=("moved",))
    output.put(json_line(done) if as_json else terminal_safe(f"{plural(done['moved'])} moved from {source} to {target}").encode() + b"\n")
    return Exit.OK
