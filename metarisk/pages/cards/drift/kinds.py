"""What was looked at: findings by kind of test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from metarisk.drift.early import SUSPECTED
from metarisk.pages.page import Card, Page, Tile
from metarisk.pages.subjects import DriftLine, PublishedNight

KINDS = {
    "psi": "features and score", "volume": "rows of segments", "domain_auc": "all features together",
    "label_rate": "event rate since training", "expected_log_loss": "performance without labels",
    "expected_auc": "performance without labels", "expected_loss": "performance without labels",
    "early_events": "earliest labels: events", "early_auc": "earliest labels: ranking",
    "matured_auc": "matured labels: ranking", "concept": "both together",
}  # fmt: skip
"""Kinds of test by metric, in the order in which they are shown."""
_TEMPLATE = """\
  <section class="card">
    <h2>What was looked at</h2>
    <table>
      <thead><tr><th>Kind</th><th class="n">alert</th><th class="n">watch</th><th class="n">blind</th><th class="n">ok</th></tr></thead>
      {% for name, found in kinds %}
      <tr><td>{{ name }}</td><td class="n">{{ (found["alert"] + found["concept drift suspected"]) or "·" }}</td><td class="n">{{ found["watch"] or "·" }}</td><td class="n soft">{{ found["blind"] or "·" }}</td><td class="n soft">{{ found["ok"] or "·" }}</td></tr>
      {% endfor %}
    </table>
  </section>
"""


def _gather(night: PublishedNight) -> Sequence[DriftLine]:
    return night.drift


def _show(lines: Sequence[DriftLine], page: Page) -> dict[str, object]:
    counted: dict[str, Counter[str]] = {}
    for line in lines:
        if line.decides:
            counted.setdefault(KINDS.get(line.metric, line.metric), Counter())[line.status] += 1
    return {"kinds": [(name, counted[name]) for name in dict.fromkeys(KINDS.values()) if name in counted]}


def _tiles(lines: Sequence[DriftLine] | None, page: Page) -> Iterator[Tile]:
    counts: Counter[str] = Counter(line.status for line in lines or () if line.decides)
    red = counts["alert"] + counts[SUSPECTED]
    yield Tile("findings", f"{red:,}", f"{counts['watch']:,} on watch", "bad" if red else "")
    yield Tile("could not be seen", f"{counts['blind']:,}", "blind: too few rows or events")


CARD = Card({"drift": (20, 0)}, _gather, _TEMPLATE, _show, _tiles, always=True)
