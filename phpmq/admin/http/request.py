"""One request: what its headers say, its body, and its answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from inspect import isawaitable
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web import http

from phpmq.admin.http.answers import HEADERS, Pieces, grouped, has_lists, is_long, plain, slices_of
from phpmq.admin.http.flat import Reader
from phpmq.admin.http.headers import accepts, is_json, path_parts, target
from phpmq.admin.http.operations import BODY_LIMIT, Answer, Operation
from phpmq.admin.http.problems import Problem, problem_of
from phpmq.admin.http.schemas import check, parse
from phpmq.admin.pieces import PIECE, pieces_of, text_of
from phpmq.errors import BadSetting, PHPMQError
from phpmq.operators import steps_of

if TYPE_CHECKING:
    from phpmq.admin.http.channel import Channel
    from phpmq.admin.http.site import Site

# From here on parsing a body is worth to be done in steps, with others' turns in between.
_LARGE = 1024 * 1024


class Request(http.Request):
    """
    One request.

    @ivar known: whether its headers were complete
    @ivar problem: why it is refused
    @ivar limit: how many bytes its body may have
    """

    channel: Channel

    def __init__(self, channel: Channel, *_: object) -> None:
        super().__init__(channel)
        self.known = False
        self.problem: Problem | None = None
        self.limit = BODY_LIMIT
        self._site: Site = channel.site
        self._operation: Operation
        self._arguments: dict[str, Any] = {}
        # It grows in place, and its memory goes back to the system when it is done.
        self._body = bytearray()
        self._size = 0
        self._work: Deferred[None] | None = None

    # Headers

    def opened(self, method: bytes, uri: bytes, version: bytes) -> None:
        """The headers are complete: decide what they ask for, and whether they may."""
        self.known = True
        self.method, self.uri, self.clientproto = method, uri, version
        try:
            self._open()
        except Problem as problem:
            self.problem = problem
            if problem.status == HTTPStatus.FORBIDDEN:
                self._site.warn(problem.code, "HTTP: a request is refused: {problem}", problem=str(problem))
        except PHPMQError as error:
            self.problem = problem_of(error)
        except Exception:
            self._site.failed("reading a request's headers", Failure())
            self.problem = Problem("internal", "an error of the server; its log has more")

    def header(self, name: str) -> str | None:
        """
        A header.

        @raise Problem: it is there twice
        """
        values = self.requestHeaders.getRawHeaders(name.encode("ascii"), [])
        if len(values) > 1:
            raise Problem("bad-request", f"the header {name} is there {len(values)} times")
        return values[0].decode("latin-1") if values else None

    def _open(self) -> None:
        site = self._site
        if self.clientproto not in (b"HTTP/1.0", b"HTTP/1.1"):
            self.clientproto = b"HTTP/1.1"
            raise Problem("bad-request", "the server speaks HTTP 1.1")
        host = self.header("Host")
        if host is None and self.clientproto == b"HTTP/1.1":
            raise Problem("bad-request", "the header Host is missing")
        authority, path, query = target(self.uri)
        site.access.check(authority or host, self.header("Origin"), self.getHost(), self.isSecure())
        self._operation, names = operation, _ = site.routes.find(self.method.decode("latin-1"), path_parts(path))
        if not operation.free and not accepts(self.header("Accept"), operation.media):
            raise Problem("not-acceptable", f"the answer is {operation.media}")
        if self.channel.length != 0:
            if operation.body is None:
                raise Problem("bad-request", "this takes no body")
            # What is too much also when there is no other body is not refused as if it were worth to try again.
            self.limit = min(operation.body_limit(site.admin.server.max_message_size), site.max_held)
            if not is_json(self.header("Content-Type"), self.header("Content-Encoding")):
                raise Problem("unsupported-media-type", "a body is application/json, in UTF-8, not compressed")
        self._arguments = {**names, **self._parameters(query)}
        if operation.writes and not site.admin.server.running:
            raise Problem("draining", "the server is about to stop")

    def _parameters(self, query: str) -> dict[str, Any]:
        """
        The parameters.

        @raise BadSetting: there is no such parameter, or it cannot have that value
        """
        if self._operation.free:
            return {}
        try:
            pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=20)
        except ValueError:
            raise Problem("bad-request", "the query is not UTF-8, or has more than 20 parameters") from None
        known = self._operation.query
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

    def parseCookies(self) -> None:
        """There are none."""

    def gotLength(self, length: int | None) -> None:
        """The body is kept in pieces: twisted.web would write a temporary file."""

    def handleContentChunk(self, data: bytes) -> None:
        """A part of the body came: keep it unless there is too much of it."""
        self._size += len(data)
        if self._size > self.limit:
            self.channel.refuse(self.too_large(self._size))
        elif self.problem is None:
            if self.channel.keep(len(data)):
                self._body += data
            else:
                self.channel.refuse(Problem("too-many-bodies", "the bodies of all requests take too much memory"))

    def forget(self) -> None:
        """What is there of its body is not wanted any more: the connection may outlast it."""
        self._body = bytearray()

    def too_large(self, size: int) -> Problem:
        """Why its body is not read to its end."""
        return self.problem or Problem("too-large", f"a body of {size} bytes or more, the limit is {self.limit}")

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """All is there: do it."""
        if self.problem is not None:
            self.refuse(self.problem)
        else:
            self._work = Deferred.fromCoroutine(self._do())

    async def _fields(self) -> dict[str, Any]:
        content, self._body = self._body, bytearray()
        if not content:
            fields: dict[str, Any] = {}
        else:
            try:
                text = content.decode()
                del content
                await self._breathe(text)
                fields = Reader(text).read()
                await self._breathe(text)
            except ValueError as error:
                raise Problem("bad-request", f"the body is no flat JSON object: {error}"[:300]) from None
        checked = self._checked("field", fields.items(), self._operation.body or {})
        if self._operation.one_of and sum(name in checked for name in self._operation.one_of) != 1:
            raise BadSetting(f"either {' or '.join(self._operation.one_of)} has to be there")
        return checked

    async def _breathe(self, text: str) -> None:
        if len(text) > _LARGE:
            await deferLater(self._site.reactor, 0)

    # Answer

    async def _do(self) -> None:
        """Carry out what is asked for. Catches everything."""
        operation = self._operation
        try:
            if operation.call is None:
                self._site.serve(operation, self)
                return
            result = operation.call(self._site.admin, **self._arguments, **await self._fields())
            if isawaitable(result):
                result = await result
            answer = result if isinstance(result, Answer) else Answer(200, result)
            await self._answer(answer)
        except CancelledError:
            pass  # The client is gone.
        except Problem as problem:
            self.refuse(problem)
        except PHPMQError as error:
            self.refuse(problem_of(error))
        except Exception:
            self._site.failed(operation.id, Failure())
            self.refuse(Problem("internal", "an error of the server; its log has more"))

    def refuse(self, problem: Problem) -> None:
        """Answer with an error."""
        if not self.startedWriting:
            problems = self._site.problems
            problems[problem.code] = problems.get(problem.code, 0) + 1
            content = text_of(problem.document()) + b"\n"
            self.answer_bytes(problem.status, content, "application/problem+json", problem.headers)

    async def _answer(self, answer: Answer) -> None:
        """Answer with a result, which may be large."""
        value, media = plain(answer.value), self._operation.media
        if is_long(value):
            self.begin(answer.status, media, answer.headers)
            self._write(grouped(chain(pieces_of(value), (b"\n",))))
            return
        pieces = await self._site.admin.work.run(steps_of(bytes, pieces_of(value))) if has_lists(value) else [text_of(value)]
        pieces.append(b"\n")
        if (size := sum(map(len, pieces))) > PIECE:
            self.begin(answer.status, media, {**answer.headers, "Content-Length": str(size)})
            self._write(grouped(pieces))
        else:
            self.answer_bytes(answer.status, b"".join(pieces), media, answer.headers)

    def answer_bytes(self, status: int, content: bytes, media: str, headers: Mapping[str, str] | None = None) -> None:
        """Answer with what is ready."""
        self.begin(status, media, {**(headers or {}), "Content-Length": str(len(content))})
        if len(content) > PIECE:
            self._write(slices_of(content))
        elif self.channel is not None:
            self.write(content)
            self.finish()

    def begin(self, status: int, media: str, headers: Mapping[str, str] | None = None) -> None:
        """Set all headers of the answer."""
        self.setResponseCode(status, HTTPStatus(status).phrase.encode("ascii"))
        self.setHeader("Date", http.datetimeToString().decode("ascii"))
        self.setHeader("Content-Type", f"{media}; charset=utf-8" if media == "text/html" else media)
        for name, value in {**HEADERS, **(headers or {})}.items():
            self.setHeader(name, value)
        if self.channel is not None and not self.channel.persistent:
            self.setHeader("Connection", "close")

    def _write(self, pieces: Iterator[bytes]) -> None:
        if self.channel is None:
            return  # The client is gone.
        if self.method == b"HEAD":
            self.write(b"")
            self.finish()
        else:
            Pieces(self, pieces).start()

    def connectionLost(self, reason: Failure) -> None:
        """The client is gone: what only it waited for is not worth to go on with."""
        super().connectionLost(reason)
        if self._work is not None and (self._operation.abandoned or not self._operation.writes):
            self._work.cancel()
