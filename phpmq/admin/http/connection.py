"""
Connections and their requests: what a client may send before it is refused, how long it may take, and how it is answered.

twisted.web keeps a request's body until it is complete, whatever its length, then parses forms, and gives no deadline to a client that
sends a byte now and then. Here a request is looked at once its headers are there, the body is counted as it comes, and both have deadlines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from http import HTTPStatus
from inspect import isawaitable
from typing import Any
from urllib.parse import parse_qsl

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from zope.interface import directlyProvides, providedBy

from phpmq.admin.admin import Admin
from phpmq.admin.http.headers import Access, accepts, media_type, path_parts, target
from phpmq.admin.http.operations import JSON, JSON_LIMIT, PROPERTIES_HEADER, RAW, Answer, Operation, find
from phpmq.admin.http.problems import CODES, Problem
from phpmq.admin.http.schemas import PROPERTIES, check, parse, parse_object
from phpmq.errors import BadSetting, PHPMQError
from phpmq.operators import steps_of
from phpmq.ports import Connections, LogLimiter
from phpmq.results import has_lists, json_bytes, json_parts

#: Bytes of the request line and the headers together.
HEADERS_LIMIT = 16 * 1024

#: Why a connection is cut off: a deadline of L{phpmq.ports} is missed, or too much is sent ahead of the answers or behind a refusal.
CUTS = "idle", "request", "write", "close", "ahead", "refused"

# A request makes progress when so many bytes of it came.
_PROGRESS = 4096

# How much any client may send ahead of an answer, and a refused one behind the refusal. twisted.web stops reading earlier, but not while
# the client does not read.
_EXCESS_BYTES = {"ahead": 256 * 1024, "refused": 64 * 1024 * 1024}

# A longer answer is written in pieces of this size, as the client takes them.
_PIECE = 64 * 1024

# Headers of every answer. Nothing here is for other sites' pages, for frames, or to be kept by a cache.
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Api:
    """
    What all connections have in common; C{admin}, C{operations} and C{served} are set before the first one is accepted.

    @ivar excess: how many connections were cut off for one of the last two of L{CUTS}
    @ivar problems: code -> how many requests were answered with that problem
    @ivar served: id of an operation that is none of the admin's -> what answers it
    """

    _log = Logger()
    admin: Admin
    operations: Sequence[Operation]
    served: Mapping[str, Callable[[Request], None]]

    def __init__(self, reactor: Any, access: Access, connections: Connections[HTTPConnection]) -> None:
        self.reactor, self.access, self.connections = reactor, access, connections
        self.problems: Counter[str] = Counter()
        self.excess: Counter[str] = Counter()
        self._limiter = LogLimiter(reactor)

    @property
    def cut_off(self) -> dict[str, int]:
        """How many connections were cut off, by one of L{CUTS}."""
        return {**self.connections.timeouts, **self.excess}

    def problem_of(self, what: str, error: Exception) -> Problem:
        """Return the answer to a request that failed; what no client should do or meet is logged, once a minute."""
        if isinstance(error, Problem):
            if error.status == HTTPStatus.FORBIDDEN and (left_out := self._limiter.admit(error.code)) is not None:
                line = "HTTP: a request is refused: {problem} ({left_out} more since the last line)"
                self._log.warn(line, problem=str(error), left_out=left_out)
            return error
        if isinstance(error, PHPMQError):
            return Problem(error.code if error.code in CODES else "internal", str(error))
        if self._limiter.admit(f"{what} {type(error)}") is not None:
            self._log.failure("HTTP: {what} failed", Failure(error), what=what)
        return Problem("internal", "an error of the server; its log has more")


class Request(http.Request):
    """One request, whose body may have C{limit} bytes; C{problem} is why it is refused."""

    channel: HTTPConnection

    def __init__(self, channel: HTTPConnection, *_: object) -> None:
        super().__init__(channel)
        # Until its headers are there.
        self.method, self.uri, self.clientproto = b"GET", b"/", b"HTTP/1.1"
        self.limit = JSON_LIMIT
        self.problem: Problem | None = None
        self._api = channel.api
        self._operation: Operation
        self._arguments: dict[str, Any] = {}
        self._raw = False
        # It grows in place, and its memory goes back to the system when it is done.
        self._body = bytearray()
        self._size = 0
        self._work: Deferred[None] | None = None
        self._unwritten = b"", 0  # a long answer, and where to go on

    # Headers

    def parseCookies(self) -> None:
        """Ignore cookies."""

    def gotLength(self, length: int | None) -> None:
        """Decide, now that all headers are there, whether the request may be answered and its body is wanted."""
        self.method, self.uri, self.clientproto = self.channel.request_line.split()
        try:
            self._open(length)
        except Exception as error:
            self.problem = self._api.problem_of("reading a request's headers", error)
        if length is not None and length > self.limit:
            self.channel.refuse(self._too_large(length))
        elif self.problem is not None and length != 0 and self.getHeader(b"expect") is not None:
            self.channel.refuse(self.problem)

    def header(self, name: str) -> str | None:
        """Return the value of a header, or raise L{Problem} if it is there twice."""
        values = self.requestHeaders.getRawHeaders(name.encode("ascii"), [])
        if len(values) > 1:
            raise Problem("bad-request", f"the header {name} is there {len(values)} times")
        return values[0].decode("latin-1") if values else None

    def _open(self, length: int | None) -> None:
        api = self._api
        if self.clientproto not in (b"HTTP/1.0", b"HTTP/1.1"):
            self.clientproto = b"HTTP/1.1"
            raise Problem("bad-request", "the server speaks HTTP 1.1")
        host = self.header("Host")
        if host is None and self.clientproto == b"HTTP/1.1":
            raise Problem("bad-request", "the header Host is missing")
        authority, path, query = target(self.uri)
        api.access.check(authority or host, self.header("Origin"), self.getHost(), self.isSecure())
        self._operation, names = operation, _ = find(api.operations, self.method.decode("latin-1"), path_parts(path))
        if not operation.free and not accepts(self.header("Accept"), operation.media):
            raise Problem("not-acceptable", f"the answer is {operation.media}")
        self._open_body(operation, length)
        self._arguments.update(names, **self._parameters(operation, query))
        if operation.writes and not api.admin.server.running:
            raise Problem("draining", "the server is about to stop")

    def _open_body(self, operation: Operation, length: int | None) -> None:
        """Decide by the type of the body what it is, and how long it may be."""
        media = media_type(self.header("Content-Type"), self.header("Content-Encoding")) if operation.body is not None else ""
        self._raw = operation.raw and media == RAW
        if length != 0:
            if operation.body is None:
                raise Problem("bad-request", "this takes no body")
            # What is too much also when there is no other body is not refused as if it were worth to try again.
            most = self._api.admin.server.settings.max_message_size if self._raw else JSON_LIMIT
            self.limit = min(most, self._api.connections.max_held)
            if media != JSON and not self._raw:
                types = f"{JSON}, in UTF-8," + (f" or {RAW}," if operation.raw else "")
                raise Problem("unsupported-media-type", f"a body is {types} not compressed")
        if operation.raw and (text := self.header(PROPERTIES_HEADER)) is not None:
            if not self._raw:
                raise Problem("bad-request", f"{PROPERTIES_HEADER} goes with a body that is {RAW}; in JSON there are fields")
            self._arguments = self._checked("field", _parsed(text.encode("latin-1"), PROPERTIES_HEADER).items(), PROPERTIES)

    def _parameters(self, operation: Operation, query: str) -> dict[str, Any]:
        if operation.free:
            return {}
        try:
            pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=20)
        except ValueError:
            raise Problem("bad-request", "the query is not UTF-8, or has more than 20 parameters") from None
        known = operation.query
        return self._checked("parameter", ((name, parse(text, known.get(name, {}))) for name, text in pairs), known)

    def _checked(self, what: str, values: Iterable[tuple[str, Any]], known: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in values:
            if name not in known:
                raise BadSetting(f"there is no {what} {name!r:.100}" + (f", only {', '.join(known)}" if known else " here"))
            if name in found:
                raise BadSetting(f"the {what} {name} is there twice")
            found[name] = check(name, value, known[name])
        for name in known:
            if name in self._operation.required and name not in found:
                raise BadSetting(f"the {what} {name} is missing")
        return found

    # Body

    def handleContentChunk(self, data: bytes) -> None:
        """Keep a part of the body, unless there is too much of it; twisted.web would write a temporary file."""
        if self.finished:
            return  # It is refused already.
        channel = self.channel
        self._size += len(data)
        if self._size > self.limit:
            channel.refuse(self._too_large(self._size))
        elif self.problem is None:
            if self._api.connections.account(channel, channel.held + len(data)):
                self._body += data
            else:
                channel.refuse(Problem("too-many-bodies", "the bodies of all requests take too much memory"))

    def _too_large(self, size: int) -> Problem:
        if self.problem is not None:
            return self.problem
        hint = f" for JSON: send the message's body as it is, as {RAW}, with its properties in the header {PROPERTIES_HEADER}"
        limit = f"the limit is {self.limit}{hint if self._operation.raw and not self._raw else ''}"
        return Problem("too-large", f"a body of {size} bytes or more, {limit}")

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Wait until the connection calls L{run}; twisted.web would parse forms."""

    def _fields(self) -> dict[str, Any]:
        content, self._body = self._body, bytearray()
        if self._raw:
            return {"body": bytes(content)}
        operation = self._operation
        fields = self._checked("field", _parsed(content, "the body").items() if content else (), operation.body or {})
        if operation.one_of and sum(name in fields for name in operation.one_of) != 1:
            raise BadSetting(f"either {' or '.join(operation.one_of)} has to be there")
        return fields

    # Answer

    def run(self) -> None:
        """Carry out the request, which is complete."""
        if self.problem is not None:
            self.refuse(self.problem)
        else:
            self._work = Deferred.fromCoroutine(self._run())

    async def _run(self) -> None:
        """Carry out the operation. Catches everything. A long list is made in time slices."""
        operation, admin = self._operation, self._api.admin
        try:
            if operation.call is None:
                self._api.served[operation.id](self)
                return
            result = operation.call(admin, **self._arguments, **self._fields())
            result = await result if isawaitable(result) else result
            answer = result if isinstance(result, Answer) else Answer(200, result)
            content = value = answer.value
            if not isinstance(value, bytes):
                parts = await admin.work.run(steps_of(bytes, json_parts(value))) if has_lists(value) else [json_bytes(value)]
                content = b"".join([*parts, b"\n"])
            self.answer(answer.status, content, operation.media, answer.headers)
        except CancelledError:
            pass  # The client is gone.
        except Exception as error:
            self.refuse(self._api.problem_of(operation.id, error))

    def refuse(self, problem: Problem) -> None:
        """Answer with an error."""
        self._body = bytearray()
        if not self.startedWriting:
            self._api.problems[problem.code] += 1
            content = json_bytes(problem.document()) + b"\n"
            self.answer(problem.status, content, "application/problem+json", problem.headers)

    def answer(self, status: int, content: bytes, media: str, headers: Mapping[str, str] | None = None) -> None:
        """Answer with bytes, which are written as the client takes them."""
        if self.channel is None:
            return  # The client is gone.
        self.begin(status, media, {**(headers or {}), "Content-Length": str(len(content))})
        if len(content) > _PIECE and self.method != b"HEAD":
            self._unwritten = content, 0
            self.resume()
        else:
            self.write(content)
            self.finish()

    def resume(self) -> None:
        """Write more of a long answer, as the client takes it: neither memory nor other clients are to suffer from it."""
        content, place = self._unwritten
        self._unwritten = b"", 0  # what is written may lead here again
        while place < len(content) and self.channel is not None and not self.channel.choked:
            self.write(content[place : place + _PIECE])
            place += _PIECE
            if place >= len(content) and self.channel is not None:
                self.finish()
                return
        self._unwritten = content, place

    def begin(self, status: int, media: str, headers: Mapping[str, str] | None = None) -> None:
        """Set all headers of the answer."""
        self.setResponseCode(status, HTTPStatus(status).phrase.encode("ascii"))
        self.setHeader("Date", http.datetimeToString().decode("ascii"))
        self.setHeader("Content-Type", f"{media}; charset=utf-8" if media == "text/html" else media)
        for name, value in {**_HEADERS, **(headers or {})}.items():
            self.setHeader(name, value)
        if not self.channel.persistent:
            self.setHeader("Connection", "close")

    def connectionLost(self, reason: Failure) -> None:
        """Give up work whose answer nobody gets, unless it changes something."""
        super().connectionLost(reason)
        if self._work is not None and (self._operation.abandoned or not self._operation.writes):
            self._work.cancel()


def _parsed(content: bytes | bytearray, what: str) -> dict[str, Any]:
    try:
        return parse_object(content)
    except ValueError as error:
        raise Problem("bad-request", f"{what} is no JSON object: {error}"[:300]) from None


class State(Enum):
    """The life of a connection. Requests take it from each of the first three states to the next one, and back to the first."""

    IDLE = "the next request is waited for"
    READING = "a request has begun to come"
    ANSWERING = "a request is complete; what the client sends ahead waits"
    REFUSED = "a request is answered that is not read to its end; nothing more of the client is understood"
    CLOSING = "the connection is being closed"


_IDLE, _READING, _ANSWERING, _REFUSED, _CLOSING = State


class _ChannelTransport:
    """
    A connection's transport, of which twisted.web itself writes only interim answers and refusals without a body; a problem document is
    made of these.
    """

    def __init__(self, transport: Any, refuse: Callable[[Problem], None]) -> None:
        directlyProvides(self, providedBy(transport))
        self.transport = transport
        self._refuse = refuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: bytes) -> None:
        """Write an interim answer."""
        if data.startswith(b"HTTP/1.1 100 "):
            self.transport.write(data)
        else:
            self._refuse(Problem("bad-request", "the server does not understand this request"))


class HTTPConnection(http.HTTPChannel):
    """One client's connection; it is C{choked} while the client has not read what was written."""

    maxHeaders = 100
    totalHeadersSize = HEADERS_LIMIT
    transport: Any
    requestFactory = Request  # type: ignore[assignment]  # a class is a factory, too

    def __init__(self, api: Api) -> None:
        super().__init__()
        self.api, self._connections = api, api.connections
        self.held = 0  # bytes of the request's body
        self.request_line = b""
        self._state = _IDLE
        self._progress = self._head_bytes = self._head_lines = 0
        self._excess: Counter[str] = Counter()
        self.choked = False
        self._complete: Request | None = None
        self._next: IDelayedCall | None = None

    # What comes

    def makeConnection(self, transport: Any) -> None:
        """Connect twisted.web to the transport."""
        super().makeConnection(_ChannelTransport(transport, self.refuse))

    def connectionMade(self) -> None:
        """Wait for a request."""
        super().connectionMade()
        self._connections.add(self)
        self._expect("idle")

    def _expect(self, kind: str) -> None:
        """Set the deadline of what the client has to send; none if the kind is empty."""
        for other in "idle", "request":
            self._connections.clear_deadline(self, other)
        if kind:
            self._connections.set_deadline(self, kind)

    def dataReceived(self, data: bytes) -> None:
        """Count what comes, so that a client that drips is not taken for one that sends."""
        if self._state in (_REFUSED, _CLOSING):
            self._count_excess("refused", data)
            return
        if self._state is _ANSWERING:
            if self._count_excess("ahead", data):
                return
        else:
            self._progress += len(data)
            if self._state is _IDLE or self._progress >= _PROGRESS:
                self._state, self._progress = _READING, 0
                self._expect("request")
        super().dataReceived(data)

    def _count_excess(self, kind: str, data: bytes) -> bool:
        """Count what a client should not send yet; cut it off if it is too much."""
        self._excess[kind] += len(data)
        if self._excess[kind] <= _EXCESS_BYTES[kind]:
            return False
        self.api.excess[kind] += 1
        self.abort()
        return True

    def lineReceived(self, line: bytes) -> None:
        """Take a line of a request's head."""
        if self._state in (_REFUSED, _CLOSING):
            return
        self._head_bytes += len(line)
        self._head_lines += 1
        if self._head_bytes > HEADERS_LIMIT or self._head_lines > self.maxHeaders + 2:
            self.lineLengthExceeded(line)
            return
        if not self.requests:
            self.request_line = line
        super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a line that is longer than all headers may be, or one too many."""
        limits = f"{HEADERS_LIMIT} bytes, or there are more than {self.maxHeaders} headers"
        self.refuse(Problem("headers-too-large", f"the request line and headers have more than {limits}"))

    def allContentReceived(self) -> None:
        """Answer the request, which is complete, in the next reactor turn: one after the other, however many a client sends ahead."""
        if self._state in (_REFUSED, _CLOSING):
            return
        self._state = _ANSWERING
        self._expect("")
        self._head_bytes = self._head_lines = 0
        self._complete = self.requests[-1]
        super().allContentReceived()
        self._answer_soon()

    def _answer_soon(self) -> None:
        """Answer the complete request, but not before the client has read the answers to earlier ones."""
        if self._complete is not None and not self.choked and self._next is None:
            self._next = self.api.reactor.callLater(0, self._answer)

    def _answer(self) -> None:
        self._next = None
        if self._complete is not None and not self.choked:
            request, self._complete = self._complete, None
            self._excess["ahead"] = 0
            request.run()

    # Answers

    def write(self, data: bytes) -> None:
        """Write what a request answers."""
        self.transport.transport.write(data)

    def requestDone(self, request: Any) -> None:
        """Go on with the next request: the answer is written."""
        self._connections.account(self, 0)
        if self._state is _ANSWERING and self.persistent:
            self._state = _IDLE
            self._expect("idle")
        super().requestDone(request)
        if self.choked and self._state is not _CLOSING:
            self.transport.pauseProducing()

    def pauseProducing(self) -> None:
        """Set a deadline for a client that reads slowly."""
        if not self.choked:
            self.choked = True
            self._connections.set_deadline(self, "write")
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """Go on: the client has read what it was sent."""
        self.choked = False
        self._connections.clear_deadline(self, "write")
        super().resumeProducing()
        for request in self.requests[:1]:
            request.resume()
        self._answer_soon()

    # The end

    def refuse(self, problem: Problem) -> None:
        """Answer a request that is not read to its end, and close."""
        if self._state in (_REFUSED, _CLOSING):
            return
        self._state = _REFUSED
        self.persistent = False
        self.clearLineBuffer()
        self.requests = self.requests or [Request(self)]
        self.requests[-1].refuse(problem)

    def loseConnection(self) -> None:
        """Close; if there is something unread, only once the client had time to read the answer."""
        if self._state is _CLOSING:
            return
        refused, self._state = self._state is _REFUSED, _CLOSING
        self._complete = None
        self._expect("")
        if refused:
            self._connections.close(self, linger=True)
        else:
            super().loseConnection()
            self._connections.set_deadline(self, "write")

    def miss_deadline(self, kind: str) -> None:
        """Close at once; see L{phpmq.ports.Connection}."""
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Let go of everything."""
        self._state = _CLOSING
        self._complete = None
        self._connections.remove(self)
        if self._next is not None:
            self._next.cancel()
        super().connectionLost(reason)
