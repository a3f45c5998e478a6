"""The operator's side of a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phpmq import __version__
from phpmq.admin import status
from phpmq.admin.clients import Clients
from phpmq.admin.letters import Letters
from phpmq.admin.queues import Queues
from phpmq.admin.rates import Rates
from phpmq.admin.turns import Server
from phpmq.message import DEFAULT_SETTINGS

#: Without one written for so long, in seconds, the mirror counts as failing.
MIRROR_PATIENCE = 10.0


@dataclass(frozen=True)
class Health:
    """
    Whether the server does what it is for.

    @ivar checks: name -> what is wrong; empty for what is well
    """

    checks: Mapping[str, str]

    @property
    def ready(self) -> bool:
        """Whether all is well."""
        return not any(self.checks.values())


class Admin(Queues, Letters, Clients):
    """
    What an operator can see and do. To be called on the reactor's thread.

    None of it keeps the reactor from other work for long: what may take long is done in turns, see L{phpmq.admin.turns}.
    """

    def __init__(self, service: Server, reactor: Any) -> None:
        super().__init__(service, reactor)
        self._started = reactor.seconds()
        self._totals = Rates(self._counts(), self._started)

    @property
    def uptime(self) -> float:
        """Seconds since the server started."""
        return float(self._reactor.seconds() - self._started)

    def _counts(self) -> tuple[int, ...]:
        return self.broker.lifecycle.received, self.broker.lifecycle.delivered, self.broker.lifecycle.acknowledged

    def sample(self) -> None:
        """Take note of all counters; to be called about once a second."""
        self._totals.sample(self._counts(), self._reactor.seconds())
        self._sample_queues()

    def status(self) -> dict[str, Any]:
        """The whole server."""
        service, broker = self.service, self.broker
        broker.turn.enter()
        messages, consumers = status.sums_of(broker)
        connections = service.connections
        return {
            "version": __version__,
            "state": "running" if service.running else "draining",
            "now": status.moment(broker.turn.now),
            "uptime_seconds": round(self.uptime, 3),
            "messages": messages,
            "totals": status.totals_of(broker),
            "dead_lettered": dict(broker.dead_letters.by_reason),
            "rates": status.rates_of(self._totals),
            "queues": len(broker.queues),
            "consumers": consumers,
            "connections": {
                "open": len(connections.open),
                "limit": connections.max_connections,
                "accepted": connections.accepted,
                "rejected": connections.rejected,
                "timeouts": dict(connections.timeouts),
                "protocol_errors": dict(connections.errors),
            },
            "keys": {"remembered": broker.keys.count, "limit": broker.keys.limit},
            "memory": {"used": broker.memory.used, "limit": broker.memory.limit, **status.memory_of_process()},
            "mirror": self.mirror(),
            "alarms": self.alarms(),
        }

    def mirror(self) -> dict[str, Any]:
        """The store's file."""
        mirror = self.service.mirror
        if mirror is None:
            return {"file": None}
        pending = mirror.pending
        return {
            "file": mirror.path,
            "failing": mirror.failing,
            "pending_changes": pending,
            "lag_seconds": round(mirror.lag if pending or mirror.failing else 0.0, 3),
            "writes": mirror.writes,
            "errors": mirror.errors,
        }

    def alarms(self) -> list[dict[str, str]]:
        """What an operator has to look at now."""
        alarms = {**self.health().checks, "keys": self.broker.keys.alarm}
        return [{"name": name, "text": text} for name, text in alarms.items() if text]

    def health(self) -> Health:
        """Whether the server does what it is for, check by check."""
        broker, mirror = self.broker, self.service.mirror
        checks = {
            "running": "" if self.service.running else "the server is about to stop",
            "memory": "the memory limit is reached" if broker.memory.used >= broker.memory.limit else "",
        }
        if mirror is not None:
            late = mirror.lag > MIRROR_PATIENCE + mirror.interval
            checks["mirror"] = (
                "the store's file cannot be written"
                if mirror.failing
                else f"the store's file was not written for {mirror.lag:.0f} s"
                if late
                else ""
            )
        return Health(checks)

    async def delete_queue(self, name: str) -> dict[str, Any]:
        """
        Flush a queue and forget its settings, pause, dead letters and keys. It goes away unless somebody consumes it.

        @raise NoSuchQueue: there is none of that name, and no dead letter of it
        """
        dead = (await self.delete_dead(name))["deleted"]
        removed, in_flight = self.broker.queues.flush(name)
        self.broker.keys.forget(name)
        if name in self.broker.queues:
            self.broker.queues.resume(name)
        if name in self.broker.queues:
            self.broker.configure(name, DEFAULT_SETTINGS)
        return {"queue": name, "removed": removed, "in_flight": in_flight, "dead": dead}
