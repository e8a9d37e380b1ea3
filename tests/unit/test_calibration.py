"""Scorecards: golden numbers of the field, an outside library beside each formula, and what must hold of any book."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, optimize, special, stats

from metarisk import calibration
from metarisk.calibration import Calibration, LevelRule, calibrate
from metarisk.domain import Grade, Scorecard
from metarisk.domain.portfolio import DOUBLING_SCALE
from tests import oracles

CARD = Scorecard()
SHARES = st.floats(1e-6, 1 - 1e-6)


def test_points_have_the_published_numbers():
    factor, offset = 28.8539, 487.1229
    assert calibration.points(-math.log(50), CARD) == pytest.approx(600)
    assert calibration.points(-math.log(100), CARD) == pytest.approx(620)
    assert calibration.points(special.logit(0.02), CARD) == pytest.approx(599.42, abs=0.005)
    assert calibration.points(0.0, CARD) == pytest.approx(offset, abs=5e-5)
    assert calibration.points(0.0, CARD) - calibration.points(1.0, CARD) == pytest.approx(factor, abs=5e-5)


@given(base=st.floats(-1e3, 1e3), odds=st.floats(0.01, 1e4), pdo=st.floats(0.1, 200), at=st.floats(-20, 20))
def test_doubled_odds_add_the_points_that_double_the_odds(base, odds, pdo, at):
    card = Scorecard(base, odds, pdo)
    assert calibration.points(-math.log(odds), card) == pytest.approx(base, abs=1e-6)
    gain = calibration.points(at - math.log(2), card) - calibration.points(at, card)
    assert gain == pytest.approx(pdo, abs=1e-6)


@given(st.floats(-40, 3))
def test_log_odds_of_a_cumulative_hazard_are_those_of_its_probability(link):
    hazard = math.exp(link)
    assert calibration.log_odds(link, "hazard") == pytest.approx(
        math.log(-math.expm1(-hazard)) + hazard, rel=1e-12, abs=1e-12
    )
    assert calibration.log_odds(link, "bernoulli") == link


def test_log_odds_stay_finite_where_the_link_is_extreme():
    found = calibration.log_odds(np.array([-800.0, -50.0, 0.0, 6.0]), "hazard")
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()
    assert found[1] == pytest.approx(-50, abs=1e-12)
    assert special.expit(found[2]) == pytest.approx(1 - math.exp(-1))


def test_a_grade_holds_what_lies_above_the_bound_before_it_up_to_its_own():
    scale = (Grade("good", 0.01), Grade("fair", 0.1), Grade("bad", 1.0))
    found = calibration.grade_numbers([0.0, 0.01, np.nextafter(0.01, 1), 0.1, 0.5, 1.0], scale)
    assert found.tolist() == [0, 0, 1, 1, 2, 2]


@given(st.lists(SHARES, min_size=2, max_size=50))
def test_grades_never_improve_as_the_probability_rises(values):
    numbers = calibration.grade_numbers(sorted(values), DOUBLING_SCALE)
    assert (np.diff(numbers) >= 0).all()
    for p, number in zip(sorted(values), numbers, strict=True):
        assert p <= DOUBLING_SCALE[number].upper
        assert number == 0 or p > DOUBLING_SCALE[number - 1].upper


def test_the_default_scale_doubles():
    bounds = [grade.upper for grade in DOUBLING_SCALE]
    assert bounds == [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 1.0]


def test_expected_loss_is_the_product_and_nothing_where_a_part_is_missing():
    found = calibration.expected_loss([0.02, 0.5], [0.45, np.nan], [10_000, 1])
    assert found[0] == pytest.approx(90)
    assert np.isnan(found[1])


def test_jeffreys_and_the_exact_binomial_have_the_published_numbers():
    assert calibration.jeffreys_p(0.01, 15, 1000) == pytest.approx(0.06323, abs=5e-6)
    assert calibration.binomial_p(0.01, 15, 1000) == pytest.approx(0.08241, abs=5e-6)


@given(p=st.floats(0.001, 0.5), n=st.integers(1, 400), share=st.floats(0, 1))
def test_the_binomial_p_value_is_scipys_test(p, n, share):
    d = round(share * n)
    expected = stats.binomtest(d, n, p, alternative="greater").pvalue
    assert calibration.binomial_p(p, d, n) == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert calibration.vasicek_p(p, d, n, 0.0) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("p", "n", "d", "rho"), [(0.02, 2000, 55, 0.04), (0.002, 300, 2, 0.12), (0.1, 50, 9, 0.24)])
def test_the_one_factor_p_value_is_the_integral_over_the_factor(p, n, d, rho):
    def tail(z):
        given_z = stats.norm.cdf((stats.norm.ppf(p) + math.sqrt(rho) * z) / math.sqrt(1 - rho))
        return stats.binom.sf(d - 1, n, given_z) * stats.norm.pdf(z)

    expected = integrate.quad(tail, -12, 12, limit=500, epsabs=1e-13)[0]
    assert calibration.vasicek_p(p, d, n, rho) == pytest.approx(expected, abs=1e-8)


def test_a_correct_pd_is_rejected_a_quarter_of_the_time_where_independence_is_assumed_wrongly():
    # 2 % and 2,000 loans at correlation .04: the published 25 % at nominal 5 %
    n, p, rho = 2000, 0.02, 0.04
    counts = np.arange(n + 1)
    first = int(counts[calibration.jeffreys_p(p, counts, n) < 0.05][0])
    assert calibration.vasicek_p(p, first, n, rho) == pytest.approx(0.25, abs=0.01)
    # and the one-factor test keeps its own level
    rejected = counts[calibration.vasicek_p(p, counts, n, rho) < 0.05][0]
    assert calibration.vasicek_p(p, rejected, n, rho) < 0.05


def test_the_one_factor_p_value_is_what_simulated_years_give():
    r = np.random.default_rng(0)
    z = r.standard_normal(200_000)
    given_z = special.ndtr((special.ndtri(0.03) + math.sqrt(0.1) * z) / math.sqrt(0.9))
    events = r.binomial(500, given_z)
    assert calibration.vasicek_p(0.03, 30, 500, 0.1) == pytest.approx((events >= 30).mean(), abs=0.003)


def test_pluto_tasche_has_the_published_numbers():
    found = oracles.pluto_tasche([100, 400, 300], [0, 0, 0])
    assert found == pytest.approx([0.00287, 0.00328, 0.00765], abs=5e-6)
    assert oracles.pluto_tasche([5, 2], [0, 2])[1] == 1.0
    assert oracles.pluto_tasche([0], [0])[0] == 1.0
    # binomial tail at the bound is 1 - confidence: the definition
    bound = oracles.pluto_tasche([200, 100], [1, 3])[0]
    assert stats.binom.cdf(4, 300, bound) == pytest.approx(0.1, abs=1e-9)


def test_a_pools_own_bound_is_that_of_a_book_of_one_grade():
    rows, events = [100, 0, 5, 40], [0, 0, 5, 3]
    alone = [oracles.pluto_tasche([n], [d])[0] for n, d in zip(rows, events, strict=True)]
    np.testing.assert_array_equal(calibration.upper_bound(rows, events), alone)


@given(
    st.lists(st.tuples(st.integers(1, 500), st.floats(0, 1)), min_size=1, max_size=8),
    st.floats(0.5, 0.99),
)
def test_pluto_tasche_bounds_lie_above_the_pools_rate(grades, confidence):
    rows = np.array([n for n, _ in grades])
    events = np.array([int(n * share) for n, share in grades])
    bounds = oracles.pluto_tasche(rows, events, confidence)
    pooled = np.cumsum(events[::-1])[::-1] / np.cumsum(rows[::-1])[::-1]
    assert (bounds >= pooled).all()


def logit_gradient(eta, y):
    return special.expit(eta) - y


def logit_curvature(eta, y):
    p = special.expit(eta)
    return p * (1 - p)


def level(link, y, codes, names, rule):
    return calibrate(link, y, codes, names, rule, gradient=logit_gradient, curvature=logit_curvature)


def example(rows=3_000, seed=1):
    r = np.random.default_rng(seed)
    codes = r.integers(0, 4, rows)
    link = r.normal(-2, 1, rows)
    y = (r.random(rows) < special.expit(link + 0.4 + np.array([0.5, 0, -0.3, 0])[codes])).astype(float)
    return link, y, codes, ["a", "b", "c", "d"]


def test_level_shifts_are_the_posterior_mode():
    link, y, codes, names = example()
    rule = LevelRule(3, 0.25, 0.05)

    def objective(d):
        eta = link + d[0] + d[1:][codes]
        return np.sum(np.logaddexp(0, eta) - y * eta) + d[0] ** 2 / 0.5 + np.sum(d[1:] ** 2) / 0.1

    best = optimize.minimize(objective, np.zeros(5), method="BFGS", options={"gtol": 1e-8}).x
    found = level(link, y, codes, names, rule)
    assert [found.portfolio, *found.segments.values()] == pytest.approx(best, abs=1e-5)
    assert found.shift("a") == found.portfolio + found.segments["a"]
    assert found.shift("never seen") == found.portfolio


def test_a_variance_of_zero_and_a_rule_without_months_keep_the_level():
    link, y, codes, names = example()
    assert level(link, y, codes, names, LevelRule()) == Calibration()
    assert level(link[:0], y[:0], codes[:0], names, LevelRule(3, 0.25, 0.05)) == Calibration()
    alone = level(link, y, codes, names, LevelRule(3, 0.25, 0.0))
    assert alone.segments == {}
    assert special.expit(link + alone.portfolio).mean() == pytest.approx(y.mean(), abs=2e-3)
    apart = level(link, y, codes, names, LevelRule(3, 0.0, 0.25))
    assert apart.portfolio == 0
    assert set(apart.segments) == set(names)


@given(st.integers(0, 40), st.floats(-8, 4), st.sampled_from([0.0, 1.0]))
def test_shifts_go_where_the_labels_are_and_no_further_than_the_prior_lets_them(rows, at, label):
    rule = LevelRule(3, 0.25, 0.1)
    found = level(np.full(rows, at), np.full(rows, label), np.zeros(rows, dtype=np.int64), ["a"], rule)
    # at the mode every shift is its variance times the sum of slopes, each of which is at most one
    assert 0 <= found.portfolio * (2 * label - 1) <= 0.25 * rows
    assert found.shift("a") == pytest.approx(found.portfolio * 1.4, abs=1e-8)


# at the edges, by hand


def test_a_level_moves_at_most_one_a_step_and_fifty_in_all():
    far, one, code = np.full(1, -200.0), np.ones(1), np.zeros(1, dtype=np.int64)
    assert level(far, one, code, ["a"], LevelRule(1, 1e9, 0.0)).portfolio == 50.0
    assert level(far, one, code, ["a"], LevelRule(1, 0.0, 1e9)).segments == {"a": 50.0}


def test_a_variance_pulls_the_level_back_by_hand():
    """Of a constant slope of -1 and no bend the mode is the variance itself."""

    def straight(rule):
        one, code = np.zeros(1), np.zeros(1, dtype=np.int64)
        slope, bend = (lambda eta, y: np.full(1, -1.0)), (lambda eta, y: np.zeros(1))
        return calibrate(one, one, code, ["a", "b"], rule, gradient=slope, curvature=bend)

    assert straight(LevelRule(1, 0.25, 0.0)).portfolio == pytest.approx(0.25)
    assert straight(LevelRule(1, 0.0, 0.5)).segments == pytest.approx({"a": 0.5})
    both = straight(LevelRule(1, 0.25, 0.5))
    assert (both.portfolio, both.segments["a"]) == pytest.approx((0.25, 0.5))
    assert straight(LevelRule(0, 0.25, 0.5)) == Calibration()


def test_p_values_and_bounds_hold_where_nothing_or_everything_defaulted():
    assert calibration.jeffreys_p(0.02, 0, 50) == pytest.approx(stats.beta.cdf(0.02, 0.5, 50.5))
    assert calibration.binomial_p(0.02, 0, 50) == 1.0
    assert calibration.binomial_p(0.02, 50, 50) == pytest.approx(0.02**50)
    assert calibration.vasicek_p(0.02, 0, 50, 0.1) == pytest.approx(1.0)
    assert calibration.upper_bound([1, 1, 0, 2], [0, 1, 0, 1]) == pytest.approx([0.9, 1.0, 1.0, 0.9486833])
    assert calibration.upper_bound([1], [0], 0.5) == pytest.approx([0.5])
    assert calibration.upper_bound([3], [4]) == 1.0


def test_log_odds_of_a_hazard_grow_no_further_than_a_number_can():
    assert calibration.log_odds(900.0, "cumulative_hazard") == calibration.log_odds(700.0, "hazard") == math.exp(700)
    assert calibration.log_odds(-np.inf, "hazard") == pytest.approx(math.log(np.finfo(float).tiny))


def test_what_lies_above_the_last_bound_has_the_last_grade():
    scale = (Grade("good", 0.1), Grade("bad", 0.5))
    assert calibration.grade_numbers([0.1, 0.3, 0.5, 0.7], scale).tolist() == [0, 1, 1, 1]
