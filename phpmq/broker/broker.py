"""The broker: its parts, and the dispatch at the end of each turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from zope.interface import implementer

from phpmq.broker.channel import Channel, Outcomes
from phpmq.broker.confirms import Confirms
from phpmq.broker.dead_letters import DeadLetters
from phpmq.broker.keys import DeduplicationKeys
from phpmq.broker.lifecycle import Lifecycle
from phpmq.broker.memory import Memory
from phpmq.broker.producers import Producers
from phpmq.broker.queue import DELIVERIES, Queue
from phpmq.broker.queues import Queues
from phpmq.broker.turn import STEP, Turn
from phpmq.interfaces import IBroker, IPeer, IStore
from phpmq.message import Message, Properties, QueueSettings

# So many blocked senders are unblocked in a dispatch: each goes on with what it has read already.
_UNBLOCKED = 200


@implementer(IBroker)
class Broker:
    """
    All queues and the rules of who gets what. Every public method may be called at any time.

    @ivar turn: what time it is, and what is to be done at the end of the turn
    @ivar memory: the memory limit, and who is blocked by it
    @ivar queues: the queues by name
    @ivar keys: by which sends are recognised
    @ivar producers: those who number their sends
    @ivar dead_letters: messages that nobody gets any more
    @ivar confirms: receipts that wait for the file
    @ivar lifecycle: the messages
    @ivar outcomes: what became of the commands of channels
    """

    def __init__(
        self,
        store: IStore,
        clock: Callable[[], int],
        memory_limit: int = 2**62,
        max_window: int = 65535,
        wake: Callable[[], object] = lambda: None,
        producer_timeout: int = 86_400_000,
        max_unconfirmed: int = 10_000,
        max_keys: int = 5_000_000,
    ) -> None:
        """
        @param clock: milliseconds since the epoch
        @param memory_limit: bytes from which on sends are refused or blocked
        @param max_window: the most messages that a consumer holds, whatever it asks for
        @param wake: called, perhaps often, when L{dispatch} should be called soon
        @param producer_timeout: milliseconds after which a producer that sends nothing is forgotten
        @param max_unconfirmed: how many synced sends of one channel may wait for the file
        @param max_keys: how many keys are remembered at most
        """
        self._store = store
        self.turn = turn = Turn(clock, wake)
        self.memory = memory = Memory(turn, memory_limit)
        self.queues = queues = Queues(turn, memory, store)
        self.keys = DeduplicationKeys(turn, memory, queues, store, max_keys)
        self.producers = Producers(turn, memory, store, producer_timeout)
        self.dead_letters = DeadLetters(memory, store)
        self.confirms = Confirms(turn, memory, store, max_unconfirmed)
        self.lifecycle = Lifecycle(turn, memory, queues, self.keys, self.producers, self.dead_letters, store, max_window)
        self.outcomes = Outcomes()
        self._dispatching = self._stopped = False
        # Messages that this dispatch may still deliver, and blocked senders that it may still unblock.
        self._deliveries = self._unblocks = 0
        for queue in list(queues.values()):
            queues.forget_if_unused(queue)

    # For clients

    def channel(self, peer: IPeer, user: str = "") -> Channel:
        """A new channel; see L{IBroker}."""
        return Channel(peer, user, self.lifecycle, self.keys, self.producers, self.confirms, self.outcomes)

    @property
    def revisions(self) -> Mapping[str, int]:
        """Which revision of protocol 01 the latest sender of each queue speaks; see L{IBroker}."""
        return self._store.revisions  # type: ignore[no-any-return]

    def save_revision(self, queue: str, revision: int) -> None:
        """Remember it; see L{IBroker}."""
        self._store.save_revision(queue, revision)

    def begin(self) -> None:
        """Start a turn; see L{IBroker}."""
        self.turn.begin()

    def end(self) -> None:
        """End a turn; see L{IBroker}."""
        if not self._dispatching:
            self.turn.active = False
            self.dispatch()

    def publish(self, queue: str, body: bytes, ttl: int = 0, properties: Properties | None = None) -> Message:
        """Accept a message of code in this process; parameters and errors are those of L{Lifecycle.accept}."""
        return self.lifecycle.accept(queue, body, ttl, properties)

    def configure(self, name: str, settings: QueueSettings) -> Queue:
        """Set what a queue follows from now on; see L{Queues.configure}."""
        queue = self.queues.configure(name, settings)
        self.keys.reschedule(queue)
        return queue

    # The dispatch

    def dispatch(self) -> None:
        """Deliver what can be delivered, and let the peers write it."""
        turn = self.turn
        if self._dispatching:
            return
        if self._stopped:
            turn.flush()
            return
        turn.begin()
        self._dispatching = True
        self._deliveries, self._unblocks = STEP, _UNBLOCKED
        try:
            while (turn.due and self._deliveries > 0) or turn.output:
                self._deliver()
                turn.flush()
                self._unblock()
            more = self.queues.purge()
            more = self._unblock() or more
        finally:
            self._dispatching = turn.active = False
        if turn.due or more:
            turn.wake()

    def _deliver(self) -> None:
        due, lifecycle = self.turn.due, self.lifecycle
        while due and self._deliveries > 0:
            queue: Queue = due.popleft()  # type: ignore[assignment]
            queue.scheduled = False
            if queue.waiting_consumers and not queue.paused & DELIVERIES:
                self._deliveries -= lifecycle.deliver(queue, self._deliveries)
                if self._deliveries <= 0:
                    self.turn.schedule(queue)

    def _unblock(self) -> bool:
        """Unblock senders, if there is capacity; true if there are more. They send L{STEP} messages in between at most."""
        memory, lifecycle = self.memory, self.lifecycle
        if memory.review():
            most = lifecycle.received + STEP
            while self._unblocks > 0 and lifecycle.received < most and (sender := memory.next_unblocked()) is not None:
                self._unblocks -= 1
                sender.peer.unblocked()
        return memory.may_unblock

    def stop(self) -> None:
        """Deliver a last time: what comes back from now on stays, and what is not synced yet still gets its receipt once it is."""
        self.dispatch()
        self._stopped = True

    # Time

    def tick(self) -> bool:
        """Release what is due, take back what was leased; to be called about ten times a second. False if there is more."""
        self.begin()
        try:
            return self.lifecycle.tick()
        finally:
            self.end()

    def sweep(self) -> bool:
        """End what expired or was not used for long; to be called about once a second. False if there may be more."""
        self.turn.enter()
        self.producers.sweep()
        whole = self.keys.sweep()
        return self.lifecycle.sweep() and whole

    def synced(self) -> None:
        """Give the receipts that waited for the mirror file, which got further."""
        self.begin()
        self.confirms.confirm()
        self.end()
