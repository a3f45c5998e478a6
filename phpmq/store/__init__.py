"""The store: an in-memory SQLite database, a buffer of writes to it, and the log of what the file does not have yet."""

from phpmq.store.changelog import ChangeLog, Delta
from phpmq.store.rows import checksum
from phpmq.store.schema import SCHEMA_VERSION, schema, upgrade
from phpmq.store.store import SQLiteStore

__all__ = ["SCHEMA_VERSION", "ChangeLog", "Delta", "SQLiteStore", "checksum", "schema", "upgrade"]
