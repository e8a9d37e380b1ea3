"""A linear fit for each entity that has rows enough, and one over all of them, linear or of trees, for the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from metarisk.bases.fitted import Labelled, completed
from metarisk.bases.linear import LinearBase
from metarisk.bases.trees import TreeBase
from metarisk.domain import Array

OWN_ROWS = 250
"""Rows from which an entity has a fit of its own: a trading year."""
RIDGE = 1.0
"""Prior precision, in rows, of an entity's coefficients around those of all: it keeps a constant input solvable."""


@dataclass(frozen=True)
class EntityBase:
    """Least squares by entity on the pooled fit's inputs, drawn a little to its weights. Gaussian labels only."""

    pooled: LinearBase
    entity: str
    own: Mapping[str, Array]
    """Of each entity, intercept and weights (1 + K,) that are added to the pooled ones."""

    @classmethod
    def fit(cls, labelled: Labelled) -> EntityBase:
        """Fit on labelled rows."""
        frame, entity = labelled.frame, labelled.columns.entity
        pooled = LinearBase.fit(replace(labelled, likelihood="gaussian", exposure=None))
        design = np.column_stack([np.ones(frame.height), pooled.encoder.design(frame, np.float64)])
        rest = labelled.y - pooled.predict(frame)
        names, codes = _codes(frame, entity)
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
        own = {}
        for number, name in enumerate(names):
            rows = order[bounds[number] : bounds[number + 1]]
            if len(rows) >= OWN_ROWS:
                x = design[rows]
                own[str(name)] = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ rest[rows])
        return cls(pooled, entity, own)

    def predict(self, frame: pl.DataFrame) -> Array:
        """Score, float64 (N,)."""
        design = np.column_stack([np.ones(frame.height), self.pooled.encoder.design(frame, np.float64)])
        return np.asarray(self.pooled.predict(frame) + self._weighed(frame, design).sum(axis=1))

    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return self.pooled.features()

    def contributions(self, frame: pl.DataFrame) -> Array:
        """Those of the pooled fit, and what an entity's own coefficients add as a part of the constant."""
        return completed(self.pooled.contributions(frame)[:, :-1], self.predict(frame))

    def to_text(self) -> str:
        """JSON."""
        own = {name: weights.tolist() for name, weights in self.own.items()}
        return json.dumps({"pooled": self.pooled.to_text(), "entity": self.entity, "own": own})

    @classmethod
    def from_text(cls, text: str) -> EntityBase:
        """The base that `to_text` wrote."""
        parts = json.loads(text)
        own = {name: np.array(weights) for name, weights in parts["own"].items()}
        return cls(LinearBase.from_text(parts["pooled"]), parts["entity"], own)

    def _weighed(self, frame: pl.DataFrame, design: Array) -> Array:
        """Each input (N, 1 + K) times its row's own weight."""
        names, codes = _codes(frame, self.entity)
        none = np.zeros(design.shape[1])
        weights = np.array([self.own.get(str(name), none) for name in names]).reshape(-1, design.shape[1])
        return np.asarray(design * weights[codes])


@dataclass(frozen=True)
class HabitBase:
    """Trees over all entities, averaged with the entity's own linear fit where it has one. Gaussian labels only."""

    trees: TreeBase
    entities: EntityBase

    @classmethod
    def fit(cls, labelled: Labelled) -> HabitBase:
        """Fit on labelled rows. The linear fits read numbers alone: an entity's categories are constant."""
        labelled = replace(labelled, likelihood="gaussian", exposure=None)
        numbers = {name: feature for name, feature in labelled.features.items() if feature.kind == "numeric"}
        return cls(TreeBase.fit(labelled), EntityBase.fit(replace(labelled, features=numbers)))

    def predict(self, frame: pl.DataFrame) -> Array:
        """Score, float64 (N,)."""
        share = self._share(frame)
        return share * self.entities.predict(frame) + (1.0 - share) * self.trees.predict(frame)

    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return self.trees.features()

    def contributions(self, frame: pl.DataFrame) -> Array:
        """A feature's share in both, float64 (N, features + 1)."""
        share, names = self._share(frame)[:, None], self.features()
        found = (1.0 - share) * self.trees.contributions(frame)[:, :-1]
        places = [names.index(name) for name in self.entities.features()]
        found[:, places] += share * self.entities.contributions(frame)[:, :-1]
        return completed(found, self.predict(frame))

    def to_text(self) -> str:
        """JSON."""
        return json.dumps({"trees": self.trees.to_text(), "entities": self.entities.to_text()})

    @classmethod
    def from_text(cls, text: str) -> HabitBase:
        """The base that `to_text` wrote."""
        parts = json.loads(text)
        return cls(TreeBase.from_text(parts["trees"]), EntityBase.from_text(parts["entities"]))

    def _share(self, frame: pl.DataFrame) -> Array:
        """Weight of the entity's own fit in each row (N,): one half, or none without such a fit."""
        names, codes = _codes(frame, self.entities.entity)
        return np.array([0.5 if str(name) in self.entities.own else 0.0 for name in names])[codes]


def _codes(frame: pl.DataFrame, entity: str) -> tuple[Array, Array]:
    """Distinct entities, sorted, and the number of each row's (N,)."""
    names, codes = np.unique(frame[entity].cast(pl.String).to_numpy(), return_inverse=True)
    return names, codes
