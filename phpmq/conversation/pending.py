"""What waits for an answer of the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol


class MessageId(str):
    """
    The id of a message that was sent: 32 characters C{[0-9a-f]}.

    @cvar duplicate: whether nothing was stored since the message was there already
    """

    __slots__ = ()
    duplicate: ClassVar[bool] = False


class DuplicateId(MessageId):
    """
    The id of the message that was there already.

    It is empty where the server no longer knows it: when the receipt was lost together with a connection.
    """

    __slots__ = ()
    duplicate = True


class Answer(Protocol):
    """What waits for the outcome of a request; a C{Deferred} is one."""

    def callback(self, result: Any) -> object:
        """It was carried out."""

    def errback(self, fail: Any) -> object:
        """It was not."""


class Owner(Protocol):
    """Who keeps requests until they are answered."""

    def forget(self, request: Request) -> None:
        """Wait for no answer any more."""


class Request:
    """
    Something that the server answers.

    @ivar answer: who waits for that
    @ivar deadline: when it fails if there is no answer
    """

    __slots__ = ("answer", "deadline", "owner", "tag")

    answer: Answer

    def __init__(self, owner: Owner, tag: bytes, deadline: float) -> None:
        self.owner = owner
        self.tag = tag
        self.deadline = deadline

    def cancel(self, _: object = None) -> None:
        """Nobody waits any more."""
        self.owner.forget(self)

    def confirmed(self, message_id: bytes | None, duplicate: bytes | None) -> None:
        """The server carried it out."""
        self.answer.callback(None)

    def failed(self, error: Exception) -> None:
        """The server did not, or nobody knows."""
        self.answer.errback(error)


class Settlement(Request):
    """
    The end of a delivery. It never fails, it is just not known to be settled: the message may be delivered again.
    """

    __slots__ = ()

    def confirmed(self, message_id: bytes | None, duplicate: bytes | None) -> None:
        """It is settled."""
        self.answer.callback(True)

    def failed(self, error: Exception) -> None:
        """The message was no longer this client's."""
        self.answer.callback(False)


class Stop(Request):
    """The end of consuming a queue."""

    __slots__ = ("stopped",)

    stopped: Callable[[], object]

    def confirmed(self, message_id: bytes | None, duplicate: bytes | None) -> None:
        """Nothing more is delivered."""
        self.stopped()
        super().confirmed(message_id, duplicate)


class Send(Request):
    """A send: it outlives its connection. Its tag is its number."""

    __slots__ = ("body_size", "frame")

    frame: bytes
    body_size: int

    def confirmed(self, message_id: bytes | None, duplicate: bytes | None) -> None:
        """The server has it."""
        self.answer.callback((DuplicateId if duplicate else MessageId)(message_id or b"", "ascii"))


class Nobody:
    """Nobody waits for the answer."""

    def callback(self, result: object) -> None:
        """Ignore it."""

    def errback(self, fail: object) -> None:
        """Ignore it."""
