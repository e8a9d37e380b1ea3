"""A population with its scores, in a file: written a batch at a time and read as a stream.

What later nights are compared with, what changes beside the champion, how groups fare and what drifted are read off it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from metarisk import scoring
from metarisk.adapt import Adapted, shifts
from metarisk.calibration import Calibration
from metarisk.domain import Array, DataError, Portfolio
from metarisk.job.chunks import population_batches
from metarisk.job.context import Context
from metarisk.job.published import SCORE
from metarisk.job.run import Checked
from metarisk.lake.columns import BATCH_ROWS

LINK = "__link"
"""Column beside those of the extract and SCORE: the score on the link scale with its level."""


@dataclass(frozen=True)
class Spilled:
    """Frames of one schema in a Parquet file; what is held of them are a batch and counts, however many rows."""

    file: Path

    @classmethod
    def write(cls, frames: Iterable[pl.DataFrame], file: Path) -> Spilled:
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


def score_population(context: Context, checked: Checked, adapted: Adapted, level: Calibration, file: Path) -> Spilled:
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

    return Spilled.write(map(scored, chain([first], batches)), file)


def linked(frame: pl.DataFrame, adapted: Adapted, portfolio: Portfolio, level: Calibration) -> Array:
    """Link-scale scores (N,) of a frame's rows at a level."""
    return adapted.score(frame, portfolio)[0] + shifts(frame, portfolio, level)
