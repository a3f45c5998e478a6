"""How messages are written."""

from __future__ import annotations

import re
from collections.abc import Callable

import click

from phpmq.cli.lines import content
from phpmq.cli.output import is_terminal, json_line
from phpmq.client import Delivery
from phpmq.text import terminal_safe

#: From a message to the bytes that are written.
Format = Callable[[Delivery], bytes]

_ESCAPES = {"n": "\n", "t": "\t", "0": "\0", "\\": "\\"}
_PIECE = re.compile(r"\\(.)|\{(\w*)\}|\{\{|\}\}|.", re.DOTALL)


def format_of(template: str | None, as_json: bool) -> Format:
    """
    The format that the user wants, and what standard output needs.

    @raise click.UsageError: the template has a field that there is not
    """
    if as_json:
        return _json
    show: Callable[[bytes], bytes] = _shown if is_terminal(1) else bytes
    if template is None:
        return lambda delivery: show(delivery.body) + b"\n"
    return _Template(template, show)


def _shown(data: bytes) -> bytes:
    return terminal_safe(data.decode("utf-8", "backslashreplace")).encode()


def _json(delivery: Delivery) -> bytes:
    facts = {"queue": delivery.queue, "id": delivery.id, "attempts": delivery.attempts, "ttl": delivery.ttl, "headers": delivery.headers}
    return json_line({**facts, **content(delivery.body)})


class _Template:
    """Text with fields. A newline follows, unless it ends with one, or with a NUL."""

    def __init__(self, template: str, show: Callable[[bytes], bytes]) -> None:
        fields: dict[str, Format] = {
            "queue": lambda delivery: show(delivery.queue.encode()),
            "id": lambda delivery: delivery.message_id,
            "attempts": lambda delivery: b"%d" % delivery.attempts,
            "body": lambda delivery: show(delivery.body),
        }
        self._pieces: list[Format | bytes] = []
        for match in _PIECE.finditer(template):
            escape, field = match.groups()
            if field is not None:
                if field not in fields:
                    raise click.UsageError(f"--format has no field {{{field}}}: there are {', '.join(map('{{{}}}'.format, fields))}")
                self._pieces.append(fields[field])
            else:
                self._pieces.append(_literal(match[0], escape))
        if not self._pieces or self._pieces[-1] not in (b"\n", b"\0"):
            self._pieces.append(b"\n")

    def __call__(self, delivery: Delivery) -> bytes:
        return b"".join([piece if isinstance(piece, bytes) else piece(delivery) for piece in self._pieces])


def _literal(text: str, escape: str | None) -> bytes:
    if escape is not None:
        text = _ESCAPES.get(escape, text)
    elif text in ("{{", "}}"):
        text = text[0]
    return text.encode("utf-8", "surrogateescape")
