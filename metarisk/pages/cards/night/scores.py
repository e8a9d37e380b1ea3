"""Scores: their distribution, this run's and the last one's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import polars as pl
from markupsafe import Markup

from metarisk import charts
from metarisk.pages.page import Card
from metarisk.pages.subjects import PublishedNight

BINS = 40
"""Bars that are told apart on the width of a card."""
_TEMPLATE = """\
  <section class="card">
    <h2>Scores</h2>
    <p class="soft">{{ values.unit }}{% if values.before is not none %} <span class="key"><i class="fill"></i>this run</span> <span class="key"><i class="rule"></i>{{ values.before_label }}</span>{% endif %}</p>
    <div class="chart">{{ chart }}</div>
  </section>
"""


@dataclass(frozen=True)
class ScoreHistogram:
    """Rows by score on bins shared by this run and the last: B counts, B + 1 rising edges."""

    edges: tuple[float, ...]
    now: tuple[int, ...]
    before: tuple[int, ...] | None = None
    before_label: str = "last run"
    unit: str = "score"
    number_format: str = ".1%"
    """d3-format of the edges."""
    log_scale: bool = False


def _gather(night: PublishedNight) -> ScoreHistogram:
    low, high = (pl.col("score").quantile(share) for share in (0.001, 0.999))  # so that one outlier widens no bin
    about = night.scores.select(low=low, high=high, least=pl.col("score").min()).collect().row(0, named=True)
    log, before, spec = about["least"] > 0, night.before, night.context.spec
    # one score for all rows still has a bin
    low, high = about["low"], max(about["high"], about["low"] * (1 + 1e-6) + 1e-12)
    edges = np.geomspace(low, high, BINS + 1) if log else np.linspace(low, high, BINS + 1)
    return ScoreHistogram(
        edges=tuple(float(edge) for edge in edges),
        now=_counts(night.scores, edges),
        before=_counts(before, edges) if before is not None else None,
        before_label=before.select(pl.col("night").first()).collect().item() if before is not None else "last run",
        unit=spec.unit_of(night.context.portfolio),
        log_scale=log,
        number_format=".1%" if spec.label == "event" else ".2~g",
    )


def _counts(frame: pl.LazyFrame, edges: np.ndarray[Any, Any]) -> tuple[int, ...]:
    """Rows a bin; what lies outside the edges counts in the outermost bins."""
    inner = pl.Series([float(edge) for edge in edges[1:-1]])
    bins = frame.select(pl.lit(inner).search_sorted(pl.col("score"), side="left").alias("bin"))
    found = dict(bins.group_by("bin").len().collect().iter_rows())
    return tuple(found.get(i, 0) for i in range(len(inner) + 1))


def _chart(histogram: ScoreHistogram) -> Markup:
    """This run's scores as bars, the last run's as a line over them, both as shares of their rows."""
    edges = _finite(histogram.edges)
    log = histogram.log_scale and edges[0] > 0.0
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale(type="linear", nice=False, zero=False)
    axis = alt.Axis(format=histogram.number_format, grid=False, tickCount=6, labelOverlap=True)
    x = alt.X("low:Q", scale=scale, axis=axis, title=charts.printable(histogram.unit))
    y = alt.Y("share:Q", title="share of rows", axis=alt.Axis(format="%", tickCount=4))
    bars = alt.Chart(_shares(edges, histogram.now)).mark_rect(color=charts.ACCENT, opacity=0.55)
    chart = bars.encode(x=x, x2="high:Q", y=y, y2=alt.datum(0))
    if histogram.before is not None:
        shares = _shares(edges, histogram.before)
        # The step line starts and ends on the axis' last edge.
        last = shares.tail(1).select(pl.col("high").alias("low"), "share")
        line = alt.Chart(pl.concat([shares.select("low", "share"), last]))
        chart += line.mark_line(interpolate="step-after", color=charts.INK, strokeWidth=1.6).encode(x=x, y=y)
    return charts.svg(chart, width=420, height=190)


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


CARD = Card({"night": (10, 0)}, _gather, _TEMPLATE, lambda histogram, page: {"chart": _chart(histogram)})
