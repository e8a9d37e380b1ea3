"""The embedded warehouse: one DuckDB file, read through a spool so that it is never held while a caller works.

Opening and sharing the file is in `duckfile`, the BI snapshot in `snapshot`, migrations in `migrations`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal

import duckdb
import pyarrow as pa

from metarisk.domain import ConfigError, KeyRanges, LoadMode, Scalar, SnapshotError, WarehouseError
from metarisk.warehouse import arrow, statements
from metarisk.warehouse.duckdb import snapshot
from metarisk.warehouse.duckdb.file import Limits, duck_file, explained
from metarisk.warehouse.duckdb.locks import file_lock
from metarisk.warehouse.migrations import apply

_EXISTS = (
    "SELECT 1 AS one FROM information_schema.tables WHERE table_catalog = current_database() "
    "AND table_schema = 'source' AND lower(table_name) = lower($name)"
)
_SPOOL_IN_MEMORY = 16 * 2**20
_ROWS_A_STATEMENT = 2**20
"""DuckDB holds on to most batches that it has taken until the statement ends, beside its memory limit."""


class DuckDBTransaction:
    """Writes on one cursor inside BEGIN; see `domain.Transaction`."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, path: Path) -> None:
        self._cursor, self._path = cursor, path

    def append(self, table: str, batches: Iterable[pa.RecordBatch]) -> int:
        """Append batches by column name; columns that are left out become NULL. DataError names what does not fit."""
        quoted, upcoming = statements.quote_table(table), iter(batches)
        first = next(upcoming, None)
        if first is None:
            return 0
        with explained(self._path):
            held = self._cursor.execute(f"FROM {quoted} LIMIT 0").to_arrow_reader(1).schema
            whole = arrow.plain_schema(held, exact=True)
        target = arrow.appended_schema(first.schema, whole, table)
        return self.insert(
            f"INSERT INTO {quoted} BY NAME", target, arrow.conform(chain([first], upcoming), target, table)
        )

    def insert(self, verb: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
        """`<verb> FROM <batches>`, some at a time; the number of rows. What the iterable raises is raised unchanged."""
        feed = arrow.Feed(batches)
        while not feed.ended:
            reader = pa.RecordBatchReader.from_batches(schema, feed.upto(_ROWS_A_STATEMENT))
            self._cursor.register("metarisk_incoming", reader)
            try:
                with explained(self._path):
                    self._cursor.execute(f"{verb} FROM metarisk_incoming")
            except Exception:
                if feed.error is not None:
                    raise feed.error from None
                raise
            finally:
                self._cursor.unregister("metarisk_incoming")
        return feed.rows

    def execute(self, sql: str, parameters: Mapping[str, Scalar] | None = None) -> None:
        """Run one statement."""
        with explained(self._path):
            self._cursor.execute(statements.render(sql, parameters))

    def rows(self, sql: str, parameters: Mapping[str, Scalar] | None = None) -> list[dict[str, Any]]:
        """A small result, as seen inside the transaction."""
        with explained(self._path):
            return _rows(self._cursor, statements.render(sql, parameters))


class DuckDBWarehouse:
    """See `domain.Warehouse`. Safe to share between threads; pickles to another process."""

    dialect: Literal["duckdb"] = "duckdb"

    def __init__(
        self,
        path: Path,
        data_dir: Path,
        *,
        threads: int,
        memory_mb: int,
        busy_seconds: float = 300.0,
        timezone: str = "UTC",
    ) -> None:
        self.path = path.resolve()
        self._timezone = timezone
        self._limits = Limits(threads, memory_mb, data_dir.absolute() / "tmp" / "duckdb", busy_seconds)

    def __repr__(self) -> str:
        return f"DuckDBWarehouse({str(self.path)!r})"

    @contextmanager
    def stream(
        self, sql: str, parameters: Mapping[str, Scalar] | None = None, *, batch_rows: int = 65_536
    ) -> Iterator[pa.RecordBatchReader]:
        """Read-only: one SELECT, spooled to the temporary folder (in memory while it is small) and read from there.

        The file is closed before the caller gets the first batch, so that a slow caller keeps no other process out and
        may open transactions meanwhile.
        """
        statement = _checked_select(sql, parameters)
        self._limits.spill.mkdir(parents=True, exist_ok=True)
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_IN_MEMORY, dir=str(self._limits.spill)) as spool:
            with self._reading() as cursor:
                _fill(spool, cursor.execute(statement).to_arrow_reader(batch_rows), batch_rows)
            spool.seek(0)
            with pa.ipc.open_stream(spool) as reader:
                yield reader

    @contextmanager
    def streams(
        self, sql: str, parameters: Mapping[str, Scalar] | None, ranges: KeyRanges, *, batch_rows: int = 65_536
    ) -> Iterator[list[pa.RecordBatchReader]]:
        """`stream` by one reader, whatever `ranges` says: DuckDB reads one query with all its threads, here."""
        with self.stream(sql, parameters, batch_rows=batch_rows) as reader:
            yield [reader]

    def rows(self, sql: str, parameters: Mapping[str, Scalar] | None = None) -> list[dict[str, Any]]:
        """Read-only: a small result."""
        statement = _checked_select(sql, parameters)
        with self._reading() as cursor:
            return _rows(cursor, statement)

    @contextmanager
    def _reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._session(write=False) as cursor, explained(self.path, reading=True):
            # Read-only as a transaction too: another thread's transaction may have the file open for writing.
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            yield cursor

    @contextmanager
    def _session(self, *, write: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor whose days are those of the warehouse's time zone, whatever others of this process have."""
        with duck_file(self.path).cursor(self._limits, write=write) as cursor:
            with explained(self.path):
                cursor.execute(f"SET TimeZone = {statements.literal(self._timezone)}")
            yield cursor

    @contextmanager
    def transaction(self) -> Iterator[DuckDBTransaction]:
        """Commit at the end of the block, roll back on any exception."""
        with self._session(write=True) as cursor:
            with explained(self.path):
                cursor.execute("BEGIN TRANSACTION")
            try:
                yield DuckDBTransaction(cursor, self.path)
                with explained(self.path):
                    cursor.execute("COMMIT")
            except BaseException:
                with suppress(duckdb.Error):
                    cursor.execute("ROLLBACK")
                raise

    @contextmanager
    def lock(self, name: str, *, wait_seconds: float = 0.0) -> Iterator[None]:
        """Hold the exclusive lock `name`, a file beside the warehouse."""
        with file_lock(self.path.with_name(f"{self.path.stem}-locks"), name, wait_seconds=wait_seconds):
            yield

    def migrate(self, migrations: Path, views: Path, dictionary: Path) -> list[str]:
        """Apply what was not applied yet; the names of what was done, empty when all stood already."""
        if not self.path.exists():
            with self.transaction():
                pass
        return apply(self, migrations, views, dictionary)

    def load(self, table: str, batches: pa.RecordBatchReader, *, mode: LoadMode = "replace") -> int:
        """Create, replace or lengthen `source.<table>`; the number of rows."""
        named = statements.source_table(table)
        quoted = statements.quote_table(named)
        schema = arrow.plain_schema(batches.schema, exact=True)
        plain = arrow.plain_batches(batches, schema)
        with self.transaction() as transaction:
            transaction.execute("CREATE SCHEMA IF NOT EXISTS source")
            if mode == "append":
                return transaction.append(named, plain)
            if mode == "create" and transaction.rows(_EXISTS, {"name": statements.split_table(named)[1]}):
                raise statements.exists_already(named)
            transaction.insert(f"CREATE OR REPLACE TABLE {quoted} AS", schema, [])
            return transaction.insert(f"INSERT INTO {quoted}", schema, plain)

    def snapshot(self) -> Path:
        """Swap in `<warehouse>-bi.duckdb`; see `snapshot.build`."""
        try:
            return self._build(anew=False)
        except WarehouseError as error:
            raise SnapshotError(
                f"all is committed, but the file for BI stays as it was until the next run: {error.what}",
                remedy=error.remedy,
            ) from error

    def purge(self, tables: Sequence[str]) -> None:
        """Write the whole file anew, for it keeps bytes of before in blocks, and build the file for BI from nothing."""
        with explained(self.path):
            duck_file(self.path).rewrite(self._limits)
        self._build(anew=True)

    def _build(self, *, anew: bool) -> Path:
        target = self.path.with_name(f"{self.path.stem}-bi.duckdb")
        with self.lock("metarisk/snapshot", wait_seconds=self._limits.busy_seconds), explained(self.path):
            snapshot.build(duck_file(self.path), self._limits, target, anew=anew)
        return target


def _checked_select(sql: str, parameters: Mapping[str, Scalar] | None) -> str:
    """One SELECT, by our own reading of the text and by DuckDB's parser."""
    statement = statements.render_select(sql, parameters)
    try:
        parsed = duckdb.extract_statements(statement)
    except duckdb.Error as error:
        raise ConfigError(f"DuckDB refuses the SQL ({error})", remedy="correct the statement") from None
    if [part.type for part in parsed] != [duckdb.StatementType.SELECT]:
        raise ConfigError(
            f"this is not one SELECT: {statements.shorten(sql)}", remedy="write one SELECT or WITH ... SELECT"
        )
    return statement


def _rows(cursor: duckdb.DuckDBPyConnection, statement: str) -> list[dict[str, Any]]:
    result = cursor.execute(statement).to_arrow_reader(65_536)
    schema = arrow.plain_schema(result.schema)
    rows: list[dict[str, Any]] = pa.Table.from_batches(arrow.plain_batches(result, schema), schema).to_pylist()
    return rows


def _fill(spool: IO[bytes], result: pa.RecordBatchReader, batch_rows: int) -> None:
    schema = arrow.plain_schema(result.schema)
    with pa.ipc.new_stream(spool, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        for batch in arrow.plain_batches(result, schema, batch_rows):
            writer.write_batch(batch)
