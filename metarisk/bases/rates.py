"""Rates of segments as they were counted: the baseline that knows no feature and lets no segment borrow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from metarisk.bases.fitted import Labelled, completed, constant_of, values_of
from metarisk.domain import Array


@dataclass(frozen=True)
class RateBase:
    """What came of each cell, or of everything where a cell was never seen.

    Attributes:
        names: the segment columns.
        scores: by the cell's values, the link-scale score of what it had; half an event at the pooled rate is added.
        pooled: of everything.
    """

    names: tuple[str, ...]
    scores: Mapping[tuple[str, ...], float]
    pooled: float

    @classmethod
    def fit(cls, labelled: Labelled) -> RateBase:
        """Count labelled rows: y (N,) in the likelihood's range, at risk for `exposure` (N,) where that differs."""
        y, exposure, segments = labelled.y, labelled.exposure, labelled.columns.segments
        pooled = labelled.constant
        cells = pl.DataFrame({name: values_of(labelled.frame, name) for name in segments})
        at_risk = np.ones(len(y)) if exposure is None else exposure
        told = cells.with_columns(pl.Series("y", y), pl.Series("at_risk", at_risk))
        sums = told.group_by(segments).agg(pl.col("y", "at_risk").sort().sum(), pl.len()).sort(segments)
        scores = {}
        for *key, total, exposed, rows in sums.iter_rows():
            scores[tuple(key)] = (
                constant_of(total, rows, labelled.likelihood)
                if exposure is None
                else float(np.log((total + 0.5) / (exposed + 0.5 / np.exp(pooled))))
            )
        return cls(segments, scores, pooled)

    def predict(self, frame: pl.DataFrame) -> Array:
        """Score on the link scale, float64 (N,)."""
        return np.array([self.scores.get(cell, self.pooled) for cell in _cells(frame, self.names)], dtype=np.float64)

    def features(self) -> tuple[str, ...]:
        """The first segment column, of which the whole difference is told."""
        return self.names[:1]

    def contributions(self, frame: pl.DataFrame) -> Array:
        """What the cell differs by from everything, and the rest, float64 (N, 2)."""
        score = self.predict(frame)
        return completed((score - self.pooled)[:, None], score)

    def to_text(self) -> str:
        """JSON."""
        scores = [[list(key), score] for key, score in self.scores.items()]
        return json.dumps({"names": list(self.names), "scores": scores, "pooled": self.pooled})

    @classmethod
    def from_text(cls, text: str) -> RateBase:
        """The base that `to_text` wrote."""
        parts = json.loads(text)
        return cls(tuple(parts["names"]), {tuple(key): score for key, score in parts["scores"]}, parts["pooled"])


def _cells(frame: pl.DataFrame, names: tuple[str, ...]) -> list[tuple[str, ...]]:
    return list(zip(*(values_of(frame, name).to_list() for name in names), strict=True))
