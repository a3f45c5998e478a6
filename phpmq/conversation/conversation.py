"""
A client's side of a conversation in version 02, without I/O: what was sent and is not answered yet, and what has to be said again
on the next connection.

L{phpmq.client} and L{phpmq.blocking} put a transport around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from typing import ClassVar, TypeVar

from phpmq.conversation.delivery import Delivery, Receiver
from phpmq.conversation.outbox import HELLO, MAX_UNCONFIRMED, MAX_UNCONFIRMED_SIZE, Outbox
from phpmq.conversation.pending import Nobody, Request, Send, Settlement, Stop
from phpmq.errors import BadFrame, Closed, NotConnected, PHPMQError, TimedOut, TooLarge, from_code
from phpmq.frames import FrameDecoder
from phpmq.message import check_name
from phpmq.requests import encode_ack, encode_consume, encode_hello, encode_send, server_shapes

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
        """
        self._now = now
        self._delivery = delivery
        self.timeout = timeout
        self.outbox = Outbox(max_unconfirmed, max_unconfirmed_size)
        self.receivers: dict[str, Receiver] = {}
        self.connection = 0
        self.online = self.closed = False
        self._tags = 0
        self._requests: dict[bytes, Request] = {}
        self._shapes = server_shapes()
        self._decoder = FrameDecoder(self._shapes)
        self._write: Callable[[bytes], object] = lambda data: None
        self._last_error: Exception | None = None

    # Connections

    def open(self) -> None:
        """Undo L{close}."""
        self.closed = False

    def connected(self, write: Callable[[bytes], object]) -> None:
        """There is a connection, to be written to: say again what it has to know."""
        self.connection += 1
        self.online = True
        self._decoder = FrameDecoder(self._shapes)
        self._write = write
        for queue, receiver in list(self.receivers.items()):
            if receiver.window:
                self._consume(queue, receiver).answer = Nobody()
            else:
                del self.receivers[queue]
        self.outbox.connected(write)

    def lost(self, error: Exception | None = None) -> None:
        """The connection is gone, perhaps for a reason."""
        if not self.online:
            return
        self.online = False
        self.connection += 1
        self._last_error = error
        self.outbox.lost()
        for receiver in list(self.receivers.values()):
            receiver.lost()
        self._fail(self._requests.values(), error or NotConnected("the connection was lost before the server answered"))

    def close(self) -> None:
        """It is over: everything that waits fails with L{Closed}."""
        self.lost()
        self.closed = True
        self.outbox.fail_all(Closed("the client was closed before the server answered"))

    def expire(self) -> None:
        """Fail what is not answered in time; to be called about once a second."""
        now = self._now()
        reason = f" ({self._last_error})" if self._last_error is not None and not self.online else ""
        error = TimedOut(f"no answer within {self.timeout:g} s{reason}")

        def late(request: Request) -> bool:
            return request.deadline <= now

        # The oldest come first.
        self.outbox.fail(list(takewhile(late, self.outbox.sends.values())), error)
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
        send = Send(self.outbox, tag, self._now() + self.timeout)
        send.frame = encode_send(tag, queue, body, ttl, delay, headers, key, level)
        send.body_size = len(body)
        self.outbox.put(send)
        return send

    def _check_open(self) -> None:
        if self.closed:
            raise Closed("the client is closed")

    def consume(self, queue: str, receiver: Receiver, window: int, lease: float) -> Request | None:
        """
        Have a queue's messages delivered, on this connection and the next ones; the request for the one that there is.

        @param window: the most of them at a time
        @param lease: seconds that each may be held; 0 for no limit
        @raise BadName: no queue can have that name
        @raise ValueError: the window is not positive, or the lease negative
        @raise Closed: it is over
        """
        self._check_open()
        check_name(queue)
        if window < 1:
            raise ValueError(f"a window is at least 1, not {window!r}")
        if not lease >= 0:
            raise ValueError(f"a lease is a number of seconds above 0, or 0 for none, not {lease!r}")
        receiver.window, receiver.lease = window, lease
        self.receivers[queue] = receiver
        return self._consume(queue, receiver) if self.online else None

    def _consume(self, queue: str, receiver: Receiver) -> Request:
        request = self._request(Request)
        self._write(encode_consume(request.tag, queue, receiver.window, receiver.lease))
        return request

    def stop_consuming(self, queue: str) -> Request | None:
        """
        Have no more delivered; the request, if it has to be made. What is on its way still arrives before that is answered.
        """
        receiver = self.receivers.get(queue)
        if receiver is None:
            return None
        receiver.window = 0
        if not self.online:
            del self.receivers[queue]
            return None
        request = self._request(Stop)
        request.stopped = lambda: self._stopped(queue, receiver)
        self._write(encode_consume(request.tag, queue, 0))
        return request

    def _stopped(self, queue: str, receiver: Receiver) -> None:
        # Somebody may consume it again by now.
        if self.receivers.get(queue) is receiver and not receiver.window:
            del self.receivers[queue]

    def ping(self) -> Request:
        """
        Have the server answer, after all that it was sent before.

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

        @param encode: one of the encoders of L{phpmq.requests}
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
        request = kind(self, tag, self._now() + self.timeout)
        self._requests[tag] = request
        return request

    # From the server

    def receive(self, data: bytes) -> None:
        """
        Take bytes from the server.

        @raise PHPMQError: it broke the protocol, or ended the conversation: close the connection
        """
        self._decoder.receive(data)
        handlers = self._handlers
        try:
            for shape, _, contents in self._decoder.frames():
                handlers[shape.name](self, *contents)
        except PHPMQError as error:
            self._last_error = error
            raise

    def _deliver(self, queue: bytes, body: bytes, message_id: bytes, attempts: bytes, ttl: bytes | None, headers: bytes | None) -> None:
        name = queue.decode("utf-8", "replace")
        receiver = self.receivers.get(name)
        if receiver is not None:
            receiver.deliver(self._delivery(self, name, body, message_id, _attempts(attempts), ttl, headers))

    def _receipt(self, tag: bytes, message_id: bytes | None, duplicate: bytes | None) -> None:
        outbox = self.outbox
        if (send := outbox.sends.pop(tag, None)) is not None:
            outbox.size -= len(send.frame)
            send.confirmed(message_id, duplicate)
            outbox.on_answered()
        elif (request := self._requests.pop(tag, None)) is not None:
            request.confirmed(message_id, duplicate)
        elif tag == HELLO:
            outbox.greeted()

    def _refused(self, code: bytes, reason: bytes, tag: bytes | None) -> None:
        error = from_code(code.decode("ascii", "replace"), reason.decode("utf-8", "replace"))
        if tag is None:
            self._end(error)
        elif tag == HELLO:
            self.outbox.not_greeted(error)
        elif (send := self.outbox.sends.get(tag)) is not None:
            self.outbox.refused(send, error)
        elif (request := self._requests.pop(tag, None)) is not None:
            request.failed(error)

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
