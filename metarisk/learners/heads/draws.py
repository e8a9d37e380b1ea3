"""Variances of many parents from seeded draws of their posterior, of which each takes no more than it has to.

Where draws would be more than there are parents, each column of the inverse is solved for instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from metarisk.domain import Array
from metarisk.learners.heads.normal import BLOCK, over

if TYPE_CHECKING:
    from metarisk.learners.heads.reduced import Reduced

ROUND_DRAWS, AT_ONCE, DRAWS = 8, 32, 512
"""Draws of the posterior in a round, which needs sums of thousands of variances; side by side; at least in a last fit,
which needs each variance."""
DRAW_ERROR = 0.0022
"""Share of a variance that may be its standard error: of tens of thousands the worst is 4.5 of these off, a percent."""
DRAW_TOLERANCE = 1e-6
"""Of the residual of a draw, or of a column, against its right side: what counts is its square."""
COLUMN_COST = 1.0
"""Of a column of the inverse, in draws."""


def variances(system: Reduced, last: bool) -> tuple[Array, Array, Array]:
    """Variances given the shared effects: of kept parents (K,), of the largest column (B,), of cells (C,).

    The variance of an effect is that given all others, which is known, and that of what the others say of it (Rao and
    Blackwell): the better its own rows tell a value, the less is left to the draws. Of the largest column a value and
    the kept parent closest to it are told apart from the others, and of a cell all its parents. What all values of a
    column have in common is the part that their rows do not tell; it is solved for, and taken out of the draws as a
    control variate.
    """
    least = DRAWS if last else ROUND_DRAWS
    split, kept = system.split, system.split.kept
    shares = system.through.data[split.coupling.slot].reshape(kept.shape)
    taken = np.linalg.solve(_of_cells(system), 1 - shares[:, :, None])[:, :, 0]
    closest, share = _closest(system)
    of_big = 1 / system.diagonal
    of_cells = of_big[split.big] + ((1 - shares) * taken).sum(axis=1)
    given_others = (1 / system.scale, of_big + share**2 / system.scale[closest], of_cells)

    def said(x: Array, image: Array) -> tuple[Array, Array, Array]:
        """What others say of kept parents, largest column and cells, of vectors x (K, M) and their images."""
        own, of_others = image / system.scale[:, None], system.through @ x
        cells = over(kept, x) - of_others[split.big]
        for column, each in zip(kept.T, taken.T, strict=True):
            cells -= each[:, None] * image[column]
        return x - own, of_others - share[:, None] * own[closest], cells

    solved = system.conjugate(split.columns)
    common = np.linalg.inv(split.columns.T @ solved)
    known = said(solved, split.columns)
    alone = [one + ((g @ common) * g).sum(axis=1) for one, g in zip(given_others, known, strict=True)]
    sums, drawn, rng = [np.zeros(len(one)) for one in alone], 0, np.random.default_rng(0)
    at_once = max(1, min(AT_ONCE, least, BLOCK // max(len(split.big), 1)))
    while drawn < least or (last and (error := _error(alone, sums, drawn)) > DRAW_ERROR):
        if drawn >= least and drawn * (error / DRAW_ERROR) ** 2 > COLUMN_COST * split.K:
            return by_columns(system)
        image = _noise(system, rng, at_once)
        x = system.conjugate(image, DRAW_TOLERANCE)
        told = common @ (split.columns.T @ x)
        for total, part, slope in zip(sums, said(x, image), known, strict=True):
            total += ((part - slope @ told) ** 2).sum(axis=1)
        drawn += at_once
    kept_variance, big_variance, cell_variance = (one + total / drawn for one, total in zip(alone, sums, strict=True))
    return kept_variance, big_variance, cell_variance


def by_columns(system: Reduced) -> tuple[Array, Array, Array]:
    """The same variances from the inverse, of which some columns at a time are solved for and none is kept."""
    split, kept, size = system.split, system.split.kept, system.split.K
    of_kept, of_big, of_cells = np.empty(size), 1 / system.diagonal, np.zeros(len(kept))
    for begin in range(0, size, AT_ONCE):
        part = np.arange(begin, min(begin + AT_ONCE, size))
        inverse = system.conjugate((np.arange(size)[:, None] == part).astype(float), DRAW_TOLERANCE)
        of_others = system.through @ inverse
        of_kept[part] = inverse[part, part - begin]
        of_big += np.asarray(system.through[:, part].multiply(of_others).sum(axis=1)).ravel()
        for column in kept.T:
            cells = np.flatnonzero((column >= begin) & (column <= part[-1]))
            at = column[cells] - begin
            of_cells[cells] += sum(inverse[other[cells], at] for other in kept.T) - 2 * of_others[split.big[cells], at]
    return of_kept, of_big, of_cells + of_big[split.big]


def _error(alone: Sequence[Array], sums: Sequence[Array], drawn: int) -> float:
    """Largest standard error of a variance, as a share of it: a mean of squares of normal numbers is its part."""
    parts = (total / drawn for total in sums)
    return max(float((part / (one + part)).max()) for one, part in zip(alone, parts, strict=True)) * sqrt(2 / drawn)


def _closest(system: Reduced) -> tuple[Array, Array]:
    """Of each value of the largest column the kept parent that it has most in common with, and what it takes."""
    taken, pattern = system.through.data, system.split.coupling
    most = np.flatnonzero(taken == np.maximum.reduceat(taken, system.through.indptr[:-1])[pattern.rows])
    first = most[np.unique(pattern.rows[most], return_index=True)[1]]
    return pattern.columns[first], taken[first]


def _of_cells(system: Reduced) -> Array:
    """Of the kept parents' matrix what belongs to the parents of each cell (C, L - 1, L - 1)."""
    pattern, (cells, width) = system.split.among, system.split.kept.shape
    entries = np.where(pattern.rows == pattern.columns, system.kept_prior[pattern.rows], 0.0) + system.among.data
    filled = np.cumsum(np.diff(system.back.indptr)[pattern.rows]) // BLOCK
    for part in np.split(np.arange(len(entries)), np.flatnonzero(np.diff(filled)) + 1):
        rows, columns = system.back[pattern.rows[part]], system.back[pattern.columns[part]]
        entries[part] -= rows.multiply(columns) @ system.diagonal
    return np.asarray(entries[pattern.slot].reshape(cells, width, width))


def _noise(system: Reduced, rng: np.random.Generator, draws: int) -> Array:
    """Normal vectors (K, draws) whose covariance is the kept parents' matrix."""
    split, k0, prior = system.split, system.curvature.k0, system.curvature.prior[2:]
    rows = np.sqrt(k0)[:, None] * rng.standard_normal((len(k0), draws))
    noise = np.sqrt(prior)[:, None] * rng.standard_normal((prior.size, draws))
    of_kept = noise[~split.is_big] + split.kept_rows @ rows
    return np.asarray(of_kept - system.back @ (noise[split.is_big] + split.big_rows @ rows))
