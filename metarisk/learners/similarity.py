"""Which segments behave alike: distances, nearest neighbours, a map, and neighbours' rows as support of the unseen.

Segments are compared by what a learner adapted to them (signatures) or, where nothing is known of their labels, by
their rows (profiles). Plain numpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from metarisk.domain import Adaptation, Array, Arrays, Episodes, Learner, LikelihoodName, ModelError, Packed, SegmentKey
from metarisk.learners.likelihoods import with_options

SIGNATURES: tuple[str, ...] = ("weights", "prototypes", "effects", "embedded")
"""Arrays of an adaptation that say how a segment behaves; the first that is there is compared."""

Embed = Callable[[Packed], Array]
"""Rows to what they are compared by (N, E)."""


@dataclass(frozen=True)
class Neighbour:
    """One line of the table: `neighbour` is the `rank`-th nearest (from 1) of `segment`."""

    segment: SegmentKey
    neighbour: SegmentKey
    rank: int
    distance: float


@dataclass(frozen=True)
class Verdict:
    """Whether neighbours' rows helped segments that were taken for unseen.

    Attributes:
        difference: mean over segments of the loss with neighbours less the loss without, per row.
        low, high: its 90 % interval over segments.
        segments: how many were judged.
    """

    difference: float
    low: float
    high: float
    segments: int

    @property
    def helps(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.high < 0


def signatures(adaptation: Adaptation) -> Array:
    """What was adapted to each segment, as a vector (S, P).

    Heads give their weights, prototypical networks their prototypes, the hierarchical head its effects; networks that
    keep rows give the difference of the mean embeddings of events and of non-events, adapted networks their last layer.
    """
    arrays = adaptation.arrays
    name = next((name for name in SIGNATURES if name in arrays), None)
    if name == "embedded":
        return _class_contrast(arrays, arrays[adaptation.ragged["embedded"]])
    if name is None:
        layers = sorted((key for key in arrays if key.startswith("weight")), key=lambda key: int(key[len("weight") :]))
        if not layers:
            raise ModelError(
                f"an adaptation with {', '.join(SIGNATURES)} or weight layers is expected, got {', '.join(arrays)}",
                remedy="compare segments by `profiles`",
            )
        name = layers[-1]
    values: Array = np.asarray(arrays[name], dtype=np.float64).reshape(len(adaptation.keys), -1)
    return values


def _class_contrast(arrays: Arrays, starts: Array) -> Array:
    """Mean embedding of events less that of non-events (S, E); 0 where a class is missing."""
    index = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    means = []
    for label in (1, 0):
        weight = arrays["weight"] * (arrays["y"] == label)
        total = np.zeros((len(starts) - 1, arrays["embedded"].shape[1]))
        np.add.at(total, index, weight[:, None] * arrays["embedded"])
        mass = np.bincount(index, weights=weight, minlength=len(starts) - 1)
        means.append(np.where(mass[:, None] > 0, total / np.maximum(mass, 1e-12)[:, None], np.nan))
    contrast: Array = np.nan_to_num(means[0] - means[1])
    return contrast


def embedding_of(learner: Learner, state: Arrays) -> Embed | None:
    """The metric that a learner has learned; None for one that has none, whose rows are compared as they are."""
    own = getattr(learner, "embed", None)
    return None if own is None else partial(own, state)


def profiles(rows: Packed, embed: Embed | None = None) -> Array:
    """What the rows of each segment look like, labels unseen: the weighted mean of their embedding (S, E).

    `embed` defaults to x and the base score. A segment without rows has the mean of all rows.
    """
    values = np.column_stack([rows.x, rows.base]) if embed is None else embed(rows)
    values = np.asarray(values, dtype=np.float64)
    total = np.zeros((len(rows.keys), values.shape[1]))
    np.add.at(total, rows.index, values * rows.weight[:, None])
    mass = np.bincount(rows.index, weights=rows.weight, minlength=len(rows.keys))
    overall = total.sum(0) / max(float(mass.sum()), 1e-12)
    means: Array = np.where(mass[:, None] > 0, total / np.maximum(mass, 1e-12)[:, None], overall)
    return means


def distances(one: Array, other: Array | None = None) -> Array:
    """Euclidean distances (S, T) of vectors (S, P) and (T, P), each coordinate in units of its spread over both."""
    other = one if other is None else other
    spread = np.concatenate([one, other]).std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    a, b = one / scale, other / scale
    # a row at a time: exact where the expansion |a|^2 + |b|^2 - 2 ab cancels, and no (S, T, P) array
    return np.array([np.sqrt(((row - b) ** 2).sum(axis=1)) for row in a]).reshape(len(a), len(b))


def nearest(distance: Array, k: int) -> Array:
    """Numbers (S, min(k, T)) of the nearest columns of each row, ties by number; infinity marks who must not count."""
    order: Array = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return order


def neighbours(keys: Sequence[SegmentKey], distance: Array, k: int = 5) -> list[Neighbour]:
    """The table of each segment's k nearest others, from distances (S, S)."""
    others = distance + np.where(np.eye(len(keys), dtype=bool), np.inf, 0.0)
    found = nearest(others, min(k, len(keys) - 1))
    return [
        Neighbour(keys[segment], keys[other], rank, float(distance[segment, other]))
        for segment, row in enumerate(found)
        for rank, other in enumerate(row, start=1)
    ]


def coordinates(distance: Array, dimensions: int = 2) -> Array:
    """A map (S, dimensions) whose distances come nearest to `distance` (S, S): classical scaling (Torgerson 1952).

    The largest coordinate of each axis is positive, so that a map does not flip from run to run.
    """
    S = len(distance)
    centring = np.eye(S) - 1.0 / max(S, 1)
    values, vectors = np.linalg.eigh(-centring @ (distance**2) @ centring / 2)
    axes = np.zeros((S, dimensions))
    for axis, number in enumerate(np.argsort(-values, kind="stable")[:dimensions]):
        along = vectors[:, number] * np.sqrt(max(float(values[number]), 0.0))
        axes[:, axis] = along if along[np.argmax(np.abs(along))] >= 0 else -along
    return axes


def borrow(support: Packed, unseen: Packed, *, k: int = 5, discount: float = 0.5, embed: Embed | None = None) -> Packed:
    """Support for unseen segments, from the k segments of `support` whose rows look most like theirs.

    Args:
        support: labelled rows of known segments; those without rows cannot lend.
        unseen: rows of the others, of which labels are not read; keys must not repeat.
        k: lenders of a segment.
        discount: what a borrowed row counts, as a share of its weight, divided among the lenders.
        embed: what rows are compared by; see `profiles`.

    Returns:
        Borrowed rows under the keys of `unseen`.
    """
    distance = distances(profiles(unseen, embed), profiles(support, embed))
    own = {key: number for number, key in enumerate(unseen.keys)}
    for number, (key, size) in enumerate(zip(support.keys, support.sizes, strict=True)):
        if size == 0:
            distance[:, number] = np.inf
        elif key in own:
            distance[own[key], number] = np.inf
    lenders = [row[np.isfinite(distance[i, row])] for i, row in enumerate(nearest(distance, k))]
    parts = [support.select(row) for row in lenders]
    starts = np.concatenate([[0], np.cumsum([part.rows for part in parts])]).astype(np.int64)
    x, y, weight, base = (
        np.concatenate([getattr(support, name)[:0], *(getattr(part, name) for part in parts)])
        for name in ("x", "y", "weight", "base")
    )
    share = np.repeat([discount / max(len(row), 1) for row in lenders], np.diff(starts))
    return Packed(unseen.keys, starts, x, y, weight * share, base)


def neighbours_help(
    learner: Learner,
    state: Arrays,
    validation: Episodes,
    likelihood: LikelihoodName,
    *,
    k: int = 5,
    discount: float = 0.5,
    embed: Embed | None = None,
    folds: int = 5,
) -> Verdict:
    """Judge borrowing on the validation tasks: each fold of segments is taken for unseen, with and without neighbours.

    The interval is over segments, which differ more than their rows do. Fewer than two segments with query rows give an
    interval from minus to plus infinity. Of a segment at several cut-offs the last is judged.
    """
    loss = with_options(likelihood, getattr(learner, "likelihood_options", {})).loss
    last = np.array(sorted({key: task for task, key in enumerate(validation.support.keys)}.values()), dtype=np.int64)
    validation = Episodes(validation.support.select(last), validation.query.select(last))
    number = np.arange(len(last)) % folds
    differences: list[float] = []
    for fold in range(folds):
        held, rest = np.flatnonzero(number == fold), np.flatnonzero(number != fold)
        query, known = validation.query.select(held), validation.support.select(rest)
        if not query.rows or not known.rows:
            continue
        lent = borrow(known, query, k=k, discount=discount, embed=embed)
        losses = []
        for support in (known, _joined(known, lent)):
            eta, _ = learner.predict(state, learner.adapt(state, support, likelihood), query, likelihood)
            y = torch.from_numpy(query.y).double()
            losses.append(loss(torch.from_numpy(eta), y).numpy() * query.weight)
        gained, mass = (
            np.bincount(query.index, weights=values, minlength=len(held))
            for values in (losses[1] - losses[0], query.weight)
        )
        differences += (gained[mass > 0] / mass[mass > 0]).tolist()
    if len(differences) < 2:
        return Verdict(differences[0] if differences else 0.0, -np.inf, np.inf, len(differences))
    mean = float(np.mean(differences))
    half = 1.645 * float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
    return Verdict(mean, mean - half, mean + half, len(differences))


def _joined(one: Packed, other: Packed) -> Packed:
    """The segments of both."""
    columns: Mapping[str, Array] = {
        name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in ("x", "y", "weight", "base")
    }
    return Packed(one.keys + other.keys, np.concatenate([one.starts, other.starts[1:] + one.rows]), **columns)
