"""The verbs that speak to the HTTP API, in memory: the real client, over connections to the real site."""

from __future__ import annotations

import inspect
import json
import os
import tempfile
from collections.abc import Coroutine
from errno import ECONNREFUSED
from typing import Any

import click
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, connect
from twisted.web.client import Agent
from zope.interface import implementer

from phpmq.addresses import parse_api_address
from phpmq.cli.admin import export, messages, queues, run, views
from phpmq.cli.admin.api import Api
from phpmq.cli.admin.run import Work
from phpmq.cli.admin.transport import OneEndpoint
from phpmq.cli.exit_codes import Failed
from phpmq.cli.output import Report
from phpmq.cli.stdio import Output
from tests.web import WebTestCase

_HERE, _THERE = IPv4Address("TCP", "127.0.0.1", 50000), IPv4Address("TCP", "127.0.0.1", 9180)


def work_of(command: click.Command) -> Any:
    """Return the coroutine function that does the work of a verb."""
    assert command.callback is not None
    return inspect.unwrap(command.callback)


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """
    Connects to a factory in memory.

    @ivar pumps: what moves the bytes of each connection
    @ivar reachable: whether it does
    """

    def __init__(self, factory: Any) -> None:
        self._factory = factory
        self.pumps: list[Any] = []
        self.reachable = True

    def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803  # the interface's name
        """See L{IStreamClientEndpoint}."""
        if not self.reachable:
            return fail(ConnectionRefusedError(ECONNREFUSED))
        server, client = self._factory.buildProtocol(None), protocolFactory.buildProtocol(None)
        there = FakeTransport(server, isServer=True, hostAddress=_THERE, peerAddress=_HERE)
        here = FakeTransport(client, isServer=False, hostAddress=_HERE, peerAddress=_THERE)
        self.pumps.append(connect(server, there, client, here))
        return succeed(client)

    def flush(self) -> bool:
        """Move what is under way; whether there was anything."""
        return any([pump.pump() for pump in self.pumps])


class VerbTestCase(WebTestCase):
    """
    A server in memory, and what verbs do with it.

    @ivar notes: the lines on stderr
    @ivar printed: the descriptor of what stands for standard output
    """

    where = "http://localhost:9180"

    def setUp(self) -> None:
        """Start it."""
        super().setUp()
        self.endpoint = MemoryEndpoint(self.site)
        self.agent = Agent.usingEndpointFactory(MemoryReactorClock(), OneEndpoint(self.endpoint))
        self.notes: list[str] = []
        for module in run, queues, views, messages, export:
            self.patch(module, "note", self.notes.append)

    def api(self, timeout: float = 30.0, where: str = "") -> Api:
        """The API as a verb gets it."""
        return Api(self.clock, parse_api_address(where or self.where), timeout, self.agent)

    def wait(self, result: Deferred[Any]) -> None:
        """Let happen what can without time passing."""
        for _ in range(100):
            self.server.settle()
            moved = self.endpoint.flush()
            if result.called or not (moved or self.clock.getDelayedCalls()):
                break

    def done(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of a coroutine."""
        result = Deferred.fromCoroutine(work)
        self.wait(result)
        return self.successResultOf(result)

    def failed(self, work: Coroutine[Any, Any, Any]) -> Failed:
        """How a coroutine failed."""
        result = Deferred.fromCoroutine(work)
        self.wait(result)
        failure: Failure = self.failureResultOf(result, Failed)
        assert isinstance(failure.value, Failed)
        self.assertTrue(failure.value.sentence.isprintable(), failure.value.sentence)
        return failure.value

    def report(self, as_json: bool = False) -> Report:
        """What prints to standard output, which is a file."""
        file = tempfile.TemporaryFile()  # noqa: SIM115
        self.addCleanup(file.close)
        self.printed = file.fileno()
        return Report(Output(self.clock, self.printed), as_json)

    def verb(self, work: Work, as_json: bool = False) -> tuple[int, str]:
        """The exit code of a verb, and what it prints."""
        report = self.report(as_json)
        code = self.done(work(self.api(), report)) or 0
        self.successResultOf(Deferred.fromCoroutine(self._written(report)))
        return code, os.pread(self.printed, os.fstat(self.printed).st_size, 0).decode()

    @staticmethod
    async def _written(report: Report) -> None:
        await report.output.written()

    def objects(self, work: Work) -> tuple[int, list[Any]]:
        """The exit code of a verb, and the JSON that it prints."""
        code, text = self.verb(work, as_json=True)
        return code, [json.loads(line) for line in text.splitlines()]
