"""How a command ends: its exit code, and the one line that says why."""

from __future__ import annotations

import errno
import os
from enum import IntEnum

from phpmq.errors import LoginRequired, NotAllowed, NotConnected, ProtocolError, TimedOut


class Exit(IntEnum):
    """Exit codes; those above 60 are from C{sysexits.h}, and 130 is what shells report for Ctrl-C."""

    OK = 0
    FAILED = 1
    USAGE = 2
    PARTLY = 3
    UNREACHABLE = 69
    TIMED_OUT = 75
    NOT_ALLOWED = 77
    INTERRUPTED = 130


class Failed(Exception):
    """The command failed: one line with what, why and what to try, and the exit code."""

    def __init__(self, sentence: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code


_CODES: tuple[tuple[type[Exception], Exit], ...] = (
    (NotConnected, Exit.UNREACHABLE),
    (TimedOut, Exit.TIMED_OUT),
    (NotAllowed, Exit.NOT_ALLOWED),
    (LoginRequired, Exit.NOT_ALLOWED),
)


def code_of(error: Exception) -> Exit:
    """Return the exit code for an error of the client, or of the server."""
    if isinstance(error, Failed):
        return error.code
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.FAILED)


def not_reached(error: Exception, server: str) -> Failed:
    """Return the error for a server that L{phpmq.client.QueueClient.connected} did not reach."""
    if isinstance(error, ProtocolError):
        return Failed(f"{server} is not a phpmq server that speaks protocol 2: {error}", Exit.UNREACHABLE)
    if isinstance(error, NotConnected) and error.__cause__ is None:
        reason = "it may not be a phpmq server that speaks protocol 2, or take no more connections"
        if "certificate" in str(error):
            reason = "its certificate is not trusted here"
        return Failed(f"{server} hung up without an answer: {reason}", Exit.UNREACHABLE)
    reason, code = why(error.__cause__ or error)
    return Failed(f"cannot reach {server}: {reason}; see that phpmq is running, or name another --server", code)


def why(error: BaseException) -> tuple[str, Exit]:
    """Return the reason of a Twisted error in a few words, and the exit code."""
    # The class of the same name in Twisted says what the system said in a field of its own.
    system: object = getattr(error, "osError", None)
    number = system if isinstance(system, int) else getattr(system, "errno", None)
    if number is not None:
        return os.strerror(number).lower(), Exit.NOT_ALLOWED if number in (errno.EACCES, errno.EPERM) else Exit.UNREACHABLE
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__, Exit.UNREACHABLE
