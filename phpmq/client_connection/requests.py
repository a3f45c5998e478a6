"""Requests, until the server has answered them."""

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
    """The id of the message that was there already; empty if the server did not say which, as the receipt was lost with a connection."""

    __slots__ = ()
    duplicate = True


class Answer(Protocol):
    """Takes the outcome of a request; a C{Deferred} is one."""

    def callback(self, result: Any) -> object:
        """Take the result: the server carried the request out."""

    def errback(self, fail: Any) -> object:
        """Take the failure: the server did not carry the request out."""


class _Ignored:
    def callback(self, result: object) -> None: ...

    def errback(self, fail: object) -> None: ...


_IGNORED = _Ignored()


class Owner(Protocol):
    """Keeps requests until they are answered."""

    def forget(self, request: Request) -> None:
        """Expect no answer to a request any more."""


class Request:
    """
    A request that the server answers.

    @ivar answer: takes the outcome
    @ivar deadline: when the request fails if there is no answer
    """

    __slots__ = ("answer", "deadline", "owner", "tag")

    answer: Answer

    def __init__(self, owner: Owner, tag: bytes, deadline: float) -> None:
        self.owner = owner
        self.tag = tag
        self.deadline = deadline
        self.answer = _IGNORED

    def cancel(self, _: object = None) -> None:
        """Expect no answer any more."""
        self.owner.forget(self)

    def confirmed(self, message_id: bytes | None, duplicate: bytes | None) -> None:
        """Tell that the server carried it out."""
        self.answer.callback(None)

    def refused(self, error: Exception) -> None:
        """Tell that the server did not carry it out."""
        self.failed(error)

    def failed(self, error: Exception) -> None:
        """Tell that it was not carried out, or that this is not known."""
        self.answer.errback(error)


class Settlement(Request):
    """The settlement of a delivery. It never fails: where the answer is False, the message may be delivered again."""

    __slots__ = ()

    def confirmed(self, message_id: bytes | None, duplicate: bytes | None) -> None:
        self.answer.callback(True)

    def failed(self, error: Exception) -> None:
        self.answer.callback(False)


class Start(Request):
    """The start of consuming a queue. Without an answer, the next connection repeats it; C{over} is called if the server refuses."""

    __slots__ = ("over",)

    over: Callable[[Exception], object]

    def refused(self, error: Exception) -> None:
        self.over(error)
        super().refused(error)


class Stop(Request):
    """The end of consuming a queue. It never fails, as a lost connection ends it, too; C{over} is called once nothing is delivered."""

    __slots__ = ("over",)

    over: Callable[[], object]

    def confirmed(self, message_id: bytes | None, duplicate: bytes | None) -> None:
        self.over()
        super().confirmed(message_id, duplicate)

    def failed(self, error: Exception) -> None:
        self.confirmed(None, None)

    def cancel(self, _: object = None) -> None:
        self.answer = _IGNORED  # The queue is consumed no more in any case.


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
        self.answer.callback((DuplicateId if duplicate else MessageId)(message_id or b"", "ascii", "replace"))
