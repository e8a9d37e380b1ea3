"""The file that BI reads beside a DuckDB warehouse: built beside, swapped in whole, with the warehouse's view names.

It holds every small table and, of `risk_score`, the published runs of each portfolio's last 35 nights and month ends.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb

from metarisk.warehouse import dictionary
from metarisk.warehouse.duckdb.file import CATALOG, DuckFile, Limits
from metarisk.warehouse.migrations import in_order
from metarisk.warehouse.statements import literal, quote_identifier

NIGHTS = 35
_LARGE = "risk_score"
_COPIED = ("name TEXT", "rows BIGINT", "ends BIGINT", "schema TEXT", "last TEXT")
"""In the snapshot: of each small table, what it was when it was copied last.

`ends` is the place after its last row: where rows were deleted there are gaps.
"""
_KEPT = f"""
    SELECT DISTINCT p.run_id, p.as_of
    FROM {CATALOG}.metarisk.publication AS p
    JOIN (
        SELECT portfolio, as_of,
               count(*) FILTER (stands) OVER (PARTITION BY portfolio ORDER BY as_of DESC) AS age,
               stands AND row_number() OVER (
                   PARTITION BY portfolio, stands, date_trunc('month', as_of) ORDER BY as_of DESC
               ) = 1 AS ends_month
        FROM (
            SELECT portfolio, as_of, arg_max(run_id IS NOT NULL, seq) AS stands
            FROM {CATALOG}.metarisk.publication GROUP BY portfolio, as_of
        )
    ) AS night USING (portfolio, as_of)
    WHERE p.run_id IS NOT NULL AND (night.age <= {NIGHTS} OR night.ends_month)
"""  # noqa: S608 - constants only


def build(file: DuckFile, limits: Limits, target: Path, *, anew: bool = False) -> None:
    """Build the snapshot beside `target` and swap it in; on duckdb.Error and OSError `target` stays as it was.

    What the snapshot before holds is taken over, so that a night's time depends on what is new and not on how many
    nights there were; where that file cannot be used (a migration came between, it is damaged), or with `anew`, all is
    copied.
    """
    for leftover in target.parent.glob(f"{target.stem}.building*"):
        leftover.unlink()
    beside = target.with_name(f"{target.stem}.building.duckdb")
    with file.cursor(limits, write=False) as cursor:
        try:
            if target.exists() and not anew:
                shutil.copyfile(target, beside)
            _fill(cursor, beside)
        except duckdb.Error:
            if not target.exists():
                raise
            beside.unlink(missing_ok=True)
            _fill(cursor, beside)
    beside.replace(target)
    _sync(target.parent)


def _fill(cursor: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Bring the snapshot at `path`, empty or older, up to the warehouse's state of now."""
    cursor.execute(f"ATTACH {literal(str(path))} AS bi")
    try:
        cursor.execute("USE bi")
        cursor.execute("BEGIN TRANSACTION")
        cursor.execute("CREATE SCHEMA IF NOT EXISTS metarisk")
        tables = _names(cursor, "SELECT table_name FROM duckdb_tables() WHERE database_name = $1 AND schema_name = $2")
        cursor.execute(f"CREATE TABLE IF NOT EXISTS main.copied ({', '.join(_COPIED)})")
        held = {row[0]: row[1:] for row in cursor.execute("FROM main.copied").fetchall()}
        cursor.execute("CREATE OR REPLACE TABLE main.copied AS FROM main.copied LIMIT 0")
        for table in tables:
            if table != _LARGE:
                _bring(cursor, table, held.get(table))
        _bring_scores(cursor)
        _replace_views(cursor)
        _comment(cursor)
        cursor.execute("COMMIT")
        cursor.execute("CHECKPOINT bi")
    finally:
        with suppress(duckdb.Error):  # there is no transaction left after COMMIT
            cursor.execute("ROLLBACK")
        cursor.execute(f"USE {CATALOG}")
        cursor.execute("DETACH bi")


def _bring(cursor: duckdb.DuckDBPyConnection, table: str, held: tuple[int, int, str, str] | None) -> None:
    """Copy the rows that were appended since; the whole table where it is not the one that was copied, and longer.

    Rows of these tables are appended and never changed (an erasure builds anew), so a place keeps its row: the last
    copied one still stands where it stood, unless the warehouse was restored or changed by hand, or old rows were
    pruned: then fewer stand before it.
    """
    name = f"metarisk.{quote_identifier(table)}"
    source = f"{CATALOG}.{name}"
    rows, ends = _one(cursor, f"SELECT count(*), coalesce(max(rowid) + 1, 0) FROM {source}")  # noqa: S608
    version = _one(cursor, f"SELECT max(version) FROM {CATALOG}.metarisk.schema_migration")  # noqa: S608
    schema = str((version, cursor.execute(f"DESCRIBE {source}").fetchall()))
    before = f"SELECT count(*) FROM {source} WHERE rowid < $1"  # noqa: S608
    if (
        held
        and held[0]
        and schema == held[2]
        and _at(cursor, source, held[1]) == held[3]
        and _one(cursor, before, held[1]) == (held[0],)
    ):
        cursor.execute(f"INSERT INTO {name} FROM {source} WHERE rowid >= $1", [held[1]])
    else:
        cursor.execute(f"CREATE OR REPLACE TABLE {name} AS FROM {source}")
    last = _at(cursor, source, ends)
    cursor.execute("INSERT INTO main.copied VALUES ($1, $2, $3, $4, $5)", [table, rows, ends, schema, last])


def _at(cursor: duckdb.DuckDBPyConnection, source: str, ends: int) -> str:
    """Hash of the row of a table before the place `ends`."""
    found = cursor.execute(f"SELECT md5(CAST(t AS TEXT)) FROM {source} AS t WHERE rowid = $1", [ends - 1])  # noqa: S608
    return "".join(str(row[0]) for row in found.fetchall())


def _one(cursor: duckdb.DuckDBPyConnection, sql: str, *parameters: int) -> tuple[Any, ...]:
    (row,) = cursor.execute(sql, parameters).fetchall()
    return tuple(row)


def _bring_scores(cursor: duckdb.DuckDBPyConnection) -> None:
    name = f"metarisk.{_LARGE}"
    cursor.execute(f"CREATE TABLE IF NOT EXISTS {name} AS FROM {CATALOG}.{name} LIMIT 0")
    cursor.execute("CREATE TABLE IF NOT EXISTS main.held (run_id TEXT, as_of DATE)")
    kept, held = (set(cursor.execute(sql).fetchall()) for sql in (_KEPT, "SELECT run_id, as_of FROM main.held"))
    # Constants let DuckDB skip the row groups of other nights; a join would read them all.
    for run_id, as_of in sorted(held - kept):
        cursor.execute(f"DELETE FROM {name} WHERE run_id = $1 AND as_of = $2", [run_id, as_of])  # noqa: S608 - constants only
    for run_id, as_of in sorted(kept - held, key=lambda run: (run[1], run[0])):
        cursor.execute(
            f"INSERT INTO {name} BY NAME FROM {CATALOG}.{name} WHERE run_id = $1 AND as_of = $2", [run_id, as_of]
        )
    cursor.execute(f"CREATE OR REPLACE TABLE main.held AS {_KEPT}")


def _replace_views(cursor: duckdb.DuckDBPyConnection) -> None:
    listing = "SELECT view_name, sql FROM duckdb_views() WHERE database_name = $1 AND schema_name = 'metarisk'"
    held, stored = (dict(cursor.execute(listing, [database]).fetchall()) for database in ("bi", CATALOG))
    if held == stored:  # with their comments, hundreds of statements
        return
    for view in held:
        cursor.execute(f"DROP VIEW metarisk.{quote_identifier(view)}")
    for view in in_order(stored):
        cursor.execute(stored[view])


def _comment(cursor: duckdb.DuckDBPyConnection) -> None:
    """Comments as the warehouse has them; `CREATE OR REPLACE TABLE` and dropped views lose theirs."""
    held, stored = (
        set(cursor.execute(dictionary.DUCKDB.format(database=literal(database))).fetchall())
        for database in ("bi", CATALOG)
    )
    for kind, name, column, meaning, _ in sorted(stored - held, key=str):
        if meaning is not None:
            cursor.execute(dictionary.statement(kind, name, column, meaning))


def _names(cursor: duckdb.DuckDBPyConnection, sql: str) -> list[str]:
    return sorted(str(row[0]) for row in cursor.execute(sql, [CATALOG, "metarisk"]).fetchall())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
