"""The worst findings: each feature before and now, and its effect over the last nights."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import altair as alt
import polars as pl
from markupsafe import Markup

from metarisk import charts
from metarisk.drift import inputs
from metarisk.drift.pictures import Side, side_by_side
from metarisk.job.context import Context
from metarisk.pages.page import Card, Page
from metarisk.pages.subjects import DriftLine, PublishedNight
from metarisk.record import drift as records
from metarisk.record import publications
from metarisk.steps.drift import WORST, beside

NIGHTS = 30
"""Of a curve."""
_LIMITS = (0.05, 0.10)
_LEAST_TOP = 0.12
"""Top of a curve's axis that shows both limits."""
_WIDTH, _HEIGHT = 400, 130
_TEMPLATE = """\
<h2 class="apart">The worst, before and now</h2>
<p class="soft apart"><span class="key"><i class="fill"></i>this run</span> <span class="key"><i class="rule"></i>reference</span> and the effect over the last 30 nights, with the limits of a watch and of an alert.</p>
<div class="split">
  {% for line, sides, nights in pictures %}
  <section class="card">
    <h3 class="first"><bdi>{{ line.feature | name(40) }}</bdi> <span class="tag {{ line.status }}">{{ line.status }}</span></h3>
    <p class="soft small"><bdi>{{ (line.segment or "whole portfolio") | name(60) }}</bdi>: effect {{ line.effect | number(3) }}, {{ line.n_cur | count }} rows{% if line.detail %}; <bdi>{{ line.detail | name(80) }}</bdi>{% endif %}</p>
    {% if sides %}<div class="chart">{{ sides }}</div>{% endif %}
    {% if nights %}<div class="chart">{{ nights }}</div>{% endif %}
  </section>
  {% endfor %}
</div>
"""


@dataclass(frozen=True)
class Worst:
    """A finding with its picture: a feature before and now, and its effect and status over the last nights."""

    line: DriftLine
    sides: tuple[Side, ...]
    nights: tuple[tuple[date, float | None, str], ...]


def _gather(night: PublishedNight) -> list[Worst]:
    moved = [line for line in night.drift if line.metric == "psi" and line.status in ("alert", "watch")]
    chosen = sorted(moved, key=lambda line: (line.status, -(line.effect or 0.0), line.segment))[:WORST]
    context, portfolio, as_of = night.context, night.context.job.portfolio, night.context.job.as_of
    shown = publications.nights(context.warehouse, portfolio, as_of + timedelta(days=1))[:NIGHTS]
    first = shown[-1]["as_of"] if shown else as_of
    history: dict[tuple[str, str], list[tuple[date, float | None, str]]] = {
        (line.segment, line.feature): [] for line in chosen
    }
    for row in records.psi_history(context.warehouse, portfolio, first, as_of):
        if (key := (row["segment"] or "", row["feature"] or "")) in history:
            history[key].append((row["as_of"], row["effect"], row["status"]))
    return [
        Worst(
            line,
            feature_shares(context, night.run.model_id, night.drift_folder, line.segment or None, line.feature),
            tuple(history[line.segment, line.feature]),
        )
        for line in chosen
    ]


def feature_shares(
    context: Context, model_id: str, folder: Path, segment: str | None, feature: str
) -> tuple[Side, ...]:
    """A feature before and now; empty where the run counted nothing, or its model's reference is gone."""
    reference = inputs.known(beside(context, model_id))
    if reference is None or not (folder / inputs.COUNTED).exists():
        return ()
    return side_by_side(reference, pl.read_parquet(folder / inputs.COUNTED), segment, feature)


def _show(found: Sequence[Worst], page: Page) -> dict[str, object]:
    return {
        "pictures": [
            (
                worst.line,
                _sides(worst.sides) if worst.sides else None,
                _curve(worst.nights) if len(worst.nights) > 1 else None,
            )
            for worst in found
        ]
    }


def _sides(sides: Sequence[Side]) -> Markup:
    """Shares of rows by bin: this run's as bars, the reference's as a rule over each."""
    names = charts.labels(side.name for side in sides)
    data = pl.DataFrame(
        {"bin": names, "now": [side.current for side in sides], "before": [side.reference for side in sides]}
    )
    axis = alt.Axis(labelAngle=-35, grid=False, labelLimit=110, labelOverlap=False)
    x = alt.X("bin:N", sort=names, title=None, axis=axis)
    y = alt.Y("now:Q", title=None, axis=alt.Axis(format="%", tickCount=4))
    base = alt.Chart(data)
    bars = base.mark_bar(color=charts.ACCENT, opacity=0.55).encode(x=x, y=y)
    ticks = base.mark_tick(color=charts.INK, thickness=2).encode(x=x, y=alt.Y("before:Q", title=None))
    return charts.svg(bars + ticks, width=_WIDTH, height=_HEIGHT)


def _curve(nights: Sequence[tuple[date, float | None, str]]) -> Markup:
    """Effect of one finding over the last nights; dashes are the limits of a watch and of an alert."""
    known = [(str(day), effect, status) for day, effect, status in nights if effect is not None]
    data = pl.DataFrame(known, {"night": pl.String, "effect": pl.Float64, "status": pl.String}, orient="row")
    x = alt.X("night:T", title=None, axis=alt.Axis(grid=False, tickCount=5, format="%d %b", labelOverlap=True))
    top = max([*(effect for _, effect, _ in known), _LEAST_TOP])
    y = alt.Y("effect:Q", title=None, axis=alt.Axis(tickCount=3), scale=alt.Scale(domain=[0, top], clamp=True))
    limits, base = alt.Chart(pl.DataFrame({"effect": list(_LIMITS)})), alt.Chart(data)
    return charts.svg(
        limits.mark_rule(color=charts.SOFT, strokeDash=[3, 3], strokeWidth=1).encode(y=y)
        + base.mark_line(color=charts.LINE, strokeWidth=1.5).encode(x=x, y=y)
        + base.mark_circle(size=34, opacity=1).encode(x=x, y=y, color=charts.status_colour()),
        width=_WIDTH,
        height=_HEIGHT - 30,
    )


CARD = Card({"drift": (60, 0)}, _gather, _TEMPLATE, _show)
