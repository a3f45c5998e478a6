"""What operators are told and what they do, through every door of a real process: the same everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.client import Client, original_send_frame, packet
from tests.functional.command import Command, phpmq
from tests.functional.doors import COUNTERS, DOORS, HTTP, QUICK_DOORS, Counts, Door, Kept, ask_console, ask_http, kept, queue_path
from tests.functional.server import TCP, Server, wait_until
from tests.functional.traffic import Consumer, Sender
from tests.functional.version02 import DELIVERY, RECEIPT, Client02, frame
from tests.web import ODD

_QUEUES = ODD, "jobs"

# Verbs of the command line after which a queue's name comes, with what comes after that: those that only look, and the others.
_LOOK = {"top": ("--count", "1"), "check": ("--ready-warn", "5")}
_CHANGE = {"queue set": ("--max-messages", "7"), "queue delete": ("--yes",), "pause": ()}


class DoorsTestCase(SynchronousTestCase):
    """A server with all doors."""

    def start(self, *options: str, **more: Any) -> Server:
        """Start it."""
        self.server = Server(self, "--console", TCP, "--http", TCP, *options, **more)
        _, self.console, self.http = self.server.ports
        return self.server

    def post(self, path: str, value: Any = None) -> Any:
        """Have something done over HTTP."""
        status, answer = ask_http(self.http, "POST", path, value or {})
        self.assertIn(status, (200, 201), answer)
        return answer

    def check_clean(self) -> None:
        """See that the server stops well, and complained of nothing."""
        self.assertEqual(self.server.stop(), 0)
        self.assertNotIn("Traceback", self.server.output)
        self.assertNotIn("Unhandled", self.server.output)


class CountTests(DoorsTestCase):
    """The numbers."""

    def test_same(self) -> None:
        """
        While four send and four consume, every door tells the same as the clients themselves, as each other door, and as the file.

        Doors that are read one after the other cannot agree on what moves. So at first, while all moves, no reading may lack a
        message, and none be older than the one before it through another door. Then the queues are paused, where they are: with
        messages ready, delayed, in flight and dead, and all clients connected. After that they go on, and it is done again.
        """
        self.start()
        with self._traffic() as (senders, consumers):
            for doors in [door(self.server) for door in DOORS], [door(self.server) for door in QUICK_DOORS]:
                self._check_moving(doors)
                self._pause()
                self._check_resting(doors, senders, consumers)
                for queue in _QUEUES:
                    self.post(queue_path(queue, "/resume"))
        self.check_clean()

    def _pause(self) -> None:
        """Stop deliveries first, and sends only when some messages wait that nobody got."""
        for what in "deliveries", "sends":
            for queue in _QUEUES:
                self.post(queue_path(queue, "/pause"), {"what": what})
                wait_until("some are ready", partial(self._is_long, queue))

    def _is_long(self, queue: str) -> bool:
        return HTTP(self.server).queue(queue).ready >= 5

    @contextmanager
    def _traffic(self) -> Iterator[tuple[list[Sender], list[Consumer]]]:
        """Four senders and four consumers at work, after some messages that are to wait."""
        for queue in _QUEUES:
            for number in range(3):
                self.post(queue_path(queue, "/messages"), {"body": "é" * number, "delay": 1000})
        senders = [Sender(self.server, _QUEUES) for _ in range(4)]
        consumers = [Consumer(self.server, queue) for queue in _QUEUES * 2]
        for worker in (*senders, *consumers):
            worker.start()
        try:
            wait_until("each queue has dead letters", lambda: all(counts.dead for counts in HTTP(self.server).queues(*_QUEUES).values()))
            yield senders, consumers
        finally:
            for worker in (*senders, *consumers):
                worker.stop()

    def _check_moving(self, doors: list[Door]) -> None:
        """All are read in turn while messages come and go."""
        first = before = doors[0].totals()
        seen = dict.fromkeys(_QUEUES, Counts(*[0] * len(Counts._fields)))
        for door in (*doors, doors[0]):
            for queue, counts in door.queues(*_QUEUES).items():
                self.assertEqual(counts.balance, 0, (door, counts))
                for counter in COUNTERS:
                    self.assertGreaterEqual(getattr(counts, counter), getattr(seen[queue], counter), door)
                seen[queue] = counts
            totals = door.totals()
            for counter in COUNTERS:
                self.assertGreaterEqual(totals[counter], before[counter], door)
                self.assertGreaterEqual(totals[counter], sum(getattr(counts, counter) for counts in seen.values()), door)
            before = totals
        wait_until("messages move", lambda: all(now > then for now, then in zip(doors[0].totals().values(), first.values(), strict=True)))

    def _check_resting(self, doors: list[Door], senders: list[Sender], consumers: list[Consumer]) -> None:
        """All are read once what was on its way has arrived."""

        def told(queue: str) -> Counts:
            """What the clients know."""
            mine = [consumer for consumer in consumers if consumer.queue == queue]
            received = sum(sender.sent[queue] for sender in senders) + 3
            delivered = sum(consumer.received for consumer in mine)
            acknowledged, dead = sum(consumer.acknowledged for consumer in mine), sum(consumer.buried for consumer in mine)
            in_flight = sum(len(consumer.held) for consumer in mine)
            ready = received - 3 - acknowledged - dead - in_flight
            return Counts(ready, 3, in_flight, dead, -1, len(mine), received, delivered, acknowledged)

        def arrived() -> bool:
            return all(doors[0].queue(queue)._replace(bytes=-1) == told(queue) for queue in _QUEUES)

        wait_until("what was on its way has arrived", arrived)
        first = doors[0].queues(*_QUEUES)
        totals = doors[0].totals()
        for counts in first.values():
            self.assertTrue(all(counts), counts)
        wait_until("the file is up to date", lambda: not ask_http(self.http, "GET", "/api/v1/status")[1]["mirror"]["pending_changes"])
        for queue, counts in first.items():
            held = [delivery.id for consumer in consumers if consumer.queue == queue for delivery in consumer.held]
            self.assertEqual(kept(self.server, queue, held), Kept(*counts[:5]))
        for door in (*doors[1:], doors[0]):
            self.assertEqual(door.queues(*_QUEUES), first, door)
            self.assertEqual(door.totals(), totals, door)
        self.assertEqual(totals, {counter: sum(getattr(counts, counter) for counts in first.values()) for counter in COUNTERS})


class FlushTests(DoorsTestCase):
    """What a flush removes and what it leaves alone. Over HTTP see L{tests.functional.test_http}."""

    def test_same(self) -> None:
        """On the console and the command line the answer is what was removed and what is in flight; and that settles normally."""
        self.start()
        api = f"http://127.0.0.1:{self.http}"
        for flush, expected in (
            (
                lambda: ask_console(self.console, "flush q")[0],
                "10,000 messages removed from q; 500 in flight left to their consumers, and gone if they come back",
            ),
            (
                lambda: phpmq(self, None, "flush", "q", "--yes", "--json", "--api", api).out.decode(),
                '{"queue": "q", "removed": 10000, "in_flight": 500}\n',
            ),
        ):
            with Client(self.server.tcp) as client:
                client.consume(b"q", 500)
                client.send(b"q", *[b"x"] * 10_500)
                held = client.read_many(500)
                wait_until("all are there", lambda: HTTP(self.server).queue("q").ready == 10_000)
                before = HTTP(self.server).queue("q").acknowledged
                self.assertEqual(flush(), expected)
                client.acknowledge(*held)
                wait_until("all are acknowledged", lambda: HTTP(self.server).queue("q").in_flight == 0)
                self.assertEqual(HTTP(self.server).queue("q").acknowledged - before, 500)
                self.assertTrue(client.silent())
        status = ask_http(self.http, "GET", "/api/v1/status")[1]
        self.assertEqual((status["totals"]["unknown_ids"], status["totals"]["flushed"], status["messages"]["ready"]), (0, 20_000, 0))
        self.check_clean()


class NameTests(DoorsTestCase):
    """A queue's name may be any text, and is that text wherever it is read or written."""

    def test_wire(self) -> None:
        """In both versions of the protocol and both revisions of the old one; through a restart; in the file and as a label."""
        name = ODD.encode()
        self.start()
        with Client(self.server.tcp) as documented, Client(self.server.tcp) as original, Client02(self.server.tcp) as client:
            documented.send(name, b"documented")
            wait_until("the first", lambda: HTTP(self.server).totals()["received"] == 1)
            original.write(original_send_frame(name, b"original"))
            wait_until("the second", lambda: HTTP(self.server).totals()["received"] == 2)
            client.write(frame(1, {1: name, 2: b"new", 6: b"t"}))
            self.assertEqual(client.answer().type, RECEIPT)
        self.check_clean()
        self.start(cwd=self.server.directory)
        for door in DOORS:
            self.assertEqual(door(self.server).queue(ODD)[:4], (3, 0, 0, 0), door)
        self.assertEqual(kept(self.server, ODD, ()), Kept(3, 0, 0, 0, 21))
        with Client(self.server.tcp) as documented, Client(self.server.tcp) as original, Client02(self.server.tcp) as client:
            documented.consume(name, 1)
            self.assertEqual(documented.read()[:2], (name, b"documented"))
            # It tells its revision by what it sends.
            original.write(original_send_frame(b"other", b""))
            original.consume(name, 1)
            delivery = original.read()
            self.assertEqual((delivery.queue, delivery.body, delivery.ttl), (name, b"original", None))
            client.consume(name, 1)
            answer = client.answer()
            self.assertEqual((answer.type, answer.packets[1], answer.packets[2]), (DELIVERY, name, b"new"))
            client.write(frame(6, {3: answer.packets[3]}))
            original.acknowledge(delivery)
            wait_until("both are settled", lambda: HTTP(self.server).queue(ODD)[:4] == (0, 0, 1, 1))
            for door in QUICK_DOORS:
                self.assertEqual(door(self.server).queue(ODD)[:4], (0, 0, 1, 1), door)
        self.check_clean()

    def test_command(self) -> None:
        """On the command line, and in the environment of what the command runs."""
        self.start("--store", "memory")
        for _ in range(2):
            self.assertEqual(phpmq(self, self.server, "send", ODD, "x").code, 0)
        result = phpmq(self, self.server, "consume", ODD, "--count", "1", "--json")
        self.assertEqual(json.loads(result.out)["queue"], ODD)
        result = phpmq(self, self.server, "consume", ODD, "--count", "1", "--exec", 'printf %s "$PHPMQ_QUEUE"')
        self.assertEqual(result.out.decode(), ODD)
        self.assertEqual(HTTP(self.server).totals(), dict.fromkeys(COUNTERS, 2))

    def test_verbs(self) -> None:
        """In verbs of the command line that see and change queues; what lists and shows them is a door of its own."""
        self.start("--store", "memory")
        for verb in (*_LOOK, *_CHANGE):
            self.post(queue_path(f"{ODD}/{verb}", "/messages"), {"body": "x"})
        api = {"PHPMQ_API": f"http://127.0.0.1:{self.http}"}
        commands = {verb: Command(self, None, *verb.split(), f"{ODD}/{verb}", *more, more=api) for verb, more in (_LOOK | _CHANGE).items()}
        results = {verb: command.end() for verb, command in commands.items()}
        for verb, result in results.items():
            self.assertEqual((result.code, result.err), (0, ""), verb)
        for verb in _LOOK:
            self.assertIn(f"{ODD}/{verb}", results[verb].out.decode(), verb)
        self.assertEqual(ask_http(self.http, "GET", queue_path(f"{ODD}/queue delete"))[0], 404)
        for verb, part, name, value in (
            ("pause", "paused", "deliveries", True),
            ("queue set", "settings", "max_messages", 7),
        ):
            _, queue = ask_http(self.http, "GET", queue_path(f"{ODD}/{verb}"))
            self.assertEqual(queue[part][name], value, verb)

    def test_http(self) -> None:
        """In the path of every route that has a name in its path, and in what the answers tell."""
        self.start("--store", "memory")
        _, document = ask_http(self.http, "GET", "/openapi.json")
        routes = {
            (method.upper(), path)
            for path, methods in document["paths"].items()
            for method in methods
            if "{name}" in path and method != "parameters"
        }
        walked = set()

        def ask(method: str, more: str, value: Any = None, id: str = "") -> Any:
            walked.add((method, "/api/v1/queues/{name}" + more.partition("?")[0]))
            status, answer = ask_http(self.http, method, queue_path(ODD, more.replace("{id}", id)), value)
            self.assertIn(status, (200, 201), (method, more, answer))
            return answer

        self.assertEqual(ask("PUT", "", {"max_messages": 7})["name"], ODD)
        self.assertEqual(ask("GET", "")["settings"]["max_messages"], 7)
        ids = [ask("POST", "/messages", {"body": str(number)})["id"] for number in range(4)]
        self.assertEqual([one["id"] for one in ask("GET", "/messages")["items"]], ids)
        self.assertEqual(ask("GET", "/messages/{id}", id=ids[1])["body"], "1")
        self.assertEqual(ask("GET", "/messages/{id}/body", id=ids[1]), "1")
        with Client(self.server.tcp) as client:
            client.consume(ODD.encode(), 3)
            for delivery in client.read_many(3):
                client.write(b"H0100602" + packet(1, delivery.queue) + packet(3, delivery.id))
            wait_until("all are dead", lambda: ask("GET", "")["dead"] == 3)
            client.consume(ODD.encode(), 0)
        # The fourth was delivered as well, and is back with the connection.
        wait_until("one is back", lambda: ask("GET", "")["ready"] == 1)
        self.assertEqual(ask("DELETE", "/messages/{id}", id=ids[0]), {"queue": ODD, "deleted": 1})
        self.assertEqual(ask("POST", "/replay", {"ids": [ids[1]]}), {"queue": ODD, "target": ODD, "replayed": 1})
        self.assertEqual(ask("DELETE", "/messages?state=dead"), {"queue": ODD, "deleted": 1})
        self.assertEqual(ask("POST", "/pause")["name"], ODD)
        self.assertEqual(ask("POST", "/resume")["name"], ODD)
        self.assertEqual(ask("POST", "/move", {"target": f"{ODD}/2"}), {"source": ODD, "target": f"{ODD}/2", "moved": 2})
        self.assertEqual(self.post(queue_path(f"{ODD}/2", "/move"), {"target": ODD, "count": 1})["target"], ODD)
        self.assertEqual(ask("POST", "/flush"), {"queue": ODD, "removed": 1, "in_flight": 0})
        self.assertEqual(ask("DELETE", "")["queue"], ODD)
        self.assertEqual(walked, routes)
        self.assertEqual(
            [one["name"] for one in ask_http(self.http, "GET", f"/api/v1/queues?filter={quote('A/B*')}")[1]["items"]], [f"{ODD}/2"]
        )
        self.check_clean()

    def test_console(self) -> None:
        """In every command of the console that takes a name, as an argument and in the answer."""
        self.start("--store", "memory")
        with Client(self.server.tcp) as client:
            client.send(ODD.encode(), b"1", b"2", b"3")
            client.consume(ODD.encode(), 2)
            delivery, _ = client.read_many(2)
            client.write(b"H0100602" + packet(1, delivery.queue) + packet(3, delivery.id))
            client.read()
            name = f"'{ODD}'"
            lines = {
                "monitor": (f"monitor {name}", f"queue {name}"),
                "show": (f"show {name}", f"queue {name}"),
                "search": (f"search {name}", name),
                "dead": (f"dead {name}", delivery.id.decode()),
                "replay": (f"replay {name}", f"1 dead letter of {name} replayed to {name}"),
                "pause": (f"pause {name}", f"{name}: deliveries paused"),
                "settings": (f"settings {name} max_messages 7", "max_messages"),
                "move": (f"move {name} '{ODD}/2'", f"1 message moved from {name} to '{ODD}/2'"),
                "flush": (f"flush '{ODD}/2'", f"1 message removed from '{ODD}/2'"),
                "resume": (f"resume {name}", f"{name}: nothing is paused"),
            }
            for command, expected in lines.values():
                self.assertIn(expected, "\n".join(ask_console(self.console, command, "q")), command)
            for command, expected in ("clients", name), ("search *", name), ("monitor", ODD):
                self.assertIn(expected, "\n".join(ask_console(self.console, command, "q")), command)
        listed = [line.split() for line in ask_console(self.console, "help")]
        takes_name = {words[0] for words in listed if {"QUEUE", "[QUEUE]", "PATTERN", "FROM"} & set(words[1:2])}
        self.assertEqual(lines.keys(), takes_name)
        for command in "flush", "pause", "settings":
            self.server.wait_for(f"says: {lines[command][0]}")
        self.check_clean()
