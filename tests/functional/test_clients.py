"""What both clients promise, over real sockets and with a real server that dies and comes back."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from phpmq import blocking, client
from phpmq.errors import BadName, TooLarge
from tests.functional.client import bodies, take_all
from tests.functional.server import Server

if TYPE_CHECKING:
    _Base = TestCase
else:
    _Base = object


async def _itself(value: Any) -> Any:
    """What an adapter got: to be waited for with Twisted's client, there already with the blocking one."""
    return await value if isinstance(value, Deferred) else value


class Contract(_Base):
    """
    The promises. The tests wait for all that they are given; the blocking client has waited itself.

    @ivar endpoint: which of the server's listeners is used
    """

    timeout = 60
    endpoint = "tcp"

    def setUp(self) -> None:
        """Start a server."""
        self.server = Server(self, "--max-message-size", "100k", "--listen", "tcp:0:interface=127.0.0.1")

    @property
    def address(self) -> str:
        """Where it is."""
        return f"tcp:127.0.0.1:{self.server.tcp}" if self.endpoint == "tcp" else f"unix:{self.server.unix}"

    async def open(self, **settings: Any) -> Any:
        """A client."""
        raise NotImplementedError

    async def close(self, queue_client: Any) -> None:
        """Close it."""
        raise NotImplementedError

    async def take(self, consumer: Any) -> Any:
        """The next delivery."""
        raise NotImplementedError

    async def later(self, seconds: float) -> None:
        """Let time pass."""
        raise NotImplementedError

    async def test_send_and_consume(self) -> None:
        """A message arrives as it was sent, under the id that its sender was told, and is gone once it is acknowledged."""
        one = await self.open()
        for level in "stored", "synced":
            message_id = await _itself(one.send("a/b %d <é>", b"\0body\xff", headers={"trace": "1 é"}, ttl=90, level=level))
            self.assertFalse(message_id.duplicate)
            delivery = await self.take(one.consume("a/b %d <é>", window=1))
            self.assertEqual((delivery.id, delivery.body, delivery.headers), (message_id, b"\0body\xff", {"trace": "1 é"}))
            self.assertEqual((delivery.queue, delivery.attempts), ("a/b %d <é>", 1))
            self.assertTrue(80 < delivery.ttl <= 90)
            self.assertTrue(await _itself(delivery.ack()))
            self.assertFalse(await _itself(delivery.ack()))
        await self.close(one)
        take_all(self.server.tcp, "a/b %d <é>".encode(), 0)

    async def test_settle(self) -> None:
        """Re-queued messages come again, at once or later, with another attempt; dead letters do not."""
        one = await self.open()
        await _itself(one.send("q", b"x"))
        consumer = one.consume("q", window=1)
        first = await self.take(consumer)
        self.assertTrue(await _itself(first.requeue()))
        second = await self.take(consumer)
        begun = time.monotonic()
        self.assertTrue(await _itself(second.requeue(delay=0.5)))
        third = await self.take(consumer)
        self.assertGreater(time.monotonic() - begun, 0.4)
        self.assertEqual((first.id, first.attempts, second.attempts, third.attempts), (third.id, 1, 2, 3))
        self.assertTrue(await _itself(third.dead_letter("no use")))
        await self.close(one)
        take_all(self.server.tcp, b"q", 0)

    async def test_lease(self) -> None:
        """A lease that is over takes the message away; touch keeps it."""
        one, other = await self.open(), await self.open()
        await _itself(one.send("q", b"x"))
        consumer = one.consume("q", window=1, lease=0.6)
        kept = await self.take(consumer)
        for _ in range(3):
            await self.later(0.3)
            self.assertTrue(await _itself(kept.touch()))
        await _itself(consumer.stop())
        again = await self.take(other.consume("q", window=1))
        self.assertEqual((again.id, again.attempts), (kept.id, 2))
        self.assertFalse(await _itself(kept.ack()))
        self.assertTrue(await _itself(again.ack()))
        await self.close(one)
        await self.close(other)

    async def test_key(self) -> None:
        """A second send with a key stores nothing and names the first message."""
        one = await self.open()
        first = await _itself(one.send("q", b"x", key="k", delay=30))
        second = await _itself(one.send("q", b"y", key="k"))
        self.assertEqual((first.duplicate, second.duplicate, first), (False, True, second))
        await self.close(one)

    async def test_errors(self) -> None:
        """What is wrong is said, and what was sent beside it arrives."""
        one = await self.open()
        for error, name, body, more in (
            (BadName, "", b"", {}),
            (TypeError, "q", "text", {}),
            (ValueError, "q", b"", {"level": "sure"}),
            (TooLarge, "q", b"", {"key": "k" * 256}),
        ):
            with self.assertRaises(error):
                one.send(name, body, **more)
        before = await _itself(one.send("q", b"before"))
        with self.assertRaises(TooLarge):
            await _itself(one.send("q", b"x" * 200_000))
        after = await _itself(one.send("q", b"after"))
        self.assertTrue(before and after)
        await self.close(one)
        self.assertEqual(bodies(take_all(self.server.tcp, b"q", 2)), [b"before", b"after"])

    async def survive(self, number: str) -> None:
        """Pipeline synced sends and consume what comes, while the server ends and comes back twice."""
        sender, receiver = await self.open(), await self.open()
        count = 3000
        received: list[bytes] = []

        async def consume() -> None:
            consumer = receiver.consume("other", window=50)
            while len(received) < count:
                delivery = await self.take(consumer)
                received.append(delivery.body)
                await _itself(delivery.ack())

        def restart() -> None:
            for _ in range(2):
                time.sleep(0.3)
                if number == "kill":
                    self.server.kill()
                else:
                    self.assertEqual(self.server.stop(), 0, self.server.output)
                self.server = Server(self, "--listen", f"tcp:{self.server.ports[-1]}:interface=127.0.0.1", cwd=self.server.directory)

        def send(number: int) -> Any:
            return self.post(sender, "q" if number % 2 else "other", b"%d" % number)

        restarting = deferToThread(restart)
        ids = await self.all_sent(sender, send, 2 * count)
        await restarting
        self.assertEqual(len(ids), 2 * count)
        await consume()
        await self.close(sender)
        await self.close(receiver)
        # At least once for consumers: what was acknowledged just before a crash may come again. Nothing is missing, all in order.
        self.assertEqual(sorted(set(received), key=int), [b"%d" % even for even in range(0, 2 * count, 2)])
        stored = bodies(take_all(self.server.tcp, b"q", count))
        self.assertEqual(stored, [b"%d" % odd for odd in range(1, 2 * count, 2)])

    def post(self, queue_client: Any, queue: str, body: bytes) -> Any:
        """Send a message, synced, without waiting for its receipt."""
        raise NotImplementedError

    async def all_sent(self, queue_client: Any, send: Callable[[int], Any], count: int) -> list[str]:
        """Send so many, and wait for their receipts."""
        raise NotImplementedError

    async def test_killed(self) -> None:
        """kill -9: what is receipted is there, once, in order."""
        await self.survive("kill")

    async def test_stopped(self) -> None:
        """SIGTERM: likewise."""
        await self.survive("stop")


class TwistedTests(Contract, TestCase):
    """L{client.QueueClient}."""

    async def open(self, **settings: Any) -> Any:
        """A client that is connected."""
        queue_client = client.QueueClient(f"tcp:127.0.0.1:{self.server.ports[-1]}" if self.endpoint == "tcp" else self.address)
        queue_client.startService()
        self.addCleanup(queue_client.stopService)
        await queue_client.connected()
        return queue_client

    async def close(self, queue_client: Any) -> None:
        """Close it."""
        await queue_client.confirmed()
        await queue_client.stopService()

    async def take(self, consumer: Any) -> Any:
        """The next delivery."""
        return await anext(consumer)

    async def later(self, seconds: float) -> None:
        """Let time pass."""
        await deferLater(reactor, seconds)

    def post(self, queue_client: Any, queue: str, body: bytes) -> Any:
        """A Deferred."""
        return queue_client.send(queue, body, level="synced")

    async def all_sent(self, queue_client: Any, send: Callable[[int], Any], count: int) -> list[str]:
        """Send slowly enough to be interrupted."""
        posts: list[Awaitable[str]] = []
        for number in range(count):
            posts.append(send(number))
            if number % 20 == 0:
                await self.later(0.004)
        return [await post for post in posts]


class TwistedUnixTests(TwistedTests):
    """The same over a unix socket."""

    endpoint = "unix"


class BlockingTests(Contract, TestCase):
    """L{blocking.QueueClient}; it blocks the reactor, which here has nothing else to do but to wait for threads."""

    async def open(self, **settings: Any) -> Any:
        """A client that is connected."""
        queue_client = blocking.connect(f"tcp:127.0.0.1:{self.server.ports[-1]}" if self.endpoint == "tcp" else self.address)
        self.addCleanup(queue_client.close)
        return queue_client

    async def close(self, queue_client: Any) -> None:
        """Close it."""
        queue_client.confirmed()
        queue_client.close()

    async def take(self, consumer: Any) -> Any:
        """The next delivery."""
        return consumer.get(20)

    async def later(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def post(self, queue_client: Any, queue: str, body: bytes) -> Any:
        """A submission."""
        return queue_client.submit(queue, body, level="synced")

    async def all_sent(self, queue_client: Any, send: Callable[[int], Any], count: int) -> list[str]:
        """Send slowly enough to be interrupted."""
        posts = []
        for number in range(count):
            posts.append(send(number))
            if number % 20 == 0:
                time.sleep(0.004)
        return [post.result() for post in posts]


class BlockingUnixTests(BlockingTests):
    """The same over a unix socket."""

    endpoint = "unix"
