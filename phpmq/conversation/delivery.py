"""What a client gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from phpmq.client_frames import headers_of

if TYPE_CHECKING:
    from phpmq.conversation.conversation import Conversation


class Delivery:
    """
    A message that this client holds until it is settled.

    @ivar queue: the queue that it came from
    @ivar body: what it says
    @ivar attempts: this delivery is its n-th, from 1
    @ivar message_id: its id as the protocol has it
    @ivar settled: whether this client settled it
    """

    __slots__ = ("_connection", "_conversation", "_headers", "_ttl", "attempts", "body", "message_id", "queue", "settled")

    def __init__(
        self,
        conversation: Conversation,
        queue: str,
        body: bytes,
        message_id: bytes,
        attempts: int,
        ttl: bytes | None,
        headers: bytes | None,
    ) -> None:
        self._conversation = conversation
        self._connection = conversation.connection
        self.queue = queue
        self.body = body
        self.message_id = message_id
        self.attempts = attempts
        self._ttl = ttl
        self._headers = headers
        self.settled = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} from {self.queue!r}, {len(self.body)} bytes, attempt {self.attempts}>"

    @property
    def id(self) -> str:
        """The message's id: 32 characters C{[0-9a-f]}, the same each time it is delivered."""
        return self.message_id.decode("ascii", "replace")

    @property
    def ttl(self) -> float:
        """Seconds that it had left when the server sent it; 0 for one that does not expire."""
        return float(self._ttl or 0)

    @property
    def headers(self) -> dict[str, str]:
        """What its sender put beside the body."""
        return headers_of(self._headers)

    @property
    def lost(self) -> bool:
        """Whether the connection that it came over is gone: the server has taken it back."""
        return self._connection != self._conversation.connection


class Receiver(Protocol):
    """
    Who takes the deliveries of a queue.

    @ivar window: the most of them at a time; 0 once it wants no more
    @ivar lease: seconds that each may be held; 0 for no limit
    """

    window: int
    lease: float

    def deliver(self, delivery: Any) -> None:
        """Take one."""

    def lost(self) -> None:
        """What was delivered and is not settled belongs to the server again."""

    def end(self, error: Exception | None) -> None:
        """Nothing more is delivered; with an error, the server would not."""


def backoff(attempts: int) -> float:
    """Seconds that a message should wait after a failed attempt: one after the first, then twice as long each time, up to 5 minutes."""
    return float(min(2 ** min(attempts - 1, 9), 300))
