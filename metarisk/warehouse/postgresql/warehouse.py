"""The server warehouse: PostgreSQL through ADBC, Arrow in and out.

Each stream, transaction and lock has a connection of its own. Errors of the driver become this job's in `pgerrors`.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import date
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from adbc_driver_manager import dbapi
from adbc_driver_manager._reader import AdbcRecordBatchReader

from metarisk.domain import KeyRanges, LoadMode, LockedError, Scalar
from metarisk.warehouse import arrow, statements
from metarisk.warehouse.backoff import backoff
from metarisk.warehouse.migrations import apply
from metarisk.warehouse.postgresql.connect import Connector, execute
from metarisk.warehouse.postgresql.errors import explained
from metarisk.warehouse.postgresql.ranges import cut

_LOCK_SESSION = (
    "SET idle_session_timeout = 0",
    # The server notices a client whose host is gone, and frees its locks.
    "SET tcp_keepalives_idle = 30",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
)
_READ_ONLY = "SET TRANSACTION READ ONLY"
_ONE_STATE = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_HOLDER = """
    SELECT a.application_name AS who, a.backend_start AS since
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid AND a.datid = l.database
    WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
      AND (l.classid::bigint << 32 | l.objid::bigint) = $key
"""
IngestMode = Literal["append", "create"]


class PostgreSQLTransaction:
    """Writes on one connection inside BEGIN; see `domain.Transaction`."""

    def __init__(self, warehouse: PostgreSQLWarehouse, connection: dbapi.Connection) -> None:
        self._warehouse, self._connection = warehouse, connection

    def append(self, table: str, batches: Iterable[pa.RecordBatch]) -> int:
        """Append batches by column name by COPY; columns that are left out get their default.

        Partitions by month are made as the batches need them. DataError names what does not fit.
        """
        quoted, upcoming = statements.quote_table(table), iter(batches)
        first = next(upcoming, None)
        if first is None:
            return 0
        schema, name = statements.split_table(table)
        with explained(self._warehouse.connector.secrets):
            whole = _schema(self._connection, f"TABLE {quoted}", exact=True)
        target = arrow.appended_schema(first.schema, whole, table)
        key = partition_key(self, table)
        months = partial(months_of, key=key if key in target.names else None)
        rows = 0
        for needed, group in groupby(arrow.conform(chain([first], upcoming), target, table), months):
            for month in needed:
                self._warehouse.make_partition(table, month)
            rows += self.ingest(schema, name, target, group, mode="append")
        return rows

    def ingest(
        self, schema: str, name: str, target: pa.Schema, batches: Iterable[pa.RecordBatch], *, mode: IngestMode
    ) -> int:
        """COPY batches of one schema; the number of rows. What the iterable raises is raised unchanged."""
        feed = arrow.Feed(batches)
        reader = pa.RecordBatchReader.from_batches(target, feed)
        try:
            with explained(self._warehouse.connector.secrets), closing(self._connection.cursor()) as cursor:
                cursor.adbc_ingest(name, reader, mode=mode, db_schema_name=schema)
        except Exception:
            if feed.error is not None:
                raise feed.error from None
            raise
        return feed.rows

    def execute(self, sql: str, parameters: Mapping[str, Scalar] | None = None) -> None:
        """Run one statement."""
        with explained(self._warehouse.connector.secrets):
            execute(self._connection, statements.render(sql, parameters))

    def rows(self, sql: str, parameters: Mapping[str, Scalar] | None = None) -> list[dict[str, Any]]:
        """A small result, as seen inside the transaction."""
        with explained(self._warehouse.connector.secrets):
            rows: list[dict[str, Any]] = _table(self._connection, statements.render(sql, parameters)).to_pylist()
            return rows


class PostgreSQLWarehouse:
    """See `domain.Warehouse`. It holds a password, so it has no telling repr and refuses to be pickled."""

    dialect: Literal["postgresql"] = "postgresql"

    def __init__(self, url: str, timezone: str = "UTC") -> None:
        self.connector = Connector(url, timezone)

    def __repr__(self) -> str:
        return "PostgreSQLWarehouse(...)"

    @contextmanager
    def stream(
        self, sql: str, parameters: Mapping[str, Scalar] | None = None, *, batch_rows: int = 65_536
    ) -> Iterator[pa.RecordBatchReader]:
        """Read-only: one SELECT, streamed by COPY in a read-only transaction of its own."""
        statement = statements.render_select(sql, parameters)
        with self._reading(_READ_ONLY) as connection, self._streamed(connection, statement, batch_rows) as reader:
            yield reader

    @contextmanager
    def streams(
        self, sql: str, parameters: Mapping[str, Scalar] | None, ranges: KeyRanges, *, batch_rows: int = 65_536
    ) -> Iterator[list[pa.RecordBatchReader]]:
        """`stream` by ranges of a key, each on a connection of its own, all in the snapshot that a first one exports.

        One range where the sample is empty, or the SELECT has no such column.
        """
        if ranges.count == 1 or not ranges.sample:
            with self.stream(sql, parameters, batch_rows=batch_rows) as reader:
                yield [reader]
            return
        statement = statements.render_select(sql, parameters)
        with ExitStack() as stack:
            with self._reading(_ONE_STATE) as first:
                with explained(self.connector.secrets, reading=True):
                    parts = cut(statement, _schema(first, statement), ranges)
                    snapshot = _one(first, "SELECT pg_export_snapshot() AS id")["id"]
                state = (_ONE_STATE, f"SET TRANSACTION SNAPSHOT {statements.literal(snapshot)}")

                def opened(part: str) -> pa.RecordBatchReader:
                    connection = stack.enter_context(self._reading(*state))
                    return stack.enter_context(self._streamed(connection, part, batch_rows))

                # At once, for a stream is open only when the server has found its first row.
                with ThreadPoolExecutor(len(parts)) as pool:
                    readers = list(pool.map(opened, parts))
            yield readers

    @contextmanager
    def _streamed(
        self, connection: dbapi.Connection, statement: str, batch_rows: int
    ) -> Iterator[pa.RecordBatchReader]:
        with closing(connection.cursor()) as cursor:
            with explained(self.connector.secrets, reading=True):
                # What is streamed is read whole. A planner that takes a CTE for one row joins it by nested loops, which
                # turns seconds into hours.
                execute(connection, "SET LOCAL enable_nestloop = off")
                # This reader's errors have the SQLSTATE, which those of the one that the cursor would give have lost.
                stream = cursor.execute(statement).fetch_arrow()
                result = AdbcRecordBatchReader._import_from_c(stream.address)
            schema = arrow.plain_schema(result.schema)
            batches = arrow.plain_batches(self._explained(result), schema, batch_rows)
            with pa.RecordBatchReader.from_batches(schema, batches) as reader:
                yield reader

    def _explained(self, result: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        with explained(self.connector.secrets, reading=True):
            yield from result

    def rows(self, sql: str, parameters: Mapping[str, Scalar] | None = None) -> list[dict[str, Any]]:
        """Read-only: a small result."""
        statement = statements.render_select(sql, parameters)
        with self._reading(_READ_ONLY) as connection, explained(self.connector.secrets, reading=True):
            rows: list[dict[str, Any]] = _table(connection, statement).to_pylist()
            return rows

    @contextmanager
    def _reading(self, *settings: str) -> Iterator[dbapi.Connection]:
        with self.connector.open() as connection:
            with explained(self.connector.secrets):
                for setting in settings:
                    execute(connection, setting)
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[PostgreSQLTransaction]:
        """Commit at the end of the block, roll back on any exception."""
        with self.connector.open() as connection:
            yield PostgreSQLTransaction(self, connection)
            with explained(self.connector.secrets):
                connection.commit()

    @contextmanager
    def lock(self, name: str, *, wait_seconds: float = 0.0) -> Iterator[None]:
        """Hold the advisory lock `name` on a connection of its own; the server frees it when the holder dies."""
        deadline, pauses, key = time.monotonic() + wait_seconds, backoff(), _lock_key(name)
        holder = f"metarisk pid {os.getpid()} on {socket.gethostname()}"[:63]
        with self.connector.open(autocommit=True) as connection:
            with explained(self.connector.secrets):
                for setting in (*_LOCK_SESSION, f"SET application_name = {statements.literal(holder)}"):
                    execute(connection, setting)
                while not _one(connection, f"SELECT pg_try_advisory_lock({key}) AS held")["held"]:
                    if time.monotonic() >= deadline:
                        raise _locked(connection, name, key)
                    time.sleep(min(next(pauses), max(0.0, deadline - time.monotonic())))
            yield

    def migrate(self, migrations: Path, views: Path, dictionary: Path) -> list[str]:
        """Apply what was not applied yet; the names of what was done, empty when all stood already."""
        return apply(self, migrations, views, dictionary)

    def load(self, table: str, batches: pa.RecordBatchReader, *, mode: LoadMode = "replace") -> int:
        """Create, replace or lengthen `source.<table>`; the number of rows."""
        named = statements.source_table(table)
        schema, name = statements.split_table(named)
        quoted = statements.quote_table(named)
        columns = arrow.plain_schema(batches.schema, exact=True)
        plain = arrow.plain_batches(batches, columns)
        with self.transaction() as transaction:
            if not transaction.rows("SELECT 1 AS one FROM pg_namespace WHERE nspname = 'source'"):
                transaction.execute("CREATE SCHEMA IF NOT EXISTS source")
            if mode == "append":
                rows = transaction.append(named, plain)
            else:
                if (
                    mode == "create"
                    and transaction.rows("SELECT to_regclass($name) IS NOT NULL AS one", {"name": quoted})[0]["one"]
                ):
                    raise statements.exists_already(named)
                transaction.execute(f"DROP TABLE IF EXISTS {quoted}")
                rows = transaction.ingest(schema, name, columns, plain, mode="create")
            transaction.execute(f"ANALYZE {quoted}")
            return rows

    def snapshot(self) -> None:
        """None: readers use the warehouse itself."""
        return

    def purge(self, tables: Sequence[str]) -> None:
        """Vacuum the tables: no page holds rows of before, though the write-ahead log does until it is recycled."""
        with self.connector.open(autocommit=True) as connection, explained(self.connector.secrets):
            for table in tables:
                execute(connection, f"VACUUM {statements.quote_table(table)}")

    def make_partition(self, table: str, month: date) -> None:
        """Make the table's partition of a month, where it is missing, in a transaction of its own."""
        with self.transaction() as transaction:
            transaction.execute(f"SELECT pg_advisory_xact_lock({_lock_key('metarisk/partition')})")
            about: dict[str, Scalar] = {"table": statements.quote_table(table), "month": month}
            transaction.execute("SELECT metarisk.make_partition(CAST($table AS REGCLASS), $month)", about)


def partition_key(transaction: PostgreSQLTransaction, table: str) -> str | None:
    """The column by whose month the table is partitioned, or None."""
    rows = transaction.rows(
        "SELECT a.attname::text AS name FROM pg_partitioned_table p "
        "JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0] "
        "WHERE p.partrelid = to_regclass($name)",
        {"name": statements.quote_table(table)},
    )
    return str(rows[0]["name"]) if rows else None


def months_of(batch: pa.RecordBatch, key: str | None) -> tuple[date, ...]:
    """First days of the months that a batch touches, in order; none without a key."""
    if key is None:
        return ()
    months = pc.unique(pc.floor_temporal(batch.column(key), unit="month")).to_pylist()
    return tuple(sorted(month for month in months if month is not None))


def _lock_key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def _locked(connection: dbapi.Connection, name: str, key: int) -> LockedError:
    holder = _one(connection, statements.render(_HOLDER, {"key": key}))
    who = f"{holder['who']} since {holder['since']:%Y-%m-%dT%H:%M:%S%z}" if holder else "a session that has just ended"
    return LockedError(
        f"the lock {name!r} is held by {who}",
        remedy="wait until that run has ended, or end it: the lock is freed with its process",
    )


def _table(connection: dbapi.Connection, statement: str) -> pa.Table:
    """The whole result, as plain types."""
    with closing(connection.cursor()) as cursor:
        result = cursor.execute(statement).fetch_arrow_table()
    schema = arrow.plain_schema(result.schema)
    return pa.Table.from_batches(arrow.plain_batches(result.to_batches(), schema), schema)


def _schema(connection: dbapi.Connection, statement: str, *, exact: bool = False) -> pa.Schema:
    """Columns of a SELECT as plain types; nothing is read."""
    with closing(connection.cursor()) as cursor:
        return arrow.plain_schema(cursor.adbc_execute_schema(statement), exact=exact)


def _one(connection: dbapi.Connection, statement: str) -> dict[str, Any]:
    return next(iter(_table(connection, statement).to_pylist()), {})
