"""Tests of L{phpmq.message}."""

from __future__ import annotations

import unicodedata

from twisted.trial.unittest import SynchronousTestCase

from phpmq.errors import BadName
from phpmq.message import MAX_NAME, Message, QueueRecord, check_name


class CheckNameTests(SynchronousTestCase):
    """L{check_name}."""

    def test_usual_and_unusual(self) -> None:
        """Names that people use are taken as they are: spaces, punctuation, markup, other scripts, emoji, right-to-left marks."""
        names = "jobs", "a/b %d <b>é", "123", "../x", 'it\'s "q"', " ", ".", "очередь", "列", "🐘", "\u202eabc", "\u00a0", "a\u0300"
        for name in names:
            self.assertEqual(check_name(name), name)

    def test_length_in_bytes(self) -> None:
        """A name has 1 to 255 bytes of UTF-8, however many characters that is."""
        self.assertRaises(BadName, check_name, "")
        for character in "a", "é", "列", "🐘":
            size = len(character.encode())
            longest = character * (MAX_NAME // size)
            self.assertEqual(check_name(longest), longest)
            self.assertRaises(BadName, check_name, longest + character)

    def test_control_characters(self) -> None:
        """Control characters (C0, DEL, C1) and the line and paragraph separators are refused, and no other character is, wherever it is."""
        for code in range(0x3000):
            character = chr(code)
            if unicodedata.category(character) in ("Cc", "Zl", "Zp"):
                for name in character, "a" + character, character + "a":
                    self.assertRaises(BadName, check_name, name)
            else:
                self.assertEqual(check_name(f"a{character}b"), f"a{character}b")

    def test_surrogates(self) -> None:
        """Half of a surrogate pair is no character that UTF-8 could carry."""
        for name in "\ud800", "a\udfff":
            self.assertRaises(BadName, check_name, name)

    def test_error_is_one_plain_line(self) -> None:
        """What is said about a bad name does not repeat it: it may end up in a log."""
        for name in "", "\x1b[31m", "a\nb", "\u2028", "x" * 256:
            text = str(self.assertRaises(BadName, check_name, name))
            self.assertTrue(text.isprintable())
            self.assertLess(len(text), 80)


class MessageTests(SynchronousTestCase):
    """L{Message}."""

    def test_size(self) -> None:
        """A message counts with its body."""
        queue = QueueRecord(1, "q")
        for body in b"", b"x", b"x" * 1000:
            self.assertEqual(Message(1, queue, 1, 0, 0, 0, body).size, len(body))

    def test_fresh(self) -> None:
        """A new message has no id yet, and nobody holds it."""
        message = Message(1, QueueRecord(1, "q"), 1, 0, 0, 0, b"")
        self.assertEqual((message.id, message.consumer), (b"", None))
