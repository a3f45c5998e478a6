"""
Addresses of a queue port and of an HTTP API, in every form that clients, the command and listeners take.

    mq.example                   mq.example:9100              [::1]:9100    ::1
    tcp:mq.example:9100          tcp://mq.example:9100        phpmq://mq.example
    tls:mq.example:9100          tls://mq.example:9100
    unix:/run/phpmq/mq.sock      unix:///run/phpmq/mq.sock

The forms without C{//} are those of Twisted's client endpoints: arguments may have names, such as C{timeout=5}, and a colon within a value
has a backslash before it. A port that is not given is the default one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

#: The default ports of the queue protocol and of the HTTP API.
QUEUE_PORT, API_PORT = 9100, 9180

_EXPECTED = "expected HOST, HOST:PORT, tcp:HOST:PORT, tls:HOST:PORT or unix:PATH"
_EXPECTED_API = "expected HOST, HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:PATH"

_PREFIX = re.compile(r"(?:(?P<kind>tcp|tls|unix):|phpmq:(?=//))(?P<url>//)?", re.IGNORECASE)
_PLAIN = re.compile(r"([\w.-]+|\[[^\]]*\])(:[^:/]*)?", re.ASCII)
# An argument: a colon in it is within brackets or has a backslash before it.
_ARGUMENT = re.compile(r":((?:\[[^\]]*\]|\\.|[^\\:])*)", re.DOTALL)
_NAMED = re.compile(r"([A-Za-z]+)=(.*)", re.DOTALL)
_POSITIONAL = {"tcp": ("host", "port"), "tls": ("host", "port"), "unix": ("path",)}

#: The kinds of addresses that are parsed here; Twisted's client endpoints may be of others.
KINDS = tuple(_POSITIONAL)

# An address that is no strports description: it has a host where a description has a port, or no prefix. A word after tcp: may be wrong.
_HAS_HOST = re.compile(r"(tcp|tls|unix|phpmq)://|tcp:(localhost\b|\[|[^:=]*\.)|(localhost|[\d.]+\.\d+|\[.*\])(:\d*)?$", re.IGNORECASE)

_MAX_PORT = 65535
_MAX_PATH = 107  # The system's structure for the address of a socket holds no more bytes.


@dataclass(frozen=True)
class Address:
    """
    The address of a queue port.

    @ivar text: the address as it was given
    @ivar kind: C{tcp}, C{tls} or C{unix}
    @ivar host: a name or an IP address without brackets; empty for C{unix}
    @ivar path: the path of the socket; empty for C{tcp} and C{tls}
    @ivar options: the named arguments that are neither host, port nor path, such as C{timeout}
    """

    text: str
    kind: str
    host: str = ""
    port: int = 0
    path: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """The description of a client endpoint of Twisted's."""
        if self.kind == "unix":
            return _describe(self.kind, self.path, options=self.options)
        place, options = (self.host, str(self.port)), dict(self.options)
        if self.kind == "tls" and ":" in self.host:
            # Twisted takes this host for the certificate only, and would look its name up.
            options.setdefault("endpoint", _describe("tcp", *place, options={}))
        return _describe(self.kind, *place, options=options)


class ApiAddress(NamedTuple):
    """
    The address of an HTTP API.

    @ivar url: the start of all its URLs, without a slash at the end
    @ivar name: the address in a sentence
    @ivar socket: the path of a unix socket that leads to it; empty for TCP
    @ivar login: the user and the password that a proxy before it asks for
    """

    url: str
    name: str
    socket: str = ""
    login: tuple[str, str] | None = None


def parse_address(text: str, port: int = QUEUE_PORT) -> Address:
    """Parse the address of a server; C{port} is that of one that names none. A C{ValueError} says why it is no address."""
    kind, rest = _split(text)
    options = _arguments(text, kind, rest)
    if "timeout" in options:
        _number(text, "timeout", options["timeout"])
    if kind == "unix":
        path = options.pop("path", "")
        _check(text, path, "the path of the socket is missing")
        _check(text, len(path.encode(errors="surrogateescape")) <= _MAX_PATH, f"the path of a socket has at most {_MAX_PATH} bytes")
        return Address(text, kind, path=path, options=options)
    host = _host(text, options.pop("host", ""))
    number = _number(text, "port", options.pop("port", str(port)))
    _check(text, 0 < number <= _MAX_PORT, f"a port is 1 to {_MAX_PORT}")
    return Address(text, kind, host, number, options=options)


def parse_api_address(text: str) -> ApiAddress:
    """Parse the address of an HTTP API: a URL, or any address of a server. A C{ValueError} says why it is none."""
    _check(text, text.isprintable() and " " not in text, "it has spaces, or characters that are not printable")
    if "://" in text and _PREFIX.match(text) is None:
        return _parse_url(text)
    address = parse_address(text, API_PORT)
    _check(text, not address.options, "the address of an API takes no options")
    if address.kind == "unix":
        return ApiAddress("http://localhost", f"unix:{address.path}", address.path)
    host = f"[{address.host}]" if ":" in address.host else address.host
    url = f"{'https' if address.kind == 'tls' else 'http'}://{host}:{address.port}"
    return ApiAddress(url, url)


def listening_description(text: str, port: int = QUEUE_PORT) -> str:
    """
    Return the strports description of where to listen; a text that is no address with a host or a path is returned as it is.

    @param port: the port of an address that names none
    @raise ValueError: it is an address that nothing can listen on; says why
    """
    if not (_HAS_HOST.match(text) or _is_ipv6(text)):
        return text
    address = parse_address(text, port)
    _check(text, address.kind != "tls", "to listen with TLS takes a key: write ssl:PORT:privateKey=FILE:certKey=FILE")
    if address.kind == "unix":
        return _describe("unix", address.path, options=address.options)
    return _describe("tcp6" if ":" in address.host else "tcp", str(address.port), options={"interface": address.host, **address.options})


def _parse_url(text: str) -> ApiAddress:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no address: {error}") from error
    _check(text, parts.scheme in ("http", "https"), _EXPECTED_API)
    _check(text, parts.hostname and port != 0, "it names no host and port")
    _check(text, not (parts.query or parts.fragment), "the address of an API has neither ? nor #")
    login, _, authority = parts.netloc.rpartition("@")
    url = f"{parts.scheme}://{authority}{parts.path.rstrip('/').removesuffix('/api/v1')}"
    user, _, password = login.partition(":")
    return ApiAddress(url, url, login=(unquote(user), unquote(password)) if login else None)


def _split(text: str) -> tuple[str, str]:
    """The kind of an address, and its arguments."""
    prefix = _PREFIX.match(text)
    if prefix is None:
        _check(text, _PLAIN.fullmatch(text) or _is_ipv6(text), _EXPECTED)
        kind, rest = "tcp", text
    else:
        kind, rest = (prefix["kind"] or "tcp").lower(), text[prefix.end() :]
        if prefix["url"] and kind != "unix":
            rest = rest.removesuffix("/")
    return kind, f"[{rest}]" if kind != "unix" and _is_ipv6(rest) else rest


def _arguments(text: str, kind: str, rest: str) -> dict[str, str]:
    parts = _ARGUMENT.findall(f":{rest}")
    _check(text, ":".join(parts) == rest, "it ends with a backslash")
    named = [(match[1], match[2]) for match in map(_NAMED.fullmatch, parts) if match]
    arguments = dict(named)
    unnamed = [part for part in parts if not _NAMED.fullmatch(part)]
    if kind == "unix" and unnamed:
        unnamed = [":".join(unnamed)]
    free = [name for name in _POSITIONAL[kind] if name not in arguments]
    _check(text, len(unnamed) <= len(free) and len(arguments) == len(named), f"{(unnamed or parts)[-1]!r} is too much")
    arguments |= zip(free, unnamed, strict=False)
    return {name: re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for name, value in arguments.items()}


def _describe(kind: str, *unnamed: str, options: Mapping[str, str]) -> str:
    def quoted(value: str) -> str:
        return re.sub(r"([\\:=])", r"\\\1", value)

    return ":".join((kind, *map(quoted, unnamed), *(f"{name}={quoted(value)}" for name, value in options.items())))


def _host(text: str, host: str) -> str:
    _check(text, host and not host.isdigit() and host not in KINDS, f"the host is missing; {_EXPECTED}")
    if host.startswith("[") and _is_ipv6(host[1:-1]):
        return host[1:-1]
    _check(text, host.isprintable() and not re.search(r"[][\s/?#@]", host), f"{host!r} is neither a name nor an IP address")
    return host


def _number(text: str, name: str, value: str) -> int:
    _check(text, value.isascii() and value.isdigit(), f"the {name} is {'no number' if value else 'missing'}")
    return int(value)


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def _check(text: str, right: object, why: str) -> None:
    if not right:
        raise ValueError(f"{text!r} is no address: {why}")
