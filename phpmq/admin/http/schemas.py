"""What requests may hold, as JSON Schema: requests are checked with it, and the OpenAPI document shows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

from phpmq.errors import BadSetting
from phpmq.message import MAX_NAME, MAX_PAGE, MAX_PREVIEW, PAUSES, SORTS, QueueSettings
from phpmq.results import LISTED, Schema, schema_of

#: The most items of an array.
MAX_ITEMS = 1000

# The largest number that every JSON parser reads exactly.
_LARGEST = 2**53 - 1

TEXT: Schema = {"type": "string"}
_SECONDS: Schema = {"type": "number", "minimum": 0, "maximum": 10**12 - 1}

# The patterns tell clients; what they say is checked where the values are used.
_BASE64 = {"type": "string", "contentEncoding": "base64", "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"}
NAME: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_NAME, "pattern": "^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]+$"}

#: Parameters of lists.
SORT: Schema = {"enum": [*SORTS, *(f"-{sort}" for sort in SORTS)]}
LIMIT: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}
PLACE: Schema = {"type": "string", "pattern": "^[0-9]{0,18}$"}
PREVIEW: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_PREVIEW}
PATTERN: Schema = {"type": "string", "maxLength": 255}
STATE: Schema = {"enum": list(LISTED)}

#: Fields that say what is to be done to what.
WHAT: Schema = {"enum": list(PAUSES)}
IDS: Schema = {"type": "array", "items": TEXT, "maxItems": MAX_ITEMS}
SOME: Schema = {"type": "integer", "minimum": 1, "maximum": _LARGEST}

#: Properties of a message that is sent, which C{Phpmq-Message} has for a raw body.
PROPERTIES: dict[str, Schema] = {
    "ttl": {**_SECONDS, "description": "Seconds until it expires; 0 for never."},
    "delay": {**_SECONDS, "description": "Seconds until it is ready."},
    "headers": {"type": "object", "additionalProperties": TEXT, "description": "Strings by name."},
    "key": {**TEXT, "minLength": 1, "description": "A second message with it stores nothing while the queue knows the first one."},
    "level": {"enum": ["stored", "synced"], "description": "What the answer waits for: memory, or the disk."},
}

#: A message that is sent as JSON.
MESSAGE: dict[str, Schema] = {
    "body": {**TEXT, "description": "The body as text. Either this or body_base64 has to be there."},
    "body_base64": {**_BASE64, "description": "The body as base64, for what is no text."},
    **PROPERTIES,
}


def _or_null(schema: Schema) -> Schema:
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"], "maximum": _LARGEST}


#: What a PUT of a queue may change; null gives the default back.
SETTINGS: dict[str, Schema] = {name: _or_null(schema) for name, schema in schema_of(QueueSettings)["properties"].items()}


def record(*optional: str, **properties: Schema) -> Schema:
    """Return the schema of an object that has these properties, except perhaps the optional ones, and no other."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def parse_object(content: bytes | bytearray) -> dict[str, Any]:
    """Parse a JSON object; raise C{ValueError} if the content is none, or one that parsers take differently."""
    try:
        value = json.loads(content.decode(), object_pairs_hook=_object_of, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is something else")
    return value


def _object_of(members: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(members)
    if len(value) < len(members):
        raise ValueError("it has a name twice")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"there is no {text} in JSON")


def parse(text: str, schema: Schema) -> Any:
    """Return the value of a parameter's text: a number where the schema asks for one."""
    if schema.get("type") == "integer" and text.isascii() and text.isdigit() and len(text) < 20:
        return int(text)
    return text


def check(name: str, value: Any, schema: Schema) -> Any:
    """Return a value of a request as the server takes it, or raise L{BadSetting} if the schema does not allow it."""
    kind = schema.get("type", "")
    types = [kind] if isinstance(kind, str) else kind
    if "enum" in schema:
        if value not in schema["enum"] or isinstance(value, bool):
            raise BadSetting(f"{name} is {' or '.join(str(each) for each in schema['enum'] if each is not None)}, not {_shown(value)}")
        return value
    return None if value is None and "null" in types else _CHECKS[types[0]](name, value, schema)


def _shown(value: Any) -> str:
    # What is nested deeply has no repr.
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else f"{value!r:.100}"


def _text(name: str, value: Any, schema: Schema) -> str:
    if not isinstance(value, str):
        raise BadSetting(f"{name} is a text, not {_shown(value)}")
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        raise BadSetting(f"{name} has {len(value)} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadSetting(f"{name} has half of a character") from None
    return value


def _number(name: str, value: Any, schema: Schema) -> int | float:
    least, most, whole = schema.get("minimum", 0), schema["maximum"], "integer" in schema["type"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most or (whole and value % 1):
        raise BadSetting(f"{name} is a {'whole ' if whole else ''}number from {least} to {most}, not {_shown(value)}")
    return int(value) if whole else value


def _list(name: str, value: Any, schema: Schema) -> list[Any]:
    if not isinstance(value, list) or len(value) > schema["maxItems"]:
        raise BadSetting(f"{name} is a list of at most {schema['maxItems']}")
    return [check(f"an item of {name}", item, schema["items"]) for item in value]


def _object(name: str, value: Any, schema: Schema) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadSetting(f"{name} is an object, not {_shown(value)}")
    of = schema["additionalProperties"]
    return {_text(f"a name in {name}", key, TEXT): check(f"{name}.{key}", member, of) for key, member in value.items()}


_CHECKS: dict[str, Callable[[str, Any, Schema], Any]] = {
    "string": _text,
    "integer": _number,
    "number": _number,
    "array": _list,
    "object": _object,
}
