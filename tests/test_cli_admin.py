"""Tests of the way from the command to the HTTP API, in memory: addresses, requests, pages, and all that can go wrong between."""

from __future__ import annotations

import tempfile
from base64 import b64decode
from errno import ECONNREFUSED
from typing import Any

from treq.testing import RequestTraversalAgent
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionRefusedError, DNSLookupError
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseNeverReceived
from twisted.web.iweb import IAgent
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from phpmq.addresses import parse_api_address
from phpmq.cli.admin import queues, views
from phpmq.cli.admin.api import Api, Refused
from phpmq.cli.admin.queues import flush_question
from phpmq.cli.admin.run import carry_out
from phpmq.cli.admin.transport import lost
from phpmq.cli.exit_codes import Exit, Failed
from phpmq.cli.output import Report
from phpmq.cli.stdio import Output
from tests.verbs import VerbTestCase, work_of
from tests.web import ODD

flush, show_status = work_of(queues.flush), work_of(views.status)

NAMES = [ODD, ".", "..", "a/b", "a%2Fb", "?", "#", "+", "a b", "ü" * 127, "\u202eabc", "flush", "*"]


class ApiTests(VerbTestCase):
    """L{phpmq.cli.admin.api}, against the real API."""

    def test_names(self) -> None:
        """A name gets there whatever it holds."""
        for name in NAMES:
            self.send(name, b"x")
            self.assertEqual(self.done(self.api().get("look", "queues", name))["name"], name)
            self.assertEqual(self.done(self.api().post("flush", "queues", name, "flush"))["removed"], 1)
            self.assertEqual(self.done(self.api().put("set", "queues", name, fields={"lease": 5}))["settings"]["lease"], 5)
            page = self.done(self.api().get("list", "queues", filter=name, sort="name", after=None))
            self.assertIn(name, [queue["name"] for queue in page["items"]])
            self.assertEqual(self.done(self.api().delete("delete", "queues", name))["queue"], name)
        self.assertEqual(self.server.broker.queues, {})

    def test_literal(self) -> None:
        """An IPv6 address is one, with a path and a login as well."""
        self.send("//localhost", b"x")
        for where in "[::1]:9180", "http://[::1]", "http://a:b@[::1]:9180/":
            found = self.done(self.api(where=where).get("look", "queues", "//localhost"))
            self.assertEqual(found["name"], "//localhost")
        error = self.failed(self.api(where="http://[2001:db8::1]:9180").get("look", "status"))
        self.assertIn("this server is not called '[2001:db8::1]:9180'", error.sentence)

    def test_request(self) -> None:
        """A host that is not ASCII is asked by its IDNA name, a path in percent encoding, and a login is sent as it is."""
        asked: list[Any] = []

        @implementer(IAgent)
        class Recorder:
            def request(self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None) -> Deferred[Any]:  # noqa: N803
                asked.extend((method, uri, headers, bodyProducer))
                return fail(ConnectionRefusedError(ECONNREFUSED))

        api = Api(self.clock, parse_api_address("https://us%3Aer:pä@müller.example:81/ü%20"), 30, Recorder())
        self.failed(api.get("look", "queues", "a/é", filter="ü*"))
        method, url, headers, body = asked
        self.assertEqual((method, body), (b"GET", None))
        self.assertEqual(url, b"https://xn--mller-kva.example:81/%C3%BC%20/api/v1/queues/a%2F%C3%A9?filter=%C3%BC%2A")
        login = headers.getRawHeaders("Authorization")[0].removeprefix("Basic ")
        self.assertEqual(b64decode(login).decode(), "us:er:pä")

    def test_pages(self) -> None:
        """Pages are asked for as they are wanted, to the end or so many items."""
        for number in range(7):
            self.send(f"q{number}", b"x")
        asked: list[int] = []

        async def take(stop: int, **more: Any) -> list[str]:
            found: list[str] = []
            async for page in self.api().pages("list", "queues", **more):
                asked.append(len(page))
                found += [queue["name"] for queue in page]
                if len(asked) == stop:
                    break
            return found

        names = [f"q{number}" for number in range(7)]
        for stop, more, found, sizes in (
            (99, {"page": 3}, names, [3, 3, 1]),
            (99, {"page": 3, "most": 5}, names[:5], [3, 2]),
            (99, {"page": 3, "most": 3, "sort": "-name"}, names[:3:-1], [3]),
            (2, {"page": 2}, names[:4], [2, 2]),
            (99, {"filter": "none*"}, [], [0]),
        ):
            asked.clear()
            self.assertEqual((self.done(take(stop, **more)), asked), (found, sizes))

    def test_refusals(self) -> None:
        """A problem is a sentence with what to try, and its exit code."""
        error = self.failed(self.api().post("flush nope", "queues", "nope", "flush"))
        assert isinstance(error, Refused)
        self.assertEqual((error.code, error.error, error.reason), (Exit.FAILED, "no-such-queue", "there is no queue 'nope'"))
        self.assertEqual(error.sentence, "cannot flush nope: there is no queue 'nope'; phpmq queues lists those that there are")
        error = self.failed(self.api(where="http://evil.example").get("look", "status"))
        self.assertEqual(error.code, Exit.NOT_ALLOWED)
        self.assertIn("evil.example", error.sentence)
        self.assertEqual(self.failed(self.api().get("look", "nothing")).code, Exit.FAILED)
        self.assertIn("--api", self.failed(self.api().get("look", "status", wants=("wings",))).sentence)

    def test_refused_connection(self) -> None:
        """Nobody there is exit code 69."""
        self.endpoint.reachable = False
        error = self.failed(self.api().get("look", "status"))
        self.assertEqual(error.code, Exit.UNREACHABLE)
        self.assertRegex(error.sentence, r"^cannot reach http://localhost:9180: connection refused; see that phpmq is running")

    def test_cut(self) -> None:
        """A connection that is lost before the answer is exit code 69; what would change something may have."""
        for work, doubt in ((self.api().get("look", "status"), False), (self.api().post("flush all", "flush"), True)):
            result = Deferred.fromCoroutine(work)
            for channel in list(self.site.connections.open):
                channel.abort()
            self.endpoint.pumps[-1].client.connectionLost(Failure(ConnectionAborted()))
            error = self.failureResultOf(result, Failed).value
            assert isinstance(error, Failed)
            self.assertEqual(error.code, Exit.UNREACHABLE)
            self.assertEqual("may have done it" in error.sentence, doubt)


class Page(Resource):
    """
    What some other site answers.

    @ivar cut: requests that are never answered
    """

    isLeaf = True

    def __init__(self, status: int, media: str, content: bytes | None) -> None:
        super().__init__()
        self._status, self._media, self._content = status, media, content

    def render(self, request: Request) -> Any:
        """See L{Resource}."""
        request.setResponseCode(self._status)
        request.setHeader("Content-Type", self._media)
        if self._content is None:
            return NOT_DONE_YET
        return self._content


class ForeignTests(SynchronousTestCase):
    """What is at an address, and is no phpmq."""

    def api(self, status: int, media: str, content: bytes | None, clock: Clock | None = None) -> Api:
        """What asks such a site."""
        self.agent = RequestTraversalAgent(Page(status, media, content))
        return Api(clock or Clock(), parse_api_address("http://mq.example"), 5, self.agent)

    def ask(self, status: int, media: str, content: bytes | None, clock: Clock | None = None, most: int = 1000) -> Deferred[Any]:
        """Ask it."""
        result = Deferred.fromCoroutine(self.api(status, media, content, clock).get("ask", "status", most=most))
        self.agent.flush()
        return result

    def refused(self, status: int, media: str, content: bytes) -> Failed:
        """How that fails."""
        error = self.failureResultOf(self.ask(status, media, content), Failed).value
        assert isinstance(error, Failed)
        return error

    def test_foreign(self) -> None:
        """It is said what it is instead, and what to do."""
        for status, media, content, code, text in (
            (200, "text/html; charset=utf-8", b"<html>", 69, "is no phpmq API, it answers with HTTP 200, text/html; name another --api"),
            (200, "application/json", b"[1]", 69, "is no phpmq API"),
            (200, "application/json", b"{", 69, "is no phpmq API"),
            (200, "application/json", b"[" * 900, 69, "is no phpmq API"),
            (404, "text/plain", b"", 69, "HTTP 404"),
            (404, "application/problem+json", b'{"title": "x"}', 69, "HTTP 404"),
            (302, "text/html", b"", 69, "elsewhere"),
            (401, "text/html", b"", 77, "wants a login"),
            (403, "text/html", b"", 77, "forbids it"),
            (502, "text/html", b"", 69, "does not reach the server"),
            (404, "application/problem+json", b'{"code": "mq.example", "detail": null}', 1, "cannot ask: mq.example"),
            (503, "application/problem+json", b'{"code": "draining", "detail": "the server is about to stop"}', 1, "try again"),
        ):
            error = self.refused(status, media, content)
            self.assertEqual(error.code, code, error)
            self.assertIn(text, error.sentence)
            self.assertIn("mq.example" if text != "try again" else "about to stop", error.sentence)

    def test_strange(self) -> None:
        """An answer whose members are missing, or of another type, is no error of the command."""
        for content in b'{"messages": null, "connections": {}, "alarms": []}', b'{"messages": 1, "connections": "", "alarms": 0}':
            api = self.api(200, "application/json", content)
            with tempfile.TemporaryFile() as file:
                output = Output(Clock(), file.fileno())
                result = Deferred.fromCoroutine(carry_out(api, Report(output), show_status))
                self.agent.flush()
                error = self.failureResultOf(result, Failed).value
            assert isinstance(error, Failed)
            self.assertEqual(error.code, Exit.UNREACHABLE)
            self.assertRegex(error.sentence, r"^http://mq.example does not answer as phpmq's API does \(\w+: .+\); see that --api")

    def test_endless(self) -> None:
        """Pages that lead to themselves are no list."""
        api = self.api(200, "application/json", b'{"items": [], "next": "q"}')

        async def take() -> None:
            async for _ in api.pages("list", "queues"):
                pass

        result = Deferred.fromCoroutine(take())
        for _ in range(3):
            self.agent.flush()
        error = self.failureResultOf(result, Failed).value
        assert isinstance(error, Failed)
        self.assertEqual(error.code, Exit.UNREACHABLE)

    def test_too_long(self) -> None:
        """An answer that is longer than it may be is not read to its end."""
        self.assertIn("more than", self.refused(200, "application/json", b"x" * 1001).sentence)
        self.assertEqual(self.successResultOf(self.ask(200, "application/json", b'{"a": "%s"}' % (b"x" * 900))), {"a": "x" * 900})

    def test_too_late(self) -> None:
        """What is not answered in time is exit code 75, and what is cancelled is cancelled; nothing ticks on."""
        clock = Clock()
        result = self.ask(200, "application/json", None, clock)
        clock.advance(4.9)
        self.assertNoResult(result)
        clock.advance(0.1)
        error = self.failureResultOf(result, Failed).value
        assert isinstance(error, Failed)
        self.assertEqual(error.code, Exit.TIMED_OUT)
        self.assertEqual(error.sentence, "cannot ask: http://mq.example does not answer within 5 s; --timeout is for more")
        result = self.ask(200, "application/json", None, clock)
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_never_complete(self) -> None:
        """An answer that begins in time and does not end in time is not read further."""
        requests: list[Request] = []

        class Slow(Resource):
            isLeaf = True

            def render(self, request: Request) -> Any:
                """See L{Resource}."""
                request.write(b"{")
                requests.append(request)
                return NOT_DONE_YET

        clock, agent = Clock(), RequestTraversalAgent(Slow())
        result = Deferred.fromCoroutine(Api(clock, parse_api_address("http://mq.example"), 5, agent).get("ask", "status"))
        agent.flush()
        clock.advance(5)
        error = self.failureResultOf(result, Failed).value
        assert isinstance(error, Failed)
        self.assertEqual(error.code, Exit.TIMED_OUT)
        ended = requests[0].notifyFinish()
        requests[0].write(b" ")
        agent.flush()
        self.failureResultOf(ended)

    def test_lost(self) -> None:
        """What Twisted says of a connection is a sentence of ours."""
        place = parse_api_address("https://mq.example")
        untrusted = ResponseNeverReceived([Failure(Exception("[('SSL routines', '', 'certificate verify failed')]"))])
        plain = ResponseNeverReceived([Failure(Exception("[('SSL routines', '', 'wrong version number')]"))])
        for error, code, text in (
            (UnicodeError("Empty Label"), 69, "no host can have that name"),
            (DNSLookupError("no results for hostname lookup: mq.example"), 69, "DNS lookup failed"),
            (ConnectError(2, "?"), 69, "no such file or directory"),
            (ConnectError(13, "?"), 77, "permission denied"),
            (untrusted, 69, "not trusted"),
            (plain, 69, "http:// is without"),
        ):
            failure = lost(place, "ask", error, "")
            assert isinstance(failure, Failed)
            self.assertEqual(failure.code, code)
            self.assertIn(text, failure.sentence)


class StatusTests(VerbTestCase):
    """C{phpmq status}."""

    def test_status(self) -> None:
        """It shows what the API says, as lines or as it is."""
        self.send("q", b"12345", b"x")
        code, text = self.verb(show_status)
        self.assertEqual(code, 0)
        self.assertRegex(text, r"\Aphpmq \S+, running, up 0 s\nmessages  2 ready, 0 delayed, 0 in flight, 0 dead; 6 B wait\n")
        self.assertIn("\nfile      none: the messages are in memory only\n", text)
        self.assertNotIn("ALARM", text)
        code, (document,) = self.objects(show_status)
        self.assertEqual((code, document["messages"]["ready"]), (0, 2))

    def test_alarm(self) -> None:
        """Alarms are at the end."""
        self.send("q", b"12345")
        self.server.broker.memory.limit = 1
        self.assertTrue(self.verb(show_status)[1].endswith("\nALARM     memory: the memory limit is reached\n"))


class FlushTests(VerbTestCase):
    """C{phpmq flush}."""

    def flush(self, *names: str) -> tuple[int, str]:
        """Flush queues; all without names."""
        return self.verb(lambda api, report: flush(api, report, names, everything=not names, dry_run=False, yes=True))

    def test_flush(self) -> None:
        """Each queue is answered with what happened; those that failed make it a part."""
        self.send("a", b"1", b"2", b"3")
        self.send(ODD, b"1")
        self.hold("a", 1)
        code, text = self.flush("a", "nope", ODD)
        self.assertEqual(code, Exit.PARTLY)
        self.assertEqual(text, f"a: 2 messages removed, 1 in flight left to their consumers\n{ODD}: 1 message removed\n")
        self.assertEqual(self.notes, ["cannot flush nope: there is no queue 'nope'; phpmq queues lists those that there are"])
        self.assertEqual(self.flush("nope")[0], Exit.FAILED)
        self.assertEqual(self.server.left(ODD), 0)

    def test_json(self) -> None:
        """As JSON there is a line for each, also for those that failed."""
        self.send("a", b"1")
        code, lines = self.objects(lambda api, report: flush(api, report, ("a", "nope"), everything=False, dry_run=False, yes=True))
        self.assertEqual(code, Exit.PARTLY)
        self.assertEqual(
            lines,
            [
                {"queue": "a", "removed": 1, "in_flight": 0},
                {"queue": "nope", "error": "no-such-queue", "reason": "there is no queue 'nope'"},
            ],
        )

    def test_all(self) -> None:
        """All queues are one request."""
        self.send("a", b"1")
        self.send("b", b"1", b"2")
        question = self.done(flush_question(self.api(), ()))
        self.assertEqual(question, "Remove 3 messages from all 2 queues?")
        self.assertEqual(self.flush(), (0, "3 messages removed from 2 queues\n"))

    def test_dry(self) -> None:
        """What would be removed is shown, and stays."""
        self.send("a", b"1", b"2")
        self.send("b", b"1")
        self.send("c", b"1")
        self.hold("c", 1)
        count = {"a": 2, "b": 1}
        lines = "".join(f"{name}: {number} message{'s'[: number - 1]} would be removed\n" for name, number in count.items())
        self.assertEqual(self.verb(lambda api, report: flush(api, report, (), everything=True, dry_run=True, yes=False)), (0, lines))
        self.assertEqual(
            self.verb(lambda api, report: flush(api, report, ("a", "nope"), everything=False, dry_run=True, yes=False))[0], Exit.PARTLY
        )
        self.assertEqual([self.server.left(name) for name in "abc"], [2, 1, 1])

    def test_unreachable(self) -> None:
        """Where one cannot be reached the others are not tried."""
        self.endpoint.reachable = False
        self.assertEqual(self.flush("a", "b", "c"), (Exit.UNREACHABLE, ""))
        self.assertEqual(len(self.notes), 2)
        self.assertEqual(self.notes[1], "2 more queues not tried")
