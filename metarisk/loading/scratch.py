"""The DuckDB in which files are read; nothing is kept in it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from metarisk.domain import DataError, MetariskError, WarehouseError
from metarisk.loading.model import Limits

FAILED = (duckdb.Error, UnicodeDecodeError)
"""What DuckDB raises; the second where it cuts a message within a character."""


@contextmanager
def scratch_connection(limits: Limits, scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty DuckDB within the limits; it fetches nothing from a network."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": limits.threads,
            "memory_limit": f"{limits.memory_mb}MB",
            "temp_directory": str(scratch / "spill"),
            "autoinstall_known_extensions": False,
            "python_enable_replacements": False,
        },
    )
    try:
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        yield connection
    finally:
        connection.close()


def one_row(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    """The one row of an aggregate."""
    row: tuple[Any, ...] | None = connection.execute(sql).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has one row
    return row


def explained(error: Exception, files: Sequence[Path]) -> MetariskError:
    """DuckDB's exception as an error of this job; its text may quote data, so only its first line is kept."""
    said = str(error).strip().split("\n")[0]
    if isinstance(error, duckdb.OutOfMemoryException):
        return WarehouseError(
            f"DuckDB ran out of memory ({said})", remedy="raise METARISK_MEMORY_MB, or free disk space"
        )
    return DataError(f"{files[0].name} cannot be read: {said}", remedy="correct or convert the file")
