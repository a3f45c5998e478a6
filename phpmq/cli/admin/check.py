"""C{phpmq check}: a plugin for Nagios, and for all that run those."""

from __future__ import annotations

from typing import Any

import click

from phpmq.cli.admin.address import Address
from phpmq.cli.admin.options import Pattern, api_within
from phpmq.cli.options import Seconds

# Seconds after which Nagios itself gives up on a plugin.
_TIMEOUT = 10.0

_COUNT = click.IntRange(0)


class _Check(click.Command):
    """A command whose wrong options are UNKNOWN, as monitoring has it; 2, which all other verbs end with then, would be CRITICAL."""

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        """See C{click.Command}."""
        try:
            return super().make_context(*arguments, **settings)
        except click.UsageError as error:
            from phpmq.cli.admin.checking import State, say

            say(State.UNKNOWN, error.format_message())
            raise click.exceptions.Exit(State.UNKNOWN) from error


@click.command(cls=_Check, short_help="Check a server or queues, for Nagios and its kind.")
@click.argument("patterns", type=Pattern(), nargs=-1, metavar="[QUEUE|GLOB]...")
@click.option("--ready-warn", type=_COUNT, metavar="N", help="Warn where more than N messages are ready.")
@click.option("--ready-crit", type=_COUNT, metavar="N", help="The same, critical.")
@click.option("--age-warn", type=Seconds(), metavar="S", help="Warn where the next message waits for more than S seconds.")
@click.option("--age-crit", type=Seconds(), metavar="S", help="The same, critical.")
@click.option("--dead-warn", type=_COUNT, metavar="N", help="Warn where there are more than N dead letters.")
@click.option("--dead-crit", type=_COUNT, metavar="N", help="The same, critical.")
@click.option("--min-consumers", type=_COUNT, metavar="N", help="Critical where there are fewer than N consumers.")
@click.option("--mirror-lag", type=Seconds(), metavar="S", help="Critical if the file lags behind by more than S seconds.")
@api_within(_TIMEOUT)
def check(patterns: tuple[str, ...], mirror_lag: float | None, api: Address, timeout: float, **limits: Any) -> int:
    """
    Check each QUEUE, and each that matches a GLOB; all queues without those. Also check the server's own alarms.

    It prints one line, with the numbers after "|". Its exit codes are those of Nagios' plugins, not phpmq's own: 0 OK, 1 WARNING,
    2 CRITICAL, also when the server cannot be reached, 3 UNKNOWN.

    \b
    phpmq check jobs --ready-warn 1000 --ready-crit 10000 --min-consumers 1
    phpmq check 'mail-*' --dead-crit 0 --mirror-lag 30
    """
    from phpmq.cli.admin.checking import Limits, check_server
    from phpmq.cli.admin.reaching import reach

    found = Limits(patterns or ("*",), mirror_lag, **limits)
    return check_server(lambda work: reach(api, timeout, work), found, timeout)
