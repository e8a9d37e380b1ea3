"""Published scores joined with what became of them, for back-tests, and what each night tells the table `outcome`."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from metarisk import lake
from metarisk.job.context import Context
from metarisk.job.inputs import same_horizon
from metarisk.record.outcomes import outcomes_told
from metarisk.record.publications import last_night, month_ends
from metarisk.record.scores import scores_of_target
from metarisk.tasks import LABEL, labelled

FRESH_DAYS = 31
"""A score counts as made at the opening when its month end is at most this much later."""
_FRESH = {"entity": pl.String, "published": pl.Date, "score": pl.Float64, "model_id": pl.String}
_HASH = pl.col("entity").hash()


def first_scores(context: Context, opened: pl.LazyFrame, first: date, last: date) -> Iterator[pl.DataFrame]:
    """Entities with the first score that was published at a month end from `first` to `last`, soon after their opening.

    Nights of a backfill or a restatement do not count, unless the source is bitemporal, nor do nights whose model
    predicted over another horizon. Only scores at most FRESH_DAYS old at their month end are taken, for later ones are
    about survivors.

    Args:
        opened: `entity`, `opened` (date), and what else is wanted of them, one row an entity.

    Yields:
        Its columns, `published` (date), `score` and `model_id` of parts of the entities, each in order: what is held
        does not grow with them but for eight bytes of those that opened within a month.
    """
    bitemporal = context.portfolio.source.bitemporal
    nights = month_ends(context.warehouse, context.job.portfolio, first, last, bitemporal=bitemporal)
    alike = {model: same_horizon(context, model) for model in {night["model_id"] for night in nights} if model}
    if other := [night["as_of"] for night in nights if not alike.get(night["model_id"], True)]:
        said = f"scores of {len(other)} month ends up to {max(other)} predicted over another horizon and are not judged"
        context.reporter.warn(f"{context.job.portfolio} {context.job.as_of}: {said}")
    nights = [night for night in nights if alike.get(night["model_id"], True)]
    if not nights:
        return
    rows = int(opened.select(pl.len()).collect(engine="streaming").item())
    with lake.scratch(context.folder.parent) as private:
        entities = lake.parted(opened, "entity", lake.parts_for(rows), private / "opened")
        spool = private / "scores.parquet"
        with pq.ParquetWriter(spool, pl.DataFrame(schema=_FRESH).to_arrow().schema) as file:
            for night in nights:
                for frame in _fresh_scores(context, pl.concat(entities), night):
                    file.write_table(frame.to_arrow())
        scores = lake.parted(pl.scan_parquet(spool), "entity", len(entities), private / "scores")
        age = (pl.col("published") - pl.col("opened")).dt.total_days()
        for published, of in zip(scores, entities, strict=True):
            fresh = published.join(of, on="entity").filter(age.is_between(0, FRESH_DAYS))
            found = fresh.collect(engine="streaming").sort("entity", "published", "opened")
            yield found.unique("entity", keep="first", maintain_order=True)


def _fresh_scores(context: Context, opened: pl.LazyFrame, night: dict[str, Any]) -> Iterator[pl.DataFrame]:
    """Scores of a night whose entity opened within FRESH_DAYS before it, and of a few others of the same hash."""
    as_of: date = night["as_of"]
    soon = pl.col("opened").is_between(as_of - timedelta(days=FRESH_DAYS), as_of)
    hashes = opened.filter(soon).select(_HASH).collect(engine="streaming").to_series().sort().to_numpy()
    if not len(hashes):
        return
    about = {"published": pl.lit(as_of), "model_id": pl.lit(night["model_id"], pl.String)}
    with scores_of_target(context.warehouse, night["run_id"], as_of, context.portfolio.target.name) as reader:
        for batch in reader:
            frame = pl.DataFrame(batch)
            mine = frame.select(_HASH).to_series().to_numpy()
            nearest = hashes[np.minimum(np.searchsorted(hashes, mine), len(hashes) - 1)]
            yield frame.filter(pl.Series(nearest == mine)).with_columns(**about).select(*_FRESH)


def published_outcomes(context: Context, frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """One row an entity whose outcome is known, in parts: `cohort`, `score`, LABEL.

    Its score is that of `first_scores`. Cohorts are years of opening, so no entity is in two. Nothing where the target
    is no event.
    """
    portfolio, job, columns = context.portfolio, context.job, context.portfolio.columns
    if context.spec.label != "event":
        return
    known = labelled(frame, portfolio, context.spec, job.as_of).select(
        pl.col(columns.entity).alias("entity"), pl.col(columns.opened_on).cast(pl.Date).alias("opened"), LABEL
    )
    cohort = pl.col("opened").dt.year().cast(pl.String).alias("cohort")
    for part in first_scores(context, known, date.min, job.as_of):
        yield part.select(cohort, "score", LABEL)


def new_outcomes(context: Context, frame: pl.LazyFrame, rows: int) -> Iterator[pl.DataFrame]:
    """Rows for the table `outcome`: of a night's extract what is new, late or corrected since it was told last.

    An event that the extract no longer has is told with value 0. Outcomes follow time: a night of the past tells
    nothing, for it may not know what a newer one has told. A value has the opening date of its row for an event date;
    values known before the `look_back` are not compared.

    Args:
        frame: the extract.
        rows: how many it has: they are compared in parts, so that memory does not grow with them.
    """
    columns, job, spec = context.portfolio.columns, context.job, context.spec
    newest = last_night(context.warehouse, job.portfolio)
    if columns.known_date is None or (newest is not None and newest > job.as_of):
        return
    first = None if columns.event_date is not None else job.as_of - spec.look_back
    with lake.scratch(context.folder.parent) as private:
        told = private / "told.parquet"
        with (
            outcomes_told(context.warehouse, job.portfolio, context.portfolio.target.name) as reader,
            pq.ParquetWriter(told, reader.schema) as file,
        ):
            for batch in reader:
                file.write_batch(batch)
        parts = lake.parts_for(rows)
        now = lake.parted(_known(context, frame, first), "entity", parts, private / "now")
        before = lake.parted(pl.scan_parquet(told), "entity", parts, private / "before")
        for pair in zip(now, before, strict=True):
            yield _differing(context, *pair)


def _known(context: Context, frame: pl.LazyFrame, first: date | None) -> pl.LazyFrame:
    """Of each row of an extract its outcome as known at as_of: value 0 and no dates where there is none yet."""
    columns, as_of = context.portfolio.columns, pl.lit(context.job.as_of)
    known = pl.col(str(columns.known_date)).cast(pl.Date)
    told = columns.event_date or str(columns.value)
    there = (known.is_not_null() & (known <= as_of) & pl.col(told).is_not_null()).fill_null(False)
    event, value = pl.col(columns.event_date or columns.opened_on).cast(pl.Date), pl.lit(1.0)
    if columns.event_date is None:
        value = pl.col(told).cast(pl.Float64)
        frame = frame.filter(there if first is None else there & (known > pl.lit(first)))
    return frame.select(
        pl.col(columns.entity).cast(pl.String).alias("entity"),
        pl.col(columns.opened_on).cast(pl.Date).alias("opened_on"),
        pl.when(there).then(event).alias("event_date"),
        pl.when(there).then(known).alias("known_date"),
        pl.when(there).then(value).otherwise(0.0).alias("value"),
    )


def _differing(context: Context, now: pl.LazyFrame, before: pl.LazyFrame) -> pl.DataFrame:
    """Rows of `now` that are not as they were told, numbered after what was told; what never was is no news."""
    keys, said = ["entity", "opened_on"], ["event_date", "known_date", "value"]
    happened = pl.col("known_date").is_not_null()
    joined = now.join(before, on=keys, how="left")
    same = pl.col("value").eq_missing(pl.col("old_value"))
    for name, old in (("event_date", "old_event"), ("known_date", "old_known")):
        same &= ~happened | pl.col(name).eq_missing(pl.col(old))
    news = joined.filter(~same & (happened | pl.col("old_seq").is_not_null())).collect(engine="streaming")
    return (
        news.sort(*keys, *said)
        .unique(keys, keep="last", maintain_order=True)
        .select(
            pl.lit(context.job.portfolio).alias("portfolio"),
            "entity",
            pl.lit(context.portfolio.target.name).alias("target"),
            "opened_on",
            "event_date",
            pl.col("known_date").fill_null(pl.lit(context.job.as_of)),
            "value",
            pl.lit(context.job.as_of).alias("as_of"),
            (1 + pl.col("old_seq").fill_null(0)).cast(pl.Int32).alias("seq"),
        )
    )
