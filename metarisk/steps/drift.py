"""The drift watch of a run: asks every measure what a week keeps beside the model, and what a night finds against it.

The mathematics is `metarisk.drift`. Nothing that is wrong with the data stops a night: what could not be seen has a row
that says why.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import polars as pl
import torch

from metarisk import lake, registry, scoring
from metarisk.adapt import Adapted
from metarisk.domain import Array
from metarisk.drift import MEASURES, TESTS
from metarisk.drift.decide import WORST_FIRST
from metarisk.drift.measure import Beside, Night, Scored, Week
from metarisk.job import published
from metarisk.job.context import Context
from metarisk.job.outcomes import first_scores
from metarisk.job.population import SCORE, FrameFile
from metarisk.job.run import Run, finished, load_recency, scan
from metarisk.job.storage import from_registry
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.tasks import LABEL

WORST = 10
"""Findings that a table or page shows."""


def reference(context: Context, adapted: Adapted, teach: pl.DataFrame, rows: FrameFile) -> dict[str, bytes]:
    """Files that stand beside a model: what later nights are compared with.

    Args:
        teach: the rows that taught (LABEL holds y).
        rows: the population at the label cut-off with its scores.
    """
    named = pl.col(SCORE).alias(context.portfolio.target.name)
    scored = Scored(rows.frame.with_columns(named), lambda: (part.with_columns(named) for part in rows.batches()))
    kept = Beside("", {}, context.reporter.warn)
    unseen = partial(_unseen, context, adapted, teach)
    week = Week(context.portfolio, context.spec, adapted, teach, scored, unseen, kept)
    for measure in MEASURES:
        if context.spec.label in measure.labels:
            kept.files.update(measure.keep(week))
    return kept.files


def _unseen(context: Context, adapted: Adapted, teach: pl.DataFrame) -> tuple[Array, Array] | None:
    """Scores and losses of the rows that taught, see `Week`."""
    if not all(base.parts for base in adapted.model.bases):
        return None
    link = adapted.score(teach, context.portfolio, adapted.model.unseen(teach))[0]
    y = torch.from_numpy(teach[LABEL].to_numpy(writable=True))
    loss = LIKELIHOODS[adapted.model.likelihood].loss(torch.from_numpy(link), y).numpy()
    return scoring.mean_score(adapted, link), loss


def drift(context: Context, run: Run) -> Path:
    """Compare the scored population with what stands beside the model; a folder with `drift.parquet`."""
    folder = run.folder / "drift"
    if not finished(folder):
        lake.verify(run.extract.directory)
        found, files = watch(context, run)
        with lake.staged(folder) as into:
            for name, table in {"drift.parquet": found, **files}.items():
                table.write_parquet(into / name)
            lake.write_manifest(into, {"run_id": run.run_id})
    found = pl.read_parquet(folder / "drift.parquet")
    title = f"Drift of {context.job.portfolio} {context.job.as_of}: the worst {WORST}"
    context.reporter.table("drift", title, worst(found))
    return folder


def watch(context: Context, run: Run) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """Every row of `drift_metric` of a run, and tables that its measures leave beside them."""
    with lake.scratch(run.folder) as private:
        scored = scored_population(context, run, private / "population.parquet")
        night = Night(
            context.portfolio, context.spec, context.job.as_of, run.cut_off,
            scored=Scored(scored.frame, scored.batches),
            extract=scan(context, run.checked),
            beside=beside(context, run.model_id),
            beside_of=partial(beside, context),
            first_scores=partial(first_scores, context),
            recency=load_recency(run),
        )  # fmt: skip
        for measure in MEASURES:
            if context.spec.label in measure.labels:
                night.found[measure.name] = measure.judge(night)
    return pl.concat(night.found.values()), night.files


def beside(context: Context, model_id: str) -> Beside:
    """What stands beside a model; ModelError where it is not whole."""
    return Beside(model_id, from_registry(context, model_id, registry.load), context.reporter.warn)


def scored_population(context: Context, run: Run, file: Path) -> FrameFile:
    """The population with its score in a column named by the target, which may be the name of its outcome as well.

    It is written to a file, a batch at a time: a join would hold the scores.
    """
    target = context.portfolio.target.name
    frames = (
        rows.drop(target, strict=False).rename({SCORE: target}).drop(published.SEGMENT, published.BASE_SCORE)
        for rows in published.scored_rows(published.Night(context, run))
    )
    return FrameFile.write(frames, file)


def worst(found: pl.DataFrame, most: int = WORST) -> list[dict[str, object]]:
    """The findings that want a look first, as a table to read: only tests, never what is described beside them."""
    order = pl.col("status").replace_strict({status: place for place, status in enumerate(WORST_FIRST)}, default=9)
    shown = found.filter(pl.col("metric").is_in(TESTS)).sort(
        order, -pl.col("effect").abs().fill_null(0.0), maintain_order=True
    )
    return (
        shown.head(most)
        .select(
            "status", pl.col("segment").fill_null("whole portfolio"), pl.col("feature").fill_null("-"), "metric",
            "value", "effect", "q", "n_cur", "detail",
        )
        .to_dicts()
    )  # fmt: skip
