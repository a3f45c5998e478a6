"""What a request's target and headers mean."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from phpmq.admin.http.problems import Problem

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def target(uri: bytes) -> tuple[str | None, bytes, str]:
    """
    What a request asks for: authority, path and query.

    @raise Problem: it is no path
    """
    authority = None
    if (absolute := _ABSOLUTE.fullmatch(uri)) is not None:
        # What a client sends to a proxy. It counts more than Host.
        authority, uri = absolute[1].decode("latin-1"), absolute[2] or b"/"
    path, _, query = uri.partition(b"?")
    if not path.startswith(b"/"):
        raise Problem("bad-request", "the request's target is no path")
    if _BAD_ESCAPE.search(uri):
        raise Problem("bad-request", "a % in the path or query is not followed by two hexadecimal digits")
    try:
        return authority, path, query.decode()
    except UnicodeDecodeError:
        raise Problem("bad-request", "the query is not UTF-8") from None


def path_parts(path: bytes) -> list[str]:
    """
    The parts of a path, taken apart before they are decoded: C{%2F} is part of a name.

    @raise Problem: one of them is not UTF-8
    """
    try:
        return [unquote_to_bytes(part).decode() for part in path[1:].split(b"/")]
    except UnicodeDecodeError:
        raise Problem("bad-name", "a name in the path is not UTF-8") from None


def accepts(accept: str | None, media: str) -> bool:
    """Whether a client takes a type, by its header Accept."""
    if accept is None:
        return True
    kind = media.partition("/")[0]
    best: tuple[int, bool] | None = None
    for each in accept.split(","):
        name, *parameters = (part.strip().lower() for part in each.split(";"))
        if name in ("*/*", f"{kind}/*", media):
            # The most exact one counts.
            exactness = ("*/*", f"{kind}/*", media).index(name)
            wanted = not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters)
            if best is None or exactness >= best[0]:
                best = exactness, wanted
    return best is not None and best[1]


def is_json(content_type: str | None, encoding: str | None) -> bool:
    """Whether a body is JSON as it stands."""
    name, *parameters = (part.strip().lower().replace('"', "") for part in (content_type or "").split(";"))
    charsets = [parameter for parameter in parameters if parameter.startswith("charset=")]
    return name == "application/json" and charsets in ([], ["charset=utf-8"]) and (encoding or "identity").lower() == "identity"
