"""A linear fit on everything, and trees on what sets an entity apart from the others of its date."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from metarisk.bases.fitted import Labelled, completed
from metarisk.bases.linear import LinearBase
from metarisk.bases.logarithmic import log_mean_ratio, logs
from metarisk.bases.trees import OBJECTIVES, TreeBase
from metarisk.domain import Array, Feature
from metarisk.features import Encoder

TREES: Mapping[str, Any] = {
    "num_iterations": 150,
    "learning_rate": 0.03,
    "num_leaves": 31,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "seed": 0,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbose": -1,
}
LEAF_SHARE = 1 / 600
"""Rows of a leaf as a share of all, between 20 and 500: labels of one asset's days are few independent ones."""


@dataclass(frozen=True)
class RelativeBase:
    """Ridge regression, and boosting of its ratio (or residual) to the label, both relative to the date's mean.

    Trees that read what all rows of a date share learn dates by heart, and those dates do not come again. So the level
    of a date is the linear fit's, which reads features as they are. Trees read features relative to their date's
    (`Feature.relative_to`) and all segment columns but the last, finest one, and learn the label's ratio to the linear
    fit, less the date's mean ratio.
    """

    linear: LinearBase
    trees: TreeBase
    shift: float
    relative_to: Mapping[str, str]

    @classmethod
    def fit(cls, labelled: Labelled) -> RelativeBase:
        """Fit on labelled rows."""
        import lightgbm

        frame, y, features, columns = labelled.frame, labelled.y, labelled.features, labelled.columns
        likelihood = labelled.likelihood
        ratio = likelihood == "qlike"
        link = logs(y) if ratio else y
        linear = LinearBase.fit(replace(labelled, y=link, likelihood="gaussian", exposure=None))
        level = linear.predict(frame)
        rest = y / np.exp(level) if ratio else y - level
        mean = _date_mean(frame[columns.opened_on], rest)
        rest = rest / mean if ratio else rest - mean
        relative_to = {name: one.relative_to for name, one in features.items() if one.relative_to is not None}
        used = {name: replace(one, monotone=0) for name, one in features.items() if not one.common}
        used |= {name: Feature("categorical") for name in columns.segments[:-1]}
        rows = _relative(frame, relative_to)
        encoder = Encoder.fit(rows, used, columns.opened_on)
        leaf = int(np.clip(frame.height * LEAF_SHARE, 20, 500))
        parameters = {**TREES, "objective": OBJECTIVES[likelihood], "min_data_in_leaf": leaf}
        data = lightgbm.Dataset(encoder.raw(rows), rest, categorical_feature=encoder.categorical)
        booster = lightgbm.train(parameters, data) if len(np.unique(rest)) > 1 else None
        if booster is not None:
            booster.free_dataset()
        trees = TreeBase(encoder, booster, 0.0, likelihood)
        shift = log_mean_ratio(y, level + trees.predict(rows)) if ratio else 0.0
        return cls(linear, trees, shift, relative_to)

    def predict(self, frame: pl.DataFrame) -> Array:
        """Score on the link scale, float64 (N,)."""
        return self.linear.predict(frame) + self.trees.predict(_relative(frame, self.relative_to)) + self.shift

    def features(self) -> tuple[str, ...]:
        """Names of the features, those of the linear fit first."""
        return tuple(dict.fromkeys((*self.linear.features(), *self.trees.features())))

    def contributions(self, frame: pl.DataFrame) -> Array:
        """A feature's share in the linear fit and in the trees, float64 (N, features + 1)."""
        names = self.features()
        found = np.zeros((frame.height, len(names)))
        for part, rows in ((self.linear, frame), (self.trees, _relative(frame, self.relative_to))):
            places = [names.index(name) for name in part.features()]
            found[:, places] += part.contributions(rows)[:, :-1]
        return completed(found, self.predict(frame))

    def to_text(self) -> str:
        """JSON."""
        parts = {"linear": self.linear.to_text(), "trees": self.trees.to_text()}
        return json.dumps(parts | {"shift": self.shift, "relative_to": dict(self.relative_to)})

    @classmethod
    def from_text(cls, text: str) -> RelativeBase:
        """The base that `to_text` wrote."""
        parts = json.loads(text)
        linear, trees = LinearBase.from_text(parts["linear"]), TreeBase.from_text(parts["trees"])
        return cls(linear, trees, parts["shift"], parts["relative_to"])


def _relative(frame: pl.DataFrame, relative_to: Mapping[str, str]) -> pl.DataFrame:
    return frame.with_columns((pl.col(name) - pl.col(other)).alias(name) for name, other in relative_to.items())


def _date_mean(dates: pl.Series, values: Array) -> Array:
    """Mean of the values of each row's date, (N,); summed in sorted order, so that the order of rows changes no bit."""
    frame = pl.DataFrame({"date": dates, "value": values})
    means = frame.group_by("date").agg(pl.col("value").sort().mean().alias("mean"))
    joined = frame.join(means, on="date", how="left", maintain_order="left")
    return joined["mean"].to_numpy()
