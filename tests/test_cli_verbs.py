"""Tests of the verbs that inspect and control a server, in memory. What they share is in test_cli_admin.py."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from phpmq.cli.admin import queues, views
from phpmq.cli.admin.nagios import State, line, look
from phpmq.cli.admin.queues import delete_question, set_verb
from phpmq.cli.exit_codes import Exit
from phpmq.cli.options import order
from phpmq.message import DEFAULT_SETTINGS, QueueSettings
from tests.verbs import VerbTestCase, work_of
from tests.web import ODD

list_queues, show_queue, set_queue = work_of(queues.queues), work_of(queues.show), work_of(queues.set_verb)
list_clients = work_of(views.clients)


class ChoiceTests(SynchronousTestCase):
    """Choices of the command."""

    def test_choices(self) -> None:
        """There is an option for each setting of a queue, with the choices that the server has, and C{default}."""
        settings = {param.name: param.type for param in set_verb.params if param.name in vars(DEFAULT_SETTINGS)}
        self.assertEqual(list(settings), list(vars(DEFAULT_SETTINGS)))
        for name, choices in QueueSettings._CHOICES.items():
            self.assertEqual(list(settings[name].choices), [*choices, "default"])  # type: ignore[attr-defined]


class QueuesTests(VerbTestCase):
    """C{phpmq queues}."""

    def rows(self, pattern: str = "*", sort: str = "name", limit: int | None = None, reverse: bool = False) -> list[str]:
        """The last columns of what is listed."""
        code, text = self.verb(lambda api, report: list_queues(api, report, pattern, sort, reverse, limit))
        self.assertEqual(code, 0)
        return [row.split("  ")[-1].strip() for row in text.splitlines()]

    def test_table(self) -> None:
        """There is a line for each queue, whatever its name, and what is paused is said."""
        self.send("jobs", b"x" * 2000)
        self.send(ODD, b"")
        self.send("\u202eabc", b"")
        self.done(self.api().post("pause", "queues", "jobs", "pause"))
        code, text = self.verb(lambda api, report: list_queues(api, report, "*", "name", False, None))
        heading, *rows = text.splitlines()
        self.assertEqual(
            (code, heading.split()), (0, ["READY", "DELAYED", "IN", "FLIGHT", "DEAD", "SIZE", "AGE", "CONSUMERS", "IN", "OUT", "QUEUE"])
        )
        self.assertEqual([row[heading.index("QUEUE") :] for row in rows], [ODD, "jobs  (paused: deliveries)", "\\u202eabc"])
        self.assertEqual(rows[1].split()[:8], ["1", "0", "0", "0", "2.0", "KiB", "0", "s"])

    def test_order(self) -> None:
        """Names begin with the first, numbers with the largest; --limit and GLOB leave out others."""
        for number, name in enumerate(("a1", "b", "a2")):
            self.send(name, *[b"x"] * (number + 1))
        self.assertEqual([order("name", False), order("name", True)], ["name", "-name"])
        self.assertEqual([order("ready", False), order("ready", True)], ["-ready", "ready"])
        self.assertEqual(self.rows(sort="ready"), ["QUEUE", "a2", "b", "a1"])
        self.assertEqual(self.rows("A?", "ready", reverse=True), ["QUEUE", "a1", "a2"])
        self.assertEqual(self.rows(sort="ready", limit=1), ["QUEUE", "a2"])

    def test_many(self) -> None:
        """More than a page are one table."""
        for number in range(1203):
            self.server.send(f"q{number:04}", b"x")
        self.assertEqual(self.rows(), ["QUEUE", *(f"q{number:04}" for number in range(1203))])
        code, found = self.objects(lambda api, report: list_queues(api, report, "q1*", "name", False, None))
        self.assertEqual((code, len(found), found[-1]["name"]), (0, 203, "q1202"))

    def test_none(self) -> None:
        """None are no error, and no table."""
        self.assertEqual(self.rows(), [])
        self.assertEqual(self.rows("x*"), [])
        self.assertEqual(self.notes, ["there are no queues", "no queue matches x*"])


class QueueTests(VerbTestCase):
    """C{phpmq queue}."""

    def test_show(self) -> None:
        """Its messages, consumers and settings."""
        self.send(ODD, b"1", b"2", b"3")
        self.hold(ODD, 2)
        self.done(self.api().post("pause", "queues", ODD, "pause", what="all"))
        code, text = self.verb(lambda api, report: show_queue(api, report, ODD))
        self.assertEqual(code, 0)
        self.assertTrue(text.startswith(f"queue     {ODD}\nmessages  1 ready, 0 delayed, 2 in flight, 0 dead\n"), text)
        self.assertIn("\nPAUSED    deliveries and sends: phpmq resume goes on\n", text)
        self.assertRegex(text, r"\n *CLIENT +IN FLIGHT +WINDOW +LEASE\n *\d+ +2 +2 +-\n")
        self.assertRegex(text, r"\nmax_attempts +20\n")
        code, (found,) = self.objects(lambda api, report: show_queue(api, report, ODD))
        self.assertEqual(found["name"], ODD)
        self.assertIn("phpmq queues", self.failed(show_queue(self.api(), self.report(), "nope")).sentence)

    def test_set(self) -> None:
        """Settings change and get their defaults back, others stay."""
        for changes, expected in (
            ({"max_messages": 5, "lease": 1.5, "expired": "dead"}, {"max_messages": 5, "lease": 1.5, "expired": "dead"}),
            ({"lease": "default"}, {"max_messages": 5, "lease": 0, "expired": "dead"}),
        ):
            code, (queue,) = self.objects(lambda api, report, changes=changes: set_queue(api, report, "q", **changes))  # type: ignore[misc]
            self.assertEqual((code, {name: queue["settings"][name] for name in expected}), (0, expected))
        self.assertRegex(self.verb(lambda api, report: set_queue(api, report, "q", **{"lease": 2}))[1], r"\nlease +2\n")

    def test_delete(self) -> None:
        """All that waits goes, and each is answered."""
        self.send("a", b"1", b"2")
        self.send("b", b"1")
        self.hold("b", 1)
        question = self.done(delete_question(self.api(), ("a", "b", "nope")))
        self.assertEqual(question, "Delete 3 queues with 2 messages and 0 dead letters?")
        code, text = self.verb(lambda api, report: work_of(queues.delete)(api, report, ("a", "nope", "b"), yes=True))
        self.assertEqual(code, Exit.PARTLY)
        self.assertEqual(
            text,
            "a: deleted with 2 messages and 0 dead letters\n"
            "b: deleted with 0 messages and 0 dead letters; 1 in flight left to their consumers\n",
        )
        self.assertEqual(len(self.notes), 1)
        self.assertEqual(self.server.left("a"), 0)


class ClientsTests(VerbTestCase):
    """C{phpmq clients}."""

    def test_list(self) -> None:
        """Each connection is a line, with what it consumes."""
        self.send("jobs", b"1", b"2")
        self.hold("jobs", 2)
        code, text = self.verb(lambda api, report: list_clients(api, report, "*", None, ()))
        heading, row = text.splitlines()
        self.assertEqual((code, heading.split()[0], row.split()[-1]), (0, "ID", "jobs"))
        code, (client,) = self.objects(lambda api, report: list_clients(api, report, "*", None, ()))
        self.assertEqual((code, client["in_flight"], client["consuming"][0]["queue"]), (0, 2, "jobs"))
        self.assertEqual(self.verb(lambda api, report: list_clients(api, report, "nobody*", None, ())), (0, ""))
        self.assertEqual(self.notes, ["no connection matches nobody*"])

    def test_disconnect(self) -> None:
        """One that is disconnected gives back what it holds; one that is not there is said."""
        self.send("jobs", b"1", b"2")
        self.hold("jobs", 2)
        self.server.reachable = False
        _, (client,) = self.objects(lambda api, report: list_clients(api, report, "*", None, ()))
        code, text = self.verb(lambda api, report: list_clients(api, report, "*", None, (client["id"], 999)))
        self.assertEqual(code, Exit.PARTLY)
        self.assertRegex(text, r"\A\d+: .* is disconnected; the 2 messages that it held are ready again\n\Z")
        self.assertEqual(self.notes, ["cannot disconnect 999: there is no client 999; phpmq clients lists those that there are"])
        self.assertEqual(self.server.bodies("jobs"), [b"1", b"2"])


class PauseTests(VerbTestCase):
    """C{phpmq pause} and C{phpmq resume}."""

    def test_pause(self) -> None:
        """It is said what is paused then."""
        for verb, what, text in (
            ("pause", "sends", "jobs: sends paused\n"),
            ("pause", "deliveries", "jobs: deliveries and sends paused\n"),
            ("resume", "sends", "jobs: deliveries paused\n"),
            ("resume", "all", "jobs: nothing paused\n"),
        ):
            self.send("keeps it", b"")
            change = work_of(getattr(queues, verb))
            done = self.verb(lambda api, report, change=change, what=what: change(api, report, ("jobs",), what))  # type: ignore[misc]
            self.assertEqual(done, (0, text))

    def test_missing(self) -> None:
        """A queue that is not there is made by a pause, and cannot be resumed."""
        code, (queue, missing) = self.objects(lambda api, report: work_of(queues.pause)(api, report, ("a", "x" * 255), "all"))
        self.assertEqual((code, queue["paused"]), (0, {"deliveries": True, "sends": True}))
        code, (queue, missing) = self.objects(lambda api, report: work_of(queues.resume)(api, report, ("a", "b"), "all"))
        self.assertEqual((code, missing["error"]), (Exit.PARTLY, "no-such-queue"))


class TopTests(VerbTestCase):
    """C{phpmq top}, where it is no terminal."""

    def watch(self, count: int | None = 2, limit: int | None = None, pattern: str = "*") -> Any:
        """A coroutine function."""
        return lambda api, report: work_of(views.top)(api, report, pattern, 1.0, count, limit, sort="messages", reverse=False)

    def done(self, work: Any) -> Any:
        """The result, however long it takes."""
        result = Deferred.fromCoroutine(work)
        for _ in range(5):
            self.wait(result)
            if not result.called:
                self.clock.advance(0.5)
        return self.successResultOf(result)

    def test_frames(self) -> None:
        """Each time there are the server's numbers and the queues that have most; the next is an interval later."""
        self.send("a", b"1")
        self.send("b", b"1", b"2")
        code, text = self.verb(self.watch())
        frames = text.split("\n\nphpmq ")
        self.assertEqual((code, len(frames)), (0, 2))
        for frame in frames:
            self.assertRegex(frame, r"messages  3 ready.*\n(.*\n)+\nREADY .*\n +2 .*  b\n +1 .*  a\n?\Z")
        self.assertEqual(self.clock.seconds(), 1.0)
        self.assertIn("and more queues\n", self.verb(self.watch(1, 1))[1])
        self.assertIn("no queues\n", self.verb(self.watch(1, None, "x*"))[1])

    def test_json(self) -> None:
        """As JSON each time is a line."""
        self.send("a", b"1")
        _, found = self.objects(self.watch())
        self.assertEqual([(one["status"]["messages"]["ready"], one["queues"][0]["name"]) for one in found], [(1, "a")] * 2)

    def test_outage(self) -> None:
        """A server that goes away is waited for, and said to be away once; one that was not there is not."""
        result = Deferred.fromCoroutine(self.watch(5)(self.api(), self.report(as_json=True)))
        self.wait(result)
        self.endpoint.reachable = False
        for _ in range(3):
            self.clock.advance(1)
            self.wait(result)
        self.assertEqual(len(self.notes), 1)
        self.assertRegex(self.notes[0], r"\Acannot reach .*; trying again\Z")
        self.assertNoResult(result)
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(self.failed(self.watch()(self.api(), self.report())).code, Exit.UNREACHABLE)


class CheckTests(VerbTestCase):
    """C{phpmq check}."""

    def check(self, *patterns: str, **limits: Any) -> tuple[State, str, str]:
        """State, text and numbers."""
        state, text = self.done(look(self.api(), patterns or ("*",), limits))
        words, bar, numbers = text.partition(" | ")
        self.assertEqual((bar, text.count("|")), (" | ", 1))
        for number in numbers.split(" "):
            self.assertRegex(number, r"\A[a-z_]+=[\d.]+s?;[\d.]*;[\d.]*:?;0\Z")
        return state, words, numbers

    def test_ok(self) -> None:
        """Nothing is wrong where there are no limits; sums are told beside the highest."""
        self.send("a", b"1", b"2")
        self.send("b|c", b"1")
        self.assertEqual(
            self.check(),
            (
                State.OK,
                "2 queues: 3 ready, 0 dead, waiting for 0 s at most, 0 consumers",
                "ready=2;;;0 age=0s;;;0 dead=0;;;0 consumers=0;;;0 ready_total=3;;;0 dead_total=0;;;0 consumers_total=0;;;0 queues=2;;;0",
            ),
        )
        self.assertEqual(self.check("b|c")[1], "b/c: 1 ready, 0 dead, waiting for 0 s at most, 0 consumers")

    def test_limits(self) -> None:
        """Above a limit is above it, not at it; the worst counts, and is named first; the limits are among the numbers."""
        self.send("a", b"1", b"2")
        self.send("b", b"1")
        for limits, state, words in (
            ({"ready_warn": 2, "ready_crit": 3}, State.OK, "2 queues: 3 ready"),
            ({"ready_warn": 1, "ready_crit": 2}, State.WARNING, "a: 2 ready, more than 1"),
            ({"ready_warn": 0, "ready_crit": 1}, State.CRITICAL, "a: 2 ready, more than 1; b: 1 ready, more than 0"),
            ({"dead_crit": 0}, State.OK, "2 queues"),
            ({"min_consumers": 1}, State.CRITICAL, "a: 0 consumers, fewer than 1; b: 0 consumers, fewer than 1"),
        ):
            found, text, _ = self.check(**limits)
            self.assertEqual((found, text[: len(words)]), (state, words))
        self.assertTrue(self.check(ready_warn=1, ready_crit=20)[2].startswith("ready=2;1;20;0 "))
        self.assertIn(" consumers=0;;1:;0", self.check(min_consumers=1)[2])

    def test_age(self) -> None:
        """The age is that of the message that is next."""
        self.send("a", b"1")
        self.server.advance(30)
        state, words, _ = self.check("a", age_warn=5, age_crit=20.5)
        self.assertEqual((state, words), (State.CRITICAL, "a: the next message waits for 30 s, more than 20.5"))
        self.assertEqual(self.check("a", age_warn=5, age_crit=60)[0], State.WARNING)

    def test_consumers(self) -> None:
        """A queue that is consumed has enough; a name that is none has no messages and no consumers, a pattern has no queue."""
        self.send("a", b"1")
        self.hold("a", 1)
        self.assertEqual(self.check("a", min_consumers=1)[0], State.OK)
        self.assertEqual(self.check("none", ready_crit=0)[0], State.OK)
        self.assertEqual(self.check("none", min_consumers=1)[1], "none: 0 consumers, fewer than 1")
        self.assertEqual(self.check("none*", min_consumers=1)[:2], (State.CRITICAL, "no queue matches none*"))
        self.assertEqual(self.check("A", "a", "?")[1], "2 queues: 0 ready, 0 dead, waiting for 0 s at most, 1 consumer")

    def test_alarms(self) -> None:
        """The server's own alarms count whatever is asked for, and no more than so many things are named."""
        for number in range(9):
            self.send(f"q{number}", b"1")
        self.server.broker.memory.limit = 1
        state, words, _ = self.check(ready_warn=0)
        self.assertEqual(state, State.CRITICAL)
        self.assertTrue(words.startswith("the memory limit is reached; q0: 1 ready, more than 0; "), words)
        self.assertTrue(words.endswith("; and 5 more"), words)

    def test_line(self) -> None:
        """It is one line, and no terminal obeys it."""
        self.assertEqual(line(State.UNKNOWN, "a\nb\x1b[1m"), b"UNKNOWN - a\\nb\\x1b[1m\n")
