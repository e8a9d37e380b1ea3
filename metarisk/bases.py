"""Base scores that learners adapt: LightGBM and logistic regression, with and without segments, cross-fitted.

A base is fitted K+1 times: once on all rows, for rows to be scored, and once without each fold, for rows that may have
been in training. A row's fold is a hash of its entity, so that on every later night a support row meets the one model
that has never seen it, and no training row needs to be kept.
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
from sklearn.linear_model import LogisticRegression

from metarisk.domain import Array, Feature, Portfolio
from metarisk.features import Encoder

if TYPE_CHECKING:
    import lightgbm

FOLDS = 5
MANY_EVENTS = 2_000
"""From here on half the trees at twice the rate lose nothing, and a night of a large book is mostly trees."""
LIMIT = 15.0
"""Logits are cut here: beyond it a probability is zero or one in single precision."""


class Fitted(Protocol):
    """A fitted base: link-scale scores of a frame, and its text form."""

    def predict(self, frame: pl.DataFrame) -> Array:
        """Logit, float64 (N,)."""
        ...

    def to_text(self) -> str:
        """Everything fitted, as text that `from_text` of the same kind reads."""
        ...


@dataclass(frozen=True)
class LinearBase:
    """Ridge logistic regression on the encoder's design matrix."""

    encoder: Encoder
    weights: Array
    intercept: float

    @classmethod
    def fit(cls, frame: pl.DataFrame, y: Array, features: Mapping[str, Feature], opened_on: str) -> LinearBase:
        """Fit on labelled rows: y (N,) of zeros and ones. One class only: the constant of the smoothed rate."""
        encoder = Encoder.fit(frame, features, opened_on)
        if len(np.unique(y)) < 2:
            return cls(encoder, np.zeros(len(encoder.columns)), _smoothed_logit(y))
        design = encoder.design(frame, np.float64)
        model = LogisticRegression(C=0.05, solver="newton-cholesky", max_iter=100).fit(design, y)
        return cls(encoder, model.coef_[0].copy(), float(model.intercept_[0]))

    def predict(self, frame: pl.DataFrame) -> Array:
        """Logit, float64 (N,)."""
        score: Array = self.encoder.linear(frame, self.weights) + self.intercept
        return score.clip(-LIMIT, LIMIT)

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
    def fit(cls, frame: pl.DataFrame, y: Array, features: Mapping[str, Feature], opened_on: str) -> TreeBase:
        """Fit on labelled rows: y (N,) of zeros and ones. One class only: the constant of the smoothed rate."""
        import lightgbm

        encoder = Encoder.fit(frame, features, opened_on)
        if len(np.unique(y)) < 2:
            return cls(encoder, None, _smoothed_logit(y))
        data = lightgbm.Dataset(encoder.raw(frame), y, categorical_feature=encoder.categorical)
        booster = lightgbm.train(_tree_parameters(y, encoder.monotone), data)
        booster.free_dataset()
        return cls(encoder, booster)

    def predict(self, frame: pl.DataFrame) -> Array:
        """Logit, float64 (N,)."""
        if self.booster is None:
            return np.full(frame.height, self.constant)
        score: Array = np.asarray(self.booster.predict(self.encoder.raw(frame), raw_score=True))
        return score.clip(-LIMIT, LIMIT)

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


@dataclass(frozen=True)
class BaseKind:
    """One row of BASES: how it is fitted and read, and whether it sees the segment columns."""

    fit: Callable[[pl.DataFrame, Array, Mapping[str, Feature], str], Fitted]
    read: Callable[[str], Fitted]
    segments: bool
    side_by_side: bool
    """Whether folds are fitted at once, one thread each. LightGBM's own threads wait for each other at every leaf,
    which on a busy machine takes many times as long; a linear fit has threads in BLAS, and a large matrix."""


BASES: Mapping[str, BaseKind] = {
    "logistic": BaseKind(LinearBase.fit, LinearBase.from_text, segments=False, side_by_side=False),
    "logistic_segments": BaseKind(LinearBase.fit, LinearBase.from_text, segments=True, side_by_side=False),
    "lightgbm": BaseKind(TreeBase.fit, TreeBase.from_text, segments=False, side_by_side=True),
    "lightgbm_segments": BaseKind(TreeBase.fit, TreeBase.from_text, segments=True, side_by_side=True),
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
            return base.fit(frame.filter(pl.Series(rows)), y[rows], features, columns.opened_on)

        with ThreadPoolExecutor((os.cpu_count() or 1) if base.side_by_side else 1) as pool:
            # No row is in fold -1.
            full, *parts = pool.map(fit_without, range(-1, FOLDS if folds else 0))
        return cls(kind, columns.entity, full, tuple(parts))

    def unseen(self, frame: pl.DataFrame) -> Array:
        """Logit (N,) of rows that may have been in training: each by the part that has not seen its entity."""
        folds = entity_fold(frame, self.entity)
        out = np.zeros(frame.height)
        for fold, part in enumerate(self.parts):
            rows = folds == fold
            if rows.any():
                out[rows] = part.predict(frame.filter(pl.Series(rows)))
        return out

    def to_texts(self) -> dict[str, str]:
        """Text of every fit by name."""
        return {"full": self.full.to_text()} | {f"part{i}": part.to_text() for i, part in enumerate(self.parts)}

    @classmethod
    def from_texts(cls, kind: str, entity: str, texts: Mapping[str, str]) -> CrossFitted:
        """What `to_texts` wrote."""
        read = BASES[kind].read
        return cls(kind, entity, read(texts["full"]), tuple(read(texts[f"part{i}"]) for i in range(len(texts) - 1)))


def _tree_parameters(y: Array, monotone: Sequence[int]) -> dict[str, Any]:
    """LightGBM's parameters for labels (N,) of both classes: the rarer class says how much can be learned."""
    events = min(y.sum(), len(y) - y.sum())
    many = events >= MANY_EVENTS
    constraints = {"monotone_constraints": list(monotone)} if any(monotone) else {}
    return constraints | {
        "objective": "binary",
        "num_iterations": 200 if many else int(np.clip(events, 100, 400)),
        "learning_rate": 0.06 if many else 0.03,
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


def blend(scores: Sequence[Array], rows: int) -> Array:
    """Mean of base logits, float64 (rows,); zeros where a recipe has no base."""
    return np.mean(scores, axis=0) if scores else np.zeros(rows)


def _smoothed_logit(y: Array) -> float:
    """Logit of the rate with half an event and half a non-event added: finite when all labels are alike."""
    return float(np.log((y.sum() + 0.5) / (len(y) - y.sum() + 0.5)))
