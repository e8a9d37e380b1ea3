"""What the hierarchical head will take of a book, before it is trained: rough, and for words rather than limits."""

from __future__ import annotations

from collections.abc import Sequence

from metarisk.learners.heads.map_head import MANY
from metarisk.learners.heads.normal import DENSE
from metarisk.learners.heads.reduced import FACTORED


def expected_cost(rows: int, cells: int, sizes: Sequence[int]) -> tuple[float, float]:
    """Seconds on one thread and MiB of a train, within a factor of three of what `many_values` measures.

    Args:
        rows: that teach.
        cells: distinct combinations of the segment columns among them.
        sizes: distinct values of each segment column.
    """
    parents = sum(sizes) if len(sizes) > 1 else 0
    kept = parents - max(sizes, default=0) if parents > DENSE else parents
    rounds = 60 if parents > MANY else 120
    a_round, memory = 0.35e-6 * (rows + cells), 300 * rows + 1_500 * cells
    if parents > DENSE and kept > FACTORED:
        a_round += 1.4e-6 * cells
    elif parents:
        # three factors and an inverse, and of each value of the largest column what it takes of the others
        a_round += 0.7e-10 * kept**3 + 1e-9 * cells * kept
        memory += 32 * kept**2
    return rounds * a_round, memory / 2**20
