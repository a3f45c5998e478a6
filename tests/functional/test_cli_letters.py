"""The verbs of the C{phpmq} command that look at messages, copy them and care for dead ones, against a real server."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

from phpmq.cli.ndjson import content, message_of
from phpmq.cli.output import json_line
from tests.functional.client import bodies, take_all
from tests.functional.server import PATIENCE, directory
from tests.functional.test_cli_admin import AdminTestCase
from tests.web import ODD

NASTY = b"\x1b[2J\xff\n\x00"


class CopyTests(AdminTestCase):
    """C{phpmq export} and C{phpmq import}."""

    def messages(self, data: bytes) -> list[tuple[bytes, dict[str, Any]]]:
        """What lines say; times to live and delays have become a little shorter."""
        found = [message_of(line) for line in data.splitlines()]
        for _, fields in found:
            for name in "ttl", "delay":
                fields[name] = -(-fields.get(name, 0) // 1000)
            fields.setdefault("headers", {})
        return found

    def test_round_trip(self) -> None:
        """A queue that was exported, deleted and imported is equal to what it was, but for ids; if nobody reads, that is no trouble."""
        queue = f"{ODD} copied"
        sent = [b"", NASTY, "é\u2028".encode(), b"x" * 70_000, b"\xff" * 300_000, *(b"%d" % number for number in range(2500))]
        more: list[dict[str, Any]] = [{"headers": {"a": "é\x1b"}, "key": "k"}, {"ttl": 5000.0}, {"delay": 7000.0, "ttl": 9000.0}]
        lines = [json_line({**content(body), **(more[number] if number < len(more) else {})}) for number, body in enumerate(sent)]
        result = self.start("import", queue, "-").end(b"\n".join(lines))
        self.assertEqual((result.code, result.out), (0, b""), result)
        self.assertRegex(result.err, r"\Aphpmq: imported 2,505 messages in .*/s\n\Z")
        file = directory(self) / "dump"
        unread, exporting = self.start("export", queue), self.start("export", queue, "--output", str(file))
        assert unread.process.stdout is not None
        unread.process.stdout.close()
        result = exporting.end()
        self.assertEqual((result.code, result.out), (0, b""), result)
        # Those delayed come last.
        self.assertEqual(self.messages(file.read_bytes()), self.messages(b"".join([*lines[:2], *lines[3:], lines[2]])))
        self.assertEqual((unread.process.wait(PATIENCE), (unread.process.stderr or BytesIO()).read()), (1, b""))
        self.assertEqual(self.phpmq("queue", "delete", queue, "--yes").code, 0)
        self.assertEqual(self.phpmq("import", queue, str(file), "--level", "synced").code, 0)
        again = self.phpmq("export", queue).out
        self.assertEqual(self.messages(again), self.messages(file.read_bytes()))
        before, after = ({json.loads(line)["id"] for line in data.splitlines()} for data in (file.read_bytes(), again))
        self.assertEqual((len(before), before & after), (2505, set()))

    def test_ends(self) -> None:
        """Lines that are no messages, and messages that are refused, are said."""
        self.check(self.phpmq("queue", "set", "full", "--max-messages", "1", "--json"), 0)
        good, bad = b'{"body": "1"}\n{"body": "2"}\n', b"\n{}\n"
        commands = (
            (self.start("import", "lines"), good + bad + good, 3, "line 4 of standard input is no message: .*; 2 of 2 messages imported"),
            (self.start("import", "full"), good, 3, "1 of 2 messages imported: refused: "),
            (self.start("import", "full", "--server", "unix:/nowhere"), b"", 69, "cannot reach"),
        )
        skipping = self.start("import", "skipped", "--skip-bad")
        for command, data, code, complaint in commands:
            self.check(command.end(data), code, complaint)
        result = skipping.end(bad + good)
        self.assertEqual((result.code, result.err.count("\n")), (3, 2), result)
        self.assertTrue(result.err.endswith("phpmq: 1 line of standard input left out, as no messages; 2 of 2 messages imported\n"))
        for queue in b"lines", b"skipped":
            self.assertEqual(bodies(take_all(self.server.tcp, queue, 2)), [b"1", b"2"])


class LettersTests(AdminTestCase):
    """C{phpmq peek} and C{dead}."""

    def test_peek(self) -> None:
        """A body is written as it is in a pipe, and harmless on a terminal."""
        self.fill("peek", NASTY, b"2")
        line, _ = self.phpmq("peek", "peek", "--json").out.splitlines()
        id = json.loads(line)["id"]
        whole, shown = self.start("peek", "peek", "--id", id), self.terminal("peek", "peek", "--id", id)
        result = whole.end()
        self.assertEqual((result.code, result.out, result.err), (0, NASTY, ""))
        text = shown.end().out
        self.assertTrue(text.startswith(f"message   {id}\r\n".encode()))
        self.assertTrue(text.endswith(b"\r\n\r\n\\x1b[2J\\xff\r\n\\x00\r\n"), text)

    def test_dead(self) -> None:
        """Dead letters are shown, forgotten only if the user is sure, and replayed."""
        queue = f"{ODD} dead"
        self.fill(queue, b"1", b"2")
        self.phpmq("consume", queue, "--exec", "exit 7", "--max-attempts", "1", "--exit-empty")
        asked = self.terminal("dead", "delete", queue)
        asked.wait_for(f"Permanently delete 2 dead letters of {queue}? [y/N] ".encode())
        asked.type(b"n\n")
        self.assertEqual(asked.end().code, 1)
        listed, replayed = self.phpmq("dead", "list", queue), self.phpmq("dead", "replay", queue)
        self.assertEqual((listed.code, listed.err), (0, ""))
        self.assertRegex(listed.out.decode(), r"\AID .*BODY\n\w+ +1 B +1 .* ago +rejected: exit code 7, attempt 1  1\n.*\n\Z")
        self.assertEqual(replayed.out.decode(), f"{queue}: 2 dead letters replayed\n")
        self.assertEqual(bodies(take_all(self.server.tcp, queue.encode(), 2)), [b"1", b"2"])
