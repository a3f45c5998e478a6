"""C{phpmq bench}."""

from __future__ import annotations

from typing import Any

import click

from phpmq.cli.options import QueueName, Rate, Size, level_option, server_option, timeout_option
from phpmq.client_frames import MAX_BODY

#: What is at the beginning of a body, so that its way can be measured.
STAMP_SIZE = 16


@click.command(short_help="Measure a server: rate and latency.")
@click.argument("what", type=click.Choice(["send", "consume", "both"]), default="both")
@click.option("--messages", type=click.IntRange(1), default=10_000, show_default=True, metavar="N", help="How many, all clients together.")
@click.option(
    "--size", type=Size(MAX_BODY), default="100", show_default=True, metavar="B", help="Bytes of a body; 4k and 1M are understood."
)
@click.option(
    "--clients", type=click.IntRange(1, 1000), default=1, show_default=True, metavar="N", help="Connections; with both, of each kind."
)
@click.option(
    "--window", type=click.IntRange(1, 65535), default=100, show_default=True, metavar="N", help="Messages under way on each connection."
)
@level_option
@click.option("--queue", type=QueueName(), default="phpmq-bench", show_default=True, metavar="NAME", help="The queue to use.")
@click.option("--rate", type=Rate(), metavar="N/s", help="Send no faster than that, all clients together.")
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

    from phpmq.cli.bench.measuring import Order, measure
    from phpmq.cli.running import run

    order = Order(what, size, **options)
    return run(lambda reactor, signals: measure(reactor, order))
