"""The table of bases, and fitting one of them out of fold."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import polars as pl

from metarisk.bases.column import ColumnBase
from metarisk.bases.decayed import DecayedBase
from metarisk.bases.encoded import EncodedBase
from metarisk.bases.entities import EntityBase, HabitBase
from metarisk.bases.fitted import FOLDS, Fitted, Labelled, entity_fold
from metarisk.bases.hazard import HazardBase, Relative
from metarisk.bases.histories import HistoryBase
from metarisk.bases.isolation import IsolationBase
from metarisk.bases.linear import LinearBase
from metarisk.bases.logarithmic import LogBase
from metarisk.bases.mixed import MixedBase
from metarisk.bases.own import OwnBase
from metarisk.bases.rates import RateBase
from metarisk.bases.relative import RelativeBase
from metarisk.bases.trees import TreeBase
from metarisk.domain import PERIODS, Array, DataError, Feature, LikelihoodName, ModelError, Portfolio


@dataclass(frozen=True)
class BaseKind:
    """One row of BASES: what is fitted, on what, and whether it sees the segment columns."""

    model: type[Relative | RelativeBase | EntityBase | HabitBase | ColumnBase | DecayedBase]
    segments: bool = False
    hazard: bool = False
    """Whether it learns from every row at risk when the event happens, and not from mature rows whether it does."""
    only: Literal["lags", "last", "decayed"] | None = None
    """What it reads of `Columns`: `lags`, the last day's, or `decayed`; and nothing else but, with `segments`, all
    segments but the finest. None: all features."""
    log: bool = False
    """Whether it is fitted to the log of a variance by least squares, see LogBase."""
    histories: bool = False
    """Whether it has a fit for each length of history, see HistoryBase."""

    @property
    def side_by_side(self) -> bool:
        """Whether folds are fitted at once, one thread each. LightGBM's own threads wait for each other at every leaf,
        which on a busy machine takes many times as long; a linear fit has threads in BLAS, and a large matrix."""
        return self.model in (TreeBase, EncodedBase, RelativeBase, HabitBase)

    def fit(self, labelled: Labelled) -> Fitted:
        """The base fitted on labelled rows."""
        if self.hazard:
            return HazardBase.fit(cast("type[Relative]", self.model), replace(labelled, likelihood="bernoulli"))
        if self.only:
            labelled = replace(labelled, features=self._chosen(labelled))
        columns, logs = labelled.columns, self.log and labelled.likelihood == "qlike"

        def one(rows: pl.DataFrame, y: Array) -> Fitted:
            exposure = None if columns.exposure is None else exposure_of(rows, columns.exposure)
            of_rows = replace(labelled, frame=rows, y=y, exposure=exposure)
            return self.model.fit(replace(of_rows, likelihood="gaussian") if logs else of_rows)

        def of_logs(rows: pl.DataFrame, y: Array) -> Fitted:
            return LogBase.fit(one, rows, y, labelled.likelihood) if self.log else one(rows, y)

        if self.histories:
            return HistoryBase.fit(of_logs, labelled.frame, labelled.y, labelled.features, columns.history)
        return of_logs(labelled.frame, labelled.y)

    def read(self, text: str) -> Fitted:
        """The base that `to_text` wrote."""
        if self.hazard:
            return HazardBase.from_text(cast("type[Relative]", self.model), text)

        def of_logs(part: str) -> Fitted:
            return LogBase.from_text(self.model.from_text, part) if self.log else self.model.from_text(part)

        return HistoryBase.from_text(of_logs, text) if self.histories else of_logs(text)

    def _chosen(self, labelled: Labelled) -> Mapping[str, Feature]:
        """The columns of `only`, with all segments but the finest; a ModelError where there are none."""
        columns = labelled.columns
        lags = columns.lags
        given = {"lags": lags, "last": lags[:1], "decayed": (columns.decayed,) if columns.decayed else ()}
        names = given[self.only or "lags"]
        key = "columns.decayed" if self.only == "decayed" else "columns.lags"
        if not names or not set(names) <= set(labelled.frame.columns):
            raise ModelError(
                f"a candidate reads {key}, which is {list(names)}: the extract has no such columns",
                column=names[0] if names else None,
                remedy=f"add them to the extract and to {key}, or take the candidate out of `candidates`",
            )
        chosen = {name: labelled.features.get(name, Feature("numeric")) for name in names}
        above = columns.segments[:-1] if self.segments else ()
        return chosen | {name: Feature("categorical") for name in above}


BASES: Mapping[str, BaseKind] = {
    "logistic": BaseKind(LinearBase),
    "logistic_segments": BaseKind(LinearBase, segments=True),
    "lightgbm": BaseKind(TreeBase),
    "lightgbm_segments": BaseKind(TreeBase, segments=True),
    "lightgbm_target": BaseKind(EncodedBase),
    "logistic_own": BaseKind(OwnBase),
    "rates": BaseKind(RateBase),
    "gpboost": BaseKind(MixedBase),
    "isolation": BaseKind(IsolationBase),
    "linear_hazard_segments": BaseKind(LinearBase, segments=True, hazard=True),
    "lightgbm_hazard": BaseKind(TreeBase, hazard=True),
    "lightgbm_target_hazard": BaseKind(EncodedBase, hazard=True),
    "last_value": BaseKind(ColumnBase, only="last", log=True),
    "ewma": BaseKind(ColumnBase, only="decayed", log=True),
    # Least squares on a day, a week and a month (Corsi 2009, Journal of Financial Econometrics 7, 174-196).
    "har": BaseKind(LinearBase, only="lags", log=True, histories=True),
    "har_own": BaseKind(EntityBase, only="lags", log=True, histories=True),
    "har_lightgbm": BaseKind(TreeBase, segments=True, only="lags", log=True, histories=True),
    "har_habits": BaseKind(HabitBase, segments=True, only="lags", log=True, histories=True),
    "linear_decayed": BaseKind(DecayedBase),
    "relative": BaseKind(RelativeBase, histories=True),
}


@dataclass(frozen=True)
class CrossFitted:
    """One base fitted on all rows (`full`) and without each fold (`parts`; none where it was fitted once)."""

    kind: str
    entity: str
    full: Fitted
    parts: tuple[Fitted, ...]
    exposure: str | None = None
    """Column of a row's exposure, whose logarithm is added to what the fits say."""

    @classmethod
    def fit(
        cls,
        kind: str,
        frame: pl.DataFrame,
        y: Array,
        portfolio: Portfolio,
        *,
        likelihood: LikelihoodName = "bernoulli",
        folds: bool = True,
    ) -> CrossFitted:
        """Fit on labelled rows (N,), y (N,): K+1 times, or once where nothing will be adapted to the scores."""
        base, columns = BASES[kind], portfolio.columns
        features = dict(portfolio.features)
        if base.segments and not base.only:
            features |= {name: Feature("categorical") for name in columns.segments if name not in features}
        fold_of = entity_fold(frame, columns.entity)

        labelled = Labelled(frame, y, features, columns, likelihood=likelihood)

        def fit_without(fold: int) -> Fitted:
            return base.fit(replace(labelled.only(fold_of != fold), fine=fold < 0))

        with ThreadPoolExecutor((os.cpu_count() or 1) if base.side_by_side else 1) as pool:
            # No row is in fold -1.
            full, *parts = pool.map(fit_without, range(-1, FOLDS if folds else 0))
        return cls(kind, columns.entity, full, tuple(parts), columns.exposure)

    def predict(self, frame: pl.DataFrame) -> Array:
        """Score of rows to be scored on the link scale, float64 (N,)."""
        score = self.full.predict(frame)
        return score if self.exposure is None else score + np.log(exposure_of(frame, self.exposure))

    def contributions(self, frame: pl.DataFrame) -> Array:
        """What each feature adds to it, float64 (N, features + 1); the log exposure is in the last column."""
        parts = self.full.contributions(frame)
        if self.exposure is not None:
            parts[:, -1] += np.log(exposure_of(frame, self.exposure))
        return parts

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
        if self.exposure is not None:
            score += np.log(exposure_of(frame, self.exposure))
        return score, share

    def to_texts(self) -> dict[str, str]:
        """Text of every fit by name."""
        return {"full": self.full.to_text()} | {f"part{i}": part.to_text() for i, part in enumerate(self.parts)}

    @classmethod
    def from_texts(cls, kind: str, entity: str, texts: Mapping[str, str], exposure: str | None = None) -> CrossFitted:
        """What `to_texts` wrote."""
        read = BASES[kind].read
        parts = tuple(read(texts[f"part{i}"]) for i in range(len(texts) - 1))
        return cls(kind, entity, read(texts["full"]), parts, exposure)


def exposure_of(frame: pl.DataFrame, column: str) -> Array:
    """Exposure of each row (N,); a DataError where one is missing, zero or negative."""
    exposure: Array = frame[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
    wrong = ~(np.isfinite(exposure) & (exposure > 0))
    if wrong.any():
        raise DataError(
            f"{int(wrong.sum())} of {len(exposure)} rows have no exposure above 0, the first one {exposure[wrong][0]}",
            column=column,
            remedy="leave such rows out of the extract, or let the suite set them aside",
        )
    return exposure


def blend(scores: Sequence[Array], rows: int, weights: Sequence[float] = ()) -> Array:
    """Base scores averaged by weights that sum to one, equal ones if none, float64 (rows,); zeros without a base."""
    if not scores:
        return np.zeros(rows)
    if not weights:
        return np.asarray(np.mean(scores, axis=0))
    # Summed one by one: a row's score depends on that row alone to the last bit, which BLAS does not promise.
    return sum((weight * score for weight, score in zip(weights, scores, strict=True)), np.zeros_like(scores[0]))
