"""What was measured."""

from __future__ import annotations

from array import array
from typing import Any

from phpmq.text import format_number, format_seconds

HEADINGS = ("", "messages", "time", "rate", "MB/s", "p50", "p95", "p99", "max")


class Figures:
    """
    Messages of one kind: how many, how long, and how late.

    @ivar bytes: of their bodies
    @ivar latencies: in seconds, in no particular order
    """

    def __init__(self, label: str, started: float) -> None:
        self.label = label
        self._started = self._last = started
        self.bytes = 0
        self.latencies = array("d")

    def add(self, size: int, begun: float, now: float) -> None:
        """One more."""
        self.bytes += size
        self.latencies.append(now - begun)
        self._last = now

    @property
    def seconds(self) -> float:
        """From the start to the last one."""
        return self._last - self._started

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        elapsed = max(self.seconds, 1e-9)
        return {
            "messages": len(self.latencies),
            "seconds": round(self.seconds, 6),
            "rate": round(len(self.latencies) / elapsed, 1),
            "mb_per_second": round(self.bytes / elapsed / 1e6, 3),
            "latency_ms": {name: round(value, 3) for name, value in self._latency().items()},
        }

    def row(self) -> tuple[str, ...]:
        """For people: the cells under L{HEADINGS}."""
        figures = self.as_json()
        numbers = (
            f"{figures['messages']:,}",
            format_seconds(self.seconds),
            f"{figures['rate']:,.0f}/s",
            format_number(figures["mb_per_second"]),
        )
        return (self.label, *numbers, *map(format_number, self._latency().values()))

    def _latency(self) -> dict[str, float]:
        ordered = sorted(self.latencies) or [0.0]
        last = len(ordered) - 1
        places = {"p50": last * 50 // 100, "p95": last * 95 // 100, "p99": last * 99 // 100, "max": last}
        return {name: ordered[place] * 1000 for name, place in places.items()}
