"""
A client's side of a conversation in version 02, without I/O: L{phpmq.client} and L{phpmq.blocking} put a transport around it.
"""

from phpmq.conversation.conversation import TIMEOUT, Conversation
from phpmq.conversation.delivery import Delivery, Receiver, backoff
from phpmq.conversation.outbox import MAX_UNCONFIRMED, MAX_UNCONFIRMED_SIZE, Outbox, State
from phpmq.conversation.pending import DuplicateId, MessageId, Request

__all__ = [
    "MAX_UNCONFIRMED",
    "MAX_UNCONFIRMED_SIZE",
    "TIMEOUT",
    "Conversation",
    "Delivery",
    "DuplicateId",
    "MessageId",
    "Outbox",
    "Receiver",
    "Request",
    "State",
    "backoff",
]
