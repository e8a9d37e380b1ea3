"""Liquidity: mathematics by closed forms and simulation, the SELECT by a twin in numpy, and what a night derives."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from metarisk.bases.histories import shorts_of
from metarisk.domain import ConfigError, Derived, NightView
from metarisk.portfolios import extract_sql, load_portfolio
from metarisk.risks.liquidity import SPEC
from metarisk.risks.liquidity.derived import derive
from metarisk.risks.liquidity.illiquidity import days_to_liquidate, exit_factor, exogenous_cost
from tests.oracles import amihud, corwin_schultz
from tests.unit import market_examples
from tests.unit.market_examples import NIGHT, tables
from tests.warehouses import ROOT, Server, open_postgresql

PORTFOLIO = load_portfolio(ROOT, "liquidity_5d")
SPREADS = load_portfolio(ROOT, "liquidity_spread_5d")
SINCE = date(2024, 10, 1)


def extract(bars: pl.DataFrame, as_of: date = NIGHT) -> pl.DataFrame:
    """What the extract makes of bars, sorted by asset and day."""
    return market_examples.extract(bars, tables()["market_assets"], as_of, PORTFOLIO)


@cache
def history() -> pl.DataFrame:
    """The extract of the demo's tables on its night."""
    return extract(tables()["market_bars"])


def own(asset: str) -> pl.DataFrame:
    return history().filter(pl.col("asset") == asset, pl.col("fault") == "none")


def test_illiquidity_by_hand() -> None:
    """One per cent for two millions is a half; a day without volume has none."""
    found = amihud([0.01, -0.02, 0.01, np.nan], [2e6, 1e6, 0.0, 1e6])
    np.testing.assert_allclose(found, [0.5, 2.0, np.nan, np.nan])


@pytest.mark.parametrize("spread", [0.001, 0.01, 0.08])
def test_a_price_that_stands_has_its_whole_range_as_spread(spread: float) -> None:
    """Without volatility the high is the ask and the low the bid, and the estimator is exact."""
    high, low = np.full(3, 50 * (1 + spread / 2)), np.full(3, 50 * (1 - spread / 2))
    np.testing.assert_allclose(corwin_schultz(high, low, np.full(3, 50.0))[1:], spread)


def test_a_night_between_two_ranges_is_no_spread() -> None:
    """The second day starts ten above the close and moves alike: what is estimated is as if it had not."""
    high, low, close = np.array([51.0, 51.0]), np.array([49.0, 49.0]), np.array([49.0, 50.0])
    rise = np.array([0.0, 10.0])
    level = corwin_schultz(high, low, close)[1]
    # The whole second day lies above the first close; shifted back, its low is that close.
    gapped = corwin_schultz(high + rise, low + rise, close + rise)[1]
    fallen = corwin_schultz(high - rise, low - rise, np.array([51.0, 40.0]))[1]
    assert gapped == pytest.approx(level, rel=1e-3)
    assert fallen == pytest.approx(level, rel=1e-3)


def test_a_trend_gives_no_negative_spread() -> None:
    """Two days of a range that widens over both would be below zero, and count as zero."""
    assert corwin_schultz([51.0, 53.0], [49.0, 51.0], [51.0, 53.0])[1] == 0.0


def test_simulated_trades_show_their_spread() -> None:
    """390 trades a day at bid or ask around a random walk, as in the paper's own simulation: the mean is near 3 %."""
    rng, days, trades, spread = np.random.default_rng(3), 4000, 390, 0.03
    walk = np.cumsum(rng.normal(0, 0.03 / np.sqrt(trades), days * trades)).reshape(days, trades)
    price = np.exp(walk - walk[:, :1] * 0) * (1 + spread / 2 * rng.choice([-1, 1], walk.shape))
    found = corwin_schultz(price.max(axis=1), price.min(axis=1), price[:, -1])
    assert np.nanmean(found) == pytest.approx(spread, rel=0.15)


def test_days_to_sell_by_hand() -> None:
    """Two millions at a tenth of four a day are five days, short or long; what nobody trades is never sold."""
    found = days_to_liquidate([2e6, -2e6, 0.0, 1.0], [4e6, 4e6, 0.0, 0.0], 0.1)
    np.testing.assert_allclose(found, [5.0, 5.0, 0.0, np.inf])
    with pytest.raises(ValueError, match=r"participation is 1\.5"):
        days_to_liquidate([1.0], [1.0], 1.5)


def test_the_exit_factor_is_that_of_equal_parts() -> None:
    """The root of the sum of squares of what is left each day; one for less than a day."""
    for days in (1, 2, 5, 40):
        left = np.arange(days, 0, -1) / days
        assert exit_factor(days) == pytest.approx(np.sqrt((left**2).sum()))
    assert exit_factor(0.2) == 1.0
    assert exogenous_cost(-200.0, 0.01, 0.002, 3.0) == pytest.approx(200 * 0.5 * 0.016)


def test_features_and_labels_by_a_twin_in_numpy() -> None:
    """Every window of an asset with a day without volume, from its bars alone."""
    rows = own("A000")
    bars = tables()["market_bars"].filter(pl.col("asset") == "A000", pl.col("day") <= NIGHT).sort("day")
    assert rows["day"].to_list() == bars["day"].to_list()
    volume = bars["volume"].to_numpy()
    traded = np.flatnonzero(volume > 0)
    assert len(traded) < len(volume)
    c = {name: bars[name].to_numpy() for name in ("open", "high", "low", "close", "adj_close")}
    value, move, spread = c["close"] * volume, np.full(len(volume), np.nan), np.full(len(volume), np.nan)
    adjust = c["adj_close"] / c["close"]
    move[traded[1:]] = np.abs(c["adj_close"][traded[1:]] / c["adj_close"][traded[:-1]] - 1)
    spread[traded] = corwin_schultz((c["high"] * adjust)[traded], (c["low"] * adjust)[traded], c["adj_close"][traded])
    daily = amihud(move, value)
    rest = int(np.flatnonzero(volume == 0)[-1])
    for at in (40, rest, rest + 3, len(volume) - 1):
        row = rows.row(at, named=True)

        def mean(series: Any, days: int, at: int = at) -> float:
            return float(np.nanmean(series[max(at - days + 1, 0) : at + 1]))

        expected = {f"illiq_{n}": np.log(mean(daily, n) + 1e-5) for n in (5, 10, 20, 22, 60, 120)}
        expected |= {f"spread_{n}": np.log(mean(spread, n) + 1e-3) for n in (5, 22, 120)}
        expected |= {f"level_{n}": mean(np.log(daily + 1e-5), n) for n in (10, 120)}
        expected |= {f"move_{n}": np.log(mean(move, n) + 1e-4) for n in (5, 22)}
        expected |= {"value_22": np.log(mean(value, 22)), "daily_value": mean(value, 22)}
        expected |= {"idle_22": mean(volume == 0, 22), "spread_mean": mean(spread, 120)}
        for name, number in expected.items():
            assert row[name] == pytest.approx(number, rel=1e-9), (at, name)
        assert (row["illiq_1"] is None) == (volume[at] == 0)
        ahead = daily[at + 1 : at + 6]
        if at + 5 < len(volume):
            assert row["illiq_next"] == pytest.approx(np.log(np.nanmean(ahead) + 1e-5))
            assert row["known_5d"] == rows["day"][at + 5]
        else:
            assert row["illiq_next"] is None
    weights = np.where(np.isfinite(daily), 0.94 ** np.arange(len(daily))[::-1], 0)[-120:]
    ewma = np.log((weights * np.nan_to_num(daily[-120:])).sum() / weights.sum() + 1e-5)
    assert rows["ewma_illiq"][-1] == pytest.approx(ewma)


def test_cut_features_are_those_of_a_cut_history() -> None:
    """An asset of ten days has what the columns for ten days say of a long one."""
    bars = tables()["market_bars"]
    first = own("A000")["day"][-11]
    late = extract(bars.filter((pl.col("asset") != "A000") | (pl.col("day") >= first)))
    short, whole = late.filter(asset="A000").row(-1, named=True), own("A000").row(-1, named=True)
    for portfolio in (PORTFOLIO, SPREADS):
        for name, column in shorts_of(portfolio.features)[10].items():
            if name not in ("value_22", "traded_22", "range_22", "idle_22"):  # known on the first day, too
                assert short[name] == pytest.approx(whole[column]), name


def test_a_row_is_the_same_on_every_later_night() -> None:
    """Nothing that comes later moves what was known at a close; labels alone are filled in."""
    early = NIGHT - timedelta(days=45)
    labels = ["illiq_next", "spread_next", "known_5d"]
    then, now = extract(tables()["market_bars"], early), history().filter(pl.col("day") <= early)
    for name in then.drop(labels).columns:
        if then[name].dtype.is_float():
            np.testing.assert_allclose(then[name].to_numpy(), now[name].to_numpy(), rtol=1e-9, atol=1e-9)
        else:
            assert then[name].equals(now[name])
    assert then["known_5d"].max() <= early  # type: ignore[operator]


def test_bad_bars_are_named_and_feed_nothing() -> None:
    """Each fault of the demo by its name, days without volume among none of them."""
    faults = dict(history().filter(pl.col("fault") != "none").group_by("fault").len().iter_rows())
    assert {name: count for name, count in faults.items() if name != "never_trades"} == {
        "duplicate": 2,
        "price_not_positive": 1,
        "high_below_low": 1,
        "off_calendar": 1,
        "stale_price": 4,
        "split_not_adjusted": 1,
    }
    assert history().filter(fault="never_trades")["asset"].unique().to_list() == ["H007"]
    sold = tables()["market_bars"].with_columns(
        pl.when((pl.col("asset") == "A001") & (pl.col("day") == NIGHT)).then(-5.0).otherwise("volume").alias("volume")
    )
    wrong = extract(sold).filter(pl.col("day") == NIGHT, pl.col("asset") == "A001")
    assert wrong["fault"].to_list() == ["volume_negative"]


@pytest.mark.xdist_group("postgresql")
def test_both_databases_give_the_same_rows(postgresql: Server, tmp_path: Path) -> None:
    """The same SELECT on PostgreSQL."""
    warehouse = open_postgresql(postgresql.url(postgresql.create_database()), tmp_path)
    bars = tables()["market_bars"].filter(
        pl.col("asset").is_in(["A000", "A007", "H000", "H005"]), pl.col("day") >= SINCE
    )
    for name, rows in (("market_bars", bars), ("market_assets", tables()["market_assets"])):
        warehouse.load(f"source.{name}", rows.to_arrow(compat_level=pl.CompatLevel.oldest()).to_reader())
    with warehouse.stream(extract_sql(ROOT, PORTFOLIO), {"as_of": NIGHT}) as reader:
        theirs = pl.DataFrame(reader.read_all()).sort("asset", "day")
    ours = extract(bars)
    assert theirs.columns == ours.columns
    assert theirs["fault"].to_list() == ours["fault"].to_list()
    for name in ours.columns:
        if ours[name].dtype.is_float():
            np.testing.assert_allclose(
                theirs[name].cast(pl.Float64).to_numpy(), ours[name].to_numpy(), rtol=1e-8, atol=1e-8, err_msg=name
            )


def view(**changes: Any) -> NightView:
    """The demo's night with the rows' own last month as scores, and one book."""
    rows = history().filter(pl.col("day") == NIGHT, pl.col("fault") == "none")
    held = pl.DataFrame({"book": ["one"] * 4, "asset": ["A000", "H000", "H001", "ZZZZ"], "held": [1e6, -2e6, 4e6, 5.0]})
    empty = pl.DataFrame(schema={"as_of": pl.Date, "entity": pl.String, "target": pl.String, "score": pl.Float64})
    given: dict[str, Any] = {
        "portfolio": PORTFOLIO,
        "as_of": NIGHT,
        "options": dict(SPEC.options),
        "rows": rows,
        "scores": rows.select(entity="asset", segment="sector", score="illiq_22"),
        "history": history().filter(pl.col("fault") == "none").lazy(),
        "tables": {"positions": held.lazy()},
        "score": lambda _: np.zeros(0),
        "published": lambda: empty,
        "seed": 7,
    }
    return NightView(**given | changes)


@cache
def night() -> Derived:
    return derive(view())


def test_scores_are_the_value_and_its_losses() -> None:
    """The log is taken off; VaR with cost is above the cost, for each scored asset."""
    wide = night().scores.pivot("target", index="entity", values="score")
    assert set(wide.columns) == {"entity", "amihud_5d", "exit_cost_99", "lvar_99_1d"}
    assert wide.null_count().sum_horizontal().item() == 0
    row = history().filter(pl.col("day") == NIGHT, pl.col("asset") == "A000").row(0, named=True)
    mine = wide.filter(entity="A000").row(0, named=True)
    assert mine["amihud_5d"] == pytest.approx(np.exp(row["illiq_22"]) - 1e-5)
    assert mine["exit_cost_99"] == pytest.approx(0.5 * (row["spread_mean"] + 3 * row["spread_sd"]))
    sigmas = (mine["lvar_99_1d"] - mine["exit_cost_99"]) / np.exp(0.5 * row["ewma_return"])
    assert 2.0 < sigmas < 4.5


def test_positions_and_books_add_up() -> None:
    """Days of half the participation are twice as many; a book's cost is its positions' and its VaR less."""
    found = {(row["kind"], row["item"], row["metric"]): row["value"] for row in night().measures.iter_rows(named=True)}
    names = ("A000", "H000", "H001")
    book = {metric: found["liquidity_book", "one", metric] for metric in ("exit_cost_99", "var_99_1d", "lvar_99_1d")}
    assert book["exit_cost_99"] == pytest.approx(sum(found["liquidation", name, "exit_cost_99"] for name in names))
    assert book["var_99_1d"] < sum(found["liquidation", name, "var_99_1d"] for name in names)
    assert book["lvar_99_1d"] == pytest.approx(book["var_99_1d"] + book["exit_cost_99"])
    slower = derive(view(options=dict(SPEC.options) | {"participation": 0.05})).measures
    days = dict(slower.filter(metric="days").select("item", "value").iter_rows())
    assert days["H001"] == pytest.approx(2 * found["liquidation", "H001", "days"])
    assert ("position", "ZZZZ", "held") in found


def test_a_position_that_nobody_trades_has_no_days_and_a_note() -> None:
    """A month without volume: infinite days, said in words, and the others have theirs."""
    rows = view().rows.with_columns(
        pl.when(pl.col("asset") == "H001").then(0.0).otherwise("daily_value").alias("daily_value")
    )
    found = derive(view(rows=rows)).measures.filter(kind="liquidation")
    first = found.filter(item="H001")
    assert np.isinf(first.filter(metric="days")["value"][0])
    assert "cannot be sold" in str(first["note"][0])
    assert np.isfinite(found.filter(item="A000", metric="days")["value"][0])


def test_an_asset_of_five_days_and_a_wrong_option() -> None:
    """Five days give a cost and a loss; a participation above one is refused with what to write."""
    late = history().filter(pl.col("day") == NIGHT, pl.col("days") <= 6, pl.col("fault") == "none")["asset"].to_list()
    assert late
    assert set(late) <= set(night().scores.filter(target="lvar_99_1d")["entity"])
    with pytest.raises(ConfigError, match="participation is 10"):
        derive(view(options=dict(SPEC.options) | {"participation": 10.0}))


def test_spreads_derive_their_value_alone() -> None:
    """A portfolio without positions publishes the spread without its log, none below zero."""
    rows = view().rows
    scores = rows.select(entity="asset", segment="sector", score=pl.lit(-8.0))
    options = dict(SPEC.options) | dict(SPREADS.options)
    found = derive(view(portfolio=replace(SPREADS), scores=scores, tables={}, options=options))
    assert found.measures is None
    assert found.scores["target"].unique().to_list() == ["cs_spread_5d"]
    assert found.scores["score"].unique().to_list() == [0.0]
