"""Bases of variances: fits by length of history, relative trees, own habits; on generated prices."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest

from metarisk.bases import BASES, CrossFitted
from metarisk.bases.fitted import Labelled
from metarisk.bases.histories import cut, shorts_of
from metarisk.bases.logarithmic import LogBase
from metarisk.bases.relative import RelativeBase
from metarisk.domain import ModelError
from metarisk.metrics import qlike
from tests.unit.market_examples import PORTFOLIO, history

KINDS = ["ewma", "har", "har_own", "har_lightgbm", "har_habits", "relative"]
SHORTS = shorts_of(PORTFOLIO.features)
HALF = pl.lit("2024-12-31").str.to_date()


def labelled() -> pl.DataFrame:
    """Rows whose variance is known."""
    return history().filter(pl.col("fault") == "none", pl.col("variance_1d") > 0).drop_nulls(["vol_1", "vol_22"])


def parts() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Older rows that teach and newer ones."""
    rows = labelled()
    return rows.filter(pl.col("known_1d") <= HALF), rows.filter(pl.col("day") > HALF)


@cache
def fitted(kind: str) -> CrossFitted:
    """A base fitted once on the older rows."""
    teach = parts()[0]
    y = teach["variance_1d"].to_numpy()
    return CrossFitted.fit(kind, teach, y, PORTFOLIO, likelihood="qlike", folds=False)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_rows_and_contributions(kind: str) -> None:
    """A text reads back to the same bits, a score depends on its row alone, and what features add sums to it."""
    rows, base = parts()[1], fitted(kind)
    score = base.predict(rows)
    again = CrossFitted.from_texts(kind, "asset", base.to_texts())
    np.testing.assert_array_equal(again.predict(rows), score)
    pieces = [base.predict(rows[start : start + 313]) for start in range(0, rows.height, 313)]
    np.testing.assert_array_equal(np.concatenate(pieces), score)
    few = rows.head(200)
    found = base.contributions(few)
    assert found.shape == (200, len(base.full.features()) + 1)
    np.testing.assert_allclose(found.sum(axis=1), base.predict(few))


def test_a_short_history_is_scored_by_the_fit_of_its_length() -> None:
    """35 days are cut to 20; 240 are not cut; 5 are scored as 10 with what there is."""
    base, rows = fitted("relative").full, parts()[1].head(50)
    scores = {days: base.predict(rows.with_columns(days=pl.lit(days))) for days in (5, 10, 20, 35, 239, 240, 900)}
    np.testing.assert_array_equal(scores[35], scores[20])
    np.testing.assert_array_equal(scores[5], scores[10])
    np.testing.assert_array_equal(scores[240], scores[900])
    assert (scores[239] != scores[240]).all()
    by_hand = base.fits[20].predict(cut(rows, SHORTS[20]))
    np.testing.assert_array_equal(scores[20], by_hand)


def test_a_fit_for_short_histories_beats_the_full_one_on_them() -> None:
    """Rows cut to ten days: what was taught on such rows loses less than what was taught on whole histories."""
    rows, base = parts()[1], fitted("relative").full
    y, short = rows["variance_1d"].to_numpy(), cut(rows, SHORTS[10])
    own = qlike(base.fits[10].predict(short), y).mean()
    full = qlike(base.fits[0].predict(short), y).mean()
    assert own < full - 0.002


def test_a_log_fit_has_the_labels_mean() -> None:
    """The mean of label over forecast is one on the rows that taught, and the inner fit saw logs."""
    teach = parts()[0]
    y = teach["variance_1d"].to_numpy()
    base = BASES["har"].fit(Labelled(teach, y, PORTFOLIO.features, PORTFOLIO.columns, likelihood="qlike"))
    one = base.fits[0]
    assert isinstance(one, LogBase)
    rows = teach.filter(pl.col("days") >= 20)
    x = np.column_stack([np.ones(rows.height), *(rows[name].to_numpy() for name in ("vol_1", "vol_5", "vol_22"))])
    best = np.linalg.lstsq(x, np.log(rows["variance_1d"].to_numpy()), rcond=None)[0]
    assert np.mean(rows["variance_1d"].to_numpy() / np.exp(one.predict(rows))) == pytest.approx(1)
    gap = one.inner.predict(rows) - x @ best
    assert np.abs(gap).mean() < 0.02


def test_trees_do_not_see_what_a_date_shares() -> None:
    """A shift of every asset's variance on a date, and so of the market's, moves the linear part alone."""
    base, rows = fitted("relative").full.fits[0], parts()[1].head(100)
    assert isinstance(base, RelativeBase)
    names = ["vol_1", "market_1", "vol_5", "market_5", "vol_22", "market_22", "level_250", "market_120"]
    moved = rows.with_columns(pl.col(names) + 1.0)
    np.testing.assert_allclose(
        base.predict(moved) - base.predict(rows), base.linear.predict(moved) - base.linear.predict(rows), atol=1e-12
    )
    assert not {"market_1", "market_fall"} & set(base.trees.features())


def test_an_entity_with_a_year_has_coefficients_of_its_own() -> None:
    """Its own least squares, drawn to the pooled fit by one row's weight; a new listing has the pooled one."""
    base, teach = fitted("har_own").full.fits[0].inner, parts()[0]
    assert "A000" in base.own
    own = teach.filter(pl.col("asset") == "A000", pl.col("days") >= 20)
    x = np.column_stack([np.ones(own.height), *(own[name].to_numpy() for name in ("vol_1", "vol_5", "vol_22"))])
    y = np.log(own["variance_1d"].to_numpy())
    best = x @ np.linalg.lstsq(x, y, rcond=None)[0]
    assert np.abs(base.predict(own) - best).mean() < 0.03
    stranger = own.with_columns(asset=pl.lit("new"))
    np.testing.assert_array_equal(base.predict(stranger), base.pooled.predict(stranger))


def test_the_recipe_beats_its_rivals_on_newer_rows() -> None:
    """What the demo was made to show: context and cut histories pay, and RiskMetrics comes last."""
    rows = parts()[1]
    y = rows["variance_1d"].to_numpy()
    losses = {kind: float(qlike(fitted(kind).predict(rows), y).mean()) for kind in KINDS}
    episodic = 0.5 * (fitted("relative").predict(rows) + fitted("har_habits").predict(rows))
    assert qlike(episodic, y).mean() < min(losses["har"], losses["har_own"], losses["har_lightgbm"])
    assert max(losses, key=lambda kind: losses[kind]) == "ewma"


def test_another_market_is_scored_without_retraining() -> None:
    """Taught on the home market alone, the recipe's relative part is about as good abroad as one taught there."""
    teach, rows = parts()
    abroad = rows.filter(market="abroad")
    y = abroad["variance_1d"].to_numpy()
    losses = {}
    for market in ("home", "abroad"):
        own = teach.filter(pl.col("market") == market)
        base = BASES["relative"].fit(
            Labelled(own, own["variance_1d"].to_numpy(), PORTFOLIO.features, PORTFOLIO.columns, likelihood="qlike")
        )
        losses[market] = float(qlike(base.predict(abroad), y).mean())
    assert losses["home"] < losses["abroad"] + 0.02


def test_a_portfolio_without_a_column_is_told_so() -> None:
    """The remedy is in the error."""
    teach = parts()[0].drop("ewma_return")
    with pytest.raises(ModelError, match="'ewma_return'"):
        CrossFitted.fit("ewma", teach, teach["variance_1d"].to_numpy(), PORTFOLIO, likelihood="qlike", folds=False)
