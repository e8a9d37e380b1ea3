"""Base scores that learners adapt: LightGBM and linear models, with and without segments, cross-fitted.

A base predicts either whether the event falls into the horizon (a logit, from mature rows) or when it happens (a log
hazard, from all rows at risk). It is fitted K+1 times: once on all rows, for rows to be scored, and once without each
fold, for rows that may have been in training. A row's fold is a hash of its entity, so that on every later night a
support row meets the one model that has never seen it, and no training row needs to be kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from zlib import crc32

import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression, PoissonRegressor

from metarisk.domain import PERIODS, Array, Feature, Portfolio
from metarisk.features import Encoder

if TYPE_CHECKING:
    import lightgbm

FOLDS = 5
MANY_EVENTS = 2_000
"""From here on half the trees at twice the rate lose nothing, and a night of a large book is mostly trees."""
FINE = 3
"""How much smaller the steps of the fit that scores are, where events are few."""
LIMIT = 15.0
"""Scores are cut here: beyond it a probability is zero or one in single precision."""
HAZARD_RIDGE = 10.0
"""Prior precision of a coefficient of the linear hazard, on standardised inputs."""
BRESLOW_ROUNDS = 3


class Fitted(Protocol):
    """A fitted base: link-scale scores of a frame, and its text form."""

    def predict(self, frame: pl.DataFrame) -> Array:
        """Logit, or log of the hazard over the whole horizon, float64 (N,)."""
        ...

    def features(self) -> tuple[str, ...]:
        """Names of the features, in the order of `contributions`."""
        ...

    def contributions(self, frame: pl.DataFrame) -> Array:
        """What each feature adds to the score, and last what every row has, float64 (N, features + 1).

        A row sums to its `predict`.
        """
        ...

    def to_text(self) -> str:
        """Everything fitted, as text that `from_text` of the same kind reads."""
        ...


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
        opened_on: str,
        exposure: Array | None = None,
        *,
        fine: bool = False,
    ) -> LinearBase:
        """Fit on labelled rows: y (N,) of zeros and ones. One class only: the constant of the smoothed rate."""
        encoder = Encoder.fit(frame, features, opened_on)
        if len(np.unique(y)) < 2:
            return cls(encoder, np.zeros(len(encoder.columns)), _constant(y, exposure))
        design = encoder.design(frame, np.float64)

        def ridge(columns: Array) -> tuple[Array, float]:
            if exposure is None:
                model = LogisticRegression(C=0.05, solver="newton-cholesky", max_iter=100).fit(columns, y)
                return model.coef_[0].copy(), float(model.intercept_[0])
            model = PoissonRegressor(alpha=HAZARD_RIDGE / exposure.sum(), solver="newton-cholesky", max_iter=100)
            model.fit(columns, y / exposure, sample_weight=exposure)
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
        return _completed(self.encoder.shares(frame, self.weights), self.predict(frame))

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


@dataclass(frozen=True)
class TreeBase:
    """LightGBM with shallow trees: few labels carry few leaves."""

    encoder: Encoder
    booster: lightgbm.Booster | None
    constant: float = 0.0

    @classmethod
    def fit(
        cls,
        frame: pl.DataFrame,
        y: Array,
        features: Mapping[str, Feature],
        opened_on: str,
        exposure: Array | None = None,
        *,
        fine: bool = False,
    ) -> TreeBase:
        """Fit on labelled rows: y (N,) of zeros and ones. One class only: the constant of the smoothed rate.

        `fine` takes smaller steps, which averages out the luck of the draws that each tree is grown on.
        """
        import lightgbm

        encoder = Encoder.fit(frame, features, opened_on)
        if len(np.unique(y)) < 2:
            return cls(encoder, None, _constant(y, exposure))
        parameters, offset = _tree_parameters(y, encoder.monotone, fine=fine), None
        if exposure is not None:
            parameters |= {"objective": "poisson", "boost_from_average": False}
            offset = np.log(exposure)
        data = lightgbm.Dataset(encoder.raw(frame), y, init_score=offset, categorical_feature=encoder.categorical)
        booster = lightgbm.train(parameters, data)
        booster.free_dataset()
        return cls(encoder, booster)

    def predict(self, frame: pl.DataFrame) -> Array:
        """Logit or log relative hazard, float64 (N,)."""
        if self.booster is None:
            return np.full(frame.height, self.constant)
        score: Array = np.asarray(self.booster.predict(self.encoder.raw(frame), raw_score=True))
        return score.clip(-LIMIT, LIMIT)

    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(self.encoder.kinds)

    def contributions(self, frame: pl.DataFrame) -> Array:
        """TreeSHAP by LightGBM itself (Lundberg et al. 2020), float64 (N, features + 1)."""
        if self.booster is None or not frame.height:
            return _completed(np.zeros((frame.height, len(self.encoder.kinds))), self.predict(frame))
        found = np.asarray(self.booster.predict(self.encoder.raw(frame), pred_contrib=True))
        return _completed(found[:, :-1], self.predict(frame))

    def to_text(self) -> str:
        """JSON that holds LightGBM's own text form."""
        model = self.booster.model_to_string() if self.booster is not None else None
        return json.dumps({"encoder": self.encoder.to_json(), "booster": model, "constant": self.constant})

    @classmethod
    def from_text(cls, text: str) -> TreeBase:
        """The base that `to_text` wrote."""
        import lightgbm

        parts = json.loads(text)
        booster = lightgbm.Booster(model_str=parts["booster"]) if parts["booster"] is not None else None
        return cls(Encoder.from_json(parts["encoder"]), booster, parts["constant"])


Relative = LinearBase | TreeBase


@dataclass(frozen=True)
class HazardBase:
    """Proportional hazards: Breslow's baseline by period of the horizon times exp of a fitted relative log hazard.

    A row that was at risk for T periods has hazard exp(f(x)) L(T), so that its likelihood collapses exactly to one
    Poisson row with exposure L(T) (Breslow 1974, Biometrics 30, 89-99; Holford 1980, Biometrics 36, 299-305). The
    probability of the event within a periods, 1 - exp(-exp(f(x)) L(a)), is a curve that never falls.
    """

    relative: Relative
    baseline: Array
    """L, float64 (periods + 1,): cumulative baseline hazard, from zero."""

    @classmethod
    def fit(
        cls,
        kind: type[Relative],
        frame: pl.DataFrame,
        y: Array,
        features: Mapping[str, Feature],
        opened_on: str,
        *,
        fine: bool = False,
    ) -> HazardBase:
        """Fit on rows at risk: PERIODS known ones, y (N,) whether the event ended the last of them.

        Trees are fitted once on the baseline of the pooled book. For a linear model, which reads shares of the risk
        set off its own scores, baseline and regression take turns.
        """
        periods = frame[PERIODS].to_numpy()
        baseline = breslow(periods, y, np.ones(len(y)))
        for _ in range(1 if kind is TreeBase else BRESLOW_ROUNDS):
            at_risk = baseline[periods] > 0
            rows = frame.filter(pl.Series(at_risk))
            relative = kind.fit(rows, y[at_risk], features, opened_on, baseline[periods][at_risk], fine=fine)
            if kind is LinearBase:
                baseline = breslow(periods, y, np.exp(relative.predict(frame)))
        return cls(relative, baseline)

    def predict(self, frame: pl.DataFrame) -> Array:
        """Log of the hazard over the whole horizon, float64 (N,)."""
        score: Array = self.relative.predict(frame) + np.log(max(self.baseline[-1], np.exp(-LIMIT)))
        return score.clip(-LIMIT, LIMIT)

    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return self.relative.features()

    def contributions(self, frame: pl.DataFrame) -> Array:
        """Those of the relative hazard; the baseline is what every row has; float64 (N, features + 1)."""
        return _completed(self.relative.contributions(frame)[:, :-1], self.predict(frame))

    def share(self, periods: Array) -> Array:
        """Log share of the horizon's hazard that the first periods (N,) hold, float64 (N,)."""
        share: Array = np.log((self.baseline / max(self.baseline[-1], np.exp(-LIMIT))).clip(np.exp(-LIMIT)))
        return share[periods]

    def to_text(self) -> str:
        """JSON that holds the text of the relative hazard."""
        return json.dumps({"baseline": self.baseline.tolist(), "relative": self.relative.to_text()})

    @classmethod
    def from_text(cls, kind: type[Relative], text: str) -> HazardBase:
        """The base that `to_text` wrote."""
        parts = json.loads(text)
        return cls(kind.from_text(parts["relative"]), np.array(parts["baseline"]))


def breslow(periods: Array, y: Array, hazard: Array) -> Array:
    """Breslow's cumulative baseline hazard by period, float64 (max(periods) + 1,), from zero.

    Args:
        periods: int (N,), the last period at risk of each row, from 1.
        y: (N,), whether the event ended it.
        hazard: (N,), relative hazard of each row.
    """
    leave = np.bincount(periods, weights=hazard)
    at_risk = leave[::-1].cumsum()[::-1]
    steps: Array = np.bincount(periods, weights=y) / np.maximum(at_risk, 1e-300)
    return steps.cumsum()


@dataclass(frozen=True)
class BaseKind:
    """One row of BASES: what is fitted, on what, and whether it sees the segment columns."""

    model: type[Relative]
    segments: bool = False
    hazard: bool = False
    """Whether it learns from every row at risk when the event happens, and not from mature rows whether it does."""

    @property
    def side_by_side(self) -> bool:
        """Whether folds are fitted at once, one thread each. LightGBM's own threads wait for each other at every leaf,
        which on a busy machine takes many times as long; a linear fit has threads in BLAS, and a large matrix."""
        return self.model is TreeBase

    def fit(
        self, frame: pl.DataFrame, y: Array, features: Mapping[str, Feature], opened_on: str, *, fine: bool
    ) -> Fitted:
        """The base fitted on labelled rows."""
        if self.hazard:
            return HazardBase.fit(self.model, frame, y, features, opened_on, fine=fine)
        return self.model.fit(frame, y, features, opened_on, fine=fine)

    def read(self, text: str) -> Fitted:
        """The base that `to_text` wrote."""
        return HazardBase.from_text(self.model, text) if self.hazard else self.model.from_text(text)


BASES: Mapping[str, BaseKind] = {
    "logistic": BaseKind(LinearBase),
    "logistic_segments": BaseKind(LinearBase, segments=True),
    "lightgbm": BaseKind(TreeBase),
    "lightgbm_segments": BaseKind(TreeBase, segments=True),
    "linear_hazard_segments": BaseKind(LinearBase, segments=True, hazard=True),
    "lightgbm_hazard": BaseKind(TreeBase, hazard=True),
}


def entity_fold(frame: pl.DataFrame, entity: str) -> Array:
    """Fold of each row, int64 (N,) in 0..FOLDS-1, from its entity alone: stable across nights and versions."""
    return np.fromiter((crc32(str(key).encode()) % FOLDS for key in frame[entity]), np.int64, frame.height)


@dataclass(frozen=True)
class CrossFitted:
    """One base fitted on all rows (`full`) and without each fold (`parts`; none where it was fitted once)."""

    kind: str
    entity: str
    full: Fitted
    parts: tuple[Fitted, ...]

    @classmethod
    def fit(cls, kind: str, frame: pl.DataFrame, y: Array, portfolio: Portfolio, *, folds: bool = True) -> CrossFitted:
        """Fit on labelled rows (N,), y (N,): K+1 times, or once where nothing will be adapted to the scores."""
        base, columns = BASES[kind], portfolio.columns
        features = dict(portfolio.features)
        if base.segments:
            features |= {name: Feature("categorical") for name in columns.segments if name not in features}
        fold_of = entity_fold(frame, columns.entity)

        def fit_without(fold: int) -> Fitted:
            rows = fold_of != fold
            return base.fit(frame.filter(pl.Series(rows)), y[rows], features, columns.opened_on, fine=fold < 0)

        with ThreadPoolExecutor((os.cpu_count() or 1) if base.side_by_side else 1) as pool:
            # No row is in fold -1.
            full, *parts = pool.map(fit_without, range(-1, FOLDS if folds else 0))
        return cls(kind, columns.entity, full, tuple(parts))

    def unseen(self, frame: pl.DataFrame) -> tuple[Array, Array]:
        """Score (N,) of rows that may have been in training: each by the part that has not seen its entity.

        With it, for a hazard, the log share (N,) of the horizon's hazard that each row has been through; else zeros.
        """
        folds = entity_fold(frame, self.entity)
        score, share = np.zeros(frame.height), np.zeros(frame.height)
        for fold, part in enumerate(self.parts):
            rows = folds == fold
            if not rows.any():
                continue
            score[rows] = part.predict(frame.filter(pl.Series(rows)))
            if isinstance(part, HazardBase):
                share[rows] = part.share(frame[PERIODS].to_numpy()[rows])
        return score, share

    def to_texts(self) -> dict[str, str]:
        """Text of every fit by name."""
        return {"full": self.full.to_text()} | {f"part{i}": part.to_text() for i, part in enumerate(self.parts)}

    @classmethod
    def from_texts(cls, kind: str, entity: str, texts: Mapping[str, str]) -> CrossFitted:
        """What `to_texts` wrote."""
        read = BASES[kind].read
        return cls(kind, entity, read(texts["full"]), tuple(read(texts[f"part{i}"]) for i in range(len(texts) - 1)))


def _tree_parameters(y: Array, monotone: Sequence[int], *, fine: bool) -> dict[str, Any]:
    """LightGBM's parameters for labels (N,) of both classes: the rarer class says how much can be learned."""
    events = min(y.sum(), len(y) - y.sum())
    many = events >= MANY_EVENTS
    smaller = FINE if fine and not many else 1
    constraints = {"monotone_constraints": list(monotone)} if any(monotone) else {}
    return constraints | {
        "objective": "binary",
        "num_iterations": smaller * (200 if many else int(np.clip(events, 100, 400))),
        "learning_rate": (0.06 if many else 0.03) / smaller,
        "num_leaves": int(np.clip(events / 100, 4, 16)),
        "min_data_in_leaf": int(np.clip(len(y) / 100, 5, 100)),
        "feature_fraction": 0.5,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "seed": 0,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbose": -1,
    }


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


def _completed(parts: Array, score: Array) -> Array:
    """Contributions (N, F) with what is left of the score (N,) as a last column: the constant, and what was cut off."""
    return np.column_stack([parts, score - parts.sum(axis=1)])


def blend(scores: Sequence[Array], rows: int) -> Array:
    """Mean of base scores, float64 (rows,); zeros where a recipe has no base."""
    return np.mean(scores, axis=0) if scores else np.zeros(rows)


def _constant(y: Array, exposure: Array | None) -> float:
    """Logit or log hazard with half an event and half a non-event added: finite when all labels are alike."""
    quiet = len(y) - y.sum() if exposure is None else exposure.sum()
    return float(np.log((y.sum() + 0.5) / (quiet + 0.5)))
