"""Statements over any table of schema `metarisk`: rows of old runs that leave it, names that are erased."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import date
from typing import TYPE_CHECKING

from metarisk.domain import Rows, Scalar, Transaction, Warehouse
from metarisk.record.runs import OLD
from metarisk.record.seals import SCORES

if TYPE_CHECKING:
    import pyarrow as pa

LEAVING: Mapping[str, str] = {
    SCORES: "TRUE",
    # The view shows each segment at the last night that had it.
    "adaptation": """
        (t.run_id, t.segment) NOT IN (
            SELECT h.run_id, h.segment FROM metarisk.segment_health AS h WHERE h.portfolio = $portfolio
        )
    """,
    "quality_result": "TRUE",
    # What is of the whole portfolio stays: trends over years read it.
    **dict.fromkeys(("drift_metric", "score_move_part", "measure"), "t.segment IS NOT NULL"),
}
"""By table of which every run has rows: which rows of an old night leave the warehouse. The archive gets them all."""
_LEAVING = """
SELECT t.run_id, count(*) AS rows FROM metarisk.{table} AS t
WHERE t.portfolio = $portfolio AND t.as_of <= $until AND t.run_id IS NOT NULL AND ({leaving}) GROUP BY t.run_id
"""
_SCORED = f"""
SELECT r.run_id, (
    SELECT count(*) FROM metarisk.risk_score AS t WHERE t.run_id = r.run_id AND t.as_of = r.as_of
) AS rows
FROM ({OLD}) AS r WHERE r.as_of <= $until
"""  # noqa: S608 - constants only
"""Of scores a run at a time, by its key: those of month ends are many."""
_DELETE = """
DELETE FROM metarisk.{table} AS t
WHERE t.portfolio = $portfolio AND t.run_id = $run_id AND t.as_of = $as_of AND ({leaving})
"""
_ROWS = "SELECT * FROM metarisk.{table} WHERE run_id = $run_id AND as_of = $as_of"
_TEXTS = """
SELECT c.table_name AS name, c.column_name AS text FROM information_schema.columns AS c
JOIN information_schema.tables AS t ON t.table_schema = c.table_schema AND t.table_name = c.table_name
JOIN information_schema.columns AS p ON p.table_schema = c.table_schema AND p.table_name = c.table_name
    AND p.column_name = 'portfolio'
WHERE c.table_schema = 'metarisk' AND t.table_type = 'BASE TABLE' AND c.data_type IN ('VARCHAR', 'text')
AND c.column_name <> 'portfolio' AND c.table_name NOT LIKE 'risk_score_%'
ORDER BY c.table_name, c.column_name
"""
_COUNT = "SELECT count(*) AS n FROM metarisk.{table} WHERE portfolio = $portfolio AND {column} = $old"
_RENAME = "UPDATE metarisk.{table} SET {column} = $new WHERE portfolio = $portfolio AND {column} = $old"
_HOLDING = """
SELECT DISTINCT {column} AS said FROM metarisk.{table} WHERE portfolio = $portfolio AND strpos({column}, $letters) > 0
"""


def rows_leaving(source: Rows, portfolio: str, table: str, cut: date, until: date) -> dict[str, int]:
    """By run, how many rows of nights up to `until` leave a table where those up to `cut` are old."""
    sql = _SCORED if table == SCORES else _LEAVING.format(table=table, leaving=LEAVING[table])
    about: dict[str, Scalar] = {"portfolio": portfolio, "cut": cut, "until": until}
    return {row["run_id"]: row["rows"] for row in source.rows(sql, about)}


def delete_leaving(transaction: Transaction, portfolio: str, table: str, run_id: str, as_of: date) -> None:
    """Delete the rows of a run that leave a table: those alone that LEAVING names."""
    about: dict[str, Scalar] = {"portfolio": portfolio, "run_id": run_id, "as_of": as_of}
    transaction.execute(_DELETE.format(table=table, leaving=LEAVING[table]), about)


def rows_of_run(
    warehouse: Warehouse, table: str, run_id: str, as_of: date
) -> AbstractContextManager[pa.RecordBatchReader]:
    """All rows of a run in a table, as a stream."""
    return warehouse.stream(_ROWS.format(table=table), {"run_id": run_id, "as_of": as_of})


def text_columns(source: Rows) -> dict[str, list[str]]:
    """Columns of text of each table that has rows of portfolios."""
    found: dict[str, list[str]] = {}
    for row in source.rows(_TEXTS):
        found.setdefault(row["name"], []).append(row["text"])
    return found


def texts_with(source: Rows, portfolio: str, table: str, column: str, letters: str) -> list[str]:
    """Texts of a column that hold these letters."""
    sql = _HOLDING.format(table=table, column=column)
    return [row["said"] for row in source.rows(sql, {"portfolio": portfolio, "letters": letters})]


def count_with(source: Rows, portfolio: str, table: str, column: str, value: str) -> int:
    """Rows of a table that have this value in a column."""
    sql = _COUNT.format(table=table, column=column)
    return int(source.rows(sql, {"portfolio": portfolio, "old": value})[0]["n"])


def rename(transaction: Transaction, portfolio: str, table: str, column: str, old: str, new: str) -> int:
    """Put another value in the place of one of a column; in how many rows."""
    rows = count_with(transaction, portfolio, table, column, old)
    about: dict[str, Scalar] = {"portfolio": portfolio, "old": old, "new": new}
    transaction.execute(_RENAME.format(table=table, column=column), about)
    return rows
