"""
Connections: what a client may send before it is refused, how long it may take, and how it is told.

twisted.web keeps a request's body until it is complete, whatever its length, then parses forms, and gives no deadline to a client that
sends a byte now and then. Here the headers are looked at first, the body is counted as it comes, and both have deadlines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IDelayedCall, ISSLTransport
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel

from phpmq.admin.http.problems import Problem
from phpmq.admin.http.request import Request

if TYPE_CHECKING:
    from phpmq.admin.http.site import Site

#: Bytes of the request line and the headers together.
HEADERS_LIMIT = 16 * 1024

#: Seconds that a connection may be idle between two requests.
IDLE_TIMEOUT = 60.0

#: Seconds that a client has to read an answer to a request that is not read to its end.
LINGER_TIMEOUT = 5.0

#: Why a connection is cut off: a deadline is missed, to begin a request, to go on with it, or to read an answer and all that is left of
#: it at the end; or too much is sent ahead of the answers, or behind a refusal.
CUTS = "idle", "request", "write", "close", "ahead", "refused"

# A request counts as making progress when so many bytes of it came, and a client that takes so many a second of an answer reads it.
_PROGRESS, _SLOWEST_READER = 4096, 16 * 1024

# What a refused client may still send while it has not read the refusal, and any client ahead of an answer. twisted.web stops reading
# earlier, but not while the client does not read.
_LINGER_BYTES, _AHEAD_BYTES = 64 * 1024 * 1024, 256 * 1024


class Channel(HTTPChannel):
    """
    One client's connection.

    @ivar site: what it is a connection to
    @ivar held: bytes of the request's body that are kept
    """

    maxHeaders = 100
    totalHeadersSize = HEADERS_LIMIT
    requestFactory = Request  # type: ignore[assignment]  # a class is a factory, too
    site: Site

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.held = 0
        self._refused = self._idle = self._choked = self._closing = False
        self._unread = self._ahead = self._progress = 0
        self._waits_for = "idle"
        self._deadline: IDelayedCall | None = None
        self._next: IDelayedCall | None = None

    # What comes

    def connectionMade(self) -> None:
        """Wait for a request."""
        super().connectionMade()
        self.site.channels.add(self)
        self._await_request()

    def _await_request(self) -> None:
        self._idle = True
        self._expect("idle", IDLE_TIMEOUT)

    def _expect(self, what: str, seconds: float) -> None:
        self._waits_for = what
        self.setTimeout(seconds)

    def dataReceived(self, data: bytes) -> None:
        """Count what comes, so that a client that drips is not taken for one that sends."""
        if self._refused:
            self._discard(data)
            return
        if self._handlingRequest or self.paused:
            self._ahead += len(data)
            if self._ahead > _AHEAD_BYTES:
                self._cut_off("ahead")
                return
        else:
            self._progress += len(data)
            if self._idle or self._progress >= _PROGRESS:
                self._idle = False
                self._progress = 0
                self._expect("request", self.site.request_timeout)
        LineReceiver.dataReceived(self, data)

    def lineReceived(self, line: bytes) -> None:
        """A line of a request's head."""
        if not self._refused:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line that is longer than all headers may be."""
        self._refuse(Problem("headers-too-large", f"the request line and headers have more than {HEADERS_LIMIT} bytes"))

    def allHeadersReceived(self) -> None:
        """Decide by the headers whether the body is wanted."""
        if self._refused:
            return
        request: Request = self.requests[-1]
        request.opened(self._command, self._path, self._version)
        length: int | None = self.length
        if length is not None and length > request.limit:
            self.refuse(request.too_large(length))
        elif request.problem is not None and length != 0 and request.getHeader(b"expect") is not None:
            self.refuse(request.problem)
        else:
            super().allHeadersReceived()

    def resetTimeout(self) -> None:
        """Nothing resets a deadline but L{dataReceived}; older versions of twisted.web would at each byte of a body."""

    def _finishRequestBody(self, data: bytes) -> None:  # noqa: N802  # the name that twisted.web calls
        """Keep what came after the body for the next request; older versions of twisted.web answered the requests out of order."""
        self._dataBuffer.append(data)
        self.allContentReceived()

    def allContentReceived(self) -> None:
        """The request is complete."""
        if not self._refused:
            super().allContentReceived()

    def keep(self, size: int) -> bool:
        """Whether so many more bytes of a body may be kept; they are until L{requestDone}."""
        if not self.site.hold(size):
            return False
        self.held += size
        return True

    def _release(self) -> None:
        self.site.hold(-self.held)
        self.held = 0

    # Refusals

    def refuse(self, problem: Problem) -> None:
        """Answer a request whose body is not read to its end, and close."""
        if self._refused:
            return
        request: Request = self.requests[-1]
        self.persistent = False
        self._refused = True
        self.clearLineBuffer()
        request.forget()
        request.refuse(problem)

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802  # the name that twisted.web calls
        """What is no HTTP."""
        if self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders:
            self._refuse(Problem("headers-too-large", f"the request line and headers have more than {HEADERS_LIMIT} bytes"))
        else:
            self._refuse(Problem("bad-request", "the server does not understand this request"))

    def _refuse(self, problem: Problem) -> None:
        """Refuse what is not yet a request."""
        if not self._refused:
            if not self.requests:
                self.requests.append(Request(self))
            request: Request = self.requests[-1]
            if not request.known:
                request.opened(b"GET", b"/", b"HTTP/1.1")
            self.refuse(problem)

    def loseConnection(self) -> None:
        """Close; if there is something unread, only once the client had time to read the answer."""
        if self._closing:
            return
        self._closing = True
        transport: Any = self.transport
        half = getattr(transport, "loseWriteConnection", None)
        if not self._refused or half is None or ISSLTransport.providedBy(transport):
            super().loseConnection()
            self._expect("write", self.site.write_timeout)
        else:
            # Closing with something unread resets the connection, and the client would lose the answer.
            transport.unregisterProducer()
            half()
            transport.resumeProducing()
            self._expect("close", LINGER_TIMEOUT)

    def _discard(self, data: bytes) -> None:
        self._unread += len(data)
        if self._unread > _LINGER_BYTES:
            self._cut_off("refused")

    def abort(self) -> None:
        """Close at once."""
        transport: Any = self.transport
        transport.abortConnection()

    def timeoutConnection(self) -> None:
        """A request, or the next one, takes too long."""
        self._cut_off(self._waits_for)

    def _cut_off(self, why: str) -> None:
        self.site.cut_off[why] = self.site.cut_off.get(why, 0) + 1
        self.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Let go of everything."""
        self._release()
        for call in self._deadline, self._next:
            if call is not None and call.active():
                call.cancel()
        self.site.channels.discard(self)
        super().connectionLost(reason)

    # Answers

    def requestDone(self, request: Any) -> None:
        """An answer is written: go on with the next request, but not at once, and not before the client has read this one."""
        self._release()
        # It stops LineReceiver's loop over what has come already.
        self.paused = True
        super().requestDone(request)
        if self._refused or not self.persistent:
            return
        self._await_request()
        if self._choked:
            self._networkProducer.pauseProducing()
        else:
            self._go_on_soon()

    def _go_on_soon(self) -> None:
        if self._next is None and self.paused:
            self._next = self.site.reactor.callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._next = None
        self.paused = False
        self._ahead = 0
        LineReceiver.dataReceived(self, b"")

    def pauseProducing(self) -> None:
        """The client reads slowly, and not for ever."""
        self._choked = True
        self._deadline = self._deadline or self.site.reactor.callLater(self.site.write_timeout, self._cut_off, "write")
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """The client has read what it was sent."""
        self._choked = False
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
        super().resumeProducing()
        self._go_on_soon()
