"""The state of a client's connection, without I/O: the requests that have no answer yet, and what the next connection has to repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from phpmq.client_connection.outbox import HELLO, MAX_UNCONFIRMED, MAX_UNCONFIRMED_SIZE, Outbox
from phpmq.client_connection.requests import Request, Send, Settlement, Start, Stop
from phpmq.client_frames import (
    encode_ack,
    encode_consume,
    encode_dead_letter,
    encode_hello,
    encode_requeue,
    encode_send,
    encode_touch,
    server_shapes,
)
from phpmq.errors import BadFrame, Closed, NotConnected, PHPMQError, TimedOut, TooLarge, from_code
from phpmq.frames import FrameDecoder, json_headers

#: Seconds after which a request that is not answered fails.
TIMEOUT = 60.0

#: Seconds of silence after which a client asks whether the server is still there.
HEARTBEAT = 30.0

_R = TypeVar("_R", bound=Request)
_Outcome = TypeVar("_Outcome", covariant=True)


class Receiver(Protocol):
    """
    The consumer of a queue.

    @ivar window: the most deliveries that it holds unsettled; 0 once it takes no more
    @ivar lease: the seconds that it may hold each; 0 for no limit
    """

    window: int
    lease: float

    def deliver(self, delivery: Any) -> None:
        """Take a delivery, to settle it later."""

    def lost(self) -> None:
        """Drop what was delivered and is not settled: the server has taken it back."""

    def end(self, error: Exception | None) -> None:
        """Expect no more deliveries; with an error, the server refused to make them."""


class Delivery(Generic[_Outcome]):
    """
    A message that this client holds until it is settled. A client's own class says what the methods that settle return.

    @ivar queue: the queue that it came from
    @ivar body: the content of the message
    @ivar attempts: the number of this delivery, from 1
    @ivar message_id: the id of the message as the protocol has it
    @ivar settled: whether this client settled it
    """

    __slots__ = ("_connection", "_headers", "_number", "_ttl", "attempts", "body", "message_id", "queue", "settled")

    def __init__(
        self,
        connection: ClientConnection,
        queue: str,
        body: bytes,
        message_id: bytes,
        attempts: int,
        ttl: bytes | None,
        headers: bytes | None,
    ) -> None:
        self._connection = connection
        self._number = connection.number
        self.queue = queue
        self.body = body
        self.message_id = message_id
        self.attempts = attempts
        self._ttl = ttl
        self._headers = headers
        self.settled = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} from {self.queue!r}, {len(self.body)} bytes, attempt {self.attempts}>"

    @property
    def id(self) -> str:
        """The message's id: 32 characters C{[0-9a-f]}, the same each time it is delivered."""
        return self.message_id.decode("ascii", "replace")

    @property
    def ttl(self) -> float:
        """The seconds that it had left when the server sent it; 0 for one that does not expire."""
        return float(self._ttl or 0)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that its sender put beside the body."""
        return {} if self._headers is None else json_headers(self._headers)

    @property
    def lost(self) -> bool:
        """Whether the connection that it came over is lost: the server has taken it back."""
        return self._number != self._connection.number

    def ack(self) -> _Outcome:
        """Acknowledge it: the work is done, and the server forgets the message."""
        return self._settle(encode_ack)

    def requeue(self, ttl: float = 0, delay: float = 0) -> _Outcome:
        """
        Send it to the tail of its queue.

        @param ttl: seconds from now until it expires; 0 for never, whatever it had before
        @param delay: seconds until it is ready again
        @raise ValueError: one of them is negative
        """
        return self._settle(encode_requeue, ttl, delay)

    def dead_letter(self, reason: str = "") -> _Outcome:
        """
        Set it aside for the operator, who reads the reason (the first 1024 bytes of it).

        @raise TypeError: the reason is no string
        """
        return self._settle(encode_dead_letter, reason)

    def touch(self) -> _Outcome:
        """Touch it: its lease starts again."""
        return self._settle(encode_touch, final=False)

    def _settle(self, encode: Callable[..., bytes], *arguments: object, final: bool = True) -> _Outcome:
        """Settle it by L{ClientConnection.settle}, and return what the caller gets of the request."""
        raise NotImplementedError


def backoff(attempts: int) -> float:
    """Seconds that a message should wait after a failed attempt: one after the first, then twice as long each time, up to 5 minutes."""
    return float(min(2 ** min(attempts - 1, 9), 300))


class ClientConnection:
    """
    Requests and their answers over one connection after the other.

    Sends outlive their connection, and so do consumers; everything else ends with it.

    @ivar outbox: the sends
    @ivar receivers: the consumers by queue
    @ivar number: changes with each connection, and when it is lost; deliveries of another one cannot be settled
    @ivar online: whether there is a connection
    @ivar closed: whether the client was closed
    @ivar trouble: why there is no connection, if that is known
    """

    def __init__(
        self,
        now: Callable[[], float],
        delivery: type[Delivery[Any]] = Delivery,
        timeout: float = TIMEOUT,
        heartbeat: float = HEARTBEAT,
        max_unconfirmed: int = MAX_UNCONFIRMED,
        max_unconfirmed_size: int = MAX_UNCONFIRMED_SIZE,
    ) -> None:
        """
        @param now: seconds of a clock that is never set back
        @param delivery: the class of deliveries
        @param timeout: seconds after which a request that is not answered fails
        @param heartbeat: seconds of silence after which the server is asked whether it is there
        @raise ValueError: a number of seconds or a limit is not positive
        """
        for name, seconds in ("timeout", timeout), ("heartbeat", heartbeat):
            if not seconds > 0:
                raise ValueError(f"a {name} is a number of seconds above 0, not {seconds!r}")
        self._now, self._delivery = now, delivery
        self._timeout, self._heartbeat = timeout, heartbeat
        # When the server last said something, and when it was asked since whether it is there.
        self._heard = 0.0
        self._asked: float | None = None
        self.outbox = Outbox(max_unconfirmed, max_unconfirmed_size)
        self.receivers: dict[str, Receiver] = {}
        self.number = 0
        self.online = self.closed = False
        self.trouble: Exception | None = None
        self._tags = 0
        self._requests: dict[bytes, Request] = {}
        self._decoder = FrameDecoder(server_shapes())
        self._write: Callable[[bytes], object] = lambda data: None

    # The connection

    def open(self) -> None:
        """Allow requests again after L{close}."""
        self.closed = False

    def connected(self, write: Callable[[bytes], object]) -> None:
        """Go on over a new connection, and repeat what it has to know."""
        self.number += 1
        self.online = True
        self.trouble = None
        self._decoder = FrameDecoder(server_shapes())
        self._write = write
        self.heard()
        for queue, receiver in self.receivers.items():
            self._start(queue, receiver)
        self.outbox.connected(write)

    def lost(self, error: Exception | None = None) -> None:
        """Fail what ends with the connection, which is lost, perhaps for a reason."""
        if not self.online:
            return
        self.online = False
        self.number += 1
        self.trouble = error
        self.outbox.lost()
        for receiver in list(self.receivers.values()):
            receiver.lost()
        self._fail(self._requests.values(), error or NotConnected("the connection was lost before the server answered"))

    def close(self) -> None:
        """End what is consumed, and fail every request with L{Closed}."""
        self.closed = True
        error = Closed("the client was closed before the server answered")
        self.lost(error)
        receivers, self.receivers = self.receivers, {}
        for receiver in receivers.values():
            receiver.end(None)
        self.outbox.fail_all(error)

    def expire(self) -> None:
        """Fail the requests that are not answered in time; to be called about once a second."""
        now = self._now()
        reason = "" if self.trouble is None else f" ({self.trouble})"
        error = TimedOut(f"no answer within {self._timeout:g} s{reason}")

        def late(request: Request) -> bool:
            return request.deadline <= now

        # The oldest come first.
        if sends := list(takewhile(late, self.outbox.sends.values())):
            self.outbox.fail(sends, error)
        self._fail(takewhile(late, self._requests.values()), error)

    def heard(self) -> None:
        """Note that the server is there."""
        self._heard, self._asked = self._now(), None

    def check_silence(self) -> None:
        """
        Ask a silent server whether it is there; to be called about once a second while there is a connection.

        @raise EOFError: it did not answer for as long as a heartbeat: close the connection
        """
        now = self._now()
        if self._asked is not None:
            if now - self._asked >= self._heartbeat:
                raise EOFError(f"nothing was heard of the server for {now - self._heard:.0f} s")
        elif now - self._heard >= self._heartbeat:
            self._asked = now
            self.ping()

    def forget(self, request: Request) -> None:
        """Expect no answer to a request any more."""
        self._requests.pop(request.tag, None)

    def _fail(self, requests: Iterable[Request], error: Exception) -> None:
        for request in list(requests):
            # A callback of one failure may cancel other requests.
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
        Send a message, now or as soon as there is a connection; parameters and errors are those of L{phpmq.client.QueueClient.send}.

        @raise ClientFull: too many sends have no receipt
        @raise Closed: the client was closed
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
        Consume a queue over this connection and the next ones; returns the request that is made now. Parameters and errors are those of
        L{phpmq.client.QueueClient.consume}.
        """
        self._check_open()
        encode_consume(b"", queue, window, lease)  # An error is better here than with the next connection.
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

    def stop_consuming(self, queue: str, receiver: Receiver) -> Stop | None:
        """Consume a queue no more, if this receiver does; returns the request, if one is needed. Deliveries go on until it is answered."""
        if self.receivers.get(queue) is not receiver:
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
        # Another receiver may have the queue by now.
        if self.receivers.get(queue) is receiver:
            del self.receivers[queue]
        receiver.end(error)

    def ping(self) -> Request:
        """Ask the server for an answer after all that was written before; L{NotConnected} if there is no connection."""
        if not self.online:
            raise NotConnected("there is no connection to the server")
        request = self._request(Request)
        self._write(encode_hello(request.tag))
        return request

    def settle(self, delivery: Delivery[Any], encode: Callable[..., bytes], *arguments: object, final: bool = True) -> Settlement | None:
        """Settle a delivery by an encoder; None if this client does not hold it. If C{final} is false, it goes on to hold it."""
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

    def ack_unanswered(self, delivery: Delivery[Any]) -> bool:
        """Acknowledge a delivery without asking for an answer; returns whether this client held it."""
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

        @raise PHPMQError: it broke the protocol, or ended the connection: close it
        """
        self._heard, self._asked = self._now(), None
        self._decoder.receive(data)
        handlers, number = self._handlers, self.number
        for shape, _, contents in self._decoder.frames():
            handlers[shape.name](self, *contents)
            if self.number != number:
                # A callback of this frame closed the connection: the next frame comes too late.
                return

    def _deliver(self, queue: bytes, body: bytes, message_id: bytes, attempts: bytes, ttl: bytes | None, headers: bytes | None) -> None:
        name = queue.decode("utf-8", "replace")
        receiver = self.receivers.get(name)
        if receiver is not None:
            if not attempts.isdigit():
                raise BadFrame("number expected")
            receiver.deliver(self._delivery(self, name, body, message_id, int(attempts), ttl, headers))

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
        """Fail what the server would refuse again: the largest sends if a message was too large, otherwise all of them."""
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
