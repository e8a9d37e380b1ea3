"""Charts as inline SVG, drawn without a browser: Altair writes the specification, vl-convert the SVG.

Colours are the page's CSS variables, so that one SVG suits the light page, the dark page and paper. Tables with small
bars in them are the templates' business.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import altair as alt
import polars as pl
import vl_convert
from markupsafe import Markup

from metarisk.metrics import ReliabilityBin
from metarisk.report.model import (
    DriftLine,
    GradeBar,
    LearningCurve,
    MapPoint,
    ScoreHistogram,
    SegmentLoss,
    Waterfall,
)

_FONT = "Arial, Liberation Sans, Helvetica, sans-serif"
"""Fonts of one metric: vl-convert lays labels out with the widths that the browser will draw."""
_SOFT, _LINE, _INK, _ACCENT = "var(--soft)", "var(--line)", "var(--ink)", "var(--accent)"
_STATUS_COLOURS = {"ok": _ACCENT, "watch": "var(--watch)", "alert": "var(--bad)", "blind": "var(--soft)"}
_SERIES = [_ACCENT, "var(--bad)", "var(--watch)", "var(--good)", "var(--violet)", _SOFT]
_UNPRINTABLE = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u202a-\u202e\u2066-\u2069]")
"""What XML forbids, at which vl-convert aborts the whole process, and marks that turn the direction of text."""

_PADDING = {"left": 14, "right": 14, "top": 5, "bottom": 5}
_LONGEST_LABEL = 28
_MOST_POINTS = 600
_MOST_CATERPILLAR = 150
_MAP_WIDTH, _MAP_HEIGHT = 420, 300


def printable(text: str) -> str:
    """The text with every character that a page or a chart cannot hold replaced by one that says so."""
    return _UNPRINTABLE.sub("\ufffd", text)


def score_chart(histogram: ScoreHistogram) -> Markup:
    """This run's score distribution as bars, the last run's as a line over them, both as shares of their rows."""
    edges = _finite(histogram.edges)
    log = histogram.log_scale and edges[0] > 0.0
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale(type="linear", nice=False, zero=False)
    axis = alt.Axis(format=histogram.number_format, grid=False, tickCount=6, labelOverlap=True)
    x = alt.X("low:Q", scale=scale, axis=axis, title=printable(histogram.axis))
    y = alt.Y("share:Q", title="share of rows", axis=alt.Axis(format="%", tickCount=4))
    bars = (
        alt.Chart(_shares(edges, histogram.now))
        .mark_rect(color=_ACCENT, opacity=0.55)
        .encode(x=x, x2="high:Q", y=y, y2=alt.datum(0))
    )
    if histogram.before is None:
        return _svg(bars, width=420, height=190)
    line = (
        alt.Chart(_outline(_shares(edges, histogram.before)))
        .mark_line(interpolate="step-after", color=_INK, strokeWidth=1.6)
        .encode(x=x, y=y)
    )
    return _svg(bars + line, width=420, height=190)


def grade_chart(grades: Sequence[GradeBar]) -> Markup:
    """Rows by grade as bars, the last run's as a tick over each, both as shares of their rows."""
    names = [_label(grade.name) for grade in grades]
    now, before = sum(g.rows for g in grades), sum(g.rows_before or 0 for g in grades)
    data = pl.DataFrame(
        {
            "grade": names,
            "share": [g.rows / max(now, 1) for g in grades],
            "last": [None if g.rows_before is None else g.rows_before / max(before, 1) for g in grades],
        },
        schema_overrides={"last": pl.Float64},
    )
    x = alt.X("grade:N", sort=names, title="grade", axis=alt.Axis(labelAngle=0, grid=False))
    axis = alt.Axis(format="%", tickCount=4)
    bars = (
        alt.Chart(data)
        .mark_bar(color=_ACCENT, opacity=0.55)
        .encode(x=x, y=alt.Y("share:Q", title="share of rows", axis=axis))
    )
    if not before:
        return _svg(bars, width=420, height=190)
    ticks = alt.Chart(data).mark_tick(color=_INK, thickness=1.6).encode(x=x, y=alt.Y("last:Q", title="share of rows"))
    return _svg(bars + ticks, width=420, height=190)


def waterfall_chart(move: Waterfall) -> Markup:
    """From the last value to this one: each part as a bar from where the ones before it led, with its number."""
    places = list(accumulate((value for _, value in move.parts), initial=move.before))
    names = [move.before_label, *(name for name, _ in move.parts), move.after_label]
    low, high = min(places), max(places)
    reach = (high - low) or abs(high) or 1.0
    # Room for the numbers beyond the longest bar; the axis does not reach zero, for parts are small beside the level.
    x_of = alt.Scale(domain=[low - 0.06 * reach, high + 0.32 * reach], nice=False, zero=False)
    axis = alt.Axis(format=move.number_format, grid=True, tickCount=4, labelOverlap=True)
    steps = pl.DataFrame(
        {
            "name": names[1:-1],
            "start": places[:-1],
            "end": places[1:],
            "right": [max(pair) for pair in pairwise(places)],
            "value": [value for _, value in move.parts],
            "sign": ["up" if value > 0 else "down" for _, value in move.parts],
        }
    )
    ends = pl.DataFrame({"name": [names[0], names[-1]], "at": [move.before, move.after]})
    links = pl.DataFrame({"name": names[:-1], "next": names[1:], "at": places})
    x = alt.X("start:Q", scale=x_of, axis=axis, title=None)
    y = alt.Y(
        "name:N", sort=names, title=None, axis=alt.Axis(domain=False, ticks=False, labelLimit=220, labelColor=_INK)
    )
    colours = alt.Scale(domain=["up", "down"], range=["var(--bad)", "var(--good)"])
    bars = (
        alt.Chart(steps)
        .mark_bar(height=14, cornerRadius=2)
        .encode(x=x, x2="end:Q", y=y, color=alt.Color("sign:N", scale=colours, legend=None))
    )
    numbers = (
        alt.Chart(steps.filter(pl.col("value") != 0))
        .mark_text(align="left", dx=6, fontSize=11, color=_INK)
        .encode(x=alt.X("right:Q", scale=x_of), y=y, text=alt.Text("value:Q", format=f"+{move.number_format}"))
    )
    levels = alt.Chart(ends).mark_tick(color=_INK, thickness=2.5, size=18).encode(x=alt.X("at:Q", scale=x_of), y=y)
    values = (
        alt.Chart(ends)
        .mark_text(align="left", dx=6, fontSize=11, fontWeight="bold", color=_INK)
        .encode(x=alt.X("at:Q", scale=x_of), y=y, text=alt.Text("at:Q", format=move.number_format))
    )
    joints = (
        alt.Chart(links)
        .mark_rule(color=_SOFT, strokeWidth=0.8, strokeDash=[2, 2])
        .encode(x=alt.X("at:Q", scale=x_of), y=y, y2="next:N")
    )
    return _svg(joints + bars + numbers + levels + values, width=350, height=alt.Step(25))


def reliability_chart(bins: Sequence[ReliabilityBin]) -> Markup:
    """Observed event rate with its 95 % interval over the predicted one; on the line they agree."""
    kept = [b for b in bins if b.predicted > 0.0 and b.high > 0.0]
    # A rate of zero has no place on a log scale: it and its whisker end at the axis.
    floor = min((b.predicted for b in kept), default=1e-3) / 3.0
    data = pl.DataFrame(
        {
            "predicted": [b.predicted for b in kept],
            "observed": [max(b.observed, floor) for b in kept],
            "low": [max(b.low, floor) for b in kept],
            "high": [max(b.high, floor) for b in kept],
        },
        schema=dict.fromkeys(("predicted", "observed", "low", "high"), pl.Float64),
    )
    ends = [floor, max((max(b.predicted, b.high) for b in kept), default=1.0)]
    scale = alt.Scale(type="log", domain=ends, nice=False)
    axis = alt.Axis(format="~%", grid=False, tickCount=5, labelOverlap=True)
    x = alt.X("predicted:Q", scale=scale, axis=axis, title="predicted")
    y = alt.Y("observed:Q", scale=scale, axis=axis, title="observed")
    line = (
        alt.Chart(pl.DataFrame({"predicted": ends, "observed": ends}))
        .mark_line(color=_SOFT, strokeWidth=1, strokeDash=[4, 4])
        .encode(x=x, y=y)
    )
    place = alt.Chart(data)
    whiskers = place.mark_rule(color=_ACCENT, opacity=0.6).encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q")
    dots = place.mark_circle(color=_ACCENT, size=55, opacity=1).encode(x=x, y=y)
    return _svg(line + whiskers + dots, width=380, height=240)


def caterpillar(losses: Sequence[SegmentLoss]) -> Markup:
    """Loss differences of segments in rising order with their 95 % intervals"""
    ordered = sorted(losses, key=lambda line: line.difference.mean)
    kept = [ordered[round(i)] for i in _evenly(len(ordered), _MOST_CATERPILLAR)]
    data = pl.DataFrame(
        {
            "place": list(range(len(kept))),
            "difference": [1e4 * line.difference.mean for line in kept],
            "low": [1e4 * line.difference.low for line in kept],
            "high": [1e4 * line.difference.high for line in kept],
            "kind": ["worse" if line.worse else "even" if line.difference.high >= 0 else "better" for line in kept],
        }
    )
    colours = alt.Scale(domain=["better", "even", "worse"], range=["var(--good)", _ACCENT, "var(--bad)"])
    colour = alt.Color("kind:N", scale=colours, legend=None)
    axis = alt.Axis(tickCount=5)
    ends = alt.Scale(domain=[-1.5, len(kept) + 0.5], nice=False)
    place = alt.Chart(data).encode(x=alt.X("place:Q", axis=None, scale=ends))
    whiskers = place.mark_rule(opacity=0.55, strokeWidth=1).encode(
        y=alt.Y("low:Q", axis=axis, title="difference, 1e-4"), y2="high:Q", color=colour
    )
    dots = place.mark_circle(size=22, opacity=1).encode(y="difference:Q", color=colour)
    zero = alt.Chart(pl.DataFrame({"zero": [0.0]})).mark_rule(color=_INK, strokeDash=[4, 4]).encode(y="zero:Q")
    return _svg(zero + whiskers + dots, width=_MAP_WIDTH, height=220)


def _evenly(size: int, most: int) -> list[float]:
    """Numbers of at most `most` of so many things, evenly spaced, both ends included."""
    return [float(i) for i in range(size)] if size <= most else [i * (size - 1) / (most - 1) for i in range(most)]


def drift_map(cells: Sequence[DriftLine], segments: Sequence[str], features: Sequence[str]) -> Markup:
    """Heat map segment x feature: colour is the status, strength the effect, numbers stand where it is not ok."""
    rows, columns = _labels(segments), _labels(features)
    data = pl.DataFrame(
        {
            "segment": [rows[c.segment] for c in cells],
            "feature": [columns[c.feature] for c in cells],
            "status": [c.status for c in cells],
            "effect": [min(max(c.effect or 0.0, 0.0), 0.25) for c in cells],
            "shown": [
                f"{c.effect:.2f}" if c.status in ("watch", "alert") and c.effect is not None else "" for c in cells
            ],
        }
    )
    base = alt.Chart(data).encode(
        x=alt.X(
            "feature:N",
            sort=list(columns.values()),
            title=None,
            axis=alt.Axis(orient="top", labelAngle=-40, domain=False, ticks=False, labelAlign="left"),
        ),
        y=alt.Y(
            "segment:N",
            sort=list(rows.values()),
            title=None,
            axis=alt.Axis(domain=False, ticks=False, labelLimit=220),
        ),
    )
    colours = alt.Scale(domain=list(_STATUS_COLOURS), range=list(_STATUS_COLOURS.values()))
    squares = base.mark_rect(stroke="var(--card)", strokeWidth=2, cornerRadius=3).encode(
        color=alt.Color("status:N", scale=colours, legend=None),
        opacity=alt.Opacity("effect:Q", scale=alt.Scale(domain=[0, 0.25], range=[0.12, 0.95]), legend=None),
    )
    numbers = base.mark_text(fontSize=10.5, color=_INK).encode(text="shown:N")
    return _svg(squares + numbers, width=alt.Step(46), height=alt.Step(25))


def learning_chart(curves: Sequence[LearningCurve]) -> Markup:
    """Loss by step, validation as a full line and training as a dashed one, a colour a candidate."""
    rows = [
        {"candidate": _label(curve.candidate), "step": step, "loss": loss, "rows": kind}
        for curve in curves
        for kind, losses in (("training", curve.training), ("validation", curve.validation))
        for step, loss in _thinned(list(zip(curve.steps, losses, strict=True)))
    ]
    schema = {"candidate": pl.String, "step": pl.Int64, "loss": pl.Float64, "rows": pl.String}
    chart = (
        alt.Chart(pl.DataFrame(rows, schema=schema))
        .mark_line(strokeWidth=1.6)
        .encode(
            x=alt.X("step:Q", axis=alt.Axis(grid=False, tickCount=5, format="~s"), title="meta-step"),
            y=alt.Y("loss:Q", scale=alt.Scale(zero=False), title="loss"),
            color=alt.Color(
                "candidate:N", scale=alt.Scale(range=_SERIES), legend=alt.Legend(orient="bottom", title=None)
            ),
            strokeDash=alt.StrokeDash(
                "rows:N",
                scale=alt.Scale(domain=["validation", "training"], range=[[1, 0], [3, 3]]),
                legend=alt.Legend(orient="bottom", title=None),
            ),
        )
    )
    return _svg(chart, width=420, height=210)


def similarity_map(points: Sequence[MapPoint]) -> Markup:
    """Segments by likeness of behaviour; area is the number of rows, large ones that stand apart carry their names."""
    points = sorted(points, key=lambda p: -p.rows)[:_MOST_POINTS]
    named = _apart(points, _MAP_WIDTH, _MAP_HEIGHT)
    data = pl.DataFrame(
        {
            "x": [p.x for p in points],
            "y": [p.y for p in points],
            "rows": [p.rows for p in points],
            "group": [_label(p.group) for p in points],
            "name": [_label(p.name) if p.name in named else "" for p in points],
        }
    )
    place = alt.Chart(data).encode(x=alt.X("x:Q", axis=None), y=alt.Y("y:Q", axis=None))
    groups = alt.Legend(orient="bottom", title=None, columns=3) if any(p.group for p in points) else None
    dots = place.mark_circle(opacity=0.65).encode(
        size=alt.Size("rows:Q", scale=alt.Scale(range=[12, 500]), legend=None),
        color=alt.Color("group:N", scale=alt.Scale(range=_SERIES), legend=groups),
    )
    names = place.mark_text(fontSize=9.5, dy=-10, color=_SOFT).encode(text="name:N")
    return _svg(dots + names, width=_MAP_WIDTH, height=_MAP_HEIGHT)


def _apart(points: Sequence[MapPoint], width: float, height: float, most: int = 9) -> set[str]:
    """Names of the first points, as many as can be written without one covering another."""
    if not points:
        return set()
    (left, right), (bottom, top) = ((min(line), max(line)) for line in zip(*((p.x, p.y) for p in points), strict=True))
    taken: dict[str, tuple[float, float, float]] = {}
    for point in points:
        x, y = width * (point.x - left) / (right - left or 1.0), height * (point.y - bottom) / (top - bottom or 1.0)
        half = 2.8 * len(_label(point.name))
        if all(abs(x - x2) > half + half2 or abs(y - y2) > 14 for x2, y2, half2 in taken.values()):
            taken[point.name] = (x, y, half)
        if len(taken) == most:
            break
    return set(taken)


def _finite(edges: Sequence[float]) -> list[float]:
    """Edges whose open ends are drawn as wide as the bins beside them."""
    drawn = list(map(float, edges))
    if math.isinf(drawn[0]):
        drawn[0] = 2.0 * drawn[1] - drawn[2] if len(drawn) > 3 else drawn[1] - 1.0
    if math.isinf(drawn[-1]):
        drawn[-1] = 2.0 * drawn[-2] - drawn[-3] if len(drawn) > 3 else drawn[-2] + 1.0
    return drawn


def _shares(edges: Sequence[float], counts: Sequence[int]) -> pl.DataFrame:
    total = max(sum(counts), 1)
    return pl.DataFrame({"low": edges[:-1], "high": edges[1:], "share": [count / total for count in counts]})


def _outline(shares: pl.DataFrame) -> pl.DataFrame:
    """The bins as a step line that starts and ends on the axis' last edge."""
    last = shares.tail(1)
    return pl.concat([shares.select("low", "share"), last.select(pl.col("high").alias("low"), "share")])


def _thinned(curve: list[tuple[int, float | None]], most: int = 150) -> list[tuple[int, float]]:
    """At most `most` points of a curve, evenly spaced, its last one included."""
    measured = [(step, loss) for step, loss in curve if loss is not None]
    stride = -(-len(measured) // most) or 1
    return measured[::-1][::stride][::-1]


def _labels(names: Sequence[str]) -> dict[str, str]:
    """Short labels that stay distinct: the axis of a chart would merge two segments of one label."""
    labels: dict[str, str] = {}
    for name in names:
        label = _label(name) or "whole portfolio"
        while label in labels.values():
            label += "′"
        labels[name] = label
    return labels


def _label(name: str) -> str:
    flat = re.sub(r"\s+", " ", printable(name[: 4 * _LONGEST_LABEL])).replace("|", " · ")
    return flat if len(flat) <= _LONGEST_LABEL else flat[: _LONGEST_LABEL - 1] + "…"


def _svg(chart: Any, *, width: Any, height: Any) -> Markup:
    styled = (
        chart.properties(width=width, height=height, background="transparent", padding=_PADDING)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=_SOFT, titleColor=_SOFT, gridColor=_LINE, domainColor=_LINE, tickColor=_LINE,
            labelFont=_FONT, titleFont=_FONT, labelFontSize=11, titleFontSize=11, titleFontWeight="normal",
        )
        .configure_legend(labelColor=_SOFT, labelFont=_FONT, labelFontSize=11, symbolStrokeWidth=2)
        .configure_text(font=_FONT)
    )  # fmt: skip
    svg = vl_convert.vegalite_to_svg(styled.to_dict(), allowed_base_urls=[])
    return Markup(re.sub(r"<svg ", '<svg role="img" ', svg, count=1))  # noqa: S704 - vl-convert escapes what data says
