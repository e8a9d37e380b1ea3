"""What a risk type publishes beside its scores, as sections of the night's page: pictures and a table a kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from metarisk.report.fraudcharts import budget_chart, case_table
from metarisk.report.losscharts import capital_chart, mean_excess_chart, qq_chart
from metarisk.report.marketcharts import exceedance_chart, light_chart, volatility_chart
from metarisk.report.model import MeasureRow
from metarisk.report.quantcharts import equity_chart

MOST_ITEMS = 12
"""Lines of a section's table; all of them are in the view `measure_current`."""


@dataclass(frozen=True)
class Kind:
    """How rows of one kind are shown.

    Attributes:
        title, text: heading, and a sentence under it.
        pictures: functions of the rows of the kind, each giving a chart.
        table: whether the rows are shown as a table, one line an item.
        formats: by metric, a format of Python for its numbers, or MILLIONS; others have four digits.
    """

    title: str
    text: str = ""
    pictures: tuple[Callable[[Sequence[MeasureRow]], Markup], ...] = ()
    table: bool = True
    formats: Mapping[str, str] = field(default_factory=dict)


MILLIONS = "millions"
_AMOUNTS = dict.fromkeys(("expected_loss", "year_999", "economic_capital", "simulated_year_999"), MILLIONS)
_SHARES = dict.fromkeys(("precision", "recall", "value_recall", "never_caught"), ".1%")
_COSTS = dict.fromkeys(("gross", "held", "var_99_1d", "exit_cost_99", "lvar_99_1d", "lvar_99_exit"), ",.0f")
_IC = {"rank_ic": "+.4f", "icir": "+.2f"}
_NET = (
    "Walking forward. The deflated Sharpe ratio is the probability of more than the best of all configurations ever "
    "tried has by luck: below 0.95 nothing is proved."
)
_EARNED = dict.fromkeys(("net_year", "gross_year", "drawdown"), ".1%") | {"trials": ".0f", "deflated_sharpe": ".3f"}
_EARNED |= {"sharpe_year": "+.2f", "turnover": ".2f"}
_WORDS = {
    "var_95_1d": "VaR 95, 1 day", "var_99_1d": "VaR 99, 1 day", "es_975_1d": "ES 97.5, 1 day", "es_ratio": "ES ratio",
    "lvar_99_1d": "VaR 99 with spread, 1 day", "lvar_99_exit": "VaR 99 with spread, to the exit",
    "exit_cost_99": "cost of a bad exit", "year_999": "year in a thousand",
    "simulated_year_999": "year in a thousand, simulated", "events_year": "events a year", "bound_year": "bound a year",
    "kupiec_p": "Kupiec p", "christoffersen_p": "Christoffersen p", "acerbi_szekely": "Acerbi-Szekely",
    "fissler_ziegel": "Fissler-Ziegel", "tick_loss_bp": "tick loss, bp", "diebold_mariano_p": "Diebold-Mariano p",
    "qlike": "QLIKE", "rank_ic": "rank-IC", "icir": "ICIR",
}  # fmt: skip
SECTIONS: Mapping[str, Kind] = {
    "capital": Kind(
        "Economic capital",
        "Operational losses of a year: what is expected, what a year in a thousand costs, and the difference, with "
        "90 % intervals over parameter draws. The simulated year has the 95 % interval of the simulation alone.",
        (capital_chart,),
        formats=_AMOUNTS | {"tail_shape": ".2f"},
    ),
    "frequency": Kind(
        "Loss events",
        "Events that are known, and what the scored rows will bring in a year, with its 90 % interval; the bound is "
        "the exact upper 95 % one that counting alone gives.",
        formats={"events_known": ",.0f", "events_year": ",.2f", "bound_year": ",.2f"},
    ),
    "mean_excess": Kind(
        "Mean excess",
        "A line that rises is a heavy tail; the dashes are the threshold of the fitted tails.",
        (mean_excess_chart,),
        table=False,
    ),
    "tail_qq": Kind(
        "Tails against the exponential",
        "Losses above the thresholds, each on the scale on which its cell's tail is the standard exponential.",
        (qq_chart,),
        table=False,
    ),
    "losses_aside": Kind("Losses set aside", formats={"losses": ",.0f"}),
    "alert": Kind(
        "Cases to review",
        "The riskiest cases within the night's budget, and some drawn at random: what nobody looked at is not clean.",
        (case_table,),
        table=False,
    ),
    "at_budget": Kind(
        "What the alerts of earlier nights caught",
        "By the labels that are known now, of nights whose labels have matured.",
        (budget_chart,),
        table=False,
    ),
    "detection": Kind(
        "Detection over those nights",
        "By the same labels; days from the first fraud of a case to its first one that was alerted, where one was.",
        formats=dict.fromkeys(("alerts", "hits", "nights", "days_to_first_catch"), ",.0f") | _SHARES,
    ),
    "reviewed": Kind(
        "Detection by reviews alone",
        "Each reviewed case counts by the inverse of its chance to be reviewed: what nobody looked at is not clean.",
        formats=dict.fromkeys(("cases", "drawn"), ",.0f") | _SHARES,
    ),
    "volatility": Kind(
        "Volatility, expected and realised",
        "Mean of all assets, a year's worth: what had been expected at the close before (line) and what came (points).",
        (volatility_chart,),
        table=False,
    ),
    "forecast": Kind(
        "Forecasts of variance side by side",
        "QLIKE on the same days, lower is better; below zero the first one was better than this one.",
        formats={"qlike": ".4f", "diebold_mariano_p": ".3f", "confidence_set_p": ".3f"},
    ),
    "var_backtest": Kind(
        "Value at risk on days that are over",
        "Losses beyond VaR 99 should be one in a hundred; they come on the same days, so bounds are drawn from days.",
        (exceedance_chart,),
    ),
    "traffic_light": Kind(
        "Traffic light of each asset",
        "Basel's zones: 0 green, 1 yellow, 2 red. One asset in ten of a perfect model is not green.",
        (light_chart,),
        formats={"days": ".0f", "exceedances": ".0f", "zone": ".0f", "kupiec_p": ".3f", "christoffersen_p": ".3f"},
    ),
    "book": Kind(
        "Books",
        "From days on which all assets moved together, at tonight's volatility; in the currency of the positions.",
        formats=dict.fromkeys(("gross", "var_95_1d", "var_99_1d", "es_975_1d", "undiversified"), ",.0f"),
    ),
    "liquidity_book": Kind(
        "Liquidity of books",
        "VaR 99 of a day with half the spread of a bad day on every position; in the currency of the positions.",
        formats={"sold_in_a_day": ".0%", "longest_days": ",.1f"} | _COSTS,
    ),
    "liquidation": Kind(
        "Days to liquidate",
        "At the portfolio's share of each day's trade, longest first; the last column: equal parts, sold day by day.",
        formats={"days": ",.2f"} | _COSTS,
    ),
    "suggested": Kind("Suggested portfolio", "Weights tonight, and what is traded to get there within the limits."),
    "signal": Kind(
        "Signals on dates that no fit had seen", "Rank-IC with its 95 % interval, walking forward.", formats=_IC
    ),
    "long_short": Kind("Long-short portfolio, net of costs", _NET, (equity_chart,), formats=_EARNED),
    "long_only": Kind("Long-only portfolio, net of costs", _NET, (equity_chart,), formats=_EARNED),
    "position": Kind("Positions that are not valued", formats={"held": ",.0f"}),
}
"""Kinds that are shown in a way of their own; any other one is shown as a table under its name."""


@dataclass(frozen=True)
class Shown:
    """One section, ready for the template."""

    title: str
    text: str
    pictures: tuple[Markup, ...]
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    items: int
    notes: tuple[str, ...]


def sections(rows: Sequence[MeasureRow]) -> list[Shown]:
    """The sections of a page, kinds in the order in which they come."""
    by_kind: dict[str, list[MeasureRow]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, []).append(row)
    return [_shown(kind, found) for kind, found in by_kind.items()]


def _shown(name: str, rows: Sequence[MeasureRow]) -> Shown:
    kind = SECTIONS.get(name) or Kind(name.replace("_", " ").capitalize())
    metrics = list(dict.fromkeys(row.metric for row in rows))
    items: dict[tuple[str, str], dict[str, MeasureRow]] = {}
    for row in rows if kind.table else ():
        items.setdefault((row.item, row.segment or ""), {})[row.metric] = row
    with_segment = any(segment for _, segment in items)
    lines = []
    for (item, segment), found in list(items.items())[:MOST_ITEMS]:
        numbers = [_number(found.get(metric), kind.formats.get(metric, ".4g")) for metric in metrics]
        lines.append((item, *((segment,) if with_segment else ()), *numbers))
    head = ("", *(("segment",) if with_segment else ()), *map(_words, metrics))
    notes = tuple(dict.fromkeys(row.note for row in rows if row.note and not row.note.startswith(("{", "["))))
    return Shown(
        kind.title,
        kind.text,
        tuple(draw(rows) for draw in kind.pictures),
        head if lines else (),
        tuple(lines),
        len(items),
        notes[:MOST_ITEMS],
    )


def _number(row: MeasureRow | None, form: str) -> str:
    """A number with its bounds, where it has any."""
    if row is None or row.value is None:
        return "–"
    if row.low is None or row.high is None:
        return _formatted(row.value, form)
    value, low, high = (_formatted(number, form) for number in (row.value, row.low, row.high))
    return f"{value} [{low}, {high}]"


def _formatted(value: float, form: str) -> str:
    if form != MILLIONS:
        return format(value, form)
    return f"{value / 1e6:,.2f} M" if abs(value) >= 1e6 else f"{value:,.0f}"


def _words(metric: str) -> str:
    """A metric as people read it."""
    return _WORDS.get(metric, metric.replace("_", " "))
