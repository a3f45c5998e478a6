"""Listeners: descriptions of them become services, and who can reach them is told by their descriptions."""

from __future__ import annotations

import os
import re
import socket
import stat
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from twisted.application.strports import service
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory

from phpmq.addresses import API_PORT, QUEUE_PORT, listening_description
from phpmq.errors import StartError

#: Connections that the system completes before the server takes them, for each listener that does not name its own number.
_BACKLOG = 1024

# Ports of addresses that name none; those of the other options are for queues.
_PORTS = {"--console": 9101, "--http": API_PORT}

# Where the address stands in a strports string when it is not named.
_ADDRESSES = {"tcp": 2, "tcp6": 2, "ssl": 5}


class Listener:
    """A place where the server listens: the option that asks for it, such as C{--listen}, its strports string, and its service."""

    def __init__(self, option: str, description: str, factory: IProtocolFactory, reactor: Any) -> None:
        """
        @param description: a strports string, or an address with a host or a path
        @raise ValueError: the description is none
        """
        self.option = option
        try:
            self.description = listening_description(description, _PORTS.get(option, QUEUE_PORT))
            self.port: Any = service(_with_backlog(self.description), factory, reactor)
        except (ValueError, TypeError, LookupError, ImportError, OSError) as error:
            raise ValueError(f"{option} {description}: {error or type(error).__name__}") from error

    def bind(self) -> None:
        """Begin, or raise L{StartError}; where a dead server's unix socket is in its place, the socket goes."""
        try:
            try:
                self.port.privilegedStartService()
            except CannotListenError as error:
                if not _remove_dead_socket(error.port):
                    raise
                self.port.privilegedStartService()
        except (CannotListenError, OSError) as error:
            raise StartError(_cannot_listen(self.option, self.description, error)) from error


def _with_backlog(description: str) -> str:
    # Scripts connect for each request. Twisted's default of 50 lets the 51st of a burst wait for its second try, a second later.
    kind = description.partition(":")[0]
    if kind in ("tcp", "tcp6", "ssl", "unix") and ":backlog=" not in description:
        return f"{description}:backlog={_BACKLOG}"
    return description


def _remove_dead_socket(path: bytes | int) -> bool:
    """Remove a unix socket that nobody listens on any more, with its lock; whether it was one."""
    # Twisted does so only if no process has the number that the lock names. In a container a server has the same one at each start.
    if isinstance(path, int):
        return False  # It is a port.
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            client.connect(path)
    except ConnectionRefusedError:
        with suppress(FileNotFoundError):
            os.unlink(path + b".lock")
        os.unlink(path)
        return True
    except OSError:
        pass  # Not there, not ours, or so busy that a connection has to wait.
    return False


def _cannot_listen(option: str, description: str, error: Exception) -> str:
    reason = getattr(error, "socketError", error)
    hint = ""
    if description.startswith("tcp:9100"):
        hint = " (9100 is also the port of Prometheus' node_exporter)"
    other = f"name another with {option}"
    if option in ("--console", "--http"):
        other += f", or none ({option} none)"
    return f"phpmq: cannot listen on {description}: {reason}{hint}; stop what uses it or {other}."


def is_local(description: str) -> bool:
    """Tell whether only this machine's own users can connect to a listener; false if the strports string does not say it."""
    # A backslash takes a colon its meaning.
    kind, *parts = (re.sub(r"\\(.)", r"\1", part) for part in re.findall(r"(?:[^:\\]|\\.)+", description) or [""])
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    if kind == "unix" or (kind == "systemd" and named.get("domain") == "UNIX"):
        return True
    if kind not in _ADDRESSES:
        return False
    unnamed = [kind, *(part for part in parts if "=" not in part)]
    address = named.get("interface", "".join(unnamed[_ADDRESSES[kind] :][:1]))
    try:
        return address == "localhost" or ip_address(address).is_loopback
    except ValueError:
        return False


def require_local(option: str, description: str) -> None:
    """Raise L{StartError} for a listener that others than this machine's own users can connect to."""
    if not is_local(description):
        raise StartError(
            f"phpmq: {option} {description} may be reached from other machines, and there is no login: "
            "listen on a unix socket or with interface=127.0.0.1, or say --insecure-admin if that is what you want."
        )
