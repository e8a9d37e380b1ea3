"""Forecasts and returns of many assets as matrices, and value at risk walked through them day by day."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from metarisk.domain import Array
from metarisk.volatility.simulation import Tail, tail

WINDOW = 250
"""Trading days whose residuals are the next day's scenarios, and over which forecasts are tested."""
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
        """For each day but the first ones, the tail of all residuals of the WINDOW days that were over at its close.

        Pooled over assets: a quantile of one asset's 250 days is that of two or three of them. All NaN before
        LEAST_SCENARIOS days.
        """
        z = self.residuals
        # The residual of a row is that of the return after it: known at the close of the next row.
        return [
            tail(z[max(day - WINDOW, 0) : day]) if day >= LEAST_SCENARIOS else tail([]) for day in range(len(self.days))
        ]

    def last_scenarios(self) -> Array:
        """Joint residual vectors of the last WINDOW days that are over, (up to WINDOW, N), with gaps."""
        z = self.residuals
        return z[np.isfinite(z).any(axis=1)][-WINDOW:]
