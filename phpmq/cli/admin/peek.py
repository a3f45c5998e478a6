"""C{phpmq peek}."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from phpmq.cli.admin.address import Address
from phpmq.cli.admin.options import STATES, api_option, json_option, limit_option, preview_option
from phpmq.cli.exits import Exit
from phpmq.cli.options import QueueName, Text
from phpmq.cli.output import Listing, is_terminal, json_line, note
from phpmq.text import plural, terminal_safe

if TYPE_CHECKING:
    from phpmq.cli.admin.api import Api
    from phpmq.cli.pipes import Output


@click.command(short_help="Look at messages of a queue.")
@click.argument("queue", type=QueueName())
@click.option("--state", type=click.Choice(STATES), default="ready", show_default=True, help="Look at those in that state.")
@click.option("--id", "id", type=Text(), metavar="ID", help="Show this message, whatever its state, with its whole body.")
@limit_option
@preview_option
@json_option("Print what the API answers, a JSON object for each message.")
@api_option
@click.pass_context
def peek(context: click.Context, /, queue: str, state: str, id: str | None, limit: int, preview: int, **others: Any) -> int:
    """
    Look at messages of QUEUE: the first ones, or one with --id. Nothing changes by that, and no attempt is counted.

    With --id the body is written as it is, byte by byte; on a terminal what is known of the message comes first.

    \b
    phpmq peek jobs --state delayed
    phpmq peek jobs --id d7e7f68761d34838494b233148b5486c > body
    """
    if id is not None and (other := given(context, "state", "limit", "preview")):
        raise click.UsageError(f"--id excludes --{other}")
    return look(queue, state.replace("-", "_"), id, limit, preview, **others)


def given(context: click.Context, *names: str) -> str | None:
    """The first of these options that the user gave."""
    from click.core import ParameterSource

    return next((name for name in names if context.get_parameter_source(name) is not ParameterSource.DEFAULT), None)


def look(queue: str, state: str, id: str | None, limit: int, preview: int, as_json: bool, api: Address, timeout: float) -> int:
    """Run it."""
    from phpmq.cli.admin.reaching import reach

    if id is not None:
        return reach(api, timeout, lambda api, output: show_message(api, output, queue, id, as_json))
    return reach(api, timeout, lambda api, output: list_messages(api, output, queue, state, limit, preview, as_json))


async def list_messages(api: Api, output: Output, queue: str, state: str, limit: int, preview: int, as_json: bool) -> int:
    """Show the first messages of a state, page by page."""
    from phpmq.cli.admin.letters import headings, now, row

    time = 0.0 if as_json else await now(api)
    listing = Listing(*headings(state))
    shown, more = 0, False
    # One more than is shown tells that there are more.
    async for page in api.pages(f"look at {queue}", "queues", queue, "messages", most=limit + 1, state=state, preview=preview):
        more = shown + len(page) > limit
        page = page[: limit - shown]
        if as_json:
            output.put(b"".join(map(json_line, page)))
        elif page:
            output.put(listing.add([row(letter, time) for letter in page]).encode())
        shown += len(page)
        await output.written()
    if not shown and not as_json:
        kind = "dead letters" if state == "dead" else f"{state.replace('_', ' ')} messages"
        note(f"{queue} has no {kind}")
    elif more and is_terminal(1):
        note(f"there are more than {plural(limit)}: --limit shows others")
    return Exit.OK


async def show_message(api: Api, output: Output, queue: str, id: str, as_json: bool) -> int:
    """Show one: its body as it is in a pipe, and all of it, harmless, on a terminal."""
    from phpmq.cli.admin.letters import body_of, facts, now
    from phpmq.client_frames import MAX_BODY

    letter = await api.message(f"look at message {id} of {queue}", queue, id, MAX_BODY)
    if as_json:
        output.put(json_line(letter))
    elif is_terminal(1):
        lines = facts(queue, letter, await now(api))
        # Its lines stay lines; what would do more than that does not.
        text = body_of(letter).decode("utf-8", "backslashreplace").removesuffix("\n").split("\n")
        output.put("".join(f"{terminal_safe(line)}\n" for line in [*lines, "", *text]).encode())
    else:
        output.put(body_of(letter))
    return Exit.OK
