"""C{phpmq send}."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from phpmq.cli.options import Header, QueueName, Rate, Seconds, Text, level_option, progress_option, server_option, timeout_option
from phpmq.cli.output import is_terminal
from phpmq.client_frames import encode_send
from phpmq.errors import PHPMQError


@click.command(short_help="Send messages to a queue.")
@click.argument("queue", type=QueueName())
@click.argument("body", required=False)
@click.option("--lines", is_flag=True, help="Send each line of standard input as a message, as it comes.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="Send the message N times.")
@click.option("--ttl", type=Seconds(), default=0, metavar="S", help="Let it expire after S seconds.  [default: never]")
@click.option("--delay", type=Seconds(), default=0, metavar="S", help="Let it be ready after S seconds.  [default: at once]")
@click.option("--key", type=Text(), metavar="KEY", help="Store nothing while the queue knows a message with this key.")
@click.option("--header", "headers", type=Header(), multiple=True, metavar="NAME=VALUE", help="Put a header beside the body; repeatable.")
@level_option
@click.option("--rate", type=Rate(), metavar="N/s", help="Send no faster than that; N/min and N/h are understood too.")
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
    _check(queue, body, lines, count)
    fields = {name: options.pop(name) for name in ("ttl", "delay", "key", "level")}
    fields["headers"] = dict(options.pop("headers")) or None
    try:
        encode_send(b"1", queue, b"", **fields)
    except PHPMQError as error:
        raise click.UsageError(str(error)) from error

    from phpmq.cli.running import run
    from phpmq.cli.send.sender import Order, send_messages

    whole = None if body in (None, "-") else os.fsencode(body or "")
    order = Order(queue, fields, whole, lines, count, **options)
    return run(lambda reactor, signals: send_messages(reactor, signals, order))


def _check(queue: str, body: str | None, lines: bool, count: int | None) -> None:
    """
    See that there is something to send.

    @raise click.UsageError: there is not, or twice
    """
    if lines and body not in (None, "-"):
        raise click.UsageError("--lines takes the messages from standard input: leave out BODY")
    if lines and count is not None:
        raise click.UsageError("--lines and --count exclude each other")
    if body in (None, "-") and sys.stdin is None:
        raise click.UsageError("standard input is closed: give a BODY")
    if body is None and not lines and is_terminal(0):
        raise click.UsageError("there is no BODY: give one, or - to type it, with Ctrl-D at the end")
