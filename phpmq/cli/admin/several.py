"""The same for each of several queues, or other things, and what became of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from phpmq.cli.exits import Exit, Failed
from phpmq.cli.output import json_line, note
from phpmq.text import plural

if TYPE_CHECKING:
    from phpmq.cli.pipes import Output

_Name = TypeVar("_Name", str, int)

#: After these, the others would fail as well.
_FINAL = Exit.UNREACHABLE, Exit.TIMED_OUT


async def each(
    names: Sequence[_Name], act: Callable[[_Name], Awaitable[None]], failed: Callable[[_Name, Failed], object], thing: str = "queue"
) -> int:
    """
    Do something for each queue, whatever becomes of the others: the exit code. For each that fails a line on stderr says why.

    @param act: does it; raises L{Failed}
    @param failed: is told of each that does
    """
    failures: list[Failed] = []
    done = 0
    for place, name in enumerate(names):
        try:
            await act(name)
            done += 1
        except Failed as error:
            note(error.sentence)
            failed(name, error)
            failures.append(error)
            if error.code in _FINAL:
                if left := len(names) - place - 1:
                    note(f"{plural(left, f'more {thing}')} not tried")
                break
    if not failures:
        return Exit.OK
    return Exit.PARTLY if done else failures[-1].code


def failure(name: object, error: Failed, thing: str = "queue") -> dict[str, Any]:
    """What JSON says of a queue for which it failed."""
    return {thing: name, "error": getattr(error, "error", None), "reason": getattr(error, "reason", error.sentence)}


def in_json(output: Output, wanted: bool, thing: str = "queue") -> Callable[[object, Failed], None]:
    """What L{each} tells failures, so that there is a line of JSON for each; none where that is not wanted."""

    def failed(name: object, error: Failed) -> None:
        if wanted:
            output.put(json_line(failure(name, error, thing)))

    return failed


async def there(found: Awaitable[dict[str, Any]]) -> dict[str, Any] | None:
    """
    A queue as the API has it; None if there is none of that name.

    @raise Failed: it cannot be asked for
    """
    try:
        return await found
    except Failed as error:
        if getattr(error, "error", None) != "no-such-queue":
            raise
        return None
