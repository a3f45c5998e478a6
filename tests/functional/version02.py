"""A blocking client of PHPMQ protocol version 02 on a plain socket; it shares no code with the server."""

from __future__ import annotations

from typing import NamedTuple

from tests.functional.client import Client, packet

#: Types of answers.
RECEIPT, REFUSED, DRAINING, DELIVERY = 7, 8, 11, 3


class Answer(NamedTuple):
    """A frame of the server: its type and packets."""

    type: int
    packets: dict[int, bytes]

    @property
    def number(self) -> int:
        """What its tag says."""
        return int(self.packets[6])


def frame(number: int, packets: dict[int, bytes]) -> bytes:
    """One frame."""
    return b"H02%03d%02d" % (number, len(packets)) + b"".join([packet(kind, content) for kind, content in packets.items()])


def send_frame(queue: bytes, body: bytes, number: int, level: bytes = b"synced") -> bytes:
    """A send with a number for its tag."""
    return frame(1, {1: queue, 2: body, 8: level, 6: b"%d" % number})


class Client02(Client):
    """One connection."""

    def hello(self, producer: bytes) -> None:
        """
        Go on as a producer.

        @raise AssertionError: the server does not want that
        """
        self.write(frame(10, {6: b"hello", 18: producer}))
        answer = self.answer()
        if answer != Answer(RECEIPT, {6: b"hello"}):
            raise AssertionError(f"refused: {answer}")

    def consume(self, queue: bytes, count: int = 1000) -> None:
        """Ask for a queue's messages."""
        self.write(frame(2, {1: queue, 4: b"%d" % count}))

    def answer(self) -> Answer:
        """The next frame."""
        header = self._exactly(8)
        if header[:3] != b"H02":
            raise AssertionError(f"no frame: {header!r}")
        return Answer(int(header[3:6]), dict(self._packet() for _ in range(int(header[6:]))))

    def answers(self) -> list[Answer]:
        """All that comes until the server hangs up."""
        result: list[Answer] = []
        while True:
            try:
                result.append(self.answer())
            except (EOFError, ConnectionResetError):
                return result
