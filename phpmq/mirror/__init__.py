"""Memory to file: the background copy of the store, and how a server gets its store back from it."""

from phpmq.mirror.file import APPLICATION_ID, StoreFile
from phpmq.mirror.service import MirrorService

__all__ = ["APPLICATION_ID", "MirrorService", "StoreFile"]
