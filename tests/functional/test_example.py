"""The examples of the documentation."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from signal import SIGTERM

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.client import Client, bodies, take_all
from tests.functional.server import TWISTD, Process, Server, directory

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


class ApplicationTests(SynchronousTestCase):
    """docs/examples/phpmq.tac: another application with a L{QueueService} in it."""

    def test_in_process(self) -> None:
        """Its code consumes and sends in-process, clients see both, and nothing is lost when it is stopped and started again."""
        cwd = directory(self)
        arguments = [*TWISTD, "--nodaemon", "--pidfile=", "-y", str(EXAMPLES / "phpmq.tac")]
        process = Process(self, arguments, cwd)
        process.wait_for("phpmq is ready")
        with Client(cwd / "shouter.sock") as client:
            client.send(b"words", *[b"word %d" % number for number in range(300)])
            client.consume(b"shouts", 10)
            shouts = client.read_many(150, acknowledge=True)
            # Whoever read this has read the acknowledgements as well.
            client.send(b"ping", b"")
            client.consume(b"ping")
            while client.read().queue != b"ping":
                pass
            process.stop()
            self.assertNotIn("Traceback", process.output)
        process = Process(self, arguments, cwd)
        process.wait_for("phpmq is ready")
        rest = take_all(cwd / "shouter.sock", b"shouts", 150)
        self.assertEqual(bodies(shouts + rest), [b"WORD %d" % number for number in range(300)])
        take_all(cwd / "shouter.sock", b"words", 0)
        process.stop()


class WorkerTests(SynchronousTestCase):
    """docs/examples/worker.py and what is around it: the tutorial's worker."""

    def worker(self, server: Server) -> Process:
        """The worker, at work."""
        arguments = [*TWISTD, "--nodaemon", "--pidfile=", "-y", str(EXAMPLES / "worker.tac")]
        return Process(self, arguments, directory(self), {"PHPMQ_SERVER": f"tcp:127.0.0.1:{server.tcp}"})

    def test_worker(self) -> None:
        """Two workers and a server that is killed and started again: every image becomes one thumbnail, and one is set aside."""
        server = Server(self)
        workers = [self.worker(server) for _ in range(2)]
        with Client(server.tcp) as client:
            client.send(b"images", b"", *[b"%d is a large image" % number for number in range(300)])
            client.consume(b"thumbnails")
            first = client.read_many(50, acknowledge=True)
        server.kill()
        server = Server(self, "--listen", f"tcp:{server.tcp}:interface=127.0.0.1", cwd=server.directory)
        # twistd ends by the signal that stopped it.
        self.assertEqual(workers[0].stop(), -SIGTERM, workers[0].output)
        with Client(server.tcp) as client:
            client.consume(b"thumbnails")
            found = {delivery.body for delivery in first}
            while len(found) < 300:
                delivery = client.read()
                client.acknowledge(delivery)
                found.add(delivery.body)
        self.assertEqual(found, {(b"%d is a large image" % number)[:10] for number in range(300)})
        self.assertEqual(workers[1].stop(), -SIGTERM, workers[1].output)
        for worker in workers:
            self.assertNotIn("Traceback", worker.output)
        self.assertEqual(server.stop(), 0)
        with closing(sqlite3.connect(server.store)) as store:
            self.assertEqual(store.execute("SELECT queue, text FROM dead").fetchall(), [("images", "the image is empty")])

    def test_its_tests(self) -> None:
        """The worker's own tests pass, and there are some."""
        cwd = directory(self)
        trial = [sys.executable, "-m", "twisted.trial", "--temp-directory", str(cwd / "trial"), "test_worker"]
        result = subprocess.run(trial, cwd=EXAMPLES, capture_output=True, text=True, timeout=60)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertIn("PASSED (successes=4)", result.stdout)

    def test_script(self) -> None:
        """The script does the same, and ends."""
        server = Server(self)
        with Client(server.tcp) as client:
            client.send(b"images", b"", b"one large image", b"two large images")
        script = [sys.executable, str(EXAMPLES / "script.py"), f"unix:{server.unix}"]
        result = subprocess.run(script, capture_output=True, text=True, timeout=60)
        self.assertEqual((result.returncode, result.stdout.count("is done")), (0, 2), result.stderr)
        self.assertEqual(bodies(take_all(server.tcp, b"thumbnails", 2)), [b"one large ", b"two large "])
        take_all(server.tcp, b"images", 0)
