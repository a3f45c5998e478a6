"""Receipts (publisher confirms) that wait for the mirror file."""

from __future__ import annotations

from typing import Protocol

from phpmq.broker.memory import Memory
from phpmq.broker.turn import Turn, Writer
from phpmq.errors import DiskFailing, NotAllowed
from phpmq.interfaces import IMirror, IStore


class Publisher(Writer, Protocol):
    """A channel: what waits for receipts."""

    unconfirmed: list[tuple[int, bytes, bytes, bool]]

    def answer(self, tag: bytes | None, message_id: bytes, duplicate: bool) -> None:
        """Give a receipt now."""


class Confirms:
    """
    The receipts of synced sends, which are given once the mirror file has all that was accepted before.

    @ivar mirror: what copies the store to the file; None without one
    @ivar limit: how many may wait on one client's channel; its next synced send is blocked
    @ivar blocked: how many sends were
    """

    def __init__(self, turn: Turn, memory: Memory, store: IStore, limit: int) -> None:
        self._turn = turn
        self._memory = memory
        self._store = store
        self.mirror: IMirror | None = None
        self.limit = limit
        self.blocked = 0
        # Those with unconfirmed sends.
        self._channels: dict[Publisher, None] = {}

    @property
    def unconfirmed(self) -> int:
        """How many receipts wait."""
        return sum(len(channel.unconfirmed) for channel in self._channels)

    def check(self) -> None:
        """
        Make sure that a message can be synced.

        @raise NotAllowed: the server keeps no file
        @raise DiskFailing: the file cannot be written now
        """
        if self.mirror is None:
            raise NotAllowed("this server keeps its messages in memory only")
        if self.mirror.failing:
            raise DiskFailing("the store's file cannot be written")

    def block(self, channel: Publisher) -> None:
        """Block a channel's sends until it gets a receipt."""
        self.blocked += 1
        self._memory.block(channel)

    def confirm_when_synced(self, channel: Publisher, number: int, tag: bytes, message_id: bytes, duplicate: bool) -> None:
        """Give a receipt once all up to C{number} is in the file."""
        if number <= self._store.mirrored or self.mirror is None:
            channel.answer(tag, message_id, duplicate)
            return
        if not channel.unconfirmed:
            if not self._channels:
                self.mirror.sync_soon()
            self._channels[channel] = None
        channel.unconfirmed.append((number, tag, message_id, duplicate))
        self._store.request_sync()

    def confirm(self) -> None:
        """Give the receipts that waited for what the file has now."""
        mirrored = self._store.mirrored
        for channel in list(self._channels):
            receipt, unconfirmed, given = channel.peer.receipt, channel.unconfirmed, 0
            for number, tag, message_id, duplicate in unconfirmed:
                if number > mirrored:
                    break
                receipt(tag, message_id, duplicate)
                given += 1
            if given:
                del unconfirmed[:given]
                self._turn.flush_later(channel)
                self._memory.unblock(channel)
                if not unconfirmed:
                    # Whoever got the last one may have closed the channel.
                    self._channels.pop(channel, None)
        if self._channels and self.mirror is not None:
            self.mirror.sync_soon()

    def remove(self, channel: Publisher) -> None:
        """Forget a channel that is gone, with the receipts that it waits for."""
        if self._channels.pop(channel, channel) is None:
            channel.unconfirmed.clear()
