"""A linear fit that forgets: rows count less the older they are, as fast as the newest rows of training ask for."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import polars as pl

from metarisk.bases.fitted import Labelled, completed
from metarisk.bases.linear import RIDGE
from metarisk.domain import Array, ModelError
from metarisk.features import Encoder

HALF_LIVES = (np.inf, 24.0, 12.0, 6.0, 3.0)
"""Months after which a row counts half; what is tried."""
RIDGES = (1.0, 10.0, 100.0)
"""Times RIDGE: how much of the fit is left to the prior, which is that nothing is known."""
NEWER = 0.2
"""Share of the dates, the newest ones, on which half-life and ridge are chosen."""
MONTH = 30.4375


@dataclass(frozen=True)
class DecayedBase:
    """Ridge regression with weights 0.5^(age / half-life); half-life and ridge are chosen on the newest dates."""

    encoder: Encoder
    weights: Array
    intercept: float
    half_life: float
    ridge: float

    @classmethod
    def fit(cls, labelled: Labelled) -> DecayedBase:
        """Fit on labelled rows. Raises ModelError for another likelihood than the Gaussian."""
        if labelled.likelihood != "gaussian" or labelled.exposure is not None:
            raise ModelError(
                f"the base linear_decayed is for plain numbers, not for {labelled.likelihood} labels",
                remedy="take recipes on linear_decayed out of `candidates`",
            )
        frame, y, opened_on = labelled.frame, labelled.y, labelled.columns.opened_on
        encoder = Encoder.fit(frame, labelled.features, opened_on)
        x = encoder.design(frame, np.float64)
        age = _months(frame[opened_on])
        days = np.unique(age)
        # The gap of an embargo: labels of the last older dates overlap the first newer ones by no day.
        cut = days[max(0, int(NEWER * len(days)) - 1)] if len(days) else 0.0
        older, newer = age > cut + 0.5, age <= cut
        best = (np.inf, RIDGE)
        if older.sum() > x.shape[1] and newer.any():
            losses = {}
            for half_life in HALF_LIVES:
                for times in RIDGES:
                    w, b = _ridge(x[older], y[older], age[older] - cut, half_life, times * RIDGE)
                    losses[half_life, times * RIDGE] = float(np.mean((y[newer] - x[newer] @ w - b) ** 2))
            best = min(losses, key=lambda chosen: losses[chosen])
        return cls(encoder, *_ridge(x, y, age, *best), *best)

    def predict(self, frame: pl.DataFrame) -> Array:
        """Mean, float64 (N,)."""
        return np.asarray(self.encoder.linear(frame, self.weights) + self.intercept)

    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(self.encoder.kinds)

    def contributions(self, frame: pl.DataFrame) -> Array:
        """Exact: each feature against its mean on the fitting rows; float64 (N, features + 1)."""
        return completed(self.encoder.shares(frame, self.weights), self.predict(frame))

    def to_text(self) -> str:
        """JSON."""
        half_life = None if np.isinf(self.half_life) else self.half_life
        about = {"encoder": self.encoder.to_json(), "weights": self.weights.tolist(), "intercept": self.intercept}
        return json.dumps(about | {"half_life": half_life, "ridge": self.ridge})

    @classmethod
    def from_text(cls, text: str) -> DecayedBase:
        """The base that `to_text` wrote."""
        parts = json.loads(text)
        half_life = np.inf if parts["half_life"] is None else parts["half_life"]
        encoder = Encoder.from_json(parts["encoder"])
        return cls(encoder, np.array(parts["weights"]), parts["intercept"], half_life, parts["ridge"])


def _months(opened: pl.Series) -> Array:
    """Age (N,) of rows in months before the newest."""
    days = opened.cast(pl.Date).cast(pl.Int32).to_numpy().astype(float)
    return np.asarray((days.max(initial=0.0) - days) / MONTH)


def _ridge(x: Array, y: Array, age: Array, half_life: float, ridge: float) -> tuple[Array, float]:
    """Weights (K,) and intercept of a regression whose rows count 0.5^(age / half_life)."""
    count = 0.5 ** (age / half_life)
    middle, mean = count @ x / count.sum(), float(count @ y / count.sum())
    centred = x - middle
    weighted = centred * count[:, None]
    w = np.linalg.solve(weighted.T @ centred + ridge * np.eye(x.shape[1]), weighted.T @ (y - mean))
    return w, mean - float(middle @ w)
