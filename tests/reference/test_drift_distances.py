"""Distances and tests of drift against published numbers, scipy, exact enumeration and simulation."""

import itertools

import numpy as np
import polars as pl
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from metarisk.domain import Feature
from metarisk.drift import distances, inputs
from tests.drifts import detect


def _psi(reference, current, kind="numeric"):
    def frame(values):
        return pl.DataFrame({"x": values, "segment": ["a"] * len(values)}).lazy()

    known = inputs.reference(frame(reference), {"x": Feature(kind)}, ("segment",))
    found = detect(frame(current), known)
    return found.filter(pl.col("segment").is_null(), metric="psi")["value"].item()


# Golden values: computed from the formula in floating point and cross-checked with an independent implementation that
# bins by the reference's tenths with open ends and counts an empty share as 1e-4.


def test_golden_psi_of_two_normal_samples():
    rng = np.random.default_rng(42)
    reference, current = rng.normal(0.0, 1.0, 5000), rng.normal(0.3, 1.1, 2000)
    assert _psi(reference, current) == pytest.approx(0.129834, abs=1e-6)


def test_golden_psi_of_shifted_integers():
    assert _psi(np.arange(1.0, 101.0), np.arange(21.0, 121.0)) == pytest.approx(1.599892, abs=1e-6)


def test_golden_psi_of_categories_with_an_unseen_one():
    reference = list("A" * 500 + "B" * 300 + "C" * 200)
    current = list("A" * 400 + "B" * 300 + "C" * 280 + "D" * 20)
    assert _psi(reference, current, "categorical") == pytest.approx(0.154669, abs=1e-6)


def test_psi_of_a_normal_shift_is_its_theoretical_value_on_tenths():
    edges = stats.norm.ppf(np.arange(1, 10) / 10)
    for shift, stated in ((0.3, 0.086), (0.4, 0.152)):
        p, q = (np.diff(np.concatenate([[0], stats.norm.cdf(edges, mean), [1]])) for mean in (0, shift))
        theory = np.sum((p - q) * np.log(p / q))
        assert theory == pytest.approx(stated, abs=1e-3)
        assert distances.psi(p[None] * 1e9, q[None] * 1e9)[0] == pytest.approx(theory, rel=1e-6)


def test_jensen_shannon_is_that_of_scipy():
    rng = np.random.default_rng(1)
    p, q = rng.integers(0, 20, (50, 8)), rng.integers(1, 20, (50, 8))
    assert distances.jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q, axis=1, base=2), abs=1e-9)
    assert distances.jensen_shannon(np.array([[5, 0]]), np.array([[0, 3]]))[0] == 1.0


def test_wasserstein_is_that_of_scipy_on_the_same_spread_out_mass():
    rng = np.random.default_rng(2)
    edges = np.sort(rng.normal(size=12))
    p, q = (np.concatenate([[0], rng.integers(1, 50, 11), [0]]) for _ in range(2))
    inside = np.concatenate([np.linspace(a, b, 2001)[:-1] for a, b in itertools.pairwise(edges)])
    theirs = stats.wasserstein_distance(inside, inside, np.repeat(p[1:-1], 2000), np.repeat(q[1:-1], 2000))
    assert distances.wasserstein(p[None], q[None], edges)[0] == pytest.approx(theirs, rel=2e-3)


@pytest.mark.parametrize("shape", ["normal", "lognormal"])
def test_scaled_wasserstein_of_rows_is_close_to_that_of_scipy(shape):
    rng = np.random.default_rng(3)
    reference, current = rng.normal(1.0, 0.5, 20_000), rng.normal(1.2, 0.5, 8_000)
    if shape == "lognormal":
        reference, current = np.exp(reference), np.exp(current)
    frames = [pl.DataFrame({"x": x, "segment": ["a"] * len(x)}).lazy() for x in (reference, current)]
    found = detect(frames[1], inputs.reference(frames[0], {"x": Feature("numeric")}, ("segment",)))
    ours = found.filter(pl.col("segment").is_null(), metric="wasserstein")["value"].item()
    sigma = stats.iqr(reference) / 1.349
    assert ours == pytest.approx(stats.wasserstein_distance(reference, current) / sigma, rel=0.04)


def test_homogeneity_is_pearsons_test_of_scipy():
    rng = np.random.default_rng(4)
    reference, current = rng.integers(5, 60, (40, 6)), rng.integers(5, 60, (40, 6))
    statistic, p = distances.homogeneity(reference, current)
    for i in range(40):
        theirs = stats.chi2_contingency(np.stack([reference[i], current[i]]), correction=False)
        assert (statistic[i], p[i]) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-9)


def test_monte_carlo_is_the_exact_conditional_test():
    reference, current = np.array([12, 9, 14]), np.array([1, 9, 2])
    total, n = reference + current, int(current.sum())
    seen = distances.homogeneity(reference[None], current[None])[0][0]
    exact = 0.0
    for first, second in itertools.product(range(total[0] + 1), range(total[1] + 1)):
        drawn = np.array([first, second, n - first - second])
        if 0 <= drawn[2] <= total[2] and distances.homogeneity((total - drawn)[None], drawn[None])[0][0] >= seen - 1e-9:
            exact += stats.multivariate_hypergeom.pmf(drawn, total, n)
    ours = distances.monte_carlo_p(reference, current, most=1, rng=np.random.default_rng(0))
    assert 0.0 < ours <= 1.0
    many = [distances.monte_carlo_p(reference, current, most=50_000, rng=np.random.default_rng(s)) for s in range(40)]
    assert np.mean(many) == pytest.approx(exact, rel=0.12)


def _counts_without_drift(rng, tests, n, m, shares=None):
    """Counts of both samples in tenths of the reference (their true masses are spacings), or in given categories."""
    if shares is None:
        reference = np.full((tests, 10), m // 10)
        masses = rng.dirichlet(np.full(10, m / 10), tests)
        return reference, rng.multinomial(n, masses)
    return rng.multinomial(m, shares, tests), rng.multinomial(n, shares, tests)


RARE = np.array([0.5, 0.25, 0.1, 0.05, 0.03, 0.02, 0.02, 0.01, 0.01, 0.005, 0.005])


@pytest.mark.parametrize("shares", [None, RARE], ids=["tenths", "rare levels"])
@pytest.mark.parametrize(("n", "m"), [(100, 5000), (1000, 5000), (5000, 500)])
def test_p_is_uniform_without_drift(n, m, shares):
    rng = np.random.default_rng(5)
    reference, current = _counts_without_drift(rng, 20_000, n, m, shares)
    pools = distances.pooled(reference, current, ordered=shares is None)
    _, p = distances.homogeneity(distances.merge(reference, pools), distances.merge(current, pools))
    for level in (0.5, 0.2, 0.05, 0.01):
        assert np.mean(p <= level) == pytest.approx(level, rel=0.06 + 3.5 * np.sqrt(1 / (20_000 * level)))


@pytest.mark.parametrize("shares", [None, RARE], ids=["tenths", "rare levels"])
def test_the_tail_is_right_at_one_in_a_hundred_thousand_with_a_hundred_rows(shares):
    rng = np.random.default_rng(6)
    reference, current = _counts_without_drift(rng, 200_000, 100, 5000, shares)
    pools = distances.pooled(reference, current, ordered=shares is None)
    reference, current = distances.merge(reference, pools), distances.merge(current, pools)
    _, p = distances.homogeneity(reference, current)
    suspects = np.flatnonzero(p < 3e-5)
    draws = (reference[suspects].astype(int), current[suspects].astype(int))
    refined = [distances.monte_carlo_p(r, c, most=200_000, rng=rng) for r, c in zip(*draws, strict=True)]
    # 2 are expected below 1e-5; seven or more have a chance of 0.5 %
    assert np.count_nonzero(np.array(refined) < 1e-5) <= 6
    # what refinement is for: psi scaled as chi-square would fire far too often
    scaled = distances.psi(reference, current) / (1 / 100 + 1 / 5000)
    freedom = np.count_nonzero(reference + current, axis=1) - 1
    assert np.count_nonzero(stats.chi2.sf(scaled, freedom) < 1e-5) > 30
