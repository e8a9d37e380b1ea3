"""A portfolio against the warehouse it will run on: does its SQL run, and does its reporting lag hold?"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from metarisk.domain import DataError, MetariskError, Portfolio, Target, Warehouse, quoted
from metarisk.portfolios import days
from metarisk.portfolios.reading import extract_sql

SchemaCheck = Callable[[pa.Schema, Portfolio, date], object]
"""Raises DataError when the extract's columns are not what the portfolio says; `lake.check_schema` is one."""

_PROBE_ROWS = 1_000  # enough for a cast to fail on
_ZONE_AROUND = timedelta(days=366)
"""Before and after the date that is checked, time zone data must agree."""


@dataclass(frozen=True)
class Finding:
    """One thing that `metarisk portfolio check` looked at."""

    ok: bool
    about: str
    what: str
    remedy: str = ""
    told: bool = False
    """Whether it is good enough to go on, and still worth a look."""


def check_portfolio(
    portfolio: Portfolio, project: Path, warehouse: Warehouse, as_of: date, *, check_schema: SchemaCheck
) -> list[Finding]:
    """Try a portfolio on a live warehouse, as of a date; nothing is written.

    The extract is probed with a LIMIT for its columns and types, then aggregated where it is: rows, first and last
    opening date, events, and the 99th percentile of known minus event date, which no `reporting_lag_days` may
    undercut. Two or three passes more, as of the last days that it has and the days after, show whether every row and
    label is there from its own day on. Everything is looked at, so that one call shows all that is wrong.

    Args:
        warehouse: its sessions run in the portfolio's time zone.
    """
    findings = list(_columns(portfolio, project, warehouse, as_of, check_schema))
    if all(finding.ok for finding in findings):
        findings += _rows_and_lag(portfolio, project, warehouse, as_of)
        findings += _days(portfolio, project, warehouse, as_of)
    findings += _ready(portfolio, warehouse, as_of)
    findings += _calendar(portfolio, warehouse)
    return findings


def nested(sql: str) -> str:
    """A SELECT as a subquery in brackets; a closing semicolon or comment does no harm."""
    return f"(\n{sql.rstrip().rstrip(';')}\n)"


def _columns(
    portfolio: Portfolio, project: Path, warehouse: Warehouse, as_of: date, check_schema: SchemaCheck
) -> Iterator[Finding]:
    sql = f"SELECT * FROM {nested(extract_sql(project, portfolio))} AS probe LIMIT {_PROBE_ROWS}"  # noqa: S608
    try:
        with warehouse.stream(sql, {"as_of": as_of}) as reader:
            schema = reader.schema
            for _ in reader:
                pass  # a cast that fails only does so once rows flow
        check_schema(schema, portfolio, as_of)
        yield Finding(True, "extract", f"runs, and its {len(schema)} columns have the declared kinds")
        if any(days.has_zone(kind) for kind in schema.types):
            yield _zone(portfolio, warehouse, as_of)
    except MetariskError as error:
        yield failed("extract", error)


def _zone(portfolio: Portfolio, warehouse: Warehouse, as_of: date) -> Finding:
    """Whether the warehouse and this machine begin the days of the portfolio's time zone alike."""
    zone = portfolio.timezone
    day = days.zone_differs(warehouse, zone, as_of - _ZONE_AROUND, as_of + _ZONE_AROUND)
    if day is None:
        return Finding(True, "time zone", f"the warehouse and this machine begin the days of {zone} alike")
    return Finding(False, "time zone", days.zone_what(zone, day), days.ZONE_REMEDY)


def _rows_and_lag(portfolio: Portfolio, project: Path, warehouse: Warehouse, as_of: date) -> Iterator[Finding]:
    """How many rows there are from when to when, and what their labels say; by one pass."""
    opened = _day(portfolio.columns.opened_on)
    sql = f"""
        SELECT count(*) AS row_count, min({opened}) AS first_opened, max({opened}) AS last_opened,
               {_label_counts(portfolio)}
        FROM {nested(extract_sql(project, portfolio))} AS extract
    """  # noqa: S608
    try:
        (seen,) = warehouse.rows(sql, {"as_of": as_of})
    except MetariskError as error:
        yield failed("rows", error)
        return
    if not seen["row_count"]:
        remedy = "check the source table, or check as of another date"
        yield Finding(False, "rows", f"the extract is empty as of {as_of}", remedy)
        return
    yield Finding(True, "rows", f"{seen['row_count']:,} rows opened {seen['first_opened']} to {seen['last_opened']}")
    if not seen["labels"]:
        what = "no label is known" if portfolio.columns.label is None else "no flag is known"
        yield Finding(False, "labels", f"{what} as of {as_of}", "check as of a later date")
    elif portfolio.columns.label is None:
        yield from _lag(portfolio, seen)
    else:
        # No lag can be read off a label without dates.
        what = (
            f"{seen['labels']:,} known flags, {int(seen['events']):,} of them events, without dates: evidence before "
        )
        yield Finding(True, "labels", f"{what}the first night is retrospective and proves nothing")


def _label_counts(portfolio: Portfolio) -> str:
    """SQL of the aggregates of the label: `labels`, and of flags `events`, of dates or values their `delay`."""
    columns = portfolio.columns
    if columns.label is not None:
        flag = quoted(columns.label)
        said = f"lower(CAST({flag} AS VARCHAR)) IN ('1', '1.0', 'true')"
        return f"count({flag}) AS labels, sum(CASE WHEN {said} THEN 1 ELSE 0 END) AS events"
    known = _day(columns.known_date) if columns.known_date else "CAST(NULL AS DATE)"
    start = _day(columns.event_date or columns.opened_on)
    delay = f"percentile_cont(0.99) WITHIN GROUP (ORDER BY {known} - {start}) AS delay"
    return f"count({known}) AS labels, {delay}"


def _day(column: str) -> str:
    return f"CAST({quoted(column)} AS DATE)"


def _days(portfolio: Portfolio, project: Path, warehouse: Warehouse, as_of: date) -> Iterator[Finding]:
    """Whether rows and labels are there from their own local day on, neither earlier nor later."""
    extract, columns = nested(extract_sql(project, portfolio)), days.dated_columns(portfolio)
    try:
        off = list(days.off_their_day(lambda when: days.days_of(warehouse, extract, columns, when), as_of))
    except MetariskError as error:
        yield failed("days", error)
        return
    for found in off:
        # Of a bitemporal source some rows of a day may have been recorded after it; all of them are not.
        known_late = portfolio.source.bitemporal and not found.early and found.rows < found.of
        remedy = f"write {days.INDEXED.format(column=found.column)} in {portfolio.source.extract} (docs/portfolios.md)"
        yield Finding(known_late, "days", found.what(), "" if known_late else remedy)
    if not off:
        yield Finding(
            True, "days", f"every row is there from its own day in {portfolio.timezone} on ({', '.join(columns)})"
        )


def _lag(portfolio: Portfolio, seen: dict[str, Any]) -> Iterator[Finding]:
    if not portfolio.columns.event_date:
        # A value counts from its known date on, however late: none of them can teach as another one.
        yield Finding(
            True,
            "labels",
            f"{seen['labels']:,} known values; the 99th percentile of their delay is {seen['delay']:.0f} days",
        )
        return
    for number, target in enumerate(portfolio.targets):
        horizon = 0 if portfolio.columns.event_date else target.horizon_days + 31 * target.horizon_months
        observed = max(0, -int(-(seen["delay"] - horizon) // 1))
        what = (
            f"{seen['labels']:,} known labels; the 99th percentile of their delay is {observed} days, "
            f"the reporting lag of {target.name} is {_lag_text(target)}"
        )
        enough = 31 * target.reporting_lag_months + target.reporting_lag_days >= observed
        remedy = (
            f"set `targets[{number}].reporting_lag_days` to {observed} or more: late events would be taught as good"
        )
        yield Finding(enough, "reporting lag", what, "" if enough else remedy)


def _lag_text(target: Target) -> str:
    months = f"{target.reporting_lag_months} months and " if target.reporting_lag_months else ""
    return f"{months}{target.reporting_lag_days} days"


def _ready(portfolio: Portfolio, warehouse: Warehouse, as_of: date) -> Iterator[Finding]:
    if portfolio.source.ready_sql is None:
        return
    try:
        rows = warehouse.rows(portfolio.source.ready_sql, {"as_of": as_of})
    except MetariskError as error:
        yield failed("source.ready_sql", error)
        return
    values = [value for row in rows for value in row.values()]
    good = len(values) == 1 and isinstance(values[0], bool)
    yield Finding(
        good,
        "source.ready_sql",
        f"answers {values[0]} as of {as_of}" if good else f"yields {values[:3]!r}, not one true or false",
        "" if good else "make it SELECT one boolean, as in SELECT count(*) > 0 FROM ...",
    )


def _calendar(portfolio: Portfolio, warehouse: Warehouse) -> Iterator[Finding]:
    if portfolio.calendar_sql is None:
        return
    try:
        rows = warehouse.rows(portfolio.calendar_sql)
    except MetariskError as error:
        yield failed("calendar_sql", error)
        return
    dates = [value for row in rows for value in row.values()]
    good = bool(dates) and all(isinstance(value, date) for value in dates)
    yield Finding(
        good,
        "calendar_sql",
        f"yields {len(dates)} dates" if good else f"yields {dates[:3]!r}, not dates",
        "" if good else "make it SELECT one column of dates, with at least one row",
    )


def failed(about: str, error: MetariskError) -> Finding:
    """An error as a finding."""
    place = f"column {error.column}: " if isinstance(error, DataError) and error.column else ""
    return Finding(False, about, f"{place}{error.what}", error.remedy)
