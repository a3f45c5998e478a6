"""Where a server listens, and a socket that is connected to it."""

from __future__ import annotations

import re
import socket
import ssl
from pathlib import Path

# A part of an address; a colon, backslash or equals sign in it has a backslash before it.
_PART = re.compile(r"((?:[^\\:]|\\.)*)(:|$)", re.DOTALL)
_NAMED = re.compile(r"([A-Za-z]+)=(.*)", re.DOTALL)

# kind -> its arguments in order, and those that are only given by name
_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "tcp": (("host", "port"), ("timeout",)),
    "unix": (("path",), ("timeout",)),
    "tls": (("host", "port"), ("timeout", "trustRoots", "certificate", "privateKey")),
}

_MAX_PORT = 65535


class Address:
    """
    An address as Twisted's client endpoints are written: C{tcp:host:9100}, C{unix:/run/phpmq/mq.sock}, C{tls:host:9100}.

    C{timeout=} is the most seconds that a connection may take. C{tls:} checks the server's certificate against those that the system
    trusts, or against those of C{trustRoots=}, a file or a directory with files that end with C{.pem}; C{certificate=} and
    C{privateKey=} are files to show to the server. Twisted's other arguments are not understood.

    @ivar text: as it was given
    @ivar kind: C{tcp}, C{unix} or C{tls}
    """

    def __init__(self, text: str) -> None:
        """
        @raise ValueError: it is no address
        """
        self.text = text
        kind, *parts = _parts(text)
        self.kind = kind.lower()
        if self.kind not in _KINDS:
            raise ValueError(f"{text!r} is no address: expected tcp:HOST:PORT, unix:PATH or tls:HOST:PORT")
        self._arguments = _arguments(text, parts, *_KINDS[self.kind])
        for name in _KINDS[self.kind][0]:
            if not self._arguments.get(name):
                raise ValueError(f"{text!r} is no address: the {name} is missing")
        if "port" in self._arguments and not 0 < _number(text, "port", self._arguments["port"]) <= _MAX_PORT:
            raise ValueError(f"{text!r} is no address: a port is 1 to {_MAX_PORT}")
        self._timeout = _number(text, "timeout", self._arguments["timeout"]) if "timeout" in self._arguments else None

    def connect(self, timeout: float, tls: ssl.SSLContext | None = None) -> socket.socket:
        """
        A connected socket that does not block.

        @param timeout: the most seconds that each step of it may take
        @param tls: for C{tls:}, instead of a context made of the address
        @raise OSError: there is no server, or its certificate is not trusted
        """
        if self._timeout is not None:
            timeout = min(timeout, self._timeout)
        if self.kind == "unix":
            connection = socket.socket(socket.AF_UNIX)
        else:
            connection = socket.create_connection((self._arguments["host"], int(self._arguments["port"])), timeout)
        try:
            if self.kind == "unix":
                connection.settimeout(timeout)
                connection.connect(self._arguments["path"])
            else:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self.kind == "tls":
                connection = (tls or self._context()).wrap_socket(connection, server_hostname=self._arguments["host"])
            connection.setblocking(False)
        except BaseException:
            connection.close()
            raise
        return connection

    def _context(self) -> ssl.SSLContext:
        roots = self._arguments.get("trustRoots")
        if roots is None:
            context = ssl.create_default_context()
        else:
            # This one trusts nobody yet.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            for file in sorted(Path(roots).glob("*.[pP][eE][mM]")) if Path(roots).is_dir() else [Path(roots)]:
                context.load_verify_locations(file)
        if "certificate" in self._arguments:
            context.load_cert_chain(self._arguments["certificate"], self._arguments.get("privateKey"))
        return context


def _parts(text: str) -> list[str]:
    parts = []
    end = 0
    while (match := _PART.match(text, end)) is not None:
        parts.append(match[1])
        end = match.end()
        if not match[2]:
            break
    if match is None:
        raise ValueError(f"{text!r} is no address: it ends with a backslash")
    return parts


def _arguments(text: str, parts: list[str], positional: tuple[str, ...], named: tuple[str, ...]) -> dict[str, str]:
    arguments: dict[str, str] = {}
    unnamed = []
    for part in parts:
        match = _NAMED.fullmatch(part)
        if match is None or match[1] not in positional + named:
            unnamed.append(part)
        elif match[1] in arguments:
            raise ValueError(f"{text!r} is no address: there are two {match[1]}s")
        else:
            arguments[match[1]] = match[2]
    free = [name for name in positional if name not in arguments]
    if len(unnamed) > len(free):
        raise ValueError(f"{text!r} is no address: {unnamed[len(free)]!r} is too much")
    arguments |= zip(free, unnamed, strict=False)
    return {name: re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for name, value in arguments.items()}


def _number(text: str, name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise ValueError(f"{text!r} is no address: the {name} is no number")
    return int(value)
