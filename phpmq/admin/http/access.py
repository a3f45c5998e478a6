"""Who may ask: a page of another site, in the operator's browser, may not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from phpmq.admin.http.problems import Problem

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::(\d{1,5}))?")

_PORTS = {"http": "80", "https": "443"}


def authority(text: str) -> tuple[str, str] | None:
    """Host and port, as they are compared; None if it is no authority. The port may be empty."""
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
    address = _address(host)
    return host if address is None else str(address)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that name or address."""
    address = _address(host)
    return host == "localhost" or host.endswith(".localhost") if address is None else address.is_loopback


class Access:
    """
    The names that a server answers to.

    A site whose name is made to lead to this machine (DNS rebinding) has that name as Host; its own address as Origin.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        """
        @param names: beside loopback's and the address at which a request arrives
        """
        self._names = {_plain(name.rstrip(".").lower().strip("[]")) for name in names}

    def check(self, host: str | None, origin: str | None, here: Any, secure: bool) -> None:
        """
        Whether a request may be answered.

        @param host: its Host
        @param origin: its Origin
        @param here: the address at which it arrived
        @param secure: whether it did so over TLS
        @raise Problem: it may not
        """
        local = getattr(here, "host", None)
        asked = None if host is None else authority(host)
        # No browser reaches a unix socket.
        if local is not None and host is not None and (asked is None or not self._is_ours(asked[0], local)):
            raise Problem("foreign-host", f"this server is not called {host[:100]!r}: name it with --http-host if it is")
        if origin is not None and not self._is_same(origin, asked, secure):
            raise Problem("foreign-origin", f"a page from {origin[:100]!r} may not use this server")

    def _is_ours(self, host: str, local: str) -> bool:
        return is_loopback(host) or host == _plain(local) or host in self._names

    def _is_same(self, origin: str, asked: tuple[str, str] | None, secure: bool) -> bool:
        """Whether a page has the server's own origin, or that of a proxy before it, which has one of the names."""
        scheme, _, rest = origin.partition("://")
        there = authority(rest)
        if scheme not in _PORTS or there is None:
            return False
        if there[0] in self._names:
            return True
        default = _PORTS["https" if secure else "http"]
        return asked is not None and there[0] == asked[0] and (there[1] or _PORTS[scheme]) == (asked[1] or default)
