"""Receipts that wait for the file."""

from __future__ import annotations

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
    @ivar limit: how many may wait on one client's channel; its next synced send has to L{hold_up}
    @ivar held_up: how many sends had to
    """

    def __init__(self, broker: Broker, store: IStore, limit: int) -> None:
        self._broker = broker
        self._store = store
        self.mirror: IMirror | None = None
        self.limit = limit
        self.held_up = 0
        # Those with unconfirmed sends.
        self._channels: dict[Channel, None] = {}

    @property
    def unconfirmed(self) -> int:
        """How many wait."""
        return sum(len(channel.unconfirmed) for channel in self._channels)

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

    def hold_up(self, channel: Channel) -> None:
        """A send waits for earlier ones: tell the channel's peer that there is room once there are receipts for it."""
        self.held_up += 1
        self._broker.room.wait(channel)

    def give_when_synced(self, channel: Channel, number: int, tag: bytes, message_id: bytes, duplicate: bool) -> None:
        """Give a receipt once all up to C{number} is in the file."""
        if number <= self._store.mirrored or self.mirror is None:
            channel.answer(tag, message_id, duplicate)
            return
        if not channel.unconfirmed:
            if not self._channels:
                self.mirror.hurry()
            self._channels[channel] = None
        channel.unconfirmed.append((number, tag, message_id, duplicate))
        self._store.request_sync()

    def synced(self) -> None:
        """The file got further: give the receipts that waited for it."""
        broker, mirrored = self._broker, self._store.mirrored
        broker.begin()
        for channel in list(self._channels):
            receipt, unconfirmed, given = channel.peer.receipt, channel.unconfirmed, 0
            for number, tag, message_id, duplicate in unconfirmed:
                if number > mirrored:
                    break
                receipt(tag, message_id, duplicate)
                given += 1
            if given:
                del unconfirmed[:given]
                broker.touch(channel)
                broker.room.came_for(channel)
                if not unconfirmed:
                    # Whoever got the last one may have closed the channel.
                    self._channels.pop(channel, None)
        if self._channels and self.mirror is not None:
            self.mirror.hurry()
        broker.end()

    def forget(self, channel: Channel) -> None:
        """The channel's peer is gone: nobody waits for its receipts."""
        if self._channels.pop(channel, channel) is None:
            channel.unconfirmed.clear()
