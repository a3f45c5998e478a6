"""
The tables of options in the documentation, which are made from L{phpmq.settings}.

C{python -m tests.option_tables} writes them; L{tests.test_docs} fails while that is due.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path

from phpmq.settings import OPTIONS, Option, Settings

DOCS = Path(__file__).parents[1] / "docs"

_NOTE = "<!-- The table is written by: python -m tests.option_tables -->"


def _code(text: object) -> str:
    return f"`{text}`" if text else ""


def _row(cells: Iterable[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells) + "\n"


def _table(headings: tuple[str, ...], row: Callable[[Option], tuple[str, ...]]) -> str:
    return "".join([_row(headings), "|---" * len(headings) + "|\n", *(_row(row(option)) for option in OPTIONS.values())])


def _option(option: Option) -> tuple[str, ...]:
    written = _code(f"--{option.name} {option.kind.placeholder}".rstrip()) + (f", `-{option.short}`" if option.short else "")
    default = option.default if option.embedded is not None and " " in option.default else _code(option.default)
    return written, option.help + ("; may be repeated" if option.repeated else ""), default, option.limits


def _setting(option: Option) -> tuple[str, ...]:
    default = next(one for one in fields(Settings) if one.name == option.attribute).default
    shown = option.default if callable(option.embedded) else _code(repr(default))
    return _code(option.attribute), option.kind.meaning, shown, _code(f"--{option.name}")


#: The tables by the pages that they are in.
TABLES = {
    "reference/options.md": _table(("option", "what it is", "default", "limits"), _option),
    "how-to/embed.md": _table(("attribute", "value", "default", "option"), _setting),
}


def updated(page: str, text: str) -> str:
    """The text of a page with its table as it has to be."""
    before, note, after = text.partition(f"{_NOTE}\n\n")
    return before + note + TABLES[page] + re.sub(r"^(\|.*\n)+", "", after)


if __name__ == "__main__":
    for page in TABLES:
        path = DOCS / page
        path.write_text(updated(page, path.read_text(encoding="utf-8")), encoding="utf-8")
