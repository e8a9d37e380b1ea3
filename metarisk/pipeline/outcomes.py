"""Published scores joined with what became of them, for back-tests."""

from __future__ import annotations

import polars as pl

from metarisk.domain import Scalar
from metarisk.pipeline.context import Context
from metarisk.tasks import LABEL, labelled

FRESH_DAYS = 31
"""A score counts as made at the opening when its month end is at most this much later."""

_MONTH_ENDS = """
SELECT s.entity, s.as_of, s.score
FROM metarisk.score_history AS s
JOIN (
    SELECT max(as_of) AS as_of FROM metarisk.publication_current
    WHERE portfolio = $portfolio AND as_of <= $as_of
    GROUP BY date_trunc('month', as_of)
) AS e ON e.as_of = s.as_of
WHERE s.portfolio = $portfolio AND s.target = $target
"""


def published_outcomes(context: Context, frame: pl.LazyFrame) -> pl.DataFrame:
    """One row an entity whose outcome is known: `cohort`, `entity`, `score`, LABEL.

    Its score is the first one published at a month end, if that was at most FRESH_DAYS after it was opened: later ones
    are about survivors. Cohorts are years of opening, so no entity is in two. Empty where the target is no event.
    """
    portfolio, job, columns = context.portfolio, context.job, context.portfolio.columns
    schema = {"cohort": pl.String, "entity": pl.String, "score": pl.Float64, LABEL: pl.Float64}
    if context.spec.label != "event":
        return pl.DataFrame(schema=schema)
    known = labelled(frame, portfolio, context.spec, job.as_of).select(
        pl.col(columns.entity).alias("entity"), pl.col(columns.opened_on).cast(pl.Date).alias("opened"), LABEL
    )
    judged = known.collect(engine="streaming")
    parts = []
    parameters: dict[str, Scalar] = {"portfolio": portfolio.name, "as_of": job.as_of, "target": portfolio.target.name}
    with context.warehouse.stream(_MONTH_ENDS, parameters) as reader:
        for batch in reader:
            scores = pl.DataFrame(batch)
            age = (pl.col("as_of") - pl.col("opened")).dt.total_days()
            parts.append(scores.join(judged, on="entity").filter(age.is_between(0, FRESH_DAYS)))
    if not parts:
        return pl.DataFrame(schema=schema)
    first = pl.concat(parts).sort("entity", "as_of").unique("entity", keep="first", maintain_order=True)
    return first.select(pl.col("opened").dt.year().cast(pl.String).alias("cohort"), "entity", "score", LABEL)
