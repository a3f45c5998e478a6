"""The same for each of several queues, and what became of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from phpmq.cli.exits import Exit, Failed
from phpmq.cli.output import counted, note

#: After these, the others would fail as well.
_FINAL = Exit.UNREACHABLE, Exit.TIMED_OUT


async def each(names: Sequence[str], act: Callable[[str], Awaitable[None]], failed: Callable[[str, Failed], object]) -> int:
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
                    note(f"{counted(left, 'more queue')} not tried")
                break
    if not failures:
        return Exit.OK
    return Exit.PARTLY if done else failures[-1].code


def failure(name: str, error: Failed) -> dict[str, Any]:
    """What JSON says of a queue for which it failed."""
    return {"queue": name, "error": getattr(error, "error", None), "reason": getattr(error, "reason", error.sentence)}
