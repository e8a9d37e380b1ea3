"""Portfolios: what the warehouse is told of which nights are due, how each stands, and which schema it has."""

from __future__ import annotations

from collections.abc import Mapping, Set
from datetime import date, datetime
from typing import Any

from metarisk.domain import Rows, Transaction
from metarisk.record.appending import append

_KNOWN = "SELECT * FROM metarisk.portfolio WHERE portfolio = $portfolio ORDER BY seq DESC LIMIT 1"
_DATES = """
SELECT as_of, max(seq) AS seq, max(CASE WHEN due THEN seq END) AS due_seq
FROM metarisk.calendar_date WHERE portfolio = $portfolio GROUP BY as_of
"""
_STATUS = "SELECT * FROM metarisk.portfolio_status ORDER BY portfolio"
_EXISTS = """
SELECT 1 AS found FROM information_schema.tables WHERE table_schema = 'metarisk' AND table_name = $name
"""


def news_of_due(
    source: Rows, portfolio: str, row: Mapping[str, Any], dates: Set[date], now: datetime
) -> dict[str, list[dict[str, Any]]]:
    """By table the rows that say which nights are due, where that is another than the warehouse knows.

    Args:
        row: a row of `portfolio` less its keys.
        dates: of a calendar table.
    """
    about: dict[str, Any] = {"portfolio": portfolio}
    before = next(iter(source.rows(_KNOWN, about)), None)
    same = before is not None and all(before[name] == value for name, value in row.items())
    line = about | {"seq": before["seq"] + 1 if before else 1, "told_at": now} | dict(row)
    known = {one["as_of"]: one for one in source.rows(_DATES, about)}
    changed = dates ^ {day for day, one in known.items() if one["due_seq"] == one["seq"]}
    lines = [
        about | {"as_of": day, "seq": known[day]["seq"] + 1 if day in known else 1, "due": day in dates}
        for day in sorted(changed)
    ]
    return {"portfolio": [] if same else [line], "calendar_date": lines}


def append_due(
    transaction: Transaction, portfolio: str, row: Mapping[str, Any], dates: Set[date], now: datetime
) -> None:
    """Append what the warehouse does not know of what is due, see `news_of_due`."""
    for table, rows in news_of_due(transaction, portfolio, row, dates, now).items():
        append(transaction, table, rows)


def statuses(source: Rows) -> dict[str, dict[str, Any]]:
    """How every portfolio that the warehouse knows stands, by name."""
    return {row["portfolio"]: row for row in source.rows(_STATUS)}


def exists(source: Rows, name: str) -> bool:
    """Whether schema `metarisk` has a table or view of this name."""
    return bool(source.rows(_EXISTS, {"name": name}))


def newest_migration(source: Rows) -> int:
    """Number of the newest migration that was applied."""
    return int(source.rows("SELECT max(version) AS newest FROM metarisk.schema_migration")[0]["newest"])
