"""Generated prices, run through the portfolio's own extract in an embedded database."""

from __future__ import annotations

from datetime import date
from functools import lru_cache

import duckdb
import polars as pl

from metarisk.domain import Portfolio
from metarisk.markets import prices
from metarisk.portfolios import extract_sql, load_portfolio
from tests.warehouses import ROOT

NIGHT = date(2025, 6, 30)
PORTFOLIO = load_portfolio(ROOT, "market_vol")


def extract(
    bars: pl.DataFrame, assets: pl.DataFrame, as_of: date = NIGHT, portfolio: Portfolio = PORTFOLIO
) -> pl.DataFrame:
    """What a portfolio's extract makes of bars, sorted by asset and day."""
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1; CREATE SCHEMA source")
        connection.register("bars", bars.to_arrow())
        connection.register("assets", assets.to_arrow())
        connection.execute("CREATE TABLE source.market_bars AS FROM bars")
        connection.execute("CREATE TABLE source.market_assets AS FROM assets")
        found = connection.execute(extract_sql(ROOT, portfolio), {"as_of": as_of}).pl()
    return found.sort("asset", "day")


@lru_cache(maxsize=1)
def tables() -> dict[str, pl.DataFrame]:
    """Source tables of twenty assets in two markets."""
    return {name: pl.DataFrame(reader.read_all()) for name, reader in prices.generate(0.3).items()}


@lru_cache(maxsize=1)
def history() -> pl.DataFrame:
    """The extract of these tables on the demo's night."""
    return extract(tables()["market_bars"], tables()["market_assets"])
