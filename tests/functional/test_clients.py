"""Both clients against a real server, as one contract."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from signal import SIGKILL, SIGTERM
from typing import Any, Protocol

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread, deferToThreadPool
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import TestCase

from phpmq import blocking, client
from phpmq.errors import BadName, NotAllowed, NotConnected, TooLarge
from tests.functional.server import Server
from tests.functional.test_tls import make_certificate

reactor: Any = installed_reactor

#: Seconds after which what should come counts as lost.
PATIENCE = 15.0


class Delivery(Protocol):
    """What both clients' deliveries have."""

    queue: str
    body: bytes
    attempts: int

    @property
    def id(self) -> str:
        """The message's id."""

    @property
    def ttl(self) -> float:
        """Seconds that it has left."""

    @property
    def headers(self) -> dict[str, str]:
        """What is beside the body."""


class Client(Protocol):
    """What the tests want of a client. Everything takes its time, and nothing holds up the reactor."""

    async def open(self, address: str, **settings: Any) -> None:
        """Connect."""

    async def send(self, queue: str, body: bytes, **order: Any) -> client.MessageId:
        """Send, and wait for the receipt."""

    async def submit(self, queue: str, bodies: list[bytes], **order: Any) -> Any:
        """Send many; what is returned is for L{results}."""

    async def results(self, submitted: Any) -> list[client.MessageId]:
        """Wait for their receipts."""

    async def consume(self, queue: str, window: int = 100, lease: float = 0) -> Any:
        """Consume a queue; what is returned is for L{next} and L{stop}."""

    async def next(self, consumer: Any, timeout: float = PATIENCE) -> Any:
        """The next delivery; None if there is none in time."""

    async def stop(self, consumer: Any) -> None:
        """Have no more delivered."""

    async def settle(self, delivery: Any, how: str, *arguments: Any, **settings: Any) -> bool:
        """Settle a delivery in one of the ways that there are."""

    async def close(self) -> None:
        """Disconnect."""


class TwistedClient:
    """L{client.QueueClient}"""

    async def open(self, address: str, **settings: Any) -> None:
        """Connect; see L{Client}."""
        self._client = client.QueueClient(address, **settings)
        self._client.startService()
        await self._client.connected(1)

    async def send(self, queue: str, body: bytes, **order: Any) -> client.MessageId:
        """Send; see L{Client}."""
        return await self._client.send(queue, body, **order)

    async def submit(self, queue: str, bodies: list[bytes], **order: Any) -> Any:
        """Send many; see L{Client}."""
        sent = []
        for body in bodies:
            await self._client.room()
            sent.append(self._client.send(queue, body, **order))
        return sent

    async def results(self, submitted: Any) -> list[client.MessageId]:
        """Wait for receipts; see L{Client}."""
        return [await one for one in submitted]

    async def consume(self, queue: str, window: int = 100, lease: float = 0) -> Any:
        """Consume a queue; see L{Client}."""
        return self._client.consume(queue, window, lease)

    async def next(self, consumer: Any, timeout: float = PATIENCE) -> Any:
        """The next delivery; see L{Client}."""
        try:
            return await Deferred.fromCoroutine(consumer.__anext__()).addTimeout(timeout, reactor)
        except (DeferredTimeout, StopAsyncIteration):
            return None

    async def stop(self, consumer: Any) -> None:
        """Have no more delivered; see L{Client}."""
        await consumer.stop()

    async def settle(self, delivery: Any, how: str, *arguments: Any, **settings: Any) -> bool:
        """Settle a delivery; see L{Client}."""
        return await getattr(delivery, how)(*arguments, **settings)  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Disconnect; see L{Client}."""
        await self._client.stopService()


class BlockingClient:
    """L{blocking.QueueClient}, in a thread of its own."""

    def __init__(self) -> None:
        self._pool = ThreadPool(1, 1)
        self._client: blocking.QueueClient | None = None

    async def _do(self, call: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        return await deferToThreadPool(reactor, self._pool, call, *arguments, **settings)

    @property
    def _open(self) -> blocking.QueueClient:
        assert self._client is not None
        return self._client

    async def open(self, address: str, **settings: Any) -> None:
        """Connect; see L{Client}."""
        self._pool.start()
        self._client = await self._do(blocking.QueueClient, address, **settings)

    async def send(self, queue: str, body: bytes, **order: Any) -> client.MessageId:
        """Send; see L{Client}."""
        return await self._do(self._open.send, queue, body, **order)  # type: ignore[no-any-return]

    async def submit(self, queue: str, bodies: list[bytes], **order: Any) -> Any:
        """Send many; see L{Client}."""
        return await self._do(lambda: [self._open.submit(queue, body, **order) for body in bodies])

    async def results(self, submitted: Any) -> list[client.MessageId]:
        """Wait for receipts; see L{Client}."""
        return await self._do(lambda: [one.result() for one in submitted])  # type: ignore[no-any-return]

    async def consume(self, queue: str, window: int = 100, lease: float = 0) -> Any:
        """Consume a queue; see L{Client}."""
        return await self._do(self._open.consume, queue, window, lease)

    async def next(self, consumer: Any, timeout: float = PATIENCE) -> Any:
        """The next delivery; see L{Client}."""
        return await self._do(consumer.get, timeout)

    async def stop(self, consumer: Any) -> None:
        """Have no more delivered; see L{Client}."""
        await self._do(consumer.stop)

    async def settle(self, delivery: Any, how: str, *arguments: Any, **settings: Any) -> bool:
        """Settle a delivery; see L{Client}."""
        return await self._do(getattr(delivery, how), *arguments, **settings)  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Disconnect; see L{Client}."""
        if self._client is not None:
            await self._do(self._client.close)
            self._client = None
        if self._pool.started:
            self._pool.stop()


class Traffic:
    """
    One client pipelines synced sends to two queues, and another one consumes one of them, until it is told that it is enough.

    @ivar sent: what was sent, to each queue
    @ivar receipts: what came of it
    @ivar got: what was delivered
    @ivar enough: set it to have all that is under way finished
    """

    def __init__(self, sender: Client, taker: Client) -> None:
        self._sender, self._taker = sender, taker
        self.sent: list[bytes] = []
        self.receipts: list[client.MessageId] = []
        self.got: list[bytes] = []
        self.enough = False
        self.done = gatherResults([Deferred.fromCoroutine(task) for task in (self._send(), self._take())], consumeErrors=True)

    async def _send(self) -> None:
        waiting: list[Any] = []
        while not self.enough:
            bodies = [b"%d" % (len(self.sent) + place) for place in range(20)]
            self.sent += bodies
            waiting += [await self._sender.submit(queue, bodies, level="synced") for queue in ("eaten", "kept")]
            # Some are always under way.
            while len(waiting) > 3:
                self.receipts += await self._sender.results(waiting.pop(0))
            await deferLater(reactor, 0.002)
        for one in waiting:
            self.receipts += await self._sender.results(one)

    async def _take(self) -> None:
        consumer = await self._taker.consume("eaten", 50)
        seen: set[bytes] = set()
        while not self.enough or len(seen) < len(self.sent):
            patience = PATIENCE if self.enough else 0.5
            delivery = await self._taker.next(consumer, patience)
            if delivery is not None:
                seen.add(delivery.body)
                self.got.append(delivery.body)
                await self._taker.settle(delivery, "ack")
            elif patience == PATIENCE:
                raise AssertionError(f"{len(self.sent) - len(seen)} are lost")


class Contract:
    """What a client has to do, and L{TestCase} checks."""

    make: Callable[[], Client]

    def start(self, *options: str, **settings: Any) -> Server:
        """A server."""
        return Server(self, *options, **settings)  # type: ignore[arg-type]

    async def connect(self, server: Server | str, **settings: Any) -> Client:
        """A client that is gone when the test is."""
        made = self.make()
        self.addCleanup(lambda: Deferred.fromCoroutine(made.close()))  # type: ignore[attr-defined]
        await made.open(server if isinstance(server, str) else f"unix:{server.unix}", **settings)
        return made

    async def take(self, made: Client, consumer: Any, count: int) -> list[Any]:
        """So many deliveries, acknowledged."""
        taken: list[Any] = []
        for _ in range(count):
            delivery = await made.next(consumer)
            assert delivery is not None, f"{len(taken)} of {count}"
            taken.append(delivery)
            assert await made.settle(delivery, "ack")
        return taken

    async def test_send_and_consume(self: Any) -> None:
        """What is sent is receipted, and comes as it was sent, once, in order; bad arguments harm nothing."""
        server = self.start()
        sender, taker = await self.connect(server), await self.connect(server)
        bodies = [b"%d" % number for number in range(500)]
        ids = await sender.results(await sender.submit("q", bodies))
        ids.append(await sender.send("q", b"", level="synced", headers={"trace": "é"}, key="k", ttl=60))
        again = await sender.send("q", b"other", key="k")
        self.assertEqual((again, again.duplicate, ids[-1].duplicate), (ids[-1], True, False))
        for order in {"queue": "\n"}, {"level": "best"}, {"ttl": -1}, {"key": ""}, {"headers": {"a": 1}}, {"body": "x"}:
            with self.assertRaises((BadName, ValueError, TypeError)):
                await sender.send(**{"queue": "q", "body": b"x", **order})
        consumer = await taker.consume("q", 50)
        taken = await self.take(taker, consumer, 501)
        self.assertEqual([delivery.id for delivery in taken], ids)
        self.assertEqual([delivery.body for delivery in taken], [*bodies, b""])
        last = taken[-1]
        self.assertEqual((last.queue, last.headers, last.attempts, 0 < last.ttl <= 60), ("q", {"trace": "é"}, 1, True))
        self.assertEqual((taken[0].headers, taken[0].ttl), ({}, 0))
        self.assertIs(await taker.next(consumer, 0.1), None)
        await taker.stop(consumer)
        self.assertIs(await taker.next(consumer), None)

    async def test_settle(self: Any) -> None:
        """Each way to settle does what it says, and only once; a lease that is over and a lost connection make it too late."""
        server = self.start()
        made, other = await self.connect(server), await self.connect(server)
        await made.results(await made.submit("q", [b"ack", b"requeue", b"dead", b"lease", b"touch"]))
        consumer = await made.consume("q", 5, lease=1)
        ack, requeue, dead, lease, touch = [await made.next(consumer) for _ in range(5)]
        elsewhere = await other.consume("q", 1)
        done = [
            await made.settle(ack, "ack"),
            await made.settle(requeue, "requeue", ttl=60, delay=0.3),
            await made.settle(dead, "dead_letter", "cannot be read"),
        ]
        self.assertEqual(done, [True] * 3)
        self.assertEqual([await made.settle(delivery, "ack") for delivery in (ack, requeue, dead)], [False] * 3)
        await made.stop(consumer)
        again = await other.next(elsewhere)
        self.assertEqual((again.body, again.id, again.attempts, 0 < again.ttl <= 60), (b"requeue", requeue.id, 2, True))
        self.assertTrue(await other.settle(again, "ack"))
        for _ in range(4):
            await deferLater(reactor, 0.4)
            self.assertTrue(await made.settle(touch, "touch"))
        late = await other.next(elsewhere)
        self.assertEqual((late.body, late.id, late.attempts), (b"lease", lease.id, 2))
        self.assertIs(await made.settle(lease, "ack"), False)
        self.assertTrue(await other.settle(late, "ack"))
        await made.close()
        self.assertIs(await made_settled(touch), False)
        back = await other.next(elsewhere)
        self.assertEqual((back.body, back.attempts), (b"touch", 2))

    async def test_times(self: Any) -> None:
        """A delay and a time to live are what they say."""
        server = self.start()
        made = await self.connect(server)
        await made.send("q", b"late", delay=0.4)
        await made.send("q", b"gone", ttl=0.001)
        await made.send("q", b"soon", delay=0.2)
        await deferLater(reactor, 0.05)
        consumer = await made.consume("q")
        self.assertEqual([delivery.body for delivery in await self.take(made, consumer, 2)], [b"soon", b"late"])
        self.assertIs(await made.next(consumer, 0.1), None)

    async def test_refused(self: Any) -> None:
        """What the server does not do is refused, and what is too large for it fails; all else goes on, in order."""
        server = self.start("--store", "memory", "--max-message-size", "1000")
        made = await self.connect(server)
        with self.assertRaises(NotAllowed):
            await made.send("q", b"x", level="synced")
        # As much as no buffer on the way takes.
        for size in 1001, 20_000_000:
            first, large, last = [await made.submit("q", [b"x" * length]) for length in (1, size, 2)]
            with self.assertRaises(TooLarge):
                await made.results(large)
            await made.results(first + last)
        consumer = await made.consume("q")
        self.assertEqual([len(delivery.body) for delivery in await self.take(made, consumer, 4)], [1, 2, 1, 2])
        self.assertNotIn("Traceback", server.output)

    async def test_transports(self: Any) -> None:
        """TCP, TLS and unix sockets are all the same; a certificate that is not trusted is none."""
        folder = Path(tempfile.mkdtemp(prefix="phpmq-"))
        self.addCleanup(shutil.rmtree, folder)
        (folder / "roots").mkdir()
        make_certificate(folder / "roots" / "server.pem")
        server = self.start("--listen", f"ssl:0:interface=127.0.0.1:privateKey={folder / 'roots' / 'server.pem'}")
        tls = f"tls:localhost:{server.ports[1]}"
        addresses = f"tcp:127.0.0.1:{server.tcp}", f"unix:{server.unix}", f"{tls}:trustRoots={folder / 'roots'}"
        body = bytes(range(256)) * 8000
        for address in addresses:
            made = await self.connect(address)
            await made.results(await made.submit("q", [body, b""] * 3))
            consumer = await made.consume("q", 2)
            taken = [delivery.body for delivery in await self.take(made, consumer, 6)]
            self.assertTrue(taken == [body, b""] * 3, address)
            await made.stop(consumer)
        for address in tls, "tcp:127.0.0.1:1", f"unix:{folder}/none":
            with self.assertRaises(NotConnected):
                await self.connect(address)

    async def survive(self: Any, number: int, rounds: int) -> None:
        """While there is traffic the server ends, and is started again on the same store and socket, again and again."""
        server = self.start()
        directory = server.directory
        traffic = Traffic(await self.connect(server, max_unconfirmed=100), await self.connect(server))
        chance = Random(number)
        for _ in range(rounds):
            await deferLater(reactor, chance.uniform(0.2, 0.5))
            code = await deferToThread(server.stop, number)
            self.assertEqual(code, -9 if number == SIGKILL else 0, server.output)
            self.assertNotIn("Traceback", server.output)
            server = await deferToThread(self.start, cwd=directory)
        await deferLater(reactor, 0.3)
        traffic.enough = True
        await traffic.done
        sent = traffic.sent
        self.assertGreater(len(sent), rounds * 50)
        self.assertEqual(len(traffic.receipts), 2 * len(sent))
        # Each came in its turn; what was not known to be acknowledged came again.
        self.assertEqual(list(dict.fromkeys(traffic.got)), sent)
        # Where nobody took anything, each is there once, in order.
        fresh = await self.connect(server)
        consumer = await fresh.consume("kept", 10_000)
        self.assertEqual([delivery.body for delivery in await self.take(fresh, consumer, len(sent))], sent)
        self.assertIs(await fresh.next(consumer, 0.1), None)

    async def test_kill(self: Any) -> None:
        """kill -9: nothing receipted is lost, nothing is stored twice, all is in order, and both clients go on by themselves."""
        await self.survive(SIGKILL, 3)

    async def test_terminate(self: Any) -> None:
        """SIGTERM: the same, and the server ends as if nobody had been there."""
        await self.survive(SIGTERM, 2)


async def made_settled(delivery: Any) -> bool:
    """What settling a delivery comes to whose client is closed."""
    result = delivery.ack()
    return result if isinstance(result, bool) else await result


class TwistedTests(Contract, TestCase):
    """L{client.QueueClient}"""

    timeout = 90
    make = TwistedClient

    async def test_async_with(self) -> None:
        """A script with C{async with} leaves nothing behind."""
        server = self.start()
        async with client.QueueClient(f"unix:{server.unix}") as sender:
            sending = [sender.send("q", b"%d" % number, level="synced") for number in range(100)]
        self.assertTrue(all(one.called for one in sending))
        await gatherResults(sending)

    async def test_unseen(self) -> None:
        """A server that cannot be reached is tried for as long as it takes, and what was sent meanwhile gets there."""
        server = self.start()
        sender = client.QueueClient(f"unix:{server.unix}")
        server.stop()
        sender.startService()
        self.addCleanup(sender.stopService)
        with self.assertRaises(NotConnected):
            await sender.connected(2)
        sending = sender.send("q", b"x", level="synced")
        await deferToThread(self.start, cwd=server.directory)
        self.assertEqual(len(await sending), 32)


class BlockingTests(Contract, TestCase):
    """L{blocking.QueueClient}"""

    timeout = 90
    make = BlockingClient

    def test_script(self) -> None:
        """A script with C{with} needs no reactor."""
        server = self.start()
        with blocking.QueueClient(f"unix:{server.unix}") as sender:
            for number in range(100):
                sender.submit("q", b"%d" % number, level="synced")
        with blocking.QueueClient(f"tcp:127.0.0.1:{server.tcp}") as taker:
            got = []
            for delivery in taker.consume("q"):
                got.append(delivery.body)
                delivery.ack(wait=False)
                if len(got) == 100:
                    break
            taker.ping()
        self.assertEqual(got, [b"%d" % number for number in range(100)])
        with blocking.QueueClient(f"unix:{server.unix}") as taker:
            self.assertIs(taker.consume("q").get(0.1), None)
