"""Options that the verbs have which speak to the HTTP API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from phpmq.cli.admin.address import Address, address
from phpmq.cli.options import ParamType, Size, timeout_option, unicode

_F = TypeVar("_F", bound=Callable[..., Any])

#: What queues can be sorted by.
SORTS = "name", "ready", "in_flight", "messages", "dead", "bytes", "age", "rate"

#: States of messages, as the user names them; the API has C{_} for C{-}.
STATES = "ready", "delayed", "in-flight", "dead"

#: The most bytes of each body that the API shows in a list of messages.
MAX_PREVIEW = 65536

#: Seconds that an answer may take.
TIMEOUT = 30.0


class Api(ParamType):
    """The address of an API."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """See C{click.ParamType}."""
        if isinstance(value, Address):
            return value
        try:
            return address(unicode(value, "it", self, param, ctx))
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


class Pattern(ParamType):
    """A pattern for names of queues."""

    name = "glob"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See C{click.ParamType}."""
        if len(value) > 255:
            self.fail("a pattern has at most 255 characters", param, ctx)
        return unicode(value, "the pattern", self, param, ctx)


def api_within(seconds: float) -> Callable[[_F], _F]:
    """C{--api}, and C{--timeout} with that default."""

    def add(function: _F) -> _F:
        return click.option(
            "--api",
            type=Api(),
            envvar="PHPMQ_API",
            default="http://127.0.0.1:9180",
            show_default=True,
            show_envvar=True,
            metavar="WHERE",
            help="Where the server's HTTP API is: http://HOST:PORT, https://HOST:PORT or unix:PATH.",
        )(timeout_option("Give up when a request is not answered within S seconds.", seconds)(function))

    return add


def api_option(function: _F) -> _F:
    """C{--api} and C{--timeout}."""
    return api_within(TIMEOUT)(function)


def json_option(help: str) -> Callable[[_F], _F]:
    """C{--json}."""
    return click.option("--json", "as_json", is_flag=True, help=help)


def yes_option(function: _F) -> _F:
    """C{--yes}."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask. Without a terminal, where nobody can be asked, it has to be there.")(
        function
    )


def limit_option(function: _F) -> _F:
    """C{--limit}, of messages."""
    return click.option(
        "--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="Show at most N messages, the first ones."
    )(function)


def preview_option(function: _F) -> _F:
    """C{--preview}."""
    return click.option(
        "--preview", type=Size(MAX_PREVIEW), default="80", show_default=True, metavar="B", help="Show the first B bytes of each body."
    )(function)


def order(sort: str, reverse: bool) -> str:
    """What the API calls an order: names begin with the first, numbers with the largest, unless it is to be the other way round."""
    return sort if (sort == "name") != reverse else f"-{sort}"
