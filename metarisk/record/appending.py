"""Appending rows to tables of schema `metarisk`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from metarisk.domain import Transaction

if TYPE_CHECKING:
    import pyarrow as pa


def append(transaction: Transaction, table: str, rows: pl.DataFrame | Sequence[Mapping[str, Any]]) -> None:
    """Append rows to a table of schema `metarisk`, a frame or mappings, by column name; none is fine."""
    frame = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame([*map(dict, rows)], infer_schema_length=None)
    if frame.height:
        append_batches(transaction, table, frame.to_arrow(compat_level=pl.CompatLevel.oldest()).to_batches())


def append_batches(transaction: Transaction, table: str, batches: Iterable[pa.RecordBatch]) -> None:
    """The same of a stream of Arrow batches, never all in memory."""
    transaction.append(f"metarisk.{table}", batches)


def not_before(now: datetime, last: datetime | None) -> datetime:
    """`now`, or just after `last` where the clock has gone back since."""
    if last is None:
        return now
    last = last.replace(tzinfo=UTC) if last.tzinfo is None else last.astimezone(UTC)
    return max(now, last + timedelta(microseconds=1))
