"""Whether a column seems to tell the outcome: by its values and gaps, never by its name. Pure.

What one value gives away is asked as a week asks it (`marks`); beside it stands how the column ranks, in bins, since a
draft may leave out what a person then brings back.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from metarisk.domain import Array, FeatureKind
from metarisk.marks import ODD_AUC, SURE_AUC, Rows, mark_findings
from metarisk.metrics import auc

BINS = 20  # fine enough for a rank, coarse enough to have events in each
MOST_VALUES = 1_000
"""Texts of more values are not ranked: each would be met too rarely."""


@dataclass(frozen=True)
class Told:
    """Rows whose outcome is known, and what it was."""

    rows: pl.Series
    """Which rows of the sample they are."""
    y: Array
    """Of these rows: 1.0 with the event, or where the label is a value, with a large one."""
    value: bool = False
    """Whether the label is a value, which honest inputs may follow closely: only a copy is told."""


def outcome_told(values: pl.Series, told: Told | None, opened: pl.Series) -> str:
    """Why one column seems to tell the outcome, by its values alone; empty where it does not."""
    if told is None:
        return ""
    kept = values.filter(told.rows)
    kind: FeatureKind = "numeric" if kept.dtype.is_numeric() else "categorical"
    if kept.dtype == pl.Date:
        kept, kind = (kept - opened.filter(told.rows)).dt.total_days(), "date-age"
    if not told.value and (why := mark_findings(kept, Rows.settled(told.y > 0), kind)):
        return why
    codes = _coded(kept)
    area = 0.5 if codes is None else _auc(codes, told.y)
    if area < (SURE_AUC if told.value else ODD_AUC):
        return ""
    parted = "large values from small ones" if told.value else "events from others"
    return f"alone it tells {parted} with an AUC of {area:.2f}"


def _coded(values: pl.Series) -> Array | None:
    """A code of each row: its value, or one of BINS quantiles, or a gap; None where there are too many to tell."""
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
    return auc(score, y)
