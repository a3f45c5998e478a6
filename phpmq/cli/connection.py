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
    A client that is connected.

    @param timeout: seconds that it may take, if that is less than L{CONNECT_TIMEOUT}
    @param answer: seconds after which a request that is not answered fails
    @param server: its address; see L{phpmq.addresses}
    @raise click.BadParameter: the address is none
    @raise Failed: it cannot be connected
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
    """Seconds before the next attempt: a server that is started again is soon found."""
    return min(0.1 * 1.5**failures, 2.0)


async def disconnect(reactor: Any, client: QueueClient) -> None:
    """Close a client; what waits fails."""
    # Not from within a call of its own, which Twisted's ClientService does not bear.
    await sleep(reactor, 0)
    # The process ends anyway.
    with suppress(TimeoutError):
        await within(reactor, _CLOSE_TIMEOUT, client.stopService())


async def settled_down(reactor: Any, client: QueueClient, deliveries: Callable[[], int]) -> bool:
    """
    Whether the server has nothing to deliver at the moment.

    It answers a ping after all that it was told before, and delivers at the end of that turn. So what could be delivered arrives before
    the answer to a second ping.

    @param deliveries: how many have arrived
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
    """
    Looks after a connection: tells the user when it is lost and when it is back, and when to give up.

    @ivar gave_up: whether nothing happened for too long
    """

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
        """
        @param timeout: seconds without progress after which to give up; None for never
        @param waiting: whether anything is waited for
        """
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
        """Something happened."""
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
        """Look a last time."""
        if self._looking.running:
            self._looking.stop()
        if not self._online:
            self._look_at_connection()
