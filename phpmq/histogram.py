"""A histogram of how long something takes, which costs two additions for each time and is read by the metrics."""

from __future__ import annotations


class Histogram:
    """
    How often something took how long, in buckets whose bounds double.

    @ivar unit: how many seconds the unit is that durations are counted in, and the bound of the first bucket
    @ivar counts: how many durations there were in each bucket; the last one has all that are longer than the bounds
    @ivar total: all durations together, in units
    """

    __slots__ = ("counts", "total", "unit")

    def __init__(self, unit: float, buckets: int) -> None:
        """
        @param buckets: how many have a bound
        """
        self.unit = unit
        self.counts = [0] * (buckets + 1)
        self.total = 0.0

    def observe(self, units: int, count: int = 1) -> None:
        """Count a duration, in whole units and rounded down, a number of times."""
        if units > 0:  # what is counted never falls, whatever the clock does
            self.counts[min(units.bit_length(), len(self.counts) - 1)] += count
            self.total += units * count
        else:
            self.counts[0] += count

    def observe_seconds(self, seconds: float) -> None:
        """Count a duration."""
        units = max(0.0, seconds) / self.unit
        self.counts[min(int(units).bit_length(), len(self.counts) - 1)] += 1
        self.total += units

    @property
    def bounds(self) -> list[float]:
        """The longest that a duration in each bucket may be, in seconds; the last bucket has none."""
        return [self.unit * 2**number for number in range(len(self.counts) - 1)]

    @property
    def seconds(self) -> float:
        """All durations together, in seconds."""
        return self.total * self.unit
