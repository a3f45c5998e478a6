"""The work of a verb, run with the API and with standard output."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from phpmq.cli.admin.address import Address
from phpmq.cli.exits import Failed

if TYPE_CHECKING:
    from phpmq.cli.admin.api import Api
    from phpmq.cli.pipes import Output
    from phpmq.cli.running import Signals


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
            code = await work(api, output)
            await output.written()
        except Failed:
            await output.written()
            raise
        finally:
            await api.close()
        return code

    return run(reached)
