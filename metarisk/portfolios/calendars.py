"""Which nights are due, and which date a scheduled start stands for. Pure: no clock is read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from metarisk.domain import ConfigError, Portfolio


def calendar_dates(portfolio: Portfolio, start: date, end: date, table_dates: Iterable[date] = ()) -> list[date]:
    """As-of dates from `start` to `end`, both included, on which a night is due, oldest first.

    `business` is Monday to Friday; a book with holidays has calendar `table` and brings its dates in `table_dates`.
    """
    days = [start + timedelta(days=step) for step in range((end - start).days + 1)]
    match portfolio.calendar:
        case "daily":
            return days
        case "business":
            return [day for day in days if day.weekday() < 5]
        case "month_end":
            return [day for day in days if (day + timedelta(days=1)).day == 1]
        case "table":
            due = set(table_dates)
            return [day for day in days if day in due]


def as_of_from_schedule(scheduled: datetime, timezone: str) -> date:
    """The date up to whose end things are known in a run scheduled for `scheduled`: the local day before.

    Only the calendar day of the scheduled start counts, so a night of 23 or 25 hours shifts nothing, and a retry that
    keeps its scheduled start keeps its date. Raises ConfigError when `scheduled` has no time zone.
    """
    if scheduled.tzinfo is None:
        raise ConfigError(
            f"the scheduled start {scheduled.isoformat()} has no time zone", remedy="pass an aware datetime"
        )
    return scheduled.astimezone(ZoneInfo(timezone)).date() - timedelta(days=1)
