"""C{phpmq clients}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from phpmq.cli.admin.address import Address
from phpmq.cli.admin.options import Pattern, api_option, json_option
from phpmq.cli.admin.several import each, in_json
from phpmq.cli.admin.words import consumed
from phpmq.cli.exits import Exit
from phpmq.cli.output import Listing, json_line, note
from phpmq.text import format_duration, format_size, plural, terminal_safe

if TYPE_CHECKING:
    from phpmq.cli.admin.api import Api
    from phpmq.cli.pipes import Output

_HEADINGS = ">ID", "ADDRESS", "LISTENER", "PROTOCOL", ">AGE", ">IN FLIGHT", ">RECEIVED", ">SENT", "QUEUES"


@click.command(short_help="List connections, or close some.")
@click.argument("pattern", type=Pattern(), default="*", metavar="[GLOB]")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="List at most N.  [default: all]")
@click.option("--disconnect", type=click.IntRange(0), multiple=True, metavar="ID", help="Close this connection. May be repeated.")
@json_option("Print a JSON object for each connection.")
@api_option
def clients(pattern: str, limit: int | None, disconnect: tuple[int, ...], as_json: bool, api: Address, timeout: float) -> int:
    """
    List the connections whose address, listener or protocol matches GLOB, where * and ? stand for what they do in a shell; all without it.

    With --disconnect close connections. The messages that such a client holds are ready again, and nothing keeps it from connecting again.

    \b
    phpmq clients '127.0.0.1:*'
    phpmq clients --disconnect 17
    """
    if disconnect and (pattern != "*" or limit is not None):
        raise click.UsageError("--disconnect excludes GLOB and --limit")
    from phpmq.cli.admin.reaching import reach

    if disconnect:
        ids = tuple(dict.fromkeys(disconnect))
        return reach(api, timeout, lambda api, output: close_clients(api, output, ids, as_json))
    return reach(api, timeout, lambda api, output: list_clients(api, output, pattern, limit, as_json))


async def list_clients(api: Api, output: Output, pattern: str, limit: int | None, as_json: bool) -> int:
    """List them, page by page."""
    listing = Listing(*_HEADINGS)
    found = False
    async for page in api.pages("list clients", "clients", most=limit, filter=pattern):
        if as_json:
            output.put(b"".join(map(json_line, page)))
        elif page:
            output.put(listing.add([_row(client) for client in page]).encode())
        found = found or bool(page)
        await output.written()
    if not found:
        note("there are no connections" if pattern == "*" else f"no connection matches {pattern}")
    return Exit.OK


def _row(client: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(client["id"]),
        client["address"],
        client["listener"],
        client["protocol"] or "-",
        format_duration(client["connected_seconds"]),
        f"{client['in_flight']:,}",
        format_size(client["bytes_received"]),
        format_size(client["bytes_sent"]),
        consumed(client["consuming"]) + ("  (waits for room)" if client["waiting_for_room"] else ""),
    )


async def close_clients(api: Api, output: Output, ids: Sequence[int], as_json: bool) -> int:
    """Close connections, and tell what happened to each."""

    async def close(id: int) -> None:
        done = await api.delete(f"disconnect {id}", "clients", str(id), wants=("address", "in_flight"))
        held = f"; the {plural(done['in_flight'])} that it held are ready again" if done["in_flight"] else ""
        line = f"{id}: {done['address']} is disconnected{held}"
        output.put(json_line(done) if as_json else f"{terminal_safe(line)}\n".encode())

    return await each(ids, close, in_json(output, as_json, "client"), "client")
