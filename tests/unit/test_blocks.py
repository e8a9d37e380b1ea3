"""The factor by blocks of sparse matrices against the inverse of the whole, and what it takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarisk.domain import Array
from metarisk.learners.heads.blocks import Factor, Places, chained


def positive(pairs: Array, size: int, seed: int = 0) -> Array:
    """A positive definite matrix (size, size) with entries at these pairs (E, 2) and on the diagonal."""
    r, matrix = np.random.default_rng(seed), np.zeros((size, size))
    matrix[pairs[:, 0], pairs[:, 1]] = r.normal(size=len(pairs))
    matrix += matrix.T
    matrix[np.diag_indices(size)] = np.abs(matrix).sum(axis=1) + r.uniform(0.1, 1, size)
    return matrix


def assert_factored(matrix: Array) -> None:
    rows, columns = np.nonzero(matrix)
    chain = chained(rows, columns, len(matrix))
    assert sorted(chain.place) == list(range(len(matrix)))
    factor = Factor(Places(chain, rows, columns), matrix[rows, columns])
    inverse, right = np.linalg.inv(matrix), np.random.default_rng(1).normal(size=(len(matrix), 2))
    np.testing.assert_allclose(factor.solve(right), inverse @ right, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(factor.inverse(), inverse[rows, columns], rtol=1e-8, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 150), st.floats(0, 3), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_solution_and_inverse_are_those_of_the_whole(size: int, met: float, hubs: int, seed: int) -> None:
    r = np.random.default_rng(seed)
    pairs = np.concatenate([
        r.integers(0, size, (int(met * size), 2)),
        np.column_stack([r.integers(0, min(hubs, size) or 1, hubs * size), r.integers(0, size, hubs * size)]),
    ])  # fmt: skip
    assert_factored(positive(pairs, size, seed))


def chain_of(size: int) -> Array:
    order = np.random.default_rng(2).permutation(size)
    return np.column_stack([order, np.roll(order, 1)])


@pytest.mark.parametrize(
    ("pairs", "size", "most"),
    [
        (chain_of(3_000), 3_000, 3_000 * 70**2),
        (np.concatenate([chain_of(3_000), [[7, i] for i in range(3_000)]]), 3_000, 3_000 * 70**2),
        (np.array([[i, i % 20] for i in range(3_000)]), 3_000, 3_000 * 90**2),
    ],
    ids=["a chain", "a chain and one that all meet", "nested"],
)
def test_the_cost_is_that_of_the_fill_whatever_the_order_of_values(pairs: Array, size: int, most: int) -> None:
    rows, columns = np.concatenate([pairs, pairs[:, ::-1], np.column_stack([np.arange(size)] * 2)]).T
    assert chained(rows, columns, size).cost() < most


def test_what_is_crossed_at_random_costs_what_the_whole_does() -> None:
    pairs = np.random.default_rng(3).integers(0, 400, (20_000, 2))
    rows, columns = np.concatenate([pairs, pairs[:, ::-1], np.column_stack([np.arange(400)] * 2)]).T
    assert chained(rows, columns, 400).cost() > 400**3 / 2
