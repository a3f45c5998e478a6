"""The API over HTTP, over a server in memory: what is asked for and what is answered. Its connections are in test_http_connections.py."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogEvent, Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from zope.interface import implementer

from phpmq.admin.http import site
from phpmq.admin.http.connection import Api
from phpmq.admin.http.headers import Access, is_loopback
from phpmq.admin.http.problems import Problem
from phpmq.admin.http.schemas import IDS, TEXT, check, parse_object
from phpmq.errors import BadSetting
from phpmq.interfaces import IMirror
from phpmq.results import as_json
from tests.web import ODD, Response, WebTestCase


@implementer(IMirror)
class SlowDisk:
    """A disk that does nothing for now."""

    failing = False

    def sync_soon(self) -> None:
        """Do not; see L{IMirror}."""


class PathTests(WebTestCase):
    """Names in paths, and methods."""

    def test_names(self) -> None:
        """A name is one part of the path, whatever it holds; it is taken apart before it is decoded."""
        names = [ODD, "a", "b", "a/b", "messages", "flush", "..", "a%2Fb", "+", "ü" * 127, "\u202eabc", "?", "#", "a b"]
        for name in names:
            self.send(name, name.encode())
        for name in names:
            self.assertEqual(self.ask("GET", self.queue(name)).json["name"], name)
            (message,) = self.ask("GET", self.queue(name, "/messages")).json["items"]
            self.assertEqual(message["body"], name)
            self.assertEqual(self.ask("GET", self.queue(name, f"/messages/{message['id']}")).json["body"], name)
        self.assertEqual(sorted(queue["name"] for queue in self.ask("GET", "/api/v1/queues").json["items"]), sorted(names))
        self.assertEqual(self.ask("POST", self.queue("a/b", "/flush")).json, {"queue": "a/b", "removed": 1, "in_flight": 0})
        self.assertEqual(self.ask("GET", self.queue("a")).json["ready"], 1)

    def test_other_forms(self) -> None:
        """Hexadecimal digits may be small, and a client that takes the server for a proxy is answered."""
        self.send("é", b"")
        for path in "/api/v1/queues/%c3%a9", "/api/v1/queues/%C3%A9", "http://localhost/api/v1/queues/%C3%A9":
            self.assertEqual(self.ask("GET", path).json["name"], "é")

    def test_bad_names(self) -> None:
        """What is no name is refused, and makes no queue."""
        self.refused(400, "bad-name", "PUT", "/api/v1/queues/%ff", {})
        self.refused(400, "bad-name", "PUT", "/api/v1/queues/a%0Ab", {})
        self.refused(400, "bad-name", "POST", self.queue("x" * 256, "/pause"))
        self.refused(400, "bad-name", "POST", self.queue("x" * 256, "/messages"), {"body": ""})
        self.refused(400, "bad-request", "GET", "/api/v1/queues/50%")
        self.refused(400, "bad-request", "GET", "/api/v1/queues/%zz")
        self.refused(404, "not-found", "PUT", "/api/v1/queues/", {})
        self.assertEqual(self.server.broker.queues, {})

    def test_nothing_there(self) -> None:
        """A path that leads nowhere, and things that are not there, are 404."""
        self.send("q", b"")
        for path in "/nowhere", "//", "/api/v1/queues/q/", "/api/v1/queues/q/nothing", "/api/v2/status", "/API/v1/status", "*":
            response = self.ask("GET", path)
            self.assertEqual(response.status, 400 if path == "*" else 404, path)
        self.refused(404, "no-such-queue", "GET", self.queue("a\nb"))
        self.refused(404, "no-such-message", "GET", self.queue("q", "/messages/x"))
        for client in "99", "x", "-1", "9" * 30, "²":
            self.refused(404, "no-such-client", "DELETE", self.queue(client).replace("queues", "clients"))

    def test_methods(self) -> None:
        """A method that a path does not have is 405, and Allow names those that it has."""
        for method, path, allowed in (
            ("POST", "/api/v1/status", "GET, HEAD"),
            ("GET", "/api/v1/flush", "POST"),
            ("PATCH", "/api/v1/queues/q", "GET, HEAD, PUT, DELETE"),
            ("OPTIONS", "/api/v1/queues/q/messages", "GET, HEAD, POST, DELETE"),
            ("get", "/livez", "GET, HEAD"),
        ):
            response = self.ask(method, path)
            self.check_problem(response, 405, "method-not-allowed")
            self.assertEqual(response.headers["allow"], allowed)

    def test_head(self) -> None:
        """HEAD is GET without the body."""
        self.send("q", b"x" * 9000)
        for path in (
            "/",
            "/livez",
            "/readyz",
            "/openapi.json",
            "/api/v1/status",
            "/api/v1/queues",
            "/api/v1/queues/q",
            "/nowhere",
            "/api/v1/events",
        ):
            head = self.ask("HEAD", path)
            self.assertEqual(head.body, b"")
            if path != "/api/v1/events":
                get = self.ask("GET", path)
                self.assertEqual((head.status, _undated(head)), (get.status, _undated(get)), path)
        self.assertEqual(self.ask("HEAD", "/api/v1/events").status, 200)
        self.assertEqual(self.site.events.readers, {})
        self.assertEqual(self.ask("HEAD", "/api/v1/flush").status, 405)

    def test_safe(self) -> None:
        """Every answer has the headers that keep it from caches, frames and other sites."""
        for response in self.ask("GET", "/"), self.ask("GET", "/livez"), self.ask("GET", "/nowhere"), self.ask("POST", "/api/v1/flush"):
            for name, value in {"x-content-type-options": "nosniff", "cache-control": "no-store", "x-frame-options": "DENY"}.items():
                self.assertEqual(response.headers[name], value)
            self.assertIn("default-src 'none'", response.headers["content-security-policy"])
            self.assertIn("frame-ancestors 'none'", response.headers["content-security-policy"])

    def test_overview(self) -> None:
        """Who comes with a browser finds links that lead somewhere."""
        page = self.ask("GET", "/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
        self.assertEqual(page.headers["content-type"], "text/html; charset=utf-8")
        links = re.findall(r'href="([^"]+)"', page.body.decode())
        self.assertIn("/api/v1/status", links)
        for link in links:
            self.assertEqual(self.ask("HEAD", link).status, 200, link)


class ParameterTests(WebTestCase):
    """Parameters, bodies and types."""

    def test_lists(self) -> None:
        """Lists are filtered, sorted and come in pages."""
        for name in "jobs.1", "jobs.2", "jobs 3", "other":
            self.send(name, *[b""] * len(name))
        names: list[str] = []
        after = ""
        while after is not None:
            page = self.ask("GET", f"/api/v1/queues?filter=jobs*&limit=1&after={after.replace(' ', '+')}").json
            names += [queue["name"] for queue in page["items"]]
            after = page["next"]
        self.assertEqual(names, ["jobs 3", "jobs.1", "jobs.2"])
        self.assertEqual(self.ask("GET", "/api/v1/queues?sort=ready&limit=1").json["items"][0]["name"], "other")
        self.assertEqual(len(self.ask("GET", self.queue("other", "/messages?limit=3")).json["items"]), 3)

    def test_bad_parameters(self) -> None:
        """What is no parameter, or has no such value, or is there twice, is refused."""
        self.send("q", b"")
        for query in (
            "limit=0",
            "limit=1001",
            "limit=x",
            "limit=",
            "limit=1&limit=2",
            "colour=1",
            "limit=1.0",
            "limit=-1",
            "limit=%C2%B2",
            "filter=" + "x" * 256,
            "sort=colour",
        ):
            self.refused(400, "bad-setting", "GET", f"/api/v1/queues?{query}")
        for query in "state=asleep", "preview=65537", "after=x", "after=" + "9" * 5000:
            self.refused(400, "bad-setting", "GET", self.queue("q", f"/messages?{query}"))
        self.refused(400, "bad-setting", "GET", "/livez?x")
        self.refused(400, "bad-setting", "DELETE", self.queue("q", "/messages"))
        self.refused(400, "bad-setting", "DELETE", self.queue("q", "/messages?state=ready"))
        self.refused(400, "bad-request", "GET", "/api/v1/queues?filter=%ff")
        self.refused(400, "bad-request", "GET", "/api/v1/queues?filter=%")
        self.refused(400, "bad-request", "GET", "/api/v1/queues?" + "x=1&" * 30)
        self.assertEqual(self.ask("GET", "/api/v1/queues?").status, 200)

    def test_bad_bodies(self) -> None:
        """What is no JSON object is refused, and does nothing."""
        for body in (
            *(b"{", b"[]", b'"x"', b"null", b"{}{}", b'{"body": NaN}', b'{"body": "a\nb"}', b"\xff", b'{"body": "\xff"}', b"{" * 100_000),
            *(
                b'{"body": "x", "body": "y"}',
                b"\xef\xbb\xbf{}",
                b'{"body" "x"}',
                b'{"a":1,}',
            ),
            *(b'{"ttl": 01}', b'{"ttl": +1}', b'{"ttl": ' + b"9" * 5000 + b"}", b"{'body': 'x'}"),
        ):
            self.refused(400, "bad-request", "POST", self.queue("q", "/messages"), body)
        self.assertEqual(self.server.broker.queues, {})

    def test_bad_fields(self) -> None:
        """A field that there is not, or with a value that it cannot have, is refused."""
        values: tuple[dict[str, Any], ...] = (
            {},
            {"body": "x", "body_base64": "eA=="},
            {"body": 1},
            {"body": None},
            {"body": "x", "colour": "red"},
            {"body": "\ud800"},
            {"body": "x", "ttl": -1},
            {"body": "x", "ttl": "1"},
            {"body": "x", "ttl": True},
            {"body": "x", "ttl": 1e13},
            {"body": "x", "delay": None},
            {"body": "x", "headers": {"a": 1}},
            {"body": "x", "headers": ["a"]},
            {"body": "x", "headers": {"a": {}}},
            {"body": "x", "headers": [[]]},
            {"body": [[]]},
            {"body": "x", "headers": {"\udfff": ""}},
            {"body": "x", "key": ""},
            {"body": "x", "key": "\ud800"},
            {"body": "x", "level": "sure"},
            {"body": "x", "level": True},
            {"body_base64": "x"},
            {"body_base64": "eA==eA=="},
            {"body_base64": "é"},
            {"body_base64": "eA\n=="},
        )
        for value in values:
            self.refused(400, "bad-setting", "POST", self.queue("q", "/messages"), value)
        for settings in (
            {"lease": "1"},
            {"max_messages": 1.5},
            {"max_messages": -1},
            {"when_full": "cry"},
            {"colour": 1},
            {"max_bytes": 2**53},
        ):
            self.refused(400, "bad-setting", "PUT", self.queue("q"), settings)
        self.refused(400, "bad-setting", "POST", self.queue("q", "/pause"), {"what": ["all"]})
        self.refused(400, "bad-setting", "POST", self.queue("q", "/flush"), {"what": "all"})
        self.refused(400, "bad-setting", "POST", self.queue("q", "/move"), {})
        self.refused(400, "bad-setting", "POST", self.queue("q", "/replay"), {"count": 0})
        self.assertEqual(self.server.broker.queues, {})

    def test_numbers(self) -> None:
        """A whole number may be written with a point."""
        self.assertEqual(self.ask("PUT", self.queue("q"), b'{"max_messages": 5.0}').json["settings"]["max_messages"], 5)
        self.assertIsInstance(self.server.broker.queues["q"].settings.max_messages, int)

    def test_types(self) -> None:
        """A body is JSON and says so: a form of another site's page is none."""
        path = self.queue("q", "/messages")
        for kind in "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonp", "":
            self.refused(415, "unsupported-media-type", "POST", path, {"body": "x"}, {"Content-Type": kind})
        self.refused(415, "unsupported-media-type", "POST", path, {"body": "x"}, {"Content-Type": "application/json; charset=latin-1"})
        self.refused(415, "unsupported-media-type", "POST", path, {"body": "x"}, {"Content-Encoding": "gzip"})
        self.assertEqual(self.server.broker.queues, {})
        for kind in "application/json; charset=UTF-8", "Application/JSON", 'application/json;charset="utf-8"':
            self.assertEqual(self.ask("POST", path, {"body": "x"}, {"Content-Type": kind}).status, 201)
        self.refused(400, "bad-request", "GET", "/api/v1/status", {})
        self.assertEqual(self.ask("POST", "/api/v1/flush", {}).status, 200)

    def test_accept(self) -> None:
        """Who takes no JSON is told so."""
        for accept in "text/html", "application/json;q=0", "application/xml, text/*", "application/json;q=0, */*", "":
            self.refused(406, "not-acceptable", "GET", "/api/v1/status", None, {"Accept": accept})
        for accept in (
            "*/*",
            "application/*",
            "text/html, application/json;q=0.1",
            "application/json",
            "text/html, */*;q=0.8",
            "APPLICATION/JSON",
        ):
            self.assertEqual(self.ask("GET", "/api/v1/status", None, {"Accept": accept}).status, 200)


class MessageTests(WebTestCase):
    """Sending and looking."""

    def post(self, value: Any, queue: str = "q") -> Response:
        """Send a message."""
        return self.ask("POST", self.queue(queue, "/messages"), value)

    def test_send(self) -> None:
        """A message arrives as it was sent, and the answer is its receipt."""
        response = self.post({"body": "é <b>", "headers": {"a": "ü"}, "key": "k", "ttl": 5, "level": "synced"}, ODD)
        self.assertEqual((response.status, response.json["duplicate"]), (201, False))
        self.assertEqual(response.headers["location"], self.queue(ODD, f"/messages/{response.json['id']}"))
        again = self.post({"body_base64": "AA==", "key": "k"}, ODD)
        self.assertEqual((again.status, again.json), (200, {"id": response.json["id"], "duplicate": True}))
        delivery = self.hold(ODD, 1)[0]
        self.assertEqual((delivery.body, delivery.headers), ("é <b>".encode(), {"a": "ü"}))

    def test_bytes(self) -> None:
        """What is no text goes both ways as base64, of any length."""
        self.send("q", b"")
        for length in 0, 1, 2, 3, 9_999, 10_000:
            body = bytes(range(256)) * 40
            response = self.post({"body_base64": base64.b64encode(body[:length]).decode()})
            self.assertEqual(response.status, 201)
            found = self.ask("GET", self.queue("q", f"/messages/{response.json['id']}")).json
            self.assertEqual(base64.b64decode(found["body_base64"]) if length > 128 else found["body"].encode(), body[:length])

    def test_long_base64(self) -> None:
        """Base64 is decoded whatever its length, if it is whole."""
        for length in range(20):
            response = self.post({"body_base64": base64.b64encode(bytes(range(200, 200 + length))).decode()}, f"q{length}")
            self.assertEqual(response.status, 201)
            self.assertEqual(self.server.bodies(f"q{length}"), [bytes(range(200, 200 + length))])
        for text in "AAAAAA==AAAA", "AAAAAAA=AAAA", "AAAAAAAA=", "AAAAAAAAA":
            self.check_problem(self.post({"body_base64": text}), 400, "bad-setting")

    def test_refusals(self) -> None:
        """Each refusal has a status of its own kind."""
        self.check_problem(self.post({"body": "x" * 10_001}), 413, "too-large")
        self.check_problem(self.post({"body": "x", "key": "k" * 256}), 413, "too-large")
        self.ask("PUT", self.queue("q"), {"max_messages": 1})
        self.post({"body": "x"})
        self.check_problem(self.post({"body": "x"}), 409, "queue-full")
        mirror = SlowDisk()
        mirror.failing = True
        self.server.broker.confirms.mirror = mirror
        self.check_problem(self.post({"body": "x", "level": "synced"}, "r"), 503, "disk-failing")
        self.server.broker.confirms.mirror = None
        self.check_problem(self.post({"body": "x", "level": "synced"}, "r"), 403, "not-allowed")
        self.server.broker.memory.limit = 1
        response = self.post({"body": "x"}, "r")
        self.check_problem(response, 503, "memory-full")
        self.assertEqual(response.headers["retry-after"], "1")
        self.assertEqual(self.server.bodies("r"), [])
        self.assertEqual(len(self.server.broker.lifecycle.channels), 1)

    def test_synced(self) -> None:
        """A synced send is answered once it is on the disk, no earlier."""
        self.server.broker.confirms.mirror = SlowDisk()
        connection = self.connect()
        connection.says(self.request("POST", self.queue("q", "/messages"), {"body": "x", "level": "synced"}))
        self.server.advance(100)
        self.assertEqual(connection.rest, b"")
        store: Any = self.server.service.engine.store
        store.changelog.confirm(store.changelog.extract(10, 1000, {}))
        self.server.broker.synced()
        self.server.settle()
        self.assertEqual(connection.hears().status, 201)

    def test_hung_up(self) -> None:
        """Whoever hangs up while a send waits for the disk leaves nothing behind but the message."""
        self.server.broker.confirms.mirror = SlowDisk()
        channels = len(self.server.broker.lifecycle.channels)
        connection = self.connect()
        connection.says(self.request("POST", self.queue("q", "/messages"), {"body": "x", "level": "synced"}))
        self.assertEqual(len(self.server.broker.lifecycle.channels), channels + 1)
        connection.wire.lose()
        self.assertEqual((len(self.server.broker.lifecycle.channels), len(self.site.connections.open)), (channels, 0))
        store: Any = self.server.service.engine.store
        store.changelog.confirm(store.changelog.extract(10, 1000, {}))
        self.server.broker.synced()
        self.server.settle()
        self.assertEqual(self.server.bodies("q"), [b"x"])

    def test_begun(self) -> None:
        """Work that takes several turns is finished, also when the client does not wait for it."""
        for _ in range(5000):
            self.server.broker.publish("from", b"x")
        connection = self.connect()
        connection.wire.protocol.dataReceived(self.request("POST", self.queue("from", "/move"), {"target": "to"}))
        self.turn()
        self.assertTrue(self.server.bodies("from"))
        connection.wire.lose()
        self.server.settle()
        self.assertEqual((self.server.bodies("from"), len(self.server.bodies("to"))), ([], 5000))

    def test_peek(self) -> None:
        """Looking changes nothing."""
        self.send(ODD, b"1", b"2")
        before = self.admin.queues.status(ODD)
        for path in "", "/messages", "/messages?state=in_flight&limit=1":
            self.assertEqual(self.ask("GET", self.queue(ODD, path)).status, 200)
        self.assertEqual(self.admin.queues.status(ODD), before)
        self.assertEqual(self.ask("GET", self.queue(ODD)).json, {**as_json(before), "consuming": []})
        self.assertEqual([queue["name"] for queue in self.ask("GET", "/api/v1/queues").json["items"]], [ODD])

    def test_dead_letters_of_nothing(self) -> None:
        """What is about dead letters of a queue that is not there, and has none, is no success."""
        self.refused(404, "no-such-queue", "POST", self.queue("none", "/replay"), {})
        self.refused(404, "no-such-queue", "POST", self.queue("none", "/replay"), {"target": "q", "ids": ["0" * 32]})
        self.refused(404, "no-such-queue", "DELETE", self.queue("none", "/messages?state=dead"))
        self.refused(404, "no-such-queue", "DELETE", self.queue("none", "/messages/" + "0" * 32))
        self.assertEqual(self.server.broker.queues, {})
        self.send("q", b"x")
        self.assertEqual(self.ask("POST", self.queue("q", "/replay"), {}).json["replayed"], 0)
        self.assertEqual(self.ask("DELETE", self.queue("q", "/messages?state=dead")).json["deleted"], 0)
        self.refused(404, "no-such-message", "DELETE", self.queue("q", "/messages/" + "0" * 32))

    def test_flush(self) -> None:
        """The answer is what really happened."""
        self.send(ODD, *[b"x"] * 10)
        held = self.hold(ODD, 3)
        self.assertEqual(self.ask("POST", self.queue(ODD, "/flush")).json, {"queue": ODD, "removed": 7, "in_flight": 3})
        settled = [delivery.ack() for delivery in held]
        self.server.settle()
        self.assertEqual([self.successResultOf(one) for one in settled], [True] * 3)

    def test_draining(self) -> None:
        """While the server stops it still tells, and changes nothing."""
        self.send("q", b"x")
        self.server.service.running = 0
        self.refused(503, "draining", "POST", self.queue("q", "/flush"))
        self.refused(503, "draining", "POST", self.queue("q", "/messages"), {"body": "y"})
        self.assertEqual(self.ask("GET", "/api/v1/status").json["state"], "draining")
        ready = self.ask("GET", "/readyz")
        self.assertEqual(
            (ready.status, ready.json), (503, {"ready": False, "checks": {"running": "the server is about to stop", "memory": "ok"}})
        )
        self.assertEqual(self.ask("GET", "/livez").status, 200)
        self.assertEqual(self.server.bodies("q"), [b"x"])


class RawTests(WebTestCase):
    """Bodies of messages as they are."""

    def post(self, body: bytes, properties: Any = None, **headers: str) -> Response:
        """Send a message."""
        fields = {"Content-Type": "application/octet-stream", **headers}
        if properties is not None:
            fields["Phpmq-Message"] = properties if isinstance(properties, str) else json.dumps(properties, ensure_ascii=False)
        return self.ask("POST", self.queue(ODD, "/messages"), body, fields)

    def test_send(self) -> None:
        """The body is the request's, and its properties are in a header: what they mean is what they mean in JSON."""
        response = self.post(bytes(range(256)), {"headers": {"é": "ü"}, "key": "k", "ttl": 5, "level": "synced"})
        self.assertEqual((response.status, response.json["duplicate"]), (201, False))
        self.assertEqual(response.headers["location"], self.queue(ODD, f"/messages/{response.json['id']}"))
        again = self.post(b"other", {"key": "k"})
        self.assertEqual((again.status, again.json), (200, {"id": response.json["id"], "duplicate": True}))
        self.assertEqual(self.post(b"", {"delay": 9}).status, 201)
        self.assertEqual(self.ask("GET", self.queue(ODD)).json["delayed"], 1)
        delivery = self.hold(ODD, 1)[0]
        self.assertEqual((delivery.body, delivery.headers), (bytes(range(256)), {"é": "ü"}))

    def test_any(self) -> None:
        """A body may have any bytes, or none, with its length announced or not."""
        bodies = b"", b"{}", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\r\n0\r\n", bytes(10_000)
        for body in bodies:
            id = self.post(body).json["id"]
            self.assertEqual(self.ask("GET", self.queue(ODD, f"/messages/{id}/body")).body, body)
            chunks = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
            self.assertEqual(self.post(chunks, **{"Transfer-Encoding": "chunked"}).status, 201)
        self.assertEqual(self.server.bodies(ODD), [body for body in bodies for _ in range(2)])

    def test_read(self) -> None:
        """What is known of a message comes in a header: that is the message as JSON, without its body."""
        self.post(b"\x00\xff", {"headers": {"a\x7f": "\r\nü"}, "key": "k", "ttl": 5})
        (listed,) = self.ask("GET", self.queue(ODD, "/messages")).json["items"]
        response = self.ask("GET", self.queue(ODD, f"/messages/{listed['id']}/body"))
        self.assertEqual((response.body, response.headers["content-type"]), (b"\x00\xff", "application/octet-stream"))
        self.assertNotIn("\x7f", response.headers["phpmq-message"])
        del listed["body_base64"]
        self.assertEqual(json.loads(response.headers["phpmq-message"]), listed)
        self.hold(ODD, 1)[0].dead_letter("why")
        self.server.settle()
        dead = self.ask("HEAD", self.queue(ODD, f"/messages/{listed['id']}/body"))
        self.assertEqual((json.loads(dead.headers["phpmq-message"])["text"], dead.headers["content-length"], dead.body), ("why", "2", b""))
        self.refused(404, "no-such-message", "GET", self.queue(ODD, "/messages/" + "0" * 32 + "/body"))
        self.refused(
            406, "not-acceptable", "GET", self.queue(ODD, f"/messages/{listed['id']}/body"), headers={"Accept": "application/json"}
        )

    def test_refusals(self) -> None:
        """Properties that no message can have are refused, and a body is raw only where a message is sent."""
        for properties in "", "[]", "{", '{"ttl": 1, "ttl": 2}', "\xff":
            self.check_problem(self.post(b"x", properties), 400, "bad-request")
        for value in {"ttl": -1}, {"colour": "red"}, {"body": "x"}, {"key": ""}, {"headers": {"a": 1}}:
            self.check_problem(self.post(b"x", value), 400, "bad-setting")
        self.check_problem(self.post(b"x", {"headers": {"a": "x" * 9000}}), 413, "too-large")
        self.check_problem(self.post(b"x", **{"Content-Encoding": "gzip"}), 415, "unsupported-media-type")
        self.check_problem(self.post(b'{"body": "x"}', {"ttl": 1}, **{"Content-Type": "application/json"}), 400, "bad-request")
        self.refused(415, "unsupported-media-type", "PUT", self.queue("q"), b"{}", {"Content-Type": "application/octet-stream"})
        self.assertEqual(self.server.broker.queues, {})

    def test_limits(self) -> None:
        """A raw body may be as long as a message's, one of JSON 256 KiB: then the answer names the raw way."""
        self.check_problem(self.post(bytes(10_001)), 413, "too-large")
        path = self.queue("q", "/messages")
        text = b'{"body": "x"}'.ljust(256 * 1024)
        self.assertEqual(self.ask("POST", path, text).status, 201)
        problem = self.refused(413, "too-large", "POST", path, text + b" ")
        for part in "262144", "application/octet-stream", "Phpmq-Message":
            self.assertIn(part, problem["detail"])
        problem = self.refused(413, "too-large", "PUT", self.queue("q"), b" " * (256 * 1024 + 1))
        self.assertNotIn("octet", problem["detail"])


class LongTests(WebTestCase):
    """Long answers."""

    def setUp(self) -> None:
        """Have a long message, and a client that does not read."""
        super().setUp()
        self.text = "ä\n\U0001f600" * 100_000
        message = self.server.broker.publish("q", self.text.encode())
        self.message_id = self.server.broker.lifecycle.message_id(message.number).decode()
        self.path = self.queue("q", f"/messages/{self.message_id}/body")

    def test_whole(self) -> None:
        """A long body arrives whole."""
        self.assertEqual(self.ask("GET", self.path).body, self.text.encode())
        self.assertEqual(self.ask("HEAD", self.path).body, b"")

    def test_truncated(self) -> None:
        """JSON has 256 KiB of it, cut between two characters, and says where all of it is."""
        response = self.ask("GET", self.queue("q", f"/messages/{self.message_id}"))
        message = response.json
        self.assertEqual((message["truncated"], message["size"]), (True, len(self.text.encode())))
        self.assertTrue(self.text.startswith(message["body"]))
        self.assertLess(256 * 1024 - len(message["body"].encode()), 4)
        self.assertEqual(response.headers["link"], f'<{self.path}>; rel="alternate"; type="application/octet-stream"')
        for size in 256 * 1024, 256 * 1024 + 1:
            number = self.server.broker.publish("q", b"\xff" * size).number
            path = self.queue("q", "/messages/" + self.server.broker.lifecycle.message_id(number).decode())
            message = self.ask("GET", path).json
            self.assertEqual((message["truncated"], len(base64.b64decode(message["body_base64"]))), (size > 256 * 1024, 256 * 1024))

    def test_slow(self) -> None:
        """It is made as the client takes it, a little at a time."""
        connection = self.connect()
        connection.wire.stuck = True
        connection.says(self.request("GET", self.path))
        got = b""
        while data := connection.wire.read():
            self.assertLess(len(data), 1024 * 1024)
            got += data
        connection._got = got
        self.assertEqual(connection.hears().body, self.text.encode())
        connection.says(self.request("GET", "/livez"))
        self.assertEqual(connection.hears().status, 200)

    def test_hung_up(self) -> None:
        """Who hangs up in the middle is no trouble."""
        connection = self.connect()
        connection.wire.stuck = True
        connection.says(self.request("GET", self.path))
        connection.wire.lose()
        self.server.settle()
        self.assertEqual(self.site.connections.open, {})
        self.assertEqual(self.ask("GET", "/livez").status, 200)

    def test_page(self) -> None:
        """A long list is written in pieces as well, with its length."""
        for number in range(500):
            self.server.broker.publish(f"queue {number}", b"")
        connection = self.connect()
        connection.wire.stuck = True
        connection.says(self.request("GET", "/api/v1/queues?limit=1000"))
        got = b""
        while data := connection.wire.read():
            self.assertLess(len(data), 256 * 1024)
            got += data
        connection._got = got
        page = connection.hears()
        self.assertEqual((len(page.json["items"]), int(page.headers["content-length"])), (501, len(page.body)))


class AccessTests(WebTestCase):
    """Pages of other sites, in the operator's browser."""

    def setUp(self) -> None:
        """Note what is logged."""
        super().setUp()
        self.events: list[LogEvent] = []
        self.patch(Api, "_log", Logger("test", observer=self.events.append))  # type: ignore[arg-type]  # a plain function

    def test_hosts(self) -> None:
        """A request for a name that is not the server's is refused: that is how DNS rebinding looks."""
        for host in (
            *("localhost", "LOCALHOST:1", "localhost.", "127.0.0.1:9180", "127.1.2.3", "[::1]:9180", "[::ffff:127.0.0.1]", "mq.example:80"),
            *("MQ.example.", "queue.localhost"),
        ):
            self.assertEqual(self.ask("GET", "/livez", None, {"Host": host}).status, 200, host)
        for host in (
            *("evil.example", "evil.example:9180", "10.0.0.1", "[fe80::1]", "localhost.evil.example", "mq.example.evil", "a@localhost", ""),
            *("localhost:9180:80", "127.0.0.1.evil.example", "0x7f000001", "xn--lcalhost-8cb", "loc\u0430lhost"),
        ):
            self.refused(403, "foreign-host", "GET", "/livez", None, {"Host": host})
        self.refused(403, "foreign-host", "GET", "http://evil.example/livez")

    def test_own_address(self) -> None:
        """The address at which a request arrives is the server's."""
        for host, status in (("10.0.0.5:9180", 200), ("10.0.0.6:9180", 403), ("localhost", 200)):
            connection = self.connect("10.0.0.5")
            connection.says(self.request("GET", "/livez", None, {"Host": host}))
            self.assertEqual(connection.hears().status, status)

    def test_origins(self) -> None:
        """A request that another site's page makes is refused; the server's own pages may."""
        for origin in (
            *(
                "http://evil.example",
                "null",
                "http://localhost",
                "http://localhost:3000",
                "https://localhost:9180",
                "file://",
                "",
                "localhost:9180",
            ),
            "http://localhost:9180/x",
        ):
            expected = 200 if origin == "https://localhost:9180" else 403
            for method, path in ("POST", "/api/v1/flush"), ("GET", "/api/v1/status"):
                self.assertEqual(self.ask(method, path, None, {"Origin": origin}).status, expected, origin)
        for origin in "http://localhost:9180", "http://mq.example", "https://mq.example", "https://mq.example:8443":
            self.assertEqual(self.ask("POST", "/api/v1/flush", None, {"Origin": origin}).status, 200, origin)
        self.assertEqual(self.ask("POST", "/api/v1/flush", None, {"Host": "mq.example", "Origin": "http://mq.example:80"}).status, 200)

    def test_log(self) -> None:
        """Refusals are logged once a minute, and what the client said cannot forge a line."""
        for _ in range(5):
            self.refused(403, "foreign-host", "GET", "/livez", None, {"Host": "evil\x1b[31m\u2028" + "x" * 500})
        (line,) = map(formatEvent, self.events)
        self.assertIn("--http-host", line)
        self.assertNotRegex(line, "[\x00-\x1f\x80-\x9f\u2028]")
        self.assertLess(len(line), 600)
        self.clock.advance(61)
        self.refused(403, "foreign-host", "GET", "/livez", None, {"Host": "evil"})
        self.assertEqual(len(self.events), 2)
        self.ask("GET", "/nowhere")
        self.ask("GET", "/livez")
        self.assertEqual(len(self.events), 2)

    def test_unix_socket(self) -> None:
        """No browser reaches a unix socket, so its Host is not looked at."""
        Access().check("whatever", None, object(), False)
        self.assertRaises(Problem, Access().check, "whatever", "http://evil.example", object(), False)

    def test_loopback(self) -> None:
        """What only this machine reaches."""
        for host in "127.0.0.1", "127.255.0.1", "::1", "::ffff:127.0.0.1", "localhost", "a.localhost":
            self.assertTrue(is_loopback(host), host)
        for host in "0.0.0.0", "::", "10.0.0.1", "", "localhost.example", "127.0.0.1.example", "::ffff:10.0.0.1":
            self.assertFalse(is_loopback(host), host)


class MountTests(WebTestCase):
    """What only may be there, and what must not cost anything."""

    def test_metrics(self) -> None:
        """Metrics are served where that part is installed, and are in the document then."""

        class Metrics(Resource):
            isLeaf = True  # the name that twisted.web dictates

            def render_GET(self, request: Any) -> bytes:  # likewise
                request.setHeader("Content-Type", "text/plain; version=0.0.4")
                return b"up 1\n"

        self.patch(site, "_metrics", lambda admin: Metrics())
        self.site.open(self.admin)
        response = self.ask("GET", "/metrics?name%5B%5D=x", None, {"Accept": "application/openmetrics-text"})
        self.assertEqual((response.body, response.headers["content-type"]), (b"up 1\n", "text/plain; version=0.0.4"))
        self.assertEqual(self.ask("HEAD", "/metrics").body, b"")
        self.assertIn("/metrics", self.ask("GET", "/openapi.json").json["paths"])
        self.refused(403, "foreign-host", "GET", "/metrics", None, {"Host": "evil.example"})
        self.patch(site, "_metrics", lambda admin: None)
        self.site.open(self.admin)
        self.refused(404, "not-found", "GET", "/metrics")

    def test_livez(self) -> None:
        """Whether the process answers has nothing to do with queues and files."""
        self.site.api.admin = None  # type: ignore[assignment]
        self.assertEqual(self.ask("GET", "/livez").json, {"status": "ok"})


_PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-(10**15), 10**15), st.floats(allow_nan=False, allow_infinity=False), st.text())


def _undated(response: Response) -> dict[str, str]:
    """An answer's headers without the second in which it was made."""
    return {name: value for name, value in response.headers.items() if name != "date"}


class ObjectTests(SynchronousTestCase):
    """L{parse_object}"""

    @given(
        st.dictionaries(st.text(), _PLAIN | st.dictionaries(st.text(), _PLAIN) | st.lists(_PLAIN)),
        st.booleans(),
        st.sampled_from([None, 1]),
    )
    def test_same(self, value: dict[str, Any], ascii: bool, indent: int | None) -> None:
        """An object is read as the standard library does."""
        text = json.dumps(value, ensure_ascii=ascii, indent=indent)
        self.assertEqual(parse_object(text.encode("utf-8", "surrogatepass")) if ascii else parse_object(text.encode()), json.loads(text))

    @given(st.text('{}[]":,\\u0dtrue19.e- \n', max_size=20))
    def test_no_json(self, text: str) -> None:
        """What it takes, the standard library takes as well, with the same value."""
        try:
            value = parse_object(text.encode())
        except ValueError:
            return
        self.assertEqual(value, json.loads(text))

    def test_deep(self) -> None:
        """What is nested however deeply is refused, and does no harm."""
        for depth in 10, 900, 5_000, 100_000:
            try:
                value = parse_object(b'{"a":' + b"[" * depth + b"]" * depth + b"}")
            except ValueError:
                self.assertGreater(depth, 100)
            else:
                self.assertRaises(BadSetting, check, "a", value["a"], TEXT)
                self.assertRaises(BadSetting, check, "a", value["a"], IDS)
