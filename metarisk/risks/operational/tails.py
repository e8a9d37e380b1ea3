"""The generalised Pareto tail: fit, choice of the threshold, and what shows whether it fits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from metarisk.domain import Array, DataError

SHARES = tuple(np.round(np.geomspace(0.30, 0.02, 25), 4))
"""Shares of the losses above a threshold that is tried."""
FEWEST = 50
"""Losses above a threshold that is tried."""


@dataclass(frozen=True)
class Gpd:
    """Generalised Pareto distribution of excesses over a threshold: 1 - (1 + shape x / scale)^(-1 / shape).

    Attributes:
        shape: xi; 1 or more has no mean, 1/2 or more no variance.
        scale: in the unit of the losses.
        shape_error, scale_error: asymptotic standard errors, NaN where they do not exist (shape <= -1/2).
        rows: excesses that were fitted.
    """

    shape: float
    scale: float
    shape_error: float = math.nan
    scale_error: float = math.nan
    rows: int = 0

    def sf(self, excess: ArrayLike) -> Array:
        """Probability of a larger excess (N,)."""
        return survival(excess, self.shape, self.scale)

    def ppf(self, level: ArrayLike) -> Array:
        """Quantile (N,) of the excess."""
        return excess_at(1.0 - np.asarray(level, dtype=np.float64), self.shape, self.scale)


def survival(excess: ArrayLike, shape: ArrayLike, scale: ArrayLike) -> Array:
    """Probability of a larger excess under a GPD, by broadcasting; the exponential where the shape is 0."""
    x, xi, beta = (np.asarray(part, dtype=np.float64) for part in (excess, shape, scale))
    near = np.abs(xi) < 1e-9
    safe = np.where(near, 1.0, xi)
    base = np.maximum(1.0 + safe * x / beta, 0.0)
    with np.errstate(divide="ignore"):
        power = np.exp(-np.log(base) / safe)
    return np.asarray(np.where(near, np.exp(-x / beta), power))


def excess_at(survived: ArrayLike, shape: ArrayLike, scale: ArrayLike) -> Array:
    """The excess that a share `survived` of a GPD is above, by broadcasting."""
    p, xi, beta = (np.asarray(part, dtype=np.float64) for part in (survived, shape, scale))
    near = np.abs(xi) < 1e-9
    safe = np.where(near, 1.0, xi)
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(beta * np.where(near, -np.log(p), np.expm1(-safe * np.log(p)) / safe))


def log_density(excess: ArrayLike, shape: ArrayLike, scale: ArrayLike) -> Array:
    """Log density of a GPD, by broadcasting; -inf beyond the end of a tail of negative shape."""
    x, xi, beta = (np.asarray(part, dtype=np.float64) for part in (excess, shape, scale))
    near = np.abs(xi) < 1e-9
    safe = np.where(near, 1.0, xi)
    inside = 1.0 + safe * x / beta
    with np.errstate(divide="ignore", invalid="ignore"):
        heavy = np.where(inside > 0, -(1.0 / safe + 1.0) * np.log(np.maximum(inside, 1e-300)), -np.inf)
    return np.asarray(np.where(near, -x / beta, heavy) - np.log(beta))


def fit_gpd(excess: ArrayLike) -> Gpd:
    """Maximum likelihood by the profile over tau = shape / scale: shape = mean log(1 + tau x).

    Grimshaw (1993), Technometrics 35, 185-191; standard errors of Smith (1987), Annals of Statistics 15, 1174-1207:
    Var(shape) = (1 + shape)^2 / n and Var(scale) = 2 (1 + shape) scale^2 / n. Shapes below -1/2 are not looked for.

    Raises:
        DataError: fewer than two excesses, or one that is not above 0.
    """
    x = np.asarray(excess, dtype=np.float64)
    if len(x) < 2 or not (np.isfinite(x) & (x > 0)).all():
        raise DataError(
            f"a tail expects at least two finite excesses above 0, got {len(x)}, the least {x.min(initial=math.inf):g}",
            remedy="lower the threshold, or pool the cell with others",
        )
    unit = float(x.mean())
    z = x / unit

    def profile(place: float) -> float:
        """Negative mean log-likelihood at tau = exp(place) / largest - 1 / largest, so tau > -1 / largest."""
        tau = (math.exp(place) - 1.0) / z.max()
        shape = float(np.log1p(tau * z).mean())
        if abs(tau) < 1e-9:
            return 1.0
        if shape < -0.5:
            return math.inf
        return math.log(shape / tau) + shape + 1.0

    places = np.linspace(-4.0, 12.0, 81)
    best = int(np.argmin([profile(float(place)) for place in places]))
    ends = (float(places[max(best - 1, 0)]), float(places[min(best + 1, len(places) - 1)]))
    found = optimize.minimize_scalar(profile, bounds=ends, method="bounded", options={"xatol": 1e-12})
    tau = (math.exp(found.x) - 1.0) / z.max()
    shape = float(np.log1p(tau * z).mean())
    scale = unit * (1.0 if abs(tau) < 1e-9 else shape / tau)
    errors = (1 + shape) / math.sqrt(len(x)), scale * math.sqrt(2 * (1 + shape) / len(x))
    return Gpd(shape, scale, *(errors if shape > -0.5 else (math.nan, math.nan)), len(x))


def choose_threshold(losses: ArrayLike, *, fewest: int = FEWEST) -> float:
    """The threshold above which a fitted GPD is nearest to the losses by Kolmogorov's distance.

    Tried are the quantiles that leave each of SHARES above them and at least `fewest` losses (Clauset, Shalizi and
    Newman 2009, SIAM Review 51, 661-703, who do so for power laws: below the right threshold the model is wrong, above
    it fewer losses are left, and both widen the distance). With too few losses for any, it is the quantile that leaves
    the largest of SHARES.

    Raises:
        DataError: no loss at all.
    """
    x = np.sort(np.asarray(losses, dtype=np.float64))
    if not len(x):
        raise DataError("a threshold expects losses, got none", remedy="look at the extract's dates and its filters")
    tried = [float(np.quantile(x, 1 - share)) for share in SHARES if share * len(x) >= fewest]
    distances = [_distance(x[x > threshold] - threshold) for threshold in tried]
    return tried[int(np.argmin(distances))] if tried else float(np.quantile(x, 1 - SHARES[0]))


def mean_excess(losses: ArrayLike, thresholds: ArrayLike) -> tuple[Array, Array, Array]:
    """Mean excess over each threshold (T,) with its 95 % normal bounds; NaN over which fewer than two losses lie.

    A GPD's is a line of slope shape / (1 - shape).
    """
    x = np.asarray(losses, dtype=np.float64)
    found = np.full((3, np.size(thresholds)), np.nan)
    for number, threshold in enumerate(np.atleast_1d(np.asarray(thresholds, dtype=np.float64))):
        over = x[x > threshold] - threshold
        if len(over) >= 2:
            half = 1.96 * float(over.std(ddof=1)) / math.sqrt(len(over))
            found[:, number] = over.mean(), over.mean() - half, over.mean() + half
    return found[0], found[1], found[2]


def as_exponential(excess: ArrayLike, shape: float, scale: float) -> Array:
    """Excesses (n,) on the scale on which a GPD is the standard exponential: tails of many cells in one QQ plot."""
    return np.asarray(-np.log(survival(excess, shape, scale)))


def _distance(excess: Array) -> float:
    """Kolmogorov's distance between excesses, in rising order, and the GPD fitted to them."""
    excess = excess[excess > 0]
    below = 1.0 - fit_gpd(excess).sf(excess)
    steps = np.arange(len(excess) + 1) / len(excess)
    return float(max((below - steps[:-1]).max(), (steps[1:] - below).max()))
