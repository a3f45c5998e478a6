"""What every engine has to do for its clients: a test case of each engine inherits from L{EngineContract}."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from phpmq.engine import IEngine
from phpmq.errors import MemoryFull, NotAllowed, UnknownId
from phpmq.interfaces import IBroker, IChannel, IOperators, IPeer
from phpmq.message import Message, Properties

#: What a tag's command came to: C{receipt} with id and whether it is a duplicate, or C{refused} with the kind of error.
Answer = tuple[Any, ...]


@implementer(IPeer)
class Client:
    """
    A client of an engine, which sees what a session sees and nothing else.

    @ivar held: what was delivered and is not settled, in order of arrival
    @ivar answers: what came of each tag, in order
    @ivar blocks: how often a send was blocked, C{unblocks}: how often it may have been tried again
    """

    def __init__(self, broker: Any, user: str = "") -> None:
        self._broker = broker
        self.held: list[Message] = []
        self.answers: list[tuple[bytes | None, Answer]] = []
        self.blocks = self.unblocks = 0
        self.is_superseded = False
        self.channel: Any = broker.channel(self, user)

    # IPeer

    def deliver(self, message: Message, now: int) -> None:
        """Note a delivery; see L{IPeer}."""
        self.held.append(message)

    def receipt(self, tag: bytes, id: bytes = b"", duplicate: bool = False) -> None:
        """Note a receipt; see L{IPeer}."""
        self.answers.append((tag, ("receipt", id, duplicate)))

    def refused(self, tag: bytes | None, error: Exception) -> None:
        """Note a refusal; see L{IPeer}."""
        self.answers.append((tag, ("refused", type(error))))

    def blocked(self) -> None:
        """Count it; see L{IPeer}."""
        self.blocks += 1

    def unblocked(self) -> None:
        """Count it; see L{IPeer}."""
        self.unblocks += 1

    def superseded(self) -> None:
        """Note it; see L{IPeer}."""
        self.is_superseded = True

    def flush(self) -> None:
        """There is nothing to write; see L{IPeer}."""

    # What a test does

    def turn(self, *calls: Callable[[], object]) -> None:
        """Make calls in one turn, as a session does with what came in one chunk."""
        self._broker.begin()
        try:
            for call in calls:
                call()
        finally:
            self._broker.end()

    def send(self, body: bytes, queue: str = "q", *, tag: bytes = b"t", ttl: int = 0, synced: bool = False, **more: Any) -> None:
        """Send a message; C{more} are its properties."""
        properties = Properties(**more) if more else None
        self.turn(lambda: self.channel.send(tag, queue, body, ttl, synced, properties))

    def publish(self, *bodies: bytes, queue: str = "q", ttl: int = 0) -> None:
        """Send messages without answers, in one turn."""
        self.turn(*[lambda body=body: self.channel.publish(queue, body, ttl) for body in bodies])

    def consume(self, window: int, queue: str = "q", lease: int = 0) -> None:
        """Consume a queue."""
        self.turn(lambda: self.channel.consume(queue, window, lease))

    def settle(self, how: str, *more: Any) -> None:
        """Settle, or touch, the message that it holds for longest."""
        message = self.held[0] if how == "touch" else self.held.pop(0)
        self.turn(lambda: getattr(self.channel, how)(b"s", message.id, *more))

    def close(self) -> None:
        """Go away."""
        self.turn(self.channel.close)

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of what it holds."""
        return [message.body for message in self.held]

    @property
    def last(self) -> Answer:
        """The last answer."""
        return self.answers[-1][1]


class EngineContract(TestCase):
    """
    The rules of docs/reference/semantics.md, as far as one client or several can see them.

    A subclass makes an engine in L{make_engine} and lets time pass in L{advance}; answers may come at once or later.
    """

    #: Whether the engine knows, exactly, what it stored before: by deduplication key and by the producer's number.
    exact = True

    #: Whether it refuses sends when it is full.
    limited = True

    engine: Any

    # What a subclass gives

    def make_engine(self, **settings: Any) -> Any:
        """An engine that is started, and ended with the test; C{settings} are those of L{phpmq.settings.Settings}."""
        raise NotImplementedError

    async def advance(self, seconds: float) -> None:
        """Let so much time pass, and all that follows from it."""
        raise NotImplementedError

    # What the tests share

    def setUp(self) -> None:
        """Start an engine."""
        self.start()

    def start(self, **settings: Any) -> None:
        """Start another engine."""
        self.engine = self.make_engine(**settings)

    def client(self, user: str = "") -> Client:
        """A new client."""
        return Client(self.engine.broker, user)

    async def until(self, condition: Callable[[], object], why: str = "") -> None:
        """Wait for what has to come, within reason."""
        for _ in range(200):
            if condition():
                return
            await self.advance(0.01)
        raise AssertionError(why or "it did not come")

    async def never(self, condition: Callable[[], object]) -> None:
        """See that something does not come, for a while."""
        await self.advance(0.3)
        self.assertFalse(condition())

    async def gets(self, client: Client, *bodies: bytes) -> None:
        """Wait until a client holds these messages, in this order."""
        await self.until(lambda: len(client.held) >= len(bodies), f"{bodies} expected, {client.bodies} there")
        self.assertEqual(client.bodies, list(bodies))

    async def answer(self, client: Client, count: int = 1) -> Answer:
        """Wait until a client has so many answers; the last of them."""
        await self.until(lambda: len(client.answers) >= count, "no answer")
        return client.last

    # The seam

    async def test_interfaces(self) -> None:
        """Engine, broker, channel and operators provide their interfaces."""
        verifyObject(IEngine, self.engine)
        verifyObject(IBroker, self.engine.broker)
        verifyObject(IChannel, self.client().channel)
        verifyObject(IOperators, self.engine.operators)

    # Order and distribution

    async def test_first_in_first_out(self) -> None:
        """Messages of a queue come in the order in which they were accepted, whoever sent them."""
        one, other, consumer = self.client(), self.client(), self.client()
        one.publish(b"1", b"2")
        other.publish(b"3")
        one.publish(b"4")
        consumer.consume(10)
        await self.gets(consumer, b"1", b"2", b"3", b"4")
        self.assertEqual([message.attempts for message in consumer.held], [1] * 4)
        self.assertEqual({len(message.id) for message in consumer.held}, {32})

    async def test_window(self) -> None:
        """A consumer holds no more than its window, and gets the next message when it settles one."""
        consumer = self.client()
        consumer.publish(b"1", b"2", b"3")
        consumer.consume(2)
        await self.gets(consumer, b"1", b"2")
        await self.never(lambda: len(consumer.held) > 2)
        consumer.settle("ack")
        await self.gets(consumer, b"2", b"3")

    async def test_equal_distribution(self) -> None:
        """Messages are handed round among the consumers that have capacity."""
        consumers = [self.client() for _ in range(3)]
        for consumer in consumers:
            consumer.consume(10)
        self.client().publish(*(b"%d" % number for number in range(9)))
        await self.until(lambda: sum(len(consumer.held) for consumer in consumers) == 9)
        self.assertEqual([len(consumer.held) for consumer in consumers], [3, 3, 3])

    async def test_end_of_consuming(self) -> None:
        """A window of 0 ends the consumer; what it holds it still settles."""
        consumer = self.client()
        consumer.consume(1)
        consumer.publish(b"1", b"2")
        await self.gets(consumer, b"1")
        consumer.consume(0)
        consumer.settle("ack")
        await self.until(lambda: consumer.answers == [(b"s", ("receipt", b"", False))])
        await self.never(lambda: consumer.held)

    async def test_several_queues(self) -> None:
        """One client consumes several queues, each with a window of its own."""
        consumer = self.client()
        consumer.consume(1, "a")
        consumer.consume(2, "b")
        for queue in "a", "b":
            consumer.publish(b"1", b"2", b"3", queue=queue)
        await self.until(lambda: len(consumer.held) == 3)
        self.assertEqual(sorted(message.queue.name for message in consumer.held), ["a", "b", "b"])

    async def test_paused_channel(self) -> None:
        """A channel that is paused gets nothing until it is resumed."""
        consumer = self.client()
        consumer.channel.pause()
        consumer.consume(9)
        consumer.publish(b"1")
        await self.never(lambda: consumer.held)
        consumer.turn(consumer.channel.resume)
        await self.gets(consumer, b"1")

    # Settling

    async def test_acknowledge(self) -> None:
        """What is acknowledged never comes again."""
        consumer = self.client()
        consumer.publish(b"1")
        consumer.consume(1)
        await self.gets(consumer, b"1")
        consumer.settle("ack")
        self.assertEqual(await self.answer(consumer), ("receipt", b"", False))
        consumer.close()
        other = self.client()
        other.consume(1)
        await self.never(lambda: other.held)

    async def test_unknown_id(self) -> None:
        """Only who holds a message settles or touches it, and once."""
        consumer, other = self.client(), self.client()
        consumer.publish(b"1")
        consumer.consume(1)
        await self.gets(consumer, b"1")
        message = consumer.held[0]
        for how in "ack", "requeue", "dead_letter", "touch":
            count = len(other.answers)
            more = (0,) if how == "requeue" else ()
            other.turn(lambda how=how, more=more: getattr(other.channel, how)(b"x", message.id, *more))  # type: ignore[misc]
            self.assertEqual(await self.answer(other, count + 1), ("refused", UnknownId), how)
        consumer.settle("ack")
        consumer.turn(lambda: consumer.channel.ack(b"again", message.id))
        self.assertEqual(await self.answer(consumer, 2), ("refused", UnknownId))

    async def test_redelivery(self) -> None:
        """What a client held that is gone is ready again, in the old order, with one more attempt."""
        consumer = self.client()
        consumer.publish(b"1", b"2", b"3")
        consumer.consume(2)
        await self.gets(consumer, b"1", b"2")
        ids = [message.id for message in consumer.held]
        consumer.close()
        other = self.client()
        other.consume(3)
        await self.gets(other, b"1", b"2", b"3")
        self.assertEqual([message.attempts for message in other.held], [2, 2, 1])
        self.assertEqual([message.id for message in other.held[:2]], ids)

    async def test_give_back(self) -> None:
        """A client that gives back what it holds can still send."""
        consumer, other = self.client(), self.client()
        consumer.publish(b"1")
        consumer.consume(1)
        await self.gets(consumer, b"1")
        consumer.turn(consumer.channel.give_back)
        other.consume(2)
        await self.gets(other, b"1")
        consumer.publish(b"2")
        await self.gets(other, b"1", b"2")

    async def test_requeue(self) -> None:
        """What is requeued is the last of its queue, with its id and one more attempt."""
        consumer = self.client()
        consumer.publish(b"1", b"2")
        consumer.consume(1)
        await self.gets(consumer, b"1")
        id = consumer.held[0].id
        consumer.settle("requeue", 0)
        await self.gets(consumer, b"2")
        consumer.settle("ack")
        await self.gets(consumer, b"1")
        self.assertEqual((consumer.held[0].attempts, consumer.held[0].id), (2, id))

    async def test_requeue_with_delay(self) -> None:
        """A message that is requeued with a delay is not ready before that is over."""
        consumer = self.client()
        consumer.publish(b"1")
        consumer.consume(1)
        await self.gets(consumer, b"1")
        consumer.settle("requeue", 0, None, 600)
        await self.never(lambda: consumer.held)
        await self.advance(0.5)
        await self.gets(consumer, b"1")

    async def test_dead_letter(self) -> None:
        """A dead letter is delivered to nobody."""
        consumer = self.client()
        consumer.publish(b"1", b"2")
        consumer.consume(1)
        await self.gets(consumer, b"1")
        consumer.settle("dead_letter", "no such user")
        await self.gets(consumer, b"2")
        self.assertEqual(consumer.answers, [(b"s", ("receipt", b"", False))])
        consumer.close()
        other = self.client()
        other.consume(9)
        await self.gets(other, b"2")

    # Time

    async def test_time_to_live(self) -> None:
        """An expired message is never delivered; one in flight stays valid."""
        consumer = self.client()
        consumer.publish(b"1", ttl=400)
        consumer.consume(1)
        await self.gets(consumer, b"1")
        consumer.publish(b"2", ttl=400)
        consumer.publish(b"3")
        await self.advance(0.8)
        consumer.settle("ack")
        await self.gets(consumer, b"3")
        self.assertEqual(consumer.last, ("receipt", b"", False))

    async def test_delay(self) -> None:
        """A delayed message is ready when it is due, behind what was ready before."""
        consumer = self.client()
        consumer.send(b"late", due=600)
        consumer.publish(b"now")
        consumer.consume(9)
        await self.gets(consumer, b"now")
        await self.never(lambda: len(consumer.held) > 1)
        await self.advance(0.5)
        await self.gets(consumer, b"now", b"late")

    async def test_lease(self) -> None:
        """What is held longer than the lease is ready again, for others first; a late acknowledgement is refused."""
        consumer, other = self.client(), self.client()
        consumer.consume(1, lease=500)
        consumer.publish(b"1")
        await self.gets(consumer, b"1")
        other.consume(1)
        await self.advance(0.8)
        await self.gets(other, b"1")
        self.assertEqual(other.held[0].attempts, 2)
        consumer.settle("ack")
        self.assertEqual(await self.answer(consumer), ("refused", UnknownId))

    async def test_touch(self) -> None:
        """Touch starts the lease again."""
        consumer, other = self.client(), self.client()
        consumer.consume(1, lease=600)
        consumer.publish(b"1")
        await self.gets(consumer, b"1")
        other.consume(1)
        for _ in range(3):
            await self.advance(0.4)
            consumer.settle("touch")
        self.assertEqual(consumer.answers, [(b"s", ("receipt", b"", False))] * 3)
        self.assertEqual(other.held, [])
        consumer.settle("ack")
        self.assertEqual(await self.answer(consumer, 4), ("receipt", b"", False))

    # Sending

    async def test_receipt(self) -> None:
        """A send with a tag is answered with the id of its message, one without is not answered."""
        client = self.client()
        client.send(b"1", tag=b"one")
        kind, id, duplicate = await self.answer(client)
        self.assertEqual((kind, len(id), duplicate), ("receipt", 32, False))
        client.publish(b"2")
        client.consume(2)
        await self.gets(client, b"1", b"2")
        self.assertEqual(client.held[0].id, id)
        self.assertEqual(len(client.answers), 1)

    async def test_properties(self) -> None:
        """Headers arrive with their message."""
        client = self.client()
        client.send(b"1", headers=b'{"a": "b"}')
        client.consume(1)
        await self.gets(client, b"1")
        properties = client.held[0].properties
        assert properties is not None
        self.assertEqual(properties.headers, b'{"a": "b"}')

    async def test_hello(self) -> None:
        """A hello without a name is answered, and changes nothing."""
        client = self.client()
        client.turn(lambda: client.channel.hello(b"h", None))
        self.assertEqual(await self.answer(client), ("receipt", b"", False))

    async def test_deduplication_key(self) -> None:
        """A second send with a key stores nothing while the first one is known, and names its message."""
        if not self.exact:
            return
        client = self.client()
        client.send(b"1", key="k")
        _, id, _ = await self.answer(client)
        client.send(b"1 again", key="k")
        self.assertEqual(await self.answer(client, 2), ("receipt", id, True))
        client.send(b"2", key="other")
        client.consume(9)
        await self.gets(client, b"1", b"2")

    async def test_producer(self) -> None:
        """A producer's number is accepted once, also over its connections."""
        if not self.exact:
            return
        for first in True, False:
            client = self.client()
            client.turn(lambda client=client: client.channel.hello(b"h", b"me"))  # type: ignore[misc]
            client.send(b"1", tag=b"1")
            kind, _, duplicate = await self.answer(client, 2)
            self.assertEqual((kind, duplicate), ("receipt", not first))
            client.close()
        consumer = self.client()
        consumer.consume(9)
        await self.gets(consumer, b"1")

    async def test_producer_is_taken_over(self) -> None:
        """A second client with a producer's name takes it over; another user's producer of that name is another one."""
        if not self.exact:
            return
        first, second, stranger = self.client("ann"), self.client("ann"), self.client("bob")
        for client in first, stranger, second:
            client.turn(lambda client=client: client.channel.hello(b"h", b"me"))  # type: ignore[misc]
            await self.answer(client)
        self.assertEqual([client.is_superseded for client in (first, second, stranger)], [True, False, False])
        stranger.send(b"high", tag=b"999999999999999999")
        await self.answer(stranger, 2)
        second.send(b"1", tag=b"1")
        kind, _, duplicate = await self.answer(second, 2)
        self.assertEqual((kind, duplicate), ("receipt", False))

    async def test_full(self) -> None:
        """Without capacity a send is refused if it has a tag, and blocked if not, until there is capacity."""
        if not self.limited:
            return
        self.start(memory_limit=1024 * 1024)
        client, consumer = self.client(), self.client()
        client.publish(*[b"x" * 100_000] * 12)
        await self.until(lambda: client.blocks, "the memory is never full")
        client.send(b"more", tag=b"more")
        self.assertEqual(await self.answer(client), ("refused", MemoryFull))
        self.assertEqual(client.unblocks, 0)
        consumer.consume(100)
        await self.until(lambda: consumer.held)
        while consumer.held:
            consumer.settle("ack")
        await self.until(lambda: client.unblocks, "no capacity again")
        client.send(b"more", tag=b"more")
        self.assertEqual((await self.answer(client, 2))[0], "receipt")

    async def test_synced(self) -> None:
        """A synced send is receipted in the end, or refused by an engine that cannot sync."""
        client = self.client()
        client.send(b"1", synced=True)
        answer = await self.answer(client)
        self.assertIn(answer[:2] if answer[0] == "refused" else answer[0], ("receipt", ("refused", NotAllowed)))

    async def test_unconfirmed(self) -> None:
        """A client with as many unconfirmed sends as it may have is blocked until it has a receipt."""
        self.start(max_unconfirmed=3)
        client = self.client()
        client.turn(*[lambda number=number: client.channel.send(b"%d" % number, "q", b"x", 0, True, None) for number in range(4)])
        if (b"0", ("refused", NotAllowed)) in client.answers:
            return
        self.assertEqual(client.blocks, 1)
        await self.answer(client, 3)
        self.assertEqual([tag for tag, _ in client.answers], [b"0", b"1", b"2"])
        await self.until(lambda: client.unblocks == 1)

    async def test_revisions(self) -> None:
        """What the latest sender of a queue speaks in version 01 is kept as long as the queue is there."""
        broker, client = self.engine.broker, self.client()
        client.publish(b"1")
        for revision in 1, 2:
            client.turn(lambda revision=revision: broker.save_revision("q", revision))  # type: ignore[misc]
        client.turn(lambda: broker.save_revision("no such queue", 1))
        self.assertEqual(dict(broker.revisions), {"q": 2})

    # Stopping

    async def test_drain(self) -> None:
        """After a drain nothing is delivered any more."""
        client, other = self.client(), self.client()
        client.publish(b"1")
        client.consume(1)
        await self.gets(client, b"1")
        self.engine.drain()
        client.close()
        other.consume(1)
        await self.never(lambda: other.held)
