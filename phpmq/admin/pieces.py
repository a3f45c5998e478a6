"""JSON of results, in pieces that are quickly made however large the whole is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from phpmq.results import members

#: Characters of a text that are turned into JSON at a time.
PIECE = 64 * 1024


def text_of(value: Any) -> bytes:
    """JSON of a value, or of a result."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=members).encode("ascii")


def pieces_of(value: Mapping[str, Any]) -> Iterator[bytes]:
    """The JSON of an object whose texts may be long, and its lists."""
    before = b"{"
    for name, member in value.items():
        yield before + text_of(name) + b":"
        before = b","
        if isinstance(member, str):
            yield from _text(member)
        elif isinstance(member, list | tuple):
            yield from _list(member)
        else:
            yield text_of(member)
    yield b"}" if value else b"{}"


def _text(text: str) -> Iterator[bytes]:
    yield b'"'
    for start in range(0, len(text), PIECE):
        yield text_of(text[start : start + PIECE])[1:-1]
    yield b'"'


def _list(items: Sequence[Any]) -> Iterator[bytes]:
    before = b"["
    for item in items:
        yield before + text_of(item)
        before = b","
    yield b"]" if items else b"[]"
