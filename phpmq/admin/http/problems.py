"""What goes wrong, as the answers that say so: problem documents of RFC 9457."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

#: Code -> status and what it means. The list is closed: a client can switch on it.
CODES: dict[str, tuple[int, str]] = {
    # The server's own codes, the same for every protocol.
    "bad-name": (400, "no queue can have that name"),
    "bad-setting": (400, "a parameter or a field that there is not, or a value that it cannot have"),
    "not-allowed": (403, "the server does not do this, for example a synced send where it keeps no file"),
    "no-such-queue": (404, "there is no queue of that name"),
    "no-such-message": (404, "there is no message of that id in the queue"),
    "no-such-client": (404, "there is no client of that number"),
    "queue-full": (409, "the queue takes no sends now: it is full, or paused for sends"),
    "too-large": (413, "a request's body, a message's body, a key or headers are longer than their limit"),
    "memory-full": (503, "the memory limit is reached, or that of keys"),
    "disk-failing": (503, "the store's file cannot be written, so a synced send is refused"),
    "draining": (503, "the server is about to stop: it changes nothing any more, and leaves unfinished what takes long"),
    "internal": (500, "an error of the server; its log has more"),
    "not-supported": (501, "the engine that keeps this server's messages cannot do that"),
    # What only HTTP knows.
    "bad-request": (400, "no HTTP that the server understands, or JSON that is no object"),
    "foreign-host": (403, "the request's Host is none of the server's names: see --http-host"),
    "foreign-origin": (403, "the request comes from another site's page"),
    "not-found": (404, "there is nothing at that path"),
    "method-not-allowed": (405, "the path has other methods: the header Allow names them"),
    "not-acceptable": (406, "the client accepts no answer of the type that there is"),
    "unsupported-media-type": (
        415,
        "a body is application/json, in UTF-8, or for a message application/octet-stream; it is not compressed",
    ),
    "headers-too-large": (431, "the request line and the headers are longer than 16 KiB"),
    "too-many-readers": (503, "as many clients as may be read the events already"),
    "too-many-bodies": (503, "the requests that are not complete yet take too much memory together"),
}

#: Seconds after which it is worth to try again.
_AGAIN = {"memory-full": 1, "disk-failing": 5, "draining": 5, "too-many-readers": 5, "too-many-bodies": 1}


class Problem(Exception):
    """A request that is answered with an error, whose code is one of L{CODES}; the headers are more of the answer's."""

    def __init__(self, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.status = CODES[code][0]
        self.headers = dict(headers or {})
        if code in _AGAIN:
            self.headers["Retry-After"] = str(_AGAIN[code])

    def document(self) -> dict[str, Any]:
        """The body of the answer. The code says what it is, so that the type says nothing more."""
        title = HTTPStatus(self.status).phrase
        return {"type": "about:blank", "title": title, "status": self.status, "detail": str(self), "code": self.code}
