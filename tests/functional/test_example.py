"""The examples of the documentation."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.client import Client, bodies, take_all
from tests.functional.server import TWISTD, Process, directory

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
