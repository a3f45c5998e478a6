"""The tables: schema files, and the way from one version to the next."""

from __future__ import annotations

import sqlite3
from importlib.resources import files

#: Version of the newest schema file, C{PRAGMA user_version} of a database that has it. Each file makes its version of the one before.
SCHEMA_VERSION = 3


def schema(name: str) -> str:
    """The text of a schema file."""
    return (files("phpmq") / "schema" / f"{name}.sql").read_text(encoding="utf-8")


def upgrade(database: sqlite3.Connection, version: int = 0) -> None:
    """Bring the schema of a database from an older version to the newest, in one transaction."""
    later = [schema(f"{number:03}") for number in range(version + 1, SCHEMA_VERSION + 1)]
    database.executescript("".join(["BEGIN IMMEDIATE;", *later, f"PRAGMA user_version = {SCHEMA_VERSION};", "COMMIT;"]))
