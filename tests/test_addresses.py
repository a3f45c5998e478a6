"""Tests of L{phpmq.addresses}: one table of addresses, to which everything that takes one is held."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest

from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.trial.unittest import SynchronousTestCase

from phpmq import blocking
from phpmq.addresses import API_PORT, ApiAddress, listening_description, parse_address, parse_api_address
from phpmq.client import client_endpoint
from phpmq.errors import NotConnected

#: Addresses with a default port: address -> kind, host, port where there is none, or kind and path.
DEFAULTS: dict[str, tuple[str, str]] = {
    "mq.example": ("tcp", "mq.example"),
    "localhost": ("tcp", "localhost"),
    "127.0.0.1": ("tcp", "127.0.0.1"),
    "::1": ("tcp", "::1"),
    "[::1]": ("tcp", "::1"),
    "2001:db8::1:9100": ("tcp", "2001:db8::1:9100"),
    "fe80::1%eth0": ("tcp", "fe80::1%eth0"),
    "tcp:mq.example": ("tcp", "mq.example"),
    "tcp:::1": ("tcp", "::1"),
    "tcp://mq.example": ("tcp", "mq.example"),
    "tcp://mq.example/": ("tcp", "mq.example"),
    "tcp://::1": ("tcp", "::1"),
    "phpmq://mq.example": ("tcp", "mq.example"),
    "tls:mq.example": ("tls", "mq.example"),
    "tls://[::1]": ("tls", "::1"),
}

#: Addresses with a port or a path: address -> kind, host and port, or kind and path.
ADDRESSES: dict[str, tuple[str, str, int] | tuple[str, str]] = {
    "mq.example:9200": ("tcp", "mq.example", 9200),
    "phpmq:9200": ("tcp", "phpmq", 9200),
    "[::1]:9200": ("tcp", "::1", 9200),
    "tcp:mq.example:9200": ("tcp", "mq.example", 9200),
    "TCP:mq.example:9200": ("tcp", "mq.example", 9200),
    "tcp:[::1]:9200": ("tcp", "::1", 9200),
    "tcp://mq.example:9200": ("tcp", "mq.example", 9200),
    "tcp://[2001:db8::1]:9200/": ("tcp", "2001:db8::1", 9200),
    "phpmq://mq.example:9200": ("tcp", "mq.example", 9200),
    "PHPMQ://[::1]:9200": ("tcp", "::1", 9200),
    "tls:mq.example:9200": ("tls", "mq.example", 9200),
    "tls://mq.example:9200": ("tls", "mq.example", 9200),
    "unix:/run/mq.sock": ("unix", "/run/mq.sock"),
    "unix:///run/mq.sock": ("unix", "/run/mq.sock"),
    "unix://relative": ("unix", "relative"),
    "unix:9100": ("unix", "9100"),
    "unix:/a:b": ("unix", "/a:b"),
}

#: Texts that are no addresses, and what is said of them.
WRONG: dict[str, str] = {
    "": "expected HOST",
    "tcp": "host is missing",
    "tcp:": "host is missing",
    "tcp://": "host is missing",
    "tcp://:9100": "host is missing",
    "9100": "host is missing",
    "tcp:9100": "host is missing",
    ":9100": "expected HOST",
    "a:": "port is missing",
    "a:b": "port is no number",
    "a:0": "a port is 1 to 65535",
    "a:65536": "a port is 1 to 65535",
    "tcp:a:-1": "port is no number",
    "tcp:a:+1": "port is no number",
    "tcp::9100": "host is missing",
    "tcp:a:1:2:3:4": "'4' is too much",
    "tcp:a:\u0661": "port is no number",
    "tcp:a:1:2": "'2' is too much",
    "tcp://a:1/b": "port is no number",
    "tcp://user@a:1": "neither a name nor an IP address",
    "[a]:1": "neither a name nor an IP address",
    "tcp:a b:1": "neither a name nor an IP address",
    "::1]:1": "expected HOST",
    "ftp://a": "expected HOST",
    "http:a:1": "expected HOST",
    "unix:": "path of the socket is missing",
    "unix://": "path of the socket is missing",
    "unix:/" + "a" * 107: "at most 107 bytes",
}


class ParseTests(SynchronousTestCase):
    """L{parse_address}."""

    def test_table(self) -> None:
        """Each form gives kind, host and port, or kind and path; a port that is not given is the default one."""
        defaults = {text: (*place, 9100) for text, place in DEFAULTS.items()}
        for text, place in {**defaults, **ADDRESSES}.items():
            address = parse_address(text)
            self.assertEqual((address.kind, address.path) if address.kind == "unix" else (address.kind, address.host, address.port), place)
            self.assertEqual((address.text, address.options), (text, {}))
        self.assertEqual({parse_address(text, 80).port for text in DEFAULTS}, {80})

    def test_wrong(self) -> None:
        """An error names the text and says what is wrong with it."""
        for text, why in WRONG.items():
            error = str(self.assertRaises(ValueError, parse_address, text))
            self.assertIn(repr(text), error)
            self.assertIn(why, error)

    def test_twisted(self) -> None:
        """A client description of Twisted's is read as Twisted reads it."""
        for text in (
            "tcp:host=example:port=9100",
            "tcp:port=9100:host=example",
            "tcp:host=example:9100",
            "tcp:port=9100:example",
            "tcp:example:9100:timeout=5:bindAddress=127.0.0.1",
            "tcp:host=\\:\\:1:port=9100",
            "tcp:a\\=b:9100",
            "unix:path=/run/phpmq/mq.sock",
            "unix:path=relative:timeout=1:lockfile=0",
            "unix:/a\\:b\\\\c",
            "unix:path=/a=b",
            "tls:host=example:port=9100:timeout=7",
        ):
            self.assertEqual(seen(client_endpoint(reactor, text)), seen(clientFromString(reactor, text)), text)

    def test_options(self) -> None:
        """Named arguments are options; one that is given twice, or a timeout that is no number, is an error."""
        address = parse_address("tls://a:1:timeout=5:trustRoots=/a\\:b")
        self.assertEqual(address.options, {"timeout": "5", "trustRoots": "/a:b"})
        self.assertEqual(parse_address("unix:///a:timeout=5").options, {"timeout": "5"})
        for text in "tcp:a:1:timeout=x", "tcp:a:1:host=b", "tcp:a:1:host=b:host=c", "tcp:a:timeout=1:timeout=1", "unix:/a\\":
            self.assertIn(repr(text), str(self.assertRaises(ValueError, parse_address, text)))


def seen(endpoint: Any) -> tuple[Any, ...]:
    """Host and port, or the path, and the time of an endpoint of Twisted's."""
    endpoint = getattr(endpoint, "_wrappedEndpoint", endpoint)
    if hasattr(endpoint, "_path"):
        return endpoint._path, None, endpoint._timeout
    return getattr(endpoint, "_hostText", None) or endpoint._host, endpoint._port, endpoint._timeout


class ApiTests(SynchronousTestCase):
    """L{parse_api_address}."""

    def test_table(self) -> None:
        """An API is named as a server is, with a default port of its own."""
        for text, place in {**{text: (*place, API_PORT) for text, place in DEFAULTS.items()}, **ADDRESSES}.items():
            if len(place) == 2:
                self.assertEqual(parse_api_address(text), ("http://localhost", f"unix:{place[1]}", place[1], None))
            else:
                kind, host, port = place
                url = f"{'https' if kind == 'tls' else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
                self.assertEqual(parse_api_address(text), (url, url, "", None))

    def test_urls(self) -> None:
        """A URL keeps its path, its login is for a proxy, and its default port is that of its scheme."""
        expected = {
            "http://localhost:9180": ApiAddress("http://localhost:9180", "http://localhost:9180"),
            "HTTPS://mq.example/": ApiAddress("https://mq.example", "https://mq.example"),
            "https://a:b%40@mq.example/q/api/v1/": ApiAddress("https://mq.example/q", "https://mq.example/q", "", ("a", "b@")),
        }
        self.assertEqual({text: parse_api_address(text) for text in expected}, expected)

    def test_wrong(self) -> None:
        """An error names the text and says what is wrong with it."""
        urls = {
            "http://": "names no host",
            "http://a:0": "names no host and port",
            "http://a:99999": "ort out of range",
            "http://[::1": "IPv6",
            "http://a/?b": "neither ? nor #",
            "http://a b": "spaces",
            "a\n:1": "spaces",
            "ftp://a": "http://HOST:PORT",
            "tcp:a:1:timeout=5": "takes no options",
        }
        for text, why in {**WRONG, **urls}.items():
            error = str(self.assertRaises(ValueError, parse_api_address, text))
            self.assertIn(repr(text), error)
            if text in urls:
                self.assertIn(why, error)


class ListeningTests(SynchronousTestCase):
    """L{listening_description}."""

    #: Addresses, and their descriptions.
    EXPECTED: ClassVar[dict[str, str]] = {
        "127.0.0.1": "tcp:9100:interface=127.0.0.1",
        "127.0.0.1:9200": "tcp:9200:interface=127.0.0.1",
        "localhost:9200": "tcp:9200:interface=localhost",
        "tcp:127.0.0.1:9200": "tcp:9200:interface=127.0.0.1",
        "tcp:localhost": "tcp:9100:interface=localhost",
        "tcp:[::1]:9200": "tcp6:9200:interface=\\:\\:1",
        "tcp:mq.example:9200": "tcp:9200:interface=mq.example",
        "tcp://127.0.0.1:9200": "tcp:9200:interface=127.0.0.1",
        "tcp://127.0.0.1:9200:backlog=5": "tcp:9200:interface=127.0.0.1:backlog=5",
        "phpmq://[::]": "tcp6:9100:interface=\\:\\:",
        "::1": "tcp6:9100:interface=\\:\\:1",
        "[::1]:9200": "tcp6:9200:interface=\\:\\:1",
        "unix:///run/mq.sock": "unix:/run/mq.sock",
        "unix:///run/mq.sock:mode=660": "unix:/run/mq.sock:mode=660",
    }

    def test_addresses(self) -> None:
        """An address becomes a strports description that Twisted takes."""
        self.assertEqual({text: listening_description(text) for text in self.EXPECTED}, self.EXPECTED)
        for description in self.EXPECTED.values():
            serverFromString(reactor, description)
        self.assertEqual(listening_description("::1", API_PORT), "tcp6:9180:interface=\\:\\:1")

    def test_descriptions(self) -> None:
        """What is a strports description, or nothing, stays as it is."""
        for text in (
            "tcp:9100",
            "tcp:0:interface=127.0.0.1",
            "tcp:9100:127.0.0.1:50",
            "tcp:port=9100",
            "tcp:port",
            "tcp:",
            "tcp6:9100:interface=\\:\\:",
            "unix:/run/mq.sock:mode=660",
            "ssl:9102:privateKey=key.pem:certKey=cert.pem",
            "systemd:domain=INET:name=mq",
            "tls:/run/certificates:443",
            "none",
            "example",
            "",
        ):
            self.assertEqual(listening_description(text), text)

    def test_wrong(self) -> None:
        """TLS takes a key, which no address has; an error says how to write that."""
        self.assertIn("ssl:PORT:privateKey=", str(self.assertRaises(ValueError, listening_description, "tls://a:1")))
        self.assertRaises(ValueError, listening_description, "127.0.0.1:99999")


class ClientTests(SynchronousTestCase):
    """The clients in Python."""

    def test_wrong(self) -> None:
        """Both clients refuse the same, with the same sentences."""
        for text in WRONG:
            said = [
                str(self.assertRaises(ValueError, parse_address, text)),
                str(self.assertRaises(ValueError, client_endpoint, reactor, text)),
                str(self.assertRaises(ValueError, blocking.QueueClient, text)),
            ]
            self.assertEqual(said, said[:1] * 3)

    def test_table(self) -> None:
        """Both clients connect to where each address says."""
        places: list[object] = []

        def refuse(place: object) -> None:
            places.append(place)
            raise OSError("nobody is there")

        class Socket(socket.socket):
            def connect(self, path: Any) -> None:
                refuse(path)

        self.patch(socket, "create_connection", lambda place, timeout: refuse(place))
        self.patch(socket, "socket", Socket)
        for text, place in {**{text: (*place, 9100) for text, place in DEFAULTS.items()}, **ADDRESSES}.items():
            self.assertRaises(NotConnected, blocking.QueueClient, text)
            self.assertEqual(places.pop(), place[1] if len(place) == 2 else place[1:], text)
            self.assertEqual(seen(client_endpoint(reactor, text))[:2], (place[1], None) if len(place) == 2 else place[1:], text)


class PHPTests(SynchronousTestCase):
    """docs/examples/phpmq.php."""

    #: Reads addresses as a list in JSON, and writes what PHP connects to for each, or what is wrong with it.
    CODE = """
        $targets = [];
        foreach (json_decode(stream_get_contents(STDIN)) as $address) {
            try { $targets[] = PhpmqClient::target($address); }
            catch (InvalidArgumentException $error) { $targets[] = $error->getMessage(); }
        }
        echo json_encode($targets);
    """

    def targets(self, addresses: list[str]) -> list[str]:
        """What PHP connects to for each address."""
        if shutil.which("php") is None:
            raise SkipTest("php is not installed")
        file = Path(__file__).parents[1] / "docs" / "examples" / "phpmq.php"
        arguments = ["php", "-r", f"require '{file}'; {self.CODE}"]
        done = subprocess.run(arguments, input=json.dumps(addresses), capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    def test_table(self) -> None:
        """The client in PHP reads the same addresses, and refuses the same."""
        expected = {}
        for text, place in {**{text: (*place, 9100) for text, place in DEFAULTS.items()}, **ADDRESSES}.items():
            if len(place) == 2:
                expected[text] = f"unix://{place[1]}"
            else:
                kind, host, port = place
                expected[text] = f"{kind}://{f'[{host}]' if ':' in host else host}:{port}"
        self.assertEqual(dict(zip(expected, self.targets([*expected]), strict=True)), expected)
        for text, target in zip(WRONG, self.targets([*WRONG]), strict=True):
            self.assertIn(f"'{text}' is no address", target)

    def test_php(self) -> None:
        """An address of another kind that PHP has is left to PHP."""
        self.assertEqual(self.targets(["ssl://mq.example:9100"]), ["ssl://mq.example:9100"])
