"""A draft from price bars or returns: a row for each asset and day, for the risk types of markets.

The SQL has what these risk types need at least; docs/market.md, liquidity.md and quant.md tell of richer ones.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from metarisk.domain import ConfigError, quoted
from metarisk.portfolios.days import INDEXED
from metarisk.portfolios.profile import Profile
from metarisk.portfolios.roles import Decision, Wanted

RISKS = ("market", "liquidity", "quant")
_NAMED: Mapping[str, str] = {
    "adj_close": r"adj",
    "close": r"^(close|price|last|px|settle)",
    "open": r"^open",
    "high": r"^high",
    "low": r"^low",
    "volume": r"^vol(ume)?$|shares|turnover",
    "ret": r"^(log_?)?ret(urn)?s?($|_1d|_d)",
    "sector": r"sector|industry|group|market",
}


@dataclass(frozen=True)
class Bars:
    """What the columns of a table of bars are, by name of `_NAMED`; `close` or `ret` is there."""

    asset: str
    day: str
    columns: Mapping[str, str]
    weekends: bool
    """Whether assets are traded on them too."""

    @property
    def ranged(self) -> bool:
        """Whether a day's range is known, beside its close."""
        return {"open", "high", "low", "close"} <= self.columns.keys()


def bars_of(profile: Profile, wanted: Wanted) -> Bars | None:
    """The bars of a table; None where it has none, or where another risk type was asked for."""
    if wanted.risk not in ("", *RISKS) or wanted.label or wanted.event:
        return None
    sample = profile.sample
    dates = [name for name, one in profile.columns.items() if one.kind == "date" and not one.nulls]
    texts = [name for name, one in profile.columns.items() if one.kind in ("text", "whole") and not one.nulls]
    for day in [wanted.opened] if wanted.opened else dates:
        for asset in [wanted.entity] if wanted.entity else texts:
            repeated = 1 < sample[asset].n_unique() < sample.height
            if repeated and sample.select(asset, day).n_unique() == sample.height:
                found = _columns(profile, {asset, day})
                if "close" in found or "ret" in found:
                    weekends = float((sample[day].dt.weekday() > 5).sum()) > 0.05 * sample.height
                    return Bars(asset, day, found, weekends)
    return None


def _columns(profile: Profile, taken: set[str]) -> dict[str, str]:
    """The columns that are so named and whose values are what the name says."""
    found: dict[str, str] = {}
    for role, pattern in _NAMED.items():
        kinds = ("text",) if role == "sector" else ("number", "whole")
        for name, column in profile.columns.items():
            free = name not in taken and name not in found.values()
            if free and column.kind in kinds and re.search(pattern, name.lower()):
                found[role] = name
                break
    if "close" not in found and "adj_close" in found:
        found["close"] = found.pop("adj_close")
    if {"high", "low"} <= found.keys():
        pair = profile.sample.select(pl.col(found["high"]) >= pl.col(found["low"])).to_series()
        if pair.drop_nulls().mean() is None or pair.drop_nulls().sum() < 0.99 * pair.drop_nulls().len():
            del found["high"], found["low"]
    return found


def draft_bars(name: str, profile: Profile, bars: Bars, wanted: Wanted) -> tuple[dict[str, str], list[Decision]]:
    """Files and decisions of a draft from bars. Raises ConfigError where the risk type needs what the table lacks."""
    risk = wanted.risk or "market"
    if risk == "liquidity" and not {"close", "volume"} <= bars.columns.keys():
        raise ConfigError(
            f"{profile.table} has no {'volume' if 'close' in bars.columns else 'price'}, and liquidity takes both",
            remedy="load prices and volumes, or draft --risk market",
            portfolio=name,
        )
    files = {
        f"portfolios/{name}.toml": _toml(name, risk, bars),
        f"sql/extracts/{name}.sql": _sql(profile, bars, risk),
        f"expectations/{name}.json": _suite(name, risk),
    }
    decisions = [
        Decision(bars.asset, "entity", f"an asset: one row for each and {bars.day}"),
        Decision(bars.day, "opened_on", "the trading day"),
    ]
    told = {"ret": "a day's return; CHECK whether it is logarithmic", "adj_close": "the price that returns are made of"}
    decisions += [
        Decision(column, role, told.get(role, "by its name and values"), role == "ret")
        for role, column in bars.columns.items()
    ]
    used = {bars.asset, bars.day, *bars.columns.values()}
    decisions += [Decision(column, "not used", "no part of a bar") for column in profile.columns if column not in used]
    return files, decisions


_TARGETS: Mapping[str, tuple[str, str, str, int]] = {
    "market": ("variance_1d", "known_1d", "variance_1d", 1),
    "liquidity": ("illiq_next", "illiq_known_on", "illiq_5d", 7),
    "quant": ("rank_5d", "known_5d", "signal_5d", 7),
}
"""By risk type: the value, when it is known, the target's name, and its days (five trading days are seven)."""
_LAGS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "market": (("vol_1", "vol_5", "vol_22"), "ewma_return"),
    "liquidity": (("illiq_1", "illiq_5", "illiq_22"), "ewma_illiq"),
}
_NUMBERS: Mapping[str, tuple[str, ...]] = {"market": ("return_1d",), "quant": ("held_5d",)}


def _features(risk: str, bars: Bars) -> dict[str, tuple[str, str]]:
    """Of each feature its SQL over the rows that the SELECT reads, and what it is."""
    if risk == "market":
        found = {
            "vol_1": ("vol_1", "log of the last day's variance"),
            "vol_5": ("vol_5", "log of the mean variance of five days"),
            "vol_22": ("vol_22", "log of the mean variance of a month"),
            "level_120": ("level_120", "mean log variance of half a year"),
            "fall_22": (
                "coalesce(least(return_1d, 0), 0) / exp(0.5 * vol_22)",
                "the day's loss in units of volatility, zero for a gain",
            ),
        }
    elif risk == "liquidity":
        found = {
            "illiq_1": ("illiq_1", "log illiquidity of the last day"),
            "illiq_5": ("illiq_5", "log of a week's mean illiquidity"),
            "illiq_22": ("illiq_22", "log of a month's mean illiquidity"),
            "level_120": ("illiq_level_120", "mean log illiquidity of half a year"),
            "vol_22": ("vol_22", "log of the mean variance of a month"),
        }
    else:
        found = {
            "momentum_126": ("price_21 - price_126", "log return of the half year before the last month"),
            "reversal_21": ("log_price - price_21", "log return of a month"),
            "reversal_5": ("log_price - price_5", "log return of a week"),
            "reversal_1": ("return_1d", "log return of the day"),
            "volatility_22": ("vol_22", "log of the mean variance of a month"),
        }
    if "volume" in bars.columns and "close" in bars.columns:
        found["traded_22"] = ("traded_22", "mean log of the value traded in a month")
    if risk != "quant":
        return found
    return {key: (_ranked(sql), f"rank on the date of: {about}") for key, (sql, about) in found.items()}


def _ranked(sql: str) -> str:
    """Evenly spread over a date's assets, mean 0 and variance 1; null where there is no value."""
    return (
        f"CASE WHEN ({sql}) IS NOT NULL THEN sqrt(12.0) * ((rank() OVER (PARTITION BY day ORDER BY {sql}) - 0.5) "
        f"/ CAST(nullif(count({sql}) OVER (PARTITION BY day), 0) AS DOUBLE PRECISION) - 0.5) END"
    )


def _toml(name: str, risk: str, bars: Bars) -> str:
    value, known, target, days = _TARGETS[risk]
    segments = '["sector", "symbol"]' if "sector" in bars.columns else '["symbol"]'
    columns = ['entity = "asset"', 'opened_on = "day"', f"segments = {segments}  # CHECK: parents of the cell"]
    columns += [f'value = "{value}"', f'known_date = "{known}"']
    if risk in _LAGS:
        lags, decayed = _LAGS[risk]
        columns += [f"lags = {json.dumps(lags)}", f'decayed = "{decayed}"']
    columns += [f"numbers = {json.dumps(_NUMBERS[risk])}"] if risk in _NUMBERS else []
    lag = ["# The embargo: a label teaches two days after it is known.", "reporting_lag_days = 2"]
    features = [
        f'[features.{key}]\nkind = "numeric"\ndescription = "{about}"\n'
        for key, (_, about) in _features(risk, bars).items()
    ]
    return "\n".join(
        [
            "# A first draft from bars. Every line with CHECK is for a person.",
            f"title = {json.dumps(name.replace('_', ' ').capitalize())}",
            f'risk = "{risk}"  # CHECK: market, liquidity or quant',
            'timezone = "UTC"  # CHECK: where trading days begin; times without a zone are read as local there',
            f'calendar = "{"daily" if bars.weekends else "business"}"  # CHECK: daily, business or table',
            'population = "latest"',
            "",
            "[source]",
            f'extract = "{name}.sql"',
            f'suite = "{name}.json"',
            "",
            "[columns]",
            *columns,
            'texts = ["fault"]',
            "",
            "[[targets]]",
            f'name = "{target}"',
            f"horizon_days = {days}",
            *(lag if risk == "quant" else []),
            "",
            *features,
        ]
    )


def _sql(profile: Profile, bars: Bars, risk: str) -> str:
    value, known, _, _ = _TARGETS[risk]
    columns, day = bars.columns, profile.columns[bars.day].sql

    def number(role: str) -> str:
        return f"CAST({quoted(columns[role]) if role in columns else 'NULL'} AS DOUBLE PRECISION)"

    sector = [f"{quoted(columns['sector'])} AS sector"] if "sector" in columns else []
    adjusted = number("adj_close" if "adj_close" in columns else "close")
    source = [f"{quoted(bars.asset)} AS asset", f"CAST({day} AS DATE) AS day", *sector]
    source += [f"{number(role)} AS {role}" for role in ("open", "high", "low", "close", "volume", "ret")]
    source.append(f"{adjusted} AS adjusted")
    keys = ["asset", "day", *(["sector"] if sector else []), "asset AS symbol", "fault"]
    chosen, features = [value, known, *_NUMBERS.get(risk, ())], _features(risk, bars)
    if risk in _LAGS:
        lags, decayed = _LAGS[risk]
        chosen += [decayed, *(lag for lag in lags if lag not in features)]
    chosen += [key if sql == key else f"{sql} AS {key}" for key, (sql, _) in features.items()]
    quant = risk == "quant"
    return _TEMPLATE.format(
        table=profile.table,
        source=",\n        ".join(source),
        relation=profile.relation,
        by_day=INDEXED.format(column=day),
        step="ret" if "ret" in columns else "ln(adjusted / lag(adjusted) OVER own)",
        variance=_RANGED if bars.ranged else "power(return_1d, 2)",
        rest=_DATED if quant else "",
        chosen=",\n    ".join(keys + chosen),
        rows=_AHEAD.format(rank=_ranked("return_5d")) if quant else "rolled",
        keys=", ".join(keys),
        nothing=", ".join("NULL" for _ in chosen),
    )


_RANGED = (
    "greatest(0.5 * power(ln(greatest(high, open, close) / least(low, open, close)), 2) "
    "- (2 * ln(2.0) - 1) * power(ln(close / open), 2), 0) + power(return_1d - ln(close / open), 2)"
)
"""Garman and Klass's variance of the day with the night before it (1980, Journal of Business 53, 67-78)."""
_DATED = """,

numbered AS (
    SELECT day, row_number() OVER (ORDER BY day) AS session FROM (SELECT DISTINCT day FROM rolled) AS days
),

dated AS (
    SELECT
        r.*,
        n.session,
        max(r.day) OVER () AS newest,
        lag(r.log_price, 5) OVER own AS price_5,
        lag(r.log_price, 21) OVER own AS price_21,
        lag(r.log_price, 126) OVER own AS price_126
    FROM rolled AS r
    INNER JOIN numbered AS n ON n.day = r.day
    WINDOW own AS (PARTITION BY r.asset ORDER BY r.day)
)"""
_AHEAD = """(
    SELECT ahead.*, {rank} AS rank_5d
    FROM (
        -- Each fifth session and the newest one; what a portfolio earns begins a session after the price that it read.
        SELECT
            l.*,
            soon.log_price - l.log_price AS return_5d,
            soon.day AS known_5d,
            exp(later.log_price - next.log_price) - 1 AS held_5d
        FROM dated AS l
        LEFT JOIN dated AS next ON next.asset = l.asset AND next.session = l.session + 1
        LEFT JOIN dated AS soon ON soon.asset = l.asset AND soon.session = l.session + 5
        LEFT JOIN dated AS later ON later.asset = l.asset AND later.session = l.session + 6
        WHERE l.session % 5 = 0 OR l.day = l.newest
    ) AS ahead
) AS ranked"""
_TEMPLATE = """\
-- Every asset and trading day of {table} by $as_of: what was known at the close, and what followed where it is known.
-- A bar that cannot be believed has a `fault` and feeds no mean: the suite sets it aside. Windows hold what there is.
WITH bar AS (
    SELECT
        {source}
    FROM {relation}
    WHERE {by_day}
),

checked AS (
    SELECT
        *,
        CASE
            WHEN least(open, high, low, close, adjusted) <= 0 THEN 'price_not_positive'
            WHEN high < low THEN 'high_below_low'
            ELSE 'none'
        END AS fault
    FROM bar
),

stepped AS (
    SELECT
        *,
        {step} AS return_1d,
        row_number() OVER own AS days
    FROM checked
    WHERE fault = 'none'
    WINDOW own AS (PARTITION BY asset ORDER BY day)
),

daily AS (
    SELECT
        *,
        CASE WHEN return_1d IS NOT NULL THEN greatest({variance}, 0.000001) END AS variance,
        CASE WHEN close * volume > 0 THEN ln(close * volume) END AS traded,
        CASE WHEN close * volume > 0 THEN 100 * abs(exp(return_1d) - 1) / (close * volume / 1000000) END AS illiquidity
    FROM stepped
),

rolled AS (
    SELECT
        *,
        ln(variance) AS vol_1,
        ln(avg(variance) OVER own_5) AS vol_5,
        ln(avg(variance) OVER own_22) AS vol_22,
        avg(ln(variance)) OVER own_120 AS level_120,
        ln(greatest(
            sum(return_1d * return_1d * power(CAST(0.94 AS DOUBLE PRECISION), -days)) OVER own_120
            / nullif(sum(CASE WHEN return_1d IS NOT NULL THEN power(CAST(0.94 AS DOUBLE PRECISION), -days) END)
            OVER own_120, 0),
            0.000001
        )) AS ewma_return,
        avg(traded) OVER own_22 AS traded_22,
        lead(variance) OVER own AS variance_1d,
        lead(day) OVER own AS known_1d,
        ln(illiquidity + 0.00001) AS illiq_1,
        ln(avg(illiquidity) OVER own_5 + 0.00001) AS illiq_5,
        ln(avg(illiquidity) OVER own_22 + 0.00001) AS illiq_22,
        avg(ln(illiquidity + 0.00001)) OVER own_120 AS illiq_level_120,
        sum(ln(illiquidity + 0.00001) * power(CAST(0.94 AS DOUBLE PRECISION), -days)) OVER own_120
        / nullif(sum(CASE WHEN illiquidity IS NOT NULL THEN power(CAST(0.94 AS DOUBLE PRECISION), -days) END)
        OVER own_120, 0) AS ewma_illiq,
        CASE WHEN count(illiquidity) OVER next_5 >= 3 THEN ln(avg(illiquidity) OVER next_5 + 0.00001) END AS illiq_next,
        lead(day, 5) OVER own AS illiq_known_on,
        sum(coalesce(return_1d, 0)) OVER (PARTITION BY asset ORDER BY day) AS log_price
    FROM daily
    WINDOW
        own AS (PARTITION BY asset ORDER BY day),
        own_5 AS (PARTITION BY asset ORDER BY day ROWS BETWEEN 4 PRECEDING AND CURRENT ROW),
        own_22 AS (PARTITION BY asset ORDER BY day ROWS BETWEEN 21 PRECEDING AND CURRENT ROW),
        own_120 AS (PARTITION BY asset ORDER BY day ROWS BETWEEN 119 PRECEDING AND CURRENT ROW),
        next_5 AS (PARTITION BY asset ORDER BY day ROWS BETWEEN 1 FOLLOWING AND 5 FOLLOWING)
){rest}

SELECT
    {chosen}
FROM {rows}
UNION ALL
SELECT {keys}, {nothing}
FROM checked
WHERE fault <> 'none'
"""


def rule(kind: str, severity: str, **kwargs: object) -> dict[str, object]:
    """An expectation of a drafted suite."""
    return {"type": kind, "severity": severity, "kwargs": kwargs}


def _suite(name: str, risk: str) -> str:
    """Rules that a draft from bars keeps: dates that are known, and bars that are believed."""
    _, known, _, _ = _TARGETS[risk]
    rules = [rule("expect_column_values_to_not_be_null", "critical", column="day")]
    rules += [
        rule("expect_column_values_to_be_between", "critical", column=column, max_value="$as_of")
        for column in ("day", known)
    ]
    for fault, about in {
        "price_not_positive": "prices are above zero: correct the bar, or take it out",
        "high_below_low": "the high is not below the low: correct the bar",
    }.items():
        query = f"SELECT * FROM {{batch}} WHERE fault = '{fault}'"  # noqa: S608
        aside = rule("unexpected_rows_expectation", "warning", unexpected_rows_query=query)
        rules.append(aside | {"meta": {"quarantine": True}, "description": about})
    return json.dumps({"name": name, "expectations": rules}, indent=2) + "\n"
