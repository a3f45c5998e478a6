"""The console over a real server in memory: every command, monitors in faked time, and clients of every kind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, Logger, formatEvent
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from phpmq.admin import reactor
from phpmq.admin.console import ConsoleFactory, commands, display
from phpmq.admin.console.commands import TABLE
from phpmq.admin.console.display import LARGEST, SMALLEST, Screens
from phpmq.admin.console.input import MAX_LINE
from phpmq.admin.console.protocol import CLOSE_TIMEOUT, IDLE_TIMEOUT, REFRESH, WRITE_TIMEOUT, ConsoleProtocol
from phpmq.ports import Connections
from phpmq.results import as_json
from phpmq.text import width
from tests.doubles import FarEnd
from tests.test_admin import ODD, AdminTestCase

PROMPT = "phpmq > "

#: A name and a body that a terminal must not get as they are.
EVIL, EVIL_BODY = "ev\u202eil\u00a0\u200b", b"\x1b]0;title\x07\x1b[2J\xc2\x9b1m\xe2\x80\xae\r\n\x7f\x00"

CLEAR = "\x1b[2J\x1b[H"


class Operator(FarEnd):
    """
    Somebody at a terminal.

    @ivar console: the server's end
    """

    def __init__(self, consoles: ConsoleFactory, clock: Any, address: Any = None) -> None:
        address = address or IPv4Address("TCP", "127.0.0.1", 4711)
        self._clock = clock
        self.transport = StringTransport(peerAddress=address)
        self.console: Any = consoles.buildProtocol(address)
        self.console.makeConnection(self.transport)

    def types(self, *lines: str) -> None:
        """Send lines in one packet, and let the server work on them."""
        self.sends("".join(f"{line}\r\n" for line in lines).encode())

    def sends(self, *chunks: bytes) -> None:
        """Send bytes, one packet after the other, and let the server work on them."""
        for chunk in chunks:
            self.console.dataReceived(chunk)
        for _ in range(50):
            self._clock.advance(0)

    def reads(self) -> str:
        """What was sent since the last time."""
        data: bytes = self.transport.value()
        self.transport.clear()
        return data.decode(errors="replace")

    def asks(self, *lines: str) -> list[str]:
        """The lines that are the answer to what is typed, without the prompts."""
        self.reads()
        self.types(*lines)
        return self.reads().replace(PROMPT, "").split("\r\n")[:-1]

    def asks_json(self, line: str) -> Any:
        """The answer for programs."""
        (answer,) = self.asks(line)
        return json.loads(answer)

    def goes(self) -> None:
        """The connection is lost."""
        self.console.connectionLost(Failure(ConnectionDone()))


class ConsoleTestCase(AdminTestCase):
    """A server in memory, with somebody at its console."""

    def setUp(self) -> None:
        """Connect."""
        super().setUp()
        self.events: list[LogEvent] = []
        for subject in Connections, ConsoleProtocol:
            self.patch(subject, "_log", Logger(observer=self.events.append))  # type: ignore[arg-type]  # a plain function
        self.consoles = self.server.service.consoles
        self.operators: list[Operator] = []
        self.operator = self.connect()
        self.operator.reads()

    def tearDown(self) -> None:
        """When all are gone and the server has stopped, no delayed call is left."""
        for operator in self.operators:
            operator.goes()
        self.assertEqual(self.consoles.connections.open, {})
        self.assertEqual(set(self.consoles.connections.count_deadlines().values()), {0})
        self.successResultOf(self.server.stop())
        self.server.clock.advance(0)
        self.assertEqual(self.server.clock.getDelayedCalls(), [])

    def connect(self, address: Any = None) -> Operator:
        """One more console."""
        operator = Operator(self.consoles, self.server.clock, address)
        self.operators.append(operator)
        return operator

    def log(self) -> list[str]:
        """The lines that were logged since the last time."""
        lines = [str(formatEvent(event)) for event in self.events]
        self.events.clear()
        return lines


class CommandTests(ConsoleTestCase):
    """What each command does and says."""

    def test_help(self) -> None:
        """All commands are listed, each can be asked about, and everything fits onto a terminal."""
        lines = self.operator.asks("help")
        for name, command in TABLE.items():
            called = f"{name} {command.arguments}".rstrip()
            self.assertEqual(len([line for line in lines if line.startswith(f"{called} ") and line.endswith(f"  {command.summary}")]), 1)
            about = self.operator.asks(f"help {name}")
            self.assertEqual(about[:2], [command.usage, f"{command.summary}."])
            self.assertEqual(" ".join(about[2:]), " ".join(command.text.split()))
            lines += about
        self.assertLessEqual(max(map(len, lines)), 79)
        self.assertEqual(self.operator.asks("help halp"), ["error: there is no command 'halp', did you mean help?"])

    def test_status(self) -> None:
        """Status has the server's numbers, for people and for programs."""
        self.send("q", b"12", b"3")
        answer = "\n".join(self.operator.asks("status"))
        for text in "running, up ", "2 ready, 0 delayed, 0 in flight, 0 dead; 3 B wait", "1 of 100,", "in memory only":
            self.assertIn(text, answer)
        self.assertRegex(answer, r"(?m)^received +2$")
        self.assertEqual(self.operator.asks_json("status --json")["messages"], as_json(self.admin.status().messages))

    def test_alarms(self) -> None:
        """An alarm is in the status and in the monitor."""
        self.server.broker.memory.limit = 0
        for command in "status", "monitor":
            self.assertIn("ALARM     the memory limit is reached", "\n".join(self.operator.asks(command)).replace("\x1b[K", ""))
        self.server.broker.memory.limit = 2**30

    def test_show(self) -> None:
        """A queue is shown with consumers, settings and messages of every state, whatever its name."""
        ids = self.send(ODD, b"first", b"second", b"third")
        self.send(ODD, b"late", delay=60)
        self.hold(ODD, 1, lease=5)
        self.server.advance(2)
        answer = self.operator.asks(f"show '{ODD}'")
        self.assertEqual(answer[0], f"queue '{ODD}'")
        self.assertIn("messages  2 ready, 1 delayed, 1 in flight, 0 dead", answer)
        self.assertIn("waiting   79 B, the next message for 2 s", answer)
        table = answer[[line.split()[:1] for line in answer].index(["PLACE"]) + 1 :]
        self.assertEqual(
            [line.split()[:2] for line in table[::2]], [["-", "delivered"], ["1", "waiting"], ["2", "waiting"], ["-", "delayed"]]
        )
        self.assertEqual([line.strip() for line in table[1::2]], ["first", "second", "third", "late"])
        self.assertTrue(any(line.split() == ["1", "1", "1", "5", "s"] for line in answer))
        self.assertTrue(any(line.split() == ["max_attempts", "20"] for line in answer))
        data = self.operator.asks_json(f"show '{ODD}' --json")
        self.assertEqual(([message["id"] for message in data["messages"]][:3], data["ready"]), (ids, 2))

    def test_show_many(self) -> None:
        """Of a queue with many messages the first are shown, and how many there are more."""
        self.send("q", *[b"x"] * 31, b"")
        answer = self.operator.asks("show q")
        self.assertEqual(answer[-1], "and 22 more messages")

    def test_show_many_consumers(self) -> None:
        """Of many consumers the first are listed; a program gets all."""
        self.patch(commands, "LIMITS", {**commands.LIMITS, "consumers": 2})
        for _ in range(5):
            self.server.client().subscribe("q", lambda delivery: None)
        self.server.settle()
        answer = self.operator.asks("show q")
        self.assertEqual(answer[answer.index("and 3 more consumers") - 3].split()[0], "CLIENT")
        self.assertEqual(len(self.operator.asks_json("show q --json")["consuming"]), 5)

    def test_show_message(self) -> None:
        """One message is shown with its body, in whatever state it is."""
        (id,) = self.send("q", b"one\ntwo\x1b", headers={"kind": "t\x07"}, key="k")
        answer = self.operator.asks(f"show q {id}")
        self.assertEqual(answer[-3:], ["", "one", r"two\x1b"])
        self.assertIn(r"header:      kind: t\x07", answer)
        self.assertIn(f"id:          {id}", answer)
        self.assertEqual(self.operator.asks_json(f"show q {id} --json")["body"], "one\ntwo\x1b")
        (large,) = [self.server.send("q", b"\xff" * 70_000)]
        answer = self.operator.asks(f"show q {large}")
        self.assertEqual((answer[-2][:12], answer[-1]), ("base64 /////", "..."))
        self.dead_letters("q2", b"gone")
        (dead,) = self.result(self.admin.messages.list("q2", "dead")).items
        self.assertIn("reason:      rejected", self.operator.asks(f"show q2 {dead['id']}"))
        self.assertIn("list messages with their ids", self.operator.asks("show q x")[0])

    def test_search(self) -> None:
        """A pattern may be anywhere in the name, in upper or lower case; only the asterisk means something in it."""
        for name in "Jobs.1", "my jobs", "other", "a[1]?", ODD, "12345":
            self.server.send(name, b"x")

        def found(pattern: str) -> list[str]:
            return [queue["name"] for queue in self.operator.asks_json(f"search --json {pattern}")["items"]]

        self.assertEqual(found("JOB"), ["Jobs.1", "my jobs"])
        self.assertEqual(found("j*s"), ["Jobs.1", "my jobs"])
        self.assertEqual(found("'[1]?'"), ["a[1]?"])
        self.assertEqual(found("'%d <b>É'"), [ODD])
        self.assertEqual(len(found("'*'")), 6)
        answer = self.operator.asks("search 'my j'")
        self.assertEqual([*answer[1].split()[:2], answer[1][-9:]], ["1", "0", "'my jobs'"])
        self.assertEqual(self.operator.asks("search nothing"), ["no queue matches nothing"])
        for number in range(300):
            self.server.send(f"n{number}", b"")
        self.assertIn("and more", self.operator.asks("search n")[-1])

    def test_flush(self) -> None:
        """Flush tells what it removed and what it left."""
        self.send(ODD, *[b"x"] * 5)
        self.hold(ODD, 2)
        (answer,) = self.operator.asks(f"flush '{ODD}'")
        self.assertEqual(answer, f"3 messages removed from '{ODD}'; 2 in flight left to their consumers, and gone if they come back")
        self.assertEqual(self.server.bodies(ODD), [])
        self.send("q", b"x")
        self.assertEqual(self.operator.asks_json("flush q --json"), {"queue": "q", "removed": 1, "in_flight": 0})

    def test_flush_all(self) -> None:
        """All queues are flushed, but only for who says yes."""
        self.send("a", b"x")
        self.send("b", b"x", b"y")
        for command in "flushall", "flushall no", "flushall YES":
            (answer,) = self.operator.asks(command)
            self.assertIn("3 messages now", answer)
            self.assertIn("type: flushall yes", answer)
        self.assertEqual(self.server.bodies("b"), [b"x", b"y"])
        self.assertEqual(self.operator.asks("flushall yes"), ["3 messages removed from 2 queues"])
        self.assertEqual((self.server.bodies("a"), self.server.bodies("b")), ([], []))

    def test_pause(self) -> None:
        """Pause and resume tell what is paused afterwards."""
        self.assertEqual(self.operator.asks("pause q"), ["q: deliveries paused"])
        self.assertEqual(self.operator.asks("pause q sends"), ["q: deliveries and sends paused"])
        self.assertIn("PAUSED    deliveries and sends; resume q goes on", self.operator.asks("show q"))
        self.assertEqual(self.operator.asks("resume q deliveries"), ["q: sends paused"])
        self.assertEqual(self.operator.asks_json("resume q --json")["paused"], {"deliveries": False, "sends": False})
        self.assertIn("can be paused, not 'everything'", self.operator.asks("pause q everything")[0])

    def test_dead(self) -> None:
        """Dead letters are listed by queue and one by one, with reason and body, and are replayed."""
        self.assertEqual(self.operator.asks("dead"), ["there are no dead letters"])
        self.dead_letters(ODD, b"0", b"1" * 300)
        self.assertEqual([line.split("  ")[-1] for line in self.operator.asks("dead")], ["QUEUE", f"'{ODD}'"])
        answer = self.operator.asks(f"dead '{ODD}'")
        self.assertRegex(answer[1], r"^[0-9a-f]{32} +1 B +1 +0 s ago  rejected: no$")
        self.assertEqual((answer[2], answer[4]), ("    0", "    " + "1" * 57 + "..."))
        self.assertEqual(self.operator.asks_json("dead --json")["items"], [{"queue": ODD, "dead": 2, "bytes": 301}])
        self.assertEqual(self.operator.asks_json(f"dead '{ODD}' --json")["items"][0]["reason"], "rejected")
        self.assertEqual(self.operator.asks(f"replay '{ODD}' 'new one'"), [f"2 dead letters of '{ODD}' replayed to 'new one'"])
        self.assertEqual(self.server.bodies("new one"), [b"0", b"1" * 300])
        self.send("q", b"")
        self.assertEqual(self.operator.asks("dead q"), ["q has no dead letters"])
        self.assertEqual(self.operator.asks_json("replay q --json"), {"queue": "q", "target": "q", "replayed": 0})
        self.assertIn("there is no queue 'typo'", self.operator.asks("replay typo")[0])

    def test_replay_many(self) -> None:
        """While many dead letters are replayed, the reactor does other work, and further commands wait for their turn."""
        self.server.broker.configure("q", self.server.broker.queues.get_or_create("q").settings.changed({"max_attempts": 1}))
        for _ in range(5000):
            self.server.broker.publish("q", b"x")
        self.hold("q", 5000)
        self.server.disconnect()
        self.client.connection.receivers.clear()
        self.server.advance(1)
        self.assertEqual(self.admin.dead_letters.totals().items[0].dead, 5000)
        self.operator.reads()
        self.operator.console.dataReceived(b"replay q\nsearch q\n")
        self.assertEqual((self.operator.reads(), self.operator.reading), ("", False))
        self.server.advance(1)
        answer = self.operator.reads().replace(PROMPT, "").split("\r\n")
        self.assertEqual((answer[0], answer[2].split()[0]), ("5,000 dead letters of q replayed to q", "5,000"))
        self.assertTrue(self.operator.reading)

    def test_clients(self) -> None:
        """Clients are listed with what they consume, and disconnected."""
        self.send("q", b"x")
        self.hold("q", 1)
        for name in "a", "b", "c", ODD:
            self.client.subscribe(name, print)
        self.server.settle()
        answer = self.operator.asks("clients")
        self.assertRegex(answer[1], r"^ 1  unix socket +02 +0 s +1 .* B .* B  q, a, b, c and 1 more$")
        self.server.reachable = False
        self.assertEqual(self.operator.asks("disconnect 1"), ["client 1 (unix socket) disconnected; 1 message in flight given back"])
        self.assertEqual(self.server.bodies("q"), [b"x"])
        self.assertEqual(self.operator.asks("clients"), ["nobody is connected"])
        for wrong in "1", "x", "-1", "9" * 30:
            self.assertIn("clients lists those that there are", self.operator.asks(f"disconnect {wrong}")[0])

    def test_move(self) -> None:
        """Messages move to another queue."""
        self.send("from", b"1", b"2")
        self.assertEqual(self.operator.asks(f"move from '{ODD}'"), [f"2 messages moved from from to '{ODD}'"])
        self.assertEqual(self.server.bodies(ODD), [b"1", b"2"])
        self.assertEqual(self.operator.asks_json(f"move --json '{ODD}' from")["moved"], 2)
        self.assertIn("same queue", self.operator.asks("move from from")[0])

    def test_settings(self) -> None:
        """Settings are shown, set and given back their defaults; nothing is set if one of them is wrong."""
        answer = self.operator.asks(f"settings '{ODD}' max_messages 5 when_full drop-oldest lease 1.5")
        self.assertEqual([line.split() for line in answer[1:4]], [["max_messages", "5"], ["max_bytes", "0"], ["when_full", "drop-oldest"]])
        self.assertEqual(self.operator.asks_json(f"settings '{ODD}' --json")["settings"]["lease"], 1.5)
        self.operator.asks(f"settings '{ODD}' lease 5m dedup 1d max_bytes 64k")
        settings = self.result(self.admin.queues.get(ODD))["settings"]
        self.assertEqual((settings["lease"], settings["dedup"], settings["max_bytes"]), (300, 86400, 65536))
        self.operator.asks(f"settings '{ODD}' lease default dedup default max_bytes default")
        self.assertEqual(self.result(self.admin.queues.get(ODD))["settings"]["lease"], 0)
        for pair in "max_messages x", "colour 1", "lease -1", "max_messages 1.5", "lease nan", "lease inf":
            self.assertIn("error: ", self.operator.asks(f"settings '{ODD}' max_bytes 1 {pair}")[0])
        self.assertEqual(self.result(self.admin.queues.get(ODD))["settings"]["max_bytes"], 0)
        self.assertIn("no queue", self.operator.asks("settings other")[0])

    def test_no_queue(self) -> None:
        """A queue that is not there is an error in one line, for programs too."""
        for command in "show", "flush", "resume", "dead", "replay", "settings":
            (answer,) = self.operator.asks(f"{command} none")
            self.assertEqual(answer, "error: there is no queue 'none'; search PATTERN finds queues, dead lists those with dead letters")
            self.assertEqual(self.operator.asks_json(f"{command} none --json")["error"], "no-such-queue")
        self.assertIn("control characters", self.operator.asks("pause ''")[0])
        self.assertIn("255 bytes", self.operator.asks("pause " + "x" * 256)[0])

    def test_any_name(self) -> None:
        """Every name that a queue can have works in every command that takes one."""
        for name in ODD, "12345", "--json", "quo\"te's", "back\\slash", EVIL, "#no", "*", "$HOME `id`", "q", "漢字", "a" * 255:
            quoted = "'" + name.replace("'", "'\\''") + "'"
            self.send(name, b"x")
            self.assertEqual(self.operator.asks_json(f"show --json -- {quoted}")["name"], name)
            self.assertEqual(self.operator.asks_json(f"pause --json -- {quoted}")["name"], name)
            self.assertEqual(self.operator.asks_json(f"resume --json -- {quoted}")["name"], name)
            self.assertEqual(self.operator.asks_json(f"settings --json -- {quoted} lease 1")["queue"], name)
            self.operator.asks(f"monitor -- {quoted}")
            self.operator.asks("q")
            self.assertEqual(self.operator.asks_json(f"move --json -- {quoted} x")["moved"], 1)
            self.assertEqual(self.operator.asks_json(f"move --json -- x {quoted}")["moved"], 1)
            self.assertEqual(self.operator.asks_json(f"flush --json -- {quoted}"), {"queue": name, "removed": 1, "in_flight": 0})

    def test_clear(self) -> None:
        """Clear clears."""
        self.operator.types("clear")
        self.assertEqual(self.operator.reads(), CLEAR + PROMPT)

    def test_colour(self) -> None:
        """Headings and errors are in colours for who asks, and for nobody else."""
        self.operator.types("colour", "dead", "nothing", "clients")
        self.assertIn("\x1b[31merror: ", self.operator.reads())
        self.operator.types("help")
        self.assertIn("\x1b[1mCOMMAND\x1b[0m", self.operator.reads())
        self.operator.types("plain", "nothing", "help")
        self.assertNotIn("\x1b", self.operator.reads())

    def test_plain(self) -> None:
        """For programs there are no prompts: each answer is lines of its own."""
        self.operator.types("plain", "status --json", "nothing", "", "flush none --json", "quit")
        lines = self.operator.reads().split("\r\n")
        self.assertEqual((lines[0], json.loads(lines[1])["state"], lines[2][:6], lines[4]), ("", "running", "error:", ""))
        self.assertEqual(json.loads(lines[3])["error"], "no-such-queue")

    def test_quit(self) -> None:
        """Quit and exit close, and what is typed after them is not run."""
        self.send("q", b"x")
        for command in "quit", "exit":
            operator = self.connect()
            operator.types(command, "flush q")
            self.assertTrue(operator.closed)
        self.assertEqual(self.server.bodies("q"), [b"x"])

    def test_log(self) -> None:
        """What an operator changes is in the log, with nothing in the line that could pass for another; what is looked at is not."""
        self.operator.types("status", f"pause '{EVIL}'", "clients")
        (line,) = self.log()
        self.assertEqual(line, r"the console of 127.0.0.1:4711 says: pause 'ev\u202eil\xa0\u200b'")
        self.connect(UNIXAddress(None)).types("pause q")
        self.assertEqual(self.log(), ["the console of unix socket says: pause q"])

    def test_failure(self) -> None:
        """A bug in the server is one line for the operator, and all about it is in the log; the console goes on."""

        def fail(*_: object, **__: object) -> Any:
            raise ZeroDivisionError("a bug")

        self.patch(self.admin, "clients", fail)
        self.assertEqual(self.operator.asks("clients"), ["error: that failed within the server; its log says why"])
        self.assertIn("clients", self.log()[0])
        self.assertEqual(self.operator.asks("dead"), ["there are no dead letters"])


class ConnectionTests(ConsoleTestCase):
    """Clients of every kind."""

    def test_interfaces(self) -> None:
        """A console is what transports take it for."""
        for interface in IPushProducer, IHalfCloseableProtocol:
            self.assertTrue(verifyObject(interface, self.operator.console))

    def test_greeting(self) -> None:
        """It says who it is and how to go on, and then waits at its prompt."""
        self.assertRegex(self.connect().reads(), rf"^phpmq [^ ]+, type help for the commands\r\n{PROMPT}$")

    def test_prompts(self) -> None:
        """After each command there is a prompt, also after an empty line."""
        self.operator.types("", "dead", "nothing", "")
        self.assertEqual(self.operator.reads().count(PROMPT), 4)

    def test_chunks(self) -> None:
        """Several commands in one packet and one command in many do the same, whatever the lines end with."""
        self.send("a b", b"x")
        answers = set()
        for end in b"\n", b"\r\n", b"\r\0":
            data = end.join((b"search 'a b'", b"dead", "pause é".encode(), b"nothing", b""))
            for size in (1, 2, 3, 7, 20, len(data)):
                operator = self.connect()
                operator.reads()
                operator.sends(*[data[start : start + size] for start in range(0, len(data), size)])
                answers.add(operator.reads())
                operator.goes()
        (answer,) = answers
        self.assertEqual(
            [answer.count(text) for text in ("'a b'", "no dead letters", "é: deliveries", "no command", PROMPT)], [1] * 4 + [4]
        )

    def test_one_command_in_a_turn(self) -> None:
        """Somebody who sends many commands at once does not keep the server from its work."""
        self.operator.console.dataReceived(b"dead\n" * 100)
        self.assertEqual((self.operator.reads().count("letters"), self.operator.reading), (1, False))
        self.server.settle()
        self.assertEqual((self.operator.reads().count("letters"), self.operator.reading), (99, True))

    def test_gone_in_between(self) -> None:
        """Who goes before all was run leaves nothing behind."""
        self.operator.console.dataReceived(b"dead\npause q\n")
        self.operator.goes()
        self.server.settle()
        self.assertEqual(self.server.broker.queues, {})

    def test_telnet(self) -> None:
        """Telnet's own language is understood as far as it has to be, and answered where it is spoken."""
        self.operator.sends(b"\xff\xfd\x01\xff\xfb\x1fde\xff\xf1ad\r\0")
        self.assertEqual(self.operator.transport.value(), b"\xff\xfc\x01\xff\xfe\x1fthere are no dead letters\r\n" + PROMPT.encode())

    def test_not_utf8(self) -> None:
        """A line that is no text is refused."""
        self.operator.sends(b"show \xe9\n")
        self.assertIn("not UTF-8", self.operator.reads())

    def test_ends(self) -> None:
        """At the prompt Ctrl-C and Ctrl-D close, as keys and as telnet sends them."""
        for key in b"\x03", b"\x04", b"\xff\xf4\xff\xfd\x06", b"\xff\xec":
            operator = self.connect()
            operator.sends(b"flushall yes" + key)
            self.assertTrue(operator.closed, key)

    def test_half_closed(self) -> None:
        """Who sends all and then no more gets all answers; a last line that does not end is not run."""
        self.send("q", b"x")
        operator = self.connect()
        operator.console.dataReceived(b"dead\nsearch q\nflush q")
        operator.console.readConnectionLost()
        self.assertFalse(operator.closed)
        operator.sends()
        answer = operator.reads()
        self.assertTrue(operator.closed)
        for text in "no dead letters", "READY", "the last line does not end":
            self.assertIn(text, answer)
        self.assertEqual(self.server.bodies("q"), [b"x"])

    def test_half_closed_at_work(self) -> None:
        """Likewise if it sends no more while a command goes on."""
        self.send("from", b"x")
        operator = self.connect()
        operator.console.dataReceived(b"move from to\ndead\n")
        operator.console.readConnectionLost()
        operator.sends()
        self.assertIn("there are no dead letters", operator.reads())
        self.assertTrue(operator.closed)

    def test_browser(self) -> None:
        """A browser's request closes the connection, and nothing that comes after it is run, in whatever chunks."""
        self.send("q", b"x")
        request = b"POST / HTTP/1.1\r\nHost: localhost:9101\r\nContent-Type: text/plain\r\n\r\nflushall yes\r\n"
        for size in 1, 10, len(request):
            operator = self.connect()
            operator.reads()
            operator.sends(*[request[start : start + size] for start in range(0, len(request), size)])
            self.assertEqual((operator.closed, operator.reads()), (True, ""))
        for other in b"\x16\x03\x01\x02\x00\x01\x00\nflushall yes\n", b"\x00\x03\nflushall yes\n":
            operator = self.connect()
            operator.sends(other)
            self.assertTrue(operator.closed)
        self.assertEqual(self.server.bodies("q"), [b"x"])
        self.assertIn("for a web server", self.log()[0])

    def test_long_line(self) -> None:
        """A line that does not end is not kept."""
        self.operator.sends(b"x" * (MAX_LINE + 1))
        self.assertIn(f"at most {MAX_LINE} bytes", self.operator.reads())
        self.assertTrue(self.operator.closed)

    def test_idle(self) -> None:
        """Who types nothing for long is closed with a word, and aborted if it does not go."""
        self.server.advance(IDLE_TIMEOUT - 2)
        self.operator.types("")
        self.server.advance(IDLE_TIMEOUT - 2)
        self.assertFalse(self.operator.closed)
        self.server.advance(4)
        self.assertIn("nothing was typed for 15 minutes", self.operator.reads())
        self.assertEqual(self.log(), [])
        self.assertEqual((self.operator.closed, self.operator.aborted), (True, False))
        self.server.advance(CLOSE_TIMEOUT + 2)
        self.assertTrue(self.operator.aborted)
        self.assertEqual((self.consoles.connections.timeouts["idle"], self.consoles.connections.timeouts["close"]), (1, 1))

    def test_slow_reader(self) -> None:
        """Who does not read is not worked for: its commands wait until it has read."""
        self.operator.console.pauseProducing()
        self.operator.types("dead", "dead")
        self.assertEqual((self.operator.reads(), self.operator.reading), ("", False))
        self.operator.console.resumeProducing()
        self.operator.sends()
        self.assertEqual((self.operator.reads().count("no dead letters"), self.operator.reading), (2, True))

    def test_stuck_reader(self) -> None:
        """Who never reads is cut off."""
        self.operator.console.pauseProducing()
        self.server.advance(WRITE_TIMEOUT - 2)
        self.assertFalse(self.operator.aborted)
        self.server.advance(4)
        self.assertTrue(self.operator.aborted)
        self.assertEqual(self.consoles.connections.timeouts["write"], 1)
        self.assertEqual(self.log(), ["127.0.0.1: console closed, write took too long (0 more since the last line)"])

    def test_limit(self) -> None:
        """There are only so many consoles; one more is told so, and there is room again when one goes."""
        while len(self.consoles.connections.open) < self.consoles.connections.max_connections:
            self.connect()
        late = Operator(self.consoles, self.server.clock)
        self.assertIn(f"there are {self.consoles.connections.max_connections} consoles already", late.reads())
        self.assertTrue(late.closed)
        self.assertEqual(self.consoles.connections.rejected, 1)
        self.operators.pop().goes()
        self.assertIn("type help", self.connect().reads())

    def test_one_address(self) -> None:
        """One address has its share of them; a unix socket is not counted by it."""
        self.consoles.connections.max_per_address = 1
        self.assertIn("there are 1 consoles already", Operator(self.consoles, self.server.clock).reads())
        self.assertIn("type help", self.connect(UNIXAddress(None)).reads())

    def test_gone_within_a_command(self) -> None:
        """A command that ends after its console is gone leaves no deadline behind."""
        self.patch(reactor, "SLICE", 0.0)
        self.operator.console.dataReceived(b"search *\r\n" * 2)
        self.operator.goes()
        self.server.clock.advance(0)
        self.assertEqual(self.consoles.connections.count_deadlines(), {"idle": 0, "write": 0, "close": 0})

    def test_server_stops(self) -> None:
        """A server that stops says so, closes its consoles, and ends what they began."""
        for _ in range(5000):
            self.server.broker.publish("from", b"x")
        watcher = self.connect()
        watcher.types("monitor")
        watcher.reads()
        self.operator.console.dataReceived(b"move from to\n")
        self.operator.reads()
        stopped = self.server.service.stopService()
        self.server.clock.advance(0)
        self.successResultOf(stopped)
        self.assertIn("the server stops, not all of it was done", self.operator.reads())
        self.assertIn("the server stops", watcher.reads())
        self.assertTrue(self.operator.closed and watcher.closed)
        self.assertEqual([event for event in self.events if "log_failure" in event], [])

    def test_gone_at_work(self) -> None:
        """What somebody began who then went is done all the same."""
        for _ in range(5000):
            self.server.broker.publish("from", b"x")
        self.operator.console.dataReceived(b"move from to\n")
        self.operator.goes()
        self.server.advance(1)
        self.assertEqual(len(self.server.bodies("to")), 5000)
        self.assertEqual(self.consoles.calls, set())


class EscapeTests(ConsoleTestCase):
    """Nothing that somebody put into a name or body reaches the terminal as it is."""

    def everything(self) -> str:
        """All that the console has to say about a server full of traps."""
        quoted = f"'{EVIL}'"
        self.send(EVIL, EVIL_BODY, EVIL_BODY.decode().encode(), headers={EVIL: EVIL_BODY.decode()}, key=EVIL)
        (ready,) = self.send(EVIL, EVIL_BODY, delay=9)
        consumer = self.client.subscribe(EVIL, lambda delivery: delivery.dead_letter(EVIL_BODY.decode()), window=1)
        self.server.settle()
        consumer.stop()
        self.send(EVIL, EVIL_BODY, b"\xff\x1b")
        self.client.subscribe(EVIL, id, window=1)
        self.server.settle()
        (dead,) = {message["id"] for message in self.result(self.admin.messages.list(EVIL, "dead")).items[:1]}
        for line in (
            *("status", "search *", f"show {quoted}", f"show {quoted} {ready}", f"show {quoted} {dead}", "dead", f"dead {quoted}"),
            *(f"pause {quoted}", f"resume {quoted}", f"settings {quoted}", "clients", f"show {quoted}x", f"{quoted}", f"help {quoted}"),
            *(f"show {quoted} x", f"settings {quoted} {quoted} {quoted}", f"disconnect {quoted}", f"show {quoted} {quoted} {quoted}"),
            *("help", "help show", f"pause {quoted} {quoted}", f"show --{quoted}", f"monitor --size {quoted}"),
            *("monitor", "q", f"monitor {quoted}", "q", f"replay {quoted}", f"move {quoted} x", f"move x {quoted}", f"flush {quoted}"),
        ):
            self.operator.types(line)
            if not line.startswith(("clear", "monitor", "q")):
                self.operator.types(f"{line} --json")
        return self.operator.reads()

    def check(self, shown: str, *allowed: str) -> None:
        """Beside some sequences of its own, the console sends printable characters and ends of lines only."""
        for sequence in ("\r\n", *allowed):
            shown = shown.replace(sequence, "")
        self.assertEqual({one for one in shown if not one.isprintable()}, set())
        self.assertIn(r"ev\u202eil\xa0\u200b", shown)
        self.assertIn(r"\x1b]0;title\x07\x1b[2J\x9b1m\u202e\r\n\x7f\x00", shown)
        self.assertNotIn("error: that failed", shown)

    def test_usual(self) -> None:
        """Usually only monitors have escape sequences, those that place their lines."""
        self.check(self.everything(), CLEAR, "\x1b[H", "\x1b[K", "\x1b[J")

    def test_plain(self) -> None:
        """There are none at all for programs."""
        self.operator.types("plain")
        self.check(self.everything())

    def test_colour(self) -> None:
        """With colours there are those of the colours."""
        self.operator.types("colour")
        self.check(self.everything(), CLEAR, "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[1m", "\x1b[31m", "\x1b[0m")


class MonitorTests(ConsoleTestCase):
    """What is watched."""

    def screen(self, operator: Operator | None = None) -> list[str]:
        """The lines of the latest screen."""
        shown = (operator or self.operator).reads()
        screen = re.split(r"\x1b\[H", shown)[-1]
        return re.sub(r"\x1b\[[KJ]", "", screen).split("\r\n")

    def screens(self, operator: Operator | None = None) -> int:
        """How many screens were sent since the last time."""
        return (operator or self.operator).reads().count("\x1b[H")

    def test_overview(self) -> None:
        """The server's numbers and a row for each queue, with its share as a bar."""
        self.send("half", *[b"x"] * 4)
        self.send("whole", *[b"x" * 1000] * 8)
        self.hold("half", 2)
        self.send("late", b"x", delay=99)
        self.admin.queues.pause("idle")
        self.operator.types("monitor")
        lines = self.screen()
        self.assertRegex(lines[0], "^phpmq .*, up 0 s, ")
        self.assertRegex(lines[1], r"^memory    [\d.]+ MiB now, [\d.]+ MiB peak; queues take ")
        table = lines[lines.index("") + 2 : -1]
        self.assertEqual(
            [line.split() for line in table],
            [
                ["2", "2", "0", "2", "B", "1", "###++", "half"],
                ["0", "0", "0", "0", "B", "0", "(paused)", "idle"],
                ["1", "0", "0", "65", "B", "0", "#", "late"],
                ["8", "0", "0", "7.8", "KiB", "0", "##########", "whole"],
            ],
        )
        self.assertEqual(lines[-1], "q or Enter leaves")

    def test_refreshed(self) -> None:
        """It is refreshed every half second in the same place, with what is new."""
        self.operator.types("monitor")
        self.assertTrue(self.operator.reads().startswith(CLEAR))
        self.send("new", b"x")
        self.assertEqual(self.operator.reads(), "")
        self.server.clock.advance(REFRESH)
        shown = self.operator.reads()
        self.assertTrue(shown.startswith("\x1b[H") and CLEAR not in shown)
        self.assertIn("new", shown)
        self.server.clock.pump([REFRESH] * 10)
        self.assertEqual(self.screens(), 10)

    def test_leave(self) -> None:
        """Each way out leads to the prompt, and from there on nothing is refreshed."""
        for way in b"q", b"Q", b"q\r\n", b"\r\n", b"\n", b"\x03", b"\x04", b"\xff\xf4\xff\xfd\x06", b"\xff\xec":
            self.operator.types("monitor")
            self.operator.reads()
            self.operator.sends(way)
            shown = self.operator.reads()
            self.assertTrue(shown.endswith(f"\r\n{PROMPT}"), (way, shown))
            self.assertEqual(shown.count(PROMPT), 1)
            self.server.advance(5)
            self.assertEqual(self.operator.reads(), "")
        self.assertFalse(self.operator.closed)

    def test_another_command(self) -> None:
        """Another command leaves the monitor and is run, quit too; in whatever chunks."""
        for line, expected in ("dead", "no dead letters"), ("monitor x", "no such queue now"), ("quit", ""):
            for size in 1, 2, 20:
                operator = self.connect()
                operator.types("monitor")
                operator.reads()
                data = f"{line}\r\n".encode()
                operator.sends(*[data[start : start + size] for start in range(0, len(data), size)])
                self.assertIn(expected, operator.reads())
                self.assertEqual(operator.closed, line == "quit")
                operator.goes()

    def test_scripted(self) -> None:
        """A script may enter and leave monitors in one packet."""
        self.operator.types("monitor", "q", "dead", "monitor", "", "dead", "monitor", "quit")
        shown = self.operator.reads()
        self.assertEqual((shown.count(CLEAR), shown.count("no dead letters"), self.operator.closed), (3, 2, True))

    def test_plain(self) -> None:
        """For programs screens follow each other, with an empty line between."""
        self.operator.types("plain", "monitor")
        self.server.clock.advance(REFRESH)
        shown = self.operator.reads()
        self.assertEqual((shown.count("q or Enter leaves\r\n\r\n"), "\x1b" in shown, PROMPT in shown), (2, False, False))

    def test_fits(self) -> None:
        """However many queues and however long their names, each screen fits onto the terminal; the largest queues are on it."""
        for number in range(300):
            for _ in range(number // 100 + 1):
                self.server.send(f"{number:03} " + "漢" * 80, b"x")
        self.server.send("z\u0301" * 50, b"x")
        self.server.broker.memory.limit = 1
        for columns, rows in (80, 24), SMALLEST, LARGEST:
            self.operator.types(f"monitor --size {columns}x{rows}")
            lines = self.screen()
            self.assertLessEqual(len(lines), rows)
            self.assertLessEqual(max(map(width, lines)), columns)
            shown = [line.split()[0] for line in lines[lines.index("") + 2 : -1]]
            self.assertEqual(sorted(shown, reverse=True), (["3"] * 100 + ["2"] * 100)[: len(shown)])
            self.assertTrue(shown)
            self.assertEqual(lines[-1], f"{301 - len(shown)} smaller queues. q or Enter leaves"[:columns])
            self.operator.types("q")
        self.server.broker.memory.limit = 2**30

    def test_queue(self) -> None:
        """A queue's monitor has its messages: those in flight, then those that wait with their places, then the delayed ones."""
        ids = self.send(ODD, b"1", b"2", b"3")
        ids += self.send(ODD, b"late", delay=99)
        self.hold(ODD, 1)
        self.server.advance(3)
        self.operator.types(f"monitor '{ODD}'")
        lines = self.screen()
        self.assertEqual(lines[0], f"queue '{ODD}'")
        self.assertEqual(
            [line.split() for line in lines[lines.index("") + 2 : -1]],
            [
                ["-", "delivered", ids[0], "1", "B", "3", "s", "1"],
                ["1", "waiting", ids[1], "1", "B", "3", "s", "0"],
                ["2", "waiting", ids[2], "1", "B", "3", "s", "0"],
                ["-", "delayed", ids[3], "4", "B", "3", "s", "0"],
            ],
        )

    def test_queue_fits(self) -> None:
        """However many messages, they fit, and those in flight leave half of the screen to those that wait."""
        self.send("q", *[b"x"] * 100)
        self.hold("q", 50)
        self.operator.types("monitor q")
        lines = self.screen()
        states = [line.split()[1] for line in lines[lines.index("") + 2 : -1]]
        self.assertEqual((len(lines), states), (24, ["delivered"] * 7 + ["waiting"] * 8))
        self.assertEqual(lines[-1], "85 more messages. q or Enter leaves")
        self.patch(display, "_FINDABLE", 49)
        self.server.clock.advance(REFRESH)
        lines = self.screen()
        self.assertEqual([line.split()[1] for line in lines[lines.index("") + 2 : -1]], ["waiting"] * 15)

    def test_queue_that_comes_and_goes(self) -> None:
        """A queue may be watched before it is there and after it has gone."""
        self.operator.types("monitor q")
        self.assertIn("no such queue now", self.operator.reads())
        self.send("q", b"x")
        self.server.clock.advance(REFRESH)
        self.assertIn("1 ready", self.operator.reads())
        self.admin.queues.flush("q")
        self.server.clock.advance(REFRESH)
        self.assertIn("no such queue now", self.operator.reads())

    def counted(self, owner: Any, name: str) -> list[object]:
        """Have the calls of something counted."""
        work: Callable[..., Any] = getattr(owner, name)
        calls: list[object] = []

        def counting(*arguments: object, **named: object) -> Any:
            calls.append(arguments)
            return work(*arguments, **named)

        self.patch(owner, name, counting)
        return calls

    def test_drawn_once(self) -> None:
        """However many watch the same, it is drawn once."""
        overviews, queues = self.counted(Screens, "_overview"), self.counted(display, "_queue")
        watchers = [self.connect() for _ in range(9)]
        for watcher in watchers[:5]:
            watcher.types("monitor")
        for watcher in watchers[5:]:
            watcher.types("monitor q")
        self.assertEqual((len(overviews), len(queues)), (1, 1))
        for count in 2, 3:
            self.server.clock.advance(REFRESH)
            self.assertEqual((len(overviews), len(queues)), (count, count))
        self.assertEqual([self.screens(watcher) for watcher in watchers], [3] * 9)

    def test_asked_once(self) -> None:
        """However different the screens are on which many watch the server, it is asked once for all of them."""
        for number in range(100):
            self.server.send(f"{number:02}", b"x")
        statuses, queues = self.counted(self.admin, "status"), self.counted(self.admin.queues, "list")
        watchers = {rows: self.connect() for rows in (30, 60, 24, 45)}
        for rows, watcher in watchers.items():
            watcher.types(f"monitor --size {rows + 50}x{rows}")
        del statuses[:], queues[:]
        self.server.clock.advance(REFRESH)
        self.assertEqual((len(statuses), len(queues)), (1, 1))
        self.assertEqual([len(self.screen(watcher)) for watcher in watchers.values()], list(watchers))

    def test_nobody_watches(self) -> None:
        """As long as nobody watches, nothing is drawn."""
        calls = self.counted(Screens, "_overview")
        self.operator.types("monitor", "q")
        self.connect().types("monitor")
        self.operators.pop().goes()
        self.server.advance(5)
        self.assertEqual(len(calls), 2)

    def test_slow_watcher(self) -> None:
        """Screens do not pile up for who does not read them, and others get theirs; after a deadline it is cut off."""
        other = self.connect()
        for operator in self.operator, other:
            operator.types("monitor")
            operator.reads()
        self.operator.console.pauseProducing()
        self.server.clock.pump([REFRESH] * 20)
        self.assertEqual((self.screens(), self.screens(other)), (0, 20))
        self.operator.console.resumeProducing()
        self.server.clock.pump([REFRESH] * 2)
        self.assertEqual(self.screens(), 2)
        self.operator.console.pauseProducing()
        self.server.advance(WRITE_TIMEOUT + 2)
        self.assertEqual((self.operator.aborted, other.aborted), (True, False))

    def test_not_idle(self) -> None:
        """Who watches may do so for hours; once the monitor is left, the time runs."""
        self.operator.types("monitor")
        self.server.advance(3 * IDLE_TIMEOUT)
        self.assertFalse(self.operator.closed)
        self.operator.types("q")
        self.server.advance(IDLE_TIMEOUT + 2)
        self.assertTrue(self.operator.closed)

    def test_half_closed(self) -> None:
        """Who sends no more has seen it once, and is closed."""
        self.operator.console.dataReceived(b"monitor\n")
        self.operator.console.readConnectionLost()
        self.operator.sends()
        self.assertEqual((self.screens(), self.operator.closed), (1, True))

    def test_failure(self) -> None:
        """A bug in the server ends the monitor with a line, and is in the log once."""

        def fail(*_: object, **__: object) -> Any:
            raise ZeroDivisionError("a bug")

        self.operator.types("monitor")
        self.operator.reads()
        self.patch(self.admin, "status", fail)
        self.server.advance(2)
        self.assertEqual(self.operator.reads(), f"\r\nerror: that failed within the server; its log says why\r\n{PROMPT}")
        self.assertEqual(len(self.log()), 1)
        self.operator.types("monitor")
        self.assertIn("error: that failed", self.operator.reads())
        self.server.advance(2)
        self.assertEqual((self.operator.reads(), len(self.log())), ("", 1))
