"""Volatility of S&P 500 stocks, of new listings, and of another market: candidates against what a risk team would use.

Real prices (`market_sp500`, `liquidity_us_stocks`), the extract of the portfolio, and recipes as a week fits them:
taught by what was known at the end of the year before, adapted at each month's end to labels known by then, judged on
every asset and day of the year. Losses are QLIKE and the mean squared error of log volatility, the latter after a
constant of the asset learned in training that turns the mean into the median. "Loses" is the share of assets for
which a candidate has a higher QLIKE than the best baseline; the Diebold-Mariano statistic is of its day means.

Settings: `full` (assets with every day), `new` (held-out assets, of which the last 10, 20, 60 or 120 days alone are
seen), `other` (taught on the S&P 500 alone, adapted to small stocks and not retrained, beside models of their own).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from metarisk import training
from metarisk.adapt import BASELINES, FittedModel, adapt
from metarisk.bases.histories import cut, shorts_of
from metarisk.domain import Array, Portfolio
from metarisk.markets.comparing import diebold_mariano
from metarisk.markets.garch import Garch
from metarisk.metrics import qlike
from metarisk.portfolios import extract_sql, load_portfolio
from metarisk.risks.market import SPEC
from metarisk.tasks import LABEL
from metarisk.warehouse import open_warehouse
from tests.benchmarks import harness
from tests.benchmarks.harness import ROOT, Figure, dotted
from tests.warehouses import schema

STOCKS, SMALL = "market_sp500/prices.parquet", "liquidity_us_stocks/prices.parquet"
RECIPES = ("ewma", "har", "har_own", "har_lightgbm", "episodic", "episodic_head")
LENGTHS = (10, 20, 60, 120)
SEASONED = 60
"""Days of an asset from which its rows teach."""


def bars_of(file: Path) -> pl.DataFrame:
    """Daily bars in the layout of `source.market_bars`, with the sector; adjusted closes from returns where need be."""
    frame = pl.read_parquet(file).rename({"ticker": "asset", "symbol": "asset", "date": "day"}, strict=False)
    if "adj_close" not in frame.columns:
        frame = frame.filter(pl.col("volume") > 0).sort("asset", "day")
        grown = (1.0 + pl.col("ret").cast(pl.Float64).fill_null(0.0)).cum_prod().over("asset")
        frame = frame.with_columns(adj_close=grown * pl.col("close").first().over("asset"))
    prices = ("open", "high", "low", "close", "adj_close")
    return frame.select("asset", "day", "sector", pl.col(prices).cast(pl.Float64), "volume").sort("asset", "day")


def extract(bars: pl.DataFrame, portfolio: Portfolio) -> pl.DataFrame:
    """The portfolio's extract of these bars, without those that have a fault."""
    assets = bars.select("asset", market=pl.lit("us"), sector=pl.col("sector").fill_null("none")).unique("asset")
    with tempfile.TemporaryDirectory() as folder:
        warehouse = open_warehouse("duckdb:///warehouse.duckdb", Path(folder), threads=2, memory_mb=4_096)
        warehouse.migrate(*schema())
        for name, frame in (("market_bars", bars.drop("sector")), ("market_assets", assets)):
            oldest = pl.CompatLevel.oldest()
            warehouse.load(f"source.{name}", frame.to_arrow(compat_level=oldest).to_reader())
        with warehouse.stream(extract_sql(ROOT, portfolio), {"as_of": bars["day"].max()}) as reader:
            rows = pl.DataFrame(reader.read_all())
    return rows.filter(fault="none").sort("asset", "day")


@dataclass(frozen=True)
class Year:
    """Rows that teach and rows that are judged, of one horizon."""

    portfolio: Portfolio
    rows: pl.DataFrame
    """All labelled rows, LABEL among them."""
    first: date
    """The last trading day before the year: the first from which is forecast."""

    @classmethod
    def of(cls, rows: pl.DataFrame, portfolio: Portfolio, year: int) -> Year:
        """The year's rows, by the label of the portfolio."""
        label = str(portfolio.columns.value)
        labelled = rows.filter(pl.col(label).is_not_null()).with_columns(pl.col(label).alias(LABEL))
        before = rows.filter(pl.col("day") < date(year, 1, 1))["day"].max()
        assert isinstance(before, date)
        return cls(portfolio, labelled, before)

    @property
    def known(self) -> pl.Expr:
        """The day on which a row's label is known."""
        return pl.col(str(self.portfolio.columns.known_date))

    def teach(self, assets: Sequence[str]) -> pl.DataFrame:
        """Rows whose label was known at the end of the year before."""
        own = pl.col("asset").is_in(list(assets)) & (pl.col("days") > SEASONED)
        return self.rows.filter(own & (self.known <= self.first))

    def judged(self, assets: Sequence[str]) -> pl.DataFrame:
        """Rows whose whole label falls into the year."""
        own = pl.col("asset").is_in(list(assets)) & (pl.col("day") >= self.first)
        return self.rows.filter(own & (self.known < date(self.first.year + 2, 1, 1)))

    def months(self) -> Iterator[tuple[date, date]]:
        """Days at which is adapted, each with the day before which it is used."""
        year = self.first.year + 1
        ends = [date(year, month, 1) - timedelta(days=1) for month in range(2, 13)]
        yield from pairwise([self.first, *ends, date(year + 1, 1, 1)])


@dataclass(frozen=True)
class Forecast:
    """Log of the mean variance (N,) of the judged rows, and what makes it that of the median (N,)."""

    score: Array
    median: Array


def fitted(names: Sequence[str], teach: pl.DataFrame, portfolio: Portfolio) -> dict[str, FittedModel]:
    """Recipes as a week fits them."""
    bases = training.fit_bases(names, teach, portfolio, SPEC)
    return {name: training.fit(name, teach, bases, portfolio, SPEC, seed=0, progress=lambda *_: None) for name in names}


def forecast(
    model: FittedModel, year: Year, teach: pl.DataFrame, judged: pl.DataFrame, assets: Sequence[str], length: int = 0
) -> Forecast:
    """Scores by the model, adapted each month to labelled rows of `assets`; of `length` days of history if not 0."""
    shorts = shorts_of(year.portfolio.features)

    def shown(frame: pl.DataFrame) -> pl.DataFrame:
        return cut(frame, shorts[length]).with_columns(days=pl.lit(length)) if length else frame

    some = shown(teach)
    supports = year.rows.filter(pl.col("asset").is_in(list(assets)) & (pl.col("days") > SEASONED))
    score, adapted = np.zeros(judged.height), None
    median = np.zeros(judged.height)
    for start, end in year.months():
        if adapted is None or model.state:
            adapted = adapt(model, "", supports.filter(year.known <= start), year.portfolio, SPEC)
            if start == year.first:
                median = medians(some, adapted.score(some, year.portfolio)[0], judged)
        now = judged.select((pl.col("day") >= start) & (pl.col("day") < end)).to_series()
        score[now.to_numpy()] = adapted.score(shown(judged.filter(now)), year.portfolio)[0]
    return Forecast(score, median)


def medians(taught: pl.DataFrame, score: Array, judged: pl.DataFrame) -> Array:
    """Mean of log variance less score of each judged row's asset (N,) over rows that taught; of all for a new one."""
    rest = np.log(taught[LABEL].to_numpy()) - score
    own = taught.select("asset", rest=pl.Series(rest)).group_by("asset").mean()
    joined = judged.select("asset").join(own, on="asset", how="left", maintain_order="left")
    return joined["rest"].fill_null(float(rest.mean())).to_numpy()


def garch(year: Year, rows: pl.DataFrame, judged: pl.DataFrame, horizon: int, *, asymmetric: bool) -> Forecast:
    """GARCH(1,1) or GJR by asset, fitted on the days before the year; where it does not converge, its EWMA."""
    found = []
    for (_,), own in rows.sort("day").group_by("asset", maintain_order=True):
        returns, past = own["return_1d"].to_numpy(), (own["day"] <= year.first).to_numpy()
        model = Garch.fit(returns[past], asymmetric=asymmetric)
        variance = np.exp(own["ewma_return"].to_numpy()) if model is None else model.filtered(returns)
        ahead = variance if model is None else model.mean_ahead(variance, horizon)
        found.append(own.select("asset", "day", LABEL, garch=pl.Series(np.log(ahead))))
    table = pl.concat(found)
    past = table.filter((pl.col("day") < year.first) & pl.col("garch").is_finite())
    # Its variance leaves the night out or counts it otherwise: one factor, learned in training, as for all others.
    level = float(np.log(np.mean(past[LABEL].to_numpy() / np.exp(past["garch"].to_numpy()))))
    score = judged.join(table.select("asset", "day", "garch"), on=["asset", "day"], how="left")["garch"].to_numpy()
    return Forecast(score + level, medians(past, past["garch"].to_numpy() + level, judged))


def lines(judged: pl.DataFrame, found: Mapping[str, Forecast], horizon: int, of: str) -> list[dict[str, Any]]:
    """A line a forecast: losses, and the comparison with the baseline that has the lowest QLIKE."""
    y = judged[LABEL].to_numpy()
    frame = judged.select("asset", "day").with_columns(
        *(pl.Series(name, qlike(one.score, y)) for name, one in found.items())
    )
    names = list(found)
    totals = frame.select(pl.col(names).mean()).row(0, named=True)
    best = min((name for name in names if name in BASELINES or name in ("garch", "gjr")), key=lambda name: totals[name])
    days, assets = (frame.group_by(key).agg(pl.col(names).mean()).sort(key) for key in ("day", "asset"))
    made = []
    for name, one in found.items():
        statistic, p = diebold_mariano(days[name] - days[best], horizon, max(horizon - 1, 10))
        made.append(
            {
                "setting": of,
                "forecast": name,
                "rows": judged.height,
                "qlike": totals[name],
                "mse": float(np.mean(0.25 * (np.log(y) - one.score - one.median) ** 2)),
                "loses": float((assets[name] > assets[best]).mean()),  # type: ignore[arg-type]
                "dm": statistic,
                "p": p,
                "best": best,
            }
        )
        print("  ".join(f"{v:.4f}" if isinstance(v, float) else f"{v}" for v in made[-1].values()), flush=True)
    return made


def held_out(asset: str) -> bool:
    """Whether an asset is a new listing: one in five, by its name."""
    return int(hashlib.sha256(asset.encode()).hexdigest(), 16) % 5 == 0


def study(settings: Sequence[str], horizon: int, year: int, every: int) -> list[dict[str, Any]]:
    """All lines of one horizon."""
    portfolio = load_portfolio(ROOT, {1: "market_vol", 5: "market_vol_5d"}[horizon])
    bars = bars_of(harness.data(STOCKS))
    counts = bars.group_by("asset").len().sort("asset")
    most = int(counts["len"].max())  # type: ignore[arg-type]
    rows = extract(bars, portfolio)
    at = Year.of(rows, portfolio, year)
    made = []
    if "full" in settings:
        assets = counts.filter(pl.col("len") == most)["asset"].to_list()[::every]
        teach, judged = at.teach(assets), at.judged(assets)
        found = {
            name: forecast(model, at, teach, judged, assets)
            for name, model in fitted(RECIPES, teach, portfolio).items()
        }
        mine = at.rows.filter(pl.col("asset").is_in(assets))
        found["garch"] = garch(at, mine, judged, horizon, asymmetric=False)
        found["gjr"] = garch(at, mine, judged, horizon, asymmetric=True)
        made += lines(judged, found, horizon, "full")
    if "new" in settings:
        long = counts.filter(pl.col("len") >= most - 9)["asset"].to_list()
        taught, new = [a for a in long if not held_out(a)][::every], [a for a in long if held_out(a)]
        teach, judged = at.teach(taught), at.judged(new)
        models = fitted([name for name in RECIPES if name not in ("ewma", "har_own")], teach, portfolio)
        for length in LENGTHS:
            found = {name: forecast(model, at, teach, judged, taught, length) for name, model in models.items()}
            made += lines(judged, found, horizon, f"new {length}")
    if "other" in settings:
        made += other(rows, portfolio, horizon, every)
    return made


def other(rows: pl.DataFrame, portfolio: Portfolio, horizon: int, every: int) -> list[dict[str, Any]]:
    """Small stocks of 2016 by models of large ones (`from_sp500`), adapted alone, and by models of their own."""
    bars = bars_of(harness.data(SMALL)).filter(~pl.col("asset").is_in(rows["asset"].unique().to_list()))
    counts = bars.group_by("asset").len().filter(pl.col("len") >= 400).sort("asset")
    assets = counts["asset"].to_list()[:: 4 * every]
    there = extract(bars.filter(pl.col("asset").is_in(assets)), portfolio)
    at, home = Year.of(there, portfolio, 2016), Year.of(rows, portfolio, 2016)
    teach, judged = at.teach(assets), at.judged(assets)
    found = {
        name: forecast(model, at, teach, judged, assets) for name, model in fitted(RECIPES, teach, portfolio).items()
    }
    abroad = home.rows["asset"].unique().sort().to_list()[::every]
    for name, model in fitted(("episodic", "episodic_head"), home.teach(abroad), portfolio).items():
        found[f"{name} from_sp500"] = forecast(model, at, teach, judged, assets)
    return lines(judged, found, horizon, "other")


def benchmark(
    quick: bool, settings: str = "full,new,other", horizons: str = "1,5", year: int = 2019, every: int = 1
) -> Sequence[Figure]:
    """Losses of each forecast, those of QLIKE beside the best baseline; quick: one asset in twelve, next day alone."""
    figures = []
    harness.data(STOCKS)
    for horizon in (1,) if quick else [int(text) for text in horizons.split(",")]:
        print(f"horizon {horizon}: setting forecast rows QLIKE MSE loses DM p best", flush=True)
        made = study(settings.split(","), horizon, year, 12 if quick else every)
        losses = {(line["setting"], line["forecast"]): line["qlike"] for line in made}
        for line in made:
            of = dotted("market", f"{horizon}d", line["setting"], line["forecast"])
            ratio = line["qlike"] / losses[line["setting"], line["best"]]
            figures += [
                Figure(f"{of}.qlike", line["qlike"], f"of {line['rows']} rows", ratio, line["best"]),
                Figure(f"{of}.mse", line["mse"], "of log volatility"),
            ]
            if line["forecast"] == line["best"]:
                continue
            figures += [
                Figure(f"{of}.loses", line["loses"], f"share of assets that lose to {line['best']}"),
                Figure(f"{of}.diebold_mariano", line["dm"], f"against {line['best']} with p {line['p']:.4f}"),
            ]
    return figures


if __name__ == "__main__":
    own = harness.options()
    own.add_argument("--settings", default="full,new,other")
    own.add_argument("--horizons", default="1,5")
    own.add_argument("--year", type=int, default=2019)
    own.add_argument("--every", type=int, default=1, help="Teach by one asset of so many.")
    harness.main(benchmark, own)
