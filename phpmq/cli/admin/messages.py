"""C{phpmq peek}, C{move} and C{dead}: messages of a queue, and its dead letters, which nobody gets until an operator decides."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from phpmq.cli.admin.api import Api, moment
from phpmq.cli.admin.run import api_verb, check_askable, confirm, each
from phpmq.cli.exit_codes import Exit, Failed
from phpmq.cli.options import QUEUE, TEXT, size, want_verb, yes_option
from phpmq.cli.output import Report, is_terminal, note
from phpmq.client_frames import MAX_BODY
from phpmq.message import MAX_PREVIEW, STATES
from phpmq.text import plural

#: States of messages, as the user names them.
STATE_NAMES = tuple(state.replace("_", "-") for state in STATES)

# The most ids that the API takes at a time.
_IDS = 1000


limit_option = click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="Show at most N messages, the first ones."
)

preview_option = click.option(
    "--preview", type=size(MAX_PREVIEW), default="80", show_default=True, metavar="B", help="Show the first B bytes of each body."
)


def _check_peek(id: str | None, **_: object) -> None:
    source = click.get_current_context().get_parameter_source
    for other in "state", "limit", "preview":
        if id is not None and source(other) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--id excludes --{other}")


@click.command()
@click.argument("queue", type=QUEUE)
@click.option("--state", type=click.Choice(STATE_NAMES), default="ready", show_default=True, help="Look at those in that state.")
@click.option("--id", "id", type=TEXT, metavar="ID", help="Show this message, whatever its state, with its whole body.")
@limit_option
@preview_option
@api_verb("Print what the API answers, a JSON object for each message.", check=_check_peek)
async def peek(api: Api, report: Report, queue: str, state: str, id: str | None, limit: int, preview: int) -> None:
    """
    Look at messages of QUEUE: the first ones, or one with --id. Nothing changes by that, and no attempt is counted.

    With --id the body is written as it is, byte by byte; on a terminal what is known of the message comes first.

    \b
    phpmq peek jobs --state delayed
    phpmq peek jobs --id d7e7f68761d34838494b233148b5486c > body
    """
    if id is None:
        await list_messages(api, report, queue, state.replace("-", "_"), limit, preview)
    else:
        await show_message(api, report, queue, id)


async def list_messages(api: Api, report: Report, queue: str, state: str, limit: int, preview: int) -> None:
    """Show the first messages of a state, page by page."""
    from phpmq.cli.admin.format import messages

    now = 0.0 if report.as_json else moment(await api.now())
    # One more than is shown tells that there are more.
    pages = api.pages(f"look at {queue}", "queues", queue, "messages", most=limit + 1, state=state, preview=preview)
    found = await report.put_pages(pages, *messages(state, now), limit)
    if not found and not report.as_json:
        kind = "dead letters" if state == "dead" else f"{state.replace('_', ' ')} messages"
        note(f"{queue} has no {kind}")
    elif found > limit and is_terminal(1):
        note(f"there are more than {plural(limit)}: --limit shows others")


async def show_message(api: Api, report: Report, queue: str, id: str) -> None:
    """Show one message: only its body in a pipe, all of it on a terminal, which must not obey any of it."""
    from phpmq.cli.admin.format import body_of, message_lines

    message = await api.message(f"look at message {id} of {queue}", queue, id, MAX_BODY)
    if report.as_json:
        report.put(message)
    elif is_terminal(1):
        lines = message_lines(queue, message, moment(await api.now()))
        # Its lines stay lines; what would do more than that does not.
        text = body_of(message).decode("utf-8", "backslashreplace").removesuffix("\n").split("\n")
        report.put(message, *lines, "", *text)
    else:
        report.output.put(body_of(message))


def _check_move(source: str, destination: str, **_: object) -> None:
    if source == destination:
        raise click.UsageError("FROM and TO are the same queue")


@click.command()
@click.argument("source", type=QUEUE, metavar="FROM")
@click.argument("destination", type=QUEUE, metavar="TO")
@click.option("--count", type=click.IntRange(1), metavar="N", help="At most N, the first ones.  [default: all that are ready now]")
@api_verb("Print what the API answers, on one line.", check=_check_move)
async def move(api: Api, report: Report, source: str, destination: str, count: int | None) -> None:
    """
    Move messages that are ready in the queue FROM to the tail of the queue TO, in their order.

    They keep their ids, attempts and time to live. Those delayed or in flight stay where they are.

    \b
    phpmq move jobs.inspect jobs --count 10
    """
    done = await api.post(f"move messages of {source}", "queues", source, "move", target=destination, count=count, wants=("moved",))
    report.put(done, f"{plural(done['moved'])} moved from {source} to {destination}")


def _check_letters(ids: tuple[str, ...], reason: str | None, count: int | None, dry_run: bool, yes: bool = True, **_: object) -> None:
    if ids and (reason is not None or count is not None):
        raise click.UsageError(f"--id excludes --{'reason' if reason is not None else 'count'}")
    check_askable(dry_run or yes, "forget dead letters")


def _letters_options(function: Any) -> Any:
    """Add the argument and the options that select dead letters; see L{DeadLetters}."""
    for option in (
        click.option("-n", "--dry-run", is_flag=True, help="Count those that are meant, and do nothing."),
        click.option("--count", type=click.IntRange(1), metavar="N", help="At most N, the oldest ones."),
        click.option("--reason", type=TEXT, metavar="R", help="Only those that died of R: rejected, max-attempts or expired."),
        click.option("--id", "ids", type=TEXT, multiple=True, metavar="ID", help="Only the one of this id. May be repeated."),
        click.argument("queue", type=QUEUE),
    ):
        function = option(function)
    return function


@click.group(invoke_without_command=True)
@click.pass_context
def dead(context: click.Context) -> None:
    """List dead letters, requeue them, or delete them."""
    want_verb(context)


@dead.command("list", short_help="List dead letters of a queue.")
@click.argument("queue", type=QUEUE)
@limit_option
@preview_option
@api_verb("Print what the API answers, a JSON object for each dead letter.")
async def list_verb(api: Api, report: Report, queue: str, limit: int, preview: int) -> None:
    """
    List dead letters of QUEUE, the oldest messages first: when and of what they died, and how often they were delivered.

    \b
    phpmq dead list jobs
    """
    await list_messages(api, report, queue, "dead", limit, preview)


@dead.command(short_help="Requeue dead letters.")
@click.option("--to", "into", type=QUEUE, metavar="NAME", help="Requeue them to that queue.  [default: where they were]")
@_letters_options
@api_verb("Print a JSON object.", check=_check_letters)
async def replay(api: Api, report: Report, into: str | None, dry_run: bool, **which: Any) -> None:
    """
    Requeue dead letters of QUEUE to its tail, or to another queue's: all of them, unless options say which.

    Their attempts are forgotten, and they do not expire any more.

    \b
    phpmq dead replay jobs --reason max-attempts --count 10
    phpmq dead replay jobs --to jobs.inspect
    """
    letters = DeadLetters(api, report, **which)
    await (letters.would("replay") if dry_run else letters.replay(into))


@dead.command(short_help="Delete dead letters.")
@_letters_options
@yes_option
@api_verb("Print a JSON object; with --id one for each.", check=_check_letters)
async def delete(api: Api, report: Report, dry_run: bool, yes: bool, **which: Any) -> int | None:
    """
    Delete dead letters of QUEUE for good: all of them, unless options say which.

    \b
    phpmq dead delete jobs --reason expired --dry-run
    phpmq dead delete jobs --id d7e7f68761d34838494b233148b5486c --yes
    """
    letters = DeadLetters(api, report, **which)
    if dry_run:
        await letters.would("delete")
        return None
    if not yes and (number := await letters.count()):
        await confirm(api.reactor, f"Permanently delete {plural(number, 'dead letter')} of {letters.queue}?")
    return await letters.delete()


class DeadLetters:
    """
    Dead letters of a queue, and the requests that change them.

    They are selected by their ids, or by the reason of their death and at most C{count} of them, the oldest first.
    """

    def __init__(
        self, api: Api, report: Report, queue: str, ids: tuple[str, ...] = (), reason: str | None = None, count: int | None = None
    ) -> None:
        self._api, self._report = api, report
        self.queue, self._ids, self._reason, self._count = queue, list(dict.fromkeys(ids)), reason, count

    async def count(self) -> int:
        """Count the selected dead letters; raise L{Failed} if one of the ids does not exist."""
        found = 0
        missing = dict.fromkeys(self._ids)
        what, path = f"count dead letters of {self.queue}", ("queues", self.queue, "messages")
        async for page in self._api.pages(what, *path, page=1000, state="dead", preview=0):
            if self._ids:
                found += sum(1 for letter in page if missing.pop(letter["id"], letter) is None)
            else:
                found += sum(self._reason in (None, letter["reason"]) for letter in page)
            if self._count is not None and found >= self._count:
                return self._count
        if missing:
            raise Failed(f"there is no dead letter {next(iter(missing))} of {self.queue}; phpmq dead list shows those that there are")
        return found

    async def would(self, verb: str) -> None:
        """Print how many dead letters the verb would change."""
        found, queue = await self.count(), self.queue
        participle = {"replay": "replayed", "delete": "deleted"}[verb]
        self._report.put({"queue": queue, f"would_{verb}": found}, f"{queue}: {plural(found, 'dead letter')} would be {participle}")

    async def replay(self, into: str | None) -> None:
        """Requeue the dead letters, and print how many."""
        target = into or self.queue
        what, path = f"replay dead letters of {self.queue}", ("queues", self.queue, "replay")
        ids = self._ids
        done = 0
        # Without ids it is one request that says which.
        for start in range(0, len(ids) or 1, _IDS):
            part = ids[start : start + _IDS] or None
            try:
                fields = {"target": into, "ids": part, "reason": self._reason, "count": self._count}
                answer = await self._api.post(what, *path, wants=("replayed",), **fields)
            except Failed as error:
                if not done:
                    raise
                raise Failed(f"{error.sentence}; {done:,} were replayed before", Exit.PARTLY) from error
            done += answer["replayed"]
        line = f"{self.queue}: {plural(done, 'dead letter')} replayed" + (f" to {target}" if target != self.queue else "")
        self._report.put({"queue": self.queue, "target": target, "replayed": done}, line)

    async def delete(self) -> int | None:
        """Delete the dead letters, and print how many."""
        if self._ids:
            return await each(self._report, self._ids, self._delete, "dead letter")
        what = f"forget dead letters of {self.queue}"
        fields = {"state": "dead", "reason": self._reason, "count": self._count}
        done = await self._api.delete(what, "queues", self.queue, "messages", wants=("deleted",), **fields)
        self._report.put(done, f"{self.queue}: {plural(done['deleted'], 'dead letter')} deleted")
        return None

    async def _delete(self, id: str) -> None:
        queue = self.queue
        await self._api.delete(f"forget dead letter {id} of {queue}", "queues", queue, "messages", id, wants=("deleted",))
        self._report.put({"id": id, "deleted": 1}, f"{queue}: dead letter {id} deleted")
