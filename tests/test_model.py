"""
Broker, store and file against a model that is too simple to be wrong.

PHPMQ_TEST_PROFILE=long looks for much longer than a usual test run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

import phpmq.broker.broker
import phpmq.broker.keys
import phpmq.broker.lifecycle
import phpmq.broker.queue
import phpmq.broker.turn
import phpmq.store.changelog
import phpmq.store.write_buffer
from phpmq.broker import DELIVERIES, SENDS, Broker, Channel
from phpmq.broker.queues import QUEUE_OVERHEAD
from phpmq.errors import MemoryFull, QueueFull, UnknownId
from phpmq.interfaces import IPeer
from phpmq.message import DEFAULT_SETTINGS, MESSAGE_OVERHEAD, PROPERTIES_OVERHEAD, Message, Properties, QueueSettings, key_size
from phpmq.mirror import StoreFile
from phpmq.store import Delta, SQLiteStore

MANY = 2**31
MEMORY_LIMIT = 9000
MAX_KEYS = 6

LONG = os.environ.get("PHPMQ_TEST_PROFILE") == "long"

#: What the file may say about a message: where and until when it waits, how it died, or None.
State = tuple[object, ...] | None

SLOTS = st.integers(0, 1)
QUEUES = st.sampled_from("ab")
TTLS = st.sampled_from([0, 0, 5, 50])
COUNTS = st.sampled_from([1, 3, MANY])
KEYS = st.sampled_from(["k", "é", "long key"])
#: Settings with another window than by default: none, and one that ends soon.
WINDOWS = DEFAULT_SETTINGS, QueueSettings(dedup=0), QueueSettings(dedup=0.02)


@dataclass(eq=False)
class Item:
    """A message as the model knows it."""

    number: int
    body: bytes
    queue: str
    position: int
    expires: int
    attempts: int = 0
    #: Attempts when it last came back: so many at least are kept.
    returned: int = 0
    holder: Client | None = None
    flushed: bool = False
    key: str = ""
    #: Whether it has, or had, a key.
    extra: bool = False

    @property
    def size(self) -> int:
        """What it counts against the memory limit."""
        return len(self.body) + len(self.key.encode()) + PROPERTIES_OVERHEAD * self.extra

    @property
    def state(self) -> State:
        """What the file should say."""
        return None if self.flushed else ("live", self.queue, self.position, self.expires, self.body)

    def expired(self, now: int) -> bool:
        """Whether its time is over."""
        return 0 < self.expires <= now


@dataclass(frozen=True)
class Key:
    """A key that a queue remembers, as the model knows it."""

    number: int
    queue: str
    accepted: int
    key: str


@implementer(IPeer)
@dataclass(eq=False)
class Client:
    """A client, which gets at most C{output} messages at a time."""

    machine: BrokerMachine
    output: int
    windows: dict[str, int] = field(default_factory=dict)
    choked: bool = False
    unwritten: int = 0
    refusals: list[Exception] = field(default_factory=list)
    receipts: list[tuple[bytes, bool]] = field(default_factory=list)
    waits_for: str = ""
    blocks: int = 0

    def __post_init__(self) -> None:
        self.channel: Channel = self.machine.broker.channel(self)

    @property
    def held(self) -> list[Item]:
        """What it holds, the oldest first."""
        return sorted((item for item in self.machine.live.values() if item.holder is self), key=lambda item: item.number)

    def has_room(self, queue: str) -> bool:
        """Whether it holds fewer messages of that queue than its window."""
        return sum(item.queue == queue for item in self.held) < self.windows.get(queue, 0)

    def deliver(self, message: Message, now: int) -> None:
        """Take a message; see L{IPeer}."""
        assert not self.choked
        assert self.has_room(message.queue.name)
        self.machine.delivered(self, message, now)
        self.unwritten += 1
        if self.unwritten == self.output:
            self.channel.pause()

    def receipt(self, tag: bytes, id: bytes = b"", duplicate: bool = False) -> None:
        """Note a receipt; see L{IPeer}."""
        self.receipts.append((id, duplicate))

    def superseded(self) -> None:
        """It is no producer; see L{IPeer}."""
        raise AssertionError("superseded")

    def refused(self, tag: bytes | None, error: Exception) -> None:
        """Note a refusal; see L{IPeer}."""
        self.refusals.append(error)

    def blocked(self) -> None:
        """Wait; see L{IPeer}."""
        self.blocks += 1

    def unblocked(self) -> None:
        """Wait no more; see L{IPeer}."""
        assert self.waits_for
        self.waits_for = ""

    def flush(self) -> None:
        """Write; see L{IPeer}."""
        self.unwritten = 0
        if self.channel.paused and not self.choked:
            self.channel.resume()


class BrokerMachine(RuleBasedStateMachine):
    """All that can happen, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "phpmq.db")
        self.time = 1_000_000
        self.next = 0
        self.sent = 0
        self.live: dict[int, Item] = {}
        self.dead: dict[int, tuple[object, ...]] = {}
        self.dead_extras: dict[int, bool] = {}
        self.replayed: set[int] = set()
        self.paused: dict[str, int] = {}
        # What the file may say since it was last brought up to date, and the fewest attempts.
        self.states: dict[int, list[State]] = {}
        self.pauses: dict[str, set[int]] = {}
        self.attempts: dict[int, int] = {}
        # Windows, remembered keys, and up to which number they were forgotten; and what the file may say of each.
        self.settings: dict[str, QueueSettings] = {}
        self.keys: dict[int, Key] = {}
        self.forgotten: dict[str, int] = {}
        self.possible_settings: dict[str, list[QueueSettings]] = {}
        self.possible_keys: dict[int, Key] = {}
        self.certain_keys: set[int] = set()
        self.start()

    def start(self) -> None:
        """Start from the file, and compare what is there with what may be there."""
        self.file = StoreFile(self.path)
        memory, damaged = self.file.open()
        assert damaged == 0
        # No crash here is one of the machine.
        self.file._connect().execute("PRAGMA synchronous = OFF")
        self.store = SQLiteStore(memory)
        self.delta: Delta | None = None
        assert self.store.next_number > self.next
        self.next = self.store.next_number
        self.clients: list[Client | None] = [None] * 2
        self.in_turn = self.woken = False
        self.adopt()
        self.broker = Broker(self.store, lambda: self.time, MEMORY_LIMIT, wake=self.wake, max_keys=MAX_KEYS)
        with self.turn():
            self.broker.dispatch()
        # Its range of numbers is in the file before it is used.
        self.sync()

    def adopt(self) -> None:  # noqa: C901  # what is compared is much, and simple
        """What was in the last commit is back, nothing is invented, nothing that was acknowledged and mirrored is back."""
        before, self.live = self.live, {}
        found: dict[int, State] = {}
        paused = {}
        names, forgotten, windows = {}, self.forgotten, self.settings
        self.forgotten, self.settings = {}, {}
        for record, _, _, _ in self.store.queues():
            paused[record.name] = record.paused
            names[record.number] = record.name
            self.forgotten[record.name] = record.keys_forgotten_to
            if record.settings != DEFAULT_SETTINGS:
                self.settings[record.name] = record.settings
            for message in self.store.read(record, record.flushed_to, MANY, MANY):
                number = message.number
                item = Item(number, message.body, record.name, message.position, message.expires, message.attempts, message.attempts)
                item.extra = message.properties is not None
                item.key = message.properties.key if message.properties is not None else ""
                found[number] = item.state
                self.live[number] = item
                if number in before:
                    assert not item.key or not before[number].key or item.key == before[number].key
                if number in before and number not in self.replayed:
                    assert self.attempts.get(number, 0) <= message.attempts <= before[number].attempts
        self.dead, self.dead_extras = {}, {}
        for dead in self.store.dead():
            assert dead.number not in found, "both dead and alive"
            found[dead.number] = self.dead[dead.number] = ("dead", dead.queue, dead.text, dead.attempts, dead.body)
            self.dead_extras[dead.number] = dead.size > len(dead.body)
        for number, states in self.states.items():
            may_have_expired = number in before and before[number].expired(self.time)
            assert found.get(number) in states or (may_have_expired and number not in found), (number, found.get(number), states)
        assert set(found) <= set(self.states)
        for name, values in self.pauses.items():
            assert paused.get(name, 0) in values
        self.paused = {name: bits for name, bits in paused.items() if bits}
        for name, values_of in self.possible_settings.items():
            assert self.settings.get(name, DEFAULT_SETTINGS) in values_of
        self.adopt_keys(names, set(found), before, forgotten, windows)

    def adopt_keys(
        self, names: dict[int, str], found: set[int], before: dict[int, Item], forgotten: dict[str, int], windows: dict[str, QueueSettings]
    ) -> None:
        """A key is there if and only if its message was accepted before the last commit, and its window is not over."""
        rows = self.store._database.execute("SELECT number, queue, accepted, key FROM key")
        keys = {number: Key(number, names[queue], accepted, key) for number, queue, accepted, key in rows}
        for number, key in keys.items():
            assert self.possible_keys[number] == key
            # A message that never went must have come to the file with its key.
            gone = None in self.states.get(number, [])[1:] or (number in before and before[number].expired(self.time))
            assert number in found or number in self.certain_keys or gone, "the message is lost"
        for number, key in self.possible_keys.items():
            window = windows.get(key.queue, DEFAULT_SETTINGS)
            known = number in self.keys and key.accepted > self.time - window.dedup * 1000 and number > forgotten.get(key.queue, 0)
            if known and (number in self.certain_keys or number in found):
                assert number in keys, "the key is lost"
        self.keys = keys

    def wake(self) -> None:
        """The broker wants a dispatch soon."""
        self.woken = True

    def teardown(self) -> None:
        """Leave nothing behind."""
        self.store.close()
        self.file.close()
        self.folder.cleanup()

    # The model

    def note(self, number: int) -> None:
        """The file may have this state of a message from now on."""
        state = self.live[number].state if number in self.live else self.dead.get(number)
        self.states.setdefault(number, [None]).append(state)

    def forget(self, item: Item) -> None:
        """A message is gone."""
        del self.live[item.number]
        self.note(item.number)

    def ready(self, queue: str) -> list[Item]:
        """What waits in a queue, in order."""
        items = [item for item in self.live.values() if item.queue == queue and item.holder is None]
        return sorted(items, key=lambda item: item.position)

    def delivered(self, client: Client, message: Message, now: int) -> None:
        """A delivery must be the next message of its queue: those before it have expired."""
        name = message.queue.name
        assert not self.paused.get(name, 0) & DELIVERIES
        assert now == self.time
        for item in self.ready(name):
            if item.number == message.number:
                break
            assert item.expired(now), "not the first in its queue"
            self.forget(item)
        item = self.live[message.number]
        assert not item.expired(now)
        item.attempts += 1
        item.holder = client
        assert (message.body, message.position, message.expires) == (item.body, item.position, item.expires)
        assert message.attempts == item.attempts
        assert message.id == self.store.id_prefix + b"%016x" % item.number

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Do something, and afterwards all that the broker wants to do, unless the turn goes on."""
        yield
        if not self.in_turn:
            for _ in range(1000):
                if not self.woken:
                    return
                self.woken = False
                self.broker.dispatch()
            raise AssertionError("there is no end to it")

    # Clients

    @initialize(count=st.integers(0, 8))
    def connect(self, count: int) -> None:
        """Begin with a consumer and some messages, for the interesting part to come sooner."""
        self.consume(0, "a", 3)
        self.send(1, "a", 0, 10, count)

    def client(self, slot: int) -> Client:
        """The client of that slot, connected if it is not."""
        client = self.clients[slot]
        if client is None:
            client = self.clients[slot] = Client(self, slot)
        return client

    @rule(slot=SLOTS, queue=QUEUES, window=st.integers(0, 6))
    def consume(self, slot: int, queue: str, window: int) -> None:
        """Begin, change or end to consume."""
        client = self.client(slot)
        with self.turn():
            if window:
                client.windows[queue] = window
            else:
                client.windows.pop(queue, None)
            client.channel.consume(queue, window)

    @rule(slot=SLOTS, queue=QUEUES, ttl=TTLS, size=st.sampled_from([0, 10, 300]), count=st.integers(1, 8))
    def send(self, slot: int, queue: str, ttl: int, size: int, count: int) -> None:
        """Send a few messages."""
        client = self.client(slot)
        with self.turn():
            for _ in range(count):
                self.send_one(client, queue, ttl, size)

    def send_one(self, client: Client, queue: str, ttl: int, size: int) -> None:
        """Send one message, which is refused or not."""
        self.sent += 1
        body = b"%d" % self.sent + b" " * size
        client.blocks = 0
        full = self.broker.memory.used >= MEMORY_LIMIT
        before = dict(self.broker.outcomes.refused)
        client.channel.publish(queue, body, ttl)
        refused = [code for code, count in self.broker.outcomes.refused.items() if count > before.get(code, 0)]
        assert client.blocks == len(refused)
        if full:
            assert refused == [MemoryFull.code]
            client.waits_for = "memory"
        elif self.paused.get(queue, 0) & SENDS:
            assert refused == [QueueFull.code]
            client.waits_for = queue
        else:
            assert refused == []
            self.live[self.next] = Item(self.next, body, queue, self.next, self.time + ttl if ttl else 0)
            self.note(self.next)
            self.next += 1

    @rule(slot=SLOTS, queue=QUEUES, key=KEYS, ttl=TTLS, tag=st.sampled_from([b"t", None]))
    def send_with_key(self, slot: int, queue: str, key: str, ttl: int, tag: bytes | None) -> None:
        """Send a message with a key: it is stored, or refused, or there was one with that key."""
        client = self.client(slot)
        self.sent += 1
        body = b"%d" % self.sent
        client.refusals.clear()
        client.receipts.clear()
        client.blocks = 0
        earlier = self.known(queue, key)
        window = self.settings.get(queue, DEFAULT_SETTINGS).dedup
        number = self.next
        full = self.broker.memory.used >= MEMORY_LIMIT
        many = bool(window) and self.broker.keys.count >= MAX_KEYS
        with self.turn():
            client.channel.send(tag, queue, body, ttl, False, Properties(0, key))
            if earlier:
                assert client.refusals == []
                assert tag is None or client.receipts[0] in [(self.store.id_prefix + b"%016x" % one, True) for one in earlier]
            elif full or many or self.paused.get(queue, 0) & SENDS:
                wanted = MemoryFull if full or not self.paused.get(queue, 0) & SENDS else QueueFull
                assert [type(error) for error in client.refusals] == [wanted] * (tag is not None)
                assert client.blocks == (tag is None)
                if tag is None:
                    client.waits_for = "memory" if full else queue if wanted is QueueFull else "keys"
            else:
                assert client.refusals == []
                assert tag is None or client.receipts == [(self.store.id_prefix + b"%016x" % number, False)]
                self.next += 1
                item = Item(number, body, queue, number, self.time + ttl if ttl else 0, key=key, extra=True)
                self.live[number] = item
                self.note(number)
                if window:
                    self.keys[number] = self.possible_keys[number] = Key(number, queue, self.time, key)

    def known(self, queue: str, key: str) -> set[int]:
        """Of which messages a send would be a duplicate."""
        waiting = {
            item.number
            for item in self.live.values()
            if (item.queue, item.key) == (queue, key) and not item.flushed and not item.expired(self.time)
        }
        return waiting | {one.number for one in self.keys.values() if (one.queue, one.key) == (queue, key) and self.remembers(one)}

    def remembers(self, key: Key) -> bool:
        """Whether a key's window is not over."""
        window = self.settings.get(key.queue, DEFAULT_SETTINGS).dedup
        return key.accepted > self.time - window * 1000 and key.number > self.forgotten.get(key.queue, 0)

    @rule(slot=SLOTS, which=st.integers(0, 3), all_held=st.booleans())
    def ack(self, slot: int, which: int, all_held: bool) -> None:
        """Acknowledge one or all."""
        client = self.client(slot)
        with self.turn():
            for item in client.held if all_held else client.held[which : which + 1]:
                self.forget(item)
                client.channel.ack(None, self.id_of(item), item.queue)

    def id_of(self, item: Item) -> bytes:
        """A message's id."""
        return self.store.id_prefix + b"%016x" % item.number

    @rule(slot=SLOTS, which=st.integers(0, 3), ttl=TTLS)
    def requeue(self, slot: int, which: int, ttl: int) -> None:
        """Re-queue one."""
        client = self.client(slot)
        with self.turn():
            for item in client.held[which : which + 1]:
                item.holder, item.flushed, item.returned = None, False, item.attempts
                item.position, item.expires = self.next, self.time + ttl if ttl else 0
                self.next += 1
                self.note(item.number)
                client.channel.requeue(None, self.id_of(item), ttl)

    @rule(slot=SLOTS, which=st.integers(0, 3))
    def dead_letter(self, slot: int, which: int) -> None:
        """Dead-letter one."""
        client = self.client(slot)
        with self.turn():
            for item in client.held[which : which + 1]:
                del self.live[item.number]
                self.dead_extras[item.number] = item.extra
                self.dead[item.number] = ("dead", item.queue, "text", item.attempts, item.body)
                self.note(item.number)
                client.channel.dead_letter(None, self.id_of(item), "text", item.queue)

    @rule(slot=SLOTS, which=st.integers(0, 8))
    def settle_what_is_not_held(self, slot: int, which: int) -> None:
        """What somebody else holds, or nobody, is refused."""
        client = self.client(slot)
        others = [item for item in self.live.values() if item.holder is not client]
        with self.turn():
            for item in others[which : which + 1]:
                client.refusals.clear()
                client.channel.ack(None, self.id_of(item))
                client.channel.requeue(None, self.id_of(item), 0)
                client.channel.dead_letter(None, self.id_of(item))
                assert [type(error) for error in client.refusals] == [UnknownId] * 3

    @rule(slot=SLOTS)
    def disconnect(self, slot: int) -> None:
        """A client is gone."""
        client = self.clients[slot]
        if client is None:
            return
        with self.turn():
            for item in client.held:
                item.holder, item.returned = None, item.attempts
                if item.flushed or item.expired(self.time):
                    self.forget(item)
            self.clients[slot] = None
            client.channel.close()

    @rule(slot=SLOTS)
    def choke(self, slot: int) -> None:
        """A transport has enough, or wants more again."""
        client = self.client(slot)
        with self.turn():
            client.choked = not client.choked
            if client.choked:
                client.channel.pause()
            else:
                client.channel.resume()

    # The operator

    @rule(queue=QUEUES, all_queues=st.booleans())
    def flush(self, queue: str, all_queues: bool) -> None:
        """Flush a queue, or all."""
        queues = "ab" if all_queues else queue
        waiting = [item for name in queues for item in self.ready(name)]
        in_flight = [item for item in self.live.values() if item.queue in queues and item.holder is not None]
        with self.turn():
            count, left = self.broker.queues.flush_all() if all_queues else self.broker.queues.flush(queue)
            assert left == len(in_flight)
            assert sum(not item.expired(self.time) for item in waiting) <= count <= len(waiting)
            for item in waiting:
                self.forget(item)
            for item in in_flight:
                item.flushed = True
                self.note(item.number)

    @rule(queue=QUEUES)
    def forget_keys(self, queue: str) -> None:
        """Have a queue forget its keys."""
        with self.turn():
            self.broker.keys.forget(queue)
            if any(key.queue == queue for key in self.keys.values()):
                self.forgotten[queue] = self.next - 1

    @rule(queue=QUEUES, settings=st.sampled_from(WINDOWS))
    def configure(self, queue: str, settings: QueueSettings) -> None:
        """Set a queue's window."""
        with self.turn():
            self.settings[queue] = settings
            self.possible_settings.setdefault(queue, [DEFAULT_SETTINGS]).append(settings)
            self.broker.configure(queue, settings)

    @rule(source=QUEUES, other=QUEUES, count=st.sampled_from([1, 3]))
    def move(self, source: str, other: str, count: int) -> None:
        """Move messages to another queue."""
        self.sweep()
        with self.turn():
            if source == other or source not in self.broker.queues:
                return
            items = self.ready(source)[:count]
            first = self.next
            self.next += len(items)
            for place, item in enumerate(items):
                item.queue, item.position = other, first + place
                self.note(item.number)
            assert self.broker.lifecycle.move(self.broker.queues[source], self.broker.queues.get_or_create(other), count) == len(items)

    @rule(queue=QUEUES, other=QUEUES)
    def replay(self, queue: str, other: str) -> None:
        """Replay a queue's dead letters; they have no key any more."""
        with self.turn():
            letters = self.broker.dead_letters.page(queue)
            assert [dead.number for dead in letters] == sorted(n for n, state in self.dead.items() if state[1] == queue)[: len(letters)]
            for dead in letters:
                number = dead.number
                del self.dead[number]
                self.live[number] = Item(number, dead.body, other, self.next, 0, extra=self.dead_extras.pop(number))
                self.replayed.add(number)
                self.next += 1
                self.note(number)
            self.broker.lifecycle.replay(letters, other)

    @rule(queue=QUEUES, what=st.sampled_from([DELIVERIES, SENDS, DELIVERIES | SENDS]), stop=st.booleans())
    def pause(self, queue: str, what: int, stop: bool) -> None:
        """Pause or resume a queue."""
        with self.turn():
            if stop:
                self.paused[queue] = self.paused.get(queue, 0) | what
                self.broker.queues.pause(queue, what)
            else:
                self.paused[queue] = self.paused.get(queue, 0) & ~what
                self.broker.queues.resume(queue, what)
            self.pauses.setdefault(queue, {0}).add(self.paused[queue])

    # Time

    @rule()
    def begin_or_end(self) -> None:
        """What follows happens in one turn, or no longer."""
        with self.turn():
            self.in_turn = not self.in_turn
            if self.in_turn:
                self.broker.begin()
            else:
                self.broker.end()

    @precondition(lambda self: not self.in_turn)
    @rule(step=st.sampled_from([1, 5, 60, 120_000]))
    def pass_time(self, step: int) -> None:
        """Time passes."""
        self.time += step

    @rule()
    def sweep(self) -> None:
        """What happens once a second."""
        with self.turn():
            while not self.broker.sweep():
                pass
            for item in list(self.live.values()):
                if item.holder is None and item.expired(self.time):
                    self.forget(item)
            self.keys = {number: key for number, key in self.keys.items() if self.remembers(key)}
            assert self.broker.keys.count == len(self.keys)

    # The file

    @precondition(lambda self: self.delta is None)
    @rule(count=COUNTS)
    def begin_write(self, count: int) -> None:
        """The thread gets something to write."""
        self.delta = self.store.changelog.extract(count, MANY, {})

    @precondition(lambda self: self.delta is not None)
    @rule(reaches_disk=st.booleans(), succeeds=st.booleans())
    def end_write(self, reaches_disk: bool, succeeds: bool) -> None:
        """It is written, or not; success is reported only if it was."""
        assert self.delta is not None
        if reaches_disk or succeeds:
            self.file.apply(self.delta)
        if succeeds:
            self.store.changelog.confirm(self.delta)
        else:
            self.store.changelog.restore(self.delta)
        self.delta = None

    @rule(count=COUNTS)
    def sync(self, count: int = MANY) -> None:
        """The file is brought up to date."""
        if self.delta is not None:
            self.end_write(False, False)
        while (delta := self.store.changelog.extract(count, MANY, {})) is not None:
            self.file.apply(delta)
            self.store.changelog.confirm(delta)
        assert self.store.changelog.pending == 0
        self.states = {number: [state] for number, state in self.dead.items()}
        self.states.update({number: [item.state] for number, item in self.live.items()})
        self.attempts = {item.number: item.returned for item in self.live.values()}
        self.pauses = {name: {bits} for name, bits in self.paused.items()}
        self.replayed = set()
        self.possible_settings = {name: [settings] for name, settings in self.settings.items()}
        self.possible_keys = self.keys.copy()
        self.certain_keys = set(self.keys)

    @rule(written=st.booleans())
    def crash(self, written: bool) -> None:
        """The process dies, while it writes or not, and starts again."""
        if self.delta is not None and written:
            self.file.apply(self.delta)
        self.store.close()
        self.file.close()
        self.start()

    @rule()
    def restart(self) -> None:
        """The process stops and starts again."""
        self.sync()
        self.crash(False)

    # What always holds

    @invariant()
    def nobody_waits_in_vain(self) -> None:  # noqa: C901  # likewise
        """Whoever can get a message has got it, and who waits for room knows if there is some."""
        if self.in_turn:
            return
        for client in self.clients:
            if client is None:
                continue
            for queue in client.windows:
                if client.has_room(queue) and not client.choked and not self.paused.get(queue, 0) & DELIVERIES:
                    assert all(item.expired(self.time) for item in self.ready(queue))
            if client.waits_for == "memory":
                assert self.broker.memory.used >= MEMORY_LIMIT * 0.95
            elif client.waits_for == "keys":
                assert self.broker.keys.count >= MAX_KEYS * 0.95
            elif client.waits_for:
                assert self.paused[client.waits_for] & SENDS

    @invariant()
    def counts(self) -> None:
        """The broker's numbers are those of the model, as far as it can know what has expired."""
        if self.in_turn:
            return
        expected = {name for name, bits in self.paused.items() if bits}
        expected.update(name for name, settings in self.settings.items() if settings != DEFAULT_SETTINGS)
        expected.update(key.queue for key in self.keys.values() if self.remembers(key))
        expected.update(name for client in self.clients if client is not None for name in client.windows)
        expected.update(item.queue for item in self.live.values() if item.holder is not None)
        certain = expected.union(item.queue for item in self.live.values() if not item.expired(self.time))
        possible = certain.union(item.queue for item in self.live.values()).union(key.queue for key in self.keys.values())
        assert certain <= set(self.broker.queues) <= possible
        exact = True
        for name, queue in self.broker.queues.items():
            items = self.ready(name)
            assert queue.in_flight == sum(item.queue == name and item.holder is not None for item in self.live.values())
            assert sum(not item.expired(self.time) for item in items) <= queue.ready <= len(items)
            if queue.ready == len(items):
                assert queue.ready_size == sum(item.size for item in items)
            else:
                exact = False
            assert queue.prefetched_size == sum(message.size for message in queue.prefetched)
        remembered = [key.key for key in self.keys.values() if self.remembers(key)]
        assert len(remembered) <= self.broker.keys.count <= len(self.keys)
        assert self.broker.keys.count == sum(queue.keys for queue in self.broker.queues.values())
        if exact and set(self.broker.queues) == possible and self.broker.keys.count == len(self.keys):
            sizes = [item.size for item in self.live.values()]
            sizes += [len(state[-1]) + PROPERTIES_OVERHEAD * self.dead_extras[number] for number, state in self.dead.items()]  # type: ignore[arg-type]
            keys = sum(key_size(len(key.key.encode())) for key in self.keys.values())
            assert self.broker.memory.used == sum(sizes) + len(sizes) * MESSAGE_OVERHEAD + len(possible) * QUEUE_OVERHEAD + keys


def walk(seed: int, steps: int) -> None:
    """
    A long random walk: it gets deeper than Hypothesis does, which in return finds the shortest history that fails.

    What makes and moves messages comes more often than what takes them all away.
    """
    random = Random(seed)
    machine = BrokerMachine()

    def some(*values: Any) -> Any:
        return random.choice(values)

    actions: list[tuple[int, Callable[[], None]]] = [
        (10, lambda: machine.send(some(0, 1), some(*"ab"), some(0, 0, 5, 50), some(0, 10, 300), random.randint(1, 8))),
        (
            10,
            lambda: machine.send_with_key(some(0, 1), some(*"ab"), some(*"ké123456"), some(0, 0, 5, 50), some(b"t", None)),
        ),
        (10, lambda: machine.ack(some(0, 1), random.randint(0, 3), some(True, False))),
        (6, lambda: machine.consume(some(0, 1), some(*"ab"), random.randint(0, 6))),
        (5, lambda: machine.requeue(some(0, 1), random.randint(0, 3), some(0, 0, 5, 50))),
        (4, lambda: machine.begin_or_end()),
        (4, lambda: machine.disconnect(some(0, 1))),
        (
            4,
            lambda: (
                machine.begin_write(some(1, 3, MANY)) if machine.delta is None else machine.end_write(some(True, False), some(True, False))
            ),
        ),
        (2, lambda: machine.sync(some(1, 3, MANY))),
        (2, lambda: machine.choke(some(0, 1))),
        (2, lambda: machine.dead_letter(some(0, 1), random.randint(0, 3))),
        (2, lambda: machine.pass_time(some(1, 5, 60)) if not machine.in_turn else None),
        (1, lambda: machine.pass_time(120_000) if not machine.in_turn else None),
        (1, lambda: machine.configure(some(*"ab"), some(*WINDOWS))),
        (1, lambda: machine.forget_keys(some(*"ab"))),
        (2, lambda: machine.move(some(*"ab"), some(*"ab"), some(1, 3))),
        (1, lambda: machine.replay(some(*"ab"), some(*"ab"))),
        (2, lambda: machine.flush(some(*"ab"), False)),
        (2, lambda: machine.pause(some(*"ab"), some(1, 2, 3), random.random() < 0.3)),
        (1, lambda: machine.sweep()),
        (1, lambda: machine.crash(some(True, False))),
        (1, lambda: machine.restart()),
    ]
    weights = [weight for weight, _ in actions]
    try:
        for _, action in random.choices(actions, weights, k=steps):
            action()
            machine.nobody_waits_in_vain()
            machine.counts()
    finally:
        machine.teardown()


class ModelTests(SynchronousTestCase):
    """Broker, L{SQLiteStore} and L{StoreFile} together."""

    def setUp(self) -> None:
        # Small bounds, so that short histories cross them.
        self.patch(phpmq.broker.queue, "_PREFETCHED_MESSAGES", 3)
        self.patch(phpmq.broker.queue, "_PREFETCHED_BYTES", 400)
        for module in phpmq.broker.broker, phpmq.broker.turn, phpmq.broker.lifecycle:
            self.patch(module, "STEP", 4)
        self.patch(phpmq.broker.keys, "STEP", 3)
        self.patch(phpmq.store.write_buffer, "_CHANGES", 5)
        self.patch(phpmq.store.changelog, "_BATCHES", 3)

    def test_short_histories(self) -> None:
        """Whatever happens in whatever order, they do what the model does, and a crash loses nothing that was mirrored."""
        run_state_machine_as_test(
            BrokerMachine,
            settings=settings(
                max_examples=1500 if LONG else 100,
                stateful_step_count=100 if LONG else 50,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )

    def test_long_histories(self) -> None:
        """Likewise in the long run."""
        for seed in range(2000 if LONG else 40):
            try:
                walk(seed, 500)
            except Exception as error:
                raise AssertionError(f"walk({seed}, 500)") from error
