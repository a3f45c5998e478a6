"""Errors between the command and the API: one sentence and an exit code for each."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError, UserError

from phpmq.addresses import ApiAddress
from phpmq.cli.exit_codes import Exit, Failed, why

#: Exit codes of problem documents; the others are L{Exit.FAILED}.
_EXITS = {"not-allowed": Exit.NOT_ALLOWED, "foreign-host": Exit.NOT_ALLOWED, "foreign-origin": Exit.NOT_ALLOWED}

# What to try, where the problem's own text does not say it.
_HINTS = {
    "no-such-queue": "phpmq queues lists those that there are",
    "no-such-client": "phpmq clients lists those that there are",
    "no-such-message": "it may be done by now, or in another queue",
    "not-found": "the server may be of another version than this command",
    "method-not-allowed": "the server may be of another version than this command",
    "draining": "try again when it runs again",
    "memory-full": "try again when messages were taken",
    "disk-failing": "see that its disk is well, and not full",
    "too-many-readers": "try again in a moment",
    "too-many-bodies": "try again in a moment",
}

_STATUSES = {
    401: ("wants a login", "give it as https://USER:PASSWORD@HOST", Exit.NOT_ALLOWED),
    403: ("forbids it", "ask who runs it", Exit.NOT_ALLOWED),
    407: ("wants a login for a proxy", "name an address that needs none", Exit.NOT_ALLOWED),
    502: ("is a proxy that does not reach the server", "see that phpmq is running", Exit.UNREACHABLE),
    503: ("is a proxy that does not reach the server", "see that phpmq is running", Exit.UNREACHABLE),
    504: ("is a proxy that does not reach the server", "see that phpmq is running", Exit.UNREACHABLE),
}


class Refused(Failed):
    """
    The API answered with a problem document.

    @ivar error: its code
    @ivar reason: its detail
    """

    def __init__(self, sentence: str, code: Exit, error: str, reason: str) -> None:
        super().__init__(sentence, code)
        self.error = error
        self.reason = reason


def document_of(address: ApiAddress, what: str, status: int, media: str, body: bytes) -> dict[str, Any]:
    """
    Return the JSON object of an answer.

    @param what: what was to be done, after "cannot"
    @raise Refused: it is a problem document
    @raise Failed: it is not the API's
    """
    document = _parsed(body) if media in ("application/json", "application/problem+json") else None
    if document is not None and 200 <= status < 300:
        return document
    if document is not None and isinstance(error := document.get("code"), str) and media == "application/problem+json":
        reason = str(document.get("detail") or error)
        hint = f"; {_HINTS[error]}" if error in _HINTS else ""
        raise Refused(f"cannot {what}: {reason}{hint}", _EXITS.get(error, Exit.FAILED), error, reason)
    raise _foreign(address, what, status, media)


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _foreign(address: ApiAddress, what: str, status: int, media: str) -> Failed:
    if status in _STATUSES:
        does, hint, code = _STATUSES[status]
        return Failed(f"cannot {what}: {address.name} {does} (HTTP {status}); {hint}", code)
    if 300 <= status < 400:
        return Failed(f"cannot {what}: {address.name} sends its callers elsewhere (HTTP {status}); name that as --api", Exit.UNREACHABLE)
    answer = f"HTTP {status}, {media or 'of no type'}"
    return Failed(f"{address.name} is no phpmq API, it answers with {answer}; name another --api", Exit.UNREACHABLE)


def strange(address: ApiAddress, error: Exception | None = None) -> Failed:
    """
    Return the error for an answer that is JSON, but not what the API would say.

    @param error: the exception that it caused
    """
    what = "" if error is None else f" ({type(error).__name__}: {error})"
    hint = "see that --api leads to one of this version"
    return Failed(f"{address.name} does not answer as phpmq's API does{what}; {hint}", Exit.UNREACHABLE)


def too_late(address: ApiAddress, what: str, seconds: float, changes: bool) -> Failed:
    """Return the error for an answer that does not come in time."""
    late = f"{address.name} does not answer within {seconds:g} s{_doubt(changes)}"
    return Failed(f"cannot {what}: {late}; --timeout is for more", Exit.TIMED_OUT)


def _doubt(changes: bool) -> str:
    return ", and may have done it" if changes else ""


def lost(address: ApiAddress, what: str, error: Exception, changes: bool) -> Exception:
    """
    Return what to raise for an exception of Twisted's.

    @param changes: whether the request was one that changes something
    """
    reasons = [error, *(failure.value for failure in getattr(error, "reasons", ()))]
    if any(isinstance(reason, CancelledError | ConnectingCancelledError) for reason in reasons):
        return CancelledError()
    hint = "see that phpmq is running with --http, or name another --api"
    if isinstance(error, ConnectError | DNSLookupError | UserError | OSError):
        said, code = why(error)
        return Failed(f"cannot reach {address.name}: {said}; {hint}", code)
    if isinstance(error, UnicodeError):
        return Failed(f"cannot reach {address.name}: no host can have that name; name another --api", Exit.UNREACHABLE)
    text = " ".join(str(reason) for reason in reasons)
    if "certificate" in text or "VerificationError" in repr(reasons):
        return Failed(f"cannot {what}: the certificate of {address.name} is not trusted here, or is another host's", Exit.UNREACHABLE)
    if "SSL routines" in text:
        return Failed(f"cannot {what}: {address.name} speaks no TLS that is understood here; http:// is without", Exit.UNREACHABLE)
    hung_up = f"{address.name} hung up without an answer{_doubt(changes)}"
    return Failed(f"cannot {what}: {hung_up}; see that it is the address of --http, port 9180 unless told otherwise", Exit.UNREACHABLE)
