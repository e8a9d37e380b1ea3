"""The declared hierarchy of segments: the whole portfolio, each value of a segment column, each cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix

from metarisk.domain import Array, SegmentKey, segment_name

AT_ONCE = 2_048
"""Nodes whose totals are held at once: 16 MiB for a thousand bins."""


@dataclass(frozen=True)
class Node:
    """What is judged together: `members` are positions in the list of keys."""

    level: str
    """`all`, the name of a segment column, or `cell`."""
    segment: str | None
    """Printable name; None for the whole portfolio."""
    members: tuple[int, ...]


def nodes(keys: Sequence[SegmentKey], columns: Sequence[str]) -> tuple[Node, ...]:
    """The portfolio, then the values of each column where there are several columns, then the cells."""
    found = [Node("all", None, tuple(range(len(keys))))]
    for position, column in enumerate(columns if len(columns) > 1 else ()):
        members: dict[str, list[int]] = {}
        for number, key in enumerate(keys):
            members.setdefault(key[position], []).append(number)
        found += [Node(column, segment_name((value,)), tuple(held)) for value, held in sorted(members.items())]
    found += [Node("cell", segment_name(key), (number,)) for number, key in enumerate(keys)]
    return tuple(found)


def totals(of: Sequence[Node], values: Array) -> Array:
    """Values (S, ...) by key, added up by node (G, ...)."""
    added = np.zeros((len(of), *values.shape[1:]), dtype=values.dtype)
    alone = [place for place, node in enumerate(of) if len(node.members) == 1]
    added[alone] = values[[of[place].members[0] for place in alone]]
    for place, node in enumerate(of):
        if len(node.members) > 1:
            added[place] = values[list(node.members)].sum(axis=0)
    return added


def of_both(reference: pl.DataFrame, current: pl.DataFrame, columns: Sequence[str]) -> tuple[tuple[Node, ...], Array]:
    """Nodes of the segments of two tables, and sums (2 V, G) of the V values of the first, then of the other."""
    joined = reference.join(current, on=list(columns), how="full", coalesce=True, suffix=" now").sort(*columns)
    of = nodes(tuple(joined.select(columns).iter_rows()), columns)
    return of, totals(of, np.ascontiguousarray(joined.drop(columns).fill_null(0).to_numpy())).T


def in_blocks(
    of: Sequence[Node], values: Sequence[csr_matrix], measure: Callable[..., Sequence[Array]]
) -> tuple[Array, ...]:
    """Measures (G,) of every node from its totals, some nodes at a time: all totals of all bins would not fit.

    Args:
        values: sparse (S, B) by key, each added up by node.
        measure: of these totals (N, B), in their order, to arrays (N,).
    """
    member = np.concatenate([np.array(node.members, dtype=np.int64) for node in of])
    starts = np.concatenate([[0], np.cumsum([len(node.members) for node in of])])
    belongs = csr_matrix((np.ones(len(member), dtype=np.int64), member, starts), shape=(len(of), values[0].shape[0]))
    found = []
    for begin in range(0, len(of), AT_ONCE):
        rows = belongs[begin : begin + AT_ONCE]
        found.append(measure(*((rows @ each).toarray() for each in values)))
    return tuple(np.concatenate(each) for each in zip(*found, strict=True))


def labels_of(of: Sequence[Node]) -> dict[str, object]:
    """Level and segment of every node, as columns."""
    return {"level": [node.level for node in of], "segment": [node.segment for node in of]}


def parents(of: Sequence[Node]) -> tuple[tuple[int, ...], ...]:
    """Of each node the positions of those above it, the nearest first."""
    by_member: dict[int, list[int]] = {}
    for place, node in enumerate(of):
        if node.level not in ("all", "cell"):
            for member in node.members:
                by_member.setdefault(member, []).append(place)
    return tuple(
        () if node.level == "all" else (*by_member.get(node.members[0], ()), 0) if node.level == "cell" else (0,)
        for node in of
    )
