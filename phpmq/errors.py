"""What can go wrong, each with the code that a protocol 2 client would see."""

from __future__ import annotations

from typing import ClassVar


class PHPMQError(Exception):
    """Base of every error that phpmq raises on purpose; a kind that has no C{code} of its own has its base's."""

    code: ClassVar[str] = "internal"

    def __init_subclass__(cls, code: str | None = None) -> None:
        super().__init_subclass__()
        if code is not None:
            cls.code = code


class ProtocolError(PHPMQError, code="bad-frame"):
    """The peer broke the protocol: its connection closes."""


class BadFrame(ProtocolError):
    """Bytes that no frame consists of, or a frame with the wrong packets."""


class Unsupported(ProtocolError, code="unsupported"):
    """A protocol version or a frame type that a client of this server cannot use."""


class TooLarge(ProtocolError, code="too-large"):
    """A packet longer than its limit, refused on its header alone."""


class BadName(ProtocolError, code="bad-name"):
    """A queue name that is empty, too long, not UTF-8, or holds control characters."""


class CommandRefused(PHPMQError):
    """A well-formed command that was not carried out; the conversation goes on."""


class UnknownId(CommandRefused, code="unknown-id"):
    """The channel does not hold a message of that id."""


class NoRoom(CommandRefused):
    """A send that has to wait: the peer may try again when told that there is room."""


class QueueFull(NoRoom, code="queue-full"):
    """The queue takes no sends now."""


class MemoryFull(NoRoom, code="memory-full"):
    """The server's memory limit is reached."""


class DiskFailing(CommandRefused, code="disk-failing"):
    """A message that was to be synced, while the store's file cannot be written; it was not accepted."""


class LoginRequired(CommandRefused, code="login-required"):
    """The server does this only for users that it knows."""


class NotAllowed(CommandRefused, code="not-allowed"):
    """The server does not do this for this client."""


class Draining(CommandRefused, code="draining"):
    """The server is about to stop."""


class AdminError(PHPMQError):
    """What an operator asked for cannot be done; no client of the wire's protocol sees this."""


class BadSetting(AdminError, code="bad-setting"):
    """A setting that there is not, or a value that it cannot have."""


class NoSuchQueue(AdminError, code="no-such-queue"):
    """There is no queue of that name."""


class NoSuchMessage(AdminError, code="no-such-message"):
    """There is no message of that id in the queue."""


class NoSuchClient(AdminError, code="no-such-client"):
    """There is no client of that number."""


class NotSupported(AdminError, code="not-supported"):
    """The engine that keeps this server's messages cannot do that."""


class ClientError(PHPMQError):
    """What a client finds out by itself; no server sends it."""


class NotConnected(ClientError):
    """The server could not be reached, or the connection was lost before it answered."""


class TimedOut(ClientError):
    """No answer within the time that the caller gave."""


class ClientFull(ClientError):
    """Too many sends wait for their receipts; this one was not sent."""


class Closed(ClientError):
    """The client was closed before the server answered."""


class StoreError(PHPMQError, code="disk-failing"):
    """The store's file could not be written; nothing is lost from memory."""


class StartError(PHPMQError, SystemExit):  # type: ignore[misc]  # both have a "code"
    """
    The server cannot start; the text is one sentence for the operator.

    Being a C{SystemExit} as well, it ends C{twistd} with that sentence and exit code 1 instead of a traceback;
    being an C{Exception}, it can be caught by an application that starts a L{phpmq.service.QueueService} itself.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        # What a SystemExit prints. No client ever sees this error, so it needs no code of the protocol.
        self.code = sentence  # type: ignore[misc]


# What a server may refuse with.
_REFUSALS = BadFrame, Unsupported, TooLarge, BadName, UnknownId, QueueFull, MemoryFull, DiskFailing, LoginRequired, NotAllowed, Draining

_BY_CODE: dict[str, type[PHPMQError]] = {kind.code: kind for kind in _REFUSALS}


def from_code(code: str, reason: str) -> PHPMQError:
    """The error that a server's refusal stands for; a bare L{PHPMQError} for a code that this version does not know."""
    return _BY_CODE.get(code, PHPMQError)(reason)
