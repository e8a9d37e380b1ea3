"""The normal equations of many parents: the column of most values eliminated, the others factored or iterated.

A cell has one value of each column, so the block of a column against itself is diagonal: to eliminate the largest one
is exact and cheap. K parents remain. Up to FACTORED of them are factored as one matrix; more as `linked.py` does,
where few hang together. Either gives every variance. The others are solved by conjugate gradients, and their variances
are those of `draws.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from scipy import linalg
from scipy.sparse import csr_matrix, issparse

from metarisk.domain import Array, ModelError
from metarisk.learners.heads import draws, linked
from metarisk.learners.heads.blocks import Factor
from metarisk.learners.heads.normal import BLOCK, Curvature, Moments, by_parent, over
from metarisk.learners.heads.patterns import Matrix, Pattern

FACTORED = 1_536
"""Parents beside the largest column that are factored in each step: three columns of 500, at a tenth of a second."""
FACTOR_COST = FACTORED**3
"""Multiplications of a factor by blocks up to which it is taken."""
CG_STEPS = 1_000
CG_TOLERANCE = 1e-12
"""Of the residual against the right side."""


class Split:
    """The column of most values (B) apart from the K values of all others; what no step changes."""

    def __init__(self, parents: Array, level: Array) -> None:
        cells, levels = parents.shape
        sizes = np.bincount(level, minlength=levels)
        largest = int(np.argmax(sizes))
        self.is_big = level == largest
        self.B, self.K = int(sizes[largest]), int(level.size - sizes[largest])
        number = np.where(self.is_big, np.cumsum(self.is_big), np.cumsum(~self.is_big)) - 1
        others = np.delete(np.arange(levels), largest)
        self.big, self.kept = number[parents[:, largest]], number[parents[:, others]]
        self.columns = (level[~self.is_big][:, None] == others).astype(float)
        """Which column a kept parent is a value of (K, L - 1)."""
        width, factored = levels - 1, self.K <= FACTORED
        self.coupling = Pattern(np.repeat(self.big, width), self.kept.ravel(), (self.B, self.K), factored=factored)
        pairs = np.repeat(self.kept, width, axis=1).ravel(), np.tile(self.kept, (1, width)).ravel()
        self.among = Pattern(*pairs, (self.K, self.K), factored=factored)
        cell, ones = np.arange(cells), np.ones(cells)
        self.big_rows = csr_matrix((ones, (self.big, cell)), shape=(self.B, cells))
        self.kept_rows = csr_matrix(
            (np.ones(self.kept.size), (self.kept.ravel(), np.repeat(cell, width))), shape=(self.K, cells)
        )
        """Which cells a value stands in: (B, C) and (K, C)."""
        wanted = width and not factored
        self.links = linked.links(self.coupling, self.kept, FACTOR_COST) if wanted else None
        """How the kept parents hang together, where they are factored by blocks."""
        self.by_big = np.argsort(self.big, kind="stable")
        """Cells sorted by their value of the largest column."""


class Reduced:
    """The system with the largest column eliminated, and the shared effects apart: K parents, solved together."""

    def __init__(self, split: Split, curvature: Curvature) -> None:
        self.split, self.curvature = split, curvature
        k0, k1, big, width = curvature.k0, curvature.k1, split.big, split.kept.shape[1]
        prior = curvature.prior[2:]
        self.diagonal = np.bincount(big, weights=k0, minlength=split.B) + prior[split.is_big]
        entries = split.coupling.sums(np.repeat(k0, width))
        taken = entries / self.diagonal[split.coupling.rows]
        self.coupling, self.through = split.coupling.matrix(entries), split.coupling.matrix(taken)
        """What the largest column has in common with each kept parent, and what it takes of it (B, K)."""
        self.back = split.coupling.turned(taken)
        self.among = split.among.matrix(split.among.sums(np.repeat(k0, width**2)))
        self.kept_prior = prior[~split.is_big]
        self.big_shared = np.column_stack([np.bincount(big, weights=k, minlength=split.B) for k in (k0, k1)])
        kept_shared = np.column_stack([by_parent(split.kept, k, split.K) for k in (k0, k1)])
        self.kept_shared = kept_shared - self.back @ self.big_shared
        """Of the kept parents with the shared effects (K, 2)."""
        self.response = self._solve_kept(self.kept_shared)
        """What the kept parents give for a unit of each shared effect, with the sign turned (K, 2)."""
        scaled = self.big_shared / self.diagonal[:, None]
        shared = curvature.shared - self.big_shared.T @ scaled - self.kept_shared.T @ self.response
        self.shared = np.linalg.inv(shared)

    @cached_property
    def scale(self) -> Array:
        """Diagonal of the kept parents' matrix (K,)."""
        both = self.coupling.data * self.through.data
        lost = np.bincount(self.split.coupling.columns, weights=both, minlength=self.split.K)
        return np.asarray(self.among.diagonal() + self.kept_prior - lost)

    @cached_property
    def factor(self) -> Array:
        """Lower Cholesky factor of the kept parents' matrix (K, K)."""
        lost = self.back @ self.coupling
        matrix = np.array(_filled(self.among) - _filled(lost))
        matrix[np.diag_indices(self.split.K)] += self.kept_prior
        factor: Array = linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
        return factor

    @cached_property
    def blocks(self) -> Factor | None:
        """The same by blocks, where the kept parents have links."""
        return None if self.split.links is None else linked.factor(self, self.split.links)

    def apply(self, values: Array) -> Array:
        """The kept parents' matrix times values (K, M)."""
        out: Array = self.among @ values + self.kept_prior[:, None] * values - self.back @ (self.coupling @ values)
        return out

    def _solve_kept(self, right: Array) -> Array:
        """Solution (K, M) for the kept parents alone."""
        if self.split.K <= FACTORED:
            solution: Array = linalg.cho_solve((self.factor, True), right, check_finite=False)
            return solution
        return self.conjugate(right) if self.blocks is None else self.blocks.solve(right)

    def conjugate(self, right: Array, tolerance: float = CG_TOLERANCE) -> Array:
        """Conjugate gradients with the diagonal as preconditioner, columns (K, M) side by side.

        Raises ModelError when they do not converge, which priors of finite variance do not allow.
        """
        x, residual = np.zeros_like(right), right.copy()
        scale = self.scale[:, None]
        z = residual / scale
        direction, rho = z, (residual * z).sum(axis=0)
        goal = tolerance**2 * rho
        for _ in range(CG_STEPS):
            if (rho <= goal).all():
                return x
            image = self.apply(direction)
            # a column that is solved stands still
            step = np.where(rho > goal, rho / np.maximum((direction * image).sum(axis=0), np.finfo(float).tiny), 0.0)
            x, residual = x + step * direction, residual - step * image
            z = residual / scale
            before, rho = rho, (residual * z).sum(axis=0)
            direction = z + direction * (rho / np.maximum(before, np.finfo(float).tiny))
        raise ModelError(
            f"{self.split.K} values of segment columns did not converge in {CG_STEPS} steps of conjugate gradients",
            remedy="look for weights of extreme size, or make the segment columns coarser",
        )

    def solve(self, right: Array) -> Array:
        """Solution (2 + P,)."""
        split, of_big = self.split, right[2:][self.split.is_big]
        of_kept = right[2:][~split.is_big] - self.back @ of_big
        of_shared = right[:2] - self.big_shared.T @ (of_big / self.diagonal)
        shared = self.shared @ (of_shared - self.response.T @ of_kept)
        kept = self._solve_kept(of_kept[:, None])[:, 0] - self.response @ shared
        out = np.empty_like(right)
        out[:2] = shared
        out[2:][~split.is_big] = kept
        out[2:][split.is_big] = (of_big - self.coupling @ kept - self.big_shared @ shared) / self.diagonal
        return out

    def moments(self, last: bool) -> Moments:
        """From the inverse where the kept parents are factored; else from draws, more of them in the `last` fit."""
        split = self.split
        if split.K <= FACTORED:
            of_kept, of_big, of_cells = self._from_inverse()
        elif split.links is not None and self.blocks is not None:
            of_kept, of_big, of_cells = linked.variances(self, split.links, self.blocks)
        else:
            of_kept, of_big, of_cells = draws.variances(self, last)
        # what each effect is expected to be for a unit of the shared ones
        kept = -self.response
        big = -(self.big_shared / self.diagonal[:, None] + self.through @ kept)
        cells = over(split.kept, kept) + big[split.big] + np.array([1.0, 0.0])
        parents = np.empty((split.is_big.size, 3))
        for where, slope, variance in ((~split.is_big, kept, of_kept), (split.is_big, big, of_big)):
            with_shared = slope @ self.shared
            parents[where] = np.column_stack([variance + (with_shared * slope).sum(axis=1), with_shared])
        with_shared = cells @ self.shared
        return Moments(self.shared, parents, of_cells + (with_shared * cells).sum(axis=1), with_shared[:, 1])

    def _from_inverse(self) -> tuple[Array, Array, Array]:
        """Variances given the shared effects: of kept parents (K,), of the largest column (B,), of cells (C,)."""
        split = self.split
        inverse, _ = linalg.lapack.dpotri(self.factor, lower=1)
        inverse += np.tril(inverse, -1).T
        own = sum(inverse[one, other] for one in split.kept.T for other in split.kept.T)
        of_big, with_big = np.empty(split.B), np.empty(len(own))
        ends = np.searchsorted(split.big[split.by_big], np.arange(split.B + 1))
        for part in _blocks(split.B, split.K):
            through = self.through[part]
            spread = through @ inverse
            of_big[part] = 1 / self.diagonal[part] + np.einsum("bk,bk->b", _filled(through), spread)
            cells = split.by_big[ends[part.start] : ends[part.stop]]
            rows = split.big[cells] - part.start
            with_big[cells] = sum(spread[rows, column[cells]] for column in split.kept.T)
        return np.diag(inverse).copy(), of_big, own + of_big[split.big] - 2 * with_big


def _filled(matrix: Matrix) -> Array:
    """The matrix as an array."""
    filled: Array = matrix.toarray() if issparse(matrix) else matrix
    return filled


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of rows whose full matrices have BLOCK numbers at most."""
    step = max(1, BLOCK // max(columns, 1))
    return (slice(begin, min(begin + step, rows)) for begin in range(0, rows, step))
