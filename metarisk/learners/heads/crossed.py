"""Crossed effects on a base score: rows laid out by cell and parents, Newton's method, the Laplace posterior.

Pure algebra of the hierarchical head; what is learned and what a score takes from it stands in `hierarchical.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from metarisk.domain import Array, ModelError, Packed, SegmentKey
from metarisk.learners.heads.normal import DENSE, Curvature, Dense, Moments, by_parent, over
from metarisk.learners.heads.reduced import Reduced, Split
from metarisk.learners.likelihoods import Likelihood

NEWTON_STEPS = 100
TOLERANCE = 1e-10
"""Newton stops when no effect moves by more; its quadratic convergence then leaves nothing beyond rounding."""


@dataclass(frozen=True)
class Priors:
    """Variances of the normal priors, on the link scale.

    Attributes:
        shared: (2,) of the common intercept and slope.
        parents: (L,) of the effects of each part of the key; empty for keys of one part.
        cell: of the effect of the cell (for keys of one part: of that part).
        noise: of the label, for the Gaussian likelihood; 1 for all others.
    """

    shared: Array
    parents: Array
    cell: float
    noise: float = 1.0


@dataclass(frozen=True)
class Layout:
    """Rows sorted by cell, and the parents of each cell. Cells and parents stand in the order of their values.

    Attributes:
        keys: one a cell (C).
        parents: int64 (C, L) numbers of a cell's parents among all P; L is 0 for keys of one part.
        level: int64 (P,) the part of the key that each parent is a value of.
        cell: int64 (N,) cell of each row.
        y, weight, base, distance: float64 (N,); distance is what the slope acts on, minus the centre.
    """

    keys: tuple[SegmentKey, ...]
    parents: Array
    level: Array
    cell: Array
    y: Array
    weight: Array
    base: Array
    distance: Array

    def by_cell(self, values: Array) -> Array:
        """Sum of row values (N,) by cell (C,)."""
        return np.bincount(self.cell, weights=values, minlength=len(self.keys))

    @cached_property
    def squared(self) -> Array:
        """Distance squared (N,)."""
        return np.asarray(self.distance**2)

    @cached_property
    def split(self) -> Split | None:
        """The column of most values apart, where there are too many to solve for all at once."""
        return Split(self.parents, self.level) if self.level.size > DENSE else None


@dataclass(frozen=True)
class Effects:
    """Values of all effects: shared (2,), parents (P,), cells (C,)."""

    shared: Array
    parents: Array
    cells: Array

    def plus(self, other: Effects, scale: float) -> Effects:
        """Itself and `scale` times the other."""
        return Effects(
            self.shared + scale * other.shared, self.parents + scale * other.parents, self.cells + scale * other.cells
        )

    def largest(self) -> float:
        """The largest absolute value."""
        return max(float(np.abs(part).max()) for part in (self.shared, self.parents, self.cells) if part.size)


@dataclass(frozen=True)
class Posterior:
    """The Laplace posterior with the cells eliminated.

    Attributes:
        moments: of the shared effects and the parents.
        h0, h1: (C,) sums of the weighted curvature, and of curvature times distance.
        precision: (C,) of a cell's effect given all others.
        cell_precision: of the cells' prior.
    """

    moments: Moments
    h0: Array
    h1: Array
    precision: Array
    cell_precision: float

    def cell_variance(self) -> Array:
        """Variance of each cell's own effect (C,)."""
        a, b = self.h0 / self.precision, self.h1 / self.precision
        return self._mixed(a, b)

    def score_variance(self) -> Array:
        """(C, 3): the variance of a cell's score at distance d is v0 + 2 v1 d + v2 d^2."""
        slope = float(self.moments.shared[1, 1])
        a, b = self.cell_precision / self.precision, -self.h1 / self.precision
        v0 = self._mixed(a, b)
        return np.stack([v0, a * self.moments.cross + b * slope, np.full_like(v0, slope)], axis=1)

    def _mixed(self, a: Array, b: Array) -> Array:
        """Variance of a (a0 + parents) + b a1 and of what a cell's rows leave open (C,)."""
        own, cross, slope = self.moments.own, self.moments.cross, float(self.moments.shared[1, 1])
        mixed: Array = a**2 * own + 2 * a * b * cross + b**2 * slope + 1 / self.precision
        return mixed


def lay_out(rows: Packed, score: Array, centre: float, likelihood: Likelihood) -> Layout:
    """Sort checked rows: by cell, then by what the head reads of them. The slope acts on `score` (N,).

    Raises ModelError for labels out of range, a score that is not finite, or keys of unequal length.
    """
    parts = {len(key) for key in rows.keys}
    if len(parts) > 1 or 0 in parts:
        raise ModelError(
            f"segment keys expected to have one number of parts >= 1, got {sorted(parts)}",
            remedy="give every segment a value in each segment column",
        )
    likelihood.validate(rows.y)
    y, weight, base, distance = (
        np.asarray(values, dtype=np.float64) for values in (rows.y, rows.weight, rows.base, score - centre)
    )
    if not np.isfinite(distance).all():
        raise ModelError(
            f"the score under the slope expected finite, got {int((~np.isfinite(distance)).sum())} bad values",
            remedy="repair the column that slope_column names",
        )
    y = likelihood.told(y, base)
    keys = tuple(sorted(set(rows.keys)))
    number = {key: cell for cell, key in enumerate(keys)}
    cell = np.repeat(np.array([number[key] for key in rows.keys], dtype=np.int64), rows.sizes)
    order = np.lexsort((distance, weight, y, base, cell))
    parents, level = _parents(keys)
    return Layout(keys, parents, level, cell[order], y[order], weight[order], base[order], distance[order])


def _parents(keys: tuple[SegmentKey, ...]) -> tuple[Array, Array]:
    """Numbers of each cell's parents (C, L) and the level of each parent (P,)."""
    levels = len(keys[0]) if keys and len(keys[0]) > 1 else 0
    columns, level = [np.zeros((len(keys), 0), dtype=np.int64)], np.zeros(0, dtype=np.int64)
    for j in range(levels):
        values = {value: i for i, value in enumerate(sorted({key[j] for key in keys}))}
        # a list a key would have Python's collector walk all that lives, thousands of keys apart
        numbers = np.fromiter((values[key[j]] for key in keys), dtype=np.int64, count=len(keys))
        columns.append(numbers[:, None] + level.size)
        level = np.concatenate([level, np.full(len(values), j, dtype=np.int64)])
    return np.concatenate(columns, axis=1), level


def no_effects(layout: Layout) -> Effects:
    """All effects at zero."""
    return Effects(np.zeros(2), np.zeros(layout.level.size), np.zeros(len(layout.keys)))


def cell_scores(layout: Layout, effects: Effects) -> Array:
    """Sum of a0, the parents' and the cell's effects, by cell (C,)."""
    scores: Array = effects.shared[0] + over(layout.parents, effects.parents) + effects.cells
    return scores


def fit(
    layout: Layout, priors: Priors, likelihood: Likelihood, start: Effects, *, last: bool = True
) -> tuple[Effects, Posterior]:
    """Maximise the posterior by Newton's method with halved steps; cells are eliminated, parents as their number asks.

    Where not `last`, sums of variances are wanted and not each of them.

    Raises ModelError when it does not converge, which a convex likelihood and finite rows do not allow.
    """
    effects, eta = start, row_scores(layout, start)
    value = _objective(layout, priors, likelihood, effects, eta)
    for _ in range(NEWTON_STEPS):
        step, posterior = _newton(layout, priors, likelihood, effects, eta)
        scale, size = 1.0, step.largest()
        if size <= TOLERANCE:
            return effects, posterior(last)
        while True:
            moved = effects.plus(step, scale)
            eta = row_scores(layout, moved)
            new = _objective(layout, priors, likelihood, moved, eta)
            # near the optimum two objectives differ by rounding only
            if new <= value + 1e-12 * abs(value) or scale * size <= TOLERANCE:
                break
            scale /= 2
        effects, value = moved, new
    raise ModelError(
        f"the hierarchical head did not converge in {NEWTON_STEPS} Newton steps (last step {size:.1e})",
        remedy="look for base scores or weights of extreme size",
    )


def row_scores(layout: Layout, effects: Effects) -> Array:
    """Undamped score of each row (N,)."""
    scores: Array = layout.base + cell_scores(layout, effects)[layout.cell] + effects.shared[1] * layout.distance
    return scores


def _objective(layout: Layout, priors: Priors, likelihood: Likelihood, effects: Effects, eta: Array) -> float:
    """Negative log posterior, up to a constant; `eta` are the scores of rows (N,)."""
    loss = likelihood.loss(torch.from_numpy(eta), torch.from_numpy(layout.y)).numpy()
    penalty = (effects.shared**2 / priors.shared).sum() + (effects.cells**2).sum() / priors.cell
    penalty += (effects.parents**2 / priors.parents[layout.level]).sum()
    with np.errstate(invalid="ignore"):
        value = float(layout.weight @ loss) / priors.noise + float(penalty) / 2
    return value if np.isfinite(value) else np.inf


def _newton(
    layout: Layout, priors: Priors, likelihood: Likelihood, effects: Effects, eta: Array
) -> tuple[Effects, Callable[[bool], Posterior]]:
    """The full Newton step from `effects`, where rows score `eta` (N,), and how to get the posterior there."""
    score, y = torch.from_numpy(eta), torch.from_numpy(layout.y)
    weight = layout.weight / priors.noise
    slope, bend = weight * likelihood.gradient(score, y).numpy(), weight * likelihood.curvature(score, y).numpy()
    h0, h1, h2 = (layout.by_cell(each) for each in (bend, bend * layout.distance, bend * layout.squared))
    g0, g1 = layout.by_cell(slope), float(slope @ layout.distance)
    precision = h0 + 1 / priors.cell
    pull = (g0 + effects.cells / priors.cell) / precision

    shrunk = 1 / (priors.cell * precision)
    prior = 1 / np.concatenate([priors.shared, priors.parents[layout.level]])
    curvature = Curvature(h0 * shrunk, h1 * shrunk, h2 - h1**2 / precision, prior)
    system = Dense(layout.parents, curvature) if layout.split is None else Reduced(layout.split, curvature)
    reduced = g0 - h0 * pull
    right = np.concatenate(
        [
            np.array([reduced.sum(), g1 - float(h1 @ pull)]) + effects.shared / priors.shared,
            by_parent(layout.parents, reduced, layout.level.size) + effects.parents / priors.parents[layout.level],
        ]
    )
    move = -system.solve(right)
    through = move[0] + over(layout.parents, move[2:])
    cells = -pull - (h0 * through + h1 * move[1]) / precision
    step = Effects(move[:2], move[2:], cells)
    return step, lambda last: Posterior(system.moments(last), h0, h1, precision, 1 / priors.cell)
