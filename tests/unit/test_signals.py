"""Signals against published numbers, closed forms, another library and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from metarisk.risks.quant.earning import drawdown, equity, limited, tilt, walk
from metarisk.risks.quant.proving import deflated_sharpe, expected_best_sharpe, probabilistic_sharpe, rank_ic, sharpe


def test_the_worked_example_of_bailey_and_lopez_de_prado() -> None:
    """Their yearly ratio of 2.5 from 1250 days, the best of 100 trials with variance 1/2 a year: 0.9004."""
    daily, variance = 2.5 / np.sqrt(250), 0.5 / 250
    assert expected_best_sharpe(100, variance) == pytest.approx(0.1132, abs=5e-5)
    assert deflated_sharpe(daily, 1250, -3, 10, trials=100, variance=variance) == pytest.approx(0.9004, abs=2e-4)
    assert deflated_sharpe(daily, 1250, 0, 3, trials=88, variance=variance) > 0.95


def test_normal_returns_have_the_closed_form() -> None:
    """Without skew, with kurtosis 3, the spread of a ratio is 1 + ratio^2 / 2 over T - 1."""
    z = 0.1 * np.sqrt(99 / (1 + 0.1**2 / 2))
    assert probabilistic_sharpe(0.1, 0.0, 100, 0, 3) == pytest.approx(stats.norm.cdf(z))
    assert deflated_sharpe(0.1, 100, 0, 3, trials=1, variance=9.0) == pytest.approx(stats.norm.cdf(z))


def test_expected_best_of_many_draws() -> None:
    """The approximation is within three per cent of what simulation gives."""
    draws = np.random.default_rng(0).normal(0, 0.2, (20_000, 50)).max(axis=1)
    assert expected_best_sharpe(50, 0.04) == pytest.approx(draws.mean(), rel=0.03)


def test_rank_ic_is_spearman() -> None:
    """As scipy has it, with ties; nulls count for nothing, constants have none."""
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 8, 40).astype(float), rng.normal(size=40)
    assert rank_ic(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert rank_ic(np.append(a, np.nan), np.append(b, 1.0)) == pytest.approx(rank_ic(a, b))
    assert np.isnan(rank_ic(np.ones(5), np.arange(5)))


def test_net_returns_by_hand() -> None:
    """Bought whole, drifted by what came, and sold: each trade costs."""
    path = walk([{"a": 0.5, "b": 0.5}, {"a": 1.0}], [{"a": 0.1, "b": -0.1}, {"a": 0.02}], cost=0.001)
    assert path.turnover == pytest.approx([1.0, 0.45 + 0.45])
    assert path.gross == pytest.approx([0.0, 0.02])
    assert path.net == pytest.approx([-0.001, 0.02 - 0.0009])
    assert sharpe([0.1, 0.1]) != sharpe([0.1, 0.1])


def test_drawdown_and_equity() -> None:
    """A fall of 20 % from the peak of 1.1, and one from the very start."""
    assert drawdown([0.1, -0.2, 0.05]) == pytest.approx(0.2)
    assert drawdown([-0.3, 1.0]) == pytest.approx(0.3)
    assert drawdown([0.1, 0.2]) == 0
    assert equity([0.1, -0.2]) == pytest.approx([1.1, 0.88])


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 3)), min_size=2, max_size=60),
    st.floats(0.05, 0.5),
    st.floats(0.02, 1.0),
)
def test_weights_keep_their_limits(rows: list[tuple[float, int]], share: float, most: float) -> None:
    """No weight above the limit, no group and no portfolio net of anything, at most 1 long; longs score no less."""
    score, group = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    weights = tilt(score, group, share, most, short=True, neutral=True)
    assert np.abs(weights).max() <= most + 1e-12
    assert weights[weights > 0].sum() <= 1 + 1e-9
    for one in np.unique(group):
        inside, of = weights[group == one], score[group == one]
        assert inside.sum() == pytest.approx(0, abs=1e-12)
        assert not inside.any() or of[inside > 0].min() >= of[inside < 0].max()


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(-1, 1), max_size=6),
    st.dictionaries(st.sampled_from("abcdef"), st.floats(-1, 1), min_size=1, max_size=6),
    st.floats(0.01, 2),
)
def test_turnover_keeps_its_limit(wanted: dict[str, float], held: dict[str, float], most: float) -> None:
    """Trades add up to no more than the limit; without a limit that binds, what is wanted is had."""
    found = limited(wanted, held, most)
    assert sum(abs(found[name] - held.get(name, 0.0)) for name in found) <= most + 1e-9
    free = limited(wanted, held, 100.0)
    assert all(free[name] == pytest.approx(wanted.get(name, 0.0), abs=1e-12) for name in free)
