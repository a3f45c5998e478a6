"""What Prometheus' own tool says, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from unittest import SkipTest


def promtool(*arguments: str, content: bytes = b"", directory: Path | None = None) -> None:
    """
    Have it check something.

    @raise SkipTest: it is not installed
    @raise AssertionError: it finds something
    """
    program = shutil.which("promtool")
    if program is None:
        raise SkipTest("promtool is not installed")
    done = subprocess.run([program, *arguments], input=content, cwd=directory, capture_output=True, timeout=60)
    if done.returncode:
        raise AssertionError((done.stdout + done.stderr).decode())
