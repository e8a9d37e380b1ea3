"""Published scores joined with what became of them, for back-tests."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import polars as pl

from metarisk.domain import Scalar
from metarisk.pipeline.context import Context
from metarisk.tasks import LABEL, labelled

FRESH_DAYS = 31
"""A score counts as made at the opening when its month end is at most this much later."""

PUBLICATIONS = """
SELECT
    p.as_of, p.run_id, r.model_id, p.seq = max(p.seq) OVER (PARTITION BY p.as_of) AS newest,
    p.seq = max(CASE WHEN r.mode = 'nightly' OR $bitemporal THEN p.seq END) OVER (PARTITION BY p.as_of) AS proves
FROM metarisk.publication AS p
JOIN metarisk.run AS r ON r.run_id = p.run_id
WHERE p.portfolio = $portfolio AND p.as_of >= $first AND p.as_of <= $last
AND ($known IS NULL OR p.published_at <= $known)
"""
"""Of each night the newest publication, and the newest that may prove something: one that was made at its time.

A backfill or a restatement reads what the source has become, unless the source is declared bitemporal.
"""
_MONTH_ENDS = f"""
SELECT as_of, run_id, model_id FROM (
    SELECT
        as_of, run_id, model_id,
        row_number() OVER (PARTITION BY date_trunc('month', as_of) ORDER BY as_of DESC) AS from_end
    FROM ({PUBLICATIONS}) AS p WHERE proves
) AS n WHERE from_end = 1
ORDER BY as_of
"""  # noqa: S608 - constants only
_SCORES = """
SELECT entity, score FROM metarisk.risk_score WHERE run_id = $run_id AND as_of = $as_of AND target = $target
"""


def window(context: Context, first: date, last: date, known: datetime | None = None) -> dict[str, Scalar]:
    """Parameters of PUBLICATIONS: nights from `first` to `last`, as published by `known` where that is given."""
    portfolio = context.portfolio
    about: dict[str, Scalar] = {"portfolio": portfolio.name, "bitemporal": portfolio.source.bitemporal}
    return about | {"first": first, "last": last, "known": known}


def month_ends(context: Context, first: date, last: date) -> list[dict[str, Any]]:
    """Night, run and model of what back-tests read: in each month the last night that may prove something."""
    return context.warehouse.rows(_MONTH_ENDS, window(context, first, last))


def first_scores(context: Context, opened: pl.DataFrame, first: date, last: date) -> pl.DataFrame:
    """The first score of each entity that was published at a month end from `first` to `last`, soon after its opening.

    Nights of a backfill or a restatement do not count, unless the source is bitemporal.

    Args:
        opened: `entity` and `opened` (date), one row an entity.

    Returns:
        `entity`, `published` (date), `score` and `model_id`; only scores at most FRESH_DAYS old at their month end, for
        later ones are about survivors. The scores of a month end are streamed past the entities opened before it.
    """
    portfolio = context.portfolio
    found = [
        pl.DataFrame(schema={"entity": pl.String, "published": pl.Date, "score": pl.Float64, "model_id": pl.String})
    ]
    for night in month_ends(context, first, last):
        age = (pl.lit(night["as_of"]) - pl.col("opened")).dt.total_days()
        fresh = opened.filter(age.is_between(0, FRESH_DAYS)).select("entity")
        if fresh.is_empty():
            continue
        parameters = {"run_id": night["run_id"], "as_of": night["as_of"], "target": portfolio.target.name}
        about = pl.lit(night["as_of"]).alias("published"), pl.lit(night["model_id"], pl.String).alias("model_id")
        with context.warehouse.stream(_SCORES, parameters) as reader:
            parts = [pl.DataFrame(batch).join(fresh, on="entity") for batch in reader]
        found += [part.with_columns(*about).select(found[0].columns) for part in parts]
    return pl.concat(found).sort("entity", "published").unique("entity", keep="first", maintain_order=True)


def published_outcomes(context: Context, frame: pl.LazyFrame) -> pl.DataFrame:
    """One row an entity whose outcome is known: `cohort`, `entity`, `score`, LABEL.

    Its score is that of `first_scores`. Cohorts are years of opening, so no entity is in two. Empty where the target is
    no event.
    """
    portfolio, job, columns = context.portfolio, context.job, context.portfolio.columns
    if context.spec.label != "event":
        return pl.DataFrame(schema={"cohort": pl.String, "entity": pl.String, "score": pl.Float64, LABEL: pl.Float64})
    known = labelled(frame, portfolio, context.spec, job.as_of).select(
        pl.col(columns.entity).alias("entity"), pl.col(columns.opened_on).cast(pl.Date).alias("opened"), LABEL
    )
    judged = known.collect(engine="streaming")
    scores = first_scores(context, judged, date.min, job.as_of)
    return scores.join(judged, on="entity", maintain_order="left").select(
        pl.col("opened").dt.year().cast(pl.String).alias("cohort"), "entity", "score", LABEL
    )
