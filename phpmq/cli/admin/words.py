"""Numbers and facts that the API tells, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from phpmq.text import format_rate

# So many of the queues that a client consumes are named.
_NAMED = 4


def states(numbers: Mapping[str, Any]) -> str:
    """How many messages there are, by state."""
    return ", ".join(f"{numbers[state]:,} {state.replace('_', ' ')}" for state in ("ready", "delayed", "in_flight", "dead"))


def rates_of(rates: Mapping[str, Any]) -> str:
    """How fast, in the last ten seconds."""
    return ", ".join(f"{counter} {format_rate(numbers['10s'])}" for counter, numbers in rates.items())


def totals(numbers: Mapping[str, Any]) -> str:
    """What was counted, as far as there was any."""
    return ", ".join(f"{number:,} {counter.replace('_', ' ')}" for counter, number in numbers.items() if number) or "nothing"


def paused(queue: Mapping[str, Any]) -> str:
    """What of a queue is paused; empty for nothing."""
    return " and ".join(what for what, stopped in queue["paused"].items() if stopped)


def marked(queue: Mapping[str, Any]) -> str:
    """A queue's name, and that it is paused if it is."""
    return f"{queue['name']}  (paused: {stopped})" if (stopped := paused(queue)) else str(queue["name"])


def lease(number: float) -> str:
    """How long a message may be held."""
    return f"{number:g} s" if number else "-"


def consumed(consuming: Sequence[Mapping[str, Any]]) -> str:
    """The queues that a client consumes."""
    names = [consumer["queue"] for consumer in consuming[:_NAMED]]
    more = len(consuming) - len(names)
    return (", ".join(names) or "-") + (f" and {more:,} more" if more else "")
