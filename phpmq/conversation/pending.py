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


class Nobody:
    """Nobody waits for the answer."""

    def callback(self, result: object) -> None:
        """Ignore it."""

    def errback(self, fail: object) -> None:
        """Ignore it."""


NOBODY = Nobody()


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
        self.answer = NOBODY

    def cancel(self, _: object = None) -> None:
        """Nobody waits any more."""
        self.owner.forget(self)

    def confirmed(self, message_id: bytes | None, duplicate: bytes | None) -> None:
        """The server carried it out."""
        self.answer.callback(None)

    def refused(self, error: Exception) -> None:
        """The server did not carry it out."""
        self.failed(error)

    def failed(self, error: Exception) -> None:
        """It was not carried out, or nobody knows."""
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


class Start(Request):
    """
    The beginning of consuming a queue. If it gets no answer, the next connection has it again.

    @ivar over: called if the server refuses
    """

    __slots__ = ("over",)

    over: Callable[[Exception], object]

    def refused(self, error: Exception) -> None:
        """The queue cannot be consumed."""
        self.over(error)
        super().refused(error)


class Stop(Request):
    """
    The end of consuming a queue. It never fails: a connection that is lost ends it as well.

    @ivar over: called then
    """

    __slots__ = ("over",)

    over: Callable[[], object]

    def confirmed(self, message_id: bytes | None, duplicate: bytes | None) -> None:
        """Nothing more is delivered."""
        self.over()
        super().confirmed(message_id, duplicate)

    def failed(self, error: Exception) -> None:
        """Nothing more is waited for."""
        self.confirmed(None, None)

    def cancel(self, _: object = None) -> None:
        """Nobody waits any more, but it goes on."""
        self.answer = NOBODY


class Send(Request):
    """
    A send: it outlives its connection. Its tag is its number.

    @ivar group: its queue and level: when the server refuses one, it would refuse the next one of the same group, too
    @ivar written: whether it was written to the connection that there is, and not refused
    """

    __slots__ = ("body_size", "frame", "group", "written")

    def __init__(self, owner: Owner, tag: bytes, deadline: float, frame: bytes, body_size: int, group: tuple[str, str]) -> None:
        super().__init__(owner, tag, deadline)
        self.frame = frame
        self.body_size = body_size
        self.group = group
        self.written = False

    def confirmed(self, message_id: bytes | None, duplicate: bytes | None) -> None:
        """The server has it."""
        self.answer.callback((DuplicateId if duplicate else MessageId)(message_id or b"", "ascii", "replace"))
