"""What requests may hold and answers do, as JSON Schema: requests are checked with it, and the OpenAPI document shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phpmq.admin.http.flat import MAX_ITEMS
from phpmq.admin.http.problems import CODES
from phpmq.errors import BadSetting
from phpmq.message import MAX_NAME, QueueSettings
from phpmq.results import KINDS, LISTED, MAX_PAGE, MAX_PREVIEW, PAUSES, SORTS, Schema, schema_of

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SECONDS: Schema = {"type": "number", "minimum": 0}
BASE64: Schema = {"type": "string", "contentEncoding": "base64", "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"}
MOMENT: Schema = {"type": "string", "format": "date-time"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}


def ref(name: str) -> Schema:
    """A schema of L{COMPONENTS}."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(**properties: Schema) -> Schema:
    """An object that has these properties, all of them and no other."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def some(schema: Schema) -> Schema:
    """That, or null."""
    return {**schema, "type": [schema["type"], "null"]}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _page(name: str) -> Schema:
    return record(items=_list(ref(name)), next={**some(TEXT), "description": "What to give as 'after' for what follows; null at the end."})


_CHOICES = QueueSettings._CHOICES

#: What a PUT may change; null gives the default back.
SETTINGS: dict[str, Schema] = {
    "max_messages": {**some(COUNT), "maximum": 2**53 - 1, "description": "How many messages may wait; 0 for no limit."},
    "max_bytes": {**some(COUNT), "maximum": 2**53 - 1, "description": "How many bytes may wait; 0 for no limit."},
    "when_full": {"enum": [*_CHOICES["when_full"], None], "description": "What happens to one more."},
    "max_attempts": {**some(COUNT), "maximum": 2**53 - 1, "description": "Deliveries after which a message is dead; 0 for no limit."},
    "lease": {**some(SECONDS), "maximum": 2**53 - 1, "description": "Seconds that a consumer which asks for no lease has; 0 for no limit."},
    "expired": {"enum": [*_CHOICES["expired"], None], "description": "What becomes of messages that expire."},
    "dedup": {
        **some(SECONDS),
        "maximum": 2**53 - 1,
        "description": "Seconds that a message's key is known after its acceptance; 0 for no longer than it is in the queue.",
    },
}

#: What a POST of a message may say.
MESSAGE: dict[str, Schema] = {
    "body": {**TEXT, "description": "The body as text. Either this or body_base64 has to be there."},
    "body_base64": {**BASE64, "description": "The body as base64, for what is no text."},
    "ttl": {**SECONDS, "maximum": 10**12 - 1, "description": "Seconds until it expires; 0 for never."},
    "delay": {**SECONDS, "maximum": 10**12 - 1, "description": "Seconds until it is ready."},
    "headers": {**TEXTS, "description": "Strings by name."},
    "key": {**TEXT, "minLength": 1, "description": "A second message with it stores nothing while the queue knows the first one."},
    "level": {"enum": ["stored", "synced"], "description": "What the answer waits for: memory, or the disk."},
}

#: The schemas of all answers.
COMPONENTS: dict[str, Schema] = {
    "Problem": record(type=TEXT, title=TEXT, status=COUNT, detail=TEXT, code={"enum": list(CODES)}),
    "Alive": record(status={"const": "ok"}),
    **{name: schema_of(kind) for name, kind in KINDS.items()},
    "Queues": _page("Queue"),
    "Messages": _page("Message"),
    "Clients": _page("Client"),
}

# The patterns tell clients; what they say is checked where the values are used.
NAME: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_NAME, "pattern": "^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]+$"}
PLACE: Schema = {"type": "string", "pattern": "^[0-9]{0,18}$"}

#: Parameters of lists.
SORT: Schema = {"enum": [*SORTS, *(f"-{sort}" for sort in SORTS)]}
LIMIT: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}
PREVIEW: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_PREVIEW}
PATTERN: Schema = {"type": "string", "maxLength": 255}
STATE: Schema = {"enum": list(LISTED)}
WHAT: Schema = {"enum": list(PAUSES)}
IDS: Schema = {"type": "array", "items": TEXT, "maxItems": MAX_ITEMS}
SOME: Schema = {"type": "integer", "minimum": 1, "maximum": 2**53 - 1}


def parse(text: str, schema: Schema) -> Any:
    """What a parameter's text stands for: a number where the schema wants one."""
    if schema.get("type") == "integer" and text.isascii() and text.isdigit() and len(text) < 20:
        return int(text)
    return text


def check(name: str, value: Any, schema: Schema) -> Any:
    """
    A value of a request, as the server takes it.

    @raise BadSetting: the schema does not allow it
    """
    types = _types(schema)
    if value is None and "null" in types:
        return None
    if "enum" in schema:
        if value not in schema["enum"] or isinstance(value, bool):
            raise BadSetting(f"{name} is {' or '.join(str(each) for each in schema['enum'] if each is not None)}, not {value!r:.100}")
    elif "string" in types:
        _check_text(name, value, schema)
    elif "integer" in types or "number" in types:
        value = _number(name, value, "integer" in types, schema)
    elif "array" in types:
        _check_items(name, value, schema)
    elif "object" in types:
        _check_members(name, value, schema)
    return value


def _types(schema: Schema) -> list[str]:
    kind = schema.get("type", [])
    types = [kind] if isinstance(kind, str) else list(kind)
    return [*types, "null"] if None in schema.get("enum", ()) else types


def _check_text(name: str, value: Any, schema: Schema) -> None:
    if not isinstance(value, str):
        raise BadSetting(f"{name} is a text, not {value!r:.100}")
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        raise BadSetting(f"{name} has {len(value)} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadSetting(f"{name} has half of a character") from None


def _number(name: str, value: Any, whole: bool, schema: Schema) -> int | float:
    least, most = schema.get("minimum", 0), schema.get("maximum", float("inf"))
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most or (whole and value % 1):
        bounds = f"from {least}" + (f" to {most}" if most < float("inf") else "")
        raise BadSetting(f"{name} is a {'whole ' if whole else ''}number {bounds}, not {value!r:.100}")
    return int(value) if whole else value


def _check_items(name: str, value: Any, schema: Schema) -> None:
    if not isinstance(value, list) or len(value) > schema["maxItems"]:
        raise BadSetting(f"{name} is a list of at most {schema['maxItems']}")
    for item in value:
        check(f"an item of {name}", item, schema["items"])


def _check_members(name: str, value: Any, schema: Schema) -> None:
    if not isinstance(value, Mapping):
        raise BadSetting(f"{name} is an object, not {value!r:.100}")
    for key, member in value.items():
        _check_text(f"a name in {name}", key, TEXT)
        check(f"{name}.{key}", member, schema["additionalProperties"])
