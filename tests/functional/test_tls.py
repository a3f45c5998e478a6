"""TLS listeners, and the deadlines of connections."""

from __future__ import annotations

import contextlib
import datetime
import ssl
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.trial.unittest import SynchronousTestCase

from tests.functional import version02
from tests.functional.client import Client, bodies, send_frame
from tests.functional.server import Server, directory


def make_certificate(path: Path, host: str = "localhost") -> None:
    """Write a key and a certificate for a host that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))


class TLSTests(SynchronousTestCase):
    """A server with an C{ssl:} listener beside the others."""

    def setUp(self) -> None:
        """Start it."""
        cwd = directory(self)
        make_certificate(cwd / "server.pem")
        listener = "ssl:0:interface=127.0.0.1:privateKey=server.pem"
        self.server = Server(self, "--listen", listener, "--frame-timeout", "1", "--write-timeout", "0.1", cwd=cwd)
        self.context = ssl.create_default_context(cafile=str(cwd / "server.pem"))

    def test_messages(self) -> None:
        """Messages of every size go both ways, also while both sides have much to say, and to clients on other listeners."""
        payload = [b"%d" % number + b"x" * 30_000 for number in range(200)]
        with Client(self.server.ports[1], self.context) as client, Client(self.server.tcp) as other:
            client.send(b"jobs", *payload)
            client.consume(b"jobs", 20)
            self.assertEqual(bodies(client.read_many(200, acknowledge=True)), payload)
            client.send(b"other", b"hello")
            other.consume(b"other")
            self.assertEqual(other.read().body, b"hello")
        self.assertNotIn("Traceback", self.server.output)
        self.assertEqual(self.server.stop(), 0)

    def test_last_refusal(self) -> None:
        """A client of version 02 that goes on sending behind a bad frame still gets all receipts from before it, and the refusal."""
        sends = [version02.send_frame(b"jobs", b"x", number, b"stored") for number in range(1, 3001)]
        with version02.Client02(self.server.ports[1], self.context) as client:
            with contextlib.suppress(OSError):
                client.write(b"".join(sends) + b"H0299901" + b"".join(sends) * 3)
            answers = client.answers()
        self.assertEqual([answer.number for answer in answers[:-1]], list(range(1, 3001)))
        self.assertEqual((answers[-1].type, answers[-1].packets[13]), (version02.REFUSED, b"unsupported"))

    def test_plain_bytes(self) -> None:
        """Who does not speak TLS is hung up on."""
        with Client(self.server.ports[1]) as client:
            client.write(send_frame(b"jobs", b"in the clear"))
            self.assertTrue(client.hung_up())
        self.assertNotIn("Traceback", self.server.output)

    def test_deadlines(self) -> None:
        """
        Silent handshakes, unfinished frames, frames that drip and consumers that never read are cut off at their deadlines; idle clients
        are welcome.
        """
        start = time.monotonic()
        silent = [Client(self.server.ports[1]) for _ in range(20)]
        halves = [Client(self.server.tcp) for _ in range(20)]
        frame = send_frame(b"jobs", b"x" * 50)
        for client in halves:
            client.write(frame[:70])
        stuck = Client(self.server.tcp)
        idle = [Client(self.server.tcp), Client(self.server.ports[1], self.context), Client(self.server.unix)]
        idle[0].send(b"large", *[b"x" * 10_000] * 3000)
        stuck.consume(b"large")
        dripping = Client(self.server.tcp)
        dripped = 0
        for byte in frame[:-1]:
            try:
                dripping.write(bytes([byte]))
            except OSError:
                break
            dripped += 1
            time.sleep(0.05)
        self.assertLess(dripped * 0.05, 4)
        self.assertTrue(all(client.hung_up() for client in (*halves, dripping)))
        self.assertLess(time.monotonic() - start, 9)
        self.assertTrue(all(client.hung_up(15) for client in silent))
        self.assertGreater(time.monotonic() - start, 9)
        self.assertLess(time.monotonic() - start, 25)
        # Its output was bounded by what a delivery of 128 kB or so and the system's buffers take.
        self.assertTrue(stuck.hung_up())
        for client in idle:
            client.send(b"ping", b"")
            client.consume(b"ping")
            client.acknowledge(client.read())
            client.consume(b"ping", 0)
        # All from one address: one line.
        self.assertEqual(self.server.output.count("took too long"), 1)
        for client in *silent, *halves, *idle, stuck, dripping:
            client.close()
