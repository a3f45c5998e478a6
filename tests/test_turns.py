"""Operators' work that may take long is done in turns, and stays true while others go on in between."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.internet.defer import CancelledError, Deferred

from phpmq import operators
from phpmq.admin import queues, reactor
from phpmq.admin.console.protocol import ConsoleProtocol
from phpmq.errors import Draining
from phpmq.interfaces import Steps
from phpmq.results import ServerStatus
from tests.test_admin import AdminTestCase
from tests.test_console import ConsoleTestCase
from tests.web import WebTestCase


class TurnTests(AdminTestCase):
    """Each slice of work is as short as can be."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(reactor, "SLICE", 0.0)
        self.patch(queues, "QUICK", 1)

    def begin(self, work: Coroutine[Deferred[Any], Any, Any]) -> Deferred[Any]:
        """Start work that has to wait for others' turns."""
        begun = Deferred.fromCoroutine(work)
        self.assertNoResult(begun)
        return begun

    def end(self, begun: Deferred[Any]) -> Any:
        """What comes of it."""
        self.server.clock.advance(0)
        return self.result(begun)

    def test_queues(self) -> None:
        """A queue that goes while many are sorted is left out, in whatever order."""
        for sort in "name", "-name", "messages", "-age":
            for number in range(4):
                self.server.send(f"q{number}", b"x")
            listing = self.begin(self.admin.queues.list(sort=sort, limit=3))
            self.admin.queues.flush("q1")
            self.server.broker.dispatch()
            self.assertNotIn("q1", self.server.broker.queues)
            names = {queue["name"] for queue in self.end(listing).items}
            self.assertNotIn("q1", names)
            self.assertGreaterEqual(len(names), 2)

    def test_filter(self) -> None:
        """What matches is looked for in turns."""
        for number in range(4):
            self.server.send(f"q{number}", b"x")
        listing = self.begin(self.admin.queues.list("*[12]"))
        self.assertEqual([queue["name"] for queue in self.end(listing).items], ["q1", "q2"])

    def test_flush_all(self) -> None:
        """What it answers is what happened, also to what was sent meanwhile; a queue that is new is not flushed."""
        for number in range(3):
            self.server.send(f"q{number}", b"x")
        flushing = self.begin(self.admin.queues.flush_all())
        self.server.send("q2", b"late")
        self.server.send("new", b"stays")
        self.assertEqual(self.end(flushing), {"queues": 3, "removed": 4, "in_flight": 0})
        self.assertEqual(list(self.server.broker.queues), ["new"])

    def test_flush_one_of_all(self) -> None:
        """A queue that is flushed by somebody else meanwhile counts there."""
        for number in range(3):
            self.server.send(f"q{number}", b"x")
        flushing = self.begin(self.admin.queues.flush_all())
        self.assertEqual(self.admin.queues.flush("q2").removed, 1)
        self.assertEqual(self.end(flushing)["removed"], 2)

    def test_in_flight(self) -> None:
        """What is settled while the first of many are looked for is not in the list; the others are, in order."""
        self.patch(operators, "_LOOK", 2)
        self.send("q", *(b"%d" % number for number in range(9)))
        held = self.hold("q", 9)
        listing = self.begin(self.admin.messages.list("q", "in_flight", limit=5))
        held[1].ack()
        self.server.broker.dispatch()
        page = self.end(listing)
        found = self.bodies(page)
        self.assertEqual(found, sorted(found))
        self.assertLessEqual({"0", "2", "3", "4"}, set(found))
        rest = self.result(self.admin.messages.list("q", "in_flight", after=page.next or ""))
        self.assertEqual(found + self.bodies(rest), [str(number) for number in range(9) if number != 1])

    def test_in_flight_again(self) -> None:
        """What comes back meanwhile and is delivered to somebody else is in the list once."""
        self.patch(operators, "_LOOK", 1)
        for _ in range(2):
            self.server.client().subscribe("q", lambda delivery: None, window=8)
        self.server.settle()
        self.send("q", *[b"x"] * 8)
        first, second = (channel for channel in self.server.broker.lifecycle.channels if "q" in channel.consumers)
        self.assertEqual((len(first.unacked), len(second.unacked)), (4, 4))
        listing = self.admin.operators.messages("q", "in_flight", 0, 50, 256)
        for _ in range(3):
            next(listing)
        first.give_back()
        self.server.broker.dispatch()
        self.assertEqual(len(second.unacked), 8)
        ids = [item["id"] for item in self.result(self.admin.work.run(listing)).items]
        self.assertEqual(ids, sorted(id.decode() for id in second.unacked))

    def test_clients(self) -> None:
        """A client that goes meanwhile is told as it is then."""
        for _ in range(3):
            self.server.client()
        listing = self.begin(self.admin.clients.list("*"))
        self.server.disconnect()
        self.assertGreaterEqual(len(self.end(listing).items), 3)

    def test_rates(self) -> None:
        """Rates are those of each queue's own time, and a sample is finished before the next one begins."""
        self.patch(queues, "_SAMPLED", 1)
        for number in range(4):
            self.server.send(f"q{number}", b"x")
        self.admin.sample()
        self.server.clock.advance(0)
        for _ in range(3):
            for number in range(4):
                self.server.send(f"q{number}", b"x")
            self.server.clock.rightNow += 2
            self.admin.sample()
            self.admin.sample()
            self.server.clock.advance(0)
        for number in range(4):
            self.assertEqual(self.admin.queues.status(f"q{number}").rates.received.last, 0.5)

    def test_draining(self) -> None:
        """When the server stops, what is not finished says so; sampling just ends."""
        for number in range(4):
            self.server.send(f"q{number}", b"x")
        works = [self.begin(work) for work in (self.admin.queues.list(), self.admin.queues.flush_all(), self.admin.queues.list(sort="age"))]
        self.patch(queues, "_SAMPLED", 1)
        self.admin.sample()
        self.server.service.running = 0
        self.server.clock.advance(0)
        for work in works:
            self.failureResultOf(work, Draining)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.server.service.running = 1


class LineTests(AdminTestCase):
    """Of much work at once only one slice is done in each turn of the reactor, so that clients wait for that and not for all."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(reactor, "SLICE", 0.0)
        self.calls: list[Callable[[], object]] = []
        self.patch(self.server.clock, "callLater", self.call_later)
        self.seen: list[str] = []

    def call_later(self, delay: float, call: Callable[[], object]) -> DelayedCall:
        """What the reactor does in its next turn."""
        self.assertEqual(delay, 0)
        self.calls.append(call)
        return DelayedCall(0, call, (), {}, lambda _: self.calls.remove(call), lambda _: None)

    def turn(self) -> None:
        """What the reactor does next."""
        (call,) = self.calls
        self.calls.clear()
        call()

    def work(self, name: str) -> Deferred[None]:
        """Begin work of three steps."""

        def steps() -> Steps[None]:
            for number in range(3):
                if number:
                    yield
                self.seen.append(name)

        return Deferred.fromCoroutine(self.admin.work.run(steps()))

    def test_one_at_a_time(self) -> None:
        """Each does its first step at once; then there is one step in a turn, and nobody is two steps ahead of another one."""
        works = [self.work(name) for name in "abc"]
        for done in range(6):
            self.assertEqual(len(self.seen), 3 + done)
            counts = [self.seen.count(name) for name in "abc"]
            self.assertLessEqual(max(counts) - min(counts), 1)
            self.turn()
        self.assertEqual((sorted(self.seen), self.calls), ([*"aaabbbccc"], []))
        for work in works:
            self.successResultOf(work)

    def test_quick(self) -> None:
        """What takes less than a slice leaves the rest of it to others; if nobody else waits, it is done at once."""
        works = [self.work(name) for name in "abc"]
        self.patch(reactor, "SLICE", 1.0)
        self.turn()
        for work in works:
            self.successResultOf(work)
        self.assertEqual((sorted(self.seen), self.calls), ([*"aaabbbccc"], []))
        self.successResultOf(self.work("d"))
        self.assertEqual((self.seen[-3:], self.calls), ([*"ddd"], []))

    def test_given_up(self) -> None:
        """What is given up takes no turn."""
        works = [self.work(name) for name in "abc"]
        works[0].cancel()
        self.failureResultOf(works[0], CancelledError)
        self.turn()
        self.assertEqual(self.seen, ["a", "b", "c", "b"])

    def test_new(self) -> None:
        """What begins while others wait gets in line before it has taken long."""
        self.work("a")
        self.patch(reactor, "SLICE", 1.0)
        self.assertNoResult(self.work("b"))
        self.assertEqual(self.seen, [*"ab"])

    def test_draining(self) -> None:
        """When the server stops, all end at once."""
        works = [self.work(name) for name in "abc"]
        self.server.service.running = 0
        self.turn()
        for work in works:
            self.failureResultOf(work, Draining)
        self.assertEqual(self.calls, [])
        self.server.service.running = 1


class WebTurnTests(WebTestCase):
    """Answers."""

    def test_page(self) -> None:
        """A page is made in turns, and has its length before it begins."""
        self.patch(reactor, "SLICE", 0.0)
        for number in range(20):
            self.server.send(f"q{number:02}", b"x")
        connection = self.connect()
        connection.wire.protocol.dataReceived(self.request("GET", "/api/v1/queues"))
        self.assertEqual(connection.wire.output.getvalue(), b"")
        self.server.send("q00", b"y")
        self.clock.advance(0)
        response = connection.hears()
        self.assertEqual(response.headers["content-length"], str(len(response.body)))
        self.assertEqual([queue["name"] for queue in response.json["items"]], [f"q{number:02}" for number in range(20)])

    def test_gone(self) -> None:
        """A client that goes while its answer is made leaves nothing behind, and the answer is not made."""
        self.patch(reactor, "SLICE", 0.0)
        for number in range(20):
            self.server.send(f"q{number:02}", b"x")
        connection = self.connect()
        connection.wire.protocol.dataReceived(self.request("GET", "/api/v1/queues?sort=-age"))
        connection.wire.lose()
        looked: list[object] = []
        self.patch(self.server.service.admin.queues, "_status", looked.append)
        self.clock.advance(0)
        self.assertEqual((self.site.connections.open, self.flushLoggedErrors(), looked), ({}, [], []))


class MonitorTurnTests(ConsoleTestCase):
    """Monitors."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(reactor, "SLICE", 0.0)
        for number in range(20):
            self.server.send(f"q{number:02}", b"x")

    def test_left(self) -> None:
        """A monitor that is left while its screen is made shows no more."""
        self.operator.types("monitor")
        self.assertIn("q00", self.operator.reads())
        self.server.clock.rightNow += 0.5
        console: ConsoleProtocol = self.operator.console
        self.consoles.monitors.refresh()
        console.dataReceived(b"q")
        left = self.operator.reads()
        self.server.clock.advance(0)
        self.assertIn("phpmq > ", left)
        self.assertNotIn("q00", self.operator.reads())

    def test_again(self) -> None:
        """A refresh that is still under way is finished before the next one begins."""
        asked: list[None] = []
        whole = self.admin.status

        def status_of_server() -> ServerStatus:
            asked.append(None)
            return whole()

        self.operator.types("monitor")
        self.operator.reads()
        self.patch(self.admin, "status", status_of_server)
        for _ in range(3):
            self.consoles.monitors.refresh()
        self.assertEqual(asked, [])
        for _ in range(3):
            self.server.clock.advance(0)
        self.assertEqual(len(asked), 1)
        self.assertIn("q00", self.operator.reads())
