"""Tests of L{phpmq.engine}: the contract of every engine, and what is special about the local one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from phpmq.clock import SteadyClock
from phpmq.engine import LocalEngine
from phpmq.settings import Settings
from tests import engine_contract


class MemoryEngineTests(engine_contract.EngineContract):
    """A local engine without a file, in faked time."""

    clock: Any

    def make_engine(self, **settings: Any) -> LocalEngine:
        """Start one."""
        self.clock = Clock()
        engine = LocalEngine(Settings(**{"store": "memory", **settings}), self.clock)
        engine.clock = SteadyClock(lambda: 1_000_000 + self.clock.seconds(), self.clock.seconds)
        engine.startService()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.end(engine)))
        return engine

    async def end(self, engine: LocalEngine) -> None:
        """Stop one, unless the test did."""
        if engine.running:
            engine.drain()
            await engine.stopService()
            engine.close()

    async def advance(self, seconds: float) -> None:
        """Let time pass in steps, as it does."""
        for _ in range(max(1, round(seconds / 0.01))):
            self.clock.advance(0.01)


class FileEngineTests(MemoryEngineTests):
    """A local engine with a file, in real time."""

    timeout = 30

    def make_engine(self, **settings: Any) -> LocalEngine:
        """Start one."""
        path = Path(self.mktemp())
        path.mkdir(parents=True)
        engine = LocalEngine(Settings(**{"store": str(path / "phpmq.db"), "mirror_interval": 0.05, **settings}), reactor)
        engine.startService()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.end(engine)))
        return engine

    async def advance(self, seconds: float) -> None:
        """Let time pass."""
        await deferLater(reactor, seconds)

    async def test_over_a_restart(self) -> None:
        """What was accepted is there after a stop and a start, in its order; what was in flight is ready."""
        client = self.client()
        client.publish(b"1", b"2")
        client.send(b"3", due=3_600_000)
        client.consume(1)
        await self.gets(client, b"1")
        await self.end(self.engine)
        path = self.engine.mirror.path
        self.start(store=path)
        again = self.client()
        again.consume(9)
        await self.gets(again, b"1", b"2")
        self.assertEqual(self.engine.broker.queues["q"].delayed, 1)
