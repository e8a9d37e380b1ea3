"""What came of published scores, by cohort and grade."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from metarisk.pages.page import Card, Page, Problem
from metarisk.pages.subjects import PublishedWeek

SHOWN = 24
"""Cohorts and grades that a reader goes through; the view has all of them."""
_NAMED = 5
"""Grades that a sentence names."""
_TEMPLATE = """\
<section class="card">
  <h2>What came of published scores</h2>
  <p class="soft">First scores after opening, outcomes as known; each grade is tested with independent defaults and with one common factor. {% for status in ("understated", "watch", "blind", "ok") if counts[status] %}<span class="key"><i class="fill {{ {"understated": "alert"}.get(status, status) }}"></i>{{ counts[status] | count }} {{ status }}</span> {% endfor %}</p>
  <div class="scroll"><table>
    <thead><tr><th>Status</th><th>Opened</th><th>Grade</th><th class="n">Rows</th><th class="n">Events</th><th class="n">Predicted</th><th class="n">Observed</th><th class="n">95 % interval</th><th class="n">q, independent</th><th class="n">q, one factor</th></tr></thead>
    <tbody>
    {% for line in worst %}
    <tr><td><span class="tag {{ {"understated": "alert"}.get(line.status, line.status) }}">{{ line.status }}</span></td><td>{{ line.cohort | name(20) }}</td><td><bdi>{{ line.grade | name(40) }}</bdi></td>
      <td class="n">{{ line.rows | count }}</td><td class="n">{{ line.events | count }}</td><td class="n">{{ line.mean_score | score }}</td><td class="n">{{ line.event_rate | score }}</td>
      <td class="n soft">{{ line.rate_low | score }} to {{ line.rate_high | score }}</td><td class="n">{{ line.jeffreys_q | score }}</td><td class="n">{{ line.vasicek_q | score }}</td></tr>
    {% endfor %}
    </tbody>
  </table></div>
</section>
"""
Line = Mapping[str, Any]


def _gather(week: PublishedWeek) -> Sequence[Line]:
    """Rows of backtests.SCHEMA."""
    return week.trained.backtests.rows(named=True)


def _show(lines: Sequence[Line], page: Page) -> dict[str, object]:
    """What wants a look first, then the newest cohorts by grade."""
    order = {"understated": 0, "watch": 1, "ok": 2, "blind": 2}
    newest = sorted(lines, key=lambda line: str(line["cohort"]), reverse=True)
    worst = sorted(newest, key=lambda line: order[line["status"]])[:SHOWN]
    return {"worst": worst, "counts": Counter(line["status"] for line in lines)}


def _problems(lines: Sequence[Line], page: Page) -> Iterator[Problem]:
    wrong = [f"{line['grade']} of {line['cohort']}" for line in lines if line["status"] == "understated"]
    if wrong:
        yield Problem("watch", f"Back-test: more events than a bad year explains in grade {', '.join(wrong[:_NAMED])}.")


CARD = Card({"week": (60, 0)}, _gather, _TEMPLATE, _show, problems=_problems)
