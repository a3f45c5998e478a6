"""
What was receipted as synced is there after kill -9: the command prints an id, and from then on nothing may take the message away.

    PHPMQ_ROUNDS=50 trial tests.faults.test_receipts
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.checker import Load
from tests.functional.command import Command, phpmq
from tests.functional.server import Server, directory

#: How often the server is killed.
ROUNDS = int(os.environ.get("PHPMQ_ROUNDS", "8"))


class ReceiptTests(SynchronousTestCase):
    """Round after round on the same store."""

    timeout = 60 + 10 * ROUNDS

    def test_synced(self) -> None:
        """Under load, C{phpmq send --level synced} prints an id, the server is killed at once, and the next one has the message."""
        cwd = directory(self)
        lost = []
        others = 0
        for number in range(ROUNDS):
            server = Server(self, cwd=cwd)
            load = Load(server, number)
            command = Command(self, server, "send", "jobs", f"hello {number}", "--level", "synced")
            message_id = command.line()
            server.kill()
            load.wait()
            self.assertEqual(load.errors, [])
            self.assertRegex(message_id, rb"\A[0-9a-f]{32}\n\Z")
            self.assertEqual(command.end().code, 0)
            others += load.count
            server = Server(self, cwd=cwd)
            result = phpmq(self, server, "consume", "jobs", "--count", "1", "--timeout", "5")
            if result.out != f"hello {number}\n".encode():
                lost.append((number, message_id, result))
            # It is acknowledged, which is to be in the file too.
            server.stop()
        self.assertEqual(lost, [])
        # Otherwise this would prove little.
        self.assertGreater(others, 200 * ROUNDS)
