"""Segments by status, as the view `segment_status` has them, with what their earliest labels say."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from metarisk.drift.decide import SUSPECTED, WORST_FIRST
from metarisk.pages.page import Card, Page, Tile
from metarisk.pages.subjects import PublishedNight
from metarisk.record import drift as records

SHOWN = 14
"""Segments that a reader goes through; the view has all of them."""
_TEMPLATE = """\
<section class="card">
  <h2>Segments by status</h2>
  <p class="soft">{% for status in order if statuses[status] %}<span class="key"><i class="fill {{ "alert" if status == "concept drift suspected" else status }}"></i>{{ statuses[status] | count }} {{ status }}</span> {% endfor %}
    A segment is blind where a doubled event rate could not have been seen; the last columns tell from which multiple on. All are in the view <code>segment_status</code>.</p>
  <div class="scroll"><table>
    <thead><tr><th>Segment</th><th>Status</th><th>Data</th><th>Expected performance</th><th>Earliest labels</th><th>Judged at</th><th class="n">Observed / expected</th><th class="n">Could see from</th><th>Events</th></tr></thead>
    <tbody>
    {% for line in worst %}
    <tr><td><bdi>{{ line.segment | name(60) }}</bdi></td><td><span class="tag {{ line.status }}">{{ line.status }}</span></td>
      {% for status in (line.data_status, line.performance_status, line.label_status) %}<td class="{{ "soft" if status in ("ok", "blind") }}">{{ status }}</td>{% endfor %}
      <td class="soft">{{ line.judged_at or "–" }}</td><td class="n">{{ line.ratio | number(2) }}</td><td class="n">{{ line.min_detectable_ratio | number(1) }}{{ " ×" if line.min_detectable_ratio }}</td><td class="soft small"><bdi>{{ (line.detail or "") | name(110) }}</bdi></td></tr>
    {% endfor %}
    </tbody>
  </table></div>
</section>
"""
Line = Mapping[str, Any]


def _gather(night: PublishedNight) -> Sequence[Line]:
    return records.segment_statuses(night.context.warehouse, night.run.run_id)


def _show(lines: Sequence[Line], page: Page) -> dict[str, object]:
    order = {status: place for place, status in enumerate(WORST_FIRST)}
    worst = sorted(lines, key=lambda line: (order.get(line["status"], len(order)), line["segment"]))[:SHOWN]
    return {"worst": worst, "statuses": Counter(line["status"] for line in lines), "order": WORST_FIRST}


def _tiles(lines: Sequence[Line] | None, page: Page) -> Iterator[Tile]:
    blind = sum(line["label_status"] == "blind" for line in lines or ())
    yield Tile("segments", f"{len(lines or ()):,}", f"{blind:,} blind for a doubled rate")
    suspected = sum(line["status"] == SUSPECTED for line in lines or ())
    yield Tile("concept drift", f"{suspected:,}", "segments suspected", "bad" if suspected else "")


CARD = Card({"drift": (40, 0)}, _gather, _TEMPLATE, _show, _tiles)
