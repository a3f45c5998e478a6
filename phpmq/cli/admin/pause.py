"""C{phpmq pause} and C{phpmq resume}."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from phpmq.cli.admin.address import Address
from phpmq.cli.admin.options import api_option, json_option
from phpmq.cli.admin.several import each, in_json
from phpmq.cli.admin.words import paused
from phpmq.cli.options import QueueName
from phpmq.cli.output import json_line
from phpmq.text import terminal_safe

if TYPE_CHECKING:
    from phpmq.cli.admin.api import Api
    from phpmq.cli.pipes import Output

#: What can be paused.
PAUSES = "deliveries", "sends", "all"


@click.command(short_help="Stop deliveries, sends, or both.")
@click.argument("queues", type=QueueName(), nargs=-1, required=True, metavar="QUEUE...")
@click.option("--what", type=click.Choice(PAUSES), default="deliveries", show_default=True, help="What stops.")
@json_option("Print each queue as it is then.")
@api_option
def pause(queues: tuple[str, ...], what: str, as_json: bool, api: Address, timeout: float) -> int:
    """
    Stop deliveries from each QUEUE, or sends to it, or both, until phpmq resume.

    A pause survives a restart of the server. A queue that is not there is made.

    \b
    phpmq pause jobs --what sends
    """
    from phpmq.cli.admin.reaching import reach

    return reach(api, timeout, lambda api, output: change_pauses(api, output, "pause", queues, what, as_json))


@click.command(short_help="Undo a pause.")
@click.argument("queues", type=QueueName(), nargs=-1, required=True, metavar="QUEUE...")
@click.option("--what", type=click.Choice(PAUSES), default="all", show_default=True, help="What goes on.")
@json_option("Print each queue as it is then.")
@api_option
def resume(queues: tuple[str, ...], what: str, as_json: bool, api: Address, timeout: float) -> int:
    """
    Have deliveries from each QUEUE, and sends to it, go on.

    \b
    phpmq resume jobs mails
    """
    from phpmq.cli.admin.reaching import reach

    return reach(api, timeout, lambda api, output: change_pauses(api, output, "resume", queues, what, as_json))


async def change_pauses(api: Api, output: Output, verb: str, queues: tuple[str, ...], what: str, as_json: bool) -> int:
    """Pause or resume queues, and tell of each what is paused then."""

    async def change(name: str) -> None:
        queue = await api.post(f"{verb} {name}", "queues", name, verb, what=what, wants=("paused",))
        line = f"{name}: {paused(queue) or 'nothing'} paused"
        output.put(json_line(queue) if as_json else f"{terminal_safe(line)}\n".encode())

    return await each(tuple(dict.fromkeys(queues)), change, in_json(output, as_json))
