"""Producers: clients that number their sends, so that a retry is not stored again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from phpmq.broker.memory import Memory
from phpmq.broker.turn import Turn
from phpmq.interfaces import IPeer, IStore

#: What a producer counts against the memory limit, in bytes.
PRODUCER_OVERHEAD = 512

# What a stored name begins with if it has a user: a client's name has 64 bytes at most, so that none is taken for one with a user.
_USER = bytes(64)


class Owner(Protocol):
    """A channel: what goes on as a producer."""

    peer: IPeer
    producer: Producer | None


@dataclass(slots=True, eq=False)
class Producer:
    """
    Rule 17b: a client that keeps its name across its connections and numbers its sends.

    @ivar user: whose it is; empty while there is no login. Another user's producer of the same name is another one
    @ivar number: the highest number accepted from it, or found to be a duplicate by its key; -1 before the first
    @ivar used: when that was, milliseconds since the epoch
    @ivar channel: its channel; None while it is not connected
    """

    user: str
    name: bytes
    number: int = -1
    used: int = 0
    channel: Owner | None = None


class Producers:
    """
    All producers.

    @ivar by_name: the producers by user and name
    @ivar timeout: milliseconds after which one that sends nothing is forgotten
    """

    def __init__(self, turn: Turn, memory: Memory, store: IStore, timeout: int) -> None:
        self._turn = turn
        self._memory = memory
        self._store = store
        self.timeout = timeout
        self._checked = turn.now
        self.by_name: dict[tuple[str, bytes], Producer] = {}
        for stored, number, used in store.producers():
            user, name = _user_and_name(stored)
            self.by_name[user, name] = Producer(user, name, number, used)
        memory.take(len(self.by_name) * PRODUCER_OVERHEAD)

    def get(self, user: str, name: bytes) -> Producer:
        """
        A user's producer of that name, new if it was not used for long.

        @raise MemoryFull: there is no capacity for a new one
        """
        producer = self.by_name.get((user, name))
        if producer is None:
            self._memory.check()
            producer = self.by_name[user, name] = Producer(user, name)
            self._memory.take(PRODUCER_OVERHEAD)
        return producer

    def attach(self, producer: Producer, channel: Owner) -> None:
        """Let a channel go on as a producer, instead of the one that did so until now."""
        before, producer.channel, channel.producer = producer.channel, channel, producer
        if before is not None:
            before.producer = None
            before.peer.superseded()  # Last: what this does may be the end of the new channel, too.

    def accepted(self, producer: Producer, number: int) -> None:
        """
        Note that a send of that number is accepted, or a duplicate by its key. The store keeps the number together with the message that
        is added next, or with what it has then.
        """
        producer.number, producer.used = number, self._turn.now
        self._store.save_producer(_stored_name(producer.user, producer.name), number, producer.used)

    def release(self, producer: Producer) -> None:
        """Note that the producer's connection is gone; one that never sent anything is forgotten."""
        producer.channel = None
        if producer.number < 0:
            self._forget(producer)

    def _forget(self, producer: Producer) -> None:
        if self.by_name.pop((producer.user, producer.name), None) is not None:
            self._memory.free(PRODUCER_OVERHEAD)

    def sweep(self) -> None:
        """Forget those that were not used for long; it is enough to look once a minute."""
        now = self._turn.now
        if now - self._checked < min(self.timeout, 60_000):
            return
        self._checked = now
        deadline = now - self.timeout
        for producer in [one for one in self.by_name.values() if one.channel is None and one.used < deadline]:
            self._forget(producer)
            self._store.drop_producer(_stored_name(producer.user, producer.name))


def _stored_name(user: str, name: bytes) -> bytes:
    """
    The one name under which the store keeps a user's producer.

    Without a user it is the bare name, whatever bytes that has, as in files from before there were users.
    """
    return _USER + user.encode("utf-8") + b"\0" + name if user else name


def _user_and_name(stored: bytes) -> tuple[str, bytes]:
    """The inverse of L{_stored_name}."""
    if not stored.startswith(_USER) or stored == _USER:
        return "", stored
    user, _, name = stored.removeprefix(_USER).partition(b"\0")
    return user.decode("utf-8"), name
