"""What Prometheus gets to see of a server."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, cast

from prometheus_client import REGISTRY
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from treq.testing import RequestTraversalAgent
from twisted.internet import reactor
from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import readBody
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import Site

from phpmq.admin import reactor as admin_reactor
from phpmq.admin.http import Site as HTTPSite
from phpmq.admin.metrics import FAMILIES, OTHER, Format, Metrics, MetricsResource, read, value_at, wants_gzip, wants_openmetrics
from phpmq.admin.reactor import CooperativeWork
from phpmq.clock import SteadyClock
from phpmq.errors import Draining, StoreError
from phpmq.histogram import Histogram
from phpmq.interfaces import IMirror
from phpmq.message import QueueSettings
from phpmq.service import QueueService
from phpmq.settings import Settings
from phpmq.testing import MemoryServer
from tests import wire
from tests.promtool import promtool
from tests.web import Connection

#: Names that text formats are easily confused by.
HOSTILE = 'a"b', "a\\", "\\n", "\\\\n", '{x="y"} 1', "a,b=c", "# HELP x", " ", "é", "日本", "\U0001d54f", "NaN", "a\u00a0b", "'%00'"

#: What Prometheus 2.40 says that it accepts.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


class Scrape:
    """What came of a scrape, found by name and labels."""

    def __init__(self, text: str, families: Iterable[Metric]) -> None:
        self.text = text
        self.families = {family.name: family for family in families}
        self.samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        for family in self.families.values():
            for sample in family.samples:
                key = sample.name, tuple(sorted(sample.labels.items()))
                assert key not in self.samples, f"{key} is there twice"
                self.samples[key] = sample.value

    def __call__(self, name: str, **labels: str) -> float:
        """A sample's value."""
        return self.samples[name, tuple(sorted(labels.items()))]

    def values(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Value of a label -> value of the sample, of those that have the other labels too."""
        found = {}
        for (sample, pairs), value in self.samples.items():
            mapping = dict(pairs)
            if sample == name and label in mapping and labels.items() <= mapping.items():
                found[mapping[label]] = value
        return found

    @property
    def totals(self) -> dict[Any, float]:
        """What must never fall, but for what queues have."""
        return {
            key: value
            for key, value in self.samples.items()
            if key[0].endswith(("_total", "_bucket", "_count", "_sum")) and not key[0].startswith(("phpmq_queue_", "process_", "python_"))
        }


class MetricsTestCase(SynchronousTestCase):
    """A server in memory with faked time, and its metrics."""

    settings: ClassVar[dict[str, Any]] = {}

    def setUp(self) -> None:
        self.server = MemoryServer(**{"max_message_size": 10_000, **self.settings})
        self.addCleanup(self.server.stop)
        self.metrics = Metrics(self.server.service.admin)
        self.client = self.server.client()

    def written(self, format: Format = Format.TEXT, compressed: bool = False) -> bytes:
        """What Prometheus would get."""
        deferred = self.metrics.scrape(format, compressed)
        self.server.settle()
        return self.successResultOf(deferred)

    def scrape(self, format: Format = Format.TEXT) -> Scrape:
        """What there is."""
        text = self.written(format).decode("utf-8")
        return Scrape(text, (parse_text if format is Format.TEXT else parse_openmetrics)(text))

    def send(self, queue: str, *bodies: bytes, **more: Any) -> None:
        """Send messages."""
        for body in bodies:
            self.successResultOf(self.settled(self.client.send(queue, body, **more)))

    def settled(self, deferred: Deferred[Any]) -> Deferred[Any]:
        """The same, once all is settled."""
        self.server.settle()
        return deferred

    def hold(self, queue: str, count: int) -> list[Any]:
        """Have messages in flight."""
        held: list[Any] = []
        self.client.subscribe(queue, held.append, window=count)
        self.server.settle()
        self.assertEqual(len(held), count)
        return held


class FormatTests(MetricsTestCase):
    """How it is written."""

    def setUp(self) -> None:
        super().setUp()
        for name in HOSTILE:
            self.send(name, b"x")

    def test_parsers(self) -> None:
        """Both formats are understood, and say the same."""
        text, openmetrics = self.scrape(), self.scrape(Format.OPENMETRICS)
        still = [key for key in text.samples if not key[0].startswith(("process_", "python_"))]
        self.assertGreater(len(still), 100)
        self.assertEqual({key: openmetrics.samples[key] for key in still}, {key: text.samples[key] for key in still})
        self.assertEqual(set(text.samples), set(openmetrics.samples))
        self.assertTrue(openmetrics.text.endswith("# EOF\n"))
        self.assertEqual(openmetrics.text.count("# EOF"), 1)

    def test_names(self) -> None:
        """A queue's name is the label's value, whatever is in it."""
        for format in Format:
            self.assertEqual(set(self.scrape(format).values("queue", "phpmq_queue_bytes")), set(HOSTILE))

    def test_help(self) -> None:
        """Every family is described once, before its samples, and is in one piece."""
        for format in Format:
            described: list[str] = []
            for line in self.scrape(format).text.splitlines():
                words = line.split(" ")
                if words[:2] == ["#", "HELP"]:
                    self.assertTrue(words[3:], line)
                    self.assertNotIn(words[2], described)
                    described.append(words[2])
                elif words[:2] == ["#", "TYPE"]:
                    self.assertEqual(words[2], described[-1])
                elif words != ["#", "EOF"]:
                    self.assertTrue(line.startswith(described[-1]), line)

    def test_many(self) -> None:
        """A family of many series has one header, too."""
        for number in range(150):
            self.send(f"q{number}", b"")
        self.test_help()
        self.assertEqual(len(self.scrape().values("queue", "phpmq_queue_messages", state="ready")), 150 + len(HOSTILE))

    def test_promtool(self) -> None:
        """Prometheus' tool finds nothing to complain about."""
        promtool("check", "metrics", content=self.written())

    def test_compressed(self) -> None:
        """With gzip it is the same, in less."""
        for format in Format:
            compressed = self.written(format, True)
            plain = self.written(format)
            self.assertLess(len(compressed), len(plain) / 2)
            self.assertEqual(_still(gzip.decompress(compressed)), _still(plain))

    def test_listener(self) -> None:
        """A listener that is named by bytes which are no text does not spoil a scrape."""
        self.server.service.connections.by_listener["unix:/\udcff"] = 1
        self.assertEqual(self.scrape()("phpmq_connections", listener="unix:/\\udcff"), 1)

    def test_own_registry(self) -> None:
        """The registry is the server's, and the library's global one has nothing of it."""
        self.assertFalse([family.name for family in REGISTRY.collect() if family.name.startswith("phpmq")])
        other = MemoryServer()
        self.addCleanup(other.stop)
        deferred = Metrics(other.service.admin).scrape()
        other.settle()
        self.assertIn(b"\nphpmq_messages_received_total 0.0\n", self.successResultOf(deferred))


def _still(text: bytes) -> list[bytes]:
    """The lines that do not change between two scrapes."""
    return [line for line in text.splitlines() if b"process_" not in line and b"python_" not in line]


class CounterTests(MetricsTestCase):
    """What is counted."""

    def test_messages(self) -> None:
        """Each counter counts what it is called after, once."""
        self.send("q", *[b"%d" % number for number in range(6)])
        for _ in range(2):
            self.send("q", b"twice", key="k")
        held = self.hold("q", 5)
        held[0].ack()
        held[1].requeue()
        held[2].dead_letter("broken")
        self.server.settle()
        self.assertEqual(len(held), 8)  # three more; the one that was re-queued came again as the last
        held[-1].ack()
        self.server.settle()
        self.send("flushed", b"1", b"2")
        self.server.service.admin.queues.flush("flushed")
        self.server.broker.configure("full", QueueSettings(max_messages=1, when_full="drop-oldest"))
        self.send("full", b"1", b"2", b"3")
        self.send("short", b"x", ttl=1)
        self.server.advance(3)
        found = self.scrape()
        self.assertEqual(
            {name: found(f"phpmq_messages_{name}_total") for name in _MESSAGES},
            {
                "received": 13,
                "delivered": 8,
                "redelivered": 1,
                "acknowledged": 2,
                "requeued": 1,
                "expired": 1,
                "dropped": 2,
                "flushed": 2,
                "duplicate": 1,
            },
        )
        dead = found.values("reason", "phpmq_messages_dead_lettered_total")
        self.assertEqual(dead, {"rejected": 1, "max-attempts": 0, "expired": 0})

    def test_refused(self) -> None:
        """Sends that are refused are counted by why."""
        self.server.broker.configure("full", QueueSettings(max_messages=1))
        self.send("full", b"1")
        for _ in range(2):
            self.failureResultOf(self.settled(self.client.send("full", b"2")))
        refused = self.scrape().values("code", "phpmq_sends_refused_total")
        self.assertEqual(refused, {"queue-full": 2, "memory-full": 0, "disk-failing": 0})

    def test_clients(self) -> None:
        """Connections, their bytes, and what they did wrong."""
        before = self.scrape()
        self.assertEqual(before.values("listener", "phpmq_connections"), {"": 1})
        self.assertEqual(before.values("kind", "phpmq_protocol_errors_total"), dict.fromkeys(_ERRORS, 0))
        self.client.send("q", b"x" * 1000)
        self.server.settle()
        self.failureResultOf(self.settled(self.client.send("q", b"x" * 20_000)))
        self.server.advance(5)
        found = self.scrape()
        self.assertGreater(found("phpmq_received_bytes_total") - before("phpmq_received_bytes_total"), 1000)
        self.assertGreater(found("phpmq_sent_bytes_total"), before("phpmq_sent_bytes_total"))
        self.assertEqual(found.values("kind", "phpmq_protocol_errors_total"), {**dict.fromkeys(_ERRORS, 0), "too-large": 1})
        self.assertEqual(found("phpmq_connections_accepted_total"), 2)
        self.assertEqual(found.values("listener", "phpmq_connections"), {"": 1})

    def test_never_fall(self) -> None:
        """Totals of the server stay when their queues go, and whatever else happens."""

        def flush() -> None:
            Deferred.fromCoroutine(self.server.service.admin.queues.flush_all())

        before = self.scrape().totals
        self.assertGreater(len(before), 50)
        held: list[Any] = []
        for step in (
            lambda: self.send("a", b"1", b"2", b"3"),
            lambda: held.extend(self.hold("a", 2)),
            lambda: held[0].ack(),
            lambda: held[1].dead_letter(),
            flush,
            lambda: Deferred.fromCoroutine(self.server.service.admin.queues.delete("a")),
            self.server.disconnect,
            lambda: self.server.advance(10),
            flush,
        ):
            step()
            self.server.settle()
            after = self.scrape().totals
            fallen = {key: (value, after.get(key)) for key, value in before.items() if after.get(key, -1) < value}
            self.assertEqual(fallen, {})
            before = after
        self.assertEqual(self.scrape()("phpmq_messages_received_total"), 3)


_MESSAGES = "received", "delivered", "redelivered", "acknowledged", "requeued", "expired", "dropped", "flushed", "duplicate"
_ERRORS = "bad-frame", "bad-name", "too-large", "unsupported"


class HistogramTests(MetricsTestCase):
    """How long things take."""

    def buckets(self, name: str) -> dict[str, float]:
        """How many there are in each bucket that has some, by its bound."""
        found, before, counts = self.scrape(), 0.0, {}
        for bound, so_far in found.values("le", f"{name}_bucket").items():
            if so_far > before:
                counts[bound] = so_far - before
            before = so_far
        self.assertEqual(before, found(f"{name}_count"))
        return counts

    def test_durations(self) -> None:
        """A duration counts in the first bucket whose bound is not below it."""
        durations = Histogram(0.001, 4)
        for seconds in 0, 0.0009, 0.001, 0.0019, 0.002, 0.0039, 0.0079, 0.008, 100, -1:
            durations.observe_seconds(seconds)
        self.assertEqual((durations.bounds, durations.counts), ([0.001, 0.002, 0.004, 0.008], [3, 2, 2, 1, 2]))
        self.assertAlmostEqual(durations.seconds, 100.0256)
        before = durations.total
        durations.observe(3, 2)
        durations.observe(-3, 2)
        self.assertEqual((durations.counts, durations.total), ([5, 2, 4, 1, 2], before + 6))

    def test_wait(self) -> None:
        """A message's wait is from its acceptance until its first delivery, and counts once."""
        self.send("q", b"1", b"2")
        self.server.advance(3)
        self.send("q", b"3")
        self.server.clock.advance(0.003)
        held = self.hold("q", 3)
        self.assertEqual(self.buckets("phpmq_message_wait_seconds"), {"0.004": 1, "4.096": 2})
        self.assertAlmostEqual(self.scrape()("phpmq_message_wait_seconds_sum"), 6.009, 2)
        held[0].requeue()
        self.server.advance(60)
        self.assertEqual(self.scrape()("phpmq_messages_delivered_total"), 4)
        self.assertEqual(self.buckets("phpmq_message_wait_seconds"), {"0.004": 1, "4.096": 2})

    def test_wait_of_many(self) -> None:
        """All of a dispatch count, however many were accepted together."""
        for number in range(30):
            self.send("q", *[b"x"] * (1 + number % 3))
            self.server.clock.advance(0.05)
        self.hold("q", 60)
        self.assertEqual(sum(self.buckets("phpmq_message_wait_seconds").values()), 60)

    def test_reactor_delay(self) -> None:
        """What comes late by seconds counts as late by seconds."""
        self.server.advance(1)
        before = self.scrape()("phpmq_reactor_delay_seconds_count")
        self.assertEqual(before, 10)
        self.server.clock.advance(3)
        self.assertEqual(self.buckets("phpmq_reactor_delay_seconds"), {"0.000125": 10, "4.096": 1})
        self.assertAlmostEqual(self.scrape()("phpmq_reactor_delay_seconds_sum"), 2.9, 2)


class QueueTests(MetricsTestCase):
    """What queues have."""

    settings: ClassVar = {"metrics_queues": 3}

    def test_states(self) -> None:
        """Messages by state, with what else a queue has."""
        self.send("q", b"1", b"22", b"333", b"4444")
        self.send("q", b"later", delay=50)
        self.hold("q", 2)[0].dead_letter()
        self.server.settle()
        found = self.scrape()
        messages = found.values("state", "phpmq_queue_messages", queue="q")
        self.assertEqual(messages, {"ready": 1, "delayed": 1, "in_flight": 2, "dead": 1})
        self.assertEqual(found("phpmq_queue_consumers", queue="q"), 1)
        self.assertEqual(found("phpmq_queue_bytes", queue="q"), self.server.broker.queues["q"].ready_size)
        self.assertEqual(
            [found(f"phpmq_queue_messages_{what}_total", queue="q") for what in ("received", "delivered", "acknowledged")], [5, 3, 0]
        )

    def test_settings(self) -> None:
        """Limits and pauses show where there are any."""
        self.send("plain", b"x")
        self.server.broker.configure("bounded", QueueSettings(max_messages=5, max_bytes=77))
        self.server.service.admin.queues.pause("stopped", "sends")
        found = self.scrape()
        self.assertEqual(found.values("queue", "phpmq_queue_limit_messages"), {"bounded": 5})
        self.assertEqual(found.values("queue", "phpmq_queue_limit_bytes"), {"bounded": 77})
        self.assertEqual(found.values("what", "phpmq_queue_paused"), {"sends": 1})
        self.assertEqual(found.values("queue", "phpmq_queue_paused"), {"stopped": 1})

    def test_oldest(self) -> None:
        """When the next message came; a queue without one has no such series, so that its age is not taken for that of the epoch."""
        self.server.advance(100)
        self.send("q", b"1")
        self.server.advance(10)
        self.send("q", b"2")
        name = "phpmq_queue_oldest_message_timestamp_seconds"
        self.assertAlmostEqual(self.scrape()(name, queue="q"), 100, 1)
        held = self.hold("q", 1)
        self.assertAlmostEqual(self.scrape()(name, queue="q"), 110, 1)
        held[0].ack()
        self.server.settle()
        self.assertEqual(self.scrape().values("queue", name), {})

    def test_clock_was_set(self) -> None:
        """The time is told by the system's clock, by which Prometheus judges it, also after that was set."""
        wall = [5000.0]
        self.server.service.engine.clock = SteadyClock(lambda: wall[0], self.server.clock.seconds)
        self.server.broker.turn._clock = self.server.service.engine.clock.now
        self.send("q", b"1")
        name = "phpmq_queue_oldest_message_timestamp_seconds"
        self.assertAlmostEqual(self.scrape()(name, queue="q"), 5000, 1)
        wall[0] += 0.5  # less is only noise
        self.assertAlmostEqual(self.scrape()(name, queue="q"), 5000, 1)
        wall[0] += 3600
        self.assertAlmostEqual(self.scrape()(name, queue="q"), 8600.5, 1)

    def test_largest(self) -> None:
        """The queues with the most messages are shown, the others are one sum."""
        for number in range(6):
            self.send(f"q{number}", *[b"xx"] * (number + 1))
        self.hold("q0", 1)
        found = self.scrape()
        ready = found.values("queue", "phpmq_queue_messages", state="ready")
        self.assertEqual(ready, {"q3": 4, "q4": 5, "q5": 6, OTHER: 5})
        self.assertEqual(found("phpmq_queue_messages", queue=OTHER, state="in_flight"), 1)
        self.assertEqual(found("phpmq_queue_consumers", queue=OTHER), 1)
        self.assertEqual(sum(found.values("queue", "phpmq_queue_bytes").values()), 40)
        self.assertEqual((found("phpmq_queues"), found("phpmq_metrics_queues_limit")), (6, 3))
        self.assertNotIn(OTHER, found.values("queue", "phpmq_queue_messages_received_total"))

    def test_oldest_of_others(self) -> None:
        """The oldest of the others is the oldest of them all."""
        for number in range(6):
            self.server.advance(10)
            self.send(f"q{number}", *[b"x"] * (number + 1))
        oldest = self.scrape().values("queue", "phpmq_queue_oldest_message_timestamp_seconds")
        self.assertAlmostEqual(oldest[OTHER], 10, 1)

    def test_active(self) -> None:
        """A queue that is empty but busy is shown rather than one where a few messages wait."""
        for number in range(3):
            self.send(f"still{number}", b"x", b"x")
        self.client.subscribe("busy", lambda delivery: delivery.ack(), window=5)
        for _ in range(20):
            self.send("busy", *[b"x"] * 10)
            self.server.advance(1)
        shown = self.scrape().values("queue", "phpmq_queue_bytes")
        self.assertEqual(set(shown), {"busy", "still1", "still2", OTHER})

    def test_stable(self) -> None:
        """A queue that is shown is not replaced by one that has a little more."""
        for number in range(6):
            self.send(f"q{number}", *[b"x"] * (4 + number % 2))
        shown = set(self.scrape().values("queue", "phpmq_queue_bytes"))
        self.assertEqual(shown, {"q1", "q3", "q5", OTHER})
        for number in 0, 2, 4:
            self.send(f"q{number}", b"x", b"x")
        self.assertEqual(set(self.scrape().values("queue", "phpmq_queue_bytes")), shown)
        self.send("q0", *[b"x"] * 20)
        self.assertIn("q0", self.scrape().values("queue", "phpmq_queue_bytes"))

    def test_reserved_name(self) -> None:
        """A queue that is called as the sum is part of it."""
        self.send(OTHER, *[b"x"] * 9)
        self.assertEqual(self.scrape().values("queue", "phpmq_queue_messages", state="ready"), {OTHER: 9})
        for number in range(4):
            self.send(f"q{number}", *[b"x"] * (number + 1))
        self.assertEqual(self.scrape().values("queue", "phpmq_queue_messages", state="ready"), {"q1": 2, "q2": 3, "q3": 4, OTHER: 10})

    def test_none(self) -> None:
        """With a limit of 0 there is the sum alone."""
        self.server.service.settings = Settings(metrics_queues=0)
        for number in range(3):
            self.send(f"q{number}", b"x")
        self.assertEqual(self.scrape().values("queue", "phpmq_queue_messages", state="ready"), {OTHER: 3})

    def test_gone(self) -> None:
        """Dead letters of a queue that is gone still show."""
        self.send("q", b"x")
        self.hold("q", 1)[0].dead_letter()
        self.server.settle()
        self.server.disconnect()
        self.assertNotIn("q", self.server.broker.queues)
        messages = self.scrape().values("state", "phpmq_queue_messages", queue="q")
        self.assertEqual(messages, {"ready": 0, "delayed": 0, "in_flight": 0, "dead": 1})


class SliceTests(MetricsTestCase):
    """Many queues."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(admin_reactor, "SLICE", 0.0)
        self.ticks: list[Callable[[], object]] = []
        self.patch(self.server.service.admin, "work", CooperativeWork(self, lambda: 0.0, lambda: True))
        for number in range(400):
            self.server.send(f"q{number:03}", b"x")

    def callLater(self, delay: float, tick: Callable[[], object]) -> DelayedCall:
        """What the reactor does in its next turn."""
        self.ticks.append(tick)
        return DelayedCall(0, tick, (), {}, lambda _: self.ticks.remove(tick), lambda _: None)

    def turn(self) -> None:
        """The reactor did other work, and comes back to the scrapes."""
        ticks, self.ticks = self.ticks, []
        for tick in ticks:
            tick()

    def finish(self, deferred: Deferred[bytes]) -> bytes:
        """What comes of a scrape."""
        while not deferred.called:
            self.turn()
        return self.successResultOf(deferred)

    def test_others_get_turns(self) -> None:
        """A scrape lets the reactor do other work again and again, until it is done."""
        deferred = self.metrics.scrape()
        passed = 0
        while not deferred.called:
            self.turn()
            passed += 1
        # 400 queues, 50 at a time; then the families, 250 series at a time.
        families = list(self.metrics.registry.collect())
        self.assertEqual(passed, 400 / 50 + len(families))
        self.assertGreater(len(families), 50)
        self.assertEqual(max(len(family.samples) for family in families), 250)

    def test_shared(self) -> None:
        """A second scrape that comes meanwhile gets the first one's result; one that comes later a new one."""
        registry = self.metrics.registry
        collect, collected = registry.collect, []

        def count() -> Iterable[Metric]:
            collected.append(True)
            return collect()

        self.patch(registry, "collect", count)
        first = self.metrics.scrape()
        self.turn()
        second, other = self.metrics.scrape(), self.metrics.scrape(Format.OPENMETRICS)
        self.server.send("q399", b"x")
        text = self.finish(first)
        self.assertTrue(self.successResultOf(second) is text)
        self.assertTrue(self.finish(other).endswith(b"# EOF\n"))
        self.assertEqual(len(collected), 2)
        self.assertTrue(b'phpmq_queue_messages{queue="q399",state="ready"} 2.0' in self.finish(self.metrics.scrape()))

    def test_change_meanwhile(self) -> None:
        """Queues that come and go meanwhile are there once or not at all."""
        admin = self.server.service.admin
        deferred = self.metrics.scrape()
        for number in range(1000):
            if deferred.called:
                break
            if (name := f"q{(number * 31) % 400:03}") in self.server.broker.queues:
                admin.queues.flush(name)
            self.server.send(f"q{(number * 77) % 600:03}", b"y")
            self.turn()
        text = self.successResultOf(deferred).decode("utf-8")
        self.assertEqual(len(Scrape(text, parse_text(text)).values("queue", "phpmq_queue_bytes")), 201)

    def test_fails(self) -> None:
        """A scrape that fails fails for all who wait for it; the next one is a new try."""
        wrong = ValueError("wrong")

        def count_deadlines() -> None:
            raise wrong

        patch = self.patch(self.server.service.connections, "count_deadlines", count_deadlines)
        deferreds = [self.metrics.scrape(), self.metrics.scrape()]
        while not all(deferred.called for deferred in deferreds):
            self.turn()
        for deferred in deferreds:
            self.assertIs(self.failureResultOf(deferred, ValueError).value, wrong)
        patch.restore()
        self.assertTrue(b"phpmq_connection_deadlines" in self.finish(self.metrics.scrape()))


class LimitTests(MetricsTestCase):
    """Limits."""

    settings: ClassVar = {
        "max_connections": 11,
        "max_window": 12,
        "producer_timeout": 13.0,
        "frame_timeout": 14.0,
        "write_timeout": 15.0,
        "memory_limit": 16 * 1024**2,
        "metrics_queues": 17,
        "max_consoles": 18,
        "max_keys": 19,
    }

    def test_settings(self) -> None:
        """Each limit that is set shows."""
        found = self.scrape()
        self.assertEqual(
            {name: found(f"phpmq_{name}") for name in _LIMITS},
            {
                "connections_limit": 11,
                "connections_per_address_limit": 5,
                "window_limit": 12,
                "producer_timeout_seconds": 13,
                "memory_limit_bytes": 16 * 1024**2,
                "metrics_queues_limit": 17,
                "message_limit_bytes": 10_000,
                "unfinished_frame_limit_bytes": 4 * 1024**2,
                "consoles_limit": 18,
            },
        )
        self.assertEqual(
            found.values("kind", "phpmq_connection_deadline_seconds"), {"handshake": 10, "frame": 14, "write": 15, "close": 10}
        )

    def raw(self, *frames: bytes) -> Protocol:
        """A client that sends bytes."""
        client = Protocol()
        self.server.connect(client)
        transport: Any = client.transport
        transport.write(b"".join(frames))
        self.server.settle()
        return client

    def test_memory(self) -> None:
        """Memory that is used, and senders that wait for it."""
        before = self.scrape()
        self.send("q", b"x" * 1000)
        after = self.scrape()
        self.assertGreater(after("phpmq_memory_used_bytes"), before("phpmq_memory_used_bytes") + 1000)
        self.assertEqual((after("phpmq_senders_waiting"), after("phpmq_healthy", check="memory")), (0, 1))
        self.server.broker.memory.limit = 1
        self.raw(wire.send("q", b"y"))
        full = self.scrape()
        self.assertEqual((full("phpmq_senders_waiting"), full("phpmq_healthy", check="memory")), (1, 0))
        self.assertEqual(full("phpmq_sends_refused_total", code="memory-full"), 1)

    def test_unfinished_frames(self) -> None:
        """Frames that are not complete, until their time is over."""
        self.raw(wire.send("q", b"x" * 100)[:-10])
        before = self.scrape()
        self.assertGreater(before("phpmq_unfinished_frame_bytes"), 100)
        deadlines = before.values("kind", "phpmq_connection_deadlines")
        self.assertEqual(deadlines, {"handshake": 0, "frame": 1, "write": 0, "close": 0})
        self.server.advance(16)
        after = self.scrape()
        self.assertEqual(after("phpmq_unfinished_frame_bytes"), 0)
        self.assertEqual(after.values("kind", "phpmq_connection_timeouts_total"), deadlines)

    def test_connections(self) -> None:
        """Connections, until there are too many."""
        clients = [self.raw() for _ in range(12)]
        found = self.scrape()
        self.assertEqual(found.values("listener", "phpmq_connections"), {"": 11})
        self.assertEqual((found("phpmq_connections_accepted_total"), found("phpmq_connections_rejected_total")), (11, 2))
        for client in clients:
            transport: Any = client.transport
            transport.abortConnection()
        self.server.settle()
        self.assertEqual(self.scrape().values("listener", "phpmq_connections"), {"": 1})

    def test_keys(self) -> None:
        """Keys that are remembered, until their windows are over."""
        for key in "a", "a", "b":
            self.send("q", b"x", key=key)
        found = self.scrape()
        self.assertEqual((found("phpmq_keys"), found("phpmq_keys_limit")), (2, 19))
        self.server.advance(122)
        self.assertEqual(self.scrape()("phpmq_keys"), 0)

    def test_producers_and_receipts(self) -> None:
        """Producers that are remembered, and synced sends that wait for the file."""
        self.server.broker.confirms.mirror = cast(IMirror, _SlowDisk())
        answer = self.client.send("q", b"x", level="synced")
        self.server.settle()
        found = self.scrape()
        self.assertEqual((found("phpmq_producers"), found("phpmq_receipts_waiting")), (1, 1))
        self.assertNoResult(answer)
        answer.addErrback(lambda _: None)


class DoorTests(MetricsTestCase):
    """HTTP and the console."""

    settings: ClassVar = {"max_consoles": 1}

    def test_without_http(self) -> None:
        """A server that does not speak HTTP has no numbers of it."""
        found = self.scrape()
        self.assertEqual([name for name, _ in found.samples if name.startswith("phpmq_http")], [])
        self.assertIn("phpmq_http_connections", found.families)

    def test_http(self) -> None:
        """Connections, bodies and readers with their limits; what was refused and cut off."""
        clock = self.server.clock
        site = self.server.service.site = HTTPSite(clock, Settings(max_http_connections=5, max_http_bodies=100))
        site.open(self.server.service.admin)
        self.addCleanup(site.stop)
        before = self.scrape()
        reading = read(self.server.service.admin, 0)
        self.assertEqual([family for family in FAMILIES if value_at(reading, family.path) is None and "mirror" not in family.name], [])
        readers = [Connection(site, clock) for _ in range(3)]
        for reader in readers:
            reader.says(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = b"POST /api/v1/flush HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n"
        half, whole, _ = (Connection(site, clock) for _ in range(3))
        half.says(head + b" " * 70)
        found = self.scrape()
        self.assertEqual((found("phpmq_http_connections"), found("phpmq_http_connections_limit")), (5, 5))
        self.assertEqual((found("phpmq_http_event_readers"), found("phpmq_http_event_readers_limit")), (2, 2))
        self.assertEqual((found("phpmq_http_body_bytes"), found("phpmq_http_body_limit_bytes")), (70, 100))
        self.assertEqual(found("phpmq_http_connections_rejected_total"), 1)
        whole.says(head + b" " * 70)
        self.server.advance(61)
        after = self.scrape()
        problems = after.values("code", "phpmq_http_problems_total")
        self.assertEqual({code for code, count in problems.items() if count}, {"too-many-readers", "too-many-bodies"})
        self.assertEqual(problems.keys(), before.values("code", "phpmq_http_problems_total").keys())
        cuts = {"idle": 1, "request": 1, "write": 0, "close": 1, "ahead": 0, "refused": 0}
        self.assertEqual(after.values("kind", "phpmq_http_cut_off_total"), cuts)
        self.assertEqual(set(before.values("kind", "phpmq_http_cut_off_total").values()), {0})
        self.assertEqual(after("phpmq_http_body_bytes"), 0)
        deadlines = {"idle": 60, "request": 30, "write": 60, "close": 5}
        self.assertEqual(after.values("kind", "phpmq_http_deadline_seconds"), deadlines)

    def test_console(self) -> None:
        """Consoles, until there are too many or one is forgotten."""
        for _ in range(2):
            console: Any = self.server.service.consoles.buildProtocol(None)
            console.makeConnection(StringTransport())
        found = self.scrape()
        self.assertEqual((found("phpmq_consoles"), found("phpmq_consoles_limit"), found("phpmq_consoles_rejected_total")), (1, 1, 1))
        self.assertEqual(found.values("kind", "phpmq_console_timeouts_total"), {"idle": 0, "write": 0, "close": 0})
        self.server.advance(902)
        self.assertEqual(self.scrape().values("kind", "phpmq_console_timeouts_total"), {"idle": 1, "write": 0, "close": 0})
        self.assertEqual(found.values("kind", "phpmq_console_deadline_seconds"), {"idle": 900, "write": 60, "close": 10})


class _SlowDisk:
    """One that never gets to it."""

    failing = False

    def sync_soon(self) -> None:
        """Not now."""


_LIMITS = (
    "connections_limit",
    "connections_per_address_limit",
    "window_limit",
    "producer_timeout_seconds",
    "memory_limit_bytes",
    "metrics_queues_limit",
    "message_limit_bytes",
    "unfinished_frame_limit_bytes",
    "consoles_limit",
)


class MirrorTests(TestCase):
    """The file of a server that runs in real time."""

    timeout = 20

    def setUp(self) -> None:
        """Start it."""
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.service = QueueService(Settings(listen=(), store=f"{self.directory}/phpmq.db", mirror_interval=0.01), reactor)
        self.service.startService()
        self.addCleanup(self.service.stopService)
        self.metrics = Metrics(self.service.admin)

    async def scrape(self) -> Scrape:
        """What there is."""
        text = (await self.metrics.scrape()).decode("utf-8")
        return Scrape(text, parse_text(text))

    async def test_writes(self) -> None:
        """Writes are counted by how long they took; what is not written yet is pending."""
        self.service.broker.publish("q", b"x")
        pending = (await self.scrape())("phpmq_mirror_pending_changes")
        self.assertGreaterEqual(pending, 1)
        # A write may be over and the next one, of what came meanwhile, not begun.
        while not (found := await self.scrape())("phpmq_mirror_write_seconds_count") or found("phpmq_mirror_pending_changes"):
            await deferLater(reactor, 0.01)
        assert self.service.mirror is not None
        self.assertEqual(found("phpmq_mirror_write_seconds_count"), self.service.mirror.writes)
        self.assertGreater(found("phpmq_mirror_write_seconds_sum"), 0)
        self.assertEqual(
            [found(f"phpmq_mirror_{name}") for name in ("enabled", "failing", "errors_total", "interval_seconds")], [1, 0, 0, 0.01]
        )
        self.assertEqual(found("phpmq_healthy", check="mirror"), 1)
        self.assertEqual(found("phpmq_mirror_lag_seconds"), 0)
        reading = read(self.service.admin, 0)
        self.assertEqual([family for family in FAMILIES if value_at(reading, family.path) is None and "http" not in family.name], [])

    async def test_failing(self) -> None:
        """A file that cannot be written shows: that it is so, since when, and how much waits."""
        mirror = self.service.mirror
        assert mirror is not None

        def apply(delta: object) -> None:
            raise StoreError("no space left on device")

        patch = self.patch(mirror._file, "apply", apply)
        self.service.broker.publish("q", b"x")
        while not (found := await self.scrape())("phpmq_mirror_errors_total"):
            await deferLater(reactor, 0.01)
        await deferLater(reactor, 0.05)
        found = await self.scrape()
        self.assertEqual((found("phpmq_mirror_failing"), found("phpmq_healthy", check="mirror")), (1, 0))
        self.assertGreater(found("phpmq_mirror_lag_seconds"), 0.04)
        self.assertGreaterEqual(found("phpmq_mirror_pending_changes"), 1)
        patch.restore()
        while (await self.scrape())("phpmq_mirror_failing"):
            await deferLater(reactor, 0.01)


class ResourceTests(SynchronousTestCase):
    """The metrics over HTTP."""

    def setUp(self) -> None:
        self.server = MemoryServer()
        self.addCleanup(self.server.stop)
        self.resource = MetricsResource(self.server.service.admin)
        root = Resource()
        root.putChild(b"metrics", self.resource)
        self.root = root
        self.web = RequestTraversalAgent(root)
        self.server.send("q", b"x")

    def get(self, method: str = "GET", **headers: str) -> tuple[Any, bytes]:
        """A response and its body, as it came."""
        sent = Headers({name.replace("_", "-"): [value] for name, value in headers.items()})
        deferred = self.web.request(method.encode("ascii"), b"http://localhost/metrics", sent)
        self.server.settle()
        self.web.flush()
        response = self.successResultOf(deferred)
        body = readBody(response)
        self.web.flush()
        return response, self.successResultOf(body)

    def header(self, response: Any, name: str) -> str:
        """A header's only value."""
        (value,) = response.headers.getRawHeaders(name, [""])
        return str(value)

    def test_text(self) -> None:
        """Whoever says nothing gets the text that every version of Prometheus understands."""
        response, body = self.get()
        self.assertEqual((response.code, self.header(response, "content-type")), (200, "text/plain; version=0.0.4; charset=utf-8"))
        self.assertTrue(b'phpmq_queue_messages{queue="q",state="ready"} 1.0\n' in body)
        self.assertEqual(response.length, len(body))
        self.assertEqual(self.header(response, "vary"), "Accept, Accept-Encoding")

    def test_openmetrics(self) -> None:
        """Whoever asks for OpenMetrics gets that."""
        response, body = self.get(accept=PROMETHEUS)
        self.assertEqual(self.header(response, "content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8")
        self.assertTrue(body.endswith(b"# EOF\n"))

    def test_choice(self) -> None:
        """The format is the one that the client likes best, and never one that it does not know."""
        for accept, openmetrics in {
            PROMETHEUS: True,
            "application/openmetrics-text": True,
            "Application/OpenMetrics-Text; Version=1.0.0": True,
            "application/openmetrics-text;version=2.0.0": False,
            "application/openmetrics-text;version=1.a": False,
            "application/openmetrics-text;version=0.0.1,text/plain": False,
            "application/openmetrics-text;q=0.5,text/plain;version=0.0.4;q=0.4": True,
            "application/openmetrics-text;q=0.4,text/plain;version=0.0.4;q=0.5": False,
            "application/openmetrics-text;q=0": False,
            "application/openmetrics-text;q=nan": False,
            "application/openmetrics-text;q=x": False,
            "text/html,*/*;q=0.8": False,
            "*/*": False,
            "": False,
            ";;,,;q=": False,
        }.items():
            self.assertIs(wants_openmetrics(accept), openmetrics, accept)

    def test_gzip(self) -> None:
        """It is compressed for whoever takes that."""
        for encoding, compressed in {"gzip": True, "deflate, GZip;q=0.5": True, "gzip;q=0": False, "identity": False, "": False}.items():
            self.assertIs(wants_gzip(encoding), compressed, encoding)
        response, body = self.get(accept_encoding="gzip")
        self.assertEqual((self.header(response, "content-encoding"), response.code), ("gzip", 200))
        self.assertTrue(gzip.decompress(body).startswith(b"# HELP phpmq_"))

    def test_head(self) -> None:
        """HEAD tells what GET would be, and costs nothing."""
        self.patch(self.resource.metrics, "scrape", None)
        response, body = self.get("HEAD", accept=PROMETHEUS)
        self.assertEqual((response.code, body), (200, b""))
        self.assertEqual(self.header(response, "content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8")

    def test_other_methods(self) -> None:
        """There is nothing to write."""
        for method in "POST", "PUT", "DELETE":
            self.assertIn(self.get(method)[0].code, (405, 501), method)

    def test_fails(self) -> None:
        """A scrape that fails is an error of the server's, logged."""
        events: list[Any] = []
        self.patch(MetricsResource, "_log", Logger(observer=events.append))  # type: ignore[arg-type]
        patch = self.patch(self.server.service.connections, "count_deadlines", None)
        response, body = self.get(accept_encoding="gzip", accept=PROMETHEUS)
        self.assertEqual((response.code, self.header(response, "content-encoding")), (500, ""))
        self.assertEqual(body, b"metrics could not be collected, the log says why\n")
        self.assertEqual([event["log_failure"].type for event in events], [TypeError])
        patch.restore()
        self.assertEqual(self.get()[0].code, 200)

    def test_stopping(self) -> None:
        """A scrape that a stop interrupts is not the server's fault."""
        self.patch(self.resource.metrics, "scrape", lambda *_: fail(Draining("the server is about to stop")))
        response, body = self.get()
        self.assertEqual((response.code, body), (503, b"the server is about to stop\n"))

    def test_gone(self) -> None:
        """A client that goes away meanwhile is no trouble."""
        scraped: Deferred[bytes] = Deferred()
        self.patch(self.resource.metrics, "scrape", lambda *_: scraped)
        transport = StringTransport()
        channel = Site(self.root, reactor=Clock()).buildProtocol(None)
        channel.makeConnection(transport)
        channel.dataReceived(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        channel.connectionLost(Failure(ConnectionLost()))
        scraped.callback(b"x")
        self.assertEqual(transport.value(), b"")
        self.assertEqual(self.flushLoggedErrors(), [])
