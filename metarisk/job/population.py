"""The population of an extract: in chunks that follow from the extract alone, and with its scores in a file.

What later nights are compared with, what changes beside the champion, how groups fare and what drifted are read off it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from metarisk import lake, scoring
from metarisk.adapt import Adapted, shifts
from metarisk.calibration import Calibration
from metarisk.domain import Array, DataError, Portfolio
from metarisk.job.context import Context
from metarisk.job.run import Checked, scan
from metarisk.lake.columns import BATCH_ROWS
from metarisk.tasks import latest_rows, population

SCORE, LINK = "__score", "__link"
"""Columns beside those of the extract: the score, and the score on the link scale with its level."""
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


@dataclass(frozen=True)
class FrameFile:
    """Frames of one schema in a Parquet file; what is held of them are a batch and counts, however many rows."""

    file: Path

    @classmethod
    def write(cls, frames: Iterable[pl.DataFrame], file: Path) -> FrameFile:
        """Write frames, of which there is at least one, in their order."""
        tables = (frame.to_arrow() for frame in frames)
        first = next(tables)
        with pq.ParquetWriter(file, first.schema, compression="lz4") as into:
            for table in chain([first], tables):
                into.write_table(table)
        return cls(file)

    @property
    def frame(self) -> pl.LazyFrame:
        """All rows, to be streamed."""
        return pl.scan_parquet(self.file)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """All rows, or some columns of them, in their order."""
        with pq.ParquetFile(self.file) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                yield pl.DataFrame(batch)

    def cut(self, column: str, share: float) -> float:
        """The value from which the highest share of a column lies, see scoring.reasons_cut."""
        return scoring.reasons_cut(lambda: (batch[column].to_numpy() for batch in self.batches([column])), share)


def score_population(context: Context, checked: Checked, adapted: Adapted, level: Calibration, file: Path) -> FrameFile:
    """Score the rows to be scored at as_of into a file, in the extract's order; DataError where there is none."""
    portfolio = context.portfolio
    batches = population_batches(context, checked)
    first = next(batches, None)
    if first is None:
        raise DataError(
            "no row is in the population to be scored, so nothing could be compared with later nights",
            portfolio=portfolio.name,
            column=portfolio.columns.opened_on,
            on=context.job.as_of,
            remedy="check as_of, the horizon, and the date columns of the extract",
        )

    def scored(frame: pl.DataFrame) -> pl.DataFrame:
        link = linked(frame, adapted, portfolio, level)
        return frame.with_columns(pl.Series(LINK, link), pl.Series(SCORE, scoring.mean_score(adapted, link)))

    return FrameFile.write(map(scored, chain([first], batches)), file)


def linked(frame: pl.DataFrame, adapted: Adapted, portfolio: Portfolio, level: Calibration) -> Array:
    """Link-scale scores (N,) of a frame's rows at a level."""
    return adapted.score(frame, portfolio)[0] + shifts(frame, portfolio, level)
