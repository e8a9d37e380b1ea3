"""Targets that are values: bases by likelihood, what judges them, the latest row of an entity."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from scipy import special, stats

from metarisk import metrics
from metarisk.bases import CrossFitted
from metarisk.domain import Columns, DataError, Feature, LikelihoodName, ModelError, Portfolio, Source, Target
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.metrics import JUDGES, dispersion, judge_of
from metarisk.tasks import LABEL, population

ROWS = 1_500
COLUMNS = Columns(
    "id", "opened_on", ("place",), known_date="known_date", value="y", exposure="hours", exit_date="gone_on"
)
PORTFOLIO = Portfolio(
    "sites",
    "operational",
    Source("sites.sql", "sites.json"),
    COLUMNS,
    (Target("events_30d", horizon_days=30),),
    {"a": Feature("numeric"), "b": Feature("numeric")},
    population="latest",
)
PLAIN = replace(PORTFOLIO, columns=replace(COLUMNS, exposure=None))
VALUES: tuple[LikelihoodName, ...] = ("gaussian", "qlike", "poisson")
KINDS = ("logistic", "logistic_segments", "logistic_own", "lightgbm", "lightgbm_segments", "lightgbm_target")


def book(likelihood: LikelihoodName, seed: int = 0) -> tuple[pl.DataFrame, np.ndarray]:
    """Rows with labels of a likelihood, and their true scores on the link scale."""
    rng = np.random.default_rng(seed)
    a, b, place = rng.normal(size=ROWS), rng.normal(size=ROWS), rng.integers(0, 5, ROWS)
    eta = 0.5 * a - 0.3 * b + 0.3 * place - 1.0
    hours = rng.lognormal(7, 1, ROWS)
    if likelihood == "gaussian":
        y = eta + rng.normal(0, 0.5, ROWS)
    elif likelihood == "qlike":
        y = np.exp(eta) * rng.chisquare(3, ROWS) / 3
    else:
        y = rng.poisson(hours / 1000 * np.exp(eta)).astype(float)
    day = date(2025, 1, 1)
    frame = pl.DataFrame(
        {
            "id": [f"e{i % 300}" for i in range(ROWS)],
            "opened_on": [day + timedelta(days=30 * (i // 300)) for i in range(ROWS)],
            "place": [f"p{value}" for value in place],
            "a": a,
            "b": b,
            "hours": hours,
            LABEL: y,
        }
    )
    return frame, eta


@pytest.mark.parametrize("likelihood", VALUES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_base_learns_the_link_of_its_likelihood(kind: str, likelihood: LikelihoodName) -> None:
    frame, _ = book(likelihood)
    fresh, truth = book(likelihood, seed=1)
    counts = likelihood == "poisson"
    portfolio = PORTFOLIO if counts else PLAIN
    base = CrossFitted.fit(kind, frame, frame[LABEL].to_numpy(), portfolio, likelihood=likelihood)
    score = base.predict(fresh)
    exact = truth + (np.log(fresh["hours"].to_numpy() / 1000) if counts else 0.0)
    loss = judge_of(likelihood).of
    y = fresh[LABEL].to_numpy()
    nothing = np.full(ROWS, np.log(y.mean()) if likelihood != "gaussian" else y.mean())
    assert loss(score, y).mean() < 0.5 * loss(nothing, y).mean() + 0.5 * loss(exact, y).mean()
    assert np.sqrt(np.mean((score - exact) ** 2)) < 0.55
    np.testing.assert_allclose(base.contributions(fresh).sum(axis=1), score, atol=1e-9)
    again = CrossFitted.from_texts(kind, "id", base.to_texts(), portfolio.columns.exposure)
    assert np.array_equal(again.predict(fresh), score)
    assert np.array_equal(again.unseen(frame)[0], base.unseen(frame)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_unit_of_the_exposure_is_nobodys_business(kind: str) -> None:
    frame, _ = book("poisson")
    y = frame[LABEL].to_numpy()
    in_hours = CrossFitted.fit(kind, frame, y, PORTFOLIO, likelihood="poisson", folds=False)
    years = frame.with_columns(pl.col("hours") / 8766)
    in_years = CrossFitted.fit(kind, years, y, PORTFOLIO, likelihood="poisson", folds=False)
    np.testing.assert_allclose(in_years.predict(years), in_hours.predict(frame), atol=2e-3)


def test_labels_all_alike_give_their_constant() -> None:
    frame, _ = book("gaussian")
    for likelihood, value, expected in (("gaussian", 7.5, 7.5), ("qlike", 0.02, np.log(0.02))):
        y = np.full(ROWS, value)
        for kind in ("logistic", "lightgbm"):
            base = CrossFitted.fit(kind, frame, y, PLAIN, likelihood=likelihood, folds=False)
            np.testing.assert_allclose(base.predict(frame), expected)


def test_a_plain_value_is_cut_nowhere() -> None:
    frame, _ = book("gaussian")
    y = 1e4 * frame[LABEL].to_numpy() + 1e6
    for kind in ("logistic", "lightgbm"):
        base = CrossFitted.fit(kind, frame, y, PLAIN, likelihood="gaussian", folds=False)
        assert abs(base.predict(frame).mean() / 1e6 - 1) < 0.01


@pytest.mark.parametrize("wrong", [0.0, -1.0, None, float("nan"), float("inf")])
def test_an_exposure_is_above_zero(wrong: float | None) -> None:
    frame, _ = book("poisson")
    bad = frame.with_columns(hours=pl.when(pl.int_range(pl.len()) == 3).then(wrong).otherwise("hours"))
    with pytest.raises(DataError, match=f"1 of {ROWS} rows have no exposure above 0") as error:
        CrossFitted.fit("logistic", bad, bad[LABEL].to_numpy(), PORTFOLIO, likelihood="poisson")
    assert error.value.column == "hours"


def test_losses_are_those_of_the_distributions_up_to_terms_of_the_label() -> None:
    rng = np.random.default_rng(5)
    link, y = rng.normal(size=50), rng.poisson(3, 50).astype(float)
    expected = -stats.poisson.logpmf(y, np.exp(link)) + stats.poisson.logpmf(y, np.maximum(y, 1e-300))
    np.testing.assert_allclose(JUDGES["poisson"].of(link, y), 2 * expected, atol=1e-9)
    shape = 2.5
    gamma = -stats.gamma.logpdf(y + 1, shape, scale=np.exp(link) / shape)
    gamma += stats.gamma.logpdf(y + 1, shape, scale=(y + 1) / shape)
    np.testing.assert_allclose(JUDGES["qlike"].of(link, y + 1), gamma / shape, atol=1e-9)
    assert np.isfinite(JUDGES["qlike"].of(link, np.where(y > 2, 0.0, y + 1))).all()
    both = metrics.rank_correlation(link, y)
    assert both == pytest.approx(stats.spearmanr(link, y).statistic)
    with pytest.raises(ModelError, match="nothing judges scores of likelihood quantile"):
        judge_of("quantile")


@pytest.mark.parametrize(("likelihood", "phi"), [("gaussian", 0.25), ("qlike", 2 / 3), ("poisson", 1.0)])
def test_dispersion_is_found(likelihood: LikelihoodName, phi: float) -> None:
    frame, eta = book(likelihood)
    link = eta + (np.log(frame["hours"].to_numpy() / 1000) if likelihood == "poisson" else 0.0)
    import torch

    mean = LIKELIHOODS[likelihood].mean(torch.from_numpy(link)).numpy()
    found = dispersion(link, mean, frame[LABEL].to_numpy(), likelihood)
    # Of a gamma the mean deviance is 2 (log(shape) - digamma(shape)), a little above its dispersion.
    exact = 2 * (np.log(1.5) - special.digamma(1.5)) if likelihood == "qlike" else phi
    assert found == pytest.approx(exact, rel=0.12)
    assert dispersion(link, mean, np.ones(ROWS), "bernoulli") == 1.0


def test_of_each_entity_the_latest_row_is_scored_until_it_is_stale() -> None:
    frame = pl.DataFrame(
        {
            "id": ["a", "a", "b", "b", "c", "d"],
            "opened_on": [date(2026, 5, d) for d in (1, 2, 1, 9, 1, 1)],
            "known_date": [date(2026, 5, 31), None, None, None, None, date(2026, 5, 4)],
            "gone_on": [None, None, None, None, date(2026, 5, 3), None],
            "y": [1.0, None, None, None, None, 2.0],
        },
        schema_overrides={"gone_on": pl.Date},
    )
    as_of = date(2026, 5, 5)
    found = population(frame.lazy(), PORTFOLIO, as_of).collect()
    assert found.select("id", "opened_on").rows() == [("a", date(2026, 5, 2)), ("b", date(2026, 5, 1))]
    late = population(frame.lazy(), PORTFOLIO, date(2026, 6, 7)).collect()
    assert late["id"].to_list() == ["a", "b"]
    assert late["opened_on"].to_list() == [date(2026, 5, 2), date(2026, 5, 9)]
    assert population(frame.lazy(), PORTFOLIO, date(2026, 6, 9)).collect()["id"].to_list() == ["b"]
    assert population(frame.lazy(), PORTFOLIO, date(2026, 6, 15)).collect().is_empty()
