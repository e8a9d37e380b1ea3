"""How often losses happen: exact bounds of a rate, and how far counts scatter beyond Poisson."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from metarisk.domain import Array, DataError


def rate_bounds(events: ArrayLike, exposure: ArrayLike, level: float = 0.95) -> tuple[Array, Array]:
    """Exact central bounds (C,) of Poisson rates; without any event (0, upper), where upper is one-sided.

    Garwood (1936), Biometrika 28, 437-442: chi-square quantiles. With no event the upper bound is
    -ln(1 - level) / exposure, the rule of three.

    Raises:
        DataError: an exposure that is not above 0, or a negative count.
    """
    count, size = np.asarray(events, dtype=np.float64), np.asarray(exposure, dtype=np.float64)
    require_exposure(size)
    if (count < 0).any():
        raise DataError(
            f"{int((count < 0).sum())} counts of events are negative, the least {count.min():g}",
            remedy="correct the counts at their source",
        )
    side = np.where(count > 0, (1 - level) / 2, 1 - level)
    low = np.where(count > 0, stats.chi2.ppf(side, 2 * np.maximum(count, 1)) / 2, 0.0)
    return low / size, stats.chi2.ppf(1 - side, 2 * count + 2) / 2 / size


def dispersion(events: ArrayLike, expected: ArrayLike) -> float:
    """Size of the negative binomial (NB2) that counts (N,) with means `expected` have; infinite for Poisson.

    Maximum likelihood in the size alone: the variance is mu + mu^2 / size. Where the score at size -> infinity,
    sum (y - mu)^2 - y, is not above 0 (Dean 1992, JASA 87, 451-457), counts scatter no more than Poisson ones.
    """
    y, mu = np.asarray(events, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if float(((y - mu) ** 2 - y).sum()) <= 0:
        return math.inf

    def loss(log_size: float) -> float:
        r = math.exp(log_size)
        return -float(
            (special.gammaln(y + r) - special.gammaln(r) - r * np.log1p(mu / r) + special.xlogy(y, mu / (r + mu))).sum()
        )

    found = optimize.minimize_scalar(loss, bounds=(-7.0, 12.0), method="bounded", options={"xatol": 1e-8})
    return math.exp(found.x)


def require_exposure(exposure: Array) -> None:
    """Refuse exposures that are not above 0 and finite."""
    wrong = ~(np.isfinite(exposure) & (exposure > 0))
    if wrong.any():
        raise DataError(
            f"{int(wrong.sum())} of {exposure.size} exposures are not above 0, the first is {exposure[wrong][0]:g}",
            remedy="leave out what was not at risk, or correct its exposure",
        )
