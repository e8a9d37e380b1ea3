"""How dear it is to trade: illiquidity and spread of daily bars, days to liquidate, and what selling adds to a loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from metarisk.domain import Array

MILLION = 1e6
"""Currency in which illiquidity is told: per cent that the price moves for a million traded."""


def amihud(returns: ArrayLike, value: ArrayLike) -> Array:
    """Illiquidity of each day (N,): per cent of absolute simple return for a million of value traded.

    Amihud (2002), Journal of Financial Markets 5, 31-56. NaN on a day without volume or without a return.
    """
    traded = np.asarray(value, dtype=float)
    moved = 100.0 * np.abs(np.asarray(returns, dtype=float))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(traded > 0.0, moved / (traded / MILLION), np.nan)


def corwin_schultz(high: ArrayLike, low: ArrayLike, close: ArrayLike) -> Array:
    """Bid-ask spread of each day and the one before it (T,) as a share of the price; the first one is NaN.

    Corwin and Schultz (2012), Journal of Finance 67, 719-760, equations 14 and 18, on adjusted prices, oldest first.
    Where a day lies wholly above or below the close before it, the night moved the price: its high and low are shifted
    back by the gap. A negative estimate is zero.
    """
    top, bottom = np.asarray(high, dtype=float), np.asarray(low, dtype=float)
    before = np.asarray(close, dtype=float)[:-1]
    gap = np.maximum(bottom[1:] - before, 0.0) + np.minimum(top[1:] - before, 0.0)
    high_2, low_2 = top[1:] - gap, bottom[1:] - gap
    beta = np.log(top[:-1] / bottom[:-1]) ** 2 + np.log(high_2 / low_2) ** 2
    gamma = np.log(np.maximum(top[:-1], high_2) / np.minimum(bottom[:-1], low_2)) ** 2
    scale = 3.0 - 2.0 * np.sqrt(2.0)
    alpha = (np.sqrt(2.0 * beta) - np.sqrt(beta)) / scale - np.sqrt(gamma / scale)
    # 2 (exp(a) - 1) / (1 + exp(a))
    return np.concatenate([[np.nan], np.maximum(2.0 * np.tanh(alpha / 2.0), 0.0)])


def days_to_liquidate(held: ArrayLike, daily_value: ArrayLike, participation: float) -> Array:
    """Trading days (N,) to sell positions at a share of the value traded a day; infinite where nothing is traded."""
    if not 0.0 < participation <= 1.0:
        raise ValueError(f"participation is {participation}: expected a share of the value traded, above 0 and up to 1")
    amount = np.abs(np.asarray(held, dtype=float))
    pace = participation * np.asarray(daily_value, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(amount == 0.0, 0.0, np.where(pace > 0.0, amount / pace, np.inf)))


def exit_factor(days: ArrayLike) -> Array:
    """What a one-day VaR is multiplied with if equal parts are sold at the end of each of T days (N,).

    What is left on day i is (T - i + 1) / T of the position, so that variances add to (1 + T)(1 + 2T) / (6T). Jorion
    (2007), Value at Risk, third edition, chapter 13. A position that is sold within a day counts one.
    """
    length = np.maximum(np.asarray(days, dtype=float), 1.0)
    return np.asarray(np.sqrt((1.0 / length + 3.0 + 2.0 * length) / 6.0))


def exogenous_cost(held: ArrayLike, mean: ArrayLike, deviation: ArrayLike, scale: float) -> Array:
    """Half the spread in a bad day's market on each position (N,), in its currency: |held| (mean + scale sd) / 2.

    Bangia, Diebold, Schuermann and Stroughair (1999), Liquidity on the outside, Risk 12, 68-73: liquidity-adjusted VaR
    is VaR plus this. They find scales between 2 and 4.5 for 99 %, as the tails of spreads are.
    """
    wide = np.asarray(mean, dtype=float) + scale * np.asarray(deviation, dtype=float)
    return np.asarray(0.5 * np.abs(np.asarray(held, dtype=float)) * wide)
