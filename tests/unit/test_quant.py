"""The extract of signals on both databases, purged folds, the base that forgets, and what a night makes of trials."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import Ridge

from metarisk.bases.decayed import DecayedBase
from metarisk.bases.fitted import Labelled
from metarisk.domain import Columns, Feature, MeasureRow, ModelError, NightView, Validation, WeekView
from metarisk.pages.cards.night.measures import sections
from metarisk.portfolios import extract_sql, load_portfolio
from metarisk.risks.quant import SPEC
from metarisk.risks.quant.cards import KINDS
from metarisk.risks.quant.derived import EQUAL, derive, trials
from metarisk.risks.quant.proving import rank_ic, sharpe
from metarisk.tasks import LABEL, forward_folds, opened_within
from metarisk.training import teaching_rows
from tests.unit import market_examples
from tests.unit.market_examples import NIGHT, tables
from tests.warehouses import ROOT, Server, open_postgresql

PORTFOLIO = load_portfolio(ROOT, "signals_5d")


def extract(bars: pl.DataFrame, as_of: date = NIGHT) -> pl.DataFrame:
    """What the extract makes of bars, sorted by asset and day."""
    return market_examples.extract(bars, tables()["market_assets"], as_of, PORTFOLIO)


@lru_cache(maxsize=1)
def history() -> pl.DataFrame:
    """The extract on the demo's night."""
    return extract(tables()["market_bars"])


def test_label_is_the_rank_of_the_next_five_sessions() -> None:
    """By hand, on a date: returns of close to close, their order, and what a portfolio earns a session later."""
    rows = history().filter(pl.col("market") == "abroad", pl.col("rank_5d").is_not_null())
    day = rows["day"].unique().sort()[-3]
    bars = tables()["market_bars"].filter(pl.col("asset").str.starts_with("A"), pl.col("volume") > 0)
    later = bars.select("day").unique().sort("day").filter(pl.col("day") >= day)["day"].to_list()
    price = {(a, d): p for a, d, p in bars.select("asset", "day", "adj_close").iter_rows()}
    told = rows.filter(pl.col("day") == day)
    assert told.height >= 5
    came = [price[asset, later[5]] / price[asset, day] for asset in told["asset"]]
    assert rank_ic(told["rank_5d"].to_numpy(), np.array(came)) == pytest.approx(1.0)
    assert told["rank_5d"].mean() == pytest.approx(0.0, abs=1e-9)
    assert set(told["known_5d"]) == {later[5]}
    for asset, held in told.select("asset", "held_5d").iter_rows():
        assert held == pytest.approx(price[asset, later[6]] / price[asset, later[1]] - 1, rel=1e-6)


def test_a_row_is_the_same_on_every_later_night() -> None:
    """What is ranked on a date reads nothing after it, and a label of the past does not change."""
    early = date(2025, 3, 31)
    then = extract(tables()["market_bars"], early).filter(pl.col("fault") == "none", pl.col("rank_5d").is_not_null())
    now = history().join(then.select("asset", "day"), on=["asset", "day"], how="semi")
    assert then.height > 500
    for name in (*PORTFOLIO.features, "rank_5d"):
        np.testing.assert_allclose(now[name].to_numpy(), then[name].to_numpy(), atol=1e-9, err_msg=name)


@pytest.mark.parametrize("fault", ["duplicate", "price_not_positive", "stale_price", "split_not_adjusted"])
def test_bad_bars_are_named_and_other_assets_are_scored(fault: str) -> None:
    """The asset's good days and all other assets stay; a split that nobody adjusted for moves no price."""
    bad = history().filter(fault=fault)
    assert bad.height >= 1
    newest = history().filter(pl.col("day") == NIGHT, pl.col("fault") == "none")
    assert set(bad["asset"]) <= set(newest["asset"])
    returns = history().filter(pl.col("asset") == "H005")["held_5d"].drop_nulls()
    assert returns.abs().max() < 0.4  # type: ignore[operator]


def test_an_asset_with_five_days_has_a_row_with_gaps() -> None:
    newest = history().filter(pl.col("day") == NIGHT, pl.col("fault") == "none").sort("days")
    youngest = newest.row(0, named=True)
    assert youngest["days"] <= 6
    assert youngest["reversal_1"] is not None
    assert youngest["beta_126"] is None or np.isfinite(youngest["beta_126"])


def test_no_label_that_teaches_overlaps_a_judged_date() -> None:
    """Purge and embargo: every window that teaches is over before the first date that is judged."""
    portfolio = replace(PORTFOLIO, validation=Validation(folds=4, fold_months=2))
    frame = history().filter(pl.col("fault") == "none").lazy()
    folds = forward_folds(portfolio, NIGHT)
    assert len(folds) == 4
    for fold in folds:
        teach = teaching_rows(frame, portfolio, SPEC, fold.cut)
        judged = frame.filter(opened_within(portfolio, fold)).collect()
        assert teach.height > 100
        assert judged.height > 50
        assert teach["known_5d"].max() <= fold.cut < judged["day"].min()  # type: ignore[operator]
        assert teach[LABEL].null_count() == 0


@pytest.mark.xdist_group("postgresql")
def test_both_databases_give_the_same_rows(postgresql: Server, tmp_path: Path) -> None:
    warehouse = open_postgresql(postgresql.url(postgresql.create_database()), tmp_path)
    for name in ("market_bars", "market_assets"):
        rows = tables()[name].filter(pl.col("asset").str.starts_with("A"))
        warehouse.load(f"source.{name}", rows.to_arrow(compat_level=pl.CompatLevel.oldest()).to_reader())
    with warehouse.stream(extract_sql(ROOT, PORTFOLIO), {"as_of": NIGHT}) as reader:
        theirs = pl.DataFrame(reader.read_all()).sort("asset", "day")
    ours = history().filter(market="abroad")
    assert theirs.columns == ours.columns
    assert (
        theirs.select("asset", "day", "fault", "known_5d").rows()
        == ours.select("asset", "day", "fault", "known_5d").rows()
    )
    for name in (*PORTFOLIO.features, "rank_5d", "held_5d"):
        np.testing.assert_allclose(theirs[name].to_numpy(), ours[name].to_numpy(), atol=1e-9, err_msg=name)


def turning(steps: int = 80, many: int = 60) -> tuple[pl.DataFrame, np.ndarray[Any, Any]]:
    """A market whose law turns round after three quarters: rows and labels."""
    rng = np.random.default_rng(4)
    day = np.repeat(np.datetime64("2020-01-01") + 7 * np.arange(steps), many)
    x = rng.normal(size=steps * many)
    law = np.where(np.arange(steps) < 0.6 * steps, -0.5, 0.5)[np.repeat(np.arange(steps), many)]
    return pl.DataFrame({"a": day, "x": x}), law * x + rng.normal(size=len(x))


def test_decay_is_learned_where_the_law_turns_and_costs_little_where_it_stays() -> None:
    """The turned law is found by a short half-life, plain regression finds its opposite; and files give it back."""
    frame, y = turning()
    columns = Columns("a", "a", ("a",))
    fitted = DecayedBase.fit(Labelled(frame, y, {"x": Feature("numeric")}, columns, likelihood="gaussian"))
    plain = Ridge(10.0).fit(frame.select("x").to_numpy(), y)
    assert fitted.half_life <= 6
    assert fitted.weights[0] > 0.2 > plain.coef_[0]
    again = DecayedBase.from_text(fitted.to_text())
    assert np.array_equal(again.predict(frame), fitted.predict(frame))
    stays = 0.5 * frame["x"].to_numpy() + np.random.default_rng(5).normal(size=len(y))
    assert DecayedBase.fit(Labelled(frame, stays, {"x": Feature("numeric")}, columns, likelihood="gaussian")).weights[
        0
    ] == pytest.approx(0.5, abs=0.1)
    with pytest.raises(ModelError, match="plain numbers"):
        DecayedBase.fit(Labelled(frame, y, {"x": Feature("numeric")}, columns, likelihood="poisson"))


def week() -> WeekView:
    """Forty dates of thirty assets: one recipe knows what comes a little, the other nothing."""
    rng = np.random.default_rng(6)
    days = [date(2024, 1, 1 + i) if i < 31 else date(2024, 2, i - 30) for i in range(40)]
    came = rng.normal(0, 0.03, 1200)
    judged = pl.DataFrame(
        {
            "asset": [f"S{i:02d}" for i in range(30)] * 40,
            "day": [day for day in days for _ in range(30)],
            "sector": ["a", "b"] * 600,
            "market": ["m"] * 1200,
            "held_5d": came,
            "good": came + rng.normal(0, 0.06, 1200),
            "luck": rng.normal(size=1200),
        }
    )
    return WeekView(PORTFOLIO, SPEC.options, judged, ("good", "luck"))


def test_trials_tell_skill_from_luck_and_the_night_deflates_by_all_of_them() -> None:
    """Numbers are those of the functions on the same dates; a thousand more trials make the same ratio prove less."""
    found = trials(week())
    value = {(row["recipe"], row["metric"]): row["value"] for row in found.iter_rows(named=True)}
    ics = [rank_ic(one["good"], one["held_5d"]) for one in week().judged.partition_by("day")]
    assert value["good", "rank_ic"] == pytest.approx(np.mean(ics))
    assert value["good", "long_short_sharpe"] > 0.5 > value["luck", "long_short_sharpe"]
    equal = week().judged.group_by("day", maintain_order=True).agg(pl.col("held_5d").mean())["held_5d"].to_numpy()
    assert value[EQUAL, "long_only_sharpe"] == pytest.approx(sharpe(equal), abs=0.02)

    known = found.with_columns(as_of=pl.lit(NIGHT), configuration=pl.lit("c"))
    few, many = (deflated(known), deflated(crowd(known, 300)))
    assert many["deflated_sharpe"] < few["deflated_sharpe"]
    assert (few["trials"], many["trials"]) == (2, 302)


def crowd(known: pl.DataFrame, many: int) -> pl.DataFrame:
    """The trials with others that were tried before."""
    rng, line = np.random.default_rng(7), known.filter(recipe="luck", metric="long_short_sharpe")
    tried = [
        line.with_columns(value=pl.lit(rng.normal(0, 0.4)), configuration=pl.lit(f"c{number}"))
        for number in range(many)
    ]
    return pl.concat([*tried, known])


def deflated(known: pl.DataFrame) -> dict[str, float]:
    """What a night says of the long-short portfolio of its champion."""
    rows = week().judged.filter(pl.col("day") == date(2024, 1, 1))
    scores = rows.select(entity="asset", segment="sector", score="good")
    empty = pl.DataFrame(schema={"as_of": pl.Date, "entity": pl.String, "target": pl.String, "score": pl.Float64})
    view = NightView(
        PORTFOLIO, NIGHT, SPEC.options, rows, scores, rows.lazy(), {}, len, lambda: empty, 0, "good", lambda: known
    )  # type: ignore[arg-type]
    measures = derive(view).measures
    assert measures is not None
    curve = measures.filter(kind="long_short", item="good (champion)", metric="sharpe_year")["note"][0]
    assert len(json.loads(curve)["value"]) == 40
    page = sections([MeasureRow(**row) for row in measures.iter_rows(named=True)], KINDS)
    assert any("svg" in str(picture) for one in page for picture in one.pictures)
    mine = measures.filter(kind="long_short", item="good (champion)")
    return dict(mine.select("metric", "value").iter_rows())
