"""Rank correlation of a signal with what came, and Sharpe ratios that allow for short samples and many trials.

Bailey and Lopez de Prado (2012), The Sharpe ratio efficient frontier; (2014), The deflated Sharpe ratio, J. of
Portfolio Management 40 (5). Sharpe ratios are per period; kurtosis is 3 for the normal distribution.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def rank_ic(score: ArrayLike, came: ArrayLike) -> float:
    """Spearman's correlation of N scores and returns; NaN with fewer than three pairs, or where one is constant."""
    a, b = np.asarray(score, dtype=float), np.asarray(came, dtype=float)
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 3 or np.ptp(a[known]) == 0 or np.ptp(b[known]) == 0:
        return math.nan
    return float(np.corrcoef(stats.rankdata(a[known]), stats.rankdata(b[known]))[0, 1])


def sharpe(returns: ArrayLike) -> float:
    """Mean over standard deviation of returns (T,), per period; NaN without two that differ."""
    r = np.asarray(returns, dtype=float)
    return float(r.mean() / r.std()) if len(r) > 1 and np.ptp(r) > 0 else math.nan


def probabilistic_sharpe(ratio: float, above: float, periods: int, skew: float, kurtosis: float) -> float:
    """Probability that the true Sharpe ratio lies above `above`, of one estimated as `ratio` from `periods` returns."""
    spread = 1.0 - skew * ratio + 0.25 * (kurtosis - 1.0) * ratio**2
    if periods < 2 or not spread > 0:
        return math.nan
    return float(stats.norm.cdf((ratio - above) * math.sqrt((periods - 1) / spread)))


def expected_best_sharpe(trials: int, variance: float) -> float:
    """Sharpe ratio that the best of so many trials without any skill is expected to have; zero for one trial."""
    if trials < 2:
        return 0.0
    first, second = stats.norm.ppf(1 - 1 / trials), stats.norm.ppf(1 - 1 / (trials * math.e))
    return float(math.sqrt(variance) * ((1 - np.euler_gamma) * first + np.euler_gamma * second))


def deflated_sharpe(ratio: float, periods: int, skew: float, kurtosis: float, *, trials: int, variance: float) -> float:
    """`probabilistic_sharpe` above what the best of all trials has by luck; `variance` is that of their ratios."""
    return probabilistic_sharpe(ratio, expected_best_sharpe(trials, variance), periods, skew, kurtosis)
