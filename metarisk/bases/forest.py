"""Trees of few leaves scored all rows at a time: LightGBM's own numbers to the last bit, in less than half its time.

Where a row ends in a tree is found without walking it. Leaves are bits, left to right; a split that sends a row right
clears the bits of its left leaves, and the lowest bit that is left is the row's leaf (QuickScorer, Lucchese 2015).
All splits of a tree on one feature are one table from the feature's bin to bits, so that a tree costs one
look-up for each of its features. Values are added tree by tree, in LightGBM's order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarisk.domain import Array

MOST_LEAVES = 16
BLOCK = 8_192
"""Rows scored at once: their bins stay in the processor's cache."""
_ZERO = float(np.float32(1e-35))
"""LightGBM takes what is closer to zero as zero."""
_LOWEST = np.zeros(1 << MOST_LEAVES, dtype=np.intp)
_LOWEST[1 << np.arange(MOST_LEAVES)] = np.arange(MOST_LEAVES)


@dataclass(frozen=True)
class Forest:
    """Trees as tables.

    Attributes:
        thresholds: by feature, the sorted values that split it; None: a categorical one.
        sizes: by feature, the number of its bins; missing values are in the last.
        trees: of each tree, its features with a uint16 table (bins,) each, and its leaves' values.
    """

    thresholds: tuple[Array | None, ...]
    sizes: tuple[int, ...]
    trees: tuple[tuple[tuple[tuple[int, Array], ...], Array], ...]

    @classmethod
    def read(cls, dumped: Mapping[str, Any]) -> Forest | None:
        """From LightGBM's `dump_model`; None for trees of more leaves, or splits of a kind that is not known here."""
        roots = [tree["tree_structure"] for tree in dumped["tree_info"]]
        if any(tree["num_leaves"] > MOST_LEAVES for tree in dumped["tree_info"]):
            return None
        splits = [node for root in roots for node in _nodes(root)]
        if any(node["missing_type"] == "Zero" or node["decision_type"] not in ("<=", "==") for node in splits):
            return None
        own: list[list[Any]] = [[] for _ in range(dumped["max_feature_idx"] + 1)]
        for node in splits:
            own[node["split_feature"]].append(node)
        categorical = [any(node["decision_type"] == "==" for node in nodes) for nodes in own]
        thresholds = tuple(
            None if levels else np.unique(np.array([node["threshold"] for node in nodes], dtype=float))
            for nodes, levels in zip(own, categorical, strict=True)
        )
        sizes = tuple(
            2 + (max(max(_levels(node)) for node in nodes) if values is None else len(values))
            for nodes, values in zip(own, thresholds, strict=True)
        )
        places = [
            None if values is None else {value: place for place, value in enumerate(values.tolist())}
            for values in thresholds
        ]
        return cls(thresholds, sizes, tuple(_tables(root, places, sizes) for root in roots))

    def predict(self, raw: Array, threads: int = 1) -> Array:
        """Raw scores (N,) of the encoder's `raw` matrix (N, features), in which no number reaches 1e300.

        Threads change no bit.
        """
        out = np.zeros(len(raw))

        def score(start: int) -> None:
            self._add(raw[start : start + BLOCK], out[start : start + BLOCK])

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(score, range(0, len(raw), BLOCK)))
        return out

    def _add(self, raw: Array, out: Array) -> None:
        """Add the scores of a block of rows (n, features) to out (n,)."""
        bins = [self._bins(raw[:, feature], feature) for feature in range(len(self.sizes))]
        bits, more = (np.empty(len(raw), dtype=np.uint16) for _ in range(2))
        leaf, value = np.empty(len(raw), dtype=np.intp), np.empty(len(raw))
        for tables, values in self.trees:
            if not tables:
                out += values[0]
                continue
            (feature, table), *rest = tables
            table.take(bins[feature], out=bits, mode="clip")
            for feature, table in rest:
                table.take(bins[feature], out=more, mode="clip")
                np.bitwise_and(bits, more, out=bits)
            np.bitwise_and(bits, np.negative(bits, out=more), out=bits)
            _LOWEST.take(bits, out=leaf, mode="clip")
            values.take(leaf, out=value, mode="clip")
            out += value

    def _bins(self, values: Array, feature: int) -> Array:
        """Number of each value's bin, intp (n,)."""
        thresholds, last = self.thresholds[feature], self.sizes[feature] - 1
        missing = np.isnan(values)
        if thresholds is None:
            levels = np.trunc(values)
            return np.where((levels >= 0) & (levels < last), levels, last).astype(np.intp)
        near = np.abs(values) <= _ZERO
        found = np.searchsorted(thresholds, np.where(near, 0.0, values), side="left")
        found[missing] = last
        return found


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "split_feature" in node:
        yield node
        yield from _nodes(node["left_child"])
        yield from _nodes(node["right_child"])


def _levels(node: Mapping[str, Any]) -> list[int]:
    return [int(level) for level in str(node["threshold"]).split("||")]


def _tables(
    root: Mapping[str, Any], places: Sequence[Mapping[float, int] | None], sizes: Sequence[int]
) -> tuple[tuple[tuple[int, Array], ...], Array]:
    """Tables of a tree's features, and the values of its leaves from left to right."""
    values: list[float] = []
    tables: dict[int, Array] = {}

    def walk(node: Mapping[str, Any]) -> None:
        if "split_feature" not in node:
            values.append(node["leaf_value"])
            return
        first = len(values)
        walk(node["left_child"])
        feature = node["split_feature"]
        kept = np.uint16(0xFFFF ^ ((1 << len(values)) - (1 << first)))
        if feature not in tables:
            tables[feature] = np.full(sizes[feature], 0xFFFF, dtype=np.uint16)
        tables[feature][_goes_right(node, places[feature], sizes[feature])] &= kept
        if not _takes_missing(node):
            tables[feature][-1] &= kept
        walk(node["right_child"])

    walk(root)
    return tuple(tables.items()), np.array(values)


def _goes_right(node: Mapping[str, Any], place: Mapping[float, int] | None, size: int) -> slice | list[int]:
    """Bins but the missing one that a split sends right."""
    if place is None:
        return sorted(set(range(size - 1)) - set(_levels(node)))
    return slice(place[node["threshold"]] + 1, size - 1)


def _takes_missing(node: Mapping[str, Any]) -> bool:
    """Whether a split sends missing values left; where none were seen in training, LightGBM takes them as zero."""
    if node["decision_type"] == "==":
        return False
    return bool(node["default_left"] if node["missing_type"] == "NaN" else node["threshold"] >= 0.0)
