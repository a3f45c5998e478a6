"""C{phpmq queues}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from phpmq.cli.admin.address import Address
from phpmq.cli.admin.options import SORTS, Pattern, api_option, json_option, order
from phpmq.cli.admin.words import marked
from phpmq.cli.exits import Exit
from phpmq.cli.output import Listing, json_line, note
from phpmq.text import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from phpmq.cli.admin.api import Api
    from phpmq.cli.pipes import Output

#: Columns of a table of queues. The name, which can be of any length, is last.
HEADINGS = ">READY", ">DELAYED", ">IN FLIGHT", ">DEAD", ">SIZE", ">AGE", ">CONSUMERS", ">IN", ">OUT", "QUEUE"


@click.command(short_help="List queues.")
@click.argument("pattern", type=Pattern(), default="*", metavar="[GLOB]")
@click.option("--sort", type=click.Choice(SORTS), default="name", show_default=True, help="Names from the first, numbers from the largest.")
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="List at most N queues.  [default: all]")
@json_option("Print a JSON object for each queue.")
@api_option
def queues(pattern: str, sort: str, reverse: bool, limit: int | None, as_json: bool, api: Address, timeout: float) -> int:
    """
    List the queues whose names match GLOB, where * and ? stand for what they do in a shell; all queues without it.

    \b
    phpmq queues 'mail-*' --sort ready --limit 10
    """
    from phpmq.cli.admin.reaching import reach

    return reach(api, timeout, lambda api, output: list_queues(api, output, pattern, order(sort, reverse), limit, as_json))


async def list_queues(api: Api, output: Output, pattern: str, order: str, limit: int | None, as_json: bool) -> int:
    """List them, page by page."""
    listing = Listing(*HEADINGS)
    found = False
    async for page in api.pages("list queues", "queues", most=limit, filter=pattern, sort=order):
        if as_json:
            output.put(b"".join(map(json_line, page)))
        elif page:
            output.put(listing.add([row(queue) for queue in page]).encode())
        found = found or bool(page)
        await output.written()
    if not found:
        note("there are no queues" if pattern == "*" else f"no queue matches {pattern}")
    return Exit.OK


def row(queue: Mapping[str, Any]) -> tuple[str, ...]:
    """A queue's line in a table."""
    return (
        *(f"{queue[state]:,}" for state in ("ready", "delayed", "in_flight", "dead")),
        format_size(queue["bytes"]),
        format_duration(queue["oldest_message_age_seconds"]),
        f"{queue['consumers']:,}",
        *(format_rate(queue["rates"][counter]["10s"]) for counter in ("received", "delivered")),
        marked(queue),
    )
