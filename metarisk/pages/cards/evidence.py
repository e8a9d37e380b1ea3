"""Evidence: candidates against baselines on the same rows, and the forest of their differences."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from metarisk.adapt import BASELINES
from metarisk.evidence import words_of
from metarisk.metrics import Interval, judge_of
from metarisk.pages.page import Card, Page, Tile
from metarisk.pages.subjects import PublishedNight, PublishedWeek
from metarisk.record import models

Role = Literal["champion", "candidate", "baseline"]
_TEMPLATE = """\
<section class="card">
  <h2>{{ "Why this model scores: the last weekly evidence" if page.kind == "night" else "Evidence: validation rows, which choose" }}</h2>
  {% if values.note %}<p class="soft">{{ values.note }}</p>{% endif %}
  <div class="scroll">
  <table class="evidence">
    <thead><tr>
      <th>Candidate</th><th class="n">{{ values.loss_name }}</th><th class="n">{{ values.ranking_name }}</th>
      <th class="n">Difference, 10<sup>−4</sup></th><th class="n wide">95 % interval</th>
      <th class="axis"><span>better</span><span>worse</span></th><th class="n wide">to the oracle</th>
    </tr></thead>
    <tbody>
    {% for row, whisker in forest %}
    <tr{% if row.role == "champion" %} class="chosen"{% endif %}>
      <td><bdi>{{ row.candidate | name }}</bdi>{% if row.role != "candidate" %} <span class="tag {{ row.role }}">{{ row.role }}</span>{% endif %}{% if row.candidate == values.oracle %} <span class="tag">oracle</span>{% endif %}</td>
      <td class="n">{{ row.loss | number(5) }}</td>
      <td class="n">{{ row.ranking | number(4) }}</td>
      {% if row.candidate == values.opponent %}
      <td class="n soft">reference</td><td class="wide"></td>
      {% elif row.difference %}
      <td class="n">{{ (row.difference.mean * 1e4) | signed }}</td>
      <td class="n wide soft">{{ (row.difference.low * 1e4) | signed }} to {{ (row.difference.high * 1e4) | signed }}</td>
      {% else %}
      <td class="n soft">–</td><td class="wide"></td>
      {% endif %}
      <td class="axis"><div class="forest">
        {%- if whisker %}<i class="{{ whisker.tone }}" style="left:{{ '%.2f' | format(whisker.low) }}%;right:{{ '%.2f' | format(100 - whisker.high) }}%"></i><b class="{{ whisker.tone }}" style="left:{{ '%.2f' | format(whisker.mean) }}%"></b>{% endif -%}
      </div></td>
      <td class="n wide soft">{% if row.against_oracle and row.candidate != values.oracle %}{{ (row.against_oracle.mean * 1e4) | signed }}{% endif %}</td>
    </tr>
    {% endfor %}
    </tbody>
  </table>
  </div>
  <p class="soft small">Difference of the mean {{ values.loss_name }} to {{ values.opponent }}, the baseline that earlier validation
    chose, on the same rows, with a paired block-bootstrap interval. An interval wholly left of the line is better beyond chance.
    {% if values.oracle %}The oracle is the baseline that is best on these very rows: nobody could have chosen it.{% endif %}</p>
</section>
"""


@dataclass(frozen=True)
class EvidenceLine:
    """One candidate on the rows that all were judged on; `difference` below 0 is better than the opponent."""

    candidate: str
    loss: float
    ranking: float | None = None
    difference: Interval | None = None
    against_oracle: Interval | None = None
    role: Role = "candidate"


@dataclass(frozen=True)
class Evidence:
    """Candidates against baselines; `note` says on which rows, by whose labels."""

    rows: tuple[EvidenceLine, ...]
    opponent: str
    """In words: the baseline that validation chose before the judged rows were opened."""
    oracle: str = ""
    """The baseline that is best on the judged rows, which nobody could have known."""
    note: str = ""
    loss_name: str = "log-loss"
    ranking_name: str = "AUC"


class Whisker(NamedTuple):
    """Where an interval lies on the forest plot's axis, in per cent of its width, and what it says."""

    low: float
    mean: float
    high: float
    tone: Literal["better", "even", "worse"]


def _gather(subject: PublishedNight | PublishedWeek) -> Evidence | None:
    """What the week found; on a night, what came with its model."""
    return _judged(subject) if isinstance(subject, PublishedWeek) else _recorded(subject)


def _judged(week: PublishedWeek) -> Evidence | None:
    found, chosen = week.judged.evidence, week.judged.decision.recipe
    if not found.candidates:
        return None
    lines = [
        EvidenceLine(
            line.name,
            line.metrics[found.loss],
            line.metrics[found.ranking],
            line.against_opponent,
            line.against_oracle,
            _role(line.name, chosen, line.baseline),
        )
        for line in found.candidates
    ]
    events = f" with {found.events:,} events" if week.context.spec.label == "event" else ""
    note = (
        f"{found.rows:,} rows{events}, opened in {len(found.folds)} windows after the labels that taught; labels "
        f"as they were known at each cut; difference in {words_of(found.loss)} with a 95 % interval by bootstrap over "
        "opening month x segment"
    )
    if found.retrospective:
        note += f". Retrospective: {found.retrospective}, so it proves nothing"
    return Evidence(tuple(lines), found.opponent, found.oracle, note, words_of(found.loss), words_of(found.ranking))


def _recorded(night: PublishedNight) -> Evidence | None:
    warehouse, spec = night.context.warehouse, night.context.spec
    found = models.evidence(warehouse, night.run.model_id)
    rows = [row for row in found if row["slice"] == "all" and row["protocol"] == "walk_forward"]
    model = models.model(warehouse, night.run.model_id)
    if not rows or model is None:
        return None
    by_name: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["candidate"], {})[row["metric"]] = row
    about, judge = json.loads(model["metrics"]), judge_of(spec.likelihood)
    lines = [
        EvidenceLine(
            name,
            metrics[judge.loss]["value"],
            metrics[judge.ranking]["value"],
            _interval(metrics.get("loss_minus_opponent")),
            _interval(metrics.get("loss_minus_oracle")),
            _role(name, model["recipe"], name in BASELINES),
        )
        for name, metrics in by_name.items()
    ]
    lines.sort(key=lambda line: line.loss)
    events = f" with {rows[0]['events']:,} events" if spec.label == "event" else ""
    note = f"{rows[0]['rows']:,} rows{events}; {rows[0]['note']}"
    names = words_of(judge.loss), words_of(judge.ranking)
    return Evidence(tuple(lines), about.get("opponent", ""), about.get("oracle", ""), note, *names)


def _role(name: str, chosen: str, baseline: bool) -> Role:
    return "champion" if name == chosen else "baseline" if baseline else "candidate"


def _interval(row: Mapping[str, Any] | None) -> Interval | None:
    """The interval of a row of `evidence`; None where it has none."""
    if row is None or row["value"] is None or row["low"] is None or row["high"] is None:
        return None
    return Interval(row["value"], row["low"], row["high"])


def _show(evidence: Evidence, page: Page) -> dict[str, object]:
    """Rows with the place of their interval on a common axis that holds zero in the middle."""
    differences = [row.difference for row in evidence.rows if row.difference]
    bounds = [abs(bound) for found in differences for bound in (found.low, found.high, found.mean)]
    reach = max(filter(math.isfinite, bounds), default=0.0) * 1.08 or 1.0  # room beyond the longest whisker

    def place(value: float) -> float:
        return 50.0 * (1.0 + min(max(value / reach, -1.0), 1.0))

    def whisker(interval: Interval | None) -> Whisker | None:
        if interval is None or math.isnan(interval.mean):
            return None
        tone: Literal["better", "even", "worse"] = "even"
        if interval.high < 0:
            tone = "better"
        elif interval.low > 0:
            tone = "worse"
        return Whisker(place(interval.low), place(interval.mean), place(interval.high), tone)

    return {"forest": [(row, whisker(row.difference)) for row in sorted(evidence.rows, key=lambda row: row.loss)]}


def _tiles(evidence: Evidence | None, page: Page) -> Iterator[Tile]:
    if evidence is not None and page.kind == "week":
        yield Tile("candidates", f"{len(evidence.rows):,}", f"against {evidence.opponent}")


CARD = Card({"night": (90, 0), "week": (10, 0)}, _gather, _TEMPLATE, _show, _tiles)
