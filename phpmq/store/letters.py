"""The dead letters' side of the store."""

from __future__ import annotations

from collections.abc import Iterable

from phpmq.message import DeadMessage, Message, Properties, QueueRecord
from phpmq.store.gathered import Gathered
from phpmq.store.rows import MESSAGE, NO_BODY, SIZE, row_of

_DEAD_COLUMNS = "dead.number, dead.queue, reason, text, accepted, died, attempts"


class Letters(Gathered):
    """Keeps dead letters."""

    def dead_letter(self, message: Message, reason: str, text: str, now: int) -> None:
        """Turn a message into a dead one; see L{IStore}."""
        number = message.number
        if self._added or self._put:
            self.write()
        self._retried.pop(number, None)
        with self._transaction():
            self._database.execute("DELETE FROM message WHERE number = ?", (number,))
            if message.properties is not None:
                # Anew: it is gone if the message was flushed while it was in flight.
                row = number, message.queue.number, message.properties.headers or None
                self._database.execute("INSERT OR REPLACE INTO extra VALUES (?, ?, 0, NULL, ?)", row)
            self._database.execute(
                "INSERT OR REPLACE INTO dead VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    number,
                    message.queue.name,
                    reason,
                    text,
                    message.accepted,
                    now,
                    message.attempts,
                    message.body,
                ),
            )
        self._note_changed(message)

    def dead(
        self,
        queue: str | None = None,
        after: int = 0,
        count: int = -1,
        reason: str | None = None,
        preview: int | None = None,
    ) -> Iterable[DeadMessage]:
        """The dead messages; see L{IStore}."""
        conditions, values = ["dead.number > ?"], [after]
        for column, value in ("queue", queue), ("reason", reason):
            if value is not None:
                conditions.append(f"dead.{column} = ?")
                values.append(value)  # type: ignore[arg-type]
        where = " AND ".join(conditions)
        rows = self._database.execute(
            f"SELECT {_DEAD_COLUMNS}, {'body' if preview is None else NO_BODY}, coalesce(headers, x''), {SIZE}, length(body)"
            f" FROM dead LEFT JOIN extra USING (number) WHERE {where} ORDER BY dead.number LIMIT ?",
            (*values, count),
        )
        for row in rows:
            dead = DeadMessage(*row)
            if preview is not None:
                dead.body = self._beginning("dead", dead.number, preview)
            yield dead

    def get_dead(self, number: int, preview: int | None = None) -> DeadMessage | None:
        """One dead message; see L{IStore}."""
        return next(iter(self.dead(after=number - 1, count=1, preview=preview)), None) if self._is_dead(number) else None

    def _is_dead(self, number: int) -> bool:
        return self._database.execute("SELECT 1 FROM dead WHERE number = ?", (number,)).fetchone() is not None

    def dead_totals(self) -> dict[str, tuple[int, int]]:
        """How many dead messages each queue has, and their bytes; see L{IStore}."""
        totals = f"SELECT dead.queue, count(*), sum({SIZE}) FROM dead LEFT JOIN extra USING (number) GROUP BY dead.queue"
        return {name: (count, size) for name, count, size in self._database.execute(totals)}

    def replay(self, dead: DeadMessage, queue: QueueRecord, position: int) -> Message:
        """Make a dead message wait again; see L{IStore}."""
        headers = self._database.execute("SELECT headers FROM extra WHERE number = ?", (dead.number,)).fetchone()
        extra = None if headers is None else Properties(0, "", headers[0] or b"")
        message = Message(dead.number, queue, position, dead.accepted, 0, 0, dead.body, extra)
        with self._transaction():
            # In this order: pages that are given up are not taken again at once, which would have to be undoable.
            self._database.execute(f"INSERT {MESSAGE}", row_of(message))
            self._database.execute("DELETE FROM dead WHERE number = ?", (dead.number,))
            self._database.execute("UPDATE extra SET queue = ? WHERE number = ?", (queue.number, dead.number))
        self._note_changed(message)
        return message

    def delete_dead(self, numbers: Iterable[int]) -> None:
        """Forget dead messages; see L{IStore}."""
        numbers = list(numbers)
        with self._transaction():
            for table in "dead", "extra":
                self._database.executemany(f"DELETE FROM {table} WHERE number = ?", zip(numbers))
        self._note_gone(number for number in numbers if number <= self._extracted)

    def _beginning(self, table: str, number: int, preview: int) -> bytes:
        """The first bytes of a body. SQL's C{substr} would copy all of it first."""
        if not preview:
            return b""
        with self._database.blobopen(table, "body", number, readonly=True) as body:
            return body.read(preview)
