"""What operators type and what they read: keys and lines, telnet's language, commands, and text that steers no terminal."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from phpmq.admin.console import display
from phpmq.admin.console.commands import TABLE
from phpmq.admin.console.grammar import BadCommand, Call, complaint, json_pieces, parse
from phpmq.admin.console.input import MAX_LINE, Key, Keyboard, Telnet
from phpmq.errors import BadName, NoSuchQueue, PHPMQError
from phpmq.message import check_name
from phpmq.text import terminal_safe

IAC, WILL, WONT, DO, DONT, SB, SE = 255, 251, 252, 253, 254, 250, 240


def chunks(data: bytes, size: int) -> list[bytes]:
    """Data, cut into parts of a size."""
    return [data[start : start + size] for start in range(0, len(data), size)]


class KeyboardTests(SynchronousTestCase):
    """L{Keyboard}"""

    def pressed(self, data: bytes, size: int, watching: bool = False) -> list[bytes | Key]:
        """What comes of bytes that arrive in chunks of a size. A monitor ends with the first key or line, as in a console."""
        keyboard = Keyboard()
        found: list[bytes | Key] = []
        for chunk in chunks(data, size):
            keyboard.receive(chunk)
            while (one := keyboard.next(watching and not found)) is not None:
                found.append(one)
        return found

    def check(self, data: bytes, *expected: bytes | Key, watching: bool = False) -> None:
        """Bytes mean the same in whatever chunks they arrive."""
        for size in range(1, len(data) + 1):
            self.assertEqual(self.pressed(data, size, watching), list(expected), (data, size))

    def test_lines(self) -> None:
        """A line ends with CR LF, LF, CR or CR NUL, also several in one packet; the last one without an end is none yet."""
        self.check(b"help\nstatus\r\nshow a\rclear\r\0\n\r\nrest", b"help", b"status", b"show a", b"clear", b"", b"")

    def test_corrections(self) -> None:
        """Backspace and delete take back a character, whatever it has in bytes, and Ctrl-U the line."""
        self.check("sé\x08tatue\x7fs\n".encode(), b"status")
        self.check("漢\x08\x08\x08help\n".encode(), b"help")
        self.check(b"flushall yes\x15help\n", b"help")

    def test_ends(self) -> None:
        """Ctrl-C and Ctrl-D are keys of their own, and what was typed before them on the line is gone."""
        self.check(b"flush a\x03help\n\x04", Key.END, b"help", Key.END)

    def test_leave(self) -> None:
        """In a monitor q counts at once; where it is sent with a line, its Enter is no further line."""
        for sent in b"q", b"Q", b"q\n", b"q\r\n", b"q \r\n":
            self.check(sent, Key.LEAVE, watching=True)
        self.check(b"q\nhelp\n\n", Key.LEAVE, b"help", b"", watching=True)
        self.check(b"qhelp\n", Key.LEAVE, b"help", watching=True)
        self.check(b"\nq\n", b"", b"q", watching=True)

    def test_other_lines_in_a_monitor(self) -> None:
        """Another line in a monitor is one as everywhere, and quit is not cut by its q."""
        self.check(b"show q\n", b"show q", watching=True)
        self.check(b"quit\r\n", Key.LEAVE, b"quit", watching=True)

    def test_too_long(self) -> None:
        """A line that does not end is not kept for ever."""
        longest = b"x" * MAX_LINE
        self.assertEqual(self.pressed(longest + b"\n", 1000), [longest])
        self.assertEqual(self.pressed(longest + b"x", 1000), [Key.TOO_LONG])

    def test_foreign(self) -> None:
        """Requests of browsers, and what has bytes of zero, are known for what they are."""
        self.check(b"GET / HTTP/1.1\r\nHost: localhost\r\n", Key.FOREIGN, b"Host: localhost")
        for request in b"POST /x HTTP/1.1", b"OPTIONS * HTTP/1.1", b"PRI * HTTP/2.0", b"GET /", b"PROPFIND / HTTP/1.1":
            self.check(request + b"\n", Key.FOREIGN)
        # TLS and STUN: one has a Ctrl-C in its version, the other begins with a zero; both end the connection.
        self.assertEqual(self.pressed(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 99)[0], Key.END)
        self.assertEqual(self.pressed(b"\x00\x03\x00\x5c\x21\x12", 99)[0], Key.FOREIGN)
        self.check(b"show GET\nshow 'GET / HTTP/1.1'\n", b"show GET", b"show 'GET / HTTP/1.1'")

    def test_unfinished(self) -> None:
        """It is known whether a line has begun, and whether there is more to look at."""
        keyboard = Keyboard()
        keyboard.receive(b"a\nb")
        self.assertEqual((keyboard.next(False), keyboard.waiting, keyboard.unfinished), (b"a", True, False))
        self.assertEqual((keyboard.next(False), keyboard.waiting, keyboard.unfinished), (None, False, True))


class TelnetTests(SynchronousTestCase):
    """L{Telnet}"""

    def check(self, data: bytes, typed: bytes, replies: bytes = b"") -> None:
        """What of the bytes was typed and what is answered is the same in whatever chunks they arrive."""
        for size in range(1, len(data) + 1):
            sent: list[bytes] = []
            telnet = Telnet(sent.append)
            self.assertEqual(b"".join(telnet.receive(chunk) for chunk in chunks(data, size)), typed, size)
            self.assertEqual(b"".join(sent), replies, size)

    def test_plain(self) -> None:
        """Bytes without commands are as they are."""
        self.check("show é\r\n".encode(), "show é\r\n".encode())

    def test_options(self) -> None:
        """Every option is refused, and what is refused already is not answered, so that two servers would not talk for ever."""
        self.check(
            bytes((IAC, DO, 1, 104, IAC, WILL, 31, 105, IAC, DONT, 3, IAC, WONT, 24, 10)), b"hi\n", bytes((IAC, WONT, 1, IAC, DONT, 31))
        )

    def test_parameters(self) -> None:
        """Parameters of options are left out, with commands and doubled bytes in them."""
        self.check(bytes((97, IAC, SB, 31, 0, 80, IAC, IAC, 0, 24, IAC, SE, 98)), b"ab")

    def test_keys(self) -> None:
        """What telnet sends for Ctrl-C, break, Ctrl-D and erasing is what the keys are elsewhere; the timing mark is answered."""
        self.check(bytes((IAC, 244, IAC, DO, 6)), b"\x03", bytes((IAC, WILL, 6)))
        self.check(bytes((IAC, 243, IAC, 236, IAC, 247, IAC, 248)), b"\x03\x04\x08\x15")

    def test_others(self) -> None:
        """Other commands are nothing, and a doubled 255 is no text."""
        self.check(bytes((97, IAC, 241, IAC, 249, IAC, 242, IAC, IAC, 98)), b"ab")


class TextTests(SynchronousTestCase):
    """L{phpmq.admin.console.display}"""

    def test_table(self) -> None:
        """Columns stay below each other, also with wide characters, and as wide as asked."""
        rows = [("漢", "1", "x"), ("abc", "12,345", "")]
        self.assertEqual(display.table(("A", ">B", "C"), rows), ["A         B  C", "漢        1  x", "abc  12,345"])
        self.assertEqual(display.table(("A", ">B", "C"), [("", "1", "x")], (3, 5)), ["A        B  C", "         1  x"])

    def test_json(self) -> None:
        """JSON is one line of printable ASCII, and means what it was."""
        data = {"name": "\x1b[1m\x7f\u202eé\n", "count": 1}
        line = "".join(json_pieces(data))
        self.assertTrue(line.isascii() and line.isprintable())
        self.assertEqual(json.loads(line), data)


def _is_name(name: str) -> bool:
    try:
        return bool(check_name(name))
    except PHPMQError:
        return False


class LanguageTests(SynchronousTestCase):
    """What lines mean."""

    def call(self, line: str) -> Call:
        """What a line calls."""
        call = parse(line, TABLE)
        assert call is not None
        return call

    def refusal(self, line: str) -> str:
        """Why a line is refused: in one line."""
        complained = complaint(self.assertRaises(BadCommand, parse, line, TABLE))
        self.assertNotIn("\n", complained)
        return complained

    def test_words(self) -> None:
        """Names are quoted as in a shell."""
        for line, words in (
            ("move a b", ["a", "b"]),
            ("  move\t'a b'  \"c 'd'\" ", ["a b", "c 'd'"]),
            (r"move a\ b c\"d", ["a b", 'c"d']),
            ("move '' 12345", ["", "12345"]),
            ("move é 漢字のキュー", ["é", "漢字のキュー"]),
            ("move -- --json --", ["--json", "--"]),
        ):
            self.assertEqual(self.call(line).words, words)

    def test_nothing(self) -> None:
        """An empty line, or one of blanks, is no command."""
        for line in "", "   ", "\t", "''":
            self.assertIsNone(parse(line, TABLE))

    @settings(max_examples=300, deadline=None)
    @given(st.text(min_size=1, max_size=40).filter(_is_name))
    def test_names(self, name: str) -> None:
        """Every name can be quoted so that it arrives, and where it is printable that is how it is shown."""
        quoted = "'" + name.replace("'", "'\\''") + "'"
        self.assertEqual(self.call(f"show -- {quoted}").words, [name])
        if terminal_safe(name) == name:
            self.assertEqual(self.call(f"show -- {display.format_name(name)}").words, [name])

    def test_options(self) -> None:
        """Options may stand anywhere, but only where they mean something."""
        self.assertTrue(self.call("show --json q").json)
        self.assertEqual(self.call("monitor --size 120x40 q").size, (120, 40))
        self.assertIn("no option --json", self.refusal("clear --json"))
        self.assertIn("no option --size", self.refusal("status --size 80x24"))
        self.assertIn("after a --", self.refusal("show --q"))
        for size in "", "80", "80x", "39x24", "80x15", "401x24", "80x201", "-80x24", "8e1x24", "99999x24":
            self.assertIn("a size is COLUMNSxROWS", self.refusal(f"monitor --size '{size}'"))
        self.assertIn("a size is COLUMNSxROWS", self.refusal("monitor --size"))

    def test_number_of_words(self) -> None:
        """Every command says how it is called when it is called otherwise."""
        for line in "show", "show a b c", "status x", "move a", "move a b c", "settings", "settings q a", "settings q a 1 b", "monitor a b":
            self.assertIn(f"usage: {TABLE[line.split()[0]].usage}", self.refusal(line))
        for line in "settings q", "settings q a 1", "settings q a 1 b 2", "monitor", "pause q", "pause q all", "flushall":
            self.call(line)

    def test_unknown(self) -> None:
        """A command that there is not is refused with the nearest, or with where to look; there are no abbreviations."""
        self.assertIn("did you mean status?", self.refusal("stauts"))
        self.assertIn("did you mean flush?", self.refusal("FLUSH q"))
        self.assertIn("help lists them all", self.refusal("12345"))
        for name in TABLE:
            self.refusal(name[:-1])

    def test_broken_lines(self) -> None:
        """What cannot be understood is refused with what to try."""
        for line in "show 'a", 'show "a', "show a\\":
            self.assertIn("a quote is not closed", self.refusal(line))
        for character in "\x1b", "\x01", "\x9b":
            self.assertIn("control characters", self.refusal(f"show a{character}[A"))

    def test_complaints(self) -> None:
        """An error says what to try."""
        self.assertEqual(complaint(NoSuchQueue("there is no queue 'q'")).count("search"), 1)
        self.assertIn("255 bytes", complaint(BadName("empty")))

    def test_help_fits(self) -> None:
        """Every command has a line, and no line of the table is too long for a terminal."""
        for command in TABLE.values():
            self.assertTrue(command.summary and command.text and not command.summary.endswith("."), command.name)
            self.assertLessEqual(
                len(command.summary), 79 - max(len(f"{one.name} {one.arguments}") for one in TABLE.values()) - 2, command.name
            )
