"""Economic capital of operational losses: the 99.9 % year, by cell and for the sum, with both of its uncertainties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from metarisk.domain import Array, ModelError
from metarisk.metrics import Interval
from metarisk.risks.operational.aggregate import (
    Annual,
    Frequency,
    by_fourier,
    common_factor,
    discretised,
    simulated_quantile,
    single_loss,
)
from metarisk.risks.operational.severity import PooledSeverity, Severity

LEVEL = 0.999
YEARS = 100_000
"""Simulated years of the sum."""
POINTS = 1 << 15
"""Lattice of a cell's year."""
BEYOND = 1e-5
"""Probability of one loss in a year beyond which a cell's lattice ends; a year beyond it may be ten times as likely."""
DRAWS = 64
"""Parameter draws of the bootstrap."""
COARSE, SHORT = 16, 8
"""How many times coarser the lattice of a parameter draw is, and how many times shorter its copula."""


@dataclass(frozen=True)
class CellCapital:
    """One cell: what a year costs in the mean and at LEVEL.

    Attributes:
        expected: expected loss of a year.
        quantile: 99.9 % of the year's sum; its bounds are the 90 % interval over parameter draws.
        shape: estimated tail shape.
        heavy: whether the shape is above 1/2, so that losses have no variance.
        infinite: share of parameter draws whose tail shape is 1 or more, so that losses have no mean.
    """

    expected: float
    quantile: Interval
    shape: float
    heavy: bool
    infinite: float


@dataclass(frozen=True)
class SumCapital:
    """The sum of all cells under one stated dependence.

    Attributes:
        correlation: of every pair of cells in a Gaussian copula; 0 is independence.
        quantile: 99.9 % of the sum and its 95 % Monte Carlo interval.
        parameters: the same estimate with its 90 % interval over parameter draws.
    """

    correlation: float
    expected: float
    quantile: Interval
    parameters: Interval


@dataclass(frozen=True)
class Rates:
    """Events a year of each cell, (C,) each: their means, the deviation of the logarithm of these, and NB sizes.

    Sizes are those of negative binomials; None: Poisson.
    """

    mean: Array
    log_error: Array
    size: Array | None = None

    def frequency(self, cell: int) -> Frequency:
        """Of one cell."""
        return Frequency(float(self.mean[cell]), math.inf if self.size is None else float(self.size[cell]))

    def drawn(self, rng: np.random.Generator) -> Rates:
        """Rates with means from their log-normal sampling distribution, whose mean is the estimate."""
        error = self.log_error * rng.standard_normal(len(self.mean)) - self.log_error**2 / 2
        return replace(self, mean=self.mean * np.exp(error))


def capital(
    rates: Rates,
    severity: PooledSeverity,
    names: Sequence[str],
    correlations: Sequence[float] = (0.0,),
    *,
    years: int = YEARS,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[list[CellCapital], list[SumCapital]]:
    """Economic capital of every cell, and of their sum under each correlation.

    A cell's year is computed by Fourier transform, free of Monte Carlo error; the sum's by `years` draws of the copula
    through the cells' quantile functions. The parameter bootstrap draws rates from their sampling distribution and
    severities from the posterior of their parameters, and computes all of it again.

    Args:
        names: of the cells, for errors.

    Raises:
        ModelError: a tail shape of 1 or more, whose losses have no mean.
    """
    refuse_infinite(severity.estimate, names)
    annual = _years(rates, severity.estimate, POINTS)
    again = [_years(rates, severity.estimate, POINTS // COARSE)]
    rng = np.random.default_rng([seed, 1])
    chosen = np.linspace(0, severity.draws - 1, min(draws, severity.draws)).astype(int)
    again += [_years(rates.drawn(rng), severity.drawn(int(number)), POINTS // COARSE) for number in chosen]
    expected = rates.mean * severity.estimate.mean()
    infinite = (severity.tail.draws[:, :, 0] >= 1.0).mean(axis=0)
    cells = [
        CellCapital(
            float(expected[cell]),
            _spread(float(year.quantile(LEVEL)), [float(line[cell].quantile(LEVEL)) for line in again]),
            float(severity.estimate.shape[cell]),
            bool(severity.estimate.heavy[cell]),
            float(infinite[cell]),
        )
        for cell, year in enumerate(annual)
    ]
    sums = []
    for correlation in correlations:
        at = simulated_quantile(_sums([annual], common_factor(years, len(names), correlation, seed))[0], LEVEL)
        shorter = common_factor(years // SHORT, len(names), correlation, seed + 1)
        tops = np.quantile(_sums(again, shorter), LEVEL, axis=1).tolist()
        sums.append(SumCapital(correlation, float(expected.sum()), at, _spread(at.mean, tops)))
    return cells, sums


def _spread(estimate: float, again: Sequence[float]) -> Interval:
    """An estimate with its 90 % interval over parameter draws, the first of which are the estimated parameters.

    Draws are computed more coarsely, so the interval is that of their ratio to the estimate computed alike.
    """
    low, high = np.quantile(np.array(again[1:]) / again[0], [0.05, 0.95]) if again[0] else (1.0, 1.0)
    return Interval(estimate, estimate * float(low), estimate * float(high))


def refuse_infinite(severity: Severity, names: Sequence[str]) -> None:
    """Refuse tails without a mean: no capital can be said of them."""
    wrong = [f"{name} ({shape:.2f})" for name, shape in zip(names, severity.shape, strict=True) if shape >= 1.0]
    if wrong:
        raise ModelError(
            f"the losses of {len(wrong)} cells have a tail shape of 1 or more, and so no mean: {', '.join(wrong[:5])}",
            remedy="look for wrong amounts or mixed currencies among the largest losses, cap them at the insured "
            "amount, or merge the cell with a larger one",
        )


def _years(rates: Rates, severity: Severity, points: int) -> list[Annual]:
    """Each cell's year on a lattice that is long enough, see BEYOND."""
    means, found = severity.mean(), []
    for cell, mean in enumerate(means):
        frequency, survival = rates.frequency(cell), partial(severity.sf, cell=cell)
        end = single_loss(frequency, partial(severity.ppf, cell=cell), 1 - BEYOND)
        end += 2.0 * frequency.mean * min(float(mean), end)
        year = by_fourier(frequency, discretised(survival, end / points, points), end / points)
        while year.below[-1] < 1 - 10 * BEYOND:
            end *= 2
            year = by_fourier(frequency, discretised(survival, end / points, points), end / points)
        found.append(year)
    return found


def _sums(lines: Sequence[Sequence[Annual]], levels: Array) -> Array:
    """Sums over cells (lines, years) of years at given levels (years, cells) of each, under each line's cells."""
    sums = np.zeros((len(lines), len(levels)))
    for cell in range(levels.shape[1]):
        # levels in rising order are looked up many times as fast
        order = np.argsort(levels[:, cell])
        rising = levels[order, cell]
        for number, line in enumerate(lines):
            year = line[cell]
            sums[number, order] += np.minimum(year.quantile(rising), year.step * len(year.below))
    return sums
