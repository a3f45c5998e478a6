"""How many a second."""

from __future__ import annotations

import math

#: Name and length in seconds of the windows that rates are told for.
WINDOWS = {"1s": 1.0, "10s": 10.0, "60s": 60.0}

# What is less counts as nothing.
_NOTHING = 0.005


class Rates:
    """
    Rates of some counters, sampled about once a second.

    Over a second it is what the last sample says; over the longer windows an average that forgets exponentially, as a system's load
    average does, so that a queue costs the same however long its history is.

    @ivar idle: whether all rates are 0
    """

    __slots__ = ("_averages", "_counts", "idle")

    def __init__(self, counts: tuple[int, ...]) -> None:
        """
        @param counts: what the counters are now
        """
        self._counts = counts
        self._averages = [[0.0] * len(WINDOWS) for _ in counts]
        self.idle = True

    def sample(self, counts: tuple[int, ...], seconds: float) -> None:
        """
        Take note of the counters.

        @param seconds: since the sample before
        """
        if self.idle and counts == self._counts:
            return
        idle = True
        for averages, count, before in zip(self._averages, counts, self._counts, strict=True):
            rate = (count - before) / seconds
            for place, window in enumerate(WINDOWS.values()):
                average = rate if window <= 1 else averages[place] + (rate - averages[place]) * (1 - math.exp(-seconds / window))
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
