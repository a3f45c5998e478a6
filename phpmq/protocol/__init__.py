"""Transports: framing, flow control in both directions, deadlines and limits of connections."""

from phpmq.protocol.connections import CLOSE_TIMEOUT, DEADLINES, HANDSHAKE_TIMEOUT, Connections
from phpmq.protocol.factory import QueueFactory
from phpmq.protocol.protocol import QueueProtocol

__all__ = ["CLOSE_TIMEOUT", "DEADLINES", "HANDSHAKE_TIMEOUT", "Connections", "QueueFactory", "QueueProtocol"]
