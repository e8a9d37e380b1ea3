"""Groups that no model may see: adverse impact and calibration of each, side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from metarisk.backtests import FOUR_FIFTHS
from metarisk.metrics import Interval
from metarisk.pages.page import Card, Page, Problem
from metarisk.pages.subjects import PublishedWeek

_TEMPLATE = """\
<section class="card">
  <h2>Groups that no model may see</h2>
  <p class="soft">Acceptance at the portfolio's cut against the most accepted group, and events over expected ones on validation rows.</p>
  <div class="scroll"><table>
    <thead><tr><th>Group</th><th class="n">Rows</th><th class="n">Adverse impact ratio</th><th class="n">Events over expected</th><th class="n">95 % interval</th></tr></thead>
    <tbody>
    {% for line in values %}
    <tr><td><bdi>{{ line.group | name(80) }}</bdi>{% if line.note %}<div class="soft small">{{ line.note | name(80) }}</div>{% endif %}</td><td class="n">{{ line.rows | count }}</td><td class="n">{{ line.ratio | number(2) }}</td>
      <td class="n">{% if line.calibration %}{{ line.calibration.mean | number(2) }}{% else %}–{% endif %}</td><td class="n soft">{% if line.calibration %}{{ line.calibration.low | number(2) }} to {{ line.calibration.high | number(2) }}{% endif %}</td></tr>
    {% endfor %}
    </tbody>
  </table></div>
</section>
"""


@dataclass(frozen=True)
class GroupLine:
    """One group of a protected column; `ratio` is of acceptance rates, `calibration` events over expected ones."""

    group: str
    rows: int
    ratio: float | None
    calibration: Interval | None
    note: str = ""


def _gather(week: PublishedWeek) -> list[GroupLine]:
    by_group: dict[str, dict[str, dict[str, Any]]] = {}
    for row in week.trained.fairness:
        by_group.setdefault(str(row["slice"]), {})[str(row["metric"])] = row
    lines = []
    for group, metrics in by_group.items():
        impact, fit = metrics.get("adverse_impact_ratio", {}), metrics.get("event_rate_over_mean_score")
        calibration = Interval(fit["value"], fit["low"], fit["high"]) if fit else None
        lines.append(GroupLine(group, impact.get("rows", 0), impact.get("value"), calibration, impact.get("note", "")))
    return lines


def _problems(lines: Sequence[GroupLine], page: Page) -> Iterator[Problem]:
    for line in lines:
        if line.ratio is not None and line.ratio < FOUR_FIFTHS:
            yield Problem("watch", f"Adverse impact: {line.group} is accepted at {line.ratio:.2f} of the best.")


CARD = Card({"week": (70, 0)}, _gather, _TEMPLATE, problems=_problems)
