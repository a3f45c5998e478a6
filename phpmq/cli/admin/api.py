"""
The HTTP API of a server: requests, lists by pages, and the errors for its answers.

What moves the bytes is L{phpmq.cli.admin.transport}, which is slow to import.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from phpmq.addresses import ApiAddress
from phpmq.cli.exit_codes import Exit, Failed
from phpmq.cli.ndjson import content as body_fields

#: The most bytes of an answer, where nothing else is said. A page of messages with 4 MiB of bodies has up to 24 as JSON.
LIMIT = 64 * 1024 * 1024

#: Items that are asked for at a time.
PAGE = 500

#: Exit codes of problem documents; the others are L{Exit.FAILED}.
_EXITS = {"not-allowed": Exit.NOT_ALLOWED, "foreign-host": Exit.NOT_ALLOWED, "foreign-origin": Exit.NOT_ALLOWED}

# What to try, where the problem's own text does not say it.
_HINTS = {
    "no-such-queue": "phpmq queues lists those that there are",
    "no-such-client": "phpmq clients lists those that there are",
    "no-such-message": "it may be done by now, or in another queue",
    "not-found": "the server may be of another version than this command",
    "method-not-allowed": "the server may be of another version than this command",
    "draining": "try again when it runs again",
    "memory-full": "try again when messages were taken",
    "disk-failing": "see that its disk is well, and not full",
    "too-many-readers": "try again in a moment",
    "too-many-bodies": "try again in a moment",
}

_STATUSES = {
    401: ("wants a login", "give it as https://USER:PASSWORD@HOST", Exit.NOT_ALLOWED),
    403: ("forbids it", "ask who runs it", Exit.NOT_ALLOWED),
    407: ("wants a login for a proxy", "name an address that needs none", Exit.NOT_ALLOWED),
    **dict.fromkeys((502, 503, 504), ("is a proxy that does not reach the server", "see that phpmq is running", Exit.UNREACHABLE)),
}


class Api:
    """The API of one server; its methods raise L{Failed}, with a sentence for the user, when a request is refused or not answered."""

    def __init__(self, reactor: Any, address: ApiAddress, timeout: float, agent: Any = None) -> None:
        from phpmq.cli.admin.transport import Transport

        self.reactor, self.address = reactor, address
        self._transport = Transport(reactor, address, timeout, agent)
        self.close = self._transport.close

    async def get(self, what: str, /, *parts: str, wants: Sequence[str] = (), most: int = LIMIT, **query: object) -> dict[str, Any]:
        """
        Read something, and return the JSON object of the answer.

        @param what: what fails if this fails, such as C{list queues}
        @param parts: the parts of the path after C{/api/v1}, not yet quoted
        @param wants: members that the answer must have
        @param query: parameters; None leaves one out
        """
        return self._document(what, wants, await self._request(what, "GET", parts, query, most=most))

    async def post(self, what: str, /, *parts: str, wants: Sequence[str] = (), **fields: object) -> dict[str, Any]:
        """Do something; fields that are None are left out. Otherwise like L{get}."""
        given = {name: value for name, value in fields.items() if value is not None}
        return self._document(what, wants, await self._request(what, "POST", parts, fields=given))

    async def put(self, what: str, /, *parts: str, fields: Mapping[str, object], wants: Sequence[str] = ()) -> dict[str, Any]:
        """Change something; fields that are None are null. Otherwise like L{get}."""
        return self._document(what, wants, await self._request(what, "PUT", parts, fields=fields))

    async def delete(self, what: str, /, *parts: str, wants: Sequence[str] = (), **query: object) -> dict[str, Any]:
        """Remove something; otherwise like L{get}."""
        return self._document(what, wants, await self._request(what, "DELETE", parts, query))

    async def message(self, what: str, queue: str, id: str, most: int) -> dict[str, Any]:
        """Read one message with its whole body, of at most C{most} bytes: in JSON, a body has a field only up to a smaller size."""
        reply = await self._request(what, "GET", ("queues", queue, "messages", id, "body"), most=most)
        if reply.media != "application/octet-stream":
            # It is a problem document.
            self._document(what, (), reply)
            raise strange(self.address)
        try:
            return {**json.loads(reply.properties), **body_fields(reply.body)}
        except (ValueError, TypeError) as error:
            raise strange(self.address, error) from error

    async def now(self) -> str:
        """Read the time of the server, whose clock gives the times of messages; see L{moment}."""
        return str((await self.get("ask for the time", "status", wants=("now",)))["now"])

    async def pages(
        self, what: str, /, *parts: str, most: int | None = None, page: int = PAGE, **query: Any
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """
        List things, page by page, at most C{most} of them; the next page is requested when it is wanted.

        There is at least one page, which may be empty.
        """
        after: object = None
        while True:
            limit = page if most is None else min(page, most)
            answer = await self.get(what, *parts, wants=("items", "next"), limit=limit, after=after, **query)
            items, before, after = answer["items"], after, answer["next"]
            if after is not None and after == before:
                raise strange(self.address)  # The list would have no end.
            yield items[:limit]
            if most is not None:
                most -= len(items)
            if after is None or (most is not None and most <= 0):
                return

    def _document(self, what: str, wants: Sequence[str], reply: Any) -> dict[str, Any]:
        document = document_of(self.address, what, reply.status, reply.media, reply.body)
        if any(name not in document for name in wants):
            raise strange(self.address)
        return document

    async def _request(
        self,
        what: str,
        method: str,
        parts: Sequence[str],
        query: Mapping[str, object] | None = None,
        fields: Mapping[str, object] | None = None,
        most: int = LIMIT,
    ) -> Any:
        path = "".join(f"/{quote(part, safe='')}" for part in parts)
        given = {name: value for name, value in (query or {}).items() if value is not None}
        url = f"{self.address.url}/api/v1{path}" + (f"?{urlencode(given, quote_via=quote)}" if given else "")
        content = None if fields is None else json.dumps(fields).encode()
        return await self._transport.request(what, method, url, content, most)


def moment(text: str) -> float:
    """Return a time of the API, in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


class Refused(Failed):
    """The API answered with a problem document: its code is C{error}, its detail is C{reason}."""

    def __init__(self, sentence: str, code: Exit, error: str, reason: str) -> None:
        super().__init__(sentence, code)
        self.error = error
        self.reason = reason


def document_of(address: ApiAddress, what: str, status: int, media: str, body: bytes) -> dict[str, Any]:
    """Return the JSON object of an answer; raise L{Refused} for a problem document, and L{Failed} for what is not from the API."""
    document = _parsed(body) if media in ("application/json", "application/problem+json") else None
    if document is not None and 200 <= status < 300:
        return document
    if document is not None and isinstance(error := document.get("code"), str) and media == "application/problem+json":
        reason = str(document.get("detail") or error)
        hint = f"; {_HINTS[error]}" if error in _HINTS else ""
        raise Refused(f"cannot {what}: {reason}{hint}", _EXITS.get(error, Exit.FAILED), error, reason)
    raise _foreign(address, what, status, media)


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _foreign(address: ApiAddress, what: str, status: int, media: str) -> Failed:
    if status in _STATUSES:
        does, hint, code = _STATUSES[status]
        return Failed(f"cannot {what}: {address.name} {does} (HTTP {status}); {hint}", code)
    if 300 <= status < 400:
        return Failed(f"cannot {what}: {address.name} sends its callers elsewhere (HTTP {status}); name that as --api", Exit.UNREACHABLE)
    answer = f"HTTP {status}, {media or 'of no type'}"
    return Failed(f"{address.name} is no phpmq API, it answers with {answer}; name another --api", Exit.UNREACHABLE)


def strange(address: ApiAddress, error: Exception | None = None) -> Failed:
    """Return the error for an answer that is JSON, but not what the API would say; C{error} is the exception that it caused."""
    what = "" if error is None else f" ({type(error).__name__}: {error})"
    hint = "see that --api leads to one of this version"
    return Failed(f"{address.name} does not answer as phpmq's API does{what}; {hint}", Exit.UNREACHABLE)
