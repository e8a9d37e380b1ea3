"""Shapley values against all orders, and the identity of who came and went."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metarisk.moves import FACTORS, PARTS, Sums, shapley

finite = st.floats(-1e6, 1e6)


def by_all_orders(values: np.ndarray) -> np.ndarray:
    """Each factor's gain when it joins, averaged over every order of joining."""
    players = values.size.bit_length() - 1
    out = np.zeros(players)
    orders = list(permutations(range(players)))
    for order in orders:
        mixture = 0
        for player in order:
            out[player] += values[mixture | 1 << player] - values[mixture]
            mixture |= 1 << player
    return out / len(orders)


@settings(deadline=None)
@given(st.integers(0, 4).flatmap(lambda k: hnp.arrays(float, 1 << k, elements=finite)))
def test_shapley_values_are_gains_averaged_over_all_orders_and_sum_to_the_change(values):
    found = shapley(values)
    np.testing.assert_allclose(found, by_all_orders(values), rtol=1e-12, atol=1e-8)
    assert found.sum() == pytest.approx(values[-1] - values[0], rel=1e-12, abs=1e-8)


def test_a_published_game():
    # Gloves: players 0 and 1 have a left one, player 2 the right one; a pair is worth 1 (Shapley values 1/6, 1/6, 2/3).
    pair = np.array([0, 0, 0, 0, 0, 1, 1, 1.0])
    np.testing.assert_allclose(shapley(pair), [1 / 6, 1 / 6, 2 / 3])


def test_games_are_solved_side_by_side():
    games = np.random.default_rng(0).normal(size=(5, 3, 16))
    found = shapley(games)
    assert found.shape == (5, 3, 4)
    np.testing.assert_allclose(found[2, 1], by_all_orders(games[2, 1]), atol=1e-14)


@settings(deadline=None)
@given(
    left=st.lists(st.floats(0, 1), max_size=5),
    came=st.lists(st.floats(0, 1), max_size=5),
    stayed=hnp.arrays(float, st.tuples(st.integers(0, 6), st.just(8)), elements=st.floats(0, 1)),
)
def test_mean_and_total_split_exactly_whoever_came_and_went(left, came, stayed):
    changed = ("data", "adaptation", "calibration")
    earlier, later = [*left, *stayed[:, 0]], [*came, *stayed[:, -1]]
    sums = Sums(
        *(np.array([n]) for n in (len(earlier), len(later), len(stayed), sum(earlier), sum(later))), stayed.sum(0)[None]
    )
    total = sums.of_total(changed)
    assert tuple(total) == tuple(PARTS)
    assert sum(part[0] for part in total.values()) == pytest.approx(sum(later) - sum(earlier), abs=1e-12)
    assert total["entrants"][0] == pytest.approx(sum(came), abs=1e-12)
    assert total["leavers"][0] == pytest.approx(-sum(left), abs=1e-12)
    mean = {name: part[0] for name, part in sums.of_mean(changed).items()}
    if not earlier or not later:
        assert np.isnan(sum(mean.values()))
        return
    assert sum(mean.values()) == pytest.approx(np.mean(later) - np.mean(earlier), abs=1e-12)
    if len(stayed):
        assert mean["leavers"] == pytest.approx(len(left) / len(earlier) * (stayed[:, 0].mean() - np.mean(left or [0])))
        assert mean["entrants"] == pytest.approx(len(came) / len(later) * (np.mean(came or [0]) - stayed[:, -1].mean()))
    else:
        assert mean["leavers"] == pytest.approx(mean["entrants"])
    assert total["model"][0] == mean["model"] == 0


def test_what_did_not_change_moved_nothing_and_factors_keep_their_names():
    stayed = np.array([[1.0, 2.0, 4.0, 5.5]])
    one = np.array([1.0])
    sums = Sums(one, one, one, stayed[:, 0], stayed[:, -1], stayed)
    parts = sums.of_total(("model", "calibration"))
    assert [float(parts[name][0]) for name in FACTORS] == [0, 0, 1.25, 3.25]
