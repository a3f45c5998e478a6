"""C{phpmq send}, C{import}, C{consume} and C{bench}: the verbs that speak the queue protocol, with their options and texts."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from phpmq.cli.options import (
    HEADER,
    INTERVAL,
    QUEUE,
    RATE,
    SECONDS,
    TEXT,
    level_option,
    progress_option,
    server_option,
    size,
    timeout_option,
)
from phpmq.cli.output import is_terminal
from phpmq.client_frames import MAX_BODY, encode_send
from phpmq.errors import PHPMQError

#: The least bytes of a body that a benchmark receives: it says when it was sent.
STAMP_SIZE = 16


@click.command()
@click.argument("queue", type=QUEUE)
@click.argument("body", required=False)
@click.option("--lines", is_flag=True, help="Send each line of standard input as a message, as it comes.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="Send the message N times.")
@click.option("--ttl", type=SECONDS, default=0, metavar="S", help="Let it expire after S seconds.  [default: never]")
@click.option("--delay", type=SECONDS, default=0, metavar="S", help="Let it be ready after S seconds.  [default: at once]")
@click.option("--key", type=TEXT, metavar="KEY", help="Store nothing while the queue knows a message with this key.")
@click.option("--header", "headers", type=HEADER, multiple=True, metavar="NAME=VALUE", help="Put a header beside the body; repeatable.")
@level_option
@click.option("--rate", type=RATE, metavar="N/s", help="Send no faster than that; N/min and N/h are understood too.")
@progress_option
@click.option("--ids", is_flag=True, help="Print the id of each message also with --lines and --count.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each message.")
@server_option
@timeout_option("Give up after S seconds without an answer.", 30)
def send(queue: str, body: str | None, lines: bool, count: int | None, **options: Any) -> int:
    """
    Send messages to QUEUE.

    The message is BODY as it is given. With - or without BODY it is what standard input has; with --lines each of its lines is one.

    The id of the message is printed once the server has it. With --lines and --count there is a summary on standard error instead.

    \b
    phpmq send jobs hello
    phpmq send jobs < picture.png
    tail -f access.log | phpmq send hits --lines
    """
    _check_send(body, lines, count)
    fields = {name: options.pop(name) for name in ("ttl", "delay", "key", "level")}
    fields["headers"] = dict(options.pop("headers")) or None
    try:
        encode_send(b"1", queue, b"", **fields)
    except PHPMQError as error:
        raise click.UsageError(str(error)) from error

    from phpmq.cli.reactor_main import run
    from phpmq.cli.send import SendOptions, send_messages

    whole = None if body in (None, "-") else os.fsencode(body or "")
    wanted = SendOptions(queue, fields, body=whole, lines=lines, count=count, **options)
    return run(lambda reactor, signals: send_messages(reactor, signals, wanted))


def _check_send(body: str | None, lines: bool, count: int | None) -> None:
    if lines and body not in (None, "-"):
        raise click.UsageError("--lines takes the messages from standard input: leave out BODY")
    if lines and count is not None:
        raise click.UsageError("--lines and --count exclude each other")
    if body in (None, "-") and sys.stdin is None:
        raise click.UsageError("standard input is closed: give a BODY")
    if body is None and not lines and is_terminal(0):
        raise click.UsageError("there is no BODY: give one, or - to type it, with Ctrl-D at the end")


@click.command("import")
@click.argument("queue", type=QUEUE)
@click.argument("path", type=click.Path(exists=True, dir_okay=False, allow_dash=True), required=False, metavar="[FILE|-]")
@click.option("--skip-bad", is_flag=True, help="Leave out lines that are no messages, instead of ending at the first one.")
@level_option
@click.option("--rate", type=RATE, metavar="N/s", help="Send no faster than that; N/min and N/h are understood too.")
@progress_option
@server_option
@timeout_option("Give up after S seconds without an answer.", 30)
def import_verb(queue: str, path: str | None, skip_bad: bool, level: str, **options: Any) -> int:
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
    from phpmq.cli.reactor_main import run
    from phpmq.cli.send import SendOptions, import_messages

    wanted = SendOptions(queue, {"level": level}, lines=True, done="imported", **options)
    return run(lambda reactor, signals: import_messages(reactor, signals, wanted, None if path == "-" else path, skip_bad))


@click.command()
@click.argument("queues", type=QUEUE, nargs=-1, required=True, metavar="QUEUE...")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N messages, and take no more than those.")
@click.option("--exit-empty", is_flag=True, help="End when no message is ready.")
@click.option("--window", type=click.IntRange(1, 65535), metavar="N", help="Hold at most N messages of a queue.  [default: 100, or --jobs]")
@click.option(
    "--ack",
    type=click.Choice(["after", "none"]),
    default="after",
    show_default=True,
    help="Acknowledge each message after it was written; or none: all come back when the command ends.",
)
@click.option("--exec", "command", metavar="CMD", help="Run CMD by /bin/sh for each message, with the body as its standard input.")
@click.option("--jobs", type=click.IntRange(1, 1000), default=1, show_default=True, metavar="N", help="Run up to N of them at a time.")
@click.option("--lease", type=INTERVAL, metavar="S", help="Let others have a message when it is held for S seconds.")
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
    _check_consume(template, as_json, **options)
    queues = tuple(dict.fromkeys(queues))

    from phpmq.cli.consume import ConsumeOptions, consume_messages, format_of
    from phpmq.cli.reactor_main import run

    wanted = ConsumeOptions(queues, format_of(template, as_json), **options)
    return run(lambda reactor, signals: consume_messages(reactor, signals, wanted))


def _check_consume(
    template: str | None, as_json: bool, command: str | None, ack: str, jobs: int, max_attempts: int | None, **_: object
) -> None:
    if template is not None and as_json:
        raise click.UsageError("--format and --json exclude each other")
    if command is None:
        if jobs != 1 or max_attempts is not None:
            raise click.UsageError("--jobs and --max-attempts go with --exec")
    elif template is not None or as_json or ack == "none":
        raise click.UsageError("--exec excludes --format, --json and --ack none")


@click.command()
@click.argument("what", type=click.Choice(["send", "consume", "both"]), default="both")
@click.option("--messages", type=click.IntRange(1), default=10_000, show_default=True, metavar="N", help="How many, all clients together.")
@click.option(
    "--size", type=size(MAX_BODY), default="100", show_default=True, metavar="B", help="Bytes of a body; 4k and 1M are understood."
)
@click.option(
    "--clients", type=click.IntRange(1, 1000), default=1, show_default=True, metavar="N", help="Connections; with both, of each kind."
)
@click.option(
    "--window", type=click.IntRange(1, 65535), default=100, show_default=True, metavar="N", help="Messages under way on each connection."
)
@level_option
@click.option("--queue", type=QUEUE, default="phpmq-bench", show_default=True, metavar="NAME", help="The queue to use.")
@click.option("--rate", type=RATE, metavar="N/s", help="Send no faster than that, all clients together.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@server_option
@timeout_option("Give up when nothing happens for S seconds.", 30)
def bench(what: str, size: int, **options: Any) -> int:
    """
    Measure what a server does.

    \b
    send     send messages; latency from the send to its receipt
    consume  take what is in the queue, up to --messages; latency from an
             acknowledgement to its answer
    both     send and consume at once; latency also from the send to the
             delivery. The queue has to be empty before, and is after

    All clients are in one process, which uses one processor core: the figures are those of the client as much as those of the server.
    Latency grows with --window: --window 1 shows what a single message takes.
    """
    if what == "both" and size < STAMP_SIZE:
        raise click.UsageError(f"--size has to be at least {STAMP_SIZE} for both: bodies say when they were sent")

    from phpmq.cli.bench import BenchOptions, measure
    from phpmq.cli.reactor_main import run

    wanted = BenchOptions(what, size, **options)
    return run(lambda reactor, signals: measure(reactor, wanted))
