"""Tests of the table of a message's states at the head of L{phpmq.broker.lifecycle}, and of who may change them."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import phpmq
from phpmq.broker import Broker, State, state_of
from phpmq.broker.lifecycle import BEGIN, TRANSITIONS, Lifecycle
from phpmq.broker.queues import Queues
from phpmq.message import Properties, QueueSettings
from phpmq.store import SQLiteStore
from tests.doubles import RecordingPeer

_PACKAGE = Path(phpmq.__file__).parent
_SEMANTICS = _PACKAGE.parent / "docs" / "reference" / "semantics.md"

READY, DELAYED, IN_FLIGHT, DEAD, GONE = State

#: State, event, state afterwards.
Transition = tuple[State, str, State]


class Life:
    """
    One message in a broker.

    @ivar number: the message's
    """

    def __init__(self, state: State, settings: QueueSettings) -> None:
        """Bring it into a state."""
        self.now = 1_000_000
        self.store = SQLiteStore()
        self.broker = Broker(self.store, lambda: self.now)
        self.broker.configure("q", settings)
        self.peer = RecordingPeer(self.broker)
        properties = Properties(5000) if state is DELAYED else None
        # It expires at last, also while it is delayed.
        self.number = self.broker.publish("q", b"x", 9000 if settings.expired == "dead" else 4000, properties).number
        if state in (IN_FLIGHT, DEAD):
            self.consume()
        if state is DEAD:
            self.peer.channel.dead_letter(None, self.id)

    @property
    def id(self) -> bytes:
        """By which its consumer knows it."""
        return self.broker.lifecycle.message_id(self.number)

    @property
    def state(self) -> State:
        """Where it is now."""
        for name in self.broker.dead_letters.totals:
            if (dead := self.broker.dead_letters.find(name, self.number)) is not None:
                return state_of(dead)
        if self.id in self.peer.channel.unacked:
            return state_of(self.peer.channel.unacked[self.id])
        for queue in self.broker.queues.values():
            message = self.store.get(queue, self.number)
            if message is not None and abs(message.position) > queue.flushed_to:
                return state_of(message)
        return GONE

    def consume(self) -> None:
        """A consumer takes what is ready."""
        self.peer.channel.consume("q", 1)
        self.broker.dispatch()

    def wait(self, milliseconds: int) -> None:
        """Time passes."""
        self.now += milliseconds
        self.broker.tick()
        self.broker.sweep()

    def flush_in_flight(self) -> None:
        """It is flushed while it is in flight, and comes back."""
        self.broker.queues.flush("q")
        self.peer.channel.close()
        self.broker.dispatch()

    def delete(self) -> None:
        """An operator deletes it."""
        self.broker.lifecycle.delete(self.broker.dead_letters.page("q"))

    def replay(self) -> None:
        """An operator has it requeued."""
        self.broker.lifecycle.replay(self.broker.dead_letters.page("q"), "q")

    def move(self) -> None:
        """An operator moves it."""
        queues = self.broker.queues
        self.broker.lifecycle.move(queues["q"], queues.get_or_create("other"), 1)


#: How to make each transition: settings of the queue, and what happens.
_KEEP, _DEAD = QueueSettings(expired="drop"), QueueSettings(expired="dead")
WAYS: dict[Transition, tuple[QueueSettings, Callable[[Life], object]]] = {
    (READY, "deliver", IN_FLIGHT): (_KEEP, Life.consume),
    (READY, "expire", GONE): (_KEEP, lambda life: life.wait(4000)),
    (READY, "expire", DEAD): (_DEAD, lambda life: life.wait(9000)),
    (READY, "drop_oldest", GONE): (
        QueueSettings(max_messages=1, when_full="drop-oldest"),
        lambda life: life.broker.publish("q", b"next"),
    ),
    (READY, "move", READY): (_KEEP, Life.move),
    (READY, "flush", GONE): (_KEEP, lambda life: life.broker.queues.flush("q")),
    (DELAYED, "release", READY): (_DEAD, lambda life: life.wait(5000)),
    (DELAYED, "expire", GONE): (_KEEP, lambda life: life.wait(4000)),
    (DELAYED, "expire", DEAD): (_DEAD, lambda life: life.wait(9000)),
    (DELAYED, "flush", GONE): (_KEEP, lambda life: life.broker.queues.flush("q")),
    (IN_FLIGHT, "acknowledge", GONE): (_KEEP, lambda life: life.peer.channel.ack(None, life.id)),
    (IN_FLIGHT, "requeue", READY): (_KEEP, lambda life: life.peer.channel.requeue(None, life.id, 0)),
    (IN_FLIGHT, "requeue", DELAYED): (_KEEP, lambda life: life.peer.channel.requeue(None, life.id, 0, None, 100)),
    (IN_FLIGHT, "dead_letter", DEAD): (_KEEP, lambda life: life.peer.channel.dead_letter(None, life.id)),
    (IN_FLIGHT, "return_messages", READY): (_KEEP, lambda life: life.peer.channel.close()),
    (IN_FLIGHT, "return_messages", GONE): (_KEEP, Life.flush_in_flight),
    (IN_FLIGHT, "return_messages", DEAD): (QueueSettings(max_attempts=1), lambda life: life.peer.channel.close()),
    (DEAD, "replay", READY): (_KEEP, Life.replay),
    (DEAD, "delete", GONE): (_KEEP, Life.delete),
}


def transitions() -> set[Transition]:
    """All that the table has."""
    return {(state, event, after) for state, events in TRANSITIONS.items() for event, states in events.items() for after in states}


class TableTests(SynchronousTestCase):
    """L{TRANSITIONS} tells what happens."""

    def test_complete(self) -> None:
        """Every transition of the table is made by a test below, and no other one."""
        self.assertEqual(set(TRANSITIONS), set(State))
        self.assertEqual(transitions(), set(WAYS))

    def test_transitions(self) -> None:
        """Each leads from where the table says to where it says."""
        for (state, event, after), (settings, happen) in WAYS.items():
            life = Life(state, settings)
            self.addCleanup(life.store.close)
            with self.subTest(state=state, event=event, after=after):
                self.assertEqual(life.state, state)
                happen(life)
                self.assertEqual(life.state, after)
                self.assertEqual(life.broker.queues["q"].in_flight if "q" in life.broker.queues else 0, after is IN_FLIGHT)

    def test_begin(self) -> None:
        """A message begins in one of the states that the table says."""
        self.assertEqual(BEGIN, {READY, DELAYED})
        for state in BEGIN:
            life = Life(state, _KEEP)
            self.addCleanup(life.store.close)
            self.assertEqual(life.state, state)

    def test_events(self) -> None:
        """Every event is a method of the lifecycle; only a flush happens to a whole queue."""
        events = {event for events in TRANSITIONS.values() for event in events}
        self.assertEqual({event for event in events if not hasattr(Lifecycle, event)}, {"flush"})
        self.assertTrue(hasattr(Queues, "flush"))

    def test_documented(self) -> None:
        """docs/reference/semantics.md has the same table."""
        rows = re.findall(r"^\| (\w+) \| `(\w+)` \| ([\w, ]+) \|", _SEMANTICS.read_text(encoding="utf-8"), re.MULTILINE)
        found = {(state, event, after) for state, event, states in rows for after in states.split(", ")}
        expected = {(state.value, event, after.value) for state, event, after in transitions()}
        self.assertEqual(found, expected | {("new", "accept", state.value) for state in BEGIN})


def written(path: Path) -> set[str]:
    """The attributes that a module assigns to."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else []
        for target in targets:
            found |= {one.attr for one in ast.walk(target) if isinstance(one, ast.Attribute)}
    return found


class OwnershipTests(SynchronousTestCase):
    """Who may write what."""

    def test_writers(self) -> None:
        """
        In the broker, only the lifecycle writes what is in flight, what a consumer holds, and what messages take of the memory, beside
        the constructors that begin with 0 and the memory itself.
        """
        writers: dict[str, set[str]] = {"in_flight": set(), "held": set(), "used": set()}
        for path in (_PACKAGE / "broker").glob("*.py"):
            for name in writers.keys() & written(path):
                writers[name].add(path.stem)
        # A producer's "used" is when it was.
        self.assertEqual(
            writers,
            {"in_flight": {"lifecycle", "queue"}, "held": {"lifecycle"}, "used": {"lifecycle", "memory", "producers"}},
        )

    def test_no_owner_is_held(self) -> None:
        """No object of the broker or the store is given the object that owns it. The operators' side is above the broker, no part of it."""
        owners = {"Broker", "SQLiteStore", "IBroker"}
        parts = [path for path in (_PACKAGE / "broker").glob("*.py") if path.name != "operators.py"]
        for path in [*parts, *(_PACKAGE / "store").glob("*.py")]:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    given = {
                        name.id
                        for argument in node.args.args
                        if argument.annotation
                        for name in ast.walk(argument.annotation)
                        if isinstance(name, ast.Name)
                    }
                    self.assertEqual(given & owners, set(), path)
