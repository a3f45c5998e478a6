"""The documentation says what the code does."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from phpmq import service, tap
from phpmq.commands import DOCUMENTED, ORIGINAL, Version01, encode_delivery
from phpmq.frames import FrameDecoder
from tests import wire

ROOT = Path(__file__).parents[1]


def text(path: str) -> str:
    """A document."""
    return (ROOT / path).read_text(encoding="utf-8")


class ProtocolTests(SynchronousTestCase):
    """docs/reference/protocol.md."""

    def setUp(self) -> None:
        """Find the examples: blocks of one line that is a frame."""
        self.examples = [block.encode() for block in re.findall(r"^```text\n(H.*)\n```$", text("docs/reference/protocol.md"), re.MULTILINE)]

    def test_client_frames(self) -> None:
        """Each example that a client sends is one frame to a server, and each frame that there is has an example."""
        understood = set()
        shapes = Version01().shapes[0]
        for example in self.examples:
            if not example.startswith(b"H01003"):
                decoder = FrameDecoder(shapes)
                decoder.receive(example)
                understood |= {shape.header for shape, _, _ in decoder.frames()}
                self.assertEqual(decoder.pending, 0, example)
        self.assertEqual(understood, set(shapes))

    def test_deliveries(self) -> None:
        """The examples of deliveries are what a server sends."""
        delivery = "Foo", b"Hello World", b"d7e7f68761d34838494b233148b5486c", 3_300_000
        self.assertEqual(
            [example for example in self.examples if example.startswith(b"H01003")],
            [b"".join(encode_delivery(revision, *delivery)) for revision in (ORIGINAL, DOCUMENTED)],
        )

    def test_table(self) -> None:
        """The table of types has the header of every frame."""
        headers = {header.decode() for header in Version01().shapes[0]} | {"H0100303", "H0100304"}
        self.assertEqual(set(re.findall(r"`(H\d{7})`", text("docs/reference/protocol.md"))), headers)


class OptionsTests(SynchronousTestCase):
    """docs/reference/options.md."""

    def test_complete(self) -> None:
        """It describes the options that there are, with their short forms."""
        options = {"--" + name.rstrip("=") for name in tap.Options().longOpt if name.rstrip("=") not in ("help", "version")}
        described = re.findall(r"^`(--[a-z-]+) [A-Z]+`(?:, `-([a-z]) [A-Z]+`)?$", text("docs/reference/options.md"), re.MULTILINE)
        self.assertEqual({name for name, _ in described}, options)
        for name, short in described:
            if short:
                self.assertEqual(tap.Options().synonyms[short], name[2:])

    def test_configuration_file(self) -> None:
        """Its example of a configuration file, and that of the how-to guide, can be read."""
        for path in "docs/reference/options.md", "docs/how-to/run-it.md":
            for number, example in enumerate(re.findall(r"^```toml\n(.*?)^```$", text(path), re.MULTILINE | re.DOTALL)):
                options = tap.Options()
                with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
                    file.write(example)
                    file.flush()
                    options.parseOptions(["--config", file.name])
                self.assertTrue(options.settings.listen, f"{path} {number}")


class EmbedTests(SynchronousTestCase):
    """docs/how-to/embed.md."""

    def test_settings(self) -> None:
        """It names every setting."""
        guide = text("docs/how-to/embed.md")
        for name in service.Settings.__dataclass_fields__:
            self.assertIn(f"`{name}", guide)


class RulesTests(SynchronousTestCase):
    """docs/reference/semantics.md."""

    def test_numbers(self) -> None:
        """It has every rule that a comment in the code names by number."""
        rules = set(re.findall(r"^\*\*(\d+)\.\*\*", text("docs/reference/semantics.md"), re.MULTILINE))
        sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "phpmq").rglob("*.py"))
        named = {number for list_ in re.findall(r"[Rr]ules? ((?:\d+(?:, | and )?)+)", sources) for number in re.findall(r"\d+", list_)}
        self.assertTrue(named)
        self.assertEqual(named - rules, set())


class ReadmeTests(SynchronousTestCase):
    """README.md."""

    def test_numbers_in_the_shell(self) -> None:
        """The delivery that its commands read is as long as they say, with the id where they take it from."""
        script = text("README.md")
        message_id = b"d7e7f68761d34838494b233148b5486c"
        delivery = b"".join(encode_delivery(DOCUMENTED, "jobs", b"hello", message_id, 0))
        self.assertEqual(wire.deliveries(delivery), [wire.Delivery("jobs", b"hello", message_id, 0)])
        self.assertIn(f"read -r -N {len(delivery)} delivery", script)
        self.assertIn(f"id=${{delivery:{delivery.index(message_id)}:{len(message_id)}}}", script)
