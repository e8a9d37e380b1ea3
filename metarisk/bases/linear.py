"""Ridge regression on the encoded features: the generalised linear model of the likelihood."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from sklearn.linear_model import GammaRegressor, LogisticRegression, PoissonRegressor, Ridge

from metarisk.bases.fitted import COUNTS, LIMIT, LIMITS, Labelled, completed, constant_of
from metarisk.domain import Array, LikelihoodName
from metarisk.features import Encoder

RIDGE = 10.0
"""Prior precision of a coefficient, on standardised inputs."""


@dataclass(frozen=True)
class LinearBase:
    """Ridge regression on the encoder's design matrix: logistic, Poisson, gamma or plain, as the likelihood asks.

    Poisson with a log exposure as offset where rows have one, whatever the likelihood.
    """

    encoder: Encoder
    weights: Array
    intercept: float
    likelihood: LikelihoodName = "bernoulli"

    @classmethod
    def fit(cls, labelled: Labelled) -> LinearBase:
        """Fit on labelled rows. Labels all alike: the constant that they ask for."""
        y, exposure, likelihood, encoder = labelled.y, labelled.exposure, labelled.likelihood, labelled.encoder()
        if labelled.alike:
            return cls(encoder, np.zeros(len(encoder.columns)), labelled.constant, likelihood)
        design = encoder.design(labelled.frame, np.float64)

        def ridge(inputs: Array) -> tuple[Array, float]:
            start = 0.0
            if exposure is None and likelihood == "bernoulli":
                model = LogisticRegression(C=0.05, solver="newton-cholesky", max_iter=100).fit(inputs, y)
                return model.coef_[0].copy(), float(model.intercept_[0])
            if exposure is None and likelihood == "gaussian":
                model = Ridge(alpha=RIDGE, solver="cholesky").fit(inputs, y)
            elif exposure is None and likelihood == "qlike":
                positive = np.maximum(y, y[y > 0].min())
                model = GammaRegressor(alpha=RIDGE / len(y), solver="newton-cholesky", max_iter=100)
                model.fit(inputs, positive)
            else:
                at_risk = np.ones(len(y)) if exposure is None else exposure
                if likelihood in COUNTS:
                    # In expected events, or the solver's tolerance would depend on the unit.
                    start = constant_of(float(y.sum()), len(y), likelihood, float(at_risk.sum()))
                    at_risk = at_risk * np.exp(start)
                model = PoissonRegressor(alpha=RIDGE / at_risk.sum(), solver="newton-cholesky", max_iter=100)
                model.fit(inputs, y / at_risk, sample_weight=at_risk)
            return model.coef_.copy(), float(model.intercept_) + start

        return cls(encoder, *signed(design, encoder.signs, ridge), likelihood)

    def predict(self, frame: pl.DataFrame) -> Array:
        """Score on the link scale, float64 (N,)."""
        score: Array = self.encoder.linear(frame, self.weights) + self.intercept
        limit = LIMITS.get(self.likelihood, LIMIT)
        return score.clip(-limit, limit)

    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(self.encoder.kinds)

    def contributions(self, frame: pl.DataFrame) -> Array:
        """Exact: each feature against its mean on the fitting rows; float64 (N, features + 1)."""
        return completed(self.encoder.shares(frame, self.weights), self.predict(frame))

    def to_text(self) -> str:
        """JSON."""
        about = {"encoder": self.encoder.to_json(), "weights": self.weights.tolist(), "intercept": self.intercept}
        return json.dumps(about | {"likelihood": self.likelihood})

    @classmethod
    def from_text(cls, text: str) -> LinearBase:
        """The base that `to_text` wrote."""
        parts = json.loads(text)
        likelihood = parts.get("likelihood", "bernoulli")
        return cls(Encoder.from_json(parts["encoder"]), np.array(parts["weights"]), parts["intercept"], likelihood)


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
