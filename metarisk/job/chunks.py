"""An extract in chunks that follow from the extract alone, and the population in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl
import pyarrow.parquet as pq

from metarisk import lake
from metarisk.job.context import Context
from metarisk.job.run import Checked, scan
from metarisk.lake.columns import BATCH_ROWS
from metarisk.tasks import latest_rows, population

CHUNK_GROUPS = 4
"""Row groups of an extract in a chunk: with those of the lake 262,144 rows, two batches."""


@dataclass(frozen=True)
class Chunk:
    """Row groups `first` to before `last` of one file of an extract."""

    number: int
    file: str
    first: int
    last: int
    rows: int
    before: int
    """Rows of the chunks before it."""


def chunks_of(extract: lake.Extract) -> list[Chunk]:
    """An extract cut into chunks of CHUNK_GROUPS row groups, in its order."""
    chunks: list[Chunk] = []
    before = 0
    for path in extract.paths:
        about = pq.read_metadata(path)
        for first in range(0, about.num_row_groups, CHUNK_GROUPS):
            last = min(first + CHUNK_GROUPS, about.num_row_groups)
            rows = sum(about.row_group(number).num_rows for number in range(first, last))
            chunks.append(Chunk(len(chunks), path.name, first, last, rows, before))
            before += rows
    return chunks


def population_batches(context: Context, checked: Checked) -> Iterator[pl.DataFrame]:
    """Population rows in the extract's order, a batch at a time."""
    for _, frames in population_chunks(context, checked, chunks_of(checked.extract)):
        yield from frames


def population_chunks(
    context: Context, checked: Checked, chunks: Iterable[Chunk]
) -> Iterator[tuple[Chunk, Iterator[pl.DataFrame]]]:
    """Each chunk with its population rows, a batch at a time."""
    excluded = checked.quality.excluded
    keys = lake.key_columns(context.portfolio)
    unwanted = pl.read_parquet(excluded, columns=keys) if excluded is not None else None
    latest = None
    if context.portfolio.population == "latest":
        found = latest_rows(scan(context, checked), context.portfolio, context.job.as_of)
        latest = found.collect(engine="streaming").lazy()

    def frames(chunk: Chunk) -> Iterator[pl.DataFrame]:
        with pq.ParquetFile(checked.extract.directory / chunk.file) as file:
            for batch in file.iter_batches(BATCH_ROWS, row_groups=range(chunk.first, chunk.last)):
                frame = pl.DataFrame(batch).lazy()
                if unwanted is not None:
                    frame = frame.join(unwanted.lazy(), on=keys, how="anti", maintain_order="left")
                rows = population(frame, context.portfolio, context.job.as_of, latest).collect()
                if rows.height:
                    yield rows

    for chunk in chunks:
        yield chunk, frames(chunk)
