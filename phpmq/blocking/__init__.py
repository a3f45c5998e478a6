"""
A client for scripts without a reactor.

    from phpmq.blocking import connect

    with connect("tcp:mq.example:9100") as queue_client:
        message_id = queue_client.send("jobs", b"hello")

        for delivery in queue_client.consume("jobs", window=10):
            work(delivery.body)
            delivery.ack()

A client belongs to one thread; several threads use one each. It works while one of its methods runs: nothing is read or
written in between.
"""

from phpmq.blocking.client import Consumer, Delivery, QueueClient
from phpmq.blocking.reconnector import Submission
from phpmq.client_connection import DuplicateId, MessageId

#: To make a client is to connect it.
connect = QueueClient

__all__ = ["Consumer", "Delivery", "DuplicateId", "MessageId", "QueueClient", "Submission", "connect"]
