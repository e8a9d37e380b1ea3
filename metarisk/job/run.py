"""What a run rests on and where its files are: references that the steps of a night hand on."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from metarisk import lake, quality
from metarisk.adapt import Adapted, Recency
from metarisk.adapt import adapt as adapt_segments
from metarisk.calibration import Calibration
from metarisk.domain import DataError
from metarisk.job.champion import load_model
from metarisk.job.context import Context
from metarisk.lake.columns import BATCH_ROWS
from metarisk.tasks import newest, observed, population

LEVEL, RECENCY = "level.json", "recency.json"

DRIFTING = "drifting"
"""In the manifest of an adaptation: names of segments that drifted, as JSON; not there where none did."""

AROUND = "published_around"
"""In the manifest of an adaptation: when an earlier night was published or taken back last.

What an attempt that died left is no start for the next one where that is another time now: it rests on what stood then.
"""

EXCLUDED = "excluded"
"""In the manifest of an adaptation: the file of rows set aside, below the extract's folder, or null."""


@dataclass(frozen=True)
class Checked:
    """An extract with what its checks said; `quality.excluded` is the file of keys of rows that were set aside."""

    extract: lake.Extract
    quality: quality.Quality


@dataclass(frozen=True)
class Run:
    """One run's identity and where its files are."""

    run_id: str
    model_id: str
    recipe: str
    cut_off: date
    """Label cut-off of the model."""
    folder: Path
    checked: Checked
    config_hash: str
    code_version: str

    @property
    def extract(self) -> lake.Extract:
        """The run's extract."""
        return self.checked.extract


def adapted_to(context: Context, run: Run, model_id: str, known: pl.DataFrame, recency: Recency) -> Adapted:
    """A model adapted to the support of a night, `known`; where it borrows, also to segments without labels."""
    model = load_model(context, model_id)
    unlabelled = unlabelled_rows(context, run.checked, known) if model.borrows else None
    return adapt_segments(
        model, model_id, known, context.portfolio, context.spec, population=unlabelled, recency=recency
    )


def run_folder(context: Context, run_id: str) -> Path:
    """Where the files of a run of this night are."""
    return context.folder / "runs" / run_id


def support(context: Context, run: Run) -> pl.DataFrame:
    """Rows at risk with what was known of them at as_of, the newest of every segment, without quarantined ones."""
    limits = context.portfolio.thresholds
    rows = observed(scan(context, run.checked), context.portfolio, context.spec, context.job.as_of)
    return newest(rows, context.portfolio, per_segment=limits.max_support_rows, total=limits.max_training_rows)


def unlabelled_rows(context: Context, checked: Checked, known: pl.DataFrame) -> pl.DataFrame:
    """Rows to be scored of segments without any row in `known`, the newest up to the portfolio's maximum."""
    segments, limits = list(context.portfolio.columns.segments), context.portfolio.thresholds
    rows = population(scan(context, checked), context.portfolio, context.job.as_of)
    alone = rows.join(known.lazy().select(segments).unique(), on=segments, how="anti", maintain_order="left")
    return newest(alone, context.portfolio, per_segment=limits.max_support_rows, total=limits.max_training_rows)


def scan(context: Context, checked: Checked) -> pl.LazyFrame:
    """All rows of an extract but the quarantined ones."""
    frame = pl.scan_parquet(checked.extract.paths)
    excluded = checked.quality.excluded
    if excluded is None:
        return frame
    keys = lake.key_columns(context.portfolio)
    unwanted = pl.read_parquet(excluded).select(keys).to_struct().implode()
    # No join: a streamed one holds rows of the extract.
    return frame.filter(~pl.struct(keys).is_in(unwanted))


def score_files(run: Run) -> list[Path]:
    """Parquet files of the run's scores."""
    return sorted((run.folder / "score").glob("*.parquet"))


def score_batches(run: Run, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Some columns of the run's scores, in the order of entities, a batch at a time."""
    for path in score_files(run):
        yield from map(pl.DataFrame, pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=columns))


def load_adapted(context: Context, run: Run) -> Adapted:
    """The run's model with its adaptation; both are hash-checked before use."""
    folder = run.folder / "adapt"
    files = {name: (folder / name).read_bytes() for name in lake.verify(folder)["files"]}
    return Adapted.from_files(load_model(context, run.model_id), files)


def load_recency(run: Run) -> Recency:
    """How the supports of the run's drifting segments were weighted."""
    file = run.folder / "adapt" / RECENCY
    return Recency.from_bytes(file.read_bytes()) if file.exists() else Recency()


def load_level(run: Run) -> Calibration:
    """The level of the run's scores."""
    lake.verify(run.folder / "adapt")
    return Calibration(**json.loads((run.folder / "adapt" / LEVEL).read_bytes()))


def finished(folder: Path) -> bool:
    """Whether an earlier attempt left this step's folder whole."""
    try:
        lake.verify(folder)
    except DataError:
        return False
    return True
