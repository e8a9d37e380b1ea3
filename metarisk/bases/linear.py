"""Ridge regression on the encoded features: logistic, or Poisson where rows have an exposure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression, PoissonRegressor

from metarisk.bases.fitted import LIMIT, completed, constant_of
from metarisk.domain import Array, Columns, Feature
from metarisk.features import Encoder

HAZARD_RIDGE = 10.0
"""Prior precision of a coefficient of the linear hazard, on standardised inputs."""


@dataclass(frozen=True)
class LinearBase:
    """Ridge regression on the encoder's design matrix: logistic, or Poisson where rows have an exposure."""

    encoder: Encoder
    weights: Array
    intercept: float

    @classmethod
    def fit(
        cls,
        frame: pl.DataFrame,
        y: Array,
        features: Mapping[str, Feature],
        columns: Columns,
        exposure: Array | None = None,
        *,
        fine: bool = False,
    ) -> LinearBase:
        """Fit on labelled rows: y (N,) of zeros and ones. One class only: the constant of the smoothed rate."""
        encoder = Encoder.fit(frame, features, columns.opened_on)
        if len(np.unique(y)) < 2:
            return cls(encoder, np.zeros(len(encoder.columns)), constant_of(y, exposure))
        design = encoder.design(frame, np.float64)

        def ridge(inputs: Array) -> tuple[Array, float]:
            if exposure is None:
                model = LogisticRegression(C=0.05, solver="newton-cholesky", max_iter=100).fit(inputs, y)
                return model.coef_[0].copy(), float(model.intercept_[0])
            model = PoissonRegressor(alpha=HAZARD_RIDGE / exposure.sum(), solver="newton-cholesky", max_iter=100)
            model.fit(inputs, y / exposure, sample_weight=exposure)
            return model.coef_.copy(), float(model.intercept_)

        return cls(encoder, *signed(design, encoder.signs, ridge))

    def predict(self, frame: pl.DataFrame) -> Array:
        """Logit or log relative hazard, float64 (N,)."""
        score: Array = self.encoder.linear(frame, self.weights) + self.intercept
        return score.clip(-LIMIT, LIMIT)

    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(self.encoder.kinds)

    def contributions(self, frame: pl.DataFrame) -> Array:
        """Exact: each feature against its mean on the fitting rows; float64 (N, features + 1)."""
        return completed(self.encoder.shares(frame, self.weights), self.predict(frame))

    def to_text(self) -> str:
        """JSON."""
        return json.dumps(
            {"encoder": self.encoder.to_json(), "weights": self.weights.tolist(), "intercept": self.intercept}
        )

    @classmethod
    def from_text(cls, text: str) -> LinearBase:
        """The base that `to_text` wrote."""
        parts = json.loads(text)
        return cls(Encoder.from_json(parts["encoder"]), np.array(parts["weights"]), parts["intercept"])


def signed(design: Array, signs: Array, fit: Callable[[Array], tuple[Array, float]]) -> tuple[Array, float]:
    """Weights (K,) and intercept of a linear fit in which no column goes against its sign.

    A column of (N, K) that would is left out, and the rest is fitted again, until none does: what the data contradict
    tells the score nothing, instead of the wrong thing.
    """
    kept = np.ones(len(signs), dtype=bool)
    while True:
        weights, intercept = fit(design if kept.all() else design * kept)
        weights[~kept] = 0.0
        wrong = weights * signs < 0
        if not wrong.any():
            return weights, intercept
        kept &= ~wrong
