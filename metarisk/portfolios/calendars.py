"""What a day is, which nights are due, and which date a start stands for. Pure: no clock is read."""

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


def newest_due(portfolio: Portfolio, last: date, table_dates: Iterable[date] = ()) -> date | None:
    """The newest as-of date on or before `last` on which a night is due; None where the calendar's table has none."""
    table = list(table_dates)
    # No calendar but a table leaves a whole month out.
    start = min([last - timedelta(days=31), *table])
    return next(reversed(calendar_dates(portfolio, start, last, table)), None)


def local_day(moment: date | datetime, timezone: str) -> date:
    """The day of a DATE, of a time without a zone (which is local already), or of an instant in a time zone."""
    if not isinstance(moment, datetime):
        return moment
    return (moment.astimezone(ZoneInfo(timezone)) if moment.tzinfo else moment).date()


def as_of_from_schedule(scheduled: datetime, timezone: str) -> date:
    """The date up to whose end things are known in a run scheduled for `scheduled`: the local day before.

    It is the newest day that is over then. Only the calendar day of the scheduled start counts, so a night of 23 or 25
    hours shifts nothing, and a retry that keeps its scheduled start keeps its date. Raises ConfigError when `scheduled`
    has no time zone.
    """
    if scheduled.tzinfo is None:
        raise ConfigError(
            f"the scheduled start {scheduled.isoformat()} has no time zone", remedy="pass an aware datetime"
        )
    return scheduled.astimezone(ZoneInfo(timezone)).date() - timedelta(days=1)
