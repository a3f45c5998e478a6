"""
A client for Twisted programs: sends with receipts, consumers, and a connection that comes back.

    client = QueueClient("tcp:mq.example:9100")
    client.setServiceParent(application)

    message_id = await client.send("jobs", b"hello")

    async for delivery in client.consume("jobs", window=10):
        work(delivery.body)
        delivery.ack()
"""

from phpmq.client.client import QueueClient
from phpmq.client.consumer import Consumer, Worker
from phpmq.client.delivery import Delivery
from phpmq.conversation import DuplicateId, MessageId

__all__ = ["Consumer", "Delivery", "DuplicateId", "MessageId", "QueueClient", "Worker"]
