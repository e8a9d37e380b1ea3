"""The step judge: candidates are fitted at past cut-offs and judged on what came after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import polars as pl

from metarisk import evidence as evidences
from metarisk import judging, lake, quality, training
from metarisk.adapt import BASELINES
from metarisk.domain import DataError, MetariskError
from metarisk.domain.hashing import identity
from metarisk.job.champion import champion_for
from metarisk.job.context import Context
from metarisk.job.identity import code_version, configuration
from metarisk.job.run import Checked, scan
from metarisk.job.week import SEED, Judged
from metarisk.portfolios import extract_sql, unknown_events
from metarisk.record.models import BACKFILL, earlier_proofs
from metarisk.record.publications import published_between

HELD_OUT_BASELINES = frozenset({"pooled_logistic", "segment_logistic", "pooled_lightgbm", "target_lightgbm"})
"""Baselines that segments are held out of too: a pooled and a segment model of each kind."""


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
    proofs = []
    if recipe is not None:
        proofs = earlier_proofs(context.warehouse, context.job, recipe, bitemporal=portfolio.source.bitemporal)
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
    first, _ = published_between(context.warehouse, context.job.portfolio)
    cut = date.fromisoformat(judged["fold"].min())  # type: ignore[arg-type]
    if first is not None and first.date() <= cut:
        return ""
    since = f"nights since {first:%Y-%m-%d}" if first else "no night yet"
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


def _whole(folder: Path) -> bool:
    try:
        lake.verify(folder)
    except MetariskError:
        return False
    return True
