"""Segments that behave alike: the map that came with the model, and nearest neighbours."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import polars as pl
from markupsafe import Markup

from metarisk import charts, registry
from metarisk.domain import segment_name
from metarisk.job.storage import from_registry
from metarisk.pages.page import Card, Page
from metarisk.pages.subjects import PublishedWeek

_COLOURS = len(charts.SERIES)
_MOST_POINTS = 600
"""Circles beyond which a map is a blot; the largest are drawn."""
_MOST_NAMES = 9
"""Names that leave the circles to be seen."""
_NEIGHBOURS = 10
"""Segments that a reader goes through."""
_WIDTH, _HEIGHT = 420, 300
_TEMPLATE = """\
<div class="split">
<section class="card"><h2>Segments that behave alike</h2><div class="chart">{{ map }}</div></section>
  <section class="card"><h2>Nearest neighbours</h2>
  <p class="soft">By what was learned about each segment; the {{ neighbours | length }} with the most labels, of {{ values | length | count }} compared.</p>
  <div class="scroll"><table>
    <thead><tr><th>Segment</th><th class="n">Labels</th><th>Most like it</th></tr></thead>
    <tbody>{% for place in neighbours %}<tr><td><bdi>{{ place.name | name(60) }}</bdi></td><td class="n">{{ place.rows | count }}</td><td>{% for other in place.nearest %}<bdi>{{ other | name(60) }}</bdi>{{ ", " if not loop.last }}{% endfor %}</td></tr>{% endfor %}</tbody>
  </table></div></section></div>
"""


@dataclass(frozen=True)
class MapPoint:
    """A segment on the similarity map: near points behave alike."""

    name: str
    x: float
    y: float
    rows: int
    group: str = ""
    nearest: tuple[str, ...] = ()
    """Names of the segments most like it."""


def _gather(week: PublishedWeek) -> list[MapPoint]:
    """Segments coloured by the part of the key that has the fewest values."""
    places = json.loads(from_registry(week.context, week.trained.model_id, registry.load)["likeness.json"])
    distinct = [len(set(part)) for part in zip(*(place["segment"] for place in places), strict=True)]
    colour = distinct.index(min(distinct)) if distinct and min(distinct) <= _COLOURS else None
    return [
        MapPoint(
            name=segment_name(tuple(place["segment"])),
            x=place["x"],
            y=place["y"],
            rows=place["support_rows"],
            group=place["segment"][colour] if colour is not None else "",
            nearest=tuple(segment_name(tuple(key)) for key in place["nearest"]),
        )
        for place in places
    ]


def _show(points: Sequence[MapPoint], page: Page) -> dict[str, object]:
    return {"map": _map(points), "neighbours": sorted(points, key=lambda place: -place.rows)[:_NEIGHBOURS]}


def _map(points: Sequence[MapPoint]) -> Markup:
    """Segments by likeness of behaviour; area is the number of rows, large ones that stand apart carry their names."""
    points = sorted(points, key=lambda p: -p.rows)[:_MOST_POINTS]
    named = _apart(points)
    data = pl.DataFrame(
        {
            "x": [p.x for p in points],
            "y": [p.y for p in points],
            "rows": [p.rows for p in points],
            "group": [charts.label(p.group) for p in points],
            "name": [charts.label(p.name) if p.name in named else "" for p in points],
        }
    )
    place = alt.Chart(data).encode(x=alt.X("x:Q", axis=None), y=alt.Y("y:Q", axis=None))
    groups = alt.Legend(orient="bottom", title=None, columns=3) if any(p.group for p in points) else None
    dots = place.mark_circle(opacity=0.65).encode(
        size=alt.Size("rows:Q", scale=alt.Scale(range=[12, 500]), legend=None),
        color=alt.Color("group:N", scale=alt.Scale(range=charts.SERIES), legend=groups),
    )
    names = place.mark_text(fontSize=9.5, dy=-10, color=charts.SOFT).encode(text="name:N")
    return charts.svg(dots + names, width=_WIDTH, height=_HEIGHT)


def _apart(points: Sequence[MapPoint]) -> set[str]:
    """Names of the first points, as many as can be written without one covering another."""
    (left, right), (bottom, top) = ((min(line), max(line)) for line in zip(*((p.x, p.y) for p in points), strict=True))
    taken: dict[str, tuple[float, float, float]] = {}
    for point in points:
        x, y = _WIDTH * (point.x - left) / (right - left or 1.0), _HEIGHT * (point.y - bottom) / (top - bottom or 1.0)
        half = 2.8 * len(charts.label(point.name))  # half of a letter's width in pixels
        if all(abs(x - x2) > half + half2 or abs(y - y2) > 14 for x2, y2, half2 in taken.values()):
            taken[point.name] = (x, y, half)
        if len(taken) == _MOST_NAMES:
            break
    return set(taken)


CARD = Card({"week": (80, 0)}, _gather, _TEMPLATE, _show)
