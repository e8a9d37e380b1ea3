"""How pages show signals: what one unit of money became, of each recipe and of equal weights, and what it proves."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl
from markupsafe import Markup

from metarisk import charts
from metarisk.domain import MeasureKind, MeasureRow


def equity_chart(rows: Sequence[MeasureRow]) -> Markup:
    """Value net of costs on dates that no fit had seen: the champion thick, equal weights dashed, others thin."""
    parts = [frame.with_columns(pl.lit(row.item).alias("item")) for row in rows for frame in charts.series((row.note,))]
    if not parts:
        return Markup("")
    data, x = pl.concat(parts), charts.days()
    y = alt.Y("value:Q", title="value of 1, net", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4))
    kinds = {
        "others": (~pl.col("item").str.ends_with("(champion)") & (pl.col("item") != "1/N"), charts.SOFT, 1.1, []),
        "1/N": (pl.col("item") == "1/N", charts.INK, 1.3, [4, 3]),
        "champion": (pl.col("item").str.ends_with("(champion)"), charts.ACCENT, 2.2, []),
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
    names = alt.Chart(ends).mark_text(align="left", dx=4, fontSize=9, color=charts.INK).encode(x=x, y=y, text="item:N")
    return charts.svg(alt.layer(*layers, names), width=charts.WIDE - 90, height=charts.LOW)


_NET = (
    "Walking forward. The deflated Sharpe ratio is the probability of more than the best of all configurations ever "
    "tried has by luck: below 0.95 nothing is proved."
)
_EARNED = dict.fromkeys(("net_year", "gross_year", "drawdown"), ".1%") | {"trials": ".0f", "deflated_sharpe": ".3f"}
_EARNED |= {"sharpe_year": "+.2f", "turnover": ".2f"}
KINDS = {
    "suggested": MeasureKind(
        "Suggested portfolio", "Weights tonight, and what is traded to get there within the limits."
    ),
    "signal": MeasureKind(
        "Signals on dates that no fit had seen",
        "Rank-IC with its 95 % interval, walking forward.",
        formats={"rank_ic": "+.4f", "icir": "+.2f"},
        words={"rank_ic": "rank-IC", "icir": "ICIR"},
    ),
    "long_short": MeasureKind("Long-short portfolio, net of costs", _NET, (equity_chart,), formats=_EARNED),
    "long_only": MeasureKind("Long-only portfolio, net of costs", _NET, (equity_chart,), formats=_EARNED),
}
