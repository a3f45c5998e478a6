"""Messages as lines of JSON: C{phpmq export} writes them, C{phpmq consume --json} prints them, and C{phpmq import} reads them."""

from __future__ import annotations

import base64
import json
import math
from binascii import Error
from collections.abc import Callable, Mapping
from typing import Any


def content(body: bytes) -> dict[str, str]:
    """Return a body as text if it is UTF-8, otherwise as base64."""
    try:
        return {"body": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode("ascii")}


def message_of(line: bytes) -> tuple[bytes, dict[str, Any]]:
    """
    Return the body, and the other arguments of C{QueueClient.send}; without what a new message cannot have, such as an id.

    @raise ValueError: why the line is no message
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    if value.get("truncated") or (value.get("expires_at") and "ttl" not in value):
        raise ValueError("it is not what phpmq export writes: a part of the message is missing")
    try:
        fields = {name: read(name, value[name]) for name, read in _FIELDS.items() if value.get(name) is not None}
        return _body(value), fields
    except UnicodeEncodeError:
        raise ValueError("it has half of a character") from None


def _body(value: Mapping[str, Any]) -> bytes:
    text, encoded = value.get("body"), value.get("body_base64")
    if (text is None) == (encoded is None) or not isinstance(text if encoded is None else encoded, str):
        raise ValueError("it has to have either body or body_base64, which is a text")
    try:
        return text.encode() if encoded is None else base64.b64decode(encoded, validate=True)  # type: ignore[union-attr]
    except UnicodeEncodeError:
        raise
    except (Error, ValueError):
        raise ValueError("its body_base64 is no base64") from None


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"its {name} is no number of seconds")
    return value


def _headers(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"its {name} are not texts by name")
    "".join([*value, *value.values()]).encode()
    return value


def _key(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"its {name} is no text, or empty")
    value.encode()
    return value


_FIELDS: dict[str, Callable[[str, Any], Any]] = {"ttl": _seconds, "delay": _seconds, "headers": _headers, "key": _key}
