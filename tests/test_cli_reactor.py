"""Tests of L{phpmq.cli.reactor_main}, with a clock that stands still."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from phpmq.cli.reactor_main import Pace, Signals, wait_for, within


class WaitingTests(SynchronousTestCase):
    """Ways to wait."""

    def test_within(self) -> None:
        """A wait ends in time, with the result, its failure, or none; nothing ticks on."""
        clock = Clock()
        for outcome, error in ((lambda waiting: waiting.callback(7), None), (lambda waiting: waiting.errback(KeyError()), KeyError)):
            waiting: Deferred[int] = Deferred()
            ending = Deferred.fromCoroutine(within(clock, 5, waiting))
            clock.advance(4.9)
            self.assertNoResult(ending)
            outcome(waiting)
            if error is None:
                self.assertEqual(self.successResultOf(ending), 7)
            else:
                self.failureResultOf(ending, error)
        self.assertEqual(clock.getDelayedCalls(), [])
        cancelled: list[object] = []
        late: Deferred[int] = Deferred(cancelled.append)
        ending = Deferred.fromCoroutine(within(clock, 5, late))
        clock.advance(5)
        self.failureResultOf(ending, TimeoutError)
        self.assertEqual(cancelled, [late])
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_several(self) -> None:
        """The first one that ends ends the others, or all have to; a failure is what it is."""
        for every, outcome in ((False, lambda one: one.callback(None)), (True, lambda one: one.errback(KeyError("x")))):
            cancelled: list[object] = []
            waiting: list[Deferred[None]] = [Deferred(cancelled.append) for _ in range(3)]
            ending = Deferred.fromCoroutine(wait_for(waiting, every))
            self.assertNoResult(ending)
            outcome(waiting[1])
            if not every:
                self.successResultOf(ending)
            else:
                self.failureResultOf(ending, KeyError)
            self.assertEqual(cancelled, [waiting[0], waiting[2]])
        waiting = [Deferred(), Deferred()]
        ending = Deferred.fromCoroutine(wait_for(waiting, every=True))
        waiting[0].callback(None)
        self.assertNoResult(ending)
        waiting[1].callback(None)
        self.successResultOf(ending)

    def test_pace(self) -> None:
        """A rate is kept, from the first on; a pause is not made up for."""
        clock = Clock()
        times: list[float] = []

        async def work() -> None:
            pace = Pace(clock, 10)
            for number in range(6):
                if number == 3:
                    await within(clock, 5, pause)
                await pace.wait()
                times.append(round(clock.seconds(), 3))

        pause: Deferred[None] = Deferred()
        working = Deferred.fromCoroutine(work())
        clock.pump([0.05] * 20)
        pause.callback(None)
        clock.pump([0.05] * 20)
        self.successResultOf(working)
        self.assertEqual(times, [0, 0.1, 0.2, 1.0, 1.1, 1.2])


class SignalTests(SynchronousTestCase):
    """What the first signals do."""

    def calls(self, prepare: Any) -> list[str]:
        """What two signals called."""
        calls: list[str] = []
        signals = Signals()
        signals.cancel = lambda: calls.append("cancel")
        prepare(signals, calls)
        signals.received()
        signals.received()
        return calls

    def test_order(self) -> None:
        """Gracefully first, then at once; without that, the command is cancelled."""
        self.assertEqual(self.calls(lambda signals, calls: None), ["cancel", "cancel"])
        self.assertEqual(self.calls(lambda signals, calls: signals.gracefully(lambda: calls.append("end"))), ["end", "cancel"])
        both = self.calls(lambda signals, calls: signals.gracefully(lambda: calls.append("end"), lambda: calls.append("kill")))
        self.assertEqual(both, ["end", "kill"])
