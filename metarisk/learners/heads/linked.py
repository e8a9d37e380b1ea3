"""The kept parents where few of them hang together: factored by blocks, and every variance from that factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from metarisk.domain import Array
from metarisk.learners.heads.blocks import Factor, Places, chained
from metarisk.learners.heads.normal import BLOCK
from metarisk.learners.heads.patterns import Pattern

if TYPE_CHECKING:
    from metarisk.learners.heads.reduced import Reduced


@dataclass(frozen=True)
class Links:
    """What adds to each entry of the kept parents' matrix.

    Attributes:
        pattern: of its entries.
        places: of these in blocks.
        one, other: (E,) pairs of entries of the coupling that share a value of the largest column.
        pairs, cells, diagonal: entry of each pair, of each two parents of a cell (C, (L - 1)^2), of each parent (K,).
    """

    pattern: Pattern
    places: Places
    one: Array
    other: Array
    pairs: Array
    cells: Array
    diagonal: Array


def links(coupling: Pattern, kept: Array, most: int) -> Links | None:
    """How kept parents hang together, by values of the largest column and by cells (C, L - 1).

    None where they do so too often to be listed, or a factor takes more than `most` multiplications.
    """
    size, (cells, width) = coupling.shape[1], kept.shape
    met = np.bincount(coupling.rows, minlength=coupling.shape[0])
    if int((met**2).sum()) + cells * width**2 > BLOCK:
        return None
    times = met[coupling.rows]
    one = np.repeat(np.arange(len(times)), times)
    begin = np.cumsum(met) - met
    other = begin[coupling.rows[one]] + np.arange(len(one)) - np.repeat(np.cumsum(times) - times, times)
    own = np.arange(size)
    rows = np.concatenate([coupling.columns[one], np.repeat(kept, width, axis=1).ravel(), own])
    columns = np.concatenate([coupling.columns[other], np.tile(kept, (1, width)).ravel(), own])
    pattern = Pattern(rows, columns, (size, size), factored=False)
    chain = chained(pattern.rows, pattern.columns, size)
    if chain.cost() > most:
        return None
    of_pairs, of_cells, diagonal = np.split(pattern.slot, [len(one), len(rows) - size])
    places = Places(chain, pattern.rows, pattern.columns)
    return Links(pattern, places, one, other, of_pairs, of_cells.reshape(cells, width**2), diagonal)


def factor(system: Reduced, links: Links) -> Factor:
    """Of the kept parents' matrix."""
    lost = system.through.data[links.one] * system.coupling.data[links.other]
    cells = np.repeat(system.curvature.k0, links.cells.shape[1])
    return Factor(links.places, links.pattern.sums(np.concatenate([-lost, cells, system.kept_prior])))


def variances(system: Reduced, links: Links, factor: Factor) -> tuple[Array, Array, Array]:
    """Variances given the shared effects: of kept parents (K,), of the largest column (B,), of cells (C,)."""
    split, coupling, through = system.split, system.split.coupling, system.through.data
    inverse = factor.inverse()
    taken = np.bincount(links.other, weights=through[links.one] * inverse[links.pairs], minlength=len(through))
    of_big = 1 / system.diagonal + np.bincount(coupling.rows, weights=through * taken, minlength=split.B)
    with_big = taken[coupling.slot].reshape(split.kept.shape).sum(axis=1)
    return inverse[links.diagonal], of_big, inverse[links.cells].sum(axis=1) + of_big[split.big] - 2 * with_big
