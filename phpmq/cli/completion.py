"""C{phpmq completion}."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from phpmq.addresses import ApiAddress, parse_api_address
from phpmq.cli.admin.api import Api
from phpmq.cli.admin.run import run_work
from phpmq.cli.exit_codes import Failed
from phpmq.cli.output import Report, note

#: The variable by which a shell asks for completions.
VARIABLE = "_PHPMQ_COMPLETE"

# Where bash-completion is, which looks for scripts in the user's directory; bash alone does not.
_BASH_COMPLETION = (
    "/usr/share/bash-completion/bash_completion",
    "/usr/local/share/bash-completion/bash_completion",
    "/opt/homebrew/share/bash-completion/bash_completion",
    "/opt/homebrew/etc/profile.d/bash_completion.sh",
    "/usr/local/etc/profile.d/bash_completion.sh",
    "/etc/bash_completion",
)


# Who has pressed a key does not wait for longer, in seconds, and reads no more names.
_PATIENCE, _MOST = 1.0, 50
# Other names would need quotes, which shells do not put around what they complete.
_PLAIN = re.compile(r"[\w./@%+=,][\w./@%+=,-]*")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--install", is_flag=True, help="Put it where the shell finds it by itself.")
@click.pass_context
def completion(context: click.Context, shell: str, install: bool) -> None:
    """
    Print the script that lets SHELL complete phpmq's commands and options.

    \b
    phpmq completion bash --install
    """
    complete = get_completion_class(shell)
    assert complete is not None
    script = complete(context.find_root().command, {}, "phpmq", VARIABLE).source()
    if not install:
        click.echo(script)
        return
    path = _path(shell)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script + "\n", encoding="utf-8")
        if shell == "zsh":
            _source(path, _home("ZDOTDIR", "") / ".zshrc", "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }\n")
        elif shell == "bash" and not any(map(os.path.exists, _BASH_COMPLETION)):
            _source(path, Path.home() / ".bashrc")
    except OSError as error:
        raise Failed(f"cannot write {error.filename or path}: {error.strerror}") from error
    note(f"{path} is written: new shells complete phpmq")


def _home(variable: str, default: str) -> Path:
    """Return a directory of the XDG specification, which ignores relative ones."""
    directory = os.environ.get(variable, "")
    return Path(directory) if os.path.isabs(directory) else Path.home() / default


def _path(shell: str) -> Path:
    if shell == "fish":
        return _home("XDG_CONFIG_HOME", ".config") / "fish" / "completions" / "phpmq.fish"
    data = _home("XDG_DATA_HOME", ".local/share")
    if shell == "bash":
        return _home("BASH_COMPLETION_USER_DIR", str(data / "bash-completion")) / "completions" / "phpmq"
    return data / "phpmq" / "completion.zsh"


def _source(path: Path, settings: Path, before: str = "") -> None:
    """Add a line that reads the script to the settings of a shell, unless it is there."""
    quoted = str(path).replace("'", "'\\''")
    line = f"source '{quoted}'\n"
    there = settings.read_text(encoding="utf-8", errors="surrogateescape") if settings.exists() else ""
    if line not in there:
        with settings.open("a", encoding="utf-8") as file:
            file.write(("" if not there or there.endswith("\n") else "\n") + "# Completion of phpmq\n" + before + line)


def names_like(start: str, address: ApiAddress | None) -> list[str]:
    """Return names of queues that begin like this, from this API or the environment's; none if the API does not answer."""
    found: list[str] = []

    async def work(api: Api, report: Report) -> None:
        async for page in api.pages("list queues", "queues", most=_MOST, filter=f"{start}*"):
            found.extend(queue["name"] for queue in page)

    try:
        where = address or parse_api_address(os.environ.get("PHPMQ_API") or "http://127.0.0.1:9180")
        run_work(work, where, _PATIENCE)
    except (Failed, ValueError):
        return []
    return [name for name in found if name.startswith(start) and _PLAIN.fullmatch(name)]
