"""What reviewers say of scored rows, from a file into the warehouse, where the extracts of later nights read it."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from metarisk.domain import DataError
from metarisk.job.acceptance import require_person
from metarisk.job.archive import archives, file_of, folder_of
from metarisk.job.context import Context
from metarisk.lake.brought import read
from metarisk.record.appending import append
from metarisk.record.outcomes import feedback
from metarisk.record.scores import first_scored
from metarisk.record.seals import SCORES, trusted_events

VERDICTS = ("confirmed", "cleared")


@dataclass(frozen=True)
class Taken:
    """Lines that were appended, by verdict, and those that had been recorded before."""

    confirmed: int
    cleared: int
    known: int


def give_feedback(context: Context, file: Path, author: str) -> Taken:
    """Append the verdicts of a CSV or Parquet file: entity, verdict, decided_on, and where there is one note.

    A line that was recorded before changes nothing. Either all lines are taken or none.

    Raises:
        ConfigError: nobody is named as the author.
        DataError: a column is missing, a verdict is another word, a date is missing, lies after the job's as_of or
            before the row was scored, one entity comes twice, or it was never scored.
    """
    require_person(context, author)
    portfolio, as_of = context.job.portfolio, context.job.as_of
    lines = _read(context, file)
    joined = lines.join(_first_scored(context, lines), on="entity", how="left", maintain_order="left")
    day = pl.col("decided_on")
    for wrong, what, remedy in (
        (~pl.col("verdict").is_in(VERDICTS).fill_null(False), "has another verdict", f"use {' or '.join(VERDICTS)}"),
        (day.is_null(), "has no date in decided_on", "write YYYY-MM-DD"),
        (day > pl.lit(as_of), f"was decided after {as_of}", "correct the date"),
        (pl.col("entity").is_duplicated(), "comes more than once", "keep the last verdict"),
        (pl.col("first_scored").is_null(), "was never scored", "name entities of published nights"),
        (day < pl.col("first_scored"), "was decided before it was scored", "correct the date"),
    ):
        bad = joined.filter(wrong)
        if bad.height:
            raise DataError(
                f"{bad.height:,} of {joined.height:,} lines of {file.name} are wrong: {bad['entity'][0]} {what}",
                portfolio=portfolio,
                on=as_of,
                remedy=remedy,
            )
    keys = ["entity", "verdict", "decided_on"]
    with context.warehouse.transaction() as transaction:
        before = feedback(transaction, portfolio)
        schema = {"entity": pl.String, "verdict": pl.String, "decided_on": pl.Date, "seq": pl.Int64}
        recorded = pl.DataFrame(before, schema=schema)
        new = lines.join(recorded, on=keys, how="anti", maintain_order="left")
        last = max((row["seq"] for row in before), default=0)
        append(
            transaction,
            "feedback",
            new.with_columns(
                portfolio=pl.lit(portfolio),
                seq=last + pl.int_range(1, pl.len() + 1, dtype=pl.Int64),
                recorded_at=pl.lit(context.clock()),
                author=pl.lit(author),
            ),
        )
    context.warehouse.snapshot()
    confirmed = int((new["verdict"] == "confirmed").sum())
    return Taken(confirmed, new.height - confirmed, lines.height - new.height)


def _first_scored(context: Context, lines: pl.DataFrame) -> pl.DataFrame:
    """The first night that scored each entity of the file, in the warehouse or in the archive of pruned nights."""
    named = lines.select("entity").unique()
    parts = [pl.DataFrame(schema={"entity": pl.String, "first_scored": pl.Date})]
    with first_scored(context.warehouse, context.job.portfolio) as reader:
        parts += [pl.DataFrame(batch).join(named, on="entity", how="semi") for batch in reader]
    for run, archive in archives(trusted_events(context.warehouse, context.job.portfolio)).items():
        file = folder_of(context, run, archive.as_of) / file_of(SCORES)
        if file.exists():
            scored = pl.scan_parquet(file).join(named.lazy(), on="entity", how="semi").select("entity").unique()
            parts.append(scored.collect(engine="streaming").with_columns(first_scored=pl.lit(archive.as_of)))
    return pl.concat(parts).group_by("entity").agg(pl.col("first_scored").min())


def _read(context: Context, file: Path) -> pl.DataFrame:
    try:
        with read(file) as reader:
            lines = pl.DataFrame(reader.read_all())
    except pa.ArrowException as error:
        raise DataError(f"{file.name} cannot be read: {error}", remedy="correct or convert the file") from None
    missing = [name for name in ("entity", "verdict", "decided_on") if name not in lines.columns]
    if missing:
        raise DataError(
            f"{file.name} lacks {', '.join(missing)}",
            portfolio=context.job.portfolio,
            remedy="give a line a verdict with columns entity, verdict, decided_on and, if you like, note",
        )
    if "note" not in lines.columns:
        lines = lines.with_columns(note=pl.lit(None, pl.String))
    return lines.select(
        pl.col("entity", "verdict", "note").cast(pl.String), pl.col("decided_on").cast(pl.Date, strict=False)
    )
