"""Tests of L{phpmq.commands}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from phpmq.commands import DOCUMENTED, ORIGINAL, Version01, encode_delivery, number, queue_name
from phpmq.errors import BadFrame, BadName, ProtocolError, Unsupported
from phpmq.frames import CONTENT, COUNT, DEFAULT_LIMITS, TTL, FrameDecoder
from tests.wire import BAD, GOOD, Delivery, deliveries

ID = b"d7e7f68761d34838494b233148b5486c"


class Version01Tests(SynchronousTestCase):
    """L{Version01}."""

    def test_recorded_clients(self) -> None:
        """Each recorded client frame is taken before there is evidence and in its own revision, and refused in the other one."""
        shapes = Version01().shapes
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
        shapes = Version01().shapes
        self.assertEqual(set(shapes[ORIGINAL]), common | {b"H0100102"})
        self.assertEqual(set(shapes[DOCUMENTED]), common | documented)
        self.assertEqual(set(shapes[0]), common | documented | {b"H0100102"})

    def test_same_frame_same_name(self) -> None:
        """A frame has the same name and packets in every table that has it."""
        shapes = Version01().shapes
        for revision in ORIGINAL, DOCUMENTED:
            for header, shape in shapes[revision].items():
                self.assertEqual((shape.name, shape.packets), (shapes[0][header].name, shapes[0][header].packets))

    def test_limits_are_not_shared(self) -> None:
        """A server with a limit of its own leaves the usual ones alone."""
        Version01(max_message_size=1)
        self.assertEqual(DEFAULT_LIMITS[CONTENT], 16 * 1024 * 1024)
        self.assertEqual((DEFAULT_LIMITS[COUNT], DEFAULT_LIMITS[TTL]), (20, 20))


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


class BadContentTests(SynchronousTestCase):
    """Recorded frames whose packets are well-formed."""

    def test_recorded(self) -> None:
        """Each recorded frame with a bad name or number has a code that says so."""
        codes = {}
        for vector in BAD:
            decoder = FrameDecoder(Version01().shapes[0])
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
        for name in "count is not a number", "negative count", "empty count", "ttl is not a number":
            self.assertEqual(codes[name], "bad-frame")


class EncodeDeliveryTests(SynchronousTestCase):
    """L{encode_delivery}."""

    def test_recorded(self) -> None:
        """A delivery has the very bytes that were recorded, in both revisions."""
        recorded = {vector.revision: vector.frame for vector in GOOD if vector.sender == "server"}
        original = encode_delivery(ORIGINAL, "Foo", b"Hello World", ID, 0)
        documented = encode_delivery(DOCUMENTED, "Foo", b"Hello World", ID, 3_300_000)
        self.assertEqual({"original": b"".join(original), "documented": b"".join(documented)}, recorded)

    def test_ttl_rounded_up(self) -> None:
        """What is left is told in seconds, rounded up, so that 0 always and only means a message that does not expire."""
        for milliseconds, seconds in (0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2), (3_599_001, 3600), (10**15, 10**12):
            (delivery,) = deliveries(b"".join(encode_delivery(DOCUMENTED, "q", b"", ID, milliseconds)))
            self.assertEqual(delivery.ttl, seconds)

    def test_original_has_no_ttl(self) -> None:
        """A client of the original revision is not told what is left."""
        self.assertEqual(deliveries(b"".join(encode_delivery(ORIGINAL, "q", b"x", ID, 5000))), [Delivery("q", b"x", ID, None)])

    def test_any_content(self) -> None:
        """Names of any script and bodies of any bytes and size arrive as they are."""
        for name in "q", "a/b %d <b>é", "🐘":
            for body in b"", b"\0\xff\r\n", b"H0100103P01", b"x" * 100_000:
                for revision, ttl in (ORIGINAL, None), (DOCUMENTED, 0):
                    (delivery,) = deliveries(b"".join(encode_delivery(revision, name, body, ID, 0)))
                    self.assertEqual(delivery, Delivery(name, body, ID, ttl))
