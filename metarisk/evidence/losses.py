"""What every table of judged rows needs: whose loss they are compared with, and which rows depend on each other."""

import numpy as np
import polars as pl

from metarisk.domain import Array, Portfolio
from metarisk.metrics import block_ids
from metarisk.tasks import OPPONENT, segment_keys


def opponent_link(judged: pl.DataFrame) -> Array:
    """Link-scale score (N,) of the baseline that validation chose for each row's fold."""
    names, link = judged[OPPONENT], np.empty(judged.height)
    for name in names.unique():
        rows = (names == name).to_numpy()
        link[rows] = judged[name].to_numpy()[rows]
    return link


def blocks_of(judged: pl.DataFrame, portfolio: Portfolio) -> Array:
    """Number (N,) of each row's opening month and segment: rows of a block may depend on each other."""
    month = judged[portfolio.columns.opened_on].dt.month_start().to_physical().to_numpy()
    return block_ids(segment_keys(judged, portfolio)[1], month)


def finite(value: float) -> float | None:
    """The value as a warehouse holds it: null where there is none."""
    return value if np.isfinite(value) else None
