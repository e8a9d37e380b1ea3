"""The riskiest rows, and the reasons of their scores."""

import json
from collections.abc import Mapping
from typing import Any

from metarisk.pages.page import Card
from metarisk.pages.subjects import PublishedNight

MOST = 8
"""Rows of which a reader takes in the reasons at once."""
_TEMPLATE = """\
{% set pointed = values | rejectattr("points", "none") | list | length > 0 %}
<section class="card">
  <h2>The {{ "riskiest" if pointed else "highest scores" }}, and why</h2>
  <p class="soft">Reasons{{ " with the points they cost" if pointed else ", the heaviest first" }}; <code>metarisk explain</code> shows all of any row.</p>
  <div class="scroll"><table class="below">
    <thead><tr><th>Entity</th><th class="n">Score</th>{% if pointed %}<th class="n">Points</th>{% endif %}<th>Reasons</th></tr></thead>
    <tbody>
    {% for row in values %}
    <tr><td><bdi>{{ row.entity | name(40) }}</bdi><div class="soft small"><bdi>{{ row.segment | name(60) }}</bdi></div></td>
      <td class="n">{{ row.score | score }}<div class="soft small">{{ (row.grade or "") | name(40) }}</div></td>{% if pointed %}<td class="n">{{ row.points | number(0) }}</td>{% endif %}
      <td>{% for reason in row.reasons %}<div><bdi>{{ reason.text | name(90) }}</bdi>{% if pointed %} <span class="soft nowrap">{{ reason.points | signed(0) }}</span>{% endif %}</div>{% else %}<span class="soft">none</span>{% endfor %}</td></tr>
    {% endfor %}
    </tbody>
  </table></div>
</section>
"""


def _gather(night: PublishedNight) -> list[Mapping[str, Any]]:
    """Of rows that have reasons: entity, segment, score, grade, points, reasons (text, points), the heaviest first."""
    explained = night.scores.drop_nulls("reasons").select("entity", "segment", "score", "grade", "points", "reasons")
    worst = explained.sort("score", "entity", descending=[True, False]).head(MOST).collect()
    return [row | {"reasons": json.loads(row["reasons"])} for row in worst.iter_rows(named=True)]


CARD = Card({"night": (40, 0)}, _gather, _TEMPLATE)
