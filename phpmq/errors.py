"""What can go wrong, each with the code that a protocol 2 client would see."""

from __future__ import annotations

from typing import ClassVar


class PHPMQError(Exception):
    """Base of every error that phpmq raises on purpose."""

    code: ClassVar[str] = "internal"


class ProtocolError(PHPMQError):
    """The peer broke the protocol: its connection closes."""

    code = "bad-frame"


class BadFrame(ProtocolError):
    """Bytes that no frame consists of, or a frame with the wrong packets."""


class Unsupported(ProtocolError):
    """A protocol version or a frame type that a client of this server cannot use."""

    code = "unsupported"


class TooLarge(ProtocolError):
    """A packet longer than its limit, refused on its header alone."""

    code = "too-large"


class BadName(ProtocolError):
    """A queue name that is empty, too long, not UTF-8, or holds control characters."""

    code = "bad-name"


class CommandRefused(PHPMQError):
    """A well-formed command that was not carried out; the conversation goes on."""


class UnknownId(CommandRefused):
    """The channel does not hold a message of that id."""

    code = "unknown-id"


class NoRoom(CommandRefused):
    """A send that has to wait: the peer may try again when told that there is room."""


class QueueFull(NoRoom):
    """The queue takes no sends now."""

    code = "queue-full"


class MemoryFull(NoRoom):
    """The server's memory limit is reached."""

    code = "memory-full"


class DiskFailing(CommandRefused):
    """A message that was to be synced, while the store's file cannot be written; it was not accepted."""

    code = "disk-failing"


class LoginRequired(CommandRefused):
    """The server does this only for users that it knows."""

    code = "login-required"


class NotAllowed(CommandRefused):
    """The server does not do this for this client."""

    code = "not-allowed"


class AdminError(PHPMQError):
    """What an operator asked for cannot be done; no client of the wire's protocol sees this."""


class BadSetting(AdminError):
    """A setting that there is not, or a value that it cannot have."""

    code = "bad-setting"


class NoSuchQueue(AdminError):
    """There is no queue of that name."""

    code = "no-such-queue"


class NoSuchMessage(AdminError):
    """There is no message of that id in the queue."""

    code = "no-such-message"


class NoSuchClient(AdminError):
    """There is no client of that number."""

    code = "no-such-client"


class NotSupported(AdminError):
    """The engine that keeps this server's messages cannot do that."""

    code = "not-supported"


class Draining(CommandRefused):
    """The server is about to stop."""

    code = "draining"


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


class StoreError(PHPMQError):
    """The store's file could not be written; nothing is lost from memory."""

    code = "disk-failing"


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


_BY_CODE: dict[str, type[PHPMQError]] = {
    kind.code: kind
    for kind in (
        BadFrame,
        Unsupported,
        TooLarge,
        BadName,
        UnknownId,
        QueueFull,
        MemoryFull,
        DiskFailing,
        LoginRequired,
        NotAllowed,
        Draining,
        PHPMQError,
    )
}


def from_code(code: str, reason: str) -> PHPMQError:
    """The error that a server's refusal stands for; a bare L{PHPMQError} for a code that this version does not know."""
    return _BY_CODE.get(code, PHPMQError)(reason)
