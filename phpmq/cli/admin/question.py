"""Whether the user is sure."""

from __future__ import annotations

import os
from typing import Any

from phpmq.cli.exits import Exit, Failed
from phpmq.cli.output import is_terminal
from phpmq.text import terminal_safe


def check_askable(yes: bool, what: str) -> None:
    """
    See that the user can be asked, or has answered already.

    @param what: what is to be done, after "to"
    @raise Failed: neither
    """
    if not yes and not (is_terminal(0) and is_terminal(2)):
        raise Failed(f"there is no terminal to ask whether to {what}: --yes says that you mean it", Exit.USAGE)


async def check_sure(reactor: Any, question: str, yes: bool) -> None:
    """
    Ask on the terminal.

    @param yes: the answer, if it is given already
    @raise Failed: the user is not sure
    """
    if yes:
        return
    from twisted.internet.defer import CancelledError

    from phpmq.cli.pipes import Input

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
