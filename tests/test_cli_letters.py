"""Tests of the verbs that look at messages, replay, forget and move them, in memory."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from phpmq.cli.admin import messages
from phpmq.cli.admin.messages import DeadLetters, list_messages, show_message
from phpmq.cli.exit_codes import Exit, Failed
from phpmq.cli.output import Report
from phpmq.cli.stdio import Output
from phpmq.results import as_json
from tests.verbs import VerbTestCase, work_of
from tests.web import ODD

move_messages = work_of(messages.move)

NASTY = "\x1b[2J\u202e\n<b>é"


class LettersTestCase(VerbTestCase):
    """A server with messages, and what stands for a terminal."""

    def die(self, queue: str, **bodies: str) -> list[str]:
        """Have messages that died, for a reason each: their ids."""
        ids = self.send(queue, *(body.encode() for body in bodies.values()), headers={"a": "b"})
        for reason, delivery in zip(bodies, self.hold(queue, len(bodies)), strict=True):
            delivery.dead_letter(reason)
        self.server.settle()
        self.client.connection.receivers[queue].stop()  # type: ignore[attr-defined]
        self.server.settle()
        return ids

    def on_terminal(self) -> None:
        """Have standard output be one."""
        self.patch(messages, "is_terminal", lambda descriptor: True)


class PeekTests(LettersTestCase):
    """C{phpmq peek}."""

    def rows(self, state: str = "ready", queue: str = ODD, limit: int = 50, preview: int = 80) -> list[str]:
        """The lines of a listing."""
        code, text = self.verb(lambda api, report: list_messages(api, report, queue, state, limit, preview))
        self.assertEqual(code, Exit.OK)
        return text.splitlines()

    def test_states(self) -> None:
        """Each state is a table with what matters of it, and nothing changes by looking."""
        (dead,) = self.die(ODD, why="gone")
        ready, long = self.send(ODD, NASTY.encode(), b"x" * 200)
        (late,) = self.send(ODD, b"\xff\x00", delay=90)
        self.server.advance(65)
        before = as_json(self.done(self.admin.queues.get(ODD)))
        heading, first, second = self.rows()
        self.assertEqual(heading.split(), ["ID", "SIZE", "ATTEMPTS", "AGE", "BODY"])
        self.assertEqual(first, f"{ready}   {len(NASTY.encode())} B         0  1m 05s  \\x1b[2J\\u202e\\n<b>é")
        self.assertEqual(second, f"{long}  200 B         0  1m 05s  {'x' * 80}…")
        heading, row = self.rows("delayed")
        self.assertEqual((heading.split()[3:6], row.split("  ")[-2:]), (["AGE", "READY", "IN"], ["25 s", "\\xff\\x00"]))
        self.assertTrue(row.startswith(late))
        heading, row = self.rows("dead")
        self.assertEqual(heading.split(), ["ID", "SIZE", "ATTEMPTS", "DIED", "REASON", "BODY"])
        self.assertEqual(row, f"{dead}   4 B         1  1m 05s ago  rejected: why  gone")
        self.assertEqual(as_json(self.done(self.admin.queues.get(ODD))), {**before, "oldest_message_age_seconds": 65.0})
        self.hold(ODD, 2)
        self.assertEqual([row.split()[0] for row in self.rows("in_flight")], ["ID", ready, long])

    def test_limit(self) -> None:
        """No more than the limit are shown, in several pages if need be, and only who looks is told that there are more."""
        self.send("q", *[b"%d" % number for number in range(1100)])
        self.assertEqual([row.split()[-1] for row in self.rows(queue="q", limit=1050)], ["BODY", *map(str, range(1050))])
        self.assertEqual(self.notes, [])
        self.on_terminal()
        self.rows(queue="q", limit=1)
        self.assertEqual(self.notes, ["there are more than 1 message: --limit shows others"])
        self.rows(queue="q", limit=1100)
        self.assertEqual(len(self.notes), 1)

    def test_none(self) -> None:
        """None are no error, but no queue is."""
        self.send("q", b"x")
        self.assertEqual((self.rows("in_flight", "q"), self.rows("dead", "q")), ([], []))
        self.assertEqual(self.notes, ["q has no in flight messages", "q has no dead letters"])
        error = self.failed(list_messages(self.api(), self.report(), "nope", "ready", 1, 1))
        self.assertEqual(error.sentence, "cannot look at nope: there is no queue 'nope'; phpmq queues lists those that there are")

    def test_json(self) -> None:
        """As JSON it is what the API says."""
        self.send("q", b"123", b"\xff", key=None, headers={"a": NASTY})
        code, found = self.objects(lambda api, report: list_messages(api, report, "q", "ready", 9, 2))
        self.assertEqual((code, found), (Exit.OK, as_json(self.done(self.admin.messages.list("q", preview=2)).items)))
        self.assertEqual(found[0]["headers"], {"a": NASTY})

    def whole(self, id: str, as_json: bool = False) -> bytes:
        """What is written of one message."""
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        self.assertEqual(self.done(show_message(self.api(), Report(Output(self.clock, write), as_json), ODD, id)), None)
        os.close(write)
        return os.read(read, 100_000)

    def test_id(self) -> None:
        """One message is its body, byte by byte; as JSON it has all facts."""
        for body in b"", b"\xff\x00\n", NASTY.encode(), b"z" * 9000:
            (id,) = self.send(ODD, body, headers={"a": "b"})
            self.assertEqual(self.whole(id), body)
        found = json.loads(self.whole(id, True))
        self.assertEqual((found["headers"], found["body"]), ({"a": "b"}, "z" * 9000))
        error = self.failed(show_message(self.api(), self.report(), ODD, "x"))
        self.assertIn("there is no message 'x'", error.sentence)

    def test_id_on_terminal(self) -> None:
        """On a terminal there are facts and headers before the body, and nothing that a terminal would obey."""
        (id,) = self.send(ODD, NASTY.encode() + b"\xff\n", headers={"na\x1bme": NASTY}, ttl=60, delay=30, key="k\u2028ey")
        self.on_terminal()
        text = self.whole(id).decode()
        self.assertTrue(text.startswith(f"message   {id}\nqueue     {ODD}, delayed\nbody      15 B\nattempts  0\naccepted  "), text)
        self.assertRegex(text, r"\nready     \S+Z, in 30 s\nexpires   \S+Z, in 1m 00s\nkey       k\\u2028ey\n")
        self.assertTrue(text.endswith("\nheader    na\\x1bme: \\x1b[2J\\u202e\\n<b>é\n\n\\x1b[2J\\u202e\n<b>é\\xff\n"), text)
        (dead,) = self.die(ODD, why="gone")
        self.assertRegex(self.whole(dead).decode(), r"\nattempts  1\n(.*\n)*reason    rejected: why\nheader    a: b\n\ngone\n\Z")


class DeadTests(LettersTestCase):
    """C{phpmq dead}."""

    def letters(self, api: Any, report: Any, *ids: str, reason: str | None = None, count: int | None = None) -> DeadLetters:
        """Some dead letters of the queue."""
        return DeadLetters(api, report, ODD, ids, reason, count)

    def bodies(self) -> list[str]:
        """What is still dead."""
        return [item.body for item in self.done(self.admin.messages.list(ODD, "dead")).items]

    def test_replay(self) -> None:
        """Those that are meant wait again, where they were or elsewhere; it is said how many."""
        one, two, *_ = self.die(ODD, a="1", b="2", c="3", d="4", e="5")
        say = f"{ODD}: {{}} replayed{{}}\n".format
        self.assertEqual(self.verb(lambda api, report: self.letters(api, report, two).replay(None)), (0, say("1 dead letter", "")))
        self.assertEqual(
            self.verb(lambda api, report: self.letters(api, report, reason="expired").replay(None)), (0, say("0 dead letters", ""))
        )
        self.assertEqual(self.bodies(), ["1", "3", "4", "5"])
        done = self.verb(lambda api, report: self.letters(api, report, reason="rejected", count=2).replay("other"))
        self.assertEqual(done, (0, say("2 dead letters", " to other")))
        self.assertEqual((self.server.bodies("other"), self.server.bodies(ODD)), ([b"1", b"3"], [b"2"]))
        code, found = self.objects(lambda api, report: self.letters(api, report).replay(None))
        self.assertEqual((code, found, self.bodies()), (0, [{"queue": ODD, "target": ODD, "replayed": 2}], []))
        error = self.failed(self.letters(self.api(), self.report(), one).replay(None))
        self.assertRegex(error.sentence, "there is no dead letter '[0-9a-f]{32}'")

    def test_many_ids(self) -> None:
        """More ids than the API takes at a time are several requests; if a later one fails, it is a part."""
        ids = self.send(ODD, *[b""] * 1002)
        for delivery in self.hold(ODD, 1002):
            delivery.dead_letter()
        self.server.settle()
        error = self.failed(self.letters(self.api(), self.report(), *ids[:1000], "x").replay("other"))
        self.assertEqual((error.code, self.server.left("other")), (Exit.PARTLY, 1000))
        self.assertIn("1,000 were replayed before", error.sentence)

    def test_dry(self) -> None:
        """What would happen is counted, and does not happen; an id that is not there is an error."""
        ids = self.die(ODD, a="1", b="2", c="3")
        for which, number in (((), 3), (tuple(ids[1:]), 2)):
            done = self.verb(lambda api, report, which=which: self.letters(api, report, *which).would("replay"))  # type: ignore[misc]
            self.assertEqual(done, (0, f"{ODD}: {number} dead letters would be replayed\n"))
        for settings, number in (({"count": 2}, 2), ({"reason": "rejected", "count": 9}, 3), ({"reason": "expired"}, 0)):
            found = self.objects(lambda api, report, more=settings: self.letters(api, report, **more).would("delete"))  # type: ignore[misc]
            self.assertEqual(found, (0, [{"queue": ODD, "would_delete": number}]))
        error = self.failed(self.letters(self.api(), self.report(), ids[0], "x").would("replay"))
        self.assertEqual(error.sentence, f"there is no dead letter x of {ODD}; phpmq dead list shows those that there are")
        self.assertEqual(self.bodies(), ["1", "2", "3"])

    def test_delete(self) -> None:
        """Those that are meant are forgotten; where some ids are not there, it is a part."""
        one, _, three, _ = self.die(ODD, a="1", b="2", c="3", d="4")
        code, text = self.verb(lambda api, report: self.letters(api, report, three, "x").delete())
        self.assertEqual((code, text), (Exit.PARTLY, f"{ODD}: dead letter {three} deleted\n"))
        self.assertEqual(len(self.notes), 1)
        code, found = self.objects(lambda api, report: self.letters(api, report, three, one).delete())
        self.assertEqual((code, found[1]), (Exit.PARTLY, {"id": one, "deleted": 1}))
        self.assertEqual((found[0]["id"], found[0]["error"]), (three, "no-such-message"))
        done = self.verb(lambda api, report: self.letters(api, report, reason="rejected", count=1).delete())
        self.assertEqual((done, self.bodies()), ((0, f"{ODD}: 1 dead letter deleted\n"), ["4"]))
        self.assertEqual(self.objects(lambda api, report: self.letters(api, report).delete())[1], [{"queue": ODD, "deleted": 1}])


class MoveTests(LettersTestCase):
    """C{phpmq move}."""

    def test_move(self) -> None:
        """The first messages go to the other queue's tail, and it is said how many."""
        self.send(ODD, b"1", b"2", b"3")
        self.send("other", b"0")
        done = self.verb(lambda api, report: move_messages(api, report, ODD, "other", 2))
        self.assertEqual(done, (0, f"2 messages moved from {ODD} to other\n"))
        self.assertEqual((self.server.bodies("other"), self.server.bodies(ODD)), ([b"0", b"1", b"2"], [b"3"]))
        found = self.objects(lambda api, report: move_messages(api, report, "other", ODD, None))
        self.assertEqual(found, (0, [{"source": "other", "target": ODD, "moved": 3}]))
        error: Failed = self.failed(move_messages(self.api(), self.report(), "nope", ODD, None))
        self.assertTrue(re.match("cannot move messages of nope: there is no queue 'nope'", error.sentence), error.sentence)
