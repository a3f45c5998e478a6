"""The parts of the benchmark; each starts what it needs, and yields rows of the table."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from tests.benchmarks import load
from tests.benchmarks.brokers import PEERS, Broker, Phpmq, Redis
from tests.benchmarks.core import core
from tests.benchmarks.doors import metrics, operators
from tests.benchmarks.order import Order
from tests.benchmarks.stalls import stalls
from tests.benchmarks.synced import SYNCED_PEERS, RabbitMQ, SyncedBeanstalkd, SyncedPhpmq
from tests.benchmarks.table import Row, Scale, at_least, end_to_end, interleaved, per_second, settled, stall, timed


def speed(directory: Path, scale: Scale) -> Iterator[Row]:
    """
    End-to-end rates of all brokers, and their ratios.

    A client that reads Redis' replies line by line takes longer than Redis itself and makes it look a third as fast; this one does not.
    """
    with ExitStack() as stack:
        server = stack.enter_context(Phpmq(directory))
        peers = [stack.enter_context(peer(directory)) for peer in PEERS if peer.installed()]
        server.stall()
        before = server.busy
        own, *rates = interleaved([server, *peers], scale)
        cost = (server.busy - before) / (scale.speed * scale.rounds + scale.speed // 10)
        yield Row("end to end, phpmq", f"{per_second(own)}, {cost * 1e6:.1f} us of processor each")
        for peer, rate in zip(peers, rates, strict=True):
            yield Row(f"end to end, {peer.name}", per_second(rate))
        for peer, rate in zip(peers, rates, strict=True):
            measure = f"phpmq / {peer.name}"
            yield at_least(measure, own / rate, 1.5) if isinstance(peer, Redis) else Row(measure, f"{own / rate:.2f}")
        yield from (Row(f"end to end, {peer.name}", "skipped: not installed") for peer in PEERS if not peer.installed())
        yield stall(server, "end to end")


def backlog(directory: Path, scale: Scale) -> Iterator[Row]:
    """Fill, then drain, as multiples of what Redis does end to end."""
    with ExitStack() as stack:
        server = stack.enter_context(Phpmq(directory))
        base = 0.0
        if Redis.installed():
            with Redis(directory) as redis:
                base = median(end_to_end(redis, scale.speed) for _ in range(scale.rounds))
            yield Row("end to end, Redis Streams", per_second(base))
        for what, work, target in ("fill", server.send, 200 / 90), ("drain", server.consume, 150 / 90):
            server.stall()
            rate = scale.backlog / timed(partial(work, scale.backlog))
            yield Row(f"{what} of {scale.backlog:,}", per_second(rate))
            if base:
                yield at_least(f"{what} / Redis Streams end to end", rate / base, round(target, 2))
            yield stall(server, what)


def memory(directory: Path, scale: Scale) -> Iterator[Row]:
    """What a waiting message takes, and how long a start with them takes."""
    count = scale.backlog
    with Phpmq(directory) as server:
        bare = settled(server)
        server.send(count)
        each = (settled(server) - bare) / count
        yield Row(f"memory per waiting {load.SIZE}-byte message", f"{each:.0f} bytes", "<= 200 bytes", each <= 200)
        stop = timed(partial(server.__exit__, None, None, None))
        yield Row(f"stop with {count:,} messages", f"{stop:.1f} s", "<= 10 s", stop <= 10)
        start = timed(server.__enter__)
        yield Row(f"start with {count:,} messages, until it answers", f"{start:.1f} s", "<= 5 s", start <= 5)
        each = (settled(server) - bare) / count
        yield Row("memory per waiting message after the start", f"{each:.0f} bytes")


def connections(directory: Path, scale: Scale) -> Iterator[Row]:
    """What idle connections take."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = scale.connections if hard == resource.RLIM_INFINITY else min(scale.connections, hard - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 200, hard))
    with Phpmq(directory) as server, ExitStack() as stack:
        bare = settled(server)
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        for number in range(1, count + 1):
            stack.enter_context(load.connect(server.port))
            # A listener's queue takes 50; what comes when it is full tries again a second later.
            while number % 40 == 0 and len(list(descriptors.iterdir())) < number:
                time.sleep(0.005)
        while len(list(descriptors.iterdir())) < count:
            time.sleep(0.1)
        taken = (settled(server) - bare) / 1e6
        yield Row(f"memory of {count:,} idle connections", f"{taken:.1f} MB", f"< {count * 6 / 1000:g} MB", taken < count * 6 / 1000)


def queues(directory: Path, scale: Scale) -> Iterator[Row]:
    """The rate beside other messages that wait in many queues."""
    empty, crowded = directory / "empty", directory / "crowded"
    empty.mkdir()
    crowded.mkdir()
    with Phpmq(empty) as alone, Phpmq(crowded) as beset:
        beset.send_to_many(scale.backlog, scale.queues)
        settled(beset)
        beset.stall()
        without, with_others = interleaved([alone, beset], scale)
        yield Row("end to end, empty server", per_second(without))
        yield Row(f"end to end, {scale.backlog:,} others in {scale.queues:,} queues", per_second(with_others))
        yield at_least("the latter / the former", with_others / without, 0.8)
        yield stall(beset, "with others waiting")


def order(directory: Path, scale: Scale) -> Iterator[Row]:
    """First in, first out, from eight senders, through a restart while they send."""
    check = Order(Phpmq(directory), scale.backlog)
    check.run()
    figure = f"{check.lost} lost, {check.duplicated} duplicated, {check.misplaced} out of order"
    met = not (check.lost or check.duplicated or check.misplaced)
    yield Row(f"{check.count:,} messages of 8 senders, restart after {check.before:,}", figure, "none", met)


def synced(directory: Path, scale: Scale) -> Iterator[Row]:
    """Sends from one connection whose receipt says that they are on the disk, beside peers that promise the same."""
    with ExitStack() as stack:
        server = stack.enter_context(SyncedPhpmq(directory))
        peers = [stack.enter_context(peer(directory)) for peer in SYNCED_PEERS if peer.installed()]
        brokers: list[Broker] = [server, *peers]
        counts = [scale.speed // 10 if isinstance(broker, SyncedBeanstalkd) else scale.speed // 2 for broker in brokers]
        rounds = [
            [count / timed(partial(broker.send, count)) for broker, count in zip(brokers, counts, strict=True)] for _ in range(scale.rounds)
        ]
        own, *rates = (median(each) for each in zip(*rounds, strict=True))
        yield Row("synced sends, phpmq", per_second(own), ">= 60,000 /s", own >= 60_000)
        least = {RabbitMQ: 1.5, SyncedBeanstalkd: 5.0}
        for peer, rate in zip(peers, rates, strict=True):
            yield Row(f"synced sends, {peer.name}", per_second(rate))
            ratio, wanted = own / rate, least.get(type(peer), 0.0)
            measure = f"phpmq / {peer.name}"
            yield at_least(measure, ratio, wanted) if wanted else Row(measure, f"{ratio:.2f}")
        yield from (Row(f"synced sends, {peer.name}", "skipped: not installed") for peer in SYNCED_PEERS if not peer.installed())


def clients(directory: Path, scale: Scale) -> Iterator[Row]:
    """What the package's own clients do over one connection."""
    with Phpmq(directory) as server:
        for name, least in ("twisted", 40_000), ("blocking", 20_000):
            for level in "stored", "synced":
                command = [sys.executable, "-m", "tests.benchmarks.clients", name, str(server.port), str(scale.speed // 2), level]
                runs = [json.loads(subprocess.check_output(command)) for _ in range(scale.rounds)]
                for what in ("send", "consume") if level == "stored" else ("send",):
                    rate = median(run[what] for run in runs)
                    measure = f"{name} client, sends, {level}" if what == "send" else f"{name} client, deliveries with acknowledgements"
                    yield Row(measure, per_second(rate), f">= {least:,} /s", rate >= least)


#: name -> part, in the order in which they run.
PARTS: dict[str, Callable[[Path, Scale], Iterator[Row]]] = {
    part.__name__: part for part in (core, speed, backlog, synced, clients, memory, connections, queues, metrics, operators, stalls, order)
}
