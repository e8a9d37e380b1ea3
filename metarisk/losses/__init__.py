"""Operational losses: how often, how large, and what a year of them costs. Pure numpy and scipy, numbers out.

`frequency` bounds rates, `tails` fits generalised Pareto tails and chooses their threshold, `pooling` learns a prior
over cells, `severity` composes bodies and tails, `aggregate` sums a year, `capital` is the 99.9 % of it.
"""

from metarisk.losses.aggregate import (
    Annual,
    Frequency,
    by_fourier,
    by_panjer,
    by_simulation,
    common_factor,
    discretised,
    simulated_quantile,
    single_loss,
)
from metarisk.losses.capital import CellCapital, Rates, SumCapital, capital
from metarisk.losses.frequency import dispersion, posterior_bound, rate_bounds, require_exposure
from metarisk.losses.severity import HEAVY, PooledSeverity, Severity, fit_severity
from metarisk.losses.tails import Gpd, as_exponential, choose_threshold, fit_gpd, mean_excess, qq

__all__ = [
    "HEAVY",
    "Annual",
    "CellCapital",
    "Frequency",
    "Gpd",
    "PooledSeverity",
    "Rates",
    "Severity",
    "SumCapital",
    "as_exponential",
    "by_fourier",
    "by_panjer",
    "by_simulation",
    "capital",
    "choose_threshold",
    "common_factor",
    "discretised",
    "dispersion",
    "fit_gpd",
    "fit_severity",
    "mean_excess",
    "posterior_bound",
    "qq",
    "rate_bounds",
    "require_exposure",
    "simulated_quantile",
    "single_loss",
]
