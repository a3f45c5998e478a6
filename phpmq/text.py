"""
Text for people, and from people: sizes, durations, counts, and text that is safe to show on a terminal.

Every front end (twistd's options, the configuration file, the console, the command) reads and writes values with these functions:

    parse_size       '64k', '2G', '1.5 MiB', '100'     -> bytes
    parse_duration   '30', '30s', '250ms', '2h', '1d'  -> seconds
    parse_count      '16'                              -> number
    short_size       16777216    -> '16M', which parse_size reads
    format_size      1572864     -> '1.5 MiB'
    format_duration  65          -> '1m 05s'; None -> '-'
    format_seconds   0.0123      -> '0.012 s'
    format_number    1234.5      -> '1,234'; 1.2345 -> '1.23'
    format_count     1234567     -> '1.2346M', seven columns at most
    format_rate      1, 3        -> '0.33/s'
    plural           2, 'queue'  -> '2 queues'
    terminal_safe    escapes every character that a terminal obeys or does not show; json_safe does the same within a JSON text
    width, cut       the number of columns that a text takes; a text that is cut to a number of columns
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction

_SIZES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_SIZE = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*([kmgt]?)(?:i?b)?", re.ASCII | re.IGNORECASE)

_DURATIONS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"((?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:e[-+]?\d{1,2})?)\s*(ms|[smhd]?)", re.ASCII | re.IGNORECASE)

#: What values look like, for error messages and help.
SIZE_EXAMPLES, DURATION_EXAMPLES = "1048576, 64k, 16M or 2G", "30, 30s, 5m, 2h or 1d"

# Letters, marks and symbols by their category, which terminals show as nothing or as a space: the grapheme joiner, the Hangul fillers,
# two Khmer vowels and the empty Braille pattern.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")

_ELLIPSIS = "..."


# Parse


def parse_size(text: str) -> int:
    """
    Return the number of bytes that a text gives, with C{k}, C{M}, C{G} or C{T} for powers of 1024.

    @raise ValueError: it is not a size; the sentence says what one looks like
    """
    match = _SIZE.fullmatch(text.strip())
    # Half a byte is no size.
    if match is None or ("." in match[1] and not match[2]):
        raise ValueError(f"expected a number of bytes, such as {SIZE_EXAMPLES}")
    return int(Fraction(match[1]) * _SIZES[match[2].lower()])


def parse_duration(text: str) -> float:
    """
    Return the number of seconds that a text gives, with C{ms}, C{s}, C{m}, C{h} or C{d} for other units.

    @raise ValueError: it is not a duration; the sentence says what one looks like
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected a number of seconds or a duration, such as {DURATION_EXAMPLES}")
    number, unit = float(match[1]), match[2].lower()
    return number / 1000 if unit == "ms" else number * _DURATIONS[unit]


def parse_count(text: str) -> int:
    """
    Return the whole number that a text gives.

    @raise ValueError: it is none
    """
    try:
        return int(text)
    except ValueError:
        raise ValueError("expected a whole number") from None


# Format


def short_size(number: int) -> str:
    """Return a number of bytes as an option takes it, exactly: C{16M}, C{64k}, C{100}."""
    exact = (unit for unit in reversed(_SIZES) if number % _SIZES[unit] == 0)
    unit = next(exact) if number else ""
    return f"{number // _SIZES[unit]}{unit if unit == 'k' else unit.upper()}"


def format_size(number: float) -> str:
    """Return a number of bytes in the unit that suits it: C{12 B}, C{1.5 MiB}."""
    if number < 1024:
        return f"{number:.0f} B"
    for unit in "KMGT":
        number /= 1024
        if number < 999.5 or unit == "T":
            break
    return f"{number:.1f} {unit}iB" if number < 99.95 else f"{number:,.0f} {unit}iB"


def format_duration(seconds: float | None) -> str:
    """Return a time span in the two units that matter: C{12 s}, C{1m 05s}, C{2d 03h}; a dash for None."""
    if seconds is None:
        return "-"
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if not minutes:
        return f"{whole} s"
    if not hours:
        return f"{minutes}m {whole % 60:02}s"
    return f"{days:,}d {hours % 24:02}h" if days else f"{hours}h {minutes % 60:02}m"


def format_number(number: float) -> str:
    """Return a number with three digits, or more if there are more before the point: C{0.123}, C{1.23}, C{12.3}, C{1,234}."""
    number = round(number, 3)
    places = 3 if number < 1 else 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:,.{places}f}"


def format_seconds(number: float) -> str:
    """Return a measured time: C{0.123 s}, C{12.3 s}."""
    return f"{format_number(number)} s"


def format_count(number: int) -> str:
    """Return a number that fits into seven columns: exact up to 999,999."""
    if number < 10**6:
        return f"{number:,}"
    return f"{number / 10**6:.5g}M" if number < 10**9 else f"{number / 10**9:.5g}G"


def format_rate(events: float, seconds: float = 1.0) -> str:
    """Return events per second: C{1,234/s}, C{1.5/s}, C{0.33/s}."""
    rate = events / max(seconds, 1e-9)
    if 0 < rate < 0.95:
        return f"{rate:.2g}/s"
    return f"{rate:,.0f}/s" if rate >= 9.95 else f"{rate:.1f}/s"


def plural(number: int, noun: str = "message", nouns: str = "") -> str:
    """Return a number of things: C{1 message}, C{1,234 messages}, C{2 queries}."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {nouns or noun + 's'}"


# Show


def terminal_safe(text: str) -> str:
    r"""
    Return the text with everything escaped that a terminal obeys or does not show, as C{\n}, C{\x1b} or C{\u202e}.

    These are control characters, line and paragraph separators, every space but the plain one, format characters (which change the
    direction or the joining of others, or are invisible, such as tags), private and unassigned characters, and halves of characters.
    """
    return _escape(text, lambda character: character.encode("unicode_escape").decode("ascii"))


def json_safe(text: str) -> str:
    """Return a JSON text that means the same, in which the characters that L{terminal_safe} escapes have JSON's own escapes."""
    return _escape(text, lambda character: json.dumps(character)[1:-1])


def _escape(text: str, escape: Callable[[str], str]) -> str:
    if text.isprintable() and (text.isascii() or _BLANK.isdisjoint(text)):
        return text
    return "".join(one if one.isprintable() and one not in _BLANK else escape(one) for one in text)


def width(text: str) -> int:
    """Return how many columns a text takes in which nothing is to be escaped."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.category(one) in ("Mn", "Me") else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def cut(text: str, columns: int) -> str:
    """Return a text that fits into a number of columns, its end replaced by three dots if need be."""
    if width(text) <= columns:
        return text
    kept, left = [], columns - len(_ELLIPSIS)
    for one in text:
        left -= width(one)
        if left < 0:
            break
        kept.append(one)
    return ("".join(kept) + _ELLIPSIS)[: max(columns, 0)]
