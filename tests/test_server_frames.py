"""Tests of L{phpmq.server_frames}."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from phpmq.errors import BadFrame, BadName, ProtocolError, Unsupported
from phpmq.frames import CONTENT, COUNT, DEFAULT_LIMITS, TTL, UNKNOWN_LIMIT, FrameDecoder
from phpmq.server_frames import (
    DOCUMENTED,
    ENCODERS_01,
    ORIGINAL,
    Versions,
    encode_delivery_02,
    encode_delivery_documented,
    encode_delivery_original,
    encode_draining,
    encode_refusal,
    milliseconds,
    number,
    queue_name,
)
from tests.conversation import Client, Server
from tests.wire import (
    BAD,
    BAD_02,
    FRAMES,
    GOOD,
    GOOD_02,
    LIMITS,
    PACKETS,
    Delivery,
    Frame,
    Vector,
    as_bytes,
    compose,
    deliveries,
    read,
)

ID = b"d7e7f68761d34838494b233148b5486c"


CLIENT_02 = [vector for vector in GOOD_02 if vector.sender == "client"]


def chunk_sizes(frame: bytes) -> Iterable[int]:
    """Every size in which a frame can be cut; of a long one, those that cut it into many pieces."""
    return range(1, len(frame) + 1) if len(frame) < 1000 else [*range(1, 50), 4096, len(frame)]


class Version01Tests(SynchronousTestCase):
    """L{Versions.version01}."""

    def test_recorded_clients(self) -> None:
        """Each recorded client frame is taken before there is evidence and in its own revision, and refused in the other one."""
        shapes = Versions().version01
        for vector in GOOD:
            if vector.sender != "client":
                continue
            for revision, name in (0, "both"), (ORIGINAL, "original"), (DOCUMENTED, "documented"):
                decoder = FrameDecoder(shapes[revision])
                decoder.receive(vector.frame)
                if revision == 0 or vector.revision in ("both", name):
                    self.assertEqual(len(list(decoder.frames())), 1, vector.name)
                else:
                    self.assertRaises(Unsupported, list, decoder.frames())

    def test_tables(self) -> None:
        """A client can send what the protocol says, and nothing else; deliveries in particular not."""
        common, documented = {b"H0100202", b"H0100402"}, {b"H0100103", b"H0100503", b"H0100602"}
        shapes = Versions().version01
        self.assertEqual(set(shapes[ORIGINAL]), common | {b"H0100102"})
        self.assertEqual(set(shapes[DOCUMENTED]), common | documented)
        self.assertEqual(set(shapes[0]), common | documented | {b"H0100102"})

    def test_same_frame_same_name(self) -> None:
        """A frame has the same name and packets in every table that has it."""
        shapes = Versions().version01
        for revision in ORIGINAL, DOCUMENTED:
            for header, shape in shapes[revision].items():
                self.assertEqual((shape.name, shape.packets), (shapes[0][header].name, shapes[0][header].packets))

    def test_limits_are_not_shared(self) -> None:
        """A server with a limit of its own leaves the usual ones alone."""
        Versions(max_message_size=1)
        self.assertEqual(DEFAULT_LIMITS[CONTENT], 16 * 1024 * 1024)
        self.assertEqual((DEFAULT_LIMITS[COUNT], DEFAULT_LIMITS[TTL]), (20, 20))


class Version02Tests(SynchronousTestCase):
    """L{Versions.version02}."""

    def test_tables(self) -> None:
        """A client can send what the protocol says: each type with the packets that it needs, others, up to 99 in all, and nothing else."""
        expected = {
            b"H02%03d%02d" % (kind.type, count): (
                name,
                tuple(PACKETS[field] for field in kind.required + kind.optional),
                len(kind.required),
            )
            for name, kind in FRAMES.items()
            if kind.sender == "client"
            for count in range(len(kind.required), 100)
        }
        shapes = Versions().version02
        self.assertEqual({header: (shape.name, shape.packets, shape.required) for header, shape in shapes.items()}, expected)

    def test_limits_are_not_shared(self) -> None:
        """A server with a limit of its own leaves the usual ones alone."""
        Versions(max_message_size=1)
        self.assertEqual({packet: DEFAULT_LIMITS.get(packet, UNKNOWN_LIMIT) for packet in LIMITS}, LIMITS)


class QueueNameTests(SynchronousTestCase):
    """L{queue_name}."""

    def test_utf8(self) -> None:
        """Bytes of UTF-8 become the name that they spell."""
        for name in "Foo", "a/b %d <b>é", "очередь", "🐘", "123":
            self.assertEqual(queue_name(name.encode()), name)

    def test_not_utf8(self) -> None:
        """Other bytes are refused: stray, cut short, overlong, surrogates, beyond Unicode."""
        for content in b"\xff\xfe", b"\x80", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"ok\xe9":
            self.assertRaises(BadName, queue_name, content)

    def test_checked(self) -> None:
        """A name that no queue may have is refused, also the second time."""
        for content in b"", b"a\x1b[31mb", b"\n", b"\x7f", "\x85".encode(), "\u2028".encode(), b"x" * 256:
            for _ in range(2):
                self.assertRaises(BadName, queue_name, content)


class NumberTests(SynchronousTestCase):
    """L{number}."""

    def test_digits(self) -> None:
        """ASCII digits are a number, with leading zeros too, up to the longest that a packet can hold."""
        self.assertEqual([number(content) for content in (b"0", b"5", b"007", b"3600")], [0, 5, 7, 3600])
        self.assertEqual(number(b"9" * 20), 10**20 - 1)

    def test_nothing_else(self) -> None:
        """What C{int} might take as well is refused."""
        for content in b"", b"+5", b"-1", b"1_0", b" 5", b"5 ", b"5\n", b"1.5", b"0x1", b"1e3", b"\xb2", "\u0665".encode(), b"many":
            self.assertRaises(BadFrame, number, content)


class MillisecondsTests(SynchronousTestCase):
    """L{milliseconds}."""

    def test_seconds(self) -> None:
        """Seconds with or without decimals; what is above 0 is at least a millisecond."""
        cases = {b"0": 0, b"0.000": 0, b"1": 1000, b"1.5": 1500, b"0007.50": 7500, b"0.0001": 1, b"0.0016": 2, b"3600.000": 3_600_000}
        for content, expected in cases.items():
            self.assertEqual(milliseconds(content), expected, content)
        self.assertGreater(milliseconds(b"9" * 20), 10**22)
        self.assertEqual(milliseconds(None), 0)


class BadContentTests(SynchronousTestCase):
    """Recorded frames whose packets are well-formed."""

    def test_recorded(self) -> None:
        """Each recorded frame with a bad name or number has a code that says so."""
        codes = {}
        for vector in BAD:
            decoder = FrameDecoder(Versions().version01[0])
            decoder.receive(vector.frame)
            try:
                for shape, _, contents in decoder.frames():
                    queue_name(contents[0])
                    for kind, content in zip(shape.packets, contents, strict=True):
                        if kind in (COUNT, TTL):
                            number(content)
            except ProtocolError as error:
                codes[vector.name] = error.code
        self.assertEqual({name for name, code in codes.items() if code == "bad-name"}, {v.name for v in BAD if "queue name" in v.name})
        self.assertEqual(codes, {vector.name: vector.code for vector in BAD})


class ConversationTests(SynchronousTestCase):
    """The recorded frames of version 02 in whole conversations, with a broker and a store."""

    def setUp(self) -> None:
        """Start a server."""
        self.server = Server()
        self.good = {vector.name: vector.frame for vector in GOOD_02}

    def converse(self, start: bytes, frame: bytes, size: int) -> tuple[list[Frame], Client]:
        """What is answered to a frame that comes in chunks after others, once the file is written, and to whom."""
        client = Client(self.server)
        client.says(start)
        client.hears()
        client.says(frame, size)
        if b"synced" in frame:
            self.server.mirror.write()
        client.session.close()
        self.server.broker.queues.flush_all()
        self.server.broker.dispatch()
        return read(client.hears()), client

    def before(self, vector: Vector) -> bytes:
        """What comes before a bad frame: without any, the server would not know yet in which version to answer."""
        return compose("hello", tag="first") + self.good.get(vector.after, b"")

    def test_good(self) -> None:
        """A good frame is taken, however it is cut and also as the first one; it is answered once if it has a tag, and else not at all."""
        for vector in CLIENT_02:
            # Of the frames that name an id, none is of a message that is in flight here.
            names = ["refused" if "id" in vector.fields else "receipt"] if "tag" in vector.fields else []
            for start in b"", compose("hello", tag="first"):
                for size in chunk_sizes(vector.frame):
                    answers, client = self.converse(start, vector.frame, size)
                    answers = [answer for answer in answers if answer.name != "deliver"]
                    self.assertEqual([answer.name for answer in answers], names, (vector.name, size))
                    self.assertEqual(client.errors, [], vector.name)
                    for answer in answers:
                        self.assertEqual(answer.fields["tag"], as_bytes(vector.fields["tag"]), vector.name)
                        self.assertEqual(answer.fields.get("code", b"unknown-id"), b"unknown-id")

    def test_bad(self) -> None:
        """A bad frame is refused with its code, however it is cut: with its tag where it says so, and else for good."""
        for vector in BAD_02:
            start, received = self.before(vector), self.server.broker.lifecycle.received
            for size in chunk_sizes(vector.frame):
                answers, client = self.converse(start, vector.frame, size)
                self.assert_refused(vector, answers, client)
            self.assertEqual(self.server.broker.lifecycle.received, received, vector.name)

    def test_bad_with_trailing_bytes(self) -> None:
        """What comes with a bad frame is carried out if that had its tag, and else not."""
        for vector in BAD_02:
            received = self.server.broker.lifecycle.received
            answers, client = self.converse(self.before(vector), vector.frame + self.good["send in 02"], 1 << 20)
            self.assert_refused(vector, answers, client)
            self.assertEqual(self.server.broker.lifecycle.received - received, vector.tag is not None, vector.name)

    @settings(deadline=None, database=None, max_examples=300)
    @given(st.lists(st.sampled_from(CLIENT_02), min_size=1, max_size=4), st.data())
    def test_damage(self, vectors: list[Vector], data: st.DataObject) -> None:
        """Frames, the last one damaged, are answered the same way at once and byte by byte; nothing comes after a refusal for good."""
        frame = vectors[-1].frame
        place = data.draw(st.integers(0, len(frame) - 1))
        damaged = frame[:place] + data.draw(st.binary(max_size=6)) + frame[place + data.draw(st.integers(0, 6)) :]
        stream = b"".join(vector.frame for vector in vectors[:-1]) + damaged + compose("hello", tag="last")
        outcomes = []
        for size in len(stream), 1:
            answers, client = self.converse(compose("hello", tag="first"), stream, size)
            told = [(name, fields.get("code"), fields.get("tag")) for name, fields in answers if name != "deliver"]
            outcomes.append((told, [str(error) for error in client.errors]))
            if client.errors:
                self.assertEqual((told[-1][0], told[-1][2]), ("refused", None))
        self.assertEqual(*outcomes)

    def assert_refused(self, vector: Vector, answers: list[Frame], client: Client) -> None:
        """See that this is the answer to a bad frame."""
        [(name, fields)] = answers
        self.assertEqual((name, fields["code"]), ("refused", vector.code.encode()), vector.name)
        self.assertTrue(fields["reason"].decode(), vector.name)
        tag = None if vector.tag is None else vector.tag.encode()
        self.assertEqual(fields.get("tag"), tag, vector.name)
        self.assertEqual(len(client.errors), vector.tag is None, vector.name)

    def test_bad_before_version_01(self) -> None:
        """Frames of version 02 on a connection of version 01 are refused without an answer."""
        for vector in GOOD_02:
            client = Client(self.server)
            client.says(GOOD[0].frame + vector.frame)
            self.assertEqual([type(error) for error in client.errors], [Unsupported], vector.name)
            self.assertEqual(client.hears(), b"")


class EncodeDeliveryTests(SynchronousTestCase):
    """L{encode_delivery}."""

    def test_recorded(self) -> None:
        """A delivery has the very bytes that were recorded, in both revisions."""
        recorded = {vector.revision: vector.frame for vector in GOOD if vector.sender == "server"}
        original = encode_delivery_original("Foo", b"Hello World", ID, 1, 0, b"")
        documented = encode_delivery_documented("Foo", b"Hello World", ID, 1, 3_300_000, b"")
        self.assertEqual({"original": b"".join(original), "documented": b"".join(documented)}, recorded)

    def test_ttl_rounded_up(self) -> None:
        """What is left is told in seconds, rounded up, so that 0 always and only means a message that does not expire."""
        for left, seconds in (0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2), (3_599_001, 3600), (10**15, 10**12):
            (delivery,) = deliveries(b"".join(encode_delivery_documented("q", b"", ID, 1, left, b"")))
            self.assertEqual(delivery.ttl, seconds)

    def test_original_has_no_ttl(self) -> None:
        """A client of the original revision is not told what is left."""
        self.assertEqual(deliveries(b"".join(encode_delivery_original("q", b"x", ID, 1, 5000, b""))), [Delivery("q", b"x", ID, None)])

    def test_recorded_02(self) -> None:
        """What a server says in version 02 has the very bytes that were recorded, but for packets that no server sends yet."""
        names = {kind.type: name for name, kind in FRAMES.items()}
        seen = set()
        for vector in GOOD_02:
            if vector.sender == "server":
                name = names[vector.type]
                frame = self.encode(name, vector.fields)
                self.assertEqual(read(frame), read(vector.frame), vector.name)
                if "unknown" not in vector.name:
                    self.assertEqual(frame, vector.frame, vector.name)
                    seen.add((name, *vector.fields))
        self.assertEqual(len(seen), 4 + 4 + 2 + 1, "a combination of packets has no vector")

    def encode(self, name: str, fields: Mapping[str, Any]) -> bytes:
        """A frame as a server writes it."""
        if name == "deliver":
            texts = fields["queue"], fields["content"].encode(), fields["id"].encode()
            ttl = round(float(fields.get("ttl", 0)) * 1000)
            return b"".join(encode_delivery_02(*texts, fields["attempts"], ttl, fields.get("headers", "").encode()))
        if name == "receipt":
            client = Client(Server())
            client.says(compose("hello", tag="first"))
            client.hears()
            client.session.receipt(fields["tag"].encode(), fields.get("id", "").encode(), "duplicate" in fields)
            client.session.flush()
            return client.hears()
        if name == "refused":
            return encode_refusal(fields["tag"].encode() if "tag" in fields else None, fields["code"], fields["reason"])
        return encode_draining(fields["reason"])

    def test_any_content(self) -> None:
        """Names of any script and bodies of any bytes and size arrive as they are."""
        for name in "q", "a/b %d <b>é", "🐘":
            for body in b"", b"\0\xff\r\n", b"H0100103P01", b"x" * 100_000:
                for revision, ttl in (ORIGINAL, None), (DOCUMENTED, 0):
                    (delivery,) = deliveries(b"".join(ENCODERS_01[revision](name, body, ID, 1, 0, b"")))
                    self.assertEqual(delivery, Delivery(name, body, ID, ttl))
