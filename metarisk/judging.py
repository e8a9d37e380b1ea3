"""Judging recipes on rows they have not seen, with labels as they were known. What that decides is `evidence`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial

import numpy as np
import polars as pl

from metarisk.adapt import BASELINES, LEVEL_RULES, adapt, level, level_column, shifts
from metarisk.calibration import LevelRule
from metarisk.domain import Array, Portfolio, Progress, RiskSpec
from metarisk.metrics import judge_of
from metarisk.tasks import LABEL, OPPONENT, forward_folds, labelled, opened_within, teaching, tells_of
from metarisk.training import can_teach, fit, fit_bases, forward_split, teaching_rows

HELD_OUT = {"event": (5, 10, 20, 50), "value": (10, 20, 60, 120)}
"""Events, or values, that a held-out segment may show."""
GROUPS = 3
"""Parts that segments are held out in: a model is trained for each."""
MOST_JUDGED = 1_000_000
"""Rows that a fold is judged on at most: every k-th of more, so that what is held does not grow with the book."""


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
    recipe and level rule (`level_column`), and OPPONENT. Empty when no fold has MIN_EVENTS events of mature rows on
    both sides: what teaches a hazard in a young book teaches no baseline.
    """
    folds = forward_folds(portfolio, as_of)
    judged: list[pl.DataFrame] = []
    for number, fold in enumerate(folds):
        teach = teaching_rows(frame, portfolio, spec, fold.cut)
        judge = labelled(frame.filter(opened_within(portfolio, fold)), portfolio, spec, as_of)
        rows = _spread(judge).sort(portfolio.columns.entity, portfolio.columns.opened_on)
        if not can_teach(teaching(teach, hazard=False), spec) or not rows.height:
            continue
        step = partial(_step, progress, number * len(names), len(folds) * len(names), f"{fold.cut:%Y-%m}")
        scores = judge_rows(teach, rows, portfolio, spec, names, seed=seed, progress=step, rules=LEVEL_RULES)
        found = judged_rows(rows, teach, portfolio, spec, str(fold.cut), scores)
        judged.append(
            found.with_columns(pl.lit(opponent(judged, teach, portfolio, spec, names, seed=seed)).alias(OPPONENT))
        )
    progress(len(folds) * len(names), len(folds) * len(names), "judged")
    return pl.concat(judged) if judged else pl.DataFrame()


def opponent(
    earlier: Sequence[pl.DataFrame],
    teach: pl.DataFrame,
    portfolio: Portfolio,
    spec: RiskSpec,
    names: Sequence[str],
    *,
    seed: int,
) -> str:
    """The baseline that validation chooses for a fold that `teach` teaches: that of lowest loss on rows before it.

    They are the judged rows of earlier folds or, where there are none, the newer part of a forward split of `teach`,
    scored by fits on the older one. Where these hold too few events it is the first baseline named, the plainest.
    """
    baselines = [name for name in names if name in BASELINES] or [names[0]]
    if len(baselines) == 1:
        return baselines[0]
    if earlier:
        rows = pl.concat(earlier)
        scores = {name: rows[name].to_numpy() for name in baselines}
    else:
        older, rows = forward_split(teach, portfolio)
        if not can_teach(teaching(older, hazard=False), spec) or not can_teach(rows, spec):
            return baselines[0]
        scores = judge_rows(older, rows, portfolio, spec, baselines, seed=seed, progress=_silent)
    y, loss = rows[LABEL].to_numpy(), judge_of(spec.likelihood).of
    return min(baselines, key=lambda name: float(loss(scores[name], y).mean()))


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
    bases = fit_bases(names, teach, portfolio, spec)
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


def held_out(
    teach: pl.DataFrame,
    portfolio: Portfolio,
    spec: RiskSpec,
    recipe: str,
    baselines: Sequence[str],
    *,
    seed: int,
    progress: Progress,
) -> pl.DataFrame:
    """How few events a segment needs: segments held out of a recipe's training, which then meets k events of each.

    `teach` is cut by a forward split; the values of the first segment column fall into GROUPS groups. The recipe is
    trained on the older rows of the other groups and adapted to those and to a held-out value's newest rows, up to but
    not including its (k+1)-th event. Baselines, which do not adapt, are trained on just these rows. Judged are the
    newer rows of those values that had k events to give: a row for each with its k, y, and a column of logits a name.
    """
    older, newer = forward_split(teach, portfolio)
    name, order = portfolio.columns.segments[0], [portfolio.columns.opened_on, portfolio.columns.entity]
    sizes = older.group_by(name).agg(tells_of(spec).sum().alias("events")).sort("events", name, descending=True)
    older = older.sort(order, descending=True).with_columns(tells_of(spec).cum_sum().over(name).alias("__event"))
    judged: list[pl.DataFrame] = []
    for group in range(GROUPS):
        progress(group, GROUPS, f"segments held out: group {group + 1} of {GROUPS}")
        held = sizes.gather_every(GROUPS, group)
        others = older.join(held, on=name, how="anti", nulls_equal=True)
        if held.is_empty() or not can_teach(teaching(others, hazard=False), spec):
            continue
        model = fit(
            recipe, others, fit_bases([recipe], others, portfolio, spec), portfolio, spec, seed=seed, progress=_silent
        )
        for k in HELD_OUT[spec.label]:
            rich = held.filter(pl.col("events") >= k)
            rows = newer.join(rich, on=name, how="semi", nulls_equal=True)
            if rows.is_empty():
                continue
            own = older.filter(pl.col("__event") <= k).join(rich, on=name, how="semi", nulls_equal=True)
            known = pl.concat([others, own]).sort(portfolio.columns.entity, portfolio.columns.opened_on)
            adapted = adapt(model, "", known, portfolio, spec)
            scores = {recipe: model.logit(adapted.score(rows, portfolio)[0])}
            scores |= judge_rows(known, rows, portfolio, spec, baselines, seed=seed, progress=_silent)
            found = judged_rows(rows, known, portfolio, spec, f"k={k}", scores)
            judged.append(found.with_columns(pl.lit(k).alias("k")))
    return pl.concat(judged).sort("k", maintain_order=True) if judged else pl.DataFrame()


def judged_rows(
    rows: pl.DataFrame,
    teach: pl.DataFrame,
    portfolio: Portfolio,
    spec: RiskSpec,
    fold: str,
    scores: Mapping[str, Array],
) -> pl.DataFrame:
    """Judged rows with their scores a recipe, and the mature rows and events that their segment had to learn from.

    A value counts as an event.
    """
    columns = portfolio.columns
    segments = list(columns.segments)
    mature = teaching(teach, hazard=False)
    counts = pl.len().alias("support_rows"), tells_of(spec).sum().alias("support_events")
    support = mature.group_by(segments).agg(*counts)
    kept = rows.select(columns.entity, *segments, columns.opened_on, LABEL).with_columns(pl.lit(fold).alias("fold"))
    kept = kept.join(support, on=segments, how="left", nulls_equal=True, maintain_order="left")
    kept = kept.with_columns(pl.col("support_rows", "support_events").fill_null(0))
    return kept.with_columns(pl.Series(name, np.asarray(score, dtype=float)) for name, score in scores.items())


def _spread(rows: pl.LazyFrame) -> pl.DataFrame:
    """All rows, or every k-th in their order so that there are at most MOST_JUDGED."""
    count = int(rows.select(pl.len()).collect(engine="streaming").item())
    return rows.gather_every(max(1, -(-count // MOST_JUDGED))).collect(engine="streaming")


def _step(progress: Progress, before: int, total: int, fold: str, done: int, _: int, note: str) -> None:
    """Progress of one fold as part of that of all."""
    progress(before + done, total, f"{fold}: {note}")


def _silent(done: int, total: int, note: str) -> None:
    """Progress of inner work that is not shown."""
