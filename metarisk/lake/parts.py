"""Frames cut into parts by the hash of a key, so that what is joined on it is held a part at a time."""

from __future__ import annotations

from pathlib import Path

import polars as pl

ROWS_A_PART = 1_000_000
_PART = "__part"


def parts_for(rows: int) -> int:
    """How many parts so many rows are cut into."""
    return 1 + rows // ROWS_A_PART


def parted(frame: pl.LazyFrame, key: str, parts: int, folder: Path) -> list[pl.LazyFrame]:
    """The rows of a frame in so many parts, by the hash of a key (the first step of a Grace hash join).

    Parts of the same number of two frames hold all rows whose keys are equal. One part is the frame itself; several are
    written, in one pass whose memory does not grow with rows.

    Args:
        folder: where they are written; it is made.
    """
    if parts == 1:
        return [frame]
    number = (pl.col(key).hash() % parts).alias(_PART)
    into = pl.PartitionBy(folder, key=number, include_key=False)
    frame.sink_parquet(into, mkdir=True, compression="lz4", maintain_order=True)
    empty = pl.LazyFrame(schema=frame.collect_schema())
    return [
        pl.scan_parquet(written / "*.parquet") if (written := folder / f"{_PART}={part}").exists() else empty
        for part in range(parts)
    ]
