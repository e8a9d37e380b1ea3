"""The level of a night: adapted scores shifted towards the latest known months, as far as the week found wise.

The mathematics is `calibration`; which rows are looked at, and how support rows are scored without having been seen,
stands here.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from metarisk.adapt.adapting import Adapted, shifts_to
from metarisk.calibration import LEVELLED, Calibration, LevelRule
from metarisk.domain import Array, Portfolio, segment_name
from metarisk.tasks import LABEL, segment_keys, teaching

LEVEL_RULES = (
    LevelRule(),
    LevelRule(3, 0.04, 0.0),
    LevelRule(6, 0.04, 0.0),
    LevelRule(12, 0.04, 0.0),
    LevelRule(12, 0.04, 0.01),
)
"""What a week tries on forward rows: nothing first, then the latest known months of the portfolio and of its segments.

A standard deviation of 0.2 on the link scale is a level that moves by a fifth from one season to the next.
"""


def level_column(recipe: str, rule: int) -> str:
    """Column of judged rows that holds a recipe's scores after a rule of LEVEL_RULES."""
    return f"{recipe} + level {rule}"


def level(adapted: Adapted, known: pl.DataFrame, portfolio: Portfolio, rule: LevelRule) -> Calibration:
    """The level after a rule: from rows opened in the latest months (LABEL holds y), scored by unseen fits.

    Where the model is a hazard, rows still at risk are among them, each over the time it has been so.
    No shift where the rule is none, where nothing is known, where the link scale is not a logarithm or logit, and of a
    pooled model, for it has no fits that have not seen its rows.
    """
    model = adapted.model
    if rule.months == 0 or model.likelihood not in LEVELLED or not all(base.parts for base in model.bases):
        return Calibration()
    known = teaching(known, hazard=model.recipe.hazard)
    if known.is_empty():
        return Calibration()
    opened = pl.col(portfolio.columns.opened_on)
    rows = known.filter(opened > opened.max().dt.offset_by(f"-{rule.months}mo"))
    keys, codes = segment_keys(rows, portfolio)
    link = adapted.score(rows, portfolio, model.unseen(rows))[0]
    return shifts_to(link, rows[LABEL].to_numpy(writable=True), keys, codes, rule, model.likelihood)


def shifts(frame: pl.DataFrame, portfolio: Portfolio, found: Calibration) -> Array:
    """What the level adds to the link-scale score of each row, float64 (N,)."""
    keys, codes = segment_keys(frame, portfolio)
    return np.array([found.shift(segment_name(key)) for key in keys], dtype=float)[codes]
