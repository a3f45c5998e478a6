"""Who sends with numbers, so that a retry is not stored again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phpmq.interfaces import IStore

if TYPE_CHECKING:
    from phpmq.broker.broker import Broker
    from phpmq.broker.channel import Channel

#: What a producer counts against the memory limit, in bytes.
PRODUCER_OVERHEAD = 512


class Producer:
    """
    Rule 17b: a client that keeps its name across its connections and numbers its sends.

    @ivar number: the highest number accepted from it, or found to be a duplicate by its key; -1 before the first
    @ivar used: when that was, milliseconds since the epoch
    @ivar channel: its conversation; None while it is not connected
    """

    __slots__ = ("channel", "name", "number", "used")

    def __init__(self, name: bytes, number: int = -1, used: int = 0) -> None:
        self.name = name
        self.number = number
        self.used = used
        self.channel: Channel | None = None


class Producers:
    """
    All producers.

    @ivar by_name: the producers
    @ivar timeout: milliseconds after which one that sends nothing is forgotten
    """

    def __init__(self, broker: Broker, store: IStore, timeout: int) -> None:
        self._broker = broker
        self._store = store
        self.timeout = timeout
        self._checked = broker.now
        self.by_name = {name: Producer(name, number, used) for name, number, used in store.producers()}
        broker.used += len(self.by_name) * PRODUCER_OVERHEAD

    def get(self, name: bytes) -> Producer:
        """
        The producer of that name, new if it was not used for long.

        @raise MemoryFull: there is no room for a new one
        """
        producer = self.by_name.get(name)
        if producer is None:
            broker = self._broker
            if broker.used >= broker.memory_limit:
                broker.room.refuse()
            producer = self.by_name[name] = Producer(name)
            broker.used += PRODUCER_OVERHEAD
        return producer

    def accepted(self, producer: Producer, number: int) -> None:
        """
        A send of that number is accepted, or a duplicate by its key. The store keeps the number together with the message that is added
        next, or with what it has then.
        """
        producer.number, producer.used = number, self._broker.now
        self._store.save_producer(producer.name, number, producer.used)

    def release(self, producer: Producer) -> None:
        """The producer's connection is gone; one that never sent anything is forgotten."""
        producer.channel = None
        if producer.number < 0:
            self._forget(producer)

    def _forget(self, producer: Producer) -> None:
        if self.by_name.pop(producer.name, None) is not None:
            self._broker.freed(PRODUCER_OVERHEAD)

    def sweep(self) -> None:
        """Forget those that were not used for long; it is enough to look once a minute."""
        now = self._broker.now
        if now - self._checked < min(self.timeout, 60_000):
            return
        self._checked = now
        deadline = now - self.timeout
        for producer in [one for one in self.by_name.values() if one.channel is None and one.used < deadline]:
            self._forget(producer)
            self._store.drop_producer(producer.name)
