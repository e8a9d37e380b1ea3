"""The whole portfolio: every test but those of single features."""

from __future__ import annotations

from collections.abc import Sequence

from metarisk.pages.page import Card, Page
from metarisk.pages.subjects import DriftLine, PublishedNight

_TEMPLATE = """\
  <section class="card">
    <h2>The whole portfolio</h2>
    <table>
      <thead><tr><th>Measure</th><th>Status</th><th class="n">Value</th><th>Detail</th></tr></thead>
      {% for line in whole %}
      <tr><td>{{ line.metric.replace("_", " ").replace("auc", "AUC") }}</td><td><span class="tag {{ line.status }}">{{ line.status }}</span></td><td class="n">{{ line.value | number(3) }}</td><td class="soft small"><bdi>{{ (line.detail or "–") | name(110) }}</bdi></td></tr>
      {% endfor %}
    </table>
  </section>
"""


def _gather(night: PublishedNight) -> Sequence[DriftLine]:
    return night.drift


def _show(lines: Sequence[DriftLine], page: Page) -> dict[str, object]:
    return {"whole": [line for line in lines if line.decides and not line.segment and line.metric != "psi"]}


CARD = Card({"drift": (20, 1)}, _gather, _TEMPLATE, _show, always=True)
