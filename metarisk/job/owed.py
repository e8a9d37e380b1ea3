"""Which nights of a portfolio are due and not published, and what the warehouse is told so that BI can count them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

from metarisk.domain import Rows, Transaction
from metarisk.job.context import Context
from metarisk.job.dates import calendar_table
from metarisk.portfolios import calendar_dates, grace, newest_due, read_schedule
from metarisk.record.appending import append_rows

_DECIDED = """
SELECT p.as_of, count(c.run_id) > 0 AS stands
FROM metarisk.publication AS p
LEFT JOIN metarisk.publication_current AS c ON c.portfolio = p.portfolio AND c.as_of = p.as_of
WHERE p.portfolio = $portfolio AND p.as_of <= $until
GROUP BY p.as_of
"""
_TOLD = "SELECT * FROM metarisk.portfolio WHERE portfolio = $portfolio ORDER BY seq DESC LIMIT 1"
_DATES = """
SELECT as_of, max(seq) AS seq, max(CASE WHEN due THEN seq END) AS due_seq
FROM metarisk.calendar_date WHERE portfolio = $portfolio GROUP BY as_of
"""


def owed(context: Context, until: date) -> list[date]:
    """Dates up to `until` on which a night is due that was never published, oldest first.

    By the portfolio's calendar, from its first published night on; a portfolio without any published night owes the
    newest alone, and so does one with `catch_up = latest`. A retracted night is owed no more.
    """
    portfolio = context.portfolio
    rows = context.warehouse.rows(_DECIDED, {"portfolio": portfolio.name, "until": until})
    decided, published = {row["as_of"] for row in rows}, {row["as_of"] for row in rows if row["stands"]}
    table = calendar_table(context)
    if not published or portfolio.catch_up == "latest":
        newest = newest_due(portfolio, until, table)
        due = [] if newest is None else [newest]
    else:
        due = calendar_dates(portfolio, min(published), until, table)
    return [day for day in due if day not in decided]


@dataclass(frozen=True)
class Due:
    """What says which nights are due: a row of `portfolio` less its keys, and the dates of a calendar table."""

    row: dict[str, Any]
    dates: frozenset[date]


def what_is_due(context: Context) -> Due:
    """What the TOML, prefect.yaml and a calendar table say now. Raises MetariskError where one cannot be read."""
    portfolio, schedule = context.portfolio, read_schedule(context.settings.project)
    row = {
        "title": portfolio.title or portfolio.name,
        "timezone": portfolio.timezone,
        "calendar": portfolio.calendar,
        "catch_up": portfolio.catch_up,
        "scheduled": portfolio.scheduled,
        "start_minute": schedule.minute,
        "start_timezone": schedule.timezone,
        "grace_minutes": int(grace(portfolio).total_seconds()) // 60,
        "max_model_age_days": portfolio.thresholds.max_model_age_days,
    }
    return Due(row, frozenset(calendar_table(context)))


def untold(source: Rows, context: Context, due: Due) -> dict[str, list[dict[str, Any]]]:
    """By table the rows that say what is due, where that is another than the warehouse knows."""
    about: dict[str, Any] = {"portfolio": context.job.portfolio}
    before = next(iter(source.rows(_TOLD, about)), None)
    same = before is not None and all(before[name] == value for name, value in due.row.items())
    row = about | {"seq": before["seq"] + 1 if before else 1, "told_at": context.clock()} | due.row
    known = {row["as_of"]: row for row in source.rows(_DATES, about)}
    changed = due.dates ^ {day for day, row in known.items() if row["due_seq"] == row["seq"]}
    dates = [
        about | {"as_of": day, "seq": known[day]["seq"] + 1 if day in known else 1, "due": day in due.dates}
        for day in sorted(changed)
    ]
    return {"metarisk.portfolio": [] if same else [row], "metarisk.calendar_date": dates}


def tell(context: Context, transaction: Transaction, due: Due) -> None:
    """Append what the warehouse does not know of what is due."""
    for table, rows in untold(transaction, context, due).items():
        append_rows(transaction, table, rows)
