"""
C{phpmq check}: a plugin for Nagios, and for all that run those.

The exit codes, and the line that says how it is, are those of the guidelines for plugins of Nagios.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any

import click

from phpmq.addresses import ApiAddress
from phpmq.cli.admin.api import Api
from phpmq.cli.admin.run import if_found, run_work
from phpmq.cli.exit_codes import Exit, Failed
from phpmq.cli.options import PATTERN, SECONDS, api_options
from phpmq.cli.output import Report, note
from phpmq.text import format_duration, plural, terminal_safe

# Seconds after which Nagios itself gives up on a plugin.
_TIMEOUT = 10.0
# Queues that are asked for at a time: as many as the server gives, since each time it looks at all names.
_PAGE = 1000
# How many of the things that are wrong are named.
_NAMED = 5
# The numbers of a queue that have limits: the unit, and the text for a value.
_COMPARED: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "ready": ("", lambda value: f"{value:,} ready"),
    "age": ("s", lambda value: f"the next message waits for {value:,.0f} s"),
    "dead": ("", lambda value: plural(value, "dead letter")),
}

_COUNT = click.IntRange(0)

#: The limits that the options give, by the names of these; a limit of None is not checked.
Limits = Mapping[str, float | None]


class State(IntEnum):
    """The state of a check, which is also its exit code."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


class _Check(click.Command):
    """A command whose usage errors are UNKNOWN, as monitoring expects; exit code 2, as of other verbs, would be CRITICAL."""

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        try:
            return super().make_context(*arguments, **settings)
        except click.UsageError as error:
            say(State.UNKNOWN, error.format_message())
            raise click.exceptions.Exit(State.UNKNOWN) from error


@click.command(cls=_Check)
@click.argument("patterns", type=PATTERN, nargs=-1, metavar="[QUEUE|GLOB]...")
@click.option("--ready-warn", type=_COUNT, metavar="N", help="Warn where more than N messages are ready.")
@click.option("--ready-crit", type=_COUNT, metavar="N", help="The same, critical.")
@click.option("--age-warn", type=SECONDS, metavar="S", help="Warn where the next message waits for more than S seconds.")
@click.option("--age-crit", type=SECONDS, metavar="S", help="The same, critical.")
@click.option("--dead-warn", type=_COUNT, metavar="N", help="Warn where there are more than N dead letters.")
@click.option("--dead-crit", type=_COUNT, metavar="N", help="The same, critical.")
@click.option("--min-consumers", type=_COUNT, metavar="N", help="Critical where there are fewer than N consumers.")
@click.option("--mirror-lag", type=SECONDS, metavar="S", help="Critical if the file lags behind by more than S seconds.")
@api_options(seconds=_TIMEOUT)
def check(patterns: tuple[str, ...], api: ApiAddress, timeout: float, **limits: Any) -> int:
    """
    Check each QUEUE, and each that matches a GLOB; all queues without those. Also check the server's own alarms.

    It prints one line, with the numbers after "|". Its exit codes are those of Nagios' plugins, not phpmq's own: 0 OK, 1 WARNING,
    2 CRITICAL, also when the server cannot be reached, 3 UNKNOWN.

    \b
    phpmq check jobs --ready-warn 1000 --ready-crit 10000 --min-consumers 1
    phpmq check 'mail-*' --dead-crit 0 --mirror-lag 30
    """

    async def work(client: Api, report: Report) -> int:
        from twisted.internet.defer import Deferred

        from phpmq.cli.reactor_main import within

        try:
            state, text = await within(client.reactor, timeout, Deferred.fromCoroutine(look(client, patterns or ("*",), limits)))
        except TimeoutError as error:
            raise Failed(f"{client.address.name} does not answer within {timeout:g} s", Exit.TIMED_OUT) from error
        report.output.put(line(state, text))
        return state

    try:
        return run_work(work, api, timeout)
    except Failed as error:
        # That a server is not there is known, and critical. What is no answer to the question is unknown.
        state = State.CRITICAL if error.code in (Exit.UNREACHABLE, Exit.TIMED_OUT) else State.UNKNOWN
        return say(state, error.sentence)
    except BrokenPipeError:
        raise
    except Exception as error:
        return say(State.UNKNOWN, f"failed unexpectedly, {type(error).__name__}: {error}")


def say(state: State, text: str) -> int:
    """Print the line, if standard output can be written to: the exit code."""
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
    """Return the line that a plugin prints."""
    return f"{state.name} - {terminal_safe(text)}\n".encode()


async def look(api: Api, patterns: Sequence[str], limits: Limits) -> tuple[State, str]:
    """Return the state of the server and its queues, and the text of the line."""
    findings = Findings(limits)
    status = await api.get("ask for the status", "status", wants=("alarms", "mirror", "messages"))
    for alarm in status["alarms"]:
        # Who stops a server knows it.
        findings.add(State.WARNING if alarm["name"] == "running" else State.CRITICAL, str(alarm["text"]))
    lag = status["mirror"].get("lag_seconds")
    findings.compare(lag or 0.0, None, limits.get("mirror_lag"), f"the file is {format_duration(lag)} late")
    for pattern in patterns:
        async for queue in _matching(api, pattern):
            findings.add_queue(queue)
    if not findings.names and limits.get("min_consumers"):
        findings.add(State.CRITICAL, f"no queue matches {' or '.join(patterns)}")
    return findings.state, f"{str(findings).replace('|', '/')} | {findings.numbers(lag)}"


async def _matching(api: Api, pattern: str) -> AsyncIterator[Mapping[str, Any]]:
    if any(wild in pattern for wild in "*?"):
        async for page in api.pages("list queues", "queues", page=_PAGE, filter=pattern):
            for queue in page:
                yield queue
        return
    found = await if_found(api.get(f"look at {pattern}", "queues", pattern, wants=("ready", "consumers", "dead")))
    # A queue that nobody uses is not there: it is empty.
    yield found or {"name": pattern, "ready": 0, "in_flight": 0, "dead": 0, "consumers": 0, "oldest_message_age_seconds": None}


class Findings:
    """
    The problems, the worst first, and the numbers of all queues that are checked. Each queue is compared with the limits by itself.

    In the numbers at the end of the line, the highest value of all queues stands beside its limits; sums are extra.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.state = State.OK
        self.names: dict[str, None] = {}
        self._found: dict[State, list[str]] = {State.CRITICAL: [], State.WARNING: []}
        self._values: dict[str, list[float]] = {"ready": [], "age": [], "dead": [], "consumers": []}

    def add(self, state: State, text: str) -> None:
        """Record a problem."""
        self.state = max(self.state, state)
        self._found[state].append(text)

    def compare(self, value: float, warn: float | None, crit: float | None, text: str) -> None:
        """Record a problem if the value is above a limit."""
        for state, limit in (State.CRITICAL, crit), (State.WARNING, warn):
            if limit is not None and value > limit:
                self.add(state, f"{text}, more than {limit:,.15g}")
                return

    def add_queue(self, queue: Mapping[str, Any]) -> None:
        """Record a queue's numbers, once, and its problems."""
        name = str(queue["name"])
        if name in self.names:
            return
        self.names[name] = None
        values = {**{kind: queue[kind] for kind in self._values if kind != "age"}, "age": queue["oldest_message_age_seconds"] or 0.0}
        for kind, value in values.items():
            self._values[kind].append(value)
        for kind, (_, text) in _COMPARED.items():
            self.compare(values[kind], *_limits_of(kind, self._limits), f"{name}: {text(values[kind])}")
        least = self._limits.get("min_consumers") or 0
        if queue["consumers"] < least:
            self.add(State.CRITICAL, f"{name}: {plural(queue['consumers'], 'consumer')}, fewer than {least:,}")

    def __str__(self) -> str:
        """Return the problems; the sums if there are none."""
        found = [text for texts in self._found.values() for text in texts]
        if found:
            more = len(found) - _NAMED
            return "; ".join(found[:_NAMED]) + (f"; and {more:,} more" if more > 0 else "")
        ready, dead, consumers = (round(sum(self._values[kind])) for kind in ("ready", "dead", "consumers"))
        oldest = format_duration(max(self._values["age"], default=0.0))
        which = next(iter(self.names)) if len(self.names) == 1 else plural(len(self.names), "queue")
        return f"{which}: {ready:,} ready, {dead:,} dead, waiting for {oldest} at most, {plural(consumers, 'consumer')}"

    def numbers(self, lag: float | None) -> str:
        """Return the performance data, for graphs."""
        limits, values = self._limits, self._values
        consumers = limits.get("min_consumers")
        least = "" if consumers is None else f"{consumers}:"
        found = [_number(kind, max(values[kind], default=0), unit, *_limits_of(kind, limits)) for kind, (unit, _) in _COMPARED.items()]
        found.append(f"consumers={min(values['consumers'], default=0):.0f};;{least};0")
        if len(self.names) != 1:
            found += [f"{kind}_total={sum(values[kind]):.0f};;;0" for kind in ("ready", "dead", "consumers")]
            found.append(f"queues={len(self.names)};;;0")
        if lag is not None:
            found.append(_number("mirror_lag", lag, "s", None, limits.get("mirror_lag")))
        return " ".join(found)


def _limits_of(kind: str, limits: Limits) -> tuple[float | None, float | None]:
    return limits.get(f"{kind}_warn"), limits.get(f"{kind}_crit")


def _number(label: str, value: float, unit: str, warn: float | None, crit: float | None) -> str:
    limits = ("" if limit is None else f"{limit:.15g}" for limit in (warn, crit))
    return f"{label}={value:.15g}{unit};{';'.join(limits)};0"
