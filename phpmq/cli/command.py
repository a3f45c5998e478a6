"""The command: its verbs, and what becomes of everything that can go wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword
from typing import Any

import click

from phpmq import __version__
from phpmq.cli.exits import Exit, Failed, code_of
from phpmq.cli.options import want_verb
from phpmq.cli.output import note
from phpmq.errors import PHPMQError

#: The verbs: which module has each. They are imported when they are wanted, so that the others cost nothing.
VERBS = {
    "send": "phpmq.cli.send",
    "consume": "phpmq.cli.consume",
    "status": "phpmq.cli.admin.status",
    "queues": "phpmq.cli.admin.queues",
    "queue": "phpmq.cli.admin.queue",
    "clients": "phpmq.cli.admin.clients",
    "peek": "phpmq.cli.admin.peek",
    "dead": "phpmq.cli.admin.dead",
    "move": "phpmq.cli.admin.move",
    "flush": "phpmq.cli.admin.flush",
    "pause": "phpmq.cli.admin.pause",
    "resume": "phpmq.cli.admin.pause",
    "top": "phpmq.cli.admin.top",
    "check": "phpmq.cli.admin.check",
    "export": "phpmq.cli.admin.export",
    "import": "phpmq.cli.importing",
    "bench": "phpmq.cli.bench",
    "completion": "phpmq.cli.completion",
}


class _Verbs(click.Group):
    """A group whose commands are imported by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table, which is that of interest."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; the module has it under its own name, or with C{_verb} after it if that is a word of Python's."""
        if cmd_name not in VERBS:
            return None
        name = f"{cmd_name}_verb" if iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(import_module(VERBS[cmd_name]), name)
        return command


@click.group(cls=_Verbs, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="phpmq %(version)s")
@click.pass_context
def command(context: click.Context) -> None:
    """
    Send messages to a phpmq server and consume them; see and steer a server that runs.

    Each command has its own --help.
    """
    want_verb(context)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command: the exit code.

    @param arguments: None for those of the process
    """
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
    """Let no connection get the number of a standard stream that was closed by the caller."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _unread() -> int:
    """Nobody reads the output any more: nobody is to be told, also not at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return Exit.FAILED
