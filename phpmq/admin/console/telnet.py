"""What telnet says beside what its user types."""

from __future__ import annotations

from collections.abc import Callable

_IAC = 255
_WILL, _WONT, _DO, _DONT = 251, 252, 253, 254
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
        """
        @param reply: sends bytes to the client; called only for a client that spoke telnet's language first
        """
        self._reply = reply
        self._take = self._text
        self._verb = 0

    def receive(self, data: bytes) -> bytes:
        """What was typed, in which some commands stand as the control characters that mean the same."""
        if _IAC not in data and self._take == self._text:
            return data
        typed = bytearray()
        for byte in data:
            found = self._take(byte)
            if found is not None:
                typed.append(found)
        return bytes(typed)

    def _text(self, byte: int) -> int | None:
        if byte != _IAC:
            return byte
        self._take = self._command
        return None

    def _command(self, byte: int) -> int | None:
        if byte in (_WILL, _WONT, _DO, _DONT):
            self._verb = byte
            self._take = self._option
        elif byte == _SUBNEGOTIATION:
            self._take = self._parameters
        else:
            self._take = self._text
        return _KEYS.get(byte)

    def _option(self, byte: int) -> None:
        self._take = self._text
        if self._verb == _DO:
            self._reply(bytes((_IAC, _WILL if byte == _TIMING_MARK else _WONT, byte)))
        elif self._verb == _WILL:
            self._reply(bytes((_IAC, _DONT, byte)))

    def _parameters(self, byte: int) -> None:
        if byte == _IAC:
            self._take = self._parameters_command

    def _parameters_command(self, byte: int) -> None:
        self._take = self._text if byte == _END else self._parameters
