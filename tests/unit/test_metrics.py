"""Losses, ranking, calibration, intervals and tests, against scikit-learn, scipy, statsmodels and published numbers."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special, stats
from sklearn import metrics as sk
from statsmodels.stats.diagnostic_gen import test_chisquare_binning as chisquare_binning
from statsmodels.stats.multitest import multipletests

from metarisk import metrics
from tests import oracles


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(11)
    logit = np.round(rng.normal(-2.0, 1.2, 4000), 2)  # rounding makes ties
    y = (rng.random(4000) < special.expit(0.8 * logit + 0.3)).astype(float)
    return logit, y, rng.uniform(0.2, 3.0, 4000)


# losses


def test_log_loss_is_that_of_scikit_learn_and_survives_extreme_logits(rows):
    logit, y, _ = rows
    assert metrics.log_loss(logit, y).mean() == pytest.approx(sk.log_loss(y, special.expit(logit)), rel=1e-12)
    assert metrics.log_loss([800.0, -800.0], [0.0, 1.0]).tolist() == [800.0, 800.0]
    assert metrics.log_loss([800.0, -800.0], [1.0, 0.0]).tolist() == [0.0, 0.0]


def test_poisson_deviance_is_that_of_scikit_learn_with_exposure():
    rng = np.random.default_rng(1)
    log_rate, exposure = rng.normal(0, 1, 500), rng.uniform(0.1, 4, 500)
    y = rng.poisson(exposure * np.exp(log_rate)).astype(float)
    ours = metrics.poisson_deviance(log_rate, y, exposure)
    assert ours.mean() == pytest.approx(sk.mean_poisson_deviance(y, exposure * np.exp(log_rate)), rel=1e-12)
    assert np.isfinite(ours).all()
    assert (y == 0).any()


def test_gaussian_deviance_and_pinball_are_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    forecast, y = rng.normal(size=300), rng.normal(size=300)
    assert metrics.gaussian_deviance(forecast, y).mean() == pytest.approx(sk.mean_squared_error(y, forecast))
    for level in (0.01, 0.5, 0.975):
        expected = sk.mean_pinball_loss(y, forecast, alpha=level)
        assert oracles.pinball(forecast, y, level).mean() == pytest.approx(expected)


def test_qlike_is_zero_at_the_truth_and_least_there():
    realised = np.array([0.5, 1.0, 4.0])
    assert metrics.qlike(np.log(realised), realised) == pytest.approx(np.zeros(3), abs=1e-15)
    assert metrics.qlike(np.log([1.0, 2.0]), [2.0, 1.0]) == pytest.approx([2 - math.log(2) - 1, 0.5 + math.log(2) - 1])
    assert metrics.qlike([0.0], [0.0]).tolist() == [math.inf]


# ranking


def test_auc_and_gini_are_those_of_scikit_learn_with_ties_and_weights(rows):
    logit, y, weight = rows
    assert metrics.auc(logit, y) == pytest.approx(sk.roc_auc_score(y, logit), rel=1e-12)
    assert metrics.auc(logit, y, weight) == pytest.approx(sk.roc_auc_score(y, logit, sample_weight=weight), rel=1e-12)
    assert metrics.gini(logit, y) == pytest.approx(2 * sk.roc_auc_score(y, logit) - 1)


def test_ks_is_that_of_scipy(rows):
    logit, y, weight = rows
    assert metrics.ks(logit, y) == pytest.approx(stats.ks_2samp(logit[y == 1], logit[y == 0]).statistic, rel=1e-12)
    low, high, _ = sk.roc_curve(y, logit, sample_weight=weight)
    assert metrics.ks(logit, y, weight) == pytest.approx(np.abs(high - low).max(), rel=1e-12)


@pytest.mark.parametrize("labels", [[0.0, 0.0], [1.0, 1.0], []])
def test_ranking_of_one_class_is_unknown(labels):
    scores = np.arange(len(labels), dtype=float)
    assert math.isnan(metrics.auc(scores, labels))
    assert math.isnan(metrics.ks(scores, labels))


# calibration


def test_brier_is_that_of_scikit_learn(rows):
    logit, y, _ = rows
    assert metrics.brier(special.expit(logit), y) == pytest.approx(sk.brier_score_loss(y, special.expit(logit)))


def test_ece_is_the_plain_formula_over_deciles():
    rng = np.random.default_rng(3)
    p = rng.permutation(np.linspace(0.001, 0.6, 1000))
    y = (rng.random(1000) < p).astype(float)
    deciles = np.argsort(p).reshape(10, 100)
    expected = np.mean([abs(p[rows].mean() - y[rows].mean()) for rows in deciles])
    assert metrics.ece(p, y) == pytest.approx(expected, rel=1e-12)


def test_reliability_bins_hold_every_row_once_and_do_not_depend_on_row_order(rows):
    logit, y, _ = rows
    p = special.expit(np.round(logit, 1))
    bins = metrics.reliability(p, y)
    assert sum(b.rows for b in bins) == len(p)
    assert sum(b.rows * b.observed for b in bins) == pytest.approx(y.sum())
    assert all(b.low < b.observed < b.high for b in bins)
    assert [b.predicted for b in bins] == sorted(b.predicted for b in bins)
    shuffled = np.random.default_rng(4).permutation(len(p))
    again = metrics.reliability(p[shuffled], y[shuffled])
    assert [(b.rows, b.observed) for b in again] == [(b.rows, b.observed) for b in bins]


def test_one_constant_score_is_one_reliability_bin():
    (only,) = metrics.reliability(np.full(50, 0.2), np.arange(50) % 5 == 0)
    assert (only.rows, only.predicted, only.observed) == (50, pytest.approx(0.2), pytest.approx(0.2))


def test_calibration_in_the_large_is_the_offset_intercept_of_statsmodels(rows):
    logit, y, weight = rows
    model = sm.GLM(y, np.ones((len(y), 1)), family=sm.families.Binomial(), offset=logit)
    assert metrics.calibration_in_the_large(logit, y) == pytest.approx(model.fit().params[0], abs=1e-9)
    model = sm.GLM(y, np.ones((len(y), 1)), family=sm.families.Binomial(), offset=logit, freq_weights=weight)
    assert metrics.calibration_in_the_large(logit, y, weight) == pytest.approx(model.fit().params[0], abs=1e-9)


def test_calibration_in_the_large_holds_at_the_edges():
    assert metrics.calibration_in_the_large([0.0, 1.0], [0, 0]) == -math.inf
    assert metrics.calibration_in_the_large([0.0, 1.0], [1, 1]) == math.inf
    logit = np.array([-700.0, -690.0, 650.0, 700.0])
    shift = metrics.calibration_in_the_large(logit, [1, 1, 1, 0])
    assert special.expit(logit + shift).sum() == pytest.approx(3.0)


def test_hosmer_lemeshow_is_that_of_statsmodels_and_keeps_its_freedom_out_of_sample():
    rng = np.random.default_rng(5)
    p = rng.permutation(np.linspace(0.01, 0.5, 2000))
    y = (rng.random(2000) < p).astype(float)
    groups = np.empty(2000, dtype=int)
    groups[np.argsort(p)] = np.arange(2000) // 200
    # statsmodels sums a class at a time; both classes of a group together are Hosmer and Lemeshow's term
    counts = np.stack([1 - y, y], axis=1)
    expected = np.stack([1 - p, p], axis=1)
    theirs = chisquare_binning(counts, expected, sort_var=p, bins=10, ordered=False)
    statistic, p_value = oracles.hosmer_lemeshow(p, y)
    by_hand = sum(
        (y[groups == g].sum() - p[groups == g].sum()) ** 2 / (p[groups == g].sum() * (1 - p[groups == g].mean()))
        for g in range(10)
    )
    assert statistic == pytest.approx(by_hand, rel=1e-12)
    assert theirs.freqs.shape == (10, 2)
    assert ((theirs.freqs - theirs.probs) ** 2 / theirs.probs).sum() == pytest.approx(statistic, rel=1e-9)
    assert p_value == pytest.approx(stats.chi2.sf(statistic, 10))
    assert oracles.hosmer_lemeshow(p, y, in_sample=True)[1] == pytest.approx(stats.chi2.sf(statistic, 8))


# intervals and tests


def test_paired_bootstrap_is_the_loop_over_blocks_of_rows():
    rng = np.random.default_rng(6)
    blocks, difference = rng.integers(0, 30, 600), rng.normal(0.1, 1, 600)
    ours = metrics.paired_bootstrap(difference, blocks, draws=4000, seed=1)
    rows = [np.flatnonzero(blocks == b) for b in range(30)]
    loop = np.random.default_rng(7)
    means = [difference[np.concatenate([rows[b] for b in loop.integers(30, size=30)])].mean() for _ in range(4000)]
    assert ours.mean == pytest.approx(difference.mean(), rel=1e-12)
    assert [ours.low, ours.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.012)


def test_paired_bootstrap_covers_at_the_stated_rate_when_rows_of_a_block_move_together():
    rng, covered = np.random.default_rng(8), 0
    for trial in range(200):
        blocks = np.repeat(np.arange(60), rng.integers(1, 20, 60))
        difference = rng.normal(0, 1, 60)[blocks] + rng.normal(0, 0.2, len(blocks))
        interval = metrics.paired_bootstrap(difference, blocks, draws=400, seed=trial)
        covered += interval.low <= 0.0 <= interval.high
    assert 175 <= covered <= 199  # nominal 190; rows drawn one by one would cover about 100


def test_paired_bootstrap_is_deterministic_and_weighs_rows():
    rng = np.random.default_rng(9)
    difference, blocks = rng.normal(size=200), rng.integers(0, 20, 200)
    first = metrics.paired_bootstrap(difference, blocks, draws=300, seed=3)
    assert first == metrics.paired_bootstrap(difference, blocks, draws=300, seed=3)
    assert first != metrics.paired_bootstrap(difference, blocks, draws=300, seed=4)
    twice = rng.integers(1, 3, 200)
    weighted = metrics.paired_bootstrap(difference, blocks, draws=300, seed=3, weight=twice)
    repeated = metrics.paired_bootstrap(np.repeat(difference, twice), np.repeat(blocks, twice), draws=300, seed=3)
    assert (weighted.low, weighted.high) == pytest.approx((repeated.low, repeated.high))


def test_paired_bootstrap_in_chunks_draws_the_same(monkeypatch):
    rng = np.random.default_rng(10)
    difference, blocks = rng.normal(size=500), rng.integers(0, 50, 500)
    whole = metrics.paired_bootstrap(difference, blocks, draws=200)
    monkeypatch.setattr(metrics, "_BOOTSTRAP_CELLS", 1)
    assert metrics.paired_bootstrap(difference, blocks, draws=200) == whole


def test_one_block_or_no_row_says_nothing():
    assert metrics.paired_bootstrap([1.0, 3.0], ["a", "a"]) == metrics.Interval(2.0, -math.inf, math.inf)
    assert math.isnan(metrics.paired_bootstrap([], []).mean)


def test_block_ids_tell_combinations_apart():
    ids = metrics.block_ids(["2011-01", "2011-01", "2011-02", "2011-01"], ["a", "b", "a", "a"])
    assert ids[0] == ids[3]
    assert len(set(ids.tolist())) == 3


@given(hnp.arrays(float, st.integers(1, 40), elements=st.floats(0, 1)))
def test_benjamini_hochberg_is_that_of_statsmodels(p):
    assert metrics.benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1], abs=1e-15)


def test_benjamini_hochberg_leaves_out_what_was_not_tested():
    q = metrics.benjamini_hochberg([0.01, np.nan, 0.02, np.nan])
    assert np.isnan(q).tolist() == [False, True, False, True]
    assert q[[0, 2]] == pytest.approx(multipletests([0.01, 0.02], method="fdr_bh")[1])
    assert metrics.benjamini_hochberg([]).size == 0
