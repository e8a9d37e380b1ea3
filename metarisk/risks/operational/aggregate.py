"""The sum of a year's losses: Fourier transform, Panjer's recursion and Monte Carlo, for one cell and for many."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from metarisk.domain import Array, ModelError
from metarisk.metrics import Interval

TILT = 20.0
"""Exponent by which what would wrap around the end of the lattice is damped."""
_NODES, _FIRST = 3, 48
"""Nodes of an interval of the lattice, and parts of the first one."""


@dataclass(frozen=True)
class Frequency:
    """Number of events in a year: Poisson, or negative binomial of variance mean + mean^2 / size.

    Attributes:
        mean: expected events a year.
        size: of the negative binomial; infinite for Poisson.
    """

    mean: float
    size: float = math.inf

    def generating(self, z: Array) -> Array:
        """Probability generating function at complex z."""
        if math.isinf(self.size):
            return np.asarray(np.exp(self.mean * (z - 1.0)))
        return np.asarray((1.0 - self.mean / self.size * (z - 1.0)) ** -self.size)

    def sample(self, years: int, rng: np.random.Generator) -> Array:
        """Counts of some years, int64 (years,)."""
        if math.isinf(self.size):
            return rng.poisson(self.mean, years)
        return rng.poisson(rng.gamma(self.size, self.mean / self.size, years))


@dataclass(frozen=True)
class Annual:
    """Distribution of a year's sum on a lattice: distribution function (L,) at 0, step, 2 step, ..."""

    step: float
    below: Array

    def quantile(self, level: ArrayLike) -> Array:
        """The least lattice point whose distribution function reaches each level (N,); infinite beyond the lattice."""
        q = np.asarray(level, dtype=np.float64)
        place = np.searchsorted(self.below, q, side="left")
        return np.where(place < len(self.below), place * self.step, np.inf)


def discretised(survival: Callable[[Array], Array], step: float, points: int) -> Array:
    """Probabilities (points,) of a loss spread over multiples of `step` so that its mean is kept.

    With the limited mean L(x) = integral of the survival up to x: f_0 = 1 - L(step) / step and f_k = (2 L(k step) -
    L((k-1) step) - L((k+1) step)) / step (Gerber 1982, Insurance: Mathematics and Economics 1, 13-18). So losses far
    below the step are not lost. What lies beyond the lattice is left out.
    """
    width = np.full(points, step)
    whole = step * _means(survival, np.arange(points) * step, width, _NODES)
    # the first interval may hold most of the losses
    parts = np.append(0.0, np.geomspace(1e-4, 1.0, _FIRST)) * step
    whole[0] = float(np.diff(parts) @ _means(survival, parts[:-1], np.diff(parts), _NODES))
    found = np.append(1.0 - whole[0] / step, (whole[:-1] - whole[1:]) / step)
    return np.asarray(np.maximum(found, 0.0))


def _means(survival: Callable[[Array], Array], starts: Array, widths: Array, nodes: int) -> Array:
    """Mean of a function over each interval (n,), by the Gauss-Legendre rule."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    inside = starts[:, None] + widths[:, None] * (places + 1.0) / 2.0
    return np.asarray(survival(inside.ravel()).reshape(inside.shape) @ weights / 2.0)


def by_fourier(frequency: Frequency, losses: Array, step: float) -> Annual:
    """A year's sum by the Fourier transform of exponentially tilted probabilities.

    Gruebel and Hermesmeier (1999), ASTIN Bulletin 29, 197-214: with f tilted by exp(-t k / L) what wraps around the
    lattice of L points is damped by exp(-t), t being TILT. Exact below the lattice's end, for losses on the lattice.

    Args:
        losses: probabilities of one loss (L,), of 0, step, ...; their sum may be below 1.
    """
    places = np.arange(len(losses)) / len(losses)
    transform = np.fft.rfft(losses * np.exp(-TILT * places))
    tilted = np.fft.irfft(frequency.generating(transform), len(losses))
    return Annual(step, np.cumsum(np.maximum(tilted * np.exp(TILT * places), 0.0)))


def simulated_quantile(sums: Array, level: float, confidence: float = 0.95) -> Interval:
    """A quantile of simulated sums (N,) with its Monte Carlo interval, free of any distribution: order statistics.

    The number of sums below the quantile is binomial (Conover 1999, Practical Nonparametric Statistics, 3.2). Raises
    ModelError where there are too few sums for an upper bound.
    """
    ordered, n = np.sort(sums), len(sums)
    low, high = stats.binom.ppf([(1 - confidence) / 2, (1 + confidence) / 2], n, level).astype(int)
    if high + 1 >= n:
        raise ModelError(
            f"{n} simulated years cannot bound the {level:.4%} quantile",
            remedy=f"simulate {math.ceil(20 / (1 - level)):,} years or more",
        )
    return Interval(float(ordered[math.ceil(n * level) - 1]), float(ordered[max(low - 1, 0)]), float(ordered[high + 1]))


def single_loss(frequency: Frequency, quantile: Callable[[Array], Array], level: float) -> float:
    """Loss that one event exceeds with probability (1 - level) / mean: about the annual quantile of a heavy tail.

    Boecker and Klueppelberg (2005), Operational VaR: a closed-form approximation, Risk.
    """
    return float(quantile(np.array([max(1.0 - (1.0 - level) / max(frequency.mean, 1e-12), 0.0)]))[0])


def common_factor(years: int, cells: int, correlation: float, seed: int) -> Array:
    """Uniforms (years, cells) under a Gaussian copula in which every pair of cells has the same correlation.

    Raises ModelError unless 0 <= correlation < 1.
    """
    if not 0.0 <= correlation < 1.0:
        raise ModelError(
            f"the correlation of cells expected in [0, 1), got {correlation}",
            remedy="state 0 for independence, or a correlation below 1",
        )
    rng = np.random.default_rng(seed)
    shared, own = rng.standard_normal((years, 1)), rng.standard_normal((years, cells))
    return np.asarray(special.ndtr(math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own))
