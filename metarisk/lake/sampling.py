"""Keys of an extract that is in the lake already: where the next one is cut into ranges that readers share."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from metarisk.domain import DataError, KeyRanges, Portfolio
from metarisk.folders import read_manifest

_GROUPS = 256
_VALUES = 4_096


def key_ranges(portfolio: Portfolio, root: Path) -> KeyRanges:
    """Ranges of the portfolio's entities for `source.partitions` readers, by its newest extract that can be read.

    The sample only balances the readers, so nothing is verified, and where there is no extract it is empty.

    Args:
        root: the lake.
    """
    column, count = portfolio.columns.entity, portfolio.source.partitions
    for folder in sorted((root / portfolio.name).glob("*-*-*/*/extract"), reverse=True) if count > 1 else ():
        with suppress(DataError, OSError, pa.ArrowException, KeyError, ValueError):  # damaged, or being removed
            return KeyRanges(column, count, _sample(folder, column))
    return KeyRanges(column, count)


def _sample(folder: Path, column: str) -> tuple[str, ...]:
    """Evenly spaced values of a column, which lies in order, in the memory of one row group."""
    sizes: dict[tuple[str, int], int] = {}
    for name in sorted(read_manifest(folder)["files"]):
        about = pq.read_metadata(folder / name)
        sizes |= {(name, number): about.row_group(number).num_rows for number in range(about.num_row_groups)}
    chosen = list(sizes)[:: -(-len(sizes) // _GROUPS)]
    step = max(1, sum(sizes[group] for group in chosen) // _VALUES)
    found: list[str] = []
    for name, number in chosen:
        values = pq.ParquetFile(folder / name).read_row_group(number, columns=[column])[column]
        found += values.take(pa.array(range(0, len(values), step))).cast(pa.string()).drop_null().to_pylist()
    return tuple(found)
