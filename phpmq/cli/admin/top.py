"""C{phpmq top}."""

from __future__ import annotations

from typing import Any

import click

from phpmq.cli.admin.address import Address
from phpmq.cli.admin.options import SORTS, Pattern, api_option, json_option, order
from phpmq.cli.options import Seconds


@click.command(short_help="Watch a server and its queues.")
@click.argument("pattern", type=Pattern(), default="*", metavar="[GLOB]")
@click.option(
    "--sort", type=click.Choice(SORTS), default="messages", show_default=True, help="Names from the first, numbers from the largest."
)
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--interval", type=Seconds(zero=False), default=1.0, show_default=True, metavar="S", help="Ask the server every S seconds.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N times.")
@click.option("--limit", type=click.IntRange(1, 1000), metavar="N", help="Show at most N queues.  [default: the screen, or 20]")
@json_option("Print a JSON object each time.")
@api_option
def top(pattern: str, sort: str, reverse: bool, api: Address, timeout: float, **options: Any) -> int:
    """
    Show what goes on, again and again: the server's numbers, and the queues that have most, or those that match GLOB. Ctrl-C ends it.

    On a terminal it is one screen that changes; elsewhere each time is printed below the last.

    \b
    phpmq top
    phpmq top 'mail-*' --sort rate
    """
    from phpmq.cli.admin.reaching import reach
    from phpmq.cli.admin.watching import Order, watch

    wanted = Order(pattern, order(sort, reverse), **options)
    return reach(api, timeout, lambda api, output: watch(api, output, wanted))
