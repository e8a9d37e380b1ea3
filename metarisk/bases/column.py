"""A column of the extract as the score: a forecast that is computed where the data are."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import polars as pl

from metarisk.bases.fitted import Labelled, completed
from metarisk.domain import Array


@dataclass(frozen=True)
class ColumnBase:
    """One column plus a constant: the mean of what it leaves of the label. A row without it has the column's mean."""

    name: str
    shift: float
    mean: float

    @classmethod
    def fit(cls, labelled: Labelled) -> ColumnBase:
        """Fit on labelled rows."""
        (name,), y = labelled.features, labelled.y
        values = labelled.frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        known = np.isfinite(values)
        if not known.any():
            return cls(name, 0.0, float(y.mean()))
        return cls(name, float((y - values)[known].mean()), float(values[known].mean()))

    def predict(self, frame: pl.DataFrame) -> Array:
        """Score, float64 (N,)."""
        values = frame[self.name].cast(pl.Float64).fill_null(self.mean).fill_nan(self.mean).to_numpy()
        return np.asarray(values + self.shift)

    def features(self) -> tuple[str, ...]:
        """The column."""
        return (self.name,)

    def contributions(self, frame: pl.DataFrame) -> Array:
        """The column against its mean, and a constant, float64 (N, 2)."""
        score = self.predict(frame)
        return completed((score - self.shift - self.mean)[:, None], score)

    def to_text(self) -> str:
        """JSON."""
        return json.dumps({"name": self.name, "shift": self.shift, "mean": self.mean})

    @classmethod
    def from_text(cls, text: str) -> ColumnBase:
        """The base that `to_text` wrote."""
        return cls(**json.loads(text))
