"""What a night of signals publishes beside its scores: rank and suggested weight, and what trials prove."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from metarisk.domain import Array, Derived, NightView, WeekView
from metarisk.metrics import Interval, paired_bootstrap
from metarisk.risks.quant.earning import Path, drawdown, equity, limited, tilt, walk
from metarisk.risks.quant.proving import deflated_sharpe, probabilistic_sharpe, rank_ic, sharpe

WEEKS = 52
"""Rebalancing dates a year."""
EQUAL = "1/N"
"""The portfolio of all assets in equal parts, beside which long-only ones are told."""
BOOKS = {"long_short": True, "long_only": False}
"""Portfolios of a signal, and whether they sell the worst."""
Row = dict[str, Any]
_TEXTS, _NUMBERS = ("kind", "item", "segment", "metric", "note"), ("value", "low", "high")
MEASURES: dict[str, type[pl.DataType]] = {**dict.fromkeys(_TEXTS, pl.String), **dict.fromkeys(_NUMBERS, pl.Float64)}
TRIALS: dict[str, type[pl.DataType]] = {**dict.fromkeys(("recipe", "metric", "note"), pl.String)}
TRIALS |= dict.fromkeys(_NUMBERS, pl.Float64)


def trials(week: WeekView) -> pl.DataFrame:
    """Rank-IC and portfolios of every recipe on the judged dates, and of equal weights: a row a recipe and metric."""
    rows = list(_judged(week))
    return pl.DataFrame(rows, schema=TRIALS)


def _judged(week: WeekView) -> Iterator[Row]:
    columns, options = week.portfolio.columns, week.options
    asset = pl.col(columns.entity).cast(pl.String).alias("asset")
    frame = week.judged.with_columns(asset).filter(pl.col("held_5d").is_not_null()).sort(columns.opened_on, "asset")
    dates = frame.partition_by(columns.opened_on, maintain_order=True)
    if not dates:
        return
    days = [str(date[columns.opened_on][0]) for date in dates]
    returns = [dict(zip(date["asset"].to_list(), date["held_5d"].to_list(), strict=True)) for date in dates]
    cost = float(options["cost_bp"]) / 1e4
    for name in week.names:
        ics = np.array([rank_ic(date[name].to_numpy(), date["held_5d"].to_numpy()) for date in dates])
        yield from ({"recipe": name} | row for row in _ranking(ics))
        for book, short in BOOKS.items():
            weights: list[dict[str, float]] = []
            for date in dates:
                wanted = _weights(date, date[name].to_numpy(), columns.segments[0], options, short=short)
                held = weights[-1] if weights else {}
                weights.append(limited(wanted, held, float(options["turnover"])))
            yield from ({"recipe": name} | row for row in _earned(book, walk(weights, returns, cost), days))
    equal = [dict.fromkeys(date, 1 / len(date)) for date in returns]
    yield from ({"recipe": EQUAL} | row for row in _earned("long_only", walk(equal, returns, cost), days))


def _weights(
    rows: pl.DataFrame, score: Array, group: str, options: Mapping[str, Any], *, short: bool
) -> dict[str, float]:
    """Weights by asset, of rows (N,) with the column `asset` and of their scores (N,)."""
    groups = rows[group].cast(pl.String).fill_null("").to_numpy()
    found = tilt(
        score,
        groups,
        float(options["share"]),
        float(options["max_weight"]),
        short=short,
        neutral=bool(options["neutral"]),
    )
    return dict(zip(rows["asset"].to_list(), found.tolist(), strict=True))


def _ranking(ics: Array) -> Iterator[Row]:
    known = ics[np.isfinite(ics)]
    if len(known) < 2:
        return
    mean = paired_bootstrap(known, np.arange(len(known)))
    yield _number("rank_ic", mean)
    yield {"metric": "icir", "value": float(known.mean() / known.std() * np.sqrt(WEEKS)) if np.ptp(known) else None}


def _earned(book: str, path: Path, days: list[str]) -> Iterator[Row]:
    """What a book earned; the ratio is that of one period, and its note has the value day by day."""
    ratio, net = sharpe(path.net), path.net
    if not np.isfinite(ratio):
        return
    note = json.dumps({"day": days, "value": np.round(equity(net), 6).tolist()})
    yield {"metric": f"{book}_sharpe", "value": ratio, "note": note}
    numbers = {
        "periods": float(len(net)),
        "skew": float(stats.skew(net)),
        "kurtosis": float(stats.kurtosis(net, fisher=False)),
        "net_year": float(net.mean() * WEEKS),
        "gross_year": float(path.gross.mean() * WEEKS),
        "turnover": float(path.turnover.mean()),
        "drawdown": drawdown(net),
    }
    for metric, value in numbers.items():
        yield {"metric": f"{book}_{metric}", "value": value}


def _number(metric: str, span: Interval) -> Row:
    return {"metric": metric, "value": span.mean, "low": _finite(span.low), "high": _finite(span.high)}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def derive(view: NightView) -> Derived:
    """Rank (1 is the best) and suggested weight of every asset, and what the trials say of such signals."""
    told = view.scores.select("entity", "segment", "score")
    rank = told.with_columns(pl.col("score").rank("ordinal", descending=True).cast(pl.Float64), target=pl.lit("rank"))
    columns = view.portfolio.columns
    groups = view.rows.select(pl.col(columns.entity).cast(pl.String).alias("asset"), pl.col(columns.segments[0]))
    wanted = _weights(
        groups, told["score"].to_numpy(), columns.segments[0], view.options, short=bool(view.options["short"])
    )
    before = view.published().filter(pl.col("target") == "weight")
    last = before.filter(pl.col("as_of") == pl.col("as_of").max())
    held = {name: weight for name, weight in last.select("entity", "score").iter_rows() if weight}
    found = limited(wanted, held, float(view.options["turnover"]))
    weight = told.with_columns(
        score=pl.col("entity").replace_strict(found, default=0.0, return_dtype=pl.Float64), target=pl.lit("weight")
    )
    measures = [*_suggested(found, wanted, held), *_proofs(view)]
    return Derived(pl.concat([rank, weight]), pl.DataFrame(measures, schema=MEASURES))


def _suggested(found: Mapping[str, float], wanted: Mapping[str, float], held: Mapping[str, float]) -> Iterator[Row]:
    weights = np.array(list(found.values()))
    numbers = {
        "long": float(weights[weights > 0].sum()),
        "short": float(weights[weights < 0].sum()),
        "largest": float(np.abs(weights).max(initial=0.0)),
        "trades": sum(abs(found[name] - held.get(name, 0.0)) for name in sorted(found)),
        "wanted_trades": sum(abs(wanted.get(name, 0.0) - held.get(name, 0.0)) for name in sorted(found)),
    }
    for metric, value in numbers.items():
        yield {"kind": "suggested", "item": "all assets", "metric": metric, "value": value}


def _proofs(view: NightView) -> Iterator[Row]:
    """The newest trial of each recipe, its Sharpe ratios deflated by all configurations that were ever tried."""
    tried = None if view.trials is None else view.trials()
    if tried is None or tried.is_empty():
        return
    configurations = tried.group_by("recipe", "configuration", "metric", maintain_order=True).last()
    newest = tried.group_by("recipe", "metric", maintain_order=True).last()
    recipes = sorted(newest["recipe"].unique(), key=lambda name: (name != view.recipe, name))
    for recipe in recipes:
        lines = {row["metric"]: row for row in newest.filter(pl.col("recipe") == recipe).iter_rows(named=True)}
        item = f"{recipe} (champion)" if recipe == view.recipe else recipe
        for metric in ("rank_ic", "icir"):
            if metric in lines:
                yield {"kind": "signal", "item": item} | {k: lines[metric][k] for k in ("metric", *_NUMBERS)}
        for book in BOOKS:
            if f"{book}_sharpe" in lines:
                yield from _book(book, item, recipe, lines, configurations)


def _book(book: str, item: str, recipe: str, lines: Mapping[str, Row], configurations: pl.DataFrame) -> Iterator[Row]:
    about, ratio = {"kind": book, "item": item}, lines[f"{book}_sharpe"]["value"]
    periods, skew, kurtosis = (lines[f"{book}_{name}"]["value"] for name in ("periods", "skew", "kurtosis"))
    for metric in ("net_year", "gross_year", "turnover", "drawdown"):
        yield about | {"metric": metric, "value": lines[f"{book}_{metric}"]["value"]}
    note = lines[f"{book}_sharpe"]["note"]
    yield about | {"metric": "sharpe_year", "value": ratio * np.sqrt(WEEKS), "note": note}
    if recipe == EQUAL:
        # Nobody chose it by how it did.
        chance = probabilistic_sharpe(ratio, 0.0, int(periods), skew, kurtosis)
        yield about | {"metric": "deflated_sharpe", "value": chance}
        return
    ratios = configurations.filter((pl.col("metric") == f"{book}_sharpe") & (pl.col("recipe") != EQUAL))["value"]
    variance = float(np.var(ratios.to_numpy()))
    chance = deflated_sharpe(ratio, int(periods), skew, kurtosis, trials=len(ratios), variance=variance)
    yield about | {"metric": "deflated_sharpe", "value": chance}
    yield about | {"metric": "trials", "value": float(len(ratios))}
