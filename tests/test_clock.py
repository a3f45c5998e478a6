"""Tests of L{phpmq.clock}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from phpmq.clock import SteadyClock


class SteadyClockTests(SynchronousTestCase):
    """L{SteadyClock}."""

    def setUp(self) -> None:
        """A machine with its two clocks."""
        self.wall = 1_700_000_000.0
        self.monotonic = 500.0

    def clock(self) -> SteadyClock:
        """A clock of a process that starts now."""
        return SteadyClock(lambda: self.wall, lambda: self.monotonic)

    def pass_time(self, seconds: float) -> None:
        """Time passes as it should."""
        self.wall += seconds
        self.monotonic += seconds

    def test_wall_time_at_start(self) -> None:
        """A new clock shows the system's time."""
        clock = self.clock()
        self.assertEqual(clock.seconds(), self.wall)
        self.assertEqual(clock.now(), 1_700_000_000_000)

    def test_goes_on(self) -> None:
        """It goes as time does, in milliseconds and in seconds."""
        clock = self.clock()
        self.pass_time(1.25)
        self.assertEqual(clock.now(), 1_700_000_001_250)
        self.assertAlmostEqual(clock.seconds(), 1_700_000_001.25)

    def test_whole_milliseconds(self) -> None:
        """The time in milliseconds is an integer, rounded down."""
        clock = self.clock()
        self.pass_time(0.0005)
        self.assertEqual(clock.now(), 1_700_000_000_000)
        self.assertIsInstance(clock.now(), int)

    def test_steps_of_the_system(self) -> None:
        """Steps of the system's time, forth and back, are not seen."""
        clock = self.clock()
        for step in 3600, -7200, 10**8, -(10**9):
            self.wall += step
            before = clock.now()
            self.pass_time(2)
            self.assertEqual(clock.now() - before, 2000)

    def test_reading(self) -> None:
        """A reading tells both clocks of the same moment."""
        clock = self.clock()
        self.pass_time(10)
        self.wall += 3600
        self.assertEqual(clock.reading(), {"steady": 1_700_000_010_000, "wall": 1_700_003_610_000})

    def test_resume(self) -> None:
        """After a restart a clock goes on where the other stopped, plus the time in between."""
        reading = self.clock().reading()
        self.wall += 60
        self.monotonic = 1.0  # as after a boot
        clock = self.clock()
        clock.resume(**reading)
        self.assertEqual(clock.now(), 1_700_000_060_000)
        self.pass_time(5)
        self.assertEqual(clock.now(), 1_700_000_065_000)

    def test_resume_after_a_step(self) -> None:
        """A step that an earlier process did not see is not seen after its restart either: stored times stay comparable."""
        first = self.clock()
        self.wall += 3600
        reading = first.reading()
        self.pass_time(60)
        clock = self.clock()
        clock.resume(**reading)
        self.assertEqual(clock.now(), 1_700_000_060_000)

    def test_never_back(self) -> None:
        """When the system's time was set back between two processes, the clock stands where it was, and never before it."""
        reading = self.clock().reading()
        self.wall -= 3600
        clock = self.clock()
        clock.resume(**reading)
        self.assertEqual(clock.now(), 1_700_000_000_000)
        self.pass_time(1)
        self.assertEqual(clock.now(), 1_700_000_001_000)

    def test_real_clocks(self) -> None:
        """Without others it reads the system's clocks, and does not go back."""
        clock = SteadyClock()
        first = clock.now()
        self.assertGreater(first, 1_600_000_000_000)
        self.assertGreaterEqual(clock.now(), first)
