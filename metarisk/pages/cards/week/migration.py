"""Grades before and after: rows from the grade of the champion before to that of the new model."""

from __future__ import annotations

from metarisk.pages.page import Card
from metarisk.pages.subjects import PublishedWeek

_TEMPLATE = """\
<section class="card"><h2>Grades before and after</h2>
  <p class="soft">Rows from the grade of the champion before (lines) to that of the new model (columns).</p>
  <div class="scroll"><table>
    <thead><tr><th></th>{% for name, rows in values %}<th class="n"><bdi>{{ name | name(12) }}</bdi></th>{% endfor %}</tr></thead>
    <tbody>{% for name, rows in values %}<tr><th><bdi>{{ name | name(12) }}</bdi></th>{% for count in rows %}<td class="n{{ "" if count else " soft" }}">{{ count | count if count else "·" }}</td>{% endfor %}</tr>{% endfor %}</tbody>
  </table></div></section>"""


def _gather(week: PublishedWeek) -> list[tuple[str, list[int]]]:
    """Rows from each grade (one line) to each grade (one number), best first."""
    if week.trained.comparison is None or not week.trained.comparison.migration:
        return []
    names = [grade.name for grade in week.context.portfolio.scorecard.grades]
    found = {row["slice"]: row["rows"] for row in week.trained.comparison.migration}
    return [(old, [found.get(f"{old} to {new}", 0) for new in names]) for old in names]


CARD = Card({"week": (50, 1)}, _gather, _TEMPLATE)
