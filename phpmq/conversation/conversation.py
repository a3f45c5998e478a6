"""
A client's side of a conversation in version 02, without I/O: what was sent and is not answered yet, and what has to be said again
on the next connection.

L{phpmq.client} and L{phpmq.blocking} put a transport around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from typing import ClassVar, TypeVar

from phpmq.client_frames import encode_ack, encode_consume, encode_hello, encode_send, server_shapes
from phpmq.conversation.delivery import Delivery, Receiver
from phpmq.conversation.outbox import HELLO, MAX_UNCONFIRMED, MAX_UNCONFIRMED_SIZE, Outbox
from phpmq.conversation.pending import Request, Send, Settlement, Start, Stop
from phpmq.errors import BadFrame, Closed, NotConnected, PHPMQError, TimedOut, TooLarge, from_code
from phpmq.frames import FrameDecoder

#: Seconds after which a request that is not answered fails.
TIMEOUT = 60.0

_R = TypeVar("_R", bound=Request)


class Conversation:
    """
    Requests and their answers over one connection after the other.

    Sends outlive their connection, and so do consumers; everything else ends with it.

    @ivar outbox: the sends
    @ivar receivers: those who consume, by queue
    @ivar connection: changes with each connection, and when it is lost; deliveries of another one cannot be settled
    @ivar online: whether there is a connection
    @ivar closed: whether it is over
    @ivar trouble: why there is no connection, if that is known
    """

    def __init__(
        self,
        now: Callable[[], float],
        delivery: type[Delivery] = Delivery,
        timeout: float = TIMEOUT,
        max_unconfirmed: int = MAX_UNCONFIRMED,
        max_unconfirmed_size: int = MAX_UNCONFIRMED_SIZE,
    ) -> None:
        """
        @param now: seconds of a clock that is never set back
        @param delivery: what deliveries are made of
        @param timeout: seconds after which a request that is not answered fails
        @raise ValueError: the timeout or a limit is not positive
        """
        if not timeout > 0:
            raise ValueError(f"a timeout is a number of seconds above 0, not {timeout!r}")
        self._now = now
        self._delivery = delivery
        self._timeout = timeout
        self.outbox = Outbox(max_unconfirmed, max_unconfirmed_size)
        self.receivers: dict[str, Receiver] = {}
        self.connection = 0
        self.online = self.closed = False
        self.trouble: Exception | None = None
        self._tags = 0
        self._requests: dict[bytes, Request] = {}
        self._decoder = FrameDecoder(server_shapes())
        self._write: Callable[[bytes], object] = lambda data: None

    # Connections

    def open(self) -> None:
        """Undo L{close}."""
        self.closed = False

    def connected(self, write: Callable[[bytes], object]) -> None:
        """There is a connection, to be written to: say again what it has to know."""
        self.connection += 1
        self.online = True
        self.trouble = None
        self._decoder = FrameDecoder(server_shapes())
        self._write = write
        for queue, receiver in self.receivers.items():
            self._start(queue, receiver)
        self.outbox.connected(write)

    def lost(self, error: Exception | None = None) -> None:
        """The connection is gone, perhaps for a reason."""
        if not self.online:
            return
        self.online = False
        self.connection += 1
        self.trouble = error
        self.outbox.lost()
        for receiver in list(self.receivers.values()):
            receiver.lost()
        self._fail(self._requests.values(), error or NotConnected("the connection was lost before the server answered"))

    def close(self) -> None:
        """It is over: what is consumed ends, and everything that waits fails with L{Closed}."""
        self.closed = True
        error = Closed("the client was closed before the server answered")
        self.lost(error)
        receivers, self.receivers = self.receivers, {}
        for receiver in receivers.values():
            receiver.end(None)
        self.outbox.fail_all(error)

    def expire(self) -> None:
        """Fail what is not answered in time; to be called about once a second."""
        now = self._now()
        reason = "" if self.trouble is None else f" ({self.trouble})"
        error = TimedOut(f"no answer within {self._timeout:g} s{reason}")

        def late(request: Request) -> bool:
            return request.deadline <= now

        # The oldest come first.
        if sends := list(takewhile(late, self.outbox.sends.values())):
            self.outbox.fail(sends, error)
        self._fail(takewhile(late, self._requests.values()), error)

    def forget(self, request: Request) -> None:
        """Wait for no answer any more."""
        self._requests.pop(request.tag, None)

    def _fail(self, requests: Iterable[Request], error: Exception) -> None:
        for request in list(requests):
            # Whoever hears of one failure may take back others.
            if self._requests.pop(request.tag, None) is not None:
                request.failed(error)

    # To the server

    def send(
        self,
        queue: str,
        body: bytes,
        ttl: float = 0,
        delay: float = 0,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        level: str = "stored",
    ) -> Send:
        """
        Send a message, now or as soon as there is a connection; parameters and errors are those of L{encode_send}.

        @raise ClientFull: too many wait already
        @raise Closed: it is over
        """
        self._check_open()
        tag = self.outbox.next_tag()
        frame = encode_send(tag, queue, body, ttl, delay, headers, key, level)
        send = Send(self.outbox, tag, self._now() + self._timeout, frame, len(body), (queue, level))
        self.outbox.put(send)
        return send

    def _check_open(self) -> None:
        if self.closed:
            raise Closed("the client is closed")

    def consume(self, queue: str, receiver: Receiver, window: int, lease: float) -> Start | None:
        """
        Have a queue's messages delivered, on this connection and the next ones; the request for the one that there is.

        @param window: the most of them at a time
        @param lease: seconds that each may be held; 0 for no limit
        @raise BadName: no queue can have that name
        @raise TypeError: the name is no string, the window no integer or the lease no number
        @raise ValueError: the window is not positive, or the lease negative
        @raise Closed: it is over
        """
        self._check_open()
        encode_consume(b"", queue, window, lease)  # Better here than with the next connection.
        if window < 1:
            raise ValueError(f"a window is at least 1, not {window!r}")
        receiver.window, receiver.lease = window, lease
        self.receivers[queue] = receiver
        return self._start(queue, receiver) if self.online else None

    def _start(self, queue: str, receiver: Receiver) -> Start:
        request = self._request(Start)
        request.over = lambda error: self._over(queue, receiver, error)
        self._write(encode_consume(request.tag, queue, receiver.window, receiver.lease))
        return request

    def stop_consuming(self, queue: str) -> Stop | None:
        """
        Have no more delivered; the request, if it has to be made. What is on its way still arrives before that is answered.
        """
        receiver = self.receivers.get(queue)
        if receiver is None:
            return None
        receiver.window = 0
        if not self.online:
            self._over(queue, receiver, None)
            return None
        request = self._request(Stop)
        request.over = lambda: self._over(queue, receiver, None)
        self._write(encode_consume(request.tag, queue, 0))
        return request

    def _over(self, queue: str, receiver: Receiver, error: Exception | None) -> None:
        # Somebody else may consume it by now.
        if self.receivers.get(queue) is receiver:
            del self.receivers[queue]
        receiver.end(error)

    def ping(self) -> Request:
        """
        Have the server answer, after all that was written before; sends may still wait to be.

        @raise NotConnected: there is no connection
        """
        if not self.online:
            raise NotConnected("there is no connection to the server")
        request = self._request(Request)
        self._write(encode_hello(request.tag))
        return request

    def settle(self, delivery: Delivery, encode: Callable[..., bytes], *arguments: object, final: bool = True) -> Settlement | None:
        """
        Tell the server what becomes of a delivery; None if that is out of this client's hands.

        @param encode: one of the encoders of L{phpmq.client_frames}
        @param final: whether the client holds it no longer
        """
        if delivery.settled or delivery.lost:
            return None
        request = self._request(Settlement)
        try:
            frame = encode(request.tag, delivery.message_id, *arguments)
        except Exception:
            self.forget(request)
            raise
        delivery.settled = final
        self._write(frame)
        return request

    def ack_unanswered(self, delivery: Delivery) -> bool:
        """Acknowledge a delivery without asking for an answer; whether it was this client's to acknowledge."""
        if delivery.settled or delivery.lost:
            return False
        delivery.settled = True
        self._write(encode_ack(b"", delivery.message_id))
        return True

    def _request(self, kind: type[_R]) -> _R:
        self._tags += 1
        tag = b"r%d" % self._tags
        request = kind(self, tag, self._now() + self._timeout)
        self._requests[tag] = request
        return request

    # From the server

    def receive(self, data: bytes) -> None:
        """
        Take bytes from the server.

        @raise PHPMQError: it broke the protocol, or ended the conversation: close the connection
        """
        self._decoder.receive(data)
        handlers, connection = self._handlers, self.connection
        for shape, _, contents in self._decoder.frames():
            handlers[shape.name](self, *contents)
            if self.connection != connection:
                # Whoever heard of this frame closed the conversation: it is too late for the next one.
                return

    def _deliver(self, queue: bytes, body: bytes, message_id: bytes, attempts: bytes, ttl: bytes | None, headers: bytes | None) -> None:
        name = queue.decode("utf-8", "replace")
        receiver = self.receivers.get(name)
        if receiver is not None:
            receiver.deliver(self._delivery(self, name, body, message_id, _attempts(attempts), ttl, headers))

    def _receipt(self, tag: bytes, message_id: bytes | None, duplicate: bytes | None) -> None:
        if self.outbox.receipted(tag, message_id, duplicate):
            return
        if (request := self._requests.pop(tag, None)) is not None:
            request.confirmed(message_id, duplicate)
        elif tag == HELLO:
            self.outbox.greeted()

    def _refused(self, code: bytes, reason: bytes, tag: bytes | None) -> None:
        error = from_code(code.decode("ascii", "replace"), reason.decode("utf-8", "replace"))
        if tag is None:
            self._end(error)
        elif tag == HELLO:
            self.outbox.not_greeted(error)
        elif tag.isdigit():
            self.outbox.refused(tag, error)
        elif (request := self._requests.pop(tag, None)) is not None:
            request.refused(error)

    def _end(self, error: PHPMQError) -> None:
        """The server ends the conversation. Unless a message was too large, it would do so again, whatever it is that waits."""
        if isinstance(error, TooLarge):
            self.outbox.fail_largest(error)
        else:
            self.outbox.fail_all(error)
        raise error

    def _drain(self, reason: bytes) -> None:
        self.outbox.drain()

    _handlers: ClassVar[dict[str, Callable[..., None]]] = {
        "deliver": _deliver,
        "receipt": _receipt,
        "refused": _refused,
        "draining": _drain,
    }


def _attempts(content: bytes) -> int:
    if not content.isdigit():
        raise BadFrame("number expected")
    return int(content)
