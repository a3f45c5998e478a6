"""Connections, as an operator sees and closes them."""

from __future__ import annotations

import heapq
from operator import attrgetter
from typing import Any

from phpmq.admin import status
from phpmq.admin.pages import Page, check_limit, matcher, start_of
from phpmq.admin.turns import Turns
from phpmq.errors import NoSuchClient
from phpmq.protocol import QueueProtocol


class Clients(Turns):
    """What can be seen of connections, and done to them."""

    async def clients(self, filter: str = "*", after: str = "", limit: int = 100) -> Page:
        """
        Connections in the order in which they were made, by pages.

        @param filter: a pattern for address, listener or protocol
        @param after: the C{next} of the page before
        """
        limit = check_limit(limit)
        start, matches = start_of(after), matcher(filter)

        def is_meant(client: QueueProtocol) -> bool:
            language = "" if client.session is None else client.session.protocol_version
            return any(matches(text) for text in (client.peer, client.listener, language))

        slices, connections = self.slices(), self.service.connections
        found = [client for client in connections.open if client.number > start]
        if filter != "*":
            found = await slices.those(is_meant, found)
        found = heapq.nsmallest(limit + 1, found, key=attrgetter("number"))
        await slices.rest()
        now = connections.seconds()
        items = await slices.each(lambda client: status.client_status(client, now), found[:limit])
        return Page(items, str(found[limit - 1].number) if len(found) > limit else None)

    def disconnect(self, id: int) -> dict[str, Any]:
        """
        Close a connection; what it holds is ready again.

        @raise NoSuchClient: there is none of that number
        """
        for client in self.service.connections.open:
            if client.number == id:
                result = status.client_status(client, self.service.connections.seconds())
                client.abort()
                return result
        raise NoSuchClient(f"there is no client {id}")
