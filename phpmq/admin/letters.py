"""Dead letters, as an operator sees them and decides about them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any

from phpmq.admin.messages import Messages
from phpmq.admin.pages import Page, check_limit, matcher
from phpmq.errors import NoSuchMessage
from phpmq.message import DeadMessage, check_name

# So many dead letters, with so many bytes, are worked on before others get their turn.
_LETTERS, _LETTERS_BYTES = 250, 4 * 1024 * 1024

_Work = Callable[[list[DeadMessage]], object]


class Letters(Messages):
    """What can be seen of dead letters, and done with them."""

    def dead(self, filter: str = "*", after: str = "", limit: int = 100) -> Page:
        """
        Queues that have dead letters, also those that are gone, by name and by pages: how many, and their bytes.

        @param filter: a pattern for their names; see L{queues}
        @param after: the C{next} of the page before
        """
        limit = check_limit(limit)
        totals, matches = self.broker.dead_letters.totals, matcher(filter)
        names = heapq.nsmallest(limit + 1, (name for name in totals if name > after and matches(name)))
        items = [{"queue": name, "dead": totals[name][0], "bytes": totals[name][1]} for name in names[:limit]]
        return Page(items, names[limit - 1] if len(names) > limit else None)

    async def replay(
        self,
        name: str,
        target: str | None = None,
        ids: Iterable[str] | None = None,
        reason: str | None = None,
        count: int | None = None,
    ) -> dict[str, Any]:
        """
        Have a queue's dead letters delivered again: they go to its tail, or to another queue's, with their attempts forgotten.

        @param ids: which; None for all
        @param reason: only those that died of it
        @param count: at most so many, the oldest ones
        @raise NoSuchQueue: there is none of that name, and no dead letter of it
        @raise NoSuchMessage: one of the ids is not that of a dead letter of the queue
        @raise BadName: no queue can have the target's name
        """
        self._check_known(name)
        into = check_name(name if target is None else target)

        def replay(letters: list[DeadMessage]) -> None:
            self.broker.lifecycle.replay(letters, into)

        return {"queue": name, "target": into, "replayed": await self._each_dead(replay, None, name, ids, reason, count)}

    async def delete_dead(
        self, name: str, ids: Iterable[str] | None = None, reason: str | None = None, count: int | None = None
    ) -> dict[str, Any]:
        """Forget a queue's dead letters; parameters and errors are those of L{replay}."""
        self._check_known(name)
        return {"queue": name, "deleted": await self._each_dead(self.broker.lifecycle.delete, 0, name, ids, reason, count)}

    async def _each_dead(
        self, work: _Work, preview: int | None, name: str, ids: Iterable[str] | None, reason: str | None, count: int | None
    ) -> int:
        """
        Do something to dead letters, a part at a time, so that nobody waits for many of them: how many it was done to.

        @param preview: how many bytes of their bodies it needs; None for all
        """
        broker = self.broker
        if ids is not None:
            return await self._named_dead(work, preview, name, list(dict.fromkeys(ids)))
        done = after = 0
        # Those that die meanwhile are not meant.
        latest = broker.lifecycle.latest
        while count is None or done < count:
            most = _LETTERS if count is None else min(_LETTERS, count - done)
            letters = broker.dead_letters.page(name, after, most, reason, preview, _LETTERS_BYTES)
            letters = [dead for dead in letters if dead.number <= latest]
            if not letters:
                break
            self._turn(work, letters)
            done += len(letters)
            after = letters[-1].number
            await self.breathe()
        return done

    async def _named_dead(self, work: _Work, preview: int | None, name: str, ids: list[str]) -> int:
        """Likewise to those of these ids, if they are all there; one at a time in memory."""
        broker, slices = self.broker, self.slices()
        for id in ids:
            if broker.dead_letters.find(name, self._number(id), 0) is None:
                raise NoSuchMessage(f"there is no dead letter {id!r} of the queue {name!r}")
        done = 0
        for id in ids:
            # It may have been dealt with meanwhile.
            if (dead := broker.dead_letters.find(name, self._number(id), preview)) is not None:
                self._turn(work, [dead])
                done += 1
            await slices.rest()
        return done

    def _turn(self, work: _Work, letters: list[DeadMessage]) -> None:
        self.broker.begin()
        try:
            work(letters)
        finally:
            self.broker.end()
