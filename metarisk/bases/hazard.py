"""Proportional hazards: when the event happens, learned from every row at risk."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from metarisk.bases.encoded import EncodedBase
from metarisk.bases.fitted import LIMIT, Labelled, completed
from metarisk.bases.isolation import IsolationBase
from metarisk.bases.linear import LinearBase
from metarisk.bases.mixed import MixedBase
from metarisk.bases.own import OwnBase
from metarisk.bases.rates import RateBase
from metarisk.bases.trees import TreeBase
from metarisk.domain import PERIODS, Array

BRESLOW_ROUNDS = 2
Relative = LinearBase | TreeBase | EncodedBase | OwnBase | MixedBase | RateBase | IsolationBase


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
    def fit(cls, kind: type[Relative], labelled: Labelled) -> HazardBase:
        """Fit on rows at risk: PERIODS known ones, y (N,): whether the event ended the last of them.

        Trees are fitted once on the baseline of the pooled book. For a linear model, which reads shares of the risk
        set off its own scores, baseline and regression take turns.
        """
        y, periods = labelled.y, labelled.frame[PERIODS].to_numpy()
        baseline = breslow(periods, y, np.ones(len(y)))
        for _ in range(BRESLOW_ROUNDS if kind is LinearBase else 1):
            at_risk = baseline[periods] > 0
            relative = kind.fit(replace(labelled, exposure=baseline[periods]).only(at_risk))
            if kind is LinearBase:
                baseline = breslow(periods, y, np.exp(relative.predict(labelled.frame)))
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
        return completed(self.relative.contributions(frame)[:, :-1], self.predict(frame))

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
