"""The HTTP API of a server: requests, and lists by pages."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IConsumer, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from phpmq import __version__
from phpmq.cli.admin.address import Address
from phpmq.cli.admin.refusals import document_of, lost, strange, too_late, too_long
from phpmq.cli.exits import Failed
from phpmq.cli.lines import content as body_fields
from phpmq.cli.running import within

#: The most bytes of an answer, where nothing else is said. A page of messages with 4 MiB of bodies has up to 24 as JSON.
LIMIT = 64 * 1024 * 1024

#: Items that are asked for at a time.
PAGE = 500

# The type of a message's body as it is.
_RAW = "application/octet-stream"

_LITERAL = re.compile(r"(?<=://)\[[^]]*\]")

# Seconds to make a connection, to keep one that nothing is asked of, and to close all.
_CONNECT, _KEEP, _CLOSE = 5.0, 30, 1.0


class _Reply(NamedTuple):
    """
    An answer.

    @ivar properties: of the message whose body is the answer's, as JSON
    """

    status: int
    media: str
    properties: str
    body: bytes


class Api:
    """
    The API of one server. Requests that fail raise L{Failed}, with a sentence for the user.

    @ivar address: where it is
    @ivar reactor: what it runs on
    """

    def __init__(self, reactor: Any, address: Address, timeout: float, agent: IAgent | None = None) -> None:
        """
        @param timeout: seconds that an answer may take
        @param agent: what makes connections; None for one that does
        """
        self.reactor, self.address = reactor, address
        self._timeout = timeout
        self._pool = HTTPConnectionPool(reactor)
        self._pool.cachedConnectionTimeout = _KEEP
        agent = self._agent() if agent is None else agent
        self._url = address.url
        if (literal := _LITERAL.search(address.url)) is not None:
            self._url = address.url.replace(literal[0], "localhost", 1)
            agent = Literal(agent, literal[0])
        self._client = HTTPClient(agent)

    def _agent(self) -> IAgent:
        limit = min(_CONNECT, self._timeout)
        if self.address.socket:
            endpoint = UNIXClientEndpoint(self.reactor, self.address.socket, limit)
            return Agent.usingEndpointFactory(self.reactor, OneEndpoint(endpoint), self._pool)  # type: ignore[no-any-return]
        return Agent(self.reactor, connectTimeout=limit, pool=self._pool)

    async def get(self, what: str, /, *parts: str, wants: Sequence[str] = (), most: int = LIMIT, **query: object) -> dict[str, Any]:
        """
        Ask for something.

        @param what: what cannot be done if this fails, such as C{list queues}
        @param parts: those of the path after C{/api/v1}; names are as they are
        @param wants: members that the answer has to have
        @param most: how many bytes the answer may have
        @param query: parameters; those that are None are left out
        @raise Failed: it is not answered, or refused
        """
        return self._checked(await self._request(what, "GET", parts, query, None, most), wants)

    async def post(self, what: str, /, *parts: str, wants: Sequence[str] = (), **fields: object) -> dict[str, Any]:
        """Have something done; fields that are None are left out. Otherwise like L{get}."""
        given = {name: value for name, value in fields.items() if value is not None}
        return self._checked(await self._request(what, "POST", parts, {}, given), wants)

    async def put(self, what: str, /, *parts: str, fields: Mapping[str, object], wants: Sequence[str] = ()) -> dict[str, Any]:
        """Change something; fields that are None are null. Otherwise like L{get}."""
        return self._checked(await self._request(what, "PUT", parts, {}, fields), wants)

    async def delete(self, what: str, /, *parts: str, wants: Sequence[str] = (), **query: object) -> dict[str, Any]:
        """Remove something; otherwise like L{get}."""
        return self._checked(await self._request(what, "DELETE", parts, query), wants)

    async def message(self, what: str, queue: str, id: str, most: int) -> dict[str, Any]:
        """
        Read one message with its whole body, which has a field of its own in JSON only up to some size.

        @param most: how many bytes the body may have
        @raise Failed: there is no such message, or it is not answered
        """
        reply = await self._ask(what, "GET", ("queues", queue, "messages", id, "body"), {}, None, most)
        if reply.media != _RAW:
            # It is a problem document.
            document_of(self.address, what, reply.status, reply.media, reply.body)
            raise strange(self.address)
        try:
            return {**json.loads(reply.properties), **body_fields(reply.body)}
        except (ValueError, TypeError) as error:
            raise strange(self.address, error) from error

    def _checked(self, document: dict[str, Any], wants: Sequence[str]) -> dict[str, Any]:
        if any(name not in document for name in wants):
            raise strange(self.address)
        return document

    async def pages(
        self, what: str, /, *parts: str, most: int | None = None, page: int = PAGE, **query: Any
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """
        A list, page by page; the next one is asked for when it is wanted. There is always one, which may be empty.

        @param most: how many items are wanted; None for all
        @param page: how many are asked for at a time
        @raise Failed: a page is not answered, or refused
        """
        after: object = None
        while True:
            limit = page if most is None else min(page, most)
            answer = await self.get(what, *parts, wants=("items", "next"), limit=limit, after=after, **query)
            items, before, after = answer["items"], after, answer["next"]
            if after is not None and after == before:
                raise strange(self.address)  # It would have no end.
            yield items[:limit]
            if most is not None:
                most -= len(items)
            if after is None or (most is not None and most <= 0):
                return

    async def _request(
        self,
        what: str,
        method: str,
        parts: tuple[str, ...],
        query: Mapping[str, object],
        fields: Mapping[str, object] | None = None,
        limit: int = LIMIT,
    ) -> dict[str, Any]:
        reply = await self._ask(what, method, parts, query, fields, limit)
        return document_of(self.address, what, reply.status, reply.media, reply.body)

    async def _ask(
        self,
        what: str,
        method: str,
        parts: tuple[str, ...],
        query: Mapping[str, object],
        fields: Mapping[str, object] | None,
        limit: int,
    ) -> _Reply:
        path = "".join(f"/{quote(part, safe='')}" for part in parts)
        given = {name: value for name, value in query.items() if value is not None}
        url = f"{self._url}/api/v1{path}" + (f"?{urlencode(given, quote_via=quote)}" if given else "")
        content = None if fields is None else json.dumps(fields).encode()
        changes = method != "GET"
        try:
            exchange = Deferred.fromCoroutine(self._exchange(method, url, content, limit))
            return await within(self.reactor, self._timeout, exchange)
        except TimeoutError as error:
            raise too_late(self.address, what, self._timeout, changes) from error
        except (Failed, CancelledError):
            raise
        except Exception as error:
            raise lost(self.address, what, error, changes) from error

    async def _exchange(self, method: str, url: str, content: bytes | None, limit: int) -> _Reply:
        accepted = f"application/json, application/problem+json, {_RAW}"
        headers = Headers({"Accept": [accepted], "User-Agent": [f"phpmq/{__version__}"]})
        if content is not None:
            headers.setRawHeaders("Content-Type", ["application/json"])
        response = await self._client.request(
            method,
            url,
            headers=headers,
            data=None if content is None else _Body(content),
            auth=self.address.login,
            allow_redirects=False,
            unbuffered=True,
            reactor=self.reactor,
        )
        (media, *_) = response.headers.getRawHeaders("Content-Type", [""])
        body = _Whole(limit)
        response.deliverBody(body)
        if not await body.there:
            raise too_long(self.address, limit)
        (properties, *_) = response.headers.getRawHeaders("Phpmq-Message", [""])
        return _Reply(response.code, media.partition(";")[0].strip().lower(), properties, b"".join(body.blocks))

    async def close(self) -> None:
        """Close its connections."""
        # The process ends anyway.
        with suppress(TimeoutError):
            await within(self.reactor, _CLOSE, self._pool.closeCachedConnections())


@implementer(IAgentEndpointFactory)
class OneEndpoint:
    """Leads all requests to the same place, whatever their URLs say."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:  # noqa: N802  # the interface's name
        """See L{IAgentEndpointFactory}."""
        return self._endpoint


@implementer(IAgent)
class Literal:
    """Asks an IPv6 address: treq takes every host for a name, and that is none."""

    def __init__(self, agent: IAgent, literal: str) -> None:
        """
        @param literal: the address in brackets; in URLs C{localhost} stands for it
        """
        self._agent = agent
        self._literal = b"//" + literal.encode("ascii")

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,  # noqa: N803
    ) -> Deferred[IResponse]:
        """See L{IAgent}."""
        return self._agent.request(method, uri.replace(b"//localhost", self._literal, 1), headers, bodyProducer)


@implementer(IBodyProducer)
class _Body:
    """The body of a request, written at once: those that this command sends are small, or what the server takes in one piece anyway."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.length = len(content)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:  # noqa: N802  # the interface's name
        """Write it; see L{IBodyProducer}."""
        consumer.write(self._content)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It is done already; see L{IBodyProducer}."""

    def resumeProducing(self) -> None:
        """Likewise."""

    def stopProducing(self) -> None:
        """Likewise."""


class _Whole(Protocol):
    """
    Takes the body of an answer.

    @ivar blocks: what came
    @ivar there: whether all of it is there, or else it is too long
    """

    def __init__(self, limit: int) -> None:
        self.blocks: list[bytes] = []
        self.there: Deferred[bool] = Deferred(lambda _: self._stop())
        self._left = limit

    def _stop(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            (getattr(transport, "abortConnection", None) or transport.loseConnection)()

    def dataReceived(self, data: bytes) -> None:
        """See L{Protocol}."""
        self._left -= len(data)
        if self._left >= 0:
            self.blocks.append(data)
        elif not self.there.called:
            self.there.callback(False)
            self._stop()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See L{Protocol}."""
        if not self.there.called:
            # An answer without a length may have been cut: if it was, it is no JSON.
            if reason.check(ResponseDone, PotentialDataLoss):
                self.there.callback(True)
            else:
                self.there.errback(reason)
