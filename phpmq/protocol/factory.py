"""What makes the protocols of a listener."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol

from phpmq.protocol.connections import Connections
from phpmq.protocol.protocol import QueueProtocol


class _Rejected(Protocol):
    """Hangs up. A factory that is wrapped, as for TLS, cannot turn a connection away by building no protocol."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()


class QueueFactory(Factory):
    """
    Makes the protocols of one listener.

    @ivar original: whether the listener is for clients of the original revision of protocol 01
    @ivar listener: its description
    """

    noisy = False

    def __init__(self, connections: Connections, original: bool = False, listener: str = "") -> None:
        self.connections = connections
        self.original = original
        self.listener = listener
        connections.by_listener.setdefault(listener, 0)

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """A protocol; one that hangs up if there are too many connections."""
        if not self.connections.admit(addr):
            return _Rejected()
        protocol = QueueProtocol(self.connections, self.original, self.listener)
        protocol.factory = self
        return protocol
