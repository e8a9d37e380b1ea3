"""What all pictures share: inline SVG drawn without a browser, its colours, and names that fit.

Altair writes the specification, vl-convert the SVG. Colours are the page's CSS variables, so that one SVG suits the
light page, the dark page and paper. What a picture shows stands with the card or the risk type that shows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import polars as pl
import vl_convert
from markupsafe import Markup

FONT = "Arial, Liberation Sans, Helvetica, sans-serif"
"""Fonts of one metric: vl-convert lays labels out with the widths that the browser will draw."""
SOFT, LINE, INK, ACCENT = "var(--soft)", "var(--line)", "var(--ink)", "var(--accent)"
GOOD, WATCH, BAD = "var(--good)", "var(--watch)", "var(--bad)"
SERIES = [ACCENT, BAD, WATCH, GOOD, "var(--violet)", SOFT]
STATUS = {"ok": ACCENT, "watch": WATCH, "alert": BAD, "blind": SOFT}
WIDE, LOW = 620, 190
"""Width and height, in pixels, of a series of days across the page."""
LONGEST_LABEL = 28
"""Characters of a name that stay readable beside an axis."""
_PADDING = {"left": 14, "right": 14, "top": 5, "bottom": 5}
_UNPRINTABLE = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u202a-\u202e\u2066-\u2069]")
"""What XML forbids, at which vl-convert aborts the whole process, and marks that turn the direction of text."""


def printable(text: str) -> str:
    """The text with every character that a page or a chart cannot hold replaced by one that says so."""
    return _UNPRINTABLE.sub("\ufffd", text)


def label(name: str) -> str:
    """A name as a chart writes it: on one line, parents apart, cut where it is overlong."""
    flat = re.sub(r"\s+", " ", printable(name[: 4 * LONGEST_LABEL])).replace("|", " · ")
    return flat if len(flat) <= LONGEST_LABEL else flat[: LONGEST_LABEL - 1] + "…"


def labels(names: Iterable[str], empty: str = "") -> list[str]:
    """Labels that stay distinct, for an axis would merge two things of one label; `empty` is that of no name."""
    given: list[str] = []
    for name in names:
        short = label(name) or empty
        while short in given:
            short += "′"
        given.append(short)
    return given


def days() -> alt.X:
    """The axis of days: the field `day`."""
    return alt.X("day:T", title=None, axis=alt.Axis(format="%b %y", tickCount=8, grid=False))


def series(notes: Iterable[str | None]) -> list[pl.DataFrame]:
    """Series of days that notes hold as JSON, with the field `day` as a time; those of one day are left out."""
    found = [pl.DataFrame(json.loads(note)) for note in notes if note and note.startswith("{")]
    return [frame.with_columns(pl.col("day").str.to_date().cast(pl.Datetime)) for frame in found if frame.height > 1]


def status_colour() -> alt.Color:
    """The colour of a drift status: the field `status`."""
    return alt.Color("status:N", scale=alt.Scale(domain=list(STATUS), range=list(STATUS.values())), legend=None)


def evenly(size: int, most: int) -> Sequence[int]:
    """Numbers of at most `most` of so many things, evenly spaced, both ends included."""
    return range(size) if size <= most else [round(i * (size - 1) / (most - 1)) for i in range(most)]


def svg(chart: Any, *, width: Any, height: Any) -> Markup:
    """The picture as SVG that a page may hold as it is."""
    styled = (
        chart.properties(width=width, height=height, background="transparent", padding=_PADDING)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=SOFT, titleColor=SOFT, gridColor=LINE, domainColor=LINE, tickColor=LINE,
            labelFont=FONT, titleFont=FONT, labelFontSize=11, titleFontSize=11, titleFontWeight="normal",
        )
        .configure_legend(labelColor=SOFT, labelFont=FONT, labelFontSize=11, symbolStrokeWidth=2)
        .configure_text(font=FONT)
    )  # fmt: skip
    drawn = vl_convert.vegalite_to_svg(styled.to_dict(), allowed_base_urls=[])
    return Markup(re.sub(r"<svg ", '<svg role="img" ', drawn, count=1))  # noqa: S704 - vl-convert escapes what data says
