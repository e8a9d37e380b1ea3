"""The steps of a week: `extract -> check -> judge -> train -> register -> report_week`.

The first two are the night's own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from metarisk import backtests, judging, lake, quality, registry, training
from metarisk import evidence as evidences
from metarisk.adapt import BASELINES, Adapted, adapt
from metarisk.adapt import level as adapted_level
from metarisk.domain import DataError, MetariskError
from metarisk.features import KnownRange
from metarisk.pipeline import watching
from metarisk.pipeline.appending import append_rows
from metarisk.pipeline.chunks import BATCH_ROWS
from metarisk.pipeline.comparing import Comparison, compare
from metarisk.pipeline.context import Context
from metarisk.pipeline.identity import code_version, configuration, identity
from metarisk.pipeline.inputs import INPUTS, inputs_of
from metarisk.pipeline.modelcards import TAUGHT, taught
from metarisk.pipeline.models import CARD, Card, champion_for
from metarisk.pipeline.night import Checked, scan, strangers
from metarisk.pipeline.outcomes import published_outcomes
from metarisk.pipeline.promotion import BACKFILL, WEEKLY, append_states, earlier_proofs
from metarisk.pipeline.replaying import SCORE
from metarisk.pipeline.scored import LINK, Spilled, score_population
from metarisk.pipeline.storing import registry_root
from metarisk.pipeline.trials import keep_trials
from metarisk.pipeline.trying import Attempt, append_end
from metarisk.portfolios import extract_sql, unknown_events
from metarisk.tasks import LABEL, teaching, tells

SEED = 0
HELD_OUT_BASELINES = frozenset({"pooled_logistic", "segment_logistic", "pooled_lightgbm", "target_lightgbm"})
"""Baselines that segments are held out of too: a pooled and a segment model of each kind."""


@dataclass(frozen=True)
class Judged:
    """What walk-forward judgement found, and what it decided."""

    checked: Checked
    week_id: str
    folder: Path
    evidence: evidences.Evidence
    decision: evidences.Decision
    champion_recipe: str | None
    level: evidences.LevelChoice
    held_out: tuple[dict[str, object], ...] = ()
    """Rows for the table `evidence` on segments that were held out of training."""
    features: tuple[dict[str, object], ...] = ()
    """The same on each feature alone."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trained:
    """A model in the registry, not yet in the warehouse."""

    judged: Judged
    model_id: str
    path: Path
    rows: int
    events: int
    segments: int
    comparison: Comparison | None
    """With the champion before; None where there was none, or none that this version reads."""
    backtests: pl.DataFrame
    """Of published scores whose outcomes are known: see backtests.SCHEMA."""
    fairness: tuple[dict[str, object], ...]
    """Rows for the table `evidence`, less the keys of the model."""


def judge(context: Context, checked: Checked) -> Judged:
    """Fit every candidate at past cut-offs and judge it on what came after; decide which recipe is trained."""
    portfolio, spec, as_of = context.portfolio, context.spec, context.job.as_of
    lake.verify(checked.extract.directory)
    champion = champion_for(context)
    names = candidates(context, champion.recipe if champion else None)
    week_id = identity(
        {
            "portfolio": portfolio.name,
            "as_of": str(as_of),
            "extract": checked.extract.extract_hash,
            "configuration": configuration(context),
            "code": code_version(),
            "candidates": ",".join(names),
        }
    )
    folder = context.folder / "weeks" / week_id
    unknown = require_known(context)
    features, warnings = _single_features(context, checked)
    if unknown:
        warnings = (unknown, *warnings)
        context.reporter.warn(f"{portfolio.name} {as_of}: {unknown}")
    judged = _walked(context, checked, folder, names)
    summary = evidences.summarise(judged, names, BASELINES, portfolio, spec)
    summary = replace(summary, retrospective=_retrospective(context, judged))
    recipe = champion.recipe if champion else None
    proofs = earlier_proofs(context, recipe) if recipe is not None else []
    proves = context.job.mode != BACKFILL or portfolio.source.bitemporal
    decision = evidences.decide(judged, summary, portfolio, spec, recipe, proofs, proves=proves)
    context.reporter.table("evidence", f"Evidence of {portfolio.name} {as_of}", evidences.table(summary))
    proof = judged.clear() if summary.retrospective else judged
    level = evidences.choose_level(proof, decision.recipe, portfolio, spec)
    few = tuple(_held_out(context, checked, folder, decision.recipe, names))
    if few:
        title = f"Segments held out of training, {portfolio.name} {as_of}"
        context.reporter.table("evidence-held-out", title, evidences.held_out_table(few))
    return Judged(checked, week_id, folder, summary, decision, recipe, level, few, features, warnings)


def require_known(context: Context) -> str:
    """Events of the extract's tables that have no known date, in words; DataError where they are too many."""
    portfolio, as_of = context.portfolio, context.job.as_of
    sql = extract_sql(context.settings.project, portfolio)
    return unknown_events(sql, portfolio, context.warehouse, as_of, quality.MAX_UNKNOWN_EVENTS)


def _walked(context: Context, checked: Checked, folder: Path, names: Sequence[str]) -> pl.DataFrame:
    """Rows judged walking forward; those of an earlier attempt at this week, where it finished them."""
    if not _whole(folder / "judged"):
        judged = judging.walk_forward(
            scan(context, checked),
            context.portfolio,
            context.spec,
            names,
            context.job.as_of,
            seed=SEED,
            progress=lambda done, total, note: context.reporter.progress("judge", done, total, note),
        )
        with lake.staged(folder / "judged") as into:
            judged.write_parquet(into / "judged.parquet")
            lake.write_manifest(into, {"week_id": folder.name})
    return pl.read_parquet(folder / "judged" / "judged.parquet")


def _retrospective(context: Context, judged: pl.DataFrame) -> str:
    """Why labels of judged rows cannot be shown to have been known at the cuts; empty where they can.

    A flag has no date: only from the first night on is it seen what it said on each.
    """
    label = context.portfolio.columns.label
    if label is None or judged.is_empty():
        return ""
    about = {"portfolio": context.job.portfolio}
    (row,) = context.warehouse.rows(
        "SELECT min(published_at) AS first FROM metarisk.publication WHERE portfolio = $portfolio", about
    )
    cut = date.fromisoformat(judged["fold"].min())  # type: ignore[arg-type]
    if row["first"] is not None and row["first"].date() <= cut:
        return ""
    since = f"nights since {row['first']:%Y-%m-%d}" if row["first"] else "no night yet"
    return f"{label} has no dates, and what it said on {cut}, at the first cut, nobody saw ({since})"


def _single_features(context: Context, checked: Checked) -> tuple[tuple[dict[str, object], ...], tuple[str, ...]]:
    """What each feature alone knows of the newer rows that teach, and a warning of those that may know too much.

    A history that teaches nothing is a ModelError, a feature that tells the outcome a DataError.
    """
    portfolio, spec, as_of = context.portfolio, context.spec, context.job.as_of
    teach = training.teaching_rows(scan(context, checked), portfolio, spec, as_of)
    training.require_labels(teach, portfolio, spec, as_of)
    older, newer = training.forward_split(teach, portfolio)
    named = evidences.suspects(teach, older, newer, portfolio, spec)
    event = spec.label == "event"
    unjudged = evidences.unjudged(older, newer, portfolio) if event else ""
    warnings = tuple(filter(None, (unjudged, *(f"{one.what}. Remedy: {one.remedy}" for one in named if not one.stops))))
    for warning in warnings:
        context.reporter.warn(f"{portfolio.name} {as_of}: {warning}")
    if stops := [one for one in named if one.stops]:
        raise DataError(
            "; ".join(one.what for one in stops),
            remedy=stops[0].remedy,
            portfolio=portfolio.name,
            column=stops[0].feature,
            on=as_of,
        )
    found = evidences.single_feature_auc(older, newer, portfolio) if event else {}
    return tuple(evidences.feature_rows(found, newer, named)), warnings


def _held_out(
    context: Context, checked: Checked, folder: Path, recipe: str, names: Sequence[str]
) -> list[dict[str, object]]:
    """What the recipe to be trained makes of segments that it was not trained on, beside pooled and segment models."""
    portfolio, spec = context.portfolio, context.spec
    if not portfolio.validation.held_out:
        return []
    baselines = [name for name in names if name in HELD_OUT_BASELINES and name != recipe]
    if not _whole(folder / f"held_out-{recipe}"):
        teach = training.teaching_rows(scan(context, checked), portfolio, spec, context.job.as_of)
        judged = judging.held_out(
            teach,
            portfolio,
            spec,
            recipe,
            baselines,
            seed=SEED,
            progress=lambda done, total, note: context.reporter.progress("judge", done, total, note),
        )
        with lake.staged(folder / f"held_out-{recipe}") as into:
            judged.write_parquet(into / "judged.parquet")
            lake.write_manifest(into, {"recipe": recipe})
    judged = pl.read_parquet(folder / f"held_out-{recipe}" / "judged.parquet")
    return evidences.held_out_rows(judged, recipe, baselines, portfolio, spec)


def train(context: Context, judged: Judged) -> Trained:
    """Train the chosen recipe on everything known by as_of and write it, with its drift reference, to the registry.

    Killed while it trains, it goes on from its last checkpoint; these go once the registry has the model. The rows that
    teach are held, those to be scored are not; a segment without labels borrows by as many of its rows as in a night.
    """
    portfolio, spec, as_of = context.portfolio, context.spec, context.job.as_of
    lake.verify(judged.checked.extract.directory)
    frame = scan(context, judged.checked)
    teach = training.teaching_rows(frame, portfolio, spec, as_of)
    recipe = judged.decision.recipe
    training.require_labels(training.teaching_of(recipe, teach, portfolio), portfolio, spec, as_of)
    work = judged.folder / "training"
    model = training.fit(
        recipe,
        teach,
        training.fit_bases([recipe], teach, portfolio, spec),
        portfolio,
        spec,
        seed=SEED,
        progress=lambda done, total, note: context.reporter.progress("train", done, total, note),
        work=work,
        warn=lambda message: context.reporter.warn(f"{portfolio.name} {as_of}: {message}"),
    )
    known = teaching(teach, hazard=model.recipe.hazard)
    unlabelled = strangers(context, judged.checked, known) if model.borrows else None
    adapted = adapt(model, "", teach, portfolio, spec, population=unlabelled)
    level = adapted_level(adapted, teach, portfolio, judged.level.rule)
    with lake.scratch(judged.folder) as private:
        scored = score_population(context, judged.checked, adapted, level, private / "population.parquet")
        model_id, path = _save(context, judged, adapted, teach, scored)
        shutil.rmtree(work, ignore_errors=True)
        return Trained(
            judged,
            model_id,
            path,
            teach.height,
            int(tells(teach[LABEL].to_numpy(), spec).sum()),
            len(model.segments),
            compare(context, adapted, teach, scored),
            backtests.grade_backtests(published_outcomes(context, frame), portfolio.scorecard),
            tuple(_fairness(context, judged, frame, scored)),
        )


def _save(context: Context, judged: Judged, adapted: Adapted, teach: pl.DataFrame, scored: Spilled) -> tuple[str, Path]:
    """Write a model to the registry with what nights compare with and read off its scored population."""
    portfolio = context.portfolio
    about = {
        "as_of": str(context.job.as_of),
        "recipe": judged.decision.recipe,
        "seed": SEED,
        "configuration": configuration(context),
        "code": code_version(),
        "extract": judged.checked.extract.extract_hash,
        TAUGHT: taught(teach, context),
        INPUTS: inputs_of(portfolio),
    }
    known = None
    if portfolio.population == "application":
        known = KnownRange.fit(teach, portfolio.features, portfolio.columns.opened_on)
    likeness = [asdict(place) for place in training.likeness(adapted)]
    files = adapted.model.to_files() | watching.reference(context, adapted, teach, scored)
    files |= {
        "likeness.json": json.dumps(likeness, indent=1).encode(),
        CARD: Card(scored.cut(LINK, portfolio.reasons.share), judged.level.rule, known).to_bytes(),
    }
    return registry.save(registry_root(context), portfolio.name, files, about)


def register(context: Context, trained: Trained, attempt: Attempt) -> dict[str, Any]:
    """Write model, state and evidence to the warehouse in one transaction; registering it again changes nothing."""
    job, judged = context.job, trained.judged
    promoted = judged.decision.promote
    recipe = judged.decision.recipe
    forward = pl.read_parquet(judged.folder / "judged" / "judged.parquet")
    by_segment = evidences.by_segment(forward, recipe, context.portfolio, context.spec)
    spread = {recipe: evidences.intervals(forward, recipe, context.portfolio, context.spec)}
    with context.warehouse.transaction() as transaction:
        known = transaction.rows("SELECT 1 AS found FROM metarisk.model WHERE model_id = $id", {"id": trained.model_id})
        if not known:
            now = context.clock()
            model = {
                "model_id": trained.model_id,
                "portfolio": job.portfolio,
                "as_of": job.as_of,
                "recipe": recipe,
                "created_at": now,
                "path": f"registry/{job.portfolio}/{trained.model_id}",
                "metrics": json.dumps(_headline(judged), sort_keys=True),
                "config_hash": configuration(context),
                "code_version": code_version(),
                "mode": BACKFILL if job.mode == "backfill" else WEEKLY,
            }
            append_rows(transaction, "metarisk.model", [model])
            states = ["candidate", "champion"] if promoted else ["candidate"]
            keys = {"model_id": trained.model_id, "portfolio": job.portfolio, "as_of": job.as_of}
            found = evidences.evidence_rows(judged.evidence, spread)
            found += evidences.decision_rows(judged.decision, judged.evidence)
            found += evidences.level_rows(judged.level, judged.evidence, judged.decision.recipe)
            found += [*by_segment, *judged.held_out, *judged.features]
            if trained.comparison is not None:
                found += trained.comparison.evidence_rows(judged.decision.recipe)
            found += trained.fairness
            append_rows(transaction, "metarisk.evidence", [keys | row for row in found])
            names = [line.name for line in judged.evidence.candidates]
            keep_trials(context, transaction, forward, names, judged.checked, trained.model_id, now)
            target = {"target": context.portfolio.target.name}
            append_rows(
                transaction,
                "metarisk.grade_backtest",
                [keys | target | row for row in trained.backtests.iter_rows(named=True)],
            )
            append_states(context, transaction, trained.model_id, states, judged.decision.reason)
        append_end(context, transaction, attempt, "registered", step="register")
    context.warehouse.snapshot()
    return {"model_id": trained.model_id, "promoted": promoted}


def _fairness(context: Context, judged: Judged, frame: pl.LazyFrame, scored: Spilled) -> Iterator[dict[str, object]]:
    """Of each group of the protected columns: adverse impact among rows to be scored, calibration on judged rows."""
    columns, recipe = context.portfolio.columns, judged.decision.recipe
    if not columns.protected or context.spec.label != "event":
        return
    declined = pl.col(SCORE) >= scored.cut(SCORE, context.portfolio.scorecard.cut)
    forward = pl.read_parquet(judged.folder / "judged" / "judged.parquet")
    if not forward.is_empty():
        keys = [columns.entity, columns.opened_on]
        told = frame.select(*keys, *columns.protected).collect_batches(chunk_size=BATCH_ROWS, engine="streaming")
        groups = pl.concat(batch.join(forward, on=keys, how="semi") for batch in told)
        forward = forward.join(groups, on=keys, how="left", maintain_order="left")
    for column in columns.protected:
        found = backtests.adverse_impact(scored.frame.select(group=pl.col(column).cast(pl.String), declined=declined))
        if recipe in forward.columns:
            probability = 1 / (1 + np.exp(-forward[recipe].to_numpy()))
            groups_of = forward[column].cast(pl.String).to_list()
            found += backtests.calibration_by_group(groups_of, probability, forward[LABEL].to_numpy())
        about = {"protocol": "fairness", "candidate": recipe}
        yield from (about | line | {"slice": f"{column} = {line['slice']}"} for line in found)


def candidates(context: Context, champion: str | None) -> list[str]:
    """Names of the recipes that compete: the portfolio's or the risk type's, the default, the pinned, the champion."""
    portfolio, spec = context.portfolio, context.spec
    names = list(portfolio.candidates or spec.candidates)
    pinned = portfolio.learner.name if portfolio.learner.name != "auto" else None
    for name in (spec.default, pinned, champion):
        if name is not None and name not in names:
            names.append(name)
    for name in names:
        training.recipe_of(name, portfolio)
    return names


def _headline(judged: Judged) -> dict[str, Any]:
    line = judged.evidence.candidate(judged.decision.recipe)
    if line is None:
        return {}
    interval = line.against_opponent
    return {
        **{name: value for name, value in line.metrics.items() if value == value},
        "opponent": judged.evidence.opponent,
        "oracle": judged.evidence.oracle,
        "loss_minus_opponent": interval.mean,
        "low": interval.low,
        "high": interval.high,
    }


def _whole(folder: Path) -> bool:
    try:
        lake.verify(folder)
    except MetariskError:
        return False
    return True
