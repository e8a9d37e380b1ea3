"""Segments worth a look: those whose mean score moved most."""

import math
from collections.abc import Sequence
from operator import attrgetter

from metarisk.pages.page import Card, Page
from metarisk.pages.subjects import SegmentLine

SHOWN = 10
"""Segments that a reader goes through; the view has all of them."""
_TEMPLATE = """\
<section class="card">
  <h2>Segments worth a look</h2>
  <p class="soft">{{ "Where the mean score moved most for the segment's size." if segments | map(attribute="last_mean_score") | select | list else "The largest: no earlier night is there to compare with." }} All {{ values | length | count }} are in the view <code>segment_health</code>.</p>
  <div class="scroll"><table>
    <thead><tr><th>Segment</th><th>Status</th><th class="n">Rows</th><th class="n">Labels</th><th class="n">Events</th><th class="n">Mean score</th><th class="n">Change</th>{% if page.cards.get("moves") %}<th>Moved by</th>{% endif %}<th>Why</th></tr></thead>
    <tbody>
    {% for line in segments %}
    <tr><td><bdi>{{ line.name | name }}</bdi></td><td class="nowrap"><span class="dot {{ line.status }}"></span>{{ line.status }}</td>
      <td class="n">{{ line.rows | count }}</td><td class="n">{{ line.support_rows | count }}</td><td class="n">{{ line.support_events | count }}</td>
      <td class="n">{{ line.mean_score | score }}</td><td class="n">{% if changes[line.name] is none %}–{% else %}{{ changes[line.name] | signed }} %{% endif %}</td>{% if page.cards.get("moves") %}<td class="soft nowrap">{{ line.moved_by or "–" }}</td>{% endif %}<td class="soft"><bdi>{{ (line.reason or "–") | name(120) }}</bdi></td></tr>
    {% endfor %}
    </tbody>
  </table></div>
</section>
"""


def _show(segments: Sequence[SegmentLine], page: Page) -> dict[str, object]:
    """Segments whose mean score moved most beyond what their size explains, then the largest."""
    shown = sorted(segments, key=lambda line: (-_move(line), -line.rows, line.name))[:SHOWN]
    return {"segments": shown, "changes": {line.name: _change(line) for line in shown}}


def _move(line: SegmentLine) -> float:
    now, before = line.mean_score, line.last_mean_score
    if now is None or before is None or not math.isfinite(now - before):
        return 0.0
    return abs(now - before) * math.sqrt(line.rows)


def _change(line: SegmentLine) -> float | None:
    """Relative change of a segment's mean score since the last run, in per cent."""
    now, before = line.mean_score, line.last_mean_score
    return None if now is None or not before or not math.isfinite(now / before) else 100.0 * (now / before - 1.0)


CARD = Card({"night": (70, 0)}, attrgetter("segments"), _TEMPLATE, _show)
