"""One logistic regression a segment, where the segment has events enough; the pooled one elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from metarisk.bases.fitted import COUNTS, Labelled, values_of
from metarisk.bases.linear import LinearBase
from metarisk.domain import Array

ENOUGH = 30
"""Events, and rows without one, from which a segment gets a regression of its own."""


@dataclass(frozen=True)
class OwnBase:
    """What a team has that builds a scorecard for every large segment and scores the rest by the pooled one.

    A row is scored by the regression of its cell or, where that has too few events, of the value of its first segment
    column that has enough.
    """

    pooled: LinearBase
    own: tuple[tuple[Mapping[str, str], LinearBase], ...]
    """Values of segment columns, cells first, and the regression of the rows that have them."""

    @classmethod
    def fit(cls, labelled: Labelled) -> OwnBase:
        """Fit on labelled rows."""
        y, segments = labelled.y, labelled.columns.segments
        classes = labelled.likelihood == "bernoulli"
        counted = y if classes or labelled.likelihood in COUNTS else np.ones(len(y))
        cells = [segments] if len(segments) > 1 else []
        own = []
        for names in [*cells, *((name,) for name in segments)]:
            values = pl.DataFrame({name: values_of(labelled.frame, name) for name in names})
            told = values.with_columns(events=pl.Series(counted)).group_by(names)
            sums = told.agg(pl.col("events").sum(), pl.len())
            quiet = pl.col("len") - pl.col("events")
            enough = (pl.col("events") >= ENOUGH) & ((quiet >= ENOUGH) | pl.lit(not classes))
            for found in sums.filter(enough).sort(names).to_dicts():
                key = {name: found[name] for name in names}
                own.append((key, LinearBase.fit(labelled.only(_having(labelled.frame, key)))))
        return cls(LinearBase.fit(labelled), tuple(own))

    def predict(self, frame: pl.DataFrame) -> Array:
        """Logit or log relative hazard, float64 (N,)."""
        score = self.pooled.predict(frame)
        for _, rows, base in self._parts(frame):
            score[rows] = base.predict(frame.filter(pl.Series(rows)))
        return score

    def features(self) -> tuple[str, ...]:
        """Names of the features, then the segment columns that some regression has values of."""
        names = self.pooled.features()
        return (*names, *dict.fromkeys(name for key, _ in self.own for name in key if name not in names))

    def contributions(self, frame: pl.DataFrame) -> Array:
        """Those of the regression that scores the row, float64 (N, features + 1).

        What its constant differs by from the pooled one is told of the segment column that it belongs to.
        """
        names, pooled = self.features(), self.pooled.contributions(frame)
        width, constant = pooled.shape[1] - 1, pooled[:, -1].copy()
        found = np.zeros((frame.height, len(names) + 1))
        found[:, :width], found[:, -1] = pooled[:, :-1], constant
        for key, rows, base in self._parts(frame):
            own = base.contributions(frame.filter(pl.Series(rows)))
            found[rows, :width] = own[:, :-1]
            found[rows, names.index(next(iter(key)))] += own[:, -1] - constant[rows]
        return found

    def to_text(self) -> str:
        """JSON."""
        own = [[key, base.to_text()] for key, base in self.own]
        return json.dumps({"pooled": self.pooled.to_text(), "own": own})

    @classmethod
    def from_text(cls, text: str) -> OwnBase:
        """The base that `to_text` wrote."""
        parts = json.loads(text)
        own = tuple((key, LinearBase.from_text(base)) for key, base in parts["own"])
        return cls(LinearBase.from_text(parts["pooled"]), own)

    def _parts(self, frame: pl.DataFrame) -> Iterator[tuple[Mapping[str, str], Array, LinearBase]]:
        """The rows (N,) that each regression scores: those that none before it does."""
        left = np.ones(frame.height, dtype=bool)
        for key, base in self.own:
            rows = left & _having(frame, key)
            left &= ~rows
            if rows.any():
                yield key, rows, base


def _having(frame: pl.DataFrame, key: Mapping[str, str]) -> Array:
    """Whether each row (N,) has these values."""
    rows = np.ones(frame.height, dtype=bool)
    for name, value in key.items():
        rows &= (values_of(frame, name) == value).to_numpy()
    return rows
