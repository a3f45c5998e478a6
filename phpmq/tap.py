"""C{twistd phpmq}: options, and all the wiring; the only place that picks a reactor."""

from __future__ import annotations

import atexit
import gc
import os
import re
import signal
import tomllib
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, ClassVar, NoReturn

from twisted.application.service import IService
from twisted.logger import FilteringLogObserver, Logger, LogLevel, LogLevelFilterPredicate, globalLogPublisher
from twisted.python import usage

from phpmq.clock import SteadyClock
from phpmq.errors import StartError
from phpmq.protocol import QueueProtocol
from phpmq.service import QueueService, Settings

_log = Logger()

_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}

# What `twistd phpmq` has that does not say otherwise; a service in another application has none.
_CONSOLE, _HTTP = "tcp:9101:interface=127.0.0.1", "tcp:9180:interface=127.0.0.1"

# What tells that there is none of them.
_NONE = "none"

# The memory database cannot hold longer values.
_LARGEST_MESSAGE = 512 * 1024**2


def _size(value: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([kmg]?)(i?b)?", value.strip().lower(), re.ASCII)
    if match is None:
        raise ValueError("expected a number of bytes, such as 1048576, 64k, 16M or 2G")
    return int(match[1]) * _UNITS[match[2]]


def _path(value: str) -> str:
    if not value:
        raise ValueError("expected the name of a file")
    return value


def _listener_or_none(value: str) -> str:
    if not value:
        raise ValueError("expected a strports string, or none")
    return "" if value == _NONE else value


def _at_least(least: float, parse: Callable[[str], Any], most: float = float("inf")) -> Callable[[str], Any]:
    def parse_within(value: str) -> Any:
        number = parse(value)
        if not least <= number <= most:
            raise ValueError(f"expected at least {least:.9g}" + (f" and at most {most:.9g}" if most < float("inf") else ""))
        return number

    return parse_within


def _one_of(*names: str) -> Callable[[str], str]:
    def parse_name(value: str) -> str:
        if value not in names:
            raise ValueError(f"expected one of {', '.join(names)}")
        return value

    return parse_name


#: name -> parser of every option with a value; the configuration file has the same names.
_PARSERS: dict[str, Callable[[str], Any]] = {
    "store": _path,
    "mirror-interval": _at_least(0.001, float, 3600),
    "max-message-size": _at_least(1, _size, _LARGEST_MESSAGE),
    "memory-limit": _at_least(1024**2, _size),
    "max-connections": _at_least(1, int),
    "max-connections-per-address": _at_least(1, int),
    "max-window": _at_least(1, int),
    "max-unconfirmed": _at_least(1, int),
    "max-keys": _at_least(1, int),
    "producer-timeout": _at_least(1, float),
    "frame-timeout": _at_least(0.1, float),
    "write-timeout": _at_least(0.1, float),
    "max-consoles": _at_least(1, int),
    "max-http-connections": _at_least(1, int),
    "max-http-bodies": _at_least(1024**2, _size),
    "metrics-queues": _at_least(0, int, 100_000),
    "console": _listener_or_none,
    "log-level": _one_of(*(level.name for level in LogLevel.iterconstants())),
}
_LISTS = ("listen", "listen-original", "http", "http-host")
_FLAGS = ("insecure-admin",)


class Options(usage.Options):
    """Options of C{twistd phpmq}."""

    synopsis = "[options]"
    longdesc = "A message-queue server for the PHPMQ protocol: named FIFO queues in memory, mirrored to a file."

    optParameters: ClassVar[list[list[str | None]]] = [
        [
            "store",
            "s",
            None,
            "The SQLite file that messages are mirrored to, or 'memory' for none [default: phpmq.db in $STATE_DIRECTORY or here]",
        ],
        ["mirror-interval", None, None, "Seconds between two writes of the file [default: 0.1]"],
        [
            "max-message-size",
            None,
            None,
            "Largest body of a message, in bytes or with k, M, G [default: 16M]",
        ],
        [
            "memory-limit",
            None,
            None,
            "What all messages may take before senders have to wait [default: 60 % of the memory]",
        ],
        ["max-connections", None, None, "Connections at a time [default: 10000]"],
        ["max-connections-per-address", None, None, "Connections at a time from one address [default: half of max-connections]"],
        [
            "max-window",
            None,
            None,
            "Messages that one consumer may hold unacknowledged in a queue [default: 65535]",
        ],
        [
            "max-unconfirmed",
            None,
            None,
            "Synced sends that one connection may have without a receipt before the next ones wait [default: 10000]",
        ],
        [
            "max-keys",
            None,
            None,
            "Keys of sends that all queues together may remember before the next ones wait [default: 5000000]",
        ],
        [
            "producer-timeout",
            None,
            None,
            "Seconds after which a producer that sends nothing is forgotten, so that its retries are no longer recognised [default: 86400]",
        ],
        ["frame-timeout", None, None, "Seconds that a begun frame may make no progress [default: 30]"],
        [
            "write-timeout",
            None,
            None,
            "Seconds that a consumer may leave its deliveries unread [default: 60]",
        ],
        ["max-consoles", None, None, "Consoles at a time [default: 16]"],
        ["max-http-connections", None, None, "Connections of HTTP at a time [default: 256]"],
        [
            "max-http-bodies",
            None,
            None,
            "What the bodies of HTTP requests that are not complete may take together [default: 64M]",
        ],
        [
            "metrics-queues",
            None,
            None,
            "Queues that the metrics have series of their own for; the others are one sum [default: 200]",
        ],
        [
            "console",
            None,
            None,
            f"Where operators type commands with telnet, nc or socat, as a strports string, or 'none' [default: {_CONSOLE}]",
        ],
        ["log-level", None, None, "Least important lines to log: debug has every connection [default: info]"],
        [
            "config",
            "c",
            None,
            "A TOML file with the same names as these options; what the command line says counts more",
        ],
    ]

    optFlags: ClassVar[list[list[str | None]]] = [
        ["insecure-admin", None, "Let other machines reach the console and the HTTP API, though there is no login"],
    ]

    def __init__(self) -> None:
        super().__init__()
        for name in _LISTS:
            self[name] = []

    def opt_listen(self, description: str) -> None:
        """A port to listen on, as a Twisted strports string; may be repeated [default: tcp:9100]"""
        self["listen"].append(description)

    opt_l = opt_listen

    def opt_listen_original(self, description: str) -> None:
        """Likewise, for clients of the protocol's original revision, such as the published PHP client; may be repeated"""
        self["listen-original"].append(description)

    def opt_http(self, description: str) -> None:
        """Likewise for the HTTP API, or 'none' for no such port; may be repeated [default: tcp:9180:interface=127.0.0.1]"""
        self["http"].append(description)

    def opt_http_host(self, name: str) -> None:
        """A name that the HTTP API answers to, beside localhost and the addresses at which it listens; may be repeated"""
        self["http-host"].append(name)

    def postOptions(self) -> None:
        """
        Merge the configuration file, check all values.

        @raise StartError: one of them is wrong
        """
        values = {} if self["config"] is None else _read_config(self["config"])
        values |= {name: self[name] for name in _PARSERS if self[name] is not None}
        values |= {name: self[name] for name in _LISTS if self[name]}
        values |= {name: True for name in _FLAGS if self[name]}
        parsed = {name.replace("-", "_"): _parse(name, value) for name, value in values.items()}
        if "listen" not in parsed and "listen_original" in parsed:
            parsed["listen"] = ()
        parsed.setdefault("console", _CONSOLE)
        parsed["http"] = _after_none(parsed.get("http", (_HTTP,)))
        parsed["http_hosts"] = parsed.pop("http_host", ())
        parsed.setdefault("store", os.path.join(os.environ.get("STATE_DIRECTORY", "").split(":")[0], "phpmq.db"))
        self.log_level = parsed.pop("log_level", "info")
        self.settings = Settings(**parsed)


def _after_none(descriptions: tuple[str, ...]) -> tuple[str, ...]:
    """Those that follow the last C{none}."""
    for place in range(len(descriptions) - 1, -1, -1):
        if descriptions[place] == _NONE:
            return descriptions[place + 1 :]
    return descriptions


def _refuse(reason: str) -> NoReturn:
    raise StartError(f"phpmq: {reason}")


def _parse(name: str, value: Any) -> Any:
    if name in _LISTS:
        descriptions = [value] if isinstance(value, str) else value
        if not isinstance(descriptions, list) or not all(isinstance(each, str) for each in descriptions):
            _refuse(f"{name}: expected a list of {'names' if name == 'http-host' else 'strports strings'}, got {value!r}")
        return tuple(descriptions)
    if name in _FLAGS:
        if not isinstance(value, bool):
            _refuse(f"{name}: expected true or false, got {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        _refuse(f"{name}: expected a single value, got {value!r}")
    try:
        return _PARSERS[name](str(value))
    except ValueError as error:
        _refuse(f"--{name} {value}: {error}")


def _read_config(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except (OSError, ValueError) as error:
        _refuse(f"the configuration file {path} cannot be read: {getattr(error, 'strerror', None) or error}")
    known = [*_PARSERS, *_LISTS, *_FLAGS]
    for name in values:
        if name not in known:
            nearest = get_close_matches(name.replace("_", "-"), known, 1)
            _refuse(f"{path}: unknown key {name!r}" + (f", did you mean {nearest[0]!r}?" if nearest else ""))
    return values


class _Daemon(QueueService):
    """A server that is the process: signals are for it."""

    def privilegedStartService(self) -> None:
        """From here on a signal stops cleanly, also while the store is read."""
        _handle_signals(self._reactor)
        super().privilegedStartService()


def makeService(options: Options, reactor: Any = None) -> IService:
    """
    The server, wired up.

    @raise StartError: a listener's description is wrong
    """
    if reactor is None:
        from twisted.internet import reactor
    settings = options.settings
    _log_from(options.log_level)
    _steady(reactor)
    # What is there once the server runs stays: the garbage collector need not look at it again and again.
    reactor.callWhenRunning(gc.freeze)
    try:
        service = _Daemon(settings, reactor)
    except ValueError as error:
        _refuse(f"cannot understand {error}")
    reactor.addSystemEventTrigger("after", "shutdown", _tell_exit_code, service, reactor)
    return service


def _tell_exit_code(service: QueueService, reactor: Any) -> None:
    """A clean stop ends with exit code 0, one that could not save everything with 1."""
    # Otherwise twistd would end the process by the signal that stopped it, once more.
    reactor._exitSignal = None
    if service.mirror is not None and service.mirror.unsaved:
        atexit.register(os._exit, 1)


def _log_from(level: str) -> None:
    """Have a server's busiest logger drop what is less important: twistd's log file takes everything."""
    predicate = LogLevelFilterPredicate(LogLevel.lookupByName(level))
    observer = FilteringLogObserver(globalLogPublisher, [predicate])
    QueueProtocol._log = Logger(QueueProtocol._log.namespace, observer=observer)


def _steady(reactor: Any) -> None:
    """
    Have the reactor's timers follow the monotonic clock.

    C{reactor.seconds} is the system's time: set back by six seconds, no timer of Twisted's fires for six seconds. A L{SteadyClock}
    starts with the same value, so that timers that are set already stay right.
    """
    reactor.seconds = SteadyClock().seconds


def _handle_signals(reactor: Any) -> None:
    """
    SIGTERM and SIGINT stop cleanly, SIGHUP does not stop at all.

    The reactor replaces the first two when it runs by its own, which do the same; see also L{_tell_exit_code}.
    """

    def stop(*_: object) -> None:
        reactor.callFromThread(_stop, reactor)

    def ignore(*_: object) -> None:
        reactor.callFromThread(_log.info, "SIGHUP is ignored: restart to change settings")

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, ignore)


def _stop(reactor: Any) -> None:
    if reactor.running:
        reactor.stop()
