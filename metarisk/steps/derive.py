"""What a risk type publishes beside its scores: further targets, and measures of whole portfolios."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from metarisk import lake, scoring
from metarisk.adapt import Adapted, shifts
from metarisk.domain import Array, DataError, Derived, NightView
from metarisk.job.context import Context
from metarisk.job.further import further_tables
from metarisk.job.population import population_batches
from metarisk.job.run import Run, finished, load_adapted, load_level, scan, score_files
from metarisk.record.models import trials
from metarisk.record.publications import published_between
from metarisk.record.scores import scores_published
from metarisk.tasks import as_known

DERIVED = "derived"
SCORES, MEASURES = "scores.parquet", "measures.parquet"
MEASURE: Mapping[str, type[pl.DataType]] = {
    "kind": pl.String,
    "item": pl.String,
    "segment": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "note": pl.String,
}


def derive(context: Context, run: Run) -> Path:
    """Ask the risk type what it makes of a scored night; a folder with `scores.parquet` and `measures.parquet`."""
    folder = run.folder / DERIVED
    if not finished(folder):
        _, last = published_between(context.warehouse, context.job.portfolio)
        write_derived(context, run, folder, context.clock() if last is None else max(context.clock(), _utc(last)))
    return folder


def write_derived(context: Context, run: Run, folder: Path, known: datetime) -> None:
    """Derive with what had been published by `known`."""
    ask = context.spec.derive
    found = Derived() if ask is None else ask(view(context, run, known))
    scores, measures = _scores(context, run, found), _measures(context, found)
    with lake.staged(folder) as into:
        scores.write_parquet(into / SCORES)
        measures.write_parquet(into / MEASURES)
        lake.write_manifest(into, {"run_id": run.run_id})


def view(context: Context, run: Run, known: datetime) -> NightView:
    """The night as its risk type sees it."""
    portfolio, as_of = context.portfolio, context.job.as_of
    adapted, level = load_adapted(context, run), load_level(run)
    unseen = bool(adapted.model.bases) and all(base.parts for base in adapted.model.bases)

    def score(frame: pl.DataFrame) -> Array:
        rows = adapted.model.unseen(frame) if unseen else adapted.model.fresh(frame)
        return scoring.mean_score(adapted, _link(adapted, frame, rows, context) + shifts(frame, portfolio, level))

    return NightView(
        portfolio,
        as_of,
        context.options,
        pl.concat(population_batches(context, run.checked)),
        pl.concat(pl.read_parquet(path) for path in score_files(run)),
        as_known(scan(context, run.checked), portfolio, as_of),
        further_tables(context, run.folder),
        score,
        lambda: published_scores(context, known),
        int(run.run_id[:8], 16),
        run.recipe,
        lambda: trials(context.warehouse, context.job.portfolio, run.model_id),
    )


def _link(adapted: Adapted, frame: pl.DataFrame, rows: tuple[Array, Array], context: Context) -> Array:
    return adapted.score(frame, context.portfolio, rows)[0]


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def published_scores(context: Context, known: datetime) -> pl.DataFrame:
    """Scores of earlier nights as they were known then, as far back as the risk type looks.

    Scores of the model's own target are judged, so that those of a backfill or a restatement count only where the
    source is bitemporal; what was derived, such as a weight that was held, is that of the newest publication.
    """
    portfolio, as_of = context.portfolio, context.job.as_of
    first = as_of - portfolio.target.matures_in - context.spec.look_back
    last, bitemporal = as_of - timedelta(days=1), portfolio.source.bitemporal
    about = portfolio.name, portfolio.target.name, first, last, known
    return scores_published(context.warehouse, *about, bitemporal=bitemporal)


def _scores(context: Context, run: Run, found: Derived) -> pl.DataFrame:
    """Rows for `risk_score`, checked: complete, finite, one a (entity, target), none under the model's own target."""
    given = pl.DataFrame(schema=scoring.SCHEMA) if found.scores is None else found.scores
    about = {"run_id": run.run_id, "portfolio": context.job.portfolio, "as_of": context.job.as_of, "status": "derived"}
    rows = given.with_columns(pl.lit(value).alias(name) for name, value in about.items())
    rows = rows.with_columns(
        pl.lit(None, kind).alias(name) for name, kind in scoring.SCHEMA.items() if name not in rows.columns
    ).select(pl.col(name).cast(kind) for name, kind in scoring.SCHEMA.items())
    bad = rows.filter(~pl.col("score").is_finite() | pl.col("score").is_null() | pl.col("entity").is_null())
    own = rows.filter(pl.col("target") == context.portfolio.target.name)
    twice = rows.filter(pl.struct("entity", "target").is_duplicated())
    for wrong, what in ((bad, "has no finite score"), (own, "is the model's own target"), (twice, "is scored twice")):
        if wrong.height:
            first = wrong.row(0, named=True)
            raise DataError(
                f"{wrong.height} derived scores are wrong: {first['target']} of {first['entity']} {what}",
                portfolio=context.job.portfolio,
                on=context.job.as_of,
                remedy=f"check what risk type {context.spec.name} derives from this night's rows",
            )
    return rows.sort("target", "entity")


def _measures(context: Context, found: Derived) -> pl.DataFrame:
    given = pl.DataFrame(schema=MEASURE) if found.measures is None else found.measures
    missing = [pl.lit(None, kind).alias(name) for name, kind in MEASURE.items() if name not in given.columns]
    rows = given.with_columns(missing).select(pl.col(name).cast(kind) for name, kind in MEASURE.items())
    # A number that is none is null in the warehouse.
    return rows.with_columns(
        pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in ("value", "low", "high")
    )
