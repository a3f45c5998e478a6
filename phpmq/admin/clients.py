"""Connections as operators see and close them."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from operator import attrgetter

from phpmq.admin.queues import QUICK, check_limit, matcher, start_of
from phpmq.admin.reactor import CooperativeWork, cooperative
from phpmq.errors import NoSuchClient
from phpmq.interfaces import IOperators, Steps
from phpmq.operators import steps_of
from phpmq.ports import Connections
from phpmq.protocol import QueueProtocol
from phpmq.results import ClientStatus, Page


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
        if filter != "*":
            matches = yield from steps_of(_matcher(filter), found, QUICK)
            found = [client for client, matched in zip(found, matches, strict=True) if matched]
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
            "" if session is None else session.protocol_version,
            None,
            round(self._connections.seconds() - client.since, 3),
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


def _matcher(filter: str) -> Callable[[QueueProtocol], bool]:
    matches = matcher(filter)

    def is_meant(client: QueueProtocol) -> bool:
        protocol = "" if client.session is None else client.session.protocol_version
        return any(matches(text) for text in (client.peer, client.listener, protocol))

    return is_meant
