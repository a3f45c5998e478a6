"""How far a command is: a line that moves on a terminal, nothing elsewhere unless it is asked for."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import LoopingCall

from phpmq.cli.output import is_terminal, note
from phpmq.text import format_rate, plural, terminal_safe

# Seconds after which there is something to tell, and between two looks, on a terminal and elsewhere.
_AFTER, _TERMINAL, _ELSEWHERE = 0.4, 0.1, 1.0


class Progress:
    """
    Shows how many messages are done, on stderr.

    @ivar done: how many; count it up
    """

    def __init__(self, reactor: Any, label: str, total: int | None, wanted: bool | None) -> None:
        """
        @param total: how many there will be; None if that is not known
        @param wanted: None for "on a terminal"; elsewhere it is a plain line a second
        """
        self.done = 0
        self._reactor = reactor
        self._label, self._total = terminal_safe(label), total
        self._started = reactor.seconds()
        self._live: Any = None
        self._task: Any = None
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._begin: Any = None
        if is_terminal(2) if wanted is None else wanted:
            self._begin = reactor.callLater(_AFTER, self._start)

    def _start(self) -> None:
        self._begin = None
        if is_terminal(2):
            self._live = _bar(self._total)
            if self._live is not None:
                self._task = self._live.add_task(self._label, total=self._total, rate="")
                self._live.start()
        self._looking.start(_ELSEWHERE if self._live is None else _TERMINAL)

    def _look(self) -> None:
        speed = format_rate(self.done, self._reactor.seconds() - self._started)
        if self._live is None:
            total = "" if self._total is None else f" of {self._total:,}"
            note(f"{self._label}: {plural(self.done)}{total}, {speed}")
        else:
            self._live.update(self._task, completed=self.done, rate=speed)
            self._live.refresh()

    def note(self, sentence: str) -> None:
        """A line for the user, above the moving one."""
        if self._live is not None:
            self._live.stop()
        note(sentence)
        if self._live is not None:
            self._live.start()

    def close(self) -> None:
        """Leave no trace of it."""
        if self._begin is not None:
            self._begin.cancel()
            self._begin = None
        if self._looking.running:
            self._looking.stop()
        if self._live is not None:
            self._live.stop()
            self._live = None


def _bar(total: int | None) -> Any:
    """A moving line; None where the terminal cannot move."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if console.is_dumb_terminal:
        return None
    count = TextColumn("{task.completed:,.0f}" + ("" if total is None else " of {task.total:,.0f}"))
    start = [SpinnerColumn()] if total is None else []
    middle = [] if total is None else [BarColumn()]
    end = TimeElapsedColumn() if total is None else TimeRemainingColumn()
    columns = [*start, TextColumn("{task.description}", markup=False), *middle, count, TextColumn("{task.fields[rate]}"), end]
    return Progress(*columns, console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
