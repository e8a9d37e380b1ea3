"""Which forecast is better, on losses of the same days."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import ArrayLike
from scipy import stats

from metarisk.domain import Array

FEWEST = 10
"""Days below which nothing is compared."""


def diebold_mariano(difference: ArrayLike, horizon: int = 1, lags: int | None = None) -> tuple[float, float]:
    """Statistic and two-sided p-value of a mean loss difference of zero; below 0 the first forecast is better.

    Diebold and Mariano (1995) with the small-sample correction of Harvey, Leybourne and Newbold (1997, International
    Journal of Forecasting 13, 281-291), Bartlett weights, and t with T - 1 degrees of freedom.

    Args:
        difference: day means of one loss less the other (T,), oldest first; NaN days are left out.
        horizon: days that a forecast is for: overlapping errors are correlated over one less.
        lags: of the long-run variance; None: horizon - 1 and at least T^(1/3), for losses cluster.

    NaN for fewer than FEWEST days, or where the difference is always the same.
    """
    d = np.asarray(difference, dtype=float)
    d = d[np.isfinite(d)]
    days = len(d)
    if days < FEWEST or np.ptp(d) == 0.0:
        return float("nan"), float("nan")
    most = max(horizon - 1, int(days ** (1 / 3))) if lags is None else lags
    error = d - d.mean()
    autocovariance = [float(error[k:] @ error[: days - k]) / days for k in range(most + 1)]
    weights = 1.0 - np.arange(most + 1) / (most + 1)
    variance = 2.0 * float(weights @ autocovariance) - autocovariance[0]
    correction = (days + 1 - 2 * horizon + horizon * (horizon - 1) / days) / days
    statistic = float(d.mean() / np.sqrt(variance / days) * np.sqrt(correction))
    return statistic, float(2.0 * stats.t.sf(abs(statistic), days - 1))


def confidence_set(
    losses: Mapping[str, Array], size: float = 0.1, *, draws: int = 1000, seed: int = 0
) -> dict[str, float]:
    """p-value of each forecast's place in the model confidence set; those above `size` are in it.

    Hansen, Lunde and Nason (2011), Econometrica 79, 453-497, by `arch`: stationary bootstrap of days. Losses are day
    means (T,) of the same days. Empty for fewer than FEWEST days or one forecast.
    """
    from arch.bootstrap import MCS

    table = np.column_stack(list(losses.values())) if losses else np.zeros((0, 0))
    if table.shape[0] < FEWEST or table.shape[1] < 2:
        return {}
    test = MCS(table, size, reps=draws, block_size=max(2, int(len(table) ** (1 / 3))), seed=seed)
    test.compute()
    found = test.pvalues["Pvalue"]
    return {name: float(found[number]) for number, name in enumerate(losses)}


def day_means(days: ArrayLike, values: ArrayLike) -> Array:
    """Mean of the values of each day, oldest day first, (T,)."""
    frame = pl.DataFrame({"day": np.asarray(days), "value": np.asarray(values, dtype=float)})
    return frame.group_by("day").agg(pl.col("value").mean()).sort("day")["value"].to_numpy()
