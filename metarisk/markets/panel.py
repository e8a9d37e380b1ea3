"""Forecasts and returns of many assets as matrices, and value at risk walked through them day by day."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from metarisk.domain import Array
from metarisk.markets.simulation import LEVELS, Tail, tail

WINDOW = 250
"""Trading days whose residuals are the next day's scenarios, and over which forecasts are tested."""
STEER = 0.01
"""Of the steps from 0 to 0.04, the one whose coverage of VaR 99 was best on S&P stocks of 2016 and 2017.

Figures of 2018 and 2019 had been seen by then: see docs/market.md.
"""
BOUNDS = np.array([[0.2], [4.0]])
"""Between a fifth and four times the promised level."""
LEAST_SCENARIOS = 20
"""Days below which no tail is taken of residuals."""


@dataclass(frozen=True)
class Panel:
    """T days, oldest first, by N assets; NaN where an asset has no bar.

    Attributes:
        days: dates (T,).
        assets, groups: names and segments (N,).
        forecast: variance that was expected at each day's close of the day after, (T, N).
        realised: the variance that came, NaN where it is not known yet, (T, N).
        following: the return that came, (T, N).
    """

    days: Array
    assets: tuple[str, ...]
    groups: tuple[str, ...]
    forecast: Array
    realised: Array
    following: Array

    @classmethod
    def of(cls, rows: pl.DataFrame) -> Panel:
        """From rows with `asset`, `day`, `group`, `forecast`, `realised` and `following`, one an asset and day."""
        days, row = np.unique(rows["day"].to_numpy(), return_inverse=True)
        assets, column = np.unique(rows["asset"].to_numpy(), return_inverse=True)
        groups = np.empty(len(assets), dtype=object)
        groups[column] = rows["group"].to_numpy()

        def matrix(name: str) -> Array:
            out = np.full((len(days), len(assets)), np.nan)
            out[row, column] = rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
            return out

        parts = (matrix(name) for name in ("forecast", "realised", "following"))
        return cls(days, tuple(map(str, assets)), tuple(map(str, groups)), *parts)

    @property
    def residuals(self) -> Array:
        """Returns in units of the volatility that had been expected, (T, N); NaN where either is not known."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.following / np.sqrt(self.forecast))

    def tails(self) -> list[Tail]:
        """For each day, the tail of all residuals of the WINDOW days that were over at its close.

        Pooled over assets: a quantile of one asset's 250 days is that of two or three of them. Its levels are steered
        by what came, for after a storm the window expects too much, and before it too little: each day a level moves
        by STEER times the promised share of exceedances less that day's (Gibbs and Candes 2021, Adaptive conformal
        inference under distribution shift, arXiv 2106.00170). All NaN before LEAST_SCENARIOS days.
        """
        z, levels, found = self.residuals, np.array(LEVELS), []
        for day in range(len(self.days)):
            # The residual of a row is that of the return after it: known at the close of the next row.
            known = z[max(day - WINDOW, 0) : day]
            said = tail(known, levels.tolist()) if day >= LEAST_SCENARIOS else tail([])
            found.append(said)
            came = z[day][np.isfinite(z[day])]
            if len(came) and np.isfinite(said.var_99):
                share = [np.mean(came < -value) for value in (said.var_95, said.var_99, said.var_975)]
                levels = np.clip(levels + STEER * (np.array(LEVELS) - share), *BOUNDS * np.array(LEVELS))
        return found

    def last_scenarios(self) -> Array:
        """Joint residual vectors of the last WINDOW days that are over, (up to WINDOW, N), with gaps."""
        z = self.residuals
        return z[np.isfinite(z).any(axis=1)][-WINDOW:]
