"""The HTTP API of a server: requests, and lists by pages."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IConsumer, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from phpmq import __version__
from phpmq.addresses import ApiAddress
from phpmq.cli.admin.errors import document_of, lost, strange, too_late
from phpmq.cli.exit_codes import Failed
from phpmq.cli.reactor_main import within

#: The most bytes of an answer, where nothing else is said. A page of messages with 4 MiB of bodies has up to 24 as JSON.
LIMIT = 64 * 1024 * 1024

#: Items that are asked for at a time.
PAGE = 500

# Seconds to make a connection, to keep one that nothing is asked of, and to close all.
_CONNECT, _KEEP, _CLOSE = 5.0, 30, 1.0


class Api:
    """
    The API of one server. Requests that fail raise L{Failed}, with a sentence for the user.

    @ivar address: where it is
    @ivar reactor: what it runs on
    """

    def __init__(self, reactor: Any, address: ApiAddress, timeout: float, agent: IAgent | None = None) -> None:
        """
        @param timeout: seconds that an answer may take
        @param agent: what makes connections; None for one that does
        """
        self.reactor, self.address = reactor, address
        self._timeout = timeout
        self._pool = HTTPConnectionPool(reactor)
        self._pool.cachedConnectionTimeout = _KEEP
        self._agent = self._make_agent() if agent is None else agent
        self._headers = Headers({"Accept": ["application/json, application/problem+json"], "User-Agent": [f"phpmq/{__version__}"]})
        if address.login is not None:
            self._headers.setRawHeaders("Authorization", ["Basic " + b64encode(":".join(address.login).encode()).decode()])

    def _make_agent(self) -> IAgent:
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
        return await self._request(what, "GET", parts, wants, query, most=most)

    async def post(self, what: str, /, *parts: str, wants: Sequence[str] = (), **fields: object) -> dict[str, Any]:
        """Do something; fields that are None are left out. Otherwise like L{get}."""
        given = {name: value for name, value in fields.items() if value is not None}
        return await self._request(what, "POST", parts, wants, fields=given)

    async def put(self, what: str, /, *parts: str, fields: Mapping[str, object], wants: Sequence[str] = ()) -> dict[str, Any]:
        """Change something; fields that are None are null. Otherwise like L{get}."""
        return await self._request(what, "PUT", parts, wants, fields=fields)

    async def delete(self, what: str, /, *parts: str, wants: Sequence[str] = (), **query: object) -> dict[str, Any]:
        """Remove something; otherwise like L{get}."""
        return await self._request(what, "DELETE", parts, wants, query)

    async def pages(
        self, what: str, /, *parts: str, most: int | None = None, page: int = PAGE, **query: Any
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """
        List things, page by page; the next page is requested when it is wanted. There is at least one page, which may be empty.

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
                raise strange(self.address)  # The list would have no end.
            yield items[:limit]
            if most is not None:
                most -= len(items)
            if after is None or (most is not None and most <= 0):
                return

    async def _request(
        self,
        what: str,
        method: str,
        parts: Sequence[str],
        wants: Sequence[str],
        query: Mapping[str, object] | None = None,
        fields: Mapping[str, object] | None = None,
        most: int = LIMIT,
    ) -> dict[str, Any]:
        path = "".join(f"/{quote(part, safe='')}" for part in parts)
        given = {name: value for name, value in (query or {}).items() if value is not None}
        url = f"{self.address.url}/api/v1{path}" + (f"?{urlencode(given, quote_via=quote)}" if given else "")
        content = None if fields is None else json.dumps(fields).encode()
        changes = method != "GET"
        try:
            exchange = Deferred.fromCoroutine(self._exchange(method, url, content, most))
            status, media, body = await within(self.reactor, self._timeout, exchange)
        except TimeoutError as error:
            raise too_late(self.address, what, self._timeout, changes) from error
        except (Failed, CancelledError):
            raise
        except Exception as error:
            raise lost(self.address, what, error, changes) from error
        document = document_of(self.address, what, status, media, body)
        if any(name not in document for name in wants):
            raise strange(self.address)
        return document

    async def _exchange(self, method: str, url: str, content: bytes | None, limit: int) -> tuple[int, str, bytes]:
        headers = self._headers.copy()
        if content is not None:
            headers.setRawHeaders("Content-Type", ["application/json"])
        body = None if content is None else _Body(content)
        response = await self._agent.request(method.encode(), _ascii(url), headers, body)
        (media, *_) = response.headers.getRawHeaders("Content-Type", [""])
        whole = _Whole(limit)
        response.deliverBody(whole)
        if not await whole.complete:
            raise Failed(f"the answer of {self.address.name} has more than {limit >> 20} MiB, and is not read further")
        return response.code, media.partition(";")[0].strip().lower(), b"".join(whole.blocks)

    async def close(self) -> None:
        """Close its connections."""
        # The process ends anyway.
        with suppress(TimeoutError):
            await within(self.reactor, _CLOSE, self._pool.closeCachedConnections())


@implementer(IAgentEndpointFactory)
class OneEndpoint:
    """Sends all requests to one endpoint, whatever their URLs say."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:  # noqa: N802  # the interface's name
        """See L{IAgentEndpointFactory}."""
        return self._endpoint


def _ascii(url: str) -> bytes:
    """A URL as a request has it: a host that is not ASCII in IDNA, other characters in percent encoding."""
    parts = urlsplit(url)
    authority = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode("ascii")
    return parts._replace(netloc=authority, path=quote(parts.path, safe="/%:@!$&'()*+,;=~")).geturl().encode("ascii")


@implementer(IBodyProducer)
class _Body:
    """The body of a request, written at once, as the bodies that this command sends are small."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.length = len(content)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:  # noqa: N802  # the interface's name
        """Write it; see L{IBodyProducer}."""
        consumer.write(self._content)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It is done already; see L{IBodyProducer}."""

    resumeProducing = stopProducing = pauseProducing


class _Whole(Protocol):
    """
    Receives the body of an answer.

    @ivar blocks: what was received
    @ivar complete: fires with whether it is complete; otherwise it is too long
    """

    def __init__(self, limit: int) -> None:
        self.blocks: list[bytes] = []
        self.complete: Deferred[bool] = Deferred(lambda _: self._stop())
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
        elif not self.complete.called:
            self.complete.callback(False)
            self._stop()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See L{Protocol}."""
        if not self.complete.called:
            # An answer without a length may have been cut: if it was, it is no JSON.
            if reason.check(ResponseDone, PotentialDataLoss):
                self.complete.callback(True)
            else:
                self.complete.errback(reason)
