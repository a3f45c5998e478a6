"""The console: a line of text does what an operator wants, from telnet, nc or socat."""

from phpmq.admin.console.protocol import ConsoleFactory

__all__ = ["ConsoleFactory"]
