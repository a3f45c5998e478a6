"""The API's description for programs."""

from __future__ import annotations

from typing import Any

from phpmq import __version__
from phpmq.admin.http.operations import Operation
from phpmq.admin.http.problems import CODES
from phpmq.admin.http.routes import Routes
from phpmq.admin.http.schemas import COMPONENTS, NAME, TEXT, ref

# What any request may be answered with, any that is not free, any with a body, and any that changes something.
_ALWAYS = "bad-request", "foreign-host", "foreign-origin", "headers-too-large", "internal"
_CHECKED = "bad-setting", "not-acceptable"
_BODY = "too-large", "unsupported-media-type", "too-many-bodies"
_WRITE = ("draining",)


def document(routes: Routes) -> dict[str, Any]:
    """The OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in routes.operations:
        path = paths.setdefault(operation.path, {})
        path[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "phpmq",
            "version": __version__,
            "description": "What a queue server does, and what an operator can do. Names in paths are percent-encoded UTF-8; / is %2F.",
        },
        "paths": paths,
        "components": {"schemas": COMPONENTS},
    }


def codes(operation: Operation) -> tuple[str, ...]:
    """Of all errors that an operation can be answered with."""
    body = operation.body is not None
    checked = () if operation.free else _CHECKED
    return (*operation.codes, *_ALWAYS, *checked, *(_BODY if body else ()), *(_WRITE if operation.writes else ()))


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": [
            *(
                {"name": part[1:-1], "in": "path", "required": True, "schema": NAME if part == "{name}" else TEXT}
                for part in operation.parts
                if part.startswith("{")
            ),
            *(
                {"name": name, "in": "query", "required": name in operation.required, "schema": schema}
                for name, schema in operation.query.items()
            ),
        ],
        "responses": _answers(operation),
    }
    if operation.body is not None:
        required = [name for name in operation.body if name in operation.required]
        schema = {"type": "object", "properties": dict(operation.body), "required": required, "additionalProperties": False}
        if operation.one_of:
            schema["oneOf"] = [{"required": [name]} for name in operation.one_of]
        described["requestBody"] = {"required": bool(required or operation.one_of), "content": {"application/json": {"schema": schema}}}
    return described


def _answers(operation: Operation) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, (description, name) in operation.answers.items():
        schema = {} if name is None else {"schema": ref(name)}
        answers[str(status)] = {"description": description, "content": {operation.media: schema}}
    by_status: dict[int, list[str]] = {}
    for code in codes(operation):
        by_status.setdefault(CODES[code][0], []).append(code)
    for status, names in sorted(by_status.items()):
        answer = answers.setdefault(str(status), {"description": "", "content": {}})
        text = "; ".join(f"{name}: {CODES[name][1]}" for name in names)
        answer["description"] = f"{answer['description']} {text}.".strip()
        answer["content"]["application/problem+json"] = {"schema": ref("Problem")}
    return answers
