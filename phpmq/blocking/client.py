"""The client, its consumers and what they get."""

from __future__ import annotations

import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from phpmq import conversation
from phpmq.blocking.address import Address
from phpmq.blocking.connection import Connection
from phpmq.conversation import MAX_UNCONFIRMED, MAX_UNCONFIRMED_SIZE, TIMEOUT, Conversation, MessageId, Request
from phpmq.errors import ClientError, Closed, NotConnected, PHPMQError
from phpmq.requests import encode_ack, encode_dead_letter, encode_requeue, encode_touch

#: Seconds of silence after which a client that waits asks whether the server is still there.
HEARTBEAT = 30.0

# While the server cannot be reached, seconds between two attempts: the first pause, and the longest.
_PAUSES = 0.05, 2.0

# Longest time to wait for the socket at once: what is late is looked at in between.
_LOOK_UP = 1.0


class Outcome:
    """What became of a request; see L{conversation.Answer}."""

    __slots__ = ("done", "error", "result")

    def __init__(self) -> None:
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None

    def callback(self, result: Any) -> None:
        """It was carried out."""
        self.done = True
        self.result = result

    def errback(self, fail: Exception) -> None:
        """It was not."""
        self.done = True
        self.error = fail


class Submission:
    """A message that was submitted."""

    __slots__ = ("_client", "_outcome")

    def __init__(self, client: QueueClient, outcome: Outcome) -> None:
        self._client = client
        self._outcome = outcome

    @property
    def done(self) -> bool:
        """Whether L{result} returns or raises at once."""
        return self._outcome.done

    def result(self) -> MessageId:
        """
        Wait for the receipt.

        @raise PHPMQError: as L{QueueClient.send} does
        """
        return self._client.outcome(self._outcome)  # type: ignore[no-any-return]


class Delivery(conversation.Delivery):
    """
    A message that this client holds until it is settled.

    Each way to settle it waits for the server's answer and tells whether the server did it. False: the message was no longer this
    client's, or that is not known, since the connection was lost, its lease was over or it was settled before. Then it may be
    delivered again.
    """

    __slots__ = ("client",)

    client: QueueClient

    def ack(self, wait: bool = True) -> bool:
        """
        Acknowledge: it is done, and the server forgets it.

        @param wait: false to go on without an answer, which is faster; then True only means that the server was told
        """
        if wait:
            return self._settle(encode_ack)
        told = self._conversation.ack_unanswered(self)
        if told:
            self.client.flush()
        return told

    def requeue(self, ttl: float = 0, delay: float = 0) -> bool:
        """
        Send it to the tail of its queue.

        @param ttl: seconds from now until it expires; 0 for never
        @param delay: seconds until it is ready again
        @raise ValueError: one of them is negative
        """
        return self._settle(encode_requeue, ttl, delay)

    def dead_letter(self, reason: str = "") -> bool:
        """Set it aside for the operator, who reads the reason (the first 1024 bytes of it)."""
        return self._settle(encode_dead_letter, reason)

    def touch(self) -> bool:
        """Start its lease again."""
        return self._settle(encode_touch, final=False)

    def _settle(self, encode: Callable[..., bytes], *arguments: object, final: bool = True) -> bool:
        request = self._conversation.settle(self, encode, *arguments, final=final)
        return request is not None and bool(self.client.answer(request))


class Consumer:
    """
    The messages of one queue: an iterator, which goes on over lost connections.

    @ivar window: the most messages that this client holds unsettled
    @ivar lease: seconds that each may be held; 0 for no limit
    @ivar timeout: seconds without a message after which the iteration ends; None for never
    """

    def __init__(self, client: QueueClient, queue: str) -> None:
        self._client = client
        self.queue = queue
        self.window = 0
        self.lease = 0.0
        self.timeout: float | None = None
        self._delivered: deque[Delivery] = deque()

    def __iter__(self) -> Consumer:
        return self

    def __next__(self) -> Delivery:
        delivery = self.get(self.timeout)
        if delivery is None:
            raise StopIteration
        return delivery

    def get(self, timeout: float | None = None) -> Delivery | None:
        """
        The next message; None if there is none in time, or the consumer was stopped.

        @param timeout: seconds; None to wait as long as it takes
        @raise NotConnected: the server could not be reached for as long as the client's timeout
        """
        if not self._delivered and self.window:
            self._client.wait(lambda: self._delivered or not self.window, timeout)
        return self._delivered.popleft() if self._delivered else None

    def deliver(self, delivery: Delivery) -> None:
        """Take a message; see L{conversation.Receiver}."""
        delivery.client = self._client
        self._delivered.append(delivery)

    def lost(self) -> None:
        """The server has taken back what was not handed out; see L{conversation.Receiver}."""
        self._delivered.clear()

    def end(self, error: Exception | None) -> None:
        """Nothing more will come; see L{conversation.Receiver}."""
        self.window = 0

    def stop(self) -> None:
        """Have no more delivered. What was delivered until then can still be iterated, then the iteration ends."""
        self._client.stop_consuming(self)


class QueueClient:
    """
    A client of one server, connected when it is made; L{connect} makes it.

    When the connection is lost, the next call that waits for the server connects again, for as long as its timeout lets it. To use it
    in a C{with} statement closes it at the end, after the receipts have come.
    """

    def __init__(
        self,
        address: str = "tcp:127.0.0.1:9100",
        timeout: float = TIMEOUT,
        heartbeat: float = HEARTBEAT,
        max_unconfirmed: int = MAX_UNCONFIRMED,
        max_unconfirmed_size: int = MAX_UNCONFIRMED_SIZE,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """
        @param address: C{tcp:HOST:PORT}, C{unix:PATH} or C{tls:HOST:PORT}; see L{Address}
        @param timeout: seconds after which a request that is not answered fails
        @param heartbeat: seconds of silence after which the server is asked whether it is there; after as long again without an answer
            the connection is given up
        @param max_unconfirmed: how many submitted sends may wait for their receipts
        @param max_unconfirmed_size: how many bytes they may have
        @param tls: for C{tls:}, how to check the server's certificate
        @raise ValueError: it is no address
        @raise NotConnected: the server cannot be reached
        @raise ProtocolError: what answers does not speak version 02 of the protocol
        """
        self._address = Address(address)
        self._timeout = timeout
        self._heartbeat = heartbeat
        self._tls = tls
        self._conversation = Conversation(time.monotonic, Delivery, timeout, max_unconfirmed, max_unconfirmed_size)
        self._connection: Connection | None = None
        self._heard = self._unreachable_since = 0.0
        self._pinged = False
        self._pause = _PAUSES[0]
        self._try_at = 0.0
        self._connect()
        try:
            self.ping()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self.confirmed()
        finally:
            self.close()

    def close(self) -> None:
        """Disconnect. What has no receipt fails with L{Closed}; to wait for receipts before, see L{confirmed}."""
        self._conversation.close()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # Sending

    def send(
        self,
        queue: str,
        body: bytes,
        *,
        ttl: float = 0,
        delay: float = 0,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        level: str = "stored",
    ) -> MessageId:
        """
        Send a message and wait for its receipt. A connection that is lost meanwhile does not matter: what has no receipt is sent again,
        and stored once.

        @param queue: 1-255 bytes of UTF-8 without control characters
        @param ttl: seconds until it expires; 0 for never
        @param delay: seconds until it is ready
        @param headers: strings by name, 8192 bytes as JSON
        @param key: while a message with this key is in the queue, nothing is stored; 255 bytes
        @param level: C{stored}: the receipt says that the server has it in memory. C{synced}: that it is on the disk
        @return: the message's id, a L{DuplicateId} if nothing was stored
        @raise CommandRefused: the server refuses: C{QueueFull}, C{MemoryFull}, C{DiskFailing} or C{NotAllowed}
        @raise TimedOut: there is no receipt in time; whether the message was stored is not known
        @raise BadName: no queue can have that name
        @raise TooLarge: key or headers are too long, or the server finds the body too large
        @raise TypeError: the body is not C{bytes}, or a header no string
        @raise ValueError: a number of seconds is negative, the key is empty, or there is no such level
        """
        return self.submit(queue, body, ttl=ttl, delay=delay, headers=headers, key=key, level=level).result()

    def submit(
        self,
        queue: str,
        body: bytes,
        *,
        ttl: float = 0,
        delay: float = 0,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        level: str = "stored",
    ) -> Submission:
        """
        Send a message, and go on before its receipt is there: to send many quickly. Waits while too many others have none.

        Parameters are those of L{send}, and so are the errors of wrong ones; the others come from the submission's C{result}.
        """
        if not self._conversation.outbox.has_room:
            self.wait(lambda: self._conversation.outbox.has_room, None)
        request = self._conversation.send(queue, body, ttl, delay, headers, key, level)
        request.answer = outcome = Outcome()
        self.flush()
        return Submission(self, outcome)

    def confirmed(self) -> None:
        """Wait until no send waits for its receipt, with or without success."""
        self.wait(lambda: not self._conversation.outbox.sends, None)

    def ping(self) -> None:
        """
        Wait until the server has carried out all that it was told before.

        @raise NotConnected: there is no connection any more
        @raise TimedOut: the server does not answer
        """
        self.answer(self._conversation.ping())

    # Consuming

    def consume(self, queue: str, window: int = 100, lease: float = 0, timeout: float | None = None) -> Consumer:
        """
        Have a queue's messages delivered, in order; for a queue that is being consumed already, its consumer with another window.

        @param window: the most messages to hold unsettled; the server may have a lower limit
        @param lease: seconds that each may be held before the server gives it to somebody else; 0 for as long as the connection lasts
        @param timeout: seconds without a message after which the iteration ends; None for never
        @raise BadName: no queue can have that name
        @raise ValueError: the window is not positive, or the lease negative
        """
        consumer: Any = self._conversation.receivers.get(queue)
        if consumer is None or not consumer.window:
            consumer = Consumer(self, queue)
        consumer.timeout = timeout
        request = self._conversation.consume(queue, consumer, window, lease)
        if request is not None:
            # If that is not answered, the next connection has the consumer again.
            with suppress(ClientError):
                self.answer(request)
        return consumer  # type: ignore[no-any-return]

    def stop_consuming(self, consumer: Consumer) -> None:
        """What L{Consumer.stop} does."""
        if self._conversation.receivers.get(consumer.queue) is consumer:
            request = self._conversation.stop_consuming(consumer.queue)
            if request is not None:
                request.answer = outcome = Outcome()
                # A connection that is lost has the same effect.
                self.wait(lambda: outcome.done, None)

    # Waiting

    def answer(self, request: Request) -> Any:
        """Wait for the answer to a request."""
        request.answer = outcome = Outcome()
        return self.outcome(outcome)

    def outcome(self, outcome: Outcome) -> Any:
        """Wait for the outcome of a request."""
        if not outcome.done:
            self.wait(lambda: outcome.done, None)
        if outcome.error is not None:
            raise outcome.error
        return outcome.result

    def wait(self, done: Callable[[], object], timeout: float | None) -> bool:
        """
        Work until something is done; false if it is not in time.

        @param timeout: seconds; None for no limit
        @raise NotConnected: the server could not be reached for as long as the client's timeout
        @raise Closed: the client is closed
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not done():
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return False
            seconds = _LOOK_UP if deadline is None else min(_LOOK_UP, deadline - now)
            if self._connection is None:
                self._reconnect(now, seconds)
            else:
                self._exchange(self._connection, seconds)
            self._conversation.expire()
        return True

    def flush(self) -> None:
        """Write what the socket takes now."""
        if self._connection is not None:
            try:
                self._connection.flush()
            except OSError as error:
                self._lost(error)

    def _exchange(self, connection: Connection, seconds: float) -> None:
        try:
            data = connection.exchange(seconds)
            if data is not None:
                self._heard, self._pinged = time.monotonic(), False
                self._conversation.receive(data)
            else:
                self._check_silence()
        except (OSError, EOFError, PHPMQError) as error:
            self._lost(error)

    def _check_silence(self) -> None:
        silence = time.monotonic() - self._heard
        if silence >= 2 * self._heartbeat:
            raise EOFError(f"nothing was heard of the server for {silence:.0f} s")
        if silence >= self._heartbeat and not self._pinged:
            self._pinged = True
            self._conversation.ping().answer = Outcome()

    def _lost(self, error: Exception) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._unreachable_since = time.monotonic()
        self._conversation.lost(error if isinstance(error, PHPMQError) else NotConnected(f"the connection was lost: {error}"))

    def _reconnect(self, now: float, seconds: float) -> None:
        if self._conversation.closed:
            raise Closed("the client is closed")
        if self._try_at > now:
            time.sleep(min(seconds, self._try_at - now))
            return
        try:
            self._connect()
            self._pause = _PAUSES[0]
        except NotConnected as error:
            self._try_at = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _PAUSES[1])
            if time.monotonic() - self._unreachable_since >= self._timeout:
                self._conversation.outbox.fail_all(error)
                raise

    def _connect(self) -> None:
        try:
            connection = Connection(self._address.connect(self._timeout, self._tls))
        except OSError as error:
            raise NotConnected(f"the server at {self._address.text} cannot be reached: {error}") from error
        self._connection = connection
        self._heard, self._pinged = time.monotonic(), False
        self._conversation.connected(connection.write)


def connect(address: str = "tcp:127.0.0.1:9100", **settings: Any) -> QueueClient:
    """
    A client that is connected to a server.

    Parameters and errors are those of L{QueueClient}.
    """
    return QueueClient(address, **settings)
