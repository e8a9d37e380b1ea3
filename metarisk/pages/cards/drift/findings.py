"""What was looked at: findings by kind of test, and every test of the whole portfolio but those of single features."""

from collections import Counter
from collections.abc import Iterator, Sequence
from operator import attrgetter

from metarisk.drift.decide import SUSPECTED
from metarisk.pages.page import Card, Page, Tile
from metarisk.pages.subjects import DriftLine

KINDS = {
    "psi": "features and score", "volume": "rows of segments", "domain_auc": "all features together",
    "label_rate": "event rate since training", "expected_log_loss": "performance without labels",
    "expected_auc": "performance without labels", "expected_loss": "performance without labels",
    "early_events": "earliest labels: events", "early_auc": "earliest labels: ranking",
    "matured_auc": "matured labels: ranking", "concept": "both together",
}  # fmt: skip
"""Kinds of test by metric, in the order in which they are shown."""
_TEMPLATE = """\
<div class="split">
  <section class="card">
    <h2>What was looked at</h2>
    <table>
      <thead><tr><th>Kind</th><th class="n">alert</th><th class="n">watch</th><th class="n">blind</th><th class="n">ok</th></tr></thead>
      {% for name, found in kinds %}
      <tr><td>{{ name }}</td><td class="n">{{ (found["alert"] + found["concept drift suspected"]) or "·" }}</td><td class="n">{{ found["watch"] or "·" }}</td><td class="n soft">{{ found["blind"] or "·" }}</td><td class="n soft">{{ found["ok"] or "·" }}</td></tr>
      {% endfor %}
    </table>
  </section>
  <section class="card">
    <h2>The whole portfolio</h2>
    <table>
      <thead><tr><th>Measure</th><th>Status</th><th class="n">Value</th><th>Detail</th></tr></thead>
      {% for line in whole %}
      <tr><td>{{ line.metric.replace("_", " ").replace("auc", "AUC") }}</td><td><span class="tag {{ line.status }}">{{ line.status }}</span></td><td class="n">{{ line.value | number(3) }}</td><td class="soft small"><bdi>{{ (line.detail or "–") | name(110) }}</bdi></td></tr>
      {% endfor %}
    </table>
  </section>
</div>
"""


def _show(lines: Sequence[DriftLine], page: Page) -> dict[str, object]:
    counted: dict[str, Counter[str]] = {}
    for line in lines:
        if line.decides:
            counted.setdefault(KINDS.get(line.metric, line.metric), Counter())[line.status] += 1
    whole = [line for line in lines if line.decides and not line.segment and line.metric != "psi"]
    return {
        "kinds": [(name, counted[name]) for name in dict.fromkeys(KINDS.values()) if name in counted],
        "whole": whole,
    }


def _tiles(lines: Sequence[DriftLine] | None, page: Page) -> Iterator[Tile]:
    counts: Counter[str] = Counter(line.status for line in lines or () if line.decides)
    red = counts["alert"] + counts[SUSPECTED]
    yield Tile("findings", f"{red:,}", f"{counts['watch']:,} on watch", "bad" if red else "")
    yield Tile("could not be seen", f"{counts['blind']:,}", "blind: too few rows or events")


CARD = Card({"drift": (20, 0)}, attrgetter("drift"), _TEMPLATE, _show, _tiles, always=True)
