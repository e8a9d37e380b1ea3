"""Do signals on S&P 500 stocks earn anything after costs? Rank-IC, net and deflated Sharpe ratios, walking forward.

2015-2019, survivors only, rebalanced each fifth session from 2017 on, the best and the worst tenth in equal parts, ten
basis points a unit of trade. Recipes are fitted again every `--months`; a fit reads no label that was not over at its
cut. A portfolio is told twice: dealing at the close that the signal read, and a session later.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import polars as pl

from metarisk import judging
from metarisk.domain import Validation, WeekView
from metarisk.portfolios import extract_sql, load_portfolio
from metarisk.risks.quant import EQUAL, SPEC, trials
from metarisk.warehouse import open_warehouse

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("METARISK_TEST_DATA", ROOT.parent / "shared" / "data")) / "market_sp500"
SKIPPED = 3
"""Sessions left out at the start, so that rebalancing falls on the baselines' dates."""
LAST, YEARS = date(2019, 12, 31), 3
OPTIONS = dict(SPEC.options) | {"share": 0.1, "max_weight": 1.0, "turnover": 100.0}


def rows() -> pl.DataFrame:
    """The portfolio's extract of these prices."""
    prices = pl.read_parquet(DATA / "prices.parquet").rename({"ticker": "asset", "date": "day"})
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
    at_close = pl.read_parquet(DATA / "prices.parquet").select(asset="ticker", day="date", price="adj_close")
    at_close = at_close.sort("asset", "day").with_columns(
        at_close=pl.col("price").shift(-5).over("asset") / pl.col("price") - 1
    )
    return found.filter(pl.col("fault") == "none").join(at_close.drop("price"), on=["asset", "day"], how="left")


def main() -> int:
    """Run it and print one line a recipe and book."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two refits in place of those of three years")
    parser.add_argument("--months", type=int, default=6)
    parser.add_argument("--recipes", default=",".join(SPEC.candidates))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not DATA.exists():
        print(f"skipped: {DATA} is not there")
        return 0
    started, frame = time.perf_counter(), rows()
    names = tuple(arguments.recipes.split(","))
    folds = 2 if arguments.quick else YEARS * 12 // arguments.months
    portfolio = load_portfolio(ROOT, "signals_5d")
    portfolio = replace(portfolio, validation=Validation(folds=folds, fold_months=arguments.months))
    judged = judging.walk_forward(
        frame.lazy(), portfolio, SPEC, names, LAST, seed=0, progress=lambda *step: print(*step, flush=True)
    )
    told: dict[str, object] = {}
    for timing in ("at_close", "held_5d"):
        held = frame.select("asset", "day", held_5d=timing)
        view = WeekView(portfolio, OPTIONS, judged.join(held, on=["asset", "day"], how="left"), names)
        found = trials(view).pivot("metric", index="recipe", values="value")
        told[timing] = found.to_dicts()
        print(f"\n{timing}, {judged['day'].n_unique()} dates, {judged['asset'].n_unique()} assets")
        for row in found.to_dicts():
            for book in ("long_short", "long_only"):
                if row[f"{book}_sharpe"] is None:
                    continue
                ranking = "" if row["recipe"] == EQUAL else f"IC {row['rank_ic']:+.4f} ICIR {row['icir']:+.2f} "
                print(
                    f"{row['recipe']:18s} {book:10s} {ranking}gross {row[f'{book}_gross_year']:+.3f} "
                    f"net {row[f'{book}_net_year']:+.3f} Sharpe {row[f'{book}_sharpe'] * 52**0.5:+.2f} "
                    f"turnover {row[f'{book}_turnover']:.2f} drawdown {row[f'{book}_drawdown']:.2f}"
                )
    print(f"{time.perf_counter() - started:.0f} s")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
