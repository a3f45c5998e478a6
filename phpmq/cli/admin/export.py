"""C{phpmq export}."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from phpmq.cli.admin.address import Address
from phpmq.cli.admin.options import STATES, api_option
from phpmq.cli.exits import Exit
from phpmq.cli.options import QueueName, progress_option
from phpmq.cli.output import is_terminal, note
from phpmq.text import format_rate, format_seconds, plural

if TYPE_CHECKING:
    from phpmq.cli.admin.api import Api
    from phpmq.cli.pipes import Output

#: States of messages that are to be there again after a disaster: dead letters wait for a decision, and are asked for.
WANTED = "ready", "delayed", "in-flight"


@click.command(short_help="Write the messages of a queue as lines of JSON.")
@click.argument("queue", type=QueueName())
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES),
    multiple=True,
    default=WANTED,
    help=f"Those in that state; repeatable.  [default: {', '.join(WANTED)}]",
)
@click.option(
    "--output", "path", type=click.Path(dir_okay=False), metavar="FILE", help="Write to FILE, which is there once it is complete."
)
@progress_option
@api_option
def export(queue: str, states: tuple[str, ...], path: str | None, progress: bool | None, api: Address, timeout: float) -> int:
    """
    Write the messages of QUEUE to standard output, or to a file, one JSON object a line; phpmq import reads them. The queue stays as it is.

    Those are written that are there when it begins, unless they are done before it gets to them. For one that has a time to live, or is
    delayed, ttl and delay are the seconds that are left.

    \b
    phpmq export jobs --output jobs.ndjson
    phpmq export jobs | phpmq import jobs --server mq.example:9100
    """
    from phpmq.cli.admin.reaching import reach

    wanted = {state.replace("-", "_") for state in states}
    file = None if path == "-" else path
    return reach(api, timeout, lambda api, output: export_messages(api, output, queue, wanted, file, progress))


async def export_messages(api: Api, output: Output, queue: str, states: set[str], path: str | None, wanted: bool | None) -> int:
    """Write them, and tell how many: the exit code."""
    from phpmq.cli.admin.exporting import Exporting
    from phpmq.cli.admin.several import there
    from phpmq.cli.files import replacing
    from phpmq.cli.pipes import Output
    from phpmq.cli.progress import Progress

    found = await there(api.get(f"export {queue}", "queues", queue, wants=tuple(states)))
    total = None if found is None else sum(found[state] for state in states)
    started = api.reactor.seconds()
    progress = Progress(api.reactor, f"exporting {queue}", total, False if wanted is None and path is None and is_terminal(1) else wanted)
    try:
        with nullcontext() if path is None else replacing(path) as descriptor:
            if descriptor is not None:
                output = Output(api.reactor, descriptor, str(path))
            exporting = Exporting(api, output, queue, states, progress)
            await exporting.run()
            await output.written()
    finally:
        progress.close()
    duration = api.reactor.seconds() - started
    note(f"exported {plural(exporting.written)} in {format_seconds(duration)}, {format_rate(exporting.written, duration)}")
    return Exit.OK
