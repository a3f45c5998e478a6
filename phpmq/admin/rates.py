"""How many a second."""

from __future__ import annotations

import math

#: Name and length in seconds of the windows that rates are told for.
WINDOWS = {"1s": 1.0, "10s": 10.0, "60s": 60.0}

# What is less counts as nothing.
_NOTHING = 0.005

# What counts as the time that passed if it was none, or less: the reactor's is the system's.
_SHORTEST = 0.001


class Rates:
    """
    Rates of some counters, sampled about once a second.

    Over a second it is what the last sample says; over the longer windows an average that forgets exponentially, as a system's load
    average does, so that a queue costs the same however long its history is.

    @ivar idle: whether all rates are 0
    """

    __slots__ = ("_averages", "_counts", "_seconds", "idle")

    def __init__(self, counts: tuple[int, ...], seconds: float) -> None:
        """
        @param counts: what the counters are now
        @param seconds: what time that is
        """
        self._counts = counts
        self._seconds = seconds
        self._averages = [[0.0] * len(WINDOWS) for _ in counts]
        self.idle = True

    def sample(self, counts: tuple[int, ...], seconds: float) -> None:
        """
        Take note of the counters.

        @param seconds: what time it is
        """
        passed, self._seconds = max(seconds - self._seconds, _SHORTEST), seconds
        if self.idle and counts == self._counts:
            return
        weights = [1.0 if window <= 1 else 1 - math.exp(-passed / window) for window in WINDOWS.values()]
        idle = True
        for averages, count, before in zip(self._averages, counts, self._counts, strict=True):
            rate = (count - before) / passed
            for place, weight in enumerate(weights):
                average = averages[place] * (1 - weight) + rate * weight
                averages[place] = average if average > _NOTHING else 0.0
                idle = idle and not averages[place]
        self._counts = counts
        self.idle = idle

    def lately(self, counter: int) -> float:
        """About how many events a counter had in the longest window."""
        return 60 * self._averages[counter][-1]

    def of(self, counter: int) -> dict[str, float]:
        """A counter's rates by the window's name, in events a second."""
        return {name: round(average, 2) for name, average in zip(WINDOWS, self._averages[counter], strict=True)}
