"""How late the reactor is."""

from __future__ import annotations

from typing import Any

from phpmq.histogram import Histogram

#: Seconds between two beats.
INTERVAL = 0.1

# Delays are counted from an eighth of a millisecond to 16 seconds.
_UNIT, _BUCKETS = 0.000125, 18


class Pulse:
    """
    A call that the reactor makes ten times a second, and by how much each came late: as late as everything else that was due then.

    Each beat asks for the next one by itself. A LoopingCall leaves beats out when it is late, and does not tell how late it was.

    @ivar delays: by how much
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.delays = Histogram(_UNIT, _BUCKETS)
        self._due = 0.0
        self._next: Any = None

    @property
    def running(self) -> bool:
        """Whether it beats."""
        return self._next is not None

    def start(self) -> None:
        """Begin."""
        self._due = self._reactor.seconds() + INTERVAL
        self._next = self._reactor.callLater(INTERVAL, self._beat)

    def _beat(self) -> None:
        self.delays.observe_seconds(self._reactor.seconds() - self._due)
        self.start()

    def stop(self) -> None:
        """End."""
        self._next.cancel()
        self._next = None
