"""Where it drifted: a map of segments by features."""

from collections.abc import Sequence
from operator import attrgetter

import altair as alt
import polars as pl
from markupsafe import Markup

from metarisk import charts
from metarisk.pages.page import Card, Page
from metarisk.pages.subjects import DriftLine

_MAP = 30, 18
"""Segments and features whose names still stand apart on the width of a page."""
_FULL = 0.25
"""Effect from which on the colour is at its strongest: a quarter is a large PSI by the rule of thumb."""
_TEMPLATE = """\
<section class="card">
  <h2>Where: segment by feature</h2>
  <p class="soft">{% for status in ("alert", "watch", "blind", "ok") %}<span class="key"><i class="fill {{ status }}"></i>{{ status }}</span> {% endfor %} Strength is the population stability index beyond what sampling alone gives.</p>
  <div class="scroll"><div class="chart natural">{{ map }}</div></div>
</section>
"""


def _show(lines: Sequence[DriftLine], page: Page) -> dict[str, object] | None:
    drawn = heat_map(lines, *_MAP)
    return None if drawn is None else {"map": drawn}


def heat_map(lines: Sequence[DriftLine], most_segments: int, most_features: int) -> Markup | None:
    """PSI of the segments and features that moved most, the whole portfolio first; None where none was measured.

    Colour is the status, strength the effect, numbers stand where it is not ok.
    """
    cells = {(line.segment, line.feature): line for line in lines if line.metric == "psi"}
    if not cells:
        return None

    def most_moved(position: int, most: int) -> list[str]:
        strength: dict[str, tuple[int, float]] = {}
        for key, line in cells.items():
            rank = (-line.badness, line.effect or 0.0)
            strength[key[position]] = max(strength.get(key[position], rank), rank)
        order = sorted(strength, key=lambda name: (strength[name], name), reverse=True)
        return sorted(order[:most], key=lambda name: (name != "", order.index(name)))

    segments, features = most_moved(0, most_segments), most_moved(1, most_features)
    rows = dict(zip(segments, charts.labels(segments, "whole portfolio"), strict=True))
    columns = dict(zip(features, charts.labels(features, "whole portfolio"), strict=True))
    shown = [cells[s, f] for s in segments for f in features if (s, f) in cells]
    data = pl.DataFrame(
        {
            "segment": [rows[c.segment] for c in shown],
            "feature": [columns[c.feature] for c in shown],
            "status": [c.status for c in shown],
            "effect": [min(max(c.effect or 0.0, 0.0), _FULL) for c in shown],
            "shown": [
                f"{c.effect:.2f}" if c.status in ("watch", "alert") and c.effect is not None else "" for c in shown
            ],
        }
    )
    above = alt.Axis(orient="top", labelAngle=-40, domain=False, ticks=False, labelAlign="left")
    beside = alt.Axis(domain=False, ticks=False, labelLimit=220)
    base = alt.Chart(data).encode(
        x=alt.X("feature:N", sort=list(columns.values()), title=None, axis=above),
        y=alt.Y("segment:N", sort=list(rows.values()), title=None, axis=beside),
    )
    strength = alt.Scale(domain=[0, _FULL], range=[0.12, 0.95])
    squares = base.mark_rect(stroke="var(--card)", strokeWidth=2, cornerRadius=3).encode(
        color=charts.status_colour(), opacity=alt.Opacity("effect:Q", scale=strength, legend=None)
    )
    numbers = base.mark_text(fontSize=10.5, color=charts.INK).encode(text="shown:N")
    return charts.svg(squares + numbers, width=alt.Step(46), height=alt.Step(25))


CARD = Card({"drift": (50, 0)}, attrgetter("drift"), _TEMPLATE, _show)
