"""A clock that no change of the system's time disturbs."""

from __future__ import annotations

import time
from collections.abc import Callable


class SteadyClock:
    """
    Wall-clock time as it was at the start, carried on by the monotonic clock.

    What is stored with such times is compared with such times only, also after a restart (L{resume}); so a step of the system's
    time never expires or holds back a message.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._offset = wall() - monotonic()

    def seconds(self) -> float:
        """Seconds since the epoch."""
        return self._monotonic() + self._offset

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return int((self._monotonic() + self._offset) * 1000)

    def reading(self) -> dict[str, int]:
        """This clock and the system's at the same moment, in milliseconds, for L{resume}."""
        return {"steady": self.now(), "wall": int(self._wall() * 1000)}

    def resume(self, steady: int, wall: int) -> None:
        """Go on from an earlier process's L{reading}: by the system's clock only the time in between is judged."""
        between = max(0.0, self._wall() - wall / 1000)
        self._offset = steady / 1000 + between - self._monotonic()
