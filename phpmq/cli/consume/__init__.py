"""C{phpmq consume}."""

from __future__ import annotations

from typing import Any

import click

from phpmq.cli.options import QueueName, Seconds, server_option, timeout_option


@click.command(short_help="Take messages from queues, or run a command for each.")
@click.argument("queues", type=QueueName(), nargs=-1, required=True, metavar="QUEUE...")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N messages, and take no more than those.")
@click.option("--exit-empty", is_flag=True, help="End when no message is ready.")
@click.option(
    "--window",
    type=click.IntRange(1, 65535),
    metavar="N",
    help="Hold at most N messages of a queue.  [default: 100, or --jobs]",
)
@click.option(
    "--ack",
    type=click.Choice(["after", "none"]),
    default="after",
    show_default=True,
    help="Acknowledge each message after it was written; or none: all come back when the command ends.",
)
@click.option("--exec", "command", metavar="CMD", help="Run CMD by /bin/sh for each message, with the body as its standard input.")
@click.option("--jobs", type=click.IntRange(1, 1000), default=1, show_default=True, metavar="N", help="Run up to N of them at a time.")
@click.option("--lease", type=Seconds(zero=False), metavar="S", help="Let others have a message when it is held for S seconds.")
@click.option("--max-attempts", type=click.IntRange(1), metavar="N", help="Make it a dead letter when the N-th attempt fails.")
@click.option("--format", "template", metavar="TEMPLATE", help=r"Print {queue} {id} {attempts} {body}, \n, \t as TEMPLATE says.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each message.")
@server_option
@timeout_option("Give up when no message comes for S seconds.  [default: never]")
def consume(queues: tuple[str, ...], template: str | None, as_json: bool, **options: Any) -> int:
    """
    Take messages from each QUEUE and print their bodies, one on a line.

    A message is acknowledged once it is written. With --exec it is acknowledged if the command ends with exit code 0; otherwise it is
    queued again, with a longer delay each time. The command finds PHPMQ_QUEUE, PHPMQ_ID, PHPMQ_ATTEMPTS and PHPMQ_HEADERS (JSON) in its
    environment.

    \b
    phpmq consume jobs --count 1
    phpmq consume jobs --exit-empty --json > jobs.ndjson
    phpmq consume jobs --exec ./work --jobs 4
    """
    _check(template, as_json, **options)
    queues = tuple(dict.fromkeys(queues))

    from phpmq.cli.consume.consuming import Order, consume_messages
    from phpmq.cli.consume.formats import format_of
    from phpmq.cli.running import run

    order = Order(queues, format_of(template, as_json), **options)
    return run(lambda reactor, signals: consume_messages(reactor, signals, order))


def _check(template: str | None, as_json: bool, command: str | None, ack: str, jobs: int, max_attempts: int | None, **_: object) -> None:
    """
    See that the options fit together.

    @raise click.UsageError: they do not
    """
    if template is not None and as_json:
        raise click.UsageError("--format and --json exclude each other")
    if command is None:
        if jobs != 1 or max_attempts is not None:
            raise click.UsageError("--jobs and --max-attempts go with --exec")
    elif template is not None or as_json or ack == "none":
        raise click.UsageError("--exec excludes --format, --json and --ack none")
