"""Fitting a recipe on the rows that teach. Judging recipes on rows they have not seen is `judging`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import torch

from metarisk.adapt import RECIPES, Adapted, FittedModel, Recipe, one_thread
from metarisk.bases import BASES, CrossFitted
from metarisk.calibration import log_odds
from metarisk.domain import (
    Array,
    Episodes,
    Feature,
    LikelihoodName,
    ModelError,
    Portfolio,
    Progress,
    RiskSpec,
    SegmentKey,
)
from metarisk.features import Encoder
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.learners.loop import digest_of
from metarisk.learners.similarity import coordinates, distances, embedding_of, neighbours, neighbours_help, signatures
from metarisk.metrics import dispersion, judge_of
from metarisk.tasks import LABEL, episodes, matrix, newest, observed, segment_keys, teaching, tells

CUTS = 6
"""Cut-offs of meta-training episodes, a fold's months apart."""
NEIGHBOURS = 3
"""Segments named as most like each segment."""
MIN_EVENTS = 10
"""Fewer events teach nothing: such a fold is left out, such a history is refused."""
NEWER_SHARE = 0.25
"""Share of the mature rows that are the newer part of a forward split."""
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Weights of the first of two bases that are tried."""


def recipe_of(name: str, portfolio: Portfolio) -> Recipe:
    """A row of RECIPES, with the portfolio's options where it pins this learner; its `loop` changes single settings."""
    if name not in RECIPES:
        raise ModelError(
            f"there is no recipe {name!r}", portfolio=portfolio.name, remedy=f"choose one of {', '.join(RECIPES)}"
        )
    recipe = RECIPES[name]
    if portfolio.learner.name == name:
        options = {**recipe.options, **portfolio.learner.options}
        if isinstance(loop := options.get("loop"), Mapping):
            options["loop"] = {**recipe.options.get("loop", {}), **loop}
        return replace(recipe, options=options)
    return recipe


def teaching_rows(frame: pl.LazyFrame, portfolio: Portfolio, spec: RiskSpec, as_of: date) -> pl.DataFrame:
    """Rows at risk as known at as_of (see tasks.observed), sorted by entity and opening date.

    The newest up to the portfolio's maximum, of the mature ones and of the others.
    """
    most = portfolio.thresholds.max_training_rows
    return newest(observed(frame, portfolio, spec, as_of), portfolio, per_segment=most, total=most)


def fit_bases(
    names: Sequence[str], teach: pl.DataFrame, portfolio: Portfolio, spec: RiskSpec
) -> dict[str, CrossFitted]:
    """Every base that some recipe needs, once; without folds where no learner adapts to it."""
    recipes = [recipe_of(name, portfolio) for name in names]
    kinds = sorted({kind for recipe in recipes for kind in recipe.bases})
    adapted = {kind for recipe in recipes if recipe.learner != "none" for kind in recipe.bases}
    fitted = {}
    for kind in kinds:
        rows = teaching(teach, hazard=BASES[kind].hazard)
        y, folds = rows[LABEL].to_numpy(), kind in adapted
        fitted[kind] = CrossFitted.fit(kind, rows, y, portfolio, likelihood=spec.likelihood, folds=folds)
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
    work: Path | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> FittedModel:
    """Meta-train one recipe on labelled rows (LABEL holds y), with its bases fitted on the same rows.

    Args:
        work: a folder for checkpoints, from which the same training continues that was killed; None: none are kept.
        warn: told where the history has too few cut-offs to keep one for validation.
    """
    recipe = recipe_of(name, portfolio)
    teach = teaching(teach, hazard=recipe.hazard)
    likelihood = recipe.likelihood or spec.likelihood
    weights = choose_weights(recipe, teach, portfolio, spec, likelihood) if recipe.tuned else ()
    used = tuple(bases[kind] for kind in recipe.bases)
    features: dict[str, Feature] = dict(portfolio.features)
    encoder = Encoder.fit(teach, features, portfolio.columns.opened_on)
    keys, _ = segment_keys(teach, portfolio)
    model = FittedModel(name, recipe, likelihood, used, encoder, {}, keys, weights=weights)
    if recipe.learner == "none":
        return model
    if not recipe.kind.joint:
        # The tasks of the others are cut at past dates, at which the newest rows at risk had another label.
        teach = teaching(teach, hazard=False)
    inputs, base = model.unseen(teach)
    model = replace(model, dispersion=_dispersion(base, teach[LABEL].to_numpy(writable=True), likelihood))
    rows = matrix(teach, portfolio, inputs, base, model.dispersion)
    if recipe.kind.joint:
        tasks, validation = Episodes(rows.packed(), rows.packed(np.zeros(teach.height, dtype=bool))), None
    else:
        tasks, validation = episodes(rows, cuts=CUTS, fold_months=portfolio.validation.fold_months)
        if validation is None:
            warn(
                f"{name} is trained without validation: all steps, whether they help or not, and no segment borrows; "
                f"the history has labels on both sides of fewer than two cut-offs {portfolio.validation.fold_months} "
                "months apart; extract a longer one, or lower validation.fold_months"
            )
    learner = recipe.make(None if work is None else work / _checkpoint(recipe, likelihood, seed, tasks, validation))
    with one_thread():
        state = learner.train(tasks, validation, likelihood, seed=seed, progress=progress)
        embed = embedding_of(learner, state)
        borrows = validation is not None and neighbours_help(learner, state, validation, likelihood, embed=embed).helps
    return replace(model, state=state, borrows=borrows)


def _checkpoint(
    recipe: Recipe, likelihood: LikelihoodName, seed: int, tasks: Episodes, validation: Episodes | None
) -> str:
    """Name of a checkpoint, by all that the training depends on: one that is found under it is the training's own."""
    parts = [part for episodes in (tasks, validation) if episodes for part in (episodes.support, episodes.query)]
    about = (recipe.learner, dict(recipe.options), likelihood, seed, torch.__version__, np.__version__)
    return hashlib.sha256(f"{about} {digest_of(*parts)}".encode()).hexdigest()[:16] + ".npz"


def _dispersion(base: Array, y: Array, likelihood: LikelihoodName) -> float:
    """Dispersion of labels (N,) around base scores (N,) that had not seen them."""
    mean = LIKELIHOODS[likelihood].mean(torch.from_numpy(base)).numpy()
    return dispersion(base, mean, y, likelihood)


def forward_split(teach: pl.DataFrame, portfolio: Portfolio) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows that teach, cut in time: those opened before a date, and the mature ones opened from it on, a quarter.

    What is best on the newer part by fits on the older one was found without any row that is to be judged. Where no row
    is mature yet, as in a book younger than its horizon, the newer part has none.
    """
    opened = pl.col(portfolio.columns.opened_on)
    mature = teaching(teach, hazard=False)
    if mature.is_empty():
        return teach, mature
    start = mature[portfolio.columns.opened_on].quantile(1 - NEWER_SHARE, "higher")
    return teach.filter(opened < start), mature.filter(opened >= start)


def choose_weights(
    recipe: Recipe, teach: pl.DataFrame, portfolio: Portfolio, spec: RiskSpec, likelihood: LikelihoodName
) -> tuple[float, ...]:
    """Weights of two bases that lose least on a forward split; equal ones (none) unless those are certainly worse.

    Certainly: by more than one standard error of the paired difference (Breiman et al. 1984, the one-standard-error
    rule), for a weight chosen on few events is mostly luck.
    """
    older, newer = forward_split(teach, portfolio)
    told = min(float(tells(part[LABEL].to_numpy(), spec).sum()) for part in (older, newer))
    if len(recipe.bases) != 2 or told < MIN_EVENTS:
        return ()
    known = older[LABEL].to_numpy()
    first, second = (
        CrossFitted.fit(kind, older, known, portfolio, likelihood=spec.likelihood, folds=False).predict(newer)
        for kind in recipe.bases
    )
    y, loss = newer[LABEL].to_numpy(), judge_of(spec.likelihood).of
    losses = [loss(log_odds(share * first + (1 - share) * second, likelihood), y) for share in WEIGHTS]
    equal = losses[WEIGHTS.index(0.5)]
    best = min(range(len(WEIGHTS)), key=lambda number: float(losses[number].mean()))
    gain = equal - losses[best]
    if gain.mean() <= gain.std() / np.sqrt(len(y)):
        return ()
    return WEIGHTS[best], 1 - WEIGHTS[best]


def teaching_of(name: str, teach: pl.DataFrame, portfolio: Portfolio) -> pl.DataFrame:
    """The rows of `teach` that teach a recipe: of a hazard's joint learner those still at risk too."""
    recipe = recipe_of(name, portfolio)
    return teaching(teach, hazard=recipe.hazard and (recipe.learner == "none" or recipe.kind.joint))


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


def can_teach(teach: pl.DataFrame, spec: RiskSpec) -> bool:
    """Whether there are rows of both classes enough to learn from."""
    if spec.label == "value":
        return teach.height >= MIN_EVENTS
    events = float(teach[LABEL].sum()) if teach.height else 0.0
    return MIN_EVENTS <= events <= teach.height - MIN_EVENTS


def require_labels(teach: pl.DataFrame, portfolio: Portfolio, spec: RiskSpec, as_of: date) -> None:
    """Refuse to train on a history that teaches nothing."""
    if not can_teach(teach, spec):
        events = int(teach[LABEL].sum()) if teach.height else 0
        raise ModelError(
            f"{teach.height} matured rows with {events} events of target {portfolio.target.name} teach nothing: at "
            f"least {MIN_EVENTS} rows of each class are needed",
            portfolio=portfolio.name,
            column=portfolio.columns.event_date or portfolio.columns.value,
            on=as_of,
            remedy="check the label columns of the extract and its history, or wait until more rows have matured",
        )
