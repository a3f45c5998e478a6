"""
Who gets which message. Synchronous and without I/O: time comes from a function that is passed in, in milliseconds.

The rules that comments name by number are those of docs/reference/semantics.md.
"""

from phpmq.broker.broker import Broker
from phpmq.broker.channel import Channel
from phpmq.broker.lifecycle import State, state_of
from phpmq.broker.queue import DELIVERIES, SENDS, Consumer, Queue

__all__ = ["DELIVERIES", "SENDS", "Broker", "Channel", "Consumer", "Queue", "State", "state_of"]
