"""Fitting a recipe, and judging recipes walking forward. What the judgement decides stands in `evidence`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial

import numpy as np
import polars as pl

from metarisk.adapt import (
    LEVEL_RULES,
    RECIPES,
    Adapted,
    FittedModel,
    Recipe,
    adapt,
    level,
    level_column,
    one_thread,
    shifts,
)
from metarisk.bases import BASES, CrossFitted
from metarisk.calibration import LevelRule
from metarisk.domain import Array, Episodes, Feature, ModelError, Portfolio, Progress, RiskSpec, SegmentKey
from metarisk.features import Encoder
from metarisk.learners.similarity import coordinates, distances, neighbours, neighbours_help, signatures
from metarisk.tasks import (
    LABEL,
    episodes,
    forward_folds,
    labelled,
    matrix,
    newest,
    observed,
    opened_within,
    segment_keys,
    teaching,
)

CUTS = 6
"""Cut-offs of meta-training episodes, a fold's months apart."""
NEIGHBOURS = 3
"""Segments named as most like each segment."""
MIN_EVENTS = 10
"""Fewer events teach nothing: such a fold is left out, such a history is refused."""


def recipe_of(name: str, portfolio: Portfolio) -> Recipe:
    """A row of RECIPES, with the portfolio's options where it pins this learner."""
    if name not in RECIPES:
        raise ModelError(
            f"there is no recipe {name!r}", portfolio=portfolio.name, remedy=f"choose one of {', '.join(RECIPES)}"
        )
    recipe = RECIPES[name]
    if portfolio.learner.name == name:
        return replace(recipe, options=dict(recipe.options) | dict(portfolio.learner.options))
    return recipe


def teaching_rows(frame: pl.LazyFrame, portfolio: Portfolio, spec: RiskSpec, as_of: date) -> pl.DataFrame:
    """Rows at risk as known at as_of (see tasks.observed), sorted by entity and opening date.

    The newest up to the portfolio's maximum, of the mature ones and of the others.
    """
    most = portfolio.thresholds.max_training_rows
    return newest(observed(frame, portfolio, spec, as_of), portfolio, per_segment=most, total=most).collect()


def fit_bases(names: Sequence[str], teach: pl.DataFrame, portfolio: Portfolio) -> dict[str, CrossFitted]:
    """Every base that some recipe needs, once; without folds where no learner adapts to it."""
    recipes = [recipe_of(name, portfolio) for name in names]
    kinds = sorted({kind for recipe in recipes for kind in recipe.bases})
    adapted = {kind for recipe in recipes if recipe.learner != "none" for kind in recipe.bases}
    fitted = {}
    for kind in kinds:
        rows = teaching(teach, hazard=BASES[kind].hazard)
        fitted[kind] = CrossFitted.fit(kind, rows, rows[LABEL].to_numpy(), portfolio, folds=kind in adapted)
    return fitted


def fit(
    name: str,
    teach: pl.DataFrame,
    bases: Mapping[str, CrossFitted],
    portfolio: Portfolio,
    spec: RiskSpec,
    *,
    seed: int,
    progress: Progress,
) -> FittedModel:
    """Meta-train one recipe on labelled rows (LABEL holds y), with its bases fitted on the same rows."""
    recipe = recipe_of(name, portfolio)
    teach = teaching(teach, hazard=recipe.hazard)
    likelihood = recipe.likelihood or spec.likelihood
    used = tuple(bases[kind] for kind in recipe.bases)
    features: dict[str, Feature] = dict(portfolio.features)
    encoder = Encoder.fit(teach, features, portfolio.columns.opened_on)
    keys, _ = segment_keys(teach, portfolio)
    model = FittedModel(name, recipe, likelihood, used, encoder, {}, keys)
    if recipe.learner == "none":
        return model
    if not recipe.kind.joint:
        # The tasks of the others are cut at past dates, at which the newest rows at risk had another label.
        teach = teaching(teach, hazard=False)
    rows = matrix(teach, portfolio, *model.unseen(teach))
    learner = recipe.make()
    if recipe.kind.joint:
        tasks, validation = Episodes(rows.packed(), rows.packed(np.zeros(teach.height, dtype=bool))), None
    else:
        tasks, validation = episodes(rows, cuts=CUTS, fold_months=portfolio.validation.fold_months)
    with one_thread():
        state = learner.train(tasks, validation, likelihood, seed=seed, progress=progress)
        borrows = validation is not None and neighbours_help(learner, state, validation, likelihood).helps
    return replace(model, state=state, borrows=borrows)


def walk_forward(
    frame: pl.LazyFrame,
    portfolio: Portfolio,
    spec: RiskSpec,
    names: Sequence[str],
    as_of: date,
    *,
    seed: int,
    progress: Progress,
) -> pl.DataFrame:
    """Judge recipes on rows they have not seen, with labels as they were known at each cut.

    Returns one row for each judged row: fold, entity, segment columns, opened_on, y, support_rows and support_events
    of its segment at the cut, one column of scores a recipe (logits, where the score is a probability), and one more a
    recipe and level rule (`level_column`). Empty when no fold has MIN_EVENTS events on both sides.
    """
    folds = forward_folds(portfolio, as_of)
    judged: list[pl.DataFrame] = []
    for number, fold in enumerate(folds):
        teach = teaching_rows(frame, portfolio, spec, fold.cut)
        judge = labelled(frame.filter(opened_within(portfolio, fold)), portfolio, spec, as_of)
        rows = judge.sort(portfolio.columns.entity, portfolio.columns.opened_on).collect()
        if not _can_teach(teach, spec) or not rows.height:
            continue
        step = partial(_step, progress, number * len(names), len(folds) * len(names), f"{fold.cut:%Y-%m}")
        scores = judge_rows(teach, rows, portfolio, spec, names, seed=seed, progress=step, rules=LEVEL_RULES)
        judged.append(judged_rows(rows, teach, portfolio, str(fold.cut), scores))
    progress(len(folds) * len(names), len(folds) * len(names), "judged")
    return pl.concat(judged) if judged else pl.DataFrame()


def judge_rows(
    teach: pl.DataFrame,
    rows: pl.DataFrame,
    portfolio: Portfolio,
    spec: RiskSpec,
    names: Sequence[str],
    *,
    seed: int,
    progress: Progress,
    rules: Sequence[LevelRule] = (),
    support: pl.DataFrame | None = None,
) -> dict[str, Array]:
    """Scores (N,) of `rows` (N) by every recipe taught by `teach`: logits, where the score is a probability.

    Adapted to `support`, where that is not what taught: so a market is met that a model has never seen.
    Of every rule of `rules` but the first one, which is none, also the scores at its level.
    """
    bases = fit_bases(names, teach, portfolio)
    scores = {}
    for done, name in enumerate(names):
        progress(done, len(names), name)
        model = fit(name, teach, bases, portfolio, spec, seed=seed, progress=_silent)
        adapted = adapt(model, "", teach if support is None else support, portfolio, spec, population=rows)
        link = adapted.score(rows, portfolio)[0]
        scores[name] = model.logit(link)
        for number, rule in enumerate(rules[1:], start=1):
            moved = shifts(rows, portfolio, level(adapted, teach, portfolio, rule))
            scores[level_column(name, number)] = model.logit(link + moved)
    return scores


def _step(progress: Progress, before: int, total: int, fold: str, done: int, _: int, note: str) -> None:
    """Progress of one fold as part of that of all."""
    progress(before + done, total, f"{fold}: {note}")


@dataclass(frozen=True)
class Place:
    """Where a segment lies among the others: near ones were adapted alike."""

    segment: SegmentKey
    x: float
    y: float
    support_rows: int
    nearest: tuple[SegmentKey, ...]
    """The segments most like it, nearest first."""


def likeness(adapted: Adapted) -> list[Place]:
    """A map of the adapted segments by what was learned about each; empty for a pooled model or fewer than three."""
    keys = [key for key in adapted.adaptation.keys if adapted.segments[key].status == "adapted"]
    if not adapted.adaptation.arrays or len(keys) < 3:
        return []
    position = {key: number for number, key in enumerate(adapted.adaptation.keys)}
    learned = signatures(adapted.adaptation)[[position[key] for key in keys]]
    apart = distances(learned)
    near: dict[SegmentKey, list[SegmentKey]] = {key: [] for key in keys}
    for line in neighbours(keys, apart, NEIGHBOURS):
        near[line.segment].append(line.neighbour)
    places = coordinates(apart)
    return [
        Place(key, float(x), float(y), adapted.segments[key].support_rows, tuple(near[key]))
        for key, (x, y) in zip(keys, places, strict=True)
    ]


def _silent(done: int, total: int, note: str) -> None:
    """Progress of inner work that is not shown."""


def _can_teach(teach: pl.DataFrame, spec: RiskSpec) -> bool:
    if spec.label == "value":
        return teach.height >= MIN_EVENTS
    events = float(teach[LABEL].sum()) if teach.height else 0.0
    return MIN_EVENTS <= events <= teach.height - MIN_EVENTS


def require_labels(teach: pl.DataFrame, portfolio: Portfolio, spec: RiskSpec, as_of: date) -> None:
    """Refuse to train on a history that teaches nothing."""
    if not _can_teach(teach, spec):
        events = int(teach[LABEL].sum()) if teach.height else 0
        raise ModelError(
            f"{teach.height} matured rows with {events} events of target {portfolio.target.name} teach nothing: at "
            f"least {MIN_EVENTS} rows of each class are needed",
            portfolio=portfolio.name,
            column=portfolio.columns.event_date or portfolio.columns.value,
            on=as_of,
            remedy="check the label columns of the extract and its history, or wait until more rows have matured",
        )


def judged_rows(
    rows: pl.DataFrame, teach: pl.DataFrame, portfolio: Portfolio, fold: str, scores: Mapping[str, Array]
) -> pl.DataFrame:
    """Judged rows with their scores a recipe, and the mature rows and events that their segment had to learn from."""
    columns = portfolio.columns
    segments = list(columns.segments)
    mature = teaching(teach, hazard=False)
    support = mature.group_by(segments).agg(pl.len().alias("support_rows"), pl.col(LABEL).sum().alias("support_events"))
    kept = rows.select(columns.entity, *segments, columns.opened_on, LABEL).with_columns(pl.lit(fold).alias("fold"))
    kept = kept.join(support, on=segments, how="left", nulls_equal=True, maintain_order="left")
    kept = kept.with_columns(pl.col("support_rows", "support_events").fill_null(0))
    return kept.with_columns(pl.Series(name, np.asarray(score, dtype=float)) for name, score in scores.items())
