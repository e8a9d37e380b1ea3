"""A small book for tests of the lake and of quality: its portfolio, good rows, and how to extract them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from metarisk import lake
from metarisk.domain import Columns, Feature, Portfolio, Source, Target

AS_OF = date(2025, 6, 30)

PORTFOLIO = Portfolio(
    name="book",
    risk="credit",
    source=Source("book.sql", "book.json"),
    columns=Columns("id", "opened", ("region",), "event", "known", exit_date="exit", protected=("gender",)),
    targets=(Target("pd_12m", horizon_months=12),),
    features={"income": Feature("numeric"), "channel": Feature("categorical"), "first": Feature("date-age")},
    timezone="Europe/Berlin",
)


def good(rows: int = 6) -> dict[str, pa.Array]:
    """Columns of a good extract."""
    opened = [date(2025, 1, 1) + timedelta(days=number % 150) for number in range(rows)]
    event = [day + timedelta(days=20) if number % 5 == 0 else None for number, day in enumerate(opened)]
    return {
        "id": pa.array([f"L{number:07}" for number in range(rows)]),
        "opened": pa.array(opened),
        "region": pa.array(["north" if number % 3 else "south" for number in range(rows)]),
        "event": pa.array(event, pa.date32()),
        "known": pa.array([day + timedelta(days=5) if day else None for day in event], pa.date32()),
        "exit": pa.array([None] * rows, pa.date32()),
        "income": pa.array([1000.0 + number for number in range(rows)]),
        "channel": pa.array([None if number % 4 == 3 else "web" for number in range(rows)]),
        "first": pa.array([day - timedelta(days=900) for day in opened]),
        "gender": pa.array(["f", "m"] * (rows // 2) + ["f"] * (rows % 2)),
    }


def changed(**columns: Any) -> pa.Table:
    """A good extract of six rows with some columns replaced; None takes one out."""
    merged = good() | {name: values if values is None else pa.array(values) for name, values in columns.items()}
    return pa.table({name: values for name, values in merged.items() if values is not None})


def extracted(
    rows: pa.Table | Iterable[pa.RecordBatch], root: Path, portfolio: Portfolio = PORTFOLIO, schema: pa.Schema = None
) -> lake.Extract:
    """The rows in the lake."""
    reader = rows.to_reader() if isinstance(rows, pa.Table) else pa.RecordBatchReader.from_batches(schema, rows)
    return lake.extract(
        [reader], portfolio, AS_OF, root, "q" * 64, memory_mb=256, threads=1, progress=lambda done, total, note: None
    )
