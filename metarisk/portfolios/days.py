"""Whether an extract gives every row and label on its day, and whether everybody means the same day."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pyarrow as pa

from metarisk.domain import Portfolio, Warehouse, quoted
from metarisk.portfolios.calendars import local_day

Days = Mapping[str, Counter[date]]
"""By column the rows of an extract on each local day."""
PATTERN = "CAST({column} AS DATE) <= $as_of"
"""A row's day, whatever the column's type: the session of the warehouse runs in the portfolio's time zone."""
INDEXED = f"{PATTERN} AND {{column}} < $as_of + 1"
"""The same where an index of the column should serve. The CAST decides: where local midnight comes twice, a bound made
of a DATE is an hour late (in Havana and on the Azores), and it is never early."""
ZONE_REMEDY = (
    "update the time zone data of the server, of Python (package tzdata) and of Polars, or give the column as "
    "CAST(... AS DATE), so that the warehouse alone decides its day"
)
_STEP = timedelta(minutes=15)
"""Every offset of today's zones is a multiple of it."""


@dataclass(frozen=True)
class Off:
    """Rows of a column that an extract gives on another night than that of their day."""

    column: str
    day: date
    rows: int
    of: int
    early: bool

    def what(self) -> str:
        """In words."""
        if self.early:
            return f"column {self.column}: {self.rows:,} rows are dated after the as_of, {self.day} for one"
        return (
            f"column {self.column}: {self.rows:,} of {self.of:,} rows of {self.day} are not there as of {self.day}, "
            "only later"
        )


def dated_columns(portfolio: Portfolio) -> list[str]:
    """Columns whose date says from when on the extract has a row, or its label."""
    columns = portfolio.columns
    named = (columns.opened_on, columns.known_date, columns.settled_on)
    return list(dict.fromkeys(column for column in named if column is not None and column not in columns.derived))


def days_of(warehouse: Warehouse, extract: str, columns: list[str], as_of: date) -> Days:
    """Rows of an extract on each day of its dated columns, by one pass over it.

    Args:
        warehouse: its sessions run in the portfolio's time zone.
        extract: the SELECT as a subquery in brackets.
    """
    names = [f"day_{number}" for number in range(len(columns))]
    casts = ", ".join(f"CAST({quoted(column)} AS DATE) AS {name}" for column, name in zip(columns, names, strict=True))
    marks = ", ".join(f"GROUPING({name}) AS left_{name}" for name in names)
    sql = f"""
        SELECT {", ".join(names)}, {marks}, count(*) AS row_count
        FROM (SELECT {casts} FROM {extract} AS extract) AS dated
        GROUP BY GROUPING SETS ({", ".join(f"({name})" for name in names)})
    """  # noqa: S608
    found: Days = {column: Counter() for column in columns}
    for row in warehouse.rows(sql, {"as_of": as_of}):
        for column, name in zip(columns, names, strict=True):
            if not row[f"left_{name}"] and row[name] is not None:
                found[column][row[name]] += row["row_count"]
    return found


def off_their_day(days: Callable[[date], Days], as_of: date) -> Iterator[Off]:
    """Columns with rows that come before their day, or are missing on the last day that the extract has at all.

    A row is there from the night of its own day on: what an extract as of that day lacks and a later one has was late.

    Args:
        days: `days_of` the extract as of a date; asked for `as_of`, and for one date more a last day.
    """
    now = days(as_of)
    asked: dict[date, Days] = {as_of: now}

    def seen(when: date) -> Days:
        return asked[when] if when in asked else asked.setdefault(when, days(when))

    for column, rows in now.items():
        if early := [day for day in rows if day > as_of]:
            yield Off(column, max(early), sum(rows[day] for day in early), sum(rows.values()), early=True)
        last = max((day for day in rows if day <= as_of), default=None)
        if last is None:
            continue
        after = as_of if last < as_of else as_of + timedelta(days=1)
        missing = (of := seen(after)[column][last]) - seen(last)[column][last]
        if missing > 0:
            yield Off(column, last, missing, of, early=False)


def has_zone(kind: pa.DataType) -> bool:
    """Whether values of a type are instants, whose day depends on the time zone."""
    return pa.types.is_timestamp(kind) and kind.tz is not None


def zone_what(timezone: str, day: date) -> str:
    """What `zone_differs` found, in words."""
    return f"the warehouse and this machine do not agree on when {day} begins in {timezone}"


def zone_differs(warehouse: Warehouse, timezone: str, start: date, end: date) -> date | None:
    """The first day from `start` to `end` that the warehouse or Polars begins at another instant than Python does.

    Each has time zone data of its own, which law changes faster than servers are updated.

    Args:
        warehouse: its sessions run in `timezone`.
    """
    first = datetime(start.year, start.month, start.day, tzinfo=UTC) - timedelta(days=1)
    count = (end - start + timedelta(days=3)) // _STEP
    instants = [first + number * _STEP for number in range(count)]
    begins: dict[date, datetime] = {}
    for instant in instants:
        begins.setdefault(local_day(instant, timezone), instant)
    rows = warehouse.rows(
        "SELECT day, min(instant) AS instant FROM (SELECT instant, CAST(instant AS DATE) AS day FROM "
        "generate_series($first, $last, INTERVAL '15 minutes') AS series(instant)) AS dated GROUP BY day",
        {"first": first, "last": instants[-1]},
    )
    told = pl.Series(instants, dtype=pl.Datetime("us", "UTC")).dt.convert_time_zone(timezone).dt.date().to_list()
    lake: dict[date, datetime] = {}
    for day, instant in zip(told, instants, strict=True):
        lake.setdefault(day, instant)
    server = {row["day"]: row["instant"] for row in rows}
    days = sorted(day for day in {*begins, *lake, *server} if start <= day <= end)
    return next((day for day in days if not begins.get(day) == lake.get(day) == server.get(day)), None)
