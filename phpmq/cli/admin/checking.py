"""What is checked, and the line that says how it is, as the guidelines for plugins of Nagios have it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from phpmq.cli.admin.several import there
from phpmq.cli.exits import Exit, Failed
from phpmq.cli.output import note
from phpmq.text import format_duration, plural, terminal_safe

if TYPE_CHECKING:
    from phpmq.cli.admin.api import Api
    from phpmq.cli.pipes import Output

# Queues that are asked for at a time: as many as the server gives, since each time it looks at all names.
_PAGE = 1000

# So many things that are wrong are named.
_NAMED = 5


class State(IntEnum):
    """How it is, and the exit code for that."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True)
class Limits:
    """What is to be checked, and what is too much of it or too little; see the options."""

    patterns: tuple[str, ...]
    mirror_lag: float | None = None
    ready_warn: int | None = None
    ready_crit: int | None = None
    age_warn: float | None = None
    age_crit: float | None = None
    dead_warn: int | None = None
    dead_crit: int | None = None
    min_consumers: int | None = None


class Findings:
    """
    What is wrong, the worst first.

    @ivar state: the worst
    """

    def __init__(self) -> None:
        self.state = State.OK
        self._found: dict[State, list[str]] = {State.CRITICAL: [], State.WARNING: []}

    def add(self, state: State, text: str) -> None:
        """Something is wrong."""
        self.state = max(self.state, state)
        self._found[state].append(text)

    def over(self, name: str, value: float, warn: float | None, crit: float | None, text: str) -> None:
        """Something is wrong if a value is above a limit."""
        for state, limit in (State.CRITICAL, crit), (State.WARNING, warn):
            if limit is not None and value > limit:
                self.add(state, f"{name}{text}, more than {limit:,.15g}")
                return

    def __str__(self) -> str:
        found = [text for texts in self._found.values() for text in texts]
        more = len(found) - _NAMED
        return "; ".join(found[:_NAMED]) + (f"; and {more:,} more" if more > 0 else "")


def check_server(reach: Callable[[Callable[[Api, Output], Coroutine[Any, Any, int]]], int], limits: Limits, timeout: float) -> int:
    """
    Check, and say how it is: the exit code.

    @param reach: runs a coroutine with the API
    @param timeout: seconds that all of it may take
    """
    from twisted.internet.defer import Deferred

    from phpmq.cli.running import within

    async def work(api: Api, output: Output) -> int:
        try:
            state, text = await within(api.reactor, timeout, Deferred.fromCoroutine(look(api, limits)))
        except TimeoutError as error:
            raise Failed(f"{api.address.name} does not answer within {timeout:g} s", Exit.TIMED_OUT) from error
        output.put(line(state, text))
        return state

    try:
        return reach(work)
    except Failed as error:
        # That a server is not there is known, and critical. What is no answer to the question is unknown.
        state = State.CRITICAL if error.code in (Exit.UNREACHABLE, Exit.TIMED_OUT) else State.UNKNOWN
        return say(state, error.sentence)
    except BrokenPipeError:
        raise
    except Exception as error:
        return say(State.UNKNOWN, f"failed unexpectedly, {type(error).__name__}: {error}")


def say(state: State, text: str) -> int:
    """Print the line, if that can be: the exit code."""
    if sys.stdout is None:
        return state
    try:
        sys.stdout.buffer.write(line(state, text.replace("|", "/")))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        note(f"cannot write to standard output: {error.strerror}")
        # It is still in the buffer, and would be tried again at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return state


def line(state: State, text: str) -> bytes:
    """The line."""
    return f"{state.name} - {terminal_safe(text)}\n".encode()


async def look(api: Api, limits: Limits) -> tuple[State, str]:
    """
    How it is, with the numbers.

    @raise Failed: it is not known
    """
    findings = Findings()
    status = await api.get("ask for the status", "status", wants=("alarms", "mirror", "messages"))
    for alarm in status["alarms"]:
        # Who stops a server knows it.
        findings.add(State.WARNING if alarm["name"] == "running" else State.CRITICAL, str(alarm["text"]))
    lag = status["mirror"].get("lag_seconds")
    findings.over("", lag or 0.0, None, limits.mirror_lag, f"the file is {format_duration(lag)} late")
    tally = Tally(limits, findings)
    seen: set[str] = set()
    for pattern in limits.patterns:
        async for queue in _matching(api, pattern):
            if queue["name"] not in seen:
                seen.add(queue["name"])
                tally.add(queue)
    if not seen and limits.min_consumers:
        findings.add(State.CRITICAL, f"no queue matches {' or '.join(limits.patterns)}")
    text = str(findings) if findings.state else tally.summary()
    return findings.state, f"{text.replace('|', '/')} | {tally.numbers(lag)}"


async def _matching(api: Api, pattern: str) -> Any:
    if any(wild in pattern for wild in "*?"):
        async for page in api.pages("list queues", "queues", page=_PAGE, filter=pattern):
            for queue in page:
                yield queue
        return
    found = await there(api.get(f"look at {pattern}", "queues", pattern, wants=("ready", "consumers", "dead")))
    # A queue that nobody uses is not there: it is empty.
    yield found or {"name": pattern, "ready": 0, "in_flight": 0, "dead": 0, "consumers": 0, "oldest_message_age_seconds": None}


class Tally:
    """
    The numbers of all queues that are checked. Each is held against the limits by itself.

    For the numbers at the end of the line that means: the highest one of all queues stands beside its limits, and sums are extra.
    """

    def __init__(self, limits: Limits, findings: Findings) -> None:
        self._limits, self._findings = limits, findings
        self._names: list[str] = []
        self._values: dict[str, list[float]] = {"ready": [], "age": [], "dead": [], "consumers": []}

    def add(self, queue: Mapping[str, Any]) -> None:
        """Take note of a queue, and of what is wrong with it."""
        limits, findings, name = self._limits, self._findings, str(queue["name"])
        age = queue["oldest_message_age_seconds"] or 0.0
        self._names.append(name)
        for kind, value in ("ready", queue["ready"]), ("age", age), ("dead", queue["dead"]), ("consumers", queue["consumers"]):
            self._values[kind].append(value)
        findings.over(f"{name}: ", queue["ready"], limits.ready_warn, limits.ready_crit, f"{queue['ready']:,} ready")
        findings.over(f"{name}: ", age, limits.age_warn, limits.age_crit, f"the next message waits for {age:,.0f} s")
        findings.over(f"{name}: ", queue["dead"], limits.dead_warn, limits.dead_crit, plural(queue["dead"], "dead letter"))
        if queue["consumers"] < (limits.min_consumers or 0):
            findings.add(State.CRITICAL, f"{name}: {plural(queue['consumers'], 'consumer')}, fewer than {limits.min_consumers:,}")

    def summary(self) -> str:
        """What there is to say where nothing is wrong."""
        values = self._values
        ready, dead, consumers = (round(sum(values[kind])) for kind in ("ready", "dead", "consumers"))
        oldest = format_duration(max(values["age"], default=0.0))
        which = self._names[0] if len(self._names) == 1 else plural(len(self._names), "queue")
        return f"{which}: {ready:,} ready, {dead:,} dead, waiting for {oldest} at most, {plural(consumers, 'consumer')}"

    def numbers(self, lag: float | None) -> str:
        """The numbers, for graphs."""
        limits, values = self._limits, self._values
        least = "" if limits.min_consumers is None else f"{limits.min_consumers}:"
        found = [
            _number("ready", max(values["ready"], default=0), "", limits.ready_warn, limits.ready_crit),
            _number("age", max(values["age"], default=0), "s", limits.age_warn, limits.age_crit),
            _number("dead", max(values["dead"], default=0), "", limits.dead_warn, limits.dead_crit),
            f"consumers={min(values['consumers'], default=0):.0f};;{least};0",
        ]
        if len(self._names) != 1:
            sums = {kind: sum(values[kind]) for kind in ("ready", "dead", "consumers")}
            found += [f"{kind}_total={number:.0f};;;0" for kind, number in sums.items()]
            found.append(f"queues={len(self._names)};;;0")
        if lag is not None:
            found.append(_number("mirror_lag", lag, "s", None, limits.mirror_lag))
        return " ".join(found)


def _number(label: str, value: float, unit: str, warn: float | None, crit: float | None) -> str:
    limits = ("" if limit is None else f"{limit:.15g}" for limit in (warn, crit))
    return f"{label}={value:.15g}{unit};{';'.join(limits)};0"
