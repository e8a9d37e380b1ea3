"""Filtered historical simulation: quantiles of the residuals that days had together, at today's volatility."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from metarisk.domain import Array

LEVELS = (0.05, 0.01, 0.025)
"""Tail probabilities of VaR 95, of VaR 99, and of VaR and expected shortfall at 97.5 %."""


@dataclass(frozen=True)
class Tail:
    """Losses in units of volatility, positive: VaR 95 and 99, and VaR and expected shortfall at 97.5 %."""

    var_95: float
    var_99: float
    var_975: float
    es_975: float


def tail(residuals: ArrayLike, levels: Sequence[float] = LEVELS) -> Tail:
    """The tail of residuals or of simulated returns, any shape; NaN ones are left out. All NaN without any."""
    z = np.asarray(residuals, dtype=float).ravel()
    z = z[np.isfinite(z)]
    if not len(z):
        return Tail(*[float("nan")] * 4)
    five, one, two_and_half = np.quantile(z, levels)
    return Tail(-float(five), -float(one), -float(two_and_half), -float(z[z <= two_and_half].mean()))


def completed(residuals: Array, groups: ArrayLike, *, seed: int = 0) -> Array:
    """Residual vectors (T, N) without gaps: what an asset lacks on a date it borrows from another on the same date.

    From one of its own group where there is one, else from any; so a new listing takes part in a book with the day's
    common moves in its history, and with a spread of its own. A date of no residual at all is left out.
    """
    z = residuals[np.isfinite(residuals).any(axis=1)]
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    out, rng = z.copy(), np.random.default_rng(seed)
    for day in range(len(z)):
        known = np.flatnonzero(np.isfinite(z[day]))
        for asset in np.flatnonzero(~np.isfinite(z[day])):
            own = known[codes[known] == codes[asset]]
            out[day, asset] = z[day, rng.choice(own if len(own) else known)]
    return out


def book_tail(residuals: Array, volatility: ArrayLike, positions: ArrayLike) -> Tail:
    """The tail of a book's next-day profit and loss, in the currency of its positions.

    Args:
        residuals: joint same-date vectors (T, N) without gaps: see `completed`.
        volatility: today's daily volatility (N,).
        positions: values held (N,), negative for short ones.

    Barone-Adesi, Giannopoulos and Vosper (1999), Journal of Futures Markets 19, 583-602. Simple returns are taken of
    log ones, which matters for short positions.
    """
    returns = np.expm1(residuals * np.asarray(volatility, dtype=float))
    return tail(returns @ np.asarray(positions, dtype=float))
