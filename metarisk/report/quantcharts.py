"""The picture of a signal: what one unit of money became, of each recipe and of equal weights."""

from __future__ import annotations

import json
from collections.abc import Sequence

import altair as alt
import polars as pl
from markupsafe import Markup

from metarisk.report.charts import _ACCENT, _INK, _SOFT, _svg
from metarisk.report.marketcharts import HEIGHT, WIDTH
from metarisk.report.model import MeasureRow


def equity_chart(rows: Sequence[MeasureRow]) -> Markup:
    """Value net of costs on dates that no fit had seen: the champion thick, equal weights dashed, others thin."""
    parts = [
        pl.DataFrame(json.loads(row.note)).with_columns(pl.lit(row.item).alias("item"))
        for row in rows
        if row.note and row.note.startswith("{")
    ]
    parts = [part for part in parts if part.height > 1]
    if not parts:
        return Markup("")
    data = pl.concat(parts).with_columns(pl.col("day").str.to_date().cast(pl.Datetime))
    x = alt.X("day:T", title=None, axis=alt.Axis(format="%b %y", tickCount=8, grid=False))
    y = alt.Y("value:Q", title="value of 1, net", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4))
    kinds = {
        "others": (~pl.col("item").str.ends_with("(champion)") & (pl.col("item") != "1/N"), _SOFT, 1.1, []),
        "1/N": (pl.col("item") == "1/N", _INK, 1.3, [4, 3]),
        "champion": (pl.col("item").str.ends_with("(champion)"), _ACCENT, 2.2, []),
    }
    layers = [
        alt.Chart(part)
        .mark_line(color=colour, strokeWidth=width, **({"strokeDash": dash} if dash else {}))
        .encode(x=x, y=y, detail="item:N")
        for chosen, colour, width, dash in kinds.values()
        if not (part := data.filter(chosen)).is_empty()
    ]
    ends = data.sort("day").group_by("item", maintain_order=True).last().sort("value")
    gap = 0.07 * (float(data["value"].max() or 0.0) - float(data["value"].min() or 0.0))  # type: ignore[arg-type]
    # Names that would lie on each other are moved apart.
    places = ends["value"].to_list()
    for number in range(1, len(places)):
        places[number] = max(places[number], places[number - 1] + gap)
    ends = ends.with_columns(pl.Series("value", places))
    names = alt.Chart(ends).mark_text(align="left", dx=4, fontSize=9, color=_INK).encode(x=x, y=y, text="item:N")
    return _svg(alt.layer(*layers, names), width=WIDTH - 90, height=HEIGHT)
