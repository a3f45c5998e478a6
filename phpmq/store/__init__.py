"""The store: an in-memory SQLite database, and the changes that its mirror has not seen yet."""

from phpmq.store.changes import Delta
from phpmq.store.rows import checksum
from phpmq.store.schema import SCHEMA_VERSION, schema, upgrade
from phpmq.store.store import SQLiteStore

__all__ = ["SCHEMA_VERSION", "Delta", "SQLiteStore", "checksum", "schema", "upgrade"]
