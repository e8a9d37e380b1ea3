"""Drift against the model's reference: counts, the worst findings, and where they are."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

from metarisk.drift.decide import SUSPECTED
from metarisk.pages.cards.drift.where import heat_map
from metarisk.pages.page import Card, Page, Problem, Tile
from metarisk.pages.subjects import DriftLine

SHOWN = 10
"""Findings that a reader goes through; the drift page has the others."""
_MAP = 14, 14
"""Segments and features of the map, whose names still stand apart."""
_TEMPLATE = """\
<section class="card">
  <h2>Drift against the model's reference{% if page.drift_page %} <a class="more" href="{{ page.drift_page }}">all of it</a>{% endif %}</h2>
  <p class="soft">{{ counts.total() | count }} tests:
    {% for status in ("alert", "watch", "blind", "ok") %}<span class="key"><i class="fill {{ status }}"></i>{{ counts[status] | count }} {{ status }}</span> {% endfor %}{% if counts["blind"] %}A test is blind where rows or events are too few to tell.{% endif %}</p>
  {% if worst %}
  <div class="scroll"><table>
    <thead><tr><th>Status</th><th>Segment</th><th>Feature</th><th>Measure</th><th class="n">Value</th><th class="n">Effect</th><th class="n">Limit</th><th class="n">q</th><th class="n">Rows</th><th>Detail</th></tr></thead>
    <tbody>
    {% for line in worst %}
    <tr><td><span class="tag {{ line.status }}">{{ line.status }}</span></td>
      <td><bdi>{{ (line.segment or "whole portfolio") | name }}</bdi></td><td><bdi>{{ (line.feature or "rows") | name }}</bdi></td><td>{{ line.metric }}</td>
      <td class="n">{{ line.value | number(3) }}</td><td class="n">{{ line.effect | number(3) }}</td><td class="n">{{ line.threshold | number(2) }}</td>
      <td class="n">{{ line.q | score }}</td><td class="n">{{ line.n_cur | count }}</td><td class="soft"><bdi>{{ (line.detail or "–") | name(160) }}</bdi></td></tr>
    {% endfor %}
    </tbody>
  </table></div>
  {% endif %}
  {% if map %}
  <h3>Where: segment by feature</h3>
  <div class="scroll"><div class="chart natural">{{ map }}</div></div>
  <p class="soft small">Strength is the population stability index beyond what sampling alone gives; segments and features that moved most.</p>
  {% endif %}
</section>
"""


def _counts(lines: Iterable[DriftLine]) -> Counter[str]:
    return Counter(line.status for line in lines if line.decides)


def _worst(lines: Iterable[DriftLine]) -> list[DriftLine]:
    """What moved; of tests that had too few rows to tell, the counts say enough, but for the whole portfolio's."""

    def worth_a_line(line: DriftLine) -> bool:
        whole = line.status == "blind" and line.metric == "psi" and not line.segment
        return line.decides and (whole or line.status in (SUSPECTED, "alert", "watch"))

    worth = filter(worth_a_line, lines)
    return sorted(worth, key=lambda line: (line.badness, -(line.effect or 0.0), line.segment, line.feature))


def _show(lines: Sequence[DriftLine], page: Page) -> dict[str, object]:
    return {"counts": _counts(lines), "worst": _worst(lines)[:SHOWN], "map": heat_map(lines, *_MAP)}


def _tiles(lines: Sequence[DriftLine] | None, page: Page) -> Iterator[Tile]:
    counts = _counts(lines or ())
    note = f"{counts['watch']:,} on watch, {counts['blind']:,} blind"
    yield Tile("drift alerts", f"{counts['alert']:,}", note, "bad" if counts["alert"] else "")


def _problems(lines: Sequence[DriftLine], page: Page) -> Iterator[Problem]:
    alerts = [line for line in _worst(lines) if line.status in ("alert", SUSPECTED)]
    if alerts:
        where = alerts[0].segment.replace("|", " · ") or "the whole portfolio"
        more = f", and {len(alerts) - 1} more" if len(alerts) > 1 else ""
        what = f"{alerts[0].feature or alerts[0].detail} ({alerts[0].metric})"
        yield Problem("watch", f"Drift: {what} in {where}{more}.")


CARD = Card({"night": (80, 0)}, attrgetter("drift"), _TEMPLATE, _show, _tiles, _problems)
