"""What a risk type publishes beside its scores, as sections: pictures and a table a kind, in the way that it says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

import polars as pl
from markupsafe import Markup

from metarisk.domain import MeasureKind, MeasureRow
from metarisk.pages.page import Card
from metarisk.pages.subjects import PublishedNight
from metarisk.steps.derive import DERIVED, MEASURES

MOST_ITEMS = 12
"""Lines of a section's table; all of them are in the view `measure_current`."""
_TEMPLATE = """\
{% for section in values %}
<section class="card">
  <h2>{{ section.title | name(90) }}</h2>
  {% if section.text %}<p class="soft">{{ section.text }}</p>{% endif %}
  {% if section.pictures %}<div class="charts">{% for chart in section.pictures %}<div class="chart natural">{{ chart }}</div>{% endfor %}</div>{% endif %}
  {% if section.lines %}
  <div class="scroll"><table>
    <thead><tr>{% for words in section.head %}<th{% if loop.index > 1 %} class="n"{% endif %}>{{ words | name(60) }}</th>{% endfor %}</tr></thead>
    <tbody>{% for line in section.lines %}<tr>{% for cell in line %}<td{% if loop.index > 1 %} class="n"{% endif %}><bdi>{{ cell | name(60) }}</bdi></td>{% endfor %}</tr>{% endfor %}</tbody>
  </table></div>
  {% if section.items > section.lines | length %}<p class="soft small">{{ section.lines | length }} of {{ section.items | count }}; all are in the view <code>measure_current</code>.</p>{% endif %}
  {% endif %}
  {% for note in section.notes %}<p class="soft small">{{ note | name(300) }}</p>{% endfor %}
</section>
{% endfor %}
"""


@dataclass(frozen=True)
class Section:
    """One section, ready for the template."""

    title: str
    text: str
    pictures: tuple[str, ...]
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    items: int
    notes: tuple[str, ...]


def _gather(night: PublishedNight) -> list[Section]:
    file, cards = night.run.folder / DERIVED / MEASURES, night.context.spec.cards
    if not file.exists():
        return []
    rows = [MeasureRow(**row) for row in pl.read_parquet(file).iter_rows(named=True)]
    return sections(rows, import_module(cards).KINDS if cards else {})


def sections(rows: Sequence[MeasureRow], kinds: Mapping[str, MeasureKind]) -> list[Section]:
    """The sections of a page, kinds in the order in which they come."""
    by_kind: dict[str, list[MeasureRow]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, []).append(row)
    return [
        _section(kinds.get(name) or MeasureKind(name.replace("_", " ").capitalize()), found)
        for name, found in by_kind.items()
    ]


def _section(kind: MeasureKind, rows: Sequence[MeasureRow]) -> Section:
    metrics = list(dict.fromkeys(row.metric for row in rows))
    items: dict[tuple[str, str], dict[str, MeasureRow]] = {}
    for row in rows if kind.table else ():
        items.setdefault((row.item, row.segment or ""), {})[row.metric] = row
    with_segment = any(segment for _, segment in items)
    lines = []
    for (item, segment), found in list(items.items())[:MOST_ITEMS]:
        numbers = [_number(found.get(metric), kind.formats.get(metric, ".4g")) for metric in metrics]
        lines.append((item, *((segment,) if with_segment else ()), *numbers))
    words = [kind.words.get(metric, metric.replace("_", " ")) for metric in metrics]
    head = ("", *(("segment",) if with_segment else ()), *words)
    notes = tuple(dict.fromkeys(row.note for row in rows if row.note and not row.note.startswith(("{", "["))))
    return Section(
        kind.title,
        kind.text,
        tuple(Markup(draw(rows)) for draw in kind.pictures),  # noqa: S704 - pictures are ours
        head if lines else (),
        tuple(lines),
        len(items),
        notes[:MOST_ITEMS],
    )


def _number(row: MeasureRow | None, form: str) -> str:
    """A number with its bounds, where it has any."""
    if row is None or row.value is None:
        return "–"
    if row.low is None or row.high is None:
        return _formatted(row.value, form)
    value, low, high = (_formatted(number, form) for number in (row.value, row.low, row.high))
    return f"{value} [{low}, {high}]"


def _formatted(value: float, form: str) -> str:
    if form != MeasureKind.MILLIONS:
        return format(value, form)
    return f"{value / 1e6:,.2f} M" if abs(value) >= 1e6 else f"{value:,.0f}"


CARD = Card({"night": (50, 0)}, _gather, _TEMPLATE)
