"""A client's connection in version 02, without I/O: L{phpmq.client} and L{phpmq.blocking} put a transport around it."""

from phpmq.client_connection.connection import HEARTBEAT, TIMEOUT, ClientConnection, Delivery, backoff
from phpmq.client_connection.outbox import MAX_UNCONFIRMED, MAX_UNCONFIRMED_SIZE
from phpmq.client_connection.requests import DuplicateId, MessageId, Request

__all__ = ["HEARTBEAT", "MAX_UNCONFIRMED", "MAX_UNCONFIRMED_SIZE", "TIMEOUT"]
__all__ += ["ClientConnection", "Delivery", "DuplicateId", "MessageId", "Request", "backoff"]
