"""Tests of C{phpmq export}, and of what it shares with C{phpmq import}, in memory."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from phpmq.cli.admin import export
from phpmq.cli.admin.api import LIMIT, Api
from phpmq.cli.admin.export import Seen, replacing
from phpmq.cli.exit_codes import Exit, Failed
from phpmq.cli.ndjson import content, message_of
from phpmq.cli.output import Report, json_line
from phpmq.cli.stdio import Output
from tests.test_docs import text
from tests.verbs import VerbTestCase, work_of
from tests.web import ODD

export_messages = work_of(export.export)


class LineTests(SynchronousTestCase):
    """Messages as lines of JSON."""

    def test_messages(self) -> None:
        """A body of any bytes comes back, with what a new message can have; what it cannot have is left out."""
        facts = {"queue": "q", "id": "0" * 32, "attempts": 7, "state": "ready", "accepted_at": "x", "reason": "y"}
        for body in b"", "é\u2028\x1b\n".encode(), b"\xff\x00", b"x" * 100_000:
            self.assertEqual(message_of(json_line({**facts, **content(body)})), (body, {}))
        more = {"ttl": 1.5, "delay": 2, "headers": {"a": "é"}, "key": "k"}
        self.assertEqual(message_of(json_line({**more, **content(b"x")})), (b"x", more))
        self.assertEqual(message_of(b'{"body": "", "ttl": null, "delay": 0.0, "headers": {}, "key": null, "body_base64": null}')[0], b"")

    def test_bad(self) -> None:
        """What is no message is refused, and it is said why."""
        for line, complaint in (
            ("", "not JSON"),
            ("[" * 100_000, "not JSON"),
            ("\xff", "not JSON"),
            ("[]", "no JSON object"),
            ("{}", "either body or body_base64"),
            ('{"body": "", "body_base64": ""}', "either body or body_base64"),
            ('{"body": 1}', "either body or body_base64"),
            ('{"body_base64": "?"}', "no base64"),
            ('{"body": "\\ud800"}', "half of a character"),
            ('{"body": "x", "key": "\\ud800"}', "it has half of a character"),
            ('{"body": "x", "headers": {"\\ud800": ""}}', "it has half of a character"),
            ('{"body": "x", "headers": {"": "\\ud800"}}', "it has half of a character"),
            ('{"body": "x", "truncated": true}', "part of the message is missing"),
            ('{"body": "x", "truncated": false, "expires_at": "2030-01-01T00:00:00.000Z"}', "part of the message is missing"),
            ('{"body": "x", "ttl": -1}', "its ttl is no number of seconds"),
            ('{"body": "x", "ttl": Infinity}', "its ttl"),
            ('{"body": "x", "delay": NaN}', "its delay"),
            ('{"body": "x", "delay": true}', "its delay"),
            ('{"body": "x", "headers": {"a": 1}}', "its headers are not texts by name"),
            ('{"body": "x", "headers": []}', "its headers"),
            ('{"body": "x", "key": ""}', "its key is no text, or empty"),
        ):
            error = self.assertRaises(ValueError, message_of, line.encode("latin-1"))
            self.assertIn(complaint, str(error))


class FileTests(SynchronousTestCase):
    """Files that are written whole or not at all."""

    def setUp(self) -> None:
        """Make a directory."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.path = self.directory / "dump"

    def write(self, path: Path, data: bytes, error: type[BaseException] | None = None) -> None:
        """Write it, perhaps not to the end."""
        with replacing(str(path)) as descriptor:
            os.write(descriptor, data)
            if error is not None:
                raise error

    def test_whole(self) -> None:
        """It is there when all is written, also where a link leads to, with the mode of the one before."""
        self.write(self.path, b"new")
        self.path.chmod(0o600)
        link = self.directory / "link"
        link.symlink_to("dump")
        self.write(link, b"newer")
        self.assertEqual((self.path.read_bytes(), self.path.stat().st_mode & 0o777, link.is_symlink()), (b"newer", 0o600, True))
        self.assertEqual(sorted(self.directory.iterdir()), [self.path, link])

    def test_not_at_all(self) -> None:
        """When something goes wrong the one before stays, and nothing else."""
        self.path.write_bytes(b"old")
        for error in KeyboardInterrupt, ValueError, BrokenPipeError:
            self.assertRaises(error, self.write, self.path, b"new", error)
        self.assertEqual((self.path.read_bytes(), list(self.directory.iterdir())), (b"old", [self.path]))
        failed = self.assertRaises(Failed, self.write, self.directory / "none" / "dump", b"")
        self.assertRegex(failed.sentence, "^cannot write .*/none/dump: No such file or directory$")

    def test_no_file(self) -> None:
        """What is no file is written to as it is."""
        os.mkfifo(self.path)
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        self.write(self.path, b"new")
        self.assertEqual((os.read(reader, 99), self.path.is_fifo()), (b"new", True))


class SeenTests(SynchronousTestCase):
    """L{Seen}."""

    def test_any_order(self) -> None:
        """All that were added are known, in whatever order they came, and no others."""
        seen = Seen()
        ids = [f"{'a' * 16}{number:016x}" for number in (5, 7, 6, 2**63, 0, 9, 7)]
        for id in ids:
            seen.add(id)
        self.assertTrue(all(id in seen for id in ids))
        self.assertFalse(any(f"{'a' * 16}{number:016x}" in seen for number in (1, 4, 8, 10, 2**62)))


class Meddled(Api):
    """
    An API whose server is busy.

    @ivar after: what happens after each answered page of messages
    """

    after: list[Callable[[], object]]

    async def get(self, what: str, /, *parts: str, wants: Sequence[str] = (), most: int = LIMIT, **query: object) -> dict[str, Any]:
        """See L{Api}."""
        answer = await super().get(what, *parts, wants=wants, most=most, **query)
        if parts[2:] == ("messages",) and self.after:
            self.after.pop(0)()
        return answer


class ExportTests(VerbTestCase):
    """C{phpmq export}."""

    wanted = frozenset({"ready", "delayed", "in_flight"})

    def export(self, *states: str, queue: str = ODD, after: Any = None) -> list[dict[str, Any]]:
        """What it writes."""

        async def work(api: Any, report: Any) -> None:
            if after is not None:
                api.__class__, api.after = Meddled, after
            await export_messages(api, report, queue, set(states) or set(self.wanted), None, False)

        code, lines = self.objects(work)
        self.assertEqual(code, Exit.OK)
        return lines

    def bodies(self, *states: str, after: Any = None) -> list[str]:
        """The bodies of those lines."""
        return [line["body"] for line in self.export(*states, after=after)]

    def test_facts(self) -> None:
        """A line has what an equal message needs, and what happened to this one; the queue stays as it is."""
        self.send(ODD, b"0")
        self.hold(ODD, 1)[0].dead_letter("why")
        self.server.settle()
        held, ready = self.send(ODD, "1é".encode(), b"\xff", ttl=100, headers={"a": "\x1b"}, key=None)
        (late,) = self.send(ODD, b"3", delay=50, key="k")
        self.server.advance(10)
        before = self.done(self.admin.queues.get(ODD))
        first, second, third = self.export()
        accepted = "1970-01-01T00:00:00.000Z"
        common = {"queue": ODD, "accepted_at": accepted}
        living = {"ttl": 90.0, "delay": 0.0, "key": None, "headers": {"a": "\x1b"}}
        self.assertEqual(first, {**common, "id": held, "state": "in_flight", "attempts": 1, **living, "body": "1é"})
        self.assertEqual(second, {**common, "id": ready, "state": "ready", "attempts": 0, **living, "body_base64": "/w=="})
        delayed = {"state": "delayed", "attempts": 0, "ttl": 0.0, "delay": 40.0, "key": "k", "headers": {}, "body": "3"}
        self.assertEqual(third, {**common, "id": late, **delayed})
        (dead,) = self.export("dead")
        self.assertEqual(dead["reason"], "rejected")
        self.assertEqual((dead["text"], dead["died_at"], dead["body"], dead.get("ttl")), ("why", accepted, "0", None))
        self.assertEqual(self.done(self.admin.queues.get(ODD)), before)
        self.assertRegex(self.notes[0], r"^exported 3 messages in 0.000 s, ")
        documented = set(json.loads(re.search(r"`(\{.*accepted_at.*\})`", text("docs/reference/command.md"))[1]))  # type: ignore[index]
        self.assertEqual((set(first), set(dead)), (documented, documented - {"ttl", "delay", "key"} | {"reason", "text", "died_at"}))

    def test_states(self) -> None:
        """Those in the states that are wanted, once, whatever is wanted together."""
        self.send(ODD, b"0", b"1", b"2", b"4")
        self.send(ODD, b"3", delay=50)
        self.hold(ODD, 2)[0].dead_letter()
        self.server.settle()
        for states, expected in (
            (("ready",), ["4"]),
            (("delayed",), ["3"]),
            (("ready", "in_flight"), ["1", "2", "4"]),
            (("dead", "delayed"), ["3", "0"]),
            (("dead", "delayed", "ready", "in_flight"), ["1", "2", "4", "3", "0"]),
        ):
            self.assertEqual(self.bodies(*states), expected, states)
        self.assertIn("no queue 'nope'", self.failed(export_messages(self.api(), self.report(), "nope", {"ready"}, None, False)).sentence)

    def test_whole_bodies(self) -> None:
        """Bodies that are longer than what a page shows are asked for one by one; one that is done meanwhile is left out."""
        self.patch(export, "MAX_PREVIEW", 10)
        self.send(ODD, b"1" * 10, b"2" * 5000, b"\xff" * 11, b"4" * 11)
        found = self.export()
        self.assertEqual([line.get("body") for line in found], ["1" * 10, "2" * 5000, None, "4" * 11])
        self.assertEqual(message_of(json_line(found[2]))[0], b"\xff" * 11)
        held = self.hold(ODD, 4)

        def settle() -> None:
            held[1].ack()
            held[3].dead_letter()
            self.server.settle()

        self.assertEqual(len(self.export(after=[settle])), 2)

    def test_meanwhile(self) -> None:
        """A message that was there at the beginning is found once, whatever state it goes to meanwhile; newer ones are not."""
        self.patch(export, "PAGE", 2)
        self.send(ODD, *[b"%d" % number for number in range(6)])
        self.send(ODD, b"6", b"7", delay=1)
        self.server.advance(0.5)
        held: list[Any] = []

        def deliver() -> None:
            held.extend(self.hold(ODD, 5))
            self.server.advance(0.001)
            self.client.send(ODD, b"new")
            self.server.settle()

        def requeue() -> None:
            held[0].requeue()
            held[4].requeue(delay=0.1)
            self.server.settle()

        def become_due() -> None:
            self.server.advance(1)
            self.server.disconnect()
            self.server.settle()

        self.assertEqual(sorted(self.bodies(after=[deliver, requeue, become_due])), [str(number) for number in range(8)])

    def test_due_meanwhile(self) -> None:
        """One that becomes ready after those ready were written, and before those delayed are, is found too."""
        self.send(ODD, b"1", delay=1)
        self.send(ODD, b"0")
        self.assertEqual(self.bodies(after=[lambda: self.server.advance(1)]), ["0", "1"])

    def test_gone_meanwhile(self) -> None:
        """A queue that is empty and gone before all of it was read is no error."""
        self.patch(export, "PAGE", 1)
        self.send(ODD, b"0", b"1", b"2")

        def flush() -> None:
            self.admin.queues.flush(ODD)
            self.server.settle()
            self.assertNotIn(ODD, self.server.broker.queues)

        self.assertEqual(self.bodies(after=[flush]), ["0"])

    def test_file(self) -> None:
        """A file is replaced when all is written, and left alone otherwise."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "dump")
            path.write_bytes(b"old")
            states = set(self.wanted)
            self.failed(export_messages(self.api(), self.report(), "nope", states, str(path), False))
            self.assertEqual(path.read_bytes(), b"old")
            self.send(ODD, b"1", b"2")
            done = self.verb(lambda api, report: export_messages(api, report, ODD, states, str(path), False))
            self.assertEqual(done, (Exit.OK, ""))
            self.assertEqual([json.loads(line)["body"] for line in path.read_bytes().splitlines()], ["1", "2"])
            self.assertEqual(os.listdir(directory), ["dump"])

    def test_nobody_reads(self) -> None:
        """Where nobody reads it ends, and what was asked for is not waited for."""
        self.patch(export, "PAGE", 1)
        self.send(ODD, b"1", b"2", b"3")
        read, write = os.pipe()
        self.addCleanup(os.close, write)
        os.close(read)
        result = Deferred.fromCoroutine(export_messages(self.api(), Report(Output(self.clock, write)), ODD, set(self.wanted), None, False))
        self.wait(result)
        self.failureResultOf(result, BrokenPipeError)
        self.assertEqual(self.notes, [])
