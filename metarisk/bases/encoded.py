"""LightGBM that reads each segment column as the event rate of its values: target encoding, out of fold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from metarisk.bases.fitted import FOLDS, Labelled, entity_fold, values_of
from metarisk.bases.trees import TreeBase
from metarisk.domain import Array, Feature

PRIOR_EVENTS = 10.0
"""Events of average rate that every value of a segment column is given on top of its own."""


@dataclass(frozen=True)
class EncodedBase:
    """Trees on the features and, for each segment column, the log of a value's event rate over that of the book.

    The rate is (events + m) / (expected events + m) with m PRIOR_EVENTS (Micci-Barreca 2001, SIGKDD Explorations 3,
    27-32). A row that teaches is encoded by the rows of other folds, for trees would learn its own label off a rate
    that holds it. A value that never taught has the book's rate.
    """

    rates: Mapping[str, Mapping[str, float]]
    """Log relative rate by segment column and value."""
    trees: TreeBase

    @classmethod
    def fit(cls, labelled: Labelled) -> EncodedBase:
        """Fit on labelled rows.

        What is no count of events is encoded by its mean over the book's, every row being one event of average rate;
        where it may be negative, by its mean less the book's, in standard deviations.
        """
        frame, y, columns, likelihood = labelled.frame, labelled.y, labelled.columns, labelled.likelihood
        told, expected = y, np.ones(len(y)) if labelled.exposure is None else labelled.exposure
        if likelihood == "gaussian":
            told = np.exp(((y - y.mean()) / max(float(y.std()), 1e-300)).clip(-3.0, 3.0))
        if likelihood in ("gaussian", "qlike"):
            told = told / max(float(told.mean()), 1e-300)
        expected = expected * (told.sum() + 0.5) / max(float(expected.sum()), 1e-300)
        folds, encoded = entity_fold(frame, columns.entity), {}
        for name in columns.segments:
            values, rates = values_of(frame, name), np.zeros(len(y))
            for fold in range(FOLDS):
                own = folds == fold
                known = relative_rates(values.filter(pl.Series(~own)), told[~own], expected[~own])
                rates[own] = encode(values.filter(pl.Series(own)), known)
            encoded[name] = rates
        numbers = dict(labelled.features) | dict.fromkeys(columns.segments, Feature("numeric"))
        rows = frame.with_columns(pl.Series(name, rates) for name, rates in encoded.items())
        of_all = {name: relative_rates(values_of(frame, name), told, expected) for name in columns.segments}
        trees = TreeBase.fit(replace(labelled, frame=rows, features=numbers))
        return cls(of_all, trees)

    def predict(self, frame: pl.DataFrame) -> Array:
        """Logit or log relative hazard, float64 (N,)."""
        return self.trees.predict(self._encoded(frame))

    def features(self) -> tuple[str, ...]:
        """Names of the features; a segment column goes by its own name."""
        return self.trees.features()

    def contributions(self, frame: pl.DataFrame) -> Array:
        """Those of the trees, float64 (N, features + 1)."""
        return self.trees.contributions(self._encoded(frame))

    def to_text(self) -> str:
        """JSON."""
        return json.dumps({"rates": self.rates, "trees": self.trees.to_text()})

    @classmethod
    def from_text(cls, text: str) -> EncodedBase:
        """The base that `to_text` wrote."""
        parts = json.loads(text)
        return cls(parts["rates"], TreeBase.from_text(parts["trees"]))

    def _encoded(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(
            pl.Series(name, encode(values_of(frame, name), rates)) for name, rates in self.rates.items()
        )


def relative_rates(values: pl.Series, y: Array, expected: Array) -> dict[str, float]:
    """Log of each value's smoothed event rate over that of the book, given values, y and expected events (N,)."""
    frame = pl.DataFrame({"value": values, "y": y, "expected": expected})
    sums = frame.group_by("value").agg(pl.col("y").sum(), pl.col("expected").sort().sum()).sort("value")
    found = np.log((sums["y"].to_numpy() + PRIOR_EVENTS) / (sums["expected"].to_numpy() + PRIOR_EVENTS))
    return dict(zip(sums["value"].to_list(), found.tolist(), strict=True))


def encode(values: pl.Series, rates: Mapping[str, float]) -> Array:
    """The rate of each value (N,); that of the book for a value that has none."""
    encoded: Array = values.replace_strict(dict(rates), default=0.0, return_dtype=pl.Float64).to_numpy()
    return encoded
