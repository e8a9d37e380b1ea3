"""Segments by status: how many were adapted, carried, abstained or fell back."""

from collections import Counter
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import get_args

from metarisk.domain import SegmentStatus
from metarisk.pages.page import Card, Page, Tile
from metarisk.pages.subjects import SegmentLine

_WHY = {
    "adapted": "learned from its own labels tonight",
    "carried": "same labels as last night",
    "abstained": "too few labels of its own: leans on its parents and the pool",
    "fallback": "without a model of its own: its parents and the pool score it",
}
_TEMPLATE = """\
  <section class="card">
    <h2>Segments by status</h2>
    <div class="stack" role="img" aria-label="share of segments by status">
      {%- for status, lines, rows in statuses %}<i class="{{ status }}" style="flex-grow:{{ lines }}"></i>{% endfor -%}
    </div>
    <table>
      <thead><tr><th>Status</th><th class="n">Segments</th><th class="n">Rows</th></tr></thead>
      {% for status, lines, rows in statuses %}
      <tr><td><span class="dot {{ status }}"></span>{{ status }}<div class="soft small">{{ why[status] }}</div></td><td class="n">{{ lines | count }}</td><td class="n">{{ rows | count }}</td></tr>
      {% endfor %}
    </table>
  </section>
"""


def _counts(segments: Sequence[SegmentLine]) -> list[tuple[str, int, int]]:
    """(status, segments, rows) in a fixed order, without the statuses that none has."""
    lines = Counter(segment.status for segment in segments)
    rows: Counter[str] = Counter()
    for segment in segments:
        rows[segment.status] += segment.rows
    return [(status, lines[status], rows[status]) for status in get_args(SegmentStatus) if lines[status]]


def _tiles(segments: Sequence[SegmentLine] | None, page: Page) -> Iterator[Tile]:
    counts = _counts(segments or ())
    yield Tile("segments", f"{len(segments or ()):,}", f"{counts[0][1]:,} {counts[0][0]}" if counts else "")


CARD = Card(
    {"night": (10, 1)},
    attrgetter("segments"),
    _TEMPLATE,
    lambda segments, page: {"statuses": _counts(segments), "why": _WHY},
    _tiles,
)
