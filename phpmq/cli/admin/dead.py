"""C{phpmq dead}: dead letters, which nobody gets until an operator decides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from phpmq.cli.admin.address import Address
from phpmq.cli.admin.options import api_option, json_option, limit_option, preview_option, yes_option
from phpmq.cli.admin.peek import look
from phpmq.cli.admin.question import check_askable, check_sure
from phpmq.cli.admin.several import each, in_json
from phpmq.cli.exits import Exit, Failed
from phpmq.cli.options import QueueName, Text, want_verb
from phpmq.cli.output import json_line
from phpmq.text import plural, terminal_safe

if TYPE_CHECKING:
    from phpmq.cli.admin.api import Api
    from phpmq.cli.pipes import Output

_F = TypeVar("_F", bound=Callable[..., Any])

# So many ids the API takes at a time.
_IDS = 1000


@dataclass(frozen=True)
class Which:
    """
    Which dead letters are meant.

    @ivar ids: these; all if there are none
    @ivar reason: only those that died of it
    @ivar count: at most so many, the oldest ones
    """

    queue: str
    ids: tuple[str, ...]
    reason: str | None
    count: int | None

    def __str__(self) -> str:
        return self.queue


def _which_options(function: _F) -> _F:
    """Those that say which dead letters are meant; the function gets them as one value."""
    for option in reversed(
        (
            click.option("--id", "ids", type=Text(), multiple=True, metavar="ID", help="Only the one of this id. May be repeated."),
            click.option("--reason", type=Text(), metavar="R", help="Only those that died of R: rejected, max-attempts or expired."),
            click.option("--count", type=click.IntRange(1), metavar="N", help="At most N, the oldest ones."),
            click.option("-n", "--dry-run", is_flag=True, help="Count those that are meant, and do nothing."),
        )
    ):
        function = option(function)
    return function


def _which(queue: str, ids: tuple[str, ...], reason: str | None, count: int | None) -> Which:
    if ids and (reason is not None or count is not None):
        raise click.UsageError(f"--id excludes --{'reason' if reason is not None else 'count'}")
    return Which(queue, tuple(dict.fromkeys(ids)), reason, count)


@click.group(invoke_without_command=True, short_help="List, replay or delete dead letters.")
@click.pass_context
def dead(context: click.Context) -> None:
    """List dead letters, have them delivered again, or forget them."""
    want_verb(context)


@dead.command("list", short_help="List dead letters of a queue.")
@click.argument("queue", type=QueueName())
@limit_option
@preview_option
@json_option("Print what the API answers, a JSON object for each dead letter.")
@api_option
def list_verb(queue: str, **others: Any) -> int:
    """
    List dead letters of QUEUE, the oldest messages first: when and of what they died, and how often they were delivered.

    \b
    phpmq dead list jobs
    """
    return look(queue, "dead", None, **others)


@dead.command(short_help="Have dead letters delivered again.")
@click.argument("queue", type=QueueName())
@click.option("--to", "target", type=QueueName(), metavar="NAME", help="Have them go to that queue.  [default: where they were]")
@_which_options
@json_option("Print a JSON object.")
@api_option
def replay(
    queue: str,
    target: str | None,
    ids: tuple[str, ...],
    reason: str | None,
    count: int | None,
    dry_run: bool,
    as_json: bool,
    api: Address,
    timeout: float,
) -> int:
    """
    Have dead letters of QUEUE go to its tail, or to another queue's: all of them, unless options say which.

    Their attempts are forgotten, and they do not expire any more.

    \b
    phpmq dead replay jobs --reason max-attempts --count 10
    phpmq dead replay jobs --to jobs.inspect
    """
    which = _which(queue, ids, reason, count)
    from phpmq.cli.admin.reaching import reach

    async def work(api: Api, output: Output) -> int:
        letters = Letters(api, output, which, as_json)
        return await (letters.would("replay") if dry_run else letters.replay(target))

    return reach(api, timeout, work)


@dead.command(short_help="Forget dead letters.")
@click.argument("queue", type=QueueName())
@_which_options
@yes_option
@json_option("Print a JSON object; with --id one for each.")
@api_option
def delete(
    queue: str,
    ids: tuple[str, ...],
    reason: str | None,
    count: int | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    api: Address,
    timeout: float,
) -> int:
    """
    Forget dead letters of QUEUE for ever: all of them, unless options say which.

    \b
    phpmq dead delete jobs --reason expired --dry-run
    phpmq dead delete jobs --id d7e7f68761d34838494b233148b5486c --yes
    """
    which = _which(queue, ids, reason, count)
    if not dry_run:
        check_askable(yes, "forget dead letters")
    from phpmq.cli.admin.reaching import reach

    async def work(api: Api, output: Output) -> int:
        letters = Letters(api, output, which, as_json)
        if dry_run:
            return await letters.would("delete")
        if not yes and (number := await letters.count()):
            await check_sure(api.reactor, f"Forget {plural(number, 'dead letter')} of {queue} for ever?", yes)
        return await letters.delete()

    return reach(api, timeout, work)


class Letters:
    """Some dead letters of a queue, and what can be done with them."""

    def __init__(self, api: Api, output: Output, which: Which, as_json: bool) -> None:
        self._api, self._output, self._which, self._as_json = api, output, which, as_json

    def _put(self, line: str, value: dict[str, Any]) -> None:
        self._output.put(json_line(value) if self._as_json else f"{terminal_safe(line)}\n".encode())

    # How many

    async def _matching(self) -> AsyncIterator[str]:
        queue, reason, ids = self._which.queue, self._which.reason, set(self._which.ids)
        pages = self._api.pages(f"count dead letters of {queue}", "queues", queue, "messages", page=1000, state="dead", preview=0)
        async for page in pages:
            for letter in page:
                if (reason is None or letter["reason"] == reason) and (not ids or letter["id"] in ids):
                    yield letter["id"]

    async def count(self) -> int:
        """
        How many are meant now.

        @raise Failed: one of the ids is not there
        """
        missing = set(self._which.ids)
        found, most = 0, self._which.count
        async for id in self._matching():
            missing.discard(id)
            found += 1
            if found == most:
                break
        if missing:
            id = next(id for id in self._which.ids if id in missing)
            raise Failed(f"there is no dead letter {id} of {self._which.queue}; phpmq dead list shows those that there are")
        return found

    async def would(self, verb: str) -> int:
        """Tell how many are meant: the exit code."""
        found, queue = await self.count(), self._which.queue
        participle = {"replay": "replayed", "delete": "deleted"}[verb]
        self._put(f"{queue}: {plural(found, 'dead letter')} would be {participle}", {"queue": queue, f"would_{verb}": found})
        return Exit.OK

    # Work

    async def replay(self, target: str | None) -> int:
        """Have them delivered again: the exit code."""
        which, into = self._which, target or self._which.queue
        what, path = f"replay dead letters of {which.queue}", ("queues", which.queue, "replay")
        ids = list(which.ids)
        done = 0
        # Without ids it is one request that says which.
        for start in range(0, len(ids) or 1, _IDS):
            part = ids[start : start + _IDS] or None
            try:
                fields = {"target": target, "ids": part, "reason": which.reason, "count": which.count}
                answer = await self._api.post(what, *path, wants=("replayed",), **fields)
            except Failed as error:
                if not done:
                    raise
                raise Failed(f"{error.sentence}; {done:,} were replayed before", Exit.PARTLY) from error
            done += answer["replayed"]
        line = f"{which.queue}: {plural(done, 'dead letter')} replayed" + (f" to {into}" if into != which.queue else "")
        self._put(line, {"queue": which.queue, "target": into, "replayed": done})
        return Exit.OK

    async def delete(self) -> int:
        """Forget them: the exit code."""
        which = self._which
        if which.ids:
            return await each(which.ids, self._forget, in_json(self._output, self._as_json, "id"), "dead letter")
        what = f"forget dead letters of {which.queue}"
        fields = {"state": "dead", "reason": which.reason, "count": which.count}
        done = await self._api.delete(what, "queues", which.queue, "messages", wants=("deleted",), **fields)
        self._put(f"{which.queue}: {plural(done['deleted'], 'dead letter')} deleted", done)
        return Exit.OK

    async def _forget(self, id: str) -> None:
        queue = self._which.queue
        await self._api.delete(f"forget dead letter {id} of {queue}", "queues", queue, "messages", id, wants=("deleted",))
        self._put(f"{queue}: dead letter {id} deleted", {"id": id, "deleted": 1})
