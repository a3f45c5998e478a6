"""
A client for scripts without a reactor.

    from phpmq.blocking import QueueClient

    with QueueClient("tcp:mq.example:9100") as client:
        message_id = client.send("jobs", b"hello")

        for delivery in client.consume("jobs", window=10):
            work(delivery.body)
            delivery.ack()

A client belongs to one thread; several threads use one each. It works while one of its methods runs: nothing is read or
written in between, and nobody answers for it.
"""

from phpmq.blocking.client import QueueClient, Submission
from phpmq.blocking.consumer import Consumer, Delivery
from phpmq.conversation import DuplicateId, MessageId

__all__ = ["Consumer", "Delivery", "DuplicateId", "MessageId", "QueueClient", "Submission"]
