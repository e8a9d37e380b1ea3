"""Who would be decided otherwise: rows that one of the two models alone would decline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metarisk.pages.page import Card
from metarisk.pages.subjects import PublishedWeek

_TEMPLATE = """\
<section class="card"><h2>Who would be decided otherwise</h2>
  <p class="soft">At the portfolio's cut, by the new model against the champion before; the rate is what the new scores expect.</p>
  <div class="scroll"><table>
    <thead><tr><th>Segment</th><th>Decision</th><th class="n">Rows</th><th class="n">Expected rate</th></tr></thead>
    <tbody>{% for line in values[:12] %}<tr><td><bdi>{{ ("whole portfolio" if line.slice == "all" else line.slice) | name(60) }}</bdi></td><td>{{ line.metric.replace("_", " ") }}</td><td class="n">{{ line.rows | count }}</td><td class="n">{{ line.value | score }}</td></tr>{% endfor %}</tbody>
  </table></div></section>"""


def _gather(week: PublishedWeek) -> list[Mapping[str, Any]]:
    """See backtests.swap_set: in all, then the segments with the most of them."""
    found = week.trained.comparison.swaps if week.trained.comparison else ()
    return sorted(found, key=lambda row: (row["slice"] != "all", -row["rows"], row["slice"]))


CARD = Card({"week": (50, 0)}, _gather, _TEMPLATE)
