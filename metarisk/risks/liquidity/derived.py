"""What a night of liquidity publishes beside its scores: costs and days of selling, and value at risk with them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl

from metarisk.domain import ConfigError, Derived, NightView
from metarisk.markets.books import books
from metarisk.markets.panel import LEAST_SCENARIOS, Panel
from metarisk.markets.simulation import book_tail, completed, tail
from metarisk.risks.liquidity.illiquidity import days_to_liquidate, exit_factor, exogenous_cost

LOOK_BACK = timedelta(days=760)
"""Calendar days that hold two windows of scenarios: one for the tail, and one in which its level is steered."""
Row = dict[str, Any]
MEASURES: dict[str, type[pl.DataType]] = dict.fromkeys(("kind", "item", "segment", "metric", "note"), pl.String)
MEASURES |= dict.fromkeys(("value", "low", "high"), pl.Float64)


def derive(view: NightView) -> Derived:
    """The value itself, without its log; with positions, the cost of selling and the VaR of assets, and of books."""
    options = view.options
    plain = (pl.col("score").exp() - float(options["offset"])).clip(lower_bound=0.0)
    scores = view.scores.select("entity", "segment", plain, target=pl.lit(str(options["value"])))
    if "positions" not in view.tables:
        return Derived(scores)
    if not 0.0 < float(options["participation"]) <= 1.0:
        raise ConfigError(
            f"portfolios/{view.portfolio.name}.toml: participation is {options['participation']}, expected a share of "
            "the value traded, above 0 and up to 1",
            portfolio=view.portfolio.name,
            remedy="correct it in [options]; 0.1 is a tenth of each day's trade",
        )
    panel = _panel(view)
    assets = _assets(view, panel)
    parts = [
        assets.drop_nulls(name).select("entity", "segment", score=name, target=pl.lit(name))
        for name in ("exit_cost_99", "lvar_99_1d")
    ]
    measures = list(_books(view, panel, assets))
    return Derived(pl.concat([scores, *parts]), pl.DataFrame(measures, schema=MEASURES) if measures else None)


def _panel(view: NightView) -> Panel:
    """Returns of each asset against the variance that was known at the close before."""
    columns = view.portfolio.columns
    entity, day = columns.entity, columns.opened_on
    history = view.history.filter(pl.col(day) > pl.lit(view.as_of - LOOK_BACK)).sort(entity, day).collect()
    rows = history.with_columns(
        asset=pl.col(entity).cast(pl.String),
        day=pl.col(day).cast(pl.Date),
        group=pl.col(columns.segments[0]).cast(pl.String).fill_null(""),
        forecast=pl.col("ewma_return").exp(),
        realised=pl.lit(None, pl.Float64),
        following=pl.col("return_1d").shift(-1).over(entity),
    )
    return Panel.of(rows)


def _assets(view: NightView, panel: Panel) -> pl.DataFrame:
    """Of each scored asset: volatility, value traded a day, and VaR 99 with the cost of selling, shares of its value.

    An asset with one spread or none has the median of all.
    """
    tails = panel.tails()
    var_99 = tails[-1].var_99 if tails else tail([]).var_99
    rows = view.rows.select(
        pl.col(view.portfolio.columns.entity).cast(pl.String).alias("entity"),
        "daily_value",
        volatility=pl.col("ewma_return").exp().sqrt(),
        mean=pl.col("spread_mean").fill_null(pl.col("spread_mean").median()).fill_null(0.0),
        deviation=pl.col("spread_sd").fill_null(pl.col("spread_sd").median()).fill_null(0.0),
    )
    cost = exogenous_cost(1.0, rows["mean"], rows["deviation"], float(view.options["spread_scale"]))
    rows = rows.with_columns(exit_cost_99=pl.Series(cost), var_99_1d=pl.col("volatility") * var_99)
    rows = rows.with_columns(pl.col("var_99_1d").fill_nan(None))
    rows = rows.with_columns(lvar_99_1d=pl.col("var_99_1d") + pl.col("exit_cost_99"))
    segments = view.scores.select(pl.col("entity").cast(pl.String), "segment")
    return segments.join(rows, on="entity", how="inner", maintain_order="left")


def _books(view: NightView, panel: Panel, assets: pl.DataFrame) -> Iterator[Row]:
    """Each position and each book; what cannot be valued is said and left out."""
    scenarios, place = panel.last_scenarios(), {name: number for number, name in enumerate(panel.assets)}
    joint = completed(scenarios, panel.groups, seed=view.seed) if len(scenarios) >= LEAST_SCENARIOS else None
    priced = set(assets.drop_nulls("volatility")["entity"]) & place.keys()
    for book, known, left_out in books(view.tables["positions"].collect(), priced):
        yield from left_out
        if known.is_empty():
            continue
        held = known.join(assets, left_on="asset", right_on="entity", how="left", maintain_order="left")
        value = held["held"].to_numpy()
        days = days_to_liquidate(value, held["daily_value"].fill_null(0.0), float(view.options["participation"]))
        cost = np.abs(value) * held["exit_cost_99"].to_numpy()
        sigma = held["volatility"].to_numpy()
        chosen = joint[:, [place[asset] for asset in held["asset"]]] if joint is not None else None
        apart = np.full(len(value), np.nan)
        if chosen is not None:
            parts = (book_tail(chosen[:, [n]], sigma[[n]], value[[n]]) for n in range(len(value)))
            apart = np.array([one.var_99 for one in parts])
        whole = book_tail(chosen, sigma, value).var_99 if chosen is not None else np.nan
        gross = np.abs(value).sum()
        sold = np.abs(value) / np.maximum(days, 1.0)
        numbers = {
            "gross": gross,
            "sold_in_a_day": sold.sum() / gross if gross else np.nan,
            "longest_days": days.max(),
            "var_99_1d": whole,
            "exit_cost_99": cost.sum(),
            "lvar_99_1d": whole + cost.sum(),
        }
        for metric, number in numbers.items():
            yield {"kind": "liquidity_book", "item": book, "metric": metric, "value": float(number)}
        yield from _positions(book, held["asset"].to_list(), value, days, apart, cost)


def _positions(book: str, names: list[str], held: Any, days: Any, var_99: Any, cost: Any) -> Iterator[Row]:
    """A book's positions, those that take longest first; one that nobody trades has no days and a note."""
    for n in sorted(range(len(names)), key=lambda one: (-days[one], names[one])):
        about = {"kind": "liquidation", "item": names[n], "segment": book}
        note = None
        if not np.isfinite(days[n]):
            note = (
                f"{book}: {names[n]} has not been traded for a month, it cannot be sold at any pace. Value it by hand"
            )
        yield about | {"metric": "held", "value": float(held[n]), "note": note}
        numbers = {
            "days": days[n],
            "var_99_1d": var_99[n],
            "exit_cost_99": cost[n],
            "lvar_99_1d": var_99[n] + cost[n],
            "lvar_99_exit": var_99[n] * exit_factor(days[n]) + cost[n],
        }
        for metric, number in numbers.items():
            yield about | {"metric": metric, "value": float(number)}
