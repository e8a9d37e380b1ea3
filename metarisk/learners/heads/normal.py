"""The normal equations of crossed effects once the cells are eliminated: their solution and its variances, by size.

Up to DENSE parents the matrix is solved as a whole, here; beyond, as `reduced.py` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metarisk.domain import Array

DENSE = 256
"""Parents up to which one dense system takes no longer than an eliminated one."""
BLOCK = 2**22
"""Numbers in a block of a matrix that is not held whole: 32 MiB."""


@dataclass(frozen=True)
class Curvature:
    """What the rows tell of the shared effects and parents, cells eliminated.

    Attributes:
        k0, k1, k2: (C,) of a cell, against intercept twice, intercept and slope, slope twice.
        prior: (2 + P,) precisions of the shared effects and the parents.
    """

    k0: Array
    k1: Array
    k2: Array
    prior: Array

    @property
    def shared(self) -> Array:
        """(2, 2) of the shared effects."""
        a, b, c = self.k0.sum(), self.k1.sum(), self.k2.sum()
        shared: Array = np.array([[a, b], [b, c]]) + np.diag(self.prior[:2])
        return shared


@dataclass(frozen=True)
class Moments:
    """Second moments of the posterior.

    Attributes:
        shared: (2, 2) covariance of intercept and slope.
        parents: (P, 3) variance of each parent, its covariances with intercept and slope.
        own, cross: (C,) of a0 + parents of a cell: its variance, its covariance with the slope.
    """

    shared: Array
    parents: Array
    own: Array
    cross: Array


class Dense:
    """The whole matrix; `parents` (C, L) are numbers among P."""

    def __init__(self, parents: Array, curvature: Curvature) -> None:
        k0, P = curvature.k0, curvature.prior.size - 2
        self.members = np.concatenate([np.zeros((len(k0), 1), dtype=np.int64), parents + 2], axis=1)
        matrix = np.zeros((2 + P, 2 + P))
        matrix[0, 0], matrix[0, 1], matrix[1, 1] = k0.sum(), curvature.k1.sum(), curvature.k2.sum()
        matrix[0, 2:], matrix[1, 2:] = by_parent(parents, k0, P), by_parent(parents, curvature.k1, P)
        matrix[1:, 0], matrix[2:, 1] = matrix[0, 1:], matrix[1, 2:]
        for column in parents.T:
            for other in parents.T:
                pairs = np.bincount(column * P + other, weights=k0, minlength=P * P)
                matrix[2:, 2:] += pairs.reshape(P, P)
        matrix[np.diag_indices(2 + P)] += curvature.prior
        self.matrix = matrix

    def solve(self, right: Array) -> Array:
        """Solution (2 + P,)."""
        solution: Array = np.linalg.solve(self.matrix, right)
        return solution

    def moments(self, last: bool) -> Moments:
        """From the inverse."""
        covariance, members = np.linalg.inv(self.matrix), self.members
        own = covariance[members[:, :, None], members[:, None, :]].sum(axis=(1, 2))
        parents = np.column_stack([np.diag(covariance)[2:], covariance[2:, 0], covariance[2:, 1]])
        return Moments(covariance[:2, :2], parents, own, covariance[members, 1].sum(axis=1))


def by_parent(parents: Array, values: Array, count: int) -> Array:
    """Sum of cell values (C,) by parent (count,); `parents` (C, L)."""
    return np.bincount(parents.ravel(), weights=np.repeat(values, parents.shape[1]), minlength=count)


def over(parents: Array, values: Array) -> Array:
    """Sum over the parents (C, L) of each cell of what `values` (P, ...) holds of them; added in their order."""
    total = np.zeros((len(parents), *values.shape[1:]))
    for column in parents.T:
        total += values[column]
    return total
