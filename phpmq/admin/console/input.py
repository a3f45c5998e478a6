"""What an operator types: bytes of telnet become keys, and keys become lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from enum import Enum

#: The longest line, in bytes.
MAX_LINE = 4096

_BACKSPACES, _KILL, _ENDS, _NEWLINES = b"\x08\x7f", 21, b"\x03\x04", b"\r\n"

# How requests of browsers begin; no command does. Those over TLS have a Ctrl-C among their first bytes.
_HTTP = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT|TRACE|PRI) |[A-Z]+ \S+ HTTP/\d")

# Telnet's commands.
_IAC = 255
_NEGOTIATION = _WILL, _WONT, _DO, _DONT = 251, 252, 253, 254
_SUBNEGOTIATION, _END = 250, 240
_TIMING_MARK = 6

# Commands that are what a key does elsewhere: Ctrl-C for "interrupt", "break" and "abort", Ctrl-D, backspace and Ctrl-U.
_KEYS = {244: 3, 243: 3, 238: 3, 236: 4, 247: 8, 248: 21}


class Telnet:
    """
    Takes telnet's commands out of what arrives.

    No option is ever agreed upon, so that the client goes on to send lines as they are. The one exception is the timing mark: after
    Ctrl-C telnet shows nothing until that is answered.
    """

    def __init__(self, reply: Callable[[bytes], object]) -> None:
        """@param reply: sends bytes to the client; called only for a client that spoke telnet's language first"""
        self._reply = reply
        self._bytes = self._take()
        next(self._bytes)

    def receive(self, data: bytes) -> bytes:
        """What was typed, in which some commands stand as the control characters that mean the same."""
        return bytes(typed for typed in map(self._bytes.send, data) if typed is not None)

    def _take(self) -> Generator[int | None, int, None]:
        """Take a byte at each C{yield}, and yield then what was typed by it, if anything."""
        typed = None
        while True:
            typed = byte = yield typed
            if byte != _IAC:
                continue
            command = yield None
            if command in _NEGOTIATION:
                self._negotiate(command, (yield None))
            elif command == _SUBNEGOTIATION:
                while (yield None) != _IAC or (yield None) != _END:
                    pass
            typed = _KEYS.get(command)

    def _negotiate(self, verb: int, option: int) -> None:
        if verb == _DO:
            self._reply(bytes((_IAC, _WILL if option == _TIMING_MARK else _WONT, option)))
        elif verb == _WILL:
            self._reply(bytes((_IAC, _DONT, option)))


class Key(Enum):
    """What is not a line."""

    LEAVE = "q, while a monitor is shown"
    END = "Ctrl-C or Ctrl-D"
    TOO_LONG = "a line without end"
    FOREIGN = "what no operator sends: a browser's request, or something that is no text"


class Keyboard:
    """
    Makes lines and keys of bytes, however they are cut into chunks.

    A line ends with CR LF, LF, CR or CR NUL: telnet, nc, and terminals that send each key as it is pressed.
    """

    def __init__(self) -> None:
        self._typed = b""
        self._at = 0
        self._line = bytearray()
        self._after_return = self._after_q = False

    def receive(self, typed: bytes) -> None:
        """Take note of bytes; see L{next}."""
        self._typed = self._typed[self._at :] + typed
        self._at = 0

    @property
    def waiting(self) -> bool:
        """Whether there are bytes that L{next} has not looked at."""
        return self._at < len(self._typed)

    @property
    def unfinished(self) -> bool:
        """Whether a line has begun."""
        return bool(self._line)

    def next(self, watching: bool) -> bytes | Key | None:
        """Return the next line, without its end, or key; None until there is one. A monitor (C{watching}) is left by q without an Enter."""
        while self.waiting:
            self._at += 1
            found = self._press(self._typed[self._at - 1], watching)
            if found is not None:
                return found
        return None

    def _press(self, byte: int, watching: bool) -> bytes | Key | None:
        after_return, self._after_return = self._after_return, byte == 13
        if byte in _NEWLINES:
            return None if byte == 10 and after_return else self._end_line()
        if not byte:
            return None if after_return else Key.FOREIGN
        if byte in _ENDS:
            self._line.clear()
            return Key.END
        if watching and not self._line and byte in b"qQ":
            self._after_q = True
            return Key.LEAVE
        self._edit(byte)
        return Key.TOO_LONG if len(self._line) > MAX_LINE else None

    def _edit(self, byte: int) -> None:
        line = self._line
        if byte == _KILL:
            line.clear()
        elif byte in _BACKSPACES:
            while line and line[-1] & 0xC0 == 0x80:  # the rest of a UTF-8 character
                line.pop()
            del line[-1:]
        else:
            line.append(byte)

    def _end_line(self) -> bytes | Key | None:
        line = bytes(self._line)
        self._line.clear()
        after_q, self._after_q = self._after_q, False
        if after_q:
            # The q that left a monitor was the beginning of this line, unless it was a key of its own.
            if not line.strip():
                return None
            if line.strip() == b"uit":
                return b"quit"
        return Key.FOREIGN if _HTTP.match(line) else line
