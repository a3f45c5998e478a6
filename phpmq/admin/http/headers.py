"""What a request's target and headers mean, and whether it may be answered: a page of another site, in the operator's browser, may not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import unquote_to_bytes

from phpmq.admin.http.problems import Problem

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::(\d{1,5}))?")

_PORTS = {"http": "80", "https": "443"}


def host_and_port(text: str) -> tuple[str, str] | None:
    """Return host and port of an authority as they are compared, the port perhaps empty; None if the text is no authority."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    host: str = match[1] or match[2].rstrip(".").lower()
    return _plain(host), match[3] or ""


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address


def _plain(host: str) -> str:
    return str(_address(host) or host)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches that name or address."""
    address = _address(host)
    return host == "localhost" or host.endswith(".localhost") if address is None else address.is_loopback


class Access:
    """
    The names that a server answers to.

    A site whose name is made to resolve to this machine (DNS rebinding) sends that name as Host, and its own address as Origin.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        """@param names: names besides those of loopback and the address at which a request arrives"""
        self._names = {_plain(name.rstrip(".").lower().strip("[]")) for name in names}

    def check(self, host: str | None, origin: str | None, here: Any, secure: bool) -> None:
        """
        Raise L{Problem} unless a request may be answered that has these headers Host and Origin.

        @param here: the address at which the request arrived
        @param secure: whether it arrived over TLS
        """
        local = getattr(here, "host", None)
        asked = None if host is None else host_and_port(host)
        # No browser reaches a unix socket.
        if local is not None and host is not None and (asked is None or not self._is_ours(asked[0], local)):
            raise Problem("foreign-host", f"this server is not called {host[:100]!r}: name it with --http-host if it is")
        if origin is not None and not self._is_same(origin, asked, secure):
            raise Problem("foreign-origin", f"a page from {origin[:100]!r} may not use this server")

    def _is_ours(self, host: str, local: str) -> bool:
        return is_loopback(host) or host == _plain(local) or host in self._names

    def _is_same(self, origin: str, asked: tuple[str, str] | None, secure: bool) -> bool:
        """Return whether a page has the server's own origin, or that of a proxy before it, which has one of the names."""
        scheme, _, rest = origin.partition("://")
        there = host_and_port(rest)
        if scheme not in _PORTS or there is None:
            return False
        if there[0] in self._names:
            return True
        default = _PORTS["https" if secure else "http"]
        return asked is not None and there[0] == asked[0] and (there[1] or _PORTS[scheme]) == (asked[1] or default)


def target(uri: bytes) -> tuple[str | None, bytes, str]:
    """Return authority, path and query of a request's target, or raise L{Problem} if that is no path."""
    authority = None
    if (absolute := _ABSOLUTE.fullmatch(uri)) is not None:
        # A client sends that to a proxy. It takes precedence over Host.
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
    """Split a path before its parts are decoded, as C{%2F} is part of a name; raise L{Problem} if a part is not UTF-8."""
    try:
        return [unquote_to_bytes(part).decode() for part in path[1:].split(b"/")]
    except UnicodeDecodeError:
        raise Problem("bad-name", "a name in the path is not UTF-8") from None


def accepts(accept: str | None, media: str) -> bool:
    """Return whether a client accepts a type, by its header Accept."""
    if accept is None:
        return True
    # The most exact one counts.
    names = "*/*", f"{media.partition('/')[0]}/*", media
    wanted: dict[str, bool] = {}
    for each in accept.split(","):
        name, *parameters = (part.strip().lower() for part in each.split(";"))
        wanted[name] = not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters)
    return next((wanted[name] for name in reversed(names) if name in wanted), False)


def media_type(content_type: str | None, encoding: str | None) -> str:
    """Return the type of a body; empty for one that is compressed, or in another character set than UTF-8."""
    name, *parameters = (part.strip().lower().replace('"', "") for part in (content_type or "").split(";"))
    charsets = [parameter for parameter in parameters if parameter.startswith("charset=")]
    return name if charsets in ([], ["charset=utf-8"]) and (encoding or "identity").lower() == "identity" else ""
