"""
The operators' side of a server. The console, the HTTP API and the metrics are front ends of it, so a number is the same everywhere.

Everything is called on the reactor's thread. Results are those of L{phpmq.results}; C{await} marks what is done in time slices:

    admin.status()  connections()  health()  alarms()  mirror()  sample()  uptime  now
    admin.queues        await list(filter, sort, after, limit)  await get(name)  status(name)  configure(name, settings)
                        pause(name, what)  resume(name, what)  flush(name)  await flush_all()  await delete(name)
    admin.messages      await list(name, state, after, limit, preview)  read(name, id, preview)
                        await send(name, body, ...)  await move(source, target, count)
    admin.dead_letters  totals(filter, after, limit)  await replay(name, target, ids, reason, count)  await delete(name, ids, reason, count)
    admin.clients       await list(filter, after, limit)  disconnect(id)
    admin.work          await run(steps): other work that takes long
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Protocol

from phpmq import __version__, results
from phpmq.admin.messages import DeadLetters, Messages
from phpmq.admin.queues import Queues, Rates, check_limit, select, start_of
from phpmq.admin.reactor import CooperativeWork, ReactorLag, cooperative
from phpmq.engine import LocalEngine
from phpmq.errors import NoSuchClient
from phpmq.interfaces import IOperators, Steps
from phpmq.operators import moment, steps_of
from phpmq.ports import Connections
from phpmq.protocol import QueueProtocol
from phpmq.results import Alarm, ClientStatus, Health, MemoryStatus, MirrorStatus, Page, ServerStatus
from phpmq.settings import Settings

#: Seconds without a written mirror file after which it counts as failing.
MIRROR_PATIENCE = 10.0


class Server(Protocol):
    """What an L{Admin} looks at: a L{phpmq.service.QueueService}."""

    settings: Settings
    engine: LocalEngine
    connections: Connections[QueueProtocol]
    running: int
    lag: ReactorLag
    consoles: Any  # the console's port, and site that of the HTTP API, for those who know them
    site: Any


class Admin:
    """
    What an operator can see and do.

    @ivar server: the server, which has been started
    @ivar operators: the engine that keeps its messages
    @ivar work: what is done in time slices
    """

    def __init__(self, server: Server, reactor: Any) -> None:
        self.server = server
        engine = server.engine
        self.operators: IOperators = engine.operators
        operators = self.operators
        self.work = work = CooperativeWork(reactor, engine.clock.seconds, lambda: server.running)
        self.queues = Queues(operators, work, self._channels, reactor)
        self.messages = Messages(operators, work, engine.broker, server.settings.max_message_size)
        self.dead_letters = DeadLetters(operators, work)
        self.clients = Clients(operators, work, server.connections)
        self._reactor = reactor
        self._started = reactor.seconds()
        self._rates = Rates(self._counts(), self._started)

    def _channels(self) -> Mapping[Any, int]:
        return {client.session.channel: client.number for client in self.server.connections.open if client.session is not None}

    @property
    def uptime(self) -> float:
        """Seconds since the server started."""
        return float(self._reactor.seconds() - self._started)

    @property
    def now(self) -> int:
        """The server's time, milliseconds since the epoch."""
        return self.operators.now()

    def _counts(self) -> tuple[int, int, int]:
        totals = self.operators.totals()
        return totals.received, totals.delivered, totals.acknowledged

    def sample(self) -> None:
        """Take note of all counters; to be called about once a second."""
        self._rates.sample(self._counts(), self._reactor.seconds())
        self.queues.sample()

    def status(self) -> ServerStatus:
        """Return the status of the whole server."""
        operators = self.operators
        now, gauges = operators.now(), operators.gauges()
        messages, consumers = operators.sums()
        return ServerStatus(
            version=__version__,
            state="running" if self.server.running else "draining",
            now=moment(now),
            uptime_seconds=round(self.uptime, 3),
            messages=messages,
            totals=operators.totals(),
            dead_lettered=dict(operators.dead_lettered),
            rates=self._rates.result(),
            queues=gauges["queues"],
            consumers=consumers,
            connections=self.connections(),
            keys=results.Keys(gauges["keys"], gauges["keys_limit"]),
            memory=MemoryStatus(gauges["memory_used"], gauges["memory_limit"], *memory_of_process()),
            mirror=self.mirror(),
            alarms=tuple(self.alarms()),
        )

    def connections(self) -> results.Connections:
        """Return how many connections there are, and what happened to them."""
        clients = self.server.connections
        timeouts, errors = dict(clients.timeouts), dict(clients.errors)
        return results.Connections(len(clients.open), clients.max_connections, clients.accepted, clients.rejected, timeouts, errors)

    def mirror(self) -> MirrorStatus:
        """Return whether the mirror file has everything."""
        mirror = self.server.engine.mirror
        if mirror is None:
            return MirrorStatus(None)
        pending = mirror.pending
        lag = round(mirror.lag if pending or mirror.failing else 0.0, 3)
        return MirrorStatus(mirror.path, mirror.failing, pending, lag, mirror.writes, mirror.errors)

    def alarms(self) -> list[Alarm]:
        """What an operator has to look at now."""
        return [Alarm(name, text) for name, text in {**self._wrong(), **self.operators.alarms()}.items() if text]

    def health(self) -> Health:
        """Whether the server does what it is for, check by check."""
        wrong = self._wrong()
        return Health(not any(wrong.values()), {name: text or "ok" for name, text in wrong.items()})

    def _wrong(self) -> dict[str, str]:
        """The text of each check that failed; empty for those that are passed."""
        mirror = self.server.engine.mirror
        wrong = {
            "running": "" if self.server.running else "the server is about to stop",
            "memory": self.operators.alarms().get("memory", ""),
        }
        if mirror is not None:
            late = mirror.lag > MIRROR_PATIENCE + mirror.interval
            text = f"the store's file was not written for {mirror.lag:.0f} s" if late else ""
            wrong["mirror"] = "the store's file cannot be written" if mirror.failing else text
        return wrong


class Clients:
    """What operators see of connections, and do to them."""

    def __init__(self, operators: IOperators, work: CooperativeWork, connections: Connections[QueueProtocol]) -> None:
        self.work = work
        self._operators = operators
        self._connections = connections

    @cooperative
    def list(self, filter: str = "*", after: str = "", limit: int = 100) -> Steps[Page]:
        """Connections in the order in which they were made, by pages; C{filter} is a pattern for address, listener or protocol."""
        limit, start = check_limit(limit), start_of(after)
        found = [client for client in self._connections.open if client.number > start]
        found = yield from select(filter, found, lambda client: (client.peer, client.listener, _protocol_version(client)))
        found = heapq.nsmallest(limit + 1, found, key=attrgetter("number"))
        yield
        items = yield from steps_of(self._status, found[:limit])
        return Page(items, str(found[limit - 1].number) if len(found) > limit else None)

    def _status(self, client: QueueProtocol) -> ClientStatus:
        session = client.session
        consuming = () if session is None else self._operators.consuming(session.channel)
        return ClientStatus(
            client.number,
            client.peer,
            client.listener,
            _protocol_version(client),
            None,
            round(self._connections.clock.seconds() - client.since, 3),
            sum(consumer.in_flight for consumer in consuming),
            consuming,
            client.received,
            client.sent,
            session is not None and session.waiting,
        )

    def disconnect(self, id: int) -> ClientStatus:
        """Close a connection; what it holds is ready again. L{NoSuchClient} if there is none of that number."""
        for client in self._connections.open:
            if client.number == id:
                result = self._status(client)
                client.abort()
                return result
        raise NoSuchClient(f"there is no client {id}")


def _protocol_version(client: QueueProtocol) -> str:
    return "" if client.session is None else client.session.protocol_version


def memory_of_process() -> tuple[int, ...]:
    """What the process takes now and took at most, in bytes; nothing where the system does not tell it in /proc."""
    try:
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        return tuple(int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    except (OSError, KeyError, ValueError):
        return ()
