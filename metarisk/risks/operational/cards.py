"""How pages show operational losses: capital by cell, the mean-excess plot, the tails against the exponential."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl
from markupsafe import Markup

from metarisk import charts
from metarisk.domain import MeasureKind, MeasureRow

_MOST = 12
"""Items whose names still stand apart beside the axis."""
_WIDTH, _HEIGHT = 400, 240


def capital_chart(rows: Sequence[MeasureRow]) -> Markup:
    """Economic capital of the largest items as points with their parameter intervals, expected losses as ticks."""
    found = _by_item(rows, ("economic_capital", "expected_loss")).head(_MOST)
    names = [charts.label(item) for item in found["item"]]
    data = found.with_columns(pl.Series("item", names))
    y = alt.Y("item:N", sort=names, title=None, axis=alt.Axis(grid=False))
    scale = alt.Scale(type="log", nice=False)
    x = alt.X("economic_capital:Q", scale=scale, title="economic capital; | expected loss", axis=_axis("~s"))
    base = alt.Chart(data)
    lines = base.mark_rule(color=charts.ACCENT, strokeWidth=2, opacity=0.55).encode(
        y=y,
        x=alt.X("economic_capital_low:Q", scale=scale, title="economic capital; | expected loss"),
        x2="economic_capital_high:Q",
    )
    points = base.mark_point(color=charts.ACCENT, filled=True, size=60).encode(y=y, x=x)
    ticks = base.mark_tick(color=charts.INK, thickness=1.6).encode(
        y=y, x=alt.X("expected_loss:Q", scale=scale, axis=_axis("~s"))
    )
    return charts.svg(lines + points + ticks, width=_WIDTH, height=_HEIGHT)


def mean_excess_chart(rows: Sequence[MeasureRow]) -> Markup:
    """Mean excess over rising thresholds with its bounds; a dashed rule where the tail begins."""
    points = [row for row in rows if row.metric == "mean_excess" and row.value is not None]
    data = pl.DataFrame(
        {
            "threshold": [float(row.item) for row in points],
            "mean": [row.value for row in points],
            "low": [row.low for row in points],
            "high": [row.high for row in points],
        }
    )
    x = alt.X("threshold:Q", title="threshold, in units of the cell's scale", axis=_axis("~g"))
    title = "mean excess"
    band = (
        alt.Chart(data)
        .mark_area(color=charts.ACCENT, opacity=0.2)
        .encode(x=x, y=alt.Y("low:Q", title=title), y2="high:Q")
    )
    line = alt.Chart(data).mark_line(color=charts.ACCENT, point=True).encode(x=x, y=alt.Y("mean:Q", title=title))
    begins = pl.DataFrame({"at": [row.value for row in rows if row.metric == "threshold"]})
    rule = alt.Chart(begins).mark_rule(color=charts.SOFT, strokeDash=[4, 3]).encode(x="at:Q")
    return charts.svg(band + line + rule, width=_WIDTH, height=_HEIGHT)


def qq_chart(rows: Sequence[MeasureRow]) -> Markup:
    """Excesses over all thresholds on the scale on which each cell's tail is the standard exponential."""
    found = [row for row in rows if row.value is not None]
    data = pl.DataFrame({"modelled": [float(row.item) for row in found], "observed": [row.value for row in found]})
    top = max([*data["modelled"].to_list(), *(row.value or 0.0 for row in found), 1.0])
    ends = pl.DataFrame({"modelled": [0.0, top], "observed": [0.0, top]})
    x = alt.X("modelled:Q", title="modelled", axis=_axis("~g"))
    y = alt.Y("observed:Q", title="observed")
    diagonal = alt.Chart(ends).mark_line(color=charts.SOFT, strokeDash=[4, 3]).encode(x=x, y=y)
    points = alt.Chart(data).mark_point(color=charts.ACCENT, filled=True, size=28).encode(x=x, y=y)
    return charts.svg(diagonal + points, width=_WIDTH, height=_HEIGHT)


def _by_item(rows: Sequence[MeasureRow], metrics: Sequence[str]) -> pl.DataFrame:
    """One line an item that has all of the metrics: their values, and the bounds of the first."""
    first, items = metrics[0], {(row.item, row.metric): row for row in rows if row.value}
    lines = [
        {"item": row.item}
        | {metric: items[row.item, metric].value for metric in metrics}
        | {f"{first}_low": row.value if row.low is None else row.low, f"{first}_high": row.high or row.value}
        for row in rows
        if row.metric == first and all((row.item, metric) in items for metric in metrics)
    ]
    numbers = [*metrics, f"{first}_low", f"{first}_high"]
    found = pl.DataFrame(lines, {"item": pl.String} | dict.fromkeys(numbers, pl.Float64))
    # a logarithmic axis has no zero: an interval that reaches it ends where the smallest number stands
    least = found.select(pl.min_horizontal(pl.col(name).min() for name in metrics)).item()
    return found.with_columns(pl.col(f"{first}_low").clip(least))


def _axis(form: str) -> alt.Axis:
    return alt.Axis(format=form, tickCount=5, labelOverlap=True)


_AMOUNTS = dict.fromkeys(("expected_loss", "year_999", "economic_capital", "simulated_year_999"), MeasureKind.MILLIONS)
KINDS = {
    "capital": MeasureKind(
        "Economic capital",
        "Operational losses of a year: what is expected, what a year in a thousand costs, and the difference, with "
        "90 % intervals over parameter draws. The simulated year has the 95 % interval of the simulation alone.",
        (capital_chart,),
        formats=_AMOUNTS | {"tail_shape": ".2f"},
        words={"year_999": "year in a thousand", "simulated_year_999": "year in a thousand, simulated"},
    ),
    "frequency": MeasureKind(
        "Loss events",
        "Events that are known, and what the scored rows will bring in a year, with its 90 % interval; the bound is "
        "the exact upper 95 % one that counting alone gives.",
        formats={"events_known": ",.0f", "events_year": ",.2f", "bound_year": ",.2f"},
        words={"events_year": "events a year", "bound_year": "bound a year"},
    ),
    "mean_excess": MeasureKind(
        "Mean excess",
        "A line that rises is a heavy tail; the dashes are the threshold of the fitted tails.",
        (mean_excess_chart,),
        table=False,
    ),
    "tail_qq": MeasureKind(
        "Tails against the exponential",
        "Losses above the thresholds, each on the scale on which its cell's tail is the standard exponential.",
        (qq_chart,),
        table=False,
    ),
    "losses_aside": MeasureKind("Losses set aside", formats={"losses": ",.0f"}),
}
