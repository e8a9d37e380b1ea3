"""How dear it is to trade: illiquidity and spread of daily bars, days to liquidate, and what selling adds to a loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from metarisk.domain import Array


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
