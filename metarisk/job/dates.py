"""Which date a run is for: the dates of the calendar, the newest that is over, and a refusal of those that are not."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa

from metarisk.domain import ConfigError
from metarisk.job.context import Context
from metarisk.portfolios import as_of_from_schedule, list_portfolios, local_day, newest_due, zone_differs
from metarisk.portfolios.days import ZONE_REMEDY, has_zone, zone_what


def calendar_table(context: Context) -> list[date]:
    """Dates that the portfolio's `calendar_sql` yields, times as the days that they are in its zone."""
    portfolio = context.portfolio
    if portfolio.calendar != "table" or portfolio.calendar_sql is None:
        return []
    rows = context.warehouse.rows(portfolio.calendar_sql)
    return [local_day(value, portfolio.timezone) for row in rows for value in list(row.values())[:1] if value]


def newest_over(context: Context) -> date:
    """The newest date of the portfolio's calendar that is over in its zone. Raises ConfigError where there is none."""
    portfolio = context.portfolio
    last = as_of_from_schedule(context.clock(), portfolio.timezone)
    found = newest_due(portfolio, last, calendar_table(context))
    if found is None:
        raise ConfigError(
            f"the calendar has no date on or before {last}",
            portfolio=portfolio.name,
            remedy="name a date, or correct `calendar_sql`",
        )
    return found


def require_portfolio(context: Context) -> None:
    """Refuse a portfolio that there is not, before anything is written. Raises ConfigError with the nearest name.

    One whose TOML is wrong goes on: its run fails on record, with a page.
    """
    try:
        _ = context.portfolio
    except ConfigError:
        if context.job.portfolio not in list_portfolios(context.settings.project):
            raise


def require_over(context: Context) -> None:
    """Refuse a portfolio that there is not, and a date that is not over in its zone, before anything is written."""
    require_portfolio(context)
    now, as_of = context.clock(), context.job.as_of
    newest = as_of_from_schedule(now, context.timezone)
    if as_of > newest:
        raise ConfigError(
            f"{as_of} is not over: it is {_local(now, context.timezone)}",
            portfolio=context.job.portfolio,
            on=as_of,
            remedy=f"correct the date; the newest day that is over is {newest}, `--as-of yesterday` the newest due",
        )


def require_one_day(context: Context, schema: pa.Schema) -> None:
    """Refuse an extract with instants whose day the warehouse and the lake would see differently at this as_of.

    A row between their two midnights would be a day too young for the one and too old for the other, and scored never.
    """
    zone, as_of = context.portfolio.timezone, context.job.as_of
    if not any(has_zone(kind) for kind in schema.types):
        return
    day = zone_differs(context.warehouse, zone, as_of, as_of + timedelta(days=1))
    if day is not None:
        raise ConfigError(zone_what(zone, day), portfolio=context.job.portfolio, on=as_of, remedy=ZONE_REMEDY)


def until(context: Context, minutes: int) -> str:
    """The local time in so many minutes, for people who wait."""
    return _local(context.clock() + timedelta(minutes=minutes), context.timezone)


def _local(moment: datetime, timezone: str) -> str:
    return f"{moment.astimezone(ZoneInfo(timezone)):%Y-%m-%d %H:%M} in {timezone}"
