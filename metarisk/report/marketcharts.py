"""Pictures of market risk: what was expected and what came, and losses beyond value at risk day by day."""

from __future__ import annotations

import json
from collections.abc import Sequence

import altair as alt
import polars as pl
from markupsafe import Markup

from metarisk.report.charts import _ACCENT, _INK, _SOFT, _svg
from metarisk.report.model import MeasureRow

BAD = "var(--bad)"
WIDTH, HEIGHT = 620, 190


def volatility_chart(rows: Sequence[MeasureRow]) -> Markup:
    """Yearly volatility that was expected of each day (mean of all assets) as a line, over what came as points."""
    data = _series(rows)
    if data is None:
        return Markup("")
    x = alt.X("day:T", title=None, axis=alt.Axis(format="%b %y", tickCount=8, grid=False))
    axis = alt.Axis(format="%", tickCount=4)
    came = alt.Chart(data).mark_point(color=_SOFT, size=9, filled=True, opacity=0.8)
    line = alt.Chart(data).mark_line(color=_ACCENT, strokeWidth=1.8)
    y = "volatility, a year"
    return _svg(
        came.encode(x=x, y=alt.Y("realised:Q", title=y, axis=axis))
        + line.encode(x=x, y=alt.Y("forecast:Q", title=y, axis=axis)),
        width=WIDTH,
        height=HEIGHT,
    )


def exceedance_chart(rows: Sequence[MeasureRow]) -> Markup:
    """Share of assets that lost more than their VaR 99 on each day, and the one per cent that was promised."""
    data = _series(rows)
    if data is None:
        return Markup("")
    x = alt.X("day:T", title=None, axis=alt.Axis(format="%b %y", tickCount=8, grid=False))
    y = alt.Y("share:Q", title="assets beyond VaR 99", axis=alt.Axis(format="%", tickCount=4))
    bars = alt.Chart(data).mark_rule(color=BAD, strokeWidth=1.6).encode(x=x, y=y, y2=alt.datum(0))
    promised = alt.Chart(pl.DataFrame({"promised": [0.01]})).mark_rule(color=_INK, strokeDash=[4, 3])
    return _svg(bars + promised.encode(y="promised:Q"), width=WIDTH, height=HEIGHT - 40)


def light_chart(rows: Sequence[MeasureRow]) -> Markup:
    """How many assets had how many exceedances, coloured by their zone."""
    counts = [int(row.value) for row in rows if row.metric == "exceedances" and row.value is not None]
    zones = [int(row.value) for row in rows if row.metric == "zone" and row.value is not None]
    if not counts:
        return Markup("")
    names = ("green", "yellow", "red")
    data = pl.DataFrame({"exceedances": counts, "zone": [names[zone] for zone in zones]})
    data = data.group_by("exceedances", "zone").len("assets").sort("exceedances", "zone")
    colours = alt.Scale(domain=list(names), range=["var(--good)", "var(--watch)", BAD])
    bars = (
        alt.Chart(data)
        .mark_bar(size=16)
        .encode(
            x=alt.X("exceedances:Q", title="exceedances of VaR 99", axis=alt.Axis(tickMinStep=1, grid=False)),
            y=alt.Y("assets:Q", title="assets", axis=alt.Axis(tickMinStep=1, tickCount=4)),
            color=alt.Color("zone:N", scale=colours, title=None),
        )
    )
    return _svg(bars, width=420, height=HEIGHT - 40)


def _series(rows: Sequence[MeasureRow]) -> pl.DataFrame | None:
    """The series that one of the rows carries as JSON in its note; None where there is none."""
    notes = [row.note for row in rows if row.note and row.note.startswith("{")]
    if not notes:
        return None
    data = pl.DataFrame(json.loads(notes[0]))
    return data.with_columns(pl.col("day").str.to_date().cast(pl.Datetime)) if data.height > 1 else None
