"""Engines: what keeps the messages behind the interfaces. The local one keeps them in this process, mirrored to a file."""

from __future__ import annotations

from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import Attribute, implementer

from phpmq.broker import Broker
from phpmq.clock import SteadyClock
from phpmq.mirror import MirrorService, StoreFile
from phpmq.operators import LocalOperators
from phpmq.settings import Settings
from phpmq.store import SQLiteStore

# Seconds between two looks at what expired, and between two looks at what is due or was leased.
_SWEEP_INTERVAL, _TICK_INTERVAL = 1.0, 0.1


class IEngine(IService):
    """
    What keeps the messages: a service that is started before anything listens, and ended in three steps.

    First L{drain}, then C{stopService}, whose Deferred fires when all that was accepted is saved and the receipts that wait are given,
    then, when no channel is open any more, L{close}.
    """

    broker = Attribute("An L{phpmq.interfaces.IBroker}, once the engine was started.")
    operators = Attribute("An L{phpmq.interfaces.IOperators}, once the engine was started.")
    clock = Attribute("The L{SteadyClock} that messages live by.")
    unsaved = Attribute("After a stop, how many changes could not be saved.")

    def drain() -> None:
        """Deliver a last time: what comes back from now on stays."""

    def close() -> None:
        """Give back what the engine holds."""


@implementer(IEngine)
class LocalEngine(Service):
    """
    Messages in the memory of this process, mirrored to a file.

    @ivar clock: the time that messages live by
    @ivar broker: who gets which message, once the engine was started
    @ivar operators: what operators see of them and do to them, once the engine was started
    @ivar store: the messages, once the engine was started; None before
    @ivar mirror: what copies the store to the file, once the engine was started; None without a file
    """

    _log = Logger()

    def __init__(self, settings: Settings, reactor: Any) -> None:
        self._settings = settings
        self._reactor = reactor
        self.clock = SteadyClock()
        self.broker: Broker
        self.operators: LocalOperators
        self.store: SQLiteStore | None = None
        self.mirror: MirrorService | None = None
        self._wake: Any = None
        self._sweeps = LoopingCall(self._sweep)
        self._ticks = LoopingCall(self._tick)
        self._sweeps.clock = self._ticks.clock = reactor

    @property
    def unsaved(self) -> int:
        """After a stop, how many changes could not be saved."""
        return 0 if self.mirror is None else self.mirror.unsaved

    # Start

    def startService(self) -> None:
        """
        Read the store and go.

        @raise StartError: the store's file cannot be used
        """
        settings = self._settings
        self.store = store = self._open_store()
        self.broker = broker = Broker(
            store,
            self.clock.now,
            settings.memory_limit,
            settings.max_window,
            self._dispatch_soon,
            int(settings.producer_timeout * 1000),
            settings.max_unconfirmed,
            settings.max_keys,
        )
        self.operators = LocalOperators(broker, store)
        broker.dispatch()
        if self.mirror is not None:
            self.mirror.synced = broker.synced
            broker.confirms.mirror = self.mirror
            self.mirror.startService()
        super().startService()
        self._sweeps.start(_SWEEP_INTERVAL, now=False)
        self._ticks.start(_TICK_INTERVAL, now=False)

    def _open_store(self) -> SQLiteStore:
        settings = self._settings
        if settings.store == "memory":
            self._log.warn("the store is in memory only: its messages end with this process")
            return SQLiteStore()
        file = StoreFile(settings.store)
        memory, damaged = file.open()
        if damaged:
            self._log.error(
                "{damaged} messages in {path} are damaged; they are kept in its table 'damaged' and not delivered",
                damaged=damaged,
                path=file.path,
            )
        reading = dict(memory.execute("SELECT key, value FROM meta WHERE key IN ('steady', 'wall')"))
        if len(reading) == 2:
            self.clock.resume(reading["steady"], reading["wall"])
        store = SQLiteStore(memory)
        self.mirror = MirrorService(store.changelog, file, settings.mirror_interval, self.clock, self._reactor)
        return store

    # While it runs

    def _dispatch_soon(self) -> None:
        if self._wake is None:
            self._wake = self._reactor.callLater(0, self._dispatch)

    def _dispatch(self) -> None:
        self._wake = None
        self.broker.dispatch()

    def _tick(self) -> None:
        """Release and take back messages. Catches everything: a LoopingCall that fails once never runs again."""
        try:
            if self._ticks.running and not self.broker.tick():
                self._reactor.callLater(0, self._tick)
        except Exception:
            self._log.failure("delayed messages could not be released")

    def _sweep(self) -> None:
        """Remove what expired. Catches everything, likewise."""
        try:
            if self._sweeps.running and not self.broker.sweep():
                self._reactor.callLater(0, self._sweep)
        except Exception:
            self._log.failure("expired messages could not be removed")

    # Stop

    def drain(self) -> None:
        """Deliver a last time; see L{IEngine}."""
        for calls in self._sweeps, self._ticks:
            if calls.running:
                calls.stop()
        self.broker.stop()

    def stopService(self) -> Deferred[None]:
        """Save all that was accepted; see L{IEngine}."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.drain()
        if self.mirror is not None:
            await self.mirror.stopService()

    def close(self) -> None:
        """Close the store; see L{IEngine}."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if self.store is not None:
            self.store.close()
