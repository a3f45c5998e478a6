"""The OpenAPI document, and that the API does what it says: every operation, answered with every status that can be brought about."""

from __future__ import annotations

import json
import re
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import validate
from twisted.python.failure import Failure

from phpmq.admin import reactor
from phpmq.admin.http.operations import Operation, codes_of
from phpmq.admin.http.problems import CODES
from phpmq.errors import PHPMQError
from tests.web import ODD, Response, WebTestCase

#: Codes that only a protocol's client or a console can get, as HTTP has no such thing.
_NOT_HERE = {"bad-command", "bad-frame", "unsupported", "unknown-id", "login-required"}


def _state(operation: Operation) -> str:
    """What a query has to have."""
    return "?state=dead" if "state" in operation.required else ""


class DocumentTests(WebTestCase):
    """The document."""

    def setUp(self) -> None:
        """Ask for it."""
        super().setUp()
        self.document = self.ask("GET", "/openapi.json").json
        self.seen: set[tuple[str, str, str]] = set()

    def test_valid(self) -> None:
        """It is OpenAPI."""
        validate(self.document)

    def test_paths(self) -> None:
        """It has the operations that are dispatched, each once; its path parameters are those of the path."""
        described = {(method.upper(), path) for path, methods in self.document["paths"].items() for method in methods}
        self.assertEqual(described, {(operation.method, operation.path) for operation in self.site.api.operations})
        names = [operation["operationId"] for methods in self.document["paths"].values() for operation in methods.values()]
        self.assertEqual(len(names), len(set(names)))
        for path, methods in self.document["paths"].items():
            for operation in methods.values():
                inside = [parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"]
                self.assertEqual(inside, re.findall(r"{(\w+)}", path))

    def test_codes(self) -> None:
        """Every error of the server's has an answer, and every answer belongs to an operation."""

        def kinds(kind: type[PHPMQError]) -> set[str]:
            return {kind.code}.union(*(kinds(each) for each in kind.__subclasses__())) if isinstance(kind.code, str) else set()

        self.assertEqual(kinds(PHPMQError) - _NOT_HERE - set(CODES), set())
        possible = {code for operation in self.site.api.operations for code in codes_of(operation)}
        # This server's engine can do everything.
        self.assertEqual(set(CODES) - possible, {"not-found", "method-not-allowed", "not-supported"})

    # What it says is what happens

    def call(self, status: int, method: str, template: str, *parts: str, query: str = "", value: Any = None, **headers: str) -> Any:
        """See that a request is answered with that status and as the document says: the JSON."""
        path = template
        for part in parts:
            path = re.sub(r"{\w+}", lambda _, part=part: self.queue(part)[len("/api/v1/queues/") :], path, count=1)  # type: ignore[misc]
        response = self.ask(method, path + query, value, headers)
        self.assertEqual(response.status, status, response)
        self.check(method, template, response)
        return response.json if "json" in response.headers["content-type"] else None

    def check(self, method: str, template: str, response: Response) -> None:
        """See that the document has such an answer, and that it fits the schema."""
        answers = self.document["paths"][template][method.lower()]["responses"]
        media = response.headers["content-type"].partition(";")[0]
        content = answers[str(response.status)]["content"][media]
        if "schema" in content:
            schema = {"$ref": content["schema"]["$ref"], "components": self.document["components"]}
            Draft202012Validator(schema).validate(response.json)
        self.seen.add((method, template, str(response.status)))

    def test_operations(self) -> None:
        """Each operation is carried out, with an odd name, and answered as described; each refuses as described."""
        queue, messages, one = "/api/v1/queues/{name}", "/api/v1/queues/{name}/messages", "/api/v1/queues/{name}/messages/{id}"
        for path in "/livez", "/readyz", "/", "/openapi.json", "/api/v1/status":
            self.call(200, "GET", path)
        self.call(201, "PUT", queue, ODD, value={"max_messages": 50, "when_full": "refuse", "lease": 0.5, "dedup": 1.5})
        self.call(200, "PUT", queue, ODD, value={"max_messages": None, "lease": None, "max_attempts": 3})
        id = self.call(201, "POST", messages, ODD, value={"body": "x" * 300, "ttl": 60, "headers": {"a": "é"}, "key": "k"})["id"]
        self.call(200, "POST", messages, ODD, value={"body_base64": "/w==", "key": "k", "level": "synced"})
        self.call(201, "POST", messages, ODD, value={"body_base64": "/w==", "delay": 1.5})
        self.call(201, "POST", messages, ODD, value={"body": ""})
        self.call(200, "GET", queue, ODD)
        self.call(200, "GET", "/api/v1/queues", query="?limit=1&filter=*&sort=-ready&after=")
        self.assertEqual(self.call(200, "GET", one, ODD, id)["body"], "x" * 300)
        self.check_raw(messages, id)
        held = self.hold(ODD, 2)
        for state, count in ("ready", 0), ("delayed", 1), ("in_flight", 2):
            self.assertEqual(len(self.call(200, "GET", messages, ODD, query=f"?state={state}&preview=5")["items"]), count)
        for delivery in held:
            delivery.dead_letter("why")
        self.server.settle()
        self.assertEqual(len(self.call(200, "GET", messages, ODD, query="?state=dead&limit=5")["items"]), 2)
        (client,) = self.call(200, "GET", "/api/v1/clients", query="?filter=*02*")["items"]
        self.call(200, "POST", f"{queue}/replay", ODD, value={"ids": [id], "target": "other"})
        self.call(200, "POST", f"{queue}/move", "other", value={"target": ODD, "count": 1})
        self.call(200, "POST", f"{queue}/pause", ODD, value={"what": "sends"})
        self.call(409, "POST", messages, ODD, value={"body": ""})
        self.call(200, "POST", f"{queue}/resume", ODD)
        self.call(200, "DELETE", messages, ODD, query="?state=dead&reason=rejected&count=5")
        self.call(404, "DELETE", one, ODD, id)
        self.call(200, "POST", f"{queue}/flush", ODD)
        self.call(200, "POST", "/api/v1/flush")
        self.call(200, "DELETE", "/api/v1/clients/{id}", str(client["id"]))
        self.call(404, "DELETE", "/api/v1/clients/{id}", str(client["id"]))
        self.call(200, "DELETE", queue, ODD)
        self.send_letter()
        letter = self.call(200, "GET", messages, "letters", query="?state=dead")["items"][0]["id"]
        self.call(200, "DELETE", one, "letters", letter)
        self.check_events()
        self.refusals()
        described = {
            (method.upper(), path, status)
            for path, methods in self.document["paths"].items()
            for method, operation in methods.items()
            for status in operation["responses"]
        }
        # Those that depend on nothing but the request's frame are tests of their own.
        general = {"403", "406", "413", "415", "431", "500"}
        missing = {(method, path, status) for method, path, status in described - self.seen if status not in general}
        self.assertEqual(missing, set())

    def check_raw(self, messages: str, id: str) -> None:
        """A body is sent and read raw as the document says; its properties are those of the schemas."""
        sending, reading = self.document["paths"][messages]["post"], self.document["paths"][f"{messages}/{{id}}/body"]["get"]
        self.assertEqual(list(sending["requestBody"]["content"]), ["application/json", "application/octet-stream"])
        (sent,) = [one for one in sending["parameters"] if one["in"] == "header"]
        properties = {"ttl": 60, "key": "raw"}
        Draft202012Validator(sent["content"]["application/json"]["schema"]).validate(properties)
        headers = {"Content-Type": "application/octet-stream", sent["name"]: json.dumps(properties)}
        self.call(201, "POST", messages, "raw", value=b"\x00\xff", **headers)
        response = self.ask("GET", self.queue(ODD, f"/messages/{id}/body"))
        self.check("GET", f"{messages}/{{id}}/body", response)
        ((name, header),) = reading["responses"]["200"]["headers"].items()
        schema = {**header["content"]["application/json"]["schema"], "components": self.document["components"]}
        Draft202012Validator(schema).validate(json.loads(response.headers[name.lower()]))

    def send_letter(self) -> None:
        """Have a dead letter."""
        self.client.connection.receivers.clear()
        self.server.advance(2)
        self.send("letters", b"x")
        self.hold("letters", 1)[0].dead_letter()
        self.server.settle()

    def check_events(self) -> None:
        """The first events are as the document says."""
        connection = self.connect()
        connection.says(self.request("GET", "/api/v1/events"))
        text = connection.rest.decode()
        self.assertIn("200 OK", text)
        self.assertIn("Content-Type: text/event-stream\r\n", text)
        self.seen.add(("GET", "/api/v1/events", "200"))
        connection.wire.lose()

    def refusals(self) -> None:
        """Every operation refuses what it cannot understand, what is not there, and, if it changes anything, while the server stops."""
        queue = "/api/v1/queues/{name}"
        templates = [
            (operation, [ODD if part == "{name}" else "7" for part in re.findall(r"{\w+}", operation.path)])
            for operation in self.site.api.operations
        ]
        for operation, parts in templates:
            if "404" in self.document["paths"][operation.path][operation.method.lower()]["responses"]:
                value = {"target": "t"} if operation.required and operation.body else None
                self.call(404, operation.method, operation.path, *parts, query=_state(operation), value=value)
            self.call(400, operation.method, operation.path, *parts, query="?nonsense=1")
        self.call(503, "POST", f"{queue}/messages", "q", value={"body": ""}) if self.fill() else None
        self.server.broker.memory.limit = 2**30
        self.server.send("there", b"x")
        self.patch(reactor, "SLICE", 0.0)
        self.server.service.running = 0
        for path in "/api/v1/queues", "/api/v1/clients", queue, f"{queue}/messages":
            self.call(503, "GET", path, "there")
        for operation, parts in templates:
            if operation.writes:
                self.call(503, operation.method, operation.path, *parts, query=_state(operation))
        self.call(503, "GET", "/readyz")
        self.server.service.running = 1
        readers = [self.connect() for _ in range(self.site.events.most)]
        for reader in readers:
            reader.says(self.request("GET", "/api/v1/events"))
        self.call(503, "GET", "/api/v1/events")
        for reader in readers:
            reader.wire.lose()

    def fill(self) -> bool:
        """Let there be no room."""
        self.server.broker.memory.limit = 1
        return True

    def test_internal(self) -> None:
        """An error of the server's is logged, and its answer tells nothing of it."""

        def fail(_: object) -> None:
            raise RuntimeError("secret")

        self.patch(type(self.admin), "health", fail)
        for _ in range(3):
            response = self.ask("GET", "/readyz")
            self.check_problem(response, 500, "internal")
            self.assertNotIn(b"secret", response.body)
            self.check("GET", "/readyz", response)
        logged: list[Failure] = self.flushLoggedErrors(RuntimeError)
        self.assertEqual(len(logged), 1)
        self.patch(self.site.api.access, "check", lambda *_: fail(None))
        for _ in range(3):
            self.check_problem(self.ask("GET", "/readyz"), 500, "internal")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
