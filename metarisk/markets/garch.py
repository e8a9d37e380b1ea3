"""GARCH(1,1) and GJR-GARCH by `arch`: fitted on an early part of a series, filtered through all of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from metarisk.domain import Array

PERCENT = 100.0
"""`arch` converges best on returns in per cent."""
FEWEST = 100
"""Returns below which no parameters are fitted."""


@dataclass(frozen=True)
class Garch:
    """h' = omega + (alpha + gamma 1[r < 0]) r^2 + beta h, on daily log returns of mean zero; gamma is 0 in GARCH."""

    omega: float
    alpha: float
    gamma: float
    beta: float

    @classmethod
    def fit(cls, returns: ArrayLike, *, asymmetric: bool = False) -> Garch | None:
        """Maximum likelihood with normal errors; None where there are too few returns or it does not converge.

        Bollerslev (1986), Journal of Econometrics 31, 307-327; Glosten, Jagannathan and Runkle (1993).
        """
        from arch import arch_model

        known = np.asarray(returns, dtype=float)
        known = known[np.isfinite(known)] * PERCENT
        if len(known) < FEWEST or np.ptp(known) == 0.0:
            return None
        model = arch_model(known, mean="Zero", vol="GARCH", p=1, o=int(asymmetric), q=1, rescale=False)
        with warnings.catch_warnings():
            # A fit that ends early says so by its flag, which is read.
            warnings.simplefilter("ignore")
            found = model.fit(disp="off", show_warning=False)
        if found.convergence_flag != 0:
            return None
        p = found.params
        return cls(
            float(p["omega"]) / PERCENT**2, float(p["alpha[1]"]), float(p.get("gamma[1]", 0.0)), float(p["beta[1]"])
        )

    @property
    def persistence(self) -> float:
        """Share of a day's excess variance that is left a day later."""
        return self.alpha + 0.5 * self.gamma + self.beta

    def filtered(self, returns: ArrayLike) -> Array:
        """Variance (T,) expected of the day after each; a day of NaN passes its expectation on.

        Starts at the mean of the first squared returns, as RiskMetrics does.
        """
        r = np.asarray(returns, dtype=float)
        out = np.empty_like(r)
        variance = max(float(np.nanmean(r[: FEWEST // 2] ** 2)), 1e-12) if np.isfinite(r[: FEWEST // 2]).any() else 1e-4
        for day, value in enumerate(r):
            square = value * value if np.isfinite(value) else variance
            variance = self.omega + (self.alpha + self.gamma * (value < 0.0)) * square + self.beta * variance
            out[day] = variance
        return out

    def mean_ahead(self, variance: ArrayLike, days: int) -> Array:
        """Mean variance of the next `days` days, given that of the first one (N,)."""
        first, left = np.asarray(variance, dtype=float), self.persistence
        if left >= 1.0:
            return first + self.omega * (days - 1) / 2.0
        level = self.omega / (1.0 - left)
        return np.asarray(level + (first - level) * (1.0 - left**days) / ((1.0 - left) * days))
