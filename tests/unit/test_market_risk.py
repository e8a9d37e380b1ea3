"""What a night of market risk publishes beside its variances: on simulated returns whose risk is known."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

from metarisk.domain import Derived, MeasureRow, NightView
from metarisk.markets.panel import WINDOW, Panel
from metarisk.markets.simulation import tail
from metarisk.pages.cards.night.measures import sections
from metarisk.risks.market import SPEC
from metarisk.risks.market.cards import KINDS
from metarisk.risks.market.derived import derive
from tests.unit.market_examples import NIGHT, PORTFOLIO, history


def view(**changes: Any) -> NightView:
    """The demo's night with scores that are the rows' own last month, and two books."""
    rows = history().filter(pl.col("day") == NIGHT, pl.col("fault") == "none")
    scores = rows.select(
        entity="asset", segment=pl.col("sector") + "|" + pl.col("symbol"), score=pl.col("vol_22").exp()
    )
    held = pl.DataFrame(
        {
            "book": ["one", "one", "two", "two"],
            "asset": ["H000", "ZZZZ", "H000", "H002"],
            "held": [100.0, 5.0, 100.0, -100.0],
        }
    )
    empty = pl.DataFrame(schema={"as_of": pl.Date, "entity": pl.String, "target": pl.String, "score": pl.Float64})

    def refuse(_: pl.DataFrame) -> Any:
        raise AssertionError("a model may not judge rows that it has seen")

    given: dict[str, Any] = {
        "portfolio": PORTFOLIO,
        "as_of": NIGHT,
        "options": dict(SPEC.options) | {"garch": False},
        "rows": rows,
        "scores": scores,
        "history": history().filter(pl.col("fault") == "none").lazy(),
        "tables": {"positions": held.lazy()},
        "score": refuse,
        "published": lambda: empty,
        "seed": 7,
    }
    return NightView(**given | changes)


@cache
def night() -> Derived:
    """What is derived of it."""
    return derive(view())


def values(found: pl.DataFrame, kind: str, item: str) -> dict[str, float]:
    rows = found.filter(pl.col("kind") == kind, pl.col("item") == item)
    return dict(zip(rows["metric"].to_list(), rows["value"].to_list(), strict=True))


def test_every_asset_has_volatility_var_and_es_in_order() -> None:
    """VaR 95 < VaR 99, ES 97.5 beyond VaR 95, all in proportion to the asset's volatility."""
    found = night().scores
    wide = found.pivot("target", index="entity", values="score")
    assert wide.height == history().filter(pl.col("day") == NIGHT, pl.col("fault") == "none").height
    assert wide.null_count().sum_horizontal().item() == 0
    assert (
        wide.select((pl.col("var_95_1d") < pl.col("var_99_1d")) & (pl.col("es_975_1d") > pl.col("var_95_1d")))
        .to_series()
        .all()
    )
    ratio = wide["var_99_1d"] / wide["vol_1d"]
    assert ratio.max() == pytest.approx(ratio.min())
    assert 2.0 < ratio[0] < 4.0


def test_books_are_diversified_and_unknown_positions_are_named() -> None:
    """A hedged book risks less than its positions apart; a position that nobody prices is told with a remedy."""
    found = night().measures
    one, two = values(found, "book", "one"), values(found, "book", "two")
    assert one["gross"] == 100.0
    assert one["var_99_1d"] == pytest.approx(one["undiversified"])
    assert two["var_99_1d"] < 0.9 * two["undiversified"]
    note = found.filter(pl.col("kind") == "position")
    assert note["item"].to_list() == ["ZZZZ"]
    assert "Correct its name" in note["note"][0]


def test_measures_tell_of_every_day_that_is_over() -> None:
    """Coverage with bounds, lights of each asset, forecasts beside each other, and series for the pictures."""
    found = night().measures
    coverage = values(found, "var_backtest", "all assets")
    assert 0 < coverage["exceedance_rate"] < 0.03
    assert {"green_share", "green_expected", "tick_loss_bp", "es_ratio", "acerbi_szekely"} <= coverage.keys()
    losses = {item: values(found, "forecast", item)["qlike"] for item in ("ewma", "har", "stand_in")}
    assert losses["stand_in"] < losses["har"] < losses["ewma"]
    path = json.loads(found.filter(kind="volatility")["note"][0])
    assert len(path["day"]) == len(path["forecast"]) == len(path["realised"]) >= 200


def test_published_forecasts_are_what_is_judged() -> None:
    """With sixty nights published the champion's line is theirs, and a forecast that is ten times too high loses."""
    days = history()["day"].unique().sort()[-80:-1]
    known = history().filter(pl.col("day").is_in(days.to_list()), pl.col("fault") == "none").drop_nulls("vol_22")
    said = known.select(as_of="day", entity="asset", target=pl.lit("variance_1d"), score=pl.col("vol_22").exp() * 10)
    found = derive(view(published=lambda: said)).measures
    assert values(found, "forecast", "champion")["qlike"] > values(found, "forecast", "har")["qlike"]
    assert "champion_against_it" in values(found, "forecast", "har")


def test_a_horizon_of_days_publishes_its_volatility_alone() -> None:
    """VaR of one day is not read off the mean of five."""
    target = replace(PORTFOLIO.target, name="variance_5d", horizon_days=7)
    longer = replace(PORTFOLIO, targets=(target,))
    found = derive(view(portfolio=longer, options={"volatility": "vol_5d", "garch": False}))
    assert found.scores["target"].unique().to_list() == ["vol_5d"]
    assert found.measures is None


def panel(rng: np.random.Generator, days: int, scale: np.ndarray) -> Panel:
    """Returns of known volatility, whose forecast is right up to a factor that changes by day."""
    dates = np.datetime64("2020-01-01") + np.arange(days)
    z = 0.5 * rng.standard_normal((days, 1)) + np.sqrt(0.75) * rng.standard_t(6, (days, 30)) / np.sqrt(1.5)
    returns = 0.01 * z * scale[:, None]
    names = tuple(f"a{number}" for number in range(30))
    return Panel(dates, names, ("s",) * 30, np.full((days, 30), 1e-4), returns**2, returns)


def test_steered_levels_keep_their_promise_when_the_scale_changes() -> None:
    """Volatility rises by half against its forecast, then falls below it: both times nearer to one per cent."""
    scale = np.r_[np.ones(400), np.full(250, 1.5), np.full(250, 0.7)]
    made = panel(np.random.default_rng(0), 900, scale)
    z, tails = made.residuals, made.tails()
    for days in (range(400, 650), range(650, 900)):
        steered = np.mean([np.mean(z[day] < -tails[day].var_99) for day in days])
        plain = np.mean([np.mean(z[day] < -tail(z[day - WINDOW : day]).var_99) for day in days])
        assert abs(steered - 0.01) < 0.8 * abs(plain - 0.01)
    assert np.isnan(tails[0].var_99)


def test_a_tail_knows_nothing_of_its_own_day_and_later() -> None:
    """Residuals of a day and of all after it may be anything: the tail said at that close stays."""
    made = panel(np.random.default_rng(1), 300, np.ones(300))
    other = made.following.copy()
    other[250:] *= 5
    changed = Panel(made.days, made.assets, made.groups, made.forecast, made.realised, other)
    before, after = made.tails(), changed.tails()
    assert before[200:251] == after[200:251]
    assert before[252] != after[252]


def test_the_page_has_a_section_for_each_kind() -> None:
    """Pictures are drawn where there are series, and no series is shown as a note."""
    found = night().measures
    rows = [MeasureRow(**row) for row in found.iter_rows(named=True)]
    shown = {section.title: section for section in sections(rows, KINDS)}
    for title in (
        "Volatility, expected and realised",
        "Value at risk on days that are over",
        "Traffic light of each asset",
    ):
        assert "<svg" in shown[title].pictures[0], title
    assert not any(note.startswith("{") for section in shown.values() for note in section.notes)


def test_without_history_a_night_still_publishes_volatility() -> None:
    """The first days of a market: no tail, no book, no back-test."""
    young = history().filter(pl.col("day") > date(2025, 6, 20), pl.col("fault") == "none").lazy()
    found = derive(view(history=young))
    assert found.scores["target"].unique().to_list() == ["vol_1d"]
