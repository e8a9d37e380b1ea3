"""Grades of the master scale: their shares beside the last run's, mean scores and expected losses."""

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import polars as pl
from markupsafe import Markup

from metarisk import charts
from metarisk.pages.page import Card
from metarisk.pages.subjects import PublishedNight

_TEMPLATE = """\
<div class="split">
  <section class="card">
    <h2>Grades</h2>
    <p class="soft">On the master scale, best first.{% if values[0].rows_before is not none %} <span class="key"><i class="fill"></i>this run</span> <span class="key"><i class="rule"></i>last run</span>{% endif %}</p>
    <div class="chart">{{ chart }}</div>
  </section>
  <section class="card">
    <h2>Grade by grade</h2>
    <table>
      {% set loss = values | selectattr("expected_loss") | list | length > 0 %}
      <thead><tr><th>Grade</th><th class="n">Rows</th><th class="n">Mean score</th>{% if loss %}<th class="n">Expected loss</th>{% endif %}</tr></thead>
      {% for grade in values if grade.rows %}
      <tr><td><bdi>{{ grade.name | name(40) }}</bdi></td><td class="n">{{ grade.rows | count }}</td><td class="n">{{ grade.mean_score | score }}</td>{% if loss %}<td class="n">{{ grade.expected_loss | count }}</td>{% endif %}</tr>
      {% endfor %}
    </table>
  </section>
</div>
"""


@dataclass(frozen=True)
class GradeBar:
    """One grade of the master scale: rows of this run and of the last, and its mean score."""

    name: str
    rows: int
    rows_before: int | None = None
    mean_score: float | None = None
    expected_loss: float | None = None


def _gather(night: PublishedNight) -> tuple[GradeBar, ...]:
    """Every grade of the scale, best first; none where the target has none."""
    about = pl.len().alias("rows"), pl.col("score").mean(), pl.col("expected_loss").sum()
    graded = night.scores.drop_nulls("grade").group_by("grade").agg(*about).collect()
    found = {row["grade"]: row for row in graded.iter_rows(named=True)}
    before, last = night.before, None
    if before is not None and "grade" in before.collect_schema():
        last = dict(before.drop_nulls("grade").group_by("grade").len().collect().iter_rows())
    return tuple(
        GradeBar(
            grade.name,
            found[grade.name]["rows"] if grade.name in found else 0,
            last.get(grade.name, 0) if last is not None else None,
            found[grade.name]["score"] if grade.name in found else None,
            (found[grade.name]["expected_loss"] or None) if grade.name in found else None,
        )
        for grade in (night.context.portfolio.scorecard.grades if found else ())
    )


def _chart(grades: Sequence[GradeBar]) -> Markup:
    """Rows by grade as bars, the last run's as a tick over each, both as shares of their rows."""
    names = [charts.label(grade.name) for grade in grades]
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
    y = alt.Y("share:Q", title="share of rows", axis=alt.Axis(format="%", tickCount=4))
    chart = alt.Chart(data).mark_bar(color=charts.ACCENT, opacity=0.55).encode(x=x, y=y)
    if before:
        ticks = alt.Chart(data).mark_tick(color=charts.INK, thickness=1.6)
        chart += ticks.encode(x=x, y=alt.Y("last:Q", title="share of rows"))
    return charts.svg(chart, width=420, height=190)


CARD = Card({"night": (20, 0)}, _gather, _TEMPLATE, lambda grades, page: {"chart": _chart(grades)})
