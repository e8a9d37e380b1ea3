"""Calibration of the chosen recipe on the rows that judged it."""

from collections.abc import Sequence

import altair as alt
import numpy as np
import polars as pl
from markupsafe import Markup

from metarisk import charts
from metarisk.metrics import ReliabilityBin, reliability
from metarisk.pages.page import Card
from metarisk.pages.subjects import PublishedWeek
from metarisk.tasks import LABEL

_TEMPLATE = """\
<section class="card"><h2>Calibration on validation rows</h2>
  <p class="soft">Ten groups of equal size; whiskers are 95 % intervals, the dashed line is agreement.</p>
  <div class="chart">{{ chart }}</div></section>"""


def _gather(week: PublishedWeek) -> tuple[ReliabilityBin, ...]:
    rows = pl.read_parquet(week.judged.folder / "judged" / "judged.parquet")
    recipe = week.judged.decision.recipe
    if rows.is_empty() or recipe not in rows.columns or week.context.spec.label != "event":
        return ()
    return reliability(1 / (1 + np.exp(-rows[recipe].to_numpy())), rows[LABEL].to_numpy())


def _chart(bins: Sequence[ReliabilityBin]) -> Markup:
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
    line = alt.Chart(pl.DataFrame({"predicted": ends, "observed": ends}))
    place = alt.Chart(data)
    return charts.svg(
        line.mark_line(color=charts.SOFT, strokeWidth=1, strokeDash=[4, 4]).encode(x=x, y=y)
        + place.mark_rule(color=charts.ACCENT, opacity=0.6).encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q")
        + place.mark_circle(color=charts.ACCENT, size=55, opacity=1).encode(x=x, y=y),
        width=380,
        height=240,
    )


CARD = Card({"week": (40, 0)}, _gather, _TEMPLATE, lambda bins, page: {"chart": _chart(bins)})
