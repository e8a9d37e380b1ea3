"""Scores for the rows of a file, by what a published night made of the champion; nothing is published."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

from metarisk import lake, scoring
from metarisk.domain import DataError, Portfolio
from metarisk.job.champion import load_card
from metarisk.job.context import Context
from metarisk.job.published import published
from metarisk.job.run import load_adapted, load_level
from metarisk.lake.brought import read

ABOUT = ("run_id", "portfolio", "as_of", "target", "adaptation_id")
"""Columns of scoring.SCHEMA that say the same of every row, or nothing of the row itself."""


def answer(context: Context, file: Path) -> pl.DataFrame:
    """Scores (N rows of scoring.SCHEMA less ABOUT) in the file's order, as the published night of the job's date would
    have given them.

    The file has the columns of the extract; those of outcomes may be missing, and are not read.

    Raises:
        DataError: a column is missing or of another kind, an entity is missing or comes twice, the file has no row, or
            the night is not published or its files are no longer whole.
    """
    night = published(context, context.job.as_of)
    portfolio, run = night.context.portfolio, night.run
    card = load_card(night.context, run.model_id)
    parts = list(
        scoring.score(
            rows_of(file, portfolio, context),
            load_adapted(night.context, run),
            portfolio,
            run_id=run.run_id,
            as_of=night.as_of,
            level=load_level(run),
            reasons_from=card.reasons_from,
            known_range=card.known_range,
        )
    )
    found = pl.concat(parts) if parts else pl.DataFrame(schema=scoring.KEPT)
    wrong = found.filter(pl.col("entity").is_null() | pl.col("entity").is_duplicated())
    if wrong.height or not found.height:
        what = f"{wrong.height:,} of {found.height:,} rows of {file.name} have no entity, or one that comes twice"
        raise DataError(
            what if found.height else f"{file.name} has no row",
            portfolio=portfolio.name,
            column=portfolio.columns.entity,
            remedy="give every row an entity of its own",
        )
    return found.drop(*ABOUT, scoring.BASE)


def rows_of(file: Path, portfolio: Portfolio, context: Context) -> Iterator[pl.DataFrame]:
    """Rows of a CSV or Parquet file in the canonical form of an extract, a batch at a time."""
    try:
        with read(file) as reader:
            kinds = lake.check_schema(_with_outcomes(reader.schema, portfolio), portfolio, context.job.as_of)
            notes = lake.Notes()
            for batch in reader:
                absent = [name for name in kinds if name not in batch.schema.names]
                columns = {name: batch.column(name) for name in kinds if name not in absent}
                columns |= {name: pa.nulls(batch.num_rows) for name in absent}
                yield pl.DataFrame(lake.canonical(pa.RecordBatch.from_pydict(columns), kinds, portfolio, notes))
    except pa.ArrowException as error:
        raise DataError(f"{file.name} cannot be read: {error}", remedy="correct or convert the file") from None


def _with_outcomes(schema: pa.Schema, portfolio: Portfolio) -> pa.Schema:
    """The schema with what a new row cannot have: an outcome."""
    columns = portfolio.columns
    outcomes = (columns.event_date, columns.known_date, columns.exit_date, columns.settled_on, columns.booked_on)
    for name in dict.fromkeys((*outcomes, columns.label, columns.value)):
        if name is not None and name not in schema.names:
            schema = schema.append(pa.field(name, pa.null()))
    return schema
