"""What changes where the new model takes over: who would be decided otherwise, and grades before and after."""

from typing import Any, NamedTuple

from metarisk.pages.page import Card
from metarisk.pages.subjects import PublishedWeek

_TEMPLATE = """\
<div class="split">
  {% if values.swaps %}<section class="card"><h2>Who would be decided otherwise</h2>
  <p class="soft">At the portfolio's cut, by the new model against the champion before; the rate is what the new scores expect.</p>
  <div class="scroll"><table>
    <thead><tr><th>Segment</th><th>Decision</th><th class="n">Rows</th><th class="n">Expected rate</th></tr></thead>
    <tbody>{% for line in values.swaps[:12] %}<tr><td><bdi>{{ ("whole portfolio" if line.slice == "all" else line.slice) | name(60) }}</bdi></td><td>{{ line.metric.replace("_", " ") }}</td><td class="n">{{ line.rows | count }}</td><td class="n">{{ line.value | score }}</td></tr>{% endfor %}</tbody>
  </table></div></section>{% endif %}
  {% if values.migration %}<section class="card"><h2>Grades before and after</h2>
  <p class="soft">Rows from the grade of the champion before (lines) to that of the new model (columns).</p>
  <div class="scroll"><table>
    <thead><tr><th></th>{% for name, rows in values.migration %}<th class="n"><bdi>{{ name | name(12) }}</bdi></th>{% endfor %}</tr></thead>
    <tbody>{% for name, rows in values.migration %}<tr><th><bdi>{{ name | name(12) }}</bdi></th>{% for count in rows %}<td class="n{{ "" if count else " soft" }}">{{ count | count if count else "·" }}</td>{% endfor %}</tr>{% endfor %}</tbody>
  </table></div></section>{% endif %}
</div>
"""


class Takeover(NamedTuple):
    """Rows of backtests.swap_set: in all, then the segments with the most; by old grade, rows in each new one."""

    swaps: list[dict[str, Any]]
    migration: list[tuple[str, list[int]]]


def _gather(week: PublishedWeek) -> Takeover | None:
    compared = week.trained.comparison
    if compared is None:
        return None
    swaps = sorted(compared.swaps, key=lambda row: (row["slice"] != "all", -row["rows"], row["slice"]))
    names = [grade.name for grade in week.context.portfolio.scorecard.grades] if compared.migration else []
    found = {row["slice"]: row["rows"] for row in compared.migration}
    return Takeover(swaps, [(old, [found.get(f"{old} to {new}", 0) for new in names]) for old in names])


CARD = Card({"week": (50, 0)}, _gather, _TEMPLATE, lambda found, page: {} if any(found) else None)
