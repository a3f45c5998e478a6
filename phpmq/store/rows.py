"""Messages and settings as rows of the tables, and back."""

from __future__ import annotations

import json
import sqlite3
from binascii import crc32
from dataclasses import asdict
from typing import Any

from phpmq.message import DEFAULT_SETTINGS, PROPERTIES_OVERHEAD, Message, Properties, QueueRecord, QueueSettings

# With what only some messages have, and without the search for it where there is none.
PLAIN = "number, queue, position, accepted, expires, attempts, body", "message"

WITH_EXTRA = (
    "message.number, message.queue, position, accepted, expires, attempts, body, due, key, headers",
    "message LEFT JOIN extra USING (number)",
)

_EXTRA_SIZE = f"{PROPERTIES_OVERHEAD} + coalesce(length(CAST(key AS BLOB)), 0) + coalesce(length(headers), 0)"

SIZE = f"length(body) + CASE WHEN extra.number IS NULL THEN 0 ELSE {_EXTRA_SIZE} END"

# CPython's sqlite3 looks for an adapter of each value that is not exactly an int, a float, a str or a bytearray: for None that costs more
# than to have SQLite make it of 0, for bytes more than to copy them, unless they are many.
MESSAGE = "INTO message VALUES (?, ?, ?, ?, nullif(?, 0), ?, ?, ?)"

_COPIED = 4096

_PRIME = 4294967291

NO_BODY = "x''"


def scalar(database: sqlite3.Connection, sql: str) -> int | None:
    """Run a query that has one value, and return it."""
    (value,) = database.execute(sql).fetchone()
    result: int | None = value
    return result


def checksum(number: int, queue: int, position: int, accepted: int, expires: int | None, attempts: int, body: bytes) -> int:
    """
    CRC-32 of a message's row: the body's, started from a mix of the other columns.

    The mix is taken modulo a prime, so that no single flipped bit of a column leaves it as it was.
    """
    mix = number ^ position << 5 ^ accepted << 11 ^ (expires or 0) << 17 ^ queue << 23 ^ attempts << 43
    return crc32(body, mix % _PRIME)


def settings_text(settings: QueueSettings) -> str:
    """Settings as JSON, without those that are as they are by default."""
    if settings is DEFAULT_SETTINGS:
        return ""
    default = asdict(DEFAULT_SETTINGS)
    return json.dumps({name: value for name, value in asdict(settings).items() if value != default[name]})


def settings_of(text: str) -> QueueSettings:
    """The settings that L{settings_text} wrote."""
    return QueueSettings(**json.loads(text)) if text else DEFAULT_SETTINGS


def row_of(message: Message) -> tuple[object, ...]:
    """The values for L{MESSAGE}."""
    number, queue, position = message.number, message.queue.number, message.position
    accepted, expires, attempts, body = message.accepted, message.expires, message.attempts, message.body
    crc = checksum(number, queue, position, accepted, expires, attempts, body)
    return number, queue, position, accepted, expires, attempts, crc, body if len(body) > _COPIED else bytearray(body)


def extra_row(message: Message) -> tuple[object, ...]:
    """What only some messages have, for the table C{extra}."""
    extra = message.properties
    assert extra is not None
    return message.number, message.queue.number, extra.due, extra.key or None, extra.headers or None


def retried_row(message: Message) -> tuple[object, ...]:
    """Attempts, checksum and number of a message that was delivered again."""
    number, attempts = message.number, message.attempts
    crc = checksum(number, message.queue.number, message.position, message.accepted, message.expires or None, attempts, message.body)
    return attempts, crc, number


def message_of(queue: QueueRecord, row: tuple[Any, ...]) -> Message:
    """The message of a row with the columns of L{PLAIN} or L{WITH_EXTRA}."""
    number, _, position, accepted, expires, attempts, body, *more = row
    extra = Properties(more[0], more[1] or "", more[2] or b"") if more and more[0] is not None else None
    return Message(number, queue, position, accepted, expires or 0, attempts, body, extra)


def up_to(queue: QueueRecord, rows: sqlite3.Cursor, size: int) -> list[Message]:
    """Messages of a queue, no more once they reach so many bytes."""
    messages: list[Message] = []
    total = 0
    for row in rows:
        message = message_of(queue, row)
        messages.append(message)
        total += message.size
        if total >= size:
            break
    rows.close()
    return messages
