"""Types of values on the command line, and options that several verbs have."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from phpmq.cli.exit_codes import Exit
from phpmq.errors import BadName
from phpmq.message import SORTS, check_name
from phpmq.text import DURATION_EXAMPLES, parse_duration, parse_size, short_size

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # older ones cannot be subscripted

_F = TypeVar("_F", bound=Callable[..., Any])
_Option = Callable[[_F], _F]

_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|m|min|h))?", re.ASCII)
_PERIODS = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600}

#: Seconds that an answer of the API may take.
TIMEOUT = 30.0


class Value(ParamType):
    """A value that a function parses; the function raises ValueError with a sentence if it cannot."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except UnicodeEncodeError:
            self.fail("it is not UTF-8", param, ctx)
        except (ValueError, BadName) as error:
            self.fail(str(error), param, ctx)


class _QueueName(Value):
    """The name of a queue, which shells complete."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return queues of the server whose names begin like this; see C{click.ParamType}."""
        from phpmq.cli.completion import names_like

        return [CompletionItem(name) for name in names_like(incomplete, ctx.params.get("api"))]


def _parse_seconds(text: str, zero: bool = True) -> float:
    with suppress(ValueError):
        if (seconds := parse_duration(text)) or zero:
            return seconds
    raise ValueError(f"{text!r} is not a duration{'' if zero else ' above 0'} such as {DURATION_EXAMPLES}")


def _parse_rate(text: str) -> float:
    match = _RATE.fullmatch(text)
    rate = float(match[1]) / _PERIODS[match[2]] if match else 0.0
    if not rate:
        raise ValueError(f"{text!r} is not a rate such as 100, 100/s or 30/min")
    return rate


def _parse_header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    text.encode()
    if not name or not equals:
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return name, value


def _parse_text(text: str) -> str:
    text.encode()
    if not text:
        raise ValueError("it is empty")
    return text


def _parse_pattern(text: str) -> str:
    text.encode()
    if len(text) > 255:
        raise ValueError("a pattern has at most 255 characters")
    return text


def _parse_api(text: str) -> Any:
    from phpmq.addresses import parse_api_address

    return parse_api_address(text)


QUEUE = _QueueName("queue", check_name)
SECONDS = Value("seconds", _parse_seconds)
INTERVAL = Value("seconds", partial(_parse_seconds, zero=False))
RATE = Value("rate", _parse_rate)
HEADER = Value("header", _parse_header)
TEXT = Value("text", _parse_text)
PATTERN = Value("glob", _parse_pattern)


def size(most: int) -> Value:
    """Return the type of a number of bytes, perhaps with a unit, up to a limit."""

    def parse(text: str) -> int:
        try:
            number = parse_size(text)
        except ValueError:
            number = -1
        if not 0 <= number <= most:
            raise ValueError(f"{text!r} is not a number of bytes such as 100, 4k or 1M, up to {short_size(most)}")
        return number

    return Value("size", parse)


def want_verb(context: click.Context) -> None:
    """Show help, and end with exit code 2, if a group was called without a verb."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(Exit.USAGE)


server_option: _Option[Any] = click.option(
    "--server",
    envvar="PHPMQ_SERVER",
    default="tcp:127.0.0.1:9100",
    show_default=True,
    show_envvar=True,
    metavar="WHERE",
    help="Where the server listens: HOST, HOST:PORT, tcp:HOST:PORT, unix:PATH or tls:HOST:PORT.",
)

progress_option: _Option[Any] = click.option(
    "--progress/--no-progress", default=None, help="Show how far it is on standard error.  [default: on a terminal]"
)

level_option: _Option[Any] = click.option(
    "--level",
    type=click.Choice(["stored", "synced"]),
    default="stored",
    show_default=True,
    help="What a receipt says: that the server has the message in memory, or that it is on the disk.",
)


def timeout_option(help: str, default: float | None = None) -> _Option[Any]:
    """Return the option C{--timeout}."""
    return click.option("--timeout", type=INTERVAL, default=default, show_default=default is not None, metavar="S", help=help)


yes_option: _Option[Any] = click.option(
    "-y", "--yes", is_flag=True, help="Do not ask. Without a terminal, where nobody can be asked, it has to be there."
)


def sort_options(default: str) -> _Option[Any]:
    """Add C{--sort} and C{--reverse}; L{order} makes one value of both."""

    def add(function: Any) -> Any:
        function = click.option("--reverse", is_flag=True, help="The other way round.")(function)
        help = "Names from the first, numbers from the largest."
        return click.option("--sort", type=click.Choice(SORTS), default=default, show_default=True, help=help)(function)

    return add


def order(sort: str, reverse: bool) -> str:
    """Return the API's name of an order: names begin with the first, numbers with the largest, or the other way round."""
    return sort if (sort == "name") != reverse else f"-{sort}"


def api_options(json_help: str = "", seconds: float = TIMEOUT) -> _Option[Any]:
    """Add C{--json}, if there is a help text for it, C{--api}, and C{--timeout} with this default."""

    def add(function: Any) -> Any:
        function = timeout_option("Give up when a request is not answered within S seconds.", seconds)(function)
        function = click.option(
            "--api",
            type=Value("address", _parse_api),
            envvar="PHPMQ_API",
            default="http://127.0.0.1:9180",
            show_default=True,
            show_envvar=True,
            metavar="WHERE",
            help="Where the server's HTTP API is: HOST, HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:PATH.",
        )(function)
        return click.option("--json", "as_json", is_flag=True, help=json_help)(function) if json_help else function

    return add
