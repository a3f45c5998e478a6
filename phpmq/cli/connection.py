"""The client that sends and consumes, and what is said to the user of its connection."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click
from twisted.internet.defer import CancelledError
from twisted.internet.task import LoopingCall

from phpmq.cli.exit_codes import Exit, Failed, not_reached
from phpmq.cli.reactor_main import sleep, within
from phpmq.client import QueueClient
from phpmq.client_connection import MAX_UNCONFIRMED, TIMEOUT
from phpmq.errors import ClientError, Closed, PHPMQError

#: Seconds that the first connection may take, whatever longer time a command may wait for messages or receipts.
CONNECT_TIMEOUT = 5.0

#: Seconds that the end of a connection may take.
_CLOSE_TIMEOUT = 1.0

# Seconds between two looks whether a lost connection is back.
_LOST_PAUSE = 0.1


async def connect(
    reactor: Any, server: str, timeout: float | None, answer: float = TIMEOUT, max_unconfirmed: int = MAX_UNCONFIRMED
) -> QueueClient:
    """
    Return a connected client.

    @param timeout: seconds that connecting may take, if less than L{CONNECT_TIMEOUT}
    @param answer: seconds after which a request without an answer fails
    @raise click.BadParameter: the address is wrong
    @raise Failed: the server cannot be reached
    """
    try:
        client = QueueClient(server, reactor, answer, max_unconfirmed=max_unconfirmed, retry=_pause)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--server'") from error
    client.startService()
    limit = min(timeout or CONNECT_TIMEOUT, CONNECT_TIMEOUT)
    try:
        await within(reactor, limit, client.connected(attempts=1))
    except (PHPMQError, TimeoutError) as error:
        online = client.connection.online
        await disconnect(reactor, client)
        if isinstance(error, Closed):
            raise CancelledError from error
        if online and isinstance(error, TimeoutError):
            sentence = f"{server} does not answer within {limit:g} s: it may not be a phpmq server that speaks protocol 2"
            raise Failed(sentence, Exit.UNREACHABLE) from error
        raise not_reached(error, server) from error
    return client


def _pause(failures: int) -> float:
    """Return the seconds before the next attempt: short, so that a restarted server is found soon."""
    return min(0.1 * 1.5**failures, 2.0)


async def disconnect(reactor: Any, client: QueueClient) -> None:
    """Close a client; its unanswered requests fail."""
    # Not from within a call of its own, which Twisted's ClientService does not bear.
    await sleep(reactor, 0)
    # The process ends anyway.
    with suppress(TimeoutError):
        await within(reactor, _CLOSE_TIMEOUT, client.stopService())


async def settled_down(reactor: Any, client: QueueClient, deliveries: Callable[[], int]) -> bool:
    """
    Return whether the server has nothing to deliver now; C{deliveries} counts what has arrived.

    The server answers a ping after everything that it was sent before, and delivers at the end of that reactor turn. So whatever it can
    deliver arrives before the answer to a second ping.
    """
    before = deliveries()
    for _ in range(2):
        try:
            await client.ping()
        except ClientError:
            await sleep(reactor, _LOST_PAUSE)
            return False
        if deliveries() != before:
            return False
    return True


class Watch:
    """Tells the user when a connection is lost and when it is back, and gives up after C{timeout} seconds without progress."""

    def __init__(
        self,
        reactor: Any,
        client: QueueClient,
        server: str,
        timeout: float | None,
        waiting: Callable[[], object],
        give_up: Callable[[], object],
        tell: Callable[[str], object],
    ) -> None:
        self._seconds: Callable[[], float] = reactor.seconds
        self._client, self._server, self._timeout = client, server, timeout
        self._waiting, self._give_up, self._tell = waiting, give_up, tell
        self._last = self._seconds()
        self._online = True
        self.gave_up = False
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._looking.start(min(0.2, (timeout or 1) / 4), now=False)

    def progress(self) -> None:
        """Start the timeout again."""
        self._last = self._seconds()

    def _look(self) -> None:
        self._look_at_connection()
        if not self._waiting():
            self.progress()
        elif self._timeout is not None and self._seconds() - self._last >= self._timeout and not self.gave_up:
            self.gave_up = True
            self._give_up()

    def _look_at_connection(self) -> None:
        online = self._client.connection.online
        if online != self._online:
            self._online = online
            self._tell(f"connected to {self._server} again" if online else f"lost the connection to {self._server}, trying again")

    def close(self) -> None:
        """Stop, after a last look."""
        if self._looking.running:
            self._looking.stop()
        if not self._online:
            self._look_at_connection()
