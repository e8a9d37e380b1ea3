"""How pages show what a fraud portfolio publishes: cases to review with reasons, and what earlier nights caught."""

from __future__ import annotations

import json
from collections.abc import Sequence

import altair as alt
import polars as pl
from markupsafe import Markup, escape

from metarisk import charts
from metarisk.domain import MeasureKind, MeasureRow

MOST_CASES = 15
"""Cases that a reader takes in at once; the view has all of them."""
_RATES = {"precision": "alerts that were right", "recall": "cases of fraud that were alerts"}
_NUMBERS = (2, 3, 4)
_HEAD = ("case", "segment", "score", "rows", "at risk", "why")


def case_table(rows: Sequence[MeasureRow]) -> Markup:
    """The first cases to review: riskiest first, those drawn at random marked, with the reasons of the riskiest row."""
    cases: dict[str, dict[str, MeasureRow]] = {}
    for row in rows:
        cases.setdefault(row.item, {})[row.metric] = row
    order = sorted(cases, key=lambda case: _value(cases[case], "rank"))
    drawn = [case for case in order if _value(cases[case], "drawn") > 0]
    shown = [case for case in order if case not in drawn][: MOST_CASES - min(len(drawn), 3)] + drawn[:3]
    lines = Markup("").join(_line(case, cases[case]) for case in shown)
    head = Markup("").join(_cell("th", place, name) for place, name in enumerate(_HEAD))
    more = Markup('<p class="soft small">{} of {} cases; all are in the view <code>review_case</code>.</p>')
    rest = more.format(len(shown), len(order)) if len(order) > len(shown) else Markup("")
    table = Markup('<div class="scroll"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>{}')
    return table.format(head, lines, rest)


def _line(case: str, found: dict[str, MeasureRow]) -> Markup:
    told = json.loads(found["score"].note or "{}")
    why = "; ".join(str(reason.get("text", "")) for reason in told.get("reasons", ())) or "–"
    if _value(found, "drawn") > 0:
        why = "drawn at random"
    cells = (
        Markup("<bdi>{}</bdi>").format(escape(charts.printable(case))),
        escape(charts.printable((found["score"].segment or "").replace("|", " · "))),
        f"{_value(found, 'score'):.3f}",
        f"{_value(found, 'rows'):.0f}",
        f"{_value(found, 'at_risk'):,.0f}",
        escape(charts.printable(why)),
    )
    return Markup("<tr>{}</tr>").format(Markup("").join(_cell("td", place, cell) for place, cell in enumerate(cells)))


def _cell(tag: str, place: int, content: str) -> Markup:
    """A cell; columns of numbers stand to the right."""
    return Markup("<{0}{1}>{2}</{0}>").format(tag, Markup(' class="n"') if place in _NUMBERS else "", content)


def budget_chart(rows: Sequence[MeasureRow]) -> Markup:
    """Precision and recall of the alerts of each earlier night, by the labels known now."""
    points = [
        {"night": row.item, "rate": row.value, "share of": _RATES[row.metric]}
        for row in rows
        if row.metric in _RATES and row.value is not None
    ]
    schema = {"night": pl.String, "rate": pl.Float64, "share of": pl.String}
    data = pl.DataFrame(points, schema=schema).with_columns(pl.col("night").str.to_date())
    colours = alt.Scale(domain=list(_RATES.values()), range=[charts.ACCENT, charts.INK])
    legend = alt.Legend(orient="bottom", title=None, labelLimit=300)
    chart = (
        alt.Chart(data)
        .mark_line(point=True, strokeWidth=1.6)
        .encode(
            x=alt.X("night:T", title=None, axis=alt.Axis(grid=False, format="%d %b", tickCount=6)),
            y=alt.Y("rate:Q", title="share", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format=".0%", tickCount=5)),
            color=alt.Color("share of:N", scale=colours, legend=legend),
        )
    )
    return charts.svg(chart, width=520, height=200)


def _value(found: dict[str, MeasureRow], metric: str) -> float:
    row = found.get(metric)
    return 0.0 if row is None or row.value is None else row.value


_SHARES = dict.fromkeys(("precision", "recall", "value_recall", "never_caught"), ".1%")
KINDS = {
    "alert": MeasureKind(
        "Cases to review",
        "The riskiest cases within the night's budget, and some drawn at random: what nobody looked at is not clean.",
        (case_table,),
        table=False,
    ),
    "at_budget": MeasureKind(
        "What the alerts of earlier nights caught",
        "By the labels that are known now, of nights whose labels have matured.",
        (budget_chart,),
        table=False,
    ),
    "detection": MeasureKind(
        "Detection over those nights",
        "By the same labels; days from the first fraud of a case to its first one that was alerted, where one was.",
        formats=dict.fromkeys(("alerts", "hits", "nights", "days_to_first_catch"), ",.0f") | _SHARES,
    ),
    "reviewed": MeasureKind(
        "Detection by reviews alone",
        "Each reviewed case counts by the inverse of its chance to be reviewed: what nobody looked at is not clean.",
        formats=dict.fromkeys(("cases", "drawn"), ",.0f") | _SHARES,
    ),
}
