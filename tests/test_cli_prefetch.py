"""Tests of L{phpmq.cli.prefetch}: a client and a broker, connected in memory."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.test import iosim
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from phpmq.broker import Broker
from phpmq.cli.prefetch import Prefetch
from phpmq.client import Delivery, QueueClient
from phpmq.ports import Connections
from phpmq.protocol import QueueFactory, QueueProtocol, deadlines
from phpmq.server_frames import Versions
from phpmq.session import Session
from phpmq.store import SQLiteStore


@implementer(IStreamClientEndpoint)
class MemoryServer:
    """
    A broker, and where clients find it.

    @ivar pumps: of the connections
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.broker = Broker(SQLiteStore(), lambda: int(clock.seconds() * 1000))
        self._connections: Connections[QueueProtocol] = Connections(clock, deadlines())
        self.pumps: list[Any] = []

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; see C{IStreamClientEndpoint}."""
        client: Any = factory.buildProtocol(None)  # type: ignore[arg-type]
        server: Any = QueueFactory(self._connections, lambda connection: Session(self.broker, Versions(), connection)).buildProtocol(None)
        pump = iosim.connect(server, iosim.makeFakeServer(server), client, iosim.makeFakeClient(client), greet=False)
        self.pumps.append(pump)
        return succeed(client)

    def step(self) -> bool:
        """Move what is on its way: whether anything was."""
        self.broker.dispatch()
        return any([pump.pump() for pump in self.pumps])

    def run(self) -> None:
        """Let both ends talk until they have nothing to say."""
        self._clock.advance(0.01)
        while self.step():
            self._clock.advance(0.01)

    def hang_up(self) -> None:
        """The connection is lost."""
        pump = self.pumps.pop()
        for end in pump.client, pump.server:
            end.connectionLost(Failure(ConnectionLost()))

    def come_back(self) -> None:
        """A while later there is another one."""
        self._clock.advance(1)
        self.run()


class PrefetchTests(SynchronousTestCase):
    """What is taken from several queues, and what never is."""

    def setUp(self) -> None:
        """A client that is connected."""
        self.clock = Clock()
        self.server = MemoryServer(self.clock)
        self.broker = self.server.broker
        self.client = QueueClient(self.server, self.clock, retry=lambda failures: 0.5)
        self.client.startService()
        self.addCleanup(self.close)
        self.server.run()
        self.taken: list[Delivery] = []

    def close(self) -> None:
        """The client goes; nothing ticks on."""
        self.client.stopService()
        self.server.run()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def fill(self, **counts: int) -> None:
        """Put so many messages into queues."""
        for queue, count in counts.items():
            for number in range(count):
                self.broker.publish(queue, b"%d" % number)

    def prefetch(self, queues: Sequence[str], window: int = 10, count: int | None = None, keep: bool = False) -> Prefetch:
        """A prefetch that has begun."""
        prefetch = Prefetch(
            self.clock, self.client, queues, lambda delivery: self.taken.append(delivery), self.fail, window, count, keep=keep
        )
        prefetch.start()
        self.server.run()
        return prefetch

    def settle(self, prefetch: Prefetch, most: int = 1000) -> int:
        """Acknowledge what was taken: how many those were."""
        batch, self.taken = self.taken[:most], self.taken[most:]
        for delivery in batch:
            prefetch.settle(delivery, delivery.ack)
        self.server.run()
        return len(batch)

    def test_count(self) -> None:
        """However the messages lie in the queues, and whatever the window: as many are delivered as were wanted, and not one more."""
        chance = random.Random(3)
        for case in range(60):
            names = "abcd"[: chance.randint(1, 4)]
            counts = {name: chance.choice((0, 0, 1, 3, 10, 40)) for name in names}
            wanted = chance.randint(1, max(1, sum(counts.values())))
            before = self.broker.lifecycle.delivered
            self.fill(**counts)
            prefetch = self.prefetch(names, chance.choice((1, 2, 5, 100)), wanted)
            done = Deferred.fromCoroutine(prefetch.counted())
            watching = Deferred.fromCoroutine(prefetch.watch(False, lambda: bool(self.taken)))
            expected = min(wanted, sum(counts.values()))
            for _ in range(300):
                self.settle(prefetch, chance.randint(1, 5))
                self.clock.advance(0.1)
                self.server.run()
                self.assertLessEqual(self.broker.lifecycle.delivered - before, wanted)
                if prefetch.finished == expected:
                    break
            description = f"case {case}: {counts}, {wanted}"
            self.assertEqual((self.broker.lifecycle.delivered - before, prefetch.finished), (expected, expected), description)
            self.assertEqual(done.called, expected == wanted)
            self.end(prefetch, watching, done)

    def test_arriving(self) -> None:
        """The same while messages arrive at any moment, also between a question and its answer."""
        chance = random.Random(4)
        for case in range(60):
            names = "abc"[: chance.randint(2, 3)]
            wanted = chance.randint(1, 20)
            before = self.broker.lifecycle.delivered
            prefetch = self.prefetch(names, chance.choice((1, 3, 100)), wanted)
            watching = Deferred.fromCoroutine(prefetch.watch(False, lambda: bool(self.taken)))
            while prefetch.finished < wanted:
                if chance.random() < 0.3:
                    self.broker.publish(chance.choice(names), b"")
                    self.broker.dispatch()
                self.clock.advance(chance.choice((0, 0.05)))
                self.server.step()
                while self.taken and chance.random() < 0.3:
                    delivery = self.taken.pop()
                    prefetch.settle(delivery, delivery.ack)
                self.assertLessEqual(self.broker.lifecycle.delivered - before, wanted, f"case {case}")
            self.end(prefetch, watching)
            self.assertEqual(self.broker.lifecycle.delivered - before, wanted, f"case {case}")

    def end(self, prefetch: Prefetch, *waiting: Deferred[None]) -> None:
        """Nothing is wanted, and nothing left."""
        for one in waiting:
            one.addErrback(lambda _: None)
            one.cancel()
        Deferred.fromCoroutine(prefetch.stop())
        self.server.run()
        self.broker.queues.flush_all()
        self.server.run()

    def test_empty(self) -> None:
        """It is over when no queue has anything, and nothing is still in the caller's hands; not before."""
        for count in None, 100:
            self.fill(a=3, b=20)
            prefetch = self.prefetch("abc", 5, count)
            over = Deferred.fromCoroutine(prefetch.watch(True, lambda: bool(self.taken)))
            while self.settle(prefetch, 4):
                self.server.run()
            self.clock.advance(1)
            self.server.run()
            self.successResultOf(over)
            self.assertEqual((prefetch.finished, prefetch.unconfirmed), (23, 0))
            self.end(prefetch)

    def test_not_empty(self) -> None:
        """A queue that has used up its part is not taken for empty."""
        self.fill(a=40)
        prefetch = self.prefetch("abc", 100, 30)
        over = Deferred.fromCoroutine(prefetch.watch(True, lambda: bool(self.taken)))
        while self.settle(prefetch) or not over.called:
            self.clock.advance(0.1)
            self.server.run()
            if prefetch.finished == 30:
                break
        self.assertEqual((prefetch.finished, self.broker.lifecycle.delivered), (30, 30))
        self.end(prefetch, over)

    def test_lost_connection(self) -> None:
        """What is done is not done again when the connection was lost before the server knew; what is not done comes again."""
        self.fill(a=5)
        prefetch = self.prefetch("a", 10, 5)
        done = Deferred.fromCoroutine(prefetch.counted())
        first, second, *others = self.taken
        self.taken = []
        prefetch.settle(first, first.ack)
        self.client._reconnector.protocol.transport.stream.clear()  # type: ignore[union-attr]  # it gets lost on the way
        self.server.hang_up()
        self.server.come_back()
        self.assertEqual([delivery.id for delivery in self.taken], [delivery.id for delivery in (second, *others)])
        self.assertEqual((prefetch.finished, prefetch.unconfirmed), (1, 0))
        # Done with a delivery of the connection before.
        prefetch.settle(second, second.ack)
        self.assertEqual((prefetch.finished, prefetch.unconfirmed), (2, 1))
        self.taken.pop(0)
        self.assertNoResult(done)
        self.settle(prefetch)
        self.successResultOf(done)
        self.assertEqual(self.broker.lifecycle.acknowledged, 4)

    def test_lost_parts(self) -> None:
        """After lost connections the parts of the queues are those of what the server took back and what is done."""
        for offline in False, True:
            before = self.broker.lifecycle.delivered
            self.fill(a=10)
            prefetch = self.prefetch("ab", 10, 4)
            watching = Deferred.fromCoroutine(prefetch.watch(False, lambda: bool(self.taken)))
            for _ in range(1 if offline else 3):
                self.server.hang_up()
                lost, self.taken = self.taken, []
                self.assertEqual(len(lost), 2)
                for delivery in lost if offline else ():
                    prefetch.settle(delivery, delivery.ack)
                self.server.come_back()
            for _ in range(20):
                self.settle(prefetch)
                self.clock.advance(0.1)
                self.server.run()
            self.assertEqual((prefetch.finished, prefetch.unconfirmed), (4, 0))
            self.assertEqual(self.broker.lifecycle.delivered - before, 6 if offline else 10)
            self.end(prefetch, watching)

    def test_keep(self) -> None:
        """Messages that are kept do not fill the window, come once, also over a lost connection, and are back at the end."""
        self.fill(a=100)
        prefetch = self.prefetch("a", 10, None, keep=True)
        self.assertEqual(len(self.taken), 100)
        for delivery in self.taken:
            prefetch.keep(delivery)
        self.server.hang_up()
        self.server.come_back()
        self.assertEqual((len(self.taken), prefetch.finished, self.broker.lifecycle.delivered), (100, 100, 200))
        self.assertEqual(self.broker.lifecycle.acknowledged, 0)
