"""How an answer is written: as much at a time as the client takes, so that neither memory nor the others suffer from a large one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.web.http import Request
from zope.interface import implementer

from phpmq.admin import Page

#: What every answer has. Nothing here is for other sites' pages, for frames, or to be kept by a cache.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

#: Bytes, or characters of a text, that are written or turned into JSON at a time.
PIECE = 64 * 1024


def plain(value: Any) -> Any:
    """What JSON can have of a result."""
    return {"items": value.items, "next": value.next} if isinstance(value, Page) else value


def text_of(value: Any) -> bytes:
    """JSON."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def is_long(value: Any) -> bool:
    """Whether it is an object with a text that should be turned into JSON in pieces."""
    return isinstance(value, Mapping) and any(isinstance(member, str) and len(member) > PIECE for member in value.values())


def pieces_of(value: Mapping[str, Any]) -> Iterator[bytes]:
    """The JSON of an object, whose texts may be long."""
    before = b"{"
    for name, member in value.items():
        yield before + text_of(name) + b":"
        before = b","
        if isinstance(member, str):
            yield b'"'
            for start in range(0, len(member), PIECE):
                yield text_of(member[start : start + PIECE])[1:-1]
            yield b'"'
        else:
            yield text_of(member)
    yield b"}\n"


def slices_of(content: bytes) -> Iterator[bytes]:
    """Bytes in pieces."""
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]


@implementer(IPushProducer)
class Pieces:
    """Writes an answer while the client takes it."""

    def __init__(self, request: Request, pieces: Iterator[bytes]) -> None:
        self._request = request
        self._pieces = pieces
        self._running = self._writing = False

    def start(self) -> None:
        """Begin; the request is finished when all is written."""
        self._request.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        """The client takes more; see L{IPushProducer}."""
        self._running = True
        if self._writing:
            return  # It was paused and resumed within a write.
        self._writing = True
        while self._running:
            piece = next(self._pieces, None)
            if piece is None:
                self._running = False
                self._request.unregisterProducer()
                self._request.finish()
            else:
                self._request.write(piece)
        self._writing = False

    def pauseProducing(self) -> None:
        """The client does not; see L{IPushProducer}."""
        self._running = False

    def stopProducing(self) -> None:
        """It is gone; see L{IPushProducer}."""
        self._running = False
        self._pieces = iter(())
