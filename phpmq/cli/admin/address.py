"""How the user names an API."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

_URL = re.compile(r"https?://", re.IGNORECASE)

_HOST_AND_PORT = re.compile(r"([\w.-]+|\[[\da-fA-F:.]+\]):\d{1,5}", re.ASCII)

# What the system has room for.
_MAX_PATH = 107


class Address(NamedTuple):
    """
    Where an API is.

    @ivar url: what all its paths begin with, without a slash at the end
    @ivar name: how it is called in a sentence
    @ivar socket: a unix socket that leads there; empty for TCP
    @ivar login: user and password that a proxy before it wants
    """

    url: str
    name: str
    socket: str = ""
    login: tuple[str, str] | None = None


def address(text: str) -> Address:
    """
    What the user means.

    @raise ValueError: it is no address; says why
    """
    if any(character.isspace() or not character.isprintable() for character in text):
        raise ValueError("it has spaces, or what is not printable")
    if text.startswith("unix:"):
        return Address("http://localhost", text, _path(text.removeprefix("unix:")))
    if _URL.match(text) is None:
        if _HOST_AND_PORT.fullmatch(text) is None:
            raise ValueError("it is none of http://HOST:PORT, https://HOST:PORT, HOST:PORT and unix:PATH")
        text = f"http://{text}"
    parts = urlsplit(text)
    if not parts.hostname or parts.port == 0:  # to ask for a port that is none raises ValueError
        raise ValueError("it names no host and port")
    if parts.query or parts.fragment:
        raise ValueError("an API has neither ? nor # in its address")
    login, _, authority = parts.netloc.rpartition("@")
    url = f"{parts.scheme}://{authority}{parts.path.rstrip('/').removesuffix('/api/v1')}"
    user, _, password = login.partition(":")
    return Address(url, url, login=(unquote(user), unquote(password)) if login else None)


def _path(text: str) -> str:
    if not text:
        raise ValueError("the path of the socket is missing")
    if len(text.encode()) > _MAX_PATH:
        raise ValueError(f"a socket's path has at most {_MAX_PATH} bytes")
    return text
