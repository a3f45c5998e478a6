"""Client's and server's codecs of version 02 against each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from phpmq.client_frames import (
    MAX_BODY,
    encode_ack,
    encode_consume,
    encode_dead_letter,
    encode_hello,
    encode_requeue,
    encode_send,
    encode_touch,
    server_shapes,
)
from phpmq.errors import BadFrame, BadName, TooLarge, Unsupported
from phpmq.frames import FrameDecoder, FrameShape, frame_header, json_headers, packet
from phpmq.server_frames import Versions, encode_delivery_02, encode_draining, encode_receipt, encode_refusal, headers, milliseconds, text

ID = b"0123456789abcdef0123456789abcdef"

#: Frames of a client, with what the server is to understand.
REQUESTS: list[tuple[bytes, str, list[bytes | None]]] = [
    (encode_send(b"1", "q", b"body"), "send", [b"q", b"body", None, None, None, None, None, b"1"]),
    (encode_send(b"18", "q", b"", level="stored"), "send", [b"q", b"", None, None, None, None, None, b"18"]),
    (encode_send(b"2", "é", b"\0" * 300, 1), "send", ["é".encode(), b"\0" * 300, b"1.000", None, None, None, None, b"2"]),
    (encode_send(b"3", "q", b"x", delay=0.25), "send", [b"q", b"x", None, b"0.250", None, None, None, b"3"]),
    (encode_send(b"4", "q", b"x", level="synced"), "send", [b"q", b"x", None, None, b"synced", None, None, b"4"]),
    (encode_send(b"5", "q", b"x", headers={"a": "ü"}), "send", [b"q", b"x", None, None, None, '{"a":"ü"}'.encode(), None, b"5"]),
    (encode_send(b"6", "q", b"x", key="ключ"), "send", [b"q", b"x", None, None, None, None, "ключ".encode(), b"6"]),
    (
        encode_send(b"7", "q", b"x", 2.5, 1, {"a": "b"}, "k", "synced"),
        "send",
        [b"q", b"x", b"2.500", b"1.000", b"synced", b'{"a":"b"}', b"k", b"7"],
    ),
    (encode_consume(b"r1", "q", 0), "consume", [b"q", b"0", None, b"r1"]),
    (encode_consume(b"r2", "q", 10**20 - 1, 30), "consume", [b"q", b"9" * 20, b"30.000", b"r2"]),
    (encode_ack(b"r3", ID), "acknowledge", [ID, b"r3"]),
    (encode_ack(b"", ID), "acknowledge", [ID, None]),
    (encode_requeue(b"r4", ID), "requeue", [ID, None, None, b"r4"]),
    (encode_requeue(b"r5", ID, 1.5), "requeue", [ID, b"1.500", None, b"r5"]),
    (encode_requeue(b"r6", ID, 0, 2), "requeue", [ID, None, b"2.000", b"r6"]),
    (encode_requeue(b"r7", ID, 3, 4), "requeue", [ID, b"3.000", b"4.000", b"r7"]),
    (encode_dead_letter(b"r8", ID), "dead letter", [ID, None, b"r8"]),
    (encode_dead_letter(b"r9", ID, "größer"), "dead letter", [ID, "größer".encode(), b"r9"]),
    (encode_touch(b"r10", ID), "touch", [ID, b"r10"]),
    (encode_hello(b"r11"), "hello", [b"r11", None, None, None]),
    (encode_hello(b"hello", b"me"), "hello", [b"hello", b"me", None, None]),
]


def whole(frame: bytes | Iterable[bytes]) -> bytes:
    """A frame, also one that is encoded in parts."""
    return frame if isinstance(frame, bytes) else b"".join(frame)


#: Frames of a server, with what the client is to understand.
ANSWERS: list[tuple[bytes, str, list[bytes | None]]] = [
    (whole(encode_delivery_02("é", b"body", ID, 1, 0, b"")), "deliver", ["é".encode(), b"body", ID, b"1", None, None]),
    (whole(encode_delivery_02("q", b"", ID, 20, 1500, b"")), "deliver", [b"q", b"", ID, b"20", b"1.500", None]),
    (whole(encode_delivery_02("q", b"x", ID, 1, 0, b'{"a":"b"}')), "deliver", [b"q", b"x", ID, b"1", None, b'{"a":"b"}']),
    (whole(encode_delivery_02("q", b"x", ID, 1, 1, b"{}")), "deliver", [b"q", b"x", ID, b"1", b"0.001", b"{}"]),
    (whole(encode_receipt(b"r1")), "receipt", [b"r1", None, None]),
    (whole(encode_receipt(b"1", ID)), "receipt", [b"1", ID, None]),
    (whole(encode_receipt(b"2", ID, True)), "receipt", [b"2", ID, b"1"]),
    (whole(encode_receipt(b"3", b"", True)), "receipt", [b"3", None, b"1"]),
    (encode_refusal(b"4", "queue-full", "no"), "refused", [b"queue-full", b"no", b"4"]),
    (encode_refusal(None, "bad-frame", "bye"), "refused", [b"bad-frame", b"bye", None]),
    (encode_draining("soon"), "draining", [b"soon"]),
    # From a later server: packets that this client does not know.
    (frame_header(2, 7, 2) + packet(77, b"new") + packet(6, b"5"), "receipt", [b"5", None, None]),
]


class Both(SynchronousTestCase):
    """Frames of one side at the other."""

    def check(self, shapes: Mapping[bytes, FrameShape], frames: list[tuple[bytes, str, list[bytes | None]]]) -> None:
        """All frames in chunks of every size, with the beginning of another one behind them."""
        data = b"".join(frame for frame, _, _ in frames) + frames[0][0][:20]
        expected = [(name, contents) for _, name, contents in frames]
        for size in range(1, len(data) + 1):
            decoder = FrameDecoder(shapes)
            found: list[tuple[str, list[bytes]]] = []
            for start in range(0, len(data), size):
                decoder.receive(data[start : start + size])
                found += [(shape.name, contents) for shape, _, contents in decoder.frames()]
            self.assertEqual(found, expected, f"chunks of {size}")
            self.assertEqual(decoder.pending, 20)

    def test_requests(self) -> None:
        """A server understands all that a client says, with and without each optional packet, in chunks of every size."""
        self.check(Versions().version02, REQUESTS)

    def test_answers(self) -> None:
        """A client understands all that a server says, likewise."""
        self.check(server_shapes(), ANSWERS)

    def test_every_frame(self) -> None:
        """Nothing that either side may say is missing from those tests."""
        self.assertEqual({shape.name for shape in Versions().version02.values()}, {name for _, name, _ in REQUESTS})
        self.assertEqual({shape.name for shape in server_shapes().values()}, {name for _, name, _ in ANSWERS})

    def test_same_frame_many_times(self) -> None:
        """Frames that differ a little from the one before are not taken for it."""
        for shapes, frames in ((Versions().version02, REQUESTS), (server_shapes(), ANSWERS)):
            for first, name, contents in frames:
                for second, other, more in frames:
                    decoder = FrameDecoder(shapes)
                    decoder.receive(first + first + second + first)
                    found = [(shape.name, contents) for shape, _, contents in decoder.frames()]
                    self.assertEqual(found, [(name, contents), (name, contents), (other, more), (name, contents)])

    def test_directions(self) -> None:
        """What one side may say is none of the other's."""
        for shapes, frames in ((Versions().version02, ANSWERS), (server_shapes(), REQUESTS)):
            for frame, _, _ in frames:
                decoder = FrameDecoder(shapes)
                decoder.receive(frame)
                self.assertRaises(Unsupported, list, decoder.frames())


class RequestTests(SynchronousTestCase):
    """What the encoders take, and what they make of it."""

    def sent(self, **order: Any) -> list[Any]:
        """The contents of a send, as the server reads them."""
        [(_, contents)] = self.decoded(encode_send(b"1", **{"queue": "q", "body": b"x", **order}))
        return contents

    def decoded(self, data: bytes) -> list[tuple[str, list[Any]]]:
        """Frames as the server reads them."""
        decoder = FrameDecoder(Versions().version02)
        decoder.receive(data)
        return [(shape.name, contents) for shape, _, contents in decoder.frames()]

    def test_seconds(self) -> None:
        """Any time above 0 is at least a millisecond, and one beyond all measure is long, in the server's eyes too."""
        for seconds, expected in (
            (1e-9, 1),
            (0.0014, 1),
            (1, 1000),
            (True, 1000),
            (1.0006, 1001),
            (86_400 * 365, 31_536_000_000),
            (1e30, 10**15),
            (10**400, 10**15),
            (math.inf, 10**15),
        ):
            self.assertEqual(milliseconds(self.sent(ttl=seconds)[2]), expected)
            self.assertEqual(milliseconds(self.sent(delay=seconds)[3]), expected)
            [(_, contents)] = self.decoded(encode_consume(b"1", "q", 1, seconds))
            self.assertEqual(milliseconds(contents[2]), expected)
            [(_, contents)] = self.decoded(encode_requeue(b"1", ID, seconds, seconds))
            self.assertEqual(list(map(milliseconds, contents[1:3])), [expected] * 2)

    def test_no_seconds(self) -> None:
        """A time of 0 is none at all."""
        for seconds in 0, 0.0, -0.0:
            self.assertEqual(self.sent(ttl=seconds, delay=seconds)[2:4], [None, None])

    def test_bad_seconds(self) -> None:
        """A time that is negative, not a number or something else is an error, wherever it is given."""
        encoders: list[Callable[[Any], bytes]] = [
            lambda seconds: encode_send(b"1", "q", b"", ttl=seconds),
            lambda seconds: encode_send(b"1", "q", b"", delay=seconds),
            lambda seconds: encode_consume(b"1", "q", 1, seconds),
            lambda seconds: encode_requeue(b"1", ID, ttl=seconds),
            lambda seconds: encode_requeue(b"1", ID, delay=seconds),
        ]
        for encode in encoders:
            for seconds in -1, -1e-9, -math.inf, math.nan:
                error = self.assertRaises(ValueError, encode, seconds)
                self.assertIn("is a number of seconds above 0", str(error))
            for seconds in "5", b"5", 1j:  # type: ignore[assignment]
                self.assertRaises(TypeError, encode, seconds)

    def test_body(self) -> None:
        """A body is bytes, and no larger than any server takes; nothing else is quietly turned into some."""
        for body in bytearray(b"x"), memoryview(b"x"), "x", None, 5:
            self.assertIn("a body is bytes", str(self.assertRaises(TypeError, encode_send, b"1", "q", body)))
        self.assertRaises(TooLarge, encode_send, b"1", "q", bytes(MAX_BODY + 1))

    def test_queue(self) -> None:
        """A queue's name is a string that a queue may have."""
        encoders: list[Callable[[Any], bytes]] = [
            lambda name: encode_send(b"1", name, b""),
            lambda name: encode_send(b"1", name, b"", key="k"),
            lambda name: encode_consume(b"1", name, 1),
        ]
        for encode in encoders:
            for name in "", "a\n", "x" * 256, "é" * 128, "\ud800", "\u2028":
                self.assertRaises(BadName, encode, name)
            for other in b"q", None, 5, ["q"]:
                self.assertRaises(TypeError, encode, other)
            for name in "x" * 255, "é" * 127 + "x", "a b/c.d<%'\"":
                self.assertEqual(self.decoded(encode(name))[0][1][0], name.encode())

    def test_key(self) -> None:
        """A key is 1 to 255 bytes of UTF-8."""
        self.assertEqual(text(self.sent(key="é" * 127 + "k")[6]), "é" * 127 + "k")
        self.assertRaises(TooLarge, self.sent, key="é" * 128)
        self.assertRaises(TooLarge, self.sent, key="k" * 256)
        self.assertRaises(ValueError, self.sent, key="")
        self.assertRaises(ValueError, self.sent, key="\ud800")
        self.assertRaises(TypeError, self.sent, key=b"k")
        self.assertRaises(TypeError, self.sent, key=5)

    def test_headers(self) -> None:
        """Headers are strings by name, up to 8192 bytes as JSON, and come back as they were."""
        overhead = len('{"a":""}')
        for fields in ({"a": "b" * (8192 - overhead)}, {"": "", "é": 'q"\\\n\0\u2028', "b": "😀"}):
            content = headers(self.sent(headers=fields)[5])
            self.assertEqual(json_headers(content), fields)
        self.assertRaises(TooLarge, self.sent, headers={"a": "b" * (8192 - overhead + 1)})
        others: list[Any] = [{"a": 1}, {"a": None}, {1: "a"}, {"a": b"b"}, {"a": {}}, [("a", "b")], "a"]
        for bad in others:
            self.assertIn("headers are strings by name", str(self.assertRaises(TypeError, self.sent, headers=bad)))
        self.assertRaises(ValueError, self.sent, headers={"a": "\ud800"})
        self.assertEqual([self.sent(headers={})[5], self.sent(headers=None)[5]], [None, None])

    def test_foreign_headers(self) -> None:
        """What is no JSON object of strings is an error, never something else."""
        for content in b"", b"{", b"[]", b'"a"', b'{"a": 1}', b'{"a": {}}', b"\xff", b"[" * 8000:
            self.assertRaises(BadFrame, json_headers, content)

    def test_level(self) -> None:
        """There are two levels."""
        for level in "", "Synced", "best", b"synced", None:
            self.assertRaises(ValueError, self.sent, level=level)

    def test_window(self) -> None:
        """A window is a number of messages that the server can read."""
        for window in -1, 10**20:
            self.assertRaises(ValueError, encode_consume, b"1", "q", window)
        for other in 1.5, math.nan, math.inf, "1", None:
            self.assertRaises(TypeError, encode_consume, b"1", "q", other)

    def test_reason(self) -> None:
        """Of a long reason the beginning is sent, without half a character at its end; what cannot be UTF-8 is replaced."""
        for reason, expected in (
            ("x" * 1024, "x" * 1024),
            ("x" * 1025, "x" * 1024),
            ("x" * 1023 + "é", "x" * 1023),
            ("x" * 1021 + "😀", "x" * 1021),
            ("x" * 1020 + "😀", "x" * 1020 + "😀"),
            ("😀" * 300, "😀" * 256),
            ("a\ud800b", "a?b"),
        ):
            [(_, contents)] = self.decoded(encode_dead_letter(b"1", ID, reason))
            self.assertEqual(text(contents[1]), expected)
        for other in ValueError("no"), b"no", None, 5:
            self.assertRaises(TypeError, encode_dead_letter, b"1", ID, other)
