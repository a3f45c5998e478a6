"""Messages, living and dead, as the API tells of them."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from phpmq.text import format_duration, format_size

if TYPE_CHECKING:
    from phpmq.cli.admin.api import Api

# When things happened or will, in columns. The body, which can be of any length, is last.
_COMMON = "ID", ">SIZE", ">ATTEMPTS"
_HEADINGS = {
    "ready": (*_COMMON, ">AGE", "BODY"),
    "delayed": (*_COMMON, ">AGE", ">READY IN", "BODY"),
    "in_flight": (*_COMMON, ">AGE", "BODY"),
    "dead": (*_COMMON, ">DIED", "REASON", "BODY"),
}

Letter = Mapping[str, Any]


def moment(text: str) -> float:
    """A time of the API's, in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


async def now(api: Api) -> float:
    """What time it is for the server: its messages' times are by that clock."""
    return moment((await api.get("ask for the time", "status", wants=("now",)))["now"])


def headings(state: str) -> tuple[str, ...]:
    """Those of a table of messages in one state."""
    return _HEADINGS[state]


def row(letter: Letter, now: float) -> tuple[str, ...]:
    """A message's line in such a table."""
    common = letter["id"], format_size(letter["size"]), f"{letter['attempts']:,}"
    body = body_of(letter).decode("utf-8", "backslashreplace") + ("…" if letter["truncated"] else "")
    if letter["state"] == "dead":
        return (*common, f"{_since(letter['died_at'], now)} ago", why(letter), body)
    due = (format_duration(moment(letter["due_at"]) - now),) if letter["state"] == "delayed" else ()
    return (*common, _since(letter["accepted_at"], now), *due, body)


def why(letter: Letter) -> str:
    """Why a dead letter is one."""
    return f"{letter['reason']}: {letter['text']}" if letter["text"] else str(letter["reason"])


def body_of(letter: Letter) -> bytes:
    """The body, as far as it is shown."""
    return b64decode(letter["body_base64"]) if "body_base64" in letter else letter["body"].encode()


def facts(queue: str, letter: Letter, now: float) -> list[str]:
    """All about one message but its body, in lines."""
    lines = [
        f"message   {letter['id']}",
        f"queue     {queue}, {letter['state'].replace('_', ' ')}",
        f"body      {format_size(letter['size'])}",
        f"attempts  {letter['attempts']:,}",
        f"accepted  {letter['accepted_at']}, {_since(letter['accepted_at'], now)} ago",
    ]
    if letter["state"] == "dead":
        lines += [f"died      {letter['died_at']}, {_since(letter['died_at'], now)} ago", f"reason    {why(letter)}"]
    else:
        if letter["due_at"] is not None:
            lines.append(f"ready     {letter['due_at']}, in {format_duration(moment(letter['due_at']) - now)}")
        if letter["expires_at"] is not None:
            lines.append(f"expires   {letter['expires_at']}, in {format_duration(moment(letter['expires_at']) - now)}")
        if letter["key"] is not None:
            lines.append(f"key       {letter['key']}")
    return [*lines, *(f"header    {name}: {value}" for name, value in letter["headers"].items())]


def _since(text: str, now: float) -> str:
    return format_duration(now - moment(text))
