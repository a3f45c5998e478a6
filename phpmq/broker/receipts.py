"""Receipts that wait for the file."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from phpmq.errors import DiskFailing, NotAllowed
from phpmq.interfaces import IMirror, IStore

if TYPE_CHECKING:
    from phpmq.broker.broker import Broker
    from phpmq.broker.channel import Channel


class Receipts:
    """
    The receipts of synced sends, which are given once the file has all that was accepted before.

    @ivar mirror: who copies the store to the file; None without one
    """

    def __init__(self, broker: Broker, store: IStore) -> None:
        self._broker = broker
        self._store = store
        self.mirror: IMirror | None = None
        # Number of the message, who sent it, and the receipt: tag, id, and whether it is a duplicate.
        self._waiting: deque[tuple[int, Channel, bytes, bytes, bool]] = deque()

    def check(self) -> None:
        """
        Whether a message can get on a disk.

        @raise NotAllowed: the server keeps no file
        @raise DiskFailing: the file cannot be written now
        """
        if self.mirror is None:
            raise NotAllowed("this server keeps its messages in memory only")
        if self.mirror.failing:
            raise DiskFailing("the store's file cannot be written")

    def give_when_synced(self, channel: Channel, number: int, tag: bytes, message_id: bytes, duplicate: bool) -> None:
        """Give a receipt once all up to C{number} is in the file."""
        if number <= self._store.mirrored or self.mirror is None:
            channel.answer(tag, message_id, duplicate)
            return
        if not self._waiting:
            self.mirror.hurry()
        self._waiting.append((number, channel, tag, message_id, duplicate))
        self._store.wants_sync()

    def synced(self) -> None:
        """The file got further: give the receipts that waited for it."""
        self._broker.begin()
        waiting, mirrored = self._waiting, self._store.mirrored
        while waiting and waiting[0][0] <= mirrored:
            _, channel, tag, message_id, duplicate = waiting.popleft()
            channel.answer(tag, message_id, duplicate)
        if waiting and self.mirror is not None:
            self.mirror.hurry()
        self._broker.end()
