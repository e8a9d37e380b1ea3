"""New listings: how well is the illiquidity of the next five days foretold where 10, 20, 60 or 120 days are known?

US stocks of 2015 and 2016 (`liquidity_us_stocks`), features by the portfolio's own SELECT. Of the stocks with at least
440 days a fifth, by a hash of the name, is held out of training, and of each the last k days alone are visible. What is
taught is known before the first day that is judged, in the second half of 2016. A row is judged that has a label and a
trade on its day. With --validate, a fifth of the stocks that teach is held out instead and March to June 2016 are
judged: choices were made there. Intervals are percentile bootstraps of whole dates in blocks of ten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from metarisk.adapt.recipes import RECIPES
from metarisk.bases import CrossFitted
from metarisk.bases.crossfit import blend
from metarisk.domain import Array
from metarisk.portfolios import extract_sql, load_portfolio
from tests.benchmarks import harness
from tests.benchmarks.harness import ROOT, Figure, dotted

PRICES = "liquidity_us_stocks/prices.parquet"
PORTFOLIO = load_portfolio(ROOT, "liquidity_5d")
LENGTHS = (10, 20, 60, 120)
BASELINES = ("last_value", "ewma", "har", "har_lightgbm")
DAYS, FIRST_TAUGHT = 440, 60
KNOWN = {10: 0.4486, 20: 0.4184, 60: 0.4170, 120: 0.4170}
"""MSE that LightGBM on HAR inputs and the sector has elsewhere on these rows."""


def held_out(name: str, salt: str = "") -> bool:
    """Whether a stock is one of the fifth that does not teach."""
    return int(hashlib.sha256((salt + name).encode()).hexdigest(), 16) % 5 == 0


def rows(file: Path, folder: Path) -> pl.DataFrame:
    """The portfolio's extract of the data; adjusted closes are the product of the returns that come with them.

    After days that are missing no return comes; there the closes' own ratio stands in.
    """
    cached = folder / "liquidity_rows.parquet"
    if cached.exists():
        return pl.read_parquet(cached)
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1; CREATE SCHEMA source")
        connection.execute(
            "CREATE TABLE source.market_bars AS WITH bars AS (SELECT symbol AS asset, date AS day, "
            "CAST(COLUMNS(['open', 'high', 'low', 'close', 'volume', 'ret']) AS DOUBLE), "
            "CAST(close AS DOUBLE) / lag(CAST(close AS DOUBLE)) OVER (PARTITION BY symbol ORDER BY date) AS ratio "
            f"FROM '{file}') SELECT asset, day, open, high, low, close, volume, "
            "exp(sum(ln(greatest(coalesce(1 + ret, ratio, 1), 0.0001))) "
            "OVER (PARTITION BY asset ORDER BY day)) AS adj_close FROM bars"
        )
        connection.execute(
            "CREATE TABLE source.market_assets AS SELECT symbol AS asset, 'us' AS market, "
            f"max(sector) AS sector FROM '{file}' GROUP BY symbol"
        )
        found = connection.execute(extract_sql(ROOT, PORTFOLIO), {"as_of": date(2016, 12, 30)}).pl()
    found.write_parquet(cached)
    return found


def labels(file: Path) -> pl.DataFrame:
    """The judged label by asset and day: log of mean illiquidity + 0.00001 of five days, of which three are known."""
    bars = pl.read_parquet(file).select("date", "close", "volume", "ret", asset="symbol").sort("asset", "date")
    number = pl.DataFrame({"date": bars["date"].unique().sort()}).with_row_index("number")
    bars = bars.join(number, on="date", maintain_order="left")
    count, names = number.height, bars["asset"].unique(maintain_order=True).to_list()
    place = dict(zip(names, range(len(names)), strict=True))
    column = bars["asset"].replace_strict(place).to_numpy()
    moved = np.abs(bars["ret"].cast(pl.Float64).fill_null(np.nan).to_numpy())
    traded = (bars["close"].cast(pl.Float64) * bars["volume"]).to_numpy()
    bad = (bars["volume"].to_numpy() <= 0) | ~np.isfinite(moved) | (moved > 0.5)
    day = np.full((count + 5, len(names)), np.nan)
    day[bars["number"].to_numpy(), column] = np.where(bad, np.nan, moved * 100 / (np.maximum(traded, 1) / 1e6))
    ahead = np.stack([day[step : count + step] for step in range(1, 6)])
    seen = np.isfinite(ahead).sum(axis=0)
    label = np.log(np.where(seen >= 3, np.nansum(ahead, axis=0) / np.maximum(seen, 1), np.nan) + 1e-5)
    label[-5:] = np.nan
    rows_, columns = np.nonzero(np.isfinite(label))
    return pl.DataFrame(
        {
            "asset": np.array(names)[columns],
            "day": number["date"].to_numpy()[rows_],
            "label": label[rows_, columns],
            "number": rows_,
            "traded": np.isfinite(day[rows_, columns]),
        }
    ).with_columns(pl.col("day").cast(pl.Date))


def split(found: pl.DataFrame, known: pl.DataFrame, validate: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows that teach and rows that are judged."""
    first, last = (date(2016, 3, 1), date(2016, 7, 1)) if validate else (date(2016, 7, 1), date(2017, 1, 1))
    joined = found.filter(fault="none").join(known, on=["asset", "day"], how="inner")
    count = pl.read_parquet(harness.data(PRICES), columns=["symbol"]).group_by("symbol").len()
    full = count.filter(pl.col("len") >= DAYS)["symbol"].to_list()
    own = {name: held_out(name) for name in full}
    chosen = {name: held_out(name, "v") for name in full if not own[name]} if validate else own
    days = joined.select("day", "number").unique().sort("day")
    before = int(days.filter(pl.col("day") < first)["number"].max())
    end, newest = int(days.filter(pl.col("day") < last)["number"].max()), int(days["number"].max())
    # Labels end before `last`; the newest days of all have none and are not among these.
    end = newest if end == newest else end - 5
    teach = joined.filter(
        pl.col("asset").is_in([name for name, out in chosen.items() if not out]),
        pl.col("number").is_between(FIRST_TAUGHT, before - 5),
    )
    judged = joined.filter(
        pl.col("asset").is_in([name for name, out in chosen.items() if out]),
        pl.col("number").is_between(before, end),
        "traded",
    )
    return teach.filter("traded"), judged


def forecasts(teach: pl.DataFrame, judged: pl.DataFrame, recipes: Sequence[str]) -> Mapping[int, Mapping[str, Array]]:
    """Scores of each recipe for rows of which k days are known, by k."""
    kinds = sorted({base for name in recipes for base in RECIPES[name].bases})
    y = teach["label"].to_numpy()
    scores: dict[int, dict[str, Array]] = {length: {} for length in LENGTHS}
    for kind in kinds:
        base = CrossFitted.fit(kind, teach, y, PORTFOLIO, likelihood="gaussian", folds=False)
        for length in LENGTHS:
            scores[length][kind] = base.predict(judged.with_columns(days=pl.lit(length)))
    return {
        length: {name: blend([of[kind] for kind in RECIPES[name].bases], judged.height) for name in recipes}
        for length, of in scores.items()
    }


def compare(judged: pl.DataFrame, score: Array, rival: Array, seed: int = 0) -> dict[str, float]:
    """MSE of both, the difference with its 95 % interval over blocks of dates, and the share of stocks that lose."""
    y = judged["label"].to_numpy()
    frame = judged.select("asset", "number").with_columns(
        loss=pl.Series((score - y) ** 2), gap=pl.Series((score - y) ** 2 - (rival - y) ** 2)
    )
    by_date = frame.group_by("number").agg(pl.col("gap").sum(), pl.len()).sort("number")
    sums, counts = by_date["gap"].to_numpy(), by_date["len"].to_numpy()
    rng, size = np.random.default_rng(seed), 10
    starts = rng.integers(0, len(sums), (2000, -(-len(sums) // size)))
    taken = ((starts[:, :, None] + np.arange(size)) % len(sums)).reshape(2000, -1)[:, : len(sums)]
    low, high = np.quantile(sums[taken].sum(axis=1) / counts[taken].sum(axis=1), [0.025, 0.975])
    lose = frame.group_by("asset").agg(pl.col("gap").mean()).select((pl.col("gap") > 0).mean()).item()
    mean = float(frame["loss"].mean())  # type: ignore[arg-type]
    return {"mse": mean, "gap": float(frame["gap"].mean()), "low": float(low), "high": float(high), "lose": lose}  # type: ignore[arg-type]


def benchmark(
    quick: bool, validate: bool = False, recipes: str = "relative,episodic", folder: Path = Path("var")
) -> Sequence[Figure]:
    """Losses of each recipe by days known, beside the best baseline of the same days; quick: one row in six teaches."""
    file = harness.data(PRICES)
    folder.mkdir(parents=True, exist_ok=True)
    teach, judged = split(rows(file, folder), labels(file), validate)
    # Of every date some stocks: what all rows of a date share is learned from dates.
    place = pl.col("number") + pl.col("asset").rank("dense").cast(pl.Int64)
    teach = teach.filter(place % (6 if quick else 2) == 0)
    print(
        f"{teach.height} rows of {teach['asset'].n_unique()} stocks teach, "
        f"{judged.height} of {judged['asset'].n_unique()} are judged"
    )
    names = [*BASELINES, *recipes.split(",")]
    figures, y = [], judged["label"].to_numpy()
    for length, scores in forecasts(teach, judged, names).items():
        losses = {name: float(np.mean((scores[name] - y) ** 2)) for name in names}
        best = min(BASELINES, key=losses.__getitem__)
        for name in names:
            found, of = compare(judged, scores[name], scores[best]), dotted("liquidity", f"days_{length}", name)
            figures += [
                Figure(f"{of}.mse", found["mse"], "of log illiquidity", found["mse"] / losses[best], best),
                Figure(f"{of}.gap", found["gap"], f"[{found['low']:+.4f} to {found['high']:+.4f}] against {best}"),
                Figure(f"{of}.loses", found["lose"], f"share of stocks that lose to {best}"),
            ]
    return figures


if __name__ == "__main__":
    own = harness.options()
    own.add_argument("--validate", action="store_true")
    own.add_argument("--recipes", default="relative,episodic")
    own.add_argument("--folder", type=Path, default=Path("var"))
    harness.main(benchmark, own)
