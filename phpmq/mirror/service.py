"""The service that keeps the mirror file up to date."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from phpmq.clock import SteadyClock
from phpmq.errors import StartError, StoreError
from phpmq.histogram import Histogram
from phpmq.interfaces import IMirror
from phpmq.mirror.file import StoreFile
from phpmq.store import ChangeLog, Delta

_T = TypeVar("_T")

# Size of one delta: the messages and bytes that are drawn in one reactor turn (5-20 ms) and written in one transaction.
_DELTA_SIZE = 10_000, 4 * 1024 * 1024

# While the mirror fails, seconds between two alarms in the log.
_ALARM_INTERVAL = 60.0

# By how much the system's clock has to be set so that the file is written for that alone, in milliseconds.
_CLOCK_STEP = 500

# Seconds that a stop tries to save what is not saved yet.
_STOP_TIMEOUT = 8.0

# Buckets of the histogram of write durations, from an eighth of a millisecond to 16 seconds.
_DURATION_UNIT, _DURATION_BUCKETS = 0.000125, 18


@implementer(IMirror)
class MirrorService(Service):
    """
    Writes to the mirror file what it lacks, every interval and as soon as a receipt depends on it.

    A write that fails loses nothing: its changes are part of the next one. Until that succeeds C{failing} is true and the log has an alarm
    a minute.

    @ivar interval: seconds between two writes
    @ivar path: the file's
    @ivar failing: whether the last write failed
    @ivar errors: how many writes failed
    @ivar writes: how many writes succeeded
    @ivar durations: how long those took, with the way to the thread and back
    @ivar unsaved: after a stop, how many changes could not be written
    @ivar synced: called after each write that succeeded
    @ivar last_success: when the file was last up to date, by the clock's seconds
    """

    _log = Logger()

    def __init__(
        self,
        changelog: ChangeLog,
        file: StoreFile,
        interval: float,
        clock: SteadyClock,
        reactor: IReactorTime,
        pool: ThreadPool | None = None,
    ) -> None:
        self._changelog, self._file = changelog, file
        self.interval, self.path = interval, file.path
        self._clock, self._reactor = clock, reactor
        # A pool of its own with one thread: the reactor's is also for others, and stops before this service has written all.
        self._pool = pool or ThreadPool(1, 1, "phpmq-mirror")
        self._loop = LoopingCall(self._write)
        self._loop.clock = reactor
        self._writing = self._write_again = False
        self._last_write: Deferred[None] | None = None
        self._soon: IDelayedCall | None = None  # a write at the end of this reactor turn
        self.synced: Callable[[], object] = lambda: None
        self.failing = False
        self.errors = self.writes = self.unsaved = 0
        self.durations = Histogram(_DURATION_UNIT, _DURATION_BUCKETS)
        self.last_success = clock.seconds()
        self._next_alarm = 0.0
        self._alarmed = False  # since the file was last written
        self._ahead = 0  # milliseconds by which the system's clock is ahead of the steady one, as the file knows it
        self._free_pages = True  # whether the file may have some to give back, which is done while there is nothing to write

    def startService(self) -> None:
        """Write once, then every interval; raises L{StartError} if the file cannot be written."""
        super().startService()
        # This start's range of message numbers has to be in the file before the first number is used.
        delta = self._extract()
        assert delta is not None
        try:
            self._file.apply(delta)
        except StoreError as error:
            self._file.close()
            raise StartError(f"phpmq: the store cannot be written ({error}).") from error
        self._changelog.confirm(delta)
        self._pool.start()
        self._loop.start(self.interval, now=False)

    @property
    def pending(self) -> int:
        """About how many changes the file lacks."""
        return self._changelog.pending

    @property
    def lag(self) -> float:
        """Seconds since the file was last up to date."""
        return max(0.0, self._clock.seconds() - self.last_success)

    def _extract(self) -> Delta | None:
        reading = self._clock.reading()
        ahead = reading["wall"] - reading["steady"]
        if abs(ahead - self._ahead) > _CLOCK_STEP:
            # The system's time was set. The file has to know, or the next start would take it for time that has passed.
            self._ahead = ahead
            self._changelog.note_meta()
        return self._changelog.extract(*_DELTA_SIZE, {**reading})

    def sync_soon(self) -> None:
        """Write as soon as this reactor turn is over and no other write is running; see L{IMirror}."""
        if self._writing:
            self._write_again = True
        elif self._soon is None and self.running:
            self._soon = self._reactor.callLater(0, self._write_now)

    def _write_now(self) -> None:
        self._soon = None
        self._write()

    def _write(self) -> Deferred[None] | None:
        """Start a write, unless one is running; LoopingCall waits for the Deferred."""
        if self._writing:
            return None
        self._writing = True
        self._last_write = Deferred.fromCoroutine(self._write_all())
        return self._last_write

    async def _write_all(self) -> None:
        """Write until the file is up to date. Catches everything: a LoopingCall that fails once never runs again."""
        try:
            wrote = False
            while delta := self._extract():
                wrote = True
                await self._write_delta(delta)
                if not delta.more:
                    break
            self._succeeded()
            self._free_pages = wrote or (self._free_pages and await self._vacuum())
        except Exception as error:
            self._failed(error)
        finally:
            self._writing = False
        if self._write_again:
            self._write_again = False
            self.sync_soon()

    async def _write_delta(self, delta: Delta) -> None:
        begun = self._clock.seconds()
        try:
            await self._in_thread(self._file.apply, delta)
        except BaseException:
            self._changelog.restore(delta)
            raise
        self._changelog.confirm(delta)
        self.writes += 1
        self.durations.observe_seconds(self._clock.seconds() - begun)
        self.synced()

    async def _vacuum(self) -> bool:
        """Give free pages back, a part of them. A failure loses nothing: no alarm, it is tried again after the next write."""
        try:
            return await self._in_thread(self._file.vacuum)
        except StoreError:
            return False

    def _in_thread(self, work: Callable[..., _T], *args: object) -> Deferred[_T]:
        return deferToThreadPool(self._reactor, self._pool, work, *args)  # type: ignore[arg-type]

    def _succeeded(self) -> None:
        self.last_success = self._clock.seconds()
        self.failing = False
        if self._alarmed:
            self._alarmed = False
            self._log.info("the store's file is written again; nothing was lost")

    def _failed(self, error: Exception) -> None:
        self.failing = True
        self.errors += 1
        now = self._clock.seconds()
        if now >= self._next_alarm:
            self._next_alarm, self._alarmed = now + _ALARM_INTERVAL, True
            text = "the store's file cannot be written ({error}); {pending} changes are in memory only"
            self._log.critical(text, error=error, pending=self._changelog.pending)

    def stopService(self) -> Deferred[None]:
        """Write what is left, then close the file."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._loop.running:
            self._loop.stop()
        if self._soon is not None:
            self._soon.cancel()
        if self._last_write is not None:
            await self._last_write
        deadline = self._clock.seconds() + _STOP_TIMEOUT
        await self._write_all()
        while (self.failing or self._changelog.pending) and self._clock.seconds() < deadline:
            await deferLater(self._reactor, min(self.interval, 0.1))
            await self._write_all()
        self.unsaved = self._changelog.pending if self.failing else 0
        if self.unsaved:
            self._log.critical("stopped with {pending} changes that could not be written to the file", pending=self.unsaved)
        self._pool.stop()
        self._file.close()
