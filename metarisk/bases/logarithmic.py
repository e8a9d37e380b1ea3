"""A base fitted to the logarithm of a positive label by least squares: extreme labels move it little."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from metarisk.bases.fitted import Fitted
from metarisk.domain import Array, LikelihoodName


def logs(y: Array) -> Array:
    """Logarithms of labels (N,); one of zero (a day on which nothing moved) counts as the smallest above it."""
    positive = y[y > 0]
    return np.log(np.maximum(y, positive.min() if len(positive) else 1.0))


def log_mean_ratio(y: Array, link: Array) -> float:
    """What makes exp(link) the mean of the labels and not their median (Duan 1983, JASA 78, 605-610)."""
    return float(np.log(np.mean(y / np.exp(link)))) if len(y) and y.any() else 0.0


@dataclass(frozen=True)
class LogBase:
    """The inner base's mean of the log label, and one constant that makes it the log of the mean.

    Labels of other likelihoods than `qlike` are left as they are.
    """

    inner: Fitted
    shift: float

    @classmethod
    def fit(
        cls,
        one: Callable[[pl.DataFrame, Array], Fitted],
        frame: pl.DataFrame,
        y: Array,
        likelihood: LikelihoodName,
    ) -> LogBase:
        """Fit on labelled rows: y (N,), none below zero; `one` fits rows and log labels by least squares."""
        if likelihood != "qlike":
            return cls(one(frame, y), 0.0)
        inner = one(frame, logs(y))
        return cls(inner, log_mean_ratio(y, inner.predict(frame)))

    def predict(self, frame: pl.DataFrame) -> Array:
        """Log of the mean, float64 (N,)."""
        return self.inner.predict(frame) + self.shift

    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return self.inner.features()

    def contributions(self, frame: pl.DataFrame) -> Array:
        """Those of the inner base, float64 (N, features + 1)."""
        found = self.inner.contributions(frame)
        found[:, -1] += self.shift
        return found

    def to_text(self) -> str:
        """JSON."""
        return json.dumps({"inner": self.inner.to_text(), "shift": self.shift})

    @classmethod
    def from_text(cls, read: Callable[[str], Fitted], text: str) -> LogBase:
        """The base that `to_text` wrote; `read` reads the inner one."""
        parts = json.loads(text)
        return cls(read(parts["inner"]), parts["shift"])
