"""Totals by node of the declared hierarchy, whole and in blocks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from metarisk.drift import hierarchy

KEYS = tuple((f"R{i % 3}", f"B{i}") for i in range(11))


@pytest.mark.parametrize("kind", [np.int64, np.float64])
@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_totals_in_blocks_are_the_sums_of_each_nodes_members(
    kind: type, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(0, 4, (len(KEYS), 6)).astype(kind)
    of = hierarchy.nodes(KEYS, ("region", "branch"))
    expected = np.stack([values[list(node.members)].sum(axis=0) for node in of])
    np.testing.assert_array_equal(hierarchy.totals(of, values), expected)
    assert hierarchy.totals(of, values).dtype == kind
    monkeypatch.setattr(hierarchy, "AT_ONCE", at_once)
    first, rows = hierarchy.in_blocks(of, [csr_matrix(values)], lambda part: [part[:, 0], part.sum(axis=1)])
    np.testing.assert_array_equal(first, expected[:, 0])
    np.testing.assert_array_equal(rows, expected.sum(axis=1))


def test_without_segments_the_portfolio_alone_has_a_total_of_nothing() -> None:
    np.testing.assert_array_equal(hierarchy.totals(hierarchy.nodes((), ("region",)), np.zeros((0, 2))), [[0.0, 0.0]])
