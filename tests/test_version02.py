"""Conversations in version 02, in memory."""

from __future__ import annotations

from phpmq.broker import DELIVERIES, SENDS, Broker
from phpmq.errors import Unsupported
from phpmq.frames import (
    CONTENT,
    COUNT,
    DELAY,
    HEADERS,
    ID,
    KEY,
    LEASE,
    LEVEL,
    QUEUE,
    REASON,
    SECRET,
    TAG,
    TTL,
    USER,
    frame_header,
)
from phpmq.server_frames import Versions
from phpmq.session import Session
from tests import wire
from tests.doubles import RecordingConnection
from tests.version02 import ConversationTestCase, Peer, consume, frame, hello, send


class Version02Tests(ConversationTestCase):
    """What a session does in version 02, with the real broker and store."""

    def test_receipt(self) -> None:
        """A send with a tag is answered with the id that its delivery has."""
        [(name, (tag, message_id, duplicate))] = self.peer.says(send(b"x", (TAG, b"t1")))
        self.assertEqual((name, tag, duplicate), ("receipt", b"t1", None))
        [(_, delivery)] = self.peer.says(consume(5))
        self.assertEqual(delivery, [b"q", b"x", message_id, b"1", None, None])

    def test_every_chunk_size(self) -> None:
        """However the bytes are cut, the answers are the same."""
        data = hello(b"h", b"me") + send(b"x", (TAG, b"1"), (99, b"unknown"), (TTL, b"1.5")) + consume(3, (TAG, b"c"))
        expected = [name for name, _ in self.peer.says(data)]
        self.assertEqual(expected, ["receipt", "receipt", "receipt", "deliver"])
        for size in range(1, len(data)):
            self.setUp()
            for start in range(0, len(data), size):
                self.peer.session.receive(data[start : start + size])
            self.assertEqual([name for name, _ in self.peer.hears()], expected, size)

    def test_no_tag(self) -> None:
        """Without a tag nothing is answered."""
        self.assertEqual(self.peer.says(send(b"x"), consume(0), frame(4, (ID, b"none"))), [])
        self.assertEqual((self.broker.lifecycle.received, self.broker.outcomes.unknown_ids), (1, 1))

    def test_settle(self) -> None:
        """Acknowledge, re-queue, dead letter and touch are answered; of an unknown id with C{unknown-id}."""
        self.peer.says(*[send(b"%d" % number) for number in range(4)], consume(4))
        ids = list(self.peer.session.channel.unacked)
        kinds = ((4, ()), (5, ((DELAY, b"60"),)), (6, ((REASON, b"why"),)), (9, ()))
        for (kind, more), message_id in zip(kinds, ids, strict=True):
            answers = self.peer.says(frame(kind, (ID, message_id), (TAG, b"t"), *more))
            self.assertEqual(answers, [("receipt", [b"t", None, None])], kind)
            [(name, (code, _, tag))] = self.peer.says(frame(kind, (ID, b"other"), (TAG, b"u"), *more))
            self.assertEqual((name, code, tag), ("refused", b"unknown-id", b"u"))
        self.assertEqual([dead.text for dead in self.store.dead()], ["why"])
        self.assertEqual((self.broker.queues["q"].delayed, self.broker.queues["q"].in_flight), (1, 1))

    def test_fatal(self) -> None:
        """What breaks the protocol is answered with a last frame that says why, and the connection closes."""
        for bad, code in (
            (b"H0200301", b"unsupported"),
            (send(b"x", (LEVEL, b"best")), b"bad-frame"),
            (send(b"x", (TTL, b"1.")), b"bad-frame"),
            (send(b"x", (HEADERS, b'{"a": 1}')), b"bad-frame"),
            (send(b"x", queue=b"\n"), b"bad-name"),
            (frame(1, (QUEUE, b"q"), (TAG, b"t")), b"bad-frame"),
            (frame_header(2, 1, 2) + b"P02%029d" % (1 << 40), b"too-large"),
            (b"H0100202", b"unsupported"),
        ):
            peer = Peer(self.broker)
            answers = peer.says(send(b"ok", (TAG, b"1")), bad)
            self.assertEqual([name for name, _ in answers], ["receipt", "refused"], bad)
            self.assertEqual((answers[1][1][0], answers[1][1][2]), (code, None))
            self.assertEqual(len(peer.connection.errors), 1)

    def test_refused(self) -> None:
        """A send with a tag that cannot be done is refused, and the conversation goes on; without one it waits."""
        [(_, contents)] = self.peer.says(send(b"x", (TAG, b"1"), queue=b"\n"))
        self.assertEqual((contents[0], contents[2]), (b"bad-name", b"1"))
        self.broker.queues.pause("q", SENDS)
        [(_, contents)] = self.peer.says(send(b"x", (TAG, b"2")))
        self.assertEqual((contents[0], contents[2]), (b"queue-full", b"2"))
        self.broker.memory.limit = 0
        [(_, contents)] = self.peer.says(send(b"x", (TAG, b"3")))
        self.assertEqual((contents[0], contents[2]), (b"memory-full", b"3"))
        self.assertEqual(self.peer.says(send(b"y")), [])
        self.assertFalse(self.peer.connection.reading)

    def test_key(self) -> None:
        """Another message with that key is a duplicate of the first, gathered, written, in flight or gone, until its window is over."""
        [(_, (_, first, _))] = self.peer.says(send(b"x", (KEY, b"k"), (TAG, b"1")))
        for again in range(4):
            answers = self.peer.says(send(b"y", (KEY, b"k"), (TAG, b"2")))
            self.assertEqual(answers, [("receipt", [b"2", first, b"1"])], again)
            if again == 0:
                self.store.write()
            elif again == 1:
                self.peer.says(consume(1))
            elif again == 2:
                self.peer.says(frame(4, (ID, first)), consume(0))
        self.now += 120_000
        [(_, (_, second, duplicate))] = self.peer.says(send(b"z", (KEY, b"k"), (TAG, b"3")))
        self.assertEqual((second != first, duplicate), (True, None))

    def test_headers(self) -> None:
        """Headers come back as they were sent, also from the store."""
        self.broker.queues.pause("q", DELIVERIES)
        self.peer.says(send(b"x", (HEADERS, b'{"a": "b"}')), consume(1))
        self.store.write()
        self.broker.queues.resume("q")
        self.broker.dispatch()
        [(_, delivery)] = self.peer.hears()
        self.assertEqual(delivery[5], b'{"a": "b"}')

    def test_slow_reader(self) -> None:
        """A client that does not read its receipts is not read either."""
        self.peer.says(send(b"x", (TAG, b"1")))
        self.peer.session.pause_output()
        self.assertFalse(self.peer.connection.reading)
        self.peer.session.resume_output()
        self.assertTrue(self.peer.connection.reading)

    def test_bad_name(self) -> None:
        """A queue that cannot be is refused with the request's tag, and the connection goes on; without a tag it is the end."""
        for bad in ((1, (QUEUE, b""), (CONTENT, b"x")), (2, (QUEUE, b""), (COUNT, b"1"))):
            self.setUp()
            [(name, contents), (after, _)] = self.peer.says(frame(*bad, (TAG, b"t")), send(b"x", (TAG, b"1")))
            self.assertEqual((name, contents[0], contents[2], after), ("refused", b"bad-name", b"t", "receipt"))
            [(name, contents)] = self.peer.says(frame(*bad), send(b"y", (TAG, b"2")))
            self.assertEqual((name, contents[0], contents[2]), ("refused", b"bad-name", None))
            self.assertEqual((len(self.peer.connection.errors), self.broker.lifecycle.received), (1, 1))

    def test_output_is_written_in_portions(self) -> None:
        """More than about 128 KiB is written in several portions, headers included; the next once the transport took the one before."""
        for body, headers in ((b"x" * 10_000, b"{}"), (b"", b'{"a":"%s"}' % (b"x" * 8000))):
            self.setUp()
            self.peer.says(*(send(body, (HEADERS, headers)) for _ in range(60)))
            self.peer.connection.on_write = lambda data: self.peer.session.pause_output()
            self.peer.session.receive(consume(60))
            portions = [len(self.peer.gets())]
            for _ in range(10):
                self.peer.session.resume_output()
                portions.append(len(self.peer.gets()))
            self.assertEqual(sum(portions), 60)
            self.assertLess(max(portions), 20)

    def test_protocol_version(self) -> None:
        """A session tells which version its client speaks, and in version 01 which revision, once it knows."""
        self.assertEqual(self.peer.session.protocol_version, "")
        self.peer.says(send(b"x"))
        self.assertEqual(self.peer.session.protocol_version, "02")
        other = Session(self.broker, Versions(), RecordingConnection())
        other.receive(wire.consume("q", 1))
        self.assertEqual(other.protocol_version, "01 documented")
        other = Session(self.broker, Versions(), RecordingConnection())
        other.receive(wire.consume("empty", 1))
        self.assertEqual(other.protocol_version, "01")

    def test_fatal_is_the_end(self) -> None:
        """Nothing is carried out of what came behind a request that ended the conversation."""
        answers = self.peer.says(send(b"x", (LEVEL, b"synced")), send(b"y"), consume(1), send(b"z", (TAG, b"1")))
        self.assertEqual([(name, contents[0], contents[2]) for name, contents in answers], [("refused", b"not-allowed", None)])
        self.assertEqual((self.broker.lifecycle.received, self.broker.queues), (0, {}))

    def test_first_frame(self) -> None:
        """A client whose very first frame is bad is told so, if it is of version 02."""
        for bad, code in (
            (b"H0201201", b"unsupported"),
            (frame_header(2, 1, 2) + b"P02%029d" % (1 << 40), b"too-large"),
            (frame(1, (QUEUE, b"q"), (TAG, b"t")), b"bad-frame"),
        ):
            for cuts in [bad], [bad[:3], bad[3:7], bad[7:8], bad[8:30], bad[30:]]:
                peer = Peer(self.broker)
                answers = peer.says(*cuts[:1])
                for cut in cuts[1:]:
                    answers += peer.says(cut)
                self.assertEqual([(name, contents[0], contents[2]) for name, contents in answers], [("refused", code, None)])
        for other in b"H0100999", b"H0300101", b"GET / HTTP/1.1":
            peer = Peer(self.broker)
            self.assertEqual(peer.says(other), [])
            self.assertEqual(len(peer.connection.errors), 1)

    def test_tags(self) -> None:
        """A tag is anything of up to 64 bytes, also nothing; the same one may come twice."""
        tags = b"", b"x" * 64, b"\0\xff\n", b"t", b"t"
        answers = self.peer.says(*[frame(10, (TAG, tag)) for tag in tags], send(b"x", (TAG, b"")), frame(4, (ID, b"none"), (TAG, b"")))
        self.assertEqual([contents[0] for _, contents in answers[:-1]], [*tags, b""])
        self.assertEqual((answers[-1][0], answers[-1][1][2]), ("refused", b""))
        [(_, contents)] = self.peer.says(frame(10, (TAG, b"x" * 65)))
        self.assertEqual((contents[0], contents[2]), (b"too-large", None))

    def test_hello(self) -> None:
        """Hello may come at any time and often; there are no users, so every login is as good as none."""
        login = frame(10, (TAG, b"2"), (USER, b"me"), (SECRET, b"\xff" * 255))
        answers = self.peer.says(frame(10, (TAG, b"1")), login, hello(b"3", b"me"), hello(b"4", b"me"), frame(10, (TAG, b"5")))
        self.assertEqual(answers, [("receipt", [b"%d" % number, None, None]) for number in range(1, 6)])

    def test_packets(self) -> None:
        """Packets come in any order, unknown ones often and up to 99 in all; known ones once."""
        unknown = [(kind, b"") for kind in range(19, 99)]
        answers = self.peer.says(frame(1, (CONTENT, b"x"), *unknown, (TAG, b"1"), *[(42, b"?" * 8192)] * 16, (QUEUE, b"q")))
        self.assertEqual([contents[0] for _, contents in answers], [b"1"])
        for kind in QUEUE, CONTENT, TTL, DELAY, LEVEL, HEADERS, KEY, TAG:
            peer = Peer(self.broker)
            [(_, contents)] = peer.says(frame(1, (QUEUE, b"q"), (CONTENT, b"x"), (kind, b"1"), (kind, b"1")))
            self.assertEqual((contents[0], contents[2]), (b"bad-frame", None), kind)
        [(_, contents)] = self.peer.says(frame(1, (QUEUE, b"q"), (CONTENT, b"x"), (42, b"?" * 8193)))
        self.assertEqual(contents[0], b"too-large")

    def test_numbers(self) -> None:
        """Seconds are digits with at most one dot between them; however large or small, they are understood."""
        for kind, packets in (1, ((QUEUE, b"q"), (CONTENT, b"x"))), (2, ((QUEUE, b"q"), (COUNT, b"1"))), (5, ((ID, b"none"),)):
            for number in {1: (TTL, DELAY), 2: (LEASE,), 5: (TTL, DELAY)}[kind]:
                for good in b"0", b"00", b"0.0", b"0.0000000000000001", b"9" * 20, b"1" * 9 + b"." + b"1" * 10, b"007.50":
                    answers = Peer(self.broker).says(frame(kind, *packets, (number, good), (TAG, b"1")))
                    self.assertEqual(answers[0][1][-1 if answers[0][0] == "refused" else 0], b"1", (kind, number, good))
                for bad in b"", b".", b"1.", b".5", b"1.2.3", b"-1", b"+1", b"1e5", b"nan", b"inf", b"1_0", b" 1", b"1\n", b"\xb2", b"0x1":
                    [(_, contents)] = Peer(self.broker).says(frame(kind, *packets, (number, bad), (TAG, b"1")))
                    self.assertEqual((contents[0], contents[2]), (b"bad-frame", None), (kind, number, bad))
                [(_, contents)] = Peer(self.broker).says(frame(kind, *packets, (number, b"9" * 21), (TAG, b"1")))
                self.assertEqual(contents[0], b"too-large")

    def test_largest_numbers(self) -> None:
        """What lasts for ever or never begins does so, also over a restart."""
        largest = b"9" * 20
        self.peer.says(send(b"long", (TTL, largest)), send(b"late", (DELAY, largest), (TTL, largest)), consume(9, (LEASE, largest)))
        self.now += 10**12
        self.broker.tick()
        self.broker.sweep()
        self.assertEqual([message.body for message in self.peer.session.channel.unacked.values()], [b"long"])
        [message_id] = self.peer.session.channel.unacked
        self.peer.says(frame(9, (ID, message_id)), frame(5, (ID, message_id), (TTL, largest), (DELAY, largest)))
        self.store.write()
        again = Broker(self.store, lambda: self.now)
        self.assertEqual((again.queues["q"].delayed, again.memory.used), (2, self.broker.memory.used))

    def test_bad_headers(self) -> None:
        """Headers are a JSON object of strings, in UTF-8, or empty."""
        for good in b"", b"{}", b' {"a" : "\\u00e9"}\n', '{"ä": "€"}'.encode():
            self.assertEqual(Peer(self.broker).says(send(b"x", (HEADERS, good), (TAG, b"1")))[0][0], "receipt", good)
        for bad in (
            b"[]",
            b'"a"',
            b'{"a": null}',
            b'{"a": {"b": "c"}}',
            b'{"a": NaN}',
            b'{"a": "b"',
            b"[" * 8000,
            b'{"a": ' + b"1" * 8000 + b"}",
            '{"a": "b"}'.encode("utf-16-le"),
            b'{"a": "\xff"}',
        ):
            [(_, contents)] = Peer(self.broker).says(send(b"x", (HEADERS, bad), (TAG, b"1")))
            self.assertEqual((contents[0], contents[2]), (b"bad-frame", None), bad)

    def test_other_version_later(self) -> None:
        """The first frame decides: a frame of the other version is an error from then on."""
        for first, other in (send(b"1"), wire.send("q", b"2")), (wire.send("q", b"1"), send(b"2")), (wire.consume("r", 1), send(b"2")):
            connection = RecordingConnection()
            Session(self.broker, Versions(), connection).receive(first + other)
            self.assertEqual([type(error) for error in connection.errors], [Unsupported])
        self.assertEqual(self.broker.lifecycle.received, 2)

    def test_both_versions(self) -> None:
        """Clients of both versions share a queue; what version 01 cannot say, it does not get."""
        old = RecordingConnection()
        session = Session(self.broker, Versions(), old)
        session.receive(wire.send("q", b"1") + wire.consume("q", 1))
        self.peer.session.receive(send(b"2", (HEADERS, b'{"a": "b"}'), (TTL, b"1.5"), (KEY, b"k")) + consume(1))
        self.assertEqual([(delivery.content, delivery.ttl) for delivery in wire.deliveries(b"".join(old.writes))], [(b"1", 0)])
        self.assertEqual(self.peer.gets(), [b"2"])
        self.peer.session.close()
        [held] = session.channel.unacked
        session.receive(wire.acknowledge("q", held))
        self.assertEqual([(delivery.content, delivery.ttl) for delivery in wire.deliveries(old.writes[-1])], [(b"2", 2)])
