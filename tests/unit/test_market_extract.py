"""Prices to features and labels: against the formulas, at every date as it was then, and bad bars by name."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metarisk.bases.histories import shorts_of
from metarisk.portfolios import extract_sql
from tests.oracles import realised_variance
from tests.unit.market_examples import NIGHT, PORTFOLIO, extract, history, tables
from tests.warehouses import ROOT, Server, open_postgresql


def bars_of(asset: str) -> pl.DataFrame:
    """Bars of an asset that has none that are wrong, oldest first, by the demo's night."""
    bars = tables()["market_bars"].filter(pl.col("asset") == asset, pl.col("day") <= NIGHT, pl.col("volume") > 0)
    return bars.sort("day")


def test_variance_means_and_labels_by_hand() -> None:
    """The SQL against the functions that are tested against truth."""
    bars, rows = bars_of("A000"), history().filter(asset="A000")
    returns = np.diff(np.log(bars["adj_close"].to_numpy()), prepend=np.nan)
    v = realised_variance(*(bars[name].to_numpy() for name in ("open", "high", "low", "close")), returns)
    assert rows["day"].to_list() == bars["day"].to_list()
    np.testing.assert_allclose(rows["return_1d"].to_numpy()[1:], returns[1:], atol=1e-12)
    for day in (300, 450, rows.height - 1):
        row = rows.row(day, named=True)
        past = v[: day + 1]
        assert row["vol_1"] == pytest.approx(np.log(past[-1]))
        assert row["vol_22"] == pytest.approx(np.log(past[-22:].mean()))
        assert row["level_250"] == pytest.approx(np.log(past[-250:]).mean())
        weights = 0.94 ** np.arange(120)
        assert row["ewma_return"] == pytest.approx(
            np.log((weights * returns[day : day - 120 : -1] ** 2).sum() / weights.sum())
        )
    assert rows["variance_1d"][300] == pytest.approx(v[301])
    assert rows["variance_5d"][300] == pytest.approx(v[301:306].mean())
    assert rows["known_5d"][300] == rows["day"][305]
    assert rows["known_1d"].to_list()[-1] is None
    assert rows["known_5d"].to_list()[-5:] == [None] * 5


def test_market_means_are_of_the_day_and_of_the_own_market() -> None:
    """Every row of a market's day has the same ones."""
    rows = history().filter(fault="none").drop_nulls("vol_1")
    by_day = rows.group_by("market", "day").agg(
        pl.col("market_1").n_unique(), own=pl.col("vol_1").mean(), m=pl.col("market_1").first()
    )
    assert by_day["market_1"].max() == 1
    np.testing.assert_allclose(by_day["own"].to_numpy(), by_day["m"].to_numpy(), atol=1e-9)


def test_a_row_is_the_same_on_every_later_night() -> None:
    """Nothing that comes later moves what was known at a close; labels alone are filled in."""
    early = NIGHT - timedelta(days=45)
    labels = ["variance_1d", "known_1d", "variance_5d", "known_5d"]
    then = extract(tables()["market_bars"], tables()["market_assets"], early)
    now = history().filter(pl.col("day") <= early)
    # Sums of a day's assets may be rounded in another order.
    assert_frame_equal(then.drop(labels), now.drop(labels), rel_tol=1e-9, abs_tol=1e-9)
    filled = then.select(labels[1], labels[3]).max().row(0)
    assert max(filled) <= early


def test_cut_features_are_those_of_a_cut_history() -> None:
    """The columns for ten days hold just what an asset of ten days would have: bars before them are taken away."""
    bars = tables()["market_bars"]
    first = bars_of("A000")["day"][-11]
    listed_late = extract(
        bars.filter((pl.col("asset") != "A000") | (pl.col("day") >= first)), tables()["market_assets"]
    )
    short = listed_late.filter(asset="A000").row(-1, named=True)
    whole = history().filter(asset="A000").row(-1, named=True)
    assert short["days"] == 11
    # Eleven closes give ten returns, and so ten variances.
    for name, column in shorts_of(PORTFOLIO.features)[10].items():
        if name != "traded_22":
            assert short[name] == pytest.approx(whole[column]), name
    assert short["vol_1"] == whole["vol_1"]
    assert short["vol_22"] != pytest.approx(whole["vol_22"])


def test_bad_bars_are_named_and_feed_nothing() -> None:
    """Each kind that the demo holds is found once or as often as it is there; the others' rows are as without them."""
    faults = dict(history().filter(pl.col("fault") != "none").group_by("fault").len().iter_rows())
    assert faults == {
        "duplicate": 2,
        "price_not_positive": 1,
        "high_below_low": 1,
        "off_calendar": 1,
        "stale_price": 4,
        "split_not_adjusted": 1,
    }
    wrong = history().filter(pl.col("fault") != "none", pl.col("fault") != "split_not_adjusted")
    assert wrong["vol_1"].null_count() == wrong.height
    assert "H007" not in history()["asset"].to_list()  # it never trades
    split = history().filter(fault="split_not_adjusted").row(0, named=True)
    after = history().filter(pl.col("asset") == split["asset"], pl.col("day") > split["day"])
    assert after["return_1d"].abs().max() < 0.3


def test_missing_days_are_no_rows_and_the_move_over_them_is_one_return() -> None:
    """An asset without bars for six days: nothing before changes but the label, which is known when bars come again."""
    days = history().filter(asset="A000")["day"][400:406]
    gone = (pl.col("asset") == "A000") & pl.col("day").is_in(days.implode())
    rows = extract(tables()["market_bars"].filter(~gone), tables()["market_assets"]).filter(asset="A000")
    whole = history().filter(asset="A000")
    assert rows.height == whole.height - 6
    labels = [name for name in rows.columns if name.startswith(("variance_", "known_"))]
    before = pl.col("day") < days[0]
    assert_frame_equal(rows.filter(before).drop(labels), whole.filter(before).drop(labels), rel_tol=1e-9)
    last, again = rows.row(399, named=True), rows.row(400, named=True)
    assert last["known_1d"] == again["day"] == whole["day"][406]
    moved = whole["return_1d"][400:407].sum()
    assert again["return_1d"] == pytest.approx(moved)
    assert again["days"] == last["days"] + 1


def test_an_extreme_return_moves_the_rest_a_little() -> None:
    """One asset falls by nine tenths in a day: the market's mean moves by that one log among all."""
    bars = tables()["market_bars"]
    crash = (pl.col("asset") == "A002") & (pl.col("day") == NIGHT)
    fallen = bars.with_columns(
        pl.when(crash).then(pl.col(n) * 0.11).otherwise(pl.col(n)).alias(n) for n in ("low", "close", "adj_close")
    )
    rows = extract(fallen, tables()["market_assets"]).filter(pl.col("day") == NIGHT, pl.col("market") == "abroad")
    before = history().filter(pl.col("day") == NIGHT, pl.col("market") == "abroad")
    assert rows.height == before.height
    moved = rows.filter(asset="A000")["market_1"][0] - before.filter(asset="A000")["market_1"][0]
    assert 0 < moved < 10 / before.height
    assert rows.filter(asset="A000")["vol_22"].equals(before.filter(asset="A000")["vol_22"])


@pytest.mark.xdist_group("postgresql")
def test_both_databases_give_the_same_features(postgresql: Server, tmp_path: Path) -> None:
    """The same SELECT on PostgreSQL."""
    warehouse = open_postgresql(postgresql.url(postgresql.create_database()), tmp_path)
    for name in ("market_bars", "market_assets"):
        rows = tables()[name].filter(pl.col("asset").str.starts_with("A"))
        warehouse.load(f"source.{name}", rows.to_arrow(compat_level=pl.CompatLevel.oldest()).to_reader())
    with warehouse.stream(extract_sql(ROOT, PORTFOLIO), {"as_of": NIGHT}) as reader:
        theirs = pl.DataFrame(reader.read_all()).sort("asset", "day")
    ours = history().filter(market="abroad")
    assert theirs.columns == ours.columns
    assert theirs["fault"].to_list() == ours["fault"].to_list()
    for name in ours.columns:
        if ours[name].dtype.is_float():
            np.testing.assert_allclose(
                theirs[name].cast(pl.Float64).to_numpy(), ours[name].to_numpy(), rtol=1e-9, atol=1e-9, err_msg=name
            )


def test_there_is_nothing_before_the_first_bar() -> None:
    """An early as_of gives no row."""
    assert extract(tables()["market_bars"], tables()["market_assets"], date(2020, 1, 1)).is_empty()
