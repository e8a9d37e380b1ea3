"""Daily variance from prices, and the oldest forecast of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from metarisk.domain import Array

RISKMETRICS = 0.94
"""Daily decay of RiskMetrics (J.P. Morgan 1996)."""
FLOOR = 1e-6
"""Smallest daily variance: a volatility of 0.1 % a day, below which ticks are seen and not risk."""


def garman_klass(open_: ArrayLike, high: ArrayLike, low: ArrayLike, close: ArrayLike) -> Array:
    """Variance of each trading session (N,) from its four prices; without the night before it.

    Garman and Klass (1980), Journal of Business 53, 67-78: 0.5 ln(H/L)^2 - (2 ln 2 - 1) ln(C/O)^2, zero where negative.
    A high below the other prices, or a low above them, is raised or lowered to them.
    """
    first, last = np.asarray(open_, dtype=float), np.asarray(close, dtype=float)
    top = np.maximum(np.maximum(np.asarray(high, dtype=float), first), last)
    bottom = np.minimum(np.minimum(np.asarray(low, dtype=float), first), last)
    span, move = np.log(top / bottom), np.log(last / first)
    return np.asarray(np.maximum(0.5 * span**2 - (2.0 * np.log(2.0) - 1.0) * move**2, 0.0))


def realised_variance(open_: ArrayLike, high: ArrayLike, low: ArrayLike, close: ArrayLike, returns: ArrayLike) -> Array:
    """Variance from close to close (N,): the session's plus the square of the overnight return, at least FLOOR.

    The overnight return is what the adjusted close-to-close log return (N,) leaves beyond the session's own, so that
    splits and dividends are in neither. NaN where the return is.
    """
    move = np.log(np.asarray(close, dtype=float) / np.asarray(open_, dtype=float))
    overnight = np.asarray(returns, dtype=float) - move
    return np.asarray(np.maximum(garman_klass(open_, high, low, close) + overnight**2, FLOOR))


def ewma(variance: ArrayLike, decay: float = RISKMETRICS) -> Array:
    """Exponentially weighted mean of daily variances up to each day, (T,) or (T, N); days of NaN are passed over.

    Weights are those of the days that there are: the first day's forecast is its own variance. Squared returns give
    RiskMetrics.
    """
    values = np.asarray(variance, dtype=float)
    out, total, mass = np.empty_like(values), np.zeros(values.shape[1:]), np.zeros(values.shape[1:])
    for day, value in enumerate(values):
        seen = np.isfinite(value)
        total = np.where(seen, decay * total + np.where(seen, value, 0.0), total)
        mass = np.where(seen, decay * mass + 1.0, mass)
        with np.errstate(invalid="ignore"):
            out[day] = total / mass
    return out
