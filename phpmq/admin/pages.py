"""Lists by pages: what is asked for, and what is answered."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import translate
from typing import Any

from phpmq.errors import BadSetting

#: The most items of a page.
MAX_PAGE = 1000


@dataclass(frozen=True)
class Page:
    """
    A part of a list.

    @ivar items: dicts
    @ivar next: what to ask for to get the part after it; None for the last one
    """

    items: list[dict[str, Any]]
    next: str | None


def check_limit(limit: int) -> int:
    """
    The limit, if a page may have so many items.

    @raise BadSetting: it may not
    """
    if not 1 <= limit <= MAX_PAGE:
        raise BadSetting(f"a limit is a number from 1 to {MAX_PAGE}, not {limit}")
    return limit


def start_of(after: str) -> int:
    """
    Where a page begins.

    @param after: the C{next} of the page before
    @raise BadSetting: it is none
    """
    # No position has more than 18 digits.
    if after and not (after.isascii() and after.isdigit() and len(after) <= 18):
        raise BadSetting(f"{after!r} is not where a page ended")
    return int(after or 0)


def matcher(pattern: str) -> Callable[[str], Any]:
    """Whether a name matches a pattern as a whole; C{*} and C{?} as in a shell, upper and lower case are the same."""
    if pattern == "*":
        return lambda name: True
    return re.compile(translate(pattern), re.IGNORECASE).match
