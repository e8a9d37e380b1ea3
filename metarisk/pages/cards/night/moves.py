"""Why the scores moved: each number's change since the last run as a waterfall of its parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import altair as alt
import polars as pl
from markupsafe import Markup

from metarisk import charts
from metarisk.pages.page import Card
from metarisk.pages.subjects import PublishedNight
from metarisk.steps.attribute import LOSS, MEAN, move_of

_MEASURES = {MEAN: ("Mean score", ".4~%"), LOSS: ("Expected loss", ",.0f")}
_TEMPLATE = """\
<section class="card">
  <h2>Why the scores moved</h2>
  <p class="soft">Since {{ values[0].before_label }}: {{ values[0].rows_left | count }} rows left, {{ values[0].rows_entered | count }} came. The parts sum exactly; those of rows that stayed are averaged over all orders of change. Every segment's are in the view <code>score_move</code>, any two nights' in <code>metarisk why</code>.</p>
  <div class="charts">
    {% for move, chart in waterfalls %}
    <div><h3>{{ move.title }}</h3><div class="chart natural">{{ chart }}</div></div>
    {% endfor %}
  </div>
</section>
"""


@dataclass(frozen=True)
class Waterfall:
    """One number's change since the last run: `before` and the parts, (name, value) in order, sum to `after`."""

    title: str
    before_label: str
    after_label: str
    before: float
    after: float
    parts: tuple[tuple[str, float], ...]
    number_format: str = ".4~%"
    """d3-format of the values."""
    rows_left: int = 0
    rows_entered: int = 0


def _gather(night: PublishedNight) -> list[Waterfall]:
    """Of the whole portfolio; none where a night has no row of them."""
    whole = night.moves.filter(pl.col("segment").is_null()).drop_nulls(["value_before", "value_after"])
    found = []
    for row in whole.iter_rows(named=True):
        title, form = _MEASURES[row["measure"]]
        probability = row["measure"] != MEAN or night.context.spec.label == "event"
        found.append(
            Waterfall(
                title,
                str(row["before_as_of"]),
                str(night.context.job.as_of),
                row["value_before"],
                row["value_after"],
                tuple(move_of(row).told),
                form if probability else ".4~g",
                row["rows_left"],
                row["rows_entered"],
            )
        )
    return found


def _show(moves: Sequence[Waterfall], page: object) -> dict[str, object]:
    return {"waterfalls": [(move, _chart(move)) for move in moves]}


def _chart(move: Waterfall) -> Markup:
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
    x, at = alt.X("start:Q", scale=x_of, axis=axis, title=None), alt.X("at:Q", scale=x_of)
    y_axis = alt.Axis(domain=False, ticks=False, labelLimit=220, labelColor=charts.INK)
    y = alt.Y("name:N", sort=names, title=None, axis=y_axis)
    colours = alt.Scale(domain=["up", "down"], range=[charts.BAD, charts.GOOD])
    bars = alt.Chart(steps).mark_bar(height=14, cornerRadius=2)
    changes = alt.Chart(steps.filter(pl.col("value") != 0))
    text = {"align": "left", "dx": 6, "fontSize": 11, "color": charts.INK}
    return charts.svg(
        alt.Chart(links).mark_rule(color=charts.SOFT, strokeWidth=0.8, strokeDash=[2, 2]).encode(x=at, y=y, y2="next:N")
        + bars.encode(x=x, x2="end:Q", y=y, color=alt.Color("sign:N", scale=colours, legend=None))
        + changes.mark_text(**text).encode(
            x=alt.X("right:Q", scale=x_of), y=y, text=alt.Text("value:Q", format=f"+{move.number_format}")
        )
        + alt.Chart(ends).mark_tick(color=charts.INK, thickness=2.5, size=18).encode(x=at, y=y)
        + alt.Chart(ends)
        .mark_text(fontWeight="bold", **text)
        .encode(x=at, y=y, text=alt.Text("at:Q", format=move.number_format)),
        width=350,
        height=alt.Step(25),
    )


CARD = Card({"night": (30, 0)}, _gather, _TEMPLATE, _show)
