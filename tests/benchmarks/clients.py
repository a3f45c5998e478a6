"""
The clients of the package at work, each in a process of its own.

C{python -m tests.benchmarks.clients twisted|blocking PORT COUNT LEVEL} sends messages with receipts, then consumes them with
acknowledgements that are answered (the blocking client's are not: it would wait for each), and prints both rates.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

from tests.benchmarks.load import BODY, WINDOW

_QUEUE = "clients"


def _rates(count: int) -> Iterator[dict[str, float]]:
    """Yields once when to begin with each of both, then has the rates."""
    rates: dict[str, float] = {}
    for what in "send", "consume":
        begin = time.perf_counter()
        yield rates
        rates[what] = count / (time.perf_counter() - begin)
    yield rates


def blocking(port: int, count: int, level: str) -> dict[str, float]:
    """The rates of the blocking client."""
    from phpmq.blocking import connect

    rates = _rates(count)
    with connect(f"tcp:127.0.0.1:{port}", max_unconfirmed=2 * WINDOW) as client:
        next(rates)
        for _ in range(count):
            client.submit(_QUEUE, BODY, level=level)
        client.confirmed()
        next(rates)
        for number, delivery in enumerate(client.consume(_QUEUE, window=WINDOW), 1):
            delivery.ack(wait=False)
            if number == count:
                break
        client.ping()
    return next(rates)


def twisted(port: int, count: int, level: str) -> dict[str, float]:
    """The rates of the Twisted client."""
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react

    from phpmq.client import QueueClient

    rates = _rates(count)
    result: dict[str, float] = {}

    async def run() -> None:
        async with QueueClient(f"tcp:127.0.0.1:{port}", reactor, max_unconfirmed=2 * WINDOW) as client:
            await client.connected(1)
            next(rates)
            for _ in range(count):
                await client.room()
                client.send(_QUEUE, BODY, level=level)
            await client.confirmed()
            next(rates)
            number = 0
            async for delivery in client.consume(_QUEUE, window=WINDOW):
                settled = delivery.ack()
                number += 1
                if number == count:
                    break
            await settled
            result.update(next(rates))

    try:
        react(lambda _: Deferred.fromCoroutine(run()))
    except SystemExit as end:
        if end.code:
            raise
    return result


if __name__ == "__main__":
    print(json.dumps({"twisted": twisted, "blocking": blocking}[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
