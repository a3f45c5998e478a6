"""
JSON objects as requests have them: flat.

A parser for any JSON makes an object of every bracket: 20 MB of them are seconds of work and a gigabyte of memory. Here a value is a
string, a number, true, false, null, or an array or an object of those, of a limited length; anything else is refused where it begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from json import JSONDecoder
from typing import Any

#: The most members of an object, and items of an array.
MAX_MEMBERS, MAX_ITEMS = 256, 1000

_decode = JSONDecoder().raw_decode

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?", re.ASCII)
_LITERALS = {"true": True, "false": False, "null": None}

# Longer numbers are none that anything here could have.
_MAX_DIGITS = 40


class Reader:
    """Reads one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0

    def read(self) -> dict[str, Any]:
        """
        The object that the text is.

        @raise ValueError: it is none, or not flat
        """
        self._skip()
        if self._next() != "{":
            raise ValueError("expected an object")
        value = self._object(lambda: self._value(True))
        self._skip()
        if self._place < len(self._text):
            raise ValueError(f"expected nothing more at {self._place}")
        return value

    def _next(self) -> str:
        return self._text[self._place : self._place + 1]

    def _skip(self) -> None:
        match = _SPACE.match(self._text, self._place)
        assert match is not None
        self._place = match.end()

    def _value(self, outer: bool) -> Any:
        first = self._next()
        if first == '"':
            return self._string()
        if outer and first == "{":
            return self._object(lambda: self._value(False))
        if outer and first == "[":
            return self._array()
        if (number := _NUMBER.match(self._text, self._place)) is not None:
            return self._number(number)
        for literal, value in _LITERALS.items():
            if self._text.startswith(literal, self._place):
                self._place += len(literal)
                return value
        raise ValueError(f"expected {'a value' if outer else 'a string or a number'} at {self._place}")

    def _string(self) -> str:
        value: str
        value, self._place = _decode(self._text, self._place)
        return value

    def _number(self, number: re.Match[str]) -> int | float:
        self._place = number.end()
        if len(number[0]) > _MAX_DIGITS:
            raise ValueError(f"a number of more than {_MAX_DIGITS} characters")
        return int(number[0]) if number[1] is None and number[2] is None else float(number[0])

    def _object(self, value: Callable[[], Any]) -> dict[str, Any]:
        members: dict[str, Any] = {}

        def member() -> None:
            if self._next() != '"':
                raise ValueError(f"expected a name at {self._place}")
            name = self._string()
            if name in members:
                raise ValueError("a name that is there twice")
            self._skip()
            self._expect(":")
            self._skip()
            members[name] = value()

        self._sequence("}", member, MAX_MEMBERS)
        return members

    def _array(self) -> list[Any]:
        items: list[Any] = []
        self._sequence("]", lambda: items.append(self._value(False)), MAX_ITEMS)
        return items

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise ValueError(f"expected {character!r} at {self._place}")
        self._place += 1

    def _sequence(self, end: str, element: Callable[[], object], most: int) -> None:
        """Elements between commas, up to the end."""
        self._place += 1
        self._skip()
        if self._next() == end:
            self._place += 1
            return
        for _ in range(most):
            element()
            self._skip()
            if self._next() == end:
                self._place += 1
                return
            self._expect(",")
            self._skip()
        raise ValueError(f"more than {most} elements")
