"""Tests of L{phpmq.tap}: options, the configuration file, and the wiring."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

from twisted.application.service import IService, ServiceMaker
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from phpmq import tap
from phpmq.clock import SteadyClock
from phpmq.errors import StartError
from phpmq.frames import CONTENT, DEFAULT_LIMITS
from phpmq.protocol import QueueProtocol
from phpmq.settings import DURATION, FLAG, LOG_LEVELS, OPTIONS, SIZE, Settings


class Case(SynchronousTestCase):
    """What all tests here need."""

    def setUp(self) -> None:
        """No $STATE_DIRECTORY but the test's own."""
        environment = {key: value for key, value in os.environ.items() if key != "STATE_DIRECTORY"}
        self.patch(os, "environ", environment)

    def settings(self, *arguments: str) -> Settings:
        """What a command line makes of the settings."""
        options = tap.Options()
        options.parseOptions(arguments)
        return options.settings

    def refusal(self, *arguments: str) -> str:
        """Why a command line is refused."""
        return str(self.assertRaises(StartError, self.settings, *arguments))

    def config(self, text: str) -> str:
        """The path of a configuration file."""
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        path = directory / "phpmq.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)


class OptionsTests(Case):
    """The command line."""

    def test_defaults(self) -> None:
        """Without options a server listens on port 9100, keeps a file here, and has a console and an HTTP API for this machine."""
        settings = self.settings()
        console, http = "tcp:9101:interface=127.0.0.1", ("tcp:9180:interface=127.0.0.1",)
        self.assertEqual(settings, Settings(memory_limit=settings.memory_limit, console=console, http=http))
        self.assertEqual((settings.listen, settings.listen_original), (("tcp:9100",), ()))
        self.assertEqual((settings.store, settings.mirror_interval), ("phpmq.db", 0.1))

    def test_listeners(self) -> None:
        """Both kinds of listeners may be repeated; who wants only original ones gets no other."""
        settings = self.settings("--listen", "tcp:1", "-l", "unix:a", "--listen-original", "tcp:2")
        self.assertEqual((settings.listen, settings.listen_original), (("tcp:1", "unix:a"), ("tcp:2",)))
        settings = self.settings("--listen-original", "tcp:2", "--listen-original", "unix:b")
        self.assertEqual((settings.listen, settings.listen_original), ((), ("tcp:2", "unix:b")))

    def test_http(self) -> None:
        """The HTTP API has a port unless there shall be none; it may have several, and more names."""
        self.assertEqual(self.settings("--http", "none").http, ())
        self.assertEqual(self.settings("--http", "tcp:1", "--http", "unix:a").http, ("tcp:1", "unix:a"))
        self.assertEqual(self.settings("--http", "tcp:1", "--http", "none", "--http", "tcp:2").http, ("tcp:2",))
        settings = self.settings("--http-host", "a.example", "--http-host", "b.example", "--insecure-admin")
        self.assertEqual((settings.http_hosts, settings.insecure_admin), (("a.example", "b.example"), True))

    def test_sizes(self) -> None:
        """Sizes are bytes, or have a unit in any usual way of writing it."""
        for text, size in (
            ("1", 1),
            ("1048576", 1024**2),
            ("64k", 64 * 1024),
            ("16M", 16 * 1024**2),
            ("16 MiB", 16 * 1024**2),
            ("16mb", 16 * 1024**2),
            ("512m", 512 * 1024**2),
        ):
            self.assertEqual(self.settings("--max-message-size", text).max_message_size, size, text)
        self.assertEqual(self.settings("--memory-limit", "2G").memory_limit, 2 * 1024**3)

    def test_bad_sizes(self) -> None:
        """What is no size, or too small or large a one, is named with its option."""
        for text in "", "huge", "-1", "1.5", "1_000", "1T", "+1", "0x10", "\u0661", "0", "513M":
            self.assertIn(f"--max-message-size {text}: expected ", self.refusal(f"--max-message-size={text}"))
        self.assertIn("--memory-limit 1023k: expected at least 1M", self.refusal("--memory-limit", "1023k"))

    def test_numbers(self) -> None:
        """Numbers are taken as such, within their limits."""
        settings = self.settings(
            *("--mirror-interval", "0.5", "--max-connections", "5", "--max-window", "6"),
            *("--frame-timeout", "7", "--write-timeout", "8.5", "--max-keys", "9", "--max-consoles", "10"),
            *("--max-http-connections", "11", "--max-http-bodies", "12M", "--max-connections-per-address", "4"),
        )
        self.assertEqual((settings.mirror_interval, settings.max_connections, settings.max_window), (0.5, 5, 6))
        self.assertEqual((settings.per_address, self.settings("--max-connections", "5").per_address), (4, 2))
        self.assertEqual((settings.frame_timeout, settings.write_timeout), (7.0, 8.5))
        self.assertEqual((settings.max_keys, settings.max_consoles), (9, 10))
        self.assertEqual((settings.max_http_connections, settings.max_http_bodies), (11, 12 * 1024**2))

    def test_console(self) -> None:
        """The console may be elsewhere or not at all, and be open to other machines for who says so."""
        self.assertEqual(self.settings("--console", "unix:console").console, "unix:console")
        self.assertEqual(self.settings("--console", "none").console, "")
        self.assertFalse(self.settings().insecure_admin)
        self.assertTrue(self.settings("--insecure-admin").insecure_admin)

    def test_bad_numbers(self) -> None:
        """A number that is none, or out of its limits, is named with its option."""
        for option, value in (
            ("--mirror-interval", "0"),
            ("--mirror-interval", "-1"),
            ("--mirror-interval", "nan"),
            ("--mirror-interval", "inf"),
            ("--max-connections", "0"),
            ("--max-connections", "1.5"),
            ("--max-window", "0"),
            ("--frame-timeout", "0"),
            ("--frame-timeout", "nan"),
            ("--write-timeout", "x"),
            ("--log-level", "loud"),
        ):
            self.assertIn(f"{option} {value}: ", self.refusal(option, value))

    def test_empty_values(self) -> None:
        """An empty value, as an unset shell variable leaves it, is refused, not taken for the default."""
        for name, option in OPTIONS.items():
            if not option.repeated and option.kind is not FLAG:
                self.refusal(f"--{name}=")
        self.refusal("--config=")

    def test_one_line(self) -> None:
        """A refusal is one line that says who is speaking."""
        for arguments in ("--max-connections", "x"), ("--config", "/nowhere"), ("--memory-limit", "1"):
            self.assertRegex(self.refusal(*arguments), r"^phpmq: [^\n]+$")

    def test_unknown_option(self) -> None:
        """An option that does not exist is an error of usage, which twistd prints."""
        self.assertRaises(UsageError, self.settings, "--lissten", "tcp:1")

    def test_state_directory(self) -> None:
        """The file's default place is $STATE_DIRECTORY, the first if there are several; an explicit path is as it is."""
        os.environ["STATE_DIRECTORY"] = "/var/lib/phpmq:/var/lib/other"
        self.assertEqual(self.settings().store, "/var/lib/phpmq/phpmq.db")
        self.assertEqual(self.settings("--store", "x.db").store, "x.db")
        self.assertEqual(self.settings("--store", "memory").store, "memory")
        os.environ["STATE_DIRECTORY"] = ""
        self.assertEqual(self.settings().store, "phpmq.db")

    def test_help(self) -> None:
        """Every option is explained."""
        text = " ".join(tap.Options().getUsage(80).split())
        for name, option in OPTIONS.items():
            self.assertIn(f"--{name}{'' if option.kind is FLAG else '='} {option.usage}", text)
        for words in "-l, --listen= Where", "-s, --store= ", "-c, --config= ", "[default: 16M]", "64k, 16M or 2G", "30s, 5m, 2h or 1d":
            self.assertIn(words, text)

    def test_durations(self) -> None:
        """Every option that is a time takes units, on the command line and in the file."""
        durations = {name: option.attribute for name, option in OPTIONS.items() if option.kind is DURATION}
        self.assertEqual(len(durations), 4)
        for name, attribute in durations.items():
            for text, seconds in ("30", 30.0), ("30s", 30.0), ("5m", 300.0), ("2000ms", 2.0), ("1h", 3600.0):
                self.assertEqual(getattr(self.settings(f"--{name}", text), attribute), seconds)
                path = self.config(f'{name} = "{text}"')
                self.assertEqual(getattr(self.settings("--config", path), attribute), seconds)
        self.assertEqual(self.settings("--producer-timeout", "2d").producer_timeout, 172800)
        self.assertIn("--mirror-interval 2h: expected at least 1ms and at most 1h", self.refusal("--mirror-interval", "2h"))
        self.assertIn("--mirror-interval soon: expected a number of seconds or a duration", self.refusal("--mirror-interval", "soon"))

    def test_limits(self) -> None:
        """Each limit holds, and the values at the limits are taken."""
        for name, option in OPTIONS.items():
            for limit in filter(None, (option.least, option.most)):
                self.assertEqual(option.parse(limit), option.kind.read(limit))
            if option.least not in ("", "0"):
                self.assertIn(f"--{name} 0: expected {option.limits}", self.refusal(f"--{name}", "0"))
            if option.most:
                self.assertIn(f"expected {option.limits}", self.refusal(f"--{name}", "600T" if option.kind is SIZE else "1000000"))

    def test_shared(self) -> None:
        """What others define is the same here: the decoder's limit, and Twisted's levels."""
        self.assertEqual(Settings().max_message_size, DEFAULT_LIMITS[CONTENT])
        self.assertEqual(set(LOG_LEVELS), {level.name for level in LogLevel.iterconstants()})


class ConfigurationTests(Case):
    """The TOML file."""

    def test_values(self) -> None:
        """Every option may stand in the file under its own name; sizes and numbers with or without quotes."""
        path = self.config("""
            listen = ["tcp:1", "unix:a"]
            listen-original = "tcp:2"
            store = "x.db"
            mirror-interval = 0.25
            max-message-size = "2M"
            memory-limit = 2097152
            max-connections = 3
            max-window = "4"
            frame-timeout = 5
            write-timeout = 6.5
            http = "unix:h"
            http-host = ["mq.example"]
            console = "unix:console"
            insecure-admin = true
        """)
        self.assertEqual(
            self.settings("--config", path),
            Settings(
                listen=("tcp:1", "unix:a"),
                listen_original=("tcp:2",),
                store="x.db",
                mirror_interval=0.25,
                max_message_size=2 * 1024**2,
                memory_limit=2 * 1024**2,
                max_connections=3,
                max_window=4,
                frame_timeout=5.0,
                write_timeout=6.5,
                http=("unix:h",),
                http_hosts=("mq.example",),
                console="unix:console",
                insecure_admin=True,
            ),
        )

    def test_no_http(self) -> None:
        """The file may say that there is no HTTP API, and the command line that there is one."""
        for text in 'http = "none"', "http = []", 'http = ["none"]':
            path = self.config(text)
            self.assertEqual(self.settings("--config", path).http, ())
            self.assertEqual(self.settings("--config", path, "--http", "tcp:1").http, ("tcp:1",))
        self.assertFalse(self.settings("--config", self.config("insecure-admin = false")).insecure_admin)

    def test_flags_win(self) -> None:
        """What the command line says counts more, and the rest of the file still counts."""
        path = self.config('listen = ["tcp:1"]\nstore = "x.db"\nmax-connections = 3\n')
        settings = self.settings("-c", path, "--store", "y.db", "--listen", "tcp:2")
        self.assertEqual((settings.listen, settings.store, settings.max_connections), (("tcp:2",), "y.db", 3))

    def test_unknown_key(self) -> None:
        """A key that does not exist is named with the nearest that does, if one is near."""
        for key, nearest in (
            ("lissten", "listen"),
            ("max_message_size", "max-message-size"),
            ("mirror-intervall", "mirror-interval"),
            ("listen-orginal", "listen-original"),
        ):
            refusal = self.refusal("--config", self.config(f"{key} = 1"))
            self.assertIn(f"unknown key {key!r}, did you mean {nearest!r}?", refusal)
        refusal = self.refusal("--config", self.config("[xyz]\na = 1"))
        self.assertIn("unknown key 'xyz'", refusal)
        self.assertNotIn("did you mean", refusal)

    def test_wrong_types(self) -> None:
        """A value of the wrong type is refused by its name."""
        for text in (
            "listen = 1",
            "listen = [1]",
            "http-host = [1]",
            "insecure-admin = 1",
            'insecure-admin = "yes"',
            "store = true",
            "store = []",
            "max-connections = {a = 1}",
            "max-window = 1.5",
        ):
            name = text.split()[0]
            self.assertIn(name, self.refusal("--config", self.config(text)))

    def test_unreadable(self) -> None:
        """A file that is not there or is no TOML is named."""
        self.assertIn("/nowhere/x.toml", self.refusal("--config", "/nowhere/x.toml"))
        path = self.config("listen = [")
        self.assertIn(path, self.refusal("--config", path))


class MakeServiceTests(Case):
    """L{tap.makeService}"""

    def setUp(self) -> None:
        """A reactor that does nothing, and handlers as they were before."""
        super().setUp()
        self.reactor = MemoryReactorClock()
        self.patch(QueueProtocol, "_log", QueueProtocol._log)
        for number in signal.SIGTERM, signal.SIGINT, signal.SIGHUP:
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def make(self, *arguments: str) -> IService:
        """The service of a command line."""
        options = tap.Options()
        options.parseOptions(arguments)
        return tap.makeService(options, self.reactor)

    def test_service(self) -> None:
        """It is a service, and nothing is opened before it starts."""
        service = self.make("--listen", "tcp:1", "--store", "/nowhere/x.db")
        verifyObject(IService, service)
        self.assertEqual(self.reactor.tcpServers, [])

    def test_bad_listener(self) -> None:
        """A listener that is no strports string is refused with one line that has it and its option."""
        for listener in "nonsense", "nonsense:1", "tcp", "tcp:x", "tcp:1:2:3:4:5":
            for option in "--listen", "--listen-original", "--console", "--http":
                error = self.assertRaises(StartError, self.make, option, listener, "--insecure-admin")
                self.assertRegex(str(error), rf"^phpmq: cannot understand {option} {listener}: [^\n]+")

    def test_open_console(self) -> None:
        """A console that other machines could reach is refused, unless that is asked for."""
        error = self.assertRaises(StartError, self.make, "--console", "tcp:9101")
        self.assertRegex(str(error), r"^phpmq: --console tcp:9101 [^\n]*--insecure-admin")
        self.make("--console", "tcp:9101", "--insecure-admin")

    def test_steady_timers(self) -> None:
        """The reactor's timers do not follow the system's clock, which may be set back."""
        self.make("--store", "memory")
        self.assertIsInstance(getattr(self.reactor.seconds, "__self__", None), SteadyClock)

    def test_log_level(self) -> None:
        """Connections are logged when asked for, and otherwise not even made into events."""
        events: list[LogEvent] = []

        @implementer(ILogObserver)
        def observer(event: LogEvent) -> None:
            events.append(event)

        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        for level, logged in (("info", 0), ("debug", 1)):
            self.make("--store", "memory", "--log-level", level)
            del events[:]
            QueueProtocol._log.debug("connection from {peer}", peer="somebody")
            self.assertEqual([event["log_level"] for event in events], [LogLevel.debug] * logged)

    def test_plugin(self) -> None:
        """The plugin's module names this one."""
        names: dict[str, ServiceMaker] = {}
        plugin = Path(__file__).parents[1] / "twisted" / "plugins" / "phpmq_plugin.py"
        exec(plugin.read_text(), names)
        self.assertEqual((names["phpmq"].tapname, names["phpmq"].module), ("phpmq", "phpmq.tap"))
        self.assertIs(names["phpmq"].options, tap.Options)
