"""What the API does, one function each; most are the admin's own methods."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any
from urllib.parse import quote

from phpmq.admin import Admin
from phpmq.admin.http.problems import Problem
from phpmq.admin.http.schemas import MESSAGE
from phpmq.errors import BadSetting
from phpmq.interfaces import Steps
from phpmq.results import ClientStatus, DeadDeleteResult, MoveResult, Schema

#: The largest body of a request, but for a message's.
BODY_LIMIT = 1024 * 1024

#: The largest body of a message that HTTP takes: parsing a larger one would stop everybody for too long.
MESSAGE_LIMIT = 16 * 1024 * 1024

# So much base64 is decoded before others get their turn.
_STEP = 4 * 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """What an operation answers where it is not simply 200."""

    status: int
    value: Any
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """
    One method of one path.

    @ivar id: its name in the OpenAPI document
    @ivar path: a template; C{{name}} stands for a part
    @ivar summary: one sentence
    @ivar call: does it; takes the admin, and all parameters and fields by name. None for what the site serves itself
    @ivar answers: status -> what it means, and the name of its schema; None for one that is no JSON
    @ivar codes: of the errors that are its own
    @ivar query: parameters
    @ivar required: names of those, and of fields, that have to be there
    @ivar body: fields
    @ivar one_of: fields of which exactly one has to be there
    @ivar media: the type of its answers
    @ivar free: whether parameters and types are the business of what the site serves
    @ivar abandoned: whether it ends when its client goes, as what only looks does; what is begun otherwise is finished
    """

    id: str
    method: str
    path: str
    summary: str
    call: Callable[..., Any] | None
    answers: Mapping[int, tuple[str, str | None]]
    codes: tuple[str, ...] = ()
    query: Mapping[str, Schema] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    body: Mapping[str, Schema] | None = None
    one_of: tuple[str, ...] = ()
    media: str = "application/json"
    free: bool = False
    abandoned: bool = False

    @property
    def writes(self) -> bool:
        """Whether it changes anything."""
        return self.method not in ("GET", "HEAD")

    @property
    def parts(self) -> list[str]:
        """The path's parts."""
        return self.path.split("/")[1:]

    def body_limit(self, max_message_size: int) -> int:
        """The largest body of a request, in bytes: base64 makes four of three, and there are other fields."""
        return BODY_LIMIT + (min(max_message_size, MESSAGE_LIMIT) * 4 // 3 if self.body is MESSAGE else 0)


def call(method: str) -> Callable[..., Any]:
    """What calls a method of the admin, such as C{queues.list}."""
    find = attrgetter(method)
    return lambda admin, **arguments: find(admin)(**arguments)


async def send(admin: Admin, name: str, body: str | None = None, body_base64: str | None = None, **more: Any) -> Answer:
    """Send a message, from text or base64: the receipt."""
    content = body.encode() if body is not None else await admin.work.run(_decoded(body_base64 or ""))
    if len(content) > MESSAGE_LIMIT:
        raise Problem("too-large", f"a body of {len(content)} bytes, over HTTP the limit is {MESSAGE_LIMIT}")
    receipt = await admin.messages.send(name, content, **more)
    location = f"/api/v1/queues/{quote(name, safe='')}/messages/{receipt.id}"
    return Answer(200 if receipt.duplicate else 201, receipt, {"Location": location})


def _decoded(text: str) -> Steps[bytes]:
    parts: list[bytes] = []
    for start in range(0, len(text), _STEP):
        if start:
            yield
        try:
            if parts and len(parts[-1]) % 3:
                raise ValueError("an end in the middle")
            parts.append(b64decode(text[start : start + _STEP], validate=True))
        except (Error, ValueError):
            raise BadSetting("body_base64 is no base64") from None
    content = b"".join(parts)
    if len(content) > _STEP:
        yield  # To store it takes as long again.
    return content


def configure(admin: Admin, name: str, **settings: Any) -> Answer:
    """Change settings, and tell whether the queue is new."""
    there = admin.queues.exists(name)
    changed = admin.queues.configure(name, settings)
    return Answer(201 if not there and admin.queues.exists(name) else 200, changed)


def readyz(admin: Admin) -> Answer:
    """Whether all is well."""
    health = admin.health()
    return Answer(200 if health.ready else 503, health)


async def move(admin: Admin, name: str, target: str, count: int | None = None) -> MoveResult:
    """Move messages to another queue."""
    return await admin.messages.move(name, target, count)


def disconnect(admin: Admin, id: str) -> ClientStatus:
    """Close a connection."""
    if not (id.isascii() and id.isdigit() and len(id) < 20):
        raise Problem("no-such-client", f"there is no client {id!r}")
    return admin.clients.disconnect(int(id))


async def delete_letter(admin: Admin, name: str, id: str) -> DeadDeleteResult:
    """Delete one dead letter."""
    return await admin.dead_letters.delete(name, [id])


async def delete_letters(admin: Admin, name: str, state: str, **which: Any) -> DeadDeleteResult:
    """Delete dead letters, which is what C{state} says: there is no other state whose messages can be deleted."""
    return await admin.dead_letters.delete(name, **which)
