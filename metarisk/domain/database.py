"""The protocol of warehouses: a database that holds the sources and the schema `metarisk`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

LoadMode = Literal["create", "replace", "append"]
Scalar = str | int | float | bool | date | datetime | None


DECIMAL = b"decimal"
"""Key of a result's field metadata: the decimal type, in words, that a query's float64 was in the source."""


@dataclass(frozen=True)
class KeyRanges:
    """How a SELECT may be read in parts: by ranges of one column."""

    column: str
    count: int = 1
    """Ranges that are read at once, at most."""
    sample: tuple[str, ...] = ()
    """Values of the column as text, evenly spread over the rows that are expected. They decide where the ranges are
    cut, and so how long each lasts; none: one range."""


class Transaction(Protocol):
    """Writes that all become visible at once, or never."""

    def append(self, table: str, batches: Iterable[pa.RecordBatch]) -> int:
        """Append batches by column name to `schema.table`; the number of rows."""
        ...

    def execute(self, sql: str, parameters: Mapping[str, Scalar] | None = None) -> None:
        """Run one statement with `$name` parameters."""
        ...

    def rows(self, sql: str, parameters: Mapping[str, Scalar] | None = None) -> list[dict[str, Any]]:
        """A small result, as seen inside the transaction."""
        ...


class Source(Protocol):
    """Where rows come from, read only. Today the warehouse is it."""

    def stream(
        self, sql: str, parameters: Mapping[str, Scalar] | None = None, *, batch_rows: int = 65_536
    ) -> AbstractContextManager[pa.RecordBatchReader]:
        """Stream one SELECT (or WITH ... SELECT) in batches of flat memory. Writing SQL is refused."""
        ...

    def rows(self, sql: str, parameters: Mapping[str, Scalar] | None = None) -> list[dict[str, Any]]:
        """A small result."""
        ...


class Warehouse(Source, Protocol):
    """A database that holds the sources and the schema `metarisk`: DuckDB embedded, or PostgreSQL."""

    @property
    def dialect(self) -> Literal["duckdb", "postgresql"]: ...

    def streams(
        self, sql: str, parameters: Mapping[str, Scalar] | None, ranges: KeyRanges, *, batch_rows: int = 65_536
    ) -> AbstractContextManager[list[pa.RecordBatchReader]]:
        """`stream` by one reader or several, for a thread each, that together give its rows as of one state.

        Rows without a value in the key belong to the first range.
        """
        ...

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Commit at the end of the block, roll back on any exception."""
        ...

    def lock(self, name: str, *, wait_seconds: float = 0.0) -> AbstractContextManager[None]:
        """Hold the exclusive lock `name` across processes, freed when the holder dies. Raises LockedError."""
        ...

    def migrate(self, migrations: Path, views: Path, dictionary: Path) -> list[str]:
        """Apply what is not applied yet: migrations, views with their grants, comments; what was done."""
        ...

    def load(self, table: str, batches: pa.RecordBatchReader, *, mode: LoadMode = "replace") -> int:
        """Create, replace or lengthen `source.<table>` by batches, whose decimals stay exact; the number of rows.

        Raises ConfigError for any other schema, or where `create` finds a table, and DataError for a column
        that does not fit.
        """
        ...

    def snapshot(self) -> Path | None:
        """Swap in the read-only file for BI (DuckDB); None where readers use the warehouse itself."""
        ...

    def purge(self, tables: Sequence[str]) -> None:
        """Let what was updated or deleted in `schema.table`s leave the files too, and readers' copies with it."""
        ...


class Rows(Protocol):
    """A warehouse or a transaction on it."""

    def rows(self, sql: str, parameters: Mapping[str, Scalar] | None = None) -> list[dict[str, Any]]:
        """A small result."""
        ...
