"""The table of bases, and fitting one of them out of fold."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import polars as pl

from metarisk.bases.encoded import EncodedBase
from metarisk.bases.fitted import FOLDS, Fitted, entity_fold
from metarisk.bases.hazard import HazardBase, Relative
from metarisk.bases.linear import LinearBase
from metarisk.bases.mixed import MixedBase
from metarisk.bases.own import OwnBase
from metarisk.bases.trees import TreeBase
from metarisk.domain import PERIODS, Array, Columns, Feature, Portfolio


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
        return self.model in (TreeBase, EncodedBase)

    def fit(
        self, frame: pl.DataFrame, y: Array, features: Mapping[str, Feature], columns: Columns, *, fine: bool
    ) -> Fitted:
        """The base fitted on labelled rows."""
        if self.hazard:
            return HazardBase.fit(self.model, frame, y, features, columns, fine=fine)
        return self.model.fit(frame, y, features, columns, fine=fine)

    def read(self, text: str) -> Fitted:
        """The base that `to_text` wrote."""
        return HazardBase.from_text(self.model, text) if self.hazard else self.model.from_text(text)


BASES: Mapping[str, BaseKind] = {
    "logistic": BaseKind(LinearBase),
    "logistic_segments": BaseKind(LinearBase, segments=True),
    "lightgbm": BaseKind(TreeBase),
    "lightgbm_segments": BaseKind(TreeBase, segments=True),
    "lightgbm_target": BaseKind(EncodedBase),
    "logistic_own": BaseKind(OwnBase),
    "gpboost": BaseKind(MixedBase),
    "linear_hazard_segments": BaseKind(LinearBase, segments=True, hazard=True),
    "lightgbm_hazard": BaseKind(TreeBase, hazard=True),
    "lightgbm_target_hazard": BaseKind(EncodedBase, hazard=True),
}


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
            return base.fit(frame.filter(pl.Series(rows)), y[rows], features, columns, fine=fold < 0)

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


def blend(scores: Sequence[Array], rows: int, weights: Sequence[float] = ()) -> Array:
    """Base scores averaged by weights that sum to one, equal ones if none, float64 (rows,); zeros without a base."""
    if not scores:
        return np.zeros(rows)
    if not weights:
        return np.asarray(np.mean(scores, axis=0))
    # Summed one by one: a row's score depends on that row alone to the last bit, which BLAS does not promise.
    return sum((weight * score for weight, score in zip(weights, scores, strict=True)), np.zeros_like(scores[0]))
