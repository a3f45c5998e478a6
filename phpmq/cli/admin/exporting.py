"""Writes the messages of a queue."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from phpmq.cli.admin.letters import Letter, moment
from phpmq.cli.admin.options import MAX_PREVIEW
from phpmq.cli.admin.several import there
from phpmq.cli.exits import Failed
from phpmq.cli.output import json_line
from phpmq.cli.running import sleep

if TYPE_CHECKING:
    from phpmq.cli.admin.api import Api
    from phpmq.cli.pipes import Output
    from phpmq.cli.progress import Progress

#: Messages that are asked for at a time; the API ends a page early where their bodies are large.
PAGE = 1000


class Seen:
    """Messages that were written, by their numbers: 8 bytes for each, as long as they come in order, which most do."""

    def __init__(self) -> None:
        self._inorder = array("Q")
        self._others: set[int] = set()

    def add(self, id: str) -> None:
        """This one was written."""
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


class Exporting:
    """
    Writes those messages of a queue that were there when it began.

    Messages change their states meanwhile. Those ready and in flight are one list, in which they keep their places. One that is delayed
    becomes ready at the end of that list, and one that is queued again with a delay goes the other way: so after those that are delayed
    the end of the list is read once more, and what was written before is left out.

    @ivar written: how many there are
    """

    def __init__(self, api: Api, output: Output, queue: str, states: set[str], progress: Progress) -> None:
        """
        @param states: as the API calls them
        """
        self._api, self._output, self._queue, self._states, self._progress = api, output, queue, states, progress
        self._seen = Seen()
        self._ends: dict[str, str | None] = {}
        self._asked: Deferred[dict[str, Any]] = Deferred()
        self._began = ""
        self._found = False
        self._ahead = 0.0
        self.written = 0

    async def run(self) -> None:
        """
        Write them.

        @raise Failed: the API cannot be read, or the output not be written
        @raise BrokenPipeError: nobody reads it
        """
        self._began = (await self._api.get("ask for the time", "status", wants=("now",)))["now"]
        self._ahead = moment(self._began) - self._api.reactor.seconds()
        try:
            for listed in self._lists():
                await self._list(listed)
        finally:
            self._asked.addErrback(lambda _: None).cancel()

    def _lists(self) -> list[str]:
        """What to read, in what order."""
        ready = "active" if {"ready", "in_flight"} <= self._states else next(iter({"ready", "in_flight"} & self._states), None)
        lists = [] if ready is None else [ready]
        if "delayed" in self._states:
            lists += ["delayed", *lists]
        return [*lists, *({"dead"} & self._states)]

    async def _list(self, listed: str) -> None:
        """Write a list, from the beginning of the last page that was read of it. While one page is written the next one is on its way."""
        after = self._ends.get(listed)
        self._ask(listed, after)
        while True:
            self._ends[listed] = after
            # A queue that was there goes when it is empty.
            page = await (there(self._asked) if self._found else self._asked)
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
        path = "queues", self._queue, "messages"
        wants = "items", "next"
        asking = self._api.get(f"export {self._queue}", *path, wants=wants, state=listed, limit=PAGE, after=after, preview=MAX_PREVIEW)
        self._asked = Deferred.fromCoroutine(asking)

    async def _write(self, page: Iterable[Letter]) -> None:
        lines: list[bytes] = []
        for letter in page:
            if letter["accepted_at"] > self._began or letter["id"] in self._seen:
                continue
            found: Letter | None = letter
            if letter["truncated"]:
                # No more than one of those in memory.
                await self._put(lines)
                lines.clear()
                found = await self._whole(letter)
            if found is not None:
                self._seen.add(letter["id"])
                lines.append(json_line(self._line(found)))
        await self._put(lines)

    async def _put(self, lines: list[bytes]) -> None:
        self._output.put(b"".join(lines))
        self.written += len(lines)
        self._progress.done += len(lines)
        await self._output.written()

    async def _whole(self, letter: Letter) -> Letter | None:
        """The message with its whole body; None if it has gone meanwhile."""
        try:
            found = await self._api.message(f"export {self._queue}", self._queue, letter["id"], letter["size"])
        except Failed as error:
            if getattr(error, "error", None) != "no-such-message":
                raise
            return None
        return found if found["state"] in self._states else None

    def _line(self, letter: Letter) -> dict[str, Any]:
        line = {"queue": self._queue, **{name: letter[name] for name in ("id", "state", "attempts", "accepted_at")}}
        if letter["state"] == "dead":
            line |= {name: letter[name] for name in ("reason", "text", "died_at")}
        else:
            line |= {"ttl": self._left(letter["expires_at"]), "delay": self._left(letter["due_at"]), "key": letter["key"]}
        line["headers"] = letter["headers"]
        body = "body_base64" if "body_base64" in letter else "body"
        return {**line, body: letter[body]}

    def _left(self, time: str | None) -> float:
        """Seconds until then by the server's clock, at least a millisecond; 0 for never."""
        if time is None:
            return 0.0
        left: float = moment(time) - self._ahead - self._api.reactor.seconds()
        return max(0.001, round(left, 3))
