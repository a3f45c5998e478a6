"""Where the API is reached."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.python.failure import Failure

from phpmq.admin.access import refusal
from phpmq.admin.http.access import is_loopback
from phpmq.admin.http.site import Site


class Listener(Service):
    """
    One port of the API.

    @ivar description: its strports string
    """

    def __init__(self, description: str, site: Site, reactor: Any, insecure: bool = False) -> None:
        """
        @param insecure: whether other machines may reach it, though there is no login
        @raise ValueError: the description is none
        """
        self.description = description
        self._endpoint = serverFromString(reactor, description)
        self._site = site
        self._insecure = insecure
        self._port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """
        Bind it.

        @raise StartError: other machines reach it
        """
        bound: list[Any] = []
        # All endpoints that there are bind within the call, or fail.
        self._endpoint.listen(self._site).addBoth(bound.append)
        for result in bound:
            if isinstance(result, Failure):
                result.raiseException()
            self._port = result
            if not self._insecure and not _is_private(result.getHost()):
                self.stopService()
                raise refusal("--http", self.description)

    def stopService(self) -> Deferred[Any]:
        """Close it; connections stay."""
        super().stopService()
        port, self._port = self._port, None
        return succeed(None) if port is None else maybeDeferred(port.stopListening)


def _is_private(address: Any) -> bool:
    """Whether only this machine reaches an address."""
    return isinstance(address, UNIXAddress) or is_loopback(getattr(address, "host", None) or "")
