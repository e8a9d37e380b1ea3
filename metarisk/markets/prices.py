"""Two stock markets with a known truth: prices of assets in sectors, with regimes, jumps, listings and bad bars.

What is in it, and why:

- **Variance** of an asset is, in logs, its own level, the market's and its sector's slow waves and one of its own; the
  market changes between a calm and a stressed regime and is stressed more easily after it fell, so that new listings
  can learn from the others, and losses raise tomorrow's risk.
- **Returns** share a market and a sector part, so that a book is not as safe as its assets apart; nights make a quarter
  of the variance; now and then one asset jumps overnight, or all do.
- **Two markets** with the same laws and other numbers: what was learned on one can be tried on the other.
- **Life**: a quarter of the assets were listed late, some of them 5, 10, 20, 60 and 120 trading days before the demo's
  night; two were delisted; splits, adjusted for; halted days without volume.
- **Dirt**, at fixed places before the demo's night: two bars that differ, a price of zero, a high below the low,
  a price that stands still, a bar on a Sunday (a time zone of another continent), a split that nobody adjusted for, an
  asset that never trades, and a position in an asset that nobody knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

Array = NDArray[Any]

FIRST, NIGHT, LAST = np.datetime64("2023-01-02"), np.datetime64("2025-06-30"), np.datetime64("2025-12-31")
MARKETS: Mapping[str, tuple[int, float]] = {"home": (40, -8.6), "abroad": (20, -8.2)}
"""Assets at scale 1, and the level of the log variance."""
SECTORS = ("banks", "energy", "health", "industry", "retail", "software")
_STEPS = 26
_SESSION = np.sqrt(0.75)
"""Share of a day's volatility that falls into the session; the rest is the night's."""
_LATE = (5, 10, 20, 60, 120)
"""Trading days before the demo's night at which assets were listed."""


@dataclass(frozen=True)
class _Market:
    """What one market did: prices (T, N) by name, and which days each asset was listed."""

    assets: list[str]
    sectors: Array
    prices: Mapping[str, Array]
    listed: Array


def generate(scale: float = 1.0, seed: int = 0) -> Mapping[str, pa.RecordBatchReader]:
    """The source tables `market_bars`, `market_assets` and `market_positions`.

    Args:
        scale: multiplies the 60 assets, of which each market keeps at least eight.
        seed: of everything that is drawn.
    """
    weekdays = np.arange(FIRST, LAST + 1)
    days = weekdays[np.is_busday(weekdays)]
    made = {
        name: _market(name, max(8, round(count * scale)), level, days, seed + number)
        for number, (name, (count, level)) in enumerate(MARKETS.items())
    }
    bars = pl.concat([_bars(market, days) for market in made.values()])
    assets = pl.concat(
        pl.DataFrame({"asset": m.assets, "market": name, "sector": [SECTORS[s] for s in m.sectors]})
        for name, m in made.items()
    )
    tables = {
        "market_bars": _dirty(bars, days),
        "market_assets": assets,
        "market_positions": _positions(made["home"], days),
    }
    return {name: _reader(table) for name, table in tables.items()}


def _market(name: str, count: int, level: float, days: Array, seed: int) -> _Market:
    rng = np.random.default_rng([seed, 11])
    sectors = np.arange(count) % len(SECTORS)
    market, shock = _market_wave(rng, len(days))
    sector = _waves(rng, len(days), len(SECTORS), 0.97, 0.08)
    own = _waves(rng, len(days), count, 0.95, 0.14)
    log_variance = level + rng.normal(0, 0.5, count) + np.outer(market, rng.uniform(0.7, 1.3, count))
    log_variance += sector[:, sectors] + own + rng.normal(0, 0.25, own.shape)
    common = 0.5 * shock[:, None] + 0.35 * rng.standard_normal((len(days), len(SECTORS)))[:, sectors]
    idiosyncratic = rng.standard_t(5, own.shape) / np.sqrt(5 / 3)
    z = common + np.sqrt(1 - 0.5**2 - 0.35**2) * idiosyncratic
    prices = _prices(rng, z, np.exp(0.5 * log_variance))
    assets = [f"{name[0].upper()}{number:03d}" for number in range(count)]
    return _Market(assets, sectors, prices, _listed(rng, count, days))


def _market_wave(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    """The market's log variance (T,) beyond its level, and its daily shock (T,) with unit variance."""
    shock, wave, stressed = rng.standard_normal(count), np.zeros(count), False
    slow = 0.0
    for day in range(1, count):
        chance = 0.06 if stressed else 0.008 + 0.02 * (shock[day - 1] < -1.5)
        stressed = stressed != (rng.random() < chance)
        slow = 0.96 * slow + 0.10 * rng.standard_normal() + 0.06 * max(-shock[day - 1], 0.0) - 0.024
        wave[day] = slow + 1.0 * stressed
    return wave, shock


def _waves(rng: np.random.Generator, count: int, many: int, stay: float, step: float) -> Array:
    """Autoregressions (T, many) of daily persistence `stay`."""
    out, steps = np.zeros((count, many)), step * rng.standard_normal((count, many))
    for day in range(1, count):
        out[day] = stay * out[day - 1] + steps[day]
    return out


def _prices(rng: np.random.Generator, z: Array, sigma: Array) -> dict[str, Array]:
    """Open, high, low, close, adjusted close and volume, each (T, N), from standardised returns."""
    count, many = z.shape
    jump = (rng.random(z.shape) < 0.002) * rng.normal(0, 0.08, z.shape)
    crash = (rng.random((count, 1)) < 0.003) * -0.03
    returns = np.clip(z * sigma, -0.3, 0.3)
    night, move = 0.5 * sigma * rng.standard_normal(z.shape) + jump + crash, _SESSION * returns
    bridge = np.cumsum(rng.standard_normal((_STEPS, count, many)), axis=0) / np.sqrt(_STEPS)
    time = (np.arange(1, _STEPS + 1) / _STEPS)[:, None, None]
    path = _SESSION * sigma * (bridge - time * bridge[-1]) + time * move
    close = 40 * np.exp(rng.normal(0, 0.6, many)) * np.exp(np.cumsum(night + move - 0.5 * sigma**2, axis=0))
    open_ = close / np.exp(move)
    high, low = open_ * np.exp(np.maximum(path.max(0), 0)), open_ * np.exp(np.minimum(path.min(0), 0))
    adjusted = close.copy()
    factor = np.ones_like(close)
    for asset in range(3, many, 9):
        # The quoted price halves, the adjusted one does not.
        factor[count // 3 + 7 * asset % (count // 2) :, asset] = 0.5
    volume = np.round(np.exp(rng.normal(12, 1, many) + 0.6 * np.abs(z) + rng.normal(0, 0.3, z.shape)))
    volume[(rng.random(z.shape) < 0.0015)] = 0
    quoted = {"open": open_, "high": high, "low": low, "close": close}
    return {name: values * factor for name, values in quoted.items()} | {"adj_close": adjusted, "volume": volume}


def _listed(rng: np.random.Generator, count: int, days: Array) -> Array:
    """Whether each asset is listed on each day (T, N)."""
    night, out = int(np.searchsorted(days, NIGHT)), np.ones((len(days), count), dtype=bool)
    # The first assets of the home market are those that have bad bars.
    for number, asset in enumerate(range(count - 1, 7, -4)):
        start = night + 1 - _LATE[number] if number < len(_LATE) else rng.integers(60, night - 130)
        out[: max(start, 0), asset] = False
    out[night - 200 :, 4] = False
    return out


def _bars(market: _Market, days: Array) -> pl.DataFrame:
    day, asset = np.nonzero(market.listed)
    columns = {name: np.round(values[day, asset], 4) for name, values in market.prices.items()}
    return pl.DataFrame({"asset": np.array(market.assets)[asset], "day": days[day], **columns})


def _dirty(bars: pl.DataFrame, days: Array) -> pl.DataFrame:
    """The bars with what the suite has to find, all of the home market and before the demo's night."""
    night = int(np.searchsorted(days, NIGHT))

    def bar(asset: str, back: int) -> pl.Expr:
        return (pl.col("asset") == asset) & (pl.col("day") == pl.lit(days[night - back]).cast(pl.Date))

    bars = bars.with_columns(pl.col("day").cast(pl.Date))
    prices = ["open", "high", "low", "close", "adj_close"]
    twins = bars.filter(bar("H000", 30) | bar("H000", 3)).with_columns(pl.col("close", "adj_close") * 1.01)
    sunday = bars.filter(bar("H001", 20)).with_columns(pl.lit(days[night - 20] - 1).cast(pl.Date).alias("day"))
    weekend = int((days[night - 20] - np.datetime64("1970-01-05")).astype(int) % 7)
    sunday = sunday.with_columns(pl.col("day") - pl.duration(days=weekend))
    still = (pl.col("asset") == "H002") & pl.col("day").is_between(
        pl.lit(days[night - 60]).cast(pl.Date), pl.lit(days[night - 53]).cast(pl.Date)
    )
    stands = bars.filter(bar("H002", 60))["close"].item()
    later = (pl.col("asset") == "H005") & (pl.col("day") >= pl.lit(days[night - 45]).cast(pl.Date))
    bars = bars.with_columns(
        pl.when(bar("H003", 15)).then(0.0).otherwise(pl.col("close")).alias("close"),
        pl.when(bar("H006", 25)).then(pl.col("low") * 0.98).otherwise(pl.col("high")).alias("high"),
        pl.when(pl.col("asset") == "H007").then(0.0).otherwise(pl.col("volume")).alias("volume"),
    )
    bars = bars.with_columns(pl.when(still).then(stands).otherwise(pl.col(name)).alias(name) for name in prices)
    bars = bars.with_columns(
        pl.when(later).then(pl.col(name) / 2).otherwise(pl.col(name)).alias(name) for name in prices
    )
    return pl.concat([bars, twins, sunday]).sort("asset", "day", "close")


def _positions(market: _Market, days: Array) -> pl.DataFrame:
    """Month-end holdings: a book that is long, one short in every second asset, one of blocks; and an unknown asset."""
    ends = days[np.flatnonzero(np.diff(days.astype("datetime64[M]").astype(int)))]
    held = [(asset, 100_000.0 * (1 + number % 4)) for number, asset in enumerate(market.assets)]
    rows = [("growth", asset, value) for asset, value in held]
    rows += [("hedged", asset, value * (-1) ** number) for number, (asset, value) in enumerate(held)]
    rows.append(("growth", "ZZZZ", 50_000.0))
    # Blocks of which some take days to sell, and one that nobody buys: H007 never trades.
    rows += [("blocks", asset, 1e6 * 4.0 ** (number % 4)) for number, asset in enumerate(market.assets[:8])]
    frame = pl.DataFrame(rows, schema=["book", "asset", "held"], orient="row")
    return pl.DataFrame({"day": ends}).with_columns(pl.col("day").cast(pl.Date)).join(frame, how="cross")


def _reader(frame: pl.DataFrame) -> pa.RecordBatchReader:
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    return pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
