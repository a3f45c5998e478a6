"""The client: sends, and what becomes of them."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from phpmq.addresses import parse_address
from phpmq.blocking.consumer import Consumer, Delivery, check_timeout
from phpmq.blocking.reconnector import Reconnector, Submission
from phpmq.client_connection import HEARTBEAT, MAX_UNCONFIRMED, MAX_UNCONFIRMED_SIZE, TIMEOUT, MessageId


class QueueClient:
    """
    A client of one server, connected when it is made.

    When the connection is lost, the next call that waits for the server connects again. To use it in a C{with} statement closes it at the
    end, after the receipts have come.

    It works, and its time passes, while one of its calls waits. It belongs to one thread; several threads use one each.
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
        @param address: C{HOST}, C{HOST:PORT}, C{tcp:HOST:PORT}, C{unix:PATH} or C{tls:HOST:PORT}; see L{phpmq.addresses}
        @param timeout: seconds of waiting after which a request that is not answered fails, or a server that cannot be reached is given up
        @param heartbeat: seconds of waiting in silence after which the server is asked whether it is there; after as long again without
            an answer the connection is given up
        @param max_unconfirmed: how many submitted sends may wait for their receipts
        @param max_unconfirmed_size: how many bytes they may have
        @param tls: for C{tls:}, how to check the server's certificate, instead of what the address says
        @raise ValueError: it is no address, a number is not positive, or C{tls} is given for an address without
        @raise NotConnected: the server cannot be reached
        @raise ProtocolError: what answers does not speak version 02 of the protocol
        @raise TimedOut: nothing answers
        """
        where = parse_address(address)
        self._reconnector = Reconnector(where, tls, Delivery, timeout, heartbeat, max_unconfirmed, max_unconfirmed_size)
        self._connection = self._reconnector.connection
        # The errors of sends that failed, until their results are asked for.
        self._failed: dict[Submission[MessageId], Exception] = {}
        self._reconnector.connect()
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
        """
        Disconnect. What has no receipt fails with L{phpmq.errors.Closed}, and what is consumed ends; to wait for receipts before, see
        L{confirmed}.
        """
        self._connection.close()
        self._reconnector.close()

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
        Send a message and wait for its receipt. A message that has no receipt when the connection is lost is sent again, and stored once.

        @param queue: 1-255 bytes of UTF-8 without control characters
        @param ttl: seconds until it expires; 0 for never
        @param delay: seconds until it is ready
        @param headers: strings by name, 8192 bytes as JSON
        @param key: while the queue knows a message with this key, nothing is stored; 255 bytes
        @param level: C{stored}: the receipt says that the server has it in memory. C{synced}: that it is on the disk
        @return: the message's id, a L{DuplicateId} if nothing was stored
        @raise CommandRefused: the server refuses: C{QueueFull}, C{MemoryFull}, C{DiskFailing} or C{NotAllowed}
        @raise TimedOut: there is no receipt in time; whether the message was stored is not known
        @raise NotConnected: the server could not be reached for as long as the client's timeout; the same
        @raise Closed: the client is closed
        @raise BadName: no queue can have that name
        @raise TooLarge: body, key or headers are too long, for any server or for this one
        @raise TypeError: the body is not C{bytes}, or name, key or a header no string
        @raise ValueError: a number of seconds is negative, the key is empty or cannot be UTF-8, or there is no such level
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
    ) -> Submission[MessageId]:
        """
        Send a message, and go on before its receipt is there: to send many quickly. Waits while too many others have none.

        Parameters are those of L{send}, and so are the errors of wrong ones; the others come from the submission's C{result}, or from
        L{confirmed}.

        @raise NotConnected: too many have no receipt, and the server could not be reached for as long as the client's timeout
        @raise Closed: the client is closed
        """
        outbox = self._connection.outbox
        if not outbox.has_room:
            self._reconnector.wait(lambda: outbox.has_room)
        request = self._connection.send(queue, body, ttl, delay, headers, key, level)
        submission: Submission[MessageId] = Submission(self._reconnector.wait, self._failed)
        request.answer = submission
        self._reconnector.flush()
        return submission

    def confirmed(self) -> None:
        """
        Wait until no send waits for its receipt.

        @raise PHPMQError: as L{send} does, for the first send that failed and whose result was not asked for
        """
        self._reconnector.wait(lambda: not self._connection.outbox.sends)
        failed, self._failed = self._failed, {}
        for error in failed.values():
            raise error

    def ping(self) -> None:
        """
        Wait for an answer of the server: it has carried out all that was written to it before. A send may still wait in this client.

        @raise NotConnected: there is no connection any more
        @raise TimedOut: the server does not answer
        """
        self._reconnector.answer(self._connection.ping())

    # Consuming

    def consume(self, queue: str, window: int = 100, lease: float = 0, timeout: float | None = None) -> Consumer:
        """
        Consume a queue, in order; returns the consumer that a queue has already, with another window.

        @param window: the most messages to hold unsettled; the server may have a lower limit
        @param lease: seconds that each may be held before the server gives it to another consumer; 0 for as long as the connection lasts
        @param timeout: seconds without a message after which the iteration ends; None for never
        @raise CommandRefused: the server refuses
        @raise BadName: no queue can have that name
        @raise TypeError: the name is no string, the window no integer or the lease no number
        @raise ValueError: the window is not positive, or the lease or the timeout negative
        @raise Closed: the client is closed
        """
        consumer: Any = self._connection.receivers.get(queue)
        if consumer is None or not consumer.window:
            consumer = Consumer(self._reconnector, queue)
        check_timeout(timeout)
        request = self._connection.consume(queue, consumer, window, lease)
        consumer.timeout = timeout
        if request is not None:
            started: Submission[None] = Submission(self._reconnector.wait, {})
            request.answer = started
            self._reconnector.wait(lambda: started.done)
            # A request that is not answered is repeated over the next connection.
            consumer.check()
        return consumer  # type: ignore[no-any-return]
