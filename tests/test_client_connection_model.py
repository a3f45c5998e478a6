"""
Sends over connections that are lost and servers that crash, against a model that is too simple to be wrong.

PHPMQ_TEST_PROFILE=long looks for much longer than a usual test run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from phpmq.broker import SENDS
from phpmq.client_connection import ClientConnection
from phpmq.errors import ClientFull, CommandRefused, MemoryFull, QueueFull, TimedOut
from tests.lines import FileServer, Line, Outcome

LONG = os.environ.get("PHPMQ_TEST_PROFILE") == "long"

QUEUES = "abc"
COUNTS = st.sampled_from([0, 1, 30, 130, 400, 10_000])

_MANY = 2**31


@dataclass(eq=False)
class Sent:
    """
    A send as its caller knows it.

    @ivar life: how often the server had crashed when the receipt came
    """

    body: bytes
    queue: str
    synced: bool
    key: str | None
    outcome: Outcome
    cancelled: bool = False
    life: int = -1

    @property
    def receipted(self) -> bool:
        """Whether the server said that it has it."""
        return self.outcome.done == 1 and self.outcome.error is None

    @property
    def refused(self) -> bool:
        """Whether the server said that it does not."""
        return isinstance(self.outcome.error, CommandRefused)


class SendingMachine(RuleBasedStateMachine):
    """All that can happen between a client that sends and a server, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.server = FileServer(Path(self.folder.name) / "phpmq.db")
        self.now = 0.0
        self.client = ClientConnection(lambda: self.now, timeout=60, max_unconfirmed=12)
        self.sent: list[Sent] = []
        self.lives = 0
        self.line: Line | None = None
        self.connect()

    def teardown(self) -> None:
        """In the end all that is wanted gets through; then everything is judged."""
        try:
            self.finish()
            self.judge()
        finally:
            self.server.close()
            self.folder.cleanup()

    # What happens

    @rule(
        queue=st.sampled_from(QUEUES),
        synced=st.booleans(),
        key=st.sampled_from([None, None, None, "k", "l"]),
        count=st.sampled_from([1, 1, 4]),
    )
    def send(self, queue: str, synced: bool, key: str | None, count: int) -> None:
        """Send a few."""
        for _ in range(count):
            body = b"%d" % len(self.sent)
            try:
                request = self.client.send(queue, body, key=key, level="synced" if synced else "stored")
            except ClientFull:
                assert len(self.client.outbox.sends) == 12
                return
            sent = Sent(body, queue, synced, key, Outcome(request))
            sent.outcome.then = lambda sent=sent: setattr(sent, "life", self.lives)  # type: ignore[misc]
            self.sent.append(sent)

    @rule(queue=st.sampled_from(QUEUES), resume=st.booleans())
    def pause(self, queue: str, resume: bool) -> None:
        """A queue takes no sends, or does again."""
        if resume:
            self.server.broker.queues.resume(queue)
        else:
            self.server.broker.queues.pause(queue, SENDS)
        # Otherwise a crash would undo it.
        self.server.write()

    @rule(full=st.booleans())
    def fill(self, full: bool) -> None:
        """The memory is full, or no longer."""
        self.server.broker.memory.limit = 0 if full else _MANY

    @rule(failing=st.booleans())
    def fail(self, failing: bool) -> None:
        """The file cannot be written, or can be again."""
        self.server.failing = failing

    @rule(up=COUNTS, down=COUNTS)
    def move(self, up: int, down: int) -> None:
        """Some bytes arrive."""
        if self.line is not None:
            self.line.up(up)
            self.line.down(down)

    @rule()
    def settle(self) -> None:
        """All bytes arrive."""
        if self.line is not None:
            self.line.settle()

    @rule(up=COUNTS, down=COUNTS)
    def cut(self, up: int, down: int) -> None:
        """The connection is lost, with what is on its way but for some bytes that still arrive."""
        self.move(up, down)
        if self.line is not None:
            self.line.cut()
            self.line = None

    @rule(up=COUNTS)
    def leave(self, up: int) -> None:
        """The client gives up a connection that the server has not seen lost."""
        if self.line is not None:
            self.line.up(up)
            self.line.abandon()
            self.line = None

    @precondition(lambda self: self.line is None)
    @rule()
    def connect(self) -> None:
        """There is a new connection."""
        self.line = Line(self.client, self.server)

    @rule()
    def write(self) -> None:
        """The file is brought up to date."""
        if not self.server.failing:
            self.server.write()

    @rule()
    def crash(self) -> None:
        """The server dies and starts again with what is in the file."""
        self.lives += 1
        self.server.crash()
        self.line = None

    @rule()
    def stop(self) -> None:
        """The server stops as it should and starts again."""
        self.server.failing = False
        self.server.stop()
        self.line = None

    @rule()
    def ping(self) -> None:
        """Ping in between."""
        if self.client.online:
            self.client.ping()

    @rule(which=st.integers(0, 11))
    def cancel(self, which: int) -> None:
        """Take one back, wherever it is."""
        waiting = [sent for sent in self.sent if not sent.outcome.done and not sent.cancelled]
        for sent in waiting[which : which + 1]:
            sent.cancelled = True
            assert sent.outcome.request is not None
            sent.outcome.request.cancel()

    @rule(seconds=st.sampled_from([1, 25]))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.client.expire()

    # What has to hold

    @invariant()
    def accounts(self) -> None:
        """What waits is what was not answered, and counted."""
        waiting = [sent.outcome.request for sent in self.sent if not sent.outcome.done and not sent.cancelled]
        assert list(self.client.outbox.sends.values()) == waiting
        assert self.client.outbox.size == sum(len(send.frame) for send in self.client.outbox.sends.values())
        assert len(self.client.outbox.sends) <= 12

    def finish(self) -> None:
        """Everything works again, and time enough."""
        for queue in QUEUES:
            self.server.broker.queues.resume(queue)
        self.server.broker.memory.limit = _MANY
        self.server.failing = False
        if self.line is None:
            self.connect()
        for _ in range(4):
            assert self.line is not None
            self.line.settle()
            self.server.write()
        assert self.client.outbox.sends == {}, "a send is not answered"

    def judge(self) -> None:
        """What was receipted is there, what was refused is not, nothing is there twice, and all in order."""
        ids = self.server.ids()
        for queue in QUEUES:
            stored = self.server.bodies(queue)
            calls = {sent.body: place for place, sent in enumerate(self.sent) if sent.queue == queue}
            assert len(set(stored)) == len(stored), ("stored twice", stored)
            assert sorted(stored, key=lambda body: calls[body]) == stored, ("out of order", stored)
            for sent in self.sent:
                if sent.queue == queue:
                    self.judge_one(sent, sent.body in stored, ids)

    def judge_one(self, sent: Sent, stored: bool, ids: set[str]) -> None:
        """One send."""
        assert sent.outcome.done == (0 if sent.cancelled else 1)
        kept = sent.synced or sent.life == self.lives
        if sent.refused:
            assert isinstance(sent.outcome.error, QueueFull | MemoryFull) or sent.synced, ("blamed for others", sent)
            assert not stored, ("refused, and stored", sent)
        elif sent.receipted and sent.outcome.result.duplicate and sent.outcome.result != "":
            assert sent.key is not None
            assert not stored, ("a duplicate, and stored", sent)
            assert not kept or sent.outcome.result in ids, ("a duplicate of nothing", sent)
        elif sent.receipted:
            # A repeated one with a key may be a duplicate of another one all the same.
            assert stored or not kept or (sent.key and self.server.broker.keys.find(sent.queue, sent.key)), ("receipted, and lost", sent)
            assert not stored or sent.outcome.result in ids | {""}
        elif not sent.cancelled:
            assert isinstance(sent.outcome.error, TimedOut)


def walk(seed: int, steps: int) -> None:
    """A long random walk: it gets deeper than Hypothesis does, which in return finds the shortest history that fails."""
    random = Random(seed)
    machine = SendingMachine()

    def some(*values: Any) -> Any:
        return random.choice(values)

    def bytes_() -> int:
        return int(some(0, 1, 30, 130, 400, 10_000))

    actions: list[tuple[int, Callable[[], None]]] = [
        (20, lambda: machine.send(some(*QUEUES), some(True, False), some(None, None, None, "k", "l"), some(1, 1, 4))),
        (15, lambda: machine.move(bytes_(), bytes_())),
        (4, lambda: machine.settle()),
        (4, lambda: machine.pause(some(*QUEUES), some(True, False))),
        (1, lambda: machine.fill(some(True, False, False))),
        (2, lambda: machine.fail(some(True, False, False))),
        (3, lambda: machine.cut(bytes_(), bytes_())),
        (2, lambda: machine.leave(bytes_())),
        (8, lambda: machine.connect() if machine.line is None else None),
        (4, lambda: machine.write()),
        (1, lambda: machine.crash()),
        (1, lambda: machine.stop()),
        (2, lambda: machine.ping()),
        (2, lambda: machine.cancel(random.randint(0, 11))),
        (2, lambda: machine.pass_time(some(1, 1, 25))),
    ]
    weights = [weight for weight, _ in actions]
    try:
        for _, action in random.choices(actions, weights, k=steps):
            action()
            machine.accounts()
    except BaseException:
        machine.finish = machine.judge = lambda: None  # type: ignore[method-assign]
        raise
    finally:
        machine.teardown()


class ModelTests(SynchronousTestCase):
    """L{ClientConnection}, session, broker, store and file together."""

    def test_short_histories(self) -> None:
        """Whatever happens in whatever order: nothing receipted is lost, nothing is stored twice, refused or out of order."""
        run_state_machine_as_test(
            SendingMachine,
            settings=settings(
                max_examples=1500 if LONG else 60,
                stateful_step_count=100 if LONG else 40,
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
