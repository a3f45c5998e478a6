"""Messages that an operator sends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail
from zope.interface import implementer

from phpmq.broker import Broker
from phpmq.errors import BadSetting, PHPMQError, TooLarge
from phpmq.frames import DEFAULT_LIMITS, HEADERS, KEY
from phpmq.interfaces import IPeer
from phpmq.message import Message, Properties, check_name

_LEVELS = {"stored": False, "synced": True}


@implementer(IPeer)
class Sender:
    """Sends one message, through a channel as everybody does."""

    def __init__(self, broker: Broker, max_message_size: int) -> None:
        self._max_message_size = max_message_size
        self._channel = broker.channel(self)
        self._answer: Deferred[dict[str, Any]] = Deferred(lambda _: self._channel.close())

    def send(
        self,
        name: str,
        body: bytes,
        ttl: float,
        delay: float,
        headers: Mapping[str, str] | None,
        key: str | None,
        level: str,
    ) -> Deferred[dict[str, Any]]:
        """Send it. Fires with the receipt, fails with what is wrong; see L{Admin.send}."""
        try:
            check_name(name)
            if len(body) > self._max_message_size:
                raise TooLarge(f"a body of {len(body)} bytes, the limit is {self._max_message_size}")
            if level not in _LEVELS:
                raise BadSetting(f"a level is {' or '.join(_LEVELS)}, not {level!r}")
            properties = (
                Properties(_milliseconds("delay", delay), _key(key), _headers(headers)) if delay or headers or key is not None else None
            )
            self._channel.send(b"", name, body, _milliseconds("ttl", ttl), _LEVELS[level], properties)
        except PHPMQError as error:
            self._channel.close()
            return fail(error)
        return self._answer

    def deliver(self, message: Message, now: int) -> None:
        """It consumes nothing; see L{IPeer}."""

    def receipt(self, tag: bytes, id: bytes = b"", duplicate: bool = False) -> None:
        """It is stored, or synced; see L{IPeer}."""
        self._channel.close()
        self._answer.callback({"id": id.decode("ascii"), "duplicate": duplicate})

    def refused(self, tag: bytes | None, error: Exception) -> None:
        """It is not; see L{IPeer}."""
        self._channel.close()
        self._answer.errback(error)

    def superseded(self) -> None:
        """It is no producer; see L{IPeer}."""

    def room(self) -> None:
        """It does not wait; see L{IPeer}."""

    def flush(self) -> None:
        """It has nothing to write; see L{IPeer}."""


def _milliseconds(what: str, seconds: float) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 10**12:
        raise BadSetting(f"{what} is a number of seconds, 0 for none, not {seconds!r}")
    return max(1, round(seconds * 1000)) if seconds else 0


def _key(key: str | None) -> str:
    if key is None:
        return ""
    if not isinstance(key, str) or not key:
        raise BadSetting("a key is a text that is not empty")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        # The store writes many messages at once: this one would take others' with it.
        raise BadSetting("a key is UTF-8") from None
    if size > DEFAULT_LIMITS[KEY]:
        raise TooLarge(f"a key has at most {DEFAULT_LIMITS[KEY]} bytes")
    return key


def _headers(headers: Mapping[str, str] | None) -> bytes:
    if not headers:
        return b""
    if not isinstance(headers, Mapping) or not all(isinstance(value, str) for value in headers.values()):
        raise BadSetting("headers are strings by name")
    content = json.dumps(dict(headers), separators=(",", ":")).encode("ascii")
    if len(content) > DEFAULT_LIMITS[HEADERS]:
        raise TooLarge(f"headers of {len(content)} bytes, the limit is {DEFAULT_LIMITS[HEADERS]}")
    return content
