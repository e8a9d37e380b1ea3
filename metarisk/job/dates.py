"""Which date a run is for: the calendar, the newest date that is over, a refusal of those that are not, nights owed."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from metarisk import portfolios
from metarisk.domain import ConfigError
from metarisk.job.context import Context
from metarisk.portfolios import as_of_from_schedule, calendar_dates, list_portfolios, local_day, newest_due
from metarisk.portfolios.days import ZONE_REMEDY, has_zone, zone_what
from metarisk.record.publications import decided


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
    portfolio, schedule = context.portfolio, portfolios.read_schedule(context.settings.project)
    row = {
        "title": portfolio.title or portfolio.name,
        "timezone": portfolio.timezone,
        "calendar": portfolio.calendar,
        "catch_up": portfolio.catch_up,
        "scheduled": portfolio.scheduled,
        "start_minute": schedule.minute,
        "start_timezone": schedule.timezone,
        "grace_minutes": int(portfolios.grace(portfolio).total_seconds()) // 60,
        "max_model_age_days": portfolio.thresholds.max_model_age_days,
    }
    return Due(row, frozenset(calendar_table(context)))


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
    day = portfolios.zone_differs(context.warehouse, zone, as_of, as_of + timedelta(days=1))
    if day is not None:
        raise ConfigError(zone_what(zone, day), portfolio=context.job.portfolio, on=as_of, remedy=ZONE_REMEDY)


def until(context: Context, minutes: int) -> str:
    """The local time in so many minutes, for people who wait."""
    return _local(context.clock() + timedelta(minutes=minutes), context.timezone)


def _local(moment: datetime, timezone: str) -> str:
    return f"{moment.astimezone(ZoneInfo(timezone)):%Y-%m-%d %H:%M} in {timezone}"
