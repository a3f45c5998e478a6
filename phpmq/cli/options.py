"""Values on the command line, and options that several verbs have."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from phpmq.cli.exits import Exit
from phpmq.errors import BadName
from phpmq.message import check_name
from phpmq.text import DURATION_EXAMPLES, parse_duration, parse_size, short_size

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # older ones cannot be subscripted

_F = TypeVar("_F", bound=Callable[..., Any])

_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|m|min|h))?", re.ASCII)
_PERIODS = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600}


class QueueName(ParamType):
    """The name of a queue."""

    name = "queue"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See C{click.ParamType}."""
        try:
            return check_name(value)
        except BadName as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Queues that there are; see C{click.ParamType}."""
        from phpmq.cli.admin.names import names_like

        return [CompletionItem(name) for name in names_like(incomplete, ctx.params.get("api"))]


class Seconds(ParamType):
    """A number of seconds, perhaps with another unit; see L{parse_duration}."""

    name = "seconds"

    def __init__(self, zero: bool = True) -> None:
        self._zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See C{click.ParamType}."""
        try:
            number = parse_duration(str(value))
        except ValueError:
            number = -1.0
        if number < 0 or (number == 0 and not self._zero):
            self.fail(f"{value!r} is not a duration{'' if self._zero else ' above 0'} such as {DURATION_EXAMPLES}", param, ctx)
        return number


class Rate(ParamType):
    """How often something happens: C{100}, C{100/s}, C{30/min}, C{1000/h}."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See C{click.ParamType}."""
        if isinstance(value, float):
            return value
        match = _RATE.fullmatch(value)
        rate = float(match[1]) / _PERIODS[match[2]] if match else 0.0
        if not rate:
            self.fail(f"{value!r} is not a rate such as 100, 100/s or 30/min", param, ctx)
        return rate


class Size(ParamType):
    """A number of bytes, perhaps with a unit; see L{parse_size}."""

    name = "size"

    def __init__(self, most: int) -> None:
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See C{click.ParamType}."""
        try:
            size = parse_size(str(value))
        except ValueError:
            size = -1
        if not 0 <= size <= self._most:
            self.fail(f"{value!r} is not a number of bytes such as 100, 4k or 1M, up to {short_size(self._most)}", param, ctx)
        return size


class Header(ParamType):
    """A header, C{NAME=VALUE}."""

    name = "header"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """See C{click.ParamType}."""
        name, equals, text = value.partition("=")
        if not name or not equals:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        return unicode(name, "a header", self, param, ctx), unicode(text, "a header", self, param, ctx)


class Text(ParamType):
    """Text that is not empty."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See C{click.ParamType}."""
        if not value:
            self.fail("it is empty", param, ctx)
        return unicode(value, "it", self, param, ctx)


def unicode(value: str, what: str, kind: ParamType, param: click.Parameter | None, ctx: click.Context | None) -> str:
    """The value, if all its bytes were UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        kind.fail(f"{what} is not UTF-8", param, ctx)
    return value


def want_verb(context: click.Context) -> None:
    """See that a verb was named: without one there is help, and exit code 2. For groups that are invoked without a command."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(Exit.USAGE)


def server_option(function: _F) -> _F:
    """C{--server}."""
    return click.option(
        "--server",
        envvar="PHPMQ_SERVER",
        default="tcp:127.0.0.1:9100",
        show_default=True,
        show_envvar=True,
        metavar="WHERE",
        help="Where the server listens: tcp:HOST:PORT, HOST:PORT, unix:PATH or tls:HOST:PORT.",
    )(function)


def timeout_option(help: str, default: float | None = None) -> Callable[[_F], _F]:
    """C{--timeout}."""
    return click.option("--timeout", type=Seconds(zero=False), default=default, show_default=default is not None, metavar="S", help=help)


def progress_option(function: _F) -> _F:
    """C{--progress}."""
    return click.option("--progress/--no-progress", default=None, help="Show how far it is on standard error.  [default: on a terminal]")(
        function
    )


def level_option(function: _F) -> _F:
    """C{--level}."""
    return click.option(
        "--level",
        type=click.Choice(["stored", "synced"]),
        default="stored",
        show_default=True,
        help="What a receipt says: that the server has the message in memory, or that it is on the disk.",
    )(function)
