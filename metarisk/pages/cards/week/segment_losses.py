"""Segment by segment: where the chosen recipe loses to the opponent, and where it wins."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl
from markupsafe import Markup

from metarisk import charts
from metarisk import evidence as evidences
from metarisk.metrics import Interval
from metarisk.pages.page import Card, Page, Problem
from metarisk.pages.subjects import PublishedWeek

_ENDS = 5
"""Segments named at either end."""
_MOST_POINTS = 150
"""Whiskers that do not run into each other on the width of a card."""
_NAMED = 3
"""Segments that a sentence names."""
_TEMPLATE = """\
<div class="split">
  <section class="card"><h2>Segment by segment</h2>
  <p class="soft">{{ values | length | count }} segments in the order of what the loss of the chosen recipe differs by from the opponent's, partially pooled, with 95 % intervals; below the dashed line it is better.{% if values | length > 1 and ends[0].difference.mean == ends[-1].difference.mean %} They do not differ from each other beyond chance, so each has what all have together.{% endif %}</p>
  <div class="chart">{{ chart }}</div></section>
  <section class="card"><h2>The worst and the best segments</h2>
  <p class="soft">{{ losing | count if losing else "None" }} significantly worse, at a false discovery rate of 5 %.</p>
  <div class="scroll"><table>
    <thead><tr><th>Segment</th><th class="n">Rows</th><th class="n">Events</th><th class="n">Difference, 10<sup>−4</sup></th><th class="n">95 % interval</th></tr></thead>
    <tbody>{% for line in ends %}<tr><td><bdi>{{ line.segment | name(60) }}</bdi>{% if line.worse %} <span class="tag alert">worse</span>{% endif %}</td><td class="n">{{ line.rows | count }}</td><td class="n">{{ line.events | count }}</td><td class="n">{{ (line.difference.mean * 1e4) | signed }}</td><td class="n soft">{{ (line.difference.low * 1e4) | signed }} to {{ (line.difference.high * 1e4) | signed }}</td></tr>{% endfor %}</tbody>
  </table></div></section>
</div>
"""


@dataclass(frozen=True)
class SegmentLoss:
    """What the loss of the chosen recipe differs by from the opponent's in one segment, partially pooled."""

    segment: str
    rows: int
    events: int
    difference: Interval
    worse: bool
    """Significantly, after Benjamini and Hochberg over all segments."""


def _gather(week: PublishedWeek) -> list[SegmentLoss]:
    """The worst segment first."""
    rows = pl.read_parquet(week.judged.folder / "judged" / "judged.parquet")
    recipe, portfolio, spec = week.judged.decision.recipe, week.context.portfolio, week.context.spec
    found: list[dict[str, Any]] = evidences.by_segment(rows, recipe, portfolio, spec)
    lines = [
        SegmentLoss(
            row["slice"],
            row["rows"],
            row["events"],
            Interval(row["value"], row["low"], row["high"]),
            row["note"].startswith("worse"),
        )
        for row in found
    ]
    return sorted(lines, key=lambda line: (-line.difference.mean, line.segment))


def _show(losses: Sequence[SegmentLoss], page: Page) -> dict[str, object]:
    ordered = sorted(losses, key=lambda line: -line.difference.mean)
    ends = ordered if len(ordered) <= 2 * _ENDS else ordered[:_ENDS] + ordered[-_ENDS:]
    return {"ends": ends, "losing": sum(line.worse for line in losses), "chart": _chart(losses)}


def _chart(losses: Sequence[SegmentLoss]) -> Markup:
    """Loss differences of segments in rising order with their 95 % intervals."""
    ordered = sorted(losses, key=lambda line: line.difference.mean)
    kept = [ordered[i] for i in charts.evenly(len(ordered), _MOST_POINTS)]
    data = pl.DataFrame(
        {
            "place": list(range(len(kept))),
            "difference": [1e4 * line.difference.mean for line in kept],
            "low": [1e4 * line.difference.low for line in kept],
            "high": [1e4 * line.difference.high for line in kept],
            "kind": ["worse" if line.worse else "even" if line.difference.high >= 0 else "better" for line in kept],
        }
    )
    colours = alt.Scale(domain=["better", "even", "worse"], range=[charts.GOOD, charts.ACCENT, charts.BAD])
    colour = alt.Color("kind:N", scale=colours, legend=None)
    ends = alt.Scale(domain=[-1.5, len(kept) + 0.5], nice=False)
    place = alt.Chart(data).encode(x=alt.X("place:Q", axis=None, scale=ends))
    y = alt.Y("low:Q", axis=alt.Axis(tickCount=5), title="difference, 1e-4")
    whiskers = place.mark_rule(opacity=0.55, strokeWidth=1).encode(y=y, y2="high:Q", color=colour)
    dots = place.mark_circle(size=22, opacity=1).encode(y="difference:Q", color=colour)
    zero = alt.Chart(pl.DataFrame({"zero": [0.0]})).mark_rule(color=charts.INK, strokeDash=[4, 4]).encode(y="zero:Q")
    return charts.svg(zero + whiskers + dots, width=420, height=220)


def _problems(losses: Sequence[SegmentLoss], page: Page) -> Iterator[Problem]:
    losing = [line.segment.replace("|", " · ") for line in losses if line.worse]
    if losing:
        more = f" and {len(losing) - _NAMED} more" if len(losing) > _NAMED else ""
        yield Problem("watch", f"The chosen recipe is significantly worse in {', '.join(losing[:_NAMED])}{more}.")


CARD = Card({"week": (20, 0)}, _gather, _TEMPLATE, _show, problems=_problems)
