"""Parameters of many cells under a prior learned over the cells: exact likelihoods on a grid, Gibbs sampling on top.

A cell with few observations, or none, has a flat likelihood and so the prior; nothing has to converge for it.
Shapes: C cells, A parameters, G grid points, D draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metarisk.domain import Array

BURN_IN = 100
"""Gibbs rounds that are thrown away."""


@dataclass(frozen=True)
class Axis:
    """One parameter: the points of its grid, and what is thought of its spread before any data.

    Attributes:
        points: (g,), rising by equal steps.
        spread: standard deviation between cells that is expected, with the weight of `strength` cells.
        middle, width: normal prior of the mean over cells.
    """

    points: Array
    spread: float
    middle: float
    width: float
    strength: float = 4.0

    @property
    def step(self) -> float:
        """Distance of two neighbouring points."""
        return float(self.points[1] - self.points[0])


@dataclass(frozen=True)
class Pooled:
    """Posterior draws of every cell's parameters, (D, C, A), and of the prior's mean and deviation, (D, A) each."""

    draws: Array
    mean: Array
    deviation: Array

    @property
    def estimate(self) -> Array:
        """Posterior mean (C, A)."""
        return np.asarray(self.draws.mean(axis=0))


def grid(axes: Sequence[Axis]) -> Array:
    """All combinations of the axes' points (G, A), the last axis fastest."""
    return np.stack([part.ravel() for part in np.meshgrid(*(axis.points for axis in axes), indexing="ij")], axis=1)


def pool(loglik: Array, axes: Sequence[Axis], *, draws: int = 200, seed: int = 0) -> Pooled:
    """Draw from the posterior of cells' parameters that are normal around a common mean.

    theta_c ~ N(m, diag s^2), m_a ~ N(middle, width^2), s_a^2 ~ scaled inverse chi-square(strength, spread^2): Gibbs
    sampling (Gelman et al., Bayesian Data Analysis, 3rd ed., 11.6), where a cell's parameters are drawn from its grid
    and moved evenly within their grid cell. The same arguments give the same bits.

    Args:
        loglik: log-likelihood of each cell at every point of `grid(axes)`, (C, G).
        axes: the parameters, (A,).
        draws: how many are kept, after BURN_IN.
        seed: of everything that is drawn.
    """
    points, cells = grid(axes), len(loglik)
    rng = np.random.default_rng(seed)
    mean = np.array([axis.middle for axis in axes])
    deviation = np.array([axis.spread for axis in axes])
    width, spread = np.array([axis.width for axis in axes]), np.array([axis.spread for axis in axes])
    strength, step = np.array([axis.strength for axis in axes]), np.array([axis.step for axis in axes])
    kept = np.empty((draws, cells, len(axes)))
    means, deviations = np.empty((draws, len(axes))), np.empty((draws, len(axes)))
    for number in range(-BURN_IN, draws):
        prior = -0.5 * (((points - mean) / deviation) ** 2).sum(axis=1)
        chosen = points[_drawn(loglik + prior, rng)] + step * (rng.random((cells, len(axes))) - 0.5)
        precision = cells / deviation**2 + 1 / width**2
        centre = (chosen.sum(axis=0) / deviation**2 + np.array([axis.middle for axis in axes]) / width**2) / precision
        mean = rng.normal(centre, 1 / np.sqrt(precision))
        scatter = strength * spread**2 + ((chosen - mean) ** 2).sum(axis=0)
        deviation = np.maximum(np.sqrt(scatter / rng.chisquare(strength + cells)), step)
        if number >= 0:
            kept[number], means[number], deviations[number] = chosen, mean, deviation
    return Pooled(kept, means, deviations)


def _drawn(log_mass: Array, rng: np.random.Generator) -> Array:
    """One column (C,) of each row of unnormalised log-probabilities (C, G)."""
    mass = np.cumsum(np.exp(log_mass - log_mass.max(axis=1, keepdims=True)), axis=1)
    level = rng.random(len(mass)) * mass[:, -1]
    return np.asarray((mass < level[:, None]).sum(axis=1))
