"""Back-tests of value at risk and expected shortfall on days that have come."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from metarisk.domain import Array

Light = Literal["green", "yellow", "red"]


def kupiec(exceedances: int, days: int, level: float) -> tuple[float, float]:
    """Likelihood ratio and p-value of the proportion of failures (Kupiec 1995, Journal of Derivatives 3, 73-84)."""
    x, n = float(exceedances), float(days)
    free = special.xlogy(x, x / n) + special.xlogy(n - x, 1.0 - x / n)
    ratio = max(2.0 * float(free - x * np.log(level) - (n - x) * np.log1p(-level)), 0.0)
    return ratio, float(stats.chi2.sf(ratio, 1))


def christoffersen(hits: ArrayLike, level: float) -> tuple[float, float, float]:
    """Likelihood ratio of independence, its p-value, and the p-value of conditional coverage (with `kupiec`).

    Christoffersen (1998), International Economic Review 39, 841-862: a first-order Markov chain of exceedances (T,).
    """
    hit = np.asarray(hits, dtype=bool)
    before, after = hit[:-1], hit[1:]
    quiet, broken = (~before).sum(), before.sum()
    first, again = (~before & after).sum(), (before & after).sum()

    def likelihood(events: int, of: int) -> float:
        return float(special.xlogy(events, events / of) + special.xlogy(of - events, 1 - events / of)) if of else 0.0

    chain = likelihood(first, quiet) + likelihood(again, broken)
    ratio = max(2.0 * (chain - likelihood(first + again, quiet + broken)), 0.0)
    both = ratio + kupiec(int(hit.sum()), len(hit), level)[0]
    return ratio, float(stats.chi2.sf(ratio, 1)), float(stats.chi2.sf(both, 2))


def traffic_light(exceedances: ArrayLike, days: ArrayLike, level: float = 0.01) -> Array:
    """Zone of each count (N,): red where so few were below 99.99 % likely, yellow below 95 %, else green.

    Basel Committee (1996), Supervisory framework for the use of backtesting: 5 and 10 exceedances of 250 days.
    """
    likely = stats.binom.cdf(np.asarray(exceedances), np.asarray(days), level)
    return np.select([likely >= 0.9999, likely >= 0.95], ["red", "yellow"], default="green")


def green_band(
    residuals: Array, days: int, level: float = 0.01, *, draws: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Share of green assets under correct coverage: mean, 2.5 % and 97.5 % quantile.

    Days of the residuals (T, N) are drawn with replacement, so that assets fall together as they did; ranks within
    each asset's own residuals, the fraction of a day settled at random, exceed with exactly the level's probability.
    """
    rng = np.random.default_rng(seed)
    known = np.isfinite(residuals)
    rank = np.where(known, stats.rankdata(np.where(known, residuals, np.inf), axis=0), np.nan)
    share = (rank - rng.random(rank.shape)) / known.sum(axis=0)
    hits = np.where(known, share <= level, False).astype(np.int32)
    seen = known.astype(np.int32)
    greens = np.empty(draws)
    for draw in range(draws):
        weight = np.bincount(rng.integers(len(hits), size=days), minlength=len(hits)).astype(np.int32)
        lived = weight @ seen
        greens[draw] = np.mean(traffic_light(weight @ hits, lived, level)[lived > 0] == "green")
    low, high = np.quantile(greens, [0.025, 0.975])
    return float(greens.mean()), float(low), float(high)


def tick_loss(var: ArrayLike, returns: ArrayLike, level: float) -> Array:
    """Quantile loss (N,) of positive VaR forecasts, in the unit of the returns (Koenker and Bassett 1978)."""
    r, v = np.asarray(returns, dtype=float), np.asarray(var, dtype=float)
    return np.asarray((level - (r < -v)) * (r + v))


def fissler_ziegel(var: ArrayLike, es: ArrayLike, returns: ArrayLike, level: float = 0.025) -> Array:
    """Joint loss (N,) of positive VaR and ES forecasts at one level, consistent for the pair.

    FZ0 of Patton, Ziegel and Chen (2019), Journal of Econometrics 211, 388-413, from Fissler and Ziegel (2016).
    """
    r, v, e = (np.asarray(values, dtype=float) for values in (returns, var, es))
    beyond = np.where(r <= -v, -v - r, 0.0)
    return np.asarray(beyond / (level * e) + v / e + np.log(e) - 1.0)


def acerbi_szekely(returns: ArrayLike, var: ArrayLike, es: ArrayLike, level: float = 0.025) -> float:
    """Z2 of Acerbi and Szekely (2014), Risk: 0 expected, below it losses beyond VaR were larger or more than said.

    At 2.5 % and 250 days -0.70 is the 5 % threshold and -1.8 that of 0.01 %, for tails from normal to Student t.
    """
    r, v, e = (np.asarray(values, dtype=float) for values in (returns, var, es))
    return float(np.sum(np.where(r < -v, r, 0.0) / e) / (len(r) * level) + 1.0)


def shortfall_ratio(returns: ArrayLike, var: ArrayLike, es: ArrayLike) -> float:
    """Losses beyond VaR over what ES said of these days; 1 is right, NaN without an exceedance."""
    r, v, e = (np.asarray(values, dtype=float) for values in (returns, var, es))
    hit = r < -v
    return float(-r[hit].sum() / e[hit].sum()) if hit.any() else float("nan")
