"""
The hot path alone: sessions, broker and store, without sockets, reactor and file.

C{python -m tests.benchmarks.core COUNT} has so many messages sent, delivered and acknowledged, and prints how many seconds of the
processor that took. How many instructions it takes, as valgrind counts them, is the same on a busy machine, and tells two versions of
the code apart that time does not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from phpmq.broker import Broker
from phpmq.server_frames import Versions
from phpmq.session import Session
from phpmq.store import SQLiteStore
from tests.benchmarks.brokers import phpmq_ack, phpmq_consume, phpmq_send
from tests.benchmarks.load import BODY, WINDOW
from tests.benchmarks.table import Row, Scale
from tests.doubles import RecordingConnection

_QUEUE = b"core"

# Messages that come in one chunk.
_CHUNK = 200

# What is before a message's id in its delivery.
_ID = b"P03%029d" % 32

# Messages in the two runs whose difference is counted.
_FEW, _MANY = 4_000, 24_000


def carry(count: int) -> None:
    """Have so many messages sent, delivered and acknowledged."""
    now = [1_700_000_000_000]
    store = SQLiteStore()
    broker = Broker(store, lambda: now[0], wake=lambda: None)
    versions, connection = Versions(), RecordingConnection()
    sender, consumer = Session(broker, versions, RecordingConnection()), Session(broker, versions, connection)
    consumer.receive(phpmq_consume(_QUEUE, WINDOW))
    chunk = phpmq_send(_QUEUE, BODY) * _CHUNK
    begin = phpmq_ack(_QUEUE, b"." * 32)[:-32]
    for _ in range(count // _CHUNK):
        sender.receive(chunk)
        deliveries = b"".join(connection.writes).split(_ID)[1:]
        connection.writes.clear()
        consumer.receive(b"".join([begin + delivery[:32] for delivery in deliveries]))
        now[0] += 1
    if broker.lifecycle.acknowledged != count:
        raise AssertionError(f"{broker.lifecycle.acknowledged} of {count} came through")
    store.close()


def _command(count: int) -> list[str]:
    return [sys.executable, "-m", "tests.benchmarks.core", str(count)]


def _instructions(count: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *_command(count)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "0"})
    match = re.search(r"Collected : (\d+)", result.stderr)
    if match is None:
        raise ValueError(result.stderr)
    return int(match[1])


def core(directory: Path, scale: Scale) -> Iterator[Row]:
    """What a message costs where it is counted, stored and passed on."""
    seconds = [float(subprocess.check_output(_command(scale.speed))) for _ in range(scale.rounds)]
    yield Row("hot path of a message alone", f"{median(seconds) / scale.speed * 1e6:.2f} us of processor")
    if shutil.which("valgrind") is None:
        yield Row("instructions of that", "skipped: valgrind is not installed")
    else:
        yield Row("instructions of that", f"{(_instructions(_MANY) - _instructions(_FEW)) / (_MANY - _FEW):,.0f}")


if __name__ == "__main__":
    before = time.process_time()
    carry(int(sys.argv[1]))
    print(time.process_time() - before)
