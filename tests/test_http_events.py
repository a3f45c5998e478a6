"""Server-sent events."""

from __future__ import annotations

import json
from typing import Any

from phpmq.admin import Admin
from phpmq.admin import admin as admin_module
from phpmq.results import ServerStatus
from tests.web import Connection, WebTestCase


class EventsTests(WebTestCase):
    """The status each second, and alarms as they begin and end."""

    def setUp(self) -> None:
        """Count how often a status is made, by a process whose memory stays the same."""
        super().setUp()
        self.patch(admin_module, "memory_of_process", lambda: (1, 2))
        self.made = 0
        make = Admin.status

        def status(admin: Admin) -> ServerStatus:
            self.made += 1
            return make(admin)

        self.patch(Admin, "status", status)

    def reader(self) -> Connection:
        """A client that reads events."""
        connection = self.connect()
        connection.says(self.request("GET", "/api/v1/events"))
        return connection

    def heard(self, connection: Connection) -> list[tuple[str, Any]]:
        """The events that came since last time; comments have no name."""
        data = connection.wire.read()
        if data.startswith(b"HTTP/1.1 200 OK\r\n"):
            data = data.partition(b"\r\n\r\n")[2]
        text = b""
        while data:
            size, _, rest = data.partition(b"\r\n")
            text, data = text + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        found = []
        for block in text.decode().split("\n\n")[:-1]:
            lines = {name: value for name, _, value in (line.partition(": ") for line in block.split("\n"))}
            if "retry" in lines:
                self.assertEqual(lines, {"retry": "3000"})
            else:
                found.append((lines.get("event", ""), json.loads(lines["data"]) if "data" in lines else None))
        return found

    def names(self, connection: Connection) -> list[str]:
        """Likewise, only their names."""
        return [name for name, _ in self.heard(connection)]

    def test_status(self) -> None:
        """The first status comes at once, then one a second; it is what a request would be answered."""
        self.send("q", b"x")
        reader = self.reader()
        ((name, status),) = self.heard(reader)
        self.assertEqual((name, status), ("status", self.ask("GET", "/api/v1/status").json))
        for _ in range(3):
            self.send("q", b"x")
            self.clock.advance(1)
            ((name, status),) = self.heard(reader)
            self.assertEqual(status["messages"]["ready"], len(self.server.bodies("q")))
        self.clock.advance(0.5)
        self.assertEqual(self.heard(reader), [])

    def test_made_once(self) -> None:
        """However many read, there is one status a second, and none if nobody reads."""
        readers = [self.reader() for _ in range(50)]
        self.assertEqual(self.made, 1)
        for seconds in range(2, 5):
            self.clock.advance(1)
            self.assertEqual(self.made, seconds)
        for reader in readers:
            self.assertEqual(self.names(reader), ["status"] * 4)
            reader.wire.lose()
        self.clock.advance(5)
        self.assertEqual((self.made, self.site.events.readers), (4, {}))
        self.assertEqual(self.names(self.reader()), ["status"])

    def test_alarms(self) -> None:
        """An alarm is told when it begins and when it ends; who comes later is told those that last."""
        reader = self.reader()
        self.heard(reader)
        self.server.broker.memory.limit = -1
        self.clock.advance(1)
        status, alarm = self.heard(reader)
        expected = {"name": "memory", "text": "the memory limit is reached"}
        self.assertEqual((alarm, status[1]["alarms"]), (("alarm", {**expected, "active": True}), [expected]))
        self.clock.advance(1)
        self.assertEqual(self.names(reader), ["status"])
        later = self.reader()
        self.assertEqual(self.heard(later)[1], ("alarm", {**expected, "active": True}))
        self.server.broker.memory.limit = 2**30
        self.clock.advance(1)
        for each in reader, later:
            self.assertEqual(self.heard(each)[1], ("alarm", {**expected, "active": False}))

    def test_never_read(self) -> None:
        """One that never reads gets no more than fits, costs the others nothing, and is cut off at its deadline."""
        stuck, others = self.reader(), [self.reader() for _ in range(49)]
        stuck.wire.stuck = True
        stuck.wire.write(b"x" * 60_000)
        for second in range(80):
            self.clock.advance(1)
            self.assertLess(len(stuck.wire.output.getvalue()), 70_000)
            for reader in others:
                self.assertIn("status", self.names(reader), second)
        self.assertTrue(stuck.wire.closed)
        self.assertEqual(len(self.site.events.readers), 49)

    def test_read_late(self) -> None:
        """One that reads late gets whole events, and what is now."""
        reader = self.reader()
        self.heard(reader)
        reader.wire.stuck = True
        for _ in range(200):
            if reader.wire._paused:
                break
            self.clock.advance(1)
        self.assertTrue(reader.wire._paused)
        self.send("q", b"x")
        self.clock.advance(20)
        self.heard(reader)
        self.clock.advance(1)
        # A comment may be beside it.
        (status,) = [data for name, data in self.heard(reader) if name == "status"]
        self.assertEqual(status["messages"]["ready"], 1)

    def test_sends_meanwhile(self) -> None:
        """One that sends much while it reads nothing is hung up on: that would be kept for a request after the events."""
        reader = self.reader()
        reader.wire.stuck = True
        sent = 0
        while reader.wire.reading and not reader.wire.closed:
            reader.says(b"x" * 50_000)
            sent += 50_000
            self.assertLess(sent, 500_000)

    def test_most(self) -> None:
        """There are so many readers; one more is told so, and there is room again when one goes."""
        self.site.events.most = 3
        readers = [self.reader() for _ in range(3)]
        response = self.ask("GET", "/api/v1/events")
        self.check_problem(response, 503, "too-many-readers")
        self.assertIn("retry-after", response.headers)
        readers[1].wire.lose()
        self.assertEqual(self.names(self.reader()), ["status"])

    def test_heartbeat(self) -> None:
        """Now and then there is a comment."""
        reader = self.reader()
        for _ in range(15):
            self.clock.advance(1)
        self.assertEqual(self.names(reader), ["status"] * 16 + [""])

    def test_failure(self) -> None:
        """A status that cannot be made ends nothing."""
        reader = self.reader()
        self.patch(Admin, "status", lambda _: 1 / 0)
        self.clock.advance(1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.patch(Admin, "status", lambda _: {})
        self.clock.advance(1)
        self.assertEqual(self.names(reader), ["status", "", "status"])
