"""The HTTP API of a real process, over real sockets."""

from __future__ import annotations

import json
import re
import select
import socket
import sqlite3
import sys
import time
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.client import Client
from tests.functional.server import NO_DOORS, TCP, TWISTD, Process, Server, directory, wait_until
from tests.web import ODD

#: What a server's memory may grow by that should keep nothing, in bytes: buffers, and what the allocator does not give back.
SLACK = 16 * 1024**2

#: What runs twistd with a thousand events where there would be one.
_HURRIED = (
    sys.executable,
    "-c",
    "from phpmq.admin.http import site; from twisted.scripts.twistd import run; site.INTERVAL /= 1000; run()",
)


def path_of(queue: str, more: str = "") -> str:
    """A queue's path."""
    return f"/api/v1/queues/{quote(queue, safe='')}{more}"


class UnixConnection(HTTPConnection):
    """A connection to a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(self._path))


class HTTPTestCase(SynchronousTestCase):
    """A server with the API."""

    def start(self, *options: str) -> Server:
        """Start it."""
        self.server = Server(self, "--http", TCP, *options)
        self.http = self.connect()
        return self.server

    def connect(self) -> HTTPConnection:
        """A connection."""
        connection = HTTPConnection("127.0.0.1", self.server.ports[-1], timeout=20)
        self.addCleanup(connection.close)
        return connection

    def ask(self, method: str, path: str, value: Any = None, **headers: str) -> tuple[int, Any]:
        """What a request is answered: status and JSON."""
        body = None if value is None else json.dumps(value)
        self.http.request(method, path, body, {**({"Content-Type": "application/json"} if body else {}), **headers})
        response = self.http.getresponse()
        data = response.read()
        return response.status, json.loads(data) if data else None

    def get(self, path: str) -> Any:
        """What is there."""
        status, value = self.ask("GET", path)
        self.assertEqual(status, 200, value)
        return value

    def raw(self, data: bytes = b"", buffer: int = 0) -> socket.socket:
        """
        A connection on which nothing is understood.

        @param buffer: bytes that the system may keep of what came; 0 for as many as it likes
        """
        connection = socket.socket()
        self.addCleanup(connection.close)
        if buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", self.server.ports[-1]))
        connection.sendall(data)
        return connection

    def check_clean(self) -> None:
        """See that the server stops well, and complained of nothing."""
        self.assertEqual(self.server.stop(), 0)
        self.assertNotIn("Traceback", self.server.output)
        self.assertNotIn("Unhandled", self.server.output)


class UseTests(HTTPTestCase):
    """What an operator does."""

    def test_numbers(self) -> None:
        """The numbers are those of the file, once it is up to date, and of the clients; names are what they are."""
        self.start()
        with Client(self.server.tcp) as client:
            client.send(ODD.encode(), *[b"%d" % number for number in range(100)])
            client.send(b"other", b"")
            client.consume(ODD.encode(), 10)
            held = client.read_many(10)
            client.acknowledge(*held[:3])
            client.write(
                b"H0100602" + b"".join(b"P%02d%029d%s" % (kind, len(text), text) for kind, text in ((1, ODD.encode()), (3, held[3].id)))
            )
            wait_until("a dead letter", lambda: self.get("/api/v1/status")["messages"]["dead"] == 1)
            for delay in 0, 100:
                status, receipt = self.ask("POST", path_of(ODD, "/messages"), {"body": "é", "delay": delay, "level": "synced"})
                self.assertEqual((status, receipt["duplicate"]), (201, False))
            wait_until("the mirror is up to date", lambda: self.get("/api/v1/status")["mirror"]["pending_changes"] == 0)
            queue, status = self.get(path_of(ODD)), self.get("/api/v1/status")
            with closing(sqlite3.connect(f"file:{self.server.store}?mode=ro", uri=True)) as database:
                counts = "SELECT count(*), sum(position < 0) FROM message JOIN queue ON queue = queue.number WHERE name = ?"
                kept, delayed = database.execute(counts, (ODD,)).fetchone()
                dead = database.execute("SELECT count(*) FROM dead WHERE queue = ?", (ODD,)).fetchone()[0]
            self.assertEqual(
                (queue["ready"] + queue["in_flight"] + queue["delayed"], queue["delayed"], queue["dead"]), (kept, delayed, dead)
            )
            self.assertEqual((queue["in_flight"], queue["consumers"], queue["totals"]["acknowledged"]), (10, 1, 3))
            self.assertEqual(status["messages"]["ready"], queue["ready"] + 1)
            self.assertEqual([one["name"] for one in self.get("/api/v1/queues?filter=A*")["items"]], [ODD])
            (connected,) = self.get("/api/v1/clients")["items"]
            self.assertEqual((connected["id"], connected["in_flight"]), (queue["consuming"][0]["client"], 10))
            self.assertEqual(self.ask("DELETE", f"/api/v1/clients/{connected['id']}")[0], 200)
            self.assertTrue(client.hung_up())
            wait_until("what it held is back", lambda: self.get(path_of(ODD))["ready"] == kept - 1)
        self.check_clean()

    def test_flush(self) -> None:
        """A flush tells what it removed, and what is in flight settles normally."""
        self.start()
        with Client(self.server.tcp) as client:
            client.consume(b"q", 500)
            client.send(b"q", *[b"x"] * 10_500)
            held = client.read_many(500)
            wait_until("all are there", lambda: self.get(path_of("q"))["ready"] == 10_000)
            self.assertEqual(self.ask("POST", path_of("q", "/flush")), (200, {"queue": "q", "removed": 10_000, "in_flight": 500}))
            client.acknowledge(*held)
            wait_until("all are acknowledged", lambda: self.get(path_of("q"))["in_flight"] == 0)
            queue = self.get(path_of("q"))
            self.assertEqual((queue["ready"], queue["totals"]["acknowledged"]), (0, 500))
            self.assertEqual(self.get("/api/v1/status")["totals"]["unknown_ids"], 0)
            self.assertTrue(client.silent())
        self.check_clean()

    def test_one_connection(self) -> None:
        """One connection takes many requests, whatever comes of them."""
        self.start()
        self.http.connect()
        sock = self.http.sock
        for method, path, status in (
            *(("HEAD", "/api/v1/status", 200), ("GET", "/nowhere", 404), ("DELETE", "/api/v1/status", 405), ("GET", "/api/v1/status", 200)),
            *(("POST", "/api/v1/flush", 200), ("HEAD", "/openapi.json", 200), ("GET", "/readyz", 200), ("HEAD", "/nowhere", 404)),
        ):
            self.assertEqual(self.ask(method, path)[0], status)
            self.assertIs(self.http.sock, sock)
        self.assertEqual(self.ask("GET", "/livez", None, Host="evil.example")[1]["code"], "foreign-host")
        self.assertEqual(self.ask("POST", "/api/v1/flush", None, Origin="http://evil.example")[1]["code"], "foreign-origin")
        self.check_clean()

    def test_drain(self) -> None:
        """Before a deploy: stop the sends, wait until the rest is done, stop the server."""
        self.start()
        with Client(self.server.tcp) as worker:
            self.ask("POST", path_of("jobs", "/messages"), {"body": "last"})
            self.ask("POST", path_of("jobs", "/pause"), {"what": "sends"})
            self.assertEqual(self.ask("POST", path_of("jobs", "/messages"), {"body": "late"})[1]["code"], "queue-full")
            worker.consume(b"jobs")
            worker.acknowledge(worker.read())
            wait_until("it is empty", lambda: [self.get(path_of("jobs"))[name] for name in ("ready", "delayed", "in_flight")] == [0, 0, 0])
        reader = self.raw(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertIn(b"event: status", reader.recv(65_536))
        start = time.monotonic()
        self.check_clean()
        self.assertLess(time.monotonic() - start, 10)


class AbuseTests(HTTPTestCase):
    """What must not matter."""

    def test_huge_bodies(self) -> None:
        """A body of 1 GiB is refused, whether its length is announced or not or its client asks first, and leaves memory as it was."""
        self.start()
        self.get("/openapi.json")
        before = self.server.resident()
        head = "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\n%s\r\n\r\n"
        piece = b"x" * 1024**2
        announced, chunked, asking = f"Content-Length: {2**30}", "Transfer-Encoding: chunked", "Expect: 100-continue\r\n"
        for path, kind, length, status in (
            (path_of("q", "/messages"), "application/json", announced, b"413"),
            (path_of("q", "/messages"), "application/json", asking + announced, b"413"),
            (path_of("q", "/messages"), "application/json", chunked, b"413"),
            (path_of("q", "/messages"), "application/json", asking + chunked, b"413"),
            (path_of("q", "/messages"), "application/octet-stream", announced, b"413"),
            (path_of("q", "/messages"), "application/octet-stream", chunked, b"413"),
            (path_of("q", "/messages"), "application/octet-stream", asking + chunked, b"413"),
            (path_of("q", "/messages"), "application/octet-stream", chunked, b"413"),
            (path_of("q", "/flush"), "application/octet-stream", chunked, b"415"),
            (path_of("q", "/flush"), "application/json", chunked, b"413"),
            (path_of("q", "/messages"), "multipart/form-data; boundary=x", announced, b"415"),
            (path_of("q", "/messages"), "application/x-www-form-urlencoded", chunked, b"415"),
            ("/nowhere", "application/json", chunked, b"404"),
        ):
            connection = self.raw((head % (path, kind, length)).encode())
            if length == asking + chunked:
                self.assertEqual(connection.recv(65_536), b"HTTP/1.1 100 Continue\r\n\r\n")
            sent = 0
            # Who asks first is told at once, if that can be told.
            while length != asking + announced and sent < 2**30 and not select.select([connection], [], [], 0)[0]:
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if "chunked" in length else piece)
                sent += len(piece)
            self.assertLess(sent, 100 * 1024**2)
            self.assertEqual(connection.recv(65_536).split()[1], status)
            connection.close()
        # One that never looks at the answer.
        connection = self.raw((head % (path, "application/json", announced)).encode())
        self.assertRaises(OSError, connection.sendall, bytes(2**30))
        self.assertEqual(self.get("/livez"), {"status": "ok"})
        # The allocator may keep what the longest body took that may come, but not for one after the other.
        self.assertLess(self.server.resident() - before, 24 * 1024**2 + SLACK)
        self.check_clean()

    def test_slow(self) -> None:
        """Slow heads and bodies, and answers that are not read, are cut off at their deadlines while others are served."""
        self.start("--frame-timeout", "1", "--write-timeout", "1")
        large = b"x" * 12_000_000
        self.http.request("POST", path_of("q", "/messages"), large, {"Content-Type": "application/octet-stream"})
        response = self.http.getresponse()
        self.assertEqual(response.status, 201)
        path = path_of("q", f"/messages/{json.loads(response.read())['id']}/body")
        self.http.request("GET", path)
        self.assertEqual(self.http.getresponse().read(), large)
        unread = self.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), 4096)
        head = self.raw(b"GET /livez HTTP/1.1\r\nHost: ")
        body = self.raw(
            b"PUT /api/v1/queues/q HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        )
        start = time.monotonic()
        for slow in head, body:
            try:
                while time.monotonic() - start < 8:
                    slow.sendall(b" ")
                    self.get("/livez")
                    if select.select([slow], [], [], 0.05)[0] and not slow.recv(1):
                        break
            except OSError:
                pass
            self.assertLess(time.monotonic() - start, 8)
        poll = select.poll()
        poll.register(unread, 0)
        wait_until("who does not read is cut off", lambda: poll.poll(0), 8)
        self.check_clean()

    def test_readers(self) -> None:
        """Fifty clients read events, one of them never; all others get each second's, and memory stays as it is."""
        self.start()
        request = b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
        stuck, readers = self.raw(request), [self.raw(request) for _ in range(49)]
        for reader in readers:
            self.assertIn(b"event: status", reader.recv(65_536))
        before = self.server.resident()
        heard = [b""] * len(readers)
        wait_until(
            "three more seconds", lambda: self._hear(readers, heard) and min(text.count(b"event: status") for text in heard) >= 3, 10
        )
        self.assertLess(self.server.resident() - before, SLACK)
        moments = {tuple(part.split(b'"', 1)[0] for part in text.split(b'"now":"')[1:4]) for text in heard}
        self.assertEqual(len(moments), 1, "all are told the same")
        stuck.close()
        self.check_clean()

    def test_stuck_readers(self) -> None:
        """Of fifty readers forty never read: they take no more memory than fits their buffers, are cut off, and the others read on."""
        cwd = directory(self)
        # A unix socket's buffer is small and does not grow. To fill it at the real pace takes minutes.
        self.server = Server(self, "--http", f"unix:{cwd}/http", "--write-timeout", "2", cwd=cwd, program=_HURRIED)
        stuck, readers = ([self._reader(cwd / "http") for _ in range(count)] for count in (40, 10))
        heard = [b""] * len(readers)
        wait_until("all read", lambda: self._hear(readers, heard) and all(heard))
        sizes = [self.server.resident()]
        poll = select.poll()
        for reader in stuck:
            poll.register(reader, 0)

        def cut_off() -> int:
            self._hear(readers, heard)
            sizes.append(self.server.resident())
            return len(poll.poll(0))

        wait_until("the first is cut off", cut_off)
        # Without a limit each of them would keep that.
        self.assertGreater(len(heard[0]), 512 * 1024)
        self.assertLess(max(sizes) - sizes[0], len(stuck) * 65_536)
        wait_until("all are cut off", lambda: cut_off() == len(stuck))
        heard = [b""] * len(readers)
        wait_until("the others read on", lambda: self._hear(readers, heard) and all(b"event: status" in text for text in heard))
        self.check_clean()

    def _reader(self, path: Path) -> socket.socket:
        """A reader of events over a unix socket."""
        reader = socket.socket(socket.AF_UNIX)
        self.addCleanup(reader.close)
        reader.connect(str(path))
        reader.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return reader

    def _hear(self, readers: list[socket.socket], heard: list[bytes]) -> bool:
        for place, reader in enumerate(readers):
            while select.select([reader], [], [], 0)[0]:
                heard[place] += reader.recv(65_536)
        return True

    def test_garbage(self) -> None:
        """What is no HTTP is answered or hung up on, and the server goes on without a word."""
        self.start()
        for data in (
            b"H0100103" * 5000,
            b"\x16\x03\x01\x00\xa5" * 5000,
            b"\x00" * 100_000,
            b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000,
            b"\r\n" * 100,
        ):
            connection = self.raw()
            try:
                connection.sendall(data + b"\r\n\r\n\r\n\r\n")
                connection.settimeout(10)
                while connection.recv(65_536):
                    pass
            except OSError:
                pass
        self.assertEqual(self.get("/livez"), {"status": "ok"})
        lines = [line for line in self.server.output.splitlines() if "Site" in line or "HTTP" in line]
        self.assertEqual(len(lines), 2, lines)
        self.check_clean()


class ListenTests(HTTPTestCase):
    """Where the API is reached."""

    def refused(self, *options: str) -> str:
        """The sentence with which a server refuses to start."""
        arguments = [*TWISTD, "--nodaemon", "--pidfile=", "phpmq", *NO_DOORS, "--listen", TCP, "--store", "memory", *options]
        process = Process(self, arguments, directory(self))
        self.assertEqual(process.wait(), 1, process.output)
        self.assertNotIn("Traceback", process.output)
        (sentence,) = re.findall(r"(?:^|stderr#error\] )(phpmq: .*)$", process.output, re.MULTILINE)
        return str(sentence)

    def test_open_to_others(self) -> None:
        """A port that other machines reach is refused, unless the operator insists."""
        for description in "tcp:0", "tcp:0:interface=0.0.0.0":
            sentence = self.refused("--http", description)
            self.assertIn(f"--http {description} ", sentence)
            self.assertIn("--insecure-admin", sentence)
        self.start("--store", "memory", "--http", "none", "--http", "tcp:0", "--insecure-admin", "--http-host", "mq.example")
        self.assertEqual(self.get("/livez"), {"status": "ok"})
        self.assertEqual(self.ask("GET", "/livez", None, Host="mq.example:1")[0], 200)
        self.assertEqual(self.ask("GET", "/livez", None, Host="evil.example")[0], 403)
        self.check_clean()

    def test_foreign(self) -> None:
        """Whatever is asked for, and be it nothing that there is: a foreign Host or Origin gets 403 and has nothing done."""
        self.start("--store", "memory")
        self.ask("POST", path_of("q", "/messages"), {"body": "x"})
        paths = self.get("/openapi.json")["paths"]
        requests = [(method.upper(), path) for path, methods in paths.items() for method in methods if method != "parameters"]
        self.assertIn(("GET", "/metrics"), requests)
        for method, path in (*requests, ("GET", "/nowhere")):
            for headers in {"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}:
                status, problem = self.ask(method, path.format(name="q", id="1"), None, **headers)
                self.assertEqual((status, problem["code"]), (403, f"foreign-{next(iter(headers)).lower()}"), (method, path))
        self.assertEqual(self.get(path_of("q"))["ready"], 1)
        self.check_clean()

    def test_in_use(self) -> None:
        """A port that is in use is named."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            description = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
            sentence = self.refused("--http", description)
        self.assertIn(f"cannot listen on {description}: ", sentence)
        self.assertIn("Address already in use", sentence)
        self.assertIn("--http none", sentence)

    def test_unix_socket(self) -> None:
        """A unix socket does as well, and one that a killed server left behind is no obstacle."""
        cwd = directory(self)
        options = "--store", "memory", "--http", f"unix:{cwd}/http"
        Server(self, *options, cwd=cwd).kill()
        self.server = Server(self, *options, cwd=cwd)
        with closing(UnixConnection(cwd / "http")) as connection:
            connection.request("GET", "/api/v1/status", headers={"Host": "whatever"})
            response: HTTPResponse = connection.getresponse()
            self.assertEqual((response.status, json.loads(response.read())["state"]), (200, "running"))
        self.check_clean()
        self.assertFalse((cwd / "http").exists())
