"""Segment columns of many values: the reduced system and its draws against the whole one, and odd columns."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import special
from threadpoolctl import threadpool_limits

from metarisk.domain import Array, Arrays, Episodes, Packed
from metarisk.learners.heads import crossed, draws, reduced
from metarisk.learners.heads import map_head as hierarchical
from metarisk.learners.heads.cost import expected_cost
from metarisk.learners.heads.map_head import MapHead
from metarisk.learners.threads import one_thread

CROSSED = np.random.default_rng(0)
CHAIN = CROSSED.integers(0, 10_000, 3_000)
TABLES = {
    "first is largest": np.column_stack([CROSSED.integers(0, n, 3_000) for n in (60, 9)]),
    "last is largest": np.column_stack([CROSSED.integers(0, n, 3_000) for n in (25, 40)]),
    "three columns": np.column_stack([CROSSED.integers(0, n, 3_000) for n in (5, 70, 30)]),
    "each meets two": np.add.outer(np.arange(3_000), [0, 0]) % 50 + np.column_stack([[0] * 3_000, [0, 1] * 1_500]),
    "chains beside a column": np.column_stack([CHAIN % 90, (CHAIN + CROSSED.integers(0, 2, 3_000)) % 90, CHAIN % 4]),
    "a column repeated": np.repeat(CROSSED.integers(0, 50, (3_000, 1)), 2, axis=1),
    "one row a value": np.column_stack([np.arange(3_000) % 40, np.arange(3_000)]),
    "one value in all": np.column_stack([np.zeros(3_000, dtype=int), CROSSED.integers(0, 80, 3_000)]),
}
WITHOUT_ROUNDS = {"one row a value", "chains beside a column"}
"""Tables whose variances take hundreds of rounds."""


def packed(table: Array, seed: int = 1) -> Packed:
    """Rows with effects of the values in a table (N, L)."""
    r = np.random.default_rng(seed)
    table = table[np.lexsort(table.T[::-1])]
    keys, starts = np.unique(table, axis=0, return_index=True)
    base = r.normal(-0.8, 0.9, len(table))
    effects = sum(r.normal(0, 0.5, column.max() + 1)[column] for column in table.T)
    y = (r.random(len(table)) < special.expit(base + effects)).astype(float)
    names = tuple(tuple(f"{value:04d}" for value in key) for key in keys.tolist())
    starts = np.append(starts, len(table))
    return Packed(names, starts, np.zeros((len(table), 0)), y, r.uniform(0.2, 2.0, len(table)), base)


def fitted(rows: Packed, state: Arrays | None = None) -> tuple[Arrays, Arrays]:
    """State and adaptation arrays; the state is learned where none is given."""
    head, none = MapHead(), replace(rows.select([0]), starts=np.zeros(2, dtype=np.int64))
    none = replace(none, x=rows.x[:0], y=rows.y[:0], weight=rows.weight[:0], base=rows.base[:0])
    tasks = Episodes(rows, Packed(rows.keys, np.zeros_like(rows.starts), none.x, none.y, none.weight, none.base))
    if state is None:
        state = head.train(tasks, None, "bernoulli", seed=0, progress=lambda done, total, note: None)
    return state, head.adapt(state, rows, "bernoulli").arrays


def assert_close(found: Arrays, expected: Arrays, variances: float) -> None:
    for name, values in expected.items():
        if name in ("variance", "parent_covariance"):
            np.testing.assert_allclose(found[name][..., 0], values[..., 0], rtol=variances, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], values, rtol=1e-8, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("name", TABLES)
def test_variances_effects_and_their_rounds_equal_the_whole_system(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = packed(TABLES[name])
    given = state_of(TABLES[name].shape[1]) if name in WITHOUT_ROUNDS else None
    state, whole = fitted(rows, given)
    monkeypatch.setattr(crossed, "DENSE", 0)
    found, arrays = fitted(rows, given)
    assert_close(found, state, 1e-8)
    assert_close(arrays, whole, 1e-8)


@pytest.mark.parametrize(
    ("cost", "error", "column", "variances"),
    [(reduced.FACTOR_COST, 0.0, 0.0, 1e-8), (0, 1e-9, 1.0, 1e-6), (0, draws.DRAW_ERROR, np.inf, 0.01)],
    ids=["blocks", "columns", "draws"],
)
@pytest.mark.parametrize("name", TABLES)
def test_beyond_what_is_factored_whole_effects_are_exact_and_variances_within_a_percent(
    name: str, cost: int, error: float, column: float, variances: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, state = packed(TABLES[name]), state_of(TABLES[name].shape[1])
    whole = fitted(rows, state)[1]
    monkeypatch.setattr(crossed, "DENSE", 0)
    monkeypatch.setattr(reduced, "FACTORED", 0)
    monkeypatch.setattr(reduced, "FACTOR_COST", cost)
    monkeypatch.setattr(draws, "DRAW_ERROR", error)
    monkeypatch.setattr(draws, "COLUMN_COST", column)
    assert_close(fitted(rows, state)[1], whole, variances)


def test_where_draws_would_be_more_than_columns_of_the_inverse_these_are_solved_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Values that meet three others at random, and of which their rows tell next to nothing but by them."""
    r = np.random.default_rng(6)
    value, meets = r.integers(0, 600, 20_000), np.column_stack([r.permutation(600) for _ in range(3)])
    rows = packed(np.column_stack([value, meets[value, r.integers(0, 3, 20_000)]]))
    state = {**state_of(2), "parent_variance": np.array([1.0, 1.0]), "cell_variance": np.array(0.005)}
    whole = fitted(rows, state)[1]
    monkeypatch.setattr(reduced, "FACTORED", 0)
    monkeypatch.setattr(reduced, "FACTOR_COST", 0)
    assert_close(fitted(rows, state)[1], whole, 1e-5)


def state_of(levels: int) -> Arrays:
    return {
        "centre": np.array(-0.7),
        "damping": np.array(0.85),
        "shared_variance": np.array([0.3, 0.06]),
        "parent_variance": np.array([0.2, 0.11, 0.15])[:levels],
        "cell_variance": np.array(0.08),
        "noise_variance": np.array(1.0),
    }


@pytest.mark.parametrize(
    ("factored", "cost"),
    [(reduced.FACTORED, 0), (0, reduced.FACTOR_COST), (0, 0)],
    ids=["factored", "blocks", "drawn"],
)
def test_neither_the_order_of_rows_nor_threads_change_a_bit(
    factored: int, cost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    r = np.random.default_rng(2)
    rows = packed(np.column_stack([r.integers(0, n, 6_000) for n in (400, 300)]))
    assert rows.rows and crossed.DENSE < 700
    monkeypatch.setattr(reduced, "FACTORED", factored)
    monkeypatch.setattr(reduced, "FACTOR_COST", cost)
    order = np.concatenate([r.permutation(np.arange(a, b)) for a, b in zip(rows.starts, rows.starts[1:], strict=False)])
    mixed = replace(rows, y=rows.y[order], weight=rows.weight[order], base=rows.base[order])
    shuffled = r.permutation(len(rows.keys))
    with one_thread():
        _, one = fitted(rows, state_of(2))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(2):
        _, other = fitted(mixed.select(shuffled), state_of(2))
    torch.set_num_threads(threads)
    for name, values in one.items():
        np.testing.assert_array_equal(values[shuffled], other[name], err_msg=name)


def test_a_value_seen_in_training_and_gone_takes_no_part_and_one_that_is_new_its_prior() -> None:
    """The state holds variances and no values, so a night adapts to those that it has."""
    r = np.random.default_rng(3)
    table = np.column_stack([r.integers(0, 4, 4_000), r.integers(0, 500, 4_000)])
    rows = packed(table)
    state, _ = fitted(rows)
    kept = [i for i, key in enumerate(rows.keys) if key[1] != "0007"]
    head = MapHead()
    adaptation = head.adapt(state, rows.select(kept), "bernoulli")
    again = head.adapt(state, rows.select(kept), "bernoulli")
    gone = rows.select([i for i in range(len(rows.keys)) if i not in kept][:1])
    eta, variance = head.predict(state, adaptation, gone, "bernoulli")
    assert variance is not None and np.isfinite(eta).all()
    assert (variance >= state["parent_variance"][1] + state["cell_variance"]).all()
    np.testing.assert_array_equal(adaptation.arrays["effects"], again.arrays["effects"])


def test_an_effect_that_two_columns_share_is_split_by_their_variances_and_counted_once() -> None:
    """A repeated column tells nothing new: scores are those of one column whose variance is the sum."""
    table = np.repeat(np.random.default_rng(4).integers(0, 400, (4_000, 1)), 2, axis=1)
    rows, state = packed(table), {**state_of(2), "damping": np.array(1.0)}
    twice = MapHead().adapt(state, rows, "bernoulli").arrays
    first, second, cell = twice["effects"].T
    np.testing.assert_allclose(first / 0.2, second / 0.11, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(first / 0.2, cell / 0.08, rtol=1e-8, atol=1e-10)
    once = replace(rows, keys=tuple((key[0],) for key in rows.keys))
    alone = {**state, "parent_variance": np.zeros(0), "cell_variance": np.array(0.2 + 0.11 + 0.08)}
    expected = MapHead().adapt(alone, once, "bernoulli").arrays
    np.testing.assert_allclose(twice["intercept"], expected["intercept"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(twice["variance"], expected["variance"], rtol=1e-8)


@pytest.mark.parametrize(
    ("rows", "cells", "sizes", "seconds", "memory"),
    [
        (20_000, 4_000, [1_000, 4], 0.6, 15),
        (200_000, 73_000, [20_000, 4], 6, 190),
        (200_000, 197_000, [2_000, 3_000], 18, 365),
    ],
)
def test_the_expected_cost_is_near_what_was_measured(
    rows: int, cells: int, sizes: list[int], seconds: float, memory: float
) -> None:
    """Of one core; the benchmark many_values measures the same trains."""
    expected = expected_cost(rows, cells, sizes)
    assert seconds / 3 < expected[0] < 3 * seconds
    assert memory / 3 < expected[1] < 3 * memory


@cache
def in_all_rounds() -> tuple[Packed, Arrays]:
    """Rows and the state after rounds one by one."""
    r = np.random.default_rng(5)
    rows = packed(np.column_stack([r.integers(0, size, 4_000) for size in (200, 100)]))
    return rows, fitted(rows)[0]


@pytest.mark.parametrize("factored", [reduced.FACTORED, 0], ids=["factored", "drawn"])
def test_rounds_that_are_extrapolated_end_where_all_rounds_do(factored: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, expected = in_all_rounds()
    monkeypatch.setattr(hierarchical, "MANY", 0)
    monkeypatch.setattr(reduced, "FACTORED", factored)
    monkeypatch.setattr(reduced, "FACTOR_COST", 0)
    found, _ = fitted(rows)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0.003, err_msg=name)
