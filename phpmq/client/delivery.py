"""What a client gets, and how it is told what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from phpmq import conversation
from phpmq.client_frames import encode_ack, encode_dead_letter, encode_requeue, encode_touch
from phpmq.conversation import Request


def answer(request: Request) -> Deferred[Any]:
    """Fires with what the server says to a request; cancelling it gives that up."""
    deferred: Deferred[Any] = Deferred(request.cancel)
    request.answer = deferred
    return deferred


class Delivery(conversation.Delivery):
    """
    A message that this client holds until it is settled.

    Each way to settle it returns a Deferred that never fails and may be ignored. It fires with True once the server did it; with False
    if the message was no longer this client's, or that is not known: the connection was lost, its lease was over, or it was settled
    before. Then it may be delivered again.
    """

    __slots__ = ()

    def ack(self) -> Deferred[bool]:
        """Acknowledge: it is done, and the server forgets it."""
        return self._settle(encode_ack)

    def requeue(self, ttl: float = 0, delay: float = 0) -> Deferred[bool]:
        """
        Send it to the tail of its queue.

        @param ttl: seconds from now until it expires; 0 for never, whatever it had before
        @param delay: seconds until it is ready again
        @raise ValueError: one of them is negative
        """
        return self._settle(encode_requeue, ttl, delay)

    def dead_letter(self, reason: str = "") -> Deferred[bool]:
        """
        Set it aside for the operator, who reads the reason (the first 1024 bytes of it).

        @raise TypeError: the reason is no string
        """
        return self._settle(encode_dead_letter, reason)

    def touch(self) -> Deferred[bool]:
        """Start its lease again."""
        return self._settle(encode_touch, final=False)

    def _settle(self, encode: Callable[..., bytes], *arguments: object, final: bool = True) -> Deferred[bool]:
        request = self._conversation.settle(self, encode, *arguments, final=final)
        return succeed(False) if request is None else answer(request)
