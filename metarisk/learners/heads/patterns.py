"""Where sums over cells stand in a matrix, full or sparse; what no step of a fit changes."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from metarisk.domain import Array

Matrix = Any
"""Full, an array, or sparse, a csr_matrix."""
DENSE_SHARE = 0.1
"""Share of entries from which full matrices are faster than sparse ones."""


class Pattern:
    """Where sums over cells stand in a matrix; each sum is taken in the order of the cells.

    Matrices are full where that is faster, which only factored systems can be; else they are sparse.
    """

    def __init__(self, rows: Array, columns: Array, shape: tuple[int, int], *, factored: bool) -> None:
        """Of addends (E,) at these places."""
        places, self.slot = np.unique(rows * shape[1] + columns, return_inverse=True)
        self.rows, self.columns = places // shape[1], places % shape[1]
        self.turned_order = np.argsort(self.columns, kind="stable")
        self.shape, self.full = shape, factored and len(places) > DENSE_SHARE * shape[0] * shape[1]

    def sums(self, addends: Array) -> Array:
        """The entries, of addends (E,)."""
        return np.bincount(self.slot, weights=addends, minlength=len(self.rows))

    def matrix(self, entries: Array) -> Matrix:
        """A matrix of these entries."""
        if self.full:
            matrix = np.zeros(self.shape)
            matrix[self.rows, self.columns] = entries
            return matrix
        return csr_matrix((entries, self.columns, self._starts[0]), shape=self.shape)

    def turned(self, entries: Array) -> Matrix:
        """The same matrix transposed."""
        if self.full:
            return self.matrix(entries).T
        order = self.turned_order
        return csr_matrix((entries[order], self.rows[order], self._starts[1]), shape=self.shape[::-1])

    @cached_property
    def _starts(self) -> tuple[Array, Array]:
        """Where each row begins, and each column."""
        found = zip((self.rows, self.columns), self.shape, strict=True)
        begins = [np.concatenate([[0], np.cumsum(np.bincount(of, minlength=size))]) for of, size in found]
        return begins[0], begins[1]
