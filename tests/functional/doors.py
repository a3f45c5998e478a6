"""The doors through which a server's counts are read, each in its own way; and the file, read with nothing of the server's code."""

from __future__ import annotations

import json
import re
import shlex
import socket
import sqlite3
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import closing
from http.client import HTTPConnection
from typing import Any, NamedTuple
from urllib.parse import quote

from prometheus_client.parser import text_string_to_metric_families

from tests.functional.command import PHPMQ
from tests.functional.server import PATIENCE, Server

#: Messages of a queue, by state.
STATES = "ready", "delayed", "in_flight", "dead"

#: What is counted of a queue, and of the whole server.
COUNTERS = "received", "delivered", "acknowledged"


class Counts(NamedTuple):
    """What there is of a queue, and what there was."""

    ready: int
    delayed: int
    in_flight: int
    dead: int
    bytes: int
    consumers: int
    received: int
    delivered: int
    acknowledged: int

    @property
    def balance(self) -> int:
        """How many messages went neither where they are nor where they ended; none, where nothing expires and nobody flushes."""
        return self.received - self.ready - self.delayed - self.in_flight - self.dead - self.acknowledged


def queue_path(queue: str, more: str = "") -> str:
    """A queue's path over HTTP."""
    return f"/api/v1/queues/{quote(queue, safe='')}{more}"


def ask_http(port: int, method: str, path: str, value: Any = None) -> tuple[int, Any]:
    """What a request is answered: its status, and its JSON if it is that."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        body = None if value is None else json.dumps(value)
        connection.request(method, path, body, {} if body is None else {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read()
        return response.status, json.loads(data) if "json" in response.getheader("Content-Type", "") else data.decode()


def ask_console(port: int, *lines: str) -> list[str]:
    """The lines that the console answers to lines."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall("".join(f"{line}\n" for line in ("plain", *lines)).encode())
        connection.shutdown(socket.SHUT_WR)
        data = b""
        while part := connection.recv(65536):
            data += part
    # The greeting, and the empty line of "plain".
    return data.decode().split("\r\n")[2:-1]


class Door(ABC):
    """A door to a server."""

    def __init__(self, server: Server) -> None:
        """
        @param server: one with a console and HTTP
        """
        self.server = server
        _, self.console, self.http = server.ports

    @abstractmethod
    def queue(self, name: str) -> Counts:
        """A queue."""

    def queues(self, *names: str) -> dict[str, Counts]:
        """Several of them."""
        return {name: self.queue(name) for name in names}

    @abstractmethod
    def totals(self) -> dict[str, int]:
        """L{COUNTERS} of the whole server."""


def _counts(queue: dict[str, Any]) -> Counts:
    """The counts in what is told of a queue as JSON."""
    numbers = [queue[name] for name in (*STATES, "bytes", "consumers")]
    return Counts(*numbers, *(queue["totals"][name] for name in COUNTERS))


class HTTP(Door):
    """The API."""

    def queue(self, name: str) -> Counts:
        """See L{Door}."""
        return _counts(ask_http(self.http, "GET", queue_path(name))[1])

    def totals(self) -> dict[str, int]:
        """See L{Door}."""
        totals = ask_http(self.http, "GET", "/api/v1/status")[1]["totals"]
        return {name: totals[name] for name in COUNTERS}


class Console(Door):
    """The console's answers for programs."""

    def queue(self, name: str) -> Counts:
        """See L{Door}."""
        (answer,) = ask_console(self.console, f"show --json {shlex.quote(name)}")
        return _counts(json.loads(answer))

    def totals(self) -> dict[str, int]:
        """See L{Door}."""
        (answer,) = ask_console(self.console, "status --json")
        return {name: json.loads(answer)["totals"][name] for name in COUNTERS}


class ConsoleText(Door):
    """What people read on the console. Bytes are rounded there, so that they are taken from the answer for programs."""

    def queue(self, name: str) -> Counts:
        """See L{Door}."""
        json_answer, *lines = ask_console(self.console, f"show --json {shlex.quote(name)}", f"show {shlex.quote(name)}")
        text = "\n".join(lines)
        states = [self._number(text, rf"^messages .*?([\d,]+) {state.replace('_', ' ')}\b") for state in STATES]
        consumers = self._number(text, r"^clients +([\d,]+) consumer")
        totals = [self._number(text, rf"^totals .*?{counter} ([\d,]+)") for counter in COUNTERS]
        return Counts._make([*states, json.loads(json_answer)["bytes"], consumers, *totals])

    def totals(self) -> dict[str, int]:
        """See L{Door}."""
        text = "\n".join(ask_console(self.console, "status"))
        return {name: self._number(text, rf"^{name} +([\d,]+)$") for name in COUNTERS}

    @staticmethod
    def _number(text: str, pattern: str) -> int:
        match = re.search(pattern, text, re.MULTILINE)
        if match is None:
            raise AssertionError(f"no {pattern} in {text}")
        return int(match[1].replace(",", ""))


class Metrics(Door):
    """The metrics, read by Prometheus' own parser."""

    def _samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        _, text = ask_http(self.http, "GET", "/metrics")
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}

    def queue(self, name: str) -> Counts:
        """See L{Door}."""
        samples, label = self._samples(), ("queue", name)
        return Counts(
            *(int(samples["phpmq_queue_messages", frozenset({label, ("state", state)})]) for state in STATES),
            *(int(samples[f"phpmq_queue_{what}", frozenset({label})]) for what in ("bytes", "consumers")),
            *(int(samples[f"phpmq_queue_messages_{counter}_total", frozenset({label})]) for counter in COUNTERS),
        )

    def totals(self) -> dict[str, int]:
        """See L{Door}."""
        samples = self._samples()
        return {name: int(samples[f"phpmq_messages_{name}_total", frozenset()]) for name in COUNTERS}


class Command(Door):
    """The command line. As a process takes a while to start, queues are listed by one."""

    def _ask(self, *arguments: str) -> list[Any]:
        where = f"http://127.0.0.1:{self.http}"
        result = subprocess.run([*PHPMQ, *arguments, "--json", "--api", where], capture_output=True, timeout=PATIENCE, check=True)
        return [json.loads(line) for line in result.stdout.splitlines()]

    def queue(self, name: str) -> Counts:
        """See L{Door}."""
        (queue,) = self._ask("queue", "show", name)
        return _counts(queue)

    def queues(self, *names: str) -> dict[str, Counts]:
        """See L{Door}."""
        found = {queue["name"]: _counts(queue) for queue in self._ask("queues")}
        return {name: found[name] for name in names}

    def totals(self) -> dict[str, int]:
        """See L{Door}."""
        (status,) = self._ask("status")
        return {name: status["totals"][name] for name in COUNTERS}


#: All doors that count; the first ones answer at once.
QUICK_DOORS: tuple[type[Door], ...] = (HTTP, Console, ConsoleText, Metrics)
DOORS: tuple[type[Door], ...] = (*QUICK_DOORS, Command)


class Kept(NamedTuple):
    """What the file has of a queue."""

    ready: int
    delayed: int
    in_flight: int
    dead: int
    bytes: int


def kept(server: Server, name: str, held: Collection[bytes]) -> Kept:
    """
    What the file has of a queue, to be asked once it is up to date.

    @param held: ids of messages in flight, which the file does not tell from others
    """
    with closing(sqlite3.connect(f"file:{server.store}?mode=ro", uri=True)) as database:
        database.execute("CREATE TEMP TABLE held (number INTEGER PRIMARY KEY)")
        database.executemany("INSERT INTO held VALUES (?)", [(int(id[16:], 16),) for id in held])
        row = database.execute(
            """
            SELECT sum(position > 0 AND held.number IS NULL), sum(position < 0), sum(held.number IS NOT NULL),
                   sum(length(body) + CASE WHEN due IS NULL THEN 0 ELSE 64 END) FILTER (WHERE held.number IS NULL)
            FROM message JOIN queue ON message.queue = queue.number
            LEFT JOIN extra ON extra.number = message.number LEFT JOIN held ON held.number = message.number
            WHERE name = ?
            """,
            (name,),
        ).fetchone()
        ready, delayed, in_flight, size = (number or 0 for number in row)
        dead = database.execute("SELECT count(*) FROM dead WHERE queue = ?", (name,)).fetchone()[0]
        return Kept(ready, delayed, in_flight, dead, size)
