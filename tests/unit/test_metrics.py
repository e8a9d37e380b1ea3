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


# at the edges, by hand


def test_rows_fall_into_the_bin_of_the_middle_of_their_rank():
    assert [b.rows for b in metrics.reliability([0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1], bins=2)] == [2, 2]
    assert [b.rows for b in metrics.reliability([0.1, 0.2, 0.3], [0, 0, 1], bins=2)] == [1, 2]
    assert [b.rows for b in metrics.reliability([0.1, 0.1, 0.1, 0.4], [0, 0, 0, 1], bins=2)] == [3, 1]
    assert len(metrics.reliability(np.arange(100) / 100, np.zeros(100))) == 10
    (only,) = metrics.reliability([0.3], [1])
    assert (only.low, only.high) == pytest.approx(tuple(stats.beta.ppf([0.025, 0.975], 1.5, 0.5)))
    assert metrics.ece([0.2, 0.4, 0.9], [0, 1, 1], bins=3) == pytest.approx((0.2 + 0.6 + 0.1) / 3)


def test_the_error_of_log_volatility_is_a_quarter_of_that_of_log_variance():
    assert metrics.mse_log_volatility([0.0, -1.0], np.exp([-2.0, -4.0])) == pytest.approx((4 + 9) / 2 / 4)


def test_a_realised_variance_of_zero_counts_as_the_smallest_one_seen():
    judge = metrics.judge_of("qlike")
    assert metrics.mse_log_volatility([0.0, 0.0, 0.0], [0.0, math.exp(-2), math.exp(-1)]) == pytest.approx(9 / 3 / 4)
    floored = metrics.qlike([0.1, 0.2, 0.3], [0.04, 0.04, 0.09])
    assert judge.of([0.1, 0.2, 0.3], [0.0, 0.04, 0.09]) == pytest.approx(floored)


def test_equal_scores_count_half():
    assert metrics.auc([1, 1], [0, 1]) == 0.5
    assert metrics.auc([1, 1, 2, 0], [0, 1, 1, 0]) == (0.5 + 1 + 1 + 1) / 4
    assert metrics.gini([0, 1], [0, 1]) == 1.0
    assert metrics.ks([1, 1], [0, 1]) == 0.0
    assert math.isnan(metrics.auc([0, 1], [0, 1], [0.0, 1.0]))
    assert metrics.pr_auc([3, 2, 1], [0, 1, 1]) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_one_event_among_others_has_a_level():
    for logit, y in (([0.0, 1.0, 2.0], [0, 0, 1]), ([3.0, -9.0, 2.0], [1, 1, 0])):
        shift = metrics.calibration_in_the_large(logit, y)
        assert special.expit(np.array(logit) + shift).sum() == pytest.approx(sum(y), abs=1e-9)
    assert metrics.calibration_in_the_large([0.4, 0.4], [0, 1]) == pytest.approx(-0.4)
    assert metrics.calibration_in_the_large([0, 0], [0, 1], [3, 1]) == pytest.approx(-math.log(3))


def test_every_combination_has_a_block_of_its_own():
    grid = np.stack(np.meshgrid([0, 1], [0, 1, 2], [0, 1]), axis=-1).reshape(-1, 3)
    assert len(set(metrics.block_ids(*grid.T).tolist())) == 12
    assert metrics.block_ids([], []).tolist() == []


def test_the_bounds_of_two_blocks_are_the_quantiles_of_a_half_and_two_quarters():
    """Means of two drawn blocks are 0, 1/2 and 1 with probabilities 1/4, 1/2 and 1/4."""
    for level, bounds in ((0.4, (0.5, 0.5)), (0.6, (0.0, 1.0))):
        assert metrics.paired_bootstrap([0.0, 1.0], [0, 1], level=level) == metrics.Interval(0.5, *bounds)
    uneven = metrics.paired_bootstrap([0.0, 1.0], [0, 1], weight=[3.0, 1.0], level=0.4)
    assert uneven == metrics.Interval(0.25, 0.25, 0.25)
    unequal = metrics.paired_bootstrap([3.0, 3.0, 0.0], [0, 0, 1], level=0.4)
    assert unequal == metrics.Interval(2.0, 2.0, 2.0)
    assert metrics.paired_bootstrap([1.0, 2.0], ["a", "b"], weight=[0.0, 0.0]).low == -math.inf
    few = metrics.paired_bootstrap([1.0], ["a"], weight=[0.5])
    assert few == metrics.Interval(1.0, -math.inf, math.inf)


def test_evidence_is_drawn_two_thousand_times_for_a_central_95_percent():
    difference, blocks = np.random.default_rng(0).normal(size=40), np.arange(40) % 11
    stated = metrics.paired_bootstrap(difference, blocks, draws=2000, seed=0, level=0.95)
    assert metrics.paired_bootstrap(difference, blocks) == stated


def test_rank_correlation_is_spearmans_and_needs_two_that_vary():
    score, y = [1.0, 2.0, 2.0, 5.0], [3.0, 1.0, 4.0, 9.0]
    assert metrics.rank_correlation(score, y) == pytest.approx(stats.spearmanr(score, y).statistic)
    assert math.isnan(metrics.rank_correlation(score, [1.0] * 4))
    assert math.isnan(metrics.rank_correlation([1.0] * 4, y))


@pytest.mark.parametrize(("y", "known"), [([0, 0, 0], False), ([0, 0, 1], True), ([0, 1, 1], True), ([1, 1, 1], False)])
def test_measures_of_events_need_both_classes(y, known):
    found = metrics.judge_of("bernoulli").measured([-1.0, 0.0, 1.0], y)
    both = {"auc", "pr_auc", "gini", "ks", "calibration_in_the_large"}
    assert {name for name, value in found.items() if math.isnan(value)} == (set() if known else both)
    assert found["brier"] == pytest.approx(metrics.brier(special.expit([-1.0, 0.0, 1.0]), y))


def test_measures_of_counts_and_of_values_by_hand():
    counts = metrics.judge_of("poisson")
    assert counts.measured(np.log([1.0, 3.0]), [2.0, 6.0])["log_level"] == pytest.approx(math.log(2))
    assert counts.measured([0.0], [0.5])["log_level"] == pytest.approx(math.log(0.5))
    assert math.isnan(counts.measured([0.0], [0.0])["log_level"])
    found = metrics.judge_of("gaussian").measured([1.0, 5.0], [2.0, 2.0])
    assert (found["bias"], found["absolute_error"]) == (1.0, 2.0)


def test_dispersion_by_hand():
    mean = np.array([1.0, 4.0])
    assert metrics.dispersion(np.log(mean), mean, [3.0, 4.0], "poisson") == pytest.approx((4 / 1 + 0 / 4) / 2)
    assert metrics.dispersion(mean, mean, [3.0, 4.0], "gaussian") == pytest.approx(2.0)
    link, y = np.log([1.0, 2.0]), np.array([2.0, 2.0])
    assert metrics.dispersion(link, np.exp(link), y, "qlike") == pytest.approx(2 * metrics.qlike(link, y).mean())
    assert metrics.dispersion(mean, mean, mean, "gaussian") == 1.0
    assert metrics.dispersion(mean[:0], mean[:0], [], "poisson") == 1.0
    assert metrics.dispersion(mean[:1], mean[:1], [1.5], "poisson") == 0.25
    assert metrics.dispersion(mean, mean, [0, 1], "bernoulli") == 1.0
    assert metrics.dispersion([-40.0], np.zeros(1), [1e-6], "poisson") == pytest.approx(1.0)
    spreads = {name: metrics.judge_of(name).spread for name in ("poisson", "gaussian", "qlike")}
    assert [float(spread(np.array([3.0]))[0]) for spread in spreads.values()] == [3.0, 1.0, 9.0]
    with pytest.raises(metrics.ModelError, match="nothing judges scores of likelihood dice"):
        metrics.judge_of("dice")


def test_a_q_value_is_at_most_one_and_the_least_of_the_larger_ones():
    assert metrics.benjamini_hochberg([0.9, 0.95]).tolist() == [0.95, 0.95]
    assert metrics.benjamini_hochberg([0.04, 0.01, 0.04]) == pytest.approx([0.04, 0.03, 0.04])
    assert metrics.benjamini_hochberg([1.0, np.nan])[0] == 1.0
