"""Every operation of the API in one table: the dispatcher and the OpenAPI document are made of it, so that they cannot differ."""

from __future__ import annotations

from phpmq.admin.http.operations import Operation, call, configure, delete_letter, delete_letters, disconnect, move, readyz, send
from phpmq.admin.http.problems import Problem
from phpmq.admin.http.schemas import IDS, LIMIT, MESSAGE, NAME, PATTERN, PLACE, PREVIEW, SETTINGS, SOME, SORT, STATE, TEXT, WHAT

_PAGE = {"limit": LIMIT, "after": PLACE}
_NO_QUEUE = ("no-such-queue",)
# What takes several turns of a server that has a lot is not finished while it stops, even if it only looks.
_TURNS = ("draining",)
_FULL = ("queue-full", "memory-full", "disk-failing", "not-allowed", "too-large", "bad-name")
_QUEUES, _QUEUE = "/api/v1/queues", "/api/v1/queues/{name}"

#: All there is, but for the metrics.
OPERATIONS = (
    Operation("overview", "GET", "/", "What can be looked at, for people.", None, {200: ("HTML.", None)}, media="text/html"),
    Operation("openapi", "GET", "/openapi.json", "This document.", None, {200: ("OpenAPI 3.1.", None)}),
    Operation("livez", "GET", "/livez", "Whether the process answers at all.", lambda _: {"status": "ok"}, {200: ("It does.", "Alive")}),
    Operation(
        *("readyz", "GET", "/readyz", "Whether the server does what it is for, check by check."),
        readyz,
        {200: ("All is well.", "Health"), 503: ("Something is not.", "Health")},
    ),
    Operation("status", "GET", "/api/v1/status", "The whole server.", call("status"), {200: ("Its status.", "Status")}),
    Operation(
        *("events", "GET", "/api/v1/events", "The status each second, and alarms as they begin and end, as server-sent events."),
        None,
        {200: ("Events 'status' (a Status) and 'alarm' (an Alarm with 'active').", None)},
        ("too-many-readers",),
        media="text/event-stream",
    ),
    Operation(
        *("listQueues", "GET", _QUEUES, "Queues, by pages."),
        call("queues.list"),
        {200: ("A page.", "Queues")},
        _TURNS,
        query={"limit": LIMIT, "after": TEXT, "filter": PATTERN, "sort": SORT},
    ),
    Operation(
        *("getQueue", "GET", _QUEUE, "One queue, and who consumes it."),
        call("queues.get"),
        {200: ("The queue.", "QueueDetail")},
        (*_NO_QUEUE, *_TURNS),
    ),
    Operation(
        *("putQueue", "PUT", _QUEUE, "Make a queue, or change some of its settings."),
        configure,
        {200: ("The queue as it is now.", "Queue"), 201: ("The new queue.", "Queue")},
        ("bad-name",),
        body=SETTINGS,
    ),
    Operation(
        *("deleteQueue", "DELETE", _QUEUE, "Remove what waits in a queue, its dead letters, settings and pause."),
        call("queues.delete"),
        {200: ("What was removed.", "Deleted")},
        _NO_QUEUE,
    ),
    Operation(
        *("listMessages", "GET", f"{_QUEUE}/messages", "A queue's messages of one state, by pages; nothing changes by it."),
        call("messages.list"),
        {200: ("A page.", "Messages")},
        (*_NO_QUEUE, *_TURNS),
        query={**_PAGE, "state": STATE, "preview": PREVIEW},
    ),
    Operation(
        *("sendMessage", "POST", f"{_QUEUE}/messages", "Send a message; the answer is the receipt."),
        send,
        {200: ("It was there: nothing is stored.", "Receipt"), 201: ("It is stored.", "Receipt")},
        _FULL,
        body=MESSAGE,
        one_of=("body", "body_base64"),
        abandoned=True,
    ),
    Operation(
        *("deleteMessages", "DELETE", f"{_QUEUE}/messages", "Forget dead letters of a queue: all, or some."),
        delete_letters,
        {200: ("How many.", "DeadDeleted")},
        _NO_QUEUE,
        query={"state": {"enum": ["dead"]}, "reason": TEXT, "count": SOME},
        required=("state",),
    ),
    Operation(
        *("getMessage", "GET", f"{_QUEUE}/messages/{{id}}", "One message with its whole body."),
        call("messages.get"),
        {200: ("The message.", "Message")},
        ("no-such-message", *_TURNS),
    ),
    Operation(
        *("deleteMessage", "DELETE", f"{_QUEUE}/messages/{{id}}", "Forget a dead letter."),
        delete_letter,
        {200: ("It is gone.", "DeadDeleted")},
        ("no-such-queue", "no-such-message"),
    ),
    Operation(
        *("flushQueue", "POST", f"{_QUEUE}/flush", "Remove what waits; what is in flight is left to its consumers."),
        call("queues.flush"),
        {200: ("How many were removed, and how many are in flight.", "Flushed")},
        _NO_QUEUE,
        body={},
    ),
    Operation(
        *("pauseQueue", "POST", f"{_QUEUE}/pause", "Stop deliveries, sends or both; the queue is made if it is not there."),
        call("queues.pause"),
        {200: ("The queue as it is now.", "Queue")},
        ("bad-name",),
        body={"what": WHAT},
    ),
    Operation(
        *("resumeQueue", "POST", f"{_QUEUE}/resume", "Undo a pause."),
        call("queues.resume"),
        {200: ("The queue as it is now.", "Queue")},
        _NO_QUEUE,
        body={"what": WHAT},
    ),
    Operation(
        *("replayMessages", "POST", f"{_QUEUE}/replay", "Have dead letters delivered again: all, or some."),
        call("dead_letters.replay"),
        {200: ("How many.", "Replayed")},
        ("no-such-queue", "no-such-message", "bad-name"),
        body={"target": NAME, "ids": IDS, "reason": TEXT, "count": SOME},
    ),
    Operation(
        *("moveMessages", "POST", f"{_QUEUE}/move", "Have messages that are ready go to the tail of another queue."),
        move,
        {200: ("How many.", "Moved")},
        ("no-such-queue", "bad-name"),
        body={"target": NAME, "count": SOME},
        required=("target",),
    ),
    Operation(
        "flushAll", "POST", "/api/v1/flush", "Flush all queues.", call("queues.flush_all"), {200: ("The sums.", "FlushedAll")}, body={}
    ),
    Operation(
        *("listClients", "GET", "/api/v1/clients", "Connections, by pages."),
        call("clients.list"),
        {200: ("A page.", "Clients")},
        _TURNS,
        query={**_PAGE, "filter": PATTERN},
    ),
    Operation(
        *("disconnectClient", "DELETE", "/api/v1/clients/{id}", "Close a connection; what it holds is ready again."),
        disconnect,
        {200: ("The client as it was.", "Client")},
        ("no-such-client",),
    ),
)

#: There if the metrics are installed.
METRICS = Operation("metrics", "GET", "/metrics", "Metrics for Prometheus.", None, {200: ("Metrics.", None)}, media="text/plain", free=True)


class Routes:
    """
    Finds operations by path and method.

    @ivar operations: all of them
    """

    def __init__(self, operations: tuple[Operation, ...]) -> None:
        self.operations = operations

    def find(self, method: str, parts: list[str]) -> tuple[Operation, dict[str, str]]:
        """
        The operation, and the parts of the path by name; HEAD is as GET.

        @param parts: the path's parts, decoded
        @raise Problem: there is nothing at that path, or not for that method
        """
        found = [(operation, names) for operation in self.operations if (names := _match(operation.parts, parts)) is not None]
        if not found:
            raise Problem("not-found", "there is nothing at this path: /openapi.json names all paths")
        wanted = "GET" if method == "HEAD" else method
        for operation, names in found:
            if operation.method == wanted:
                return operation, names
        methods = [operation.method for operation, _ in found]
        allowed = ", ".join([*(["GET", "HEAD"] if "GET" in methods else []), *(each for each in methods if each != "GET")])
        raise Problem("method-not-allowed", f"the methods of this path are {allowed}", {"Allow": allowed})


def _match(template: list[str], parts: list[str]) -> dict[str, str] | None:
    if len(template) != len(parts):
        return None
    names: dict[str, str] = {}
    for one, part in zip(template, parts, strict=True):
        if one.startswith("{") and part:
            names[one[1:-1]] = part
        elif one != part:
            return None
    return names
