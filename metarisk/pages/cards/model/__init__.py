"""Cards of a model: each gathers a section, which is written as HTML and as Markdown."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metarisk.pages.page import Card
from metarisk.pages.subjects import RegisteredModel

Row = Mapping[str, str]
_TEMPLATE = """\
<section class="card">
  <h2>{{ values.title }}</h2>
  {% for sentence in values.sentences %}<p class="soft"><bdi>{{ sentence }}</bdi></p>{% endfor %}
  {% if values.rows %}
  <div class="scroll"><table>
    <thead><tr>{% for name in values.rows[0] %}<th>{{ name }}</th>{% endfor %}</tr></thead>
    {% for row in values.rows %}<tr>{% for value in row.values() %}<td><bdi>{{ value | name(400) }}</bdi></td>{% endfor %}</tr>{% endfor %}
  </table></div>
  {% endif %}
</section>
"""


@dataclass(frozen=True)
class Section:
    """A heading with sentences, and a table whose columns are the keys of its first row."""

    title: str
    sentences: Sequence[str] = ()
    rows: Sequence[Row] = ()


def section(row: int, gather: Callable[[RegisteredModel], Section]) -> Card:
    """The card of a section, in that row of the page."""
    return Card({"model": (row, 0)}, gather, _TEMPLATE)


def with_interval(row: Mapping[str, Any]) -> str:
    """The value of a row of `evidence`, and its bounds where it has any."""
    if row["value"] is None:
        return "-"
    if row["low"] is None or row["high"] is None:
        return number(row["value"])
    return f"{number(row['value'])} [{number(row['low'])}, {number(row['high'])}]"


def number(value: float) -> str:
    """Four significant digits, in no power of ten where it can be read without."""
    if not 1e-6 <= abs(value) < 1e15:
        return f"{value:.4g}"
    text = f"{value:,.{max(3 - math.floor(math.log10(abs(value))), 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
