"""Tests of L{phpmq.frames}."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from phpmq import frames
from phpmq.errors import BadFrame, ProtocolError, TooLarge, Unsupported
from phpmq.frames import (
    ATTEMPTS,
    CODE,
    CONTENT,
    COUNT,
    DEFAULT_LIMITS,
    DUPLICATE,
    HEADERS,
    ID,
    MAX_PACKETS,
    QUEUE,
    REASON,
    TAG,
    TTL,
    FrameDecoder,
    FrameShape,
    open_shapes,
)
from phpmq.server_frames import DOCUMENTED, ORIGINAL, Versions, number, queue_name
from tests import wire
from tests.wire import BAD, BAD_02, FRAMES, GOOD, GOOD_02, LIMITS, PACKETS, Vector

SHAPES: Mapping[bytes, FrameShape] = {
    **Versions().version01[0],
    # What a client would have to understand.
    b"H0100303": FrameShape("deliver original", b"H0100303", (QUEUE, CONTENT, ID), DEFAULT_LIMITS),
    b"H0100304": FrameShape("deliver", b"H0100304", (QUEUE, CONTENT, ID, TTL), DEFAULT_LIMITS),
}

#: What a server of version 02 takes.
SHAPES_02: Mapping[bytes, FrameShape] = Versions().version02

#: The frames of both versions in both directions.
ALL_SHAPES: Mapping[bytes, FrameShape] = {
    **SHAPES,
    **SHAPES_02,
    **open_shapes(
        (
            ("deliver", 3, (QUEUE, CONTENT, ID, ATTEMPTS), (TTL, HEADERS)),
            ("receipt", 7, (TAG,), (ID, DUPLICATE)),
            ("refused", 8, (CODE, REASON), (TAG,)),
            ("draining", 11, (REASON,), ()),
        ),
        DEFAULT_LIMITS,
    ),
}

NAMES = {kind: name for name, kind in PACKETS.items()}

CLIENT = [vector for vector in GOOD if vector.sender == "client"]
CLIENT_02 = [vector for vector in GOOD_02 if vector.sender == "client"]

# What a decoder that knows packets, but not what they mean, cannot see.
FAULTS_IN_CONTENT = {
    "empty queue name",
    "control character in queue name",
    "queue name is not UTF-8",
    "count is not a number",
    "negative count",
    "empty count",
    "ttl is not a number",
}


def decoder(revision: int = 0) -> FrameDecoder:
    """A server's decoder."""
    return FrameDecoder(Versions().version01[revision])


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """The data in chunks."""
    return (data[start : start + size] for start in range(0, len(data), size))


def feed(decoder: FrameDecoder, chunks: Iterator[bytes] | Sequence[bytes]) -> list[tuple[str, list[bytes]]]:
    """What a decoder makes of chunks."""
    result = []
    for chunk in chunks:
        decoder.receive(chunk)
        result += [(shape.name, contents) for shape, _, contents in decoder.frames()]
    return result


def expected(vector: Vector) -> list[bytes | None]:
    """The contents that a decoder has to find in a good vector; None for a packet that is missing."""
    names = [NAMES[packet] for packet in ALL_SHAPES[vector.frame[:8]].packets]
    return [wire.as_bytes(vector.fields[name]) if name in vector.fields else None for name in names]


def understand(shape: FrameShape, contents: list[bytes]) -> None:
    """Look at the contents of a frame as a server does."""
    for packet, content in zip(shape.packets, contents, strict=True):
        if packet == QUEUE:
            queue_name(content)
        elif packet in (COUNT, TTL):
            number(content)


class VectorTests(SynchronousTestCase):
    """The recorded frames."""

    def test_good_in_every_chunk_size(self) -> None:
        """A good frame gives the same contents however it is cut, and leaves nothing behind."""
        for vector in GOOD + GOOD_02:
            right = [(ALL_SHAPES[vector.frame[:8]].name, expected(vector))]
            for size in range(1, len(vector.frame) + 1):
                subject = FrameDecoder(ALL_SHAPES)
                result = feed(subject, cut(vector.frame, size))
                self.assertEqual(result, right, (vector.name, size))
                self.assertEqual(subject.pending, 0)

    def test_good_with_trailing_bytes(self) -> None:
        """A good frame is handed out at once, whatever part of the next one came along; that part is kept."""
        for vector in GOOD + GOOD_02:
            frame, right = vector.frame, expected(vector)
            for trailing in range(1, len(frame)):
                subject = FrameDecoder(ALL_SHAPES)
                self.assertEqual(len(feed(subject, [frame + frame[:trailing]])), 1, (vector.name, trailing))
                self.assertEqual(subject.pending, trailing)
                self.assertEqual(feed(subject, [frame[trailing:]])[0][1], right)
                self.assertEqual(subject.pending, 0)

    def test_good_not_before_the_end(self) -> None:
        """No part of a good frame is taken for a frame, and its bytes are accounted for meanwhile."""
        for vector in GOOD + GOOD_02:
            subject = FrameDecoder(ALL_SHAPES)
            for place, byte in enumerate(cut(vector.frame[:-1], 1), 1):
                self.assertEqual(feed(subject, [byte]), [])
                self.assertEqual(subject.pending, place)

    def test_bad_in_every_chunk_size(self) -> None:
        """A bad frame is refused, for the same reason however it is cut, also when more follows."""
        for vector in BAD:
            reasons = set()
            for data in vector.frame, vector.frame + CLIENT[0].frame:
                for size in range(1, len(data) + 1):
                    reasons.add(self.refusal(data, size, vector.name))
            self.assertEqual(len(reasons), 1, (vector.name, reasons))

    def test_bad_02_in_every_chunk_size(self) -> None:
        """
        A bad frame of version 02 that is not even well-formed is refused on the byte that shows it, with its code, however it is cut and
        whatever follows. The others are handed out as they are: the fault is in what a packet says.
        """
        well_formed = set()
        for vector in BAD_02:
            try:
                [(name, fields)] = wire.read(vector.frame, "client")
            except (AssertionError, ValueError):
                self.assert_refused_02(vector)
                continue
            well_formed.add(vector.name)
            names = [NAMES[packet] for packet in SHAPES_02[vector.frame[:8]].packets]
            right = [(name, [fields.get(name) for name in names])]
            for size in range(1, len(vector.frame) + 1):
                self.assertEqual(feed(FrameDecoder(SHAPES_02), cut(vector.frame, size)), right, (vector.name, size))
        self.assertEqual({vector.code for vector in BAD_02 if vector.name in well_formed}, {"bad-frame", "bad-name", "unknown-id"})
        self.assertEqual({v.code for v in BAD_02 if v.name not in well_formed}, {"bad-frame", "unsupported", "too-large"})

    def assert_refused_02(self, vector: Vector) -> None:
        """See that a frame is refused on its last byte, or on its first one if that starts no frame."""
        frame = vector.frame if vector.frame.startswith(b"H") else vector.frame[:1]
        for data in frame, vector.frame + CLIENT_02[0].frame:
            for size in range(1, len(data) + 1):
                subject = FrameDecoder(SHAPES_02)
                received = 0
                with self.assertRaises(ProtocolError) as caught:
                    for chunk in cut(data, size):
                        received += len(chunk)
                        subject.receive(chunk)
                        self.assertEqual(list(subject.frames()), [], vector.name)
                self.assertEqual(caught.exception.code, vector.code, vector.name)
                # With the chunk that had the byte, not a later one.
                self.assertTrue(len(frame) <= received < len(frame) + size, (vector.name, size))

    def refusal(self, data: bytes, size: int, name: str) -> tuple[type[Exception], str]:
        """Why the data is refused."""
        subject = decoder()
        try:
            for chunk in cut(data, size):
                subject.receive(chunk)
                for shape, _, contents in subject.frames():
                    self.assertIn(name, FAULTS_IN_CONTENT)
                    understand(shape, contents)
                    self.fail(f"{name} was understood")
        except ProtocolError as error:
            return type(error), str(error)
        self.fail(f"{name} was not refused")

    def test_good_before_bad(self) -> None:
        """Good frames that came before a bad one, in the same chunk, are handed out before it is refused."""
        for vector in BAD:
            if vector.name in FAULTS_IN_CONTENT:
                continue
            subject = decoder()
            subject.receive(CLIENT[0].frame * 3 + vector.frame)
            found = subject.frames()
            for _ in range(3):
                self.assertEqual(next(found)[2], expected(CLIENT[0]))
            self.assertRaises(ProtocolError, next, found)

    def test_one_after_the_other(self) -> None:
        """All good frames of version 02, twice in one chunk and in both orders, come out as if each had come alone."""
        for vectors in CLIENT_02, CLIENT_02[::-1]:
            subject = FrameDecoder(SHAPES_02)
            stream = b"".join(vector.frame * 2 for vector in vectors)
            got = feed(subject, [stream])
            self.assertEqual([contents for _, contents in got], [expected(vector) for vector in vectors for _ in range(2)])
            self.assertEqual(subject.pending, 0)


class RefusalTests(SynchronousTestCase):
    """What is refused, and how early."""

    def refused(self, error: type[Exception], data: bytes, subject: FrameDecoder | None = None) -> None:
        """The data is refused once it is complete, in one piece or byte by byte, and not earlier."""
        for chunks in [data], list(cut(data, 1)):
            fresh = FrameDecoder(subject.shapes) if subject is not None else decoder()
            feed(fresh, chunks[:-1])
            self.assertRaises(error, feed, fresh, chunks[-1:])

    def test_header_alone(self) -> None:
        """Version, type and packet count are judged on the eight bytes of the header, and nothing of the frame is kept."""
        for header in b"H0000102", b"H0200102", b"H0300102", b"H9900102":
            self.refused(Unsupported, header)
        for kind in 0, 3, 7, 8, 10, 100, 999:
            for count in range(6):
                self.refused(Unsupported, b"H01%03d%02d" % (kind, count))
        for header in b"H0100101", b"H0100104", b"H0100201", b"H0100203", b"H0100403", b"H0100502", b"H0100603":
            self.refused(Unsupported, header)
        subject = decoder()
        self.assertRaises(Unsupported, feed, subject, [b"H0100105"])
        self.assertLessEqual(subject.pending, 8)

    def test_header_alone_02(self) -> None:
        """In version 02 the type and too small a count are judged on the header; more packets than the table has are welcome, up to 99."""
        least = {kind.type: len(kind.required) for kind in FRAMES.values() if kind.sender == "client"}
        for kind in range(20):
            for count in range(MAX_PACKETS + 1):
                header = b"H02%03d%02d" % (kind, count)
                if kind in least and count >= least[kind]:
                    subject = FrameDecoder(SHAPES_02)
                    self.assertEqual(feed(subject, [header]), [])
                    self.assertEqual(subject.pending, 8)
                else:
                    self.refused(Unsupported, header, FrameDecoder(SHAPES_02))

    def test_length_limit_02(self) -> None:
        """In version 02 every packet has its limit, whatever frame it is in and whether it belongs there or not."""
        for kind in FRAMES.values():
            if kind.sender == "client":
                header = b"H02%03d%02d" % (kind.type, MAX_PACKETS)
                for packet in range(100):
                    limit = LIMITS.get(packet, LIMITS[0])
                    fits, above = (header + b"P%02d%029d" % (packet, limit + more) for more in (0, 1))
                    self.assertEqual(feed(FrameDecoder(SHAPES_02), [fits]), [])
                    self.refused(TooLarge, above, FrameDecoder(SHAPES_02))

    def test_most_packets(self) -> None:
        """A frame of 99 packets, most of them unknown, is taken."""
        packets = [wire.packet(19 + number % 80, b"%d" % number) for number in range(MAX_PACKETS - 3)]
        packets[50:50] = [wire.packet(TAG, b"t"), wire.packet(CONTENT, b"x"), wire.packet(QUEUE, b"q")]
        [(name, contents)] = feed(FrameDecoder(SHAPES_02), [wire.frame(1, *packets, version=2)])
        self.assertEqual((name, contents), ("send", [b"q", b"x", None, None, None, None, None, b"t"]))

    def test_not_a_frame(self) -> None:
        """What does not start like a frame is refused on its first byte, so that nobody waits for seven more."""
        for start in range(256):
            if start != ord("H"):
                self.refused(BadFrame, bytes([start]))
                self.assertRaises(BadFrame, feed, decoder(), [CLIENT[0].frame + bytes([start])])

    def test_digits_only(self) -> None:
        """In headers a number is ASCII digits and nothing else that Python would take for one."""
        for text in b"+100102", b" 100102", b"0_00102", b"01abc02", "\u0660100102".encode()[:7]:
            self.refused(BadFrame, b"H" + text)
        start = b"H0100202P01"
        for text in b"+3", b" 3", b"3 ", b"_3", b"-3", b"3.", b"\xb2\xb3", b"0x":
            self.refused(BadFrame, start + b"0" * 27 + text)

    def test_length_limit(self) -> None:
        """A length at its packet type's limit is awaited, one above is refused on the packet header, before any content."""
        limits = {QUEUE: 255, CONTENT: 16 * 1024 * 1024, ID: 64, COUNT: 20, TTL: 20}
        for shape in Versions().version01[0].values():
            for packet in shape.packets:
                fits, above = (shape.header + b"P%02d%029d" % (packet, limits[packet] + more) for more in (0, 1))
                subject = decoder()
                self.assertEqual(feed(subject, [fits]), [])
                self.assertEqual(subject.pending, 40)
                self.refused(TooLarge, above)
                self.refused(TooLarge, shape.header + b"P%02d" % packet + b"9" * 29)

    def test_limit_of_content_is_a_setting(self) -> None:
        """A server may take longer or shorter messages than is usual."""
        subject = FrameDecoder(Versions(max_message_size=10).version01[0])
        self.assertEqual(len(feed(subject, [wire.send("q", b"x" * 10)])), 1)
        self.refused(TooLarge, b"H0100103P02%029d" % 11, subject)

    def test_repeated_packet(self) -> None:
        """A packet that repeats another is refused on its header: the frame can only lack one."""
        for shape in Versions().version01[0].values():
            for packet in shape.packets:
                self.refused(BadFrame, shape.header + wire.packet(packet, b"1") + b"P%02d%029d" % (packet, 1))

    def test_foreign_packet(self) -> None:
        """A packet that does not belong to the frame is refused on its header."""
        for shape in Versions().version01[0].values():
            for packet in set(range(100)) - set(shape.packets):
                self.refused(BadFrame, shape.header + b"P%02d%029d" % (packet, 1))

    def test_other_revision(self) -> None:
        """Once the revision is known, the frames of the other one are refused on their header."""
        self.refused(Unsupported, b"H0100103", decoder(ORIGINAL))
        self.refused(Unsupported, b"H0100503", decoder(ORIGINAL))
        self.refused(Unsupported, b"H0100602", decoder(ORIGINAL))
        self.refused(Unsupported, b"H0100102", decoder(DOCUMENTED))


class FrameDecoderTests(SynchronousTestCase):
    """The rest of L{FrameDecoder}."""

    def test_any_order(self) -> None:
        """Packets may come in any order; contents are handed out in the one of the table."""
        packets = [wire.packet(QUEUE, b"Foo"), wire.packet(CONTENT, b"x"), wire.packet(TTL, b"7")]
        for order in permutations(packets):
            self.assertEqual(feed(decoder(), [wire.frame(1, *order)]), [("send", [b"Foo", b"x", b"7"])])

    def test_content_is_opaque(self) -> None:
        """Content that looks like frames is content."""
        body = wire.send("q", b"H0100103P0") + b"\0\r\nH"
        for size in 1, 7, 1000:
            self.assertEqual(feed(decoder(), cut(wire.send("q", body), size)), [("send", [b"q", body, b"0"])])

    def test_many_at_once(self) -> None:
        """Ten thousand frames in one chunk come out in order."""
        data = b"".join(wire.send("q", b"%d" % index) for index in range(10_000))
        self.assertEqual([contents[1] for _, contents in feed(decoder(), [data])], [b"%d" % index for index in range(10_000)])

    def test_stop_and_go_on(self) -> None:
        """Who stops after a frame gets the next one later, before what came meanwhile."""
        bodies = [b"%d" % index for index in range(6)]
        subject = decoder()
        subject.receive(b"".join(wire.send("q", body) for body in bodies[:4]))
        got = [next(subject.frames())[2][1], next(subject.frames())[2][1]]
        subject.receive(b"".join(wire.send("q", body) for body in bodies[4:]))
        got += [contents[1] for _, _, contents in subject.frames()]
        self.assertEqual(got, bodies)

    def test_unread(self) -> None:
        """A frame that was put back comes again, first, as often as it is put back; meanwhile it is pending."""
        subject = decoder()
        first, second = wire.send("q", b"a"), wire.send("q", b"b")
        subject.receive(first + second + b"H01")
        for _ in range(3):
            _, start, contents = next(subject.frames())
            self.assertEqual(contents[1], b"a")
            subject.unread(start)
            self.assertEqual(subject.pending, len(first + second) + 3)
        self.assertEqual([contents[1] for _, _, contents in subject.frames()], [b"a", b"b"])
        self.assertEqual(subject.pending, 3)

    def test_shapes_between_frames(self) -> None:
        """What the peer may send can change at a frame, also for those that are received already."""
        version = Versions()
        subject = FrameDecoder(version.version01[0])
        subject.receive(wire.send("q", b"a") + wire.send("q", b"b", ttl=None))
        found = subject.frames()
        next(found)
        subject.shapes = version.version01[DOCUMENTED]
        self.assertRaises(Unsupported, next, found)

    def test_remembered_headers_are_bounded(self) -> None:
        """Packet headers are remembered to be quick, but not without limit."""
        version = Versions()
        subject = FrameDecoder(version.version01[0])
        shape = version.version01[0][b"H0100103"]
        for size in range(5000):
            feed(subject, [wire.send("q", b"x" * size)])
        self.assertLessEqual(len(shape.known), 4096)
        self.assertEqual(feed(subject, [wire.send("q", b"x")]), [("send", [b"q", b"x", b"0"])])


class CostTests(SynchronousTestCase):
    """The decoder's work, in bytes that it copies."""

    def copied(self, data: bytes, size: int) -> int:
        """How many bytes are copied to decode the data in chunks of a size."""
        total = 0

        class Counted(bytes):
            """Bytes that count what is taken out of them and what they are joined with."""

            def __getitem__(self, key: object) -> object:  # type: ignore[override]
                nonlocal total
                result = super().__getitem__(key)  # type: ignore[call-overload]
                total += len(result) if isinstance(key, slice) else 0
                return result

            def __add__(self, other: object) -> Counted:
                return Counted(super().__add__(other))  # type: ignore[operator]

            def __new__(cls, content: bytes) -> Counted:
                nonlocal total
                total += len(content)
                return super().__new__(cls, content)

        class CountedArray(bytearray):
            """A bytearray that counts what it is made of and what is added."""

            def __init__(self, content: memoryview) -> None:
                nonlocal total
                total += len(content)
                super().__init__(content)

            def __iadd__(self, other: object) -> CountedArray:
                nonlocal total
                total += len(other)  # type: ignore[arg-type]
                return super().__iadd__(other)  # type: ignore[arg-type]

        names = vars(frames)
        names.update(bytes=Counted, bytearray=CountedArray)
        try:
            subject = FrameDecoder(SHAPES)
            for start in range(0, len(data), size):
                subject.receive(Counted(data[start : start + size]))
                for _ in subject.frames():
                    pass
        finally:
            del names["bytes"], names["bytearray"]
        self.assertEqual(subject.pending, 0)
        return total

    def assert_linear(self, data: bytes) -> None:
        """However the data is cut, each of its bytes is copied a few times at most."""
        for size in 1, 2, 31, 1000, 4096, len(data):
            copied = self.copied(data, size)
            self.assertGreaterEqual(copied, len(data))
            self.assertLess(copied, 20 * len(data), size)

    def test_many_small_frames(self) -> None:
        """A thousand small frames."""
        self.assert_linear(wire.send("q", b"x" * 10) * 1000)

    def test_one_large_frame(self) -> None:
        """One large frame, with its content first so that packets follow it."""
        packets = wire.packet(CONTENT, b"x" * 200_000), wire.packet(TTL, b"0"), wire.packet(QUEUE, b"q")
        self.assert_linear(wire.frame(1, *packets))

    def test_small_frames_then_a_large_one(self) -> None:
        """An unfinished large frame is not copied again for what came before it."""
        self.assert_linear(wire.send("q", b"x") * 500 + wire.send("q", b"y" * 100_000))


_names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=60)
_bodies = st.binary(max_size=300)
_ids = st.binary(max_size=64)
_numbers = st.integers(0, 10**20 - 1).map(lambda value: b"%d" % value)
_values = {QUEUE: _names.map(str.encode), CONTENT: _bodies, ID: _ids, COUNT: _numbers, TTL: _numbers}


@st.composite
def _frame(draw: st.DrawFn) -> tuple[bytes, tuple[str, list[bytes]]]:
    """A frame with its packets in any order, and what a decoder should make of it."""
    shape = draw(st.sampled_from(list(SHAPES.values())))
    contents = [draw(_values[packet]) for packet in shape.packets]
    packets = draw(st.permutations([wire.packet(kind, content) for kind, content in zip(shape.packets, contents, strict=True)]))
    return shape.header + b"".join(packets), (shape.name, contents)


_tags = st.binary(max_size=64)
_texts = st.text(max_size=20).map(str.encode)
_values_02 = {
    "queue": _values[QUEUE],
    "content": _bodies,
    "id": _ids,
    "count": _numbers,
    "ttl": _numbers,
    "delay": st.decimals(0, 10**6, places=3).map(lambda value: f"{value:.3f}".encode()),
    "lease": _numbers,
    "level": st.sampled_from([b"stored", b"synced"]),
    "headers": st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3).map(lambda value: json.dumps(value).encode()),
    "key": _texts,
    "tag": _tags,
    "reason": _texts,
    "producer": st.binary(min_size=1, max_size=64),
    "user": _texts,
    "secret": _texts,
}


@st.composite
def _frame_02(draw: st.DrawFn) -> tuple[bytes, tuple[str, list[bytes | None]]]:
    """A frame of version 02 with some optional packets, packets to ignore, all in any order, and what a decoder should make of it."""
    name = draw(st.sampled_from([name for name, kind in FRAMES.items() if kind.sender == "client"]))
    kind = FRAMES[name]
    there = set(kind.required) | draw(st.sets(st.sampled_from(kind.optional)))
    fields = {field: draw(_values_02[field]) for field in kind.required + kind.optional if field in there}
    foreign = [packet for packet in range(100) if NAMES.get(packet) not in kind.required + kind.optional]
    ignored = draw(st.lists(st.tuples(st.sampled_from(foreign), st.binary(max_size=1)), max_size=5))
    packets = [wire.packet(PACKETS[field], content) for field, content in fields.items()]
    packets = draw(st.permutations(packets + [wire.packet(number, content) for number, content in ignored]))
    return wire.frame(kind.type, *packets, version=2), (name, [fields.get(field) for field in kind.required + kind.optional])


@st.composite
def _alike(draw: st.DrawFn) -> list[tuple[bytes, tuple[str, list[bytes | None]]]]:
    """Frames of version 02 that one client would send in a row: the same packets in the same order, with contents that differ or not."""
    shapes = {shape.name: shape for shape in Versions().version02.values()}
    shape = shapes[draw(st.sampled_from(sorted(shapes)))]
    present = [*shape.packets[: shape.required], *draw(st.lists(st.sampled_from([*shape.packets[shape.required :], 77]), unique=True))]
    order = draw(st.permutations(present))
    values = {kind: st.sampled_from([b"", b"a", b"b", b"cc"]) for kind in order}
    frames = []
    for _ in range(draw(st.integers(1, 4))):
        contents = {kind: draw(values[kind]) for kind in order}
        frame = b"H02%03d%02d" % (int(shape.header[3:6]), len(order)) + b"".join(wire.packet(kind, contents[kind]) for kind in order)
        frames.append((frame, (shape.name, [contents.get(kind) for kind in shape.packets])))
    return frames


class PropertyTests(SynchronousTestCase):
    """What holds for any frames."""

    @settings(deadline=None, database=None, max_examples=300)
    @given(st.lists(st.tuples(_frame_02(), st.integers(1, 3)), max_size=8), st.data())
    def test_round_trip_02(self, written: list[tuple[tuple[bytes, tuple[str, list[bytes | None]]], int]], data: st.DataObject) -> None:
        """Any frames of version 02, some of them several times running, cut anywhere, come out as they went in."""
        frames = [frame for frame, times in written for _ in range(times)]
        stream = b"".join(frame for frame, _ in frames)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
        chunks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        subject = FrameDecoder(SHAPES_02)
        self.assertEqual(feed(subject, chunks), [frame for _, frame in frames])
        self.assertEqual(subject.pending, 0)

    @settings(deadline=None, database=None, max_examples=300)
    @given(st.sampled_from(CLIENT_02), st.sampled_from(CLIENT_02), st.data())
    def test_damage_02(self, before: Vector, vector: Vector, data: st.DataObject) -> None:
        """A damaged frame of version 02 after a good one is refused, awaited or understood, the same way at once and byte by byte."""
        place = data.draw(st.integers(0, len(vector.frame) - 1))
        damage = data.draw(st.binary(max_size=6))
        stream = before.frame + vector.frame[:place] + damage + vector.frame[place + data.draw(st.integers(0, 6)) :]
        self.assertEqual(self.outcome([stream], SHAPES_02), self.outcome(list(cut(stream, 1)), SHAPES_02))

    @settings(deadline=None, database=None, max_examples=150)
    @given(st.lists(_frame(), max_size=8), st.data())
    def test_round_trip(self, written: list[tuple[bytes, tuple[str, list[bytes]]]], data: st.DataObject) -> None:
        """Any frames, cut anywhere, come out as they went in."""
        stream = b"".join(frame for frame, _ in written)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
        chunks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        subject = FrameDecoder(SHAPES)
        self.assertEqual(feed(subject, chunks), [frame for _, frame in written])
        self.assertEqual(subject.pending, 0)

    @settings(deadline=None, database=None, max_examples=300)
    @given(st.lists(_alike(), max_size=3), st.integers(1, 200))
    def test_alike(self, runs: list[list[tuple[bytes, tuple[str, list[bytes | None]]]]], size: int) -> None:
        """Frames of version 02 that are like the one before come out as they went in."""
        written = [frame for run in runs for frame in run]
        subject = FrameDecoder(Versions().version02)
        self.assertEqual(feed(subject, cut(b"".join(frame for frame, _ in written), size)), [frame for _, frame in written])
        self.assertEqual(subject.pending, 0)

    @settings(deadline=None, database=None, max_examples=300)
    @given(st.sampled_from(CLIENT), st.data())
    def test_damage(self, vector: Vector, data: st.DataObject) -> None:
        """A damaged frame is refused, awaited or understood, the same way at once and byte by byte, and nothing else happens."""
        place = data.draw(st.integers(0, len(vector.frame) - 1))
        damage = data.draw(st.binary(max_size=6))
        stream = vector.frame[:place] + damage + vector.frame[place + data.draw(st.integers(0, 6)) :]
        self.assertEqual(self.outcome([stream]), self.outcome(list(cut(stream, 1))))

    def outcome(
        self, chunks: list[bytes], shapes: Mapping[bytes, FrameShape] | None = None
    ) -> tuple[list[tuple[str, list[bytes]]], object]:
        """What comes out of chunks, and how it ends."""
        subject = decoder() if shapes is None else FrameDecoder(shapes)
        result: list[tuple[str, list[bytes]]] = []
        try:
            for chunk in chunks:
                subject.receive(chunk)
                for shape, _, contents in subject.frames():
                    result.append((shape.name, contents))
        except ProtocolError as error:
            return result, (type(error), str(error))
        return result, subject.pending
