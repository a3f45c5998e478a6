"""The documentation says what the command does."""

from __future__ import annotations

import json
import re

import click
from twisted.trial.unittest import SynchronousTestCase

from phpmq.cli.bench import Figures
from phpmq.cli.command import VERBS, command
from phpmq.cli.consume import format_of
from phpmq.cli.exit_codes import Exit
from phpmq.cli.ndjson import message_of
from phpmq.cli.output import json_line
from phpmq.client import Delivery
from phpmq.client_connection import ClientConnection
from tests.test_docs import ROOT, text


class CommandTests(SynchronousTestCase):
    """docs/reference/command.md, and what other documents say of the command."""

    reference = "docs/reference/command.md"

    def section(self, heading: str) -> str:
        """What is under a heading."""
        match = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text(self.reference), re.MULTILINE | re.DOTALL)
        assert match is not None, heading
        return match[1]

    def verbs(self) -> dict[str, click.Command]:
        """All verbs, and the verbs below those that have some, by their names as they are written."""
        found: dict[str, click.Command] = {}
        for verb in VERBS:
            there = command.get_command(click.Context(command), verb)
            assert there is not None
            if isinstance(there, click.Group):
                found |= {f"{verb} {name}": each for name, each in there.commands.items()}
            else:
                found[verb] = there
        return found

    def options(self, verb: str) -> list[click.Option]:
        """Those that there are."""
        return [option for option in self.verbs()[verb].params if isinstance(option, click.Option)]

    def form(self, option: click.Option) -> str:
        """How an option is written: its long names, and what it takes."""
        names = " / ".join(name for name in option.opts + option.secondary_opts if name.startswith("--"))
        if option.is_flag:
            return names
        value = "|".join(option.type.choices) if isinstance(option.type, click.Choice) else option.metavar
        return f"{names} {value}"

    def test_options(self) -> None:
        """It describes the options of each verb in the order of its help, and says their defaults."""
        for verb in self.verbs():
            section = self.section(f"phpmq {verb}")
            described = re.findall(r"^`(--[^`]+)`\n: (.*?)(?=\n\n`--|\n\n[^ ]|\Z)", section, re.MULTILINE | re.DOTALL)
            options = self.options(verb)
            self.assertEqual([form for form, _ in described], [self.form(option) for option in options])
            for option, (form, words) in zip(options, described, strict=True):
                if option.show_default and option.envvar is None:
                    default = option.default
                    said = f"{default:g}" if isinstance(default, int | float) else str(default)
                    self.assertRegex(words, rf"Default `?{said}`?[.:]", form)

    def test_synopsis(self) -> None:
        """Its first lines are the usage of each verb."""
        usages = re.findall(r"^    phpmq (\w+)\b(.*)$", text(self.reference).partition("## ")[0], re.MULTILINE)
        self.assertEqual([verb for verb, _ in usages], list(VERBS))

    def test_exit_codes(self) -> None:
        """It has every exit code."""
        self.assertEqual([int(code) for code in re.findall(r"^\| (\d+) \|", self.section("Exit codes"), re.MULTILINE)], list(Exit))

    def test_environment(self) -> None:
        """It has every variable that the command looks at, or gives to others."""
        sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "phpmq" / "cli").rglob("*.py"))
        variables = set(re.findall(r"\b((?:PHPMQ|XDG)_[A-Z_]+|BASH_[A-Z]+_USER_DIR|ZDOTDIR)\b", sources))
        self.assertIn("PHPMQ_SERVER", variables)
        for variable in variables:
            self.assertIn(f"`{variable}`", text(self.reference))

    def test_examples(self) -> None:
        """Every command line in the documents is one: there are such verbs and such options."""
        count = 0
        for path in self.reference, "README.md", "docs/tutorials/first-queue.md", "docs/how-to/dead-letters.md":
            for line in re.findall(rf"^(?:    |.*\| )?phpmq ((?:{'|'.join(VERBS)})\b[^|<>#\n]*)", text(path), re.MULTILINE):
                verb = next(verb for verb in self.verbs() if f"{line} ".startswith(f"{verb} "))
                known = {name for option in self.options(verb) for name in option.opts + option.secondary_opts}
                used = set(re.findall(r" (--[a-z][a-z-]*)", line))
                self.assertEqual(used - known, set(), f"{path}: {line}")
                count += 1
        self.assertGreater(count, 20)

    def test_json(self) -> None:
        """Its examples of JSON are what the command prints."""
        examples = [json.loads(example) for example in re.findall(r"`(\{\"[^`]*\})`", self.section("JSON"))]
        delivery = Delivery(ClientConnection(lambda: 0.0), "jobs", b"hello", b"d7e7f68761d34838494b233148b5486c", 1, None, None)
        self.assertIn(json.loads(format_of(None, True)(delivery)), examples)
        self.assertIn(set(Figures("send", 0).as_json()), [set(example) for example in examples])
        exported = next(example for example in examples if "accepted_at" in example)
        self.assertEqual(message_of(json_line(exported)), (b"hello", {"ttl": 0.0, "delay": 0.0, "headers": {}}))
        latency = next(example["latency_ms"] for example in examples if "latency_ms" in example)
        self.assertEqual(set(latency), set(Figures("send", 0).as_json()["latency_ms"]))
