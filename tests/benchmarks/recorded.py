"""
C{twistd} with a recorder of how long its reactor stands still.

C{python -m tests.benchmarks.recorded FD ARGUMENTS}, with twistd's arguments; at each SIGUSR2 a line of JSON about the longest stall since
the one before goes to the file descriptor.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from twisted.internet.task import LoopingCall

# Seconds between two looks; what a look comes late is what the reactor stood still.
_INTERVAL = 0.005


class Recorder:
    """
    Remembers by how much its own call was late at worst.

    @ivar stall: seconds
    @ivar busy: how many of them the reactor's thread was computing; for the rest it waited, for the interpreter or for a processor
    """

    def __init__(self, reactor: Any, report: int) -> None:
        self._reactor = reactor
        self._report = report
        self._last = self._last_busy = 0.0
        self.stall = self.busy = 0.0

    def start(self) -> None:
        """Begin, in the running reactor."""
        self._last, self._last_busy = time.monotonic(), time.thread_time()
        signal.signal(signal.SIGUSR2, lambda *_: self._reactor.callFromThread(self.report))
        ticks = LoopingCall(self.look)
        ticks.clock = self._reactor
        ticks.start(_INTERVAL, now=False)

    def look(self) -> None:
        """Note how late this call is."""
        now, busy = time.monotonic(), time.thread_time()
        stall = now - self._last - _INTERVAL
        if stall > self.stall:
            self.stall, self.busy = stall, busy - self._last_busy
        self._last, self._last_busy = now, busy

    def report(self) -> None:
        """Tell what was noted, and forget it."""
        self.look()
        os.write(self._report, json.dumps({"stall": self.stall, "busy": self.busy}).encode() + b"\n")
        self.stall = self.busy = 0.0


def main() -> None:
    """Run twistd."""
    from twisted.internet import reactor
    from twisted.scripts.twistd import run

    recorder = Recorder(reactor, int(sys.argv.pop(1)))
    reactor.callWhenRunning(recorder.start)
    run()


if __name__ == "__main__":
    main()
