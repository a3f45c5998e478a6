"""How an answer is written: as much at a time as the client takes, so that neither memory nor the others suffer from a large one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.web.http import Request
from zope.interface import implementer

from phpmq.admin.pieces import PIECE
from phpmq.results import members

#: What every answer has. Nothing here is for other sites' pages, for frames, or to be kept by a cache.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def plain(value: Any) -> Any:
    """A value whose JSON can be made in pieces: the members of a result."""
    return members(value) if is_dataclass(value) else value


def is_long(value: Any) -> bool:
    """Whether it is an object with a text that should be turned into JSON as the client takes it."""
    return isinstance(value, Mapping) and any(isinstance(member, str) and len(member) > PIECE for member in value.values())


def has_lists(value: Any) -> bool:
    """Whether it is an object with lists, which may be long."""
    return isinstance(value, Mapping) and any(isinstance(member, list | tuple) for member in value.values())


def grouped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same in pieces that are worth a write each."""
    group: list[bytes] = []
    size = 0
    for piece in pieces:
        group.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield b"".join(group)
            group, size = [], 0
    if group:
        yield b"".join(group)


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
