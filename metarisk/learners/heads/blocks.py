"""Cholesky of a sparse symmetric matrix as a chain of full blocks with a border, and its inverse where entries stand.

Values that hang together in chains, nested columns, and small columns beside them leave such a matrix with next to no
fill. What is crossed at random fills it whole, and is no matter for this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import linalg
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import reverse_cuthill_mckee

from metarisk.domain import Array

LEAST = 32
"""Rows of a block at least: smaller ones cost more calls than they save sums."""


@dataclass(frozen=True)
class Chain:
    """An order of K rows in blocks, of which each meets the next one and the last, the border, alone.

    Attributes:
        place: (K,) where each row stands in this order.
        ends: of the blocks and of the border, which may be empty.
    """

    place: Array
    ends: tuple[int, ...]

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """The rows of each block but the border, and the places beyond it that it meets."""
        *ends, size = self.ends
        border = np.arange(ends[-1], size)
        for begin, end, beyond in zip([0, *ends], ends, [*ends[1:], ends[-1]], strict=False):
            yield slice(begin, end), np.concatenate([np.arange(end, beyond), border])

    def cost(self) -> int:
        """Multiplications of a factor, about: K^3 for one block."""
        blocks = sum((part.stop - part.start) * (part.stop - part.start + len(met)) ** 2 for part, met in self.blocks())
        return int(blocks + (self.ends[-1] - self.ends[-2]) ** 3)


def chained(rows: Array, columns: Array, size: int) -> Chain:
    """The cheapest chain found for a symmetric matrix that has entries at these places (E,), all diagonal ones too.

    Rows that meet many others make all blocks wide and may go to the border; how many is many, is tried.
    """
    degree = np.bincount(rows, minlength=size)
    limits = [size, *(4**power for power in range(1, 16) if degree.min() <= 4**power < degree.max())]
    return min((_ordered(rows, columns, degree > limit) for limit in limits), key=Chain.cost)


def _ordered(rows: Array, columns: Array, is_border: Array) -> Chain:
    """The chain with this border (K,): of the others each block takes what the one before reaches."""
    inner = ~(is_border[rows] | is_border[columns])
    number, inside = np.cumsum(~is_border) - 1, np.flatnonzero(~is_border)
    one, other, count = number[rows[inner]], number[columns[inner]], len(inside)
    graph = csr_matrix((np.ones(len(one)), (one, other)), shape=(count, count))
    place = np.empty(len(is_border), dtype=np.int64)
    place[inside[reverse_cuthill_mckee(graph, symmetric_mode=True)]] = np.arange(count)
    place[is_border] = np.arange(count, len(is_border))
    reach = np.arange(count)
    np.maximum.at(reach, place[rows[inner]], place[columns[inner]])
    reach = np.maximum.accumulate(reach)
    ends = [min(LEAST, count)]
    while ends[-1] < count:
        ends.append(min(max(int(reach[ends[-1] - 1]) + 1, ends[-1] + LEAST), count))
    return Chain(place, (*ends, len(is_border)))


class Places:
    """Where the entries of a matrix stand in the blocks of a chain; what no number changes."""

    def __init__(self, chain: Chain, rows: Array, columns: Array) -> None:
        """Of entries (E,) of both triangles: each stands in the earlier one of its two blocks."""
        self.chain = chain
        placed = np.sort(np.column_stack([chain.place[rows], chain.place[columns]]), axis=1)
        order = np.argsort(placed[:, 0], kind="stable")
        bounds = np.searchsorted(placed[order, 0], [0, *chain.ends])
        border = chain.ends[-2]
        self.blocks: list[tuple[slice, Array, Array, tuple[Array, Array]]] = []
        """Rows of a block, the places beyond it, its entries, and where they stand in it and what it meets."""
        parts = [*chain.blocks(), (slice(border, chain.ends[-1]), np.zeros(0, dtype=np.int64))]
        for (part, beyond), begin, end in zip(parts, bounds, bounds[1:], strict=False):
            found = order[begin:end]
            row, column = placed[found].T
            width = part.stop - part.start + len(beyond)
            at = np.where(
                (column >= border) & (part.start < border), column - chain.ends[-1] + width, column - part.start
            )
            self.blocks.append((part, beyond, found, (row - part.start, at)))


class Factor:
    """The Cholesky factor of a positive definite matrix whose entries (E,) stand at these places."""

    def __init__(self, places: Places, entries: Array) -> None:
        self.places, self.count = places, len(entries)
        self.parts: list[tuple[Array, Array]] = []
        """Of each block, the border at the end, its upper factor and what it takes of those beyond it."""
        border = places.chain.ends[-1] - places.chain.ends[-2]
        lost, corner = np.zeros((0, border)), np.zeros((border, border))
        for part, beyond, found, at in places.blocks:
            count, own = part.stop - part.start, len(lost)
            matrix = np.zeros((count, count + len(beyond)))
            matrix[at] = entries[found]
            if part.start == places.chain.ends[-2]:
                matrix -= corner
            elif own:
                matrix[:, :count] -= lost[:, :own]
                matrix[:, matrix.shape[1] - border :] -= lost[:, own:]
            upper = linalg.cholesky(matrix[:, :count], check_finite=False) if count else matrix
            taken = (
                linalg.solve_triangular(upper, matrix[:, count:], trans="T", check_finite=False) if count else matrix
            )
            loss, following = taken.T @ taken, len(beyond) - border
            self.parts.append((upper, taken))
            if part.start < places.chain.ends[-2]:
                lost = loss[:following]
                corner += loss[following:, following:]

    def solve(self, right: Array) -> Array:
        """Solution (K, M)."""
        place, out = self.places.chain.place, np.empty_like(right)
        out[place] = right
        blocks = list(zip(self.places.blocks, self.parts, strict=True))
        for (part, beyond, *_), (upper, taken) in blocks:
            if len(upper):
                out[part] = linalg.solve_triangular(upper, out[part], trans="T", check_finite=False)
                out[beyond] -= taken.T @ out[part]
        for (part, beyond, *_), (upper, taken) in reversed(blocks):
            if len(upper):
                out[part] = linalg.solve_triangular(upper, out[part] - taken @ out[beyond], check_finite=False)
        return out[place]

    def inverse(self) -> Array:
        """Of the inverse what stands where the matrix has entries (E,): Takahashi's recursion, by blocks (1973)."""
        out = np.empty(self.count)
        border = self.places.chain.ends[-1] - self.places.chain.ends[-2]
        beyond = np.zeros((0, 0))
        """The inverse of what the block meets: of the next block and the border."""
        for (part, _, found, at), (upper, taken) in reversed(list(zip(self.places.blocks, self.parts, strict=True))):
            count = part.stop - part.start
            if not count:
                continue
            given = linalg.lapack.dpotri(upper)[0]
            given = np.triu(given) + np.triu(given, 1).T
            through = linalg.solve_triangular(upper, taken, check_finite=False)
            with_beyond = -through @ beyond
            own = given - with_beyond @ through.T
            out[found] = np.concatenate([own, with_beyond], axis=1)[at]
            corner = beyond[len(beyond) - border :, len(beyond) - border :]
            with_border = with_beyond[:, with_beyond.shape[1] - border :]
            beyond = (
                own
                if part.start == self.places.chain.ends[-2]
                else np.block([[own, with_border], [with_border.T, corner]])
            )
        return out
