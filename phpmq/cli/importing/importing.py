"""Sends what lines of JSON say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from phpmq.cli.exits import Failed
from phpmq.cli.lines import message_of
from phpmq.cli.pipes import Input
from phpmq.cli.running import Pace, Signals
from phpmq.cli.send.sender import Order, Sender, send_messages
from phpmq.client_frames import MAX_BODY
from phpmq.errors import TooLarge
from phpmq.text import plural

# JSON may take six characters for a byte; the rest is for headers and facts.
_MAX_LINE = 6 * MAX_BODY + 1024 * 1024

# So many bad lines are told one by one.
_TOLD = 10


class Importing:
    """Reads lines, and has a sender send what they say."""

    def __init__(self, reactor: Any, order: Order, source: Input, name: str, skip_bad: bool) -> None:
        """
        @param name: what the lines come from
        @param skip_bad: whether to go on after one that is no message
        """
        self._source, self._name, self._skip_bad = source, name, skip_bad
        self._pace = Pace(reactor, order.rate)
        self._bad = 0

    async def feed(self, sender: Sender) -> None:
        """
        Send all.

        @raise Failed: a line is no message: the first one, or, if those are left out, any
        """
        while (lines := await self._source.lines()) is not None:
            for number, line in enumerate(lines, self._source.line - len(lines) + 1):
                if not line.strip():
                    continue
                await self._pace.wait()
                try:
                    body, fields = message_of(line)
                    await sender.send(body, **fields)
                except (TooLarge, ValueError) as error:
                    self._complain(sender, f"line {number:,} of {self._name} is no message: {error}")
        if self._bad:
            raise Failed(f"{plural(self._bad, 'line')} of {self._name} left out, as no messages")

    def _complain(self, sender: Sender, sentence: str) -> None:
        if not self._skip_bad:
            raise Failed(f"{sentence} (--skip-bad leaves such lines out)")
        self._bad += 1
        if self._bad <= _TOLD:
            sender.note(sentence)


async def import_messages(reactor: Any, signals: Signals, order: Order, path: str | None, skip_bad: bool) -> int:
    """
    Do what is ordered: the exit code.

    @param path: of the file; None for standard input
    """
    name = path or "standard input"
    with _opened(path) as descriptor:
        importing = Importing(reactor, order, Input(reactor, descriptor, name, _MAX_LINE), name, skip_bad)
        return await send_messages(reactor, signals, order, importing.feed)


@contextmanager
def _opened(path: str | None) -> Iterator[int]:
    if path is None:
        yield 0
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Failed(f"cannot read {path}: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
