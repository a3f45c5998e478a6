"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from phpmq.cli.exits import Failed


@contextmanager
def replacing(path: str) -> Iterator[int]:
    """
    A descriptor to write to. What is written becomes the file of that name when all went well; otherwise that is as it was.

    What is there and is no file, such as a pipe, is written to as it is.

    @raise Failed: it cannot be
    """
    try:
        # A link stays one.
        real = Path(os.path.realpath(path))
        there = os.stat(real) if real.exists() else None
        if there is not None and not stat.S_ISREG(there.st_mode):
            with _opened(real, 0) as descriptor:
                yield descriptor
            return
        temporary = real.with_name(f".{real.name}.{secrets.token_hex(4)}.part")
        try:
            with _opened(temporary, os.O_CREAT | os.O_EXCL) as descriptor:
                if there is not None:
                    os.fchmod(descriptor, stat.S_IMODE(there.st_mode))
                yield descriptor
                os.fsync(descriptor)
            os.replace(temporary, real)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failed(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
