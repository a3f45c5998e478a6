"""Exchanges with the HTTP API of a server: one request and its answer, and the errors between."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial
from io import BytesIO
from typing import Any, NamedTuple

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError, UserError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Cooperator
from twisted.web.client import URI, Agent, FileBodyProducer, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from phpmq import __version__
from phpmq.addresses import ApiAddress
from phpmq.cli.exit_codes import Exit, Failed, why
from phpmq.cli.reactor_main import within

# Seconds to make a connection, to keep one that nothing is asked of, and to close all.
_CONNECT, _KEEP, _CLOSE = 5.0, 30, 1.0
# An IPv6 address in a URL.
_LITERAL = re.compile(r"\[[^]]*\]")


class Reply(NamedTuple):
    """An answer; C{media} is its media type, C{properties} is the JSON of the message whose body it has."""

    status: int
    media: str
    properties: str
    body: bytes


class Transport:
    """The connections to one API."""

    def __init__(self, reactor: Any, address: ApiAddress, timeout: float, agent: IAgent | None = None) -> None:
        self._reactor, self._address, self._timeout = reactor, address, timeout
        self._cooperator = Cooperator(scheduler=partial(reactor.callLater, 0))
        self._pool = HTTPConnectionPool(reactor)
        self._pool.cachedConnectionTimeout = _KEEP
        agent = self._make_agent() if agent is None else agent
        self._literal = match[0] if (match := _LITERAL.search(address.url)) is not None else ""
        self._client = HTTPClient(LiteralAgent(agent, self._literal) if self._literal else agent)
        self._headers = Headers(
            {"Accept": ["application/json, application/problem+json, application/octet-stream"], "User-Agent": [f"phpmq/{__version__}"]}
        )

    def _make_agent(self) -> IAgent:
        limit = min(_CONNECT, self._timeout)
        if self._address.socket:
            endpoint = UNIXClientEndpoint(self._reactor, self._address.socket, limit)
            return Agent.usingEndpointFactory(self._reactor, OneEndpoint(endpoint), self._pool)  # type: ignore[no-any-return]
        return Agent(self._reactor, connectTimeout=limit, pool=self._pool)

    async def request(self, what: str, method: str, url: str, content: bytes | None, most: int) -> Reply:
        """Send a request, and return its answer of at most C{most} bytes; if it fails, the error says that it "cannot C{what}"."""
        doubt = "" if method == "GET" else ", and may have done it"
        try:
            return await within(self._reactor, self._timeout, Deferred.fromCoroutine(self._exchange(method, url, content, most)))
        except TimeoutError as error:
            late = f"{self._address.name} does not answer within {self._timeout:g} s{doubt}"
            raise Failed(f"cannot {what}: {late}; --timeout is for more", Exit.TIMED_OUT) from error
        except (Failed, CancelledError):
            raise
        except Exception as error:
            raise lost(self._address, what, error, doubt) from error

    async def _exchange(self, method: str, url: str, content: bytes | None, limit: int) -> Reply:
        headers = self._headers.copy()
        if content is not None:
            headers.setRawHeaders("Content-Type", ["application/json"])
        response = await self._client.request(
            method,
            url.replace(self._literal, "localhost", 1) if self._literal else url,
            headers=headers,
            data=None if content is None else FileBodyProducer(BytesIO(content), self._cooperator),
            auth=self._address.login,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._reactor,
        )
        (media, *_) = response.headers.getRawHeaders("Content-Type", [""])
        body = await self._read(response, limit)
        (properties, *_) = response.headers.getRawHeaders("Phpmq-Message", [""])
        return Reply(response.code, media.partition(";")[0].strip().lower(), properties, body)

    async def _read(self, response: Any, limit: int) -> bytes:
        blocks: list[bytes] = []
        left = limit

        def take(block: bytes) -> None:
            nonlocal left
            left -= len(block)
            if left < 0:
                # An error ends the connection.
                raise Failed(f"the answer of {self._address.name} has more than {limit >> 20} MiB, and is not read further")
            blocks.append(block)

        try:
            await response.collect(take)
        except CancelledError:
            left = 0
            raise
        return b"".join(blocks)

    async def close(self) -> None:
        """Close its connections."""
        # The process ends anyway.
        with suppress(TimeoutError):
            await within(self._reactor, _CLOSE, self._pool.closeCachedConnections())


@implementer(IAgentEndpointFactory)
class OneEndpoint:
    """Sends all requests to one endpoint, whatever their URLs say."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:  # noqa: N802  # the interface's name
        return self._endpoint


@implementer(IAgent)
class LiteralAgent:
    """Connects to an IPv6 address, which is C{localhost} in URLs: treq takes every host for a name."""

    def __init__(self, agent: IAgent, literal: str) -> None:
        self._agent = agent
        self._literal = b"//" + literal.encode("ascii")

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,  # noqa: N803  # the interface's name
    ) -> Deferred[IResponse]:
        return self._agent.request(method, uri.replace(b"//localhost", self._literal, 1), headers, bodyProducer)


def lost(address: ApiAddress, what: str, error: Exception, doubt: str) -> Exception:
    """Return what to raise for an exception of Twisted; C{doubt} follows that there is no answer."""
    reasons = [error, *(failure.value for failure in getattr(error, "reasons", ()))]
    if any(isinstance(reason, CancelledError | ConnectingCancelledError) for reason in reasons):
        return CancelledError()
    hint = "see that phpmq is running with --http, or name another --api"
    if isinstance(error, ConnectError | DNSLookupError | UserError | OSError):
        said, code = why(error)
        return Failed(f"cannot reach {address.name}: {said}; {hint}", code)
    if isinstance(error, UnicodeError):
        return Failed(f"cannot reach {address.name}: no host can have that name; name another --api", Exit.UNREACHABLE)
    text = " ".join(str(reason) for reason in reasons)
    if "certificate" in text or "VerificationError" in repr(reasons):
        return Failed(f"cannot {what}: the certificate of {address.name} is not trusted here, or is another host's", Exit.UNREACHABLE)
    if "SSL routines" in text:
        return Failed(f"cannot {what}: {address.name} speaks no TLS that is understood here; http:// is without", Exit.UNREACHABLE)
    hung_up = f"{address.name} hung up without an answer{doubt}"
    return Failed(f"cannot {what}: {hung_up}; see that it is the address of --http, port 9180 unless told otherwise", Exit.UNREACHABLE)
