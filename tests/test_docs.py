"""The documentation says what the code does."""

from __future__ import annotations

import inspect
import json
import re
import tempfile
from configparser import ConfigParser
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families
from twisted.application.service import Service
from twisted.trial.unittest import SynchronousTestCase

from phpmq import blocking, client, tap
from phpmq.admin.console.commands import TABLE
from phpmq.admin.console.display import _FINDABLE, LARGEST, SMALLEST, USUAL
from phpmq.admin.console.grammar import parse
from phpmq.admin.console.input import MAX_LINE
from phpmq.admin.console.protocol import CLOSE_TIMEOUT as CONSOLE_CLOSE_TIMEOUT
from phpmq.admin.console.protocol import IDLE_TIMEOUT, WRITE_TIMEOUT
from phpmq.admin.http import Site
from phpmq.admin.http.operations import METRICS, OPERATIONS
from phpmq.admin.http.problems import CODES
from phpmq.admin.metrics import Metrics
from phpmq.broker import SENDS
from phpmq.errors import ClientError, CommandRefused, PHPMQError, ProtocolError
from phpmq.frames import CONTENT, DEFAULT_LIMITS, UNKNOWN_LIMIT
from phpmq.message import QueueSettings
from phpmq.protocol import CLOSE_TIMEOUT, HANDSHAKE_TIMEOUT
from phpmq.server_frames import DOCUMENTED, ORIGINAL, Versions, encode_delivery_documented
from phpmq.settings import OPTIONS, Settings
from phpmq.testing import MemoryServer
from tests import option_tables, wire
from tests.conversation import Client, Server
from tests.promtool import promtool

ROOT = Path(__file__).parents[1]
MONITORING = ROOT / "docs" / "monitoring"


def text(path: str) -> str:
    """A document."""
    return (ROOT / path).read_text(encoding="utf-8")


def rows(path: str, start: str) -> list[list[str]]:
    """The rows of the table in a document whose first line starts like that, without its head; each row is its cells."""
    lines = text(path).split("\n" + start, 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def columns(path: str, start: str) -> dict[str, list[str]]:
    """The rows of a table by what their first cell says."""
    return {first.strip("`"): rest for first, *rest in rows(path, start)}


class Block(NamedTuple):
    """What one side of a conversation says, and when."""

    caption: str
    frames: bytes


def conversations(path: str) -> dict[str, list[Block]]:
    """The conversations that a document shows, by the title of their section."""
    found = {}
    for section in re.split(r"^#+ ", text(path), flags=re.MULTILINE):
        blocks = re.findall(r"^```{code-block} text\n:caption: ([^\n]*)\n\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        if blocks:
            title = section.partition("\n")[0]
            found[title] = [Block(caption, "".join(lines.splitlines()).encode()) for caption, lines in blocks]
    return found


SPECIFICATION = "docs/reference/protocol-01.md", "docs/reference/protocol-conversation.md"

_CAPTION = re.compile(r"(Client|Server)(?: to client)?(?: ([12]))?(?:, (?:(.+) seconds later|(.+)))?")
_ID = re.compile(rb"(?<=P03%029d)[0-9a-f]{32}" % 32)


class Replay:
    """
    A server, and clients that say what a document has them say.

    Ids are what the server makes of them: the n-th that it mentions stands for the n-th of the document.
    """

    def __init__(self, case: SynchronousTestCase) -> None:
        self._case = case
        self._server = Server()
        self._clients: dict[str, Client] = {}
        self._ids: dict[bytes, bytes] = {}  # the document's -> the server's
        self._closed = 0

    def play(self, block: Block) -> None:
        """Have a client say what a block has, or see that the server has said it."""
        match = _CAPTION.fullmatch(block.caption)
        assert match is not None, block.caption
        side, number, seconds, what = match.groups()
        number = number or "1"
        client = self._clients[number] = self._clients.get(number) or Client(self._server)
        closes = what in ("and closes", "and the server closes")
        if seconds is not None:
            self._server.later(float(seconds))
        elif what is not None and not closes:
            self._happen(what, client)
        if side == "Client":
            self._case.assertEqual(self._unread(), b"", f"before {block.caption}")
            self._case.assertEqual(client.errors, [])
            client.says(self._translated(block.frames, self._ids))
        else:
            self._case.assertEqual(self._heard(client, block.frames), block.frames, block.caption)
        if side == "Server" or closes:
            self._case.assertEqual(len(client.errors), closes, f"{block.caption}: {client.errors}")
        self._closed += closes

    def _happen(self, what: str, client: Client) -> None:
        if what == "once the file is written":
            self._case.assertEqual(self._unread(), b"", "before the file is written")
            self._server.mirror.write()
        elif what == "when it stops":
            self._server.broker.stop()
            client.session.drain()
        else:
            self._case.assertIn(what, ("while the disk is full", "with room on the disk"))
            self._server.mirror.failing = what == "while the disk is full"

    def end(self) -> None:
        """See that all that the server said was shown, and which connections it closed."""
        self._case.assertEqual(self._unread(), b"", "the server said more than is shown")
        self._case.assertEqual(sum(len(client.errors) for client in self._clients.values()), self._closed)

    def _unread(self) -> bytes:
        return b"".join(client.unread for client in self._clients.values())

    def _heard(self, client: Client, expected: bytes) -> bytes:
        """What the server has said to a client, with the document's ids."""
        data = client.hears()
        known = set(self._ids.values())
        for shown, real in zip(_ID.findall(expected), _ID.findall(data), strict=False):
            if real not in known:
                self._ids.setdefault(shown, real)
        return self._translated(data, {real: shown for shown, real in self._ids.items()})

    @staticmethod
    def _translated(data: bytes, ids: dict[bytes, bytes]) -> bytes:
        return _ID.sub(lambda match: ids.get(match[0], match[0]), data)


class ConversationTests(SynchronousTestCase):
    """The conversations of docs/reference/protocol-01.md and protocol-conversation.md."""

    def test_replay(self) -> None:
        """What the clients say is taken by a server, and it says what the pages have, to the byte, and nothing else."""
        for path in SPECIFICATION:
            for title, blocks in conversations(path).items():
                replay = Replay(self)
                for number, block in enumerate(blocks):
                    try:
                        replay.play(block)
                    except self.failureException as error:
                        raise self.failureException(f"{path}, {title}, block {number}: {error}") from error
                replay.end()

    def test_complete(self) -> None:
        """There is an example of every frame, and of every packet that it may have."""
        original, documented = (
            {block.frames[start : start + 8] for block in blocks for start in starts(block.frames)}
            for blocks in conversations(SPECIFICATION[0]).values()
        )
        shapes = Versions().version01
        self.assertEqual(original, set(shapes[ORIGINAL]) | {b"H0100303"})
        self.assertEqual(documented, set(shapes[DOCUMENTED]) | {b"H0100304", b"H0201001"})
        seen: dict[str, set[str]] = {name: set() for name in wire.FRAMES}
        for blocks in conversations(SPECIFICATION[1]).values():
            for block in blocks:
                for name, fields in wire.read(block.frames, block.caption[:6].lower()):
                    seen[name] |= set(fields)
        self.assertEqual(seen, {name: set(kind.required + kind.optional) for name, kind in wire.FRAMES.items()})


def starts(frames: bytes) -> list[int]:
    """Where frames of version 01 begin; none of those that are shown has a body that looks like one."""
    return [match.start() for match in re.finditer(rb"H0\d{6}(?=P)", frames)]


class ProtocolTests(SynchronousTestCase):
    """The tables of docs/reference/protocol.md, protocol-01.md and protocol-02.md."""

    def test_packets(self) -> None:
        """The table of packets has each kind, with its name and limit."""
        table = rows("docs/reference/protocol.md", "| kind | packet |")
        self.assertEqual({name: int(kind.strip("`")) for kind, name, *_ in table}, wire.PACKETS)
        shown = {int(kind.strip("`")): limit.split(",")[0] for kind, *_, limit in table}
        limits = {kind: "16 MiB" if kind == CONTENT else f"{limit} byte" + "s" * (limit > 1) for kind, limit in DEFAULT_LIMITS.items()}
        self.assertEqual(shown, limits)
        self.assertEqual(DEFAULT_LIMITS[CONTENT], 16 * 1024 * 1024)
        self.assertIn(f"may have {UNKNOWN_LIMIT}\nbytes", text("docs/reference/protocol.md"))

    def test_frames_01(self) -> None:
        """The table of frames of version 01 has the header of each."""
        headers = {header.decode() for header in Versions().version01[0]} | {"H0100303", "H0100304"}
        table = rows("docs/reference/protocol-01.md", "| type | from |")
        self.assertEqual({header for row in table for header in re.findall(r"`(H\d{7})`", " ".join(row))}, headers)

    def test_frames_02(self) -> None:
        """The table of frames of version 02 has each type, who sends it, and its packets."""
        table = {}
        for number, sender, name, packets, _ in rows("docs/reference/protocol-02.md", "| type | from |"):
            required, _, optional = packets.rstrip("]").partition(" [")
            table[name] = wire.Kind(int(number), sender, tuple(required.split(", ")), tuple(optional.split(", ")) if optional else ())
        self.assertEqual(table, wire.FRAMES)

    def test_levels(self) -> None:
        """Each level of the table is one."""
        levels = columns("docs/reference/protocol-02.md", "| level | the receipt")
        self.assertEqual(list(levels), ["stored", "synced"])
        for level in levels:
            self.assertEqual(Situation().outcome(wire.compose("send", queue="q", content="x", level=level, tag="t")), "done")

    def test_settings(self) -> None:
        """The limits that it names are those that a server has by default."""
        settings = Settings()
        pages = " ".join((text("docs/reference/protocol.md") + text("docs/reference/protocol-02.md")).split())
        for words in (
            f"`--frame-timeout`, {settings.frame_timeout:.0f} seconds",
            f"`--write-timeout`, {settings.write_timeout:.0f} seconds",
            f"`--max-connections` connections, {settings.max_connections:,}",
            f"`--max-window`, {settings.max_window}",
            f"handshake of more than {HANDSHAKE_TIMEOUT:.0f} seconds",
            f"up to {CLOSE_TIMEOUT:.0f} seconds for the client to take",
        ):
            self.assertIn(words, pages)
        self.assertEqual(settings.producer_timeout, 24 * 3600)
        self.assertIn("`--producer-timeout`, a day,", text("docs/reference/protocol-producers.md"))


class Situation:
    """A server with a queue that takes no sends, and one client of it that is in some state."""

    def __init__(self, *frames: bytes, file: bool = True) -> None:
        """
        @param frames: what the client has said
        """
        self.server = Server(file)
        self.server.broker.queues.pause("full", SENDS)
        self.client = Client(self.server)
        self.client.says(b"".join(frames))
        self.client.hears()

    def outcome(self, frame: bytes) -> str:
        """What comes of one more frame of version 02: a code and what the specification calls it, or that it is done."""
        self.client.says(frame)
        self.server.mirror.write()
        answers = wire.read(self.client.hears())
        if not answers:
            return "waits" if self.client.waits else "ignored"
        [(name, fields)] = answers
        if name == "receipt":
            return "done"
        assert ("tag" not in fields) == bool(self.client.errors)
        return fields["code"].decode() + (" fatal" if "tag" not in fields else " answered")


_HELLO = wire.compose("hello", tag="h", producer="p")

#: What brings a connection into each state of the specification.
STATES = {
    "fresh": (),
    "01, revision unknown": (wire.consume("q", 0),),
    "01, original": (wire.send("q", b"x", None),),
    "01, documented": (wire.send("q", b"x"),),
    "02, plain": (wire.compose("hello", tag="h"),),
    "02, producer": (_HELLO,),
    "02, refusing": (_HELLO, wire.compose("send", queue="full", content="x", tag="1")),
}


class StatesTests(SynchronousTestCase):
    """The states of a connection in docs/reference/protocol.md."""

    def test_legal_frames(self) -> None:
        """In each state, the frames of the table can be sent, and no others."""
        table = columns("docs/reference/protocol.md", "| state | the client may send")
        self.assertEqual(list(table), [*STATES, "draining", "closed"])
        samples = {self.start(vector): vector.frame for vector in wire.GOOD + wire.GOOD_02}
        legal: list[str] = []
        for state, frames in STATES.items():
            cell = table[state][0]
            legal = legal if cell.startswith("the same") else re.findall(r"`(H\d+)`", cell.partition(";")[0])
            taken = []
            for start, frame in samples.items():
                client = Situation(*frames).client
                client.says(frame)
                taken += [start] if not client.errors else []
            self.assertEqual(sorted(taken), sorted(legal), state)

    def test_what_the_server_sends(self) -> None:
        """The table has what a server sends in each version and revision."""
        table = {state: re.findall(r"`(H\d+)`", cells[1]) for state, cells in columns("docs/reference/protocol.md", "| state |").items()}
        answers = [f"H02{kind.type:03}" for kind in wire.FRAMES.values() if kind.sender == "server"]
        self.assertEqual((table["01, original"], table["01, documented"], table["02, plain"]), (["H0100303"], ["H0100304"], answers))
        self.assertEqual((table["fresh"], table["01, revision unknown"], table["closed"]), ([], [], []))

    def test_refusing(self) -> None:
        """A producer of which a send was refused has all sends with a tag refused, and no others."""
        for tag, outcome in (("2", "queue-full answered"), ("1", "queue-full answered"), (None, "ignored")):
            send = wire.compose("send", queue="q", content="x", **({} if tag is None else {"tag": tag}))
            ping, hello = wire.compose("hello", tag="h"), wire.compose("hello", tag="h", producer="p")
            for frames in (), (ping,):
                self.assertEqual(Situation(*STATES["02, refusing"], *frames).outcome(send), outcome)
            self.assertIn(Situation(*STATES["02, refusing"], hello).outcome(send), ("done", "ignored"))

    @staticmethod
    def start(vector: wire.Vector) -> str:
        """The start of a frame as the table has it: in version 02 the number of packets may vary."""
        return vector.frame[: 8 if vector.version == 1 else 6].decode()


class CodesTests(SynchronousTestCase):
    """The codes in docs/reference/protocol-02.md and protocol-01.md."""

    def setUp(self) -> None:
        self.table = columns("docs/reference/protocol-02.md", "| code | cause")

    def test_list(self) -> None:
        """All are there."""
        self.assertEqual(set(self.table) - {""}, {kind.code for kind in {PHPMQError} | kinds(ProtocolError) | kinds(CommandRefused)})
        self.assertEqual(set(columns("docs/reference/protocol-01.md", "| code |")), {kind.code for kind in kinds(ProtocolError)})

    def test_what_happens(self) -> None:
        """What each does to a request with a tag and to one without is what a server does; those that it does not send are named."""
        unsent = {code for code, cells in self.table.items() if "Not sent by this release" in cells[0]}
        self.assertEqual(set(self.table) - unsent - {""}, set(self.provoked(True)))
        for tag in True, False:
            outcomes = {code: outcome.removeprefix(f"{code} ") for code, outcome in self.provoked(tag).items()}
            described = {code: self.table[code][1 if tag else 2] for code in outcomes}
            self.assertEqual(outcomes, described, f"tag: {tag}")

    def test_hello(self) -> None:
        """A producer that is new meets a full memory too, a hello without one does not."""
        for producer, outcome in (("new", "memory-full answered"), ("known", "done"), (None, "done")):
            situation = Situation(wire.compose("hello", tag="h", producer="known"))
            situation.server.broker.memory.limit = 0
            hello = wire.compose("hello", tag="t", **({} if producer is None else {"producer": producer}))
            self.assertEqual(situation.outcome(hello), outcome)

    def provoked(self, tag: bool) -> dict[str, str]:
        """What comes of requests that are refused with each code."""
        outcomes = {}
        optional = {"tag": "t"} if tag else {}
        synced = wire.compose("send", queue="q", content="x", level="synced", **optional)
        for code, frame in {
            "bad-frame": wire.compose("send", queue="q", content="x", ttl="1.", **optional),
            "unsupported": b"H0200301",
            "too-large": b"H0200102P02" + b"9" * 29,
            "bad-name": wire.compose("send", queue="", content="x", **optional),
            "unknown-id": wire.compose("acknowledge", id="none", **optional),
            "queue-full": wire.compose("send", queue="full", content="x", **optional),
            "memory-full": wire.compose("send", queue="q", content="x", **optional),
            "disk-failing": synced,
            "not-allowed": synced,
        }.items():
            situation = Situation(wire.compose("hello", tag="h"), file=code != "not-allowed")
            if code == "memory-full":
                situation.server.broker.memory.limit = 0
            situation.server.mirror.failing = code == "disk-failing"
            outcomes[code] = situation.outcome(frame)
        return outcomes


def kinds(base: type[PHPMQError]) -> set[type[PHPMQError]]:
    """An error and all that are special cases of it."""
    return {base}.union(*map(kinds, base.__subclasses__()))


class ArchitectureTests(SynchronousTestCase):
    """docs/explanation/architecture.md."""

    def test_layers(self) -> None:
        """Its lists of layers are those that import-linter checks."""
        parser = ConfigParser()
        parser.read(ROOT / "setup.cfg")
        contracts = {
            name: [set(re.split(r" [|:] ", layer)) for layer in parser[name]["layers"].split("\n") if layer]
            for name in parser.sections()
            if name.startswith("importlinter:contract:") and "layers" in parser[name]
        }
        drawn = {
            name: [{line.split()[0] for line in block.splitlines()} for block in blocks.split("     |\n")]
            for name, blocks in re.findall(
                r"^<!-- (importlinter:\S+) -->\n\n((?: {4}.*\n)+)", text("docs/explanation/architecture.md"), re.MULTILINE
            )
        }
        self.assertEqual(drawn, contracts)


class OptionsTests(SynchronousTestCase):
    """docs/reference/options.md."""

    def test_complete(self) -> None:
        """Its table has every option; what is told beside it is about options that there are, in the table's order."""
        page = text("docs/reference/options.md")
        self.assertEqual(option_tables.updated("reference/options.md", page), page, "run python -m tests.option_tables")
        self.assertIn(option_tables.TABLES["reference/options.md"], page)
        names = [f"--{name}" for name in (*OPTIONS, "config")]
        told = [name for written in re.findall(r"^(`--.*)\n: ", page, re.MULTILINE) for name in re.findall(r"`(--[a-z-]+)", written)]
        self.assertEqual(told, sorted(set(told), key=names.index))

    def test_configuration_file(self) -> None:
        """Its example of a configuration file, and that of the how-to guide, can be read."""
        for path in "docs/reference/options.md", "docs/how-to/run-it.md":
            for number, example in enumerate(re.findall(r"^```toml\n(.*?)^```$", text(path), re.MULTILINE | re.DOTALL)):
                options = tap.Options()
                with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
                    file.write(example)
                    file.flush()
                    options.parseOptions(["--config", file.name])
                self.assertTrue(options.settings.listen, f"{path} {number}")


class HTTPTests(SynchronousTestCase):
    """docs/reference/http.md."""

    def setUp(self) -> None:
        """Find its tables' rows: the code in the first column, and the second column."""
        self.rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", text("docs/reference/http.md"), re.MULTILINE)

    def test_paths(self) -> None:
        """It has every operation, and no other."""
        described = [name for name, _ in self.rows if "/" in name]
        self.assertEqual(sorted(described), sorted(f"{one.method} {one.path}" for one in (*OPERATIONS, METRICS)))

    def test_codes(self) -> None:
        """It has every code with its status."""
        described = {name: int(status) for name, status in self.rows if status.isdigit()}
        self.assertEqual(described, {code: status for code, (status, _) in CODES.items()})

    def test_names(self) -> None:
        """It has every parameter, field, setting and check."""
        names = {name for name, _ in self.rows}
        for operation in OPERATIONS:
            known = {*operation.query, *(operation.body or {})} - {"target", "ids", "reason", "count", "what"}
            self.assertEqual(known - names, set(), operation.id)
        server = MemoryServer()
        self.addCleanup(server.stop)
        self.assertEqual({*server.service.admin.health().checks, "mirror"} - names, set())


class ConsoleTests(SynchronousTestCase):
    """docs/reference/console.md."""

    def test_commands(self) -> None:
        """It has every command, called as it is called, in the order of help, and every setting."""
        reference = text("docs/reference/console.md")
        self.assertEqual(re.findall(r"^`(.+)`\n: ", reference, re.MULTILINE), [command.usage for command in TABLE.values()])
        for name in QueueSettings.__dataclass_fields__:
            if not name.startswith("_"):
                self.assertIn(f"`{name}`", reference)
                self.assertIn(name, TABLE["settings"].text)

    def test_limits(self) -> None:
        """Its limits are those of the code."""
        reference = text("docs/reference/console.md")
        for what, limit in (
            ("consoles at a time", f"{Settings().max_consoles}, or as many as `--max-consoles` says"),
            ("a line", f"{MAX_LINE} bytes"),
            ("nothing typed, unless a monitor is shown", f"{IDLE_TIMEOUT / 60:g} minutes"),
            ("nothing read by the client, while something waits for it", f"{WRITE_TIMEOUT:g} seconds"),
            ("taking the rest, once the server closes", f"{CONSOLE_CLOSE_TIMEOUT:g} seconds"),
        ):
            self.assertIn(f"| {what} | {limit} |", reference)
        self.assertIn("from {}x{} to {}x{}.".format(*SMALLEST, *LARGEST), reference)
        self.assertIn("{} columns and {} rows".format(*USUAL), reference)
        self.assertIn(f"more than {_FINDABLE:,} of them", reference)

    def test_examples(self) -> None:
        """The commands that its guide shows are commands."""
        shown = re.findall(r"phpmq > (.+)$", text("docs/how-to/dead-letters.md") + text("docs/reference/console.md"), re.MULTILINE)
        self.assertTrue(shown)
        for line in shown:
            self.assertIsNotNone(parse(line, TABLE), line)


class MetricsTests(SynchronousTestCase):
    """docs/reference/metrics.md."""

    def setUp(self) -> None:
        """Scrape a server that has something of everything; split the tables into cells."""
        server = MemoryServer()
        self.addCleanup(server.stop)
        server.broker.configure("bounded", QueueSettings(max_messages=5, max_bytes=77))
        server.broker.queues.pause("bounded")
        server.send("bounded", b"x")
        server.service.site = Site(server.clock, Settings())
        server.service.site.open(server.service.admin)
        scrape = Metrics(server.service.admin).scrape()
        server.settle()
        #: name -> type and labels
        self.metrics: dict[str, tuple[str, set[str]]] = {}
        for family in text_string_to_metric_families(self.successResultOf(scrape).decode("utf-8")):
            # The parser takes the end of a counter's name away.
            name = family.name + "_total" * (family.type == "counter")
            self.metrics[name] = family.type, {label for sample in family.samples for label in sample.labels} - {"le"}
        rows = re.findall(r"^\|(.*)\|$", text("docs/reference/metrics.md"), re.MULTILINE)
        self.rows = [[cell.strip() for cell in row.split("|")] for row in rows]
        self.limits = [(row[0], set(_names(row[1])), set(_names(row[2]))) for row in self.rows if len(row) == 3]

    def test_complete(self) -> None:
        """It has every metric that there is, and no other, with type and labels."""
        described: dict[str, tuple[str, set[str]]] = {}
        for first, *cells in self.rows:
            if first.startswith("`phpmq_"):
                (name,) = _names(first)
                self.assertNotIn(name, described)
                described[name] = cells[0], set(_names(cells[1]))
        # The limits have a table of their own, without types.
        for name in {name for _, limits, _ in self.limits for name in limits} - described.keys():
            described[name] = "gauge", {"kind"} if name.endswith("_deadline_seconds") else {"queue"} & self.metrics[name][1]
        self.assertEqual(described, {name: metric for name, metric in self.metrics.items() if name.startswith("phpmq_")})

    def test_library(self) -> None:
        """It names what the library adds."""
        others = {name for name in self.metrics if not name.startswith("phpmq_")}
        self.assertEqual(set(re.findall(r"`((?:process|python)_\w+)`", text("docs/reference/metrics.md"))), others)

    def test_limits(self) -> None:
        """Each option that limits something is there, with metrics that exist."""
        options = {"--" + name.rstrip("=") for name in tap.Options().longOpt} - {"--help", "--version"}
        doors = {"--listen", "--listen-original", "--console", "--http", "--http-host", "--insecure-admin"}
        limiting = options - {"--store", "--config", "--log-level"} - doors
        self.assertEqual({name for first, _, _ in self.limits for name in _names(first) if name.startswith("--")}, limiting)
        for first, limits, uses in self.limits:
            if first.startswith("`--") or first.startswith("a queue's"):
                self.assertTrue(limits and uses, first)
                self.assertEqual((limits | uses) - self.metrics.keys(), set(), first)

    def test_monitoring_names(self) -> None:
        """Rules, dashboard and guide use metrics that exist, by names that they have."""
        series = set(self.metrics)
        for name, (type, _) in self.metrics.items():
            if type == "histogram":
                series |= {f"{name}_{end}" for end in ("bucket", "sum", "count")}
        paths = [*MONITORING.iterdir(), ROOT / "docs" / "how-to" / "prometheus-grafana.md"]
        self.assertGreater(len(paths), 4)
        for path in paths:
            used = set(re.findall(r"\b(?:phpmq|process|python)_[a-z_]+\b", path.read_text(encoding="utf-8")))
            self.assertEqual(used - series, set(), path)


def _names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


class MonitoringTests(SynchronousTestCase):
    """docs/monitoring."""

    def test_promtool(self) -> None:
        """Prometheus' tool takes configuration and rules, and the rules do what their tests say."""
        promtool("check", "config", "prometheus.yml", directory=MONITORING)
        promtool("test", "rules", "phpmq-rules-test.yml", directory=MONITORING)

    def test_alerts(self) -> None:
        """Each alert is tested, and described in the guide; there are no others."""
        alerts = set(re.findall(r"alert: (\w+)", text("docs/monitoring/phpmq-rules.yml")))
        self.assertGreater(len(alerts), 10)
        self.assertEqual(set(re.findall(r"`(Phpmq\w+)`", text("docs/how-to/prometheus-grafana.md"))), alerts)
        tests = text("docs/monitoring/phpmq-rules-test.yml")
        self.assertEqual({alert for alert in alerts if alert not in tests}, set())

    def test_dashboard(self) -> None:
        """Panels have places and numbers of their own, what they ask is PromQL, and the data source is for the reader to choose."""
        dashboard = json.loads(text("docs/monitoring/phpmq-dashboard.json"))
        panels = dashboard["panels"]
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        places = [
            (x, y)
            for place in (panel["gridPos"] for panel in panels)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        self.assertEqual(len(set(places)), len(places))
        self.assertLess(max(x for x, _ in places), 24)
        rules: list[dict[str, str]] = []
        for target in (target for panel in panels for target in panel.get("targets", [])):
            self.assertEqual(target["datasource"]["uid"], "${datasource}")
            query = re.sub(r"\$__\w*interval", "5m", target["expr"])
            rules.append({"record": f"query:{len(rules)}", "expr": re.sub(r"\$(job|instance|queue)", ".*", query)})
        self.assertGreater(len(rules), 50)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".yml") as file:
            # JSON is YAML.
            json.dump({"groups": [{"name": "dashboard", "rules": rules}]}, file)
            file.flush()
            promtool("check", "rules", file.name)


class EmbedTests(SynchronousTestCase):
    """docs/how-to/embed.md."""

    def test_settings(self) -> None:
        """Its table has every setting."""
        guide = text("docs/how-to/embed.md")
        self.assertEqual(option_tables.updated("how-to/embed.md", guide), guide, "run python -m tests.option_tables")
        self.assertIn(option_tables.TABLES["how-to/embed.md"], guide)


class ClientTests(SynchronousTestCase):
    """docs/reference/client.md."""

    def test_complete(self) -> None:
        """It has every public method, setting and error of the clients."""
        reference = text("docs/reference/client.md")
        classes = client.QueueClient, client.Consumer, client.Delivery, blocking.QueueClient, blocking.Consumer, blocking.Submission
        # What a conversation and a service need of them is nobody else's.
        inherited = {
            "deliver",
            "end",
            "lost",
            "subscribed",
            "message_id",
            "answer",
            "outcome",
            "wait",
            "flush",
            "stop_consuming",
            "check",
            "callback",
            "errback",
            *dir(Service),
        } - {"startService", "stopService"}
        for kind in (*classes, blocking.Delivery, MemoryServer):
            names = {name for name in dir(kind) if not name.startswith("_")} - inherited
            for name in names:
                self.assertRegex(reference, rf"[`.]{name}\b", f"{kind}.{name}")
        for kind in client.QueueClient, blocking.QueueClient:
            for setting in list(inspect.signature(kind).parameters):
                self.assertIn(f"`{setting}`", reference, f"{kind} {setting}")
        for error in ClientError.__subclasses__():
            self.assertIn(f"`{error.__name__}`", reference)


class RulesTests(SynchronousTestCase):
    """docs/reference/semantics.md."""

    def test_numbers(self) -> None:
        """It has every rule that a comment in the code names by number."""
        rules = set(re.findall(r"^\*\*(\d+)\.\*\*", text("docs/reference/semantics.md"), re.MULTILINE))
        sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "phpmq").rglob("*.py"))
        named = {number for list_ in re.findall(r"[Rr]ules? ((?:\d+(?:, | and )?)+)", sources) for number in re.findall(r"\d+", list_)}
        self.assertTrue(named)
        self.assertEqual(named - rules, set())


class TutorialTests(SynchronousTestCase):
    """docs/tutorials/first-queue.md."""

    def test_numbers_in_the_shell(self) -> None:
        """The delivery that its commands read is as long as they say, with the id where they take it from."""
        script = text("docs/tutorials/first-queue.md")
        message_id = b"d7e7f68761d34838494b233148b5486c"
        delivery = b"".join(encode_delivery_documented("jobs", b"first", message_id, 1, 0, b""))
        self.assertEqual(wire.deliveries(delivery), [wire.Delivery("jobs", b"first", message_id, 0)])
        self.assertIn(f"read -r -N {len(delivery)} delivery", script)
        self.assertIn(f"read -r -N {len(delivery) + 1} delivery", script)
        self.assertIn(f"id=${{delivery:{delivery.index(message_id)}:{len(message_id)}}}", script)
