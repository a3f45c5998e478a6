"""
Every operation of the API in one table: the dispatcher and the OpenAPI document are made of it, so that they cannot differ.

Most operations are the admin's own methods; the functions here do what only HTTP needs.
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any
from urllib.parse import quote

from phpmq import __version__
from phpmq.admin.admin import Admin
from phpmq.admin.http import schemas
from phpmq.admin.http.problems import CODES, Problem
from phpmq.admin.http.schemas import LIMIT, MESSAGE, NAME, PATTERN, PLACE, PROPERTIES, SOME, TEXT, record
from phpmq.errors import BadSetting
from phpmq.results import KINDS, ClientStatus, Schema, json_bytes, schema_of

#: The most bytes of a request's JSON, and of a message's body in an answer's: more takes long to parse or make, so it is sent and read raw.
JSON_LIMIT = 256 * 1024

JSON, RAW = "application/json", "application/octet-stream"

#: The header that has, as JSON, all about a message whose body is sent or read raw.
PROPERTIES_HEADER = "Phpmq-Message"


@dataclass(frozen=True)
class Answer:
    """An answer that is not simply a result with status 200; the value is a result, or bytes that are written as they are."""

    status: int
    value: Any
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """One method of one path. What only looks ends when its client closes, what changes anything is finished."""

    id: str
    method: str
    path: str  # a template; {name} stands for a part
    summary: str
    call: Callable[..., Any] | None  # takes the admin, and all parameters and fields by name; None for what the site serves itself
    result: str | None = None  # the name of its answers' schema; None for answers that are not JSON
    codes: tuple[str, ...] = ()  # of the errors that only this operation has
    query: Mapping[str, Schema] = field(default_factory=dict)  # its parameters
    required: tuple[str, ...] = ()  # parameters and fields, besides one of one_of
    body: Mapping[str, Schema] | None = None  # its fields
    also: Mapping[int, str] = field(default_factory=dict)  # statuses of its answers beside 200, and what they mean
    one_of: tuple[str, ...] = ()
    raw: bool = False  # whether the field body may be sent as it is, with all others in PROPERTIES_HEADER
    media: str = JSON  # the type of its answers
    free: bool = False  # whether parameters and types are checked by what the site serves
    abandoned: bool = False  # whether it ends when its client closes, though it changes something

    @property
    def writes(self) -> bool:
        """Whether it changes anything."""
        return self.method not in ("GET", "HEAD")

    def match(self, parts: list[str]) -> dict[str, str] | None:
        """Return what the parts of a path are for the template's names; None if the template is that of another path."""
        template = self.path.split("/")[1:]
        names = {wanted[1:-1]: part for wanted, part in zip(template, parts, strict=False) if wanted.startswith("{") and part}
        return names if [names.get(wanted[1:-1], wanted) for wanted in template] == parts else None


def call(method: str) -> Callable[..., Any]:
    """Return what calls a method of the admin, such as C{queues.list}."""
    find = attrgetter(method)
    return lambda admin, **given: find(admin)(**given)


async def send(admin: Admin, name: str, body: str | bytes | None = None, body_base64: str = "", **properties: Any) -> Answer:
    """Send a message, from bytes, text or base64; the answer is the receipt."""
    content = _decode(body_base64) if body is None else body.encode() if isinstance(body, str) else body
    receipt = await admin.messages.send(name, content, **properties)
    return Answer(200 if receipt.duplicate else 201, receipt, {"Location": _path(name, receipt.id)})


def _decode(text: str) -> bytes:
    try:
        if len(text) % 4:
            raise ValueError("it is not padded")  # strict mode takes an additional = at the end
        return a2b_base64(text, strict_mode=True)
    except ValueError:
        raise BadSetting("body_base64 is no base64") from None


def _path(name: str, id: str) -> str:
    return f"/api/v1/queues/{quote(name, safe='')}/messages/{id}"


def get_message(admin: Admin, name: str, id: str) -> Answer:
    """Return a message with its body, or the beginning of a long one, and where the whole body is."""
    message, _ = admin.messages.read(name, id, JSON_LIMIT)
    return Answer(200, message, {"Link": f'<{_path(name, id)}/body>; rel="alternate"; type="{RAW}"'})


def get_body(admin: Admin, name: str, id: str) -> Answer:
    """Return the body of a message as it is."""
    message, body = admin.messages.read(name, id)
    properties = json_bytes(replace(message, truncated=False, body=None, body_base64=None)).decode("ascii")
    return Answer(200, body, {PROPERTIES_HEADER: properties.replace("\x7f", "\\u007f")})


def configure(admin: Admin, name: str, **settings: Any) -> Answer:
    """Change settings of a queue; the answer tells whether the queue is new."""
    there = admin.queues.exists(name)
    changed = admin.queues.configure(name, settings)
    return Answer(201 if not there and admin.queues.exists(name) else 200, changed)


def readyz(admin: Admin) -> Answer:
    """Return whether all is well, as status and as result."""
    health = admin.health()
    return Answer(200 if health.ready else 503, health)


def disconnect(admin: Admin, id: str) -> ClientStatus:
    """Close a connection of a client."""
    if not (id.isascii() and id.isdigit() and len(id) < 20):
        raise Problem("no-such-client", f"there is no client {id!r}")
    return admin.clients.disconnect(int(id))


_PAGE = {"limit": LIMIT, "after": PLACE}
_QUEUES, _QUEUE, _MESSAGES, _MESSAGE = (f"/api/v1/queues{path}" for path in ("", "/{name}", "/{name}/messages", "/{name}/messages/{id}"))
_DEAD = {"state": {"enum": ["dead"]}, "reason": TEXT, "count": SOME}

_NO_QUEUE, _NO_MESSAGE, _BAD_NAME = ("no-such-queue",), ("no-such-message",), ("bad-name",)
# What takes several turns of a server that has a lot is not finished while it stops, even if it only looks.
_TURNS = ("draining",)
_FULL = ("queue-full", "memory-full", "disk-failing", "not-allowed", "too-large", "bad-name")

#: All operations but that of the metrics.
OPERATIONS = (
    Operation("overview", "GET", "/", "What can be looked at, for people.", None, media="text/html"),
    Operation("openapi", "GET", "/openapi.json", "This document.", None),
    Operation("livez", "GET", "/livez", "Whether the process answers at all.", lambda _: {"status": "ok"}, "Alive"),
    Operation(
        "readyz", "GET", "/readyz", "Whether the server does what it is for, check by check.", readyz, "Health", also={503: "Not ready"}
    ),
    Operation("status", "GET", "/api/v1/status", "The whole server.", call("status"), "Status"),
    Operation(
        *("events", "GET", "/api/v1/events", "The events 'status' (a Status each second) and 'alarm' (an Alarm with 'active').", None),
        codes=("too-many-readers",),
        media="text/event-stream",
    ),
    Operation(
        *("listQueues", "GET", _QUEUES, "Queues, by pages.", call("queues.list"), "Queues", _TURNS),
        query={"limit": LIMIT, "after": TEXT, "filter": PATTERN, "sort": schemas.SORT},
    ),
    Operation("getQueue", "GET", _QUEUE, "One queue, and who consumes it.", call("queues.get"), "QueueDetail", (*_NO_QUEUE, *_TURNS)),
    Operation(
        *("putQueue", "PUT", _QUEUE, "Make a queue, or change some of its settings.", configure, "Queue", _BAD_NAME),
        body=schemas.SETTINGS,
        also={201: "The queue is new"},
    ),
    Operation(
        *("deleteQueue", "DELETE", _QUEUE, "Remove what a queue holds, its dead letters, settings and pause."),
        *(call("queues.delete"), "Deleted", _NO_QUEUE),
    ),
    Operation(
        *("listMessages", "GET", _MESSAGES, "A queue's messages of one state, by pages; nothing changes by it."),
        *(call("messages.list"), "Messages", (*_NO_QUEUE, *_TURNS)),
        query={**_PAGE, "state": schemas.STATE, "preview": schemas.PREVIEW},
    ),
    Operation(
        *("sendMessage", "POST", _MESSAGES, "Send a message, raw or as JSON; the answer is the receipt.", send, "Receipt", _FULL),
        body=MESSAGE,
        one_of=("body", "body_base64"),
        also={201: "It is stored; with 200 it was there already"},
        raw=True,
        abandoned=True,
    ),
    Operation(
        *("deleteMessages", "DELETE", _MESSAGES, "Delete dead letters of a queue: all, or some."),
        *(lambda admin, state, **which: admin.dead_letters.delete(**which), "DeadDeleted", _NO_QUEUE),
        query=_DEAD,
        required=("state",),
    ),
    Operation(
        *("getMessage", "GET", _MESSAGE, f"One message with {JSON_LIMIT // 1024} KiB of its body; the header Link leads to all of it."),
        *(get_message, "Message", _NO_MESSAGE),
    ),
    Operation("getMessageBody", "GET", f"{_MESSAGE}/body", "The body of one message as it is.", get_body, None, _NO_MESSAGE, media=RAW),
    Operation(
        *("deleteMessage", "DELETE", _MESSAGE, "Delete one dead letter."),
        *(lambda admin, name, id: admin.dead_letters.delete(name, [id]), "DeadDeleted", (*_NO_QUEUE, *_NO_MESSAGE)),
    ),
    Operation(
        *("flushQueue", "POST", f"{_QUEUE}/flush", "Remove what is ready or delayed; what is in flight is left to its consumers."),
        *(call("queues.flush"), "Flushed", _NO_QUEUE),
        body={},
    ),
    Operation(
        *("pauseQueue", "POST", f"{_QUEUE}/pause", "Stop deliveries, sends or both; the queue is made if it is not there."),
        *(call("queues.pause"), "Queue", _BAD_NAME),
        body={"what": schemas.WHAT},
    ),
    Operation(
        *("resumeQueue", "POST", f"{_QUEUE}/resume", "Undo a pause.", call("queues.resume"), "Queue", _NO_QUEUE),
        body={"what": schemas.WHAT},
    ),
    Operation(
        *("replayMessages", "POST", f"{_QUEUE}/replay", "Requeue dead letters: all, or some."),
        *(call("dead_letters.replay"), "Replayed", (*_NO_QUEUE, *_NO_MESSAGE, *_BAD_NAME)),
        body={"target": NAME, "ids": schemas.IDS, "reason": TEXT, "count": SOME},
    ),
    Operation(
        *("moveMessages", "POST", f"{_QUEUE}/move", "Move messages that are ready to the tail of another queue."),
        *(lambda admin, name, **given: admin.messages.move(name, **given), "Moved", (*_NO_QUEUE, *_BAD_NAME)),
        body={"target": NAME, "count": SOME},
        required=("target",),
    ),
    Operation("flushAll", "POST", "/api/v1/flush", "Flush all queues.", call("queues.flush_all"), "FlushedAll", body={}),
    Operation(
        *("listClients", "GET", "/api/v1/clients", "Connections, by pages.", call("clients.list"), "Clients", _TURNS),
        query={**_PAGE, "filter": PATTERN},
    ),
    Operation(
        *("disconnectClient", "DELETE", "/api/v1/clients/{id}", "Close a connection; what it holds is ready again."),
        *(disconnect, "Client", ("no-such-client",)),
    ),
)

#: The operation that is there if the metrics are installed.
METRICS = Operation("metrics", "GET", "/metrics", "Metrics for Prometheus.", None, media="text/plain", free=True)


def find(operations: Sequence[Operation], method: str, parts: list[str]) -> tuple[Operation, dict[str, str]]:
    """Find an operation by the decoded parts of a path, with those that have names; raise L{Problem} if there is none. HEAD is as GET."""
    found = {one.method: (one, names) for one in operations if (names := one.match(parts)) is not None}
    if not found:
        raise Problem("not-found", "there is nothing at this path: /openapi.json names all paths")
    if "GET" in found:
        found = {"GET": found["GET"], "HEAD": found["GET"], **found}
    if method not in found:
        raise Problem("method-not-allowed", f"the methods of this path are {', '.join(found)}", {"Allow": ", ".join(found)})
    return found[method]


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _page(name: str) -> Schema:
    after = {"type": ["string", "null"], "description": "What to give as 'after' for what follows; null at the end."}
    return record(items={"type": "array", "items": _ref(name)}, next=after)


_COMPONENTS: dict[str, Schema] = {
    "Problem": record(type=TEXT, title=TEXT, status={"type": "integer"}, detail=TEXT, code={"enum": list(CODES)}),
    "Alive": record(status={"const": "ok"}),
    **{name: schema_of(kind) for name, kind in KINDS.items()},
    **{f"{name}s": _page(name) for name in ("Queue", "Message", "Client")},
}

# Codes that any request may be answered with, any that is not free, any with a body, and any that changes something.
_ALWAYS = "bad-request", "foreign-host", "foreign-origin", "headers-too-large", "internal"
_CHECKED = "bad-setting", "not-acceptable"
_BODY = "too-large", "unsupported-media-type", "too-many-bodies"
_WRITE = ("draining",)


def codes_of(operation: Operation) -> tuple[str, ...]:
    """Return the codes of all errors that an operation can be answered with."""
    checked = () if operation.free else _CHECKED
    body = () if operation.body is None else _BODY
    return (*operation.codes, *_ALWAYS, *checked, *body, *(_WRITE if operation.writes else ()))


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(operation)
    text = "What a queue server does, and what an operator can do. Names in paths are percent-encoded UTF-8; / is %2F."
    info = {"title": "phpmq", "version": __version__, "description": text}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": _COMPONENTS}}


def _describe(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {"operationId": operation.id, "summary": operation.summary}
    described |= {"parameters": _parameters(operation), "responses": _responses(operation)}
    if operation.body is not None:
        schema = record(*(name for name in operation.body if name not in operation.required), **operation.body)
        if operation.one_of:
            schema["oneOf"] = [{"required": [name]} for name in operation.one_of]
        content = {JSON: {"schema": schema}, **({RAW: {}} if operation.raw else {})}
        described["requestBody"] = {"required": bool(schema["required"] or operation.one_of), "content": content}
    return described


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", operation.path)
    found = [{"name": name, "in": "path", "required": True, "schema": NAME if name == "name" else TEXT} for name in names]
    for name, schema in operation.query.items():
        found.append({"name": name, "in": "query", "required": name in operation.required, "schema": schema})
    if operation.raw:
        text = f"Properties of a message whose body is sent as {RAW}; not for JSON, which has them as fields."
        content = {JSON: {"schema": record(*PROPERTIES, **PROPERTIES)}}
        found.append({"name": PROPERTIES_HEADER, "in": "header", "required": False, "description": text, "content": content})
    return found


def _responses(operation: Operation) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, description in {200: "OK", **operation.also}.items():
        schema = {} if operation.result is None else {"schema": _ref(operation.result)}
        answers[str(status)] = {"description": f"{description}.", "content": {operation.media: schema}}
        if operation.media == RAW:
            header = {"description": "The message without its body.", "content": {JSON: {"schema": _ref("Message")}}}
            answers[str(status)]["headers"] = {PROPERTIES_HEADER: header}
    by_status: dict[int, list[str]] = {}
    for code in codes_of(operation):
        status, text = CODES[code]
        by_status.setdefault(status, []).append(f"{code}: {text}")
    for status, texts in sorted(by_status.items()):
        answer = answers.setdefault(str(status), {"description": "", "content": {}})
        answer["description"] = f"{answer['description']} {'; '.join(texts)}.".strip()
        answer["content"]["application/problem+json"] = {"schema": _ref("Problem")}
    return answers
