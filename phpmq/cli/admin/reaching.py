"""The work of a verb, run with the API and with standard output."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from phpmq.cli.admin.address import Address
from phpmq.cli.exits import Failed

if TYPE_CHECKING:
    from phpmq.cli.admin.api import Api
    from phpmq.cli.pipes import Output
    from phpmq.cli.running import Signals

# What comes of a member that is missing, or of another type.
_STRANGE = LookupError, TypeError, ValueError, AttributeError, OverflowError


def reach(address: Address, timeout: float, work: Callable[[Api, Output], Coroutine[Any, Any, int]]) -> int:
    """
    Run a coroutine with an API and standard output: its exit code.

    @param timeout: seconds that an answer may take
    @raise Exception: what it raises, after what it has put into the output is written
    """
    from phpmq.cli.admin.api import Api
    from phpmq.cli.pipes import Output
    from phpmq.cli.running import run

    async def reached(reactor: Any, signals: Signals) -> int:
        output, api = Output(reactor), Api(reactor, address, timeout)
        try:
            return await carry_out(api, output, work)
        finally:
            await api.close()

    return run(reached)


async def carry_out(api: Api, output: Output, work: Callable[[Api, Output], Coroutine[Any, Any, int]]) -> int:
    """
    Run a coroutine, and write what it has put into the output: its exit code.

    @raise Failed: it failed, or an answer of the API is not what it should be
    """
    from phpmq.cli.admin.refusals import strange
    from phpmq.cli.running import DEBUG

    try:
        code = await work(api, output)
    except Failed:
        await output.written()
        raise
    except _STRANGE as error:
        # Answers are taken for what the API says that they are. Those of a server of another version, or of another program, need not be.
        if os.environ.get(DEBUG):
            raise
        await output.written()
        raise strange(api.address, error) from error
    await output.written()
    return code
