"""The C{phpmq} command against a real server: what it prints, how it ends, and what becomes of the messages."""

from __future__ import annotations

import atexit
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.client import Client, bodies, take_all
from tests.functional.command import PHPMQ, Command, Result, environment, on_terminal, phpmq, wait_for_end
from tests.functional.server import PATIENCE, Server, directory, wait_until
from tests.functional.test_tls import make_certificate

ID = rb"[0-9a-f]{32}"


class _Process:
    """Stands for all tests of this process: what it cleans up is cleaned up at the end."""

    def addCleanup(self, call: Callable[..., object], *arguments: object) -> None:  # noqa: N802  # as unittest calls it
        """See L{SynchronousTestCase}."""
        atexit.register(call, *arguments)


@cache
def common_server() -> Server:
    """A server for all tests that do it no harm: to start one for each would take most of their time."""
    return Server(cast(SynchronousTestCase, _Process()))


class CommandTestCase(SynchronousTestCase):
    """Tests with a server, whose queues are empty."""

    #: The queues that they use.
    queues = ("jobs", "a", "b", "c", "kept", "plain", "json", "template", "zero", "lines", "idle", "large", "killed", "mixed", "other")

    def setUp(self) -> None:
        """Use the common one."""
        self.server = common_server()
        with Client(self.server.tcp) as client:
            for queue in self.queues:
                client.consume(queue.encode(), 65535)
            while not client.silent(0.02):
                client.acknowledge(client.read())

    def serve(self, *options: str) -> None:
        """Use one of its own."""
        self.server = Server(self, *options)

    def phpmq(self, *arguments: str | bytes, input: bytes = b"", more: Mapping[str, str] | None = None) -> Result:
        """Run a command to its end."""
        return phpmq(self, self.server, *arguments, input=input, more=more)

    def start(self, *arguments: str | bytes, **settings: Any) -> Command:
        """Start a command."""
        return Command(self, self.server, *arguments, **settings)

    def fill(self, queue: str, *messages: bytes) -> None:
        """Put messages into a queue, and see that they are there."""
        with Client(self.server.tcp) as client:
            client.send(queue.encode(), *messages)
            client.consume(b"its own", 1)
            client.send(b"its own", b"")
            client.read_many(1, acknowledge=True)

    def stored(self, query: str) -> list[tuple[Any, ...]]:
        """What is in the store's file."""
        with closing(sqlite3.connect(f"file:{self.server.store}?mode=ro", uri=True)) as database:
            return database.execute(query).fetchall()

    def left(self, queue: str, count: int) -> list[bytes]:
        """What is in a queue, which is empty then."""
        return bodies(take_all(self.server.tcp, queue.encode(), count))

    def check(self, result: Result, code: int, complaint: str = "") -> None:
        """See how a command ended, and that it says why on one line."""
        self.assertEqual(result.code, code, result)
        self.assertNotIn("Traceback", result.err)
        if complaint:
            self.assertRegex(result.err, rf"\Aphpmq: .*{complaint}.*\n\Z")
        else:
            self.assertEqual(result.err, "")


def take_everything(server: Server, queue: str) -> list[bytes]:
    """All that is in a queue."""
    with Client(server.tcp) as client:
        client.consume(queue.encode(), 65535)
        messages = []
        while not client.silent(0.3):
            messages.append(client.read())
        client.acknowledge(*messages)
    return bodies(messages)


class SendTests(CommandTestCase):
    """C{phpmq send}."""

    def test_body(self) -> None:
        """The body is the argument, byte by byte, or all of standard input; the id is printed; - at the start of a name needs --."""
        commands = [
            self.start("send", "argument", b"any \xff bytes\n"),
            self.start("send", "--", "-name", "-body"),
            self.start("send", "stdin"),
            self.start("send", "dash", "-"),
            self.start("send", "empty", ""),
            self.start("send", "json", "x", "--json"),
        ]
        inputs = [b"", b"", b"one\ntwo\n\0", b"", b"ignored", b""]
        results = [command.end(input) for command, input in zip(commands, inputs, strict=True)]
        for result in results:
            self.check(result, 0)
        for result in results[:5]:
            self.assertRegex(result.out, rb"\A%b\n\Z" % ID)
        printed = json.loads(results[5].out)
        self.assertEqual(printed, {"number": 1, "id": printed["id"], "duplicate": False})
        expected = {"argument": b"any \xff bytes\n", "-name": b"-body", "stdin": b"one\ntwo\n\0", "dash": b"", "empty": b"", "json": b"x"}
        self.assertEqual({queue: self.left(queue, 1) for queue in expected}, {queue: [body] for queue, body in expected.items()})

    def test_properties(self) -> None:
        """A message has the headers and the time to live it was given, is late if it has a delay, and is stored once with a key."""
        self.check(self.phpmq("send", "a", "x", "--ttl", "90.5", "--header", "x=1=2", "--header", "y="), 0)
        late = self.start("send", "b", "late", "--delay", "60")
        first = self.phpmq("send", "c", "x", "--key", "k")
        again = self.phpmq("send", "c", "y", "--key", "k")
        many = self.phpmq("send", "c", "z", "--key", "k", "--count", "3")
        self.check(late.end(), 0)
        self.check(first, 0)
        self.check(again, 0, "nothing was stored")
        self.assertEqual(first.out, again.out)
        self.check(many, 0, "sent 3 messages .* 3 of them stored before")
        result = self.phpmq("consume", "a", "b", "--exit-empty", "--json")
        self.check(result, 0)
        message = json.loads(result.out)
        self.assertTrue(0 < message.pop("ttl") <= 90.5)
        self.assertRegex(message.pop("id"), ID.decode())
        self.assertEqual(message, {"queue": "a", "attempts": 1, "headers": {"x": "1=2", "y": ""}, "body": "x"})

    def test_many(self) -> None:
        """Of many messages there is a summary on stderr, and ids or JSON only where asked for."""
        lines = [self.start("send", "lines", "--lines"), self.start("send", "lines", "-", "--lines", "--ids")]
        lines += [self.start("send", "lines", "--lines", "--json"), self.start("send", "lines", "body", "--count", "4", "--rate", "1000/s")]
        plain, ids, as_json, counted = (command.end(b"one\n\ntwo\r\nlast") for command in lines)
        for result in plain, ids, as_json, counted:
            self.check(result, 0, r"sent 4 messages in [\d.]+ s, [\d,.]+/s")
        self.assertEqual(plain.out + counted.out, b"")
        self.assertRegex(ids.out, rb"\A(%b\n){4}\Z" % ID)
        self.assertEqual([json.loads(line)["number"] for line in as_json.out.splitlines()], [1, 2, 3, 4])
        expected = [b"one", b"", b"two\r", b"last"] * 3 + [b"body"] * 4
        self.assertEqual(sorted(self.left("lines", 16)), sorted(expected))

    def test_slow_lines(self) -> None:
        """Each line goes out as it comes; Ctrl-C ends the waiting for the next one, with an account, and a line without its end is none."""
        sender, consumer = self.start("send", "jobs", "--lines"), self.start("consume", "jobs")
        for line in b"one\n", b"two\n":
            sender.write(line)
            self.assertEqual(consumer.line(), line)
        sender.write(b"half")
        time.sleep(0.1)
        for command in sender, consumer:
            command.signal(signal.SIGINT)
            command.process.wait(PATIENCE)
        self.check(sender.end(), 130, "interrupted: 2 of 2 messages sent")
        self.check(consumer.end(), 130)
        take_all(self.server.tcp, b"jobs", 0)

    def test_bounded(self) -> None:
        """A fast standard input waits for a slow server, and what is not confirmed takes bounded memory; in the end it gives up."""
        self.serve()
        sender = self.start("send", "jobs", "--lines", "--timeout", "1")
        sender.write(b"first\n")
        wait_until("the first message", lambda: self.stored("SELECT * FROM message"))
        self.server.send_signal(signal.SIGSTOP)
        self.addCleanup(self.server.send_signal, signal.SIGCONT)
        taken = 0
        block = (b"x" * 99_999 + b"\n") * 10

        def feed() -> None:
            nonlocal taken
            try:
                while taken < 400_000_000:
                    sender.write(block)
                    taken += len(block)
            except OSError:
                pass  # It gave up.

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        self.assertEqual(sender.process.wait(PATIENCE), 3)
        feeder.join(PATIENCE)
        self.assertGreater(taken, 1_000_000)
        self.assertLess(taken, 100_000_000)
        assert sender.process.stderr is not None
        account = sender.process.stderr.read().decode()
        self.assertRegex(account, r"\Aphpmq: gave up after 1 s .*: 1 of [\d,]+ messages sent, [\d,]+ may have been stored or not\n\Z")

    def test_refused(self) -> None:
        """What the server refuses is told with a code of its own; of many messages how many it took, and why not the first other."""
        self.serve("--store", "memory", "--max-message-size", "1000")
        synced = self.start("send", "jobs", "x", "--level", "synced")
        large = self.start("send", "jobs", "x" * 1001)
        some = self.start("send", "some", "--lines", "--json")
        self.check(synced.end(), 77, "0 of 1 message sent: refused: this server keeps its messages in memory only")
        self.check(large.end(), 1, "0 of 1 message sent: refused: packet type 02 of 1001 bytes, the limit is 1000")
        result = some.end(b"one\n" + b"x" * 1001 + b"\nthree\n")
        # The server closes the connection, which may be told as well.
        self.assertEqual(result.code, 3)
        self.assertRegex(result.err, "phpmq: 2 of 3 messages sent: refused: .*1001 bytes, the limit is 1000\n\\Z")
        codes = {line["number"]: line.get("error") for line in map(json.loads, result.out.splitlines())}
        self.assertEqual(codes, {1: None, 2: "too-large", 3: None})
        self.assertEqual(self.left("some", 2), [b"one", b"three"])

    def test_restart(self) -> None:
        """
        The server is stopped, and killed, and started again while lines are sent: once receipted as synced all are there, once, in order.
        """
        self.serve()
        sender = self.start("send", "jobs", "--lines", "--rate", "1500", "--level", "synced")
        feeder = threading.Thread(target=sender.write, args=(b"".join(b"%d\n" % number for number in range(3000)),), daemon=True)
        feeder.start()
        wait_until("the first message", lambda: self.stored("SELECT * FROM message"))
        for number in signal.SIGTERM, signal.SIGKILL:
            time.sleep(0.3)
            self.server.stop(number)
            time.sleep(0.3)
            self.server = Server(self, cwd=self.server.directory)
        feeder.join(PATIENCE)
        result = sender.end()
        self.assertEqual(result.code, 0, result)
        self.assertRegex(
            result.err, r"lost the connection to unix:.*, trying again\n.*connected to unix:.* again\n(.*\n)*.*sent 3,000 messages"
        )
        self.assertEqual([int(body) for body in take_everything(self.server, "jobs")], list(range(3000)))

    def test_gone(self) -> None:
        """The server goes and does not come back: an account, and the exit code says whether anything arrived."""
        self.serve()
        some, none = self.start("send", "jobs", "--lines", "--timeout", "1"), self.start("send", "jobs", "-", "--timeout", "1")
        some.write(b"one\n")
        wait_until("the first message", lambda: self.stored("SELECT * FROM message"))
        # More than a pipe holds: once it reads, it is connected.
        none.write(b"x" * 200_000)
        self.server.kill()
        some.write(b"two\nthree\n")
        self.assertRegex(
            some.end().err, r"trying again\nphpmq: gave up after 1 s .*: 1 of 3 messages sent, 2 may have been stored or not\n\Z"
        )
        self.assertEqual(some.process.returncode, 3)
        result = none.end(b"")
        self.assertEqual(result.code, 69, result)
        self.assertRegex(result.err, "0 of 1 message sent, 1 may have been stored or not")


class ConsumeTests(CommandTestCase):
    """C{phpmq consume}."""

    def test_formats(self) -> None:
        """Bodies are written as they are, one on a line; or as JSON; or as a template says. What is written is acknowledged."""
        for queue in "plain", "json", "template", "zero":
            self.fill(queue, b"one", b"\xff\x1b[31m", b"")
        options = {"plain": [], "json": ["--json"], "template": ["--format", r"{queue}\t{attempts}\n{{{id}}} {body}"]}
        options["zero"] = ["--format", r"{body}\0"]
        commands = [self.start("consume", queue, "--exit-empty", *more) for queue, more in options.items()]
        plain, as_json, template, zero = wait_for_end(commands)
        for result in plain, as_json, template, zero:
            self.check(result, 0)
        self.assertEqual(plain.out, b"one\n\xff\x1b[31m\n\n")
        messages = [json.loads(line) for line in as_json.out.splitlines()]
        self.assertEqual([message.get("body") for message in messages], ["one", None, ""])
        self.assertEqual(messages[1]["body_base64"], "/xtbMzFt")
        self.assertEqual({(message["queue"], message["attempts"], message["ttl"]) for message in messages}, {("json", 1, 0)})
        self.assertRegex(template.out, rb"\A(template\t1\n\{%b\} .*\n){3}\Z" % ID)
        self.assertEqual(zero.out, b"one\0\xff\x1b[31m\0\0")
        for queue in options:
            take_all(self.server.tcp, queue.encode(), 0)

    def test_count(self) -> None:
        """With --count no more are taken from the server than asked for: all others are delivered for the first time afterwards."""
        for queue in "a", "b":
            self.fill(queue, *(b"%d" % number for number in range(50)))
        self.fill("kept", *(b"%d" % number for number in range(50)))
        one = self.start("consume", "a", "--count", "7", "--window", "3")
        kept = self.start("consume", "kept", "--count", "20", "--ack", "none")
        result = one.end()
        self.check(result, 0)
        self.assertEqual(result.out.split(), [b"%d" % number for number in range(7)])
        self.assertEqual(len(kept.end().out.split()), 20)
        # A queue that is not there, and one that has less than its part.
        self.check(two := self.phpmq("consume", "none", "a", "b", "--count", "51"), 0)
        self.assertEqual(len(two.out.split()), 51)
        self.check(last := self.phpmq("consume", "none", "neither", "b", "--count", "1", "--json"), 0)
        self.assertEqual(json.loads(last.out)["attempts"], 1)
        rest = self.phpmq("consume", "a", "b", "none", "--json", "--exit-empty", "--count", "1000")
        self.check(rest, 0)
        attempts = [json.loads(line)["attempts"] for line in rest.out.splitlines()]
        self.assertEqual(attempts, [1] * (100 - 7 - 51 - 1))
        again = self.phpmq("consume", "kept", "--json", "--exit-empty")
        self.assertEqual([json.loads(line)["attempts"] for line in again.out.splitlines()], [2] * 20 + [1] * 30)

    def test_empty(self) -> None:
        """--exit-empty ends when nothing is ready, whatever is delayed; --ack none shows all there is and leaves it, in order."""
        messages = [b"%d" % number for number in range(1500)]
        self.fill("jobs", *messages)
        self.check(self.phpmq("send", "jobs", "later", "--delay", "60"), 0)
        kept = self.phpmq("consume", "jobs", "--exit-empty", "--ack", "none", "--window", "10")
        self.check(kept, 0)
        self.assertEqual(kept.out.split(), messages)
        taken = self.phpmq("consume", "jobs", "nothing", "--exit-empty")
        self.check(taken, 0)
        self.assertEqual(taken.out.split(), messages)

    def test_timeout(self) -> None:
        """--timeout ends the waiting for the next message, with exit code 75."""
        self.fill("jobs", b"one")
        result = self.phpmq("consume", "jobs", "--count", "2", "--timeout", "1.5")
        self.check(result, 75, "no message came for 1.5 s, after 1 of 2")
        self.assertEqual(result.out, b"one\n")

    def test_broken_pipe(self) -> None:
        """Somebody who reads no more is not complained about, and what was not written stays."""
        self.fill("idle", b"x")
        idle = self.start("consume", "idle")
        self.assertEqual(idle.line(), b"x\n")
        assert idle.process.stdout is not None
        idle.process.stdout.close()
        idle.process.stdout = None
        large = b"y" * 100_000
        self.fill("large", *[large] * 30)
        busy = self.start("consume", "large", "--window", "1")
        self.assertEqual(len(busy.line()), len(large) + 1)
        assert busy.process.stdout is not None
        busy.process.stdout.close()
        busy.process.stdout = None
        self.check(idle.end(), 1)
        self.check(busy.end(), 1)
        # One was read, one may have been in the pipe.
        rest = take_everything(self.server, "large")
        self.assertIn(len(rest), (28, 29))

    def test_output_fails(self) -> None:
        """Output that cannot be written, or is closed, is an error on one line, and the message stays."""
        self.fill("jobs", b"x")
        with open("/dev/full", "wb") as full:
            self.check(self.start("consume", "jobs", "--exit-empty", stdout=full).end(), 1, "standard output: No space left on device")
        command = ("/bin/sh", "-c", 'exec "$@" >&-', "sh", *PHPMQ, "consume", "jobs", "--exit-empty")
        result = subprocess.run(command, stderr=subprocess.PIPE, env=environment(self.server), timeout=PATIENCE)
        self.assertEqual((result.returncode, result.stderr), (1, b"phpmq: standard output is closed\n"))
        self.assertEqual(self.left("jobs", 1), [b"x"])

    def test_restart(self) -> None:
        """A consumer bears a server that is stopped and started again, and writes nothing twice."""
        self.serve()
        messages = [b"%d" % number for number in range(2000)]
        self.fill("jobs", *messages)
        consumer = self.start("consume", "jobs", "--count", "2100")
        first = [consumer.line() for _ in range(5)]
        self.server.stop()
        self.server = Server(self, cwd=self.server.directory)
        more = [b"%d" % number for number in range(2000, 2100)]
        self.fill("jobs", *more)
        result = consumer.end()
        # An acknowledgement may have got lost with the connection.
        self.assertIn(result.code, (0, 3), result)
        written = (b"".join(first) + result.out).split()
        self.assertEqual(written, messages + more)


class ExecTests(CommandTestCase):
    """C{phpmq consume --exec}."""

    def test_environment(self) -> None:
        """The command gets the body and knows the message; its output goes through; exit code 0 acknowledges."""
        self.check(self.phpmq("send", "jobs", "--header", "a=ä", input=b"body\n\xff"), 0)
        script = 'cat; echo; echo "$PHPMQ_QUEUE $PHPMQ_ID $PHPMQ_ATTEMPTS $PHPMQ_HEADERS"; echo error >&2'
        result = self.phpmq("consume", "jobs", "--exec", script, "--exit-empty")
        self.assertEqual((result.code, result.err), (0, "error\n"))
        self.assertRegex(result.out, rb'\Abody\n\xff\njobs %b 1 \{"a": "\\u00e4"\}\n\Z' % ID)
        take_all(self.server.tcp, b"jobs", 0)

    def test_failures(self) -> None:
        """
        A command that fails, or is killed, has its message come again, later each time and living no longer than its sender wanted, or be
        a dead letter.
        """
        self.check(self.phpmq("send", "killed", "--ttl", "50", input=b"large" * 100_000), 0)
        self.fill("jobs", b"fails")
        self.fill("mixed", b"good", b"bad")
        failing = self.start("consume", "jobs", "--exec", "exit 7", "--count", "2", "--max-attempts", "2")
        # It does not read its input.
        killed = self.start("consume", "killed", "--exec", "kill -9 $$", "--exit-empty")
        mixed = self.start("consume", "mixed", "--exec", '[ "$(cat)" = good ]', "--exit-empty", "--jobs", "2")
        started = time.monotonic()
        result = killed.end()
        self.assertEqual(result.code, 1)
        self.assertRegex(result.err, "killed by SIGKILL, attempt 1, again in 1 s\nphpmq: 1 of 1 command failed: .*SIGKILL\n")
        result = mixed.end()
        self.assertEqual(result.code, 3)
        self.assertRegex(result.err, "exit code 1, attempt 1, again in 1 s\nphpmq: 1 of 2 commands failed: .*exit code 1\n")
        again = self.start("consume", "killed", "--json", "--count", "1")
        result = failing.end()
        self.assertGreater(time.monotonic() - started, 0.5)
        self.assertEqual(result.code, 1)
        self.assertRegex(
            result.err, "exit code 7, attempt 1, again in 1 s\n.*exit code 7, attempt 2, now a dead letter\n.*2 of 2 commands failed"
        )
        message = json.loads(again.end().out)
        self.assertEqual(message["attempts"], 2)
        self.assertTrue(0 < message["ttl"] < 50, message["ttl"])
        take_all(self.server.tcp, b"jobs", 0)
        dead = "SELECT queue, reason, text, attempts, body FROM dead"
        wait_until("the dead letter", lambda: self.stored(dead))
        self.assertEqual(self.stored(dead), [("jobs", "rejected", "exit code 7, attempt 2", 2, b"fails")])

    def test_terminate(self) -> None:
        """SIGTERM lets the commands that run finish, and gives the rest back; those that wait are not begun."""
        self.fill("jobs", b"one", b"two", b"three")
        worker = self.start("consume", "jobs", "--exec", 'echo "$(cat)"; sleep 0.5; echo done', "--jobs", "2", "--window", "3")
        self.assertEqual({worker.line(), worker.line()}, {b"one\n", b"two\n"})
        worker.signal(signal.SIGTERM)
        result = worker.end()
        self.check(result, 130)
        self.assertEqual(result.out, b"done\ndone\n")
        self.assertEqual(self.left("jobs", 1), [b"three"])

    def test_kill(self) -> None:
        """A second signal kills the commands that run, with what they started, and their messages are back in their places."""
        self.fill("jobs", b"one", b"two")
        worker = self.start("consume", "jobs", "--exec", "cat; echo; sleep 60 & echo $!; wait")
        self.assertEqual(worker.line(), b"one\n")
        child = int(worker.line())
        for number in signal.SIGINT, signal.SIGINT:
            worker.signal(number)
            time.sleep(0.2)
        self.check(worker.end(), 130)
        wait_until("the end of the command's child", lambda: not Path(f"/proc/{child}/cmdline").exists() or not is_running(child))
        self.assertEqual(self.left("jobs", 2), [b"one", b"two"])

    def test_lease(self) -> None:
        """With a lease, a command that takes longer keeps its message all the same; without the command it would be somebody else's."""
        self.fill("jobs", b"x")
        worker = self.start("consume", "jobs", "--exec", "echo begun; sleep 2.5", "--lease", "1", "--count", "1")
        self.assertEqual(worker.line(), b"begun\n")
        self.check(self.phpmq("consume", "jobs", "--exit-empty", "--exec", "echo stolen"), 0)
        result = worker.end()
        self.check(result, 0)
        self.assertEqual(result.out, b"")
        take_all(self.server.tcp, b"jobs", 0)
        # A worker that is stopped does not touch: somebody else gets the message.
        self.fill("jobs", b"y")
        worker = self.start("consume", "jobs", "--exec", "echo begun; sleep 60", "--lease", "1")
        self.assertEqual(worker.line(), b"begun\n")
        worker.signal(signal.SIGSTOP)
        result = self.phpmq("consume", "jobs", "--count", "1", "--json")
        # The worker that is stopped may have got it again before there was somebody else.
        self.assertGreater(json.loads(result.out)["attempts"], 1)
        worker.signal(signal.SIGCONT)


def is_running(pid: int) -> bool:
    """Whether a process does more than wait for its parent to look at how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TerminalTests(CommandTestCase):
    """On a terminal there is more to see, and nothing that the terminal would obey."""

    def test_escapes(self) -> None:
        """Bodies, and names of queues, are shown with escapes; JSON is harmless as it is."""
        evil = "\x1b]0;title\x07 \x9b31m \u202e two\nlines \xe4".encode()
        for queue in "plain", "json", "template":
            self.fill(queue, evil)
        shown = on_terminal(self, self.server, "consume", "plain", "--count", "1")
        self.assertEqual((shown.code, shown.out.decode()), (0, "\\x1b]0;title\\x07 \\x9b31m \\u202e two\\nlines \xe4\r\n"))
        shown = on_terminal(self, self.server, "consume", "template", "--count", "1", "--format", "{body}")
        self.assertIn(b"\\x1b]0;title\\x07", shown.out)
        shown = on_terminal(self, self.server, "consume", "json", "--count", "1", "--json")
        self.assertNotIn(b"\x1b", shown.out)
        self.assertNotIn("\x9b", shown.out.decode())
        self.assertEqual(json.loads(shown.out)["body"], evil.decode())

    def test_progress(self) -> None:
        """While many are sent there is a line that moves on a terminal, and none in a pipe; NO_COLOR takes its colours."""
        arguments = ("send", "jobs", "body", "--count", "700", "--rate", "1000", "--ttl", "1")
        colour = threading.Thread(target=lambda: shown.append(on_terminal(self, self.server, *arguments)))
        shown: list[Result] = []
        colour.start()
        plain = on_terminal(self, self.server, *arguments, more={"NO_COLOR": "1"})
        colour.join()
        for result in plain, *shown:
            self.assertEqual(result.code, 0)
            self.assertIn(b"sending to jobs", result.out)
            self.assertIn(b"sent 700 messages", result.out)
        coloured = rb"\x1b\[[0-9;]*3[0-9][0-9;]*m"
        self.assertRegex(shown[0].out, coloured)
        self.assertNotRegex(plain.out, coloured)
        commands = [self.start(*arguments), self.start(*arguments, "--progress"), self.start("consume", "none", "--exit-empty")]
        silent, asked, _ = wait_for_end(commands)
        self.check(silent, 0, "sent 700 messages")
        self.assertRegex(asked.err, r"\Aphpmq: sending to jobs: \d+ messages of 700, \d+/s\n(?s:.)*sent 700 messages")
        self.assertNotIn("\x1b", asked.err)
        off = on_terminal(self, self.server, *arguments, "--no-progress")
        self.assertNotIn(b"sending to jobs", off.out)

    def test_no_body(self) -> None:
        """On a terminal a send without a body is a mistake, not something to wait for."""
        result = on_terminal(self, self.server, "send", "jobs", input=None)
        self.assertEqual(result.code, 2)
        self.assertIn(b"there is no BODY", result.out)


class UnreachableTests(SynchronousTestCase):
    """Without a server of its kind the command ends soon, with exit code 69 and one line."""

    def fails(self, command: Command, complaint: str, code: int = 69) -> None:
        """See how it ends."""
        result = command.end(b"")
        self.assertEqual((result.code, result.out), (code, b""), result)
        self.assertRegex(result.err, rf"\Aphpmq: .*{complaint}.*\n\Z")

    def listen(self, answer: bytes | None) -> str:
        """Something that listens; it answers and hangs up, or is silent."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                if answer is None:
                    time.sleep(5)
                else:
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    def test_unreachable(self) -> None:
        """Nobody listens; a name or a socket that is not there; another protocol; no protocol 2; no answer."""
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        servers = {
            f"tcp:127.0.0.1:{port}": "cannot reach tcp:127.0.0.1:.*: connection refused; see that phpmq is running",
            f"127.0.0.1:{port}": "cannot reach 127.0.0.1:.*: connection refused",
            "unix:/nowhere/socket": "cannot reach unix:/nowhere/socket: no such file or directory",
            self.listen(b"HTTP/1.1 400 Bad Request\r\n\r\n"): "is not a phpmq server that speaks protocol 2",
            self.listen(b""): "hung up without an answer: it may not be a phpmq server that speaks protocol 2",
        }
        started = [Command(self, None, "send", "nowhere", "x", "--server", server) for server in servers]
        for command, complaint in zip(started, servers.values(), strict=True):
            self.fails(command, complaint)
        silent = self.listen(None)
        quick = Command(self, None, "consume", "nowhere", "--timeout", "0.3", more={"PHPMQ_SERVER": silent})
        self.fails(quick, "does not answer within 0.3 s")
        self.fails(Command(self, None, "bench", "--server", f"127.0.0.1:{port}"), "connection refused")

    def test_usage(self) -> None:
        """A --server that describes none is a mistake in the usage."""
        result = phpmq(self, None, "send", "jobs", "x", "--server", "no:nsense")
        self.assertEqual(result.code, 2)
        self.assertIn("'no:nsense' is no address: the port is no number", result.err)


class TLSTests(SynchronousTestCase):
    """C{--server tls:...}."""

    def test_certificate(self) -> None:
        """A certificate that is trusted is enough; one that is not is named as the reason."""
        cwd = directory(self)
        make_certificate(cwd / "server.pem")
        server = Server(self, "--listen", "ssl:0:interface=127.0.0.1:privateKey=server.pem", cwd=cwd)
        where = f"tls:localhost:{server.ports[1]}"
        untrusted, trusted = wait_for_end(
            [Command(self, None, "send", "jobs", "x", "--server", one) for one in (where, f"{where}:trustRoots={cwd}")]
        )
        self.assertEqual(untrusted.code, 69)
        self.assertRegex(untrusted.err, r"\Aphpmq: tls:.* hung up without an answer: its certificate is not trusted here\n\Z")
        self.assertEqual((trusted.code, trusted.err), (0, ""))
        self.assertEqual(bodies(take_all(server.tcp, b"jobs", 1)), [b"x"])


class BenchTests(CommandTestCase):
    """C{phpmq bench}."""

    def test_figures(self) -> None:
        """Each way to measure has its figures, as JSON or as a table, and leaves no message that was not there."""
        few = ("--messages", "600", "--clients", "3", "--window", "20")
        result = self.phpmq("bench", *few, "--json", "--size", "1k", "--rate", "5000")
        self.check(result, 0)
        figures = json.loads(result.out)
        self.assertEqual((figures["size"], figures["clients"], figures["window"], figures["level"]), (1024, 3, 20, "stored"))
        for what in "send", "consume":
            self.assertEqual(figures[what]["messages"], 600)
            latency = figures[what]["latency_ms"]
            self.assertTrue(0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"], latency)
            self.assertEqual(round(figures[what]["rate"] * figures[what]["seconds"]), 600)
        result = self.phpmq("bench", "send", *few, "--level", "synced", "--queue", "other")
        self.check(result, 0)
        self.assertRegex(result.out.decode(), r"\Aqueue other, 3 clients, .*synced; latency in ms\n +messages .*max\nsend +600 ")
        self.check(self.phpmq("bench", "--queue", "other"), 1, "the queue other is not empty")
        result = self.phpmq("bench", "consume", *few, "--queue", "other")
        self.assertRegex(result.out.decode(), r"\nacknowledge +600 ")
        take_all(self.server.tcp, b"other", 0)
        take_all(self.server.tcp, b"phpmq-bench", 0)

    def test_foreign(self) -> None:
        """Messages of others are never taken: a queue that has some is refused, and their arrival ends it."""
        self.fill("jobs", b"precious")
        self.check(self.phpmq("bench", "--queue", "jobs"), 1, "the queue jobs is not empty, and is left alone")
        self.assertEqual(self.left("jobs", 1), [b"precious"])
        running = self.start("bench", "--queue", "jobs", "--rate", "100", "--messages", "1000")
        with Client(self.server.tcp) as client:
            client.consume(b"jobs", 1)
            client.read()  # it has begun; this one is back when the connection closes
        self.fill("jobs", b"precious")
        self.check(running.end(), 1, "somebody else sends to the queue jobs")
        self.assertIn(b"precious", take_everything(self.server, "jobs"))
        self.check(self.phpmq("bench", "consume"), 1, "nothing to consume in the queue phpmq-bench")

    def test_refused(self) -> None:
        """What the server refuses ends it, with the code for that."""
        self.serve("--store", "memory")
        self.check(
            self.phpmq("bench", "send", "--level", "synced"), 77, "the server refused: this server keeps its messages in memory only"
        )

    def test_terminal(self) -> None:
        """On a terminal the figures are a table with lines, within 80 columns."""
        shown = on_terminal(self, self.server, "bench", "send", "--messages", "100", more={"TERM": "dumb"}).out.decode()
        self.assertIn("────", shown)
        self.assertNotIn("…", shown)
        self.assertLessEqual(max(map(len, shown.splitlines())), 80)
        self.assertRegex(shown, r"send +100 .*\d\.\d\d")


class CompletionTests(SynchronousTestCase):
    """C{phpmq completion}."""

    def test_bash(self) -> None:
        """After one command, bash completes verbs and options when Tab is pressed."""
        home = directory(self)
        script = home / "phpmq"
        script.write_text(f'#!/bin/sh\nexec {" ".join(PHPMQ)} "$@"\n')
        script.chmod(0o755)
        more = {"HOME": str(home), "XDG_DATA_HOME": str(home / "data"), "PATH": f"{home}:{os.environ['PATH']}", "PS1": "$ "}
        result = phpmq(self, None, "completion", "bash", "--install", more=more)
        installed = home / "data" / "bash-completion" / "completions" / "phpmq"
        self.assertEqual((result.code, result.err), (0, f"phpmq: {installed} is written: new shells complete phpmq\n"))
        printed = phpmq(self, None, "completion", "bash", more=more)
        self.assertEqual(printed.out.strip(), installed.read_bytes().strip())
        commands = f"source {installed}\nphpmq be\t--mes\t7 --hel\t\n"
        shell = ("bash", "--norc", "--noprofile", "-i")
        shown = in_shell(self, shell, commands, environment(None, more), "latency")
        self.assertIn("phpmq bench --messages 7 --help", shown)

    def test_others(self) -> None:
        """For zsh and fish the script is where they look, and zsh is told once to look there."""
        home = directory(self)
        (home / ".zshrc").write_text("setopt autocd")
        more = {"HOME": str(home), "XDG_DATA_HOME": "", "XDG_CONFIG_HOME": "", "ZDOTDIR": ""}
        for shell in "zsh", "zsh", "fish":
            self.assertEqual(phpmq(self, None, "completion", shell, "--install", more=more).code, 0)
        self.assertIn("complete --no-files --command phpmq", (home / ".config/fish/completions/phpmq.fish").read_text())
        self.assertIn("#compdef phpmq", (home / ".local/share/phpmq/completion.zsh").read_text())
        settings = (home / ".zshrc").read_text()
        self.assertTrue(settings.startswith("setopt autocd\n"))
        self.assertEqual(settings.count(f"source '{home}/.local/share/phpmq/completion.zsh'\n"), 1)


def in_shell(case: SynchronousTestCase, shell: tuple[str, ...], keys: str, environment: Mapping[str, str], until: str) -> str:
    """What a shell on a terminal shows when keys are pressed, until a text appears."""
    import pty

    pid, master = pty.fork()
    if not pid:
        os.execvpe(shell[0], shell, environment)
    case.addCleanup(os.waitpid, pid, 0)
    case.addCleanup(os.kill, pid, signal.SIGKILL)
    case.addCleanup(os.close, master)
    shown = bytearray()

    def read() -> None:
        try:
            while data := os.read(master, 65536):
                shown.extend(data)
        except OSError:
            pass  # The shell has ended.

    threading.Thread(target=read, daemon=True).start()
    wait_until("a prompt", lambda: b"$ " in shown)
    os.write(master, keys.encode())
    wait_until(f"{until!r} in {bytes(shown)!r}", lambda: until.encode() in shown)
    return re.sub(r"\x1b\[\?2004[hl]|\x07", "", shown.decode())


class MainTests(SynchronousTestCase):
    """How the command is started."""

    def test_script(self) -> None:
        """The installed script is the same as the module."""
        script = Path(sys.executable).with_name("phpmq")
        for command in (str(script),), PHPMQ:
            result = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=PATIENCE)
            self.assertRegex(result.stdout, r"\Aphpmq \d+\.\d+")

    def test_quick(self) -> None:
        """Help and version need neither Twisted nor rich, and a send not rich: they are slow to import."""
        script = (
            "import sys; from phpmq.cli import main; main(sys.argv[1:]); print([one for one in ('twisted', 'rich') if one in sys.modules])"
        )
        for arguments in ["--version"], ["--help"], ["send", "--help"], ["consume", "jobs", "--no-such-option"]:
            result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=PATIENCE)
            self.assertEqual(result.stdout.splitlines()[-1], "[]", arguments)
        command = [sys.executable, "-c", script, "send", "jobs", "x", "--server", "unix:/nowhere"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(result.stdout.splitlines()[-1], "['twisted']", result)
