"""Why a row has its score: what each feature, its segment and the level add, on the link scale and in points.

Everything is additive on the link scale. The bases explain themselves (TreeSHAP, linear shares) and are blended as
their scores are. What a learner does to the base is split by asking it for the same row in a segment that nobody knows:

    eta(row) = start + sum of features + segment + level
    start    = head(base's constant, nowhere)
    feature  = its share of the base, times the head's slope between the base's constant and the row's base
    segment  = head(row's base, row's segment) - head(row's base, nowhere)

so that the sum is exact for every learner, and for a head that is affine in the base so is each part.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import polars as pl

from metarisk import calibration
from metarisk.adapt import Adapted, one_thread, shifts
from metarisk.calibration import Calibration
from metarisk.domain import Array, LikelihoodName, Portfolio, Scorecard
from metarisk.tasks import pack, segment_keys

SEGMENT, LEVEL = "(segment)", "(level)"
"""Codes of what is no feature: the effect of belonging to the segment, and the level that follows its latest months."""
MOST = 4
"""Reasons that an applicant is told; regulators ask for no more."""
_NOWHERE = "\0nowhere"
"""A value that no extract holds: a segment of it is unseen with all of its parents."""
_SAME = 1e-6
"""Links closer than this are told apart by the slope of the points there."""


@dataclass(frozen=True)
class Explanation:
    """What moves the scores of N rows.

    Attributes:
        names: the features, SEGMENT and LEVEL.
        parts: contributions on the link scale, float64 (N, len(names)).
        start: what a row starts from, float64 (N,): the same for all rows where the learner reads the base alone.
        link: the scores, float64 (N,): start plus the row's parts.
    """

    names: tuple[str, ...]
    parts: Array
    start: Array
    link: Array

    def in_points(self, likelihood: LikelihoodName, card: Scorecard) -> tuple[Array, Array]:
        """Contributions (N, len(names)) and start (N,) in scorecard points; they sum to the points of the score.

        Points are affine in the logit, so there every contribution has one price; under another link it is the price
        between the row's start and its score.
        """

        def points(link: Array) -> Array:
            return calibration.points(calibration.log_odds(link, likelihood), card)

        distance, start = self.link - self.start, points(self.start)
        near = np.abs(distance) < _SAME
        there = (points(self.start + _SAME) - start) / _SAME
        price = np.where(near, there, (points(self.link) - start) / np.where(near, 1.0, distance))
        return self.parts * price[:, None], start


def explain(
    frame: pl.DataFrame, adapted: Adapted, portfolio: Portfolio, level: Calibration | None = None
) -> Explanation:
    """Split the scores of rows (N, in any order) into what their features, their segment and the level add."""
    model, level = adapted.model, level or Calibration()
    features, shares = model.contributions(frame)
    (_, base), constant = model.fresh(frame), shares[:, -1]
    here, _ = adapted.score(frame, portfolio)
    nowhere, start = (without_segment(frame, adapted, portfolio, score) for score in (base, constant))
    distance = base - constant
    same = np.abs(distance) < _SAME
    slope = np.where(same, 1.0, (nowhere - start) / np.where(same, 1.0, distance))
    moved = shifts(frame, portfolio, level)
    parts = np.column_stack([shares[:, :-1] * slope[:, None], here - nowhere, moved])
    # A segment column that a base reads tells of the segment.
    own = [number for number, name in enumerate(features) if name in portfolio.columns.segments]
    parts[:, -2] += parts[:, own].sum(axis=1)
    parts = np.delete(parts, own, axis=1)
    names = tuple(name for name in features if name not in portfolio.columns.segments)
    link = here + moved
    # What the parts leave over is rounding, and what a network makes of the inputs beside the base.
    return Explanation((*names, SEGMENT, LEVEL), parts, link - parts.sum(axis=1), link)


def reasons(
    frame: pl.DataFrame, adapted: Adapted, portfolio: Portfolio, level: Calibration | None = None
) -> list[list[dict[str, object]]]:
    """The reasons of each row, at most MOST, the heaviest first: code, plain text, contribution in points.

    Only what makes the score worse is a reason. Where the portfolio forbids the segment it is not told, yet counts.
    """
    found = explain(frame, adapted, portfolio, level)
    points, _ = found.in_points(adapted.model.likelihood, portfolio.scorecard)
    silent = {LEVEL} if portfolio.reasons.segment else {LEVEL, SEGMENT}
    told = [number for number, name in enumerate(found.names) if name not in silent]
    cost = -points[:, told]
    heaviest = np.argsort(-cost, axis=1, kind="stable")[:, :MOST]
    keys, codes = segment_keys(frame, portfolio)
    texts = {name: feature.description or name for name, feature in portfolio.features.items()}
    out = []
    for row, order in enumerate(heaviest):
        texts[SEGMENT] = f"what is known of others in {', '.join(keys[codes[row]])}"
        out.append(
            [
                {"code": name, "text": texts.get(name, name), "points": round(float(points[row, told[place]]), 2)}
                for place in order
                if cost[row, place] > 0 and (name := found.names[told[place]])
            ]
        )
    return out


def as_json(found: list[dict[str, object]]) -> str:
    """The reasons of one row as they stand in `risk_score.reasons`."""
    return json.dumps(found, ensure_ascii=False)


def changed(before: list[list[dict[str, object]]], after: list[list[dict[str, object]]]) -> float:
    """Share of rows whose first reason has another code; a row that has none in both has not changed."""
    moved = [_first(old) != _first(new) for old, new in zip(before, after, strict=True)]
    return sum(moved) / len(moved) if moved else 0.0


def _first(found: list[dict[str, object]]) -> object:
    return found[0]["code"] if found else None


def without_segment(frame: pl.DataFrame, adapted: Adapted, portfolio: Portfolio, base: Array) -> Array:
    """Link-scale score (N,) that the rows with these base scores (N,) would have in a segment that nobody knows."""
    model, key = adapted.model, (_NOWHERE,) * len(portfolio.columns.segments)
    codes = np.zeros(frame.height, dtype=np.int64)
    rows, _ = pack([key], codes, model.inputs(frame, base), np.zeros(frame.height), base)
    with one_thread():
        return model.learner.predict(model.state, adapted.adaptation, rows, model.likelihood)[0]
