"""From signals to weights within limits, and from weights to returns net of the cost of trading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from metarisk.domain import Array


def tilt(score: ArrayLike, groups: ArrayLike, share: float, most: float, *, short: bool, neutral: bool) -> Array:
    """Weights (N,): equal ones of the best `share`, and minus those of the worst where `short`; ties go by place.

    Long weights add up to 1, short ones to -1, or less where `most`, the largest weight of one asset, is in the way.
    With `neutral` the shares are taken of each group (N,), so that no group is net long or short against another.
    """
    scores, of = np.asarray(score, dtype=float), np.asarray(groups)
    parts = [np.flatnonzero(of == group) for group in np.unique(of)] if neutral else [np.arange(len(scores))]
    best: list[int] = []
    worst: list[int] = []
    for part in parts:
        order = part[np.argsort(scores[part], kind="stable")]
        count = min(max(1, round(share * len(part))), len(part) // 2)
        best += order[len(order) - count :].tolist()
        worst += order[:count].tolist()
    weights = np.zeros(len(scores))
    if best:
        weights[best] = min(1 / len(best), most)
        if short:
            weights[worst] = -min(1 / len(worst), most)
    return weights


def limited(wanted: Mapping[str, float], held: Mapping[str, float], turnover: float) -> dict[str, float]:
    """Weights on the straight way from `held` to `wanted`, as far as the sum of absolute trades is within `turnover`.

    Without anything held the portfolio is bought whole: a limit on trades has no meaning for the first one.
    """
    names = sorted({*wanted, *held})
    trades = {name: wanted.get(name, 0.0) - held.get(name, 0.0) for name in names}
    total = sum(abs(trade) for trade in trades.values())
    part = 1.0 if not held or total <= turnover else turnover / total
    return {name: held.get(name, 0.0) + part * trades[name] for name in names}


@dataclass(frozen=True)
class Path:
    """What a sequence of portfolios earned: returns net of costs, gross ones, and turnover, each (T,)."""

    net: Array
    gross: Array
    turnover: Array


def walk(weights: Sequence[Mapping[str, float]], returns: Sequence[Mapping[str, float]], cost: float) -> Path:
    """Hold each date's weights for its period and pay `cost` a unit of trade; what has no return earns zero.

    Between two dates weights drift with their returns, and trades are counted from where they drifted to.
    """
    held: dict[str, float] = {}
    net, gross, turnover = [], [], []
    for wanted, came in zip(weights, returns, strict=True):
        traded = sum(abs(wanted.get(name, 0.0) - held.get(name, 0.0)) for name in sorted({*wanted, *held}))
        earned = sum(weight * came.get(name, 0.0) for name, weight in wanted.items())
        held = {name: weight * (1 + came.get(name, 0.0)) / (1 + earned) for name, weight in wanted.items()}
        gross.append(earned)
        turnover.append(traded)
        net.append(earned - cost * traded)
    return Path(np.array(net), np.array(gross), np.array(turnover))


def equity(returns: ArrayLike) -> Array:
    """Value (T,) of 1 after each period."""
    return np.cumprod(1 + np.asarray(returns, dtype=float))


def drawdown(returns: ArrayLike) -> float:
    """Largest loss from a peak, as a share of it, the start counted as one; zero where value never falls."""
    value = np.concatenate([[1.0], equity(returns)])
    return float((1 - value / np.maximum.accumulate(value)).max())
