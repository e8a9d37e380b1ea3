"""Which nights of a portfolio are due and not published, and what the warehouse is told so that BI can count them."""

from dataclasses import dataclass
from datetime import date
from typing import Any

from metarisk.job.context import Context
from metarisk.job.dates import calendar_table
from metarisk.portfolios import calendar_dates, grace, newest_due, read_schedule
from metarisk.record.publications import decided


def owed(context: Context, until: date) -> list[date]:
    """Dates up to `until` on which a night is due that was never published, oldest first.

    By the portfolio's calendar, from its first published night on; a portfolio without any published night owes the
    newest alone, and so does one with `catch_up = latest`. A retracted night is owed no more.
    """
    portfolio = context.portfolio
    known = decided(context.warehouse, portfolio.name, until)
    published = [day for day, stands in known.items() if stands]
    table = calendar_table(context)
    if not published or portfolio.catch_up == "latest":
        newest = newest_due(portfolio, until, table)
        due = [] if newest is None else [newest]
    else:
        due = calendar_dates(portfolio, min(published), until, table)
    return [day for day in due if day not in known]


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
