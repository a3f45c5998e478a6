"""
Frames of the PHPMQ protocol: bytes to packets and back, without I/O.

A frame is C{H}, version (2 digits), type (3 digits), packet count (2 digits), then the packets; a packet is C{P}, type (2 digits),
length (29 digits) and as many bytes of content. Source: docs/reference/protocol.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from phpmq.errors import BadFrame, TooLarge, Unsupported
from phpmq.message import MAX_NAME

HEADER_SIZE = 8
PACKET_HEADER_SIZE = 32

# Packet types; those from TAG on are of version 02.
QUEUE, CONTENT, ID, COUNT, TTL = 1, 2, 3, 4, 5
TAG, DELAY, LEVEL, HEADERS, KEY, ATTEMPTS, REASON, CODE, LEASE, USER, SECRET, DUPLICATE, PRODUCER = range(6, 19)

#: The longest content of each packet type, in bytes, unless a server is set otherwise.
DEFAULT_LIMITS: Mapping[int, int] = {
    QUEUE: MAX_NAME,
    CONTENT: 16 * 1024 * 1024,
    **dict.fromkeys((COUNT, TTL, DELAY, LEVEL, ATTEMPTS, LEASE), 20),
    **dict.fromkeys((ID, TAG, CODE, PRODUCER), 64),
    **dict.fromkeys((KEY, USER, SECRET), 255),
    HEADERS: 8192,
    REASON: 1024,
    DUPLICATE: 1,
}

#: The longest content of a packet type that is not known, where such packets are ignored.
UNKNOWN_LIMIT = 8192

# Name, type, packets of what a client may send in version 01: in both its revisions, and in one of them.
COMMON_01 = (("consume", 2, (QUEUE, COUNT)), ("acknowledge", 4, (QUEUE, ID)))
ORIGINAL_01 = (("send original", 1, (QUEUE, CONTENT)),)
DOCUMENTED_01 = (("send", 1, (QUEUE, CONTENT, TTL)), ("requeue", 5, (QUEUE, ID, TTL)), ("dead letter", 6, (QUEUE, ID)))

# Name, type, packets that must be there, packets that may be: what a client may send in version 02, and what a server may.
CLIENT_02 = (
    ("send", 1, (QUEUE, CONTENT), (TTL, DELAY, LEVEL, HEADERS, KEY, TAG)),
    ("consume", 2, (QUEUE, COUNT), (LEASE, TAG)),
    ("acknowledge", 4, (ID,), (TAG,)),
    ("requeue", 5, (ID,), (TTL, DELAY, TAG)),
    ("dead letter", 6, (ID,), (REASON, TAG)),
    ("touch", 9, (ID,), (TAG,)),
    ("hello", 10, (TAG,), (PRODUCER, USER, SECRET)),
)
SERVER_02 = (
    ("deliver", 3, (QUEUE, CONTENT, ID, ATTEMPTS), (TTL, HEADERS)),
    ("receipt", 7, (TAG,), (ID, DUPLICATE)),
    ("refused", 8, (CODE, REASON), (TAG,)),
    ("draining", 11, (REASON,), ()),
)

#: The most packets of a frame: its count has two digits.
MAX_PACKETS = 99

#: How many different packet headers one frame shape remembers; they repeat all day.
_REMEMBERED = 4096


class FrameShape:
    """
    One kind of frame that a peer may send: its header and the packets it consists of.

    In version 01 those are exactly its packets. In version 02 some may be missing, and there may be others, of types that this side does
    not know; see L{open_shapes}.

    @ivar header: the eight bytes that the frame starts with
    @ivar packets: its packet types; contents are handed out in this order, whatever the order on the wire, None for one that is missing
    @ivar required: how many of them, the first, must be there; all of them and nothing else where none is given
    @ivar count: how many packets the frame has
    @ivar varying: the slot of the packet that differs from one such frame of a peer to the next, while the others mostly do not; -1 where
        more than one differs
    @ivar tag: the slot of the tag, which may differ as well; -1 where there is none
    @ivar known: slot and length of the content by packet header, filled as they come
    """

    __slots__ = ("_limits", "_slots", "count", "header", "known", "name", "open", "packets", "required", "tag", "varying")

    def __init__(
        self,
        name: str,
        header: bytes,
        packets: tuple[int, ...],
        limits: Mapping[int, int],
        required: int | None = None,
        count: int | None = None,
    ) -> None:
        self.name, self.header, self.packets = name, header, packets
        self.open = required is not None
        self.required = len(packets) if required is None else required
        self.count = len(packets) if count is None else count
        self._slots = {packet: slot for slot, packet in enumerate(packets)}
        self._limits = limits
        self.varying = next((self._slots[packet] for packet in (CONTENT, ID) if packet in packets[: self.required]), 0)
        self.tag = self._slots.get(TAG, -1)
        self.known: dict[bytes, tuple[int, int]] = {}

    def packet(self, header: bytes) -> tuple[int, int]:
        """
        Slot and content length that a 32-byte packet header announces; the slot after the last one is for packets to ignore.

        @raise BadFrame: not a packet header, or not a packet of this frame
        @raise TooLarge: the content would be longer than its type allows
        """
        digits = header[1:]
        if header[:1] != b"P" or not digits.isdigit():
            raise BadFrame("packet header expected")
        packet, length = int(digits[:2]), int(digits[2:])
        slot = self._slots.get(packet)
        if slot is None:
            if not self.open:
                raise BadFrame(f"packet type {packet:02} does not belong to {self.name}")
            slot = len(self.packets)
        limit = self._limits.get(packet, UNKNOWN_LIMIT)
        if length > limit:
            raise TooLarge(f"packet type {packet:02} of {length} bytes, the limit is {limit}")
        if len(self.known) >= _REMEMBERED:
            self.known.clear()
        self.known[header] = slot, length
        return slot, length


def open_shapes(
    table: Iterable[tuple[str, int, tuple[int, ...], tuple[int, ...]]], limits: Mapping[int, int]
) -> Mapping[bytes, FrameShape]:
    """
    Return the shapes of version 02, by header: for each type one for each number of packets that such a frame may have.

    @param table: name, type, packets that must be there, packets that may be
    """
    shapes = {}
    for name, frame_type, required, optional in table:
        known: dict[bytes, tuple[int, int]] = {}
        for count in range(len(required), MAX_PACKETS + 1):
            header = frame_header(2, frame_type, count)
            shapes[header] = shape = FrameShape(name, header, required + optional, limits, len(required), count)
            shape.known = known
    return shapes


# For a packet header that is not known: no slot, no length.
_OTHER = (-1, 0)


class FrameDecoder:
    """
    Bytes in any chunk size in, frames out.

    A frame is judged as early as it can be: on its first eight bytes, on each packet header, before any content is awaited.
    The work is linear in the bytes received, however they are cut.

    @ivar shapes: what the peer may send now, by header; may be replaced between two frames
    """

    __slots__ = ("_buffer", "_data", "_like", "_need", "_offset", "shapes")

    def __init__(self, shapes: Mapping[bytes, FrameShape]) -> None:
        self.shapes = shapes
        self._data = b""
        self._offset = 0
        # An unfinished frame grows in a bytearray until as many bytes are there as it is known to need.
        self._buffer: bytearray | None = None
        self._need = 0
        # What the next frame most likely looks like: the one before, but for the content of one packet, and of a tag at the end. To compare
        # the bytes before, between and after them costs less than to take them apart. Shape, contents, slot that varies, bytes before that
        # packet, bytes after it up to the tag's content, length of the tag's content.
        self._like: tuple[FrameShape, list[bytes], int, bytes, bytes, int] | None = None

    @property
    def pending(self) -> int:
        """How many bytes of frames not handed out yet are held."""
        if self._buffer is not None:
            return len(self._buffer)
        return len(self._data) - self._offset

    def starts_with(self, start: bytes) -> bool:
        """Whether the frame at hand begins with these bytes; to be asked after it was refused."""
        return self._data.startswith(start, self._offset)

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer; L{frames} hands out what they complete."""
        if self._buffer is not None:
            self._buffer += data
        elif self._offset < len(self._data):
            self._data = self._data[self._offset :] + data
            self._offset = 0
        else:
            self._data = data
            self._offset = 0

    def unread(self, frame_start: int) -> None:
        """Go back to C{frame_start} (from L{frame_start}): that frame will be handed out again."""
        self._offset = frame_start

    def frames(self) -> Iterator[tuple[FrameShape, int, list[bytes]]]:  # noqa: C901  # one loop: calls would cost more than they do
        """
        The complete frames received so far: shape, offset for L{unread}, and contents in the shape's order.

        The caller may stop at any frame and come back later.

        @raise BadFrame: the bytes are not a frame that the peer may send
        @raise Unsupported: the frame's version or type is not for this connection
        @raise TooLarge: a packet is over its limit
        """
        if self._buffer is not None:
            if len(self._buffer) < self._need:
                return
            self._data, self._offset, self._buffer = bytes(self._buffer), 0, None
        data, offset, end = self._data, self._offset, len(self._data)
        while end - offset >= HEADER_SIZE:
            if self._like is not None:
                shape, template, slot, prefix, suffix, tag_size = self._like
                before, after, tagged = len(prefix), len(suffix) + tag_size, tag_size > 0
                same, length = b"", 0
                while data[offset : offset + before] == prefix:
                    start = offset + before
                    content = start + PACKET_HEADER_SIZE
                    header = data[start:content]
                    if header != same:
                        found, length = shape.known.get(header, _OTHER)
                        if found != slot:
                            break
                        same = header
                    stop = content + length
                    cursor = stop + after
                    if cursor > end or data[stop : cursor - tag_size] != suffix:
                        break
                    contents = template.copy()
                    contents[slot] = data[content:stop]
                    if tagged:
                        contents[shape.tag] = data[cursor - tag_size : cursor]
                    self._offset = cursor
                    yield shape, offset, contents
                    offset = cursor
                if end - offset < HEADER_SIZE:
                    break
            parsed = self._parse(data, offset, end)
            if parsed is None:
                return
            shape, contents, cursor = parsed
            self._offset = cursor
            yield shape, offset, contents
            offset = cursor
        if offset == end:
            self._data, self._offset = b"", 0  # an idle connection holds no memory
        else:
            if data[offset] != 72:  # "H": do not wait for more of what is no frame
                raise BadFrame("frame header expected")
            self._await(HEADER_SIZE)

    def _parse(  # noqa: C901  # likewise
        self, data: bytes, offset: int, end: int
    ) -> tuple[FrameShape, list[bytes], int] | None:
        """The frame at C{offset}: shape, contents and where it ends; None, and wait, when it is not all there."""
        shape = self.shapes.get(data[offset : offset + HEADER_SIZE])
        if shape is None:
            raise self._refusal(data[offset : offset + HEADER_SIZE])
        ignored = len(shape.packets)
        contents: list[bytes] = [None] * (ignored + 1)  # type: ignore[list-item]
        cursor = varying = offset + HEADER_SIZE
        for _ in range(shape.count):
            content = cursor + PACKET_HEADER_SIZE
            if content > end:
                self._await(content - offset)
                return None
            try:
                slot, length = shape.known[data[cursor:content]]
            except KeyError:
                slot, length = shape.packet(data[cursor:content])
            if contents[slot] is not None and slot != ignored:
                raise BadFrame("repeated packet")
            if slot == shape.varying:
                varying = cursor
            cursor = content + length
            if cursor > end:
                self._await(cursor - offset)
                return None
            contents[slot] = data[content:cursor]
        contents.pop()
        if shape.open and None in contents[: shape.required]:
            raise BadFrame("missing packet")
        self._like = None
        if shape.varying >= 0:
            content = varying + PACKET_HEADER_SIZE + len(contents[shape.varying])
            tag_size = len(contents[slot]) if slot == shape.tag != shape.varying else 0
            template = contents.copy()
            template[shape.varying] = b""
            self._like = shape, template, shape.varying, data[offset:varying], data[content : cursor - tag_size], tag_size
        return shape, contents, cursor

    def _await(self, need: int) -> None:
        """Keep the unfinished frame until C{need} bytes of it are there."""
        self._buffer = bytearray(memoryview(self._data)[self._offset :])
        self._need = need
        self._data, self._offset = b"", 0

    @staticmethod
    def _refusal(header: bytes) -> BadFrame | Unsupported:
        if header[:1] != b"H" or not header[1:].isdigit():
            return BadFrame("frame header expected")
        return Unsupported(f"version {header[1:3].decode()} type {header[3:6].decode()} with {header[6:].decode()} packets")


def json_headers(content: bytes) -> dict[str, str]:
    """Decode the content of a packet of headers; anything but a JSON object of strings is a L{BadFrame}."""
    try:
        value = json.loads(content.decode("utf-8"))  # it would take UTF-16 as well
    except (ValueError, RecursionError):
        raise BadFrame("headers are not JSON") from None
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise BadFrame("headers are not a JSON object of strings")
    return value


def frame_header(version: int, frame_type: int, count: int) -> bytes:
    """The eight bytes that a frame starts with."""
    return b"H%02d%03d%02d" % (version, frame_type, count)


@lru_cache(maxsize=4096)
def packet_header(packet_type: int, length: int) -> bytes:
    """The 32 bytes before a packet's content."""
    return b"P%02d%029d" % (packet_type, length)


def packet(packet_type: int, content: bytes) -> bytes:
    """Encode a packet: its header and its content."""
    return packet_header(packet_type, len(content)) + content
