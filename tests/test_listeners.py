"""Tests of L{phpmq.listeners}: who can reach a listener."""

from __future__ import annotations

from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from phpmq.errors import StartError
from phpmq.listeners import Listener, is_local, require_local

LOCAL = (
    "tcp:9101:interface=127.0.0.1",
    "tcp:interface=127.0.0.1:port=9101",
    "tcp:9101:127.0.0.1",
    "tcp:9101:interface=127.8.9.10:backlog=5",
    "tcp:9101:interface=localhost",
    r"tcp6:9101:interface=\:\:1",
    "unix:/run/phpmq/console.sock:mode=600",
    "unix:address=console.sock",
    "ssl:9101:privateKey=a.pem:certKey=b.pem:interface=127.0.0.1",
    "systemd:domain=UNIX:name=console",
)

OPEN = (
    "tcp:9101",
    "tcp:9101:interface=",
    "tcp:9101:interface=0.0.0.0",
    "tcp:9101:interface=10.0.0.1",
    "tcp:9101:interface=localhost.example.com",
    "tcp:9101:interface=127.0.0.1:interface=0.0.0.0",
    "tcp:9101:0.0.0.0",
    "tcp6:9101",
    r"tcp6:9101:interface=\:\:",
    "ssl:9101:127.0.0.1",
    "systemd:domain=INET:name=console",
    r"systemd:domain=UNIX:name=a\\:domain=INET",
    r"tcp:9101:interface=127.0.0.1\\:interface=0.0.0.0",
    "haproxy:tcp:9101:interface=127.0.0.1",
    "tcp",
    "",
)


class AccessTests(SynchronousTestCase):
    """Which listeners other machines can reach."""

    def test_local(self) -> None:
        """Loopback addresses and unix sockets are for this machine only, however they are written."""
        for description in LOCAL:
            self.assertTrue(is_local(description), description)
            require_local("--console", description)

    def test_open(self) -> None:
        """All others may not be, also those whose string does not tell."""
        for description in OPEN:
            self.assertFalse(is_local(description), description)

    def test_refusal(self) -> None:
        """The refusal names the option, the listener, and both ways on."""
        sentence = str(self.assertRaises(StartError, require_local, "--console", "tcp:9101"))
        for text in "phpmq: --console tcp:9101 ", "interface=127.0.0.1", "unix socket", "--insecure-admin":
            self.assertIn(text, sentence)


class AddressTests(SynchronousTestCase):
    """Where a listener listens whose description is an address."""

    def test_default_ports(self) -> None:
        """An address without a port has that of the option."""
        ports = {"--listen": 9100, "--listen-original": 9100, "--console": 9101, "--http": 9180}
        for option, port in ports.items():
            reactor = MemoryReactorClock()
            Listener(option, "tcp://127.0.0.1", Factory(), reactor).bind()
            self.assertEqual([(where[0], where[3]) for where in reactor.tcpServers], [(port, "127.0.0.1")])

    def test_forms(self) -> None:
        """Addresses become strports strings; strports strings stay as they are."""
        forms = {
            "127.0.0.1:9300": "tcp:9300:interface=127.0.0.1",
            "tcp://[::1]:9300": r"tcp6:9300:interface=\:\:1",
            "unix:///run/phpmq/mq.sock": "unix:/run/phpmq/mq.sock",
            "unix:/run/phpmq/mq.sock:mode=660": "unix:/run/phpmq/mq.sock:mode=660",
            "tcp:9300": "tcp:9300",
        }
        found = {text: Listener("--http", text, Factory(), MemoryReactorClock()).description for text in forms}
        self.assertEqual(found, forms)

    def test_wrong(self) -> None:
        """What cannot be listened on names the option."""
        error = self.assertRaises(ValueError, Listener, "--http", "tls://127.0.0.1", Factory(), MemoryReactorClock())
        self.assertTrue(str(error).startswith("--http tls://127.0.0.1: "), error)
