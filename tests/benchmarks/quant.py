"""Do signals on S&P 500 stocks earn anything after costs? Rank-IC, net and deflated Sharpe ratios, walking forward.

2015-2019, survivors only, rebalanced each fifth session from 2017 on, the best and the worst tenth in equal parts, ten
basis points a unit of trade. Recipes are fitted again every `--months`; a fit reads no label that was not over at its
cut. A portfolio is told twice: dealing at the close that the signal read, and a session later.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import polars as pl

from metarisk import judging
from metarisk.domain import Validation, WeekView
from metarisk.portfolios import extract_sql, load_portfolio
from metarisk.risks.quant import SPEC
from metarisk.risks.quant.derived import EQUAL, trials
from metarisk.warehouse import open_warehouse
from tests.benchmarks import harness
from tests.benchmarks.harness import ROOT, Figure, dotted

PRICES = "market_sp500/prices.parquet"
SKIPPED = 3
"""Sessions left out at the start, so that rebalancing falls on the baselines' dates."""
LAST, YEARS = date(2019, 12, 31), 3
OPTIONS = dict(SPEC.options) | {"share": 0.1, "max_weight": 1.0, "turnover": 100.0}

BOOK = {
    "sharpe": "a year after costs",
    "gross_year": "a year before costs",
    "net_year": "a year after costs",
    "turnover": "of the book a date",
    "drawdown": "deepest loss",
}
UNITS = {"rank_ic": "mean over dates", "icir": "of a year"} | {
    f"{book}_{name}": unit for book in ("long_short", "long_only") for name, unit in BOOK.items()
}
"""Of what is told of each recipe."""


def rows() -> pl.DataFrame:
    """The portfolio's extract of these prices."""
    prices = pl.read_parquet(harness.data(PRICES)).rename({"ticker": "asset", "date": "day"})
    first = prices["day"].unique().sort()[SKIPPED]
    prices = prices.filter(pl.col("day") >= first)
    portfolio = load_portfolio(ROOT, "signals_5d")
    with tempfile.TemporaryDirectory() as folder:
        warehouse = open_warehouse("duckdb:///w.duckdb", Path(folder), threads=1, memory_mb=2000)
        assets = prices.select("asset", "sector", market=pl.lit("us")).unique("asset").sort("asset")
        for name, table in (("market_bars", prices.drop("sector")), ("market_assets", assets)):
            warehouse.load(f"source.{name}", table.to_arrow(compat_level=pl.CompatLevel.oldest()).to_reader())
        with warehouse.stream(extract_sql(ROOT, portfolio), {"as_of": LAST}) as reader:
            found = pl.concat([pl.DataFrame(batch) for batch in reader])
    at_close = pl.read_parquet(harness.data(PRICES)).select(asset="ticker", day="date", price="adj_close")
    at_close = at_close.sort("asset", "day").with_columns(
        at_close=pl.col("price").shift(-5).over("asset") / pl.col("price") - 1
    )
    return found.filter(pl.col("fault") == "none").join(at_close.drop("price"), on=["asset", "day"], how="left")


def benchmark(quick: bool, months: int = 6, recipes: str = ",".join(SPEC.candidates)) -> Sequence[Figure]:
    """Ranking and books of each recipe, dealt at the close and a session later."""
    frame, names = rows(), tuple(recipes.split(","))
    folds = 2 if quick else YEARS * 12 // months
    portfolio = load_portfolio(ROOT, "signals_5d")
    portfolio = replace(portfolio, validation=Validation(folds=folds, fold_months=months))
    judged = judging.walk_forward(
        frame.lazy(), portfolio, SPEC, names, LAST, seed=0, progress=lambda *step: print(*step, flush=True)
    )
    print(f"{judged['day'].n_unique()} dates, {judged['asset'].n_unique()} assets")
    figures = []
    for timing in ("at_close", "held_5d"):
        held = frame.select("asset", "day", held_5d=timing)
        view = WeekView(portfolio, OPTIONS, judged.join(held, on=["asset", "day"], how="left"), names)
        for row in trials(view).pivot("metric", index="recipe", values="value").to_dicts():
            of = "equal" if row["recipe"] == EQUAL else row["recipe"]
            for name, unit in UNITS.items():
                if (value := row.get(name)) is not None:
                    yearly = value * 52**0.5 if name.endswith("_sharpe") else value
                    figures.append(Figure(dotted("quant", timing, of, name), yearly, unit))
    return figures


if __name__ == "__main__":
    own = harness.options()
    own.add_argument("--months", type=int, default=6)
    own.add_argument("--recipes", default=",".join(SPEC.candidates))
    harness.main(benchmark, own)
