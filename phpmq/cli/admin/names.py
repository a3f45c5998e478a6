"""Names of queues, for a shell that completes them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from phpmq.cli.admin.address import Address, address
from phpmq.cli.admin.reaching import reach
from phpmq.cli.exits import Failed

if TYPE_CHECKING:
    from phpmq.cli.admin.api import Api
    from phpmq.cli.pipes import Output

# Who has pressed a key does not wait for longer, in seconds, and reads no more names.
_PATIENCE, _MOST = 1.0, 50

# Others would need quotes, which shells do not put around what they complete.
_PLAIN = re.compile(r"[\w./@%+=,][\w./@%+=,-]*")


def names_like(start: str, where: Address | None) -> list[str]:
    """
    Names that begin like this; none if the API does not tell.

    @param where: the API; None for that of the environment
    """
    found: list[str] = []

    async def work(api: Api, output: Output) -> int:
        async for page in api.pages("list queues", "queues", most=_MOST, filter=f"{start}*"):
            found.extend(queue["name"] for queue in page)
        return 0

    try:
        reach(where or address(os.environ.get("PHPMQ_API") or "http://127.0.0.1:9180"), _PATIENCE, work)
    except (Failed, ValueError):
        return []
    return [name for name in found if name.startswith(start) and _PLAIN.fullmatch(name)]
