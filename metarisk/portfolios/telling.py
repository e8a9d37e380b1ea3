"""Whether a column seems to tell the outcome: by its values and gaps, never by its name. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.stats import rankdata

from metarisk.domain import Array

OUTCOME_AUC = 0.8
"""What one column alone tells of the label, from which a person must say that it was known at opening."""
PURE = 0.9
"""Event rate of a value, or of a gap, that holds a quarter of all events: it is another word for the event."""
BINS = 20
MOST_VALUES = 1_000
"""Texts of more values are not looked at: each would be met too rarely."""


@dataclass(frozen=True)
class Told:
    """Rows whose outcome is known, and the event of each; none where the label is a value or is not known."""

    rows: pl.Series
    y: Array


def outcome_told(values: pl.Series, told: Told | None, opened: pl.Series) -> str:
    """Why one column seems to tell the outcome, by its values alone; empty where it does not."""
    if told is None:
        return ""
    kept, y = values.filter(told.rows), told.y
    codes = _coded(kept, opened.filter(told.rows))
    if codes is None:
        return ""
    count = np.bincount(codes)
    events = np.bincount(codes, weights=y)
    rates = events / np.maximum(count, 1)
    pure = (rates >= PURE) & (events >= max(10.0, 0.25 * y.sum())) & (y.mean() < 0.6)
    if pure.any():
        share = events[pure].sum() / y.sum()
        return f"{share:.0%} of all events are in values that have hardly a row without the event"
    auc = _auc(codes, y)
    return f"alone it tells events from others with an AUC of {auc:.2f}" if auc >= OUTCOME_AUC else ""


def _coded(values: pl.Series, opened: pl.Series) -> Array | None:
    """A code of each row: its value, or one of BINS quantiles, or a gap; None where there are too many to tell."""
    if values.dtype == pl.Date:
        values = (values - opened).dt.total_days()
    if values.dtype.is_numeric():
        number = values.cast(pl.Float64).fill_nan(None)
        if number.n_unique() > BINS:
            edges = np.unique(np.quantile(number.drop_nulls().to_numpy(), np.linspace(0, 1, BINS + 1)[1:-1]))
            codes = 1 + 2 * np.searchsorted(edges, number.fill_null(0.0).to_numpy(), side="left")
            # A value that many rows share is a code of its own: an amount of 0 beside all others.
            codes += np.isin(number.fill_null(0.0).to_numpy(), edges)
            return np.where(number.is_null().to_numpy(), 0, codes).astype(np.int64)
    elif values.n_unique() > MOST_VALUES:
        return None
    coded: Array = values.cast(pl.String).rank("dense").fill_null(0).to_numpy().astype(np.int64)
    return coded


def _auc(codes: Array, y: Array) -> float:
    """AUC of each row's rate, smoothed and learned from the other half of the rows."""
    half, score = np.arange(len(y)) % 2, np.zeros(len(y))
    for part in (0, 1):
        other = half != part
        count = np.bincount(codes[other], minlength=int(codes.max()) + 1)
        events = np.bincount(codes[other], weights=y[other], minlength=len(count))
        rate = (events + 5 * y.mean()) / (count + 5)
        score[half == part] = rate[codes[half == part]]
    positive = y.sum()
    ranks = rankdata(score)
    found: float = (ranks[y == 1].sum() - positive * (positive + 1) / 2) / (positive * (len(y) - positive))
    return found
