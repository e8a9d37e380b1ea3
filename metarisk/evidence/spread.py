"""How far the measures of one recipe would move on other rows of the same kind."""

import math

import numpy as np
import polars as pl
from scipy import stats

from metarisk.domain import Array, Portfolio, RiskSpec
from metarisk.evidence.losses import blocks_of
from metarisk.metrics import Interval, Judge, judge_of
from metarisk.tasks import LABEL

GROUPS = 20  # nineteen degrees of freedom: Student's interval is within 7 % of the normal one


def intervals(judged: pl.DataFrame, recipe: str, portfolio: Portfolio, spec: RiskSpec) -> dict[str, Interval]:
    """95 % intervals of a recipe's measures on judged rows, by name; see `jackknife`. Empty without rows."""
    if judged.is_empty() or recipe not in judged.columns:
        return {}
    score, y = judged[recipe].to_numpy(), judged[LABEL].to_numpy()
    return jackknife(judge_of(spec.likelihood), score, y, blocks_of(judged, portfolio))


def jackknife(judge: Judge, score: Array, y: Array, blocks: Array, seed: int = 0) -> dict[str, Interval]:
    """Delete-a-group jackknife of every measure (Kott, Journal of Official Statistics 17, 2001).

    Blocks are dealt to GROUPS groups (as many as there are blocks, where these are fewer) and each group is left out
    once: measures that sort all rows are found twenty times, where a bootstrap would need hundreds.

    Args:
        score: link-scale scores (N,).
        y: labels (N,).
        blocks: what moves together (N,), any dtype.

    Returns:
        Value with Student's interval on one degree of freedom less than groups; infinite for a single block, and where
        a measure is not defined without some group.
    """
    whole = judge.measured(score, y)
    block = np.unique(blocks, return_inverse=True)[1]
    count = int(block.max()) + 1
    groups = min(GROUPS, count)
    if groups < 2:
        return {name: Interval(value, -math.inf, math.inf) for name, value in whole.items()}
    group = (np.random.default_rng(seed).permutation(count) % groups)[block]
    left = [judge.measured(score[group != out], y[group != out]) for out in range(groups)]
    reach = float(stats.t.ppf(0.975, groups - 1))
    found = {}
    for name, value in whole.items():
        without = np.array([measures[name] for measures in left])
        error = math.sqrt((groups - 1) * without.var())
        width = reach * error if math.isfinite(error) else math.inf
        found[name] = Interval(value, value - width, value + width)
    return found
