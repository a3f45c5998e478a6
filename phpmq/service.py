"""The server as a service: an engine, and the listeners before it. Add it to an application, with or without twistd."""

from __future__ import annotations

import resource
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from phpmq.admin import Admin
from phpmq.admin.console import ConsoleFactory
from phpmq.admin.reactor import ReactorLag
from phpmq.broker import Broker
from phpmq.engine import LocalEngine
from phpmq.interfaces import IConnection
from phpmq.listeners import Listener, require_local
from phpmq.mirror import MirrorService
from phpmq.ports import NO_LIMIT, Connections
from phpmq.protocol import QueueFactory, QueueProtocol, deadlines
from phpmq.server_frames import Versions
from phpmq.session import Session
from phpmq.settings import Settings

if TYPE_CHECKING:
    from phpmq.admin.http import Site

__all__ = ["QueueService", "Settings"]

#: File descriptors that the server needs beside its connections and those of its operators.
_SPARE_DESCRIPTORS = 64

#: Unfinished frames of all connections may take the memory limit divided by this, on top of it.
_UNFINISHED_SHARE = 4

# Seconds between two looks at deadlines of connections.
_CHECK_INTERVAL = 1.0

# Seconds that a stop waits for clients to take their last receipts, after all is in the file.
_LAST_WORDS = 1.0


class QueueService(MultiService):
    """
    A queue server.

    @ivar settings: how it is to be
    @ivar engine: what keeps the messages
    @ivar connections: the clients
    @ivar admin: what an operator can see and do, once the service was started
    @ivar consoles: operators who are connected
    @ivar site: the HTTP API; None without one
    @ivar lag: how late the reactor is
    """

    _log = Logger()

    def __init__(self, settings: Settings, reactor: Any) -> None:
        """
        @raise ValueError: a listener's description is none
        @raise StartError: other machines could reach the console or the HTTP API, and the settings do not allow that
        """
        super().__init__()
        self.settings = settings
        self._reactor = reactor
        self.engine = LocalEngine(settings, reactor)
        self._versions = Versions(settings.max_message_size)
        self.connections: Connections[QueueProtocol] = Connections(
            reactor,
            deadlines(settings.frame_timeout, settings.write_timeout),
            settings.max_connections,
            settings.per_address,
            max(settings.memory_limit // _UNFINISHED_SHARE, settings.max_message_size + 1024),
        )
        self.admin: Admin
        self.consoles = ConsoleFactory(lambda: self.admin, reactor, settings.max_consoles, settings.max_connections_per_address or NO_LIMIT)
        self.site: Site | None = None
        self._listeners: list[Listener] = []
        for option, descriptions in ("--listen", settings.listen), ("--listen-original", settings.listen_original):
            for description in descriptions:
                open_session = partial(self.open_session, original=option == "--listen-original")
                self._listen(option, description, QueueFactory(self.connections, open_session, description))
        if settings.console:
            self._listen_for_operators("--console", settings.console, self.consoles)
        if settings.http:
            self._listen_for_http(settings)
        for listener in self._listeners:
            listener.port.setServiceParent(self)
        self._checks = LoopingCall(self._check)
        self._checks.clock = reactor
        self.lag = ReactorLag(reactor)

    @property
    def broker(self) -> Broker:
        """The queues, once the service was started; other code of the process sends and consumes through it."""
        return self.engine.broker

    @property
    def mirror(self) -> MirrorService | None:
        """What copies the messages to the file, once the service was started; None without a file."""
        return self.engine.mirror

    def _listen(self, option: str, description: str, factory: IProtocolFactory) -> Listener:
        listener = Listener(option, description, factory, self._reactor)
        self._listeners.append(listener)
        return listener

    def _listen_for_operators(self, option: str, description: str, factory: IProtocolFactory) -> None:
        listener = self._listen(option, description, factory)
        if not self.settings.insecure_admin:
            require_local(option, listener.description)

    def _listen_for_http(self, settings: Settings) -> None:
        # A server without it need not have twisted.web in memory.
        from phpmq.admin.http import Site

        self.site = Site(self._reactor, settings)
        for description in settings.http:
            self._listen_for_operators("--http", description, self.site)

    # Start

    def privilegedStartService(self) -> None:
        """
        Bind the listeners.

        @raise StartError: one of them cannot be bound
        """
        for listener in self._listeners:
            listener.bind()

    def startService(self) -> None:
        """
        Read the store and go.

        @raise StartError: the store's file cannot be used
        """
        self._check_descriptors()
        settings = self.settings
        self.engine.startService()
        self.admin = Admin(self, self._reactor)
        if self.site is not None:
            self.site.open(self.admin)
        super().startService()
        self._checks.start(_CHECK_INTERVAL, now=False)
        self.lag.start()
        self._log.info(
            "phpmq is ready: {queues} queues, listening on {listeners}, console on {console}, HTTP on {http}, store {store}",
            queues=len(self.broker.queues),
            listeners=", ".join([*settings.listen, *settings.listen_original]) or "nothing",
            console=settings.console or "nothing",
            http=", ".join(settings.http) or "nothing",
            store=settings.store,
        )

    def _check_descriptors(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        settings = self.settings
        doors = (settings.max_consoles if settings.console else 0) + (settings.max_http_connections if settings.http else 0)
        need = settings.max_connections + doors + _SPARE_DESCRIPTORS
        if soft != resource.RLIM_INFINITY and soft < need:
            soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft != resource.RLIM_INFINITY and soft < need:
            self._log.warn(
                "{soft} file descriptors are too few for max-connections {most}: raise the limit (LimitNOFILE, ulimit -n) to {need}",
                soft=soft,
                most=self.settings.max_connections,
                need=need,
            )

    # While it runs

    def open_session(self, connection: IConnection, original: bool = False) -> Session:
        """
        Return the session of a connection.

        @param original: the client is taken for one of the original revision of protocol 01
        """
        return Session(self.broker, self._versions, connection, original)

    def _check(self) -> None:
        """Look at deadlines and rates, once a second. Catches everything: a LoopingCall that fails once never runs again."""
        try:
            self.connections.check()
            self.consoles.connections.check()
            if self.site is not None:
                self.site.connections.check()
            self.admin.sample()
        except Exception:
            self._log.failure("a periodic check failed")

    # Stop

    def stopService(self) -> Deferred[None]:
        """Stop listening and reading, save all that was accepted, then close the connections."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.running = 0
        for ticks in self._checks, self.lag:
            if ticks.running:
                ticks.stop()
        await self._close_listeners(http=False)
        if not self.engine.running:
            await self._close_http()
            return  # It never started.
        self.consoles.stop()
        connections = list(self.connections.open)
        self.engine.drain()
        for connection in connections:
            connection.drain()
        await self.engine.stopService()
        for connection in connections:
            connection.close()
        await self.connections.wait_closed(_LAST_WORDS)
        # To the last it tells that the server stops, and answers sends that waited for the file.
        await self._close_http()
        self.engine.close()
        self._log.info("phpmq stopped")

    async def _close_listeners(self, http: bool) -> None:
        await DeferredList([listener.port.stopService() for listener in self._listeners if (listener.option == "--http") == http])

    async def _close_http(self) -> None:
        await self._close_listeners(http=True)
        if self.site is not None:
            self.site.stop()
