"""Connections of the HTTP API: what is refused before it is kept, deadlines, and many requests on one connection."""

from __future__ import annotations

import inspect
import re
from typing import Any

from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from twisted.internet.testing import StringTransport
from twisted.web import http
from zope.interface.verify import verifyObject

from phpmq.admin.http.connection import HTTPConnection, Request
from tests.web import Connection, WebTestCase, Wire


class ConnectionTestCase(WebTestCase):
    """Requests as bytes."""

    def head(self, *lines: str, line: str = "POST /api/v1/queues/q/messages HTTP/1.1") -> bytes:
        """A request's head."""
        return "\r\n".join([line, "Host: localhost", *lines, "", ""]).encode("latin-1")

    def post(self, *lines: str) -> bytes:
        """The head of a request with a body."""
        return self.head("Content-Type: application/json", *lines)

    def check_closed(self, connection: Connection, status: int, code: str) -> None:
        """See that a request is refused, and the connection ended once the client had time to read that."""
        response = connection.hears()
        self.check_problem(response, status, code)
        self.assertEqual(response.headers["connection"], "close")
        if connection.wire.closed:
            return  # There was nothing that was not read.
        self.assertTrue(connection.wire.ended)
        self.assertFalse(connection.wire.aborted)
        connection.says(b"x" * 100_000)
        self.assertEqual(connection.rest, b"")
        self.clock.advance(5)
        self.assertTrue(connection.wire.closed)

    def check_open(self, connection: Connection) -> None:
        """See that the connection takes another request."""
        connection.says(self.request("GET", "/livez"))
        self.assertEqual(connection.hears().status, 200)

    def cut_after(self, connection: Connection, most: float) -> float:
        """See that a connection is closed in time: when."""
        start = self.clock.seconds()
        while not connection.wire.closed:
            self.assertLess(self.clock.seconds() - start, most + 1)
            self.clock.advance(0.5)
        return self.clock.seconds() - start


class BodyTests(ConnectionTestCase):
    """Bodies are bounded before they are kept."""

    def test_announced(self) -> None:
        """A body whose announced length is too much is refused before any of it comes."""
        for length in 256 * 1024 + 1, 2**30, 10**30:
            connection = self.connect()
            connection.says(self.post(f"Content-Length: {length}"))
            self.check_closed(connection, 413, "too-large")
        self.assertEqual(self.site.connections.held, 0)

    def test_chunked(self) -> None:
        """One whose length is not announced is counted as it comes, whatever it is cut into."""
        for size in 10_000, 65_536, 2**30:
            connection = self.connect()
            connection.says(self.post("Transfer-Encoding: chunked"))
            kept: list[Any] = []
            sent = 0
            while not connection.wire.ended and sent < 4 * 1024**2:
                connection.says(b"%x\r\n" % size if size < 2**30 or not sent else b"")
                connection.says(b"x" * min(size, 65_536))
                connection.says(b"\r\n" if size < 2**30 else b"")
                sent += min(size, 65_536)
                kept = connection.wire.protocol.requests[-1:] or kept
                self.assertLessEqual(self.site.connections.held, 300_000)
            self.assertLess(sent, 400_000)
            self.assertEqual([len(request._body) for request in kept], [0])
            self.check_closed(connection, 413, "too-large")
            self.assertEqual(self.site.connections.held, 0)

    def test_endless(self) -> None:
        """Who goes on sending without reading the refusal is hung up on."""
        connection = self.connect()
        connection.says(self.post("Content-Length: 9999999999"))
        sent = 0
        while not connection.wire.closed:
            connection.says(bytes(1024**2))
            sent += 1
            self.assertLess(sent, 100)
        self.assertTrue(connection.wire.aborted)
        self.assertEqual((self.site.api.cut_off, self.site.api.problems), ({"refused": 1}, {"too-large": 1}))

    def test_all_together(self) -> None:
        """The bodies of all requests are bounded together; what is done is not counted any more."""
        self.site.connections.max_held = 350_000
        first, second = self.connect(), self.connect()
        first.says(self.post("Content-Length: 250000") + b"{" + b" " * 249_000)
        second.says(self.post("Content-Length: 250000") + b"{" + b" " * 150_000)
        self.check_closed(second, 503, "too-many-bodies")
        self.assertEqual(self.site.api.problems, {"too-many-bodies": 1})
        first.wire.lose()
        self.assertEqual(self.site.connections.held, 0)
        third = self.connect()
        third.says(self.post("Content-Length: 250000") + b'{"body": "x"' + b" " * 249_987 + b"}")
        self.assertEqual(third.hears().status, 201)
        self.assertEqual(self.site.connections.held, 0)

    def test_too_large_alone(self) -> None:
        """A body for which there never is room is refused as too large, and not as one that may be sent again later."""
        self.site.connections.max_held = 5000
        for lines in ["Content-Length: 5001"], ["Transfer-Encoding: chunked"]:
            connection = self.connect()
            connection.says(self.head("Content-Type: application/octet-stream", *lines) + b"1389\r\n" + bytes(5001))
            self.check_closed(connection, 413, "too-large")

    def test_expect(self) -> None:
        """Who asks whether to send a body is told, and sends none in vain."""
        body = b'{"body": "x"}'
        connection = self.connect()
        connection.says(self.post("Expect: 100-continue", f"Content-Length: {len(body)}"))
        self.assertEqual(connection.rest, b"HTTP/1.1 100 Continue\r\n\r\n")
        connection._got = b""
        connection.says(body)
        self.assertEqual(connection.hears().status, 201)
        for lines, status, code in (
            (["Content-Type: application/json", "Content-Length: 99999999"], 413, "too-large"),
            (["Content-Type: text/plain", "Content-Length: 5"], 415, "unsupported-media-type"),
            (["Content-Type: application/json", "Content-Length: 5", "Origin: http://evil.example"], 403, "foreign-origin"),
        ):
            connection = self.connect()
            connection.says(self.head("Expect: 100-continue", *lines))
            self.check_closed(connection, status, code)

    def test_forms(self) -> None:
        """A form is refused by its type, never parsed, and its connection goes on."""
        connection = self.connect()
        form = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n'
        for kind, body in (
            ("multipart/form-data; boundary=x", form),
            ("application/x-www-form-urlencoded", b"a=b"),
            ("multipart/form-data", form),
        ):
            connection.says(self.head(f"Content-Type: {kind}", f"Content-Length: {len(body)}") + body)
            self.check_problem(connection.hears(), 415, "unsupported-media-type")
        self.check_open(connection)

    def test_refused_body(self) -> None:
        """The body of a request that is refused is not kept, and the connection goes on after it."""
        connection = self.connect()
        connection.says(self.head("Content-Type: application/json", "Transfer-Encoding: chunked", line="POST /nowhere HTTP/1.1"))
        for _ in range(10):
            connection.says(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            self.assertEqual(self.site.connections.held, 0)
        connection.says(b"0\r\n\r\n")
        self.check_problem(connection.hears(), 404, "not-found")
        self.check_open(connection)

    def test_every_cut(self) -> None:
        """A request may come in pieces of any size, with its body announced or not, and the next one right after it."""
        body = b'{"body": "hello"}'
        announced = self.post(f"Content-Length: {len(body)}") + body
        chunked = self.post("Transfer-Encoding: chunked") + b"5;x=y\r\n" + body[:5] + b"\r\nC\r\n" + body[5:] + b"\r\n0\r\n\r\n"
        data = announced + chunked + announced
        for size in 1, 2, 3, 7, 64, len(data):
            connection = self.connect()
            for start in range(0, len(data), size):
                connection.says(data[start : start + size])
            self.clock.advance(0)
            self.clock.advance(0)
            self.assertEqual([connection.hears().status for _ in range(3)], [201] * 3, size)
        self.assertEqual(self.server.bodies("q"), [b"hello"] * 18)


class HeadTests(ConnectionTestCase):
    """What is no request that the server understands."""

    def test_large(self) -> None:
        """The request line and the headers are limited together, and in number."""
        for head in (
            self.head("X: " + "x" * 17_000),
            self.head(*[f"X-{n}: " + "x" * 900 for n in range(20)]),
            self.head(*[f"X-{n}: x" for n in range(200)]),
            self.head(line="GET /" + "x" * 20_000 + " HTTP/1.1"),
        ):
            connection = self.connect()
            connection.says(head)
            self.check_closed(connection, 431, "headers-too-large")
        connection = self.connect()
        connection.says(b"x" * 17_000)
        self.check_closed(connection, 431, "headers-too-large")

    def test_garbage(self) -> None:
        """Other protocols are told so, as far as they can be, and hung up on."""
        for data in (
            b"H0100103P0100000000000000000000000000004jobs\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            self.head("no colon"),
            self.head("Content-Length: x"),
            self.head("Content-Length: -5"),
            self.head("Content-Length: 5", "Content-Length: 6"),
            self.head("Content-Length: 5", "Transfer-Encoding: chunked"),
            self.head("Transfer-Encoding: gzip"),
            self.post("Transfer-Encoding: chunked") + b"x\r\n",
            self.post("Transfer-Encoding: chunked") + b"5\r\nhelloo\r\n",
        ):
            connection = self.connect()
            connection.says(data)
            self.check_closed(connection, 400, "bad-request")
        self.assertEqual(self.server.broker.queues, {})

    def test_host(self) -> None:
        """A request names its host, once; one of HTTP 1.0 need not."""
        for head in b"GET /livez HTTP/1.1\r\n\r\n", self.head("Host: localhost", line="GET /livez HTTP/1.1"):
            connection = self.connect()
            connection.says(head)
            self.check_problem(connection.hears(), 400, "bad-request")
            self.check_open(connection)
        connection = self.connect()
        connection.says(b"GET /livez HTTP/1.0\r\n\r\n")
        self.assertEqual(connection.hears().json, {"status": "ok"})
        self.assertTrue(connection.wire.closed)

    def test_close(self) -> None:
        """A client that wants the connection closed has it closed."""
        connection = self.connect()
        connection.says(self.request("GET", "/livez", None, {"Connection": "close"}))
        self.assertEqual(connection.hears().headers["connection"], "close")
        self.assertTrue(connection.wire.closed)


class SeveralTests(ConnectionTestCase):
    """Several requests on one connection, and several connections."""

    def test_keep_alive(self) -> None:
        """One after the other."""
        connection = self.connect()
        for number in range(20):
            connection.says(self.request("POST", self.queue("q", "/messages"), {"body": str(number)}))
            self.assertEqual(connection.hears().status, 201)
        self.assertEqual(len(self.server.bodies("q")), 20)

    def test_pipelined(self) -> None:
        """All at once: they are answered in order, one in each turn, so that nobody waits for all of them."""
        connection = self.connect()
        requests = b"".join(self.request("POST", self.queue("q", "/messages"), {"body": str(number)}) for number in range(100))
        connection.wire.protocol.dataReceived(requests)
        for number in range(3):
            self.turn()
            self.assertEqual(self.server.bodies("q"), [b"0", b"1", b"2"][: number + 1])
        self.clock.advance(0)
        self.assertEqual([connection.hears().status for _ in range(100)], [201] * 100)
        self.assertEqual(self.server.bodies("q"), [b"%d" % number for number in range(100)])

    def test_pipelined_unread(self) -> None:
        """Who asks and never reads is answered no further than what waits for him, and nothing more of him is read."""
        message = self.server.broker.publish("q", b"x" * 200_000)
        path = self.queue("q", "/messages/" + self.server.broker.lifecycle.message_id(message.number).decode())
        connection = self.connect()
        connection.wire.stuck = True
        connection.says(self.request("GET", path) * 100)
        for _ in range(100):
            self.clock.advance(0)
        self.assertLess(len(connection.wire.output.getvalue()), 200_000)
        sent = 0
        while connection.wire.reading and not connection.wire.closed:
            connection.says(self.request("GET", path) * 100)
            sent += 1
            self.assertLess(sent, 100)
        self.assertEqual(self.site.api.cut_off, {"ahead": 1})
        self.assertLess(len(connection.wire.output.getvalue()), 200_000)

    def test_pipelined_unread_small(self) -> None:
        """So it is if each answer is written at once: once they are too many, no more are made and nothing is read, until some go."""
        message = self.server.broker.publish("q", b"x" * 40_000)
        path = self.queue("q", "/messages/" + self.server.broker.lifecycle.message_id(message.number).decode())
        connection = self.connect()
        connection.wire.stuck = True
        connection.says(self.request("GET", path) * 50)
        for _ in range(100):
            self.clock.advance(0)
        self.assertLess(len(connection.wire.output.getvalue()), 130_000)
        self.assertFalse(connection.wire.reading)
        got = b""
        while data := connection.wire.read():
            got += data
            self.assertLess(len(data), 130_000)
            self.clock.advance(0)
        connection._got = got
        self.assertEqual([connection.hears().json["size"] for _ in range(50)], [40_000] * 50)
        self.assertTrue(connection.wire.reading)

    def test_pipelined_read_late(self) -> None:
        """Who reads late gets all that he asked for."""
        message = self.server.broker.publish("q", b"x" * 200_000)
        path = self.queue("q", "/messages/" + self.server.broker.lifecycle.message_id(message.number).decode())
        connection = self.connect()
        connection.wire.stuck = True
        connection.says(self.request("GET", path) * 5 + self.request("GET", "/livez"))
        got = b""
        for _ in range(100):
            got += connection.wire.read()
            self.clock.advance(0)
        connection._got = got
        self.assertEqual([connection.hears().json["size"] for _ in range(5)], [200_000] * 5)
        self.assertEqual(connection.hears().json, {"status": "ok"})

    def test_most(self) -> None:
        """There are so many connections; one more is hung up on, and room again when one goes."""
        self.site.connections.max_connections = 3
        connections = [self.connect() for _ in range(3)]
        refused = self.connect()
        self.clock.advance(0)
        self.assertTrue(refused.wire.closed)
        self.assertEqual(self.site.connections.rejected, 1)
        for connection in connections:
            self.check_open(connection)
        connections[0].wire.lose()
        self.check_open(self.connect())

    def test_stop_before_answer(self) -> None:
        """A request that is complete when the server stops, and not begun, does nothing."""
        connection = self.connect()
        connection.wire.protocol.dataReceived(self.request("POST", self.queue("q", "/messages"), {"body": "x"}))
        self.site.stop()
        self.clock.advance(0)
        self.assertTrue(connection.wire.closed)
        self.assertEqual(self.server.broker.queues, {})

    def test_stop(self) -> None:
        """When the server stops, idle connections and readers of events are closed, and nothing is left to do."""
        idle, reader, half = self.connect(), self.connect(), self.connect()
        reader.says(self.request("GET", "/api/v1/events"))
        half.says(b"GET / HT")
        self.site.stop()
        self.clock.advance(0)
        self.assertTrue(idle.wire.closed and reader.wire.closed and half.wire.closed)
        self.assertTrue(reader.rest.endswith(b"0\r\n\r\n"))
        self.successResultOf(self.server.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])


class DeadlineTests(ConnectionTestCase):
    """Nobody holds a connection for ever by doing little."""

    def drip(self, connection: Connection, data: bytes, every: float) -> float:
        """Send byte by byte: when the connection is closed."""
        start = self.clock.seconds()
        for byte in data:
            if connection.wire.closed:
                break
            connection.says(bytes([byte]))
            self.clock.advance(every)
        self.assertTrue(connection.wire.closed)
        return self.clock.seconds() - start

    def test_idle(self) -> None:
        """A connection without a request is closed after a minute, also between two requests."""
        self.assertEqual(self.cut_after(self.connect(), 60), 60)
        connection = self.connect()
        self.clock.advance(50)
        self.check_open(connection)
        self.assertEqual(self.cut_after(connection, 60), 60)
        self.assertEqual(self.site.api.cut_off, {"idle": 2})

    def test_slow_head(self) -> None:
        """A head that drips in is cut off, whatever the drips."""
        self.assertLessEqual(self.drip(self.connect(), self.request("GET", "/livez"), 5), 35)
        self.assertLessEqual(self.drip(self.connect(), b"\r\n" * 100, 5), 35)
        self.assertEqual(self.site.api.cut_off, {"request": 1, "close": 1})

    def test_slow_body(self) -> None:
        """So is a body; one that makes progress is not."""
        connection = self.connect()
        connection.says(self.post("Content-Length: 100000"))
        self.assertLessEqual(self.drip(connection, b" " * 100, 5), 35)
        connection = self.connect()
        connection.says(self.post("Content-Length: 100000"))
        for _ in range(99):
            connection.says(b" " * 1000)
            self.clock.advance(5)
        connection.says(b" " * 984 + b'{"body": "late"}')
        self.assertEqual(connection.hears().status, 201)
        self.check_open(connection)

    def test_unread(self) -> None:
        """Who does not read his answer is cut off; reading a part of it gives more time."""
        message = self.server.broker.publish("q", b"x" * 500_000)
        connection = self.connect()
        connection.wire.stuck = True
        id = self.server.broker.lifecycle.message_id(message.number).decode()
        connection.says(self.request("GET", self.queue("q", f"/messages/{id}/body")))
        for _ in range(3):
            self.clock.advance(50)
            self.assertFalse(connection.wire.closed)
            connection.wire.read()
        self.assertEqual(self.cut_after(connection, 60), 60)
        self.assertEqual(self.site.api.cut_off, {"write": 1})

    def test_unread_and_closing(self) -> None:
        """A connection that is to be closed once the client has read the rest is not kept for ever."""
        connection = self.connect()
        connection.wire.stuck = True
        connection.says(b"GET /livez HTTP/1.0\r\n\r\n")
        self.assertTrue(connection.wire.disconnecting)
        self.assertEqual(self.cut_after(connection, 60), 60)
        self.assertEqual(self.site.api.cut_off, {"write": 1})

    def test_unread_refusal(self) -> None:
        """Nor is one whose client does not close after a refusal."""
        connection = self.connect()
        connection.says(self.post("Content-Length: 9999999999"))
        self.assertEqual(self.cut_after(connection, 5), 5)
        self.assertEqual(self.site.api.cut_off, {"close": 1})

    def test_long_work(self) -> None:
        """An answer may take its time."""
        mirror: Any = self.server.broker.confirms.mirror
        self.patch(mirror, "sync_soon", lambda: None)
        connection = self.connect()
        connection.says(self.request("POST", self.queue("q", "/messages"), {"body": "x", "level": "synced"}))
        self.server.advance(300)
        self.assertFalse(connection.wire.closed)
        mirror._write()
        self.server.settle()
        self.assertEqual(connection.hears().status, 201)


class TwistedTests(WebTestCase):
    """What twisted.web keeps to itself."""

    def test_private_names(self) -> None:
        """Connections and requests use none of its private names, be it by chance: another version may have others."""
        channel = http.HTTPChannel()
        channel.makeConnection(StringTransport())
        for kind, theirs in (HTTPConnection, channel), (Request, http.Request(channel)):
            private = {name for name in dir(theirs) if re.match("_[a-z]", name)}
            self.assertGreater(len(private), 4)
            self.assertEqual(private & {*vars(kind), *re.findall(r"\b_[a-z]\w*", inspect.getsource(kind))}, set())


class WireTests(WebTestCase):
    """The tests' own transport."""

    def test_interfaces(self) -> None:
        """It is what a transport is."""
        wire = Wire(self.clock, "127.0.0.1")
        for interface in ITransport, IPushProducer, IConsumer:
            verifyObject(interface, wire)
