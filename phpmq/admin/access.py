"""Which listeners for operators other machines can connect to; they are refused, as there is no login."""

from __future__ import annotations

import re
from ipaddress import ip_address

from phpmq.errors import StartError

# The parts of a strports string, in which a backslash takes a colon its meaning.
_PARTS = re.compile(r"((?:[^:\\]|\\.)*)(?::|$)")

# Where the address stands in the string when it is not named.
_ADDRESSES = {"tcp": 2, "tcp6": 2, "ssl": 5}


def is_local(description: str) -> bool:
    """Tell whether only this machine's own users can connect to a listener; false if the strports string does not say it."""
    kind, *parts = (re.sub(r"\\(.)", r"\1", part) for part in _PARTS.findall(description)[:-1] or [""])
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    if kind == "unix" or (kind == "systemd" and named.get("domain") == "UNIX"):
        return True
    if kind not in _ADDRESSES:
        return False
    unnamed = [kind, *(part for part in parts if "=" not in part)]
    place = _ADDRESSES[kind]
    address = named.get("interface", unnamed[place] if place < len(unnamed) else "")
    try:
        return address == "localhost" or ip_address(address).is_loopback
    except ValueError:
        return False


def require_local(option: str, description: str) -> None:
    """
    Refuse a listener that others than this machine's own users can connect to.

    @raise StartError: it is one
    """
    if not is_local(description):
        raise StartError(
            f"phpmq: {option} {description} may be reached from other machines, and there is no login: "
            "listen on a unix socket or with interface=127.0.0.1, or say --insecure-admin if that is what you want."
        )
