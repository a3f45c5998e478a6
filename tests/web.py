"""A client of the HTTP API in memory: bytes go to a connection of the real site, over a transport that fills up as a socket does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPResponse
from io import BytesIO
from typing import Any, cast
from urllib.parse import quote

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IConsumer, IPushProducer, ITransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from phpmq.admin.http import Site
from phpmq.admin.http import site as site_module
from phpmq.settings import Settings
from phpmq.testing import MemoryServer

#: A name that every door has to bear.
ODD = "a/b %d <b>é"

_CAPACITY = 64 * 1024


@dataclass(frozen=True)
class Response:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """What its JSON says."""
        return json.loads(self.body)


@implementer(ITransport, IPushProducer, IConsumer)
class Wire:
    """
    A connection's transport.

    @ivar ended: whether nothing more will be written
    @ivar closed: whether it is closed, C{aborted}: whether at once
    @ivar reading: whether the site takes what is sent
    """

    def __init__(self, clock: Clock, host: str) -> None:
        self._clock = clock
        self._host = host
        self.output = BytesIO()
        self.protocol: Any = None
        self.producer: Any = None
        self.ended = self.closed = self.aborted = self._paused = False
        self.reading = True
        self._unread = 0

    disconnecting = False
    #: Whether the client takes nothing of what is written.
    stuck = False

    # ITransport

    def write(self, data: bytes) -> None:
        """See L{ITransport}."""
        if self.closed or self.ended:
            return
        self.output.write(data)
        self._unread += len(data)
        if self.stuck and self.producer is not None and not self._paused and self._unread > _CAPACITY:
            self._paused = True
            self.producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        """See L{ITransport}."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """See L{ITransport}."""
        self.disconnecting = True
        if not self.stuck:
            self._clock.callLater(0, self.lose)

    def loseWriteConnection(self) -> None:
        """Write no more, and go on reading."""
        self.ended = True

    def abortConnection(self) -> None:
        """Close at once."""
        self.aborted = True
        self._clock.callLater(0, self.lose)

    def lose(self) -> None:
        """The connection is gone."""
        if not self.closed:
            self.closed = True
            self.protocol.connectionLost(Failure(ConnectionDone()))

    def getPeer(self) -> IAddress:
        """See L{ITransport}."""
        return IPv4Address("TCP", self._host, 50000)

    def getHost(self) -> IAddress:
        """See L{ITransport}."""
        return IPv4Address("TCP", self._host, 9180)

    # IConsumer

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See L{IConsumer}."""
        self.producer = producer

    def unregisterProducer(self) -> None:
        """See L{IConsumer}."""
        self.producer = None

    # IPushProducer

    def pauseProducing(self) -> None:
        """See L{IPushProducer}."""
        self.reading = False

    def resumeProducing(self) -> None:
        """See L{IPushProducer}."""
        self.reading = True

    def stopProducing(self) -> None:
        """See L{IPushProducer}."""
        self.loseConnection()

    # The client's side

    def read(self) -> bytes:
        """Take all that was written."""
        data = self.output.getvalue()
        self.output = BytesIO()
        self._unread = 0
        if self._paused and not self.closed:
            self._paused = False
            self.producer.resumeProducing()
        return data


class Connection:
    """
    A client's connection.

    @ivar wire: its transport
    """

    def __init__(self, site: Site, clock: Clock, host: str = "127.0.0.1") -> None:
        self._clock = clock
        self.wire = Wire(clock, host)
        protocol = site.buildProtocol(None)
        self.wire.protocol = protocol
        protocol.makeConnection(self.wire)
        self._got = b""

    def says(self, data: bytes) -> None:
        """Send bytes, and let what follows from them happen."""
        if not self.wire.closed:
            self.wire.protocol.dataReceived(data)
        self._clock.advance(0)

    def hears(self, method: str = "GET") -> Response:
        """The next answer, which must be complete."""
        self._got += self.wire.read()
        stream = BytesIO(self._got)

        class Socket:
            def makefile(self, *_: Any) -> BytesIO:
                return stream

        response = HTTPResponse(cast(Any, Socket()), method=method)
        response.begin()
        # http.client closes what it has read to its end.
        stream.close = lambda: None  # type: ignore[method-assign]
        body = response.read()
        self._got = self._got[stream.tell() :]
        return Response(response.status, {name.lower(): value for name, value in response.getheaders()}, body)

    @property
    def rest(self) -> bytes:
        """What came and is not heard yet."""
        self._got += self.wire.read()
        return self._got


class WebTestCase(SynchronousTestCase):
    """A server in memory with faked time, and its API."""

    def setUp(self) -> None:
        """Start it."""
        self.server = MemoryServer(max_message_size=10_000)
        self.addCleanup(self.server.stop)
        self.clock: Clock = self.server.clock
        self.admin = self.server.service.admin
        # Metrics are a part that need not be there.
        self.patch(site_module, "_metrics", lambda admin: None)
        self.server.service.site = self.site = Site(self.clock, Settings(http_hosts=["mq.example"]))
        self.site.open(self.admin)
        self.addCleanup(self.hang_up)
        self.client = self.server.client()

    def hang_up(self) -> None:
        """Leave no connection behind."""
        for connection in list(self.site.connections.open):
            connection.abort()
        self.clock.advance(0)

    def connect(self, host: str = "127.0.0.1") -> Connection:
        """A connection."""
        return Connection(self.site, self.clock, host)

    def request(self, method: str, path: str, value: Any = None, headers: Mapping[str, str] | None = None) -> bytes:
        """The bytes of a request; what is no bytes is sent as JSON, and bytes as what the headers say or else as JSON."""
        body = b"" if value is None else value if isinstance(value, bytes) else json.dumps(value).encode()
        fields = {"Host": "localhost:9180", **({"Content-Type": "application/json"} if body else {}), **(headers or {})}
        if body and "Transfer-Encoding" not in fields:
            fields.setdefault("Content-Length", str(len(body)))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body

    def turn(self) -> None:
        """Let one turn of the reactor pass: what is due now is done, and not yet what comes of it."""
        for call in [call for call in self.clock.calls if call.getTime() <= self.clock.seconds()]:
            self.clock.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)

    def ask(self, method: str, path: str, value: Any = None, headers: Mapping[str, str] | None = None) -> Response:
        """What a request of its own connection is answered."""
        connection = self.connect()
        connection.says(self.request(method, path, value, headers))
        response = connection.hears(method)
        connection.wire.lose()
        return response

    def refused(self, status: int, code: str, method: str, path: str, value: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """See that a request is answered with a problem: its document."""
        return self.check_problem(self.ask(method, path, value, headers), status, code)

    def check_problem(self, response: Response, status: int, code: str) -> Any:
        """See that an answer is a problem: its document."""
        self.assertEqual((response.status, response.headers["content-type"]), (status, "application/problem+json"), response)
        document = response.json
        self.assertEqual(document.keys(), {"type", "title", "status", "detail", "code"})
        self.assertEqual((document["status"], document["code"]), (status, code), document)
        return document

    def queue(self, name: str, more: str = "") -> str:
        """A queue's path."""
        return f"/api/v1/queues/{quote(name, safe='')}{more}"

    def send(self, queue: str, *bodies: bytes, **more: Any) -> list[str]:
        """Send messages as a client: their ids."""
        ids = []
        for body in bodies:
            receipt = self.client.send(queue, body, **more)
            self.server.settle()
            ids.append(str(self.successResultOf(receipt)))
        return ids

    def hold(self, queue: str, count: int) -> list[Any]:
        """Have messages in flight."""
        held: list[Any] = []
        self.client.subscribe(queue, held.append, window=count)
        self.server.settle()
        self.assertEqual(len(held), count)
        return held
