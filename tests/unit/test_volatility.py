"""Market risk as mathematics: published numbers, other libraries, brute force."""

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.regression.linear_model import OLS

from metarisk.markets.backtests import (
    acerbi_szekely,
    christoffersen,
    fissler_ziegel,
    green_band,
    kupiec,
    shortfall_ratio,
    tick_loss,
    traffic_light,
)
from metarisk.markets.comparing import confidence_set, day_means, diebold_mariano
from metarisk.markets.garch import Garch
from metarisk.markets.simulation import book_tail, completed, tail
from tests.oracles import ewma, garman_klass, realised_variance


def walk(rng: np.random.Generator, days: int, steps: int, sigma: float) -> tuple[np.ndarray, ...]:
    """Open, high, low, close of days whose price moves in many small steps, after a jump overnight; and returns."""
    night = rng.normal(0, 0.5 * sigma, (days, 1))
    path = np.cumsum(np.hstack([night, rng.normal(0, sigma / np.sqrt(steps), (days, steps))]), axis=1)
    prices = 100 * np.exp(path)
    return prices[:, 0], prices.max(axis=1), prices.min(axis=1), prices[:, -1], path[:, -1]


def test_variance_of_a_known_walk_is_found() -> None:
    """The proxy has the mean of the true variance: the session's, and with the night a quarter more."""
    first, high, low, last, returns = walk(np.random.default_rng(0), 2_000, 500, 0.02)
    found = garman_klass(first, high, low, last).mean()
    # Extremes of 500 steps are a little narrower than those of a continuous path (Garman and Klass 1980, figure 2).
    assert 0.90 * 0.02**2 < found < 1.02 * 0.02**2
    whole = realised_variance(first, high, low, last, returns).mean()
    assert whole - found == pytest.approx(0.25 * 0.02**2, rel=0.1)


def test_variance_leaves_a_split_out() -> None:
    """Prices of a split day stay as they were quoted; the adjusted return knows of it, and so nothing is seen."""
    calm = realised_variance([50.0], [51.0], [49.5], [50.5], [np.log(50.5 / 50.0)])
    assert calm < 0.001
    # The day before closed at 100: unadjusted, the night would be a fall by half.
    assert realised_variance([50.0], [51.0], [49.5], [50.5], [np.log(50.5 / 100.0)]) > 0.4


def test_garman_klass_by_hand() -> None:
    """0.5 ln(110/95)^2 - 0.386294 ln(105/100)^2, and high and low that lie inside are widened."""
    assert garman_klass(100, 110, 95, 105) == pytest.approx(
        0.5 * np.log(110 / 95) ** 2 - 0.38629436 * np.log(1.05) ** 2
    )
    assert garman_klass(100, 101, 99, 105) == garman_klass(100, 105, 99, 105)


def test_ewma_is_the_weighted_mean_of_what_there_is() -> None:
    """Against weights written out, with a day missing."""
    values = np.array([4.0, np.nan, 1.0, 9.0])
    weights = 0.94 ** np.array([2, 1, 0])
    assert ewma(values)[-1] == pytest.approx((weights * [4, 1, 9]).sum() / weights.sum())
    assert ewma(np.column_stack([values, values]))[-1, 1] == ewma(values)[-1]


def test_garch_filters_as_arch_does() -> None:
    """Conditional variances and one-day forecast of `arch` at the same parameters, once its own start has faded."""
    from arch import arch_model

    returns = np.random.default_rng(1).standard_t(5, 800) * 0.01
    for asymmetric in (False, True):
        found = Garch.fit(returns, asymmetric=asymmetric)
        assert found is not None
        assert 0 < found.persistence < 1
        model = arch_model(returns * 100, mean="Zero", vol="GARCH", p=1, o=int(asymmetric), q=1, rescale=False)
        theirs = model.fit(disp="off", show_warning=False)
        variance = found.filtered(returns)
        ours = np.sqrt(variance[400:-1]) * 100
        np.testing.assert_allclose(ours, theirs.conditional_volatility[401:], rtol=1e-3)
        ahead = theirs.forecast(horizon=5).variance.to_numpy()[-1] / 1e4
        assert found.mean_ahead(variance[-1], 5) == pytest.approx(ahead.mean(), rel=1e-3)


def test_garch_needs_returns() -> None:
    """Too few, or all alike: nothing is fitted."""
    assert Garch.fit(np.zeros(500)) is None
    assert Garch.fit(np.random.default_rng(0).normal(size=50)) is None


def test_kupiec_golden() -> None:
    """250 days at 1 %, five exceedances: LR 1.95681, p 0.16185; none: -2 n ln(1 - p)."""
    assert kupiec(5, 250, 0.01) == pytest.approx((1.95681, 0.16185), abs=1e-5)
    assert kupiec(0, 250, 0.01)[0] == pytest.approx(-500 * np.log(0.99))


def test_christoffersen_by_maximum_likelihood() -> None:
    """The ratio of two chains whose likelihoods are maximised numerically."""
    hits = np.array([0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], dtype=bool)

    def minus_log(p: np.ndarray, own: bool) -> float:
        chance = np.where(hits[:-1], p[-1] if own else p[0], p[0])
        return -float(np.log(np.where(hits[1:], chance, 1 - chance)).sum())

    least = [
        optimize.minimize(minus_log, np.full(k, 0.3), (k == 2,), bounds=[(1e-6, 1 - 1e-6)] * k, tol=1e-14).fun
        for k in (1, 2)
    ]
    ratio, p, both = christoffersen(hits, 0.05)
    assert ratio == pytest.approx(2 * (least[0] - least[1]), abs=1e-5)
    assert p == pytest.approx(stats.chi2.sf(ratio, 1))
    assert both < p


def test_christoffersen_without_exceedances() -> None:
    """Nothing speaks against independence."""
    assert christoffersen(np.zeros(250), 0.01)[:2] == (0.0, 1.0)


def test_traffic_light_zones_of_basel() -> None:
    """Green to 4, yellow to 9, red from 10 of 250 days; at 500 days the zones of the binomial."""
    assert list(traffic_light([0, 4, 5, 9, 10], 250)) == ["green", "green", "yellow", "yellow", "red"]
    green = stats.binom.cdf(4, 250, 0.01)
    assert green == pytest.approx(0.892, abs=5e-4)


def test_green_band_holds_what_independent_assets_have() -> None:
    """Independent assets are green 89.2 % of the time; dependent ones have a wider band around the same mean."""
    rng = np.random.default_rng(2)
    apart = green_band(rng.normal(size=(1000, 60)), 250, draws=400)
    assert apart[0] == pytest.approx(stats.binom.cdf(4, 250, 0.01), abs=0.01)
    common = rng.normal(size=(1000, 1)) + 0.3 * rng.normal(size=(1000, 60))
    together = green_band(common, 250, draws=400)
    assert together[0] == pytest.approx(apart[0], abs=0.04)
    assert together[2] - together[1] > 1.5 * (apart[2] - apart[1])


def test_acerbi_szekely_threshold() -> None:
    """-0.70 is the 5 % threshold of Z2 at 2.5 % and 250 days, and it is 0 on average (2014, table 2)."""
    rng = np.random.default_rng(3)
    z = -stats.norm.ppf(0.025)
    es = stats.norm.pdf(z) / 0.025
    found = [acerbi_szekely(rng.normal(size=250), np.full(250, z), np.full(250, es)) for _ in range(4000)]
    assert np.mean(found) == pytest.approx(0, abs=0.02)
    assert np.quantile(found, 0.05) == pytest.approx(-0.70, abs=0.04)


@pytest.mark.parametrize("moved", [(1.1, 1.0), (0.9, 1.0), (1.0, 1.1), (1.0, 0.9)])
def test_losses_are_least_at_the_truth(moved: tuple[float, float]) -> None:
    """Tick loss at the true quantile, FZ0 at the true pair."""
    returns = np.random.default_rng(4).normal(size=400_000)
    z = -stats.norm.ppf(0.025)
    es = stats.norm.pdf(z) / 0.025
    assert fissler_ziegel(z, es, returns).mean() < fissler_ziegel(moved[0] * z, moved[1] * es, returns).mean()
    if moved[0] != 1.0:
        assert tick_loss(z, returns, 0.025).mean() < tick_loss(moved[0] * z, returns, 0.025).mean()
    assert shortfall_ratio(returns, np.full_like(returns, z), np.full_like(returns, es)) == pytest.approx(1, abs=0.01)


def test_tail_of_normal_residuals() -> None:
    """Quantiles and shortfall of the normal distribution; nothing is known of no residuals."""
    found = tail(np.random.default_rng(5).normal(size=(1000, 400)))
    assert found.var_95 == pytest.approx(1.6449, abs=0.01)
    assert found.var_99 == pytest.approx(2.3263, abs=0.02)
    assert found.es_975 == pytest.approx(2.3378, abs=0.02)
    assert np.isnan(tail([np.nan]).es_975)


def test_a_book_is_simulated_jointly() -> None:
    """Two assets that move as one do not diversify, and a hedge of the same asset leaves nothing."""
    common = np.random.default_rng(6).normal(size=(5000, 1))
    z = np.hstack([common, common])
    alone = book_tail(z[:, :1], [0.01], [200.0])
    both = book_tail(z, [0.01, 0.01], [100.0, 100.0])
    assert both.var_99 == pytest.approx(alone.var_99)
    assert book_tail(z, [0.01, 0.01], [100.0, -100.0]).var_99 == pytest.approx(0, abs=1e-12)
    # From marginals it would have been taken for diversified.
    apart = np.hstack([common, np.random.default_rng(7).permutation(common)])
    assert book_tail(apart, [0.01, 0.01], [100.0, 100.0]).var_99 < 0.8 * both.var_99


def test_a_new_listing_borrows_the_day_of_its_own_group() -> None:
    """What is missing comes from the same date; a date without any residual is left out."""
    z = np.array([[1.0, np.nan, 5.0], [np.nan, np.nan, np.nan], [2.0, 3.0, np.nan]])
    assert completed(z, ["a", "a", "b"]).tolist()[0] == [1.0, 1.0, 5.0]
    second = completed(z, ["a", "a", "b"])
    assert second.shape == (2, 3)
    assert second[1, 2] in (2.0, 3.0)


def test_diebold_mariano_against_statsmodels() -> None:
    """The variance is that of a constant with Bartlett errors; HLN shrinks the statistic by its own factor."""
    rng = np.random.default_rng(8)
    d = np.convolve(rng.normal(0.1, 1, 304), np.ones(5) / 5, "valid")
    fit = OLS(d, np.ones(300)).fit(cov_type="HAC", cov_kwds={"maxlags": 4, "use_correction": False})
    factor = np.sqrt((300 + 1 - 10 + 20 / 300) / 300)
    statistic, p = diebold_mariano(d, 5, lags=4)
    assert statistic == pytest.approx(fit.tvalues[0] * factor)
    assert p == pytest.approx(2 * stats.t.sf(abs(statistic), 299))
    assert np.isnan(diebold_mariano(np.ones(50))[0])


def test_diebold_mariano_rejects_as_often_as_it_says() -> None:
    """Under equal accuracy a tenth of the p-values lie below 0.1."""
    rng = np.random.default_rng(9)
    rejected = np.mean([diebold_mariano(rng.normal(size=250))[1] < 0.1 for _ in range(1000)])
    assert 0.07 < rejected < 0.14


def test_confidence_set_keeps_the_best_alone() -> None:
    """A forecast that is far worse leaves the set; two of a kind both stay."""
    rng = np.random.default_rng(10)
    day = rng.exponential(1, 200)
    losses = {"good": day + 0.1 * rng.normal(size=200), "like": day + 0.1 * rng.normal(size=200), "bad": day + 1.0}
    found = confidence_set(losses, draws=200)
    assert found["bad"] < 0.05
    assert min(found["good"], found["like"]) > 0.1
    assert confidence_set({"alone": day}) == {}


def test_day_means_are_in_order_of_days() -> None:
    """Rows of one day are one observation."""
    assert day_means(
        np.array(["2024-01-02", "2024-01-01", "2024-01-02"], dtype="datetime64[D]"), [1, 5, 3]
    ).tolist() == [5, 2]


def test_a_tail_by_hand() -> None:
    """41 returns from -20 to 20: the fortieth part is -19, and the shortfall is the mean of what is no larger."""
    found = tail(np.arange(-20.0, 21.0))
    assert (found.var_95, found.var_99, found.var_975, found.es_975) == pytest.approx((18.0, 19.6, 19.0, 19.5))
    assert tail([np.nan, 2.0, np.inf, -np.inf]) == tail([2.0])
    assert tail([2.0]).es_975 == -2.0
    assert np.isnan([tail([]).var_95, tail([]).var_99, tail([]).var_975, tail([]).es_975]).all()


def test_a_gap_is_filled_by_its_own_group_and_else_by_any() -> None:
    z = np.array([[np.nan, 1.0, 2.0, 3.0]] * 40)
    own = completed(z, ["a", "b", "a", "b"])
    assert own[:, 0].tolist() == [2.0] * 40
    assert own[:, 1:].tolist() == z[:, 1:].tolist()
    alone = completed(z, ["a", "b", "b", "b"])
    assert set(alone[:, 0].tolist()) == {1.0, 2.0, 3.0}
    assert completed(z, ["a", "b", "b", "b"], seed=0).tolist() == alone.tolist()
    assert completed(z, ["a", "b", "b", "b"], seed=1).tolist() != alone.tolist()


def test_a_book_takes_simple_returns_of_log_ones() -> None:
    """One asset of volatility 0.1, held short: what it loses is exp(0.1 z) - 1 of its value."""
    z = np.array([[1.0], [2.0], [-1.0]])
    expected = tail(-50.0 * (np.exp([0.1, 0.2, -0.1]) - 1.0))
    found = book_tail(z, [0.1], [-50.0])
    assert (found.var_95, found.es_975) == pytest.approx((expected.var_95, expected.es_975))
    pair = book_tail(np.array([[1.0, -2.0]]), [0.1, 0.2], [10.0, 5.0])
    assert pair.var_99 == pytest.approx(-(10 * np.expm1(0.1) + 5 * np.expm1(-0.4)))
