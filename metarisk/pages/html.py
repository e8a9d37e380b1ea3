"""How pages are written: Jinja2 with our filters, in which everything that data says is escaped, and files.

A page loads nothing and runs no script: its content security policy forbids both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from metarisk.charts import printable

_CUTS = (40, 60, 80, 120, 400)
"""Where templates cut names that may be an entity's."""


def drawn(template: str, **values: object) -> Markup:
    """A template's source with values, as HTML."""
    return Markup(_compiled(template).render(values))  # noqa: S704 - the environment escapes


def write(path: Path, html: str) -> Path:
    """Write a page beside its place, then move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    beside.write_text(html, encoding="utf-8")
    beside.replace(path)
    return path


def written(name: str) -> list[str]:
    """Every form in which pages write a name, the longest first: whole, cut, escaped."""
    cut = (printable(_name(name, most)) for most in _CUTS)
    return sorted({name, *(str(escape(form)) for form in (printable(name), *cut))}, key=len, reverse=True)


@cache
def environment() -> Environment:
    """Jinja2 with the templates of this folder and our filters."""
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(_FILTERS)
    return found


@cache
def _compiled(template: str) -> Template:
    return environment().overlay(keep_trailing_newline=True).from_string(template)


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _score(value: float | None) -> str:
    """Three significant digits: a PD of 0.0213 and a VaR of 3.41 read alike."""
    if value is None or not math.isfinite(value):
        return "–"
    if not 1e-6 <= abs(value) < 1e15:
        return f"{value:.3g}"
    return f"{value:,.{max(2 - math.floor(math.log10(abs(value))), 0)}f}"


def _signed(value: float | None, digits: int = 1) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:+.{digits}f}".replace("-", "−") if math.isfinite(value) else ("∞" if value > 0 else "−∞")


def _seconds(value: float) -> str:
    if value < 99.5:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _moment(value: datetime | None) -> str:
    return "–" if value is None else f"{value:%Y-%m-%d %H:%M %Z}".strip()


def _name(value: str, most: int = 80) -> str:
    """Names as people read them: parents apart, overlong ones cut."""
    shown = value[: most * 4].replace("|", " · ")
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _prose(value: str, most: int = 600) -> Markup:
    """A sentence in which `commands` stand in backticks, escaped."""
    shown = printable(value if len(value) <= most else value[: most - 1] + "…")
    parts = shown.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 and i < len(parts) - 1 else escape(part)
        for i, part in enumerate(parts)
    )


def _printable(value: object) -> object:
    """What a template is about to print, fit for UTF-8 and HTML; markup of ours passes as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_FILTERS: Mapping[str, object] = {
    "count": _count,
    "number": _number,
    "score": _score,
    "signed": _signed,
    "seconds": _seconds,
    "moment": _moment,
    "name": _name,
    "prose": _prose,
}
