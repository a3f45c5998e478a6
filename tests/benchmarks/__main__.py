"""C{python -m tests.benchmarks}: measure, print a table."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path

from tests.benchmarks.measures import PARTS
from tests.benchmarks.table import FULL, QUICK, Row


def _print(row: Row) -> None:
    verdict = "" if not row.target else "met" if row.met else "MISSED"
    print(f"{row.measure:<58} {row.figure:<44} {row.target:<14} {verdict}".rstrip(), flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure a twistd phpmq process, and its peers.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure: {', '.join(PARTS)} [default: all]")
    parser.add_argument("--quick", action="store_true", help="a tenth of the load; such figures say little")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    print(f"Python {platform.python_version()}, {os.cpu_count()} processors, 100-byte messages, window 1000, loopback\n")
    _print(Row("MEASURE", "FIGURE"))
    for part in arguments.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="phpmq-benchmark-") as directory:
            for row in PARTS[part](Path(directory), QUICK if arguments.quick else FULL):
                _print(row)


if __name__ == "__main__":
    main()
