"""The drift watch of a run: what a week keeps beside the model, and what a night compares with it.

The mathematics is `metarisk.drift`. Nothing that is wrong with the data stops a night: what could not be seen has a row
that says why.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import torch

from metarisk import drift as drifts
from metarisk import lake, registry, scoring
from metarisk.adapt import Adapted, Recency
from metarisk.domain import Array, Feature, ModelError, Portfolio
from metarisk.drift import direct, early, labels, multivariate, performance
from metarisk.job.context import Context
from metarisk.job.outcomes import first_scores
from metarisk.job.population import SCORE, FrameFile
from metarisk.job.published import BASE_SCORE, SEGMENT, Night, scored_rows
from metarisk.job.remedy import RECENCY, remedy_rows
from metarisk.job.run import Run, finished, scan
from metarisk.job.storage import from_registry
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.tasks import LABEL, MATURE, labelled, matured, observed, periods_known, teaching

HISTOGRAMS, SCORES, LABELS, SAMPLE, CURVE = (
    "reference.parquet", "reference.scores.parquet", "reference.labels.parquet", "reference.sample.parquet",
    "curve.json",
)  # fmt: skip
COUNTED = "histograms.parquet"
"""A night's own histograms, on the bins of its model's reference."""
LOSS_MODEL, LOSSES = "reference.loss.json", "reference.loss.parquet"
WORST = 10
_ORDER = {early.SUSPECTED: 0, "alert": 1, "watch": 2, "blind": 3, "ok": 4}


def reference(context: Context, adapted: Adapted, teach: pl.DataFrame, rows: FrameFile) -> dict[str, bytes]:
    """Files that stand beside a model: what later nights are compared with.

    Args:
        teach: the rows that taught (LABEL holds y).
        rows: the population at the label cut-off with its scores.
    """
    portfolio, columns, target = context.portfolio, context.portfolio.columns, context.portfolio.target.name
    scored = rows.frame.with_columns(pl.col(SCORE).alias(target))
    known = drifts.reference(scored, _watched(portfolio), columns.segments, opened_on=columns.opened_on, score=target)
    files = {
        HISTOGRAMS: known,
        SAMPLE: multivariate.sample(scored, drifts.bins_of(known)),
    }
    texts = {CURVE: json.dumps(adapted.model.shares().tolist()).encode()}
    if context.spec.label == "event":
        files[SCORES] = performance.count(scored, columns.segments, target)
        files[LABELS] = labels.count(teaching(teach, hazard=False), columns.segments)
    elif all(base.parts for base in adapted.model.bases):
        unseen = adapted.score(teach, portfolio, adapted.model.unseen(teach))[0]
        likelihood = LIKELIHOODS[adapted.model.likelihood]
        loss = likelihood.loss(torch.from_numpy(unseen), torch.from_numpy(teach[LABEL].to_numpy(writable=True))).numpy()
        said = scoring.mean_score(adapted, unseen)
        model = direct.LossModel.fit(teach, said, loss, portfolio.features, columns.opened_on)
        losses = ((part, model.predict(part, part[SCORE].to_numpy())) for part in rows.batches())
        files[LOSSES] = direct.summed(losses, columns.segments)
        texts[LOSS_MODEL] = model.to_bytes()
    return texts | {name: _parquet(frame) for name, frame in files.items()}


def _watched(portfolio: Portfolio) -> dict[str, Feature]:
    """Features that are watched: not those that all rows of a date share, of which a night is one observation."""
    return {name: feature for name, feature in portfolio.features.items() if not feature.common}


def drift(context: Context, run: Run) -> Path:
    """Compare the scored population with what stands beside the model; a folder with `drift.parquet`."""
    folder = run.folder / "drift"
    if not finished(folder):
        lake.verify(run.extract.directory)
        found, counted = watch(context, run)
        with lake.staged(folder) as into:
            found.write_parquet(into / "drift.parquet")
            if counted.width:
                counted.write_parquet(into / COUNTED)
            lake.write_manifest(into, {"run_id": run.run_id})
    found = pl.read_parquet(folder / "drift.parquet")
    title = f"Drift of {context.job.portfolio} {context.job.as_of}: the worst {WORST}"
    context.reporter.table("drift", title, worst(found))
    return folder


def watch(context: Context, run: Run) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Every row of `drift_metric` of a run, and its histograms."""
    portfolio, columns, target = context.portfolio, context.portfolio.columns, context.portfolio.target.name
    beside = kept(context, run.model_id)
    known = beside.get(HISTOGRAMS)
    features = [*_watched(portfolio), target]
    with lake.scratch(run.folder) as private:
        scored = scored_population(context, run, private / "population.parquet")
        night = scored.frame
        found, counted = drifts.watch(night, known, features=features)
        parts = [found, _together(night, known, beside.get(SAMPLE))]
        if context.spec.label == "event":
            now = performance.count(night, columns.segments, target)
            estimated, first = performance.compare(columns.segments, beside.get(SCORES), now), _earliest(context, run)
            parts += [
                labels.compare(columns.segments, beside.get(LABELS), _matured_since(context, run)),
                estimated, first, early.concept(estimated, first),
            ]  # fmt: skip
        else:
            parts.append(_direct(context, run, scored, beside))
    decided = run.folder / "adapt" / RECENCY
    if decided.exists():
        parts.append(remedy_rows(Recency.from_bytes(decided.read_bytes())))
    return pl.concat(parts), counted


def scored_population(context: Context, run: Run, file: Path) -> FrameFile:
    """The population with its score in a column named by the target, which may be the name of its outcome as well.

    It is written to a file, a batch at a time: a join would hold the scores.
    """
    target = context.portfolio.target.name
    frames = (
        rows.drop(target, strict=False).rename({SCORE: target}).drop(SEGMENT, BASE_SCORE)
        for rows in scored_rows(Night(context, run))
    )
    return FrameFile.write(frames, file)


def worst(found: pl.DataFrame, most: int = WORST) -> list[dict[str, object]]:
    """The findings that want a look first, as a table to read: only tests, never what is described beside them."""
    order = pl.col("status").replace_strict(_ORDER, default=9)
    shown = found.filter(pl.col("metric").is_in(drifts.TESTS)).sort(
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


def kept(context: Context, model_id: str) -> dict[str, pl.DataFrame]:
    """Tables that stand beside a model; one that this version cannot read is as good as absent."""
    files = from_registry(context, model_id, registry.load)
    found = {}
    for name in (HISTOGRAMS, SCORES, LABELS, SAMPLE, LOSSES):
        try:
            found[name] = pl.read_parquet(io.BytesIO(files[name]))
        except KeyError:
            continue
        except pl.exceptions.PolarsError as error:
            context.reporter.warn(f"{name} of model {model_id} cannot be read: {error}")
    if HISTOGRAMS in found and not drifts.readable(found[HISTOGRAMS]):
        context.reporter.warn(f"{HISTOGRAMS} of model {model_id} is of another version: run the weekly")
        del found[HISTOGRAMS]
    return found


def _together(night: pl.LazyFrame, known: pl.DataFrame | None, sample: pl.DataFrame | None) -> pl.DataFrame:
    if known is None or sample is None:
        return multivariate.judge(None, pl.DataFrame())
    return multivariate.judge(sample, multivariate.sample(night, drifts.bins_of(known)))


def _matured_since(context: Context, run: Run) -> pl.DataFrame:
    """Labels of rows that matured after the model's label cut-off, counted by segment."""
    portfolio = context.portfolio
    new = scan(context, run.checked).filter(~matured(portfolio, portfolio.target, run.cut_off))
    return labels.count(labelled(new, portfolio, context.spec, context.job.as_of), portfolio.columns.segments)


def _earliest(context: Context, run: Run) -> pl.DataFrame:
    """What became by now of the scores published in the last horizon, or one row that says why nothing can be told."""
    known = _known(context, run)
    if not len(known.cells):
        reason = "no published score has known months on book yet: the first are judged a month and the lag after it"
        return drifts.blind(reason, metric="early_events")
    return early.judge(context.portfolio.columns.segments, known)


def _known(context: Context, run: Run) -> early.Known:
    """Entities scored soon after their opening in the last horizon, with what is known of them at as_of."""
    portfolio, job, target, columns = (
        context.portfolio,
        context.job,
        context.portfolio.target,
        context.portfolio.columns,
    )
    found = early.Known()
    if not portfolio.periods:
        return found
    months, days = target.horizon_months + target.reporting_lag_months, target.horizon_days + target.reporting_lag_days
    first: date = pl.select(pl.lit(job.as_of - timedelta(days=days)).dt.offset_by(f"-{months + 1}mo")).item()
    frame = scan(context, run.checked).filter(pl.col(columns.opened_on) > pl.lit(first))
    rows = observed(frame.with_columns(__seen=periods_known(portfolio, job.as_of)), portfolio, context.spec, job.as_of)
    at_risk = rows.select(
        pl.col(columns.entity).alias("entity"), pl.col(columns.opened_on).cast(pl.Date).alias("opened"),
        *(drifts.segment_column(name).alias(f"__{name}") for name in columns.segments), LABEL, MATURE, "__seen",
    )  # fmt: skip
    curves: dict[str, Array] = {}
    for joined in first_scores(context, at_risk, first, job.as_of - timedelta(days=1)):
        for name in joined["model_id"].unique(maintain_order=True).drop_nulls():
            if name not in curves:
                curves[name] = _curve(context, name)
        begun = periods_known(portfolio, pl.col("published"))
        part = joined.rename({"opened": columns.opened_on}).with_columns(begun.clip(lower_bound=0).alias("__from"))
        found = found.plus(_as_known(part, curves, [f"__{name}" for name in columns.segments], target.periods))
    return found


def _as_known(joined: pl.DataFrame, curves: Mapping[str, Array], segments: list[str], periods: int) -> early.Known:
    """Sums of rows whose expectation is known: by the curve of the model that scored, or of the whole horizon."""
    seen, begun = joined["__seen"].to_numpy(), joined["__from"].to_numpy()
    share = np.full((joined.height, 2), np.nan)
    models = joined["model_id"].fill_null("").to_numpy()
    for name, curve in curves.items():
        mine = np.flatnonzero(models == name)
        if len(curve) > periods:
            share[mine] = np.stack([curve[begun[mine]], curve[seen[mine]]], axis=1)
    share[np.isnan(share[:, 0]) & (seen >= periods)] = (0.0, 1.0)
    kept = (share[:, 1] > share[:, 0]) & joined["score"].is_between(0.0, 1.0).fill_null(False).to_numpy()
    rows, share = joined.filter(pl.Series(kept)), share[kept]
    keyed = rows.select(segments)
    keys = keyed.unique().sort(segments)
    codes = keyed.join(keys.with_row_index("__code"), on=segments, how="left", maintain_order="left")["__code"]
    score = rows["score"].to_numpy()
    return early.Known.of(
        tuple(keys.iter_rows()), codes.to_numpy().astype(np.int64), score,
        early.expected_events(score, share[:, 0], share[:, 1]), rows[LABEL].to_numpy(), rows["__seen"].to_numpy(),
        rows[MATURE].to_numpy(),
    )  # fmt: skip


def _curve(context: Context, model_id: str) -> Array:
    """The hazard curve of a model that once scored; empty where it has none, or is no longer whole."""
    try:
        files = from_registry(context, model_id, registry.load)
    except ModelError as error:
        context.reporter.warn(f"early labels of its scores are not judged: {error.what}")
        return np.zeros(0)
    return np.array(json.loads(files.get(CURVE, b"[]")), dtype=float)


def _direct(context: Context, run: Run, night: FrameFile, beside: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Expected loss of a target that is a value."""
    columns, target = context.portfolio.columns, context.portfolio.target.name
    files = from_registry(context, run.model_id, registry.load)
    if LOSS_MODEL not in files or LOSSES not in beside:
        return direct.compare(columns.segments, None, pl.DataFrame(), 0.0)
    model = direct.LossModel.from_bytes(files[LOSS_MODEL])
    losses = ((rows, model.predict(rows, rows[target].to_numpy())) for rows in night.batches())
    sums = direct.summed(losses, columns.segments)
    return direct.compare(columns.segments, beside[LOSSES], sums, model.noise)


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()
