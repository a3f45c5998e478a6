"""C{twistd phpmq}: options, and all the wiring; the only place that picks a reactor."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import tomllib
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, ClassVar

from twisted.application.service import IService
from twisted.logger import FilteringLogObserver, Logger, LogLevel, LogLevelFilterPredicate, globalLogPublisher
from twisted.python import usage

from phpmq.clock import SteadyClock
from phpmq.errors import StartError
from phpmq.protocol import QueueProtocol
from phpmq.service import QueueService
from phpmq.settings import FLAG, OPTIONS, Option, settings_of
from phpmq.text import DURATION_EXAMPLES, SIZE_EXAMPLES

_log = Logger()


class Options(usage.Options):
    """Options of C{twistd phpmq}: those of L{phpmq.settings}, and the configuration file."""

    synopsis = "[options]"
    longdesc = (
        "A message-queue server for the PHPMQ protocol: named FIFO queues in memory, mirrored to a file.\n\n"
        f"Sizes are bytes, or have a unit: {SIZE_EXAMPLES}. Times are seconds, or have a unit: {DURATION_EXAMPLES}."
    )

    optParameters: ClassVar[list[list[str | None]]] = [
        *([one.name, one.short, None, one.usage] for one in OPTIONS.values() if not one.repeated and one.kind is not FLAG),
        ["config", "c", None, "A TOML file with the same names as these options; what the command line says counts more"],
    ]
    optFlags: ClassVar[list[list[str | None]]] = [[one.name, one.short, one.usage] for one in OPTIONS.values() if one.kind is FLAG]

    def __init__(self) -> None:
        super().__init__()
        for one in OPTIONS.values():
            if one.repeated:
                self[one.name] = []

    def postOptions(self) -> None:
        """Merge the configuration file, check all values; L{StartError} if one of them is wrong."""
        values = {} if self["config"] is None else _read_config(self["config"])
        # What was not given is None, an empty list or, for a flag, 0; an empty text was given.
        given = {name: self[name] for name in OPTIONS if self[name] not in (None, [], 0)}
        flags = {name: True for name in given if OPTIONS[name].kind is FLAG}
        self.settings = settings_of(values | given | flags, os.environ.get("STATE_DIRECTORY", "").split(":")[0])


def _repeated(option: Option) -> Callable[[Options, str], None]:
    def append(self: Options, value: str) -> None:
        self[option.name].append(value)

    append.__doc__ = option.usage
    return append


# usage.Options takes an option more than once only if it has a method.
for _option in filter(lambda option: option.repeated, OPTIONS.values()):
    _method = _repeated(_option)
    for _name in filter(None, (_option.name, _option.short)):
        setattr(Options, f"opt_{_name.replace('-', '_')}", _method)


def _read_config(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except (OSError, ValueError) as error:
        raise StartError(f"phpmq: the configuration file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    for name in values:
        if name not in OPTIONS:
            nearest = get_close_matches(name.replace("_", "-"), OPTIONS, 1)
            raise StartError(f"phpmq: {path}: unknown key {name!r}" + (f", did you mean {nearest[0]!r}?" if nearest else ""))
    return values


class _Daemon(QueueService):
    """A server that is the process: signals are for it."""

    def privilegedStartService(self) -> None:
        """From here on a signal stops cleanly, also while the store is read."""
        _handle_signals(self._reactor)
        super().privilegedStartService()


def makeService(options: Options, reactor: Any = None) -> IService:
    """The server, wired up; L{StartError} if a listener's description is wrong."""
    if reactor is None:
        from twisted.internet import reactor
    settings = options.settings
    _log_from(settings.log_level)
    # The reactor's own clock is the system's time: set back by six seconds, no timer of Twisted's fires for six seconds. The steady one
    # starts with the same value, so that timers that are set already stay right.
    reactor.seconds = SteadyClock().seconds
    # What is there once the server runs stays: the garbage collector need not look at it again and again.
    reactor.callWhenRunning(gc.freeze)
    try:
        service = _Daemon(settings, reactor)
    except ValueError as error:
        raise StartError(f"phpmq: cannot understand {error}") from None
    reactor.addSystemEventTrigger("after", "shutdown", _tell_exit_code, service, reactor)
    return service


def _tell_exit_code(service: QueueService, reactor: Any) -> None:
    """A clean stop ends with exit code 0, one that could not save everything with 1."""
    # Otherwise twistd would end the process by the signal that stopped it, once more.
    reactor._exitSignal = None
    if service.engine.unsaved:
        atexit.register(os._exit, 1)


def _log_from(level: str) -> None:
    """Have a server's busiest logger drop what is less important: twistd's log file takes everything."""
    predicate = LogLevelFilterPredicate(LogLevel.lookupByName(level))
    observer = FilteringLogObserver(globalLogPublisher, [predicate])
    QueueProtocol._log = Logger(QueueProtocol._log.namespace, observer=observer)


def _handle_signals(reactor: Any) -> None:
    """
    SIGTERM and SIGINT stop cleanly, SIGHUP does not stop at all.

    The reactor replaces the first two when it runs by its own, which do the same; see also L{_tell_exit_code}.
    """

    def stop(*_: object) -> None:
        reactor.callFromThread(lambda: reactor.stop() if reactor.running else None)

    def ignore(*_: object) -> None:
        reactor.callFromThread(_log.info, "SIGHUP is ignored: restart to change settings")

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, ignore)
