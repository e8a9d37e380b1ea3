"""Oracles: what the formulas say in another way, for tests to compare the code with."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from metarisk.calibration import upper_bound
from metarisk.domain import Array, floats
from metarisk.metrics import _mass_by_bin
from metarisk.risks.operational.aggregate import Annual, Frequency
from metarisk.risks.operational.tails import Gpd

MILLION = 1e6
"""Currency in which illiquidity is told: per cent that the price moves for a million traded."""
RISKMETRICS = 0.94
"""Daily decay of RiskMetrics (J.P. Morgan 1996)."""

FLOOR = 1e-6
"""Smallest daily variance: a volatility of 0.1 % a day, below which ticks are seen and not risk."""


def amihud(returns: ArrayLike, value: ArrayLike) -> Array:
    """Illiquidity of each day (N,): per cent of absolute simple return for a million of value traded.

    Amihud (2002), Journal of Financial Markets 5, 31-56. NaN on a day without volume or without a return.
    """
    traded = np.asarray(value, dtype=float)
    moved = 100.0 * np.abs(np.asarray(returns, dtype=float))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(traded > 0.0, moved / (traded / MILLION), np.nan)


def corwin_schultz(high: ArrayLike, low: ArrayLike, close: ArrayLike) -> Array:
    """Bid-ask spread of each day and the one before it (T,) as a share of the price; the first one is NaN.

    Corwin and Schultz (2012), Journal of Finance 67, 719-760, equations 14 and 18, on adjusted prices, oldest first.
    Where a day lies wholly above or below the close before it, the night moved the price: its high and low are shifted
    back by the gap. A negative estimate is zero.
    """
    top, bottom = np.asarray(high, dtype=float), np.asarray(low, dtype=float)
    before = np.asarray(close, dtype=float)[:-1]
    gap = np.maximum(bottom[1:] - before, 0.0) + np.minimum(top[1:] - before, 0.0)
    high_2, low_2 = top[1:] - gap, bottom[1:] - gap
    beta = np.log(top[:-1] / bottom[:-1]) ** 2 + np.log(high_2 / low_2) ** 2
    gamma = np.log(np.maximum(top[:-1], high_2) / np.minimum(bottom[:-1], low_2)) ** 2
    scale = 3.0 - 2.0 * np.sqrt(2.0)
    alpha = (np.sqrt(2.0 * beta) - np.sqrt(beta)) / scale - np.sqrt(gamma / scale)
    # 2 (exp(a) - 1) / (1 + exp(a))
    return np.concatenate([[np.nan], np.maximum(2.0 * np.tanh(alpha / 2.0), 0.0)])


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


def by_panjer(frequency: Frequency, losses: Array, step: float) -> Annual:
    """A year's sum by Panjer's recursion (1981, ASTIN Bulletin 12, 22-26): quadratic, the twin of `by_fourier`."""
    if math.isinf(frequency.size):
        a, b = 0.0, frequency.mean
    else:
        a = frequency.mean / (frequency.size + frequency.mean)
        b = (frequency.size - 1.0) * a
    found = np.zeros(len(losses))
    found[0] = float(frequency.generating(np.array(losses[0])))
    for s in range(1, len(losses)):
        k = np.arange(1, s + 1)
        found[s] = ((a + b * k / s) * losses[1 : s + 1] * found[s - 1 :: -1][:s]).sum() / (1.0 - a * losses[0])
    return Annual(step, np.cumsum(found))


def by_simulation(frequency: Frequency, quantile: Callable[[Array], Array], years: int, seed: int) -> Array:
    """Sums (years,) of simulated years, events drawn by the quantile function of one loss."""
    rng = np.random.default_rng(seed)
    counts = frequency.sample(years, rng)
    losses = quantile(rng.random(int(counts.sum())))
    return np.bincount(np.repeat(np.arange(years), counts), losses, minlength=years)


def posterior_bound(events: ArrayLike, expected: ArrayLike, size: float, level: float = 0.95) -> Array:
    """Upper bound (C,) of the factor by which cells exceed what was expected, under a gamma prior of mean 1.

    The prior Gamma(size, size) makes counts negative binomial; given D events where E were expected the factor is
    Gamma(size + D, size + E). A cell without events keeps a bound that falls as its expectation grows.
    """
    count, mean = np.asarray(events, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    return np.asarray(stats.gamma.ppf(level, size + count, scale=1 / (size + mean)))


def qq(losses: ArrayLike, threshold: float, tail: Gpd) -> tuple[Array, Array]:
    """Modelled and observed losses above a threshold (n,), in rising order: on the diagonal where the tail fits."""
    over = np.sort(np.asarray(losses, dtype=np.float64))
    over = over[over > threshold]
    level = (np.arange(1, len(over) + 1) - 0.5) / max(len(over), 1)
    return threshold + tail.ppf(level), over


def pinball(quantile: ArrayLike, y: ArrayLike, level: float) -> Array:
    """Quantile loss (N,) of forecasts of the `level` quantile, 0 < level < 1."""
    error = floats(y) - floats(quantile)
    return np.maximum(level * error, (level - 1.0) * error)


def hosmer_lemeshow(
    probability: ArrayLike, y: ArrayLike, bins: int = 10, *, in_sample: bool = False
) -> tuple[float, float]:
    """Hosmer-Lemeshow statistic and p-value; two degrees of freedom are lost only on the rows that were fitted."""
    rows, predicted, events = _mass_by_bin(probability, y, bins)
    variance = predicted * (1.0 - predicted / rows)
    statistic = float(np.sum((events - predicted) ** 2 / variance))
    freedom = len(rows) - 2 if in_sample else len(rows)
    return statistic, float(stats.chi2.sf(statistic, freedom)) if freedom > 0 else math.nan


def pluto_tasche(rows: ArrayLike, events: ArrayLike, confidence: float = 0.9) -> Array:
    """Upper PD bounds of grades ordered from best to worst, each pooled with all worse ones (independent defaults).

    Pluto and Tasche (2005), Thinking positively. A pool in which everything defaulted, or that is empty, has bound 1.
    """
    n = np.cumsum(floats(rows)[::-1])[::-1]
    d = np.cumsum(floats(events)[::-1])[::-1]
    return upper_bound(n, d, confidence)


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
