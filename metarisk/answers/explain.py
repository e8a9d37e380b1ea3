"""Why one entity of a published night has its score, from the very files that scored it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from metarisk import reasons as why
from metarisk.adapt import Adapted
from metarisk.calibration import GRADED
from metarisk.domain import DataError, Portfolio
from metarisk.job.archive import require_rows
from metarisk.job.context import Context
from metarisk.job.published import Night, entity_row, published, require_standing
from metarisk.job.run import load_adapted, load_level, support
from metarisk.record import publications, scores
from metarisk.scoring import mean_score
from metarisk.tasks import teaching


@dataclass(frozen=True)
class Part:
    """One contribution: on the link scale, and in points where the target has them."""

    code: str
    text: str
    link: float
    points: float | None


@dataclass(frozen=True)
class EntityExplained:
    """A published score with everything that made it; `start` plus the parts is the link-scale score."""

    score: Mapping[str, Any]
    """The row of `risk_score`."""
    reasons: tuple[Mapping[str, Any], ...]
    """What the applicant is told: the heaviest adverse contributions that may be told."""
    start: Part
    parts: tuple[Part, ...]
    """Heaviest first."""
    curve: tuple[float, ...]
    """Probability within 1, 2, ... periods of the horizon; empty where the model knows the whole horizon alone."""
    milestones: Mapping[str, float]
    """Points of the curve by name: within 12 months, and over the whole horizon, which ends in the score."""
    lineage: Mapping[str, Any]
    """The segment's support, its adaptation and the model; with the dates of the labelled rows that count."""


def explain(context: Context, entity: str) -> EntityExplained:
    """Explain one entity's score in the published night of the job's as_of.

    Raises:
        DataError: the night or the entity is not published, was pruned, or has lost the files of its run.
    """
    portfolio, job = context.portfolio, context.job
    target = portfolio.target.name
    score = scores.score_of_entity(context.warehouse, job.portfolio, job.as_of, entity, target)
    if score is None:
        require_rows(context, require_standing(context)["run_id"], job.as_of, "risk_score")
        raise DataError(
            f"no published score of {entity!r} for target {target}",
            portfolio=job.portfolio,
            column=portfolio.columns.entity,
            on=job.as_of,
            remedy="check the entity's id and the date; `metarisk runs` shows the published nights",
        )
    night = published(context, job.as_of)
    adapted, level, row = load_adapted(night.context, night.run), load_level(night.run), entity_row(night, entity)
    explained = why.explain(row, adapted, portfolio, level)
    if abs(float(mean_score(adapted, explained.link)[0]) - score["score"]) > 1e-9:
        raise DataError(
            f"the run's files now score {entity!r} otherwise than was published",
            portfolio=job.portfolio,
            on=job.as_of,
            remedy="use the version of metarisk that scored: `code_version` in the view night",
        )
    graded = adapted.model.likelihood in GRADED
    points, start = explained.in_points(adapted.model.likelihood, portfolio.scorecard) if graded else (None, None)
    texts = {name: feature.description or name for name, feature in portfolio.features.items()}
    texts[why.SEGMENT] = f"segment {score['segment']}"
    texts[why.LEVEL] = "level of the latest known months"
    parts = [
        Part(
            name,
            texts.get(name, name),
            float(explained.parts[0, number]),
            None if points is None else float(points[0, number]),
        )
        for number, name in enumerate(explained.names)
    ]
    curve = tuple(float(value) for value in adapted.model.curve(float(explained.link[0])))
    return EntityExplained(
        score,
        tuple(why.reasons(row, adapted, portfolio, level)[0]),
        Part(
            "(start)", "where every row starts", float(explained.start[0]), None if start is None else float(start[0])
        ),
        tuple(sorted(parts, key=lambda part: -abs(part.link))),
        curve,
        _milestones(curve, portfolio),
        scores.lineage(context.warehouse, score["run_id"], score["segment"]) | _labels(night, row, adapted),
    )


def last_night(context: Context) -> date:
    """The newest night of the job's portfolio that stands. Raises DataError where there is none."""
    last = publications.last_night(context.warehouse, context.job.portfolio)
    if last is None:
        raise DataError("no night is published", portfolio=context.job.portfolio, remedy="run `metarisk nightly` first")
    return last


def _milestones(curve: Sequence[float], portfolio: Portfolio) -> dict[str, float]:
    """Probability within 12 months, where the horizon has them, and over all of it."""
    if not curve:
        return {}
    if not portfolio.periods:
        return {portfolio.horizon: curve[-1]}
    unit = "months" if portfolio.target.horizon_months else "days"
    named = {12: "within 12 months"} if unit == "months" else {}
    named[len(curve)] = f"within the whole horizon of {len(curve)} {unit}"
    return {name: curve[period - 1] for period, name in named.items() if period <= len(curve)}


def _labels(night: Night, row: pl.DataFrame, adapted: Adapted) -> dict[str, Any]:
    """Of the labelled rows of the entity's segment that adapted the model: when opened, and the newest known event."""
    columns = night.context.portfolio.columns
    rows = teaching(support(night.context, night.run), hazard=adapted.model.recipe.hazard)
    own = rows.join(row.select(columns.segments), on=columns.segments, how="semi", nulls_equal=True)
    opened = own[columns.opened_on]
    known = own[columns.known_date] if columns.known_date is not None else pl.Series([], dtype=pl.Date)
    return {"opened_from": opened.min(), "opened_until": opened.max(), "last_known": known.max()}
