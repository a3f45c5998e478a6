"""A server whose metrics can be scraped."""

from __future__ import annotations

import http.client
import time
from pathlib import Path

from tests.benchmarks.brokers import Phpmq, free_port

# Until twistd phpmq has an option for it.
_APPLICATION = """
from twisted.application.service import Application, Service
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import Site
from phpmq.admin.metrics import MetricsResource
from phpmq.tap import Options, makeService

options = Options()
options.parseOptions({options})
server = makeService(options)

class Web(Service):
    def startService(self):
        root = Resource()
        root.putChild(b"metrics", MetricsResource(server.admin))
        reactor.listenTCP({port}, Site(root), interface="127.0.0.1")

application = Application("scraped")
for service in server, Web():
    service.setServiceParent(application)
"""


class ScrapedPhpmq(Phpmq):
    """This server, with its metrics on a port of their own."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.http_port = free_port()

    def arguments(self) -> list[str]:
        """Its command line."""
        options = super().arguments()[3:]
        application = self.directory / "scraped.tac"
        application.write_text(_APPLICATION.format(options=options, port=self.http_port), encoding="utf-8")
        return ["--nodaemon", "--pidfile=", "--python", str(application)]

    def scrape(self, **headers: str) -> tuple[float, int]:
        """Ask for all metrics: how many seconds that took, and how many bytes came."""
        begin = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=30)
        connection.request("GET", "/metrics", headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if response.status != 200:
            raise ValueError(f"{response.status}: {content[:200]!r}")
        return time.perf_counter() - begin, len(content)
