"""The turn: one call into the broker, at the end of which deliveries are made and output is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from phpmq.interfaces import IPeer

#: How many messages a dispatch delivers, or a sweep or a purge looks at, before it yields to the reactor.
STEP = 2000


class Scheduled(Protocol):
    """A queue: what may have messages for consumers."""

    scheduled: bool


class Writer(Protocol):
    """A channel: what has a peer that writes."""

    has_output: bool
    peer: IPeer


@dataclass(slots=True, eq=False)
class Turn:
    """
    What is called between L{begin} and the broker's C{end} is one turn: time stands still in it, and deliveries wait for its end.

    Outside of a turn C{wake} is called when there is something to dispatch.

    @ivar now: the time of this turn, milliseconds since the epoch
    @ivar active: whether a turn is under way
    @ivar wake: called, perhaps often, when the broker should dispatch soon
    @ivar due: the queues that may have messages for their consumers
    @ivar output: the channels whose peers have something to flush
    """

    _clock: Callable[[], int]
    wake: Callable[[], object]
    now: int = 0
    active: bool = False
    due: deque[Scheduled] = field(default_factory=deque)
    output: list[Writer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = self._clock()

    def begin(self) -> None:
        """Start a turn."""
        self.now = self._clock()
        self.active = True

    def enter(self) -> None:
        """Let a call from outside of any turn see what time it is."""
        if not self.active:
            self.now = self._clock()

    def schedule(self, queue: Scheduled) -> None:
        """Look at a queue in the next dispatch: it may have messages for its consumers."""
        if not queue.scheduled:
            queue.scheduled = True
            self.due.append(queue)
            if not self.active:
                self.wake()

    def flush_later(self, channel: Writer) -> None:
        """Flush a channel's peer at the end of this turn: it has something to write."""
        if not channel.has_output:
            channel.has_output = True
            self.output.append(channel)
            if not self.active:
                self.wake()

    def flush(self) -> None:
        """Let the peers write that have something to write."""
        output, self.output = self.output, []
        for channel in output:
            channel.has_output = False
            channel.peer.flush()
