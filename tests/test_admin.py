"""What an operator can see and do, over a server in memory."""

from __future__ import annotations

from dataclasses import is_dataclass
from inspect import isawaitable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from phpmq import operators
from phpmq.admin import Admin, reactor
from phpmq.broker.producers import PRODUCER_OVERHEAD
from phpmq.errors import (
    BadName,
    BadSetting,
    Draining,
    MemoryFull,
    NoSuchClient,
    NoSuchMessage,
    NoSuchQueue,
    NotAllowed,
    QueueFull,
    TooLarge,
)
from phpmq.results import Page, as_json
from phpmq.testing import MemoryServer

#: A name that every door has to bear.
ODD = "a/b %d <b>é"


class AdminTestCase(SynchronousTestCase):
    """A server in memory with faked time, and its admin."""

    def setUp(self) -> None:
        self.server = MemoryServer(max_message_size=10_000)
        self.addCleanup(self.server.stop)
        self.admin: Admin = self.server.service.admin
        self.client = self.server.client()

    def result(self, work: Any) -> Any:
        """What comes of a coroutine or Deferred, once all is settled, or of what is done at once: as JSON has it, items of pages too."""
        value = work
        if isawaitable(work):
            deferred = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)  # type: ignore[arg-type]
            self.server.settle()
            value = self.successResultOf(deferred)
        if isinstance(value, Page):
            return Page(as_json(value.items), value.next)
        return as_json(value) if is_dataclass(value) else value

    def send(self, queue: str, *bodies: bytes, **more: Any) -> list[str]:
        """Send messages: their ids."""
        return [self.result(self.client.send(queue, body, **more)) for body in bodies]

    def hold(self, queue: str, count: int, lease: float = 0) -> list[Any]:
        """Have messages in flight."""
        held: list[Any] = []
        self.client.subscribe(queue, held.append, window=count, lease=lease)
        self.server.settle()
        self.assertEqual(len(held), count)
        return held

    def dead_letters(self, queue: str, *bodies: bytes) -> list[str]:
        """Have dead letters."""
        ids = self.send(queue, *bodies)
        consumer = self.client.subscribe(queue, lambda delivery: delivery.dead_letter("no"))
        self.server.settle()
        consumer.stop()
        self.server.settle()
        return ids

    def bodies(self, page: Page) -> list[str]:
        """The bodies of a page of messages."""
        return [item["body"] for item in page.items]


class StatusTests(AdminTestCase):
    """Numbers."""

    def test_queue(self) -> None:
        """A queue's numbers are what clients did."""
        self.send(ODD, b"12", b"345", b"6")
        self.send(ODD, b"late", delay=60)
        held = self.hold(ODD, 2)
        held[0].ack()
        self.server.advance(2)
        found = self.result(self.admin.queues.get(ODD))
        self.assertEqual(
            {name: found[name] for name in ("name", "ready", "delayed", "in_flight", "dead", "consumers", "oldest_message_age_seconds")},
            {"name": ODD, "ready": 0, "delayed": 1, "in_flight": 2, "dead": 0, "consumers": 1, "oldest_message_age_seconds": None},
        )
        self.assertEqual(found["totals"], {"received": 4, "delivered": 3, "acknowledged": 1})
        (client,) = self.result(self.admin.clients.list()).items
        self.assertEqual(found["consuming"], [{"client": client["id"], "window": 2, "in_flight": 2, "lease_seconds": 0.0}])
        held[1].dead_letter("broken")
        self.server.settle()
        self.assertEqual(self.result(self.admin.queues.get(ODD))["dead"], 1)

    def test_status(self) -> None:
        """The server's numbers are the sums, and its totals never fall."""
        self.send("a", b"1", b"2")
        self.send("b", b"3")
        self.hold("b", 1)[0].requeue()
        self.server.settle()
        self.admin.queues.flush("a")
        self.server.settle()
        status = self.result(self.admin.status())
        self.assertEqual(status["messages"], {"ready": 0, "delayed": 0, "in_flight": 1, "dead": 0, "bytes": 0})
        self.assertEqual((status["queues"], status["consumers"], status["state"]), (1, 1, "running"))
        totals = status["totals"]
        self.assertEqual((totals["received"], totals["delivered"], totals["redelivered"], totals["flushed"]), (3, 2, 1, 2))
        self.assertEqual(status["connections"]["open"], 1)
        self.assertEqual(status["mirror"], {"file": None})
        self.assertGreater(status["memory"]["used"], 0)

    def test_age(self) -> None:
        """The age is that of the message that is next."""
        self.send("q", b"1", b"2")
        self.server.advance(5)
        self.assertTrue(4.9 < self.result(self.admin.queues.get("q"))["oldest_message_age_seconds"] < 5.1)
        self.hold("q", 1)
        self.server.advance(5)
        self.assertTrue(9.9 < self.result(self.admin.queues.get("q"))["oldest_message_age_seconds"] < 10.1)

    def test_rates(self) -> None:
        """Rates are what happened in the last second, and averages of the last ten and sixty."""
        for _ in range(30):
            self.send("q", b"x", b"y")
            self.server.advance(1)
        rates = self.result(self.admin.queues.get("q"))["rates"]["received"]
        self.assertTrue(1.5 < rates["1s"] < 2.5, rates)
        self.assertTrue(1.5 < rates["10s"] < 2.1, rates)
        self.assertTrue(0.5 < rates["60s"] < 1.5, rates)
        self.assertEqual(self.result(self.admin.status())["rates"]["received"], rates)
        self.server.advance(3)
        self.assertEqual(self.result(self.admin.queues.get("q"))["rates"]["received"]["1s"], 0)
        self.server.advance(600)
        self.assertEqual(self.result(self.admin.queues.get("q"))["rates"]["received"], {"1s": 0, "10s": 0, "60s": 0})

    def test_pages(self) -> None:
        """Queues come in pages, in the order asked for, those that match."""
        for number in range(5):
            self.send(f"Jobs.{number}", *[b"x"] * number, b"")
        self.send("other", b"")
        names: list[str] = []
        after: str | None = ""
        while after is not None:
            page = self.result(self.admin.queues.list("jobs.*", after=after, limit=2))
            names += [queue["name"] for queue in page.items]
            after = page.next
        self.assertEqual(names, [f"Jobs.{number}" for number in range(5)])
        most = self.result(self.admin.queues.list(sort="-ready", limit=2))
        self.assertEqual([queue["name"] for queue in most.items], ["Jobs.4", "Jobs.3"])
        rest = self.result(self.admin.queues.list(sort="-ready", limit=9, after=most.next or ""))
        self.assertEqual([queue["name"] for queue in rest.items], ["Jobs.2", "Jobs.1", "Jobs.0", "other"])
        self.assertEqual(self.result(self.admin.queues.list(sort="-name", limit=1)).items[0]["name"], "other")
        for wrong in (
            {"sort": "colour"},
            {"limit": 0},
            {"limit": 1001},
            {"sort": "ready", "after": "x"},
            {"sort": "ready", "after": "9" * 5000},
        ):
            self.failureResultOf(Deferred.fromCoroutine(self.admin.queues.list(**wrong)), BadSetting)

    def test_orders(self) -> None:
        """Every order is by the number that the queues are shown with, and by name where it is the same."""
        for name, count in ("c", 1), ("a", 1), ("b", 3):
            self.send(name, *[b"x" * count] * count)
            self.server.advance(1)
        self.hold("b", 2)[0].dead_letter()
        self.server.settle()
        for sort, value in {
            "ready": lambda queue: queue["ready"],
            "in_flight": lambda queue: queue["in_flight"],
            "dead": lambda queue: queue["dead"],
            "bytes": lambda queue: queue["bytes"],
            "age": lambda queue: queue["oldest_message_age_seconds"] or 0,
            "rate": lambda queue: queue["rates"]["received"]["10s"],
        }.items():
            up, down = self.result(self.admin.queues.list(sort=sort)).items, self.result(self.admin.queues.list(sort=f"-{sort}")).items
            self.assertEqual(
                [queue["name"] for queue in up], [queue["name"] for queue in sorted(up, key=lambda one: (value(one), one["name"]))]
            )
            self.assertEqual(
                [queue["name"] for queue in down],
                [queue["name"] for queue in sorted(down, key=lambda one: (-value(one), one["name"]))],
                sort,
            )

    def test_sorts(self) -> None:
        """Queues can be sorted by each number that they have."""
        self.dead_letters("dead", b"1")
        self.admin.queues.pause("dead")
        self.send("old", b"")
        self.server.advance(30)
        self.send("many", *[b""] * 7)
        self.send("large", b"x" * 1000)
        self.send("late", *[b""] * 9, delay=99)
        self.send("held", *[b""] * 4)
        self.hold("held", 3)
        self.server.advance(1)
        expected = {"ready": "many", "in_flight": "held", "messages": "late", "dead": "dead", "bytes": "large", "age": "old"}
        for sort, name in {**expected, "rate": "late"}.items():
            self.assertEqual(self.result(self.admin.queues.list(sort=f"-{sort}", limit=1)).items[0]["name"], name, sort)

    def test_memory(self) -> None:
        """What the process takes is known where the system tells it, and its peak is no less."""
        memory = self.result(self.admin.status())["memory"]
        self.assertGreater(memory["resident"], 1024**2)
        self.assertGreaterEqual(memory["peak"], memory["resident"])

    def test_clients(self) -> None:
        """Clients are listed, and can be disconnected, which gives back what they hold."""
        self.send("q", b"1")
        self.hold("q", 1)
        (client,) = self.result(self.admin.clients.list()).items
        self.assertEqual((client["protocol"], client["in_flight"], client["address"]), ("02", 1, "unix socket"))
        self.assertEqual(client["consuming"], [{"queue": "q", "window": 1, "in_flight": 1, "lease_seconds": 0.0}])
        self.assertTrue(client["bytes_received"] and client["bytes_sent"])
        self.server.reachable = False
        self.admin.clients.disconnect(client["id"])
        self.server.settle()
        self.assertEqual((self.result(self.admin.clients.list()).items, self.server.bodies("q")), ([], [b"1"]))
        self.assertRaises(NoSuchClient, self.admin.clients.disconnect, client["id"])

    def test_health(self) -> None:
        """A full memory is an alarm."""
        self.assertTrue(self.admin.health().ready)
        self.send("q", b"x")
        self.server.broker.memory.limit = 1
        self.assertFalse(self.admin.health().ready)
        self.assertEqual([alarm.name for alarm in self.admin.alarms()], ["memory"])
        self.server.broker.memory.limit = 2**30


class MessageTests(AdminTestCase):
    """Looking at messages."""

    def test_states(self) -> None:
        """Each state has its messages, in their order, and looking changes nothing."""
        self.send(ODD, *[b"%d" % number for number in range(8)])
        self.send(ODD, b"late", delay=50, key="k", headers={"a": "b"})
        held = self.hold(ODD, 3)
        held.pop(0).dead_letter("why")
        self.server.settle()
        before = self.result(self.admin.queues.get(ODD))
        for _ in range(2):
            self.assertEqual(self.bodies(self.result(self.admin.messages.list(ODD))), ["4", "5", "6", "7"])
            self.assertEqual(self.bodies(self.result(self.admin.messages.list(ODD, "in_flight"))), ["1", "2", "3"])
            (late,) = self.result(self.admin.messages.list(ODD, "delayed")).items
            self.assertEqual((late["body"], late["key"], late["headers"]), ("late", "k", {"a": "b"}))
            (dead,) = self.result(self.admin.messages.list(ODD, "dead")).items
            self.assertEqual((dead["body"], dead["reason"], dead["text"], dead["attempts"]), ("0", "rejected", "why", 1))
        self.assertEqual(self.result(self.admin.queues.get(ODD)), before)
        self.assertEqual([item["attempts"] for item in self.result(self.admin.messages.list(ODD)).items], [0] * 4)

    def test_pages(self) -> None:
        """Each state comes in pages."""
        for number in range(7):
            self.send("q", b"%d" % number)
            self.send("q", b"d%d" % number, delay=100 - number)
        for delivery in self.hold("q", 3):
            delivery.dead_letter()
        self.server.settle()
        for state, expected in {
            "ready": ["6"],
            "delayed": [f"d{n}" for n in range(7)],
            "in_flight": list("345"),
            "dead": list("012"),
        }.items():
            found: list[str] = []
            after: str | None = ""
            while after is not None:
                page = self.result(self.admin.messages.list("q", state, after, limit=2))
                found += self.bodies(page)
                after = page.next
            self.assertEqual(found, expected, state)

    def test_large_pages(self) -> None:
        """A page ends early where it has enough of all bodies, so that looking at large messages stops nobody; the next one goes on."""
        self.patch(operators, "PAGE_BYTES", 100)
        self.send("q", *[b"%d" % number * 40 for number in range(9)])
        self.send("q", *[b"%d" % number * 40 for number in range(9)], delay=99)
        for delivery in self.hold("q", 4)[:2]:
            delivery.dead_letter()
        self.server.settle()
        for state, expected in ("ready", "678"), ("delayed", "012345678"), ("in_flight", "2345"), ("dead", "01"), ("active", "2345678"):
            for limit, preview, size in (100, 1000, 3), (100, 25, 4), (2, 40, 2), (100, 0, 100):
                found: list[dict[str, Any]] = []
                after: str | None = ""
                while after is not None:
                    page = self.result(self.admin.messages.list("q", state, after, limit, preview))
                    self.assertLessEqual(len(page.items), size)
                    found += page.items
                    after = page.next
                self.assertEqual([item["body"] for item in found], [number * min(preview, 40) for number in expected], state)

    def test_active(self) -> None:
        """Those ready and in flight are in one order, which they keep when they are delivered or come back between two pages."""
        self.send("q", *[b"%d" % number for number in range(8)])
        self.hold("q", 4)
        first = self.result(self.admin.messages.list("q", "active", limit=3))
        self.assertEqual([(item["body"], item["state"]) for item in first.items], [(body, "in_flight") for body in "012"])
        self.server.reachable = False
        self.server.disconnect()
        rest = self.result(self.admin.messages.list("q", "active", first.next or ""))
        self.assertEqual([(item["body"], item["state"]) for item in rest.items], [(body, "ready") for body in "34567"])

    def test_active_while_others_work(self) -> None:
        """Those that come back while those in flight are looked at are found too."""
        self.patch(reactor, "SLICE", 0.0)
        self.patch(operators, "_LOOK", 1)
        self.send("q", *[b"%d" % number for number in range(8)])
        self.hold("q", 4)
        listing = Deferred.fromCoroutine(self.admin.messages.list("q", "active"))
        self.assertNoResult(listing)
        self.server.reachable = False
        self.server.disconnect()
        self.assertEqual(self.bodies(self.result(listing)), [*"01234567"])

    def test_delayed_again(self) -> None:
        """Those delayed come in pages also where they were queued again, and so have later places than numbers."""
        self.send("q", b"0", b"1", b"2")
        for delivery in self.hold("q", 3):
            delivery.requeue(delay=50)
        self.server.settle()
        page = self.result(self.admin.messages.list("q", "delayed", limit=2))
        self.assertEqual(
            self.bodies(page) + self.bodies(self.result(self.admin.messages.list("q", "delayed", page.next or ""))), ["0", "1", "2"]
        )

    def test_preview(self) -> None:
        """Bodies are cut where asked, never inside a character, and are base64 if they are no text."""
        self.send("q", "añb".encode(), b"\xff\x00", b"")
        first, second, third = self.result(self.admin.messages.list("q", preview=2)).items
        self.assertEqual((first["body"], first["size"], first["truncated"]), ("a", 4, True))
        self.assertEqual((second["body_base64"], second["truncated"]), ("/wA=", False))
        self.assertEqual((third["body"], third["size"]), ("", 0))

    def test_preview_of_large_bodies(self) -> None:
        """A preview tells the size of the whole body, wherever the message is."""
        body = b"x" * 9000
        self.send("q", *[body] * 4, key=None, headers={"a": "b"})
        self.send("q", body, delay=9)
        held = self.hold("q", 2)
        held[0].dead_letter()
        self.server.settle()
        for state in "ready", "delayed", "in_flight", "dead":
            item = self.result(self.admin.messages.list("q", state, preview=3)).items[0]
            self.assertEqual((item["body"], item["size"], item["truncated"]), ("xxx", 9000, True), state)
        for id in (self.result(self.admin.messages.list("q", state)).items[0]["id"] for state in ("ready", "dead")):
            self.assertEqual(self.result(self.admin.messages.read("q", id, 5)[0])["body"], "xxxxx")
            self.assertEqual(len(self.result(self.admin.messages.read("q", id, 9000)[0])["body"]), 9000)

    def test_message(self) -> None:
        """A message is found by its id in whatever state it is, with its whole body."""
        ready, held, dead = self.send("q", b"1" * 500, b"2", b"3")
        (late,) = self.send("q", b"4", delay=9)
        deliveries = {delivery.id: delivery for delivery in self.hold("q", 3)}
        deliveries[dead].dead_letter()
        deliveries[ready].requeue()
        self.server.settle()
        states = {id: self.result(self.admin.messages.read("q", id, 0)[0])["state"] for id in (ready, held, dead, late)}
        self.assertEqual(states, {ready: "in_flight", held: "in_flight", dead: "dead", late: "delayed"})
        self.assertEqual(len(self.admin.messages.read("q", ready)[1]), 500)
        self.client.connection.receivers["q"].stop()  # type: ignore[attr-defined]
        self.admin.queues.flush("q")
        self.server.settle()
        for id in late, "0" * 32, "x", "":
            self.assertRaises(NoSuchMessage, self.admin.messages.read, "q", id, 0)
        self.failureResultOf(Deferred.fromCoroutine(self.admin.messages.list("q", after="9" * 19)), BadSetting)
        self.assertRaises(NoSuchMessage, self.admin.messages.read, "other", held, 0)

    def test_never(self) -> None:
        """A message that expires after the last date that there is can be shown."""
        self.send("q", b"x", ttl=10**12 - 1, delay=10**12 - 1)
        (message,) = self.result(self.admin.messages.list("q", "delayed")).items
        self.assertEqual((message["expires_at"], message["due_at"]), ("9999-12-31T23:59:59.000Z",) * 2)

    def test_no_queue(self) -> None:
        """A queue that is not there is an error, everywhere."""
        for work in self.admin.queues.status, self.admin.queues.flush, self.admin.queues.resume:
            self.assertRaises(NoSuchQueue, work, "none")
        admin = self.admin
        for asked in (
            admin.queues.get("none"),
            admin.messages.list("none"),
            admin.messages.list("none", "dead"),
            admin.messages.move("none", "q"),
            admin.messages.move("none", "q", 1),
            admin.queues.delete("none"),
            admin.dead_letters.replay("none"),
            admin.dead_letters.replay("none", "q", ids=["0" * 32]),
            admin.dead_letters.delete("none"),
        ):
            self.failureResultOf(Deferred.fromCoroutine(asked), NoSuchQueue)
        self.assertEqual(self.result(self.admin.queues.list()).items, [])

    def test_send(self) -> None:
        """A message that an operator sends is as any other, and the answer is the receipt."""
        self.assertEqual(self.result(self.admin.messages.send(ODD, b"x", 5, 0, {"h": "v"}, "k", "synced"))["duplicate"], False)
        self.assertEqual(self.result(self.admin.messages.send(ODD, b"y", key="k"))["duplicate"], True)
        (message,) = self.result(self.admin.messages.list(ODD)).items
        self.assertEqual((message["body"], message["headers"], message["key"]), ("x", {"h": "v"}, "k"))
        self.assertEqual(len(self.server.broker.lifecycle.channels), 1)

    def test_wrong_sends(self) -> None:
        """What is wrong with a message is said, and nothing is sent."""
        self.admin.queues.pause("full", "sends")
        self.failureResultOf(self.admin.messages.send("full", b""), QueueFull)
        for error, arguments in (
            (BadName, {"name": "a\n"}),
            (TooLarge, {"body": b"x" * 10_001}),
            (TooLarge, {"key": "é" * 128}),
            (TooLarge, {"headers": {"a": "x" * 8192}}),
            (BadSetting, {"key": ""}),
            (BadSetting, {"key": "\ud800"}),
            (BadSetting, {"headers": {"a": 1}}),
            (BadSetting, {"ttl": -1}),
            (BadSetting, {"delay": float("nan")}),
            (BadSetting, {"level": "sure"}),
        ):
            self.failureResultOf(self.admin.messages.send(**{"name": "q", "body": b"", **arguments}), error)  # type: ignore[arg-type]
        self.server.broker.confirms.mirror = None
        self.failureResultOf(self.admin.messages.send("q", b"", level="synced"), NotAllowed)
        self.assertEqual([queue["name"] for queue in self.result(self.admin.queues.list()).items], ["full"])
        self.assertEqual(len(self.server.broker.lifecycle.channels), 1)


class ActionTests(AdminTestCase):
    """Changing things."""

    def test_flush(self) -> None:
        """Flush tells what it removed and what it left, which settles normally."""
        self.send(ODD, *[b"x"] * 10)
        held = self.hold(ODD, 3)
        self.assertEqual(self.result(self.admin.queues.flush(ODD)), {"queue": ODD, "removed": 7, "in_flight": 3})
        settled = [delivery.ack() for delivery in held]
        self.server.settle()
        self.assertEqual([self.successResultOf(one) for one in settled], [True] * 3)
        self.send("a", b"1")
        self.send("b", b"1", b"2")
        self.assertEqual(self.result(self.admin.queues.flush_all()), {"queues": 3, "removed": 3, "in_flight": 0})

    def test_pause(self) -> None:
        """A pause stops what it says, and resume undoes it."""
        self.admin.queues.pause("q")
        self.send("q", b"1")
        held: list[Any] = []
        self.client.subscribe("q", held.append)
        self.server.settle()
        self.assertEqual((held, self.result(self.admin.queues.get("q"))["paused"]), ([], {"deliveries": True, "sends": False}))
        self.admin.queues.resume("q")
        self.server.settle()
        self.assertEqual(len(held), 1)
        self.admin.queues.pause("q", "all")
        self.admin.queues.resume("q", "deliveries")
        self.assertEqual(self.result(self.admin.queues.get("q"))["paused"], {"deliveries": False, "sends": True})
        self.assertRaises(BadSetting, self.admin.queues.pause, "q", "everything")

    def test_move(self) -> None:
        """Messages move to the tail of another queue, in order, with id and attempts, as many as asked."""
        ids = self.send("from", *[b"%d" % number for number in range(5)], headers={"h": "v"})
        self.send("to", b"first")
        for delivery in self.hold("from", 2):
            del delivery
        self.server.disconnect()
        self.client.connection.receivers.clear()
        self.server.advance(1)
        self.assertEqual(self.result(self.admin.messages.move("from", "to", 2)), {"source": "from", "target": "to", "moved": 2})
        self.assertEqual(self.server.bodies("to"), [b"first", b"0", b"1"])
        _, zero, one = self.result(self.admin.messages.list("to")).items
        self.assertEqual(([zero["id"], one["id"]], zero["attempts"] >= 1, zero["headers"]), (ids[:2], True, {"h": "v"}))
        self.assertEqual(self.result(self.admin.messages.move("from", ODD))["moved"], 3)
        self.assertEqual(self.server.bodies(ODD), [b"2", b"3", b"4"])
        self.assertNotIn("from", self.server.broker.queues)
        self.failureResultOf(Deferred.fromCoroutine(self.admin.messages.move(ODD, ODD)), BadSetting)

    def test_move_many(self) -> None:
        """Many messages move a part at a time, and only those that were there."""
        for _ in range(5000):
            self.server.broker.publish("from", b"x")
        moving = Deferred.fromCoroutine(self.admin.messages.move("from", "to"))
        self.server.broker.publish("from", b"new")
        self.server.settle()
        self.assertEqual(self.successResultOf(moving).moved, 5000)
        self.assertEqual((len(self.server.bodies("to")), self.server.bodies("from")), (5000, [b"new"]))

    def test_move_to_and_fro(self) -> None:
        """Two who move in opposite directions come to an end, however many they want: what comes meanwhile stays."""
        for _ in range(2000):
            self.server.broker.publish("from", b"x")
        there = Deferred.fromCoroutine(self.admin.messages.move("from", "to", 2**53 - 1))
        back = Deferred.fromCoroutine(self.admin.messages.move("to", "from", 2**53 - 1))
        self.server.broker.publish("from", b"new")
        for _ in range(10):
            self.server.clock.advance(0)
        moved = self.successResultOf(there).moved, self.successResultOf(back).moved
        self.assertEqual(moved, (2000, 500))
        self.assertEqual((len(self.server.bodies("to")), len(self.server.bodies("from"))), (1500, 501))

    def test_moved_key(self) -> None:
        """A key is known in the queue where its message is, and in the one to which it was sent until the window is over."""
        self.admin.queues.configure("from", {"dedup": 5})
        (id,) = self.send("from", b"1", key="k")
        self.result(self.admin.messages.move("from", "to"))
        self.assertEqual(self.send("to", b"2", key="k") + self.send("from", b"2", key="k"), [id, id])
        self.server.advance(5)
        self.assertEqual(self.send("to", b"2", key="k"), [id])
        self.assertFalse(self.result(self.client.send("from", b"2", key="k")).duplicate)
        self.hold("to", 1)[0].ack()
        self.assertFalse(self.result(self.client.send("to", b"2", key="k")).duplicate)

    def test_replay(self) -> None:
        """Dead letters go to the tail of their queue or another, by id, by reason or all, with their attempts forgotten."""
        ids = self.dead_letters(ODD, b"0", b"1", b"2", b"3")
        self.send(ODD, b"new")
        self.assertEqual(self.result(self.admin.dead_letters.replay(ODD, ids=[ids[2]])), {"queue": ODD, "target": ODD, "replayed": 1})
        self.assertEqual(self.server.bodies(ODD), [b"new", b"2"])
        self.assertEqual(self.result(self.admin.messages.list(ODD)).items[1]["attempts"], 0)
        self.assertEqual(self.result(self.admin.dead_letters.replay(ODD, reason="expired"))["replayed"], 0)
        self.assertEqual(self.result(self.admin.dead_letters.replay(ODD, target="other", reason="rejected", count=2))["replayed"], 2)
        self.assertEqual(self.server.bodies("other"), [b"0", b"1"])
        self.assertEqual(self.result(self.admin.dead_letters.replay(ODD))["replayed"], 1)
        self.assertEqual((self.server.bodies(ODD), self.server.dead()), ([b"new", b"2", b"3"], []))
        self.failureResultOf(Deferred.fromCoroutine(self.admin.dead_letters.replay(ODD, ids=[ids[0]])), NoSuchMessage)

    def test_named_twice(self) -> None:
        """An id that is given twice counts once; if one of them is none, nothing is done."""
        ids = self.dead_letters("q", b"0", b"1", b"2")
        self.failureResultOf(Deferred.fromCoroutine(self.admin.dead_letters.replay("q", ids=[*ids, "0" * 32])), NoSuchMessage)
        self.assertEqual(self.result(self.admin.dead_letters.replay("q", ids=[ids[1], ids[1], ids[0]]))["replayed"], 2)
        self.assertEqual((self.server.bodies("q"), len(self.server.dead())), ([b"1", b"0"], 1))

    def test_named_while_others_work(self) -> None:
        """Many letters are replayed a part at a time; those that are deleted meanwhile do not come back."""
        self.patch(reactor, "SLICE", 0.0)
        ids = self.dead_letters("q", *[b"x"] * 150)
        replaying = Deferred.fromCoroutine(self.admin.dead_letters.replay("q", ids=ids))
        deleting = Deferred.fromCoroutine(self.admin.dead_letters.delete("q"))
        self.server.settle()
        replayed, deleted = self.successResultOf(replaying).replayed, self.successResultOf(deleting).deleted
        self.assertEqual((replayed, deleted), (1, 149))
        self.assertEqual((len(self.server.bodies("q")), self.server.dead()), (1, []))

    def test_wide_key(self) -> None:
        """A key counts with its bytes wherever it is counted: when its message is sent, expires, dies and is deleted, and on its own."""
        self.admin.queues.configure("q", {"dedup": 1})
        self.send("q", b"stays", key="\U0001f600")
        self.server.advance(3)
        used, bytes_ = self.server.broker.memory.used, self.result(self.admin.queues.get("q"))["bytes"]
        self.send("q", b"expires", key="\U0001f600\U0001f600", ttl=1)
        self.server.advance(3)
        self.assertEqual((self.server.broker.memory.used, self.result(self.admin.queues.get("q"))["bytes"]), (used, bytes_))
        self.result(self.admin.queues.delete("q"))
        self.dead_letters("q", b"")
        used = self.server.broker.memory.used
        consumer = self.client.subscribe("q", lambda delivery: delivery.dead_letter())
        self.send("q", b"dies", key="\U0001f600")
        consumer.stop()
        self.server.advance(122)
        self.server.settle()
        self.result(self.admin.dead_letters.delete("q"))
        self.dead_letters("q", b"")
        self.assertEqual(self.server.broker.memory.used, used)

    def test_stop_within(self) -> None:
        """Work that takes long ends when the server stops, between two of its parts."""
        for _ in range(5000):
            self.server.broker.publish("from", b"x")
        moving = Deferred.fromCoroutine(self.admin.messages.move("from", "to"))
        self.server.service.running = 0
        self.server.settle()
        self.failureResultOf(moving, Draining)
        self.assertEqual(len(self.server.bodies("from")) + len(self.server.bodies("to")), 5000)
        self.assertTrue(self.server.bodies("from"))

    def test_replay_nowhere(self) -> None:
        """A target that no queue can have is refused, and the server goes on."""
        self.dead_letters("q", b"0")
        self.failureResultOf(Deferred.fromCoroutine(self.admin.dead_letters.replay("q", target="a\n")), BadName)
        self.server.send("q", b"1")
        self.hold("q", 1)
        self.assertEqual(self.result(self.admin.dead_letters.totals()).items, [{"queue": "q", "dead": 1, "bytes": 1}])

    def test_dead(self) -> None:
        """Queues with dead letters are listed by pages, also when they are gone."""
        for queue in ODD, "b", "c":
            self.dead_letters(queue, b"0", b"12")
        self.server.advance(1)
        self.assertEqual(self.result(self.admin.queues.list()).items, [])
        page = self.result(self.admin.dead_letters.totals(limit=2))
        rest = self.result(self.admin.dead_letters.totals(limit=2, after=page.next or ""))
        self.assertEqual([(item["queue"], item["dead"], item["bytes"]) for item in page.items], [(ODD, 2, 3), ("b", 2, 3)])
        self.assertEqual(([item["queue"] for item in rest.items], rest.next), (["c"], None))
        self.assertEqual([item["queue"] for item in self.result(self.admin.dead_letters.totals("A*")).items], [ODD])

    def test_delete_dead(self) -> None:
        """Dead letters are deleted, some or all, and what they took is free."""
        before = self.server.broker.memory.used
        ids = self.dead_letters("q", b"0", b"1", b"2")
        self.assertEqual(self.result(self.admin.dead_letters.delete("q", ids=ids[:1]))["deleted"], 1)
        self.assertEqual(self.result(self.admin.dead_letters.delete("q"))["deleted"], 2)
        self.assertEqual((self.server.dead(), self.server.broker.dead_letters.totals), ([], {}))
        self.assertEqual(self.server.broker.memory.used - before, PRODUCER_OVERHEAD)

    def test_delete_queue(self) -> None:
        """A queue is deleted with all that belongs to it."""
        self.dead_letters(ODD, b"0")
        self.send(ODD, b"1")
        self.send(ODD, b"2", key="k")
        self.admin.queues.configure(ODD, {"max_messages": 5})
        self.assertEqual((self.result(self.admin.queues.get(ODD))["keys"], self.result(self.admin.status())["keys"]["remembered"]), (1, 1))
        self.admin.queues.pause(ODD, "all")
        self.assertEqual(self.result(self.admin.queues.delete(ODD)), {"queue": ODD, "removed": 2, "in_flight": 0, "dead": 1})
        self.server.settle()
        self.assertEqual((self.result(self.admin.queues.list()).items, self.server.dead()), ([], []))
        self.assertFalse(self.result(self.client.send(ODD, b"2", key="k")).duplicate)

    def test_too_many_keys(self) -> None:
        """That sends with keys are refused is an alarm, while it lasts."""
        self.server.broker.keys.limit = 1
        self.send("q", b"1", key="k")
        self.assertEqual(self.admin.alarms(), [])
        refused = self.client.send("q", b"2", key="l")
        self.server.settle()
        self.failureResultOf(refused, MemoryFull)
        self.assertEqual([alarm.name for alarm in self.admin.alarms()], ["keys"])
        self.assertTrue(self.admin.health().ready)
        self.server.advance(122)
        self.assertEqual(self.admin.alarms(), [])


class SettingTests(AdminTestCase):
    """What is set for a queue is followed."""

    def test_configure(self) -> None:
        """Settings are changed one by one, and None gives the default back; a queue that has none goes when it is empty."""
        self.admin.queues.configure(ODD, {"max_messages": 5, "lease": 1.5, "dedup": 0.5})
        self.assertEqual(self.result(self.admin.queues.configure(ODD, {}))["settings"]["dedup"], 0.5)
        found = self.result(self.admin.queues.configure(ODD, {"lease": None}))["settings"]
        self.assertEqual((found["max_messages"], found["lease"], found["max_attempts"]), (5, 0.0, 20))
        self.assertEqual(self.result(self.admin.queues.configure(ODD, {"max_messages": None, "dedup": None}))["settings"]["dedup"], 120)
        self.assertEqual(self.result(self.admin.queues.list()).items, [])
        for wrong in (
            {"colour": 1},
            {"max_messages": -1},
            {"max_messages": 1.5},
            {"max_bytes": "1"},
            {"when_full": "cry"},
            {"lease": True},
            {"dedup": -1},
        ):
            self.assertRaises(BadSetting, self.admin.queues.configure, "q", wrong)
        self.assertEqual(self.result(self.admin.queues.list()).items, [])

    def test_max_messages(self) -> None:
        """A full queue refuses, in version 02 by name, and takes more once there is room."""
        self.admin.queues.configure("q", {"max_messages": 2})
        self.send("q", b"1", b"2")
        refused = self.client.send("q", b"3")
        self.server.settle()
        self.failureResultOf(refused, QueueFull)
        self.hold("q", 1)
        self.send("q", b"3")
        self.assertEqual(self.server.bodies("q"), [b"2", b"3"])

    def test_max_bytes(self) -> None:
        """Bytes are limited likewise, and a message that could never fit is refused also where the oldest would be dropped."""
        self.admin.queues.configure("q", {"max_bytes": 10, "when_full": "drop-oldest"})
        self.send("q", b"12345", b"67890", b"abc")
        self.assertEqual(self.server.bodies("q"), [b"67890", b"abc"])
        self.failureResultOf(self._settled(self.client.send("q", b"x" * 11)), QueueFull)
        self.assertEqual((self.server.bodies("q"), self.result(self.admin.status())["totals"]["dropped"]), ([b"67890", b"abc"], 1))

    def _settled(self, deferred: Deferred[Any]) -> Deferred[Any]:
        self.server.settle()
        return deferred

    def test_drop_oldest(self) -> None:
        """Where the oldest is dropped, the newest are there."""
        self.admin.queues.configure("q", {"max_messages": 3, "when_full": "drop-oldest"})
        self.send("q", *[b"%d" % number for number in range(9)])
        self.assertEqual(self.server.bodies("q"), [b"6", b"7", b"8"])
        self.assertEqual(self.result(self.admin.status())["totals"]["dropped"], 6)

    def test_max_attempts(self) -> None:
        """A message that comes back too often is dead."""
        self.admin.queues.configure("q", {"max_attempts": 2})
        self.send("q", b"poison")
        self.hold("q", 1)
        for _ in range(2):
            self.server.disconnect()
            self.server.advance(2)
        (dead,) = self.server.dead()
        self.assertEqual((dead.reason, dead.attempts, self.server.bodies("q")), ("max-attempts", 2, []))

    def test_lease(self) -> None:
        """A consumer that asks for no lease has the queue's."""
        self.admin.queues.configure("q", {"lease": 0.5})
        self.send("q", b"1")
        held = self.hold("q", 1)
        self.server.advance(1)
        self.assertEqual([delivery.attempts for delivery in held][:2], [1, 2])

    def test_expired(self) -> None:
        """Where expired messages are kept, they are dead letters, whether anybody consumes or not."""
        self.admin.queues.configure("q", {"expired": "dead"})
        self.send("q", b"1", b"2", ttl=1)
        self.send("q", b"3", ttl=1, delay=9)
        held = self.hold("q", 1)
        self.server.advance(3)
        self.assertEqual([(dead.body, dead.reason) for dead in self.server.dead()], [(b"2", "expired"), (b"3", "expired")])
        self.client.connection.receivers.clear()
        self.server.disconnect()
        self.assertEqual((len(held), [dead.body for dead in self.server.dead()]), (1, [b"1", b"2", b"3"]))
