"""Operational losses: tails, rates, severities, annual sums and capital against outside numbers and closed forms."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from metarisk.domain import DataError, ModelError
from metarisk.metrics import Interval
from metarisk.risks.operational.aggregate import (
    Annual,
    Frequency,
    by_fourier,
    common_factor,
    discretised,
    simulated_quantile,
    single_loss,
)
from metarisk.risks.operational.capital import POINTS, Rates, _spread, _sums, _years, capital, refuse_infinite
from metarisk.risks.operational.frequency import dispersion, rate_bounds
from metarisk.risks.operational.severity import Severity, fit_severity
from metarisk.risks.operational.tails import Gpd, choose_threshold, fit_gpd, mean_excess
from tests.oracles import by_panjer, by_simulation, posterior_bound, qq
from tests.warehouses import ROOT

DATA = Path(os.environ.get("METARISK_TEST_DATA", ROOT.parent / "shared" / "data")) / "operational_losses"


def pareto(shape: float, scale: float, size: int, seed: int = 0) -> np.ndarray:
    return stats.genpareto.rvs(shape, scale=scale, size=size, random_state=np.random.default_rng(seed))


def spliced(sizes: tuple[int, ...], shapes: tuple[float, ...], seed: int = 0) -> list[np.ndarray]:
    """Losses of cells: a tenth above 50,000 with a GPD tail, the others lognormal below."""
    rng = np.random.default_rng(seed)
    cells = []
    for size, shape in zip(sizes, shapes, strict=True):
        body = np.minimum(np.exp(rng.normal(9.0, 1.0, size)), 50_000.0)
        tail = 50_000.0 + stats.genpareto.rvs(shape, scale=30_000.0, size=size, random_state=rng)
        cells.append(np.where(rng.random(size) < 0.1, tail, body))
    return cells


# tails


@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.3, 0.9, 1.3])
def test_a_tail_is_fitted_as_scipy_does(shape: float) -> None:
    excess = pareto(shape, 7.0, 400)
    ours, (theirs, _, scale) = fit_gpd(excess), stats.genpareto.fit(excess, floc=0)

    def loss(xi: float, beta: float) -> float:
        return -float(stats.genpareto.logpdf(excess, xi, scale=beta).sum())

    assert loss(ours.shape, ours.scale) <= loss(theirs, scale) + 1e-6
    assert (ours.shape, ours.scale) == pytest.approx((theirs, scale), abs=2e-3)
    x = np.array([0.0, 1.0, 5.0, 60.0])
    assert ours.sf(x) == pytest.approx(stats.genpareto.sf(x, ours.shape, scale=ours.scale), rel=1e-9)
    level = np.array([0.0, 0.3, 0.9, 0.999])
    assert ours.ppf(level) == pytest.approx(stats.genpareto.ppf(level, ours.shape, scale=ours.scale), rel=1e-9)


def test_a_tail_scales_with_its_unit() -> None:
    excess = pareto(0.6, 2.0, 80)
    one, cents = fit_gpd(excess), fit_gpd(100 * excess)
    assert (cents.shape, cents.scale) == pytest.approx((one.shape, 100 * one.scale), rel=1e-6)


@pytest.mark.parametrize("wrong", [[], [1.0], [1.0, 0.0], [1.0, -2.0], [1.0, math.nan], [1.0, math.inf]])
def test_a_tail_without_excesses_is_refused(wrong: list[float]) -> None:
    with pytest.raises(DataError, match="at least two finite excesses above 0"):
        fit_gpd(np.array(wrong))


def test_the_threshold_is_where_the_tail_begins() -> None:
    rng = np.random.default_rng(3)
    body = rng.uniform(0, 10, 8_000)  # flat: no tail can begin below 10
    losses = np.concatenate([body, 10 + pareto(0.5, 5.0, 1_500)])
    assert 9.0 < choose_threshold(losses) < 13.0
    # the exponential is a tail everywhere, and few losses leave the largest share above
    assert choose_threshold(np.arange(1.0, 41.0)) == pytest.approx(np.quantile(np.arange(1.0, 41.0), 0.7))
    with pytest.raises(DataError, match="expects losses, got none"):
        choose_threshold(np.zeros(0))


def test_mean_excess_and_qq_are_straight_for_a_pareto() -> None:
    losses = 10.0 + pareto(0.3, 5.0, 50_000)
    thresholds = np.array([10.0, 20.0, 30.0])
    mean, low, high = mean_excess(losses, thresholds)
    exact = (5.0 + 0.3 * (thresholds - 10.0)) / 0.7
    assert (np.abs(mean - exact) < 0.08 * exact).all()
    assert ((low < exact) & (exact < high)).all()
    assert np.isnan(mean_excess(losses, np.array([1e12]))[0]).all()
    modelled, observed = qq(losses, 10.0, Gpd(0.3, 5.0))
    middle = slice(5_000, 47_500)
    assert modelled[middle] == pytest.approx(observed[middle], rel=0.02)
    assert (np.diff(observed) >= 0).all()


# rates


def test_rate_bounds_are_garwoods() -> None:
    low, high = rate_bounds(np.array([0, 1, 5, 10]), np.array([1.0, 1.0, 1.0, 2.0]))
    # Garwood's table: 1 event 0.0253 .. 5.572, 5 events 1.623 .. 11.668, 10 events 4.795 .. 18.390
    assert low == pytest.approx([0.0, 0.0253, 1.6235, 4.7954 / 2], abs=5e-5)
    assert high == pytest.approx([-math.log(0.05), 5.5716, 11.6683, 18.3904 / 2], abs=5e-4)


@pytest.mark.parametrize("exposure", [0.0, -1.0, math.nan])
def test_an_exposure_that_is_not_above_0_is_refused(exposure: float) -> None:
    with pytest.raises(DataError, match="1 of 2 exposures are not above 0"):
        rate_bounds(np.array([1, 1]), np.array([1.0, exposure]))
    with pytest.raises(DataError, match="negative"):
        rate_bounds(np.array([1, -1]), np.array([1.0, 1.0]))


def test_bounds_of_cells_without_events_fall_with_their_exposure() -> None:
    bound = posterior_bound(np.zeros(4), np.array([0.0, 1.0, 10.0, 100.0]), size=2.0)
    assert (np.diff(bound) < 0).all()
    assert bound[0] == pytest.approx(stats.gamma.ppf(0.95, 2.0, scale=0.5))
    # with no prior to speak of it is the exact bound of the rate over its expectation
    assert posterior_bound(np.array([4]), np.array([2.0]), 1e-9) == pytest.approx(
        stats.chi2.ppf(0.95, 8) / 4.0, rel=1e-6
    )


def test_dispersion_is_that_of_the_negative_binomial() -> None:
    rng = np.random.default_rng(0)
    mean = rng.uniform(0.5, 6.0, 20_000)
    assert dispersion(rng.poisson(mean * rng.gamma(2.0, 0.5, 20_000)), mean) == pytest.approx(2.0, rel=0.08)
    assert dispersion(np.full(50, 2.0), np.full(50, 2.0)) == math.inf


# annual sums


def exponential_years(x: float, rate: float, mean: float) -> float:
    """P(sum <= x) of a compound Poisson with exponential losses: a Poisson mixture of gamma distributions."""
    counts = np.arange(1, 120)
    return float(stats.poisson.pmf(0, rate) + stats.poisson.pmf(counts, rate) @ stats.gamma.cdf(x, counts, scale=mean))


def test_a_year_of_exponential_losses_has_its_closed_form() -> None:
    rate, mean, step = 5.0, 2.0, 0.005
    year = by_fourier(Frequency(rate), discretised(lambda x: np.exp(-x / mean), step, 1 << 14), step)
    for x in (1.0, 10.0, 20.0, 40.0):
        between = (year.below[round(x / step)] + year.below[round(x / step) - 1]) / 2  # losses are rounded to the step
        assert between == pytest.approx(exponential_years(x, rate, mean), abs=2e-5)
    exact = optimize.brentq(lambda x: exponential_years(x, rate, mean) - 0.999, 1, 200)
    assert float(year.quantile(0.999)) == pytest.approx(exact, abs=2 * step)
    assert year.quantile([0.0, 1.1]).tolist() == [0.0, math.inf]


@pytest.mark.parametrize("size", [math.inf, 3.0, 0.4])
def test_fourier_is_panjers_recursion(size: float) -> None:
    losses = discretised(lambda x: np.exp(-x / 2.0), 0.05, 600)
    fourier, panjer = (by(Frequency(5.0, size), losses, 0.05).below for by in (by_fourier, by_panjer))
    assert fourier == pytest.approx(panjer, abs=1e-8)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.05, 30), st.floats(0.3, 50), st.floats(0.0, 0.8), st.floats(1.0, 1e6))
def test_a_year_has_the_probability_of_no_event_and_never_falls(rate: float, size: float, shape: float, unit: float):
    tail = Gpd(shape, unit)
    losses = discretised(tail.sf, unit / 1e2, 1 << 10)
    year = by_fourier(Frequency(rate, size), losses, unit / 1e2)
    assert year.below[0] == pytest.approx((1 + rate / size * (1 - losses[0])) ** -size, rel=1e-6)
    assert year.below[0] >= float(stats.nbinom.pmf(0, size, size / (size + rate))) - 1e-12
    assert (np.diff(year.below) >= 0).all()
    assert year.below[-1] <= 1 + 1e-9


@pytest.mark.parametrize("step", [0.01, 1.0, 25.0])
def test_a_lattice_keeps_the_mean(step: float) -> None:
    """Even where its step is many times a typical loss."""
    losses = discretised(lambda x: np.exp(-x / 2.0), step, 1 << 13)
    assert losses.sum() == pytest.approx(1.0, abs=1e-9)
    assert losses @ np.arange(1 << 13) * step == pytest.approx(2.0, rel=2e-3)
    tail = Gpd(0.6, 1.0)
    end = step * 8_191.5
    assert discretised(tail.sf, step, 1 << 13) @ np.arange(1 << 13) * step == pytest.approx(
        (1 - (1 + 0.6 * end) ** (1 - 1 / 0.6)) / 0.4 - end * float(tail.sf(end)), rel=5e-3
    )


def test_fourier_lies_within_the_error_of_monte_carlo() -> None:
    tail, frequency = Gpd(0.4, 10.0), Frequency(4.0, 2.0)
    year = by_fourier(frequency, discretised(tail.sf, 0.05, 1 << 15), 0.05)
    found = simulated_quantile(by_simulation(frequency, tail.ppf, 200_000, seed=0), 0.999, confidence=0.999)
    assert found.low < float(year.quantile(0.999)) < found.high
    # one loss alone makes a heavy year, a little less than the year has
    assert 0.5 < single_loss(Frequency(4.0), tail.ppf, 0.999) / float(year.quantile(0.999)) < 1.0


def test_the_monte_carlo_interval_covers() -> None:
    rng = np.random.default_rng(0)
    exact = -math.log(0.01)
    covered = [
        found.low <= exact <= found.high
        for found in (simulated_quantile(rng.exponential(size=4_000), 0.99) for _ in range(300))
    ]
    assert 0.92 <= np.mean(covered) <= 0.99
    with pytest.raises(ModelError, match="cannot bound"):
        simulated_quantile(np.arange(1_000.0), 0.999)


def test_the_copula_has_its_correlation() -> None:
    levels = common_factor(100_000, 3, 0.4, seed=0)
    normal = stats.norm.ppf(levels)
    assert np.corrcoef(normal.T)[np.triu_indices(3, 1)] == pytest.approx([0.4] * 3, abs=0.01)
    assert stats.kstest(levels[:, 1], "uniform").pvalue > 0.001
    for wrong in (-0.1, 1.0):
        with pytest.raises(ModelError, match=r"expected in \[0, 1\)"):
            common_factor(10, 2, wrong, seed=0)


# severities


def test_thin_cells_borrow_the_tail_of_the_others() -> None:
    shapes = (0.55, 0.5, 0.6, 0.45, 0.5)
    found = fit_severity([*spliced((900, 700, 500, 300, 12), shapes), np.zeros(0)], seed=1)
    low, high = found.shape_interval()
    assert found.events.tolist() == [900, 700, 500, 300, 12, 0]
    # a dozen losses, and none: the tail is the pool's, and nothing like a fit of its own
    assert found.estimate.shape[4:] == pytest.approx([0.5, 0.5], abs=0.2)
    assert (high[4:] - low[4:] > high[0] - low[0]).all()
    assert (low < np.array([*shapes, 0.5])).all()
    assert (np.array([*shapes, 0.5]) < high).all()
    assert found.estimate.scale[5] == pytest.approx(
        np.exp(np.mean(np.log(np.concatenate(spliced((900,), (0.55,)))))), rel=0.2
    )


def test_a_severity_inverts_itself_and_has_its_mean() -> None:
    rng = np.random.default_rng(0)
    logs = stats.truncnorm.rvs(-1.1, 8.0, loc=8.0, scale=1.0, size=1_200, random_state=rng)
    losses = [np.exp(logs[:800]), np.exp(logs[800:])]  # lognormal above the 1,000 from which they are collected
    severity = fit_severity(losses, floor=990.0).estimate
    level = np.array([0.001, 0.2, 0.5, 0.8, 0.95, 0.999])
    for cell in (0, 1):
        assert 1 - severity.sf(severity.ppf(level, cell), cell) == pytest.approx(level, abs=1e-9)
        assert (severity.ppf(level, cell) >= 990.0).all()
        fine = severity.ppf((np.arange(200_000) + 0.5) / 200_000, cell)
        assert float(severity.mean()[cell]) == pytest.approx(float(fine.mean()), rel=0.01)
        for q in (0.1, 0.5, 0.9):
            assert severity.ppf(np.array([q]), cell)[0] == pytest.approx(np.quantile(losses[cell], q), rel=0.1)


@pytest.mark.parametrize("wrong", [[], [np.zeros(0)], [np.array([5.0, -1.0])], [np.array([5.0, math.nan])]])
def test_severities_of_what_is_no_loss_are_refused(wrong: list[np.ndarray]) -> None:
    with pytest.raises(ModelError, match="severities expect finite losses"):
        fit_severity(wrong)


def test_one_event_has_a_severity() -> None:
    found = fit_severity([np.array([12_000.0])])
    assert np.isfinite(found.estimate.mean()).all()
    low, high = found.shape_interval()
    assert high[0] - low[0] > 0.4


# capital


def test_capital_of_a_cell_and_of_the_sum() -> None:
    severity = fit_severity(spliced((600, 300, 40), (0.4, 0.3, 0.4)), seed=2)
    rates = Rates(np.array([8.0, 4.0, 0.5]), np.array([0.05, 0.05, 0.3]))
    cells, sums = capital(rates, severity, ("a", "b", "c"), (0.0, 0.5), years=40_000, draws=30)
    for number, cell in enumerate(cells):
        draw = partial(severity.estimate.ppf, cell=number)
        years = by_simulation(rates.frequency(number), draw, 100_000, seed=number)
        found = simulated_quantile(years, 0.999, confidence=0.999)
        assert found.low < cell.quantile.mean < found.high
        assert cell.quantile.low < cell.quantile.mean < cell.quantile.high
        assert cell.expected == pytest.approx(years.mean(), rel=0.1)
    apart, together = sums
    assert apart.expected == pytest.approx(sum(cell.expected for cell in cells))
    assert apart.quantile.low < apart.quantile.mean < apart.quantile.high
    assert apart.parameters.low < apart.quantile.mean < apart.parameters.high
    assert max(cell.quantile.mean for cell in cells) < apart.quantile.mean < together.quantile.mean
    assert together.quantile.mean < sum(cell.quantile.mean for cell in cells) * 1.1
    # parameters are known worse than the number of simulated years makes the sum
    assert together.parameters.high - together.parameters.low > together.quantile.high - together.quantile.low
    again = capital(rates, severity, ("a", "b", "c"), (0.0, 0.5), years=40_000, draws=30)
    assert (cells, sums) == again


def test_a_tail_without_a_mean_is_refused_and_a_heavy_one_flagged() -> None:
    rates = Rates(np.array([4.0]), np.array([0.1]))
    heavy = fit_severity([50_000 + pareto(0.75, 3e4, 2_000)])
    (cell,), _ = capital(rates, heavy, ("trading|fraud",), years=20_000, draws=5)
    assert cell.heavy
    with pytest.raises(ModelError, match=r"no mean: trading\|fraud \(1\.\d\d\).*Remedy: look for wrong amounts"):
        capital(rates, fit_severity([50_000 + pareto(1.4, 3e4, 2_000)]), ("trading|fraud",), years=20_000, draws=5)


# real losses


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the losses are not in {DATA}")
def test_danish_fire_losses_have_the_published_tails() -> None:
    losses = pl.read_parquet(DATA / "danishuni.parquet")["Loss"].to_numpy()
    # McNeil (1997), ASTIN Bulletin 27, 117-137: thresholds, excesses, shape and its standard error
    for threshold, rows, shape, error in (
        (3, 532, 0.67, 0.07),
        (4, 362, 0.72, 0.09),
        (5, 254, 0.63, 0.10),
        (10, 109, 0.50, 0.14),
        (20, 36, 0.68, 0.28),
    ):
        tail = fit_gpd(losses[losses > threshold] - threshold)
        assert tail.rows == rows
        assert (round(tail.shape, 2), round(tail.shape_error, 2)) == (shape, error)
    assert fit_gpd(losses[losses > 10] - 10).scale == pytest.approx(6.98, abs=0.005)
    pooled = fit_severity([losses], floor=1.0, threshold=10.0)
    low, high = pooled.shape_interval()
    assert low[0] < 0.5 < high[0]
    assert pooled.estimate.shape[0] == pytest.approx(0.5, abs=0.1)
    # expected loss and large quantiles of the whole distribution
    assert pooled.estimate.mean()[0] == pytest.approx(losses.mean(), rel=0.2)
    ruled = fit_severity([losses], floor=1.0).estimate
    for level in (0.5, 0.9, 0.99, 0.999):
        assert ruled.ppf(np.array([level]), 0)[0] == pytest.approx(np.quantile(losses, level), rel=0.2)


# capital at the edges, by hand


def exponential(scales: Sequence[float], shape: float = 0.0) -> Severity:
    """Cells whose losses are all tail: a GPD above a threshold of next to nothing."""
    each = np.ones(len(scales))
    return Severity(0.0, each * 1e-9, 0 * each, each, each * 1e-12, each * (1 - 1e-12), shape * each, np.array(scales))


def test_drawn_rates_are_lognormal_with_the_estimate_as_their_mean() -> None:
    rates = Rates(np.array([2.0, 5.0]), np.array([0.3, 0.0]), np.array([4.0, 9.0]))
    normal = np.random.default_rng(1).standard_normal(2)
    drawn = rates.drawn(np.random.default_rng(1))
    assert drawn.mean == pytest.approx([2.0 * math.exp(0.3 * normal[0] - 0.045), 5.0])
    assert drawn.frequency(1) == Frequency(5.0, 9.0)
    assert Rates(rates.mean, rates.log_error).frequency(0) == Frequency(2.0, math.inf)


def test_an_interval_is_that_of_the_ratios_to_what_is_computed_alike() -> None:
    found = _spread(50.0, [2.0, *np.linspace(1.0, 5.0, 101)])
    assert (found.mean, found.low, found.high) == pytest.approx((50.0, 25 * 1.2, 25 * 4.8))
    assert _spread(0.0, [0.0, 0.0, 1.0]) == Interval(0.0, 0.0, 0.0)
    assert _spread(7.0, [0.0, 1.0, 3.0]) == Interval(7.0, 7.0, 7.0)


@pytest.mark.parametrize(("shape", "heavy", "refused"), [(0.5, False, False), (0.51, True, False), (1.0, True, True)])
def test_a_tail_is_heavy_above_a_half_and_refused_from_one_on(shape: float, heavy: bool, refused: bool) -> None:
    severity = exponential([1.0, 2.0], shape)
    assert severity.heavy.tolist() == [heavy, heavy]
    if not refused:
        return refuse_infinite(severity, ("a", "b"))
    with pytest.raises(ModelError, match=r"losses of 2 cells .*: a \(1.00\), b \(1.00\)"):
        refuse_infinite(severity, ("a", "b"))
    return None


def test_a_refusal_names_five_cells() -> None:
    with pytest.raises(ModelError, match=r"losses of 7 cells .*: a \(1.20\), .*, e \(1.20\)\. "):
        refuse_infinite(exponential([1.0] * 7, 1.2), "abcdefg")


@pytest.mark.parametrize("rate", [0.01, 3.0, 60.0])
def test_a_lattice_is_long_enough_for_a_year_and_hardly_longer(rate: float) -> None:
    """It ends at the loss that one event of a hundred thousand years exceeds, and two mean years beyond it."""
    (year,) = _years(Rates(np.array([rate]), np.zeros(1)), exponential([2.0]), 1 << 10)
    end = year.step * (1 << 10)
    single = 2.0 * math.log(rate / 1e-5)
    assert end == pytest.approx(single + 2.0 * rate * min(2.0, single), rel=1e-3)
    assert 1 - 1e-4 <= year.below[-1] <= 1 + 1e-9
    assert len(year.below) == 1 << 10


def test_a_lattice_is_doubled_until_it_holds_a_year() -> None:
    """Events that come in clusters: the year is far heavier than its heaviest loss says."""
    rates = Rates(np.array([2.0]), np.zeros(1), np.array([0.02]))
    (year,) = _years(rates, exponential([1.0]), 1 << 10)
    single = math.log(2.0 / 1e-5)
    doublings = math.log2(year.step * (1 << 10) / (single + 4.0))
    assert doublings == pytest.approx(round(doublings), abs=1e-3)
    assert doublings >= 1
    assert year.below[-1] >= 1 - 1e-4


def test_sums_look_each_cell_up_and_cap_it_at_its_lattice() -> None:
    one = Annual(1.0, np.array([0.5, 0.9, 0.99]))
    two = Annual(10.0, np.array([0.2, 1.0]))
    levels = np.array([[0.95, 0.1], [0.4, 0.5], [0.999, 0.9]])
    assert _sums([[one, two], [two, one]], levels).tolist() == [[2.0, 10.0, 13.0], [10.0, 10.0, 11.0]]
    assert _sums([[one]], np.array([[0.9], [0.991]])).tolist() == [[1.0, 3.0]]


def test_capital_draws_what_it_says() -> None:
    """Each cell's interval, mean and tail; sums under each correlation from the draws of one seed."""
    severity = fit_severity(spliced((200, 100), (0.4, 0.3)), seed=2)
    rates = Rates(np.array([8.0, 0.5]), np.array([0.2, 0.4]))
    cells, sums = capital(rates, severity, ("a", "b"), (0.0, 0.5), years=30_000, draws=4, seed=3)
    rng, coarse = np.random.default_rng([3, 1]), POINTS // 16
    last = severity.draws - 1
    again = [_years(rates, severity.estimate, coarse)]
    chosen = np.linspace(0, last, 4).astype(int).tolist()
    again += [_years(rates.drawn(rng), severity.drawn(number), coarse) for number in chosen]
    annual = _years(rates, severity.estimate, 1 << 15)
    for cell, found in enumerate(cells):
        tops = [float(line[cell].quantile(0.999)) for line in again]
        assert found.quantile == _spread(float(annual[cell].quantile(0.999)), tops)
        assert found.expected == rates.mean[cell] * severity.estimate.mean()[cell]
        assert found.infinite == (severity.tail.draws[:, cell, 0] >= 1.0).mean()
    for number, correlation in enumerate((0.0, 0.5)):
        drawn = _sums([annual], common_factor(30_000, 2, correlation, 3))[0]
        assert sums[number].quantile == simulated_quantile(drawn, 0.999)
        shorter = common_factor(3_750, 2, correlation, 4)
        tops = np.quantile(_sums(again, shorter), 0.999, axis=1).tolist()
        assert sums[number].parameters == _spread(sums[number].quantile.mean, tops)
    assert capital(rates, severity, ("a", "b"), years=30_000, draws=4, seed=3) == (cells, sums[:1])
    beyond = severity.tail.draws.copy()
    beyond[1:4, 0, 0], beyond[4, 1, 0] = 1.0, 1.5
    some = replace(severity, tail=replace(severity.tail, draws=beyond))
    found, _ = capital(rates, some, ("a", "b"), years=30_000, draws=1)
    assert [cell.infinite for cell in found] == [3 / severity.draws, 1 / severity.draws]
