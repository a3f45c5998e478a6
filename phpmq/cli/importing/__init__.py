"""C{phpmq import}."""

from __future__ import annotations

import sys

import click

from phpmq.cli.options import QueueName, Rate, level_option, progress_option, server_option, timeout_option
from phpmq.cli.output import is_terminal


@click.command("import", short_help="Send messages that are lines of JSON.")
@click.argument("queue", type=QueueName())
@click.argument("path", type=click.Path(exists=True, dir_okay=False, allow_dash=True), required=False, metavar="[FILE|-]")
@click.option("--skip-bad", is_flag=True, help="Leave out lines that are no messages, instead of ending at the first one.")
@level_option
@click.option("--rate", type=Rate(), metavar="N/s", help="Send no faster than that; N/min and N/h are understood too.")
@progress_option
@server_option
@timeout_option("Give up after S seconds without an answer.", 30)
def import_verb(queue: str, path: str | None, skip_bad: bool, level: str, rate: float | None, progress: bool | None, **where: str) -> int:
    """
    Send the messages to QUEUE that FILE has, or standard input: one JSON object a line, as phpmq export writes them.

    They are new messages, with new ids and no attempts, in the order of the lines, with their headers, keys, times to live and delays.

    \b
    phpmq import jobs jobs.ndjson
    phpmq export jobs --api a.example:9180 | phpmq import jobs --server b.example:9100
    """
    if path in (None, "-") and sys.stdin is None:
        raise click.UsageError("standard input is closed: give a FILE")
    if path is None and is_terminal(0):
        raise click.UsageError("there is no FILE: give one, or - to type lines, with Ctrl-D at the end")
    from phpmq.cli.importing.importing import import_messages
    from phpmq.cli.running import run
    from phpmq.cli.send.sender import Order

    order = Order(queue, {"level": level}, None, True, None, rate, progress, False, False, **where, done="imported")  # type: ignore[arg-type]
    return run(lambda reactor, signals: import_messages(reactor, signals, order, None if path == "-" else path, skip_bad))
