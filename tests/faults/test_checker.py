"""Tests of the checker: what it must find, it finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.faults import checker
from tests.faults.checker import QUEUES, Checker, Load

RED = QUEUES[0]


class CheckerTests(SynchronousTestCase):
    """L{Checker}"""

    def setUp(self) -> None:
        """Before there were 1 and 2, then 3 to 6 were sent; 1 and 3 were acknowledged, and 1 to 4 delivered."""
        self.load: Any = Load.__new__(Load)
        self.load.errors = []
        self.load.sent = {(RED, 0): [b"9:0:3", b"9:0:4", b"9:0:5", b"9:0:6"]}
        self.load.delivered = {RED: [b"1", b"2", b"9:0:3", b"9:0:4"], QUEUES[1]: []}
        self.load.acknowledged = {RED: [b"1", b"9:0:3"], QUEUES[1]: []}

    def faults(self, *stored: bytes, recovered: Sequence[bytes] | None = None, clean: bool = False) -> str:
        """What the checker says about a file."""
        judge = Checker({RED: [b"1", b"2"], QUEUES[1]: []}, self.load, {RED: stored, QUEUES[1]: []})
        if clean:
            judge.check_clean_stop()
        if recovered is not None:
            judge.check_recovered({RED: recovered, QUEUES[1]: []})
        return "\n".join(judge.faults)

    def test_good(self) -> None:
        """All that may be after a kill: acknowledged or not, with the last ones or without."""
        for stored in (
            (b"2", b"9:0:4", b"9:0:5", b"9:0:6"),
            (b"1", b"2", b"9:0:3", b"9:0:4"),
            (b"2", b"9:0:4"),
            (b"2",),
        ):
            self.assertEqual(self.faults(*stored, recovered=stored), "")

    def test_lost(self) -> None:
        """What is missing."""
        self.assertIn("lost, was in the file before", self.faults(b"9:0:4"))
        self.assertIn("lost, later ones are in the file", self.faults(b"2", b"9:0:5"))
        self.assertIn("lost at a clean stop", self.faults(b"2", clean=True))
        self.assertIn("lost at the start", self.faults(b"2", b"9:0:4", recovered=[b"2"]))

    def test_unexpected(self) -> None:
        """What should not be."""
        self.assertIn("invented", self.faults(b"2", b"7"))
        self.assertIn("unexpected at the start", self.faults(b"2", recovered=[b"2", b"1"]))
        self.load.delivered[RED].append(b"7")
        self.assertIn("unexpected delivery", self.faults(b"2"))

    def test_duplicated(self) -> None:
        """What is twice."""
        self.assertIn("duplicated in the file", self.faults(b"2", b"2"))
        self.load.delivered[RED].append(b"9:0:4")
        self.assertIn("duplicated delivery", self.faults(b"2"))

    def test_back(self) -> None:
        """What the server must have seen acknowledged, and has all the same."""
        self.patch(checker, "WINDOW", 3)
        self.assertEqual(self.faults(b"2", b"9:0:3", b"9:0:4", clean=True), "")
        self.assertIn("acknowledged, but back", self.faults(b"1", b"2", b"9:0:4", clean=True))

    def test_order(self) -> None:
        """What is in the wrong place."""
        self.assertIn("file out of order", self.faults(b"2", b"1"))
        self.assertIn("file out of order", self.faults(b"9:0:3", b"2"))
        self.assertIn("file out of order", self.faults(b"2", b"9:0:5", b"9:0:4"))
        self.assertIn("not as in the file", self.faults(b"1", b"2", recovered=[b"2", b"1"]))
        self.load.delivered[RED][2:] = [b"9:0:4", b"9:0:3"]
        self.assertIn("delivery out of order", self.faults(b"2"))
