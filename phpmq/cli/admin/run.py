"""The work of a verb: run with the API and with standard output, for each of several things, and after a question."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, TypeVar

from phpmq.addresses import ApiAddress
from phpmq.cli.admin.api import Api, strange
from phpmq.cli.exit_codes import Exit, Failed
from phpmq.cli.options import api_options
from phpmq.cli.output import Report, is_terminal, note
from phpmq.text import plural, terminal_safe

_Name = TypeVar("_Name", str, int)
_T = TypeVar("_T")

# After these errors the others would fail as well.
_FINAL = Exit.UNREACHABLE, Exit.TIMED_OUT
# What a member causes that is missing, or of another type.
_STRANGE = LookupError, TypeError, ValueError, AttributeError, OverflowError

#: The work of a verb: a coroutine function that returns an exit code, or None for success.
Work = Callable[[Api, Report], Coroutine[Any, Any, int | None]]


def api_verb(json_help: str = "", check: Callable[..., object] | None = None) -> Callable[[Any], Any]:
    """
    Make a coroutine function the callback of a verb: it gets an L{Api} and a L{Report} before its own options.

    @param json_help: the help of C{--json}; without it there is no such option
    @param check: called with the same options before the reactor starts; raises an error for those that are wrong
    """

    def add(work: Callable[..., Coroutine[Any, Any, int | None]]) -> Any:
        @wraps(work)
        def call(*, api: ApiAddress, timeout: float, as_json: bool = False, **options: Any) -> int:
            if check is not None:
                check(**options)
            return run_work(lambda client, report: work(client, report, **options), api, timeout, as_json)

        return api_options(json_help)(call)

    return add


def run_work(work: Work, address: ApiAddress, timeout: float, as_json: bool = False) -> int:
    """Run the work of a verb, with answers within C{timeout} seconds, and write what it printed, also if it fails: its exit code."""
    from phpmq.cli.reactor_main import Signals, run
    from phpmq.cli.stdio import Output

    async def reach(reactor: Any, signals: Signals) -> int:
        report, api = Report(Output(reactor), as_json), Api(reactor, address, timeout)
        try:
            return await carry_out(api, report, work)
        finally:
            await api.close()

    return run(reach)


async def carry_out(api: Api, report: Report, work: Work) -> int:
    """Run the work of a verb, and write what it printed: its exit code. An unexpected answer of the API raises L{Failed}."""
    from phpmq.cli.reactor_main import DEBUG

    try:
        code = await work(api, report)
    except Failed:
        await report.output.written()
        raise
    except _STRANGE as error:
        # Answers are taken for what the API says that they are. Those of a server of another version, or of another program, need not be.
        if os.environ.get(DEBUG):
            raise
        await report.output.written()
        raise strange(api.address, error) from error
    await report.output.written()
    return code or Exit.OK


async def each(report: Report, names: Sequence[_Name], act: Callable[[_Name], Awaitable[None]], thing: str = "queue") -> int:
    """
    Do something for each name, and go on after a failure, which is reported on standard error: the exit code.

    @param thing: the noun for what has the name, and the member of the name in JSON
    """
    failures: list[Failed] = []
    done = 0
    for place, name in enumerate(names):
        try:
            await act(name)
            done += 1
        except Failed as error:
            note(error.sentence)
            if report.as_json:
                member = "id" if thing == "dead letter" else thing
                report.put({member: name, "error": getattr(error, "error", None), "reason": getattr(error, "reason", error.sentence)})
            failures.append(error)
            if error.code in _FINAL:
                if left := len(names) - place - 1:
                    note(f"{plural(left, f'more {thing}')} not tried")
                break
    if not failures:
        return Exit.OK
    return Exit.PARTLY if done else failures[-1].code


async def if_found(found: Awaitable[_T], error: str = "no-such-queue") -> _T | None:
    """Return an answer of the API; None if it is a problem with this code."""
    try:
        return await found
    except Failed as failed:
        if getattr(failed, "error", None) != error:
            raise
        return None


def check_askable(yes: bool, what: str) -> None:
    """Raise L{Failed} if the user neither said C{--yes} nor can be asked; C{what} follows "to"."""
    if not yes and not (is_terminal(0) and is_terminal(2)):
        raise Failed(f"there is no terminal to ask whether to {what}: --yes says that you mean it", Exit.USAGE)


async def confirm(reactor: Any, question: str) -> None:
    """Ask on the terminal; raise L{Failed} if the answer is not yes."""
    from twisted.internet.defer import CancelledError

    from phpmq.cli.stdio import Input

    os.write(2, f"{terminal_safe(question)} [y/N] ".encode())
    try:
        lines = await Input(reactor).lines()
    except CancelledError:
        os.write(2, b"\n")
        raise
    if lines is None:
        os.write(2, b"\n")
    if not lines or lines[0].strip().lower() not in (b"y", b"yes"):
        raise Failed("nothing was changed")
