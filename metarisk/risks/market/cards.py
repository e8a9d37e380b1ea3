"""How pages show market risk: what was expected and what came, and losses beyond value at risk day by day."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl
from markupsafe import Markup

from metarisk import charts
from metarisk.domain import MeasureKind, MeasureRow


def volatility_chart(rows: Sequence[MeasureRow]) -> Markup:
    """Yearly volatility that was expected of each day (mean of all assets) as a line, over what came as points."""
    data = next(iter(charts.series(row.note for row in rows)), None)
    if data is None:
        return Markup("")
    x = charts.days()
    axis = alt.Axis(format="%", tickCount=4)
    came = alt.Chart(data).mark_point(color=charts.SOFT, size=9, filled=True, opacity=0.8)
    line = alt.Chart(data).mark_line(color=charts.ACCENT, strokeWidth=1.8)
    y = "volatility, a year"
    return charts.svg(
        came.encode(x=x, y=alt.Y("realised:Q", title=y, axis=axis))
        + line.encode(x=x, y=alt.Y("forecast:Q", title=y, axis=axis)),
        width=charts.WIDE,
        height=charts.LOW,
    )


def exceedance_chart(rows: Sequence[MeasureRow]) -> Markup:
    """Share of assets that lost more than their VaR 99 on each day, and the one per cent that was promised."""
    data = next(iter(charts.series(row.note for row in rows)), None)
    if data is None:
        return Markup("")
    x = charts.days()
    y = alt.Y("share:Q", title="assets beyond VaR 99", axis=alt.Axis(format="%", tickCount=4))
    bars = alt.Chart(data).mark_rule(color=charts.BAD, strokeWidth=1.6).encode(x=x, y=y, y2=alt.datum(0))
    promised = alt.Chart(pl.DataFrame({"promised": [0.01]})).mark_rule(color=charts.INK, strokeDash=[4, 3])
    return charts.svg(bars + promised.encode(y="promised:Q"), width=charts.WIDE, height=charts.LOW - 40)


def light_chart(rows: Sequence[MeasureRow]) -> Markup:
    """How many assets had how many exceedances, coloured by their zone."""
    counts = [int(row.value) for row in rows if row.metric == "exceedances" and row.value is not None]
    zones = [int(row.value) for row in rows if row.metric == "zone" and row.value is not None]
    if not counts:
        return Markup("")
    names = ("green", "yellow", "red")
    data = pl.DataFrame({"exceedances": counts, "zone": [names[zone] for zone in zones]})
    data = data.group_by("exceedances", "zone").len("assets").sort("exceedances", "zone")
    colours = alt.Scale(domain=list(names), range=[charts.GOOD, charts.WATCH, charts.BAD])
    bars = (
        alt.Chart(data)
        .mark_bar(size=16)
        .encode(
            x=alt.X("exceedances:Q", title="exceedances of VaR 99", axis=alt.Axis(tickMinStep=1, grid=False)),
            y=alt.Y("assets:Q", title="assets", axis=alt.Axis(tickMinStep=1, tickCount=4)),
            color=alt.Color("zone:N", scale=colours, title=None),
        )
    )
    return charts.svg(bars, width=420, height=charts.LOW - 40)


_WORDS = {
    "var_95_1d": "VaR 95, 1 day", "var_99_1d": "VaR 99, 1 day", "es_975_1d": "ES 97.5, 1 day", "es_ratio": "ES ratio",
    "kupiec_p": "Kupiec p", "christoffersen_p": "Christoffersen p", "acerbi_szekely": "Acerbi-Szekely",
    "fissler_ziegel": "Fissler-Ziegel", "tick_loss_bp": "tick loss, bp", "diebold_mariano_p": "Diebold-Mariano p",
    "qlike": "QLIKE",
}  # fmt: skip
KINDS = {
    "volatility": MeasureKind(
        "Volatility, expected and realised",
        "Mean of all assets, a year's worth: what had been expected at the close before (line) and what came (points).",
        (volatility_chart,),
        table=False,
    ),
    "forecast": MeasureKind(
        "Forecasts of variance side by side",
        "QLIKE on the same days, lower is better; below zero the first one was better than this one.",
        formats={"qlike": ".4f", "diebold_mariano_p": ".3f", "confidence_set_p": ".3f"},
        words=_WORDS,
    ),
    "var_backtest": MeasureKind(
        "Value at risk on days that are over",
        "Losses beyond VaR 99 should be one in a hundred; they come on the same days, so bounds are drawn from days.",
        (exceedance_chart,),
        words=_WORDS,
    ),
    "traffic_light": MeasureKind(
        "Traffic light of each asset",
        "Basel's zones: 0 green, 1 yellow, 2 red. One asset in ten of a perfect model is not green.",
        (light_chart,),
        formats={"days": ".0f", "exceedances": ".0f", "zone": ".0f", "kupiec_p": ".3f", "christoffersen_p": ".3f"},
        words=_WORDS,
    ),
    "book": MeasureKind(
        "Books",
        "From days on which all assets moved together, at tonight's volatility; in the currency of the positions.",
        formats=dict.fromkeys(("gross", "var_95_1d", "var_99_1d", "es_975_1d", "undiversified"), ",.0f"),
        words=_WORDS,
    ),
    "position": MeasureKind("Positions that are not valued", formats={"held": ",.0f"}),
}
