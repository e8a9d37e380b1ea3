"""Appending rows to tables of the warehouse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from metarisk.domain import Transaction


def append_rows(transaction: Transaction, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows given as mappings; none is fine."""
    if rows:
        append_frame(transaction, table, pl.DataFrame([dict(row) for row in rows], infer_schema_length=None))


def append_frame(transaction: Transaction, table: str, frame: pl.DataFrame) -> None:
    """Append a frame by column name; an empty one is fine."""
    if frame.height:
        transaction.append(table, frame.to_arrow(compat_level=pl.CompatLevel.oldest()).to_batches())


def not_before(now: datetime, last: datetime | None) -> datetime:
    """`now`, or just after `last` where the clock has gone back since."""
    if last is None:
        return now
    last = last.replace(tzinfo=UTC) if last.tzinfo is None else last.astimezone(UTC)
    return max(now, last + timedelta(microseconds=1))
