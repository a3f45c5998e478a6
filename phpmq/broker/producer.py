"""Who sends with numbers, so that a retry is not stored again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phpmq.broker.channel import Channel

#: What a producer counts against the memory limit, in bytes.
PRODUCER_OVERHEAD = 512


class Producer:
    """
    Rule 17b: a client that keeps its name across its connections and numbers its sends.

    @ivar number: the highest number accepted from it; -1 before the first
    @ivar message: the number of the message with it; 0 if that was before the start, so that the file has it
    @ivar used: when that was, milliseconds since the epoch
    @ivar channel: its conversation; None while it is not connected
    """

    __slots__ = ("channel", "message", "name", "number", "used")

    def __init__(self, name: bytes, number: int = -1, used: int = 0) -> None:
        self.name = name
        self.number = number
        self.message = 0
        self.used = used
        self.channel: Channel | None = None
