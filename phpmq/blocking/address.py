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
    "tcp": (("host", "port"), ()),
    "unix": (("path",), ()),
    "tls": (("host", "port"), ("trustRoots", "certificate", "privateKey")),
}


class Address:
    """
    An address as Twisted's client endpoints are written: C{tcp:host:9100}, C{unix:/run/phpmq/mq.sock}, C{tls:host:9100}.

    C{tls:} checks the server's certificate against those that the system trusts, or against those of the file or directory
    C{trustRoots=}; C{certificate=} and C{privateKey=} are files to show to the server.
    """

    def __init__(self, text: str) -> None:
        """
        @raise ValueError: it is no address
        """
        self.text = text
        kind, *parts = _parts(text)
        if kind not in _KINDS:
            raise ValueError(f"{text!r} is no address: expected tcp:HOST:PORT, unix:PATH or tls:HOST:PORT")
        self._kind = kind
        positional, named = _KINDS[kind]
        self._arguments: dict[str, str] = {}
        unnamed = iter(positional)
        for part in parts:
            match = _NAMED.fullmatch(part)
            name, value = (match[1], match[2]) if match and match[1] in positional + named else (next(unnamed, ""), part)
            if not name or name in self._arguments:
                raise ValueError(f"{text!r} is no address: {part!r} is too much")
            self._arguments[name] = re.sub(r"\\(.)", r"\1", value)
        for name in positional:
            if not self._arguments.get(name):
                raise ValueError(f"{text!r} is no address: the {name} is missing")
        if "port" in positional and not (self._arguments["port"].isascii() and self._arguments["port"].isdigit()):
            raise ValueError(f"{text!r} is no address: the port is no number")

    def connect(self, timeout: float, tls: ssl.SSLContext | None = None) -> socket.socket:
        """
        A connected socket that does not block.

        @param tls: for C{tls:}, instead of a context made of the address
        @raise OSError: there is no server, or its certificate is not trusted
        """
        arguments = self._arguments
        if self._kind == "unix":
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(timeout)
                connection.connect(arguments["path"])
            except BaseException:
                connection.close()
                raise
        else:
            connection = socket.create_connection((arguments["host"], int(arguments["port"])), timeout)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._kind == "tls":
                # This closes the socket if it fails.
                connection = (tls or self._context()).wrap_socket(connection, server_hostname=arguments["host"])
        connection.setblocking(False)
        return connection

    def _context(self) -> ssl.SSLContext:
        roots = self._arguments.get("trustRoots")
        is_directory = roots is not None and Path(roots).is_dir()
        context = ssl.create_default_context(cafile=None if is_directory else roots, capath=roots if is_directory else None)
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
