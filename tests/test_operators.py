"""The seam between operators and the engine: what it has to do, and what happens if it cannot."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from phpmq.broker import Broker
from phpmq.errors import BadSetting, NoSuchMessage, NoSuchQueue, NotSupported
from phpmq.interfaces import IOperators, Steps
from phpmq.operators import LocalOperators
from phpmq.store import SQLiteStore
from tests.web import WebTestCase


def done(steps: Steps[Any]) -> Any:
    """The result of work, all of whose steps are done."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


class LocalTests(SynchronousTestCase):
    """The operators' side of a broker, without a server."""

    def setUp(self) -> None:
        self.store = SQLiteStore()
        self.addCleanup(self.store.close)
        self.broker = Broker(self.store, lambda: 1_000_000)
        self.operators: Any = LocalOperators(self.broker, self.store)

    def test_interface(self) -> None:
        """It is what admin needs of an engine."""
        verifyObject(IOperators, self.operators)

    def test_numbers(self) -> None:
        """All numbers of a queue, by which it is sorted too."""
        for body in b"1", b"23":
            self.broker.publish("q", body)
        numbers = self.operators.numbers("q")
        self.assertEqual((numbers.name, numbers.ready, numbers.bytes, numbers.received, numbers.oldest), ("q", 2, 3, 2, 1_000_000))
        self.assertEqual([self.operators.rank("q", by) for by in ("ready", "messages", "bytes", "dead", "age")], [2, 2, 3, 0, 0])
        self.assertEqual(self.operators.counters("q"), (numbers.number, (2, 0, 0)))
        self.assertEqual((self.operators.counters("none"), self.operators.rank("none", "ready")), (None, 0))
        self.assertRaises(NoSuchQueue, self.operators.numbers, "none")

    def test_pause(self) -> None:
        """What is paused is told by its names."""
        self.assertEqual(self.operators.pause("q", "all").paused, ("deliveries", "sends"))
        self.assertEqual(self.operators.resume("q", "sends").paused, ("deliveries",))
        self.assertRaises(BadSetting, self.operators.pause, "q", "everything")

    def test_move(self) -> None:
        """Moving many messages takes several steps, each as long as a time slice, and others go on in between."""
        for _ in range(1200):
            self.broker.publish("from", b"x")
        steps = self.operators.move("from", "to", None)
        self.assertIs(next(steps), True)
        self.assertEqual((self.operators.numbers("from").ready, self.operators.numbers("to").ready), (700, 500))
        self.broker.publish("from", b"late")
        self.assertEqual(done(steps), 1200)
        self.assertEqual(self.operators.numbers("from").ready, 1)

    def test_messages(self) -> None:
        """A page of messages says where the next one begins."""
        for number in range(5):
            self.broker.publish("q", b"%d" % number)
        page = done(self.operators.messages("q", "ready", 0, 3, 10))
        self.assertEqual([one.body for one in page.items], ["0", "1", "2"])
        self.assertEqual([one.body for one in done(self.operators.messages("q", "ready", int(page.next), 3, 10)).items], ["3", "4"])
        found, body = self.operators.message("q", page.items[1].id, 0)
        self.assertEqual((found.body, found.truncated, body), ("", True, b"1"))
        self.assertRaises(NoSuchMessage, self.operators.message, "q", "0" * 32, 0)

    def test_dead(self) -> None:
        """Work on dead letters of a queue that has none, and is not there, is an error when it begins."""
        for steps in self.operators.replay("q", "q", None, None, None), self.operators.delete_dead("q", None, None, None):
            self.assertRaises(NoSuchQueue, next, steps)


class UnsupportedTests(WebTestCase):
    """An engine that cannot do everything."""

    def test_answer(self) -> None:
        """What it cannot do is answered as that, and the rest goes on."""

        def pause(name: str, what: str) -> None:
            raise NotSupported("this engine cannot pause a queue")

        self.send("q", b"x")
        self.patch(self.admin.operators, "pause", pause)
        answer = self.ask("POST", self.queue("q", "/pause"))
        self.assertEqual((answer.status, answer.json["code"]), (501, "not-supported"))
        self.assertEqual(self.ask("GET", self.queue("q")).json["ready"], 1)
