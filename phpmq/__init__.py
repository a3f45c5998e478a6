"""A queue server: named FIFO queues over TCP and unix sockets, kept in memory, mirrored to a file."""

__version__ = "0.1.0"

__all__ = ["__version__"]
