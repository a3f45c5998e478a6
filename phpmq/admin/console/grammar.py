"""The grammar of a command line of the console: a command, its arguments and its options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from phpmq.admin.admin import Admin
from phpmq.admin.console.display import LARGEST, SMALLEST, View
from phpmq.errors import AdminError, BadName, NoSuchClient, NoSuchMessage, NoSuchQueue, PHPMQError
from phpmq.results import json_parts


class BadCommand(AdminError):
    """A line that is no command."""

    code = "bad-command"


@dataclass(frozen=True)
class Answer:
    """
    What comes of a command, in lines and for programs, and what the console does then: show a monitor, clear the screen, or close.

    @ivar style: how to show things from here on: C{plain} or C{colour}
    """

    lines: Sequence[str] = ()
    data: Any = None
    view: View | None = None
    style: str = ""
    clear: bool = False
    close: bool = False


@dataclass(frozen=True)
class Call:
    """A command with its arguments; whether the answer is for a program, and columns and rows of a monitor unless it has the usual ones."""

    command: Command
    words: Sequence[str] = ()
    json: bool = False
    size: tuple[int, int] | None = None

    async def run(self, admin: Admin) -> Answer:
        """Run the command; raises a L{PHPMQError} if it cannot be done."""
        answer = self.command.run(admin, self)
        return answer if isinstance(answer, Answer) else await answer


@dataclass(frozen=True)
class Command:
    """
    A command, and what its help says.

    @ivar arguments: what it is called with; what is in brackets may be left out
    @ivar changes: whether it changes anything for others
    """

    name: str
    arguments: str
    summary: str
    text: str
    run: Callable[[Admin, Call], Answer | Awaitable[Answer]]
    options: Sequence[str] = ("--json",)
    changes: bool = False

    @property
    def usage(self) -> str:
        """How to call it."""
        options = ["[--size COLUMNSxROWS]" if option == "--size" else f"[{option}]" for option in self.options]
        return " ".join(part for part in (self.name, self.arguments, *options) if part)

    def takes(self, words: int) -> bool:
        """Whether it can be called with so many words."""
        optional = re.findall(r"\[.*?\]", self.arguments)
        least = len(re.sub(r"\[.*?\](\.\.\.)?", "", self.arguments).split())
        if self.arguments.endswith("..."):
            return words >= least and (words - least) % len(optional[-1].split()) == 0
        return least <= words <= least + len(optional)


def parse(line: str, commands: Mapping[str, Command]) -> Call | None:
    """Return what a line says, None for an empty one; raise L{BadCommand} if it says nothing that can be done."""
    if any(one != "\t" and (one < " " or "\x7f" <= one <= "\x9f") for one in line):
        raise BadCommand("the line has control characters, perhaps from an arrow key; type it again")
    try:
        name, *rest = shlex.split(line) or [""]
    except ValueError:
        hint = "a name with ' in it goes into \" and the other way"
        raise BadCommand(f"a quote is not closed, or nothing follows a backslash; {hint}") from None
    return _options(find(name, commands), rest) if name else None


def find(name: str, commands: Mapping[str, Command]) -> Command:
    """Return the command of that name, or raise L{BadCommand}."""
    if name in commands:
        return commands[name]
    near = get_close_matches(name.lower(), commands, 1)
    raise BadCommand(f"there is no command {name!r}" + (f", did you mean {near[0]}?" if near else "; help lists them all"))


def _options(command: Command, rest: list[str]) -> Call:
    words: list[str] = []
    json, size, left = False, None, iter(rest)
    for word in left:
        if word == "--":
            words += left
        elif word == "--json" and word in command.options:
            json = True
        elif word == "--size" and word in command.options:
            size = _size(next(left, ""))
        elif word.startswith("--"):
            raise BadCommand(f"{command.name} has no option {word}; a name that begins with two dashes goes after a --")
        else:
            words.append(word)
    if not command.takes(len(words)):
        raise BadCommand(f"usage: {command.usage}; a name with spaces goes into quotes")
    return Call(command, words, json, size)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text, re.ASCII)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(least <= number <= most for least, number, most in zip(SMALLEST, size, LARGEST, strict=True)):
        limits = "{}x{} to {}x{}".format(*SMALLEST, *LARGEST)
        raise BadCommand(f"a size is COLUMNSxROWS, such as 120x40, from {limits}, not {text!r}")
    return size


_HINTS: dict[type[PHPMQError], str] = {
    NoSuchQueue: "search PATTERN finds queues, dead lists those with dead letters",
    NoSuchMessage: "show QUEUE and dead QUEUE list messages with their ids",
    NoSuchClient: "clients lists those that there are",
    BadName: "a name has 1 to 255 bytes of UTF-8 and no control characters",
}


def complaint(error: PHPMQError) -> str:
    """What is wrong and what to try, in a line."""
    hint = _HINTS.get(type(error))
    return f"error: {error}" + (f"; {hint}" if hint else "")


def json_pieces(data: Mapping[str, Any]) -> Iterator[str]:
    """Data as JSON in a line of printable ASCII, in pieces."""
    return (piece.decode("ascii").replace("\x7f", "\\u007f") for piece in json_parts(data))
