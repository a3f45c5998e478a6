"""C{phpmq export}: the messages of a queue as lines of JSON, on standard output or in a file."""

from __future__ import annotations

import os
import secrets
import stat
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import click

from phpmq.cli.admin.api import Api, moment
from phpmq.cli.admin.messages import STATE_NAMES
from phpmq.cli.admin.run import api_verb, if_found
from phpmq.cli.exit_codes import Failed
from phpmq.cli.options import QUEUE, progress_option
from phpmq.cli.output import Progress, Report, Writer, is_terminal, json_line, note
from phpmq.message import MAX_PREVIEW
from phpmq.text import format_rate, format_seconds, plural

#: States of messages that are to be there again after a disaster: dead letters wait for a decision, and are asked for.
WANTED = "ready", "delayed", "in-flight"

#: Messages that are asked for at a time; the API ends a page early where their bodies are large.
PAGE = 1000


@click.command()
@click.argument("queue", type=QUEUE)
@click.option(
    "--state",
    "states",
    type=click.Choice(STATE_NAMES),
    multiple=True,
    default=WANTED,
    help=f"Those in that state; repeatable.  [default: {', '.join(WANTED)}]",
)
@click.option(
    "--output", "path", type=click.Path(dir_okay=False), metavar="FILE", help="Write to FILE, which is there once it is complete."
)
@progress_option
@api_verb()
async def export(api: Api, report: Report, queue: str, states: tuple[str, ...], path: str | None, progress: bool | None) -> None:
    """
    Write the messages of QUEUE to standard output, or to a file, one JSON object a line; phpmq import reads them. The queue stays as it is.

    Those are written that are there when it begins, unless they are done before it gets to them. For one that has a time to live, or is
    delayed, ttl and delay are the seconds that are left.

    \b
    phpmq export jobs --output jobs.ndjson
    phpmq export jobs | phpmq import jobs --server mq.example:9100
    """
    from phpmq.cli.stdio import Output

    wanted = {state.replace("-", "_") for state in states}
    path = None if path == "-" else path
    found = await if_found(api.get(f"export {queue}", "queues", queue, wants=tuple(wanted)))
    total = None if found is None else sum(found[state] for state in wanted)
    started = api.reactor.seconds()
    if progress is None and path is None and is_terminal(1):
        progress = False
    shown = Progress(api.reactor, f"exporting {queue}", total, progress)
    try:
        with nullcontext() if path is None else replacing(path) as descriptor:
            output = report.output if descriptor is None else Output(api.reactor, descriptor, str(path))
            export = Export(api, output, queue, wanted, shown)
            await export.run()
            await output.written()
    finally:
        shown.close()
    duration = api.reactor.seconds() - started
    note(f"exported {plural(export.written)} in {format_seconds(duration)}, {format_rate(export.written, duration)}")


class Seen:
    """The numbers of the messages that were written: 8 bytes for each message that comes in order, which most do."""

    def __init__(self) -> None:
        self._inorder = array("Q")
        self._others: set[int] = set()

    def add(self, id: str) -> None:
        """Add the message of this id."""
        number = _number(id)
        if not self._inorder or number > self._inorder[-1]:
            self._inorder.append(number)
        else:
            self._others.add(number)

    def __contains__(self, id: str) -> bool:
        number = _number(id)
        if number in self._others:
            return True
        place = bisect_left(self._inorder, number)
        return place < len(self._inorder) and self._inorder[place] == number


def _number(id: str) -> int:
    # The rest is the same for all messages of a server.
    return int(id[16:], 16)


class Export:
    """
    Writes the messages of a queue that were there when the export began, and counts them in C{written}.

    The states of messages change while it runs. Ready and in-flight messages are one list, in which they keep their places. A delayed
    message becomes ready at the end of that list, and a message that is requeued with a delay goes the other way. So the end of the list
    is read again after the delayed messages, and what was written before is left out.
    """

    def __init__(self, api: Api, output: Writer, queue: str, states: set[str], progress: Progress) -> None:
        self._api, self._output, self._queue, self._states, self._progress = api, output, queue, states, progress
        self._seen = Seen()
        self._ends: dict[str, str | None] = {}
        self._asked: Any = None
        self._began = ""
        self._found = False
        self._ahead = 0.0
        self.written = 0

    async def run(self) -> None:
        """Write the messages; raise L{Failed} if the API cannot be read, and C{BrokenPipeError} if nobody reads the output."""
        self._began = await self._api.now()
        self._ahead = moment(self._began) - self._api.reactor.seconds()
        try:
            for listed in self._lists():
                await self._list(listed)
        finally:
            if self._asked is not None:
                self._asked.addErrback(lambda _: None).cancel()

    def _lists(self) -> list[str]:
        ready = "active" if {"ready", "in_flight"} <= self._states else next(iter({"ready", "in_flight"} & self._states), None)
        lists = [] if ready is None else [ready]
        if "delayed" in self._states:
            lists += ["delayed", *lists]
        return [*lists, *({"dead"} & self._states)]

    async def _list(self, listed: str) -> None:
        """Write a list, from the start of the last page that was read of it; the next page is requested while one is written."""
        from phpmq.cli.reactor_main import sleep

        after = self._ends.get(listed)
        self._ask(listed, after)
        while True:
            self._ends[listed] = after
            # A queue that was there goes when it is empty.
            page = await (if_found(self._asked) if self._found else self._asked)
            if page is None:
                return
            self._found = True
            after = page["next"]
            if after is not None:
                self._ask(listed, after)
                # The request leaves between these two turns of the reactor.
                await sleep(self._api.reactor, 0)
                await sleep(self._api.reactor, 0)
            await self._write(page["items"])
            if after is None:
                return

    def _ask(self, listed: str, after: str | None) -> None:
        from twisted.internet.defer import Deferred

        path = "queues", self._queue, "messages"
        wants = "items", "next"
        asking = self._api.get(f"export {self._queue}", *path, wants=wants, state=listed, limit=PAGE, after=after, preview=MAX_PREVIEW)
        self._asked = Deferred.fromCoroutine(asking)

    async def _write(self, page: Iterable[Mapping[str, Any]]) -> None:
        lines: list[bytes] = []
        for message in page:
            if message["accepted_at"] > self._began or message["id"] in self._seen:
                continue
            found: Mapping[str, Any] | None = message
            if message["truncated"]:
                # No more than one of those in memory.
                await self._put(lines)
                lines.clear()
                found = await self._whole(message)
            if found is not None:
                self._seen.add(message["id"])
                lines.append(json_line(self._line(found)))
        await self._put(lines)

    async def _put(self, lines: list[bytes]) -> None:
        self._output.put(b"".join(lines))
        self.written += len(lines)
        self._progress.done += len(lines)
        await self._output.written()

    async def _whole(self, message: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the message with its whole body; None if the server has it no more, or in another state."""
        asking = self._api.message(f"export {self._queue}", self._queue, message["id"], message["size"])
        if (found := await if_found(asking, "no-such-message")) is None:
            return None
        return found if found["state"] in self._states else None

    def _line(self, message: Mapping[str, Any]) -> dict[str, Any]:
        line = {"queue": self._queue, **{name: message[name] for name in ("id", "state", "attempts", "accepted_at")}}
        if message["state"] == "dead":
            line |= {name: message[name] for name in ("reason", "text", "died_at")}
        else:
            line |= {"ttl": self._left(message["expires_at"]), "delay": self._left(message["due_at"]), "key": message["key"]}
        line["headers"] = message["headers"]
        body = "body_base64" if "body_base64" in message else "body"
        return {**line, body: message[body]}

    def _left(self, time: str | None) -> float:
        """Seconds until then by the server's clock, at least a millisecond; 0 for never."""
        if time is None:
            return 0.0
        left: float = moment(time) - self._ahead - self._api.reactor.seconds()
        return max(0.001, round(left, 3))


@contextmanager
def replacing(path: str) -> Iterator[int]:
    """
    Open a temporary file that replaces the file of that name if no error occurs; yield its descriptor.

    A pipe, or whatever else is no file, is written to directly.
    """
    try:
        # A link stays one.
        real = Path(os.path.realpath(path))
        there = os.stat(real) if real.exists() else None
        if there is not None and not stat.S_ISREG(there.st_mode):
            with open(os.open(real, os.O_WRONLY | os.O_CLOEXEC), "wb", buffering=0) as file:
                yield file.fileno()
            return
        temporary = real.with_name(f".{real.name}.{secrets.token_hex(4)}.part")
        try:
            with open(temporary, "xb", buffering=0) as file:
                if there is not None:
                    os.fchmod(file.fileno(), stat.S_IMODE(there.st_mode))
                yield file.fileno()
                os.fsync(file.fileno())
            os.replace(temporary, real)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failed(f"cannot write {path}: {error.strerror}") from error
