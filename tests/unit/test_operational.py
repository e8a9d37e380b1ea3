"""Operational risk: what a night derives of counts and amounts, and the demo's book on both warehouses."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from metarisk.domain import DataError, Derived, NightView, Warehouse
from metarisk.portfolios import also_sql, extract_sql, load_portfolio
from metarisk.risks.operational import SPEC
from metarisk.risks.operational import book as demo
from metarisk.risks.operational.derived import FEWEST, derive, periods_a_year
from tests.warehouses import ROOT

PORTFOLIO = load_portfolio(ROOT, "operational_losses")
AS_OF = date(2025, 6, 30)
CELLS = ("payments|execution", "payments|systems", "trading|damage")
RATES = (0.4, 0.2, 0.0)
"""Events by exposure of each cell; nothing ever happens in the last one."""


def amounts(sizes: tuple[int, ...] = (160, 60, 0), seed: int = 0) -> pl.DataFrame:
    """Usable losses of the cells, in one currency."""
    rng = np.random.default_rng(seed)
    cell = np.repeat(np.arange(len(sizes)), sizes)
    day = [date(2024, 1, 1) + timedelta(days=int(number)) for number in rng.integers(0, 500, len(cell))]
    return pl.DataFrame(
        {
            "loss_id": [f"E{number:04d}" for number in range(len(cell))],
            "business_line": [CELLS[number].split("|")[0] for number in cell],
            "event_type": [CELLS[number].split("|")[1] for number in cell],
            "occurred_on": day,
            "known_on": [each + timedelta(days=9) for each in day],
            "amount": 1_000 + 9_000 * rng.pareto(2.5, len(cell)),
            "currency": ["EUR"] * len(cell),
        }
    )


def view(losses: pl.DataFrame | None = None, **options: Any) -> NightView:
    """A night of four sites in three cells with two years of quarters behind them."""
    quarters = [date(2023 + number // 4, 3 * (number % 4) + 1, 1) for number in range(8)]
    lines = [
        {"business_line": line, "event_type": event, "exposure": 10.0 * (site + 1), "opened_on": quarter, "rate": rate}
        for quarter in [*quarters, date(2025, 4, 1)]
        for site in range(4)
        for (line, event), rate in zip((cell.split("|") for cell in CELLS), RATES, strict=True)
    ]
    frame = pl.DataFrame(lines).with_columns(
        exposure_id=pl.format("S{}", pl.int_range(pl.len()) // 3 % 4),
        events=pl.when(pl.col("opened_on") < date(2025, 1, 1)).then((pl.col("rate") * pl.col("exposure")).round()),
    )
    rows = frame.filter(pl.col("events").is_null())
    score = (rows["rate"] * rows["exposure"]).clip(0.05).alias("score")
    scores = pl.DataFrame(
        {
            "entity": [f"{a}:{b}" for a, b in rows.select("exposure_id", "event_type").iter_rows()],
            "segment": ["|".join(key) for key in rows.select("business_line", "event_type").iter_rows()],
            "score": score,
            "score_low": score / 1.2,
            "score_high": score * 1.2,
        }
    )
    return NightView(
        PORTFOLIO,
        AS_OF,
        dict(SPEC.options) | {"collected_from": 1_000.0, "currency": "EUR", "correlation": 0.3} | options,
        rows,
        scores,
        frame.lazy(),
        {"losses": (amounts() if losses is None else losses).lazy()},
        lambda known: np.maximum((known["rate"] * known["exposure"]).to_numpy(), 0.05),
        lambda: pl.DataFrame(),
        seed=0,
    )


def value(found: Derived, kind: str, item: str, metric: str) -> dict[str, Any]:
    assert found.measures is not None
    (row,) = found.measures.filter(kind=kind, item=item, metric=metric).to_dicts()
    return row


@pytest.fixture(scope="module")
def night() -> Derived:
    return derive(view())


def test_capital_is_what_a_bad_year_costs_beyond_the_expected(night: Derived) -> None:
    apart, together = "all cells, independent", "all cells, correlation 0.30"
    for item in (*CELLS, apart, together):
        year, expected, economic = (
            value(night, "capital", item, metric) for metric in ("year_999", "expected_loss", "economic_capital")
        )
        assert year["low"] < year["value"] < year["high"]
        assert economic["value"] == pytest.approx(year["value"] - expected["value"])
    simulated = value(night, "capital", together, "simulated_year_999")
    assert simulated["low"] < simulated["value"] < simulated["high"]
    assert value(night, "capital", apart, "year_999")["value"] < value(night, "capital", together, "year_999")["value"]
    # half of the losses of these cells have a shape of 1 / 2.5
    shape = value(night, "capital", CELLS[0], "tail_shape")
    assert shape["low"] < 0.4 < shape["high"]
    assert [value(night, "capital", cell, "losses")["value"] for cell in CELLS] == [160, 60, 0]


def test_expected_losses_of_rows_are_those_of_their_cells(night: Derived) -> None:
    assert night.scores is not None
    assert set(night.scores["target"]) == {"expected_loss_12m"}
    sums = dict(night.scores.group_by("segment").agg(pl.col("score").sum()).iter_rows())
    for cell in CELLS:
        assert sums[cell] == pytest.approx(value(night, "capital", cell, "expected_loss")["value"])


def test_a_cell_without_events_has_a_bound(night: Derived) -> None:
    known, year, bound = (
        value(night, "frequency", CELLS[2], name) for name in ("events_known", "events_year", "bound_year")
    )
    assert known["value"] == 0
    assert year["value"] == pytest.approx(4 * 4 * 0.05)
    # the rule of three over 8 quarters of the exposure that a year has four of
    assert bound["value"] == pytest.approx(-math.log(0.05) * 4 / 8)
    assert "no event so far" in bound["note"]
    busy = value(night, "frequency", CELLS[0], "events_year")
    assert busy["value"] == pytest.approx(4 * 0.4 * 100)
    assert (busy["low"], busy["high"]) == pytest.approx((busy["value"] / 1.2, busy["value"] * 1.2))


def test_pictures_have_their_points(night: Derived) -> None:
    assert night.measures is not None
    excess = night.measures.filter(kind="mean_excess", metric="mean_excess")
    assert excess["item"].cast(pl.Float64).is_sorted()
    assert (excess["low"] < excess["value"]).all()
    qq = night.measures.filter(kind="tail_qq")
    assert qq.height > 20
    assert np.corrcoef(qq["item"].cast(pl.Float64), qq["value"])[0, 1] > 0.95


def test_a_wrong_loss_is_set_aside_with_its_remedy(night: Derived) -> None:
    good = amounts()
    wrong = good.head(5).with_columns(
        loss_id=pl.Series(["E0000", "X1", "X2", "X3", "X4"]),
        currency=pl.Series(["EUR", "USD", "EUR", "EUR", "EUR"]),
        amount=pl.Series([5_000.0, 5_000.0, -5_000.0, 400.0, 5_000.0]),
        known_on=pl.Series([*good["known_on"][:4], date(2020, 1, 1)]),
    )
    found = derive(view(pl.concat([good, wrong])))
    assert found.measures is not None
    aside = found.measures.filter(kind="losses_aside")
    assert aside["value"].to_list() == [1.0] * 5
    for name, column, said in zip(
        ("E0000", "X1", "X2", "X3", "X4"),
        ("loss_id", "currency", "amount", "amount", "known_on"),
        ("came more than once", "are not in EUR", "have no amount above 0", "are below 1,000", "before they happened"),
        strict=True,
    ):
        (note,) = (note for note in aside["note"] if f"the first is {name};" in note)
        assert f"portfolio operational_losses, column {column}, 202" in note
        assert said in note
        assert "Remedy: " in note
    assert found.measures.filter(pl.col("kind") == "capital").equals(
        night.measures.filter(pl.col("kind") == "capital")  # type: ignore[union-attr]
    )


def test_currencies_are_not_mixed_unknowingly() -> None:
    mixed = amounts().with_columns(currency=pl.Series(["EUR"] * 100 + ["USD"] * 120))
    with pytest.raises(DataError, match="2 currencies: EUR, USD") as error:
        derive(view(mixed, currency=""))
    assert (error.value.portfolio, error.value.column, error.value.on) == ("operational_losses", "currency", AS_OF)
    single = derive(view(amounts((5, 0, 0)), currency=""))
    assert value(single, "capital", "no capital", "losses")["value"] == 5


def test_too_few_losses_give_no_capital_and_no_mean_refuses_it() -> None:
    few = derive(view(amounts((FEWEST - 1, 0, 0))))
    assert few.scores is None
    assert "30 are needed" in value(few, "capital", "no capital", "losses")["note"]
    assert value(few, "frequency", CELLS[0], "events_known")["value"] > 0
    many = amounts((1_500, 60, 0))
    endless = many.with_columns(amount=1_000 + 1_000 * pl.Series(np.random.default_rng(0).pareto(0.6, many.height)))
    refused = derive(view(endless))
    assert refused.scores is None
    note = value(refused, "capital", "refused", "losses")["note"]
    assert note.startswith("portfolio operational_losses, as of 2025-06-30: the losses of")
    assert "tail shape of 1 or more" in note


def test_one_loss_in_a_cell_is_enough() -> None:
    found = derive(view(amounts((60, 1, 0))))
    year = value(found, "capital", CELLS[1], "year_999")
    assert 0 < year["low"] < year["value"] < year["high"] < math.inf


def test_a_portfolio_without_amounts_has_frequencies_alone() -> None:
    found = derive(replace(view(), tables={}))
    assert found.measures is not None
    assert set(found.measures["kind"]) == {"frequency"}
    assert periods_a_year(PORTFOLIO) == pytest.approx(4)


# the demo's book


def book(scale: float = 0.25, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    tables = demo.generate(scale, seed)
    return tuple(pl.DataFrame(tables[name].read_all()) for name in ("demo_op_exposures", "demo_op_losses"))  # type: ignore[return-value]


def test_the_book_is_the_same_anywhere_and_as_documented() -> None:
    (exposures, losses), again, other = book(1.0), book(1.0), book(1.0, seed=1)
    assert exposures.equals(again[0])
    assert losses.equals(again[1])
    assert not losses.equals(other[1])
    small, _ = book()
    assert exposures.drop("exposure").head(small.height).equals(small.drop("exposure"))
    assert exposures["unit_id"].n_unique() == demo.SITES
    yearly = exposures.group_by(pl.col("quarter_start").dt.year().alias("year")).agg(pl.col("exposure").sum())
    assert yearly.sort("year")["exposure"].is_sorted()
    assert exposures.filter(pl.col("exposure") <= 0).height > 3
    assert losses["loss_id"].is_duplicated().sum() >= 2
    assert losses.filter(pl.col("amount") < 0).height >= 2
    assert set(losses["currency"]) == {"EUR", "USD"}
    assert losses.filter(pl.col("amount") > 0)["amount"].min() >= demo.FLOOR  # type: ignore[operator]
    quiet = losses.filter(pl.col("event_type") == "damage").join(
        exposures.select("unit_id", "business_line").unique(), on="unit_id"
    )
    assert not set(quiet["business_line"]) & {"custody", "advice"}
    with pytest.raises(ValueError, match="gives 5 sites"):
        demo.generate(0.1)


def test_the_extract_counts_what_was_known(empty_warehouse: Warehouse) -> None:
    for name, reader in demo.generate(0.25).items():
        empty_warehouse.load(name, reader)
    exposures, losses = book()
    as_of = date(2024, 3, 15)
    with empty_warehouse.stream(extract_sql(ROOT, PORTFOLIO), {"as_of": as_of}) as reader:
        rows = pl.DataFrame(reader.read_all())
    assert rows.height == exposures.filter(pl.col("quarter_start") <= as_of).height
    assert rows.select("exposure_id", "opened_on").is_unique().all()
    # a brute-force twin on some rows: counts of the quarter, and of the year before as known at its opening
    twin = losses.filter(pl.col("amount") > 0).unique("loss_id")
    wanted = exposures.filter(pl.col("quarter_start") <= as_of).sample(120, seed=3)
    for row in wanted.to_dicts():
        (got,) = rows.filter(
            (pl.col("exposure_id") == f"{row['unit_id']}:{row['event_type']}")
            & (pl.col("opened_on") == row["quarter_start"])
        ).to_dicts()
        mine = twin.filter((pl.col("unit_id") == row["unit_id"]) & (pl.col("event_type") == row["event_type"]))
        start, day, known = row["quarter_start"], pl.col("occurred_on"), pl.col("known_on")
        inside = (day >= start) & (day < row["quarter_end"]) & (known <= row["final_on"])
        final = row["final_on"] <= as_of
        assert got["events"] == (mine.filter(inside).height if final else None)
        assert got["known_date"] == (row["final_on"] if final else None)
        before = mine.filter((day < start) & (day >= start.replace(year=start.year - 1)) & (known <= start)).height
        if row["exposure"]:
            assert got["rate_before"] == pytest.approx(before / row["exposure"])
    assert rows["events"].sum() > 100
    (amounts_sql,) = also_sql(ROOT, PORTFOLIO).values()
    with empty_warehouse.stream(amounts_sql, {"as_of": as_of}) as reader:
        told = pl.DataFrame(reader.read_all())
    assert told.height == losses.filter(pl.col("known_on") <= as_of).height
