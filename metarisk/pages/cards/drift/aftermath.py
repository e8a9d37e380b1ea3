"""What came of published scores by month on book, and what was done about findings."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import altair as alt
import polars as pl
from markupsafe import Markup

from metarisk import charts
from metarisk.drift.remedy import REMEDY
from metarisk.pages.page import Card, Page
from metarisk.pages.subjects import DriftLine, PublishedNight
from metarisk.record import drift as records
from metarisk.steps.alerts import what

DAYS = 30
"""Of what happened to alerts."""
_MOST_RATIO = 4.0
"""Observed over expected events beyond which the axis would hide the others."""
_TEMPLATE = """\
<div class="split">
  {% if chart %}<section class="card"><h2>Published scores and what came</h2>
  <p class="soft">Events of the loans that were scored at their opening, by how much of their life is known; whiskers are 95 % intervals, 1 is what was published.</p>
  <div class="chart">{{ chart }}</div></section>{% endif %}
  <section class="card"><h2>What was done</h2>
  {% if values.done %}<ul class="next">{% for line in values.done %}<li><bdi>{{ line | prose }}</bdi></li>{% endfor %}</ul>{% else %}<p class="soft">Nothing: no finding asked for it.</p>{% endif %}</section>
</div>
"""


class Aftermath(NamedTuple):
    """Lines of `month_on_book`, and what was done in sentences."""

    months: Sequence[DriftLine] = ()
    done: Sequence[str] = ()


def _gather(night: PublishedNight) -> Aftermath:
    job = night.context.job
    remedies = [line.detail for line in night.drift if line.metric == REMEDY]
    events = records.alert_events(night.context.warehouse, job.portfolio, job.as_of - timedelta(days=DAYS), job.as_of)
    done = [_sentence(row) for row in events if row["event"] != "opened" or _asked(row)]
    return Aftermath([line for line in night.drift if line.metric == "month_on_book"], [*remedies, *done])


def _asked(row: Mapping[str, Any]) -> bool:
    """Whether an alert that was opened started the weekly flow."""
    return row["segment"] is None and row["told"] != "nobody"


def _sentence(row: Mapping[str, Any]) -> str:
    where = row["segment"] or "the whole portfolio"
    if row["event"] == "opened":
        return f"{row['as_of']}: {what(row)} in {where}: an event asked the weekly flow to start early."
    until = f" until {row['muted_until']}" if row["event"] == "muted" else ""
    by = f" by {row['author']}" if row["author"] != "metarisk" else ""
    return f"{row['as_of']}: {row['event']}{until}{by}: {what(row)} in {where} ({row['detail'] or '-'})."


def _show(found: Aftermath, page: Page) -> dict[str, object] | None:
    return {"chart": _chart(found.months) if found.months else None} if any(found) else None


def _chart(months: Sequence[DriftLine]) -> Markup:
    """Observed over expected events by months on book known, with 95 % intervals; 1 is what was published."""
    names = [str(int(line.feature)) for line in months]
    data = pl.DataFrame(
        {
            "month": names,
            "ratio": [min(line.value or 0.0, _MOST_RATIO) for line in months],
            "low": [line.low or 0.0 for line in months],
            "high": [min(line.high or 0.0, _MOST_RATIO) for line in months],
        }
    )
    x = alt.X("month:N", sort=names, title="months on book known", axis=alt.Axis(labelAngle=0, grid=False))
    y = alt.Y("ratio:Q", title="observed over expected", axis=alt.Axis(tickCount=5))
    base = alt.Chart(data)
    return charts.svg(
        alt.Chart(pl.DataFrame({"ratio": [1.0]})).mark_rule(color=charts.SOFT, strokeDash=[4, 4]).encode(y=y)
        + base.mark_rule(color=charts.ACCENT, opacity=0.6).encode(x=x, y=alt.Y("low:Q"), y2="high:Q")
        + base.mark_circle(color=charts.ACCENT, size=50, opacity=1).encode(x=x, y=y),
        width=400,
        height=190,
    )


CARD = Card({"drift": (30, 0)}, _gather, _TEMPLATE, _show)
