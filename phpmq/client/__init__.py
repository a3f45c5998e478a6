"""
A client for Twisted programs: sends with receipts, consumers, and a connection that is made again when it is lost.

    client = QueueClient("tcp:mq.example:9100")
    client.setServiceParent(application)

    message_id = await client.send("jobs", b"hello")

    async for delivery in client.consume("jobs", window=10):
        work(delivery.body)
        delivery.ack()
"""

from phpmq.client.client import Consumer, Delivery, QueueClient, Worker, client_endpoint
from phpmq.client_connection import DuplicateId, MessageId

__all__ = ["Consumer", "Delivery", "DuplicateId", "MessageId", "QueueClient", "Worker", "client_endpoint"]
