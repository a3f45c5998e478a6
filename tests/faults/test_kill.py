"""Servers that are killed or stopped under load."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.checker import QUEUES, Checker, Content, Load, read_server, read_store
from tests.functional.server import Server, directory

#: Seconds within which the file has what clients saw, unless the machine is very busy: the mirror's interval and then some.
FOLLOWS_WITHIN = 0.25

#: Seconds within which a server with less than 100,000 messages is ready.
READY_WITHIN = 5.0


class UnderLoadTests(SynchronousTestCase):
    """Round after round on the same store: what one round leaves, the next has to keep."""

    timeout = 150

    def start(self, cwd: Path, label: int) -> Server:
        """A server; every other one writes all the time, so that it is killed while it does."""
        return Server(self, "--mirror-interval", "0.1" if label % 2 else "0.001", cwd=cwd)

    def run_rounds(self, number: int, rounds: int) -> None:
        """End a server with a signal under load so many times, and judge what is left."""
        cwd = directory(self)
        chance = random.Random(number)
        before: Content = {queue: [] for queue in QUEUES}
        sent = kept = late = 0
        busy = 0.0
        server = self.start(cwd, 0)
        for label in range(rounds):
            start = time.monotonic()
            # Every third round only fills.
            load = Load(server, label, QUEUES if label % 3 != 2 else ())
            time.sleep(chance.uniform(0.1, 0.4))
            settled, unsettled = load.settled(), load.unsettled()
            time.sleep(FOLLOWS_WITHIN)
            busy += time.monotonic() - start
            code = server.stop(number)
            load.wait()
            self.assertEqual(code, -9 if number == signal.SIGKILL else 0, server.output)
            self.assertNotIn("Traceback", server.output)
            stored = read_store(server.store, cwd / "copy")
            checker = Checker(before, load, stored)
            if number != signal.SIGKILL:
                checker.check_clean_stop()
            server = self.start(cwd, label + 1)
            self.assertLess(server.seconds_to_ready, READY_WITHIN)
            checker.check_recovered(read_server(server, stored))
            self.assertEqual(checker.faults, [], f"round {label}")
            sent += load.count
            kept += sum(body.startswith(b"%d:" % label) for bodies in stored.values() for body in bodies)
            there = {body for bodies in stored.values() for body in bodies}
            late += bool(settled & there or unsettled - there - load.settled() - set().union(*load.acknowledged.values()))
            before = stored
        # Otherwise all this would prove little.
        self.assertGreater(sent / busy, 1000)
        self.assertGreater(kept, rounds * 10)
        self.assertLess(late, rounds // 2, "the file does not follow")

    def test_kill(self) -> None:
        """kill -9, 20 times: what the last commit has is back, in order, and nothing else."""
        self.run_rounds(signal.SIGKILL, 20)

    def test_terminate(self) -> None:
        """SIGTERM, 6 times: exit code 0, and all that the server had ever read is back, in order, and nothing else."""
        self.run_rounds(signal.SIGTERM, 6)
