"""Clients in PHP."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from signal import SIGTERM
from threading import Event, Thread
from typing import ClassVar
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from phpmq import blocking
from tests.functional.client import Client, bodies, take_all
from tests.functional.server import TCP, Process, Server, directory, wait_until
from tests.functional.test_tls import make_certificate

CLIENT = Path(__file__).with_name("client.php")
DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples"


class PHPTestCase(SynchronousTestCase):
    """Tests that need PHP."""

    def setUp(self) -> None:
        """See that it is there."""
        if shutil.which("php") is None:
            raise SkipTest("php is not installed")

    def run_php(self, *arguments: str, text: str = "", environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a script to its end, with that text as its standard input."""
        return subprocess.run(
            ["php", *arguments], input=text, capture_output=True, text=True, timeout=60, env={**os.environ, **(environment or {})}
        )


class PHPTests(PHPTestCase):
    """A client of the original revision, on listeners for everybody and on listeners for its like."""

    def setUp(self) -> None:
        """Start a server."""
        super().setUp()
        self.server = Server(self, "--listen-original", TCP)
        self.addresses = [f"tcp://127.0.0.1:{port}" for port in self.server.ports] + [f"unix://{self.server.unix}"]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the PHP client."""
        process = subprocess.Popen(["php", str(CLIENT), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def finish(self, process: subprocess.Popen[str]) -> list[str]:
        """What the PHP client printed, once it has ended well."""
        output, errors = process.communicate(timeout=30)
        self.assertEqual((process.returncode, errors), (0, ""))
        return output.split()

    def test_send_and_consume(self) -> None:
        """2,000 messages from one PHP client to another, in order, while they are being sent."""
        for number, address in enumerate(self.addresses):
            queue = f"queue {number}"
            consumer = self.start(address, "consume", queue, "2000", "100")
            sender = self.start(address, "send", queue, "0", "2000")
            self.finish(sender)
            self.assertEqual(self.finish(consumer), [str(number) for number in range(2000)])
            take_all(self.server.tcp, queue.encode(), 0)

    def test_backlog(self) -> None:
        """A PHP client takes a backlog that comes in one burst."""
        for address in self.addresses:
            self.finish(self.start(address, "send", "backlog", "0", "3000"))
            self.assertEqual(len(self.finish(self.start(address, "consume", "backlog", "3000", "3000"))), 3000)

    def test_mixed(self) -> None:
        """Messages of a documented sender reach a PHP client on the original listener, and a PHP client's reach a documented consumer."""
        with Client(self.server.tcp) as client:
            client.send(b"to php", *[b"%d" % number for number in range(100)], ttl=60)
            printed = self.finish(self.start(self.addresses[1], "consume", "to php", "100", "10"))
            self.assertEqual(printed, [str(number) for number in range(100)])
            self.finish(self.start(self.addresses[0], "send", "from php", "0", "100"))
            client.consume(b"from php")
            deliveries = client.read_many(100, acknowledge=True)
        self.assertEqual(bodies(deliveries), [b"%d" % number for number in range(100)])
        self.assertEqual({delivery.ttl for delivery in deliveries}, {0})


class Hook:
    """
    The web address that the worker of the examples posts to.

    @ivar got: what was posted there, with the id of its message and its trace, in order
    @ivar answers: the codes of the next answers; 200 when there are none
    @ivar held: while this is not set, nobody gets an answer
    """

    def __init__(self, case: SynchronousTestCase) -> None:
        self.got: list[tuple[object, str, str | None]] = []
        self.answers: list[int] = []
        self.held = Event()
        self.held.set()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.got.append((data, self.headers["Idempotency-Key"], self.headers["traceparent"]))
                hook.held.wait(30)
                self.send_response(hook.answers.pop(0) if hook.answers else 200)
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}/"
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        case.addCleanup(server.server_close)
        case.addCleanup(thread.join)
        case.addCleanup(server.shutdown)
        case.addCleanup(self.held.set)

    def job(self, data: object) -> str:
        """A job for the worker."""
        return json.dumps({"url": self.url, "data": data})

    @property
    def data(self) -> list[object]:
        """What was posted."""
        return [data for data, _, _ in self.got]

    @property
    def ids(self) -> list[str]:
        """The ids of the messages."""
        return [message_id for _, message_id, _ in self.got]


class ExampleTests(PHPTestCase):
    """docs/examples/*.php: the client of version 02, and what uses it."""

    #: What the client of the examples is told in its first line.
    REQUIRE: ClassVar[str] = f"require '{EXAMPLES / 'phpmq.php'}';"

    def setUp(self) -> None:
        """Start a server, and something to post to."""
        super().setUp()
        self.server = Server(self)
        self.address = f"unix://{self.server.unix}"
        self.hook = Hook(self)

    def send(self, *lines: str, queue: str = "webhooks") -> list[str]:
        """Send messages by send.php: their ids."""
        done = self.run_php(str(EXAMPLES / "send.php"), self.address, queue, text="".join(f"{line}\n" for line in lines))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        ids = done.stdout.split()
        self.assertEqual(len(ids), len(lines))
        return ids

    def work(self, attempts: int = 3, pause: float = 0.05) -> Process:
        """Start worker.php."""
        arguments = ["php", str(EXAMPLES / "worker.php"), self.address, "webhooks", str(attempts), str(pause)]
        return Process(self, arguments, directory(self))

    def evaluate(self, code: str) -> str:
        """What a piece of PHP prints that has a client."""
        done = self.run_php("-r", f"{self.REQUIRE} $client = new PhpmqClient('{self.address}'); {code}")
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        return done.stdout

    def dead(self) -> list[tuple[str, str, int, str]]:
        """The dead letters in the file: queue, text, attempts, body."""
        with closing(sqlite3.connect(f"file:{self.server.store}?mode=ro", uri=True)) as file:
            return list(file.execute("SELECT queue, text, attempts, CAST(body AS TEXT) FROM dead ORDER BY number"))

    def wait_for_hook(self, count: int) -> None:
        """Wait until so much was posted."""
        wait_until(f"{count} posts", lambda: len(self.hook.got) >= count)

    def stop(self, worker: Process) -> None:
        """Have a worker end as systemd does, and see that it does so cleanly."""
        self.assertEqual(worker.stop(SIGTERM), 0, worker.output)

    def test_send_and_work(self) -> None:
        """What send.php sends, worker.php does: each once, in order, under the id that send.php printed, and it is gone then."""
        ids = self.send(*[self.hook.job(number) for number in range(100)])
        worker = self.work()
        wait_until("the end", lambda: worker.output.count("is done\n") == 100)
        self.stop(worker)
        self.assertEqual(self.hook.data, list(range(100)))
        self.assertEqual(self.hook.ids, ids)
        take_all(self.server.tcp, b"webhooks", 0)

    def test_tcp(self) -> None:
        """The same over TCP."""
        self.address = f"tcp://127.0.0.1:{self.server.tcp}"
        ids = self.send(self.hook.job("tcp"))
        worker = self.work()
        worker.wait_for("is done")
        self.stop(worker)
        self.assertEqual(self.hook.ids, ids)

    def test_tls(self) -> None:
        """Over TLS as well, large messages too; the certificate of the server is checked."""
        cwd = directory(self)
        make_certificate(cwd / "server.pem")
        server = Server(self, "--listen", "ssl:0:interface=127.0.0.1:privateKey=server.pem", cwd=cwd)
        code = (
            f"{self.REQUIRE} $client = new PhpmqClient('tls:localhost:{server.ports[1]}'); $body = random_bytes(1 << 20);"
            "$client->send('q', $body); $client->consume('q'); $message = $client->receive(5);"
            "echo json_encode([$message->body === $body, $client->acknowledge($message)]);"
        )
        done = self.run_php("-d", f"openssl.cafile={cwd / 'server.pem'}", "-r", code)
        self.assertEqual((done.returncode, done.stdout), (0, "[true,true]"), done.stderr)
        self.assertIn("PhpmqUnreachable", self.run_php("-r", code).stderr)

    def test_headers(self) -> None:
        """The worker reads headers; a message with a time to live keeps it when it comes back."""
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        with blocking.connect(f"unix:{self.server.unix}") as client:
            client.send("webhooks", self.hook.job(1).encode(), headers={"traceparent": trace}, ttl=100)
        self.hook.answers = [500]
        worker = self.work(pause=0.01)
        worker.wait_for("is done")
        self.stop(worker)
        self.assertEqual([trace for _, _, trace in self.hook.got], [trace, trace])
        code = "$client->consume('q'); $message = $client->receive(5);"
        with blocking.connect(f"unix:{self.server.unix}") as client:
            client.send("q", b"body", headers={"a": "\u00e9"}, ttl=100)
            printed = self.evaluate(code + "$client->requeue($message, 0.01); echo json_encode($client->receive(5));")
            message = json.loads(printed)
        self.assertEqual((message["body"], message["headers"], message["attempts"]), ("body", {"a": "\u00e9"}, 2))
        self.assertTrue(90 < message["ttl"] <= 100, message)

    def test_failing_job(self) -> None:
        """A job that fails comes back later, and others are done meanwhile; the attempt that helps is the last one."""
        self.hook.answers = [503, 200, 503]
        ids = self.send(self.hook.job("fails twice"), self.hook.job("works"))
        worker = self.work(pause=0.2)
        self.wait_for_hook(4)
        wait_until("the end", lambda: worker.output.count("is done\n") == 2)
        self.stop(worker)
        self.assertEqual(self.hook.ids, [ids[0], ids[1], ids[0], ids[0]])
        self.assertIn("comes back in 0.2 s, attempt 1", worker.output)
        self.assertIn("comes back in 0.4 s, attempt 2", worker.output)
        take_all(self.server.tcp, b"webhooks", 0)

    def test_dead_letter(self) -> None:
        """A job that fails at each attempt becomes a dead letter after the last one, one that can never work at once."""
        hopeless, failing = "no JSON at all", self.hook.job("fails")
        self.hook.answers = [500, 500, 500]
        ids = self.send(hopeless, failing)
        worker = self.work(attempts=3)
        wait_until("two dead letters", lambda: len(self.dead()) == 2)
        self.stop(worker)
        first, second = self.dead()
        self.assertEqual((first[0], first[2], first[3]), ("webhooks", 1, hopeless))
        self.assertEqual((second[0], second[2], second[3]), ("webhooks", 3, failing))
        self.assertIn("attempt 3: ", second[1])
        self.assertIn("500", second[1])
        self.assertEqual(self.hook.ids, [ids[1]] * 3)
        take_all(self.server.tcp, b"webhooks", 0)

    def test_killed_while_sending(self) -> None:
        """The server is killed and started again while send.php sends: it goes on, and what it has an id of is not lost."""
        lines = [self.hook.job(number) for number in range(400)]
        text = self.server.directory / "lines"
        text.write_text("".join(f"{line}\n" for line in lines))
        with text.open() as stdin:
            sender = Process(self, ["php", str(EXAMPLES / "send.php"), self.address, "webhooks"], directory(self), stdin=stdin)
        wait_until("some ids", lambda: sender.output.count("\n") >= 100)
        self.server.kill()
        before = sender.output.count("\n")
        self.assertLess(before, 400)
        self.server = Server(self, cwd=self.server.directory)
        self.assertEqual(sender.wait(60), 0, sender.output)
        ids = sender.output.split()
        self.assertEqual(len(ids), 400)
        worker = self.work()
        wait_until("all posts", lambda: set(self.hook.ids) >= set(ids), 60)
        self.stop(worker)
        self.assertEqual(set(map(str, self.hook.data)), set(map(str, range(400))))

    def test_killed_while_working(self) -> None:
        """The server is killed and started again while worker.php works: the job at hand comes again, and then the next ones."""
        self.hook.held.clear()
        ids = self.send(self.hook.job(1), self.hook.job(2))
        worker = self.work()
        self.wait_for_hook(1)
        self.server.kill()
        self.server = Server(self, cwd=self.server.directory)
        self.hook.held.set()
        wait_until("both jobs", lambda: worker.output.count("is done\n") == 2)
        self.assertIn("is done, but may come again", worker.output)
        self.stop(worker)
        self.assertEqual(self.hook.ids, [ids[0], ids[0], ids[1]])

    def test_killed_worker(self) -> None:
        """A worker is killed in the middle of a job: the next one does it."""
        self.hook.held.clear()
        ids = self.send(self.hook.job(1))
        worker = self.work()
        self.wait_for_hook(1)
        worker.kill()
        self.hook.held.set()
        worker = self.work()
        worker.wait_for("is done")
        self.stop(worker)
        self.assertEqual(self.hook.ids, ids * 2)
        take_all(self.server.tcp, b"webhooks", 0)

    def test_stopped_server(self) -> None:
        """A server that is stopped cleanly and started again is no more to a worker than one that was killed."""
        worker = self.work()
        self.send(self.hook.job(1))
        worker.wait_for("is done")
        self.server.stop()
        self.server = Server(self, cwd=self.server.directory)
        self.send(self.hook.job(2))
        wait_until("both jobs", lambda: worker.output.count("is done\n") == 2)
        self.stop(worker)

    def test_sigterm(self) -> None:
        """SIGTERM lets a worker finish its job, and leaves the next one to others, whose first attempt it is."""
        if self.run_php("-r", "exit((int) !function_exists('pcntl_signal'));").returncode:
            raise SkipTest("php has no pcntl")
        self.hook.held.clear()
        ids = self.send(self.hook.job(1), self.hook.job(2))
        worker = self.work()
        self.wait_for_hook(1)
        worker.send_signal(SIGTERM)
        self.hook.held.set()
        self.assertEqual(worker.wait(), 0, worker.output)
        self.assertEqual(worker.output, f"{ids[0]} is done\n")
        self.assertEqual(self.hook.ids, ids[:1])
        with blocking.connect(f"unix:{self.server.unix}") as client:
            message = client.consume("webhooks", window=1).get(5)
            assert message is not None
            self.assertEqual((message.id, message.attempts), (ids[1], 1))

    def test_refused(self) -> None:
        """A refusal is an exception with the protocol's code, also of a frame that the server does not read to its end."""
        done = self.run_php(str(EXAMPLES / "send.php"), self.address, "no\nname", text="body\n")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("(bad-name)", done.stderr)
        catch = "try { $client->send('q', $body, $options); } catch (PhpmqRefused $error) { echo $error->reason; }"
        self.assertEqual(self.evaluate(f"$body = str_repeat('x', 17 << 20); $options = []; {catch}"), "too-large")
        self.assertEqual(self.evaluate(f"$body = ''; $options = ['key' => \"\\xff\"]; {catch}"), "bad-frame")

    def test_no_room(self) -> None:
        """A server that is full refuses, and takes messages again when there is room."""
        self.server = Server(self, "--memory-limit", "1M")
        self.address = f"unix://{self.server.unix}"
        printed = self.evaluate(
            "$count = 0; try { while (true) { $client->send('q', str_repeat('x', 100000)); $count++; } }"
            "catch (PhpmqRefused $error) { echo $error->reason; }"
            "$client->consume('q', 100); while ($count--) { $client->acknowledge($client->receive(5)) || exit(1); }"
            "echo ' ', strlen($client->send('q', ''));"
        )
        self.assertEqual(printed, "memory-full 32")

    def test_settling(self) -> None:
        """A message can be settled once, on the connection that it came over."""
        printed = self.evaluate(
            "$client->send('q', 'body', ['key' => 'k']); $id = $client->send('q', 'another body', ['key' => 'k']);"
            "$client->consume('q', 10, 5); $message = $client->receive(5);"
            "echo json_encode([$message->id === $id, $client->touch($message), $client->acknowledge($message),"
            " $client->acknowledge($message), $client->receive(0.1)]);"
            "$client->send('q', 'body'); $message = $client->receive(5); $client->close(); $again = $client->receive(5);"
            "$reason = \"caf\\xe9\" . str_repeat('\u00e9', 600);"
            "echo json_encode([$client->acknowledge($message), $again->attempts, $client->deadLetter($again, $reason)]);"
        )
        self.assertEqual(printed, "[true,true,true,false,null][false,2,true]")
        wait_until("a dead letter", self.dead)
        self.assertTrue(self.dead()[0][1].startswith("caf\u00e9\u00e9"), self.dead())

    def test_large(self) -> None:
        """The largest message goes there and back, while others are delivered."""
        printed = self.evaluate(
            "$client->consume('q', 100); for ($i = 0; $i < 50; $i++) { $client->send('q', str_repeat('y', 50000)); }"
            "$body = random_bytes(16 << 20); $client->send('q', $body);"
            "for ($i = 0; $i < 50; $i++) { $client->acknowledge($client->receive(5)) || exit(1); }"
            "$message = $client->receive(10); echo json_encode([$message->body === $body, $client->acknowledge($message)]);"
        )
        self.assertEqual(printed, "[true,true]")

    def test_request(self) -> None:
        """A web request sends to a server that is there, the same order once; without a server its job is in a file for send.php."""
        file = self.server.directory / "jobs"
        environment = {"PHPMQ_ADDRESS": self.address, "PHPMQ_FILE": str(file)}

        def request() -> str:
            done = self.run_php(str(EXAMPLES / "request.php"), environment=environment)
            self.assertEqual(done.returncode, 0, done.stderr)
            return done.stderr

        self.assertEqual((request(), request()), ("", ""))
        self.assertFalse(file.exists())
        self.server.stop()
        self.assertIn("cannot be reached", request())
        self.server = Server(self, cwd=self.server.directory)
        self.send(*file.read_text().splitlines())
        first, second = (json.loads(message.body) for message in take_all(self.server.tcp, b"webhooks", 2))
        self.assertEqual(first, second)
        self.assertEqual(first["data"], {"number": 17})


class TutorialTests(PHPTestCase):
    """docs/tutorials/php-worker.md."""

    def test_code(self) -> None:
        """All its PHP is PHP."""
        blocks = re.findall(r"^```php\n(.*?)^```$", (DOCS / "tutorials" / "php-worker.md").read_text(encoding="utf-8"), re.M | re.S)
        self.assertTrue(blocks)
        for block in blocks:
            done = self.run_php("-l", text=block)
            self.assertEqual(done.returncode, 0, done.stdout + block)
