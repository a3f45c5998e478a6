"""The command: its verbs, and the exit code and the line for each error."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword
from typing import Any

import click

from phpmq import __version__
from phpmq.cli.exit_codes import Exit, Failed, code_of
from phpmq.cli.options import want_verb
from phpmq.cli.output import note
from phpmq.errors import PHPMQError

#: The verbs: the module that has each, and its line in the help. Modules are imported when their verb is called.
VERBS = {
    "send": ("phpmq.cli.verbs", "Send messages to a queue."),
    "consume": ("phpmq.cli.verbs", "Take messages from queues, or run a command for each."),
    "status": ("phpmq.cli.admin.views", "Show how a server is."),
    "queues": ("phpmq.cli.admin.queues", "List queues."),
    "queue": ("phpmq.cli.admin.queues", "Show a queue, change its settings, or delete it."),
    "clients": ("phpmq.cli.admin.views", "List connections, or close some."),
    "peek": ("phpmq.cli.admin.messages", "Look at messages of a queue."),
    "dead": ("phpmq.cli.admin.messages", "List, replay or delete dead letters."),
    "move": ("phpmq.cli.admin.messages", "Move messages to another queue."),
    "flush": ("phpmq.cli.admin.queues", "Remove the messages that wait in queues."),
    "pause": ("phpmq.cli.admin.queues", "Stop deliveries, sends, or both."),
    "resume": ("phpmq.cli.admin.queues", "Undo a pause."),
    "top": ("phpmq.cli.admin.views", "Watch a server and its queues."),
    "check": ("phpmq.cli.admin.nagios", "Check a server or queues, for Nagios and its kind."),
    "export": ("phpmq.cli.admin.export", "Write the messages of a queue as lines of JSON."),
    "import": ("phpmq.cli.verbs", "Send messages that are lines of JSON."),
    "bench": ("phpmq.cli.verbs", "Measure a server: rate and latency."),
    "completion": ("phpmq.cli.completion", "Complete commands and options in a shell."),
}


class _Verbs(click.Group):
    """A group whose commands are imported by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name; a name that is a keyword of Python's has C{_verb} after it in its module."""
        if cmd_name not in VERBS:
            return None
        module, short_help = VERBS[cmd_name]
        command: click.Command = getattr(import_module(module), f"{cmd_name}_verb" if iskeyword(cmd_name) else cmd_name)
        command.short_help = short_help
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, short_help) for verb, (_, short_help) in VERBS.items()])


@click.group(cls=_Verbs, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="phpmq %(version)s")
@click.pass_context
def command(context: click.Context) -> None:
    """
    Send messages to a phpmq server and consume them; inspect and control a server that runs.

    Each command has its own --help.
    """
    want_verb(context)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, or those of the process: the exit code."""
    _open_missing()
    try:
        result: Any = command.main(arguments, prog_name="phpmq", standalone_mode=False)
        sys.stdout.flush() if sys.stdout is not None else None
        return int(result or Exit.OK)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Failed as error:
        note(error.sentence)
        return error.code
    except PHPMQError as error:
        note(f"the server refused: {error}")
        return code_of(error)
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except BrokenPipeError:
        return _unread()
    except Exception as error:
        if os.environ.get("PHPMQ_DEBUG"):
            raise
        note(f"failed unexpectedly, {type(error).__name__}: {error}; PHPMQ_DEBUG=1 shows where")
        return Exit.FAILED


def _open_missing() -> None:
    """Open standard streams that the caller closed, so that no connection gets the number of one."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _unread() -> int:
    """Discard the output that nobody reads any more, so that the end of the process does not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return Exit.FAILED
