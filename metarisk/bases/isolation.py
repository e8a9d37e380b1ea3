"""Isolation forest: how few random cuts set a row apart, with a logistic line from that to the event."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression

from metarisk.bases.fitted import LIMIT, Labelled, completed
from metarisk.domain import Array
from metarisk.features import Encoder

TREES, ROWS = 64, 256
"""Trees, and the rows that each is grown on (Liu et al.: more of either gains nothing)."""
_PARTS = ("feature", "threshold", "left", "right", "depth")


@dataclass(frozen=True)
class IsolationBase:
    """Score = intercept + slope x mean path length (Liu, Ting and Zhou 2008, ICDM, 413-422).

    The trees never see a label: what is unlike the rest is found whether or not it was ever confirmed. Only the line
    from path length to log-odds does. Every path of a tree tells of the features that it cut.
    """

    encoder: Encoder
    trees: tuple[Mapping[str, Array], ...]
    """Of each tree by node: feature (-1 a leaf), threshold, left and right node, expected path length."""
    slope: float
    intercept: float

    @classmethod
    def fit(cls, labelled: Labelled) -> IsolationBase:
        """Fit on labelled rows. One class only: the constant of the smoothed rate."""
        frame, y = labelled.frame, labelled.y
        encoder = labelled.encoder()
        if labelled.alike:
            return cls(encoder, (), 0.0, labelled.constant)
        grown = IsolationForest(n_estimators=TREES, max_samples=min(ROWS, len(y)), random_state=0)
        grown.fit(_filled(encoder, frame))
        unfitted = cls(encoder, tuple(_nodes(tree.tree_) for tree in grown.estimators_), 1.0, 0.0)
        lengths = unfitted._walk(frame)[:, -1:]
        line = LogisticRegression(C=1.0, solver="newton-cholesky", max_iter=100).fit(lengths, y)
        return cls(encoder, unfitted.trees, float(line.coef_[0, 0]), float(line.intercept_[0]))

    def predict(self, frame: pl.DataFrame) -> Array:
        """Logit, float64 (N,)."""
        score: Array = self.intercept + self.slope * self._walk(frame)[:, -1]
        return score.clip(-LIMIT, LIMIT)

    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(self.encoder.kinds)

    def contributions(self, frame: pl.DataFrame) -> Array:
        """What each feature's cuts did to the expected path length, times the slope, float64 (N, features + 1)."""
        return completed(self.slope * self._walk(frame)[:, :-1], self.predict(frame))

    def to_text(self) -> str:
        """JSON."""
        trees = [{name: tree[name].tolist() for name in _PARTS} for tree in self.trees]
        about = {"encoder": self.encoder.to_json(), "slope": self.slope, "intercept": self.intercept}
        return json.dumps(about | {"trees": trees})

    @classmethod
    def from_text(cls, text: str) -> IsolationBase:
        """The base that `to_text` wrote."""
        parts = json.loads(text)
        trees = tuple(_arrays([tree[name] for name in _PARTS]) for tree in parts["trees"])
        return cls(Encoder.from_json(parts["encoder"]), trees, parts["slope"], parts["intercept"])

    def _walk(self, frame: pl.DataFrame) -> Array:
        """What each feature's cuts add to a row's mean path length, and last the length itself, (N, features + 1)."""
        inputs = _filled(self.encoder, frame)
        rows, width = inputs.shape
        found, place = np.zeros((rows, width + 1)), np.arange(rows)
        for tree in self.trees:
            node = np.zeros(rows, dtype=np.int64)
            walking = place
            while len(walking := walking[tree["feature"][node[walking]] >= 0]):
                here = node[walking]
                feature = tree["feature"][here]
                left = inputs[walking, feature] <= tree["threshold"][here]
                node[walking] = there = np.where(left, tree["left"][here], tree["right"][here])
                found[walking, feature] += tree["depth"][there] - tree["depth"][here]
            found[:, -1] += tree["depth"][node]
        return found / max(len(self.trees), 1)


def _filled(encoder: Encoder, frame: pl.DataFrame) -> Array:
    """Float32 (N, features), as the trees were grown on it: nothing is below every number."""
    return np.nan_to_num(encoder.raw(frame), nan=-1e30).astype(np.float32)


def _nodes(tree: Any) -> Mapping[str, Array]:
    """The nodes of a tree of scikit-learn, each with the path length to expect from it."""
    left, right, rows = tree.children_left, tree.children_right, tree.n_node_samples.astype(float)
    level, depth = np.zeros(tree.node_count), np.zeros(tree.node_count)
    for node in range(tree.node_count):  # a node comes before its children
        for child in (left[node], right[node]):
            if child >= 0:
                level[child] = level[node] + 1
    for node in reversed(range(tree.node_count)):
        if left[node] < 0:
            depth[node] = level[node] + _unfinished(rows[node])
        else:
            parts = [left[node], right[node]]
            depth[node] = rows[parts] @ depth[parts] / rows[node]
    return _arrays([np.where(left < 0, -1, tree.feature), tree.threshold, left, right, depth])


def _unfinished(rows: float) -> float:
    """Mean path length that would set `rows` rows apart: that of a failed search in a binary tree."""
    if rows <= 2:
        return float(rows == 2)
    return float(2 * (np.log(rows - 1) + np.euler_gamma) - 2 * (rows - 1) / rows)


def _arrays(parts: Sequence[Any]) -> Mapping[str, Array]:
    kinds = (np.int64, np.float64, np.int64, np.int64, np.float64)
    return {name: np.asarray(part, kind) for name, part, kind in zip(_PARTS, parts, kinds, strict=True)}
