"""Charts of the drift page: a feature before and now, findings over the nights, events by month on book."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import altair as alt
import polars as pl
from markupsafe import Markup

from metarisk.drift.pictures import Side
from metarisk.report.charts import _ACCENT, _INK, _LINE, _SOFT, _STATUS_COLOURS, _label, _svg

_WIDTH, _HEIGHT = 400, 130
_LIMITS = (0.05, 0.10)


def sides_chart(sides: Sequence[Side]) -> Markup:
    """Shares of rows by bin: this run's as bars, the reference's as a rule over each."""
    names: list[str] = []
    for side in sides:
        name = _label(side.name)
        while name in names:
            name += "′"
        names.append(name)
    data = pl.DataFrame(
        {"bin": names, "now": [side.current for side in sides], "before": [side.reference for side in sides]}
    )
    axis = alt.Axis(labelAngle=-35, grid=False, labelLimit=110, labelOverlap=False)
    x = alt.X("bin:N", sort=names, title=None, axis=axis)
    y = alt.Y("now:Q", title=None, axis=alt.Axis(format="%", tickCount=4))
    base = alt.Chart(data)
    bars = base.mark_bar(color=_ACCENT, opacity=0.55).encode(x=x, y=y)
    ticks = base.mark_tick(color=_INK, thickness=2).encode(x=x, y=alt.Y("before:Q", title=None))
    return _svg(bars + ticks, width=_WIDTH, height=_HEIGHT)


def timeline(days: Sequence[date], effects: Sequence[float | None], statuses: Sequence[str]) -> Markup:
    """Effect of one finding over the last nights; dashes are the limits of a watch and of an alert."""
    data = pl.DataFrame(
        {"night": [str(day) for day in days], "effect": list(effects), "status": list(statuses)},
        schema_overrides={"effect": pl.Float64},
    ).filter(pl.col("effect").is_not_null())
    x = alt.X("night:T", title=None, axis=alt.Axis(grid=False, tickCount=5, format="%d %b", labelOverlap=True))
    top = max([*(value for value in effects if value is not None), 0.12])
    y = alt.Y("effect:Q", title=None, axis=alt.Axis(tickCount=3), scale=alt.Scale(domain=[0, top], clamp=True))
    limits = (
        alt.Chart(pl.DataFrame({"effect": list(_LIMITS)}))
        .mark_rule(color=_SOFT, strokeDash=[3, 3], strokeWidth=1)
        .encode(y=y)
    )
    line = alt.Chart(data).mark_line(color=_LINE, strokeWidth=1.5).encode(x=x, y=y)
    colours = alt.Scale(domain=list(_STATUS_COLOURS), range=list(_STATUS_COLOURS.values()))
    dots = (
        alt.Chart(data)
        .mark_circle(size=34, opacity=1)
        .encode(x=x, y=y, color=alt.Color("status:N", scale=colours, legend=None))
    )
    return _svg(limits + line + dots, width=_WIDTH, height=_HEIGHT - 30)


def months_chart(months: Sequence[tuple[int, float, float, float]]) -> Markup:
    """Observed over expected events by months on book known, with 95 % intervals; 1 is what was published."""
    data = pl.DataFrame(
        [(str(month), min(ratio, 4.0), low, min(high, 4.0)) for month, ratio, low, high in months],
        schema={"month": pl.String, "ratio": pl.Float64, "low": pl.Float64, "high": pl.Float64}, orient="row",
    )  # fmt: skip
    x = alt.X(
        "month:N", sort=data["month"].to_list(), title="months on book known", axis=alt.Axis(labelAngle=0, grid=False)
    )
    y = alt.Y("ratio:Q", title="observed over expected", axis=alt.Axis(tickCount=5))
    one = alt.Chart(pl.DataFrame({"ratio": [1.0]})).mark_rule(color=_SOFT, strokeDash=[4, 4]).encode(y=y)
    base = alt.Chart(data)
    whiskers = base.mark_rule(color=_ACCENT, opacity=0.6).encode(x=x, y=alt.Y("low:Q"), y2="high:Q")
    dots = base.mark_circle(color=_ACCENT, size=50, opacity=1).encode(x=x, y=y)
    return _svg(one + whiskers + dots, width=_WIDTH, height=190)
