"""
What can be set for a server: each option is one line of L{Settings}.

That line is all there is of an option. C{twistd phpmq --help}, the keys of the configuration file, the check of a value, and the tables in
docs/reference/options.md and docs/how-to/embed.md (C{python -m tests.option_tables} writes them) are made from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from functools import partial
from typing import Any

from phpmq.errors import StartError
from phpmq.text import parse_count, parse_duration, parse_size

# Stands for no listener.
_NONE = "none"


@dataclass(frozen=True)
class Kind:
    """How the value of an option is written."""

    placeholder: str  # stands for a value in the documentation
    meaning: str  # what the value is in Python
    read: Callable[[Any], Any]  # makes that of what the command line or the file has; raises ValueError with what it expected


def _single(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError("expected a single value")
        return parse(str(value))

    return read


def _list_of(things: str) -> Callable[[Any], tuple[str, ...]]:
    def read(value: Any) -> tuple[str, ...]:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            raise ValueError(f"expected a list of {things}")
        return tuple(values)

    return read


def _listeners(value: Any) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    for description in _list_of("strports strings")(value):
        found = () if description == _NONE else (*found, description)
    return found


def _given(expected: str, text: str) -> str:
    if not text:
        raise ValueError(f"expected {expected}")
    return text


def _log_level(text: str) -> str:
    if text not in LOG_LEVELS:
        raise ValueError(f"expected one of {', '.join(LOG_LEVELS)}")
    return text


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


#: Twisted's, from what hardly matters to what does.
LOG_LEVELS = "debug", "info", "warn", "error", "critical"

SIZE = Kind("SIZE", "bytes", _single(parse_size))
DURATION = Kind("DURATION", "seconds", _single(parse_duration))
NUMBER = Kind("N", "number", _single(parse_count))
FILE = Kind("FILE", "path", _single(partial(_given, "the name of a file")))
LEVEL = Kind("LEVEL", "name of a level", _single(_log_level))
LISTENER = Kind(
    "STRPORT", "strports string, empty for none", _single(lambda text: "" if text == _NONE else _given("a strports string, or none", text))
)
LISTENERS = Kind("STRPORT", "strports strings", _listeners)
NAMES = Kind("NAME", "names", _list_of("names"))
FLAG = Kind("", "boolean", _boolean)


@dataclass(frozen=True)
class Option:
    """How an option is written, checked and described. Values are as they would be written, unless told otherwise."""

    kind: Kind
    default: Any  # what twistd phpmq takes if nothing is said; in words if embedded is given
    help: str  # what it is, in a sentence without a full stop
    least: str = ""  # the smallest value that it may have
    most: str = ""  # the largest one
    embedded: Any = None  # the default within another application where it is another one: a value in Python, or a function
    short: str | None = None  # a letter that is the same on the command line
    name: str = ""  # what it is called on the command line and in the configuration file; by default as its attribute
    attribute: str = ""  # its name in Settings

    @property
    def repeated(self) -> bool:
        """Whether the command line may have it more than once, and the configuration file a list."""
        return self.kind in (LISTENERS, NAMES)

    @property
    def limits(self) -> str:
        """What its value has to be; empty where there is no limit."""
        return " and ".join(f"at {end} {limit}" for end, limit in (("least", self.least), ("most", self.most)) if limit)

    @property
    def usage(self) -> str:
        """A line for C{--help}."""
        return self.help + ("; may be repeated" if self.repeated else "") + (f" [default: {self.default}]" if self.default else "")

    def parse(self, value: Any) -> Any:
        """Return what the attribute is to be for a value of the command line or the file; L{StartError} if it cannot be that."""
        read = self.kind.read
        try:
            parsed = read(value)
            if (self.least and parsed < read(self.least)) or (self.most and parsed > read(self.most)):
                raise ValueError(f"expected {self.limits}")
        except ValueError as error:
            raise StartError(f"phpmq: --{self.name} {value}: {error}") from None
        return parsed


def _option(kind: Kind, default: Any, help: str, least: str = "", most: str = "", embedded: Any = None, **names: str) -> Any:
    metadata = {"option": Option(kind, default, help, least, most, embedded, **names)}
    value = kind.read(default) if embedded is None else embedded
    return field(default_factory=value, metadata=metadata) if callable(value) else field(default=value, metadata=metadata)


def default_memory_limit() -> int:
    """60 % of the machine's memory, or of the control group's where that is less; bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes":
        try:
            with open(path) as file:
                total = min(total, int(file.read()))
        except (OSError, ValueError):
            continue  # No such control group, or "max".
    return total * 6 // 10


@dataclass(frozen=True)
class Settings:
    """How a server is to be. In Python, sizes are bytes and times are seconds; see L{Option} for the rest of each line."""

    listen: Sequence[str] = _option(LISTENERS, "tcp:9100", "Where to listen, as a Twisted strports string, or 'none'", short="l")
    listen_original: Sequence[str] = _option(
        LISTENERS, "none", "The same for clients of the protocol's original revision, such as the published PHP client"
    )
    console: str = _option(
        LISTENER, "tcp:9101:interface=127.0.0.1", "Where the console for telnet, nc or socat listens, or 'none'", embedded=""
    )
    http: Sequence[str] = _option(LISTENERS, "tcp:9180:interface=127.0.0.1", "Where the HTTP API listens, or 'none'", embedded=())
    http_hosts: Sequence[str] = _option(NAMES, [], "Another name that the HTTP API answers to, as a proxy needs", name="http-host")
    insecure_admin: bool = _option(FLAG, False, "Let other machines reach the console and the HTTP API, though there is no login")
    store: str = _option(
        FILE, "phpmq.db in $STATE_DIRECTORY or here", "File that messages are mirrored to, or 'memory'", embedded="phpmq.db", short="s"
    )
    mirror_interval: float = _option(DURATION, "0.1s", "Time between two writes of the file", "1ms", "1h")
    max_message_size: int = _option(SIZE, "16M", "Largest body of a message", "1", "512M")  # no value in the database can be longer
    memory_limit: int = _option(
        SIZE, "60 % of the memory", "What all messages may take before senders are blocked", "1M", embedded=default_memory_limit
    )
    max_connections: int = _option(NUMBER, "10000", "Connections at a time, over all listeners", "1")
    max_connections_per_address: int = _option(
        NUMBER, "half of all; no limit for operators", "Connections from one address, at each port", "1", embedded=lambda: 0
    )
    max_window: int = _option(NUMBER, "65535", "Messages that one consumer may hold unacknowledged in a queue", "1")
    max_unconfirmed: int = _option(NUMBER, "10000", "Synced sends of one connection without a receipt, before the next ones wait", "1")
    max_keys: int = _option(NUMBER, "5000000", "Deduplication keys that all queues together may remember, before sends wait", "1")
    producer_timeout: float = _option(
        DURATION, "1d", "Time after which a silent producer is forgotten, and its retries are stored again", "1s"
    )
    frame_timeout: float = _option(DURATION, "30s", "Time that a begun frame or request may make no progress", "0.1s")
    write_timeout: float = _option(DURATION, "60s", "Time that a client may leave its deliveries or answers unread", "0.1s")
    max_consoles: int = _option(NUMBER, "16", "Consoles at a time", "1")
    max_http_connections: int = _option(NUMBER, "256", "Connections of the HTTP API at a time", "1")
    max_http_bodies: int = _option(SIZE, "64M", "What the bodies of incomplete HTTP requests may take together", "1M")
    metrics_queues: int = _option(NUMBER, "200", "Queues that have metrics of their own; those of the others are summed", "0", "100000")
    log_level: str = _option(LEVEL, "info", "Least important lines that twistd phpmq logs: debug has every connection")

    @property
    def per_address(self) -> int:
        """Connections of clients from one address at a time; unless it is set, half of all."""
        return self.max_connections_per_address or max(1, self.max_connections // 2)


def _named(described: Field[Any]) -> Option:
    option: Option = described.metadata["option"]
    return replace(option, attribute=described.name, name=option.name or described.name.replace("_", "-"))


#: Every option by its name.
OPTIONS: dict[str, Option] = {option.name: option for option in map(_named, fields(Settings))}


def settings_of(values: Mapping[str, Any], directory: str) -> Settings:
    """
    Return the settings of C{twistd phpmq}; L{StartError} if one of the values is wrong.

    @param values: options by their names, as the command line or the configuration file has them
    @param directory: where the file is by default
    """
    defaults = {"store": os.path.join(directory, Settings.store), **{name: OPTIONS[name].default for name in ("console", "http")}}
    # With original listeners only there is no default for the others.
    original = {"listen": _NONE} if "listen-original" in values else {}
    return Settings(**{OPTIONS[name].attribute: OPTIONS[name].parse(value) for name, value in {**defaults, **original, **values}.items()})
